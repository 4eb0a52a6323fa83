// The case table of the kernels: every operation over batches, odd sizes and edge values, shared by the Node tests, the child
// processes with other engine flags and the workerd tests. Built from the case makers of the start-up self-test.

import { Arena, compareCase, seededNumbers } from "../model/kernel-case.ts";
import type { KernelCase, Mismatch } from "../model/kernel-case.ts";
import { attentionCase } from "../model/kernel-cases-attention.ts";
import { expertCase, matmulCase, readRowCase, topLogitsCase } from "../model/kernel-cases-products.ts";
import type { WeightStyle } from "../model/kernel-cases-products.ts";
import { quantizeCase, ropeCase, rowCases } from "../model/kernel-cases-rows.ts";
import { EXPERT_KINDS, KV_FORMATS, MATRIX_FORMATS, activationFormatOf, attentionScratchBytes, formatCode, matmulScratchBytes, topLogitsScratchBytes } from "../model/kernels.ts";
import type { MatrixFormat } from "../model/kernels.ts";
import { createScalarKernels } from "../model/scalar-kernels.ts";
import { RESERVED_BYTES, instantiateKernels } from "../model/wasm-kernels.ts";
import type { KernelVariant } from "../model/wasm-kernels.ts";

export const KERNEL_VARIANTS: readonly KernelVariant[] = ["simd128", "relaxed-i32", "relaxed-i16"];

const QUANTISED = MATRIX_FORMATS.filter((format) => activationFormatOf(format) === "qa8");

function productCases(): KernelCase[] {
  const cases: KernelCase[] = [];
  for (const format of MATRIX_FORMATS) {
    for (let nTokens = 1; nTokens <= 9; nTokens++) cases.push(matmulCase(format, 33, 64, nTokens, 100 + nTokens));
    cases.push(matmulCase(format, 32, 32, 1, 120), matmulCase(format, 1, 32, 2, 121), matmulCase(format, 96, 160, 3, 122));
    cases.push(matmulCase(format, 70, 43, 4, 123), matmulCase(format, 31, 20, 8, 124), matmulCase(format, 5, 1, 15, 125));
    cases.push(readRowCase(format, 32, 64, 126), readRowCase(format, 70, 43, 127), readRowCase(format, 1, 1, 128));
  }
  for (const format of [...QUANTISED, "f16"] as const) {
    for (const nTokens of [1, 2, 4, 8]) {
      cases.push(matmulCase(format, 40, 96, nTokens, 130, "extreme"), matmulCase(format, 64, 64, nTokens, 131, "tiny-scales"));
    }
  }
  // Whole, begun and ragged super-groups; a second row block behind each.
  for (const format of ["q4k", "q6k"] as const) {
    for (const nCols of [1, 255, 256, 257, 288, 512, 700]) {
      for (const nTokens of [1, 2, 4, 8]) cases.push(matmulCase(format, 40, nCols, nTokens, 140 + nCols), readRowCase(format, 40, nCols, 141 + nCols));
    }
  }
  cases.push(...exponentCases());
  return cases;
}

/** MXFP4 with every exponent that is a number, one a row: scales from subnormal to 2^126, results from zero to infinite. */
function exponentCases(): KernelCase[] {
  return [1, 2, 4, 8].map((nTokens): KernelCase => ({
    name: `mxfp4 with every exponent x ${nTokens}`,
    prepare(arena) {
      const random = seededNumbers(150 + nTokens);
      const tiles = Uint8Array.from({ length: 8 * 544 }, (_, i) => (i % 544 < 32 ? Math.min(254, Math.floor(i / 544) * 32 + (i % 32)) : Math.floor(random() * 256)));
      const w = arena.bytes(tiles);
      const rows = Array.from({ length: nTokens }, (_, t) => {
        const at = arena.bytes(Uint8Array.from({ length: 48 }, () => Math.floor(random() * 256)));
        new Float32Array(arena.memory.buffer, at + 32, 1)[0] = [0.01, 65535, 1e-32, 3][t % 4]!;
        return at;
      });
      const acts = arena.u32(rows);
      const y = arena.alloc(nTokens * 1024);
      const row = arena.alloc(256 * 32 * 4);
      const scratch = arena.allocScratch(matmulScratchBytes(32));
      return (kernels) => {
        kernels.matmul(formatCode("mxfp4"), w, 256, 32, acts, nTokens, y, 1024, scratch);
        for (let r = 0; r < 256; r++) kernels.readRow(formatCode("mxfp4"), w, 32, r, row + 128 * r);
      };
    },
  }));
}

/** Every shape of an expert in every kind. */
function expertCases(): KernelCase[] {
  const cases: KernelCase[] = [];
  for (const kind of EXPERT_KINDS) {
    const add = (gateUp: MatrixFormat, down: MatrixFormat, hidden: number, width: number, nTokens: number, seed: number, style: WeightStyle = "random"): void => {
      cases.push(expertCase({ kind, gateUp, down, hidden, width, style }, nTokens, seed));
    };
    for (let nTokens = 1; nTokens <= 9; nTokens++) add("q4", "q4", 64, 96, nTokens, 200 + nTokens);
    for (const [gateUp, down] of [["q8", "q8"], ["q4", "q8"], ["q8", "q4"]] as const) {
      for (const width of [1, 16, 32, 40, 48, 64]) add(gateUp, down, 64, width, 3, 220 + width);
      add(gateUp, down, 36, 64, 15, 219);
    }
    for (const format of ["q4m", "q4k", "q2", "mxfp4", "q6k", "q3"] as const) {
      for (let nTokens = 1; nTokens <= 9; nTokens++) add(format, format, 288, 96, nTokens, 260 + nTokens);
      for (const width of [1, 16, 40, 300]) {
        add(format, format, 64, width, 3, 270 + width);
        add("q4", format, 36, width, 5, 280 + width);
      }
      add(format, format, 32, 64, 8, 290, "extreme");
      add(format, format, 64, 32, 3, 291, "tiny-scales");
    }
    for (const [gateUp, down] of [["f32", "f32"], ["f16", "bf16"], ["bf16", "f16"], ["f32", "f16"]] as const) {
      for (const width of [1, 16, 17, 32, 43, 172]) add(gateUp, down, 43, width, 3, 240 + width);
    }
    add("q4", "q4", 32, 32, 8, 250, "extreme");
    add("q8", "q8", 32, 64, 8, 251, "tiny-scales");
    // Latent experts: rows of fewer numbers than the outputs have, and of more.
    for (const [gateUp, down] of [["q4", "q8"], ["q8", "q8"], ["q4k", "q6k"], ["q2", "mxfp4"], ["q3", "q2"], ["f32", "f32"], ["f16", "bf16"]] as const) {
      for (const [input, hidden, nTokens] of [[32, 96, 1], [64, 160, 8], [96, 44, 7], [288, 36, 2]] as const) cases.push(expertCase({ kind, gateUp, down, input, hidden, width: 72 }, nTokens, 600 + input));
    }
  }
  return cases;
}

/**
 * Clamped SwiGLU at its edges: limits of zero, hit by all, hit by few and never; biases that are no ordinary numbers, in gate rows (the first
 * 16), up rows (the next 16) and, where there is but one row block, down's.
 */
function clampedCases(): KernelCase[] {
  const cases: KernelCase[] = [];
  const odd = [NaN, Infinity, -Infinity, 3e38, -3e38, 1e-40, -1e-40, -0, 7, -7, 87.3, -87.4];
  for (const [gateUp, down] of [["mxfp4", "mxfp4"], ["q8", "q8"], ["f32", "f32"], ["f16", "bf16"]] as const) {
    for (const [limit, biasReach] of [[0, 1], [1e-3, 1], [7, 20], [7, 0], [1e30, 100], [Infinity, 3]] as const) {
      for (const width of [7, 43]) cases.push(expertCase({ kind: "clamped-swiglu", gateUp, down, hidden: 34, width, limit, biasReach }, 3, 500 + width));
    }
    for (let at = 0; at < 48; at++) {
      const biases = Array.from({ length: 64 }, (_, i) => (i % 16 === at % 16 ? odd[(at + (i >> 4)) % odd.length]! : 0.1 * (i - 32)));
      cases.push(expertCase({ kind: "clamped-swiglu", gateUp, down, hidden: 34, width: 16, limit: 7, biases }, 2, 520 + at));
    }
  }
  return cases;
}

/**
 * Kinds without a gate at their edges: biases that are no ordinary numbers, in up rows and, where there is but one row block, in down's; GELU from one end of erf to the
 * other; ReLU with zeros from none to all, by neurons and by groups, in every format and piece.
 */
function ungatedCases(): KernelCase[] {
  const cases: KernelCase[] = [];
  const odd = [NaN, Infinity, -Infinity, 3e38, -3e38, 1e-40, -1e-40, -0, 1.4142135, -1.4142135, 5.6568, -5.6568];
  for (const kind of ["relu-mlp", "gelu-mlp"] as const) {
    for (const [gateUp, down] of [["mxfp4", "mxfp4"], ["q8", "q8"], ["f32", "f32"], ["f16", "bf16"]] as const) {
      for (const biasReach of [0, 3, 1e6]) for (const width of [7, 172]) cases.push(expertCase({ kind, gateUp, down, hidden: 34, width, biasReach }, 3, 540 + width));
      for (let at = 0; at < 16; at++) {
        const biases = Array.from({ length: 64 }, (_, i) => (i % 16 === at % 16 ? odd[(at + (i >> 4)) % odd.length]! : 0.1 * (i - 32)));
        cases.push(expertCase({ kind, gateUp, down, hidden: 34, width: 24, biases }, 2, 560 + at));
      }
    }
    // From one end of erf to the other.
    for (let from = -512; from < 512; from += 32) cases.push(expertCase({ kind, gateUp: "f32", down: "f32", input: 4, hidden: 32, width: 32, biases: Array.from({ length: 32 }, (_, i) => (from + i) / 80) }, 1, 570));
  }
  for (const format of MATRIX_FORMATS) {
    const gateUp = activationFormatOf(format) === "qa8" ? "q8" : "f32";
    for (const share of [0.3, 0.8, 1]) {
      for (const nTokens of [1, 2, 4, 8, 9]) cases.push(expertCase({ kind: "relu-mlp", gateUp, down: format, input: 32, hidden: 36, width: 200, silent: { share, by: nTokens % 2 === 0 ? 32 : 1 } }, nTokens, 580 + nTokens));
    }
    for (const [hidden, width] of [[1, 33], [32, 32], [64, 31], [36, 290]] as const) cases.push(expertCase({ kind: "relu-mlp", gateUp, down: format, input: 20, hidden, width, silent: { share: 0.8, by: 32 } }, 5, 590 + width));
    // What is not finite is never left out, though its int8 are zero.
    for (const bias of [NaN, Infinity]) for (const nTokens of [1, 8]) cases.push(expertCase({ kind: "relu-mlp", gateUp, down: format, input: 32, hidden: 36, width: 200, biases: [bias], silent: { share: 0.9, by: 32 } }, nTokens, 598));
    for (const style of ["extreme", "tiny-scales"] as const) cases.push(expertCase({ kind: "relu-mlp", gateUp, down: format, hidden: 32, width: 160, style, silent: { share: 0.7, by: 32 } }, 3, 599));
  }
  return cases;
}

/**
 * Latent attention: values that are the head of their keys, down to all of them; batches of every piece and of more pieces than go through a block
 * together; values that are not finite, in a value's dims and behind them.
 */
function latentCases(): KernelCase[] {
  const cases: KernelCase[] = [];
  for (const kvFormat of KV_FORMATS) {
    const base = { kvFormat, nHeads: 4, nKvHeads: 1, headDim: 40, latentDim: 32, positions: [0, 1, 30, 31, 32, 33, 63, 64, 97], window: 0, sinks: false };
    cases.push(
      attentionCase(base, 430), attentionCase({ ...base, sinks: true }, 431), attentionCase({ ...base, window: 1 }, 432),
      attentionCase({ ...base, window: 20, sinks: true }, 433), attentionCase({ ...base, window: 33 }, 434), attentionCase({ ...base, latentDim: 32, headDim: 32 }, 435),
      ...[1, 2, 3, 5, 8, 16].map((nHeads) => attentionCase({ ...base, nHeads, headDim: 104, latentDim: 96, positions: [31, 63, 95, 96] }, 440 + nHeads)),
      attentionCase({ ...base, nHeads: 128, positions: [33] }, 436), attentionCase({ ...base, nHeads: 20, positions: Array.from({ length: 40 }, (_, i) => i) }, 437),
      attentionCase({ ...base, nHeads: 6, nKvHeads: 2, positions: [31, 40] }, 438), attentionCase({ ...base, nHeads: 2, headDim: 576, latentDim: 512, positions: [35] }, 439),
      ...(["k", "q"] as const).flatMap((place) => [65519, 1e9, -Infinity, NaN, 6e-8].flatMap((value, i) => [3, 33].map((column) => attentionCase(
        { ...base, nHeads: 2, positions: [63, 64, 64, 95], spike: { in: place, row: place === "q" ? 1 : 40, column, value } }, 460 + i)))),
    );
    // The second of three runs of 32 dims holds what no product may fold, the third is ordinary.
    for (const nHeads of [1, 4]) cases.push(attentionCase({ ...base, nHeads, headDim: 104, latentDim: 96, positions: [63, 70], spike: { in: "k", row: 40, column: 50, value: 1e9 } }, 468));
    if (kvFormat === "q8") continue;
    for (const [headDim, latentDim] of [[20, 16], [5, 4], [22, 12], [72, 68], [60, 36], [64, 64]] as const) {
      for (const nHeads of [1, 2, 4, 8]) cases.push(attentionCase({ ...base, nHeads, headDim, latentDim, positions: [31, 63, 70] }, 470 + headDim));
    }
  }
  return cases;
}

function otherCases(): KernelCase[] {
  const cases: KernelCase[] = [];
  for (const n of [1, 2, 3, 4, 7, 32, 43, 64]) cases.push(...rowCases(n, 3, 300 + n), quantizeCase(3, n, 310 + n));
  for (const nCols of [31, 33, 128]) cases.push(quantizeCase(2, nCols, 320 + nCols));
  // Groups at the edges of the format: zero, below 1e-30, ties, at and beyond 8,323,072, infinities and NaN.
  const edges: number[][] = [
    [0, -0], [9e-31, -9e-31], [1e-30, 1.1e-30, -5e-31], [127, 0.5, 1.5, 2.5, -0.5, -1.5, 126.5, -126.5], [8323071.5, -1],
    [8323072, 1], [-8323072, 1], [Infinity, 1], [1, -Infinity], [1, NaN, 2], [3.4e38, -3.4e38],
  ];
  edges.forEach((values, i) => cases.push(quantizeCase(1, 32, 330 + i, values), quantizeCase(2, 20, 350 + i, values)));
  for (const style of ["half", "interleaved"] as const) {
    cases.push(ropeCase(style, 3, 16, 16, [0, 1, 7], 370), ropeCase(style, 2, 32, 8, [5, 2], 371), ropeCase(style, 2, 22, 14, [3], 372), ropeCase(style, 1, 2, 2, [1], 373));
  }
  for (const kvFormat of KV_FORMATS) {
    const base = { kvFormat, nHeads: 4, nKvHeads: 2, headDim: 16, positions: [0, 1, 30, 31, 32, 33, 63, 64, 97], window: 0, sinks: false };
    cases.push(
      attentionCase(base, 380), attentionCase({ ...base, sinks: true }, 381), attentionCase({ ...base, window: 1 }, 382),
      attentionCase({ ...base, window: 20, sinks: true }, 383), attentionCase({ ...base, window: 33 }, 384), attentionCase({ ...base, window: 500 }, 385),
      attentionCase({ ...base, nHeads: 1, nKvHeads: 1, headDim: 22 }, 386), attentionCase({ ...base, nHeads: 6, nKvHeads: 1, headDim: 4 }, 387),
      ...[1, 2, 3, 5, 8].map((nHeads) => attentionCase({ ...base, nHeads, nKvHeads: 1, headDim: 72, positions: [31, 63, 95, 96] }, 390 + nHeads)),
      ...(["k", "v", "q"] as const).flatMap((place) => [65519, 1e9, -Infinity, NaN, 6e-8].flatMap((value, i) => [2, 4].map((nHeads) => attentionCase(
        { ...base, nHeads, headDim: 40, positions: [63, 64, 64, 95], spike: { in: place, row: place === "q" ? 1 : 40, column: 43, value } }, 400 + i)))),
      attentionCase({ ...base, nKvHeads: 4, headDim: 7 }, 388), attentionCase({ ...base, nHeads: 2, headDim: 64, positions: [70] }, 389),
    );
  }
  return cases;
}

/** Values that have no ordinary order: NaN ranks below all, infinities count, equal values go to the lowest index. */
function topKCases(): KernelCase[] {
  const rows = [
    [NaN, 1, NaN, 2, 2, -Infinity], [NaN, NaN, NaN, NaN, NaN, NaN], [-0, 0, -0, 0, 1e-45, -1e-45], [Infinity, NaN, Infinity, -Infinity, 3, 3],
  ];
  return rows.flatMap((values) => [1, 3, 6].map((k): KernelCase => ({
    name: `topKRows of ${values.join(" ")}, k ${k}`,
    prepare(arena) {
      const x = arena.f32(values);
      const ids = arena.alloc(k * 4);
      const best = arena.alloc(k * 4);
      return (kernels) => kernels.topKRows(x, 32, 1, values.length, k, ids, best);
    },
  })));
}

/** Logits ranked while they are computed: every batch piece, ragged ends, chunks of 512 rows, ties (one column), and values that are not finite. */
function topLogitsCases(): KernelCase[] {
  const cases: KernelCase[] = [];
  for (let nTokens = 1; nTokens <= 9; nTokens++) cases.push(topLogitsCase("q4", 545, 32, nTokens, 4, 1, 400 + nTokens));
  for (const format of MATRIX_FORMATS) cases.push(topLogitsCase(format, 70, 43, 3, 64, 0.3, 420), topLogitsCase(format, 1030, 20, 2, 1, 1, 421), topLogitsCase(format, 3, 9, 1, 3, -2, 422));
  const rows = [[NaN, 1, NaN, 2, 2, -Infinity], [3, 3, 1, Infinity, 3, 4], [1, 2, 3, 3, 3, 2], [NaN, NaN, NaN, NaN, NaN, 1e38]];
  for (const values of rows) for (const k of [1, 2, 6]) for (const factor of [1, 10]) {
    cases.push({
      name: `topLogits of ${values.join(" ")}, times ${factor}, k ${k}`,
      prepare(arena) {
        const w = arena.f32([...values, ...new Array<number>(26).fill(0)]); // an f32 matrix of one column
        const acts = arena.u32([arena.f32([1])]);
        const [ids, best, notFinite] = [arena.alloc(k * 4), arena.alloc(k * 4), arena.alloc(4)];
        const scratch = arena.allocScratch(topLogitsScratchBytes(1));
        return (kernels) => kernels.topLogits(0, w, values.length, 1, acts, 1, factor, k, ids, best, notFinite, scratch);
      },
    });
  }
  return cases;
}

/** Softmax of rows with infinities and NaN. */
function softmaxCases(): KernelCase[] {
  return [[-Infinity, 0, 1, -Infinity, 2], [-Infinity, -Infinity], [Infinity, 1, 2, 3, 4, 5], [NaN, 1, 2, 3], [-200, 0, -88, 88, -87.34]].map((values) => ({
    name: `softmaxRows of ${values.join(" ")}`,
    prepare(arena) {
      const x = arena.f32(values);
      return (kernels) => kernels.softmaxRows(x, 64, 1, values.length);
    },
  }));
}

/** Values at the edges of f16 written to the cache and read back through attention: ties, subnormals, overflow, NaN. */
function cacheEdgeCases(): KernelCase[] {
  const edges = [65504, 65519.99, 65520, 1e9, -1e9, 2 ** -24, 2 ** -25, -(2 ** -25) * 1.01, -0, 1 + 2 ** -11, 1 + 3 * 2 ** -11, 6.1e-5];
  return KV_FORMATS.flatMap((_, code) => [edges, [...edges.slice(0, 11), NaN], [NaN, -Infinity, ...edges.slice(0, 10)]].map((values): KernelCase => ({
    name: `kvWrite and attention of edge values, cache format ${code}, last ${values.at(-1)}`,
    prepare(arena) {
      const page = arena.alloc(12 * 64 * 4);
      const pages = arena.u32([page]);
      const zero = arena.u32([0]);
      const k = arena.f32(values.map((_, i) => i / 10));
      const v = arena.f32(values);
      const q = arena.f32(values.map((_, i) => 1 - i / 5));
      const out = arena.alloc(48);
      const table = arena.u32([pages]);
      const scratch = arena.allocScratch(attentionScratchBytes(12, 0));
      return (kernels) => {
        kernels.kvWrite(code, k, v, 48, 1, 1, 12, pages, 0, zero);
        kernels.attention(code, q, 48, out, 48, 1, 1, 1, 12, 0, table, 0, zero, 0.3, 0, 0, scratch);
        kernels.kvWrite(code, v, v, 48, 1, 1, 12, pages, 0, zero);
      };
    },
  })));
}

export const kernelCases = (): KernelCase[] => [...productCases(), ...expertCases(), ...clampedCases(), ...ungatedCases(), ...otherCases(), ...latentCases(), ...topKCases(), ...topLogitsCases(), ...softmaxCases(), ...cacheEdgeCases()];

/** Every case in which `module` differs from the scalar reference in any bit, or writes where it should not. */
export function mismatchesOf(module: WebAssembly.Module, variant: KernelVariant, cases: readonly KernelCase[] = kernelCases()): Mismatch[] {
  const memory = new WebAssembly.Memory({ initial: 16 });
  const reference = createScalarKernels(memory);
  const candidate = instantiateKernels(module, memory, variant);
  const arena = new Arena(memory, RESERVED_BYTES);
  return cases.map((test) => compareCase(test, reference, candidate, arena)).filter((m) => m !== null);
}
