// Rows of activations in f32 and, once asked for, the same rows quantised; the norm that fills them and the products that read them.
// Owns the rule that the same content is quantised at most once. Refuses to know what the rows mean. Arithmetic: docs/arithmetic.md sections 4, 5, 7.

import type { ModelConfig } from "./config.ts";
import type { Heap } from "./heap.ts";
import { activationRowBytes, type ActivationFormat, type Kernels } from "./kernels.ts";
import type { Matrix } from "./trunk.ts";

export interface ActivationRows {
  readonly nCols: number;
  readonly f32: number;
  readonly f32Stride: number;
  /** Address of u32[nRows], the addresses of the f32 rows. */
  readonly f32Ptrs: number;
  readonly qa8: number;
  readonly qa8Stride: number;
  readonly qa8Ptrs: number;
  /** True when the qa8 rows hold what the f32 rows hold. */
  quantised: boolean;
}

/** Where the rows of one region of engineRegions lie. */
export interface RowAddresses { readonly f32: number; readonly qa8: number; readonly f32Ptrs: number; readonly qa8Ptrs: number }

/** nRows rows of nCols, one after the other; writes their addresses. */
export function activationRows(heap: Heap, nRows: number, nCols: number, at: RowAddresses): ActivationRows {
  const [f32Stride, qa8Stride] = [activationRowBytes("f32", nCols), activationRowBytes("qa8", nCols)];
  for (let t = 0; t < nRows; t++) {
    heap.u32[at.f32Ptrs / 4 + t] = at.f32 + t * f32Stride;
    heap.u32[at.qa8Ptrs / 4 + t] = at.qa8 + t * qa8Stride;
  }
  return { nCols, ...at, f32Stride, qa8Stride, quantised: false };
}

/** The norm of nTokens rows at `x` into the rows from `first` on, in the formats that will be asked for. `bias` 0 where the norm has none. */
export function normalise(c: ModelConfig, k: Kernels, weight: number, bias: number, x: number, xStride: number,
  rows: ActivationRows, first: number, nTokens: number, takes: readonly (ActivationFormat | undefined)[]): void {
  const [f32, qa8] = [rows.f32 + first * rows.f32Stride, rows.qa8 + first * rows.qa8Stride];
  rows.quantised = takes.includes("qa8");
  if (c.norm === "layer") {
    k.layerNormRows(x, xStride, weight, bias, c.normEps, f32, rows.f32Stride, nTokens, rows.nCols);
    if (rows.quantised) k.quantizeRows(f32, rows.f32Stride, qa8, rows.qa8Stride, nTokens, rows.nCols);
  } else if (rows.quantised) k.rmsNormQuantizeRows(x, xStride, weight, c.normEps, takes.includes("f32") ? f32 : 0, rows.f32Stride, qa8, rows.qa8Stride, nTokens, rows.nCols);
  else k.rmsNormRows(x, xStride, weight, c.normEps, f32, rows.f32Stride, nTokens, rows.nCols);
}

export class RowProducts {
  readonly #kernels: Kernels;
  readonly #scratch: number;

  /** `scratch` holds matmulScratchBytes of the widest rows. */
  constructor(kernels: Kernels, scratch: number) {
    this.#kernels = kernels;
    this.#scratch = scratch;
  }

  /** Address, stride and address list of the rows from `first` on in an activation format. */
  rowsFor(format: ActivationFormat, rows: ActivationRows, first: number, nTokens: number): { ptr: number; stride: number; ptrs: number } {
    const [f32, qa8] = [rows.f32 + first * rows.f32Stride, rows.qa8 + first * rows.qa8Stride];
    if (format === "f32") return { ptr: f32, stride: rows.f32Stride, ptrs: rows.f32Ptrs + first * 4 };
    if (!rows.quantised) this.#kernels.quantizeRows(f32, rows.f32Stride, qa8, rows.qa8Stride, nTokens, rows.nCols);
    rows.quantised = true;
    return { ptr: qa8, stride: rows.qa8Stride, ptrs: rows.qa8Ptrs + first * 4 };
  }

  /** out[t] = w . row first + t (+ bias; 0 = none). */
  product(w: Matrix, rows: ActivationRows, first: number, nTokens: number, out: number, outStride: number, bias = 0): void {
    const { ptrs } = this.rowsFor(w.takes, rows, first, nTokens);
    this.#kernels.matmul(w.code, w.ptr, w.nRows, w.nCols, ptrs, nTokens, out, outStride, this.#scratch);
    if (bias !== 0) this.#kernels.addBiasRows(out, outStride, bias, nTokens, w.nRows);
  }
}
