// A head whose rows lie in several stages of a ring: what each stage answers for the rows it holds, and the answers put together where tokens are drawn.
// Owns the order that makes the cut invisible: ascending row blocks, the largest merged with ties to the lowest id. Refuses the arithmetic of a row
// (head-rows.ts) and what is done with it (logits.ts); what crosses between stages is bare numbers. docs/arithmetic.md section 10.

import { ModelError, type ModelConfig } from "./config.ts";
import { logitStride, type EngineRegions } from "./engine-regions.ts";
import type { Heap } from "./heap.ts";
import { idsWithin, type AskedRow, type HeadAsk, type LogitSource } from "./head-rows.ts";
import type { Span } from "./stage-span.ts";

/** What one stage says about one asked row. */
export interface HeadAnswer {
  /** f32: logits of all its rows; of the asked ids among them; or its largest, in rank order; none where only the final row is wanted. */
  readonly values: Float32Array;
  /** Of its largest; else empty. */
  readonly ids: Uint32Array;
  /** Beside its largest: the first of its ids whose logit is not finite; else -1. */
  readonly notFinite: number;
}

/** One stage's answers, in the order of what was asked. */
export interface HeadPart {
  readonly headRows: Span;
  readonly answers: readonly HeadAnswer[];
}

/** How many numbers answer an ask, of a stage with these rows. */
export function answerLength(ask: HeadAsk, [from, to]: Span): number {
  switch (ask.form) {
    case "whole": return to - from;
    case "among": return idsWithin(ask, from, to).length;
    case "top": return Math.min(ask.k, to - from);
    case "states": return 0;
  }
}

/** Throws ModelError unless the parts answer all that was asked, for each of `vocabSize` rows once, ascending. */
export function checkParts(asks: readonly HeadAsk[], finals: Float32Array, parts: readonly HeadPart[], { vocabSize, hiddenSize }: ModelConfig): void {
  if (finals.length !== asks.length * hiddenSize) throw new ModelError(`Final rows of ${finals.length} numbers came for ${asks.length} asked tokens; ${asks.length * hiddenSize} were expected.`);
  let row = 0;
  for (const { headRows: [from, to], answers } of parts) {
    if (from !== row || to <= from) throw new ModelError(`Logits of head rows ${from} to ${to} came where rows from ${row} on were expected.`);
    row = to;
    if (answers.length !== asks.length) throw new ModelError(`Head rows ${from} to ${to} answered ${answers.length} rows; ${asks.length} were asked for.`);
    for (const [i, { values, ids }] of answers.entries()) {
      const [ask, wanted] = [asks[i]!, answerLength(asks[i]!, [from, to])];
      if (values.length !== wanted || ids.length !== (ask.form === "top" ? wanted : 0)) throw new ModelError(`Head rows ${from} to ${to} answered ${values.length} numbers and ${ids.length} ids for row ${i}; ${wanted} numbers were expected.`);
      if (ids.some((id) => id < from || id >= to)) throw new ModelError(`Head rows ${from} to ${to} answered an id beyond them for row ${i}.`);
    }
  }
  // Without any asked row no stage needs to answer.
  if (asks.length > 0 && row !== vocabSize) throw new ModelError(`Logits of ${row} head rows came; ${vocabSize} were expected.`);
}

/** The answers as one head's logits. */
export class RingLogits implements LogitSource {
  readonly #config: ModelConfig;
  readonly #heap: Heap;
  readonly #at: EngineRegions;
  readonly #finals: Float32Array;
  readonly #parts: readonly HeadPart[];

  /** `at` holds addresses; the parts have been checked. */
  constructor(config: ModelConfig, heap: Heap, at: EngineRegions, finals: Float32Array, parts: readonly HeadPart[]) {
    this.#config = config;
    this.#heap = heap;
    this.#at = at;
    this.#finals = finals;
    this.#parts = parts;
  }

  whole(rows: readonly AskedRow[]): void {
    const stride = logitStride(this.#config);
    rows.forEach(({ index }, i) => {
      for (const { headRows, answers } of this.#parts) this.#heap.f32.set(answers[index]!.values, (this.#at.logits + i * stride) / 4 + headRows[0]);
    });
  }

  among({ ask, index }: AskedRow): void {
    const { f32 } = this.#heap;
    for (const { headRows: [from, to], answers } of this.#parts) {
      const { values } = answers[index]!;
      idsWithin(ask, from, to).forEach((id, n) => { f32[this.#at.logits / 4 + id] = values[n]!; });
    }
  }

  ranked(rows: readonly AskedRow[], most: number): void {
    const { u32, f32 } = this.#heap;
    const { topIds, topValues, notFinite } = this.#at;
    rows.forEach(({ ask, index }, i) => {
      const answers = this.#parts.map((part) => part.answers[index]!);
      mergeLargest(answers, ask.form === "top" ? ask.k : 0, (rank, id, value) => {
        u32[topIds / 4 + i * most + rank] = id;
        f32[topValues / 4 + i * most + rank] = value;
      });
      u32[notFinite / 4 + i] = answers.find((answer) => answer.notFinite >= 0)?.notFinite ?? -1;
    });
  }

  states(rows: readonly AskedRow[], take: (i: number, values: Float32Array) => void): void {
    const { hiddenSize } = this.#config;
    rows.forEach(({ index }, i) => take(i, this.#finals.subarray(index * hiddenSize, (index + 1) * hiddenSize)));
  }
}

/** The k largest of lists in rank order whose ids ascend from list to list: ties stay with the earlier list, and NaN ranks below all. */
function mergeLargest(lists: readonly HeadAnswer[], k: number, put: (rank: number, id: number, value: number) => void): void {
  const next = lists.map(() => 0);
  for (let rank = 0; rank < k; rank++) {
    let best = -1;
    for (let list = 0; list < lists.length; list++) {
      const value = lists[list]!.values[next[list]!];
      if (value === undefined) continue;
      const leader = best < 0 ? NaN : lists[best]!.values[next[best]!]!;
      if (best < 0 || value > leader || (Number.isNaN(leader) && !Number.isNaN(value))) best = list;
    }
    const from = next[best]!++;
    put(rank, lists[best]!.ids[from]!, lists[best]!.values[from]!);
  }
}
