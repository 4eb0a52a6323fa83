// Generates products.ts of one variant: the inner loops of every matrix product, by format and batch, as AssemblyScript.
// A generator because AssemblyScript has no macros and wants literal memory offsets, while registers want unrolled accumulators.
// Shape of every int8 product: a row block of 32 rows is 8 row vectors of 4 rows. A pass holds R row vectors x M tokens of
// accumulators and walks all groups of 32 k; within a group a small loop over steps of 4 k (a fully unrolled group spills, because
// V8 schedules pure operations late), then one conversion and two roundings as docs/arithmetic.md section 5 wants.
// What differs between variants and formats is data: forms.mjs and scales.mjs. Refuses formats and batches that are not there.

import { FORMS, PROBE, SHAPES, SUPERS, SUPER_GROUPS, TILES, formOf, stepHeadBytes } from "./forms.mjs";
import { SCALES, superHead } from "./scales.mjs";

const FLOAT_FORMATS = { f32: 0, f16: 1, bf16: 2 };
const BATCHES = [1, 2, 4, 8];

const FLOAT_ROW_VECTORS = { 1: 8, 2: 4, 4: 2, 8: 1 };
/** Columns whose weights stay in the L1 cache from one pass to the next, at most 4 KiB. */
const FLOAT_CHUNK_COLUMNS = 32;

const range = (n) => Array.from({ length: n }, (_, i) => i);
const join = (parts, indent = "") => parts.map((line) => indent + line + "\n").join("");
const indented = (text, indent) => text.replace(/^(?=.)/gm, indent);

const splatLane = (v, i) => `v128.shuffle<i32>(${v}, ${v}, ${i}, ${i}, ${i}, ${i})`;


/**
 * The product of an int8 format for M tokens: R row vectors per pass, U steps per turn of the inner loop. Passes repeat within a group, not
 * over the whole row block: weights from beyond the cache want to be read in the order they lie, up to 1.7 times faster than every other
 * line of them. Where one pass takes all row vectors their sums stay in registers, otherwise in the output rows.
 * `skipsZeros`, of one token: groups whose activations have the scale +0 are passed over, docs/arithmetic.md section 6.
 */
function quantisedProduct(name, format, form, M, { R, U }, skipsZeros = false) {
  const { tileBytes, valuesAt, hasMinimum = false } = TILES[format];
  const scales = SCALES[TILES[format].scales];
  const superTile = SUPERS[format];
  const { weightStepBytes = 128 } = form;
  const stepHead = stepHeadBytes(form, M);
  const stepBytes = stepHead + M * form.stepBytes;
  const groupBytes = M * 8 + form.steps * stepBytes;
  const isWhole = R === 8;
  const cells = range(M).flatMap((t) => range(R).map((r) => ({ t, r, i: `${t}_${r}` })));
  const y = (t, r) => {
    const change = (how) => (term) => isWhole
      ? `y${t}_${r} = f32x4.${how}(y${t}_${r}, ${term});`
      : `v128.store(rows + ${t} * yStride, f32x4.${how}(v128.load(rows + ${t} * yStride, ${16 * r}), ${term}), ${16 * r});`;
    return { add: change("add"), sub: change("sub") };
  };
  // One token: row vectors outermost, so that unpacked weights die at once. Several: unpack R vectors, then token by token.
  // Activations come 16 bytes a load: a load costs up to four instructions where bounds are checked, a broadcast of a lane one.
  const lines = [];
  const weights = (u, r) => form.weights((plane = 0) => `v128.load(p, ${valuesAt + weightStepBytes * u + 128 * plane + 16 * r})`, r, u);
  const broadcast = (u, t) => [
    ...(stepHead > 0 ? [`start = v128.load32_splat(at, ${8 * M + u * stepBytes + 4 * t});`] : []),
    ...form.activationNames.flatMap((n, j) => {
      const word = (u * M + t) * form.activationNames.length + j;
      return [...(word % 4 === 0 ? [`all = v128.load(at, ${8 * M + (u + 1) * stepHead + 4 * word});`] : []), `${n} = ${splatLane("all", word % 4)};`];
    }),
  ];
  for (const u of range(U)) {
    if (stepHead > 0) lines.push(...form.factors(R, weightStepBytes * u));
    if (M > 1) for (const r of range(R)) lines.push(...weights(u, r));
    for (const t of range(M)) {
      lines.push(...broadcast(u, t));
      for (const r of range(R)) lines.push(...(M === 1 ? weights(u, r) : []), ...form.multiply(`${t}_${r}`, r));
    }
  }
  // The head of a group's pack, two tokens per load: {scale, correction} or {scale, scale * sum}.
  const needsCorrection = form.start("x") === "x";
  const heads = range(Math.ceil(M / 2)).map((h) => `const head${h} = v128.load(q, ${16 * h});`);
  const headLane = (t, lane) => splatLane(`head${t >> 1}`, 2 * (t & 1) + lane);
  const group = `\
let v: v128, all: v128;
let ${[...form.activationNames, ...(stepHead > 0 ? ["start", ...range(R).map((r) => `factor${r}`)] : [])].map((n) => `${n}: v128`).join(", ")};
let ${range(R).flatMap((r) => form.weightNames.map((n) => `${n}${r}: v128`)).join(", ")};
${needsCorrection ? join([...heads, ...range(M).map((t) => `const start${t} = ${headLane(t, 1)};`)]) : ""}\
${join(cells.flatMap(({ t, i }) => form.accumulators.map((a) => `let ${a}${i} = ${form.start(`start${t}`)};`)))}\
let p = tile${stepHead > 0 ? ", s = scales" : ""};
const stepEnd = q + ${form.steps * stepBytes};
for (let at = q; at < stepEnd; at += ${stepBytes * U}) {
${join(lines, "  ")}\
  p += ${weightStepBytes * U};
${stepHead > 0 ? `  s += ${weightStepBytes * U};\n` : ""}\
}
${join(scales.lines(R, hasMinimum))}\
${needsCorrection ? "" : join(heads)}\
${join(range(M).flatMap((t) => [
    `v = ${headLane(t, 0)};`,
    ...range(R).map((r) => y(t, r).add(`f32x4.mul(f32x4.convert_i32x4_s(${form.total(`${t}_${r}`)}), f32x4.mul(v, scale${r}))`)),
    ...(hasMinimum ? [`v = ${headLane(t, 1)};`, ...range(R).map((r) => y(t, r)[superTile !== undefined ? "sub" : "add"](`f32x4.mul(v, min${r})`))] : []),
  ]))}\
`;
  const passes = isWhole
    ? group
    : `\
let tile = w, scales = w, rows = y${superTile !== undefined ? ", supers = SUPER_BUFFER" : ""};
for (let pass = 0; pass < ${8 / R}; pass++) {
${indented(group, "  ")}\
  tile += ${16 * R}, scales += ${4 * R * scales.rowBytes}, rows += ${16 * R}${superTile !== undefined ? `, supers += ${16 * R}` : ""};
}
`;
  const next = (bytes) => isWhole ? `tile += ${bytes}, scales += ${bytes};` : `w += ${bytes};`;
  const skip = (indent) => (skipsZeros ? `${indent}if (load<i32>(q) == 0) { ${next(tileBytes)} continue; }\n` : "");
  const groups = superTile !== undefined
    ? `\
let head = w;
for (let q = pack; q < end;) {
${join(superHead(hasMinimum), "  ")}\
  head += ${superTile.bytes};
  ${next(superTile.headBytes)}
  const superEnd = min(q + ${SUPER_GROUPS * groupBytes}, end);
  for (; q < superEnd; q += ${groupBytes}) {
${skip("    ")}\
${indented(passes, "    ")}\
    ${next(tileBytes)}
  }
}
w = head;
`
    : `\
for (let q = pack; q < end; q += ${groupBytes}) {
${skip("  ")}\
${indented(passes, "  ")}\
  ${next(tileBytes)}
}
${isWhole ? "w = tile;\n" : ""}`;
  const constants = { ...scales.constants(R, hasMinimum), ...form.constants };
  return `
export function ${name}(w: usize, nBlocks: i32, nGroups: usize, pack: usize, y: usize, yStride: usize): void {
${join(Object.entries(constants).map(([local, constant]) => `const ${local} = v128.load(${constant});`), "  ")}\
  const end = pack + nGroups * ${groupBytes};
  for (let block = 0; block < nBlocks; block++) {
${isWhole
    ? `\
    let tile = w, scales = w${superTile !== undefined ? ", supers = SUPER_BUFFER" : ""};
${join(cells.map(({ i }) => `let y${i} = f32x4.splat(0);`), "    ")}`
    : join(range(M).flatMap((t) => range(8).map((r) => `v128.store(y + ${t} * yStride, f32x4.splat(0), ${16 * r});`)), "    ")}\
${indented(groups, "    ")}\
${isWhole ? join(cells.map(({ t, r, i }) => `v128.store(y + ${t} * yStride, y${i}, ${16 * r});`), "    ") : ""}\
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
${join(range(M).flatMap((t) => range(8).map((r) => `v128.store(y + ${t} * yStride, f32x4.splat(0), ${16 * r});`)), "    ")}\
    for (let from = x; from < end;) {
      const to = min(from + ${FLOAT_CHUNK_COLUMNS * 4 * M}, end);
      let rows = y;
      for (let pass: usize = 0; pass < ${8 / R}; pass++) {
        let p = w + pass * ${vectorBytes * R};
${join(cells.map(({ t, r, i }) => `let y${i} = v128.load(rows + ${t} * yStride, ${16 * r});`), "        ")}\
        for (let q = from; q < to; q += ${4 * M}) {
${join(range(R).map((r) => `const w${r} = ${load(r)};`), "          ")}\
${join(range(M).flatMap((t) => [
    `const x${t} = v128.load32_splat(q, ${4 * t});`,
    ...range(R).map((r) => `y${t}_${r} = f32x4.add(y${t}_${r}, f32x4.mul(w${r}, x${t}));`),
  ]), "          ")}\
          p += ${8 * vectorBytes};
        }
${join(cells.map(({ t, r, i }) => `v128.store(rows + ${t} * yStride, y${i}, ${16 * r});`), "        ")}\
        rows += ${16 * R};
      }
      w += (to - from) / ${4 * M} * ${8 * vectorBytes};
      from = to;
    }
    y += 128;
  }
}
`;
}

const wholeOf = (variant, format) => FORMS[variant][`${format}whole`];
const packCall = (variant, format) => {
  const [one, eight] = [1, 8].map((M) => formOf(variant, format, M).pack);
  const split = one === eight ? `${one};` : `{ if (m < 8) ${one}; else ${eight}; }`;
  const whole = wholeOf(variant, format)?.pack;
  return whole === undefined ? split : `{ if (wholeOffset() < 0) ${split} else ${whole}; }`;
};

/**
 * Where the dots of int8 by int8 are exact, one does the work of two: 128 where the engine reads the second operand as unsigned (VNNI; the
 * weights are then too large by 128), 0 where as signed (sdot), -1 where it saturates (pmaddubsw).
 */
const WHOLE_OFFSET = `
@inline
function wholeOffset(): i32 {
  const probe = probeDot();
  return probe == -130560 ? 128 : probe == 512 ? 0 : -1;
}
`;

/** pack(): which layout a format takes in this variant. */
const packFunction = (variant) => `
/** Packs m rows for \`product\`; returns where the pack lies. A single f32 row needs none. */
export function pack(format: i32, acts: usize, m: usize, nCols: usize, out: usize): usize {
  const nGroups = (nCols + 31) >> 5;
${join(Object.entries(TILES).map(([format, { code }], i) => `${i > 0 ? "else " : ""}if (format == ${code}) ${packCall(variant, format)} // ${format}`), "  ")}\
  else if (m == 1) return <usize>load<u32>(acts);
  else packFloats(acts, m, nCols, out);
  return out;
}
`;

/** The text of products.ts for "simd128", "relaxed-i32" or "relaxed-i16". `shapes` overrides the table when tuning. */
export function generateProducts(variant, shapes = SHAPES[variant]) {
  const functions = [];
  const cases = [];
  const skippingCases = [];
  const add = (format, code, size, generate) => {
    const names = BATCHES.map((M) => `${format}Tokens${M}`);
    functions.push(...BATCHES.map((M, i) => generate(names[i], M)));
    cases.push(`if (format == ${code}) {`, ...BATCHES.map((M, i) => `  ${i > 0 ? "else " : ""}if (m == ${M}) ${names[i]}(w, nBlocks, ${size}, pack, y, yStride);`), "  return;", "}");
  };
  for (const [format, { code }] of Object.entries(TILES)) {
    const whole = wholeOf(variant, format);
    const addSkipping = (name, condition, form, shape) => {
      functions.push(quantisedProduct(name, format, form, 1, shape, true));
      skippingCases.push(`if (${condition}) ${name}(w, nBlocks, (nCols + 31) >> 5, pack, y, 0);`);
    };
    if (whole !== undefined) {
      addSkipping(`${format}WholeSkipping`, `format == ${code} && wholeOffset() >= 0`, whole, shapes[`${format}whole`][1]);
      add(`${format}Whole`, `${code} && wholeOffset() >= 0`, "(nCols + 31) >> 5", (name, M) => quantisedProduct(name, format, whole, M, shapes[`${format}whole`][M]));
    }
    addSkipping(`${format}Skipping`, `format == ${code}${whole === undefined ? "" : " && wholeOffset() < 0"}`, formOf(variant, format, 1), shapes[format][1]);
    add(format, code, "(nCols + 31) >> 5", (name, M) => quantisedProduct(name, format, formOf(variant, format, M), M, shapes[format][M]));
  }
  for (const [format, code] of Object.entries(FLOAT_FORMATS)) add(format, code, "nCols", (name, M) => floatProduct(name, format, M, FLOAT_ROW_VECTORS[M]));
  return `// Generated by kernels-as/generate.mjs for the variant ${variant}. Not committed; do not edit.

import {
  DOT_BIAS, E2M1_TABLE, EVEN_BYTES, HALF_FIX, HALF_MASK, LEAST_EXPONENT, LOWER_TWO, LOW_NIBBLE_MASK, LOW_PAIR_MASK, NIBBLE_MASK, ONES, PAIR_MASK, SIX_BITS, SUPER_BUFFER, THIRD_BIT, THREE_BITS,
  UPPER_HALF_MASK,
} from "./constants";
import { loadBrain4, loadHalf4 } from "./floats";
import { BYTES, CORRECTION, CORRECTION16, NIBBLES, QUADS, SUM, packFloats, packPairs, packQuads, packSplit, packSteps, packWhole, packWide } from "./packs";
${functions.join("")}${Object.keys(FORMS[variant]).some((form) => form.endsWith("whole")) ? WHOLE_OFFSET : ""}${packFunction(variant)}
/** nBlocks row blocks times m packed rows (m = 1, 2, 4 or 8), 32 f32 per block and token. */
export function product(format: i32, m: i32, w: usize, nBlocks: i32, nCols: usize, pack: usize, y: usize, yStride: usize): void {
${join(cases, "  ")}}

/** The same of one packed row, without the groups of it that are zero; formats from q8 on. */
export function skippingProduct(format: i32, w: usize, nBlocks: i32, nCols: usize, pack: usize, y: usize): void {
${join(skippingCases, "  ")}}

/** The engine's answer to forms.mjs's PROBE; 0 without relaxed SIMD. */
export function probeDot(): i32 {
  return ${variant === "simd128" ? "0" : PROBE};
}
`;
}
