// Activation packs: 1, 2, 4 or 8 activation rows interleaved in the order in which a product reads them.
// Owns the three int8 pack layouts and the f32 one. A pack lives in scratch and only for one call; it is no stored format.
// Per group of 32 k an int8 pack holds, for M tokens: M x {f32 scale * 2^112, i32 correction}, then per step of 4 k and per token
// the bytes a product broadcasts. The factor 2^112 makes up for reading f16 weight scales as f32 bits (HALF_MASK); both factors
// are powers of two within range, so the product of the two scales keeps every bit of the definition.

import { HALF_FIX, ONES } from "./constants";

const SCALE_FACTOR_AT: usize = HALF_FIX; // 2^112

/** Bytes of one group in each layout for `m` tokens. */
@inline
export function pairsGroupBytes(m: usize): usize { return 40 * m; }
@inline
export function splitGroupBytes(m: usize): usize { return 72 * m; }
@inline
export function wideGroupBytes(m: usize): usize { return 72 * m; }

/** -8 times the sum of 32 int8, as i32: what the offset 8 of q4's nibbles adds. */
@inline
function nibbleCorrection(low: v128, high: v128): i32 {
  let s = i32x4.dot_i16x8_s(
    i16x8.add(i16x8.extadd_pairwise_i8x16_s(low), i16x8.extadd_pairwise_i8x16_s(high)), v128.load(ONES));
  s = i32x4.add(s, v128.shuffle<i32>(s, s, 2, 3, 0, 1));
  return (i32x4.extract_lane(s, 0) + i32x4.extract_lane(s, 1)) * -8;
}

/** The same as two i16, for k & 3 < 2 and for k & 3 >= 2: the starting value of i16 accumulators. It may wrap on the way, not at the end. */
@inline
function nibbleCorrection16(low: v128, high: v128): i32 {
  let s = i16x8.add(i16x8.extadd_pairwise_i8x16_s(low), i16x8.extadd_pairwise_i8x16_s(high));
  s = i16x8.add(s, v128.shuffle<i32>(s, s, 2, 3, 0, 1));
  s = i16x8.add(s, v128.shuffle<i32>(s, s, 1, 0, 3, 2));
  return i32x4.extract_lane(i16x8.shl(i16x8.neg(s), 3), 0);
}

/** q4, relaxed dots: per step kk 0..3 and token 8 bytes, k = 4 kk.. and k = 16 + 4 kk.. */
@inline
export function packPairs(acts: usize, m: usize, nGroups: usize, out: usize, lanes16: bool): void {
  const groupBytes = pairsGroupBytes(m);
  const step = m << 3;
  for (let t: usize = 0; t < m; t++) {
    let q = <usize>load<u32>(acts + (t << 2));
    let scale = q + (nGroups << 5);
    let to = out + (t << 3);
    const factor = load<f32>(SCALE_FACTOR_AT);
    for (let g: usize = 0; g < nGroups; g++) {
      const low = v128.load(q), high = v128.load(q, 16);
      store<f32>(to, load<f32>(scale) * factor);
      store<i32>(to, lanes16 ? nibbleCorrection16(low, high) : nibbleCorrection(low, high), 4);
      const a = v128.shuffle<i32>(low, high, 0, 4, 1, 5);
      const b = v128.shuffle<i32>(low, high, 2, 6, 3, 7);
      v128.store64_lane(to + step, a, 0);
      v128.store64_lane(to + 2 * step, a, 1);
      v128.store64_lane(to + 3 * step, b, 0);
      v128.store64_lane(to + 4 * step, b, 1);
      q += 32;
      scale += 4;
      to += groupBytes;
    }
  }
}

/**
 * q8, relaxed dots: the values split by sign into p = max(a, 0) and n = max(-a, 0), both 0..127, which every engine multiplies alike.
 * Per step kk 0..7 and token 8 bytes: p of k = 4 kk.., then n.
 */
export function packSplit(acts: usize, m: usize, nGroups: usize, out: usize): void {
  const groupBytes = splitGroupBytes(m);
  const step = m << 3;
  const factor = load<f32>(SCALE_FACTOR_AT);
  const zero = i64x2.splat(0);
  for (let t: usize = 0; t < m; t++) {
    let q = <usize>load<u32>(acts + (t << 2));
    let scale = q + (nGroups << 5);
    let to = out + (t << 3);
    for (let g: usize = 0; g < nGroups; g++) {
      store<f32>(to, load<f32>(scale) * factor);
      store<i32>(to, 0, 4);
      let at = to + step;
      for (let half: usize = 0; half < 32; half += 16) {
        const v = v128.load(q + half);
        const p = i8x16.max_s(v, zero), n = i8x16.max_s(i8x16.neg(v), zero);
        const a = v128.shuffle<i32>(p, n, 0, 4, 1, 5);
        const b = v128.shuffle<i32>(p, n, 2, 6, 3, 7);
        v128.store64_lane(at, a, 0);
        v128.store64_lane(at + step, a, 1);
        v128.store64_lane(at + 2 * step, b, 0);
        v128.store64_lane(at + 3 * step, b, 1);
        at += 4 * step;
      }
      q += 32;
      scale += 4;
      to += groupBytes;
    }
  }
}

/**
 * Plain SIMD: i16 pairs (k, k + 2) and (k + 1, k + 3), which meet the even and the odd bytes of the weights.
 * q8: per step kk 0..7 and token 8 bytes: even pair, odd pair. q4: per step kk 0..3 and token 16 bytes: even pair of k = 4 kk..,
 * even pair of k = 16 + 4 kk.., then the odd pairs.
 */
@inline
export function packWide(acts: usize, m: usize, nGroups: usize, out: usize, nibbles: bool): void {
  const groupBytes = wideGroupBytes(m);
  const factor = load<f32>(SCALE_FACTOR_AT);
  for (let t: usize = 0; t < m; t++) {
    let q = <usize>load<u32>(acts + (t << 2));
    let scale = q + (nGroups << 5);
    let to = out + (t << 3);
    const body = out + (m << 3) + (nibbles ? t << 4 : t << 3);
    for (let g: usize = 0; g < nGroups; g++) {
      const low = v128.load(q), high = v128.load(q, 16);
      store<f32>(to, load<f32>(scale) * factor);
      store<i32>(to, nibbles ? nibbleCorrection(low, high) : 0, 4);
      const evenLow = i16x8.shr_s(i16x8.shl(low, 8), 8), oddLow = i16x8.shr_s(low, 8);
      const evenHigh = i16x8.shr_s(i16x8.shl(high, 8), 8), oddHigh = i16x8.shr_s(high, 8);
      let at = body + g * groupBytes;
      if (nibbles) {
        const step = m << 4;
        const e0 = v128.shuffle<i32>(evenLow, evenHigh, 0, 4, 1, 5), e1 = v128.shuffle<i32>(evenLow, evenHigh, 2, 6, 3, 7);
        const o0 = v128.shuffle<i32>(oddLow, oddHigh, 0, 4, 1, 5), o1 = v128.shuffle<i32>(oddLow, oddHigh, 2, 6, 3, 7);
        v128.store(at, v128.shuffle<i64>(e0, o0, 0, 2));
        v128.store(at + step, v128.shuffle<i64>(e0, o0, 1, 3));
        v128.store(at + 2 * step, v128.shuffle<i64>(e1, o1, 0, 2));
        v128.store(at + 3 * step, v128.shuffle<i64>(e1, o1, 1, 3));
      } else {
        const step = m << 3;
        const a = v128.shuffle<i32>(evenLow, oddLow, 0, 4, 1, 5), b = v128.shuffle<i32>(evenLow, oddLow, 2, 6, 3, 7);
        const c = v128.shuffle<i32>(evenHigh, oddHigh, 0, 4, 1, 5), d = v128.shuffle<i32>(evenHigh, oddHigh, 2, 6, 3, 7);
        v128.store64_lane(at, a, 0);
        v128.store64_lane(at + step, a, 1);
        v128.store64_lane(at + 2 * step, b, 0);
        v128.store64_lane(at + 3 * step, b, 1);
        at += 4 * step;
        v128.store64_lane(at, c, 0);
        v128.store64_lane(at + step, c, 1);
        v128.store64_lane(at + 2 * step, d, 0);
        v128.store64_lane(at + 3 * step, d, 1);
      }
      q += 32;
      scale += 4;
      to += groupBytes;
    }
  }
}

/** f32 rows as [nCols][m]. */
export function packFloats(acts: usize, m: usize, nCols: usize, out: usize): void {
  for (let t: usize = 0; t < m; t++) {
    const x = <usize>load<u32>(acts + (t << 2));
    let to = out + (t << 2);
    for (let k: usize = 0; k < nCols; k++) {
      store<f32>(to, load<f32>(x + (k << 2)));
      to += m << 2;
    }
  }
}
