// What the neurons of a dense feed-forward part do over calibration texts, for cutting it into experts: which of them work on the same tokens, and how much each expert
// gives a token, as far as that follows from the token linearly. Owns the features and the fit. Refuses to cluster (balanced-clusters.ts).

import { CholeskyDecomposition, Matrix } from "ml-matrix";
import type { Rows } from "./layer-inputs.ts";

/** Tokens by which neurons are compared, at most. */
const COMPARED_TOKENS = 512;
/** Of the mean of the diagonal, added to it: inputs may be fewer than their dimensions. */
const RIDGE = 1e-3;

/** Euclidean norm of each column of down, f32 [hidden, width]: what a unit of a neuron adds. */
export function columnNorms(down: Float32Array, hidden: number, width: number): Float64Array {
  const squares = new Float64Array(width);
  for (let at = 0; at < hidden * width; at++) squares[at % width]! += down[at]! ** 2;
  return squares.map(Math.sqrt);
}

/** How much each neuron adds to some tokens, as a vector of unit length per neuron: f32 [width, tokens]. `work`: the inputs of down. */
export function workVectors({ values, width }: Rows, norms: Float64Array): { readonly vectors: Float32Array; readonly size: number } {
  const nTokens = values.length / width;
  const size = Math.min(COMPARED_TOKENS, nTokens);
  const vectors = new Float32Array(width * size);
  for (let neuron = 0; neuron < width; neuron++) {
    let squares = 0;
    for (let i = 0; i < size; i++) {
      const work = Math.abs(values[Math.floor((i * nTokens) / size) * width + neuron]!) * norms[neuron]!;
      vectors[neuron * size + i] = work;
      squares += work * work;
    }
    const length = Math.sqrt(squares) || 1;
    for (let i = 0; i < size; i++) vectors[neuron * size + i]! /= length;
  }
  return { vectors, size };
}

/** Norm of what each expert gives each token, [tokens, experts]. `members`: neurons of each expert; `down`: f32 [hidden, width]. */
export function expertGifts({ values, width }: Rows, down: Float32Array, hidden: number, members: readonly (readonly number[])[]): Float64Array {
  const nTokens = values.length / width;
  const out = new Float64Array(nTokens * members.length);
  const sum = new Float64Array(hidden);
  for (let t = 0; t < nTokens; t++) {
    members.forEach((neurons, expert) => {
      for (let r = 0; r < hidden; r++) {
        let y = 0;
        for (const neuron of neurons) y += down[r * width + neuron]! * values[t * width + neuron]!;
        sum[r] = y;
      }
      out[t * members.length + expert] = Math.sqrt(sum.reduce((total, y) => total + y * y, 0));
    });
  }
  return out;
}

export interface LinearFit {
  /** f32 [nTargets, size]. */
  readonly rows: Float32Array<ArrayBuffer>;
  /** f32 [nTargets]. */
  readonly bias: Float32Array<ArrayBuffer>;
}

/** The linear map with a bias, with the least squared error on the targets, [tokens, nTargets]; a ridge holds it where inputs are few. */
export function fitLinear({ values, width }: Rows, targets: Float64Array, nTargets: number): LinearFit {
  const n = width + 1;
  const nTokens = values.length / width;
  const moments = new Float64Array(n * n);
  const products = new Float64Array(n * nTargets);
  const x = new Float64Array(n).fill(1);
  for (let t = 0; t < nTokens; t++) {
    for (let i = 0; i < width; i++) x[i] = values[t * width + i]!;
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) moments[i * n + j]! += x[i]! * x[j]!;
      for (let c = 0; c < nTargets; c++) products[i * nTargets + c]! += x[i]! * targets[t * nTargets + c]!;
    }
  }
  let mean = 0;
  for (let i = 0; i < width; i++) mean += moments[i * n + i]! / width;
  const a = new Matrix(Array.from({ length: n }, (_, i) => Array.from({ length: n }, (_, j) => moments[i * n + j]! + (i === j && i < width ? RIDGE * (mean || 1) : 0))));
  const b = new Matrix(Array.from({ length: n }, (_, i) => Array.from(products.subarray(i * nTargets, (i + 1) * nTargets))));
  const solved = new CholeskyDecomposition(a).solve(b);
  return {
    rows: Float32Array.from({ length: nTargets * width }, (_, at) => solved.get(at % width, Math.floor(at / width))),
    bias: Float32Array.from({ length: nTargets }, (_, c) => solved.get(width, c)),
  };
}
