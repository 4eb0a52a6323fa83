// The online softmax of attention over one block of 32 keys, docs/arithmetic.md section 8: scores in, probabilities out.
// Refuses to let masked keys take part: their probability is +0 by being -Infinity before, never a product with zero.

import { EXP } from "./constants";
import { exp1 } from "./floats";

/**
 * Scores of one query become probabilities, in place; m and L of its record move on, and `factor` gets c. exp is written out for arguments that are never
 * above 0. A NaN may miss the maximum here, but never L, so the whole output is NaN as the definition wants.
 */
export function softmaxBlock(scores: usize, scale: f32, low: usize, high: usize, maximum: usize, sums: usize, factor: usize): void {
  // Masked lanes become -Infinity: no maximum, and probability +0, which changes no lane of L. The attention scale is positive.
  for (let j: usize = 0; j < low; j++) store<f32>(scores + (j << 2), -Infinity);
  for (let j = high + 1; j < 32; j++) store<f32>(scores + (j << 2), -Infinity);
  const scales = f32x4.splat(scale);
  const m = load<f32>(maximum);
  let a = f32x4.splat(m), b = a;
  for (let at = scores, end = scores + 128; at < end; at += 32) {
    const s = f32x4.mul(v128.load(at), scales), t = f32x4.mul(v128.load(at, 16), scales);
    v128.store(at, s);
    v128.store(at, t, 16);
    a = f32x4.pmax(a, s);
    b = f32x4.pmax(b, t);
  }
  a = f32x4.pmax(a, b);
  a = f32x4.pmax(a, v128.shuffle<i32>(a, a, 2, 3, 0, 1));
  a = f32x4.pmax(a, v128.shuffle<i32>(a, a, 1, 0, 3, 2));
  const newM = f32x4.extract_lane(a, 0);
  a = f32x4.splat(newM);
  let l = v128.load(sums);
  let c: f32 = 1; // exp(0)
  if (m != newM) {
    c = exp1(m - newM);
    l = f32x4.mul(l, f32x4.splat(c));
    store<f32>(maximum, newM);
  }
  store<f32>(factor, c);
  const log2e = v128.load(EXP), high2 = v128.load(EXP, 16), low2 = v128.load(EXP, 32), one = v128.load(EXP, 144), tiny = v128.load(EXP, 176);
  const e0 = v128.load(EXP, 48), e1 = v128.load(EXP, 64), e2 = v128.load(EXP, 80), e3 = v128.load(EXP, 96), e4 = v128.load(EXP, 112), e5 = v128.load(EXP, 128);
  const magic = v128.load(EXP, 192);
  for (let at = scores, end = scores + 128; at < end; at += 16) {
    const x = f32x4.sub(v128.load(at), a);
    const t = f32x4.add(f32x4.mul(x, log2e), magic);
    const n = f32x4.sub(t, magic);
    const r = f32x4.sub(f32x4.sub(x, f32x4.mul(n, high2)), f32x4.mul(n, low2));
    let p = f32x4.add(f32x4.mul(e0, r), e1);
    p = f32x4.add(f32x4.mul(p, r), e2);
    p = f32x4.add(f32x4.mul(p, r), e3);
    p = f32x4.add(f32x4.mul(p, r), e4);
    p = f32x4.add(f32x4.mul(p, r), e5);
    p = f32x4.add(f32x4.add(f32x4.mul(p, f32x4.mul(r, r)), r), one);
    // The magic number ends in nine zero bits, so the shift leaves n << 23. Wild lanes are cleared, NaN stays NaN.
    p = v128.andnot(f32x4.mul(p, i32x4.add(i32x4.shl(t, 23), one)), f32x4.lt(x, tiny));
    v128.store(at, p);
    l = f32x4.add(l, p);
  }
  v128.store(sums, l);
}
