// Float32 values to blocks of ggml types: those that the packer itself never writes, and K-quants whose searches would take tests too long. Plain
// roundings, not ggml's searches: tests need valid blocks with sensible values, whatever they cost. Layouts from ggml-common.h, written independently
// of formats/. Refuses nothing.

import type { StoredType } from "../../formats/stored-types.ts";

/** Types that the packer never writes. */
export type WrittenType = Extract<StoredType, "Q5_0" | "Q5_1" | "Q2_K" | "Q3_K" | "Q5_K" | "IQ4_NL" | "IQ4_XS">;
/** With those that it searches for. */
type PlainType = WrittenType | "Q4_K" | "Q6_K";

/** One block of `x` (all of its values) in `out`, which is as long as the block and zero. */
type Writer = (x: Float32Array, out: DataView) => void;

const IQ4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

const clamp = (x: number, low: number, high: number): number => Math.min(high, Math.max(low, x));
const level = (x: number, scale: number, low: number, high: number): number => (scale === 0 ? clamp(0, low, high) : clamp(Math.round(x / scale), low, high));
const runs = (x: Float32Array, length: number): Float32Array[] => Array.from({ length: x.length / length }, (_, i) => x.subarray(i * length, (i + 1) * length));

/** The value of largest magnitude, the first on a tie. */
function extremeOf(x: ArrayLike<number>): number {
  let most = 0;
  for (let i = 0; i < x.length; i++) if (Math.abs(x[i]!) > Math.abs(most)) most = x[i]!;
  return most;
}

/** The lower one on a tie. */
function nearestIq4(x: number): number {
  let best = 0;
  for (let i = 1; i < IQ4.length; i++) if (Math.abs(IQ4[i]! - x) < Math.abs(IQ4[best]! - x)) best = i;
  return best;
}

function orByte(out: DataView, at: number, bits: number): void {
  out.setUint8(at, out.getUint8(at) | bits);
}

/** Value k and k + 16 of each 32 in the nibbles of one byte. */
function nibbles(out: DataView, at: number, values: ArrayLike<number>): void {
  for (let i = 0; i < 16; i++) out.setUint8(at + i, (values[i]! & 15) | ((values[i + 16]! & 15) << 4));
}

function fifthBits(out: DataView, at: number, values: Float32Array): void {
  out.setUint32(at, values.reduce((bits, q, k) => bits | (q >= 16 ? 1 << k : 0), 0) >>> 0, true);
}

/** Writes f16 and returns what it became. */
function half(out: DataView, at: number, value: number): number {
  out.setFloat16(at, value, true);
  return out.getFloat16(at, true);
}

/** Scales and minima of runs, for x = d * sc * q - dmin * m with q up to `top`; sc and m up to `steps`. */
function fitRuns(groups: readonly Float32Array[], top: number, steps: number): { d: number; dmin: number; sc: number[]; m: number[] } {
  const mins = groups.map((g) => -Math.min(0, ...g));
  const scales = groups.map((g, i) => (Math.max(...g) + mins[i]!) / top);
  const d = Math.f16round(Math.max(0, ...scales) / steps);
  const dmin = Math.f16round(Math.max(...mins) / steps);
  return { d, dmin, sc: scales.map((s) => level(s, d, 0, steps)), m: mins.map((m) => level(m, dmin, 0, steps)) };
}

/** The 12 bytes of 6-bit scales and minima of Q4_K and Q5_K. */
function sixBitPairs(out: DataView, at: number, sc: readonly number[], m: readonly number[]): void {
  for (let g = 0; g < 4; g++) {
    out.setUint8(at + g, sc[g]! | ((sc[g + 4]! >> 4) << 6));
    out.setUint8(at + 4 + g, m[g]! | ((m[g + 4]! >> 4) << 6));
    out.setUint8(at + 8 + g, (sc[g + 4]! & 15) | ((m[g + 4]! & 15) << 4));
  }
}

const WRITERS: Readonly<Record<PlainType, { readonly values: number; readonly bytes: number; readonly write: Writer }>> = {
  Q5_0: { values: 32, bytes: 22, write: (x, out) => {
    const d = half(out, 0, extremeOf(x) / -16);
    const q = x.map((v) => level(v, d, -16, 15) + 16);
    fifthBits(out, 2, q);
    nibbles(out, 6, q);
  } },
  Q5_1: { values: 32, bytes: 24, write: (x, out) => {
    const m = half(out, 2, Math.min(...x));
    const d = half(out, 0, (Math.max(...x) - Math.min(...x)) / 31);
    const q = x.map((v) => level(v - m, d, 0, 31));
    fifthBits(out, 4, q);
    nibbles(out, 8, q);
  } },
  Q2_K: { values: 256, bytes: 84, write: (x, out) => {
    const { d, dmin, sc, m } = fitRuns(runs(x, 16), 3, 15);
    half(out, 80, d);
    half(out, 82, dmin);
    for (let step = 0; step < 16; step++) out.setUint8(step, sc[step]! | (m[step]! << 4));
    x.forEach((v, k) => {
      const step = Math.floor(k / 16);
      const q = level(v + dmin * m[step]!, d * sc[step]!, 0, 3);
      orByte(out, 16 + Math.floor(k / 128) * 32 + (k % 32), q << (2 * (Math.floor(k / 32) % 4)));
    });
  } },
  Q3_K: { values: 256, bytes: 110, write: (x, out) => {
    const scales = runs(x, 16).map((g) => extremeOf(g) / -4);
    const d = half(out, 108, extremeOf(scales) / -32);
    const sc = scales.map((s) => level(s, d, -32, 31));
    sc.forEach((s, step) => {
      orByte(out, 96 + (step % 8), ((s + 32) & 15) << (step < 8 ? 0 : 4));
      orByte(out, 104 + (step % 4), ((s + 32) >> 4) << (2 * Math.floor(step / 4)));
    });
    x.forEach((v, k) => {
      const q = level(v, d * sc[Math.floor(k / 16)]!, -4, 3) + 4;
      orByte(out, 32 + Math.floor(k / 128) * 32 + (k % 32), (q & 3) << (2 * (Math.floor(k / 32) % 4)));
      if (q >= 4) orByte(out, k % 32, 1 << Math.floor(k / 32));
    });
  } },
  Q4_K: { values: 256, bytes: 144, write: (x, out) => {
    const { d, dmin, sc, m } = fitRuns(runs(x, 32), 15, 63);
    half(out, 0, d);
    half(out, 2, dmin);
    sixBitPairs(out, 4, sc, m);
    x.forEach((v, k) => {
      const g = Math.floor(k / 32);
      orByte(out, 16 + Math.floor(k / 64) * 32 + (k % 32), level(v + dmin * m[g]!, d * sc[g]!, 0, 15) << (4 * (g % 2)));
    });
  } },
  Q5_K: { values: 256, bytes: 176, write: (x, out) => {
    const { d, dmin, sc, m } = fitRuns(runs(x, 32), 31, 63);
    half(out, 0, d);
    half(out, 2, dmin);
    sixBitPairs(out, 4, sc, m);
    x.forEach((v, k) => {
      const g = Math.floor(k / 32);
      const q = level(v + dmin * m[g]!, d * sc[g]!, 0, 31);
      orByte(out, 48 + Math.floor(k / 64) * 32 + (k % 32), (q & 15) << (4 * (g % 2)));
      if (q >= 16) orByte(out, 16 + (k % 32), 1 << g);
    });
  } },
  Q6_K: { values: 256, bytes: 210, write: (x, out) => {
    const scales = runs(x, 16).map((g) => extremeOf(g) / -32);
    const d = half(out, 208, extremeOf(scales) / -128);
    const sc = scales.map((s) => level(s, d, -128, 127));
    sc.forEach((s, step) => out.setInt8(192 + step, s));
    x.forEach((v, k) => {
      const q = level(v, d * sc[Math.floor(k / 16)]!, -32, 31) + 32;
      const [part, at] = [Math.floor(k / 128), k % 32];
      const quarter = Math.floor(k / 32) % 4;
      orByte(out, part * 64 + at + 32 * (quarter % 2), (q & 15) << (4 * (quarter >> 1)));
      orByte(out, 128 + part * 32 + at, (q >> 4) << (2 * quarter));
    });
  } },
  IQ4_NL: { values: 32, bytes: 18, write: (x, out) => {
    const d = half(out, 0, extremeOf(x) / -127);
    nibbles(out, 2, x.map((v) => nearestIq4(d === 0 ? 0 : v / d)));
  } },
  IQ4_XS: { values: 256, bytes: 136, write: (x, out) => {
    const groups = runs(x, 32);
    const scales = groups.map((g) => extremeOf(g) / -127);
    const d = half(out, 0, extremeOf(scales) / -32);
    let high = 0;
    groups.forEach((g, i) => {
      const sc = level(scales[i]!, d, -32, 31);
      orByte(out, 4 + Math.floor(i / 2), ((sc + 32) & 15) << (4 * (i % 2)));
      high |= ((sc + 32) >> 4) << (2 * i);
      nibbles(out, 8 + 16 * i, g.map((v) => nearestIq4(d * sc === 0 ? 0 : v / (d * sc))));
    });
    out.setUint16(2, high, true);
  } },
};

export const isWrittenType = (type: StoredType): type is PlainType => type in WRITERS;

/** Row-major stored bytes of f32 [nRows, nCols]; a last block that a row does not fill is filled with zeros. */
export function writeBlocks(type: PlainType, values: Float32Array, nRows: number, nCols: number): Uint8Array {
  const { values: blockValues, bytes, write } = WRITERS[type];
  const perRow = Math.ceil(nCols / blockValues);
  const out = new Uint8Array(nRows * perRow * bytes);
  for (let r = 0; r < nRows; r++) {
    for (let b = 0; b < perRow; b++) {
      const x = new Float32Array(blockValues);
      x.set(values.subarray(r * nCols + b * blockValues, r * nCols + Math.min(nCols, (b + 1) * blockValues)));
      write(x, new DataView(out.buffer, (r * perRow + b) * bytes, bytes));
    }
  }
  return out;
}
