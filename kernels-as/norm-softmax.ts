// RMSNorm (alone, or with the quantisation of its rows), LayerNorm and softmax, docs/arithmetic.md sections 4 and 7: sums run in four lanes by
// index & 3, which is one vector register.

import { GROUP_BUFFER } from "./constants";
import { exp1, exp4 } from "./floats";
import { quantizeGroup } from "./quantize";
import { addRows } from "./rows";

/** (S0 + S1) + (S2 + S3), after the n & 3 last terms were added to their lanes. */
@inline
function addLanes(s: v128): f32 {
  return (f32x4.extract_lane(s, 0) + f32x4.extract_lane(s, 1)) + (f32x4.extract_lane(s, 2) + f32x4.extract_lane(s, 3));
}

/** Four f32 at `at` of which only the first `count` exist; the others are +0, which changes no lane of a sum that began at +0. */
@inline
function loadFew(at: usize, count: usize): v128 {
  let v = v128.load32_zero(at);
  if (count > 1) v = v128.load32_lane(at + 4, v, 1);
  if (count > 2) v = v128.load32_lane(at + 8, v, 2);
  return v;
}

/** 1 / sqrt(mean of squares + eps) of n f32. */
function inverseNorm(x: usize, n: usize, eps: f32): f32 {
  const vectors = (n & ~3) << 2;
  let s = f32x4.splat(0);
  for (let i: usize = 0; i < vectors; i += 16) {
    const v = v128.load(x + i);
    s = f32x4.add(s, f32x4.mul(v, v));
  }
  if ((n & 3) != 0) {
    const v = loadFew(x + vectors, n & 3);
    s = f32x4.add(s, f32x4.mul(v, v));
  }
  return <f32>1 / sqrt<f32>(addLanes(s) / <f32>n + eps);
}

/** out = (x * inverse) * weight for n f32; out may be x. */
@inline
function scaleRow(x: usize, weight: usize, inverse: f32, out: usize, n: usize): void {
  const vectors = (n & ~3) << 2, end = n << 2;
  const inverses = f32x4.splat(inverse);
  let i: usize = 0;
  for (; i < vectors; i += 16) v128.store(out + i, f32x4.mul(f32x4.mul(v128.load(x + i), inverses), v128.load(weight + i)));
  for (; i < end; i += 4) store<f32>(out + i, load<f32>(x + i) * inverse * load<f32>(weight + i));
}

export function rmsNormRows(x: usize, xStride: usize, weight: usize, eps: f32, out: usize, outStride: usize, nTokens: i32, n: usize): void {
  for (let t = 0; t < nTokens; t++) {
    scaleRow(x, weight, inverseNorm(x, n, eps), out, n);
    x += xStride;
    out += outStride;
  }
}

export function rmsNormQuantizeRows(
  x: usize, xStride: usize, weight: usize, eps: f32, out: usize, outStride: usize, q: usize, qStride: usize, nTokens: i32, n: usize,
): void {
  const nGroups = (n + 31) >> 5;
  const scales = nGroups << 5, end = scales + (nGroups << 2), padded = (end + 15) & ~15;
  for (let t = 0; t < nTokens; t++) {
    const inverse = inverseNorm(x, n, eps);
    for (let g: usize = 0; g < nGroups; g++) {
      const at = g << 7, count = min<usize>(32, n - (g << 5));
      // A group goes straight to its f32 row where one is wanted; a ragged one is padded with zeros beside it.
      if (out != 0 && count == 32) {
        scaleRow(x + at, weight + at, inverse, out + at, 32);
        quantizeGroup(out + at, q + (g << 5), q + scales + (g << 2));
        continue;
      }
      if (count < 32) memory.fill(GROUP_BUFFER, 0, 128);
      scaleRow(x + at, weight + at, inverse, GROUP_BUFFER, count);
      if (out != 0) memory.copy(out + at, GROUP_BUFFER, count << 2);
      quantizeGroup(GROUP_BUFFER, q + (g << 5), q + scales + (g << 2));
    }
    for (let at = end; at < padded; at += 4) store<u32>(q + at, 0);
    x += xStride;
    q += qStride;
    if (out != 0) out += outStride;
  }
}

/** The sum of n f32. */
function sumOf(x: usize, n: usize): f32 {
  const vectors = (n & ~3) << 2;
  let s = f32x4.splat(0);
  for (let i: usize = 0; i < vectors; i += 16) s = f32x4.add(s, v128.load(x + i));
  if ((n & 3) != 0) s = f32x4.add(s, loadFew(x + vectors, n & 3));
  return addLanes(s);
}

/** The differences from the mean stand in `out` before they are scaled there: their inverse norm is RMSNorm's. */
export function layerNormRows(
  x: usize, xStride: usize, weight: usize, bias: usize, eps: f32, out: usize, outStride: usize, nTokens: i32, n: usize,
): void {
  const vectors = (n & ~3) << 2, end = n << 2;
  for (let t = 0; t < nTokens; t++) {
    const mean = sumOf(x, n) / <f32>n;
    const means = f32x4.splat(mean);
    let i: usize = 0;
    for (; i < vectors; i += 16) v128.store(out + i, f32x4.sub(v128.load(x + i), means));
    for (; i < end; i += 4) store<f32>(out + i, load<f32>(x + i) - mean);
    scaleRow(out, weight, inverseNorm(out, n, eps), out, n);
    addRows(out, 0, bias, 0, 1, n);
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
