// The kernel seam: the arithmetic of docs/arithmetic.md over one linear memory.
// Owns the names, argument order and units of every operation. Implementations: scalar-kernels.ts (the truth) and the
// WebAssembly variants built from kernels-as/. Refuses: allocation, model knowledge, anything asynchronous.
// Every pointer is a byte offset into `memory`, 16-byte aligned unless said otherwise; strides are bytes.

import type { ExpertKind } from "./config.ts";
import { hasBiases, isGated } from "./expert-kinds.ts";

/** Codes of matrix formats, docs/arithmetic.md section 3. They are part of the pack format and the ABI. */
export const MATRIX_FORMATS = ["f32", "f16", "bf16", "q8", "q4", "q4m", "q4k", "q2", "mxfp4", "q6k", "q3"] as const;
export type MatrixFormat = (typeof MATRIX_FORMATS)[number];
export const formatCode = (format: MatrixFormat): number => MATRIX_FORMATS.indexOf(format);

export type ActivationFormat = "f32" | "qa8";

/** By format: the activations it consumes, and its tile of 32 rows: columns and bytes. Columns are padded to whole tiles. */
const TILES: Readonly<Record<MatrixFormat, { readonly activations: ActivationFormat; readonly columns: number; readonly bytes: number }>> = {
  f32: { activations: "f32", columns: 1, bytes: 128 },
  f16: { activations: "f32", columns: 1, bytes: 64 },
  bf16: { activations: "f32", columns: 1, bytes: 64 },
  q8: { activations: "qa8", columns: 32, bytes: 1088 },
  q4: { activations: "qa8", columns: 32, bytes: 576 },
  q4m: { activations: "qa8", columns: 32, bytes: 640 },
  q4k: { activations: "qa8", columns: 256, bytes: 4736 },
  q2: { activations: "qa8", columns: 32, bytes: 320 },
  mxfp4: { activations: "qa8", columns: 32, bytes: 544 },
  q6k: { activations: "qa8", columns: 256, bytes: 6720 },
  q3: { activations: "qa8", columns: 32, bytes: 448 },
};

export const activationFormatOf = (format: MatrixFormat): ActivationFormat => TILES[format].activations;
/** Columns and bytes of one tile of 32 rows. */
export const tileColumns = (format: MatrixFormat): number => TILES[format].columns;
export const tileBytes = (format: MatrixFormat): number => TILES[format].bytes;

/** Codes of KV cache formats, docs/arithmetic.md section 8. */
export const KV_FORMATS = ["f32", "f16", "q8"] as const;
export type KvFormat = (typeof KV_FORMATS)[number];

export const ROPE_STYLES = ["half", "interleaved"] as const;
export type RopeStyle = (typeof ROPE_STYLES)[number];

/** Codes of what an expert computes between its matrices, docs/arithmetic.md section 6; config.ts ExpertKind. */
export const EXPERT_KINDS = ["swiglu", "clamped-swiglu", "relu-mlp", "gelu-mlp"] as const;

/** Keys per attention block; also the tokens of one KV page. Part of the arithmetic: never a tuning knob. */
export const KV_BLOCK = 32;

export interface KernelOps {
  /** qa8 rows from f32 rows. x [nTokens, nCols] f32, out nTokens rows of qa8RowBytes(nCols). */
  quantizeRows(x: number, xStride: number, out: number, outStride: number, nTokens: number, nCols: number): void;

  /**
   * y[t][r] = W[r] . a[t]. `acts` points to u32[nTokens]: addresses of activation rows in the format's activation format.
   * y rows of nRows f32 (exactly nRows are written), 16-byte aligned. `scratch` holds matmulScratchBytes(nCols).
   */
  matmul(format: number, w: number, nRows: number, nCols: number, acts: number, nTokens: number,
    y: number, yStride: number, scratch: number): void;

  /**
   * One segment of an expert: y[t] = down . h(gate . a[t], up . a[t]) with rows a of `input` numbers, h by `kind` (EXPERT_KINDS), for a kind with biases gate, up and down
   * plus theirs; `limit` is the clamp of clamped-swiglu. `w` is the gate-up matrix (without a gate: up), directly followed by the down matrix and, for a kind with
   * biases, by f32 biases in the order of the rows of both (segmentBytes). Both formats must consume the same activation format.
   * y rows of hidden f32. `scratch` holds expertScratchBytes(input, width).
   * Returns how many numbers of h the down product left out because they are zero, over all tokens: `hidden` multiplications each. That is a matter of the
   * implementation, and the scalar reference leaves out none.
   */
  expertFfn(kind: number, limit: number, gateUpFormat: number, downFormat: number, w: number, input: number, hidden: number, width: number,
    acts: number, nTokens: number, y: number, yStride: number, scratch: number): number;

  /** RMSNorm of nTokens rows of n f32; weight [n] f32; out may equal x. */
  rmsNormRows(x: number, xStride: number, weight: number, eps: number, out: number, outStride: number,
    nTokens: number, n: number): void;

  /** LayerNorm of nTokens rows of n f32; weight, bias [n] f32; out may equal x. */
  layerNormRows(x: number, xStride: number, weight: number, bias: number, eps: number, out: number, outStride: number,
    nTokens: number, n: number): void;

  /** RMSNorm and its qa8 rows in one pass, the bits of rmsNormRows then quantizeRows. `out` 0 = no f32 rows; else it may equal x. */
  rmsNormQuantizeRows(x: number, xStride: number, weight: number, eps: number, out: number, outStride: number,
    q: number, qStride: number, nTokens: number, n: number): void;

  /**
   * Rotary embedding in place. x rows of nHeads * headDim f32; the first ropeDim of each head rotate.
   * `table` is f32 [nPositions][2][ropeDim / 2] (cos, then sin); `positions` points to u32[nTokens].
   */
  ropeRows(style: number, x: number, xStride: number, nTokens: number, nHeads: number, headDim: number,
    ropeDim: number, table: number, positions: number): void;

  /**
   * Rounds K and V into the cache. k, v rows of nKvHeads * headDim f32. `pages` points to u32[nTokens]: address of the
   * page of each token; `positions` to u32[nTokens]. `layerOffset` = kvLayerOffset(...) within a page. v 0 = the cache holds no values of
   * their own (latent attention).
   */
  kvWrite(kvFormat: number, k: number, v: number, rowStride: number, nTokens: number, nKvHeads: number, headDim: number,
    pages: number, layerOffset: number, positions: number): void;

  /**
   * Attention of nTokens queries. q rows of nHeads * headDim f32; out rows of nHeads * headDim, or, where latentDim > 0, of nHeads * latentDim:
   * then the cache holds keys only, and a key's first latentDim dims (a multiple of 4) are its value. `pageTables` points to u32[nTokens]: address of the
   * token's page table (u32 page addresses by position / 32). window 0 = unlimited; sinks 0 = none, else f32[nHeads]; scale > 0.
   * Tokens of one timeline lie next to each other. `scratch` holds attentionScratchBytes(headDim, latentDim).
   */
  attention(kvFormat: number, q: number, qStride: number, out: number, outStride: number, nTokens: number, nHeads: number, nKvHeads: number,
    headDim: number, latentDim: number, pageTables: number, layerOffset: number, positions: number, scale: number, window: number, sinks: number,
    scratch: number): void;

  /** Softmax in place over n f32 of each row. */
  softmaxRows(x: number, xStride: number, nTokens: number, n: number): void;

  /** ids u32[nTokens][k], values f32[nTokens][k] of the k largest of n f32; ties to the lowest index; rank order. NaN ranks below all. */
  topKRows(x: number, xStride: number, nTokens: number, n: number, k: number, ids: number, values: number): void;

  /**
   * The k largest of factor * (W . a[t]) without holding the products: ids u32[nTokens][k] and values f32[nTokens][k] as topKRows gives
   * them, k <= nRows, and notFinite u32[nTokens], the first row whose value is not finite (0xffffffff: none). Other arguments as in
   * matmul; `scratch` holds topLogitsScratchBytes(nCols).
   */
  topLogits(format: number, w: number, nRows: number, nCols: number, acts: number, nTokens: number, factor: number, k: number,
    ids: number, values: number, notFinite: number, scratch: number): void;

  /** x[t][i] = x[t][i] + y[t][i]. */
  addRows(x: number, xStride: number, y: number, yStride: number, nTokens: number, n: number): void;

  /** to[r][i] = from[r][i] for nRows rows of n f32, which do not overlap. */
  copyRows(from: number, fromStride: number, to: number, toStride: number, nRows: number, n: number): void;

  /** x[t][i] = x[t][i] + bias[i]. */
  addBiasRows(x: number, xStride: number, bias: number, nTokens: number, n: number): void;

  /** x[t][i] = x[t][i] * factor. */
  scaleRows(x: number, xStride: number, factor: number, nTokens: number, n: number): void;

  /** x[t][i] = min(max(x, -limit), limit). */
  clampRows(x: number, xStride: number, limit: number, nTokens: number, n: number): void;

  /**
   * Folds expert rows: `pairs` points to nPairs records of 20 bytes {u32 token, u32 rowPtr, u32 segmentStride, u32 nSegments, f32 weight},
   * sorted by ascending expert. For each: out = row_0 (+ row_s ...); y[token] = y[token] + weight * out. Rows are f32[n].
   */
  combine(pairs: number, nPairs: number, y: number, yStride: number, n: number): void;

  /** out f32[nCols] = row `row` of a matrix in tile layout, multiplied out. */
  readRow(format: number, w: number, nCols: number, row: number, out: number): void;

  /** Checksum of a frame's payload (docs/protocol.md section 4): 32 bits, signed or not. `ptr` and `nBytes` are multiples of 16. */
  checksum(ptr: number, nBytes: number): number;
}

/** One implementation bound to one memory. `name` is "scalar", "simd128", "relaxed-i32" or "relaxed-i16". */
export interface Kernels extends KernelOps {
  readonly name: string;
  readonly memory: WebAssembly.Memory;
}

const roundUp = (n: number, to: number): number => Math.ceil(n / to) * to;

/** Bytes of a matrix in tile layout. */
export function matrixBytes(format: MatrixFormat, nRows: number, nCols: number): number {
  return Math.ceil(nRows / 32) * Math.ceil(nCols / tileColumns(format)) * tileBytes(format);
}

/** Rows (gate and up together, or up alone) of a segment's gate-up matrix: always a multiple of 32. */
export const gateUpRows = (kind: ExpertKind, format: MatrixFormat, width: number): number =>
  isGated(kind) ? 2 * roundUp(width, activationFormatOf(format) === "qa8" ? 32 : 16) : roundUp(width, 32);

/** Bytes of the biases of one segment of a kind that has them, else 0: f32 [gateUpRows], then f32 [hidden], each rounded up to 16 bytes. */
export const segmentBiasBytes = (kind: ExpertKind, gateUp: MatrixFormat, hidden: number, width: number): number =>
  hasBiases(kind) ? roundUp(gateUpRows(kind, gateUp, width) * 4, 16) + roundUp(hidden * 4, 16) : 0;

/** Bytes of one expert segment: gate-up matrix [.., input], then down matrix [hidden, width], then the biases. */
export const segmentBytes = (kind: ExpertKind, gateUp: MatrixFormat, down: MatrixFormat, input: number, hidden: number, width: number): number =>
  matrixBytes(gateUp, gateUpRows(kind, gateUp, width), input) + matrixBytes(down, hidden, width) + segmentBiasBytes(kind, gateUp, hidden, width);

/** Bytes of one qa8 activation row. */
export const qa8RowBytes = (nCols: number): number => {
  const cols = roundUp(nCols, 32);
  return roundUp(cols + cols / 8, 16);
};

/** Bytes of one activation row in the given format, rounded up to 16. */
export const activationRowBytes = (format: ActivationFormat, nCols: number): number =>
  format === "qa8" ? qa8RowBytes(nCols) : roundUp(nCols * 4, 16);

/**
 * Scratch of matmul for a piece of up to eight tokens: the ragged last row block (32 f32 each), and their packed activations: per
 * group of 32 at most {f32 scale, i32 correction}, 64 bytes of values and two corrections more, or nCols f32.
 */
export const matmulScratchBytes = (nCols: number): number =>
  8 * 128 + 8 * Math.max(roundUp(nCols, 32) / 32 * 80, roundUp(nCols, 4) * 4);

/** Scratch of expertFfn: gate and up of two row blocks, h (f32 at most) of 8 tokens, its addresses, and the scratch of both products. */
export const expertScratchBytes = (input: number, width: number): number =>
  8 * (2 * 128 + roundUp(width, 32) * 4) + 64 + matmulScratchBytes(Math.max(input, width));

/** Scratch of topLogits: 512 logits of eight tokens, and their packed activations. */
export const topLogitsScratchBytes = (nCols: number): number => 8 * 2048 + matmulScratchBytes(nCols);

/**
 * Scratch of attention: scores, and per group of 32 dims of a value a pack of weights, and one qa8 row; then for eight pieces the states of up to
 * eight queries, per group of 32 dims of a key their packs and of a value their sums; the values of one latent block (f32 at most).
 */
export function attentionScratchBytes(headDim: number, latentDim: number): number {
  const nGroups = Math.ceil(headDim / 32);
  const nValueGroups = latentDim > 0 ? Math.ceil(latentDim / 32) : nGroups;
  return 1152 + nValueGroups * 544 + qa8RowBytes(headDim) + 8 * (432 + (nGroups + nValueGroups) * 1024) + latentDim * KV_BLOCK * 4;
}

/** Bytes of a layer within one KV page (32 positions): [kv head][K block, V block], or K blocks only where latentDim > 0. */
export function kvLayerBytes(format: KvFormat, nKvHeads: number, headDim: number, latentDim: number): number {
  const blocks = nKvHeads * (latentDim > 0 ? 1 : 2);
  switch (format) {
    case "f32": return blocks * KV_BLOCK * headDim * 4;
    case "f16": return blocks * KV_BLOCK * headDim * 2;
    case "q8": return blocks * Math.ceil(headDim / 32) * 1088; // per group 32 bf16 scales and 32 x 32 int8
  }
}
/** Bytes of one KV page: 32 positions of all layers. */
export const kvPageBytes = (format: KvFormat, nLayers: number, nKvHeads: number, headDim: number, latentDim: number): number =>
  nLayers * kvLayerBytes(format, nKvHeads, headDim, latentDim);
