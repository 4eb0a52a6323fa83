// The values of latent attention, docs/arithmetic.md section 8: a key's first latentDim dims are its value, so a K block is turned into what the value
// products read, once for all queries that go through the block together. f32 and f16 values lie in runs of LATENT_RUN dims, each [32][its dims],
// so that a run stays in the L1 cache; q8 values as the tiles of a V block, whose scales are those of K.
// Refuses to change a value: bytes move, nothing is computed. latentDim is a multiple of 4, of 32 for q8.

import { KV_F16, KV_Q8, TILE_BYTES } from "./kv-cache";

/** Dims that lie together; the last run may have fewer. */
export const LATENT_RUN: usize = 32;

/** Four dims (rows of 128 bytes) of 32 positions to [32][..4..], rows `stride` bytes apart. */
@inline
function turnFloats(from: usize, to: usize, stride: usize): void {
  for (let j: usize = 0; j < 128; j += 16) {
    const a = v128.load(from + j), b = v128.load(from + j, 128), c = v128.load(from + j, 256), d = v128.load(from + j, 384);
    const ab = v128.shuffle<i32>(a, b, 0, 4, 1, 5), cd = v128.shuffle<i32>(c, d, 0, 4, 1, 5);
    const ef = v128.shuffle<i32>(a, b, 2, 6, 3, 7), gh = v128.shuffle<i32>(c, d, 2, 6, 3, 7);
    v128.store(to, v128.shuffle<i64>(ab, cd, 0, 2));
    v128.store(to + stride, v128.shuffle<i64>(ab, cd, 1, 3));
    v128.store(to + 2 * stride, v128.shuffle<i64>(ef, gh, 0, 2));
    v128.store(to + 3 * stride, v128.shuffle<i64>(ef, gh, 1, 3));
    to += stride << 2;
  }
}

/** The same of f16: rows of 64 bytes. */
@inline
function turnHalves(from: usize, to: usize, stride: usize): void {
  for (let j: usize = 0; j < 64; j += 16) {
    const a = v128.load(from + j), b = v128.load(from + j, 64), c = v128.load(from + j, 128), d = v128.load(from + j, 192);
    const ab = v128.shuffle<i16>(a, b, 0, 8, 1, 9, 2, 10, 3, 11), cd = v128.shuffle<i16>(c, d, 0, 8, 1, 9, 2, 10, 3, 11);
    const ef = v128.shuffle<i16>(a, b, 4, 12, 5, 13, 6, 14, 7, 15), gh = v128.shuffle<i16>(c, d, 4, 12, 5, 13, 6, 14, 7, 15);
    const first = v128.shuffle<i32>(ab, cd, 0, 4, 1, 5), second = v128.shuffle<i32>(ab, cd, 2, 6, 3, 7);
    const third = v128.shuffle<i32>(ef, gh, 0, 4, 1, 5), fourth = v128.shuffle<i32>(ef, gh, 2, 6, 3, 7);
    v128.store64_lane(to, first, 0);
    v128.store64_lane(to + stride, first, 1);
    v128.store64_lane(to + 2 * stride, second, 0);
    v128.store64_lane(to + 3 * stride, second, 1);
    v128.store64_lane(to + 4 * stride, third, 0);
    v128.store64_lane(to + 5 * stride, third, 1);
    v128.store64_lane(to + 6 * stride, fourth, 0);
    v128.store64_lane(to + 7 * stride, fourth, 1);
    to += stride << 3;
  }
}

/** A K tile to a V tile: each 4 x 4 bytes of positions and dims turned over. */
@inline
function turnTile(from: usize, to: usize): void {
  for (let dims: usize = 0; dims < 8; dims++) {
    for (let positions: usize = 0; positions < 8; positions++) {
      const v = v128.load(from + (dims << 7) + (positions << 4));
      v128.store(to + (positions << 7) + (dims << 4), v128.shuffle<i8>(v, v, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    }
  }
}

/** The values of the keys at `keys` (of a q8 block: its K tiles) to `values`. */
export function turnKeys(kvFormat: i32, keys: usize, latentDim: usize, values: usize): void {
  if (kvFormat == KV_Q8) {
    for (let d: usize = 0; d < latentDim; d += 32) turnTile(keys + (d >> 5) * TILE_BYTES, values + (d >> 5) * TILE_BYTES);
    return;
  }
  const shift: usize = kvFormat == KV_F16 ? 1 : 2;
  for (let run: usize = 0; run < latentDim; run += LATENT_RUN) {
    const stride = min<usize>(LATENT_RUN, latentDim - run) << shift;
    for (let at: usize = 0; at < stride; at += <usize>4 << shift) {
      const from = keys + (((run << shift) + at) << 5), to = values + ((run << shift) << 5) + at;
      if (kvFormat == KV_F16) turnHalves(from, to, stride);
      else turnFloats(from, to, stride);
    }
  }
}
