// Generations of several readers in one batch: each step evaluates a chunk of every prompt still being read and one token of every
// generation under way. Owns admission (KV first, then acceptance), the sharing of a step, cancellation and what a failed step harms.
// Refuses text, HTTP and shards: it sees an engine and event sinks. Nothing a neighbour does changes the numbers of a generation:
// the engine's results do not depend on batch or chunking (docs/arithmetic.md section 5), draws only on (seed, choice, position).
// For the same reason a step may evaluate guesses at what comes next (model/prompt-lookup.ts): those that hold are tokens already.

import type { Engine, StepEntry } from "../model/engine.ts";
import { CapacityError } from "../model/heap.ts";
import type { KvCache, SharedTokens, Timeline } from "../model/kv-cache.ts";
import { adjustmentStage, stagesInOrder, type LogitStage } from "../model/logit-adjustments.ts";
import { logitsRequest } from "../model/logits.ts";
import { PromptLookup } from "../model/prompt-lookup.ts";
import { decidingForm, logprobs, sampleForm, type LogitsForm, type TopLogits } from "../model/sampling.ts";
import type { Tap } from "../model/taps.ts";
import { sleep, type Clock } from "./clock.ts";
import { DraftGate, DraftLength } from "./draft-gate.ts";
import { FairQueue } from "./fair-queue.ts";
import type { GenerateErrorCode, GenerateEvent, GenerateFailure, GenerateRequest, ScoredToken } from "./generate.ts";
import { refusalOf } from "./generate-request.ts";
import type { Limits } from "./limits.ts";

/** What the scheduler needs of model/engine.ts. */
export interface StepEngine extends Pick<Engine, "step" | "maxChunkTokens" | "contextLength"> {
  readonly config: { readonly vocabSize: number; readonly router: { readonly topK: number } };
  readonly kv: Pick<KvCache, "open" | "keep" | "close">;
}

export type EventSink = (event: GenerateEvent) => void;

/** One accepted or waiting request. */
export interface Generation {
  /** Resolves with null when the KV cache is reserved, or with the reason why it cannot be. */
  readonly accepted: Promise<GenerateFailure | null>;
  /** Ends it without further events, before the next step at the latest. Idempotent. */
  cancel(): void;
}

const failure = (code: GenerateErrorCode, message: string, retryable: boolean): GenerateFailure => ({ type: "error", code, message, retryable });

const TOO_LATE = failure("deadline-exceeded", "The request's deadline passed before its reply began.", true);

class Run implements Generation {
  readonly request: GenerateRequest;
  readonly emit: EventSink;
  readonly accepted: Promise<GenerateFailure | null>;
  readonly settleAcceptance: (failure: GenerateFailure | null) => void;
  readonly ids: number[];
  readonly moe = { steps: 0, frames: 0, bytes: 0, retries: 0 };
  readonly onCancel: () => void;
  timeline: Timeline | null = null;
  /** Prompt tokens that an earlier generation had evaluated already. */
  cachedTokens = 0;
  /** The prompt's pages are kept as soon as they are whole, the rest when the generation ends. */
  promptKept = false;
  ended = false;
  readonly lookup = new PromptLookup();
  readonly draftLength: DraftLength;
  /** Own tokens of this step, 0 when it takes no part. */
  taken = 0;
  /** What of this step's logits decides its tokens. */
  form: LogitsForm = "row";
  /** What is done to its logits before they are sampled. */
  readonly stage: LogitStage | null;
  /** Sum of the states of an embedding so far, [hidden]; in order of the tokens, so that chunks change nothing. */
  states: Float64Array | null = null;
  /** Guesses evaluated after them. */
  draft: readonly number[] = [];
  /** Experts and weights of a traced step, by position. */
  readonly experts = new Map<number, number[][]>();
  readonly weights = new Map<number, number[][]>();

  constructor(request: GenerateRequest, emit: EventSink, onCancel: () => void, draftTokens: number, constraint: LogitStage | null) {
    this.request = request;
    this.emit = emit;
    this.onCancel = onCancel;
    this.ids = [...request.promptIds, ...(request.emittedIds ?? [])];
    const { adjustments } = request.sampling;
    this.stage = stagesInOrder([...(adjustments === null ? [] : [adjustmentStage(adjustments, request.promptIds)]), ...(constraint === null ? [] : [constraint])]);
    for (const id of request.emittedIds ?? []) this.stage?.push(id);
    this.draftLength = new DraftLength(Math.min(draftTokens, request.draftTokens ?? draftTokens));
    let settle!: (failure: GenerateFailure | null) => void;
    this.accepted = new Promise((resolve) => { settle = resolve; });
    this.settleAcceptance = settle;
  }

  cancel(): void {
    if (this.ended) return;
    this.ended = true;
    this.onCancel();
  }

  /** Positions the timeline must hold: the last generated token is never evaluated. */
  get positions(): number { return Math.max(1, this.request.promptIds.length, this.request.promptIds.length + this.request.maxTokens - 1); }
  get evaluated(): number { return this.timeline!.length; }
  get left(): number { return this.ids.length - this.evaluated; }
  get generated(): number { return this.ids.length - this.request.promptIds.length; }
  /** What others of its scope may take over from it; null where nothing is. */
  get shared(): SharedTokens | null {
    const { cacheScope } = this.request;
    return cacheScope === undefined ? null : { scope: cacheScope, ids: this.ids };
  }
  /** Requests that name nobody wait in one line. */
  get caller(): string { return this.request.caller ?? ""; }
  get traces(): boolean { return this.request.trace !== undefined && this.request.trace !== false; }
  /** True while logits of prompt positions are wanted. */
  get scores(): boolean { return this.request.echo === true && this.evaluated < this.request.promptIds.length; }
}

export class Scheduler {
  readonly #engine: StepEngine;
  readonly #clock: Clock;
  readonly #limits: Limits;
  readonly #onIdle: () => void;
  readonly #gate = new DraftGate();
  readonly #queue: FairQueue<Run>;
  #active: Run[] = [];
  #looping = false;
  steps = 0;
  /** Generations whose reader went away. */
  cancelled = 0;
  /** Guesses evaluated, and how many of them held. */
  readonly drafts = { tokens: 0, held: 0 };

  /** `onIdle` is called whenever the last generation has ended. */
  constructor(engine: StepEngine, clock: Clock, limits: Limits, onIdle: () => void = () => {}) {
    this.#engine = engine;
    this.#clock = clock;
    this.#limits = limits;
    this.#onIdle = onIdle;
    this.#queue = new FairQueue(limits.queuedGenerations);
  }

  get activeCount(): number { return this.#active.length; }
  get queuedCount(): number { return this.#queue.length; }

  /**
   * Takes a checked request. `emit` gets its events in order, the last of type end or error, unless it is cancelled. `constraint` is what the
   * request's means for its logits, before any token; it is disposed when the generation has ended.
   */
  submit(request: GenerateRequest, emit: EventSink, constraint: LogitStage | null = null): Generation {
    const run = new Run(request, emit, () => this.#cancelled(run), this.#limits.draftTokens, constraint);
    const refusal = refusalOf(request, { vocabSize: this.#engine.config.vocabSize, contextLength: this.#engine.contextLength })
      ?? (this.#isLate(run) ? TOO_LATE : null);
    if (refusal !== null) {
      this.#refuse(run, refusal);
      return run;
    }
    const displaced = this.#queue.push(run.caller, run);
    if (displaced !== null) this.#refuse(displaced, failure("overloaded", `${this.#active.length} generations run and ${this.#queue.length} wait, the most this server takes; try again later.`, true));
    this.#admit();
    if (!this.#looping && this.#active.length > 0) void this.#loop();
    return run;
  }

  /** Ends everything with an error event: the model goes away. */
  stop(reason: GenerateFailure): void {
    for (const run of this.#active) this.#end(run, reason);
    for (const run of [...this.#queue]) {
      this.#queue.remove(run.caller, run);
      this.#end(run, reason);
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
    for (const run of this.#active) if (!run.ended && this.#isLate(run)) {
      if (run.generated === 0) this.#end(run, TOO_LATE);
      else this.#finish(run, "deadline", null);
    }
    for (const run of [...this.#queue]) if (this.#isLate(run)) {
      this.#queue.remove(run.caller, run);
      this.#refuse(run, TOO_LATE);
    }
  }

  /** Moves waiting generations into the batch, callers taking turns, as far as places and KV memory go. */
  #admit(): void {
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
      run.settleAcceptance(null);
      // A stream that broke just before its end event.
      if (run.stage?.isComplete === true) this.#finish(run, "stop", null);
      else if (run.request.maxTokens > 0 && run.generated >= run.request.maxTokens) this.#finish(run, "length", null);
    }
  }

  async #loop(): Promise<void> {
    this.#looping = true;
    try {
      for (;;) {
        this.#expire();
        this.#sweep();
        this.#admit();
        this.#sweep();
        if (this.#active.length === 0) break;
        await this.#step();
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

  /** Frees what ended generations held. */
  #sweep(): void {
    for (const run of this.#active) if (run.ended && run.timeline !== null) {
      this.#keep(run);
      this.#engine.kv.close(run.timeline);
      run.stage?.dispose();
      run.timeline = null;
    }
    this.#active = this.#active.filter((run) => !run.ended);
  }

  #keep(run: Run): void {
    if (run.shared !== null && run.timeline !== null) this.#engine.kv.keep(run.timeline, run.shared);
  }

  async #step(): Promise<void> {
    const runs = this.#share();
    const entries = runs.map((run): StepEntry => {
      if (run.request.embedding === true) return { timeline: run.timeline!, ids: run.ids.slice(run.evaluated, run.evaluated + run.taken), logits: { states: true, of: "all" } };
      const of = run.scores || run.draft.length > 0 ? "all" : run.taken === run.left && run.request.maxTokens > 0 ? "last" : "none";
      run.form = run.scores ? "row" : decidingForm(run.request.sampling, run.request.logprobs ?? null, this.#engine.config.vocabSize, run.stage);
      return {
        timeline: run.timeline!, ids: [...run.ids.slice(run.evaluated, run.evaluated + run.taken), ...run.draft],
        logits: of === "none" ? of : logitsRequest(run.form, of),
      };
    });
    this.steps++;
    const starts = runs.map((run) => run.evaluated);
    const decodes = runs.every((run) => run.taken === 1);
    const startMs = this.#clock.nowMs();
    try {
      const result = await this.#engine.step(entries, this.#tapsFor(runs));
      let said = 0;
      runs.forEach((run, i) => {
        run.moe.steps++;
        run.moe.frames += result.frames;
        run.moe.bytes += result.bytes;
        run.moe.retries += result.retries;
        if (!run.promptKept && run.evaluated >= run.request.promptIds.length) {
          run.promptKept = true;
          this.#keep(run);
        }
        const before = run.generated;
        if (!run.ended) this.#deliver(run, starts[i]!, entries[i]!, result.logits[i]!, result.tops[i]!);
        said += Math.max(1, run.generated - before);
      });
      if (decodes) this.#gate.note(runs.length, runs.some((run) => run.draft.length > 0), this.#clock.nowMs() - startMs, said);
    } catch (cause) {
      const message = cause instanceof Error ? cause.message : String(cause);
      for (const run of runs) this.#end(run, failure("step-failed", `A step of the model failed: ${message}`, true));
    }
  }

  /**
   * Divides a step: one token for each generation under way (a quarter of the step is kept for prompts while there are any), the rest,
   * less of it in such company, among prompts, smallest first, so that what a short one leaves goes to the longer ones. Who is left
   * out comes first next time.
   */
  #share(): Run[] {
    const budget = this.#engine.maxChunkTokens;
    const decoding = this.#active.filter((run) => run.left === 1);
    const reading = this.#active.filter((run) => run.left > 1).sort((a, b) => a.left - b.left);
    for (const run of this.#active) [run.taken, run.draft] = [0, []];
    let left = budget;
    const kept = reading.length > 0 && decoding.length > 0 ? Math.min(Math.ceil(budget / 4), budget - 1) : 0;
    for (const run of decoding) if (left > kept) left -= run.taken = 1;
    if (decoding.length > 0) left = Math.min(left, this.#limits.sharedChunkTokens);
    reading.forEach((run, i) => {
      const most = run.request.echo === true ? Math.max(1, Math.floor(this.#limits.logitBytes / (this.#engine.config.vocabSize * 4))) : Infinity;
      run.taken = Math.min(run.left, most, Math.max(1, Math.floor(left / (reading.length - i))), left);
      left -= run.taken;
    });
    if (reading.length === 0 && decoding.length > 0 && this.#gate.allows(decoding.length)) this.#guess(decoding, left);
    const [taking, waiting] = [this.#active.filter((run) => run.taken > 0), this.#active.filter((run) => run.taken === 0)];
    this.#active = [...waiting, ...taking];
    return taking;
  }

  /** Gives each generation of the step a draft, as far as its own text has one to offer and `left` tokens go. */
  #guess(runs: readonly Run[], left: number): void {
    const logitRows = Math.floor(this.#limits.logitBytes / (this.#engine.config.vocabSize * 4));
    for (const run of runs) {
      if (run.taken !== 1 || run.scores) continue;
      while (run.lookup.length < run.ids.length) run.lookup.push(run.ids[run.lookup.length]!);
      // The token after the last guess still counts as one to generate, and need not be evaluated.
      const most = Math.min(run.draftLength.tokens, left, logitRows - 1, run.request.maxTokens - run.generated - 1);
      if (most < 1) continue;
      run.draft = run.lookup.draft(most);
      left -= run.draft.length;
    }
  }

  /** Events of one generation after a step over positions [start, start + n). */
  #deliver(run: Run, start: number, entry: StepEntry, logits: Float32Array, top: TopLogits | null): void {
    const { request, draft } = run;
    if (request.embedding === true) return this.#pool(run, entry.ids.length, logits);
    const vocab = this.#engine.config.vocabSize;
    const n = entry.ids.length;
    const row = (i: number): Float32Array => logits.subarray(i * vocab, (i + 1) * vocab);
    try {
      if (draft.length === 0 && entry.logits === "all") run.emit(this.#scored(run, start, n, row));
      if (draft.length === 0 && run.left > 0) return;
      if (request.maxTokens === 0) return this.#finish(run, "length", null);
      for (let held = 0; ; held++) {
        const position = run.ids.length;
        const from = (typeof entry.logits === "object" ? entry.logits.of : entry.logits) === "all" ? n - 1 - draft.length + held : 0;
        const drawn = sampleForm(run.form, row(from), top, from, request.sampling, request.choice ?? 0, position, request.logprobs ?? null, run.stage);
        const isGuessed = held < draft.length && drawn.id === draft[held];
        if (!isGuessed && draft.length > 0) this.#judge(run, held);
        if (request.stopIds.includes(drawn.id)) return this.#finish(run, "stop", drawn.id);
        run.emit({
          type: "token", index: run.generated, id: drawn.id,
          ...(drawn.logprob === undefined ? {} : { logprob: drawn.logprob, top: drawn.top ?? [] }),
          ...(run.generated === 0 && run.cachedTokens > 0 ? { cachedTokens: run.cachedTokens } : {}),
          ...(run.traces ? { experts: run.experts.get(position - 1) ?? [], weights: run.weights.get(position - 1) ?? [] } : {}),
        });
        run.ids.push(drawn.id);
        run.stage?.push(drawn.id);
        if (run.stage?.isComplete === true) return this.#finish(run, "stop", null);
        if (run.generated >= request.maxTokens) return this.#finish(run, "length", null);
        if (!isGuessed || run.ended) return;
      }
    } catch (cause) {
      this.#end(run, failure("step-failed", `Token ${run.generated} could not be chosen: ${cause instanceof Error ? cause.message : String(cause)}`, false));
    }
  }

  /** Adds states [n, hidden] of an embedding; with the last, their mean of length 1. */
  #pool(run: Run, n: number, states: Float32Array): void {
    const hidden = states.length / n;
    run.states ??= new Float64Array(hidden);
    for (let i = 0; i < states.length; i++) run.states[i % hidden]! += states[i]!;
    if (run.left > 0) return;
    // The mean's length is the sum's over the number of tokens, and cancels.
    const length = Math.sqrt(run.states.reduce((sum, x) => sum + x * x, 0));
    if (!Number.isFinite(length) || length === 0) return this.#end(run, failure("step-failed", `The states of this text add up to a vector of length ${length}; a number above 0 was expected.`, false));
    run.emit({ type: "embedding", values: Array.from(run.states, (x) => Math.fround(x / length)) });
    this.#finish(run, "length", null);
  }

  /** Notes how much of a draft held and forgets the evaluation of the rest: the next step writes over it. */
  #judge(run: Run, held: number): void {
    this.drafts.tokens += run.draft.length;
    this.drafts.held += held;
    run.draftLength.note(run.draft.length, held);
    run.timeline!.length -= run.draft.length - held;
  }

  /** Row i scores the token after position start + i; the first token of a prompt has no score. */
  #scored(run: Run, start: number, n: number, row: (i: number) => Float32Array): GenerateEvent {
    const { promptIds, logprobs: nTop } = run.request;
    const tokens: ScoredToken[] = start === 0 ? [{ id: promptIds[0]!, logprob: null, top: [] }] : [];
    for (let i = 0; i < n && start + i + 1 < promptIds.length; i++) {
      const id = promptIds[start + i + 1]!;
      tokens.push({ id, ...logprobs(row(i), id, nTop ?? 0) });
    }
    return { type: "prompt", start: start === 0 ? 0 : start + 1, tokens };
  }

  #finish(run: Run, reason: "stop" | "length" | "deadline", stopId: number | null): void {
    this.#end(run, { type: "end", reason, stopId, promptTokens: run.request.promptIds.length, cachedTokens: run.cachedTokens, completionTokens: run.generated, moe: { ...run.moe } });
  }

  #end(run: Run, event: GenerateEvent): void {
    if (run.ended) return;
    run.ended = true;
    run.settleAcceptance(event.type === "error" ? event : null);
    run.emit(event);
  }

  /** A tap that notes the experts of each traced generation's last token and guesses; none when nobody asks. */
  #tapsFor(runs: readonly Run[]): Tap[] {
    const traced = runs.filter((run) => run.traces && run.taken === run.left);
    if (traced.length === 0) return [];
    const byTimeline = new Map(traced.map((run) => [run.timeline!.id, run]));
    for (const run of traced) {
      run.experts.clear();
      run.weights.clear();
    }
    const { topK } = this.#engine.config.router;
    const note = (map: Map<number, number[][]>, position: number, values: Iterable<number>): void => {
      const layers = map.get(position);
      if (layers === undefined) map.set(position, [Array.from(values)]);
      else layers.push(Array.from(values));
    };
    return [{
      at: "selection",
      run: (event) => {
        for (let t = 0; t < event.nTokens; t++) {
          const run = byTimeline.get(event.timelines[t]!);
          const position = event.positions[t]!;
          if (run === undefined || position < run.ids.length - 1) continue;
          const { trace } = run.request;
          if (typeof trace === "object" && trace.layer !== event.layer) continue;
          note(run.experts, position, event.ids.subarray(t * topK, (t + 1) * topK));
          note(run.weights, position, event.weights.subarray(t * topK, (t + 1) * topK));
        }
      },
    }];
  }
}
