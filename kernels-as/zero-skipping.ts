// The down product of an h with zeros in it, as ReLU leaves them, docs/arithmetic.md section 6: what would be multiplied with zero is left out, a token at a time, with
// the bits of the whole product. Single columns of f32, f16 and bf16; groups of 32 of the other formats, whose generated products skip them (generate.mjs).
// Owns the choice, and the counts. Refuses what does not pay: with few zeros the whole product runs, which unpacks weights for up to eight tokens at once.

import { HALF_FIX, HALF_MASK, LEAST_ZERO_SHARES } from "./constants";
import { loadBrain4, loadHalf4 } from "./floats";
import { Q8, TAIL_BYTES, matmul, rowBlockBytes } from "./matmul";
import { pack, skippingProduct } from "./products";

/** Numbers of n f32 at `row` that are not zero; they move together to the front, and `offsets` gets where the columns of each begin in a row block. */
function compact(row: usize, n: i32, offsets: usize, columnBytes: usize): i32 {
  let found: usize = 0;
  for (let k: usize = 0; k < <usize>n; k++) {
    const x = load<f32>(row + (k << 2));
    store<f32>(row + (found << 2), x);
    store<u32>(offsets + (found << 2), <u32>(k * columnBytes));
    found += <usize>(x != 0); // NaN counts
  }
  return <i32>found;
}

/** Zeros among n f32. */
function zerosOf(row: usize, n: i32): i32 {
  let counts = i32x4.splat(0);
  const zero = f32x4.splat(0), end = row + (<usize>n << 2);
  let at = row;
  for (; at + 16 <= end; at += 16) counts = i32x4.sub(counts, f32x4.eq(v128.load(at), zero));
  let sum = i32x4.extract_lane(counts, 0) + i32x4.extract_lane(counts, 1) + i32x4.extract_lane(counts, 2) + i32x4.extract_lane(counts, 3);
  for (; at < end; at += 4) sum += <i32>(load<f32>(at) == 0);
  return sum;
}

/** One row block times the columns that are left, 32 f32. */
@inline
function block(format: i32, w: usize, n: i32, offsets: usize, values: usize, y: usize): void {
  let y0 = f32x4.splat(0), y1 = y0, y2 = y0, y3 = y0, y4 = y0, y5 = y0, y6 = y0, y7 = y0;
  const mask = v128.load(HALF_MASK), factor = v128.load(HALF_FIX), limit = v128.load(HALF_FIX, 16), infinity = v128.load(HALF_FIX, 32), magnitude = v128.load(HALF_FIX, 48);
  const end = offsets + (<usize>n << 2);
  for (; offsets < end; offsets += 4) {
    const p = w + <usize>load<u32>(offsets), x = v128.load32_splat(values);
    if (format == 0) {
      y0 = f32x4.add(y0, f32x4.mul(v128.load(p), x));
      y1 = f32x4.add(y1, f32x4.mul(v128.load(p, 16), x));
      y2 = f32x4.add(y2, f32x4.mul(v128.load(p, 32), x));
      y3 = f32x4.add(y3, f32x4.mul(v128.load(p, 48), x));
      y4 = f32x4.add(y4, f32x4.mul(v128.load(p, 64), x));
      y5 = f32x4.add(y5, f32x4.mul(v128.load(p, 80), x));
      y6 = f32x4.add(y6, f32x4.mul(v128.load(p, 96), x));
      y7 = f32x4.add(y7, f32x4.mul(v128.load(p, 112), x));
    } else if (format == 1) {
      y0 = f32x4.add(y0, f32x4.mul(loadHalf4(p, mask, factor, limit, infinity, magnitude), x));
      y1 = f32x4.add(y1, f32x4.mul(loadHalf4(p + 8, mask, factor, limit, infinity, magnitude), x));
      y2 = f32x4.add(y2, f32x4.mul(loadHalf4(p + 16, mask, factor, limit, infinity, magnitude), x));
      y3 = f32x4.add(y3, f32x4.mul(loadHalf4(p + 24, mask, factor, limit, infinity, magnitude), x));
      y4 = f32x4.add(y4, f32x4.mul(loadHalf4(p + 32, mask, factor, limit, infinity, magnitude), x));
      y5 = f32x4.add(y5, f32x4.mul(loadHalf4(p + 40, mask, factor, limit, infinity, magnitude), x));
      y6 = f32x4.add(y6, f32x4.mul(loadHalf4(p + 48, mask, factor, limit, infinity, magnitude), x));
      y7 = f32x4.add(y7, f32x4.mul(loadHalf4(p + 56, mask, factor, limit, infinity, magnitude), x));
    } else {
      y0 = f32x4.add(y0, f32x4.mul(loadBrain4(p), x));
      y1 = f32x4.add(y1, f32x4.mul(loadBrain4(p + 8), x));
      y2 = f32x4.add(y2, f32x4.mul(loadBrain4(p + 16), x));
      y3 = f32x4.add(y3, f32x4.mul(loadBrain4(p + 24), x));
      y4 = f32x4.add(y4, f32x4.mul(loadBrain4(p + 32), x));
      y5 = f32x4.add(y5, f32x4.mul(loadBrain4(p + 40), x));
      y6 = f32x4.add(y6, f32x4.mul(loadBrain4(p + 48), x));
      y7 = f32x4.add(y7, f32x4.mul(loadBrain4(p + 56), x));
    }
    values += 4;
  }
  v128.store(y, y0);
  v128.store(y, y1, 16);
  v128.store(y, y2, 32);
  v128.store(y, y3, 48);
  v128.store(y, y4, 64);
  v128.store(y, y5, 80);
  v128.store(y, y6, 96);
  v128.store(y, y7, 112);
}

function blockF32(w: usize, n: i32, offsets: usize, values: usize, y: usize): void { block(0, w, n, offsets, values, y); }
function blockF16(w: usize, n: i32, offsets: usize, values: usize, y: usize): void { block(1, w, n, offsets, values, y); }
function blockBf16(w: usize, n: i32, offsets: usize, values: usize, y: usize): void { block(2, w, n, offsets, values, y); }

/** Row blocks outermost, so that the weights of one come from beyond the cache once. */
function skippingColumns(format: i32, w: usize, nRows: i32, nCols: i32, h: usize, hStride: usize, m: usize, y: usize, yStride: usize, scratch: usize): i32 {
  const lists = scratch + TAIL_BYTES;
  const listStride = <usize>((nCols + 3) & ~3) << 2;
  const columnBytes: usize = format == 0 ? 128 : 64;
  const counts = scratch + 128; // behind the tail of one token
  let nLeft = 0;
  for (let t: usize = 0; t < m; t++) {
    const n = compact(h + t * hStride, nCols, lists + t * listStride, columnBytes);
    store<i32>(counts + (t << 2), n);
    nLeft += n;
  }
  for (let row = 0; row < nRows; row += 32) {
    const tailBytes = nRows - row < 32 ? <usize>(nRows - row) << 2 : 0;
    for (let t: usize = 0; t < m; t++) {
      const n = load<i32>(counts + (t << 2)), offsets = lists + t * listStride, values = h + t * hStride;
      const to = y + t * yStride + (<usize>row << 2), out = tailBytes != 0 ? scratch : to;
      if (format == 0) blockF32(w, n, offsets, values, out);
      else if (format == 1) blockF16(w, n, offsets, values, out);
      else blockBf16(w, n, offsets, values, out);
      if (tailBytes != 0) memory.copy(to, scratch, tailBytes);
    }
    w += <usize>nCols * columnBytes;
  }
  return <i32>m * nCols - nLeft;
}

/** The same of qa8 rows, whose groups of zeros have the scale +0. */
function skippingGroups(format: i32, w: usize, nRows: i32, nCols: i32, rowAddresses: usize, m: usize, y: usize, yStride: usize, scratch: usize): void {
  const nFull = nRows >> 5;
  const tailBytes = <usize>(nRows & 31) << 2;
  for (let t: usize = 0; t < m; t++) {
    const packed = pack(format, rowAddresses + (t << 2), 1, nCols, scratch + TAIL_BYTES), to = y + t * yStride;
    skippingProduct(format, w, nFull, nCols, packed, to);
    if (tailBytes == 0) continue;
    skippingProduct(format, w + <usize>nFull * rowBlockBytes(format, nCols), 1, nCols, packed, scratch);
    memory.copy(to + (<usize>nFull << 7), scratch, tailBytes);
  }
}

/** W . h of m tokens, m = 1, 2, 4 or 8, whose rows in the format's activations lie at h; h may be overwritten. Returns how many numbers of h were left out, over all tokens. */
export function downOfSparse(format: i32, w: usize, nRows: i32, nCols: i32, h: usize, hStride: usize, rowAddresses: usize, m: i32, y: usize, yStride: usize, scratch: usize): i32 {
  let zeros = 0;
  if (format < Q8) for (let t: usize = 0; t < <usize>m; t++) zeros += zerosOf(h + t * hStride, nCols);
  else {
    const nGroups = (nCols + 31) >> 5, last = nCols - ((nGroups - 1) << 5);
    for (let t: usize = 0; t < <usize>m; t++) {
      const scales = h + t * hStride + (<usize>nGroups << 5);
      zeros += zerosOf(scales, nGroups - 1) << 5;
      if (load<f32>(scales + (<usize>(nGroups - 1) << 2)) == 0) zeros += last;
    }
  }
  const least = load<f32>(LEAST_ZERO_SHARES + (<usize>min(format, Q8) << 4) + (<usize>ctz(m) << 2));
  if (<f32>zeros < least * <f32>(m * nCols)) {
    matmul(format, w, nRows, nCols, rowAddresses, m, y, yStride, scratch);
    return 0;
  }
  if (format < Q8) return skippingColumns(format, w, nRows, nCols, h, hStride, m, y, yStride, scratch);
  skippingGroups(format, w, nRows, nCols, rowAddresses, m, y, yStride, scratch);
  return zeros;
}
