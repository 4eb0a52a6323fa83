// A Durable Object that is one stage of a ring after the first: it holds its part of the trunk and of every request's KV cache, and talks to its layers' shards.
// Owns the platform's side: RPC, sockets, loading, and what it tells the directory. Refuses the token loop (orchestrator.ts) and public routes.
// docs/protocol.md section 6. Loading runs outside blockConcurrencyWhile, which the platform cuts after 30 s (2026-11).

import { DurableObject } from "cloudflare:workers";
import { parseFleetPlan, type FleetPlan } from "../fleet/fleet-plan.ts";
import { ModelError } from "../model/config.ts";
import { CapacityError } from "../model/heap.ts";
import type { AdoptReply } from "./adoption.ts";
import { packSource } from "./byte-sources.ts";
import { sleep, systemClock } from "./clock.ts";
import { directoryRegistry } from "./directory-registry.ts";
import { strictIsolates, type DurableEnv } from "./env.ts";
import type { RefusalCode } from "./handshake.ts";
import { hostIsolate } from "./host-isolate.ts";
import type { Tenant } from "./isolate.ts";
import { lineFiguresOf } from "./line-figures.ts";
import { SqlManifestCache } from "./manifest-cache.ts";
import { StageCount } from "./metrics-expert-load.ts";
import { objectWeights } from "./object-weights.ts";
import { knownPack, packOfRevision } from "./opened-packs.ts";
import { placedEnv } from "./places.ts";
import { PlanInForce } from "./plan-in-force.ts";
import { ShardError } from "./shard-error.ts";
import { StageCore } from "./stage-core.ts";
import { RING_PROTOCOL_VERSION, type StageFigures, type StageHello, type StageWelcome } from "./stage-handshake.ts";
import { openToFirst, StageObject } from "./stage-objects.ts";
import { inEpochs, noProgress, openPages, openPart, outagesOf, type PartProgress, type StagePart } from "./stage-part.ts";
import { StageRing } from "./stage-ring.ts";
import { trunkReads } from "./weight-reads.ts";

interface Attachment {
  readonly ring: number;
}

interface Standing {
  readonly key: string;
  readonly part: StagePart;
  readonly core: StageCore;
  /** Of the KV cache. */
  readonly pages: number;
  /** Rings since the pages were made: the one that stood last, and the one being built. */
  rings: readonly number[];
  readonly count: StageCount;
}

type Refused = Extract<StageWelcome, { state: "refused" }>;
const refused = (code: RefusalCode, retryable: boolean, message: string): Refused => ({ state: "refused", code, message, retryable });

/** What decides whether what stands can stay. */
const keyOf = ({ plan: { packHash, fleet, stages }, stage }: StageHello): string => JSON.stringify([packHash, fleet, stage, stages]);

export class Stage extends DurableObject<DurableEnv> {
  readonly #tenant: Tenant;
  readonly #manifests: SqlManifestCache;
  #passes = 0;
  #standing: Standing | null = null;
  #loading: { readonly key: string; readonly done: Promise<void>; readonly progress: PartProgress } | null = null;
  #failure: { readonly key: string; readonly refusal: Refused } | null = null;
  #ring: StageRing | null = null;

  constructor(ctx: DurableObjectState, deployed: DurableEnv) {
    const env = placedEnv(deployed, ctx.id.name);
    super(ctx, env);
    this.#manifests = new SqlManifestCache(ctx.storage, hostIsolate().limits);
    this.#tenant = hostIsolate().enter(ctx.id.toString(), "orchestrator", `stage ${ctx.id.name ?? ctx.id.toString()}`, this, strictIsolates(env));
  }

  /** Starts loading what is missing, waits a moment for it, joins the ring, and answers; asking again reports progress. */
  async prepare(given: StageHello): Promise<StageWelcome> {
    const { isolate } = this.#tenant;
    const { limits } = isolate;
    if (given.protocolVersion !== RING_PROTOCOL_VERSION) return refused("protocol-version", true, `Stage 0 speaks version ${given.protocolVersion} of the ring's protocol; this stage speaks ${RING_PROTOCOL_VERSION}. A deployment may still be rolling out.`);
    // Copied out of what the call holds open, and checked: the other end may be of another version for minutes (2026-11).
    const hello: StageHello = { ...given, plan: parseFleetPlan(structuredClone(given.plan)) };
    if (!(hello.stage > 0 && hello.stage < hello.plan.stages.length)) return refused("load-failed", false, `Stage ${hello.stage} was asked for of a plan with ${hello.plan.stages.length} stages.`);
    const key = keyOf(hello);
    if (this.#standing?.key !== key && this.#loading?.key !== key) {
      // Said once; asking again after that tries again.
      const failure = this.#takeFailure(key);
      if (failure !== null) return failure;
      this.#startLoading(key, hello);
    }
    const loading = this.#loading;
    if (loading?.key === key) await Promise.race([loading.done, sleep(systemClock, limits.loadPollMs)]);
    const standing = this.#standing;
    if (standing?.key !== key) {
      return this.#takeFailure(key) ?? { state: "loading", loadedBytes: loading?.progress.trunkBytes ?? 0, totalBytes: loading?.progress.trunkTotalBytes ?? 0, retryAfterMs: limits.loadPollMs };
    }
    await this.#join(standing, hello);
    if (hello.before === null) standing.count.restart();
    const kept = hello.before !== null && standing.rings.includes(hello.before);
    standing.rings = kept ? [hello.before!, hello.ring] : [hello.ring];
    return { state: "ready", kept, pages: standing.pages, chunkTokens: standing.part.engine.maxChunkTokens, totalBytes: this.#tenant.weightBytes, isolate: isolate.name };
  }

  /** RPC of the directory (adoption.ts). Frames go on meanwhile. */
  async adopt(plan: FleetPlan): Promise<AdoptReply> {
    const asked = parseFleetPlan(structuredClone(plan));
    // Without a ring there is nothing to switch: the next one begins with the plan in force.
    return this.#standing === null ? { state: "adopted", epoch: asked.epoch } : this.#standing.part.epochs.adopt(asked);
  }

  /** RPC of the first stage: being called keeps this one's memory, and its shards keep theirs. */
  async touch(): Promise<void> {
    await Promise.allSettled((this.#standing?.part.epochs.clients ?? []).map((client) => client.touch()));
  }

  /** RPC of the first stage, beside the frames; null where nothing was counted. */
  async figures(): Promise<StageFigures | null> {
    return this.#standing === null ? null : this.#standing.count.figures(this.#standing.part.epochs.clients.map(lineFiguresOf));
  }

  override async fetch(request: Request): Promise<Response> {
    const url = new URL(request.url);
    const ring = Number(url.searchParams.get("ring") ?? "none");
    if (url.pathname !== "/ring" || request.headers.get("Upgrade") !== "websocket" || !Number.isInteger(ring) || ring < 0 || ring > 0xffffffff) {
      return new Response(`A stage answers GET /ring?ring=<number> with Upgrade: websocket; got ${request.method} ${url.pathname}${url.search}.\n`, { status: 400 });
    }
    const { 0: client, 1: server } = new WebSocketPair();
    this.ctx.acceptWebSocket(server, [String(ring)]);
    server.serializeAttachment({ ring } satisfies Attachment);
    return new Response(null, { status: 101, webSocket: client });
  }

  override webSocketMessage(socket: WebSocket, data: string | ArrayBuffer): void {
    const { ring } = socket.deserializeAttachment() as Attachment;
    if (this.#ring?.ring === ring) return this.#ring.received(data);
    // Its ring is over, or this object was reset: whoever sends learns it by the close.
    socket.close(1011, "this stage is in no such ring");
  }

  override async webSocketClose(socket: WebSocket): Promise<void> {
    const { ring } = socket.deserializeAttachment() as Attachment;
    if (this.#ring?.ring === ring) this.#ring.end("the socket from the stage before closed");
  }

  /** One ring at a time: the former one ends. */
  async #join({ core }: Standing, { plan, lane, stage, ring, first }: StageHello): Promise<void> {
    if (this.#ring?.ring === ring) return;
    this.#ring?.end("another ring was built");
    const joined = new StageRing(ring, core, () => this.ctx.getWebSockets(String(ring)));
    this.#ring = joined;
    const isLast = stage === plan.stages.length - 1;
    const next = isLast ? openToFirst(this.env, first) : new StageObject(this.env, plan, first, lane, stage + 1).open;
    try {
      await joined.join(next);
    } catch (cause) {
      joined.end("the next stage could not be reached");
      if (this.#ring === joined) this.#ring = null;
      throw cause;
    }
  }

  #takeFailure(key: string): Refused | null {
    const failure = this.#failure;
    if (failure?.key !== key) return null;
    this.#failure = null;
    return failure.refusal;
  }

  #startLoading(key: string, hello: StageHello): void {
    const before = this.#loading?.done ?? Promise.resolve();
    const progress = noProgress();
    const loading = {
      key, progress,
      done: before.then(() => this.#load(key, hello, progress)).catch((cause: unknown) => { this.#failure = { key, refusal: refusalOf(cause) }; }).finally(() => {
        if (this.#loading === loading) this.#loading = null;
      }),
    };
    this.#loading = loading;
  }

  async #load(key: string, hello: StageHello, progress: PartProgress): Promise<void> {
    const { env } = this;
    const { limits } = this.#tenant.isolate;
    const { plan, stage } = hello;
    const pack = knownPack(plan.packHash) ?? await packOfRevision(env, plan.packHash, this.#manifests);
    if (pack.packHash !== plan.packHash) throw new ShardError(this.#tenant.name, true, `${packSource(env).description} holds revision ${pack.packHash}; stage 0 serves ${plan.packHash}.`);
    this.#ring?.end("the stage loads another part");
    this.#ring = null;
    this.#standing?.part.close("the stage loads another part");
    this.#standing = null;
    const { storage } = this.ctx;
    const plans = new PlanInForce({
      storage: { get: (of) => storage.get(of), put: (of, value) => storage.put(of, value) }, directory: (packHash) => directoryRegistry(env, packHash),
      name: this.ctx.id.name ?? `${hello.first}/stage-${stage}`, clock: systemClock, limits,
    });
    const reads = trunkReads(objectWeights(env, storage, this.#tenant, () => null), () => this.#passes);
    const part = await openPart({ env, tenant: this.#tenant, pack, plan: await plans.atStart(plan), stage, plans, progress, reads });
    const { pages, most } = openPages(part, this.#tenant);
    const core = new StageCore({ engine: inEpochs(part, () => { this.#passes++; }), pages, stage, outages: outagesOf(part) });
    const count = new StageCount(pack.manifest.config, { next: () => Math.random() });
    core.observe(count.tap);
    this.#standing = { key, part, core, pages: Math.min(most, 0xffffffff), rings: [], count };
  }
}

function refusalOf(cause: unknown): Refused {
  const message = cause instanceof Error ? cause.message : String(cause);
  if (cause instanceof CapacityError) return refused("memory", false, message);
  // A read may have been cut or changed under way; what the manifest says does not change by reading again.
  return refused("load-failed", cause instanceof ShardError ? cause.retryable : !(cause instanceof ModelError), message);
}
