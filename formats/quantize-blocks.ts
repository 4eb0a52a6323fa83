// One block of float32 values to stored bytes, for every quantised type. Owns the choice of scales and the rounding.
// Q8_0, Q4_0, Q4_1, Q4_K, Q6_K and MXFP4 follow ggml-quants.c (quantize_row_*_ref; Q4_K with its make_qkx2_quants, Q6_K with its
// make_qx_quants), in float64 and dividing by scales as stored, in f16; Q2_32 is ours. Refuses to judge: infinite scales are returned, the caller names the tensor.

import { E2M1_DOUBLED } from "./dequantize-blocks.ts";
import { Q4K_GROUPS, addQ4kNibble, writeQ4kScales } from "./q4k-blocks.ts";
import { Q6K_D_AT, Q6K_SCALES_AT, Q6K_STEP, Q6K_STEPS, addQ6kValue } from "./q6k-blocks.ts";
import type { KernelType } from "./stored-types.ts";

export type QuantizedType = Exclude<KernelType, "F32" | "F16" | "BF16">;

export interface EncodedBlock {
  /** Largest magnitude among the f16 scales and minima as stored, 0 when there are none; infinite when one is too large. */
  readonly scale: number;
  /** A scale or minimum that is needed rounds to zero in f16. */
  readonly isLost: boolean;
}

/** Writes the block of `x` (1 to all of its elements; the rest is zeros) at `at` and the values it holds to `decoded`. */
export type BlockEncoder = (x: Float32Array, out: Uint8Array, at: number, decoded: Float64Array) => EncodedBlock;

const clamp = (q: number, low: number, high: number): number => Math.min(high, Math.max(low, q));

function setHalf(out: Uint8Array, at: number, value: number): void {
  new DataView(out.buffer, out.byteOffset).setFloat16(at, value, true);
}

/** Largest magnitude. */
function largest(x: Float32Array): number {
  let amax = 0;
  for (const value of x) amax = Math.max(amax, Math.abs(value));
  return amax;
}

/** Halves are rounded away from zero. */
function q8(x: Float32Array, out: Uint8Array, at: number, decoded: Float64Array): EncodedBlock {
  const amax = largest(x);
  const scale = Math.f16round(Math.fround(amax / 127));
  setHalf(out, at, scale);
  x.forEach((value, i) => {
    const ratio = scale === 0 ? 0 : value / scale;
    const q = Math.min(127, Math.floor(Math.abs(ratio) + 0.5)) * (ratio < 0 ? -1 : 1);
    out[at + 2 + i] = q & 255;
    decoded[i] = scale * q;
  });
  return { scale, isLost: scale === 0 && amax !== 0 };
}

/** Nibbles of 32 values at `at`, k and k + 16 in one byte; `rest` stands in place of missing values. */
function setNibbles(out: Uint8Array, at: number, n: number, nibble: (i: number) => number, rest: number): void {
  for (let i = 0; i < 16; i++) out[at + i] = (i < n ? nibble(i) : rest) | ((i + 16 < n ? nibble(i + 16) : rest) << 4);
}

function q4(x: Float32Array, out: Uint8Array, at: number, decoded: Float64Array): EncodedBlock {
  let extreme = 0;
  for (const value of x) if (Math.abs(value) > Math.abs(extreme)) extreme = value;
  const scale = Math.f16round(Math.fround(extreme / -8));
  setHalf(out, at, scale);
  setNibbles(out, at + 2, x.length, (i) => {
    const q = scale === 0 ? 8 : clamp(Math.floor(x[i]! / scale + 8.5), 0, 15);
    decoded[i] = scale * (q - 8);
    return q;
  }, 8);
  return { scale: Math.abs(scale), isLost: scale === 0 && extreme !== 0 };
}

function q4m(x: Float32Array, out: Uint8Array, at: number, decoded: Float64Array): EncodedBlock {
  const low = x.reduce((a, b) => Math.min(a, b));
  const high = x.reduce((a, b) => Math.max(a, b));
  const min = Math.f16round(low);
  const scale = Math.f16round((high - low) / 15);
  setHalf(out, at, scale);
  setHalf(out, at + 2, min);
  setNibbles(out, at + 4, x.length, (i) => {
    const q = scale === 0 ? 0 : clamp(Math.floor((x[i]! - min) / scale + 0.5), 0, 15);
    decoded[i] = scale * q + min;
    return q;
  }, 0);
  return { scale: Math.max(scale, Math.abs(min)), isLost: (scale === 0 && high > low) || (min === 0 && low !== 0) };
}

/** Nearest-even, as ggml's nearest_int. */
function nearestInt(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
}

/** Scale and minimum (its size; the minimum is never above zero) of x = scale * q - min with the least weighted squares of errors. */
function fitWithMinimum(x: Float32Array): { scale: number; min: number } {
  const n = x.length;
  const mean = Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / n);
  const weights = Array.from(x, (value) => mean + Math.abs(value));
  let low = 0;
  let high = x[0]!;
  let sumW = 0;
  let sumX = 0;
  for (let i = 0; i < n; i++) {
    low = Math.min(low, x[i]!);
    high = Math.max(high, x[i]!);
    sumW += weights[i]!;
    sumX += weights[i]! * x[i]!;
  }
  if (high === low) return { scale: 0, min: 0 - low };
  const quants = new Float64Array(n);
  const round = (inverse: number): void => { for (let i = 0; i < n; i++) quants[i] = clamp(nearestInt(inverse * (x[i]! - low)), 0, 15); };
  const errorOf = (scale: number, min: number): number => {
    let error = 0;
    for (let i = 0; i < n; i++) error += weights[i]! * (scale * quants[i]! + min - x[i]!) ** 2;
    return error;
  };
  let best = { scale: (high - low) / 15, min: low };
  round(15 / (high - low));
  let bestError = errorOf(best.scale, best.min);
  for (let step = 0; step <= 20; step++) {
    round((14 + 0.1 * step) / (high - low));
    let sumL = 0;
    let sumL2 = 0;
    let sumXL = 0;
    for (let i = 0; i < n; i++) {
      sumL += weights[i]! * quants[i]!;
      sumL2 += weights[i]! * quants[i]! ** 2;
      sumXL += weights[i]! * quants[i]! * x[i]!;
    }
    const determinant = sumW * sumL2 - sumL * sumL;
    if (determinant <= 0) continue;
    let scale = (sumW * sumXL - sumX * sumL) / determinant;
    let min = (sumL2 * sumX - sumL * sumXL) / determinant;
    if (min > 0) [scale, min] = [sumXL / sumL2, 0];
    const error = errorOf(scale, min);
    if (error < bestError) [best, bestError] = [{ scale, min }, error];
  }
  return { scale: best.scale, min: 0 - best.min };
}

function q4k(x: Float32Array, out: Uint8Array, at: number, decoded: Float64Array): EncodedBlock {
  const groups = Array.from({ length: Math.ceil(x.length / 32) }, (_, g) => x.subarray(32 * g, 32 * g + 32));
  const fits = groups.map(fitWithMinimum);
  const maxScale = Math.max(...fits.map((f) => f.scale));
  const maxMin = Math.max(...fits.map((f) => f.min));
  const sixBits = (value: number, max: number): number => (max > 0 ? clamp(nearestInt(63 * (value / max)), 0, 63) : 0);
  const sc = Array.from({ length: Q4K_GROUPS }, (_, g) => sixBits(fits[g]?.scale ?? 0, maxScale));
  const m = Array.from({ length: Q4K_GROUPS }, (_, g) => sixBits(fits[g]?.min ?? 0, maxMin));
  const d = Math.f16round(maxScale / 63);
  const dmin = Math.f16round(maxMin / 63);
  setHalf(out, at, d);
  setHalf(out, at + 2, dmin);
  writeQ4kScales(out, at, sc, m);
  x.forEach((value, i) => {
    const [scale, min] = [d * sc[i >> 5]!, dmin * m[i >> 5]!];
    const q = scale === 0 ? 0 : clamp(nearestInt((value + min) / scale), 0, 15);
    addQ4kNibble(out, at, i, q);
    decoded[i] = scale * q - min;
  });
  return { scale: Math.max(d, dmin), isLost: (d === 0 && maxScale > 0) || (dmin === 0 && maxMin > 0) };
}

/** Below this largest magnitude a group counts as zero. */
const GROUP_MAX_EPSILON = 1e-15;

/**
 * Scale of x = scale * q, q in -32..31, with the least squares of errors weighted by x^2: of 19 roundings around the one that takes the
 * largest magnitude to -32, each with its best scale. Its sign is that of the value that becomes negative.
 */
function fitSymmetric(x: Float32Array): number {
  let extreme = 0;
  for (const value of x) if (Math.abs(value) > Math.abs(extreme)) extreme = value;
  if (Math.abs(extreme) < GROUP_MAX_EPSILON) return 0;
  let scale = 0;
  let best = 0; // what the best scale takes off the weighted squares: (sum x q)^2 / sum q^2
  for (const step of [0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9]) {
    const inverse = -(32 + 0.1 * step) / extreme;
    let sumXQ = 0;
    let sumQ2 = 0;
    for (const value of x) {
      const q = clamp(nearestInt(inverse * value), -32, 31);
      sumXQ += value * value * value * q;
      sumQ2 += value * value * q * q;
    }
    if (sumQ2 > 0 && (step === 0 || sumXQ * sumXQ > best * sumQ2)) [scale, best] = [sumXQ / sumQ2, (sumXQ * sumXQ) / sumQ2];
  }
  return scale;
}

function q6k(x: Float32Array, out: Uint8Array, at: number, decoded: Float64Array): EncodedBlock {
  const fits = Array.from({ length: Q6K_STEPS }, (_, step) => fitSymmetric(x.subarray(Q6K_STEP * step, Q6K_STEP * step + Q6K_STEP)));
  const extreme = fits.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a));
  const isZero = Math.abs(extreme) < GROUP_MAX_EPSILON;
  const d = isZero ? 0 : Math.f16round(extreme / -128);
  const sc = fits.map((fit) => (isZero ? 0 : Math.min(127, nearestInt((-128 / extreme) * fit))));
  setHalf(out, at + Q6K_D_AT, d);
  for (let step = 0; step < Q6K_STEPS; step++) out[at + Q6K_SCALES_AT + step] = sc[step]! & 255;
  x.forEach((value, i) => {
    const scale = d * sc[i >> 4]!;
    const q = scale === 0 ? 0 : clamp(nearestInt(value / scale), -32, 31);
    addQ6kValue(out, at, i, q + 32);
    decoded[i] = scale * q;
  });
  for (let i = x.length; i < Q6K_STEP * Q6K_STEPS; i++) addQ6kValue(out, at, i, 32);
  return { scale: Math.abs(d), isLost: d === 0 && !isZero };
}

/** The exponent puts the largest magnitude into 4 .. 8 times 2^(e - 127): what lies beyond 6 becomes 6. */
function mxfp4(x: Float32Array, out: Uint8Array, at: number, decoded: Float64Array): EncodedBlock {
  const bits = new Uint32Array(Float32Array.of(largest(x)).buffer)[0]!;
  const e = Math.max(0, (bits >>> 23) - 2);
  out[at] = e;
  const scale = 2 ** (e - 128);
  setNibbles(out, at + 1, x.length, (i) => {
    let best = 0;
    for (let code = 1; code < 16; code++) {
      if (Math.abs(scale * E2M1_DOUBLED[code]! - x[i]!) < Math.abs(scale * E2M1_DOUBLED[best]! - x[i]!)) best = code;
    }
    decoded[i] = scale * E2M1_DOUBLED[best]!;
    return best;
  }, 0);
  return { scale: 0, isLost: false };
}

/** Of eleven scales, amax / 3 times 16/16, 15/16 .. 6/16, the one with the least squares of errors; the larger one on a tie. */
function q2(x: Float32Array, out: Uint8Array, at: number, decoded: Float64Array): EncodedBlock {
  const amax = largest(x);
  const level = (value: number, scale: number): number => (scale === 0 ? 1 : clamp(Math.floor(value / scale / 2) + 2, 0, 3));
  let scale = Infinity; // when every candidate is
  let least = Infinity;
  for (let part = 16; part >= 6; part--) {
    const candidate = Math.f16round((amax * part) / 48);
    const error = x.reduce((sum, value) => sum + (candidate * (2 * level(value, candidate) - 3) - value) ** 2, 0);
    if (error < least) [scale, least] = [candidate, error];
  }
  setHalf(out, at, scale);
  x.forEach((value, i) => {
    const q = level(value, scale);
    out[at + 2 + ((i & 16) >> 2) + (i & 3)]! |= q << (2 * ((i & 12) >> 2));
    decoded[i] = scale * (2 * q - 3);
  });
  return { scale, isLost: scale === 0 && amax !== 0 };
}

export const BLOCK_ENCODERS: Readonly<Record<QuantizedType, BlockEncoder>> = { Q8_0: q8, Q4_0: q4, Q4_1: q4m, Q4_K: q4k, Q6_K: q6k, MXFP4: mxfp4, Q2_32: q2 };
