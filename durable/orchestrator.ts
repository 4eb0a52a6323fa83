// The Durable Object that runs the token loop: it holds the trunk and the KV cache, and fans experts out to shards.
// Owns the model's state (cold, warming, ready, failed), POST /generate, GET /status, /metrics and /traces, and the plan it goes by. Refuses text, keys and public routes (worker/),
// and awaited durable writes on the token path (an output gate costs about 10 ms, 2026-11): what replies have said is noted in batches nobody waits for.

import { DurableObject } from "cloudflare:workers";
import { parseFleetPlan, type FleetPlan } from "../fleet/fleet-plan.ts";
import { traceHeader } from "../formats/trace.ts";
import { ModelError } from "../model/config.ts";
import { CapacityError } from "../model/heap.ts";
import type { LogitStage } from "../model/logit-adjustments.ts";
import type { AdoptReply } from "./adoption.ts";
import { within, systemClock } from "./clock.ts";
import { directoryRegistry } from "./directory-registry.ts";
import { strictIsolates, type DurableEnv } from "./env.ts";
import { hostIsolate } from "./host-isolate.ts";
import type { OrchestratorStatus } from "./generate.ts";
import { isFailure, parseGenerateRequest } from "./generate-request.ts";
import type { Tenant } from "./isolate.ts";
import { OrchestratorMetrics } from "./metrics.ts";
import { SqlManifestCache } from "./manifest-cache.ts";
import { METRICS_CONTENT_TYPE } from "./metrics-text.ts";
import { isCurrentRevision, keptObjects } from "./kept-objects.ts";
import { KeepWarm, keepWarmMode } from "./keep-warm.ts";
import { ObjectAlarm } from "./object-alarm.ts";
import { objectWeights } from "./object-weights.ts";
import { PackConstraints } from "./pack-constraints.ts";
import { isOf, PlanInForce } from "./plan-in-force.ts";
import { placedEnv } from "./places.ts";
import { otherRegions, RegionPings } from "./region-pings.ts";
import { LaneReports } from "./lane-report.ts";
import { statusOf } from "./orchestrator-status.ts";
import { eventStream, failed, journaled, knownTokens } from "./reply-events.ts";
import { ReplyJournal } from "./reply-journal.ts";
import type { EventSink, Generation } from "./generation-run.ts";
import { Scheduler } from "./scheduler.ts";
import { bringUp, startProgress, type Progress, type ServedModel } from "./served-model.ts";
import { TraceSamples, traceShare } from "./trace-samples.ts";
import { trunkReads, type TrunkReads } from "./weight-reads.ts";

interface Serving {
  readonly model: ServedModel;
  readonly scheduler: Scheduler;
  readonly samples: TraceSamples;
  readonly reports: LaneReports;
}

/** Of the last stage's socket. */
interface RingAttachment {
  readonly ring: number;
}

export class Orchestrator extends DurableObject<DurableEnv> {
  readonly #tenant: Tenant;
  readonly #alarm: ObjectAlarm<"journal" | "warmth">;
  readonly #journal: ReplyJournal;
  readonly #keepWarm: KeepWarm;
  readonly #plans: PlanInForce;
  readonly #pings: RegionPings;
  /** By which the directory, the ring's last stage and others reach this object. */
  readonly #name: string;
  readonly #manifests: SqlManifestCache;
  readonly #reads: TrunkReads;
  readonly #constraints: PackConstraints;
  readonly #metrics = new OrchestratorMetrics(systemClock);
  #serving: Serving | null = null;
  #loading: Promise<Serving> | null = null;
  #progress: Progress | null = null;
  #failure: string | null = null;
  #failedAtMs = 0;
  #cancelLinger: (() => void) | null = null;

  constructor(ctx: DurableObjectState, deployed: DurableEnv) {
    const env = placedEnv(deployed, ctx.id.name);
    super(ctx, env);
    this.#pings = new RegionPings(otherRegions(env), systemClock, hostIsolate().limits);
    this.#alarm = new ObjectAlarm(ctx.storage, systemClock);
    this.#journal = new ReplyJournal(ctx.storage, systemClock, hostIsolate().limits, (atMs) => this.#alarm.at("journal", atMs));
    this.#name = ctx.id.name ?? ctx.id.toString();
    this.#keepWarm = new KeepWarm({
      mode: () => keepWarmMode(env), clock: systemClock, limits: hostIsolate().limits, wake: (atMs) => this.#alarm.at("warmth", atMs), bringUp: () => this.#model(),
      served: () => (this.#serving === null ? null : { packHash: this.#serving.model.packHash, objects: keptObjects(env, this.#name, this.#serving.model) }),
      isCurrent: (packHash) => isCurrentRevision(env, packHash),
    });
    this.#manifests = new SqlManifestCache(ctx.storage, hostIsolate().limits);
    this.#constraints = new PackConstraints(env, hostIsolate().limits);
    this.#plans = new PlanInForce({
      storage: { get: (key) => ctx.storage.get(key), put: (key, plan) => ctx.storage.put(key, plan) }, directory: (packHash) => directoryRegistry(env, packHash),
      name: this.#name, clock: systemClock, limits: hostIsolate().limits,
    });
    this.#tenant = hostIsolate().enter(ctx.id.toString(), "orchestrator", `orchestrator ${this.#name}`, this, strictIsolates(env));
    this.#reads = trunkReads(objectWeights(env, ctx.storage, this.#tenant), () => this.#serving?.scheduler.steps ?? 0);
  }

  override async fetch(request: Request): Promise<Response> {
    const { pathname, searchParams } = new URL(request.url);
    if (request.method === "POST" && pathname === "/generate") return this.#generate(request);
    if (request.method === "GET" && pathname === "/status") {
      const resting = this.#failure !== null && systemClock.nowMs() - this.#failedAtMs < this.#tenant.isolate.limits.loadRetryMs;
      if (searchParams.has("warm") && !resting) this.#warm();
      return Response.json(this.#status());
    }
    if (request.method === "GET" && pathname === "/metrics") return new Response(await this.#metricsText(), { headers: { "Content-Type": METRICS_CONTENT_TYPE } });
    if (request.method === "GET" && pathname === "/traces") return this.#traces();
    if (request.method === "GET" && pathname === "/ping") return Response.json(this.#pings.answer(this.#status().status, searchParams.has("measure")));
    if (pathname === "/ring" && request.headers.get("Upgrade") === "websocket") return this.#lastStage(Number(searchParams.get("ring") ?? "none"));
    return new Response(`An orchestrator answers POST /generate, GET /status, GET /metrics, GET /traces and GET /ping; got ${request.method} ${pathname}.\n`, { status: 404 });
  }

  /** The last stage of the ring connects (docs/protocol.md section 6). */
  #lastStage(ring: number): Response {
    const { 0: client, 1: server } = new WebSocketPair();
    const isWanted = this.#progress?.line?.accept(ring, (reason) => server.close(1000, reason)) === true;
    if (!isWanted) return new Response("No such ring is being built here.\n", { status: 409 });
    this.ctx.acceptWebSocket(server);
    server.serializeAttachment({ ring } satisfies RingAttachment);
    return new Response(null, { status: 101, webSocket: client });
  }

  override webSocketMessage(socket: WebSocket, data: string | ArrayBuffer): void {
    this.#progress?.line?.received((socket.deserializeAttachment() as RingAttachment).ring, data);
  }

  override webSocketClose(socket: WebSocket, code: number): void {
    this.#progress?.line?.ended((socket.deserializeAttachment() as RingAttachment).ring, `code ${code}`);
  }

  /** RPC of the directory (adoption.ts). Steps go on meanwhile; where no model is up, the plan is kept for the next start. */
  async adopt(plan: FleetPlan): Promise<AdoptReply> {
    let asked: FleetPlan;
    try {
      // Copied out of what the call holds open, and checked: the directory may be of another version for minutes (2026-11).
      asked = parseFleetPlan(structuredClone(plan));
    } catch (cause) {
      return { state: "refused", epoch: this.#serving?.model.epochs.plan.epoch ?? 0, message: cause instanceof Error ? cause.message : String(cause) };
    }
    if (this.#loading !== null) await this.#loading.catch(() => undefined);
    if (this.#serving !== null) return this.#serving.model.epochs.adopt(asked);
    const kept = await this.#plans.kept();
    if (kept !== null && isOf(kept, asked) && kept.epoch >= asked.epoch) return { state: "adopted", epoch: kept.epoch };
    await this.#plans.keep(asked);
    return { state: "adopted", epoch: asked.epoch };
  }

  /** Starts what is needed for the next step to find everything loaded; lines that are not used rest again after a while. */
  #warm(): void {
    void this.#model().then(({ model: { epochs } }) => {
      epochs.clients.forEach((client, shard) => { if (epochs.plan.shards[shard]!.slots.length > 0) client.wake(); });
      this.#linger();
    }).catch(() => undefined);
  }

  /** The model, brought up at the first call; a failed attempt is reported and the next call tries again. */
  #model(): Promise<Serving> {
    if (this.#serving !== null) return Promise.resolve(this.#serving);
    this.#loading ??= this.#bringUp();
    return this.#loading;
  }

  async #bringUp(): Promise<Serving> {
    const progress = startProgress();
    this.#progress = progress;
    const sinceMs = systemClock.nowMs();
    try {
      const share = traceShare(this.env); // before anything is held
      keepWarmMode(this.env);
      const model = await bringUp({ env: this.env, tenant: this.#tenant, name: this.#name, plans: this.#plans, reads: this.#reads, manifests: this.#manifests }, progress);
      const { limits } = this.#tenant.isolate;
      // Which generations are sampled touches none of them.
      const samples = new TraceSamples(traceHeader(model), share, { next: () => Math.random() }, limits);
      const scheduler = new Scheduler(this.#metrics.measured(model.engine, model.manifest.config, model.figures), systemClock, limits, () => this.#linger(), samples);
      this.#failure = null;
      this.#serving = { model, scheduler, samples, reports: this.#reportsOf(model, scheduler) };
      this.#metrics.loaded(sinceMs, true);
      this.#serving.reports.working();
      this.#keepWarm.started();
      this.#linger();
      return this.#serving;
    } catch (cause) {
      this.#failure = cause instanceof Error ? cause.message : String(cause);
      this.#failedAtMs = systemClock.nowMs();
      this.#metrics.loaded(sinceMs, false);
      throw cause;
    } finally {
      this.#loading = null;
    }
  }

  /** What the directory hears of this lane, and the plan it answers with. */
  #reportsOf(model: ServedModel, scheduler: Scheduler): LaneReports {
    const { limits } = this.#tenant.isolate;
    const { epochs, figures } = model;
    return new LaneReports({
      shape: model.manifest.config, choices: () => this.#metrics.choices, clock: systemClock, limits, isWorking: () => scheduler.activeCount + scheduler.queuedCount > 0,
      freeKvPositions: () => model.freeKvPositions(), faults: () => [epochs.clients, ...figures?.lines ?? []].map((lines) => lines.map(({ faults }) => faults)),
      hear: async () => figures?.hear(),
      tell: async (report) => {
        const plan = await this.#plans.asked(epochs.plan, report);
        if (plan !== null) await epochs.adopt(plan);
        return plan !== null;
      },
    });
  }

  /** Closes the sockets after a while without work; the next step opens them again. */
  #linger(): void {
    this.#cancelLinger?.();
    this.#cancelLinger = systemClock.after(this.#tenant.isolate.limits.lingerMs, () => {
      this.#cancelLinger = null;
      if (this.#serving === null || this.#serving.scheduler.activeCount > 0) return;
      for (const client of this.#serving.model.epochs.clients) client.rest();
      this.#serving.model.ring?.rest();
    });
  }

  async #generate(request: Request): Promise<Response> {
    const sinceMs = systemClock.nowMs();
    const { limits } = this.#tenant.isolate;
    const length = Number(request.headers.get("Content-Length") ?? "0");
    if (length > limits.generateBodyBytes) {
      return failed({ type: "error", code: "invalid-request", retryable: false, message: `The body of /generate has ${length} bytes; ${limits.generateBodyBytes} is the limit.` });
    }
    const parsed = parseGenerateRequest(await request.text());
    if (isFailure(parsed)) return failed(parsed);
    const before = this.#serving;
    const loadsBefore = loadsOf(before);
    let serving: Serving;
    try {
      const waitMs = Math.min(Number(new URL(request.url).searchParams.get("wait") ?? limits.requestWaitMs), limits.requestWaitMs, (parsed.deadlineAtMs ?? Infinity) - sinceMs);
      serving = await within(systemClock, Math.max(0, waitMs), this.#model(), "warming");
    } catch (cause) {
      if (this.#loading !== null) {
        if (parsed.deadlineAtMs !== undefined && systemClock.nowMs() >= parsed.deadlineAtMs) {
          return failed({ type: "error", code: "deadline-exceeded", retryable: true, message: "The request's deadline passed while the model was loading." });
        }
        const { loaded } = this.#status();
        return failed({ type: "error", code: "warming", retryable: true, retryAfterMs: 1000, loaded, message: "The model is loading." });
      }
      return failed({ type: "error", code: "load-failed", retryable: true, message: `The model could not be loaded: ${cause instanceof Error ? cause.message : String(cause)}` });
    }

    const { readable, emit, onCancel } = eventStream();
    const told: EventSink = (event) => {
      const coldStarts = before === serving ? loadsOf(serving) - loadsBefore : 1 + loadsOf(serving);
      emit(event.type === "end" && coldStarts > 0 ? { ...event, coldStarts } : event);
    };
    let generation: Generation;
    let constraint: LogitStage | null = null;
    try {
      const known = await knownTokens(this.#journal, parsed);
      const asked = known.length === 0 ? parsed : { ...parsed, emittedIds: known.map(({ id }) => id) };
      constraint = parsed.constraint === undefined ? null : await (await this.#constraints.of(serving.model)).stage(parsed.constraint, parsed.stopIds);
      known.forEach(({ id, degraded }, index) => emit({ type: "token", index, id, ...(degraded > 0 ? { degraded } : {}) }));
      generation = serving.scheduler.submit(asked, this.#metrics.sink(journaled(this.#journal, parsed, known, told), sinceMs), constraint);
    } catch (cause) {
      constraint?.dispose();
      if (cause instanceof ModelError) return failed({ type: "error", code: "invalid-request", retryable: false, message: cause.message });
      if (cause instanceof CapacityError) return failed({ type: "error", code: "capacity", retryable: true, message: cause.message });
      throw cause;
    }
    serving.reports.working();
    onCancel(() => generation.cancel());
    request.signal.addEventListener("abort", () => generation.cancel());
    // The reader may have left while the model was loading.
    if (request.signal.aborted) generation.cancel();
    const refusal = await generation.accepted;
    this.#metrics.admitted(parsed, sinceMs, refusal);
    if (refusal !== null) return failed(refusal);
    return new Response(readable, { headers: { "Content-Type": "application/x-ndjson" } });
  }

  override async alarm(): Promise<void> {
    const isDue = this.#alarm.fired();
    await Promise.all([isDue("journal") ? this.#journal.sweep() : null, isDue("warmth") ? this.#keepWarm.due() : null]);
  }

  /** The sampled routing; 204 where no model is up to have any. */
  #traces(): Response {
    if (this.#serving === null) return new Response(null, { status: 204 });
    return new Response(this.#serving.samples.file(), { headers: { "Content-Type": "application/octet-stream" } });
  }

  async #metricsText(): Promise<string> {
    const { model, scheduler } = this.#serving ?? {};
    await model?.figures?.hear();
    return this.#metrics.text({
      status: this.#status(), clients: model?.epochs.clients ?? this.#progress?.clients ?? [],
      serving: model === undefined || scheduler === undefined ? null : { kv: model.kv, scheduler },
    });
  }

  #status(): OrchestratorStatus {
    const serving = this.#serving;
    return statusOf({
      tenant: this.#tenant, progress: this.#progress, serving: serving === null ? null : { scheduler: serving.scheduler, figures: serving.model.figures }, isLoading: this.#loading !== null, failure: this.#failure, reads: this.#reads,
    });
  }
}

/** How often its shards have read weights. */
const loadsOf = (serving: Serving | null): number => serving?.model.epochs.loads ?? 0;
