// Loops the benchmark compares the products with: how fast memory streams through SIMD registers, how many dots a core can do, and
// llama.cpp's product. Built into its own module, never served.

import { NIBBLE_MASK } from "./constants";

export { ggmlQ4Rows } from "./bench-ggml";

/** xor of all bytes of [at, at + bytes), bytes a multiple of 128. */
export function stream(at: usize, bytes: usize): i32 {
  let a = i64x2.splat(0), b = a, c = a, d = a, e = a, f = a, g = a, h = a;
  const end = at + bytes;
  for (; at < end; at += 128) {
    a = v128.xor(a, v128.load(at));
    b = v128.xor(b, v128.load(at, 16));
    c = v128.xor(c, v128.load(at, 32));
    d = v128.xor(d, v128.load(at, 48));
    e = v128.xor(e, v128.load(at, 64));
    f = v128.xor(f, v128.load(at, 80));
    g = v128.xor(g, v128.load(at, 96));
    h = v128.xor(h, v128.load(at, 112));
  }
  return fold(v128.xor(v128.xor(v128.xor(a, b), v128.xor(c, d)), v128.xor(v128.xor(e, f), v128.xor(g, h))));
}

@inline
function fold(v: v128): i32 {
  return i32x4.extract_lane(v, 0) ^ i32x4.extract_lane(v, 1) ^ i32x4.extract_lane(v, 2) ^ i32x4.extract_lane(v, 3);
}

/** n x 10 relaxed i32 dots, 32 operations each. */
export function dotsI32(n: i32): i32 {
  const x = v128.load(NIBBLE_MASK), y = v128.load(NIBBLE_MASK, 16);
  let a = x, b = x, c = x, d = x, e = x, f = x, g = x, h = x, i = x, j = x;
  for (; n > 0; n--) {
    a = i32x4.relaxed_dot_i8x16_i7x16_add_s(y, x, a);
    b = i32x4.relaxed_dot_i8x16_i7x16_add_s(y, x, b);
    c = i32x4.relaxed_dot_i8x16_i7x16_add_s(y, x, c);
    d = i32x4.relaxed_dot_i8x16_i7x16_add_s(y, x, d);
    e = i32x4.relaxed_dot_i8x16_i7x16_add_s(y, x, e);
    f = i32x4.relaxed_dot_i8x16_i7x16_add_s(y, x, f);
    g = i32x4.relaxed_dot_i8x16_i7x16_add_s(y, x, g);
    h = i32x4.relaxed_dot_i8x16_i7x16_add_s(y, x, h);
    i = i32x4.relaxed_dot_i8x16_i7x16_add_s(y, x, i);
    j = i32x4.relaxed_dot_i8x16_i7x16_add_s(y, x, j);
  }
  return fold(v128.xor(v128.xor(v128.xor(a, b), v128.xor(c, d)), v128.xor(v128.xor(v128.xor(e, f), v128.xor(g, h)), v128.xor(i, j))));
}

/** n x 10 relaxed i16 dots with their additions, 32 operations each. The operand changes, or the dot would leave the loop. */
export function dotsI16(n: i32): i32 {
  const y = v128.load(NIBBLE_MASK, 16);
  let a = y, b = y, c = y, d = y, e = y, f = y, g = y, h = y, i = y, j = y;
  for (; n > 0; n--) {
    a = i16x8.add(a, i16x8.relaxed_dot_i8x16_i7x16_s(y, a));
    b = i16x8.add(b, i16x8.relaxed_dot_i8x16_i7x16_s(y, b));
    c = i16x8.add(c, i16x8.relaxed_dot_i8x16_i7x16_s(y, c));
    d = i16x8.add(d, i16x8.relaxed_dot_i8x16_i7x16_s(y, d));
    e = i16x8.add(e, i16x8.relaxed_dot_i8x16_i7x16_s(y, e));
    f = i16x8.add(f, i16x8.relaxed_dot_i8x16_i7x16_s(y, f));
    g = i16x8.add(g, i16x8.relaxed_dot_i8x16_i7x16_s(y, g));
    h = i16x8.add(h, i16x8.relaxed_dot_i8x16_i7x16_s(y, h));
    i = i16x8.add(i, i16x8.relaxed_dot_i8x16_i7x16_s(y, i));
    j = i16x8.add(j, i16x8.relaxed_dot_i8x16_i7x16_s(y, j));
  }
  return fold(v128.xor(v128.xor(v128.xor(a, b), v128.xor(c, d)), v128.xor(v128.xor(v128.xor(e, f), v128.xor(g, h)), v128.xor(i, j))));
}
