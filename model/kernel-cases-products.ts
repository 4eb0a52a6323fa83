// Cases of the kernels on matrices: products, experts, logits ranked on the way, rows read out. docs/arithmetic.md sections 3 to 6 and 9.
// Owns how test matrices are drawn: at random, of the largest magnitudes, of scales at the small end. Part of kernel-self-test.ts's table.

import type { ExpertKind } from "./config.ts";
import { f32ToF16 } from "./float-math.ts";
import { seededNumbers } from "./kernel-case.ts";
import type { Arena, KernelCase } from "./kernel-case.ts";
import {
  EXPERT_KINDS, activationFormatOf, activationRowBytes, expertScratchBytes, formatCode, gateUpRows, matmulScratchBytes, matrixBytes, segmentBiasBytes, segmentBytes, tileBytes,
  topLogitsScratchBytes,
} from "./kernels.ts";
import type { MatrixFormat } from "./kernels.ts";

/** How the bytes of a test matrix are drawn. `extreme`: largest magnitudes only; `tiny-scales`: negative, zero and subnormal scales and minima. */
export type WeightStyle = "random" | "extreme" | "tiny-scales";

/** Bytes of the largest magnitudes, and the share of the first of the two. For q4k they are also the largest bytes as sc and m, for q6k scales of -128. */
const EXTREMES = {
  q8: [[0x80, 0x7f], 0.6], q4: [[0xff, 0x00], 0.8], q4m: [[0xff, 0x00], 0.8], q4k: [[0xff, 0x00], 0.8], q2: [[0xff, 0x00], 0.8], q3: [[0x00, 0xff], 0.8], mxfp4: [[0x77, 0xff], 0.8], q6k: [[0x00, 0xff], 0.8],
} as const;

/** Lays out a matrix with drawn weights; the padding holds drawn bytes too, for no product may look at it. */
function drawMatrix(format: MatrixFormat, nRows: number, nCols: number, random: () => number, style: WeightStyle): Uint8Array {
  const out = new Uint8Array(matrixBytes(format, nRows, nCols));
  const u16 = new Uint16Array(out.buffer);
  const symmetric = () => random() * 2 - 1;
  if (format === "f32") new Float32Array(out.buffer).forEach((_, i, all) => { all[i] = symmetric(); });
  else if (format === "f16") u16.forEach((_, i) => { u16[i] = style === "random" ? f32ToF16(symmetric()) : Math.floor(random() * 65536) & 0xfbff; });
  else if (format === "bf16") {
    const bits = new Uint32Array(new Float32Array(u16.length).map(symmetric).buffer);
    u16.forEach((_, i) => { u16[i] = bits[i] >>> 16; });
  } else {
    const [extremes, share] = EXTREMES[format as keyof typeof EXTREMES];
    // The first tile holds nothing but the largest magnitude.
    out.forEach((_, i) => {
      if (style !== "extreme") out[i] = Math.floor(random() * 256);
      else out[i] = extremes[i < tileBytes(format) || random() < share ? 0 : 1];
    });
    const halves = format === "mxfp4" ? 0 : format === "q4m" || format === "q4k" ? 64 : 32;
    for (let tile = 0; tile < out.length; tile += tileBytes(format)) {
      for (let r = 0; r < halves; r++) {
        const pick = Math.floor(random() * 4);
        u16[tile / 2 + r] = style === "tiny-scales"
          ? [0, 0x8000, Math.floor(random() * 0x400), 0x8000 | Math.floor(random() * 0x800)][pick]
          : f32ToF16(symmetric() * 0.02);
      }
      // E8M0: around one; or the subnormal end, and in between, where a scale times an activation's is subnormal.
      if (format === "mxfp4") for (let r = 0; r < 32; r++) out[tile + r] = Math.floor(random() * (style === "tiny-scales" ? 5 : 12)) + (style === "tiny-scales" ? 0 : 116);
      if (format === "q6k" && style === "extreme") {
        for (let step = tile + 64; step < tile + tileBytes(format); step += 416) for (let r = 0; r < 32; r++) out[step + r] = random() < 0.8 ? 0x80 : 0x7f;
      }
    }
  }
  return out;
}

/** Lays out activation rows for `format` and the u32 table of their addresses. Returns the table's address. */
function drawActivations(arena: Arena, format: MatrixFormat, nTokens: number, nCols: number, random: () => number, style: WeightStyle): number {
  const kind = activationFormatOf(format);
  const rows = [];
  for (let t = 0; t < nTokens; t++) {
    const at = arena.alloc(activationRowBytes(kind, nCols));
    if (kind === "f32") new Float32Array(arena.memory.buffer, at, nCols).forEach((_, i, all) => { all[i] = random() * 2 - 1; });
    else {
      const nGroups = Math.ceil(nCols / 32);
      const q = new Int8Array(arena.memory.buffer, at, nGroups * 32);
      for (let i = 0; i < nCols; i++) q[i] = style === "extreme" ? (t % 2 > 0 || random() < 0.8 ? -127 : 127) : Math.floor(random() * 255) - 127;
      new Float32Array(arena.memory.buffer, at + nGroups * 32, nGroups).forEach((_, i, all) => { all[i] = random() * 0.05; });
    }
    rows.push(at);
  }
  return arena.u32(rows);
}

export function matmulCase(format: MatrixFormat, nRows: number, nCols: number, nTokens: number, seed: number, style: WeightStyle = "random"): KernelCase {
  return {
    name: `matmul ${format} [${nRows}, ${nCols}] x ${nTokens}, seed ${seed}, ${style}`,
    prepare(arena) {
      const random = seededNumbers(seed);
      const w = arena.bytes(drawMatrix(format, nRows, nCols, random, style));
      const acts = drawActivations(arena, format, nTokens, nCols, random, style);
      const yStride = Math.ceil(nRows / 4) * 16 + 16;
      const y = arena.alloc(yStride * nTokens);
      const scratch = arena.allocScratch(matmulScratchBytes(nCols));
      return (k) => k.matmul(formatCode(format), w, nRows, nCols, acts, nTokens, y, yStride, scratch);
    },
  };
}

export function topLogitsCase(format: MatrixFormat, nRows: number, nCols: number, nTokens: number, k: number, factor: number, seed: number): KernelCase {
  return {
    name: `topLogits ${format} [${nRows}, ${nCols}] x ${nTokens}, the ${k} largest times ${factor}, seed ${seed}`,
    prepare(arena) {
      const random = seededNumbers(seed);
      const w = arena.bytes(drawMatrix(format, nRows, nCols, random, "random"));
      const acts = drawActivations(arena, format, nTokens, nCols, random, "random");
      const [ids, values, notFinite] = [arena.alloc(nTokens * k * 4), arena.alloc(nTokens * k * 4), arena.alloc(nTokens * 4)];
      const scratch = arena.allocScratch(topLogitsScratchBytes(nCols));
      return (kernels) => kernels.topLogits(formatCode(format), w, nRows, nCols, acts, nTokens, factor, k, ids, values, notFinite, scratch);
    },
  };
}

export interface ExpertShape {
  readonly kind?: ExpertKind;
  readonly gateUp: MatrixFormat;
  readonly down: MatrixFormat;
  /** Numbers of an activation row; absent: hidden. */
  readonly input?: number;
  readonly hidden: number;
  readonly width: number;
  readonly style?: WeightStyle;
  /** Of clamped-swiglu: the clamp, the reach of the drawn biases, and biases that take the place of the first ones. */
  readonly limit?: number;
  readonly biasReach?: number;
  readonly biases?: readonly number[];
  /** Of relu-mlp: the share of neurons that are silent for all tokens, or of groups of 32 of them; but those whose biases are given. */
  readonly silent?: { readonly share: number; readonly by: 1 | 32 };
}

/** Large enough that nothing a case draws comes near it. */
const SILENCE = -1e9;

export function expertCase(shape: ExpertShape, nTokens: number, seed: number): KernelCase {
  const { kind = "swiglu", gateUp, down, hidden, input = hidden, width, style = "random", limit = 0.5, biasReach = 1, biases = [], silent } = shape;
  return {
    name: `expertFfn ${kind} ${gateUp}/${down} ${input === hidden ? "" : `input ${input} `}hidden ${hidden} width ${width} x ${nTokens}, limit ${limit}, biases to ${biasReach} ${biases.join(" ")}${silent === undefined ? "" : `, ${silent.share} silent by ${silent.by}`}, seed ${seed}, ${style}`,
    prepare(arena) {
      const random = seededNumbers(seed);
      const first = drawMatrix(gateUp, gateUpRows(kind, gateUp, width), input, random, style);
      const second = drawMatrix(down, hidden, width, random, style);
      const all = new Uint8Array(segmentBytes(kind, gateUp, down, input, hidden, width));
      all.set(first);
      all.set(second, first.length);
      const behind = new Float32Array(all.buffer, first.length + second.length, segmentBiasBytes(kind, gateUp, hidden, width) / 4);
      behind.forEach((_, i) => { behind[i] = (random() * 2 - 1) * biasReach; });
      behind.set(biases.slice(0, behind.length));
      for (let i = 0; silent !== undefined && i < width; i += silent.by) if (random() < silent.share) behind.fill(SILENCE, Math.max(i, biases.length), Math.min(width, i + silent.by));
      const w = arena.bytes(all);
      const acts = drawActivations(arena, gateUp, nTokens, input, random, style);
      const yStride = Math.ceil(hidden / 4) * 16;
      const y = arena.alloc(yStride * nTokens);
      const scratch = arena.allocScratch(expertScratchBytes(input, width));
      return (k) => k.expertFfn(EXPERT_KINDS.indexOf(kind), limit, formatCode(gateUp), formatCode(down), w, input, hidden, width, acts, nTokens, y, yStride, scratch);
    },
  };
}

export function readRowCase(format: MatrixFormat, nRows: number, nCols: number, seed: number): KernelCase {
  return {
    name: `readRow ${format} [${nRows}, ${nCols}], seed ${seed}`,
    prepare(arena) {
      const w = arena.bytes(drawMatrix(format, nRows, nCols, seededNumbers(seed), "random"));
      const out = arena.alloc(nCols * 4);
      return (k) => k.readRow(formatCode(format), w, nCols, nRows - 1, out);
    },
  };
}
