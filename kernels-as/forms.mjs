// How each variant multiplies each int8 format: what its tile and its pack hold, how weights unpack and how accumulators work, as data and
// small templates for generate.mjs. Owns the codes and tiles of docs/arithmetic.md section 3 and the loop shapes.
// Refuses: relaxed madd, trunc, min, max. Relaxed dots take a second operand in 0..127 and relaxed swizzles indices below 16, which every
// engine treats alike; the one exception, q8's whole dots, runs only where probeDot shows that the engine is exact beyond that.

/**
 * Codes and tiles of the int8 formats, docs/arithmetic.md section 3: bytes from one group's tile to the next, where its values start,
 * and how its scales are stored. The eight groups of q4k and q6k lie behind a head of their own (SUPERS).
 */
export const TILES = {
  q8: { code: 3, tileBytes: 1088, valuesAt: 64, scales: "half" },
  q4: { code: 4, tileBytes: 576, valuesAt: 64, scales: "half" },
  q4m: { code: 5, tileBytes: 640, valuesAt: 128, scales: "half", hasMinimum: true },
  q4k: { code: 6, tileBytes: 576, valuesAt: 64, scales: "super", hasMinimum: true },
  q2: { code: 7, tileBytes: 320, valuesAt: 64, scales: "half" },
  mxfp4: { code: 8, tileBytes: 544, valuesAt: 32, scales: "exponent" },
  q6k: { code: 9, tileBytes: 832, valuesAt: 32, scales: "superOnly" },
  q3: { code: 10, tileBytes: 448, valuesAt: 64, scales: "half" },
};
/** Super-tiles: bytes of the head and of the whole; eight groups in between. */
export const SUPERS = { q4k: { headBytes: 128, bytes: 4736 }, q6k: { headBytes: 64, bytes: 6720 } };
export const SUPER_GROUPS = 8;

/**
 * By variant, format and batch: R row vectors per pass (8 = the whole row block in one pass) and U steps of 4 k per turn of the inner
 * loop. What measured best on weights from beyond the cache where every load is bounds-checked (workerd); for relaxed-i32's q8, what a
 * static model of V8's code for a processor with VNNI puts first (docs/benchmarks.md).
 */
export const SHAPES = {
  "relaxed-i32": {
    q4: { 1: { R: 8, U: 2 }, 2: { R: 4, U: 1 }, 4: { R: 4, U: 1 }, 8: { R: 2, U: 1 } },
    q8: { 1: { R: 8, U: 2 }, 2: { R: 4, U: 2 }, 4: { R: 4, U: 2 }, 8: { R: 4, U: 2 } },
    q8whole: { 1: { R: 8, U: 4 }, 2: { R: 4, U: 2 }, 4: { R: 4, U: 2 }, 8: { R: 4, U: 2 } },
    q4m: { 1: { R: 8, U: 2 }, 2: { R: 4, U: 1 }, 4: { R: 4, U: 1 }, 8: { R: 2, U: 1 } },
    q4k: { 1: { R: 8, U: 2 }, 2: { R: 4, U: 1 }, 4: { R: 4, U: 1 }, 8: { R: 2, U: 1 } },
    q2: { 1: { R: 8, U: 1 }, 2: { R: 4, U: 1 }, 4: { R: 2, U: 1 }, 8: { R: 2, U: 1 } },
    mxfp4: { 1: { R: 8, U: 2 }, 2: { R: 4, U: 1 }, 4: { R: 4, U: 1 }, 8: { R: 2, U: 1 } },
    q6k: { 1: { R: 8, U: 1 }, 2: { R: 4, U: 1 }, 4: { R: 4, U: 1 }, 8: { R: 2, U: 1 } },
    q3: { 1: { R: 8, U: 2 }, 2: { R: 4, U: 2 }, 4: { R: 4, U: 2 }, 8: { R: 4, U: 2 } },
  },
  "relaxed-i16": {
    q4: { 1: { R: 8, U: 2 }, 2: { R: 4, U: 1 }, 4: { R: 2, U: 1 }, 8: { R: 4, U: 1 } },
    q8: { 1: { R: 8, U: 2 }, 2: { R: 8, U: 1 }, 4: { R: 8, U: 1 }, 8: { R: 4, U: 1 } },
    q4m: { 1: { R: 8, U: 2 }, 2: { R: 8, U: 1 }, 4: { R: 2, U: 1 }, 8: { R: 4, U: 1 } },
    q4k: { 1: { R: 8, U: 2 }, 2: { R: 2, U: 1 }, 4: { R: 2, U: 1 }, 8: { R: 4, U: 1 } },
    q2: { 1: { R: 8, U: 1 }, 2: { R: 8, U: 1 }, 4: { R: 4, U: 1 }, 8: { R: 2, U: 1 } },
    mxfp4: { 1: { R: 8, U: 2 }, 2: { R: 4, U: 1 }, 4: { R: 8, U: 1 }, 8: { R: 4, U: 1 } },
    q6k: { 1: { R: 8, U: 1 }, 2: { R: 4, U: 1 }, 4: { R: 4, U: 1 }, 8: { R: 2, U: 1 } },
    q3: { 1: { R: 8, U: 2 }, 2: { R: 4, U: 2 }, 4: { R: 4, U: 2 }, 8: { R: 4, U: 2 } },
  },
  "simd128": {
    q4: { 1: { R: 4, U: 1 }, 2: { R: 2, U: 1 }, 4: { R: 4, U: 1 }, 8: { R: 1, U: 1 } },
    q8: { 1: { R: 4, U: 2 }, 2: { R: 8, U: 1 }, 4: { R: 8, U: 1 }, 8: { R: 4, U: 1 } },
    q4m: { 1: { R: 4, U: 1 }, 2: { R: 4, U: 1 }, 4: { R: 4, U: 1 }, 8: { R: 1, U: 1 } },
    q4k: { 1: { R: 4, U: 1 }, 2: { R: 4, U: 1 }, 4: { R: 2, U: 1 }, 8: { R: 2, U: 1 } },
    q2: { 1: { R: 4, U: 1 }, 2: { R: 4, U: 1 }, 4: { R: 4, U: 1 }, 8: { R: 2, U: 1 } },
    mxfp4: { 1: { R: 4, U: 1 }, 2: { R: 2, U: 1 }, 4: { R: 4, U: 1 }, 8: { R: 2, U: 1 } },
    q6k: { 1: { R: 4, U: 1 }, 2: { R: 4, U: 1 }, 4: { R: 2, U: 1 }, 8: { R: 2, U: 1 } },
    q3: { 1: { R: 8, U: 2 }, 2: { R: 4, U: 2 }, 4: { R: 4, U: 2 }, 8: { R: 4, U: 2 } },
  },
};

const dotI32 = (a, b, c) => `i32x4.relaxed_dot_i8x16_i7x16_add_s(${a}, ${b}, ${c})`;
const dotI16 = (a, b) => `i16x8.relaxed_dot_i8x16_i7x16_s(${a}, ${b})`;
const ZERO = "i32x4.splat(0)";
/** Two nibbles of each byte, for relaxed dots. */
const nibbles = {
  constants: { mask: "NIBBLE_MASK" },
  weightNames: ["low", "high"],
  weights: (load, r) => [`v = ${load()};`, `low${r} = v128.and(v, mask);`, `high${r} = v128.and(i16x8.shr_u(v, 4), mask);`],
};
/** The same, looked up. */
const lookedUp = {
  ...nibbles,
  constants: { mask: "NIBBLE_MASK", table: "E2M1_TABLE" },
  weights: (load, r) => [
    `v = ${load()};`, `low${r} = i8x16.relaxed_swizzle(table, v128.and(v, mask));`,
    `high${r} = i8x16.relaxed_swizzle(table, v128.and(i16x8.shr_u(v, 4), mask));`,
  ],
};
/** Four pairs of bits of each byte, doubled by where the mask takes them. */
const pairsOfBits = {
  steps: 2, constants: { mask: "PAIR_MASK" },
  weightNames: ["p", "q", "r", "s"],
  weights: (load, r) => [
    `v = ${load()};`, `p${r} = v128.and(i16x8.shl(v, 1), mask);`,
    ...["q", "r", "s"].map((n, i) => `${n}${r} = v128.and(i16x8.shr_u(v, ${2 * i + 1}), mask);`),
  ],
};
/** Four values of 6 bits out of three bytes: the low bits of each, and a fourth value out of their upper pairs, which move down two at a time. */
const sixBits = {
  steps: 2, weightStepBytes: 416, constants: { mask: "SIX_BITS" },
  weightNames: ["p", "q", "r", "s"],
  weights: (load, r) => [
    `p${r} = ${load(0)};`, `q${r} = ${load(1)};`, `r${r} = ${load(2)};`,
    `s${r} = i16x8.shr_u(v128.andnot(r${r}, mask), 2);`,
    `s${r} = i16x8.shr_u(v128.or(s${r}, v128.andnot(q${r}, mask)), 2);`,
    `s${r} = i16x8.shr_u(v128.or(s${r}, v128.andnot(p${r}, mask)), 2);`,
    ...["p", "q", "r"].map((n) => `${n}${r} = v128.and(${n}${r}, mask);`),
  ],
};
/**
 * Eight values of 3 bits out of three bytes that both steps of 16 k share (U is always 2): two from each, a third pair of bits of the first two
 * bytes, with a bit of the last.
 */
const threeBits = {
  steps: 2, weightStepBytes: 0, constants: { mask: "THREE_BITS", lower: "LOWER_TWO", third: "THIRD_BIT" },
  weightNames: ["p", "q", "r", "s"],
  weights: (load, r, step) => step === 0
    ? [
      `p${r} = ${load(0)};`, `q${r} = v128.and(i16x8.shr_u(p${r}, 3), mask);`, `p${r} = v128.and(p${r}, mask);`,
      `r${r} = ${load(1)};`, `s${r} = v128.and(i16x8.shr_u(r${r}, 3), mask);`, `r${r} = v128.and(r${r}, mask);`,
    ]
    : [
      `v = ${load(2)};`, `p${r} = v128.and(v, mask);`, `q${r} = v128.and(i16x8.shr_u(v, 3), mask);`,
      `r${r} = v128.or(v128.and(i16x8.shr_u(${load(0)}, 6), lower), v128.and(i16x8.shr_u(v, 4), third));`,
      `s${r} = v128.or(v128.and(i16x8.shr_u(${load(1)}, 6), lower), v128.and(i16x8.shr_u(v, 5), third));`,
    ],
};
/** The signed scale bytes of one step of 16 k, as i16, eight rows a load, and what each becomes. */
const stepScales = (R, at, low, high) => R === 1
  ? [`v = i16x8.extend_low_i8x16_s(v128.load32_zero(s, ${at}));`, `factor0 = ${low};`]
  : Array.from({ length: R / 2 }, (_, h) => [`v = v128.load8x8_s(s, ${at + 8 * h});`, `factor${2 * h} = ${low};`, `factor${2 * h + 1} = ${high};`]).flat();
/** As i32: the sum of a step is wider than an i16. */
const stepScalesI32 = {
  factors: (R, at) => stepScales(R, at, "i32x4.extend_low_i16x8_s(v)", "i32x4.extend_high_i16x8_s(v)"),
  scaled: (i, r, sum) => `sum${i} = i32x4.add(sum${i}, i32x4.mul(${sum}, factor${r}));`,
  total: (i) => `sum${i}`,
};
/** As pairs of one i16: the widening of i16 sums is their multiplication. */
const stepScalesI16 = {
  factors: (R, at) => stepScales(R, at, "v128.shuffle<i16>(v, v, 0, 0, 1, 1, 2, 2, 3, 3)", "v128.shuffle<i16>(v, v, 4, 4, 5, 5, 6, 6, 7, 7)"),
  scaled: (i, r, sum) => `sum${i} = i32x4.add(sum${i}, i32x4.dot_i16x8_s(${sum}, factor${r}));`,
  total: (i) => `sum${i}`,
};

/** 8 bytes per token and step: two broadcasts. */
const pairActivations = { stepBytes: 8, activationNames: ["first", "second"] };
/** 16 bytes: four. */
const quadActivations = { stepBytes: 16, activationNames: ["a", "b", "c", "d"] };

const nibbleDotsI32 = {
  ...pairActivations, steps: 4, accumulators: ["sum"],
  multiply: (i, r) => [`sum${i} = ${dotI32("second", `high${r}`, dotI32("first", `low${r}`, `sum${i}`))};`],
  total: (i) => `sum${i}`,
};
/** Sums in i16; docs/arithmetic.md section 5 says why they hold a group. */
const nibbleDotsI16 = {
  ...pairActivations, steps: 4, accumulators: ["sum"],
  multiply: (i, r) => [`sum${i} = i16x8.add(sum${i}, i16x8.add(${dotI16("first", `low${r}`)}, ${dotI16("second", `high${r}`)}));`],
  total: (i) => `i32x4.dot_i16x8_s(sum${i}, ones)`,
};
/** Four values of each step and k & 3. */
const quadDotsI32 = {
  ...quadActivations, accumulators: ["sum"],
  multiply: (i, r) => [["p", "a"], ["q", "b"], ["r", "c"], ["s", "d"]].map(([w, a]) => `sum${i} = ${dotI32(a, `${w}${r}`, `sum${i}`)};`),
  total: (i) => `sum${i}`,
};
const quadDotsI16 = {
  ...quadActivations, accumulators: ["sum"],
  multiply: (i, r) => [[["p", "a"], ["q", "b"]], [["r", "c"], ["s", "d"]]].map((two) =>
    `sum${i} = i16x8.add(sum${i}, i16x8.add(${two.map(([w, a]) => dotI16(a, `${w}${r}`)).join(", ")}));`),
  total: (i) => `i32x4.dot_i16x8_s(sum${i}, ones)`,
};
const addDots = (i, pairs) => pairs.map(([w, a]) => `sum${i} = i32x4.add(sum${i}, i32x4.dot_i16x8_s(${w}, ${a}));`);
/** Plain SIMD: even and odd bytes as i16. */
const wideNibbles = {
  steps: 4, stepBytes: 16, constants: { mask: "LOW_NIBBLE_MASK" }, accumulators: ["sum"],
  weightNames: ["w"], weights: (load, r) => [`w${r} = ${load()};`],
  activationNames: ["a", "b", "c", "d"],
  multiply: (i, r) => addDots(i, [
    [`v128.and(w${r}, mask)`, "a"], [`v128.and(i16x8.shr_u(w${r}, 4), mask)`, "b"], [`v128.and(i16x8.shr_u(w${r}, 8), mask)`, "c"], [`i16x8.shr_u(w${r}, 12)`, "d"],
  ]),
  total: (i) => `sum${i}`,
};
const fromCorrection = { start: (correction) => correction };
const fromZero = { start: () => ZERO };

/**
 * How one variant multiplies a step of 4 k of one row vector. Each entry says what the pack holds and how accumulators work:
 *  stepBytes     activation bytes per token and step          steps        steps per group
 *  constants     names loaded before the loops                accumulators names per (token, row vector)
 *  start         initial value of an accumulator              activationNames  one broadcast of 4 bytes each
 *  weights       lines that unpack one row vector (of a step)  multiply     lines that accumulate
 *  total         the exact i32 sum from the accumulators
 * Where every step has scales of its own (q6k), also:
 *  weightStepBytes  bytes from one step's weights to the next  factors      lines that define factor0.. from the pointer s
 * and each step begins with its tokens' corrections (stepHeadBytes), broadcast as `start`.
 */
export const FORMS = {
  "relaxed-i32": {
    q4: { ...nibbles, ...nibbleDotsI32, ...fromCorrection, pack: "packPairs(acts, m, nGroups, out, true, CORRECTION, 8)" },
    q4m: { ...nibbles, ...nibbleDotsI32, ...fromZero, pack: "packPairs(acts, m, nGroups, out, true, SUM, 0)" },
    mxfp4: { ...lookedUp, ...nibbleDotsI32, ...fromCorrection, pack: "packPairs(acts, m, nGroups, out, false, CORRECTION, 12)" },
    q2: { ...quadDotsI32, ...pairsOfBits, ...fromCorrection, pack: "packQuads(acts, m, nGroups, out, CORRECTION, 3)" },
    q3: { ...quadDotsI32, ...threeBits, ...fromCorrection, pack: "packQuads(acts, m, nGroups, out, CORRECTION, 4)" },
    q8: {
      ...pairActivations, ...fromZero, steps: 8, constants: {}, weightNames: ["w"], accumulators: ["plus", "minus"], pack: "packSplit(acts, m, nGroups, out)",
      weights: (load, r) => [`w${r} = ${load()};`],
      multiply: (i, r) => [`plus${i} = ${dotI32(`w${r}`, "first", `plus${i}`)};`, `minus${i} = ${dotI32(`w${r}`, "second", `minus${i}`)};`],
      total: (i) => `i32x4.sub(plus${i}, minus${i})`,
    },
    q6k: {
      ...sixBits, ...quadActivations, ...stepScalesI32, ...fromZero, accumulators: ["sum"], pack: "packSteps(acts, m, nGroups, out, false, CORRECTION, 32)",
      multiply: (i, r) => [stepScalesI32.scaled(i, r, [["p", "a"], ["q", "b"], ["r", "c"], ["s", "d"]].reduce((sum, [w, a]) => dotI32(a, `${w}${r}`, sum), "start"))],
    },
    // Half the dots of the split form. The bias makes the weights what the engine's dot reads, wholeOffset() in generate.mjs.
    q8whole: {
      ...fromCorrection, steps: 8, stepBytes: 4, activationNames: ["first"], constants: { bias: "DOT_BIAS" }, weightNames: ["w"], accumulators: ["sum"],
      pack: "packWhole(acts, m, nGroups, out, wholeOffset())",
      weights: (load, r) => [`w${r} = v128.xor(${load()}, bias);`],
      multiply: (i, r) => [`sum${i} = ${dotI32("first", `w${r}`, `sum${i}`)};`],
      total: (i) => `sum${i}`,
    },
  },
  "relaxed-i16": {
    q4: { ...nibbles, ...nibbleDotsI16, ...fromCorrection, pack: "packPairs(acts, m, nGroups, out, true, CORRECTION16, 8)" },
    q4m: { ...nibbles, ...nibbleDotsI16, ...fromZero, pack: "packPairs(acts, m, nGroups, out, true, SUM, 0)" },
    mxfp4: { ...lookedUp, ...nibbleDotsI16, ...fromCorrection, pack: "packPairs(acts, m, nGroups, out, false, CORRECTION16, 12)" },
    q2: { ...quadDotsI16, ...pairsOfBits, ...fromCorrection, pack: "packQuads(acts, m, nGroups, out, CORRECTION16, 3)" },
    q3: { ...quadDotsI16, ...threeBits, ...fromCorrection, pack: "packQuads(acts, m, nGroups, out, CORRECTION16, 4)" },
    // Per pair of k one of p, n is zero in each place, so |w p| and |w n| pairs and their difference stay within 2 * 128 * 127.
    q8: {
      ...pairActivations, ...fromZero, steps: 8, constants: {}, weightNames: ["w"], accumulators: ["sum"], pack: "packSplit(acts, m, nGroups, out)",
      weights: (load, r) => [`w${r} = ${load()};`],
      multiply: (i, r) => [`sum${i} = i32x4.add(sum${i}, i32x4.dot_i16x8_s(i16x8.sub(${dotI16(`w${r}`, "first")}, ${dotI16(`w${r}`, "second")}), ones));`],
      total: (i) => `sum${i}`,
    },
    q6k: {
      ...sixBits, ...quadActivations, ...stepScalesI16, ...fromZero, accumulators: ["sum"], pack: "packSteps(acts, m, nGroups, out, false, CORRECTION16, 32)",
      multiply: (i, r) => [stepScalesI16.scaled(i, r, [["p", "a"], ["q", "b"], ["r", "c"], ["s", "d"]].reduce((sum, [w, a]) => `i16x8.add(${sum}, ${dotI16(a, `${w}${r}`)})`, "start"))],
    },
  },
  "simd128": {
    q4: { ...wideNibbles, ...fromCorrection, pack: "packWide(acts, m, nGroups, out, NIBBLES, true, CORRECTION, 8)" },
    q4m: { ...wideNibbles, ...fromZero, pack: "packWide(acts, m, nGroups, out, NIBBLES, true, SUM, 0)" },
    mxfp4: {
      ...wideNibbles, ...fromCorrection, pack: "packWide(acts, m, nGroups, out, NIBBLES, false, CORRECTION, 12)",
      constants: { mask: "NIBBLE_MASK", table: "E2M1_TABLE", even: "EVEN_BYTES" }, weightNames: ["low", "high"],
      weights: (load, r) => lookedUp.weights(load, r).map((line) => line.replace("relaxed_swizzle", "swizzle")),
      multiply: (i, r) => addDots(i, [
        [`v128.and(low${r}, even)`, "a"], [`v128.and(high${r}, even)`, "b"], [`i16x8.shr_u(low${r}, 8)`, "c"], [`i16x8.shr_u(high${r}, 8)`, "d"],
      ]),
    },
    q2: {
      ...wideNibbles, ...fromCorrection, steps: 2, stepBytes: 32, pack: "packWide(acts, m, nGroups, out, QUADS, true, CORRECTION, 3)",
      constants: { mask: "LOW_PAIR_MASK" }, activationNames: [..."abcdefgh"],
      multiply: (i, r) => addDots(i, [..."abcdefgh"].map((a, n) =>
        [n === 0 ? `v128.and(i16x8.shl(w${r}, 1), mask)` : `v128.and(i16x8.shr_u(w${r}, ${2 * n - 1}), mask)`, a])),
    },
    q3: {
      ...threeBits, ...fromCorrection, stepBytes: 32, accumulators: ["sum"], pack: "packWide(acts, m, nGroups, out, QUADS, true, CORRECTION, 4)",
      constants: { ...threeBits.constants, even: "EVEN_BYTES" }, activationNames: [..."abcdefgh"],
      multiply: (i, r) => addDots(i, [..."pqrs"].flatMap((w, n) => [[`v128.and(${w}${r}, even)`, "abcd"[n]], [`i16x8.shr_u(${w}${r}, 8)`, "efgh"[n]]])),
      total: (i) => `sum${i}`,
    },
    q6k: {
      ...sixBits, ...stepScalesI32, ...fromZero, stepBytes: 32, activationNames: [..."abcdefgh"], accumulators: ["sum"],
      constants: { mask: "SIX_BITS", even: "EVEN_BYTES" }, pack: "packSteps(acts, m, nGroups, out, true, CORRECTION, 32)",
      multiply: (i, r) => [stepScalesI32.scaled(i, r, [..."pqrs"].reduce((sum, w, n) =>
        `i32x4.add(${sum}, i32x4.add(i32x4.dot_i16x8_s(v128.and(${w}${r}, even), ${"abcd"[n]}), i32x4.dot_i16x8_s(i16x8.shr_u(${w}${r}, 8), ${"efgh"[n]})))`, "start"))],
    },
    q8: {
      ...pairActivations, ...fromZero, steps: 8, constants: {}, weightNames: ["even", "odd"], accumulators: ["sum"],
      pack: "packWide(acts, m, nGroups, out, BYTES, true, CORRECTION, 0)",
      weights: (load, r) => [`v = ${load()};`, `even${r} = i16x8.shr_s(i16x8.shl(v, 8), 8);`, `odd${r} = i16x8.shr_s(v, 8);`],
      multiply: (i, r) => [`sum${i} = i32x4.add(sum${i}, i32x4.add(i32x4.dot_i16x8_s(even${r}, first), i32x4.dot_i16x8_s(odd${r}, second)));`],
      total: (i) => `sum${i}`,
    },
  },
};
for (const [variant, forms] of Object.entries(FORMS)) {
  forms.q4k = forms.q4m;
  if (variant === "relaxed-i16") for (const form of Object.values(forms)) form.constants = { ...form.constants, ones: "ONES" };
}

/** Bytes at the head of a step of M tokens: their corrections, a whole load at least. */
export const stepHeadBytes = (form, M) => (form.factors === undefined ? 0 : Math.max(16, 4 * M));

/** The form of a batch: eight tokens of int8 share the widening of the weights, which then costs less than splitting every token's signs. */
export const formOf = (variant, format, M) => variant === "relaxed-i16" && format === "q8" && M === 8 ? FORMS.simd128.q8 : FORMS[variant][format];

/** What the engine's relaxed dot makes of -128 and 255, the one question its result is free to answer. */
export const PROBE = `i32x4.extract_lane(${dotI32("i8x16.splat(-128)", "i8x16.splat(-1)", "i32x4.splat(0)")}, 0)`;
