// How the stored scales of the int8 formats become f32, as templates for generate.mjs: f16 pairs, E8M0 exponents, the two levels of
// q4k and the upper level of q6k, whose lower level multiplies integers (forms.mjs). Owns the bit tricks of docs/arithmetic.md section 3
// that a product needs once per group; a power of two each leaves out is made up for in the pack's head (packs.ts). Refuses anything that
// would round.

const range = (n) => Array.from({ length: n }, (_, i) => i);

/**
 * How the scales of R row vectors are read: `constants` before the loops, `rowBytes` of one row's entry, `lines` that define scale0 ..
 * and, for formats with a minimum, min0 .. from the pointer `scales`.
 */
export const SCALES = {
  // Eight f16 a load, made into f32 * 2^-112: the upper half keeps sign, exponent and 7 bits of mantissa, the lower half 3 bits.
  half: {
    rowBytes: 2,
    constants: (R, hasMinimum) => ({ half: R === 1 ? "HALF_MASK" : "UPPER_HALF_MASK", ...(hasMinimum ? { factor: "HALF_FIX" } : {}) }),
    lines: (R, hasMinimum) => [
      ...halves(R, "scales", 0, "scale"),
      ...(hasMinimum ? [...halves(R, "scales", 64, "small"), ...range(R).map((r) => `const min${r} = f32x4.mul(small${r}, factor);`)] : []),
    ],
  },
  // Exponents become the upper halves of f32s 2^(e - 127); e = 0 is the subnormal 2^-127. The pack's factor halves them again.
  exponent: {
    rowBytes: 1,
    constants: () => ({ least: "LEAST_EXPONENT" }),
    lines: (R) => R === 1
      ? ["v = i16x8.max_u(i16x8.shl(i16x8.extend_low_i8x16_u(v128.load32_zero(scales)), 7), least);", exponents(0, "0, 8, 1, 9, 2, 10, 3, 11")]
      : range(R / 2).flatMap((h) => [
        `v = i16x8.max_u(i16x8.shl(v128.load8x8_u(scales, ${8 * h}), 7), least);`,
        exponents(2 * h, "0, 8, 1, 9, 2, 10, 3, 11"), exponents(2 * h + 1, "4, 12, 5, 13, 6, 14, 7, 15"),
      ]),
  },
  // Bytes times the d and dmin that superHead left in SUPER_BUFFER; `supers` points at those of the pass.
  super: {
    rowBytes: 1,
    constants: () => ({ half: "UPPER_HALF_MASK", factor: "HALF_FIX" }),
    lines: (R) => [...byteScales(R, 0, "scale"), ...byteScales(R, 32, "min")],
  },
  // The d that superHead left there.
  superOnly: {
    rowBytes: 1,
    constants: () => ({ half: "UPPER_HALF_MASK" }),
    lines: (R) => range(R).map((r) => `const scale${r} = v128.load(supers, ${16 * r});`),
  },
};
const exponents = (r, lanes) => `const scale${r} = v128.shuffle<i16>(i32x4.splat(0), v, ${lanes});`;
const halves = (R, pointer, at, name) => R === 1
  ? [`const ${name}0 = v128.and(i32x4.shl(v128.load16x4_s(${pointer}${at > 0 ? `, ${at}` : ""}), 13), half);`]
  : range(R / 2).flatMap((h) => [
    `v = v128.load(${pointer}, ${at + 16 * h});`,
    `const ${name}Upper${h} = v128.and(i16x8.shr_s(v, 3), half), ${name}Lower${h} = i16x8.shl(v, 13);`,
    `const ${name}${2 * h} = v128.shuffle<i16>(${name}Lower${h}, ${name}Upper${h}, 0, 8, 1, 9, 2, 10, 3, 11);`,
    `const ${name}${2 * h + 1} = v128.shuffle<i16>(${name}Lower${h}, ${name}Upper${h}, 4, 12, 5, 13, 6, 14, 7, 15);`,
  ]);
const byteScales = (R, at, name) => {
  const define = (r, half) => `const ${name}${r} = f32x4.mul(f32x4.convert_i32x4_s(i32x4.extend_${half}_i16x8_u(v)), v128.load(supers, ${4 * at + 16 * r}));`;
  return R === 1
    ? [`v = i16x8.extend_low_i8x16_u(v128.load32_zero(scales, ${at}));`, define(0, "low")]
    : range(R / 2).flatMap((h) => [`v = v128.load8x8_u(scales, ${at + 8 * h});`, define(2 * h, "low"), define(2 * h + 1, "high")]);
};
/** Once per super-tile: d * 2^-112 and, where there is one, dmin of its 32 rows, into SUPER_BUFFER. */
export const superHead = (hasMinimum) => [
  "let v: v128;",
  ...halves(8, "head", 0, "d"), ...range(8).map((r) => `v128.store(SUPER_BUFFER, d${r}, ${16 * r});`),
  ...(hasMinimum ? [...halves(8, "head", 64, "dmin"), ...range(8).map((r) => `v128.store(SUPER_BUFFER, f32x4.mul(dmin${r}, factor), ${128 + 16 * r});`)] : []),
];
