// Activation packs: 1, 2, 4 or 8 activation rows interleaved in the order in which a product reads them.
// Owns the int8 pack layouts and the f32 one. A pack lives in scratch and only for one call; it is no stored format.
// Per group of 32 k an int8 pack holds, for M tokens, a head of M x 8 bytes, then per step and per token the bytes a product
// broadcasts. A head is {f32 scale * factor, i32 correction} or, for weights with a minimum, {f32 scale * factor, f32 scale * sum}.
// For q6k, whose steps have scales of their own, the corrections head the steps.
// The factor makes up for how weight scales are read: f16 bits as f32 bits (HALF_MASK: 2^112), E8M0 as twice its value (0.5). It is a
// power of two within range, so the product of the two scales keeps every bit of the definition.

import { DOT_BIAS, HALF_FIX, ONES } from "./constants";

const HALF_FACTOR_AT: usize = HALF_FIX; // 2^112, loaded: V8 would rebuild a constant

/** What stands in the second place of a head. */
export const CORRECTION: i32 = 0; // -offset times the sum of the group: what weights too large by `offset` add
export const CORRECTION16: i32 = 1; // the same as two i16: the starting values of i16 accumulators
export const SUM: i32 = 2; // scale times the sum, as f32

/** The sum of 32 int8. */
@inline
function sumOf(low: v128, high: v128): i32 {
  let s = i32x4.dot_i16x8_s(
    i16x8.add(i16x8.extadd_pairwise_i8x16_s(low), i16x8.extadd_pairwise_i8x16_s(high)), v128.load(ONES));
  s = i32x4.add(s, v128.shuffle<i32>(s, s, 2, 3, 0, 1));
  return i32x4.extract_lane(s, 0) + i32x4.extract_lane(s, 1);
}

/** Two i16: -offset times the sum for k & 3 < 2 and for k & 3 >= 2. It may wrap on the way, not at the end. */
@inline
function correction16(low: v128, high: v128, offset: i32): i32 {
  let s = i16x8.add(i16x8.extadd_pairwise_i8x16_s(low), i16x8.extadd_pairwise_i8x16_s(high));
  s = i16x8.add(s, v128.shuffle<i32>(s, s, 2, 3, 0, 1));
  s = i16x8.add(s, v128.shuffle<i32>(s, s, 1, 0, 3, 2));
  return i32x4.extract_lane(i16x8.mul(s, i16x8.splat(<i16>-offset)), 0);
}

/** The head of one token and group. With offset 0 the correction is zero. */
@inline
function storeHead(to: usize, scaleAt: usize, factor: f32, low: v128, high: v128, kind: i32, offset: i32): void {
  const scale = load<f32>(scaleAt);
  store<f32>(to, scale * factor);
  if (kind == SUM) store<f32>(to, scale * <f32>sumOf(low, high), 4);
  else if (offset == 0) store<i32>(to, 0, 4);
  else store<i32>(to, kind == CORRECTION16 ? correction16(low, high, offset) : sumOf(low, high) * -offset, 4);
}

@inline
function factorOf(isHalfScale: bool): f32 {
  return isHalfScale ? load<f32>(HALF_FACTOR_AT) : <f32>0.5;
}

/** Nibbles, relaxed dots: per step kk 0..3 and token 8 bytes, k = 4 kk.. and k = 16 + 4 kk.. */
@inline
export function packPairs(acts: usize, m: usize, nGroups: usize, out: usize, isHalfScale: bool, kind: i32, offset: i32): void {
  const groupBytes = 40 * m;
  const step = m << 3;
  const factor = factorOf(isHalfScale);
  for (let t: usize = 0; t < m; t++) {
    let q = <usize>load<u32>(acts + (t << 2));
    let scale = q + (nGroups << 5);
    let to = out + (t << 3);
    for (let g: usize = 0; g < nGroups; g++) {
      const low = v128.load(q), high = v128.load(q, 16);
      storeHead(to, scale, factor, low, high, kind, offset);
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

/** q2 and q3, relaxed dots: per step kk 0..1 and token 16 bytes, k = 16 kk.. */
@inline
export function packQuads(acts: usize, m: usize, nGroups: usize, out: usize, kind: i32, offset: i32): void {
  const groupBytes = 40 * m;
  const factor = factorOf(true);
  for (let t: usize = 0; t < m; t++) {
    let q = <usize>load<u32>(acts + (t << 2));
    let scale = q + (nGroups << 5);
    let to = out + (t << 3);
    let body = out + (m << 3) + (t << 4);
    for (let g: usize = 0; g < nGroups; g++) {
      const low = v128.load(q), high = v128.load(q, 16);
      storeHead(to, scale, factor, low, high, kind, offset);
      v128.store(body, low);
      v128.store(body + (m << 4), high);
      q += 32;
      scale += 4;
      to += groupBytes;
      body += groupBytes;
    }
  }
}

/**
 * q8, relaxed dots: the values split by sign into p = max(a, 0) and n = max(-a, 0), both 0..127, which every engine multiplies alike.
 * Per step kk 0..7 and token 8 bytes: p of k = 4 kk.., then n.
 */
export function packSplit(acts: usize, m: usize, nGroups: usize, out: usize): void {
  const groupBytes = 72 * m;
  const step = m << 3;
  const factor = factorOf(true);
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

/** q8 where one relaxed dot multiplies int8 by int8: per step kk 0..7 and token 4 bytes, k = 4 kk... Weights are read too large by `offset`. */
export function packWhole(acts: usize, m: usize, nGroups: usize, out: usize, offset: i32): void {
  const groupBytes = 40 * m;
  const step = m << 2;
  const factor = factorOf(true);
  // Adding 128 to an int8 and reading it as unsigned is turning its highest bit over.
  v128.store(DOT_BIAS, i8x16.splat(<i8>offset));
  for (let t: usize = 0; t < m; t++) {
    let q = <usize>load<u32>(acts + (t << 2));
    let scale = q + (nGroups << 5);
    let to = out + (t << 3);
    let at = out + (m << 3) + (t << 2);
    for (let g: usize = 0; g < nGroups; g++) {
      const low = v128.load(q), high = v128.load(q, 16);
      storeHead(to, scale, factor, low, high, CORRECTION, offset);
      v128.store32_lane(at, low, 0);
      v128.store32_lane(at + step, low, 1);
      v128.store32_lane(at + 2 * step, low, 2);
      v128.store32_lane(at + 3 * step, low, 3);
      v128.store32_lane(at + 4 * step, high, 0);
      v128.store32_lane(at + 5 * step, high, 1);
      v128.store32_lane(at + 6 * step, high, 2);
      v128.store32_lane(at + 7 * step, high, 3);
      q += 32;
      scale += 4;
      to += groupBytes;
      at += groupBytes;
    }
  }
}

/** How packWide orders its pairs. */
export const BYTES: i32 = 0;
export const NIBBLES: i32 = 1;
export const QUADS: i32 = 2;

/**
 * Plain SIMD: i16 pairs (k, k + 2) and (k + 1, k + 3), which meet the even and the odd bytes of the weights.
 * BYTES: per step kk 0..7 and token 8 bytes: even pair, odd pair. NIBBLES: per step kk 0..3 and token 16 bytes: even pair of k = 4 kk..,
 * even pair of k = 16 + 4 kk.., then the odd pairs. QUADS: per step kk 0..1 and token 32 bytes: the even pairs of k = 16 kk.. to
 * 16 kk + 12.., then the odd ones.
 */
@inline
export function packWide(acts: usize, m: usize, nGroups: usize, out: usize, order: i32, isHalfScale: bool, kind: i32, offset: i32): void {
  const groupBytes = 72 * m;
  const factor = factorOf(isHalfScale);
  const stepShift = 3 + order; // bytes of a step and token: 8, 16 or 32
  const step = m << stepShift;
  for (let t: usize = 0; t < m; t++) {
    let q = <usize>load<u32>(acts + (t << 2));
    let scale = q + (nGroups << 5);
    let to = out + (t << 3);
    let at = out + (m << 3) + (t << stepShift);
    for (let g: usize = 0; g < nGroups; g++) {
      const low = v128.load(q), high = v128.load(q, 16);
      storeHead(to, scale, factor, low, high, kind, offset);
      const evenLow = i16x8.shr_s(i16x8.shl(low, 8), 8), oddLow = i16x8.shr_s(low, 8);
      const evenHigh = i16x8.shr_s(i16x8.shl(high, 8), 8), oddHigh = i16x8.shr_s(high, 8);
      if (order == QUADS) {
        v128.store(at, evenLow);
        v128.store(at, oddLow, 16);
        v128.store(at + step, evenHigh);
        v128.store(at + step, oddHigh, 16);
      } else if (order == NIBBLES) {
        const e0 = v128.shuffle<i32>(evenLow, evenHigh, 0, 4, 1, 5), e1 = v128.shuffle<i32>(evenLow, evenHigh, 2, 6, 3, 7);
        const o0 = v128.shuffle<i32>(oddLow, oddHigh, 0, 4, 1, 5), o1 = v128.shuffle<i32>(oddLow, oddHigh, 2, 6, 3, 7);
        v128.store(at, v128.shuffle<i64>(e0, o0, 0, 2));
        v128.store(at + step, v128.shuffle<i64>(e0, o0, 1, 3));
        v128.store(at + 2 * step, v128.shuffle<i64>(e1, o1, 0, 2));
        v128.store(at + 3 * step, v128.shuffle<i64>(e1, o1, 1, 3));
      } else {
        const a = v128.shuffle<i32>(evenLow, oddLow, 0, 4, 1, 5), b = v128.shuffle<i32>(evenLow, oddLow, 2, 6, 3, 7);
        const c = v128.shuffle<i32>(evenHigh, oddHigh, 0, 4, 1, 5), d = v128.shuffle<i32>(evenHigh, oddHigh, 2, 6, 3, 7);
        v128.store64_lane(at, a, 0);
        v128.store64_lane(at + step, a, 1);
        v128.store64_lane(at + 2 * step, b, 0);
        v128.store64_lane(at + 3 * step, b, 1);
        v128.store64_lane(at + 4 * step, c, 0);
        v128.store64_lane(at + 5 * step, c, 1);
        v128.store64_lane(at + 6 * step, d, 0);
        v128.store64_lane(at + 7 * step, d, 1);
      }
      q += 32;
      scale += 4;
      to += groupBytes;
      at += groupBytes;
    }
  }
}

/**
 * q6k: per step of 16 k a head of the tokens' corrections, 4 bytes each and 16 together at least, then per token k = 16 kk.. as 16 bytes
 * or, for plain SIMD (isWide), as packWide's QUADS: the even pairs, then the odd ones.
 */
@inline
export function packSteps(acts: usize, m: usize, nGroups: usize, out: usize, isWide: bool, kind: i32, offset: i32): void {
  const stepHead = max<usize>(16, m << 2);
  const valueShift = isWide ? 5 : 4;
  const step = stepHead + (m << valueShift);
  const groupBytes = (m << 3) + 2 * step;
  const factor = factorOf(true);
  const zero = i64x2.splat(0);
  for (let t: usize = 0; t < m; t++) {
    let q = <usize>load<u32>(acts + (t << 2));
    let scale = q + (nGroups << 5);
    let to = out + (t << 3);
    let correction = out + (m << 3) + (t << 2);
    let body = out + (m << 3) + stepHead + (t << valueShift);
    for (let g: usize = 0; g < nGroups; g++) {
      store<f32>(to, load<f32>(scale) * factor);
      store<i32>(to, 0, 4);
      for (let half = 0; half < 2; half++) {
        const v = v128.load(q);
        store<i32>(correction, kind == CORRECTION16 ? correction16(v, zero, offset) : sumOf(v, zero) * -offset);
        if (isWide) {
          v128.store(body, i16x8.shr_s(i16x8.shl(v, 8), 8));
          v128.store(body, i16x8.shr_s(v, 8), 16);
        } else {
          v128.store(body, v);
        }
        q += 16;
        correction += step;
        body += step;
      }
      scale += 4;
      to += groupBytes;
      correction += m << 3;
      body += m << 3;
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
