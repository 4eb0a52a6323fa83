// Writing the KV cache and attending over it, docs/arithmetic.md section 8. Blocks of 32 positions by absolute position;
// K lies as [headDim][32] so that four lanes are four keys, V as [32][headDim] so that four lanes are four dimensions.
// Refuses to let masked keys take part: they are left out of every sum, never multiplied by zero.

import { HALF_FIX, HALF_MASK, SCORE_BUFFER } from "./constants";
import { exp1, exp4, halfBits, loadHalf, loadHalf4 } from "./floats";

const F16: i32 = 1;

export function kvWrite(
  kvFormat: i32, k: usize, v: usize, rowStride: usize, nTokens: i32, nKvHeads: i32, headDim: usize,
  pages: usize, layerOffset: usize, positions: usize,
): void {
  const size: usize = kvFormat == F16 ? 2 : 4;
  const half = headDim * 32 * size;
  for (let t: usize = 0; t < <usize>nTokens; t++) {
    const slot = <usize>(load<u32>(positions + (t << 2)) & 31);
    let keys = <usize>load<u32>(pages + (t << 2)) + layerOffset;
    for (let h: usize = 0; h < <usize>nKvHeads; h++) {
      const from = t * rowStride + h * (headDim << 2);
      const keyAt = keys + slot * size, valueAt = keys + half + slot * headDim * size;
      if (kvFormat == F16) {
        for (let d: usize = 0; d < headDim; d++) {
          store<u16>(keyAt + (d << 6), <u16>halfBits(load<f32>(k + from + (d << 2))));
          store<u16>(valueAt + (d << 1), <u16>halfBits(load<f32>(v + from + (d << 2))));
        }
      } else {
        for (let d: usize = 0; d < headDim; d++) store<f32>(keyAt + (d << 7), load<f32>(k + from + (d << 2)));
        memory.copy(valueAt, v + from, headDim << 2);
      }
      keys += 2 * half;
    }
  }
}

@inline
function load4(at: usize, half: bool, mask: v128, factor: v128, limit: v128, infinity: v128, magnitude: v128): v128 {
  return half ? loadHalf4(at, mask, factor, limit, infinity, magnitude) : v128.load(at);
}

/** Scaled scores of one query with the 32 keys of a block, into SCORE_BUFFER. Slots never written give garbage lanes, masked by the caller. */
@inline
function scoreBlock(q: usize, k: usize, headDim: usize, scale: f32, half: bool): void {
  const mask = v128.load(HALF_MASK), factor = v128.load(HALF_FIX), limit = v128.load(HALF_FIX, 16);
  const infinity = v128.load(HALF_FIX, 32), magnitude = v128.load(HALF_FIX, 48);
  let s0 = f32x4.splat(0), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
  const step: usize = half ? 8 : 16;
  const end = q + (headDim << 2);
  for (; q < end; q += 4) {
    const x = v128.load32_splat(q);
    s0 = f32x4.add(s0, f32x4.mul(x, load4(k, half, mask, factor, limit, infinity, magnitude)));
    s1 = f32x4.add(s1, f32x4.mul(x, load4(k + step, half, mask, factor, limit, infinity, magnitude)));
    s2 = f32x4.add(s2, f32x4.mul(x, load4(k + 2 * step, half, mask, factor, limit, infinity, magnitude)));
    s3 = f32x4.add(s3, f32x4.mul(x, load4(k + 3 * step, half, mask, factor, limit, infinity, magnitude)));
    s4 = f32x4.add(s4, f32x4.mul(x, load4(k + 4 * step, half, mask, factor, limit, infinity, magnitude)));
    s5 = f32x4.add(s5, f32x4.mul(x, load4(k + 5 * step, half, mask, factor, limit, infinity, magnitude)));
    s6 = f32x4.add(s6, f32x4.mul(x, load4(k + 6 * step, half, mask, factor, limit, infinity, magnitude)));
    s7 = f32x4.add(s7, f32x4.mul(x, load4(k + 7 * step, half, mask, factor, limit, infinity, magnitude)));
    k += 8 * step;
  }
  const f = f32x4.splat(scale);
  v128.store(SCORE_BUFFER, f32x4.mul(s0, f));
  v128.store(SCORE_BUFFER, f32x4.mul(s1, f), 16);
  v128.store(SCORE_BUFFER, f32x4.mul(s2, f), 32);
  v128.store(SCORE_BUFFER, f32x4.mul(s3, f), 48);
  v128.store(SCORE_BUFFER, f32x4.mul(s4, f), 64);
  v128.store(SCORE_BUFFER, f32x4.mul(s5, f), 80);
  v128.store(SCORE_BUFFER, f32x4.mul(s6, f), 96);
  v128.store(SCORE_BUFFER, f32x4.mul(s7, f), 112);
}

/** o = o * c, then o = o + p_j * v[j] for j in [low, high], 16 dimensions at a time, then 4, then 1. */
@inline
function valueBlock(o: usize, v: usize, headDim: usize, c: f32, low: usize, high: usize, half: bool): void {
  const mask = v128.load(HALF_MASK), factor = v128.load(HALF_FIX), limit = v128.load(HALF_FIX, 16);
  const infinity = v128.load(HALF_FIX, 32), magnitude = v128.load(HALF_FIX, 48);
  const size: usize = half ? 2 : 4;
  const rowBytes = headDim * size;
  const cs = f32x4.splat(c);
  const pEnd = SCORE_BUFFER + (high << 2);
  let d: usize = 0;
  for (; d + 16 <= headDim; d += 16) {
    const at = o + (d << 2);
    let o0 = f32x4.mul(v128.load(at), cs), o1 = f32x4.mul(v128.load(at, 16), cs);
    let o2 = f32x4.mul(v128.load(at, 32), cs), o3 = f32x4.mul(v128.load(at, 48), cs);
    let row = v + low * rowBytes + d * size;
    for (let p = SCORE_BUFFER + (low << 2); p <= pEnd; p += 4) {
      const x = v128.load32_splat(p);
      o0 = f32x4.add(o0, f32x4.mul(x, load4(row, half, mask, factor, limit, infinity, magnitude)));
      o1 = f32x4.add(o1, f32x4.mul(x, load4(row + 4 * size, half, mask, factor, limit, infinity, magnitude)));
      o2 = f32x4.add(o2, f32x4.mul(x, load4(row + 8 * size, half, mask, factor, limit, infinity, magnitude)));
      o3 = f32x4.add(o3, f32x4.mul(x, load4(row + 12 * size, half, mask, factor, limit, infinity, magnitude)));
      row += rowBytes;
    }
    v128.store(at, o0);
    v128.store(at, o1, 16);
    v128.store(at, o2, 32);
    v128.store(at, o3, 48);
  }
  for (; d + 4 <= headDim; d += 4) {
    const at = o + (d << 2);
    let sum = f32x4.mul(v128.load(at), cs);
    let row = v + low * rowBytes + d * size;
    for (let p = SCORE_BUFFER + (low << 2); p <= pEnd; p += 4) {
      sum = f32x4.add(sum, f32x4.mul(v128.load32_splat(p), load4(row, half, mask, factor, limit, infinity, magnitude)));
      row += rowBytes;
    }
    v128.store(at, sum);
  }
  for (; d < headDim; d++) {
    const at = o + (d << 2);
    let sum = load<f32>(at) * c;
    let row = v + low * rowBytes + d * size;
    for (let p = SCORE_BUFFER + (low << 2); p <= pEnd; p += 4) {
      sum = sum + load<f32>(p) * (half ? loadHalf(row) : load<f32>(row));
      row += rowBytes;
    }
    store<f32>(at, sum);
  }
}

function scoreBlockF32(q: usize, k: usize, headDim: usize, scale: f32): void { scoreBlock(q, k, headDim, scale, false); }
function scoreBlockF16(q: usize, k: usize, headDim: usize, scale: f32): void { scoreBlock(q, k, headDim, scale, true); }
function valueBlockF32(o: usize, v: usize, headDim: usize, c: f32, low: usize, high: usize): void { valueBlock(o, v, headDim, c, low, high, false); }
function valueBlockF16(o: usize, v: usize, headDim: usize, c: f32, low: usize, high: usize): void { valueBlock(o, v, headDim, c, low, high, true); }

/** One query head. `out` holds the running sums o[d] until the last block. */
function attendHead(
  kvFormat: i32, q: usize, out: usize, headDim: usize, pageTable: usize, headOffset: usize,
  position: u32, first: u32, scale: f32, sink: usize,
): void {
  const half = headDim * 32 * <usize>(kvFormat == F16 ? 2 : 4);
  let m: f32 = -Infinity;
  let l = f32x4.splat(0);
  if (sink != 0) {
    m = load<f32>(sink);
    l = f32x4.replace_lane(l, 0, 1);
  }
  memory.fill(out, 0, headDim << 2);
  const lastBlock = position >> 5;
  for (let block = first >> 5; block <= lastBlock; block++) {
    const keys = <usize>load<u32>(pageTable + (<usize>block << 2)) + headOffset;
    const base = block << 5;
    const low = <usize>(first > base ? first - base : 0);
    const high = <usize>(block == lastBlock ? position - base : 31);
    if (kvFormat == F16) scoreBlockF16(q, keys, headDim, scale);
    else scoreBlockF32(q, keys, headDim, scale);
    // Masked lanes become -Infinity: no maximum, and probability +0, which changes no lane of L.
    for (let j: usize = 0; j < low; j++) store<f32>(SCORE_BUFFER + (j << 2), -Infinity);
    for (let j = high + 1; j < 32; j++) store<f32>(SCORE_BUFFER + (j << 2), -Infinity);
    let ms = v128.load(SCORE_BUFFER);
    for (let i: usize = 16; i < 128; i += 16) ms = f32x4.max(ms, v128.load(SCORE_BUFFER + i));
    const newM = max<f32>(
      max<f32>(m, max<f32>(f32x4.extract_lane(ms, 0), f32x4.extract_lane(ms, 1))),
      max<f32>(f32x4.extract_lane(ms, 2), f32x4.extract_lane(ms, 3)),
    );
    const c = exp1(m - newM);
    m = newM;
    l = f32x4.mul(l, f32x4.splat(c));
    ms = f32x4.splat(m);
    for (let i: usize = 0; i < 128; i += 16) {
      const p = exp4(f32x4.sub(v128.load(SCORE_BUFFER + i), ms));
      v128.store(SCORE_BUFFER + i, p);
      l = f32x4.add(l, p);
    }
    if (kvFormat == F16) valueBlockF16(out, keys + half, headDim, c, low, high);
    else valueBlockF32(out, keys + half, headDim, c, low, high);
  }
  const sum = (f32x4.extract_lane(l, 0) + f32x4.extract_lane(l, 1)) + (f32x4.extract_lane(l, 2) + f32x4.extract_lane(l, 3));
  for (let d: usize = 0; d < headDim; d++) store<f32>(out + (d << 2), load<f32>(out + (d << 2)) / sum);
}

export function attention(
  kvFormat: i32, q: usize, out: usize, rowStride: usize, nTokens: i32, nHeads: i32, nKvHeads: i32, headDim: usize,
  pageTables: usize, layerOffset: usize, positions: usize, scale: f32, window: i32, sinks: usize,
): void {
  const headsPerKv = nHeads / nKvHeads;
  const kvHeadBytes = headDim * 64 * <usize>(kvFormat == F16 ? 2 : 4);
  for (let t: usize = 0; t < <usize>nTokens; t++) {
    const position = load<u32>(positions + (t << 2));
    const pageTable = <usize>load<u32>(pageTables + (t << 2));
    const first: u32 = window > 0 && position >= <u32>window ? position - <u32>window + 1 : 0;
    for (let h = 0; h < nHeads; h++) {
      const at = t * rowStride + <usize>h * (headDim << 2);
      attendHead(kvFormat, q + at, out + at, headDim, pageTable, layerOffset + <usize>(h / headsPerKv) * kvHeadBytes,
        position, first, scale, sinks == 0 ? 0 : sinks + (<usize>h << 2));
    }
  }
}
