// A layer of experts without a gate, given as plain numbers, on any implementation of the kernels: what the tests of methods run without a model around it.
// Owns their layout in f32 (docs/arithmetic.md section 6), cut into segments. Refuses routers: who goes where, and with what weight, is the test's to say.

import type { ExpertKind } from "../../model/config.ts";
import { Heap } from "../../model/heap.ts";
import { EXPERT_KINDS, expertScratchBytes, matrixBytes, segmentBytes, type Kernels } from "../../model/kernels.ts";
import { RESERVED_BYTES } from "../../model/wasm-kernels.ts";

/** Row-major: up [width, hidden], down [hidden, width]. */
export interface PlainExpert {
  readonly up: Float32Array;
  readonly upBias: Float32Array;
  readonly down: Float32Array;
  readonly downBias: Float32Array;
}

export class PlainExperts {
  readonly #kernels: Kernels;
  readonly #heap: Heap;
  readonly #kind: number;
  readonly #hidden: number;
  readonly #segments: readonly (readonly { readonly ptr: number; readonly width: number }[])[];
  readonly #scratch: number;
  /** Numbers of h that down products left out so far. */
  leftOut = 0;
  /** Expert calls so far, one for a token and an expert. */
  calls = 0;

  constructor(kernels: Kernels, kind: Extract<ExpertKind, "relu-mlp" | "gelu-mlp">, experts: readonly PlainExpert[], segmentWidth: number) {
    const [{ upBias: { length: width }, downBias: { length: hidden } }] = experts as [PlainExpert];
    this.#kernels = kernels;
    this.#heap = new Heap(kernels.memory, RESERVED_BYTES, 64 << 20);
    this.#kind = EXPERT_KINDS.indexOf(kind);
    this.#hidden = hidden;
    this.#scratch = this.#heap.alloc(expertScratchBytes(hidden, width), "scratch");
    const place = (ptr: number, nRows: number, nCols: number, value: (row: number, col: number) => number): void => {
      for (let row = 0; row < nRows; row++) for (let col = 0; col < nCols; col++) this.#heap.f32[ptr / 4 + ((row >> 5) * nCols + col) * 32 + (row & 31)] = value(row, col);
    };
    this.#segments = experts.map(({ up, upBias, down, downBias }) => Array.from({ length: Math.ceil(width / segmentWidth) }, (_, segment) => {
      const start = segment * segmentWidth;
      const n = Math.min(segmentWidth, width - start);
      const bytes = segmentBytes(kind, "f32", "f32", hidden, hidden, n);
      const ptr = this.#heap.alloc(bytes, "weights");
      this.#heap.f32.fill(0, ptr / 4, (ptr + bytes) / 4);
      const paddedRows = Math.ceil(n / 32) * 32;
      const downAt = ptr + matrixBytes("f32", paddedRows, hidden);
      const biasAt = downAt + matrixBytes("f32", hidden, n);
      place(ptr, n, hidden, (row, col) => up[(start + row) * hidden + col]!);
      place(downAt, hidden, n, (row, col) => down[row * width + start + col]!);
      this.#heap.f32.set(upBias.subarray(start, start + n), biasAt / 4);
      if (segment === 0) this.#heap.f32.set(downBias, biasAt / 4 + paddedRows);
      return { ptr, width: n };
    }));
  }

  /** What an expert gives to rows f32 [n, hidden]. */
  run(expert: number, rows: Float32Array): Float32Array {
    const n = rows.length / this.#hidden;
    return this.layer(rows, Array.from({ length: n }, () => [expert]), Array.from({ length: n }, () => [1]));
  }

  /** The sum of what each token's experts give, times their weights: ids and weights [n][experts of the token]. */
  layer(rows: Float32Array, ids: readonly (readonly number[])[], weights: readonly (readonly number[])[]): Float32Array {
    const [heap, hidden] = [this.#heap, this.#hidden];
    const alloc = (bytes: number): number => heap.alloc(bytes, "rows");
    const n = ids.length;
    const nPairs = ids.flat().length;
    const most = Math.max(...this.#segments.map(({ length }) => length));
    const [x, acts, outs, pairs, y] = [alloc(rows.length * 4), alloc(n * 4), alloc(nPairs * most * hidden * 4), alloc(nPairs * 20), alloc(n * hidden * 4)];
    heap.f32.set(rows, x / 4);
    heap.f32.fill(0, y / 4, y / 4 + n * hidden);
    let [row, pair] = [outs, pairs / 4];
    this.#segments.forEach((segments, expert) => {
      const tokens = ids.flatMap((of, token) => (of.includes(expert) ? [token] : []));
      if (tokens.length === 0) return;
      tokens.forEach((token, i) => { heap.u32[acts / 4 + i] = x + token * hidden * 4; });
      segments.forEach(({ ptr, width }, segment) => {
        this.leftOut += this.#kernels.expertFfn(this.#kind, 0, 0, 0, ptr, hidden, hidden, width, acts, tokens.length, row + segment * tokens.length * hidden * 4, hidden * 4, this.#scratch);
      });
      this.calls += tokens.length;
      tokens.forEach((token, i) => {
        heap.u32.set([token, row + i * hidden * 4, tokens.length * hidden * 4, segments.length], pair);
        heap.f32[pair + 4] = weights[token]![ids[token]!.indexOf(expert)]!;
        pair += 5;
      });
      row += tokens.length * segments.length * hidden * 4;
    });
    this.#kernels.combine(pairs, nPairs, y, hidden * 4, hidden);
    const out = heap.f32.slice(y / 4, y / 4 + n * hidden);
    for (const ptr of [x, acts, outs, pairs, y]) heap.free(ptr);
    return out;
  }
}
