// Float32 rows to stored rows: F32, Q8_0 and Q4_0 (docs/formats.md, "Quantisation at pack time"). Owns the rounding and
// the measure of what it cost. Refuses values that no scale can hold (NaN, infinities, |x| beyond f16's scale).
// Q4_0 follows ggml-quants.c, quantize_row_q4_0_ref, but divides by the scale as stored, in f16.

import { ModelError } from "../model/config.ts";
import { type StoredType, storedRowBytes } from "./stored-types.ts";

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

const SMALLEST_NORMAL_F16 = 2 ** -14;

/** Row-major stored bytes of f32 [nRows, nCols]; the cost is added to `loss`. `name` is for errors. */
export function encodeRows(
  type: "F32" | "Q8_0" | "Q4_0", name: string, values: Float32Array, nRows: number, nCols: number, loss: QuantizationLoss,
): Uint8Array {
  if (type === "F32") return new Uint8Array(values.buffer, values.byteOffset, nRows * nCols * 4).slice();
  const rowBytes = storedRowBytes(type, nCols);
  const out = new Uint8Array(nRows * rowBytes);
  const view = new DataView(out.buffer);
  const encodeGroup = type === "Q8_0" ? encodeQ8Group : encodeQ4Group;
  const blockBytes = storedRowBytes(type, 32);
  const group = new Float32Array(32);
  for (let r = 0; r < nRows; r++) {
    for (let first = 0; first < nCols; first += 32) {
      const n = Math.min(32, nCols - first);
      group.fill(0);
      for (let i = 0; i < n; i++) {
        const x = values[r * nCols + first + i]!;
        if (!Number.isFinite(x)) throw new ModelError(`${name}, row ${r}, column ${first + i} is ${x}, expected a finite value to quantise.`);
        group[i] = x;
      }
      const scale = encodeGroup(group, view, r * rowBytes + (first / 32) * blockBytes, loss);
      if (!Number.isFinite(scale)) {
        throw new ModelError(`${name}, row ${r}, columns ${first} to ${first + n - 1}: the largest value needs a scale beyond 65,504, `
          + "the largest f16; pack this model with --quant f32.");
      }
      if (scale === 0) {
        if (group.some((x) => x !== 0)) loss.zeroScales++;
      } else if (Math.abs(scale) < SMALLEST_NORMAL_F16) loss.subnormalScales++;
      loss.nValues += n;
    }
  }
  return out;
}

function count(loss: QuantizationLoss, x: number, decoded: number): void {
  const error = Math.abs(x - decoded);
  if (error > loss.maxError) loss.maxError = error;
  loss.errorSquares += error * error;
  loss.squares += x * x;
}

function encodeQ8Group(x: Float32Array, view: DataView, at: number, loss: QuantizationLoss): number {
  let amax = 0;
  for (let i = 0; i < 32; i++) amax = Math.max(amax, Math.abs(x[i]!));
  const scale = Math.f16round(Math.fround(amax / 127));
  view.setFloat16(at, scale, true);
  for (let i = 0; i < 32; i++) {
    const ratio = scale === 0 ? 0 : x[i]! / scale;
    const q = Math.min(127, Math.floor(Math.abs(ratio) + 0.5)) * (ratio < 0 ? -1 : 1);
    view.setInt8(at + 2 + i, q);
    count(loss, x[i]!, scale * q);
  }
  return scale;
}

function encodeQ4Group(x: Float32Array, view: DataView, at: number, loss: QuantizationLoss): number {
  let extreme = 0;
  for (let i = 0; i < 32; i++) if (Math.abs(x[i]!) > Math.abs(extreme)) extreme = x[i]!;
  const scale = Math.f16round(Math.fround(extreme / -8));
  view.setFloat16(at, scale, true);
  const nibble = (i: number): number => {
    const q = scale === 0 ? 8 : Math.min(15, Math.max(0, Math.floor(x[i]! / scale + 8.5)));
    count(loss, x[i]!, scale * (q - 8));
    return q;
  };
  for (let i = 0; i < 16; i++) view.setUint8(at + 2 + i, nibble(i) | (nibble(i + 16) << 4));
  return scale;
}

/** Throws ModelError when a stored block's scale is infinite or NaN: the kernels read f16 scales as if every exponent were finite. */
export function refuseBrokenScales(type: StoredType, name: string, bytes: Uint8Array, firstRow: number, nRows: number, nCols: number): void {
  if (type !== "Q8_0" && type !== "Q4_0") return;
  const rowBytes = storedRowBytes(type, nCols);
  const blockBytes = storedRowBytes(type, 32);
  for (let at = 0; at < nRows * rowBytes; at += blockBytes) {
    const scale = bytes[at]! | (bytes[at + 1]! << 8);
    if ((scale & 0x7c00) !== 0x7c00) continue;
    const row = Math.floor(at / rowBytes);
    throw new ModelError(`${name}, row ${firstRow + row}, block ${(at - row * rowBytes) / blockBytes} has the scale 0x${scale.toString(16)} (infinite or NaN), expected a finite f16.`);
  }
}
