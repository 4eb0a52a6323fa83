// One step on its way round a ring, and what has come back of it: answers of the stages of the head, routes, what was left out, final rows, what it cost. Owns when that is all, and the result
// that is made of it, the same as if one engine had taken the step. Refuses rings, and to be sent (ring-engine.ts): a step that is sent again begins with nothing. docs/protocol.md section 6.

import type { Engine } from "../model/engine.ts";
import type { StepEntry, StepResult } from "../model/step.ts";
import type { HeadPlan } from "../model/logits.ts";
import type { HeadAnswer, HeadPart } from "../model/ring-logits.ts";
import type { PrunedCalls } from "../model/online-pruning.ts";
import type { RequestRouting } from "../model/request-routing.ts";
import { isEmpty, type StageSpan } from "../model/stage-span.ts";
import type { Tap } from "../model/taps.ts";
import type { FailedFrame, RingEntry, RingFrame, RingTally, RowsFrame } from "./ring-frame.ts";
import { tellRoutes } from "./ring-routes.ts";
import { AwayError, ShardError } from "./shard-error.ts";
import type { OutageTerms, StageOutage } from "./step-terms.ts";

/** Of all asks of a step: 32 KiB of a frame, an eighth of what a row of logits over a small vocabulary takes. */
export const MOST_WANTED_IDS = 8192;

export interface RingStepParts {
  readonly number: number;
  readonly entries: readonly StepEntry[];
  readonly plan: HeadPlan;
  readonly frame: RowsFrame;
  readonly taps: readonly Tap[];
  readonly terms: OutageTerms | null;
  readonly resolve: (result: StepResult) => void;
  readonly reject: (cause: Error) => void;
}

export class RingStep {
  readonly number: number;
  readonly frame: RowsFrame;
  readonly terms: OutageTerms | null;
  readonly reject: (cause: Error) => void;
  readonly #p: RingStepParts;
  /** In order of the stages. */
  #routes: Uint32Array[] = [];
  /** What stages say of shards that are away, by their number. */
  readonly outages = new Map<number, StageOutage>();
  /** What stages did without, by entry; by the number of the stage. */
  readonly #pruned = new Map<number, readonly PrunedCalls[]>();
  #finals: Float32Array | null = null;
  /** By the first of their head rows. */
  readonly #parts = new Map<number, { readonly headRows: HeadPart["headRows"]; readonly answers: HeadAnswer[] }>();
  /** What it cost, once the ring has said that all of it was sent; own answers may still be to come. */
  #done: RingTally | null = null;
  sentMs = 0;

  constructor(parts: RingStepParts) {
    this.#p = parts;
    this.number = parts.number;
    this.frame = parts.frame;
    this.terms = parts.terms;
    this.reject = parts.reject;
  }

  get hasFinals(): boolean { return this.#finals !== null; }

  /** It goes round, maybe once more: nothing of before counts. */
  begin(): void {
    [this.#finals, this.#done, this.#routes] = [null, null, []];
    this.#parts.clear();
    this.outages.clear();
    this.#pruned.clear();
  }

  /** Final rows, of whatever round comes first. */
  takeFinals(rows: Float32Array): void { this.#finals ??= rows; }

  /** Takes what came; returns what the step failed with. */
  take(frame: RingFrame): Error | null {
    switch (frame.kind) {
      case "rows":
        return new Error("A step came round without its last layer.");
      case "finals":
        this.takeFinals(frame.rows);
        return null;
      case "answer": {
        const { headRows, index, answer } = frame;
        const part = this.#parts.get(headRows[0]) ?? { headRows, answers: [] };
        part.answers[index] = answer;
        this.#parts.set(headRows[0], part);
        return null;
      }
      case "routes":
        this.#routes.push(frame.words);
        return null;
      case "leftOut":
        this.outages.set(frame.stage, frame);
        return null;
      case "pruned":
        this.#pruned.set(frame.stage, frame.calls);
        return null;
      case "probe":
        return null;
      case "done":
        this.#done = frame.tally;
        return null;
      case "failed":
        return failureOf(frame.stage, frame);
    }
  }

  /** All that was asked has been answered. */
  isWhole(spans: readonly StageSpan[]): boolean {
    const { asks } = this.frame;
    return this.#done !== null && (asks.length === 0 || spans.every(({ headRows }) => isEmpty(headRows) || this.#parts.get(headRows[0])?.answers.filter((answer) => answer !== undefined).length === asks.length));
  }

  /** Of a whole step. Its timelines are so much longer from here on, and its taps and terms have been told everything. */
  conclude(engine: Pick<Engine, "conclude">, spans: readonly StageSpan[]): void {
    const { plan, entries, taps, terms, resolve, reject } = this.#p;
    try {
      const inOrder = [...this.#parts.values()].sort((a, b) => a.headRows[0] - b.headRows[0]);
      const results = engine.conclude(plan, this.#finals ?? new Float32Array(0), inOrder);
      for (const words of this.#routes) tellRoutes(words, taps);
      for (const [stage, { rows }] of this.outages) terms?.leftOut.add(spans[stage]!.layers[0], rows);
      for (const { timeline, ids } of entries) timeline.length += ids.length;
      const { frames, bytes, retries, hedges } = this.#done!;
      resolve({ logits: results.map(({ logits }) => logits), tops: results.map(({ top }) => top), frames, bytes, retries, hedges, ...(entries.some(({ routing }) => routing?.pruning !== undefined) ? { pruned: this.#prunedOf(entries) } : {}) });
    } catch (cause) {
      reject(cause instanceof Error ? cause : new Error(String(cause)));
    }
  }

  /** Of all stages together. */
  #prunedOf(entries: readonly StepEntry[]): PrunedCalls[] {
    const stages = [...this.#pruned.values()];
    const sum = (i: number, of: keyof PrunedCalls): number => stages.reduce((total, calls) => total + (calls[i]?.[of] ?? 0), 0);
    return entries.map((_, i) => ({ leftOut: sum(i, "leftOut"), of: sum(i, "of") }));
  }
}

/** Asks about many ids become asks about all: their lists would fill the frames. */
export function withFewIds({ rows, results }: HeadPlan): HeadPlan {
  let left = MOST_WANTED_IDS;
  return { results, rows: rows.map((row) => (row.ask.form !== "among" || (left -= row.ask.ids.length) >= 0 ? row : { ...row, ask: { token: row.ask.token, form: "whole" } })) };
}

/** Entries as frames have them, and what they ask of routing, each once. */
export function ringEntries(entries: readonly StepEntry[]): { entries: RingEntry[]; routings: string[] } {
  const routings: string[] = [];
  const numberOf = (text: string): number => (routings.includes(text) ? routings.indexOf(text) + 1 : routings.push(text));
  return {
    routings,
    entries: entries.map(({ timeline: { id, length, maxTokens, ropeOffset, pages }, ids, routing }): RingEntry => ({
      timeline: id, start: length, nTokens: ids.length, maxTokens, ropeOffset, pages: pages.slice(0, Math.ceil((length + ids.length) / 32)), routing: routing == null ? 0 : numberOf(routingText(routing)),
    })),
  };
}

const texts = new WeakMap<RequestRouting, string>();
/** As JSON; made once for each request. */
export function routingText(routing: RequestRouting): string {
  let text = texts.get(routing);
  if (text === undefined) texts.set(routing, text = JSON.stringify(routing));
  return text;
}

/** As if it had happened here: who waits for a shard, and who goes on without, depends on it. */
function failureOf(stage: number, { fault, shard, retryable, message }: FailedFrame): Error {
  const text = `Stage ${stage} of the ring failed: ${message}`;
  if (shard === null) return new Error(text);
  return fault === "away" ? new AwayError(shard, retryable, text) : new ShardError(shard, retryable, text);
}
