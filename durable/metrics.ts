// What an orchestrator counts and measures, and the text of its GET /metrics. Everything begins at 0 when the object starts anew.
// Fed from outside the token loop's code: around the engine (`measured`), around a generation's events (`sink`). Refuses whatever is the
// Worker's to know: endpoints, callers, text. Times are of a clock that may stand still during computation (clock.ts).

import type { ModelConfig } from "../model/config.ts";
import type { KvCache } from "../model/kv-cache.ts";
import type { ShardClient } from "./client.ts";
import type { Clock } from "./clock.ts";
import type { GenerateFailure, GenerateRequest, OrchestratorStatus, ShardStatus } from "./generate.ts";
import { BATCH_SIZES, Histogram, LONG_SECONDS, SHORT_SECONDS } from "./histogram.ts";
import { ExpertLoad } from "./metrics-expert-load.ts";
import { byLabel, increment, MetricsText } from "./metrics-text.ts";
import type { EventSink } from "./generation-run.ts";
import type { RingFigures } from "./ring-figures.ts";
import type { Scheduler, StepEngine } from "./scheduler.ts";

/** What is read rather than counted: its owners keep it. */
export interface MetricsView {
  readonly status: OrchestratorStatus;
  readonly clients: readonly ShardClient[];
  /** Null while the model is not up. */
  readonly serving: { readonly kv: KvCache; readonly scheduler: Pick<Scheduler, "steps" | "cancelled" | "drafts"> } | null;
}

const STATES = ["cold", "warming", "ready", "degraded", "failed"] as const;

export class OrchestratorMetrics {
  readonly #clock: Clock;
  readonly #queue = new Histogram(LONG_SECONDS);
  readonly #firstToken = new Histogram(LONG_SECONDS);
  readonly #betweenTokens = new Histogram(SHORT_SECONDS);
  readonly #step = new Histogram(SHORT_SECONDS);
  readonly #load = new Histogram(LONG_SECONDS);
  readonly #batch = new Histogram(BATCH_SIZES);
  readonly #stepTokens = new Histogram(BATCH_SIZES);
  readonly #ended = new Map<string, number>();
  readonly #refused = new Map<string, number>();
  #expertLoad: ExpertLoad | null = null;
  #promptTokens = 0;
  #cachedTokens = 0;
  #completionTokens = 0;
  #cacheHits = 0;
  #failedSteps = 0;
  #degradedTokens = 0;
  #failedLoads = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  nowMs(): number { return this.#clock.nowMs(); }
  #secondsSince(ms: number): number { return (this.#clock.nowMs() - ms) / 1000; }

  /** How often each expert was chosen, [layer * nExperts + expert]; empty before a model is up. */
  get choices(): Uint32Array { return this.#expertLoad?.tokens ?? new Uint32Array(0); }

  /** The model came up, or did not. */
  loaded(sinceMs: number, succeeded: boolean): void {
    if (succeeded) this.#load.observe(this.#secondsSince(sinceMs));
    else this.#failedLoads++;
  }

  /** The same engine, its steps measured; `figures`: of layers that it does not run itself. */
  measured(engine: StepEngine, config: ModelConfig, figures: RingFigures | null = null): StepEngine {
    const load = new ExpertLoad(config, () => figures?.choices ?? null);
    this.#expertLoad = load;
    engine.observe?.(load.tap);
    const own = engine.observe === undefined ? [load.tap] : [];
    return {
      config: engine.config, kv: engine.kv, maxChunkTokens: engine.maxChunkTokens, contextLength: engine.contextLength, stepsAtOnce: engine.stepsAtOnce ?? 1,
      chunkTokensBeside: (routings) => engine.chunkTokensBeside?.(routings) ?? engine.maxChunkTokens,
      ...(engine.outages === undefined ? {} : { outages: engine.outages }),
      step: async (entries, taps = [], terms = null) => {
        const sinceMs = this.#clock.nowMs();
        this.#batch.observe(entries.length);
        this.#stepTokens.observe(entries.reduce((sum, { ids }) => sum + ids.length, 0));
        try {
          return await engine.step(entries, [...taps, ...own], terms);
        } catch (cause) {
          this.#failedSteps++;
          throw cause;
        } finally {
          this.#step.observe(this.#secondsSince(sinceMs));
        }
      },
    };
  }

  /** A generation got its place, or will get none. */
  admitted({ promptIds }: GenerateRequest, sinceMs: number, refusal: GenerateFailure | null): void {
    if (refusal !== null) return increment(this.#refused, refusal.code);
    this.#queue.observe(this.#secondsSince(sinceMs));
    this.#promptTokens += promptIds.length;
  }

  /** Events as they are, counted. `sinceMs`: when the request came. */
  sink(emit: EventSink, sinceMs: number): EventSink {
    let lastMs: number | null = null;
    let isCacheCounted = false;
    const found = (cachedTokens: number): void => {
      if (isCacheCounted || cachedTokens === 0) return;
      isCacheCounted = true;
      this.#cachedTokens += cachedTokens;
      this.#cacheHits++;
    };
    return (event) => {
      switch (event.type) {
        case "token":
          if (lastMs === null) this.#firstToken.observe(this.#secondsSince(sinceMs));
          else this.#betweenTokens.observe(this.#secondsSince(lastMs));
          lastMs = this.#clock.nowMs();
          this.#completionTokens++;
          if (event.degraded !== undefined) this.#degradedTokens++;
          found(event.cachedTokens ?? 0);
          break;
        case "end":
          increment(this.#ended, event.reason);
          found(event.cachedTokens);
          break;
        case "error":
          increment(this.#ended, event.code);
      }
      emit(event);
    };
  }

  text({ status, clients, serving }: MetricsView): string {
    const shards = (value: (shard: ShardStatus) => number) => status.shards.map((shard) => ({ labels: { shard: shard.name }, value: value(shard) }));
    const text = new MetricsText()
      .gauge("state", "1 for the state of the model, 0 for the others.", STATES.map((state) => ({ labels: { state }, value: status.status === state ? 1 : 0 })))
      .gauge("loaded_ratio", "Share of the model's bytes that are loaded, 0 to 1.", status.loaded)
      .gauge("generations", "Generations in the batch, and waiting for a place in it.", [
        { labels: { state: "active" }, value: status.generations.active }, { labels: { state: "queued" }, value: status.generations.queued },
      ])
      .histogram("queue_seconds", "From a generation's arrival at the orchestrator until it got its place, loading included.", [{ of: this.#queue }])
      .histogram("first_token_seconds", "From a generation's arrival at the orchestrator to its first token.", [{ of: this.#firstToken }])
      .histogram("inter_token_seconds", "Between two tokens of a generation; tokens that one step gave are 0 apart.", [{ of: this.#betweenTokens }])
      .histogram("step_seconds", "One pass of the model over a batch.", [{ of: this.#step }])
      .histogram("step_generations", "Generations that took part in a step.", [{ of: this.#batch }])
      .histogram("step_tokens", "Tokens evaluated in a step: of prompts, of generations, and guesses.", [{ of: this.#stepTokens }])
      .histogram("load_seconds", "Bringing the model up from nothing: manifest, trunk, all shards.", [{ of: this.#load }])
      .counter("load_failures_total", "Attempts to bring the model up that failed.", this.#failedLoads)
      .counter("degraded_tokens_total", "Tokens of generations that opted in, chosen where expert rows had been left out.", this.#degradedTokens)
      .counter("step_failures_total", "Steps that failed; each ended the generations in it.", this.#failedSteps)
      .counter("generations_ended_total", "Generations that ended, by reason: stop, length, or the code of the failure.", byLabel("reason", this.#ended))
      .counter("generations_refused_total", "Generations that got no place, by code.", byLabel("code", this.#refused))
      .counter("generations_cancelled_total", "Generations whose reader went away.", serving?.scheduler.cancelled ?? 0)
      .counter("prompt_tokens_total", "Prompt tokens of generations that got a place, those taken over from the prefix cache included.", this.#promptTokens)
      .counter("cached_tokens_total", "Of these, tokens that the prefix cache had evaluated already.", this.#cachedTokens)
      .counter("prefix_cache_hits_total", "Generations that took over something from the prefix cache.", this.#cacheHits)
      .counter("completion_tokens_total", "Tokens generated.", this.#completionTokens)
      .counter("drafts_total", "Guesses at next tokens that were evaluated, by whether they held.", [
        { labels: { held: "true" }, value: serving?.scheduler.drafts.held ?? 0 },
        { labels: { held: "false" }, value: (serving?.scheduler.drafts.tokens ?? 0) - (serving?.scheduler.drafts.held ?? 0) },
      ])
      .counter("frames_total", "Request frames sent to a shard, further attempts included.", shards(({ frames }) => frames))
      .counter("frame_bytes_total", "Bytes of frames to and from a shard.", shards(({ bytes }) => bytes))
      .counter("frame_retries_total", "Frames that were sent again.", shards(({ retries }) => retries))
      .counter("frame_hedges_total", "Frames that other holders were asked for too, because this shard was late.", shards(({ hedges }) => hedges))
      .histogram("frame_round_trip_seconds", "From sending a frame to taking its reply, by shard; of frames that the orchestrator itself sends.", clients.map((client) => ({ labels: { shard: client.name }, of: client.roundTrips })))
      .gauge("shard_connected", "1 where the line to a shard is open; a line at rest opens with the next step.", shards(({ state }) => (state === "open" ? 1 : 0)));
    if (serving !== null) {
      text.gauge("kv_pages", "Pages of the KV cache in memory: all, and those kept for later prompts, which give way when room is needed.", [
        { labels: { of: "all" }, value: serving.kv.pages }, { labels: { of: "kept" }, value: serving.kv.keptPages },
      ]).gauge("kv_page_bytes", "Bytes of one page, 32 positions in all layers.", serving.kv.pageBytes);
    }
    if (status.isolate !== null) {
      text.gauge("isolate_limit_bytes", "Memory the orchestrator may use for weights, cache and frames.", status.isolate.limitBytes)
        .gauge("isolate_used_bytes", "Of that, in use by the orchestrator.", status.isolate.usedBytes)
        .gauge("isolate_purpose_bytes", "Linear memory of the orchestrator's isolate by purpose, all objects in it together.", Object.entries(status.isolate.account).map(([purpose, value]) => ({ labels: { purpose }, value })));
    }
    if (this.#expertLoad !== null) text.counter("expert_tokens_total", "Tokens an expert was chosen for, by layer; guesses that did not hold are evaluated and counted too.", this.#expertLoad.samples());
    return text.toString();
  }
}
