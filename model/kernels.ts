// The kernel seam: the arithmetic of docs/arithmetic.md over one linear memory.
// Owns the names, argument order and units of every operation. Implementations: scalar-kernels.ts (the truth) and the
// WebAssembly variants built from kernels-as/. Refuses: allocation, model knowledge, anything asynchronous.
// Every pointer is a byte offset into `memory`, 16-byte aligned unless said otherwise; strides are bytes.

/** Codes of matrix formats, docs/arithmetic.md section 3. They are part of the pack format and the ABI. */
export const MATRIX_FORMATS = ["f32", "f16", "bf16", "q8", "q4"] as const;
export type MatrixFormat = (typeof MATRIX_FORMATS)[number];
export const formatCode = (format: MatrixFormat): number => MATRIX_FORMATS.indexOf(format);

/** Formats of activations and what consumes them: f32 for f32/f16/bf16 matrices, qa8 for q8/q4. */
export type ActivationFormat = "f32" | "qa8";
export const activationFormatOf = (format: MatrixFormat): ActivationFormat =>
  format === "q8" || format === "q4" ? "qa8" : "f32";

/** Codes of KV cache formats. */
export const KV_FORMATS = ["f32", "f16"] as const;
export type KvFormat = (typeof KV_FORMATS)[number];

export const ROPE_STYLES = ["half", "interleaved"] as const;
export type RopeStyle = (typeof ROPE_STYLES)[number];

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
   * One segment of a SwiGLU expert: y[t] = down . swiglu(gate . a[t], up . a[t]). `w` is the gate-up matrix, directly
   * followed by the down matrix. Both formats must consume the same activation format.
   * y rows of hidden f32. `scratch` holds expertScratchBytes(hidden, width).
   */
  expertFfn(gateUpFormat: number, downFormat: number, w: number, hidden: number, width: number,
    acts: number, nTokens: number, y: number, yStride: number, scratch: number): void;

  /** RMSNorm of nTokens rows of n f32; weight [n] f32; out may equal x. */
  rmsNormRows(x: number, xStride: number, weight: number, eps: number, out: number, outStride: number,
    nTokens: number, n: number): void;

  /**
   * Rotary embedding in place. x rows of nHeads * headDim f32; the first ropeDim of each head rotate.
   * `table` is f32 [nPositions][2][ropeDim / 2] (cos, then sin); `positions` points to u32[nTokens].
   */
  ropeRows(style: number, x: number, xStride: number, nTokens: number, nHeads: number, headDim: number,
    ropeDim: number, table: number, positions: number): void;

  /**
   * Rounds K and V into the cache. k, v rows of nKvHeads * headDim f32. `pages` points to u32[nTokens]: address of the
   * page of each token; `positions` to u32[nTokens]. `layerOffset` = kvLayerOffset(...) within a page.
   */
  kvWrite(kvFormat: number, k: number, v: number, rowStride: number, nTokens: number, nKvHeads: number, headDim: number,
    pages: number, layerOffset: number, positions: number): void;

  /**
   * Attention of nTokens queries. q, out rows of nHeads * headDim f32. `pageTables` points to u32[nTokens]: address of the
   * token's page table (u32 page addresses by position / 32). window 0 = unlimited; sinks 0 = none, else f32[nHeads].
   */
  attention(kvFormat: number, q: number, out: number, rowStride: number, nTokens: number, nHeads: number, nKvHeads: number,
    headDim: number, pageTables: number, layerOffset: number, positions: number, scale: number, window: number, sinks: number): void;

  /** Softmax in place over n f32 of each row. */
  softmaxRows(x: number, xStride: number, nTokens: number, n: number): void;

  /** ids u32[nTokens][k], values f32[nTokens][k] of the k largest of n f32; ties to the lowest index; rank order. NaN ranks below all. */
  topKRows(x: number, xStride: number, nTokens: number, n: number, k: number, ids: number, values: number): void;

  /** x[t][i] = x[t][i] + y[t][i]. */
  addRows(x: number, xStride: number, y: number, yStride: number, nTokens: number, n: number): void;

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
}

/** One implementation bound to one memory. `name` is "scalar", "simd128", "relaxed-i32" or "relaxed-i16". */
export interface Kernels extends KernelOps {
  readonly name: string;
  readonly memory: WebAssembly.Memory;
}

const roundUp = (n: number, to: number): number => Math.ceil(n / to) * to;

/** Bytes of a matrix in tile layout. */
export function matrixBytes(format: MatrixFormat, nRows: number, nCols: number): number {
  const rowBlocks = Math.ceil(nRows / 32);
  switch (format) {
    case "f32": return rowBlocks * 128 * nCols;
    case "f16": case "bf16": return rowBlocks * 64 * nCols;
    case "q8": return rowBlocks * 34 * roundUp(nCols, 32);
    case "q4": return rowBlocks * 18 * roundUp(nCols, 32);
  }
}

/** Rows (gate and up together) of a segment's gate-up matrix: always a multiple of 32. */
export const gateUpRows = (format: MatrixFormat, width: number): number =>
  2 * roundUp(width, activationFormatOf(format) === "qa8" ? 32 : 16);

/** Bytes of one expert segment: gate-up matrix, then down matrix. */
export const segmentBytes = (gateUp: MatrixFormat, down: MatrixFormat, hidden: number, width: number): number =>
  matrixBytes(gateUp, gateUpRows(gateUp, width), hidden) + matrixBytes(down, hidden, width);

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
 * group of 32 at most {f32 scale, i32 correction} and 64 bytes of values, or nCols f32.
 */
export const matmulScratchBytes = (nCols: number): number =>
  8 * 128 + 8 * Math.max(roundUp(nCols, 32) / 32 * 72, roundUp(nCols, 4) * 4);

/** Scratch of expertFfn: 8 gate-up rows in f32, 8 quantised rows and the scratch of both products. */
export const expertScratchBytes = (hidden: number, width: number): number =>
  8 * (roundUp(width, 32) * 2 * 4 + qa8RowBytes(width)) + 256 + matmulScratchBytes(Math.max(hidden, width));

/** Bytes of one KV page (32 positions of all layers) and the offset of a layer in it: [layer][kv head][K block, V block]. */
export const kvLayerBytes = (format: KvFormat, nKvHeads: number, headDim: number): number =>
  nKvHeads * 2 * KV_BLOCK * headDim * (format === "f32" ? 4 : 2);
export const kvPageBytes = (format: KvFormat, nLayers: number, nKvHeads: number, headDim: number): number =>
  nLayers * kvLayerBytes(format, nKvHeads, headDim);
