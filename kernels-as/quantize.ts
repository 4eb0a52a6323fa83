// qa8 activation rows: int8 values in groups of 32 with an f32 scale each, docs/arithmetic.md section 4.
// Refuses rows whose values leave the range of the format by marking the group NaN, never by clamping.

import { GROUP_BUFFER } from "./constants";

const MAGIC_BITS: i32 = 0x4b400000; // 1.5 * 2^23: adding it to |x| < 2^22 rounds x to nearest-even into the low bits

/** Four f32 times `inverse`, rounded, as i32. */
@inline
function round4(x: v128, inverse: v128, magic: v128): v128 {
  return i32x4.sub(f32x4.add(f32x4.mul(x, inverse), magic), magic);
}

/** One group of 32 f32 at `x`: 32 int8 to `q`, the scale to `scaleAt`. */
export function quantizeGroup(x: usize, q: usize, scaleAt: usize): void {
  const x0 = v128.load(x), x1 = v128.load(x, 16), x2 = v128.load(x, 32), x3 = v128.load(x, 48);
  const x4 = v128.load(x, 64), x5 = v128.load(x, 80), x6 = v128.load(x, 96), x7 = v128.load(x, 112);
  // Magnitudes compare as integers, and NaN is then the largest of all.
  let a = i32x4.max_s(
    i32x4.max_s(i32x4.max_s(f32x4.abs(x0), f32x4.abs(x1)), i32x4.max_s(f32x4.abs(x2), f32x4.abs(x3))),
    i32x4.max_s(i32x4.max_s(f32x4.abs(x4), f32x4.abs(x5)), i32x4.max_s(f32x4.abs(x6), f32x4.abs(x7))),
  );
  a = i32x4.max_s(a, v128.shuffle<i32>(a, a, 2, 3, 0, 1));
  a = i32x4.max_s(a, v128.shuffle<i32>(a, a, 1, 0, 3, 2));
  const amax = f32x4.extract_lane(a, 0);
  if (amax < <f32>1e-30 || !(amax < <f32>8323072)) {
    const zero = i64x2.splat(0);
    v128.store(q, zero);
    v128.store(q, zero, 16);
    store<f32>(scaleAt, amax < <f32>1e-30 ? <f32>0 : <f32>NaN);
    return;
  }
  store<f32>(scaleAt, amax / <f32>127);
  const inverse = f32x4.splat(<f32>127 / amax);
  const magic = i32x4.splat(MAGIC_BITS);
  v128.store(q, i8x16.narrow_i16x8_s(
    i16x8.narrow_i32x4_s(round4(x0, inverse, magic), round4(x1, inverse, magic)),
    i16x8.narrow_i32x4_s(round4(x2, inverse, magic), round4(x3, inverse, magic)),
  ));
  v128.store(q, i8x16.narrow_i16x8_s(
    i16x8.narrow_i32x4_s(round4(x4, inverse, magic), round4(x5, inverse, magic)),
    i16x8.narrow_i32x4_s(round4(x6, inverse, magic), round4(x7, inverse, magic)),
  ), 16);
}

export function quantizeRows(x: usize, xStride: usize, out: usize, outStride: usize, nTokens: i32, nCols: i32): void {
  const nFull = nCols >> 5;
  const ragged = nCols & 31;
  const nGroups = nFull + i32(ragged != 0);
  const scales = <usize>nGroups << 5;
  const end = scales + (<usize>nGroups << 2);
  const padded = (end + 15) & ~15;
  for (let t = 0; t < nTokens; t++) {
    for (let g: usize = 0; g < <usize>nFull; g++) quantizeGroup(x + (g << 7), out + (g << 5), out + scales + (g << 2));
    if (ragged != 0) {
      const g = <usize>nFull;
      memory.fill(GROUP_BUFFER, 0, 128);
      memory.copy(GROUP_BUFFER, x + (g << 7), <usize>ragged << 2);
      quantizeGroup(GROUP_BUFFER, out + (g << 5), out + scales + (g << 2));
    }
    for (let at = end; at < padded; at += 4) store<u32>(out + at, 0);
    x += xStride;
    out += outStride;
  }
}
