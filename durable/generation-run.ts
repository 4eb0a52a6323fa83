// One generation from its acceptance to its end: its tokens, its place in the KV cache, and what each step needs to know about it.
// Owns that it ends exactly once, with a last event. Refuses to decide who takes part in a step (step-share.ts) and what comes out of one
// (delivery.ts).

import type { SharedTokens, Timeline } from "../model/kv-cache.ts";
import { adjustmentStage, stagesInOrder, type LogitStage } from "../model/logit-adjustments.ts";
import type { PrunedCalls } from "../model/online-pruning.ts";
import { PromptLookup } from "../model/prompt-lookup.ts";
import { routingKey } from "../model/request-routing.ts";
import type { LogitsForm } from "../model/sampling.ts";
import type { Clock } from "./clock.ts";
import { DraftLength } from "./draft-gate.ts";
import type { GenerateErrorCode, GenerateEvent, GenerateFailure, GenerateRequest } from "./generate.ts";

export type EventSink = (event: GenerateEvent) => void;

/** One accepted or waiting request. */
export interface Generation {
  /** Resolves with null when the KV cache is reserved, or with the reason why it cannot be. */
  readonly accepted: Promise<GenerateFailure | null>;
  /** Ends it without further events, before the next step at the latest. Idempotent. */
  cancel(): void;
}

export const failure = (code: GenerateErrorCode, message: string, retryable: boolean): GenerateFailure => ({ type: "error", code, message, retryable });

export class Run implements Generation {
  readonly request: GenerateRequest;
  readonly emit: EventSink;
  readonly accepted: Promise<GenerateFailure | null>;
  readonly settleAcceptance: (failure: GenerateFailure | null) => void;
  readonly ids: number[];
  readonly moe = { steps: 0, frames: 0, bytes: 0, retries: 0, hedges: 0 };
  readonly onCancel: () => void;
  /** Expert calls of what was evaluated for it by its rule. */
  readonly #pruned = { leftOut: 0, of: 0 };
  /** Expert rows left out since its last token; of those it has said, and how many tokens were touched. */
  missingRows = 0;
  #degradedTokens = 0;
  #toldRows = 0;
  /** Why it sits steps out: a shard is away, and others in the batch do not wait for it. */
  held: { readonly shard: string; readonly sinceMs: number } | null = null;
  timeline: Timeline | null = null;
  /** Prompt tokens that an earlier generation had evaluated already. */
  cachedTokens = 0;
  /** Prompt tokens whose scores were emitted. */
  scoresTold = 0;
  /** The prompt's pages are kept as soon as they are whole, the rest when the generation ends. */
  promptKept = false;
  ended = false;
  /** A step uses its timeline. */
  isStepping = false;
  /** How often its timeline was lost since it last said something. */
  losses = 0;
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
  /** Its number among those whose routing is kept; null for the others. */
  readonly sample: number | null;
  readonly #clock: Clock;
  readonly #arrivedMs: number;
  #admittedMs: number | null = null;
  #firstMs: number | null = null;

  constructor(request: GenerateRequest, emit: EventSink, onCancel: () => void, clock: Clock, draftTokens: number, constraint: LogitStage | null, sample: number | null) {
    this.request = request;
    this.emit = emit;
    this.onCancel = onCancel;
    this.sample = sample;
    this.#clock = clock;
    this.#arrivedMs = clock.nowMs();
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

  /** Its memory is reserved: it takes part in steps from here on. */
  admit(): void {
    this.#admittedMs = this.#clock.nowMs();
    this.settleAcceptance(null);
  }

  /** Takes its next token. */
  push(id: number): void {
    this.#firstMs ??= this.#clock.nowMs();
    this.losses = 0;
    this.ids.push(id);
    this.stage?.push(id);
  }

  /** What is missing in what its next token was chosen by; that counts as told. */
  takeMissingRows(): number {
    const rows = this.missingRows;
    if (rows > 0) this.#degradedTokens++;
    this.#toldRows += rows;
    this.missingRows = 0;
    return rows;
  }

  /** What a step did without for it. */
  notePruned({ leftOut, of }: PrunedCalls): void {
    this.#pruned.leftOut += leftOut;
    this.#pruned.of += of;
  }

  /** Its timeline is gone: what was evaluated is evaluated again. */
  lose(): void {
    this.losses++;
    this.timeline = null;
    this.states = null;
    this.promptKept = false;
  }

  finish(reason: "stop" | "length" | "deadline", stopId: number | null): void {
    const nowMs = this.#clock.nowMs();
    const admittedMs = this.#admittedMs ?? nowMs;
    const firstMs = this.#firstMs ?? nowMs;
    this.end({
      type: "end", reason, stopId, promptTokens: this.request.promptIds.length, cachedTokens: this.cachedTokens, completionTokens: this.generated, moe: { ...this.moe, ...(this.isDegraded ? { degraded: { tokens: this.#degradedTokens, expertRows: this.#toldRows + this.missingRows } } : {}), ...(this.request.routing?.pruning === undefined ? {} : { pruned: { ...this.#pruned } }) },
      timings: { queueMs: admittedMs - this.#arrivedMs, promptMs: firstMs - admittedMs, completionMs: nowMs - firstMs },
    });
  }

  /** The last event, unless there was one, or the reader has left. */
  end(event: GenerateEvent): void {
    if (this.ended) return;
    this.ended = true;
    this.settleAcceptance(event.type === "error" ? event : null);
    this.emit(event);
  }

  /** Positions the timeline must hold: the last generated token is never evaluated. */
  get positions(): number { return Math.max(1, this.request.promptIds.length, this.request.promptIds.length + this.request.maxTokens - 1); }
  get evaluated(): number { return this.timeline!.length; }
  get left(): number { return this.ids.length - this.evaluated; }
  get generated(): number { return this.ids.length - this.request.promptIds.length; }
  get degrades(): boolean { return this.request.degrade === true; }
  /** Something was left out of what it evaluated: nothing of it is anybody else's. */
  get isDegraded(): boolean { return this.#toldRows + this.missingRows > 0; }
  /** What others of its scope may take over from it; null where nothing is. */
  get shared(): SharedTokens | null {
    const { cacheScope, routing } = this.request;
    return cacheScope === undefined ? null : { scope: cacheScope, ids: this.ids, ...(routing === undefined ? {} : { variant: routingKey(routing) }) };
  }
  /** Requests that name nobody wait in one line. */
  get caller(): string { return this.request.caller ?? ""; }
  get traces(): boolean { return this.request.trace !== undefined && this.request.trace !== false; }
  /** True while logits of prompt positions are wanted. */
  get scores(): boolean { return this.request.echo === true && this.evaluated < this.request.promptIds.length; }
}
