// Packs of attention over a q8 cache: queries and weights of m = 1, 2, 4 or 8 rows, in the order in which attention-products.ts broadcasts
// them. Per group: m f32 scales (rounded up to 16 bytes), then 8 steps of m x {4 bytes, 4 bytes}. docs/arithmetic.md section 8.
// Refuses to live longer than a call: a pack is scratch, no stored format.

import { ONE_QUERY_LAYOUT, ONE_WEIGHT_LAYOUT, QUERIES_LAYOUT, WEIGHTS_LAYOUT } from "./attention-products";
import { LOW_SEVEN } from "./constants";

const SPLIT: i32 = 0;
const SIGN: i32 = 1;
const HALVES: i32 = 3;
const MAGIC_BITS: i32 = 0x4b400000; // as in kv-cache.ts

@inline
export function packHeadBytes(m: usize): usize { return (m + 3) >> 2 << 4; }
@inline
export function packGroupBytes(m: usize): usize { return packHeadBytes(m) + (m << 6); }

/** Four steps of one row: lane i of `first` and of `second` belongs to step i. */
@inline
function storeSteps(to: usize, stride: usize, first: v128, second: v128): void {
  const a = v128.shuffle<i32>(first, second, 0, 4, 1, 5), b = v128.shuffle<i32>(first, second, 2, 6, 3, 7);
  v128.store64_lane(to, a, 0);
  v128.store64_lane(to + stride, a, 1);
  v128.store64_lane(to + 2 * stride, b, 0);
  v128.store64_lane(to + 3 * stride, b, 1);
}

/** Four steps (16 columns) of a query. */
@inline
function storeQuery(layout: i32, to: usize, stride: usize, v: v128): void {
  if (layout == SPLIT) {
    const zero = i64x2.splat(0);
    storeSteps(to, stride, i8x16.max_s(v, zero), i8x16.max_s(i8x16.neg(v), zero));
  } else if (layout == SIGN) {
    storeSteps(to, stride, i8x16.abs(v), i8x16.shr_s(v, 7));
  } else {
    storeSteps(to, stride, i16x8.shr_s(i16x8.shl(v, 8), 8), i16x8.shr_s(v, 8));
  }
}

/** Row `t` of m: a qa8 row of nGroups at `q`. */
export function packQuery(q: usize, nGroups: usize, t: usize, m: usize, out: usize): void {
  const stride = m << 3;
  let scale = q + (nGroups << 5);
  for (let g: usize = 0; g < nGroups; g++) {
    store<f32>(out + (t << 2), load<f32>(scale));
    let to = out + packHeadBytes(m) + (t << 3);
    for (let half: usize = 0; half < 32; half += 16) {
      if (m == 1) storeQuery(ONE_QUERY_LAYOUT, to, stride, v128.load(q + half));
      else storeQuery(QUERIES_LAYOUT, to, stride, v128.load(q + half));
      to += stride << 2;
    }
    q += 32;
    scale += 4;
    out += packGroupBytes(m);
  }
}

@inline
function scaled(p: usize, scales: usize): v128 {
  return f32x4.mul(v128.load(p), i32x4.shl(v128.load16x4_u(scales), 16));
}

/** Eight weights as i16 0..16383. */
@inline
function round8(a: v128, b: v128, inverse: v128, magic: v128): v128 {
  return i16x8.narrow_i32x4_s(
    i32x4.sub(f32x4.add(f32x4.mul(a, inverse), magic), magic),
    i32x4.sub(f32x4.add(f32x4.mul(b, inverse), magic), magic),
  );
}

@inline
function storeWeights(layout: i32, to: usize, stride: usize, a: v128, b: v128): void {
  if (layout == HALVES) {
    const low = v128.load(LOW_SEVEN);
    storeSteps(to, stride, i8x16.narrow_i16x8_s(i16x8.shr_u(a, 7), i16x8.shr_u(b, 7)), i8x16.narrow_i16x8_s(v128.and(a, low), v128.and(b, low)));
  } else {
    storeSteps(to, stride, v128.shuffle<i16>(a, b, 0, 2, 4, 6, 8, 10, 12, 14), v128.shuffle<i16>(a, b, 1, 3, 5, 7, 9, 11, 13, 15));
  }
}

/** Row `t` of m of one dim group: 32 probabilities at `p` times 32 bf16 scales, in 14 bits. */
export function packWeights(p: usize, scales: usize, t: usize, m: usize, out: usize): void {
  const w0 = scaled(p, scales), w1 = scaled(p + 16, scales + 8), w2 = scaled(p + 32, scales + 16), w3 = scaled(p + 48, scales + 24);
  const w4 = scaled(p + 64, scales + 32), w5 = scaled(p + 80, scales + 40), w6 = scaled(p + 96, scales + 48), w7 = scaled(p + 112, scales + 56);
  // No weight is negative, and a NaN of either sign is the largest of all unsigned integers here.
  let a = i32x4.max_u(i32x4.max_u(i32x4.max_u(w0, w1), i32x4.max_u(w2, w3)), i32x4.max_u(i32x4.max_u(w4, w5), i32x4.max_u(w6, w7)));
  a = i32x4.max_u(a, v128.shuffle<i32>(a, a, 2, 3, 0, 1));
  a = i32x4.max_u(a, v128.shuffle<i32>(a, a, 1, 0, 3, 2));
  const amax = f32x4.extract_lane(a, 0);
  const to = out + packHeadBytes(m) + (t << 3), stride = m << 3;
  if (amax < <f32>1e-30 || !(amax < <f32>8323072)) {
    store<f32>(out + (t << 2), amax < <f32>1e-30 ? <f32>0 : <f32>NaN);
    for (let i: usize = 0; i < 8; i++) store<u64>(to + i * stride, 0);
    return;
  }
  store<f32>(out + (t << 2), amax / <f32>16383);
  const inverse = f32x4.splat(<f32>16383 / amax);
  const magic = i32x4.splat(MAGIC_BITS);
  const a0 = round8(w0, w1, inverse, magic), a1 = round8(w2, w3, inverse, magic);
  const a2 = round8(w4, w5, inverse, magic), a3 = round8(w6, w7, inverse, magic);
  if (m == 1) {
    storeWeights(ONE_WEIGHT_LAYOUT, to, stride, a0, a1);
    storeWeights(ONE_WEIGHT_LAYOUT, to + (stride << 2), stride, a2, a3);
  } else {
    storeWeights(WEIGHTS_LAYOUT, to, stride, a0, a1);
    storeWeights(WEIGHTS_LAYOUT, to + (stride << 2), stride, a2, a3);
  }
}
