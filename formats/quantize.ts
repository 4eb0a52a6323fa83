// Float32 rows to stored rows (docs/formats.md, "Quantisation at pack time"). Owns the walk over blocks and the measure of what
// it cost; one block's rounding is quantize-blocks.ts. Refuses values that no scale can hold (NaN, infinities, |x| beyond f16's
// scale), and stored values and scales that are none.

import { ModelError } from "../model/config.ts";
import { BLOCK_ENCODERS, type QuantizedType } from "./quantize-blocks.ts";
import { type StoredType, storedBlock, storedRowBytes } from "./stored-types.ts";

/** What quantising some matrices cost. */
export interface QuantizationLoss {
  nValues: number;
  /** Largest |x - decoded|. */
  maxError: number;
  /** Sums for the relative error sqrt(errorSquares / squares). */
  errorSquares: number;
  squares: number;
  /** Groups with non-zero values whose scale rounds to zero in f16: all their values are lost. */
  zeroScales: number;
  /** Groups whose scale is a subnormal f16, so that it is known to fewer than 11 bits. */
  subnormalScales: number;
}

export const noLoss = (): QuantizationLoss =>
  ({ nValues: 0, maxError: 0, errorSquares: 0, squares: 0, zeroScales: 0, subnormalScales: 0 });

/** Adds what other matrices cost. */
export function addLoss(sum: QuantizationLoss, more: QuantizationLoss): void {
  sum.nValues += more.nValues;
  sum.maxError = Math.max(sum.maxError, more.maxError);
  sum.errorSquares += more.errorSquares;
  sum.squares += more.squares;
  sum.zeroScales += more.zeroScales;
  sum.subnormalScales += more.subnormalScales;
}

/** Root mean square of the errors over that of the values. */
export const relativeError = ({ errorSquares, squares }: QuantizationLoss): number => (squares === 0 ? 0 : Math.sqrt(errorSquares / squares));

const SMALLEST_NORMAL_F16 = 2 ** -14;

/** Row-major stored bytes of f32 [nRows, nCols]; the cost is added to `loss`. `name` and `firstRow`, the number of the first of these rows, are for errors. */
export function encodeRows(
  type: "F32" | QuantizedType, name: string, values: Float32Array, nRows: number, nCols: number, loss: QuantizationLoss, firstRow = 0,
): Uint8Array {
  if (type === "F32") return new Uint8Array(values.buffer, values.byteOffset, nRows * nCols * 4).slice();
  const rowBytes = storedRowBytes(type, nCols);
  const out = new Uint8Array(nRows * rowBytes);
  const { elements, bytes: blockBytes } = storedBlock(type);
  const encodeBlock = BLOCK_ENCODERS[type];
  const decoded = new Float64Array(elements);
  let [maxError, errorSquares, squares] = [0, 0, 0];
  for (let r = 0; r < nRows; r++) {
    for (let first = 0; first < nCols; first += elements) {
      const n = Math.min(elements, nCols - first);
      const x = values.subarray(r * nCols + first, r * nCols + first + n);
      for (let i = 0; i < n; i++) {
        if (!Number.isFinite(x[i])) throw new ModelError(`${name}, row ${firstRow + r}, column ${first + i} is ${x[i]}, expected a finite value to quantise.`);
      }
      const { scale, isLost } = encodeBlock(x, out, r * rowBytes + (first / elements) * blockBytes, decoded);
      if (!Number.isFinite(scale)) {
        throw new ModelError(`${name}, row ${firstRow + r}, columns ${first} to ${first + n - 1}: the largest value needs a scale beyond 65,504, `
          + "the largest f16; pack this model with --quant f32.");
      }
      if (isLost) loss.zeroScales++;
      else if (scale !== 0 && scale < SMALLEST_NORMAL_F16) loss.subnormalScales++;
      for (let i = 0; i < n; i++) {
        const value = x[i]!;
        const error = Math.abs(value - decoded[i]!);
        if (error > maxError) maxError = error;
        errorSquares += error * error;
        squares += value * value;
      }
    }
  }
  addLoss(loss, { nValues: nRows * nCols, maxError, errorSquares, squares, zeroScales: 0, subnormalScales: 0 });
  return out;
}

/** Exponents of the plain types, all ones in infinities and NaN. */
const PLAIN_EXPONENTS: Readonly<Partial<Record<StoredType, number>>> = { F32: 0x7f800000, F16: 0x7c00, BF16: 0x7f80 };

/**
 * Throws ModelError when a stored value of a plain type, or a stored block's scale or minimum, is infinite or NaN: the kernels read f16 scales as if
 * every exponent were finite, and E8M0's 255 as if it were a number; and one such weight makes every token's activations NaN.
 */
export function refuseBrokenValues(type: StoredType, name: string, bytes: Uint8Array, firstRow: number, nRows: number, nCols: number): void {
  const mask = PLAIN_EXPONENTS[type];
  if (mask !== undefined) {
    const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
    const words = type === "F32" ? new Uint32Array(aligned.buffer, aligned.byteOffset, nRows * nCols) : new Uint16Array(aligned.buffer, aligned.byteOffset, nRows * nCols);
    for (let i = 0; i < words.length; i++) {
      const word = words[i]!;
      if ((word & mask) !== mask) continue;
      const fraction = word & ((mask & -mask) - 1);
      const found = fraction !== 0 ? "NaN" : (type === "F32" ? word >>> 31 : word >>> 15) === 1 ? "-Infinity" : "Infinity";
      throw new ModelError(`${name}, row ${firstRow + Math.floor(i / nCols)}, column ${i % nCols} is ${found}, expected a finite value.`);
    }
    return;
  }
  const { bytes: blockBytes, halves, exponent } = storedBlock(type);
  if (halves.length === 0 && exponent === null) return;
  const rowBytes = storedRowBytes(type, nCols);
  const fail = (at: number, found: string): never => {
    const row = Math.floor(at / rowBytes);
    throw new ModelError(`${name}, row ${firstRow + row}, block ${(at - row * rowBytes) / blockBytes} has the scale ${found}.`);
  };
  for (let at = 0; at < nRows * rowBytes; at += blockBytes) {
    for (const offset of halves) {
      const half = bytes[at + offset]! | (bytes[at + offset + 1]! << 8);
      if ((half & 0x7c00) === 0x7c00) fail(at, `0x${half.toString(16)} (infinite or NaN), expected a finite f16`);
    }
    if (exponent !== null && bytes[at + exponent] === 255) fail(at, "E8M0 255 (NaN), expected an exponent of 0 to 254");
  }
}
