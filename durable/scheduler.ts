// Generations of several readers in one batch: each step evaluates a chunk of every prompt still being read and one token of every
// generation under way. Owns admission (KV first, then acceptance), the sharing of a step, cancellation and what a failed step harms.
// Refuses text, HTTP and shards: it sees an engine and event sinks. Nothing a neighbour does changes the numbers of a generation:
// the engine's results do not depend on batch or chunking (docs/arithmetic.md section 5), draws only on (seed, choice, position).
// For the same reason a step may evaluate guesses at what comes next (model/prompt-lookup.ts): those that hold are tokens already.

import type { Engine } from "../model/engine.ts";
import type { StepEntry, StepResult } from "../model/step.ts";
import type { ModelConfig } from "../model/config.ts";
import { CapacityError } from "../model/heap.ts";
import type { KvCache } from "../model/kv-cache.ts";
import type { LogitStage } from "../model/logit-adjustments.ts";
import type { RequestRouting, RoutedConfig } from "../model/request-routing.ts";
import type { Tap } from "../model/taps.ts";
import { BatchStep } from "./batch-step.ts";
import { sleep, type Clock } from "./clock.ts";
import { DraftGate } from "./draft-gate.ts";
import { FairQueue } from "./fair-queue.ts";
import type { GenerateFailure, GenerateRequest } from "./generate.ts";
import { refusalOf } from "./generate-request.ts";
import { type EventSink, failure, type Generation, Run } from "./generation-run.ts";
import type { Limits } from "./limits.ts";
import { ToldRows } from "./left-out-rows.ts";
import { LostTimelinesError } from "./lost-timelines.ts";
import { shareStep } from "./step-share.ts";
import { AwayError, ShardError } from "./shard-error.ts";
import type { OutageTerms, StepOutages } from "./step-terms.ts";
import type { TraceSamples } from "./trace-samples.ts";

/** What the scheduler needs of model/engine.ts. */
export interface StepEngine extends Pick<Engine, "maxChunkTokens" | "contextLength"> {
  /** `terms` only where it has `outages`; null: the step waits for shards that are away. */
  step(entries: readonly StepEntry[], taps?: readonly Tap[], terms?: OutageTerms | null): Promise<StepResult>;
  readonly config: Pick<ModelConfig, "vocabSize"> & RoutedConfig;
  readonly kv: Pick<KvCache, "open" | "keep" | "close">;
  /** Steps it takes before the first is done: one for each stage of a ring. Absent: one. */
  readonly stepsAtOnce?: number;
  /** Steps for generations that do not wait for shards that are away. Absent: all wait. */
  readonly outages?: StepOutages;
  /** Most tokens of a step whose entries ask these of routing, where that takes of its room. Absent: maxChunkTokens. */
  chunkTokensBeside?(routings: readonly RequestRouting[]): number;
  /** Lets a tap see every step, as far as this object computes it; absent: hand it over with each step. */
  observe?(tap: Tap): void;
}

const TOO_LATE = failure("deadline-exceeded", "The request's deadline passed before its reply began.", true);

export class Scheduler {
  readonly #engine: StepEngine;
  readonly #clock: Clock;
  readonly #limits: Limits;
  readonly #onIdle: () => void;
  readonly #samples: TraceSamples | null;
  readonly #gate = new DraftGate();
  readonly #told = new ToldRows();
  readonly #queue: FairQueue<Run>;
  #active: Run[] = [];
  /** Their timelines were lost: they come back before anybody new is admitted. */
  #lost: Run[] = [];
  readonly #underWay = new Set<Promise<void>>();
  /** Ends the loop's wait for a step: somebody new could begin one. */
  #wake: () => void = () => {};
  #looping = false;
  steps = 0;
  /** Generations whose reader went away. */
  cancelled = 0;
  /** Guesses evaluated, and how many of them held. */
  readonly drafts = { tokens: 0, held: 0 };

  /** `onIdle` is called whenever the last generation has ended; `samples` keeps the routing of some generations. */
  constructor(engine: StepEngine, clock: Clock, limits: Limits, onIdle: () => void = () => {}, samples: TraceSamples | null = null) {
    this.#engine = engine;
    this.#clock = clock;
    this.#limits = limits;
    this.#onIdle = onIdle;
    this.#samples = samples;
    this.#queue = new FairQueue(limits.queuedGenerations);
  }

  get activeCount(): number { return this.#active.length + this.#lost.length; }
  get queuedCount(): number { return this.#queue.length; }

  /**
   * Takes a checked request. `emit` gets its events in order, the last of type end or error, unless it is cancelled. `constraint` is what the
   * request's means for its logits, before any token; it is disposed when the generation has ended.
   */
  submit(request: GenerateRequest, emit: EventSink, constraint: LogitStage | null = null): Generation {
    const run = new Run(request, emit, () => this.#cancelled(run), this.#clock, this.#limits.draftTokens, constraint, this.#samples?.draw() ?? null);
    const refusal = refusalOf(request, { vocabSize: this.#engine.config.vocabSize, contextLength: this.#engine.contextLength, config: this.#engine.config })
      ?? (this.#isLate(run) ? TOO_LATE : null);
    if (refusal !== null) {
      this.#refuse(run, refusal);
      return run;
    }
    const displaced = this.#queue.push(run.caller, run);
    if (displaced !== null) this.#refuse(displaced, failure("overloaded", `${this.#active.length} generations run and ${this.#queue.length} wait, the most this server takes; try again later.`, true));
    this.#admit();
    if (this.#looping) this.#wake();
    else if (this.#active.length > 0) void this.#loop();
    return run;
  }

  /** Ends everything with an error event: the model goes away. */
  stop(reason: GenerateFailure): void {
    for (const run of this.#active) run.end(reason);
    for (const run of this.#lost.splice(0)) {
      run.end(reason);
      run.stage?.dispose();
    }
    for (const run of [...this.#queue]) {
      this.#queue.remove(run.caller, run);
      run.end(reason);
      run.stage?.dispose();
    }
    this.#sweep();
  }

  #cancelled(run: Run): void {
    this.cancelled++;
    if (this.#queue.remove(run.caller, run)) run.stage?.dispose();
    run.settleAcceptance(failure("invalid-request", "The reader went away before the generation began.", false));
    // During a step its KV pages are in use; the loop frees them afterwards.
    if (!this.#looping) this.#sweep();
  }

  /** Turns a generation away that never was in the batch, and is in the queue no more. */
  #refuse(run: Run, reason: GenerateFailure): void {
    run.ended = true;
    run.stage?.dispose();
    run.settleAcceptance(reason);
  }

  #isLate({ request: { deadlineAtMs } }: Run): boolean { return deadlineAtMs !== undefined && this.#clock.nowMs() >= deadlineAtMs; }

  /** Ends what has had its time: with what it has said, where it has begun to. */
  #expire(): void {
    for (const run of [...this.#active, ...this.#lost]) if (!run.ended && this.#isLate(run)) {
      if (run.generated === 0) run.end(TOO_LATE);
      else run.finish("deadline", null);
    }
    for (const run of [...this.#queue]) if (this.#isLate(run)) {
      this.#queue.remove(run.caller, run);
      this.#refuse(run, TOO_LATE);
    }
  }

  /** Moves waiting generations into the batch, callers taking turns, as far as places and KV memory go. */
  #admit(): void {
    this.#readmit();
    // Nobody new takes the memory that those who were here before wait for.
    if (this.#lost.length > 0) return;
    while (this.#active.length < this.#limits.activeGenerations) {
      const run = this.#queue.first;
      if (run === undefined) return;
      try {
        // A prompt that is scored is evaluated as a whole: its logits are kept nowhere.
        run.timeline = this.#engine.kv.open(run.positions, run.request.echo === true || run.request.embedding === true ? null : run.shared);
        run.cachedTokens = Math.min(run.timeline.length, run.request.promptIds.length);
      } catch (error) {
        if (!(error instanceof CapacityError)) throw error;
        if (this.#active.length > 0) return; // those under way will give memory back
        this.#queue.shift();
        this.#refuse(run, failure("capacity", `The KV cache of this generation does not fit: ${error.message}`, false));
        continue;
      }
      this.#queue.shift();
      this.#active.push(run);
      run.admit();
      try {
        // A stream that broke just before its end event.
        if (run.stage?.isComplete === true) run.finish("stop", null);
        else if (run.request.maxTokens > 0 && run.generated >= run.request.maxTokens) run.finish("length", null);
      } catch (cause) {
        run.end(failure("step-failed", `What its reply must look like could not be found: ${cause instanceof Error ? cause.message : String(cause)}`, true));
      }
    }
  }

  /** Timelines anew for those that lost theirs; their tokens are evaluated again, from the first. */
  #readmit(): void {
    for (let run = this.#lost[0]; run !== undefined; run = this.#lost[0]) {
      if (!run.ended) {
        try {
          run.timeline = this.#engine.kv.open(run.positions, null);
        } catch (error) {
          if (!(error instanceof CapacityError)) throw error;
          if (this.#active.length > 0) return; // those under way will give memory back
          run.end(failure("capacity", `The KV cache of this generation was lost and does not fit any more: ${error.message}`, true));
        }
      }
      this.#lost.shift();
      if (run.ended) run.stage?.dispose();
      else this.#active.push(run);
    }
  }

  async #loop(): Promise<void> {
    this.#looping = true;
    try {
      for (;;) {
        this.#expire();
        this.#release();
        this.#sweep();
        this.#admit();
        this.#sweep();
        const most = this.#engine.stepsAtOnce ?? 1;
        while (this.#underWay.size < most && this.#begin(most)) { /* as many as there is work for */ }
        if (this.#underWay.size === 0) break;
        await Promise.race([...this.#underWay, ...(this.#underWay.size < most ? [new Promise<void>((resolve) => { this.#wake = resolve; })] : [])]);
        this.#sweep();
        // Rounds to objects of the same process can run without ever leaving the microtask queue (workerd, 2026-11): without this pause
        // readers, cancellations and new requests would starve.
        await sleep(this.#clock, 0);
      }
    } finally {
      this.#looping = false;
    }
    this.#onIdle();
  }

  /** Frees what ended generations held, unless a step still uses it. */
  #sweep(): void {
    for (const run of this.#active) if (run.ended && !run.isStepping && run.timeline !== null) {
      this.#keep(run);
      this.#engine.kv.close(run.timeline);
      run.stage?.dispose();
      run.timeline = null;
    }
    this.#active = this.#active.filter((run) => !run.ended || run.isStepping);
  }

  #keep(run: Run): void {
    if (run.shared !== null && run.timeline !== null && !run.isDegraded) this.#engine.kv.keep(run.timeline, run.shared);
  }

  /** Starts a step of those that are in none, an equal part of everybody where `most` steps run at once; false where nobody could take part. */
  #begin(most: number): boolean {
    const { config: { vocabSize } } = this.#engine;
    const mayStep = (run: Run): boolean => !run.isStepping && run.held === null;
    const [idle, others] = [this.#active.filter(mayStep), this.#active.filter((run) => !mayStep(run))];
    if (idle.length === 0) return false;
    // Nobody more than an equal part, so that no step grows long; and some left for the others that may begin now.
    const nTaking = Math.min(Math.ceil(this.#active.length / most), Math.ceil(idle.length / (most - this.#underWay.size)));
    const { taking, next } = shareStep(idle.slice(0, nTaking), { maxChunkTokens: this.#chunkTokens(idle.slice(0, nTaking)), vocabSize, limits: this.#limits, gate: this.#gate });
    this.#active = [...idle.slice(nTaking), ...next, ...others];
    for (const run of taking) run.isStepping = true;
    const step = this.#step(taking).finally(() => {
      for (const run of taking) run.isStepping = false;
      this.#underWay.delete(step);
    });
    this.#underWay.add(step);
    return true;
  }

  #chunkTokens(runs: readonly Run[]): number {
    return this.#engine.chunkTokensBeside?.(runs.flatMap(({ request: { routing } }) => routing ?? [])) ?? this.#engine.maxChunkTokens;
  }

  async #step(runs: readonly Run[]): Promise<void> {
    const { config: { vocabSize, router: { topK } } } = this.#engine;
    const step = new BatchStep(runs, { vocabSize, topK, samples: this.#samples, told: this.#told, drafts: this.drafts, keep: (run) => this.#keep(run) });
    this.steps++;
    const startMs = this.#clock.nowMs();
    try {
      const said = step.deliver(await this.#engine.step(step.entries, step.taps, this.#termsOf(step)));
      if (step.decodes) this.#gate.note(runs.length, step.hasDrafts, this.#clock.nowMs() - startMs, said);
    } catch (cause) {
      const message = cause instanceof Error ? cause.message : String(cause);
      const goOn = cause instanceof ShardError && this.#engine.outages !== undefined && !runs.every((run) => run.degrades);
      for (const run of runs) {
        if (goOn && run.degrades) continue; // the next step is theirs alone, and leaves out what is missing
        if (cause instanceof AwayError && !run.ended) run.held ??= { shard: cause.shard, sinceMs: this.#clock.nowMs() };
        else if (cause instanceof LostTimelinesError && !run.ended && run.losses < this.#limits.timelineLosses) this.#rebuild(run);
        else run.end(failure("step-failed", `A step of the model failed: ${message}`, true));
      }
    }
  }

  /** Terms that hold up nobody who need not wait, in this step or, in a ring, behind it; as long as somebody in it waits for shards, none of its rows may be left out. */
  #termsOf({ runs, leftOut }: BatchStep): OutageTerms | null {
    const waits = this.#engine.outages === undefined || ![...this.#active, ...this.#lost].some((run) => run.degrades && !run.ended);
    return waits ? null : { leavesOut: runs.every((run) => run.degrades), leftOut };
  }

  /** Those who wait for a shard take part again when it is back, or when nobody is left whom that would hold up; or end, when it has taken too long. */
  #release(): void {
    const waiting = this.#active.filter((run) => run.held !== null);
    if (waiting.length === 0) return;
    const others = this.#active.some((run) => run.degrades && !run.ended);
    for (const run of waiting) {
      const { shard, sinceMs } = run.held!;
      const waitedMs = this.#clock.nowMs() - sinceMs;
      if (waitedMs >= this.#limits.outageMs && !run.ended) run.end(failure("step-failed", `A step of the model failed: shard ${shard} could not be reached for ${Math.round(waitedMs)} ms.`, true));
      if (run.ended || !others || this.#engine.outages?.isAway(shard) !== true) run.held = null;
    }
  }

  /** Takes a generation whose timeline is lost out of the batch, to come back with its tokens. */
  #rebuild(run: Run): void {
    this.#engine.kv.close(run.timeline!);
    run.lose();
    this.#active = this.#active.filter((other) => other !== run);
    this.#lost.push(run);
  }
}
