// Generates attention-products.ts of one variant: the integer dots of attention over a q8 cache block, and the value sums of f32 and f16 blocks,
// for 1, 2, 4 and 8 queries that share a kv head. docs/arithmetic.md section 8. A generator for the same reasons as generate.mjs.
// Both dots walk a tile of 32 rows x 32 columns (rows are positions for K, dims for V) as 8 row vectors; per step of 4 columns and
// query they take two broadcasts of 4 bytes. The second operand of a relaxed dot always lies in 0..127.
// Refuses: relaxed madd, trunc, min, max.

const BATCHES = [1, 2, 4, 8];
/** Bytes of a group of 32 columns: 32 rows of int8; and of its 32 bf16 scales. */
const TILE_BYTES = 1024;
const SCALES_BYTES = 64;

const range = (n) => Array.from({ length: n }, (_, i) => i);
const join = (parts, indent = "") => parts.map((line) => indent + line + "\n").join("");
const dotI32 = (a, b, c) => `i32x4.relaxed_dot_i8x16_i7x16_add_s(${a}, ${b}, ${c})`;
const dotI16 = (a, b) => `i16x8.relaxed_dot_i8x16_i7x16_s(${a}, ${b})`;
const pairs = (a, b) => `i32x4.dot_i16x8_s(${a}, ${b})`;
const splatLane = (v, i) => `v128.shuffle<i32>(${v}, ${v}, ${i}, ${i}, ${i}, ${i})`;

/**
 * How a variant multiplies one row vector by the two broadcasts of a query, `first` and `second`, by what they hold:
 *  sign   K: |q|, then 0 or -1 by the sign of q: the weights take the sign, which -127..127 survives
 *  split  K: max(q, 0), then max(-q, 0)
 *  wide   K and V: i16 pairs of columns (0, 2), then (1, 3)
 *  halves V: the upper, then the lower seven bits of the weight
 */
const wide = {
  layout: "wide", constants: {}, weightNames: ["even", "odd"], accumulators: ["sum"],
  weights: (load, r) => [`v = ${load};`, `even${r} = i16x8.shr_s(i16x8.shl(v, 8), 8);`, `odd${r} = i16x8.shr_s(v, 8);`],
  multiply: (i, r) => [`sum${i} = i32x4.add(sum${i}, i32x4.add(${pairs(`even${r}`, "first")}, ${pairs(`odd${r}`, "second")}));`],
  total: (i) => `sum${i}`,
};
const plain = { constants: {}, weightNames: ["w"], weights: (load, r) => [`w${r} = ${load};`] };
const split = {
  ...plain, layout: "split", accumulators: ["plus", "minus"],
  multiply: (i, r) => [`plus${i} = ${dotI32(`w${r}`, "first", `plus${i}`)};`, `minus${i} = ${dotI32(`w${r}`, "second", `minus${i}`)};`],
  total: (i) => `i32x4.sub(plus${i}, minus${i})`,
};
const halves = {
  ...plain, layout: "halves", accumulators: ["upper", "lower"],
  multiply: (i, r) => [`upper${i} = ${dotI32(`w${r}`, "first", `upper${i}`)};`, `lower${i} = ${dotI32(`w${r}`, "second", `lower${i}`)};`],
  total: (i) => `i32x4.add(i32x4.shl(upper${i}, 7), lower${i})`,
};
/** A pair of products stays within 2 * 127 * 127 < 32,767. */
const sign = {
  ...plain, layout: "sign", constants: { ones: "ONES" }, accumulators: ["sum"],
  multiply: (i, r) => [`sum${i} = i32x4.add(sum${i}, ${pairs(dotI16(`i8x16.sub(v128.xor(w${r}, second), second)`, "first"), "ones")});`],
  total: (i) => `sum${i}`,
};

/**
 * By variant: for K and V, the form for one query and for several. Without a one-instruction i32 dot, several queries share widened weights,
 * and the 14 bits of a weight cost no more than seven would.
 */
const FORMS = {
  "relaxed-i32": { scores: { one: split, several: split }, values: { one: halves, several: halves } },
  "relaxed-i16": { scores: { one: sign, several: wide }, values: { one: wide, several: wide } },
  "simd128": { scores: { one: wide, several: wide }, values: { one: wide, several: wide } },
};

/** R row vectors per pass and U steps per turn of the inner loop, by variant, product and queries. */
const SHAPES = {
  "relaxed-i32": {
    scores: { 1: { R: 8, U: 2 }, 2: { R: 4, U: 1 }, 4: { R: 2, U: 1 }, 8: { R: 1, U: 1 } },
    values: { 1: { R: 4, U: 2 }, 2: { R: 4, U: 1 }, 4: { R: 2, U: 1 }, 8: { R: 1, U: 1 } },
  },
  "relaxed-i16": {
    scores: { 1: { R: 8, U: 2 }, 2: { R: 4, U: 1 }, 4: { R: 2, U: 1 }, 8: { R: 2, U: 1 } },
    values: { 1: { R: 8, U: 2 }, 2: { R: 4, U: 1 }, 4: { R: 2, U: 1 }, 8: { R: 2, U: 1 } },
  },
  "simd128": {
    scores: { 1: { R: 4, U: 2 }, 2: { R: 4, U: 1 }, 4: { R: 2, U: 1 }, 8: { R: 1, U: 1 } },
    values: { 1: { R: 4, U: 2 }, 2: { R: 4, U: 1 }, 4: { R: 2, U: 1 }, 8: { R: 1, U: 1 } },
  },
};
const FLOAT_VECTORS = { 1: 8, 2: 4, 4: 2, 8: 1 };

const LAYOUT_CODES = { split: 0, sign: 1, wide: 2, halves: 3 };
/** Bytes of a pack's group: M f32 scales, then 8 steps of 8 bytes per query. */
const headBytes = (M) => 16 * Math.ceil(M / 4);
const groupBytes = (M) => headBytes(M) + 64 * M;

/** The inner loop over one group: declares accumulators for M x R cells and leaves exact sums in them. */
function groupDots(form, M, R, U, tile, pack) {
  const cells = range(M).flatMap((t) => range(R).map((r) => `${t}_${r}`));
  const weights = (u, r) => form.weights(`v128.load(p, ${128 * u + 16 * r})`, r);
  const lines = [];
  for (const u of range(U)) {
    if (M > 1) for (const r of range(R)) lines.push(...weights(u, r));
    for (const t of range(M)) {
      const pair = u * M + t;
      if (pair % 2 === 0) lines.push(`all = v128.load(at, ${8 * pair});`);
      lines.push(`first = ${splatLane("all", 2 * (pair % 2))};`, `second = ${splatLane("all", 2 * (pair % 2) + 1)};`);
      for (const r of range(R)) lines.push(...(M === 1 ? weights(u, r) : []), ...form.multiply(`${t}_${r}`, r));
    }
  }
  return `\
        let v: v128, all: v128, first: v128, second: v128;
        let ${range(R).flatMap((r) => form.weightNames.map((n) => `${n}${r}: v128`)).join(", ")};
${join(cells.flatMap((i) => form.accumulators.map((a) => `let ${a}${i} = i32x4.splat(0);`)), "        ")}\
        let p = ${tile};
        const steps = ${pack} + ${headBytes(M)}, stepEnd = steps + ${64 * M};
        for (let at = steps; at < stepEnd; at += ${8 * M * U}) {
${join(lines, "          ")}\
          p += ${128 * U};
        }
`;
}

const constantLines = (form) => join(Object.entries(form.constants).map(([local, constant]) => `const ${local} = v128.load(${constant});`), "  ");

function scoresFunction(form, M, { R, U }) {
  const cells = range(M).flatMap((t) => range(R).map((r) => ({ t, r, i: `${t}_${r}` })));
  return `
function scores${M}(tiles: usize, tileScales: usize, nGroups: usize, pack: usize, y: usize): void {
${constantLines(form)}\
  const end = pack + nGroups * ${groupBytes(M)};
  for (let pass: usize = 0; pass < ${8 / R}; pass++) {
    let tile = tiles + pass * ${16 * R}, scales = tileScales + pass * ${8 * R};
${join(cells.map(({ i }) => `let y${i} = f32x4.splat(0);`), "    ")}\
    for (let q = pack; q < end; q += ${groupBytes(M)}) {
${groupDots(form, M, R, U, "tile", "q")}\
${join(range(R).map((r) => `const scale${r} = i32x4.shl(v128.load16x4_u(scales, ${8 * r}), 16);`), "        ")}\
${join(range(M).flatMap((t) => [
    `v = v128.load32_splat(q, ${4 * t});`,
    ...range(R).map((r) => `y${t}_${r} = f32x4.add(y${t}_${r}, f32x4.mul(f32x4.convert_i32x4_s(${form.total(`${t}_${r}`)}), f32x4.mul(v, scale${r})));`),
  ]), "        ")}\
      tile += ${TILE_BYTES};
      scales += ${SCALES_BYTES};
    }
${join(cells.map(({ t, r, i }) => `v128.store(y + pass * ${16 * R}, y${i}, ${128 * t + 16 * r});`), "    ")}\
  }
}
`;
}

function valuesFunction(form, M, { R, U }) {
  return `
function values${M}(tiles: usize, nGroups: usize, pack: usize, o: usize, oStride: usize, factors: usize): void {
${constantLines(form)}\
  const end = pack + nGroups * ${groupBytes(M)};
  for (let q = pack; q < end; q += ${groupBytes(M)}) {
    for (let pass: usize = 0; pass < ${8 / R}; pass++) {
        const tile = tiles + pass * ${16 * R};
${groupDots(form, M, R, U, "tile", "q")}\
        let to = o + pass * ${16 * R};
${join(range(M).flatMap((t) => [
    `v = v128.load32_splat(q, ${4 * t});`,
    `all = v128.load32_splat(factors, ${4 * t});`,
    ...range(R).map((r) => `v128.store(to, f32x4.add(f32x4.mul(v128.load(to, ${16 * r}), all), f32x4.mul(f32x4.convert_i32x4_s(${form.total(`${t}_${r}`)}), v)), ${16 * r});`),
    ...(t + 1 < M ? ["to += oStride;"] : []),
  ]), "        ")}\
    }
    tiles += ${TILE_BYTES};
    o += 128;
  }
}
`;
}

/** o = o * c, then o = o + p_j * v[j] for j in [low, high], from dim d on; p is [M][32], rows of 128 bytes. Whole vectors of four dims only. */
function floatValuesFunction(name, isHalf, M, D) {
  const size = isHalf ? 2 : 4;
  const load = (d) => isHalf ? `loadHalf4(row + ${8 * d}, mask, factor, limit, infinity, magnitude)` : `v128.load(row, ${16 * d})`;
  const loop = (vectors) => {
    const cells = range(M).flatMap((t) => range(vectors).map((d) => ({ t, d, i: `${t}_${d}` })));
    return `\
  for (; d + ${4 * vectors} <= headDim; d += ${4 * vectors}) {
    let to = o + (d << 2);
${join(range(M).flatMap((t) => [
    `const c${t} = v128.load32_splat(factors, ${4 * t});`,
    ...range(vectors).map((d) => `let o${t}_${d} = f32x4.mul(v128.load(to, ${16 * d}), c${t});`),
    ...(t + 1 < M ? ["to += oStride;"] : []),
  ]), "    ")}\
    let row = v + low * rowBytes + d * ${size};
    for (let x = p + (low << 2); x <= last; x += 4) {
${join(range(vectors).map((d) => `const v${d} = ${load(d)};`), "      ")}\
${join(range(M).flatMap((t) => [
    `const p${t} = v128.load32_splat(x, ${128 * t});`,
    ...range(vectors).map((d) => `o${t}_${d} = f32x4.add(o${t}_${d}, f32x4.mul(p${t}, v${d}));`),
  ]), "      ")}\
      row += rowBytes;
    }
    to = o + (d << 2);
${join(range(M).flatMap((t) => [
    ...cells.filter((cell) => cell.t === t).map(({ d, i }) => `v128.store(to, o${i}, ${16 * d});`),
    ...(t + 1 < M ? ["to += oStride;"] : []),
  ]), "    ")}\
  }
`;
  };
  return `
function ${name}(v: usize, d: usize, headDim: usize, p: usize, low: usize, high: usize, o: usize, oStride: usize, factors: usize): void {
${isHalf ? `\
  const mask = v128.load(HALF_MASK), factor = v128.load(HALF_FIX), limit = v128.load(HALF_FIX, 16);
  const infinity = v128.load(HALF_FIX, 32), magnitude = v128.load(HALF_FIX, 48);
` : ""}\
  const rowBytes = headDim * ${size}, last = p + (high << 2);
${loop(D)}${D > 1 ? loop(1) : ""}}
`;
}

/**
 * Eight f16 at a time as f32 bits, which is their value * 2^-112: the other factor of each product carries 2^112, and a product of exact
 * multiples by powers of two rounds as the product itself. True of finite f16 only, so the largest magnitude is watched; 65,504 is 0x7bff.
 */
const halfLines = (name, load) => [
  `v = ${load};`, "largest = i16x8.max_u(largest, v128.and(v, magnitude));",
  "upper = v128.and(i16x8.shr_s(v, 3), half); lower = i16x8.shl(v, 13);",
  `const ${name}a = v128.shuffle<i16>(lower, upper, 0, 8, 1, 9, 2, 10, 3, 11), ${name}b = v128.shuffle<i16>(lower, upper, 4, 12, 5, 13, 6, 14, 7, 15);`,
];
const HALF_LOCALS = `\
  const half = v128.load(UPPER_HALF_MASK), magnitude = v128.load(HALF_MAGNITUDE), finite = v128.load(HALF_MAGNITUDE, 16);
  let largest = i64x2.splat(0), v: v128, upper: v128, lower: v128;
`;

/** Dots with a K block [headDim][32]; x is [headDim][M] times 2^112. False when the block holds a value that is not finite. */
function halfScoresFunction(M) {
  const R = FLOAT_VECTORS[M] === 1 ? 2 : FLOAT_VECTORS[M];
  const names = range(R / 2).flatMap((l) => [`k${l}a`, `k${l}b`]);
  const cells = range(M).flatMap((t) => names.map((name, r) => ({ t, r, name, i: `${t}_${r}` })));
  return `
function halfScores${M}(k: usize, headDim: usize, x: usize, y: usize): bool {
${HALF_LOCALS}\
  const end = x + headDim * ${4 * M};
  for (let pass: usize = 0; pass < ${8 / R}; pass++) {
    let at = k + pass * ${8 * R};
${join(cells.map(({ i }) => `let y${i} = f32x4.splat(0);`), "    ")}\
    for (let q = x; q < end; q += ${4 * M}) {
${join(range(R / 2).flatMap((l) => halfLines(`k${l}`, `v128.load(at, ${16 * l})`)), "      ")}\
${join(range(M).flatMap((t) => [
    `const x${t} = v128.load32_splat(q, ${4 * t});`,
    ...cells.filter((cell) => cell.t === t).map(({ name, i }) => `y${i} = f32x4.add(y${i}, f32x4.mul(x${t}, ${name}));`),
  ]), "      ")}\
      at += 64;
    }
${join(cells.map(({ t, r, i }) => `v128.store(y + pass * ${16 * R}, y${i}, ${128 * t + 16 * r});`), "    ")}\
  }
  return !v128.any_true(i16x8.gt_s(largest, finite));
}
`;
}

/** o = o * c + p . v for the dims in front of the first value that is not finite; p carries 2^112. Returns how many dims are done. */
function foldedValuesFunction(M) {
  const loop = (loads) => {
    const names = range(loads).flatMap((l) => [`v${l}a`, `v${l}b`]);
    const cells = range(M).flatMap((t) => names.map((name, d) => ({ t, d, name, i: `${t}_${d}` })));
    return `\
  for (; d + ${8 * loads} <= headDim; d += ${8 * loads}) {
    let to = o + (d << 2);
${join(range(M).flatMap((t) => [
    `const c${t} = v128.load32_splat(factors, ${4 * t});`,
    ...cells.filter((cell) => cell.t === t).map((cell) => `let o${cell.i} = f32x4.mul(v128.load(to, ${16 * cell.d}), c${t});`),
    ...(t + 1 < M ? ["to += oStride;"] : []),
  ]), "    ")}\
    let row = values + low * rowBytes + d * 2;
    for (let x = p + (low << 2); x <= last; x += 4) {
${join(range(loads).flatMap((l) => halfLines(`v${l}`, `v128.load(row, ${16 * l})`)), "      ")}\
${join(range(M).flatMap((t) => [
    `const p${t} = v128.load32_splat(x, ${128 * t});`,
    ...cells.filter((cell) => cell.t === t).map(({ name, i }) => `o${i} = f32x4.add(o${i}, f32x4.mul(p${t}, ${name}));`),
  ]), "      ")}\
      row += rowBytes;
    }
    if (v128.any_true(i16x8.gt_s(largest, finite))) return d;
    to = o + (d << 2);
${join(range(M).flatMap((t) => [
    ...cells.filter((cell) => cell.t === t).map(({ d, i }) => `v128.store(to, o${i}, ${16 * d});`),
    ...(t + 1 < M ? ["to += oStride;"] : []),
  ]), "    ")}\
  }
`;
  };
  const loads = Math.max(1, FLOAT_VECTORS[M] / 2);
  return `
function foldedValues${M}(values: usize, headDim: usize, p: usize, low: usize, high: usize, o: usize, oStride: usize, factors: usize): usize {
${HALF_LOCALS}\
  const rowBytes = headDim * 2, last = p + (high << 2);
  let d: usize = 0;
${loop(loads)}${loads > 1 ? loop(1) : ""}\
  return d;
}
`;
}

/** The text of attention-products.ts for "simd128", "relaxed-i32" or "relaxed-i16". */
export function generateAttentionProducts(variant, shapes = SHAPES[variant]) {
  const form = (kind, M) => FORMS[variant][kind][M === 1 ? "one" : "several"];
  const layout = (kind, M) => LAYOUT_CODES[form(kind, M).layout];
  const cases = (call) => join(BATCHES.map((M) => `if (m == ${M}) { ${call(M)}; return; }`), "  ");
  return `// Generated by kernels-as/generate-attention.mjs for the variant ${variant}. Not committed; do not edit.

import { HALF_FIX, HALF_MAGNITUDE, HALF_MASK, ONES, UPPER_HALF_MASK } from "./constants";
import { loadHalf4 } from "./floats";

/** What the two broadcasts of a query hold (kernels-as/attention-packs.ts): the query for K, the weights for V. */
export const ONE_QUERY_LAYOUT: i32 = ${layout("scores", 1)};
export const QUERIES_LAYOUT: i32 = ${layout("scores", 2)};
export const ONE_WEIGHT_LAYOUT: i32 = ${layout("values", 1)};
export const WEIGHTS_LAYOUT: i32 = ${layout("values", 2)};
${BATCHES.map((M) => scoresFunction(form("scores", M), M, shapes.scores[M])).join("")}\
${BATCHES.map((M) => valuesFunction(form("values", M), M, shapes.values[M])).join("")}\
${BATCHES.map((M) => floatValuesFunction(`floatValues${M}`, false, M, FLOAT_VECTORS[M])).join("")}\
${BATCHES.map((M) => floatValuesFunction(`halfValues${M}`, true, M, FLOAT_VECTORS[M])).join("")}\
${BATCHES.map((M) => halfScoresFunction(M)).join("")}\
${BATCHES.map((M) => foldedValuesFunction(M)).join("")}
/** Dots of m queries, packed and times 2^112, with the 32 keys of an f16 block, y [m][32]; false (and y void) when a key is not finite. */
@inline
export function scoreHalves(m: i32, k: usize, headDim: usize, x: usize, y: usize): bool {
  if (m == 1) return halfScores1(k, headDim, x, y);
  if (m == 2) return halfScores2(k, headDim, x, y);
  if (m == 4) return halfScores4(k, headDim, x, y);
  return halfScores8(k, headDim, x, y);
}

/** addValues of an f16 block for weights times 2^112, up to the dim it returns: the others hold a value that is not finite, or are the last few. */
@inline
export function addFoldedValues(m: i32, v: usize, headDim: usize, p: usize, low: usize, high: usize, o: usize, oStride: usize, factors: usize): usize {
  if (m == 1) return foldedValues1(v, headDim, p, low, high, o, oStride, factors);
  if (m == 2) return foldedValues2(v, headDim, p, low, high, o, oStride, factors);
  if (m == 4) return foldedValues4(v, headDim, p, low, high, o, oStride, factors);
  return foldedValues8(v, headDim, p, low, high, o, oStride, factors);
}

/** Dots of m packed queries with the 32 keys of a q8 block, y [m][32]. */
@inline
export function scoreTiles(m: i32, tiles: usize, scales: usize, nGroups: usize, pack: usize, y: usize): void {
${cases((M) => `scores${M}(tiles, scales, nGroups, pack, y)`)}}

/** o = o * c + weights . values of a q8 block, for m packed rows of weights; rows of o hold whole groups of 32. */
@inline
export function addValueTiles(m: i32, tiles: usize, nGroups: usize, pack: usize, o: usize, oStride: usize, factors: usize): void {
${cases((M) => `values${M}(tiles, nGroups, pack, o, oStride, factors)`)}}

/** The same for f32 and f16 blocks, over the keys low..high, from dim d to the last whole vector of four. */
@inline
export function addValues(isHalf: bool, m: i32, v: usize, d: usize, headDim: usize, p: usize, low: usize, high: usize, o: usize, oStride: usize, factors: usize): void {
  if (isHalf) {
${join([cases((M) => `halfValues${M}(v, d, headDim, p, low, high, o, oStride, factors)`).trimEnd()], "  ")}\
    return;
  }
${cases((M) => `floatValues${M}(v, d, headDim, p, low, high, o, oStride, factors)`)}}
`;
}
