// Constants and small fixed buffers of the kernels, as data segments in the reserved first 64 KiB of the memory.
// Owns every v128 constant of a hot path. They are loaded, never written as v128.const: V8 rebuilds a v128.const with three
// instructions at each use, while a loaded value stays in a register (1.9 times the speed of the int4 product).
// Each variant is linked at its own address (cli/build-kernels.mjs), so several may share one memory.

/** 16 x 0x0F: the low nibble of each byte. */
export const NIBBLE_MASK: usize = memory.data<u8>([15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15], 16);
/** 8 x 0x000F. */
export const LOW_NIBBLE_MASK: usize = memory.data<u16>([15, 15, 15, 15, 15, 15, 15, 15], 16);
/** 8 x 0x00FF: the even bytes. */
export const EVEN_BYTES: usize = memory.data<u16>([255, 255, 255, 255, 255, 255, 255, 255], 16);
/** 16 x 7, 16 x 3 and 16 x 4: three bits of each byte, the lower two of them, and the third. */
export const THREE_BITS: usize = memory.data<u8>([7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7], 16);
export const LOWER_TWO: usize = memory.data<u8>([3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3], 16);
export const THIRD_BIT: usize = memory.data<u8>([4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4], 16);
/** 16 x 6: two bits of each byte, doubled. */
export const PAIR_MASK: usize = memory.data<u8>([6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6, 6], 16);
/** 16 x 63: the low six bits of each byte. */
export const SIX_BITS: usize = memory.data<u8>([63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63], 16);
/** 8 x 0x0006: two bits of each even byte, doubled. */
export const LOW_PAIR_MASK: usize = memory.data<u16>([6, 6, 6, 6, 6, 6, 6, 6], 16);
/** By E2M1 code: twice its value, plus 12. */
export const E2M1_TABLE: usize = memory.data<u8>([12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0], 16);
/** 8 x the upper half of 2^-127, a subnormal f32 whose exponent field is zero. */
export const LEAST_EXPONENT: usize = memory.data<u16>([0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40], 16);
/** 8 x i16 1: a dot product with it adds pairs. */
export const ONES: usize = memory.data<u16>([1, 1, 1, 1, 1, 1, 1, 1], 16);
/** 8 x i16 127: the last seven bits of a 14-bit attention weight. */
export const LOW_SEVEN: usize = memory.data<u16>([127, 127, 127, 127, 127, 127, 127, 127], 16);
/** 4 x 0x8FFFFFFF: keeps sign, exponent and mantissa of a sign-extended f16 shifted left by 13, which is its value * 2^-112. */
export const HALF_MASK: usize = memory.data<u32>([0x8fffffff, 0x8fffffff, 0x8fffffff, 0x8fffffff], 16);
/** 8 x 0x8FFF: the upper halves of the same. */
export const UPPER_HALF_MASK: usize = memory.data<u16>([0x8fff, 0x8fff, 0x8fff, 0x8fff, 0x8fff, 0x8fff, 0x8fff, 0x8fff], 16);
/** 8 x 0x7FFF, all but the sign of an f16, then 8 x 0x7BFF, the largest finite one. */
export const HALF_MAGNITUDE: usize = memory.data<u16>([
  0x7fff, 0x7fff, 0x7fff, 0x7fff, 0x7fff, 0x7fff, 0x7fff, 0x7fff, 0x7bff, 0x7bff, 0x7bff, 0x7bff, 0x7bff, 0x7bff, 0x7bff, 0x7bff,
], 16);
/** 4 x 2^112, then 4 x 65536 (what f16 infinity and NaN reach), 4 x the bits of +Infinity, 4 x all but the sign. */
export const HALF_FIX: usize = memory.data<u32>([
  0x77800000, 0x77800000, 0x77800000, 0x77800000,
  0x47800000, 0x47800000, 0x47800000, 0x47800000,
  0x7f800000, 0x7f800000, 0x7f800000, 0x7f800000,
  0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff,
], 16);

/** 12 x 4 constants of exp, docs/arithmetic.md section 2, in the order exp4 reads them, then 4 x 1.5 * 2^23, whose addition rounds. */
export const EXP: usize = memory.data<f32>([
  1.44269504, 1.44269504, 1.44269504, 1.44269504,
  0.693359375, 0.693359375, 0.693359375, 0.693359375,
  -2.12194440e-4, -2.12194440e-4, -2.12194440e-4, -2.12194440e-4,
  1.9875691500e-4, 1.9875691500e-4, 1.9875691500e-4, 1.9875691500e-4,
  1.3981999507e-3, 1.3981999507e-3, 1.3981999507e-3, 1.3981999507e-3,
  8.3334519073e-3, 8.3334519073e-3, 8.3334519073e-3, 8.3334519073e-3,
  4.1665795894e-2, 4.1665795894e-2, 4.1665795894e-2, 4.1665795894e-2,
  1.6666665459e-1, 1.6666665459e-1, 1.6666665459e-1, 1.6666665459e-1,
  5.0000001201e-1, 5.0000001201e-1, 5.0000001201e-1, 5.0000001201e-1,
  1, 1, 1, 1,
  88.37, 88.37, 88.37, 88.37,
  -87.33, -87.33, -87.33, -87.33,
  12582912, 12582912, 12582912, 12582912,
], 16);

/** 15 x 4 constants of erf and gelu, docs/arithmetic.md section 2: the near polynomial, the far one, 4, and the root of a half. */
export const ERF: usize = memory.data<f32>([
  7.6471160815e-5, 7.6471160815e-5, 7.6471160815e-5, 7.6471160815e-5,
  -7.9423557274e-4, -7.9423557274e-4, -7.9423557274e-4, -7.9423557274e-4,
  5.1797494697e-3, 5.1797494697e-3, 5.1797494697e-3, 5.1797494697e-3,
  -2.6848591264e-2, -2.6848591264e-2, -2.6848591264e-2, -2.6848591264e-2,
  1.1283430117e-1, 1.1283430117e-1, 1.1283430117e-1, 1.1283430117e-1,
  -3.7612605985e-1, -3.7612605985e-1, -3.7612605985e-1, -3.7612605985e-1,
  1.1283791584, 1.1283791584, 1.1283791584, 1.1283791584,
  -2.1018313101e-4, -2.1018313101e-4, -2.1018313101e-4, -2.1018313101e-4,
  3.1831255397e-3, 3.1831255397e-3, 3.1831255397e-3, 3.1831255397e-3,
  -2.2786111608e-2, -2.2786111608e-2, -2.2786111608e-2, -2.2786111608e-2,
  1.0509670736e-1, 1.0509670736e-1, 1.0509670736e-1, 1.0509670736e-1,
  6.3584637108e-1, 6.3584637108e-1, 6.3584637108e-1, 6.3584637108e-1,
  1.1284755852, 1.1284755852, 1.1284755852, 1.1284755852,
  4, 4, 4, 4,
  0.70710678, 0.70710678, 0.70710678, 0.70710678,
], 16);

/**
 * Least share of zeros in h from which leaving them out is faster than the whole product (docs/routing.md, "Experts"): rows f32, f16, bf16, the others; columns pieces of 1, 2, 4
 * and 8 tokens. No bit hangs on it.
 */
export const LEAST_ZERO_SHARES: usize = memory.data<f32>([
  0.45, 0.4, 0.3, 0.1,
  0.1, 0.4, 0.6, 0.75,
  0.1, 0.33, 0.45, 0.6,
  0.1, 0.3, 0.45, 0.55,
], 16);

/** 4 x 1.702, by which clamped SwiGLU multiplies its gate. */
export const CLAMPED_SLOPE: usize = memory.data<f32>([1.702, 1.702, 1.702, 1.702], 16);

/** What whole dots turn over in q8 weights, set by each pack: 16 x 0x80 where the engine reads them as unsigned, else zero. */
export const DOT_BIAS: usize = memory.data(16, 16);
/** d and dmin of up to 32 rows of a super-tile in f32: d * 2^-112 at 0, dmin at 128. */
export const SUPER_BUFFER: usize = memory.data(256, 16);
/** By format code: bytes of a tile of 32 rows, and the logarithm of its columns; docs/arithmetic.md section 3. */
export const TILE_BYTES: usize = memory.data<u16>([128, 64, 64, 1088, 576, 640, 4736, 320, 544, 6720, 448]);
export const TILE_COLUMN_SHIFTS: usize = memory.data<u8>([0, 0, 0, 5, 5, 5, 8, 5, 5, 8, 5]);
/** One group of 32 f32, for the ragged last group of a quantised row. */
export const GROUP_BUFFER: usize = memory.data(128, 16);
