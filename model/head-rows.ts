// The head's product over the rows an engine holds: from final rows to logits in the engine's regions. Owns the three ways there are: whole rows, the blocks
// in which a few candidates lie, and the largest without holding the others. Refuses to know who asked (logits.ts) and where final rows come from: the norm
// beside it, or another stage of a ring (ring-logits.ts). Each logit is one chain, whatever others are computed. Arithmetic: docs/arithmetic.md section 9.

import type { ActivationRows } from "./activation-rows.ts";
import type { ModelConfig } from "./config.ts";
import { logitRowBytes, type EngineRegions } from "./engine-regions.ts";
import type { Heap } from "./heap.ts";
import { MATRIX_FORMATS, matrixBytes, type ActivationFormat, type Kernels } from "./kernels.ts";
import { drawsTokens } from "./stage-span.ts";
import type { TrunkWeights } from "./trunk.ts";

/** What is computed of one final row: all logits, the k largest, those of some ids (ascending), or nothing but the row itself. It is what crosses a ring. */
export type HeadAsk = { readonly token: number } & (
  { readonly form: "whole" | "states" } | { readonly form: "top"; readonly k: number } | { readonly form: "among"; readonly ids: Uint32Array });

/** A row of the step that somebody asked for. */
export interface AskedRow {
  readonly ask: HeadAsk;
  /** Among the asked rows of the step. */
  readonly index: number;
}

/** Where logits come from: each call leaves them where its name says, until the next. At most LOGIT_ROWS rows at a time. */
export interface LogitSource {
  /** Row i at `logits` + i strides. */
  whole(rows: readonly AskedRow[]): void;
  /** The logits of the ids, at their places in row 0; what else stands there means nothing. */
  among(row: AskedRow): void;
  /** The `most` largest of each row, `topIds` and `topValues` [rows][most], and `notFinite`. */
  ranked(rows: readonly AskedRow[], most: number): void;
  /** Hands out the final rows themselves, f32 [hidden], good during the call. */
  states(rows: readonly AskedRow[], take: (i: number, values: Float32Array) => void): void;
}

/** What the head reads of the trunk. */
export type HeadWeights = Pick<TrunkWeights, "norm" | "normBias" | "head" | "headBias" | "span">;

/** Brings the rows' final values into the first rows of the region of finals, in an activation format. */
export type FillFinals = (rows: readonly AskedRow[], takes: ActivationFormat) => void;

export interface HeadParts {
  readonly config: ModelConfig;
  readonly kernels: Kernels;
  readonly heap: Heap;
  readonly weights: HeadWeights;
  /** Addresses. */
  readonly at: EngineRegions;
  readonly finals: ActivationRows;
}

export class HeadRows implements LogitSource {
  readonly #p: HeadParts;
  readonly #fill: FillFinals;
  /** Where the first own row's logit of row 0 is, and bytes from row to row. */
  readonly first: number;
  readonly stride: number;

  constructor(parts: HeadParts, fill: FillFinals) {
    const { config, weights: { span }, at } = parts;
    this.#p = parts;
    this.#fill = fill;
    this.first = at.logits + (drawsTokens(span) ? span.headRows[0] * 4 : 0);
    this.stride = logitRowBytes(config, span);
  }

  whole(rows: readonly AskedRow[]): void {
    const { kernels, config: { logitsScaling }, weights: { headBias }, at } = this.#p;
    const head = this.#head();
    this.#fill(rows, head.takes);
    kernels.matmul(head.code, head.ptr, head.nRows, head.nCols, this.#ptrs(head.takes), rows.length, this.first, this.stride, at.scratch);
    if (headBias !== 0) kernels.addBiasRows(this.first, this.stride, headBias, rows.length, head.nRows);
    if (logitsScaling !== 1) kernels.scaleRows(this.first, this.stride, 1 / logitsScaling, rows.length, head.nRows);
  }

  /** The product of the row blocks in which an id lies. */
  among(row: AskedRow): void {
    const { kernels: k, config: { logitsScaling }, weights: { headBias, span: { headRows: [from, to] } }, at } = this.#p;
    const head = this.#head();
    const blockBytes = matrixBytes(MATRIX_FORMATS[head.code]!, 32, head.nCols);
    const ids = idsWithin(row.ask, from, to);
    this.#fill([row], head.takes);
    for (let i = 0; i < ids.length;) {
      const first = (ids[i]! - from) >> 5;
      let last = first;
      while (i < ids.length && (ids[i]! - from) >> 5 <= last + 1) last = (ids[i++]! - from) >> 5;
      const nRows = Math.min((last + 1) * 32, head.nRows) - first * 32;
      const y = this.first + first * 128;
      k.matmul(head.code, head.ptr + first * blockBytes, nRows, head.nCols, this.#ptrs(head.takes), 1, y, this.stride, at.scratch);
      if (headBias !== 0) k.addBiasRows(y, this.stride, headBias + first * 128, 1, nRows);
      if (logitsScaling !== 1) k.scaleRows(y, this.stride, 1 / logitsScaling, 1, nRows);
    }
  }

  /** `most` is at most the number of own rows; ids count from the first of them. */
  ranked(rows: readonly AskedRow[], most: number): void {
    const { kernels, config, weights: { headBias }, at } = this.#p;
    if (headBias !== 0) return this.#rankWhole(rows, most);
    const head = this.#head();
    this.#fill(rows, head.takes);
    kernels.topLogits(head.code, head.ptr, head.nRows, head.nCols, this.#ptrs(head.takes), rows.length, 1 / config.logitsScaling, most, at.topIds, at.topValues, at.notFinite, at.scratch);
  }

  states(rows: readonly AskedRow[], take: (i: number, values: Float32Array) => void): void {
    const { heap, finals } = this.#p;
    this.#fill(rows, "f32");
    rows.forEach((_, i) => {
      const from = (finals.f32 + i * finals.f32Stride) / 4;
      take(i, heap.f32.subarray(from, from + finals.nCols));
    });
  }

  /** As the kernel topLogits, over whole rows: a bias on logits is added to them before they are ranked. */
  #rankWhole(rows: readonly AskedRow[], most: number): void {
    const { kernels, heap, at } = this.#p;
    const { nRows } = this.#head();
    this.whole(rows);
    kernels.topKRows(this.first, this.stride, rows.length, nRows, most, at.topIds, at.topValues);
    for (let i = 0; i < rows.length; i++) {
      const from = (this.first + i * this.stride) / 4;
      heap.u32[at.notFinite / 4 + i] = heap.f32.subarray(from, from + nRows).findIndex((logit) => !Number.isFinite(logit));
    }
  }

  #head(): NonNullable<HeadWeights["head"]> {
    const { head } = this.#p.weights;
    if (head === null) throw new Error("Logits were asked of an engine that holds no rows of the head.");
    return head;
  }

  /** Addresses of the finals in the format the head takes. */
  #ptrs(takes: ActivationFormat): number { return takes === "f32" ? this.#p.finals.f32Ptrs : this.#p.finals.qa8Ptrs; }
}

/** The ids of a row asked for some, from `from` to before `to`. */
export function idsWithin(ask: HeadAsk, from: number, to: number): Uint32Array {
  if (ask.form !== "among") throw new Error(`The logits of some ids were expected to be asked for; found ${ask.form}.`);
  let [first, end] = [0, ask.ids.length];
  while (first < end && ask.ids[first]! < from) first++;
  while (end > first && ask.ids[end - 1]! >= to) end--;
  return ask.ids.subarray(first, end);
}
