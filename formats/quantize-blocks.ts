// One block of float32 values to stored bytes, for every quantised type. Owns the choice of scales and the rounding.
// Q8_0, Q4_0, Q4_1, Q4_K, Q6_K and MXFP4 follow ggml-quants.c (quantize_row_*_ref; Q4_K with its make_qkx2_quants, Q6_K with its
// make_qx_quants), in float64 and dividing by scales as stored, in f16; Q2_32 and Q3_32 are ours. Refuses to judge: infinite scales are returned, the caller names the tensor.
// Packing is mostly this: loops over typed arrays that are made once, no calls with closures.

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

const half = new DataView(new ArrayBuffer(2));

function setHalf(out: Uint8Array, at: number, value: number): void {
  half.setFloat16(0, value, true);
  out[at] = half.getUint8(0);
  out[at + 1] = half.getUint8(1);
}

/** Largest magnitude. */
function largest(x: Float32Array): number {
  let amax = 0;
  for (let i = 0; i < x.length; i++) {
    const size = Math.abs(x[i]!);
    if (size > amax) amax = size;
  }
  return amax;
}

/** The first value of the largest magnitude. */
function extremeOf(x: Float32Array): number {
  let [extreme, amax] = [0, 0];
  for (let i = 0; i < x.length; i++) {
    const size = Math.abs(x[i]!);
    if (size > amax) [extreme, amax] = [x[i]!, size];
  }
  return extreme;
}

/** Halves are rounded away from zero. */
function q8(x: Float32Array, out: Uint8Array, at: number, decoded: Float64Array): EncodedBlock {
  const amax = largest(x);
  const scale = Math.f16round(Math.fround(amax / 127));
  setHalf(out, at, scale);
  for (let i = 0; i < x.length; i++) {
    const ratio = scale === 0 ? 0 : x[i]! / scale;
    const q = Math.min(127, Math.floor(Math.abs(ratio) + 0.5)) * (ratio < 0 ? -1 : 1);
    out[at + 2 + i] = q & 255;
    decoded[i] = scale * q;
  }
  return { scale, isLost: scale === 0 && amax !== 0 };
}

/** Codes of a block whose nibbles share bytes. */
const nibbles = new Uint8Array(32);

/** The first `n` nibbles at `at`, k and k + 16 in one byte; `rest` stands in place of missing values. */
function setNibbles(out: Uint8Array, at: number, n: number, rest: number): void {
  nibbles.fill(rest, n);
  for (let i = 0; i < 16; i++) out[at + i] = nibbles[i]! | (nibbles[i + 16]! << 4);
}

function q4(x: Float32Array, out: Uint8Array, at: number, decoded: Float64Array): EncodedBlock {
  const extreme = extremeOf(x);
  const scale = Math.f16round(Math.fround(extreme / -8));
  setHalf(out, at, scale);
  for (let i = 0; i < x.length; i++) {
    const q = scale === 0 ? 8 : clamp(Math.floor(x[i]! / scale + 8.5), 0, 15);
    decoded[i] = scale * (q - 8);
    nibbles[i] = q;
  }
  setNibbles(out, at + 2, x.length, 8);
  return { scale: Math.abs(scale), isLost: scale === 0 && extreme !== 0 };
}

function q4m(x: Float32Array, out: Uint8Array, at: number, decoded: Float64Array): EncodedBlock {
  let [low, high] = [x[0]!, x[0]!];
  for (let i = 1; i < x.length; i++) {
    low = Math.min(low, x[i]!);
    high = Math.max(high, x[i]!);
  }
  const min = Math.f16round(low);
  const scale = Math.f16round((high - low) / 15);
  setHalf(out, at, scale);
  setHalf(out, at + 2, min);
  for (let i = 0; i < x.length; i++) {
    const q = scale === 0 ? 0 : clamp(Math.floor((x[i]! - min) / scale + 0.5), 0, 15);
    decoded[i] = scale * q + min;
    nibbles[i] = q;
  }
  setNibbles(out, at + 4, x.length, 0);
  return { scale: Math.max(scale, Math.abs(min)), isLost: (scale === 0 && high > low) || (min === 0 && low !== 0) };
}

/** 1.5 * 2^52: adding it to |x| < 2^51 rounds x to nearest-even, as ggml's nearest_int does in f32. */
const ROUNDING = 1.5 * 2 ** 52;
const nearestInt = (x: number): number => x + ROUNDING - ROUNDING;

/** Of a group of 32: weights of errors, quants of the candidate, and what the search found. */
const weights = new Float64Array(32);
const quants = new Float64Array(32);
const found = { scale: 0, min: 0 };

/** Scale and minimum (its size; the minimum is never above zero) of x[from .. from + n) = scale * q - min with the least weighted squares of errors, into `found`. */
function fitWithMinimum(x: Float32Array, from: number, n: number): void {
  let squares = 0;
  for (let i = 0; i < n; i++) squares += x[from + i]! * x[from + i]!;
  const mean = Math.sqrt(squares / n);
  let low = 0;
  let high = x[from]!;
  let sumW = 0;
  let sumX = 0;
  for (let i = 0; i < n; i++) {
    const value = x[from + i]!;
    const w = mean + Math.abs(value);
    weights[i] = w;
    low = Math.min(low, value);
    high = Math.max(high, value);
    sumW += w;
    sumX += w * value;
  }
  [found.scale, found.min] = [0, 0 - low];
  if (high === low) return;
  let bestScale = (high - low) / 15;
  let bestMin = low;
  let bestError = Infinity;
  // The first candidate is the whole range; each further one takes the scale and minimum that suit its rounding best.
  for (let step = -1; step <= 20; step++) {
    const inverse = step < 0 ? 15 / (high - low) : (14 + 0.1 * step) / (high - low);
    let sumL = 0;
    let sumL2 = 0;
    let sumXL = 0;
    for (let i = 0; i < n; i++) {
      const value = x[from + i]!;
      const rounded = nearestInt(inverse * (value - low)); // not below 0, as no value is below the least
      const q = rounded > 15 ? 15 : rounded;
      const wq = weights[i]! * q;
      quants[i] = q;
      sumL += wq;
      sumL2 += weights[i]! * (q * q);
      sumXL += wq * value;
    }
    let scale = bestScale;
    let min = low;
    if (step >= 0) {
      const determinant = sumW * sumL2 - sumL * sumL;
      if (determinant <= 0) continue;
      scale = (sumW * sumXL - sumX * sumL) / determinant;
      min = (sumL2 * sumX - sumL * sumXL) / determinant;
      if (min > 0) [scale, min] = [sumXL / sumL2, 0];
    }
    let error = 0;
    for (let i = 0; i < n; i++) {
      const rest = scale * quants[i]! + min - x[from + i]!;
      error += weights[i]! * (rest * rest);
    }
    if (error < bestError) [bestScale, bestMin, bestError] = [scale, min, error];
  }
  [found.scale, found.min] = [bestScale, 0 - bestMin];
}

const fitScales = new Float64Array(Q4K_GROUPS);
const fitMinima = new Float64Array(Q4K_GROUPS);
const q4kScales = new Uint8Array(Q4K_GROUPS);
const q4kMinima = new Uint8Array(Q4K_GROUPS);

function q4k(x: Float32Array, out: Uint8Array, at: number, decoded: Float64Array): EncodedBlock {
  fitScales.fill(0);
  fitMinima.fill(0);
  let [maxScale, maxMin] = [-Infinity, -Infinity];
  for (let g = 0; 32 * g < x.length; g++) {
    fitWithMinimum(x, 32 * g, Math.min(32, x.length - 32 * g));
    fitScales[g] = found.scale;
    fitMinima[g] = found.min;
    maxScale = Math.max(maxScale, found.scale);
    maxMin = Math.max(maxMin, found.min);
  }
  for (let g = 0; g < Q4K_GROUPS; g++) {
    q4kScales[g] = maxScale > 0 ? clamp(nearestInt(63 * (fitScales[g]! / maxScale)), 0, 63) : 0;
    q4kMinima[g] = maxMin > 0 ? clamp(nearestInt(63 * (fitMinima[g]! / maxMin)), 0, 63) : 0;
  }
  const d = Math.f16round(maxScale / 63);
  const dmin = Math.f16round(maxMin / 63);
  setHalf(out, at, d);
  setHalf(out, at + 2, dmin);
  writeQ4kScales(out, at, q4kScales, q4kMinima);
  for (let i = 0; i < x.length; i++) {
    const scale = d * q4kScales[i >> 5]!;
    const min = dmin * q4kMinima[i >> 5]!;
    const q = scale === 0 ? 0 : clamp(nearestInt((x[i]! + min) / scale), 0, 15);
    addQ4kNibble(out, at, i, q);
    decoded[i] = scale * q - min;
  }
  return { scale: Math.max(d, dmin), isLost: (d === 0 && maxScale > 0) || (dmin === 0 && maxMin > 0) };
}

/** Below this largest magnitude a group counts as zero. */
const GROUP_MAX_EPSILON = 1e-15;

/** The roundings tried: around the one that takes the largest magnitude to -32, which comes first. */
const ROUNDING_STEPS = [0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9];

/**
 * Scale of x = scale * q, q in -32..31, for x[from .. from + n) with the least squares of errors weighted by x^2: of 19 roundings, each with its best
 * scale. Its sign is that of the value that becomes negative.
 */
function fitSymmetric(x: Float32Array, from: number, n: number): number {
  let [extreme, amax] = [0, 0];
  for (let i = 0; i < n; i++) {
    const size = Math.abs(x[from + i]!);
    if (size > amax) [extreme, amax] = [x[from + i]!, size];
  }
  if (amax < GROUP_MAX_EPSILON) return 0;
  let scale = 0;
  let best = 0; // what the best scale takes off the weighted squares: (sum x q)^2 / sum q^2
  for (let k = 0; k < ROUNDING_STEPS.length; k++) {
    const step = ROUNDING_STEPS[k]!;
    const inverse = -(32 + 0.1 * step) / extreme;
    let sumXQ = 0;
    let sumQ2 = 0;
    for (let i = 0; i < n; i++) {
      const value = x[from + i]!;
      const rounded = nearestInt(inverse * value);
      const q = rounded > 31 ? 31 : rounded < -32 ? -32 : rounded;
      sumXQ += value * value * value * q;
      sumQ2 += value * value * q * q;
    }
    if (sumQ2 > 0 && (step === 0 || sumXQ * sumXQ > best * sumQ2)) [scale, best] = [sumXQ / sumQ2, (sumXQ * sumXQ) / sumQ2];
  }
  return scale;
}

const q6kFits = new Float64Array(Q6K_STEPS);
const q6kScales = new Int8Array(Q6K_STEPS);

function q6k(x: Float32Array, out: Uint8Array, at: number, decoded: Float64Array): EncodedBlock {
  let extreme = 0;
  for (let step = 0; step < Q6K_STEPS; step++) {
    const fit = fitSymmetric(x, Q6K_STEP * step, clamp(x.length - Q6K_STEP * step, 0, Q6K_STEP));
    q6kFits[step] = fit;
    if (Math.abs(fit) > Math.abs(extreme)) extreme = fit;
  }
  const isZero = Math.abs(extreme) < GROUP_MAX_EPSILON;
  const d = isZero ? 0 : Math.f16round(extreme / -128);
  setHalf(out, at + Q6K_D_AT, d);
  for (let step = 0; step < Q6K_STEPS; step++) {
    q6kScales[step] = isZero ? 0 : Math.min(127, nearestInt((-128 / extreme) * q6kFits[step]!));
    out[at + Q6K_SCALES_AT + step] = q6kScales[step]! & 255;
  }
  for (let i = 0; i < x.length; i++) {
    const scale = d * q6kScales[i >> 4]!;
    const q = scale === 0 ? 0 : clamp(nearestInt(x[i]! / scale), -32, 31);
    addQ6kValue(out, at, i, q + 32);
    decoded[i] = scale * q;
  }
  for (let i = x.length; i < Q6K_STEP * Q6K_STEPS; i++) addQ6kValue(out, at, i, 32);
  return { scale: Math.abs(d), isLost: d === 0 && !isZero };
}

/** The exponent puts the largest magnitude into 4 .. 8 times 2^(e - 127): what lies beyond 6 becomes 6. */
function mxfp4(x: Float32Array, out: Uint8Array, at: number, decoded: Float64Array): EncodedBlock {
  const bits = new Uint32Array(Float32Array.of(largest(x)).buffer)[0]!;
  const e = Math.max(0, (bits >>> 23) - 2);
  out[at] = e;
  const scale = 2 ** (e - 128);
  for (let i = 0; i < x.length; i++) {
    const value = x[i]!;
    let best = 0;
    let least = Math.abs(scale * E2M1_DOUBLED[0]! - value);
    for (let code = 1; code < 16; code++) {
      const error = Math.abs(scale * E2M1_DOUBLED[code]! - value);
      if (error < least) [best, least] = [code, error];
    }
    decoded[i] = scale * E2M1_DOUBLED[best]!;
    nibbles[i] = best;
  }
  setNibbles(out, at + 1, x.length, 0);
  return { scale: 0, isLost: false };
}

/** Where value i of a q2 block lies: the byte behind its scale, and the bit in it. */
const q2Byte = (i: number): number => ((i & 16) >> 2) + (i & 3);
const q2Shift = (i: number): number => (i & 12) >> 1;

/** Quant of q2 for a scale: 0..3. */
const q2Level = (value: number, scale: number): number => (scale === 0 ? 1 : clamp(Math.floor(value / scale / 2) + 2, 0, 3));

/** Of eleven scales, amax / 3 times 16/16, 15/16 .. 6/16, the one with the least squares of errors; the larger one on a tie. */
function q2(x: Float32Array, out: Uint8Array, at: number, decoded: Float64Array): EncodedBlock {
  const amax = largest(x);
  let scale = Infinity; // when every candidate is
  let least = Infinity;
  for (let part = 16; part >= 6; part--) {
    const candidate = Math.f16round((amax * part) / 48);
    let error = 0;
    for (let i = 0; i < x.length; i++) error += (candidate * (2 * q2Level(x[i]!, candidate) - 3) - x[i]!) ** 2;
    if (error < least) [scale, least] = [candidate, error];
  }
  setHalf(out, at, scale);
  for (let i = 0; i < x.length; i++) {
    const q = q2Level(x[i]!, scale);
    out[at + 2 + q2Byte(i)]! |= q << q2Shift(i);
    decoded[i] = scale * (2 * q - 3);
  }
  return { scale, isLost: scale === 0 && amax !== 0 };
}

/** Adds the three bits of value i of a q3 block whose 12 bytes begin, as zeros, at `at`. */
function addThreeBits(out: Uint8Array, at: number, i: number, q: number): void {
  const first = at + (i & 3);
  const n = i >> 2;
  if (n < 6) {
    out[first + 4 * (n >> 1)]! |= q << (3 * (n & 1));
    return;
  }
  out[first + 4 * (n - 6)]! |= (q & 3) << 6;
  out[first + 8]! |= (q >> 2) << n;
}

/** The levels of q3 that the extreme is to take. */
const Q3_ENDS = [-4, 3] as const;

/** Quant of q3 for a scale: 0..7. */
const q3Level = (value: number, scale: number): number => (scale === 0 ? 4 : clamp(Math.floor(value / scale + 4.5), 0, 7));

/** Of fourteen scales, those that make the extreme -4 and 3 times 16/16, 15/16 .. 10/16, the one with the least squares of errors; the first one on a tie. */
function q3(x: Float32Array, out: Uint8Array, at: number, decoded: Float64Array): EncodedBlock {
  const extreme = extremeOf(x);
  let scale = Infinity; // when every candidate is
  let least = Infinity;
  for (const level of Q3_ENDS) {
    for (let part = 16; part >= 10; part--) {
      const candidate = Math.f16round((extreme * part) / (16 * level));
      let error = 0;
      for (let i = 0; i < x.length; i++) error += (candidate * (q3Level(x[i]!, candidate) - 4) - x[i]!) ** 2;
      if (error < least) [scale, least] = [candidate, error];
    }
  }
  setHalf(out, at, scale);
  for (let i = 0; i < x.length; i++) {
    const q = q3Level(x[i]!, scale);
    addThreeBits(out, at + 2, i, q);
    decoded[i] = scale * (q - 4);
  }
  return { scale: Math.abs(scale), isLost: scale === 0 && extreme !== 0 };
}

/** Types whose groups of 32 have one scale, and perhaps a minimum, in f16: what a quantiser that chooses levels itself (passes/) can write. */
export type GroupType = "Q8_0" | "Q4_0" | "Q4_1" | "Q2_32" | "Q3_32";

/** Writes a whole block of 32 codes as stored (Q8_0: -128..127, as two's complement; Q4: 0..15; Q2_32: 0..3; Q3_32: 0..7) with its scale and, in Q4_1, minimum. */
export type BlockWriter = (out: Uint8Array, at: number, scale: number, min: number, codes: ArrayLike<number>) => void;

export const BLOCK_WRITERS: Readonly<Record<GroupType, BlockWriter>> = {
  Q8_0(out, at, scale, _min, codes) {
    setHalf(out, at, scale);
    for (let i = 0; i < 32; i++) out[at + 2 + i] = codes[i]! & 255;
  },
  Q4_0(out, at, scale, _min, codes) {
    setHalf(out, at, scale);
    for (let i = 0; i < 16; i++) out[at + 2 + i] = codes[i]! | (codes[i + 16]! << 4);
  },
  Q4_1(out, at, scale, min, codes) {
    setHalf(out, at, scale);
    setHalf(out, at + 2, min);
    for (let i = 0; i < 16; i++) out[at + 4 + i] = codes[i]! | (codes[i + 16]! << 4);
  },
  Q2_32(out, at, scale, _min, codes) {
    setHalf(out, at, scale);
    out.fill(0, at + 2, at + 10);
    for (let i = 0; i < 32; i++) out[at + 2 + q2Byte(i)]! |= codes[i]! << q2Shift(i);
  },
  Q3_32(out, at, scale, _min, codes) {
    setHalf(out, at, scale);
    out.fill(0, at + 2, at + 14);
    for (let i = 0; i < 32; i++) addThreeBits(out, at + 2, i, codes[i]!);
  },
};

export const BLOCK_ENCODERS: Readonly<Record<QuantizedType, BlockEncoder>> = { Q8_0: q8, Q4_0: q4, Q4_1: q4m, Q4_K: q4k, Q6_K: q6k, MXFP4: mxfp4, Q2_32: q2, Q3_32: q3 };
