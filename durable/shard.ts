// A Durable Object that serves experts from its isolate's memory: handshake by RPC, frames over a hibernatable WebSocket.
// Owns the platform's side of a shard: sockets and their attachments, storage, the weight cache in SQLite, the ways to store and donors.
// Refuses public requests (no route leads here). What a shard does is shard-core.ts. Loading runs outside blockConcurrencyWhile, which the platform cuts after 30 s (2026-11).

import { DurableObject } from "cloudflare:workers";
import { shardNamespace, strictIsolates, type DurableEnv } from "./env.ts";
import { hostIsolate } from "./host-isolate.ts";
import type { Donor, Hello, Retirement, ShardReport, Welcome } from "./handshake.ts";
import { SqlManifestCache } from "./manifest-cache.ts";
import { objectWeights } from "./object-weights.ts";
import { knownPack, packOfRevision } from "./opened-packs.ts";
import { jurisdictionOf, withinJurisdiction } from "./places.ts";
import { ShardCore, type ShardSocket } from "./shard-core.ts";
import type { DonorRead, Kept } from "./shard-host.ts";

interface Attachment {
  readonly connection: number;
}

/** Connection numbers start at random, so that a new isolate does not repeat those of an old one whose sockets live on. */
let nextConnection = 0;
function newConnection(): number {
  if (nextConnection === 0) nextConnection = crypto.getRandomValues(new Uint32Array(1))[0]!;
  nextConnection = (nextConnection + 1) >>> 0;
  return nextConnection;
}

function kept<T>(storage: DurableObjectStorage, key: string, initial: T): Kept<T> {
  return { get: () => storage.kv.get<T>(key) ?? initial, put: (value) => storage.kv.put(key, value) };
}

export class ExpertShard extends DurableObject<DurableEnv> {
  readonly #core: ShardCore;
  /** What the core sees of each socket, made once: reading an attachment costs as much as a small frame. */
  readonly #sockets = new WeakMap<WebSocket, ShardSocket>();

  constructor(ctx: DurableObjectState, env: DurableEnv) {
    super(ctx, env);
    const tenant = hostIsolate().enter(ctx.id.toString(), "shard", `shard ${ctx.id.name ?? ctx.id.toString()}`, this, strictIsolates(env));
    const manifests = new SqlManifestCache(ctx.storage, tenant.isolate.limits);
    this.#core = new ShardCore({
      ...objectWeights(env, ctx.storage, tenant, (donor) => this.#donor(donor)), newConnection,
      hellos: kept<readonly Hello[]>(ctx.storage, "hellos", []), retired: kept<Retirement | null>(ctx.storage, "retired", null),
      packs: { known: knownPack, current: (wanted) => packOfRevision(env, wanted, manifests) },
    });
  }

  prepare(hello: Hello): Promise<Welcome> { return this.#core.prepare(hello); }
  retire(retirement: Retirement): void { this.#core.retire(retirement); }
  read(hash: string, offset: number, length: number): ArrayBuffer | null { return this.#core.read(hash, offset, length); }
  report(): ShardReport { return this.#core.report(); }

  #donor({ shard, name }: Donor): DonorRead | null {
    if (name === this.ctx.id.name) return null;
    // A fresh stub each time: one that has seen its object fail stays broken.
    return (hash, offset, length) => withinJurisdiction(shardNamespace(this.env, shard), jurisdictionOf(this.env)).getByName(name).read(hash, offset, length);
  }

  override async fetch(request: Request): Promise<Response> {
    const url = new URL(request.url);
    const connection = Number(url.searchParams.get("connection") ?? "none");
    if (url.pathname !== "/connect" || request.headers.get("Upgrade") !== "websocket" || !Number.isInteger(connection) || connection < 0 || connection > 0xffffffff) {
      return new Response(`A shard answers GET /connect?connection=<number> with Upgrade: websocket; got ${request.method} ${url.pathname}${url.search}.\n`, { status: 400 });
    }
    const { 0: client, 1: server } = new WebSocketPair();
    this.ctx.acceptWebSocket(server);
    server.serializeAttachment({ connection } satisfies Attachment);
    return new Response(null, { status: 101, webSocket: client });
  }

  override webSocketMessage(socket: WebSocket, data: string | ArrayBuffer): void {
    this.#core.message(this.#socketOf(socket), data);
  }

  #socketOf(socket: WebSocket): ShardSocket {
    let known = this.#sockets.get(socket);
    if (known === undefined) {
      const { connection } = socket.deserializeAttachment() as Attachment;
      known = { connection, send: (bytes) => socket.send(bytes), close: (code, reason) => socket.close(code, reason) };
      this.#sockets.set(socket, known);
    }
    return known;
  }

  override async webSocketClose(socket: WebSocket, code: number): Promise<void> {
    // Codes below 1000 and 1005, 1006, 1015 are for reading only.
    socket.close(code >= 1000 && code !== 1005 && code !== 1006 && code !== 1015 ? code : 1000);
  }
}
