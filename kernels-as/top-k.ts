// The k largest of rows, and of the logits while they are computed, docs/arithmetic.md sections 7 and 9: one ranking for both.
// Owns the running best of a row. Refuses to hold a row of logits: they are computed 512 at a time, looked at, and dropped.

import { HALF_FIX } from "./constants";
import { rowBlockBytes } from "./matmul";
import { pack, product } from "./products";

/** Whether `a` ranks strictly above `b`; NaN ranks below all. */
@inline
function above(a: f32, b: f32): bool {
  return a > b || (b != b && a == a);
}

/** Puts a value among the `count` best so far, the last of which it may replace: an equal value stays behind the earlier one. */
function insert(value: f32, id: u32, count: usize, ids: usize, values: usize): void {
  let at = count - 1;
  while (at > 0 && above(value, load<f32>(values + ((at - 1) << 2)))) {
    store<f32>(values + (at << 2), load<f32>(values + ((at - 1) << 2)));
    store<u32>(ids + (at << 2), load<u32>(ids + ((at - 1) << 2)));
    at--;
  }
  store<f32>(values + (at << 2), value);
  store<u32>(ids + (at << 2), id);
}

/** Values number base .. base + n - 1 of a row, times `factor`, into the best k of the row; n <= what the row still lacks. */
function rank(x: usize, n: usize, factor: f32, base: u32, k: usize, ids: usize, values: usize): void {
  const last = values + ((k - 1) << 2);
  const factors = f32x4.splat(factor);
  let i: usize = 0;
  for (; i < n && base + <u32>i < <u32>k; i++) insert(load<f32>(x + (i << 2)) * factor, base + <u32>i, <usize>base + i + 1, ids, values);
  while (i < n) {
    // Four at a time while none of them ranks above the k-th; a NaN as the k-th gives way to any number.
    const limit = f32x4.splat(load<f32>(last));
    if (load<f32>(last) == load<f32>(last)) {
      while (i + 4 <= n && !v128.any_true(f32x4.gt(f32x4.mul(v128.load(x + (i << 2)), factors), limit))) i += 4;
    }
    for (const end = min<usize>(i + 4, n); i < end; i++) {
      const value = load<f32>(x + (i << 2)) * factor;
      if (above(value, load<f32>(last))) insert(value, base + <u32>i, k, ids, values);
    }
  }
}

export function topKRows(x: usize, xStride: usize, nTokens: i32, n: usize, k: usize, ids: usize, values: usize): void {
  for (let t = 0; t < nTokens; t++) {
    rank(x, n, 1, 0, k, ids, values);
    x += xStride;
    ids += k << 2;
    values += k << 2;
  }
}

/** Index of the first of n values that is not finite after the factor, or n. */
function firstBad(x: usize, n: usize, factor: f32): usize {
  const infinity = v128.load(HALF_FIX, 32), magnitude = v128.load(HALF_FIX, 48), factors = f32x4.splat(factor);
  let i: usize = 0;
  while (i + 4 <= n && !v128.any_true(i32x4.ge_s(v128.and(f32x4.mul(v128.load(x + (i << 2)), factors), magnitude), infinity))) i += 4;
  while (i < n && abs<f32>(load<f32>(x + (i << 2)) * factor) < Infinity) i++;
  return i;
}

/** Rows of logits held at a time, for eight tokens. */
const CHUNK_ROWS: i32 = 512;
const CHUNK_BYTES: usize = 2048;
const NONE: u32 = 0xffffffff;

export function topLogits(
  format: i32, w: usize, nRows: i32, nCols: i32, acts: usize, nTokens: i32, factor: f32, k: usize,
  ids: usize, values: usize, notFinite: usize, scratch: usize,
): void {
  const chunkBytes = <usize>(CHUNK_ROWS >> 5) * rowBlockBytes(format, nCols);
  while (nTokens > 0) {
    const m = nTokens >= 8 ? 8 : nTokens >= 4 ? 4 : nTokens >= 2 ? 2 : 1;
    const packed = pack(format, acts, m, nCols, scratch + 8 * CHUNK_BYTES);
    for (let t: usize = 0; t < <usize>m; t++) store<u32>(notFinite + (t << 2), NONE);
    let from = w;
    for (let base = 0; base < nRows; base += CHUNK_ROWS) {
      const n = min<i32>(CHUNK_ROWS, nRows - base);
      product(format, m, from, (n + 31) >> 5, nCols, packed, scratch, CHUNK_BYTES);
      for (let t: usize = 0; t < <usize>m; t++) {
        const logits = scratch + t * CHUNK_BYTES;
        rank(logits, n, factor, base, k, ids + t * (k << 2), values + t * (k << 2));
        const bad = firstBad(logits, n, factor);
        if (bad < <usize>n && load<u32>(notFinite + (t << 2)) == NONE) store<u32>(notFinite + (t << 2), base + <u32>bad);
      }
      from += chunkBytes;
    }
    nTokens -= m;
    acts += <usize>m << 2;
    ids += <usize>m * (k << 2);
    values += <usize>m * (k << 2);
    notFinite += <usize>m << 2;
  }
}
