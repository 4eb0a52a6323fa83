// The matrix of second moments of a layer's inputs, H = sum c x x^T: what GPTQ weighs a matrix's errors by (E. Frantar et al., GPTQ, 2022; there 2 X X^T, whose
// factor changes nothing). With c the weight of the expert for the token it is MoEQuant's affinity-guided one (2025, section 3.3); c = 1 is plain GPTQ's.
// Owns the sums, in float64. Refuses rows that are not finite.

export class Hessian {
  readonly size: number;
  /** Upper triangle while rows are added. */
  readonly #sums: Float64Array; // [size, size]
  #rows = 0;

  constructor(size: number) {
    this.size = size;
    this.#sums = new Float64Array(size * size);
  }

  /** Rows added so far. */
  get rows(): number { return this.#rows; }

  /** Adds a row of `size` values with weight c. Throws RangeError where a value is no number. */
  add(values: Float32Array, from: number, c: number): void {
    const { size } = this;
    const sums = this.#sums;
    for (let i = 0; i < size; i++) {
      const scaled = c * values[from + i]!;
      if (!Number.isFinite(scaled)) throw new RangeError(`Value ${i} of a calibration row is ${values[from + i]}, expected a number.`);
      if (scaled === 0) continue;
      const row = i * size;
      for (let j = i; j < size; j++) sums[row + j]! += scaled * values[from + j]!;
    }
    this.#rows++;
  }

  /** Both triangles, [size, size]; fresh memory. */
  matrix(): Float64Array {
    const { size } = this;
    const out = this.#sums.slice();
    for (let i = 0; i < size; i++) for (let j = 0; j < i; j++) out[i * size + j] = out[j * size + i]!;
    return out;
  }
}

/** Sum over rows r of (a - b)_r H (a - b)_r^T, and of a_r H a_r^T: what a change of weights does to outputs, and their size. `a`, `b`: [nRows, n]. */
export function outputError(h: Float64Array, a: Float32Array, b: Float32Array, nRows: number, n: number): { readonly error: number; readonly size: number } {
  let [error, size] = [0, 0];
  const difference = new Float64Array(n);
  for (let r = 0; r < nRows; r++) {
    for (let i = 0; i < n; i++) difference[i] = a[r * n + i]! - b[r * n + i]!;
    for (let i = 0; i < n; i++) {
      let [ofDifference, ofA] = [0, 0];
      for (let j = 0; j < n; j++) {
        const hij = h[i * n + j]!;
        ofDifference += hij * difference[j]!;
        ofA += hij * a[r * n + j]!;
      }
      error += difference[i]! * ofDifference;
      size += a[r * n + i]! * ofA;
    }
  }
  return { error, size };
}
