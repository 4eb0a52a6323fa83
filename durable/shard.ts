// A Durable Object that serves experts from its isolate's memory: handshake by RPC, frames over a hibernatable WebSocket.
// Owns its states (empty, loading, serving) and what survives eviction: the hello in storage, the connection in each socket's attachment.
// Refuses public requests (no route leads here), work outside its slots, and waiting inside a frame: it answers `warming` instead.
// docs/protocol.md. Loading runs outside blockConcurrencyWhile, which the platform cuts after 30 s (2026-11).

import { DurableObject } from "cloudflare:workers";
import { ModelError } from "../model/config.ts";
import { CapacityError } from "../model/heap.ts";
import { packSource } from "./byte-sources.ts";
import { systemClock, sleep } from "./clock.ts";
import { hostIsolate, strictIsolates, type DurableEnv } from "./env.ts";
import { PROTOCOL_VERSION, type Hello, type RefusalCode, type Welcome } from "./handshake.ts";
import type { Tenant } from "./isolate.ts";
import { currentPack, knownPack } from "./opened-packs.ts";
import { decodeHeader, encodeRefusal, type FrameHeader } from "./protocol.ts";
import { blobsOfSlots, plannedBytes, shardMemory } from "./memory-plan.ts";
import { ServedExperts } from "./served-experts.ts";

interface Attachment {
  readonly connection: number;
}

interface Loading {
  readonly key: string;
  readonly done: Promise<void>;
  loadedBytes: number;
  totalBytes: number;
}

interface LoadFailure {
  readonly key: string;
  readonly code: RefusalCode;
  readonly message: string;
  readonly retryable: boolean;
}

const HELLO = "hello";

/** Connection numbers start at random, so that a new isolate does not repeat those of an old one whose sockets live on. */
let nextConnection = 0;
function newConnection(): number {
  if (nextConnection === 0) nextConnection = crypto.getRandomValues(new Uint32Array(1))[0]!;
  nextConnection = (nextConnection + 1) >>> 0;
  return nextConnection;
}

class LoadRefusal extends Error {
  readonly code: RefusalCode;
  readonly retryable: boolean;
  constructor(code: RefusalCode, retryable: boolean, message: string) {
    super(message);
    this.code = code;
    this.retryable = retryable;
  }
}

const keyOf = (hello: Hello): string => JSON.stringify([hello.packHash, hello.epoch, hello.slots]);

export class ExpertShard extends DurableObject<DurableEnv> {
  readonly #tenant: Tenant;
  #hello: Hello | null;
  #served: ServedExperts | null = null;
  #servedKey = "";
  #loading: Loading | null = null;
  #failure: LoadFailure | null = null;
  /** Weights were read since an orchestrator was told. */
  #hasRead = false;
  /** Connection of each socket, read from its attachment once: reading it costs as much as a small frame. */
  readonly #connections = new WeakMap<WebSocket, number>();

  constructor(ctx: DurableObjectState, env: DurableEnv) {
    super(ctx, env);
    this.#tenant = hostIsolate().enter(ctx.id.toString(), "shard", `shard ${ctx.id.name ?? ctx.id.toString()}`, this, strictIsolates(env));
    this.#hello = ctx.storage.kv.get<Hello>(HELLO) ?? null;
  }

  /** The handshake. Starts loading what is missing, waits a moment for it, and answers; asking again reports progress. */
  async prepare(hello: Hello): Promise<Welcome> {
    const refused = (code: RefusalCode, retryable: boolean, message: string): Welcome => ({ state: "refused", code, message, retryable });
    if (hello.protocolVersion !== PROTOCOL_VERSION) {
      return refused("protocol-version", true, `The orchestrator speaks version ${hello.protocolVersion} of the protocol; this shard speaks ${PROTOCOL_VERSION}. A deployment may still be rolling out.`);
    }
    const neighbour = this.#neighbour(hello.strictIsolates);
    if (neighbour !== null) return refused("isolate-shared", true, neighbour);
    const key = keyOf(hello);
    if (this.#servedKey !== key && this.#loading?.key !== key) {
      if (this.#failure?.key === key) {
        // Said once; asking again after that tries again.
        const { code, retryable, message } = this.#failure;
        this.#failure = null;
        return refused(code, retryable, message);
      }
      if (!this.#adopt(hello)) this.#startLoading(hello);
    }
    const loading = this.#loading as Loading | null;
    if (loading !== null && loading.key === key) await Promise.race([loading.done, sleep(systemClock, this.#tenant.isolate.limits.loadPollMs)]);
    if (this.#servedKey === key) {
      const hasRead = this.#hasRead;
      this.#hasRead = false;
      return { state: "ready", connection: newConnection(), isolate: this.#tenant.isolate.name, hasRead };
    }
    const failure = this.#failure as LoadFailure | null;
    if (failure?.key === key) {
      this.#failure = null;
      return refused(failure.code, failure.retryable, failure.message);
    }
    return { state: "loading", loadedBytes: loading?.loadedBytes ?? 0, totalBytes: loading?.totalBytes ?? 0, retryAfterMs: this.#tenant.isolate.limits.loadPollMs };
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
    if (typeof data === "string") return socket.close(1003, "frames are binary");
    const decoded = decodeHeader(data);
    if (!decoded.ok) {
      // Without a header there is nothing to answer to: the client fails what is pending and connects anew.
      if (decoded.header === null) return socket.close(1002, decoded.message.slice(0, 100));
      return this.#refuse(socket, decoded.header, decoded.fault, decoded.message);
    }
    const { header, buffer } = decoded;
    const connection = this.#connectionOf(socket);
    if (header.kind !== "request" || header.connection !== connection) {
      return this.#refuse(socket, header, "bad-frame", `A ${header.kind} frame of connection ${header.connection} came on connection ${connection}.`);
    }
    const hello = this.#hello;
    if (hello === null) return this.#refuse(socket, header, "unknown-slot", "This shard has not been told what to serve.");
    if (header.epoch !== hello.epoch) return this.#refuse(socket, header, "wrong-epoch", `The frame is of epoch ${header.epoch}; this shard serves epoch ${hello.epoch}.`);
    if (this.#served === null && !this.#wake(hello)) {
      const failure = this.#failure as LoadFailure | null;
      // The client prepares anew and is told the reason there, and what to do about it.
      if (failure !== null) return this.#refuse(socket, header, "unknown-slot", failure.message);
      return this.#refuse(socket, header, "warming", "The shard was evicted and is loading its experts again.", this.#tenant.isolate.limits.loadPollMs);
    }
    try {
      const reply = this.#served!.answer(header, buffer, systemClock.nowMs);
      if (reply instanceof ArrayBuffer) socket.send(reply);
      else this.#refuse(socket, header, reply.code, reply.message);
    } catch (cause) {
      this.#refuse(socket, header, "internal", cause instanceof Error ? cause.message : String(cause));
    }
  }

  #connectionOf(socket: WebSocket): number {
    let connection = this.#connections.get(socket);
    if (connection === undefined) {
      ({ connection } = socket.deserializeAttachment() as Attachment);
      this.#connections.set(socket, connection);
    }
    return connection;
  }

  override async webSocketClose(socket: WebSocket, code: number): Promise<void> {
    // Codes below 1000 and 1005, 1006, 1015 are for reading only.
    socket.close(code >= 1000 && code !== 1005 && code !== 1006 && code !== 1015 ? code : 1000);
  }

  #refuse(socket: WebSocket, header: FrameHeader, code: Parameters<typeof encodeRefusal>[1], message: string, retryAfterMs = 0): void {
    socket.send(encodeRefusal(header, code, message, retryAfterMs));
  }

  /** In strict mode, the words that name another shard in this isolate; null when there is none. */
  #neighbour(strict: boolean): string | null {
    if (!strict) return null;
    const others = this.#tenant.isolate.tenants.filter((tenant) => tenant !== this.#tenant && tenant.kind === "shard" && tenant.alive);
    if (others.length === 0) return null;
    return `${this.#tenant.name} shares its isolate with ${others.map((tenant) => tenant.name).join(", ")}; strict mode wants one shard per isolate.`;
  }

  /** After eviction: adopts or starts loading. True when frames can be answered now. */
  #wake(hello: Hello): boolean {
    if (this.#adopt(hello)) return true;
    if (this.#loading === null && this.#failure === null) this.#startLoading(hello);
    return false;
  }

  /** Serves from blobs that are resident already, without reading anything. */
  #adopt(hello: Hello): boolean {
    const pack = knownPack(hello.packHash);
    if (pack === undefined || this.#loading !== null || this.#neighbour(hello.strictIsolates) !== null) return false;
    try {
      if (!this.#tenant.adopt(blobsOfSlots(pack.manifest, hello.slots))) return false;
      this.#serve(hello, new ServedExperts(this.#replaced(), pack.manifest, hello.slots));
      return true;
    } catch (error) {
      if (error instanceof CapacityError || error instanceof ModelError) return false; // loading finds the same and says so
      throw error;
    }
  }

  /** The tenant, after what was served before has given its regions back. */
  #replaced(): Tenant {
    this.#served?.close();
    this.#served = null;
    this.#servedKey = "";
    return this.#tenant;
  }

  #serve(hello: Hello, served: ServedExperts): void {
    this.#served = served;
    this.#servedKey = keyOf(hello);
    this.#failure = null;
    if (this.#hello === null || keyOf(this.#hello) !== this.#servedKey) this.ctx.storage.kv.put(HELLO, hello);
    this.#hello = hello;
  }

  #startLoading(hello: Hello): void {
    const key = keyOf(hello);
    const before = this.#loading?.done ?? Promise.resolve();
    const loading: Loading = {
      key, loadedBytes: 0, totalBytes: 0,
      done: before.then(() => this.#load(hello, loading)).catch((cause: unknown) => {
        this.#failure = failureOf(key, cause);
      }).finally(() => {
        if (this.#loading === loading) this.#loading = null;
      }),
    };
    this.#loading = loading;
  }

  async #load(hello: Hello, loading: Loading): Promise<void> {
    const pack = knownPack(hello.packHash) ?? await currentPack(this.env);
    if (pack.packHash !== hello.packHash) {
      throw new LoadRefusal("pack-hash", true, `${packSource(this.env).description} holds revision ${pack.packHash}; the orchestrator serves ${hello.packHash}.`);
    }
    const blobs = blobsOfSlots(pack.manifest, hello.slots);
    loading.totalBytes = blobs.reduce((sum, { blob }) => sum + blob.bytes, 0);
    const neighbour = this.#neighbour(hello.strictIsolates);
    if (neighbour !== null) throw new LoadRefusal("isolate-shared", true, neighbour);
    const tenant = this.#replaced();
    try {
      tenant.admit(plannedBytes(shardMemory(pack.manifest, hello.slots, tenant.isolate.limits)), `${blobs.length} expert segments of pack ${pack.manifest.id} and what serving them takes`);
      await tenant.load(packSource(this.env), pack.manifest, blobs, (loadedBytes) => { loading.loadedBytes = loadedBytes; });
      const served = new ServedExperts(tenant, pack.manifest, hello.slots);
      served.warm();
      this.#serve(hello, served);
      this.#hasRead = true;
    } catch (error) {
      tenant.freeOwn();
      throw error;
    }
  }
}

function failureOf(key: string, cause: unknown): LoadFailure {
  const message = cause instanceof Error ? cause.message : String(cause);
  if (cause instanceof LoadRefusal) return { key, code: cause.code, retryable: cause.retryable, message };
  if (cause instanceof CapacityError) return { key, code: "memory", retryable: false, message };
  // A read may have been cut or changed under way; what the manifest says does not change by reading again.
  return { key, code: "load-failed", retryable: !(cause instanceof ModelError), message };
}
