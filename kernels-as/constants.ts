// Constants and small fixed buffers of the kernels, as data segments in the reserved first 64 KiB of the memory.
// Owns every v128 constant of a hot path. They are loaded, never written as v128.const: V8 rebuilds a v128.const with three
// instructions at each use, while a loaded value stays in a register (1.9 times the speed of the int4 product).
// Each variant is linked at its own address (cli/build-kernels.mjs), so several may share one memory.

/** 16 x 0x0F: the low nibble of each byte. */
export const NIBBLE_MASK: usize = memory.data<u8>([15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15], 16);
/** 8 x 0x000F. */
export const LOW_NIBBLE_MASK: usize = memory.data<u16>([15, 15, 15, 15, 15, 15, 15, 15], 16);
/** 8 x i16 1: a dot product with it adds pairs. */
export const ONES: usize = memory.data<u16>([1, 1, 1, 1, 1, 1, 1, 1], 16);
/** 4 x 0x8FFFFFFF: keeps sign, exponent and mantissa of a sign-extended f16 shifted left by 13, which is its value * 2^-112. */
export const HALF_MASK: usize = memory.data<u32>([0x8fffffff, 0x8fffffff, 0x8fffffff, 0x8fffffff], 16);
/** 8 x 0x8FFF: the upper halves of the same. */
export const UPPER_HALF_MASK: usize = memory.data<u16>([0x8fff, 0x8fff, 0x8fff, 0x8fff, 0x8fff, 0x8fff, 0x8fff, 0x8fff], 16);
/** 4 x 2^112, then 4 x 65536 (what f16 infinity and NaN reach), 4 x the bits of +Infinity, 4 x all but the sign. */
export const HALF_FIX: usize = memory.data<u32>([
  0x77800000, 0x77800000, 0x77800000, 0x77800000,
  0x47800000, 0x47800000, 0x47800000, 0x47800000,
  0x7f800000, 0x7f800000, 0x7f800000, 0x7f800000,
  0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff,
], 16);

/** 12 x 4 constants of exp, docs/arithmetic.md section 2, in the order exp4 reads them. */
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
], 16);

/** One group of 32 f32, for the ragged last group of a quantised row. */
export const GROUP_BUFFER: usize = memory.data(128, 16);
/** Scores, then probabilities, of one block of 32 keys. */
export const SCORE_BUFFER: usize = memory.data(128, 16);
