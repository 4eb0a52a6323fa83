// RMSNorm, softmax and top-k of rows, docs/arithmetic.md section 7: sums run in four lanes by index & 3, which is one vector register.

import { exp1, exp4 } from "./floats";

/** (S0 + S1) + (S2 + S3), after the n & 3 last terms were added to their lanes. */
@inline
function addLanes(s: v128): f32 {
  return (f32x4.extract_lane(s, 0) + f32x4.extract_lane(s, 1)) + (f32x4.extract_lane(s, 2) + f32x4.extract_lane(s, 3));
}

/** Four f32 at `at` of which only the first `count` exist; the others are +0, which changes no lane of a sum of squares or exponentials. */
@inline
function loadFew(at: usize, count: usize): v128 {
  let v = v128.load32_zero(at);
  if (count > 1) v = v128.load32_lane(at + 4, v, 1);
  if (count > 2) v = v128.load32_lane(at + 8, v, 2);
  return v;
}

export function rmsNormRows(x: usize, xStride: usize, weight: usize, eps: f32, out: usize, outStride: usize, nTokens: i32, n: usize): void {
  const vectors = (n & ~3) << 2, end = n << 2;
  for (let t = 0; t < nTokens; t++) {
    let s = f32x4.splat(0);
    for (let i: usize = 0; i < vectors; i += 16) {
      const v = v128.load(x + i);
      s = f32x4.add(s, f32x4.mul(v, v));
    }
    if (vectors != end) {
      const v = loadFew(x + vectors, n & 3);
      s = f32x4.add(s, f32x4.mul(v, v));
    }
    const inverse = <f32>1 / sqrt<f32>(addLanes(s) / <f32>n + eps);
    const inverses = f32x4.splat(inverse);
    let i: usize = 0;
    for (; i < vectors; i += 16) v128.store(out + i, f32x4.mul(f32x4.mul(v128.load(x + i), inverses), v128.load(weight + i)));
    for (; i < end; i += 4) store<f32>(out + i, load<f32>(x + i) * inverse * load<f32>(weight + i));
    x += xStride;
    out += outStride;
  }
}

export function softmaxRows(x: usize, xStride: usize, nTokens: i32, n: usize): void {
  const vectors = (n & ~3) << 2, end = n << 2;
  for (let t = 0; t < nTokens; t++) {
    let m: f32 = -Infinity;
    for (let i: usize = 0; i < end; i += 4) m = max<f32>(m, load<f32>(x + i));
    const ms = f32x4.splat(m);
    let s = f32x4.splat(0);
    let i: usize = 0;
    for (; i < vectors; i += 16) {
      const e = exp4(f32x4.sub(v128.load(x + i), ms));
      v128.store(x + i, e);
      s = f32x4.add(s, e);
    }
    for (; i < end; i += 4) store<f32>(x + i, exp1(load<f32>(x + i) - m));
    if (vectors != end) s = f32x4.add(s, loadFew(x + vectors, n & 3));
    const sum = addLanes(s);
    const sums = f32x4.splat(sum);
    for (i = 0; i < vectors; i += 16) v128.store(x + i, f32x4.div(v128.load(x + i), sums));
    for (; i < end; i += 4) store<f32>(x + i, load<f32>(x + i) / sum);
    x += xStride;
  }
}

/** Whether `a` ranks strictly above `b`; NaN ranks below all. */
@inline
function above(a: f32, b: f32): bool {
  return a > b || (b != b && a == a);
}

/** Insertion into the k best so far: an equal value stays behind the earlier one, so ties go to the lowest index. */
export function topKRows(x: usize, xStride: usize, nTokens: i32, n: usize, k: usize, ids: usize, values: usize): void {
  for (let t = 0; t < nTokens; t++) {
    let count: usize = 0;
    for (let i: usize = 0; i < n; i++) {
      const value = load<f32>(x + (i << 2));
      if (count == k) {
        if (!above(value, load<f32>(values + ((k - 1) << 2)))) continue;
      } else count++;
      let at = count - 1;
      while (at > 0 && above(value, load<f32>(values + ((at - 1) << 2)))) {
        store<f32>(values + (at << 2), load<f32>(values + ((at - 1) << 2)));
        store<u32>(ids + (at << 2), load<u32>(ids + ((at - 1) << 2)));
        at--;
      }
      store<f32>(values + (at << 2), value);
      store<u32>(ids + (at << 2), <u32>i);
    }
    x += xStride;
    ids += k << 2;
    values += k << 2;
  }
}
