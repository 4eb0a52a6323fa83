// Generates products.ts of one variant: the inner loops of every matrix product, by format and batch, as AssemblyScript.
// A generator because AssemblyScript has no macros and wants literal memory offsets, while registers want unrolled accumulators.
// Shape of every int8 product: a row block of 32 rows is 8 row vectors of 4 rows. A pass holds R row vectors x M tokens of
// accumulators and walks all groups of 32 k; within a group a small loop over steps of 4 k (a fully unrolled group spills, because
// V8 schedules pure operations late), then one conversion and two roundings as docs/arithmetic.md section 5 wants.
// Refuses: relaxed madd, trunc, min, max. The only relaxed instructions are dots whose second operand lies in 0..127.

const MATRIX = { f32: 0, f16: 1, bf16: 2, q8: 3, q4: 4 };
const BATCHES = [1, 2, 4, 8];

/**
 * By variant, format and batch: R row vectors per pass (8 = the whole row block in one pass) and U steps of 4 k per turn of the inner
 * loop. What measured best where every load is bounds-checked (workerd) without losing where it is not.
 */
const SHAPES = {
  "relaxed-i32": {
    q4: { 1: { R: 8, U: 2 }, 2: { R: 4, U: 1 }, 4: { R: 4, U: 1 }, 8: { R: 2, U: 1 } },
    q8: { 1: { R: 8, U: 2 }, 2: { R: 4, U: 2 }, 4: { R: 4, U: 2 }, 8: { R: 4, U: 2 } },
  },
  "relaxed-i16": {
    q4: { 1: { R: 8, U: 2 }, 2: { R: 4, U: 2 }, 4: { R: 4, U: 1 }, 8: { R: 4, U: 1 } },
    q8: { 1: { R: 8, U: 2 }, 2: { R: 4, U: 1 }, 4: { R: 4, U: 1 }, 8: { R: 2, U: 1 } },
  },
  "simd128": {
    q4: { 1: { R: 4, U: 1 }, 2: { R: 2, U: 1 }, 4: { R: 2, U: 1 }, 8: { R: 1, U: 1 } },
    q8: { 1: { R: 4, U: 2 }, 2: { R: 4, U: 1 }, 4: { R: 2, U: 1 }, 8: { R: 1, U: 1 } },
  },
};
const FLOAT_ROW_VECTORS = { 1: 8, 2: 4, 4: 2, 8: 1 };

const range = (n) => Array.from({ length: n }, (_, i) => i);
const join = (parts, indent = "") => parts.map((line) => indent + line + "\n").join("");

/**
 * How one variant multiplies a step of 4 k of one row vector. Each entry says what the pack holds and how accumulators work:
 *  stepBytes     activation bytes per token and step          steps        steps per group
 *  constants     names loaded before the loops                accumulators names per (token, row vector)
 *  start         initial value of an accumulator              activationNames  one broadcast of 4 bytes each
 *  weights       lines that unpack one row vector             multiply     lines that accumulate
 *  total         the exact i32 sum from the accumulators
 */
const dotI32 = (a, b, c) => `i32x4.relaxed_dot_i8x16_i7x16_add_s(${a}, ${b}, ${c})`;
const dotI16 = (a, b) => `i16x8.relaxed_dot_i8x16_i7x16_s(${a}, ${b})`;
const splatLane = (v, i) => `v128.shuffle<i32>(${v}, ${v}, ${i}, ${i}, ${i}, ${i})`;

const nibbles = {
  constants: { mask: "NIBBLE_MASK" },
  weightNames: ["low", "high"],
  weights: (load, r) => [`v = ${load};`, `low${r} = v128.and(v, mask);`, `high${r} = v128.and(i16x8.shr_u(v, 4), mask);`],
};
/** 8 bytes per token and step: two broadcasts. */
const pairActivations = { stepBytes: 8, activationNames: ["first", "second"] };

const FORMS = {
  "relaxed-i32": {
    q4: {
      ...nibbles, ...pairActivations, steps: 4, accumulators: ["sum"],
      start: (correction) => correction,
      multiply: (i, r) => [`sum${i} = ${dotI32("second", `high${r}`, dotI32("first", `low${r}`, `sum${i}`))};`],
      total: (i) => `sum${i}`,
    },
    q8: {
      ...pairActivations, steps: 8, constants: {}, weightNames: ["w"], accumulators: ["plus", "minus"],
      weights: (load, r) => [`w${r} = ${load};`],
      start: () => "i32x4.splat(0)",
      multiply: (i, r) => [`plus${i} = ${dotI32(`w${r}`, "first", `plus${i}`)};`, `minus${i} = ${dotI32(`w${r}`, "second", `minus${i}`)};`],
      total: (i) => `i32x4.sub(plus${i}, minus${i})`,
    },
  },
  "relaxed-i16": {
    // A group's 16 products per i16 lane stay within 16 * 127 * 15, the whole with its correction within 16 * 127 * 8.
    q4: {
      ...nibbles, ...pairActivations, steps: 4, accumulators: ["sum"],
      constants: { mask: "NIBBLE_MASK", ones: "ONES" },
      start: (correction) => correction,
      multiply: (i, r) => [`sum${i} = i16x8.add(sum${i}, i16x8.add(${dotI16("first", `low${r}`)}, ${dotI16("second", `high${r}`)}));`],
      total: (i) => `i32x4.dot_i16x8_s(sum${i}, ones)`,
    },
    // Per pair of k one of p, n is zero in each place, so |w p| and |w n| pairs and their difference stay within 2 * 128 * 127.
    q8: {
      ...pairActivations, steps: 8, constants: { ones: "ONES" }, weightNames: ["w"], accumulators: ["sum"],
      weights: (load, r) => [`w${r} = ${load};`],
      start: () => "i32x4.splat(0)",
      multiply: (i, r) => [`sum${i} = i32x4.add(sum${i}, i32x4.dot_i16x8_s(i16x8.sub(${dotI16(`w${r}`, "first")}, ${dotI16(`w${r}`, "second")}), ones));`],
      total: (i) => `sum${i}`,
    },
  },
  "simd128": {
    q4: {
      steps: 4, stepBytes: 16, constants: { mask: "LOW_NIBBLE_MASK" }, accumulators: ["sum"],
      weightNames: ["w"], weights: (load, r) => [`w${r} = ${load};`],
      activationNames: ["a", "b", "c", "d"],
      start: (correction) => correction,
      multiply: (i, r) => [
        `sum${i} = i32x4.add(sum${i}, i32x4.dot_i16x8_s(v128.and(w${r}, mask), a));`,
        `sum${i} = i32x4.add(sum${i}, i32x4.dot_i16x8_s(v128.and(i16x8.shr_u(w${r}, 4), mask), b));`,
        `sum${i} = i32x4.add(sum${i}, i32x4.dot_i16x8_s(v128.and(i16x8.shr_u(w${r}, 8), mask), c));`,
        `sum${i} = i32x4.add(sum${i}, i32x4.dot_i16x8_s(i16x8.shr_u(w${r}, 12), d));`,
      ],
      total: (i) => `sum${i}`,
    },
    q8: {
      ...pairActivations, steps: 8, constants: {}, weightNames: ["even", "odd"], accumulators: ["sum"],
      weights: (load, r) => [`v = ${load};`, `even${r} = i16x8.shr_s(i16x8.shl(v, 8), 8);`, `odd${r} = i16x8.shr_s(v, 8);`],
      start: () => "i32x4.splat(0)",
      multiply: (i, r) => [`sum${i} = i32x4.add(sum${i}, i32x4.add(i32x4.dot_i16x8_s(even${r}, first), i32x4.dot_i16x8_s(odd${r}, second)));`],
      total: (i) => `sum${i}`,
    },
  },
};

/** The product of q8 or q4 for M tokens: R row vectors per pass, U steps of 4 k per turn of the inner loop. */
function quantisedProduct(name, format, form, M, { R, U }) {
  const tileBytes = format === "q8" ? 1088 : 576;
  const groupBytes = M * (8 + form.steps * form.stepBytes);
  const cells = range(M).flatMap((t) => range(R).map((r) => ({ t, r, i: `${t}_${r}` })));
  // One token: row vectors outermost, so that unpacked weights die at once. Several: unpack R vectors, then token by token.
  // Activations come 16 bytes a load: a load costs up to four instructions where bounds are checked, a broadcast of a lane one.
  const lines = [];
  const perLoad = 16 / form.stepBytes; // (step, token) pairs in one load
  const weights = (u, r) => form.weights(`v128.load(p, ${64 + 128 * u + 16 * r})`, r);
  const broadcast = (pair) => {
    const lane = (pair % perLoad) * form.activationNames.length;
    return [
      ...(pair % perLoad === 0 ? [`all = v128.load(at, ${8 * M + 16 * (pair / perLoad)});`] : []),
      ...form.activationNames.map((n, j) => `${n} = ${splatLane("all", lane + j)};`),
    ];
  };
  for (const u of range(U)) {
    if (M > 1) for (const r of range(R)) lines.push(...weights(u, r));
    for (const t of range(M)) {
      lines.push(...broadcast(u * M + t));
      for (const r of range(R)) lines.push(...(M === 1 ? weights(u, r) : []), ...form.multiply(`${t}_${r}`, r));
    }
  }
  // The head of a group's pack: {scale, correction} of two tokens per load.
  const needsCorrection = form.start("x") === "x";
  const heads = range(Math.ceil(M / 2)).map((h) => `const head${h} = v128.load(q, ${16 * h});`);
  const headLane = (t, lane) => splatLane(`head${t >> 1}`, 2 * (t & 1) + lane);
  // Eight f16 scales a load, made into f32 * 2^-112: the upper half keeps sign, exponent and 7 bits of mantissa, the lower half 3 bits.
  const scales = R === 1
    ? ["const scale0 = v128.and(i32x4.shl(v128.load16x4_s(scales), 13), half);"]
    : range(R / 2).flatMap((h) => [
      `v = v128.load(scales, ${16 * h});`,
      `const upper${h} = v128.and(i16x8.shr_s(v, 3), half), lower${h} = i16x8.shl(v, 13);`,
      `const scale${2 * h} = v128.shuffle<i16>(lower${h}, upper${h}, 0, 8, 1, 9, 2, 10, 3, 11);`,
      `const scale${2 * h + 1} = v128.shuffle<i16>(lower${h}, upper${h}, 4, 12, 5, 13, 6, 14, 7, 15);`,
    ]);
  return `
export function ${name}(w: usize, nBlocks: i32, nGroups: usize, pack: usize, y: usize, yStride: usize): void {
  const half = v128.load(${R === 1 ? "HALF_MASK" : "UPPER_HALF_MASK"});
${join(Object.entries(form.constants).map(([local, constant]) => `const ${local} = v128.load(${constant});`), "  ")}\
  const end = pack + nGroups * ${groupBytes};
  for (let block = 0; block < nBlocks; block++) {
    for (let pass: usize = 0; pass < ${8 / R}; pass++) {
      let tile = w + pass * ${16 * R}, scales = w + pass * ${8 * R};
${join(cells.map(({ i }) => `let y${i} = f32x4.splat(0);`), "      ")}\
      for (let q = pack; q < end; q += ${groupBytes}) {
        let v: v128, all: v128;
        let ${form.activationNames.map((n) => `${n}: v128`).join(", ")};
        let ${range(R).flatMap((r) => form.weightNames.map((n) => `${n}${r}: v128`)).join(", ")};
${needsCorrection ? join([...heads, ...range(M).map((t) => `const start${t} = ${headLane(t, 1)};`)], "        ") : ""}\
${join(cells.flatMap(({ t, i }) => form.accumulators.map((a) => `let ${a}${i} = ${form.start(`start${t}`)};`)), "        ")}\
        let p = tile;
        const stepEnd = q + ${form.steps * form.stepBytes * M};
        for (let at = q; at < stepEnd; at += ${form.stepBytes * M * U}) {
${join(lines, "          ")}\
          p += ${128 * U};
        }
${join(scales, "        ")}\
${needsCorrection ? "" : join(heads, "        ")}\
${join(range(M).flatMap((t) => [
    `v = ${headLane(t, 0)};`,
    ...range(R).map((r) => `y${t}_${r} = f32x4.add(y${t}_${r}, f32x4.mul(f32x4.convert_i32x4_s(${form.total(`${t}_${r}`)}), f32x4.mul(v, scale${r})));`),
  ]), "        ")}\
        tile += ${tileBytes};
        scales += ${tileBytes};
      }
${join(cells.map(({ t, r, i }) => `v128.store(y + ${t} * yStride + pass * ${16 * R}, y${i}, ${16 * r});`), "      ")}\
    }
    w += nGroups * ${tileBytes};
    y += 128;
  }
}
`;
}

/** The product of f32, f16 or bf16 for M tokens; x is [nCols][M]. */
function floatProduct(name, format, M, R) {
  const vectorBytes = format === "f32" ? 16 : 8;
  const load = (r) => format === "f32" ? `v128.load(p, ${16 * r})` : format === "f16" ? `loadHalf4(p + ${8 * r}, mask, factor, limit, infinity, magnitude)` : `loadBrain4(p + ${8 * r})`;
  const cells = range(M).flatMap((t) => range(R).map((r) => ({ t, r, i: `${t}_${r}` })));
  return `
export function ${name}(w: usize, nBlocks: i32, nCols: usize, x: usize, y: usize, yStride: usize): void {
${format !== "f16" ? "" : `\
  const mask = v128.load(HALF_MASK), factor = v128.load(HALF_FIX), limit = v128.load(HALF_FIX, 16);
  const infinity = v128.load(HALF_FIX, 32), magnitude = v128.load(HALF_FIX, 48);
`}\
  const end = x + nCols * ${4 * M};
  for (let block = 0; block < nBlocks; block++) {
    for (let pass: usize = 0; pass < ${8 / R}; pass++) {
      let p = w + pass * ${vectorBytes * R};
${join(cells.map(({ i }) => `let y${i} = f32x4.splat(0);`), "      ")}\
      for (let q = x; q < end; q += ${4 * M}) {
${join(range(R).map((r) => `const w${r} = ${load(r)};`), "        ")}\
${join(range(M).flatMap((t) => [
    `const x${t} = v128.load32_splat(q, ${4 * t});`,
    ...range(R).map((r) => `y${t}_${r} = f32x4.add(y${t}_${r}, f32x4.mul(w${r}, x${t}));`),
  ]), "        ")}\
        p += ${8 * vectorBytes};
      }
${join(cells.map(({ t, r, i }) => `v128.store(y + ${t} * yStride + pass * ${16 * R}, y${i}, ${16 * r});`), "      ")}\
    }
    w += nCols * ${8 * vectorBytes};
    y += 128;
  }
}
`;
}

/** pack(): which layout a format takes in this variant. */
function packFunction(variant) {
  const call = {
    "relaxed-i32": { q8: "packSplit(acts, m, nGroups, out)", q4: "packPairs(acts, m, nGroups, out, false)" },
    "relaxed-i16": { q8: "packSplit(acts, m, nGroups, out)", q4: "packPairs(acts, m, nGroups, out, true)" },
    "simd128": { q8: "packWide(acts, m, nGroups, out, false)", q4: "packWide(acts, m, nGroups, out, true)" },
  }[variant];
  return `
/** Packs m rows for \`product\`; returns where the pack lies. A single f32 row needs none. */
export function pack(format: i32, acts: usize, m: usize, nCols: usize, out: usize): usize {
  const nGroups = (nCols + 31) >> 5;
  if (format == ${MATRIX.q4}) ${call.q4};
  else if (format == ${MATRIX.q8}) ${call.q8};
  else if (m == 1) return <usize>load<u32>(acts);
  else packFloats(acts, m, nCols, out);
  return out;
}
`;
}

/** The text of products.ts for "simd128", "relaxed-i32" or "relaxed-i16". `shapes` overrides the table when tuning. */
export function generateProducts(variant, shapes = SHAPES[variant]) {
  const functions = [];
  const cases = [];
  for (const format of ["q4", "q8", "f32", "f16", "bf16"]) {
    const isQuantised = format.startsWith("q");
    for (const M of BATCHES) {
      const name = `${format}Tokens${M}`;
      functions.push(isQuantised
        ? quantisedProduct(name, format, FORMS[variant][format], M, shapes[format][M])
        : floatProduct(name, format, M, FLOAT_ROW_VECTORS[M]));
      cases.push(`if (format == ${MATRIX[format]} && m == ${M}) { ${name}(w, nBlocks, ${isQuantised ? "(nCols + 31) >> 5" : "nCols"}, pack, y, yStride); return; }`);
    }
  }
  return `// Generated by kernels-as/generate.mjs for the variant ${variant}. Not committed; do not edit.

import { HALF_FIX, HALF_MASK, LOW_NIBBLE_MASK, NIBBLE_MASK, ONES, UPPER_HALF_MASK } from "./constants";
import { loadBrain4, loadHalf4 } from "./floats";
import { packFloats, packPairs, packSplit, packWide } from "./packs";
${functions.join("")}${packFunction(variant)}
/** nBlocks row blocks times m packed rows (m = 1, 2, 4 or 8), 32 f32 per block and token. */
export function product(format: i32, m: i32, w: usize, nBlocks: i32, nCols: usize, pack: usize, y: usize, yStride: usize): void {
${join(cases, "  ")}}

/** What the engine's relaxed dot makes of -128 and 255, the one question its result is free to answer; 0 without relaxed SIMD. */
export function probeDot(): i32 {
  return ${variant === "simd128" ? "0" : `i32x4.extract_lane(${dotI32("i8x16.splat(-128)", "i8x16.splat(-1)", "i32x4.splat(0)")}, 0)`};
}
`;
}
