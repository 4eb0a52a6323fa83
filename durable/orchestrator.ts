// The Durable Object that runs the token loop: it holds the trunk and the KV cache, and fans experts out to shards.
// Owns the model's state (cold, warming, ready, failed), POST /generate, GET /status, /metrics and /traces, and the plan it goes by. Refuses text, keys and public routes (worker/),
// and awaited durable writes on the token path (an output gate costs about 10 ms, 2026-11): what replies have said is noted in batches nobody waits for.

import { DurableObject } from "cloudflare:workers";
import grammarModule from "../build/xgrammar.wasm";
import { parseFleetPlan, type FleetPlan } from "../fleet/fleet-plan.ts";
import { readTokenizerJson } from "../formats/pack-reader.ts";
import type { TraceHeader } from "../formats/trace.ts";
import { ModelError, moeLayersOf } from "../model/config.ts";
import { CapacityError } from "../model/heap.ts";
import type { LogitStage } from "../model/logit-adjustments.ts";
import { createTokenizer } from "../model/tokenizer.ts";
import type { AdoptReply, PlanRegistry } from "./adoption.ts";
import { packSource } from "./byte-sources.ts";
import { within, systemClock } from "./clock.ts";
import { Constraints } from "./constraints.ts";
import { fleetDirectory, strictIsolates, type DurableEnv } from "./env.ts";
import { hostIsolate } from "./host-isolate.ts";
import { FAILURE_STATUS, type GenerateEvent, type GenerateFailure, type GenerateRequest, type OrchestratorStatus } from "./generate.ts";
import { isFailure, parseGenerateRequest } from "./generate-request.ts";
import { tenantBytes, type Tenant } from "./isolate.ts";
import { OrchestratorMetrics } from "./metrics.ts";
import { METRICS_CONTENT_TYPE } from "./metrics-text.ts";
import { isOf, PlanInForce } from "./plan-in-force.ts";
import { ReplyJournal } from "./reply-journal.ts";
import type { EventSink, Generation } from "./generation-run.ts";
import { Scheduler, type StepEngine } from "./scheduler.ts";
import { bringUp, type Progress, type ServedModel } from "./served-model.ts";
import { TraceSamples, traceShare } from "./trace-samples.ts";

interface Serving {
  readonly model: ServedModel;
  readonly scheduler: Scheduler;
  readonly samples: TraceSamples;
}

const encoder = new TextEncoder();

export class Orchestrator extends DurableObject<DurableEnv> {
  readonly #tenant: Tenant;
  readonly #journal: ReplyJournal;
  readonly #plans: PlanInForce;
  readonly #metrics = new OrchestratorMetrics(systemClock);
  #serving: Serving | null = null;
  #loading: Promise<Serving> | null = null;
  #progress: Progress | null = null;
  #failure: string | null = null;
  #failedAtMs = 0;
  #cancelLinger: (() => void) | null = null;
  #constraints: { readonly packHash: string; readonly loaded: Promise<Constraints> } | null = null;

  constructor(ctx: DurableObjectState, env: DurableEnv) {
    super(ctx, env);
    this.#journal = new ReplyJournal(ctx.storage, systemClock, hostIsolate().limits);
    this.#plans = new PlanInForce({
      storage: { get: (key) => ctx.storage.get(key), put: (key, plan) => ctx.storage.put(key, plan) }, directory: (packHash) => registryOf(env, packHash),
      name: ctx.id.name ?? ctx.id.toString(), clock: systemClock, limits: hostIsolate().limits,
    });
    this.#tenant = hostIsolate().enter(ctx.id.toString(), "orchestrator", `orchestrator ${ctx.id.name ?? ctx.id.toString()}`, this, strictIsolates(env));
  }

  override async fetch(request: Request): Promise<Response> {
    const { pathname, searchParams } = new URL(request.url);
    if (request.method === "POST" && pathname === "/generate") return this.#generate(request);
    if (request.method === "GET" && pathname === "/status") {
      const resting = this.#failure !== null && systemClock.nowMs() - this.#failedAtMs < this.#tenant.isolate.limits.loadRetryMs;
      if (searchParams.has("warm") && !resting) void this.#model().catch(() => undefined);
      return Response.json(this.#status());
    }
    if (request.method === "GET" && pathname === "/metrics") return new Response(this.#metricsText(), { headers: { "Content-Type": METRICS_CONTENT_TYPE } });
    if (request.method === "GET" && pathname === "/traces") return this.#traces();
    return new Response(`An orchestrator answers POST /generate, GET /status, GET /metrics and GET /traces; got ${request.method} ${pathname}.\n`, { status: 404 });
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

  /** The model, brought up at the first call; a failed attempt is reported and the next call tries again. */
  #model(): Promise<Serving> {
    if (this.#serving !== null) return Promise.resolve(this.#serving);
    this.#loading ??= this.#bringUp();
    return this.#loading;
  }

  async #bringUp(): Promise<Serving> {
    const progress: Progress = { trunkBytes: 0, trunkTotalBytes: 0, epoch: null, clients: [], shares: [], pack: null };
    this.#progress = progress;
    const sinceMs = systemClock.nowMs();
    try {
      const share = traceShare(this.env); // before anything is held
      const model = await bringUp(this.env, this.#tenant, progress, this.#plans);
      const { limits } = this.#tenant.isolate;
      // Which generations are sampled touches none of them.
      const samples = new TraceSamples(traceHeader(model), share, { next: () => Math.random() }, limits);
      const scheduler = new Scheduler(inEpochs(this.#metrics.measured(model.engine), model), systemClock, limits, () => this.#linger(), samples);
      this.#failure = null;
      this.#serving = { model, scheduler, samples };
      this.#metrics.loaded(sinceMs, true);
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

  /** Closes the sockets after a while without work; the next step opens them again. */
  #linger(): void {
    this.#cancelLinger?.();
    this.#cancelLinger = systemClock.after(this.#tenant.isolate.limits.lingerMs, () => {
      this.#cancelLinger = null;
      if (this.#serving === null || this.#serving.scheduler.activeCount > 0) return;
      for (const client of this.#serving.model.epochs.clients) client.rest();
    });
  }

  async #generate(request: Request): Promise<Response> {
    const sinceMs = systemClock.nowMs();
    const { limits } = this.#tenant.isolate;
    const length = Number(request.headers.get("Content-Length") ?? "0");
    if (length > limits.generateBodyBytes) {
      return fail({ type: "error", code: "invalid-request", retryable: false, message: `The body of /generate has ${length} bytes; ${limits.generateBodyBytes} is the limit.` });
    }
    const parsed = parseGenerateRequest(await request.text());
    if (isFailure(parsed)) return fail(parsed);
    const before = this.#serving;
    const loadsBefore = loadsOf(before);
    let serving: Serving;
    try {
      const waitMs = Math.min(limits.requestWaitMs, (parsed.deadlineAtMs ?? Infinity) - sinceMs);
      serving = await within(systemClock, Math.max(0, waitMs), this.#model(), "warming");
    } catch (cause) {
      if (this.#loading !== null) {
        if (parsed.deadlineAtMs !== undefined && systemClock.nowMs() >= parsed.deadlineAtMs) {
          return fail({ type: "error", code: "deadline-exceeded", retryable: true, message: "The request's deadline passed while the model was loading." });
        }
        const { loaded } = this.#status();
        return fail({ type: "error", code: "warming", retryable: true, retryAfterMs: 1000, loaded, message: "The model is loading." });
      }
      return fail({ type: "error", code: "load-failed", retryable: true, message: `The model could not be loaded: ${cause instanceof Error ? cause.message : String(cause)}` });
    }

    const { readable, emit, onCancel } = eventStream();
    const told: EventSink = (event) => {
      const coldStarts = before === serving ? loadsOf(serving) - loadsBefore : 1 + loadsOf(serving);
      emit(event.type === "end" && coldStarts > 0 ? { ...event, coldStarts } : event);
    };
    let generation: Generation;
    let constraint: LogitStage | null = null;
    try {
      const known = await this.#knownIds(parsed);
      const asked = known.length === 0 ? parsed : { ...parsed, emittedIds: known };
      constraint = parsed.constraint === undefined ? null : await (await this.#constraintsOf(serving)).stage(parsed.constraint, parsed.stopIds);
      known.forEach((id, index) => emit({ type: "token", index, id }));
      generation = serving.scheduler.submit(asked, this.#metrics.sink(this.#journaled(asked, told), sinceMs), constraint);
    } catch (cause) {
      constraint?.dispose();
      if (cause instanceof ModelError) return fail({ type: "error", code: "invalid-request", retryable: false, message: cause.message });
      if (cause instanceof CapacityError) return fail({ type: "error", code: "capacity", retryable: true, message: cause.message });
      throw cause;
    }
    onCancel(() => generation.cancel());
    request.signal.addEventListener("abort", () => generation.cancel());
    // The reader may have left while the model was loading.
    if (request.signal.aborted) generation.cancel();
    const refusal = await generation.accepted;
    this.#metrics.admitted(parsed, sinceMs, refusal);
    if (refusal !== null) return fail(refusal);
    return new Response(readable, { headers: { "Content-Type": "application/x-ndjson" } });
  }

  /** What a reply that is resumed has said already. Scores and experts are kept nowhere, so with them it begins anew. */
  async #knownIds({ journal, emittedIds, logprobs, trace, echo, maxTokens }: GenerateRequest): Promise<number[]> {
    const needsEvaluation = logprobs !== undefined || echo === true || (trace !== undefined && trace !== false);
    if (journal?.resume !== true || emittedIds !== undefined || needsEvaluation) return [];
    return (await this.#journal.read(journal.name)).slice(0, maxTokens);
  }

  /** Events as they are, their ids noted under the reply's name. */
  #journaled({ journal, emittedIds }: GenerateRequest, emit: EventSink): EventSink {
    if (journal === undefined) return emit;
    const log = this.#journal.log(journal.name, emittedIds ?? []);
    return (event) => {
      if (event.type === "token") log.push(event.id);
      else if (event.type !== "prompt") log.flush();
      emit(event);
    };
  }

  override async alarm(): Promise<void> {
    await this.#journal.sweep();
  }

  /** The grammar library with this model's vocabulary, loaded when a request first asks for it. */
  #constraintsOf({ model: { manifest, packHash } }: Serving): Promise<Constraints> {
    if (this.#constraints?.packHash === packHash) return this.#constraints.loaded;
    const load = async (): Promise<Constraints> => {
      const json = await readTokenizerJson(packSource(this.env), manifest);
      if (json === null) throw new ModelError(`The pack ${manifest.id} has no tokenizer, so its replies cannot be held to a grammar.`);
      return Constraints.create(grammarModule, createTokenizer(json), manifest.config.vocabSize, this.#tenant.isolate.limits);
    };
    const loaded = load();
    this.#constraints = { packHash, loaded };
    loaded.catch(() => { this.#constraints = null; });
    return loaded;
  }

  /** The sampled routing; 204 where no model is up to have any. */
  #traces(): Response {
    if (this.#serving === null) return new Response(null, { status: 204 });
    return new Response(this.#serving.samples.file(), { headers: { "Content-Type": "application/octet-stream" } });
  }

  #metricsText(): string {
    const { model, scheduler } = this.#serving ?? {};
    return this.#metrics.text({
      status: this.#status(), clients: model?.epochs.clients ?? this.#progress?.clients ?? [],
      serving: model === undefined || scheduler === undefined ? null : { kv: model.engine.kv, scheduler },
    });
  }

  #status(): OrchestratorStatus {
    const { isolate } = this.#tenant;
    const p = this.#progress;
    const shards = (p?.clients ?? []).map((client, shard) => ({
      name: client.name, state: client.state, ...p!.shares[shard]!, loadedBytes: client.loadedBytes, totalBytes: client.totalBytes,
      frames: client.frames, bytes: client.bytes, retries: client.retries, hedges: client.hedges, lastFault: client.lastFault,
    }));
    const loadedBytes = shards.reduce((sum, shard) => sum + (shard.state === "open" ? shard.weightBytes : shard.loadedBytes), p?.trunkBytes ?? 0);
    const totalBytes = shards.reduce((sum, shard) => sum + shard.weightBytes, p?.trunkTotalBytes ?? 0);
    const { scheduler } = this.#serving ?? {};
    const lost = (scheduler?.activeCount ?? 0) > 0 && shards.some((shard) => shard.state === "connecting");
    return {
      status: this.#serving !== null ? (lost ? "degraded" : "ready") : this.#loading !== null ? "warming" : this.#failure !== null ? "failed" : "cold",
      loaded: this.#serving !== null ? 1 : totalBytes === 0 ? 0 : Math.min(1, loadedBytes / totalBytes),
      message: this.#failure,
      pack: p?.pack ?? null,
      epoch: p?.epoch ?? null,
      isolate: {
        limitBytes: tenantBytes(isolate.limits), usedBytes: this.#tenant.usedBytes, account: isolate.heap.account(),
        objects: isolate.tenants.map((tenant) => tenant.name), kernels: isolate.kernels.name,
      },
      generations: { active: scheduler?.activeCount ?? 0, queued: scheduler?.queuedCount ?? 0, cancelled: scheduler?.cancelled ?? 0 },
      drafts: { tokens: scheduler?.drafts.tokens ?? 0, held: scheduler?.drafts.held ?? 0 },
      shards,
    };
  }
}

const traceHeader = ({ manifest: { id, config }, packHash }: ServedModel): TraceHeader => ({
  model: id, packHash, nExperts: config.nExperts, topK: config.router.topK, moeLayers: moeLayersOf(config), columns: ["ids", "weights"],
});

/** The directory; what it answers is copied, since the runtime keeps a call open until its result is disposed of (2026-11). */
function registryOf(env: DurableEnv, packHash: string): PlanRegistry | null {
  const directory = fleetDirectory(env, packHash);
  return directory === null ? null : {
    register: async (orchestrator, initial) => {
      const answer = await directory.register(orchestrator, initial);
      const plan = structuredClone({ ...answer });
      (answer as Partial<Disposable>)[Symbol.dispose]?.();
      return plan;
    },
  };
}

/** How often its shards have read weights. */
const loadsOf = (serving: Serving | null): number => serving?.model.epochs.loads ?? 0;

/** Each step in one epoch. One that nobody traces may be done again: taps have seen parts of it already. */
const inEpochs = (engine: StepEngine, { epochs }: ServedModel): StepEngine => ({
  ...engine, step: (entries, taps = []) => epochs.step(taps.length === 0, () => engine.step(entries, taps)),
});

const fail = (failure: GenerateFailure): Response => Response.json(failure, { status: FAILURE_STATUS[failure.code] });

/** A body of one JSON line per event. It ends with an end or error event; a reader that goes away calls what `onCancel` was given. */
function eventStream(): { readable: ReadableStream<Uint8Array>; emit: (event: GenerateEvent) => void; onCancel: (cancelled: () => void) => void } {
  let controller!: ReadableStreamDefaultController<Uint8Array>;
  let cancelled: () => void = () => {};
  let open = true;
  const readable = new ReadableStream<Uint8Array>({
    start: (c) => { controller = c; },
    cancel: () => {
      open = false;
      cancelled();
    },
  });
  return {
    readable,
    emit: (event) => {
      if (!open) return;
      controller.enqueue(encoder.encode(`${JSON.stringify(event)}\n`));
      if (event.type !== "end" && event.type !== "error") return;
      open = false;
      controller.close();
    },
    onCancel: (call) => { cancelled = call; },
  };
}
