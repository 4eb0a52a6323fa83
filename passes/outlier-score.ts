// How far single weights stand out: over the columns of a matrix, the largest ratio of a column's largest magnitude to its mean magnitude (the linear-layer
// outlier score of QuantMoE-Bench, 2024). Owns the score of a matrix and of the matrices of a model. Refuses to choose bits (structure-plans.ts).

import { type MatrixSource, rowsPerBatch } from "../formats/checkpoint.ts";
import { decodeRows } from "../formats/dequantize.ts";

/** Sums over the rows of a matrix as they come. */
export class OutlierScore {
  readonly #largest: Float64Array; // [nCols]
  readonly #sums: Float64Array; // [nCols]
  #nRows = 0;

  constructor(nCols: number) {
    this.#largest = new Float64Array(nCols);
    this.#sums = new Float64Array(nCols);
  }

  /** `values`: rows of nCols, one after the other. */
  add(values: Float32Array): void {
    const nCols = this.#sums.length;
    for (let at = 0; at < values.length; at += nCols) {
      for (let c = 0; c < nCols; c++) {
        const size = Math.abs(values[at + c]!);
        this.#sums[c]! += size;
        if (size > this.#largest[c]!) this.#largest[c] = size;
      }
    }
    this.#nRows += values.length / nCols;
  }

  /** A column of zeros counts as even: 1. */
  get value(): number {
    return this.#largest.reduce((most, largest, c) => Math.max(most, largest === 0 ? 1 : (largest * this.#nRows) / this.#sums[c]!), 0);
  }
}

/** Of a matrix f32 [nRows, nCols]. */
export function outlierScore(values: Float32Array, nCols: number): number {
  const score = new OutlierScore(nCols);
  score.add(values);
  return score.value;
}

/** Of a matrix of a checkpoint, read in batches of rows. */
export async function matrixOutlierScore(matrices: MatrixSource, name: string): Promise<number> {
  const place = matrices.place(name);
  const { nRows, nCols, type, rowBytes } = place;
  const score = new OutlierScore(nCols);
  const batch = rowsPerBatch(rowBytes, 1);
  for (let first = 0; first < nRows; first += batch) {
    const n = Math.min(batch, nRows - first);
    score.add(decodeRows(type, await matrices.readRows(place, first, n), n, nCols));
  }
  return score.value;
}
