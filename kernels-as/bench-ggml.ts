// llama.cpp's product of int4 rows with int8 activations for WebAssembly SIMD, as an algorithm: one row and one token a call, blocks of 32,
// widened to i16 and multiplied by i32x4.dot_i16x8_s, scales from a table of f16 values (ggml-cpu/arch/wasm/quants.c, vec_dot_q4_0_q8_0).
// Written anew for the benchmark, never served. Its constants stay immediates, as a C compiler leaves them.

/**
 * y[r] = w[r] . acts, f32. w: nRows x nBlocks of 18 bytes {f16 d, 16 x nibble pairs}; acts: nBlocks of 34 bytes {f16 d, 32 x i8}.
 * `halves` is a table of 65,536 f32: the value of every f16.
 */
export function ggmlQ4Rows(w: usize, nRows: i32, nBlocks: i32, acts: usize, y: usize, halves: usize): void {
  for (let r = 0; r < nRows; r++) {
    store<f32>(y + 4 * r, ggmlQ4Dot(w + <usize>r * <usize>(nBlocks * 18), nBlocks, acts, halves));
  }
}

function ggmlQ4Dot(x: usize, nBlocks: i32, y: usize, halves: usize): f32 {
  let sums = f32x4.splat(0);
  for (let block = 0; block < nBlocks; block++) {
    const packed = v128.load(x, 2, 1);
    const low = i8x16.sub(v128.and(packed, i8x16.splat(15)), i8x16.splat(8));
    const high = i8x16.sub(i8x16.shr_u(packed, 4), i8x16.splat(8));
    const first = v128.load(y, 2, 1), second = v128.load(y, 18, 1);
    const dots = i32x4.add(
      i32x4.add(
        i32x4.dot_i16x8_s(i16x8.extend_low_i8x16_s(low), i16x8.extend_low_i8x16_s(first)),
        i32x4.dot_i16x8_s(i16x8.extend_high_i8x16_s(low), i16x8.extend_high_i8x16_s(first))),
      i32x4.add(
        i32x4.dot_i16x8_s(i16x8.extend_low_i8x16_s(high), i16x8.extend_low_i8x16_s(second)),
        i32x4.dot_i16x8_s(i16x8.extend_high_i8x16_s(high), i16x8.extend_high_i8x16_s(second))));
    const scale = load<f32>(halves + 4 * <usize>load<u16>(x)) * load<f32>(halves + 4 * <usize>load<u16>(y));
    sums = f32x4.add(sums, f32x4.mul(f32x4.convert_i32x4_s(dots), f32x4.splat(scale)));
    x += 18;
    y += 34;
  }
  return f32x4.extract_lane(sums, 0) + f32x4.extract_lane(sums, 1) + f32x4.extract_lane(sums, 2) + f32x4.extract_lane(sums, 3);
}
