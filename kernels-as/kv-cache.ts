// Writing the KV cache, docs/arithmetic.md section 8: f32 and f16 blocks as [headDim][32] and [32][headDim], q8 blocks as tiles of int8
// behind the bf16 scales of all their positions and groups of 32 dims; with latent attention keys alone.
// Refuses values beyond the range of q8 by marking the group NaN, never by clamping.

import { GROUP_BUFFER } from "./constants";
import { halfBits, halves8 } from "./floats";

export const KV_F16: i32 = 1;
export const KV_Q8: i32 = 2;
/** Bytes of the 32 scales of a group, and of its tile of 32 x 32 values. */
export const SCALES_BYTES: usize = 64;
export const TILE_BYTES: usize = 1024;

const MAGIC_BITS: i32 = 0x4b400000; // 1.5 * 2^23: adding it to |x| < 2^22 rounds x to nearest-even into the low bits
const BRAIN_NAN: u16 = 0x7fc0;

/** Bytes of the K block, and of the V block, of one kv head. */
@inline
export function kvBlockBytes(kvFormat: i32, headDim: usize): usize {
  return kvFormat == KV_Q8 ? ((headDim + 31) >> 5) * (SCALES_BYTES + TILE_BYTES) : headDim << (kvFormat == KV_F16 ? 6 : 7);
}

/** The largest magnitude of 32 f32, NaN above all: magnitudes compare as integers. */
@inline
function largestOf32(x: usize): f32 {
  let a = f32x4.abs(v128.load(x));
  for (let i: usize = 16; i < 128; i += 16) a = i32x4.max_s(a, f32x4.abs(v128.load(x + i)));
  a = i32x4.max_s(a, v128.shuffle<i32>(a, a, 2, 3, 0, 1));
  a = i32x4.max_s(a, v128.shuffle<i32>(a, a, 1, 0, 3, 2));
  return f32x4.extract_lane(a, 0);
}

/** 32 f32 at `x` to 32 int8 in place (the first 32 bytes); returns the bf16 scale. */
function quantizeKvGroup(x: usize): u16 {
  const amax = largestOf32(x);
  if (amax < <f32>1e-30 || !(amax < <f32>8323072)) {
    memory.fill(x, 0, 32);
    return amax < <f32>1e-30 ? 0 : BRAIN_NAN;
  }
  const scale = (reinterpret<u32>(amax / <f32>127) + 0xffff) & 0xffff0000; // rounded up, so that no value exceeds 127
  const inverse = f32x4.splat(<f32>1 / reinterpret<f32>(scale));
  const magic = i32x4.splat(MAGIC_BITS);
  for (let i: usize = 0; i < 32; i += 4) {
    const q = i32x4.sub(f32x4.add(f32x4.mul(v128.load(x + (i << 2)), inverse), magic), magic);
    v128.store32_lane(x + i, i8x16.narrow_i16x8_s(i16x8.narrow_i32x4_s(q, q), i16x8.narrow_i32x4_s(q, q)), 0);
  }
  return <u16>(scale >> 16);
}

/** One position of one kv head into the block at `at`: scales of K, scales of V, tiles of K, tiles of V; nParts 1 = K alone. */
function writeTiles(k: usize, v: usize, nParts: usize, headDim: usize, slot: usize, at: usize): void {
  const nGroups = (headDim + 31) >> 5;
  let scales = at + (slot << 1), tile = at + nParts * nGroups * SCALES_BYTES;
  for (let isValue = 0; isValue < <i32>nParts; isValue++) {
    for (let d: usize = 0; d < headDim; d += 32) {
      memory.fill(GROUP_BUFFER, 0, 128);
      memory.copy(GROUP_BUFFER, (isValue ? v : k) + (d << 2), min<usize>(32, headDim - d) << 2);
      store<u16>(scales, quantizeKvGroup(GROUP_BUFFER));
      if (isValue) {
        const to = tile + ((slot >> 2) << 7) + (slot & 3);
        for (let i: usize = 0; i < 32; i++) store<u8>(to + (i << 2), load<u8>(GROUP_BUFFER + i));
      } else {
        const to = tile + (slot << 2);
        for (let i: usize = 0; i < 8; i++) store<u32>(to + (i << 7), load<u32>(GROUP_BUFFER + (i << 2)));
      }
      scales += SCALES_BYTES;
      tile += TILE_BYTES;
    }
  }
}

/** One position of one kv head as a column of an f16 K block. */
function writeHalfColumn(k: usize, headDim: usize, key: usize): void {
  let d: usize = 0;
  for (; d + 8 <= headDim; d += 8) {
    const from = d << 2;
    const keys = halves8(v128.load(k + from), v128.load(k + from, 16));
    v128.store16_lane(key, keys, 0);
    v128.store16_lane(key, keys, 1, 64);
    v128.store16_lane(key, keys, 2, 128);
    v128.store16_lane(key, keys, 3, 192);
    v128.store16_lane(key, keys, 4, 256);
    v128.store16_lane(key, keys, 5, 320);
    v128.store16_lane(key, keys, 6, 384);
    v128.store16_lane(key, keys, 7, 448);
    key += 512;
  }
  for (; d < headDim; d++) {
    store<u16>(key, <u16>halfBits(load<f32>(k + (d << 2))));
    key += 64;
  }
}

/** One position of one kv head as a row of an f16 V block. */
function writeHalfRow(v: usize, headDim: usize, value: usize): void {
  let d: usize = 0;
  for (; d + 8 <= headDim; d += 8) {
    const from = d << 2;
    v128.store(value, halves8(v128.load(v + from), v128.load(v + from, 16)));
    value += 16;
  }
  for (; d < headDim; d++) {
    store<u16>(value, <u16>halfBits(load<f32>(v + (d << 2))));
    value += 2;
  }
}

/** Head by head: the keys of one head's block lie 64 bytes or more apart, so its lines are to stay in the cache from position to position. */
export function kvWrite(
  kvFormat: i32, k: usize, v: usize, rowStride: usize, nTokens: i32, nKvHeads: i32, headDim: usize,
  pages: usize, layerOffset: usize, positions: usize,
): void {
  const half = kvBlockBytes(kvFormat, headDim);
  const nParts: usize = v == 0 ? 1 : 2;
  for (let h: usize = 0; h < <usize>nKvHeads; h++) {
    let from = h * (headDim << 2);
    for (let t: usize = 0; t < <usize>nTokens; t++) {
      const slot = <usize>(load<u32>(positions + (t << 2)) & 31);
      const keys = <usize>load<u32>(pages + (t << 2)) + layerOffset + h * nParts * half;
      const values = keys + half;
      if (kvFormat == KV_Q8) {
        writeTiles(k + from, v + from, nParts, headDim, slot, keys);
      } else if (kvFormat == KV_F16) {
        writeHalfColumn(k + from, headDim, keys + (slot << 1));
        if (v != 0) writeHalfRow(v + from, headDim, values + slot * (headDim << 1));
      } else {
        const keyAt = keys + (slot << 2);
        for (let d: usize = 0; d < headDim; d++) store<f32>(keyAt + (d << 7), load<f32>(k + from + (d << 2)));
        if (v != 0) memory.copy(values + slot * (headDim << 2), v + from, headDim << 2);
      }
      from += rowStride;
    }
  }
}
