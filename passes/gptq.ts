// GPTQ (E. Frantar et al., 2022): the columns of a matrix are rounded one after the other, and what each lost is made up for by those that are not rounded yet,
// as the Hessian of the inputs says. Groups of 32 columns share a scale, chosen when their turn comes; with act-order the columns with the largest inputs come
// first, and groups have their scales beforehand, since they stay where they are in the file. Owns the walk. Refuses to choose types or to make Hessians.

import { CholeskyDecomposition, Matrix } from "ml-matrix";
import type { GroupType } from "../formats/quantize-blocks.ts";
import { storedRowBytes } from "../formats/stored-types.ts";
import { GRIDS, GROUP, type GroupScale } from "./grids.ts";

export interface GptqOptions {
  readonly type: GroupType;
  /** Columns in descending order of the Hessian's diagonal. */
  readonly actOrder: boolean;
  /** Added to the diagonal, as a share of its mean. */
  readonly damping: number;
}

export interface QuantizedMatrix {
  readonly type: GroupType;
  /** Stored rows. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** What they stand for, f32 [nRows, nCols]. */
  readonly values: Float32Array;
}

/** Attempts with ten times the damping each, where a Hessian of few or dependent inputs has no Cholesky factor. */
const DAMPING_ATTEMPTS = 6;

/**
 * Upper triangular U with H^-1 = U^T U, [n, n], of the damped Hessian in the given order of columns. A column whose inputs were all zero counts as one
 * of mean size: nothing depends on it. Throws RangeError where H is no matrix of second moments.
 */
export function inverseFactor(hessian: Float64Array, n: number, order: Uint32Array, damping: number): Float64Array {
  let mean = 0;
  for (let i = 0; i < n; i++) mean += hessian[i * n + i]! / n;
  if (mean === 0) mean = 1;
  for (let attempt = 0, share = damping; attempt < DAMPING_ATTEMPTS; attempt++, share = Math.max(1e-6, 10 * share)) {
    // With the order reversed, H = L L^T; reversed back, L becomes upper triangular, H = R R^T, and U is its inverse.
    const h = Matrix.zeros(n, n);
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) h.set(n - 1 - i, n - 1 - j, hessian[order[i]! * n + order[j]!]!);
    for (let i = 0; i < n; i++) h.set(i, i, (h.get(i, i) === 0 ? mean : h.get(i, i)) + share * mean);
    const factor = new CholeskyDecomposition(h);
    if (!factor.isPositiveDefinite()) continue;
    const inverse = lowerInverse(factor.lowerTriangularMatrix, n);
    return inverse.reverse();
  }
  throw new RangeError(`A Hessian of ${n} columns has no Cholesky factor even with its diagonal raised; its calibration inputs are broken.`);
}

/** L^-1 of a lower triangular L, [n, n], row by row. */
function lowerInverse(lower: Matrix, n: number): Float64Array {
  const out = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    const diagonal = lower.get(i, i);
    for (let k = 0; k < i; k++) {
      const of = lower.get(i, k) / diagonal;
      if (of !== 0) for (let j = 0; j <= k; j++) out[i * n + j]! -= of * out[k * n + j]!;
    }
    out[i * n + i] = 1 / diagonal;
  }
  return out;
}

/** Columns in the order in which they are rounded. */
function orderOf(hessian: Float64Array, n: number, actOrder: boolean): Uint32Array {
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  return actOrder ? order.sort((a, b) => hessian[b * n + b]! - hessian[a * n + a]! || a - b) : order;
}

/** Rounds f32 [nRows, nCols]; nCols a multiple of 32. `hessian`: [nCols, nCols]. */
export function gptq(weights: Float32Array, nRows: number, nCols: number, hessian: Float64Array, { type, actOrder, damping }: GptqOptions): QuantizedMatrix {
  if (nCols % GROUP !== 0) throw new RangeError(`A matrix of ${nCols} columns was to be quantised in groups of ${GROUP}; expected a multiple.`);
  const grid = GRIDS[type];
  const order = orderOf(hessian, nCols, actOrder);
  const upper = inverseFactor(hessian, nCols, order, damping);
  // What an error in a column costs that the later ones cannot make up for.
  const costs = new Float64Array(nCols);
  for (let i = 0; i < nCols; i++) costs[order[i]!] = 1 / upper[i * nCols + i]! ** 2;
  const nGroups = nCols / GROUP;
  const scales = Array.from({ length: nGroups }, (): GroupScale => ({ scale: 0, min: 0 }));
  const codes = new Int32Array(nCols);
  const row = new Float64Array(nCols); // in the order of the file
  const left = new Float64Array(nCols); // what is still to be rounded, in the order of rounding
  const rowBytes = storedRowBytes(type, nCols);
  const blockBytes = rowBytes / nGroups;
  const bytes = new Uint8Array(nRows * rowBytes);
  const values = new Float32Array(nRows * nCols);
  for (let r = 0; r < nRows; r++) {
    for (let i = 0; i < nCols; i++) row[i] = weights[r * nCols + i]!;
    if (actOrder) for (let g = 0; g < nGroups; g++) grid.fit(row, g * GROUP, costs, g * GROUP, scales[g]!);
    for (let i = 0; i < nCols; i++) left[i] = row[order[i]!]!;
    for (let i = 0; i < nCols; i++) {
      const column = order[i]!;
      const of = scales[Math.floor(column / GROUP)]!;
      if (!actOrder && i % GROUP === 0) grid.fit(left, i, costs, i, of);
      const code = grid.code(left[i]!, of);
      const value = grid.value(code, of);
      codes[column] = code;
      values[r * nCols + column] = value;
      const error = (left[i]! - value) / upper[i * nCols + i]!;
      if (error === 0) continue;
      for (let j = i + 1, u = i * nCols + i + 1; j < nCols; j++, u++) left[j]! -= error * upper[u]!;
    }
    for (let g = 0; g < nGroups; g++) grid.write(bytes, r * rowBytes + g * blockBytes, scales[g]!.scale, scales[g]!.min, codes.subarray(g * GROUP, (g + 1) * GROUP));
  }
  return { type, bytes, values };
}

const EQUAL = new Float64Array(GROUP).fill(1);

/** Every weight to the nearest value of its group's best scale: what GPTQ is without correlations, by itself. */
export function nearest(weights: Float32Array, nRows: number, nCols: number, type: GroupType): QuantizedMatrix {
  if (nCols % GROUP !== 0) throw new RangeError(`A matrix of ${nCols} columns was to be quantised in groups of ${GROUP}; expected a multiple.`);
  const grid = GRIDS[type];
  const rowBytes = storedRowBytes(type, nCols);
  const blockBytes = (rowBytes * GROUP) / nCols;
  const bytes = new Uint8Array(nRows * rowBytes);
  const values = new Float32Array(nRows * nCols);
  const x = Float64Array.from(weights);
  const of: GroupScale = { scale: 0, min: 0 };
  const codes = new Int32Array(GROUP);
  for (let at = 0, block = 0; at < x.length; at += GROUP, block += blockBytes) {
    grid.fit(x, at, EQUAL, 0, of);
    for (let i = 0; i < GROUP; i++) {
      codes[i] = grid.code(x[at + i]!, of);
      values[at + i] = grid.value(codes[i]!, of);
    }
    grid.write(bytes, block, of.scale, of.min, codes);
  }
  return { type, bytes, values };
}
