// The workloads of the kernel benchmark, as rows: a product or an attention is measured because it is in a list here or among the kernels'
// own formats. Owns one memory with valid operands for all of them. Refuses clocks (kernel-measure.ts has them).

import { KV_FORMATS, MATRIX_FORMATS, activationFormatOf, activationRowBytes, attentionScratchBytes, formatCode, kvPageBytes, matmulScratchBytes, matrixBytes } from "../model/kernels.ts";
import type { Kernels, KvFormat, MatrixFormat } from "../model/kernels.ts";
import { RESERVED_BYTES, instantiateKernels } from "../model/wasm-kernels.ts";
import type { KernelVariant } from "../model/wasm-kernels.ts";
import { instantiateLoops, type Workload } from "./kernel-measure.ts";

const MIB = 1024 * 1024;
const N_COLS = 2048;
const MAX_TOKENS = 8;
const MAX_WEIGHT_BYTES = 34 * MIB;
/** Inside the L2 cache, at its size, and beyond it. */
export const SIZES_MIB = [0.25, 1, 18] as const;
const BATCHES = [2, 4, 8] as const;
const BATCH_MIB = 1;
/** The largest batch is also measured beyond the cache. */
const LARGE_BATCH = 8;
const DOTS = 20_000;
export const CONTEXT = 4096;
const POSITIONS_PER_PAGE = 32;

/** Shapes of attention: OLMoE's, every head with keys of its own, and grouped queries as in Qwen3-MoE. */
export const ATTENTION_SHAPES = [
  { name: "16 heads of 64", nHeads: 16, nKvHeads: 16, headDim: 64 },
  { name: "32 heads of 128 over 4", nHeads: 32, nKvHeads: 4, headDim: 128 },
] as const;

export interface WorkloadOptions {
  readonly variants: Readonly<Partial<Record<KernelVariant, WebAssembly.Module>>>;
  readonly bench: WebAssembly.Module;
  /** Workloads whose name does not match are left out. */
  readonly only?: RegExp;
}

/** Row blocks of 2048 columns that make about `mib` MiB. */
const blocksFor = (format: MatrixFormat, mib: number): number => Math.max(1, Math.floor(mib * MIB / matrixBytes(format, 32, N_COLS)));

export const productName = (variant: string, format: MatrixFormat, nTokens: number, mib: number): string => `${variant} ${format} x ${nTokens} ${mib} MiB`;
export const attentionName = (variant: string, format: KvFormat, shape: string): string => `${variant} attention ${format} ${shape} at ${CONTEXT}`;
export const attentionBytes = (format: KvFormat, { nKvHeads, headDim }: { readonly nKvHeads: number; readonly headDim: number }): number =>
  (CONTEXT / POSITIONS_PER_PAGE) * kvPageBytes(format, 1, nKvHeads, headDim, 0);
export const ggmlName = (mib: number): string => `llama.cpp's algorithm, q4_0 x 1 ${mib} MiB`;

/** Stream, dots, llama.cpp's algorithm, and for each variant every format's products and attentions. */
export function workloads({ variants, bench, only = /(?:)/ }: WorkloadOptions): Workload[] {
  const region = new Regions(RESERVED_BYTES);
  const maxRows = 32 * Math.max(...MATRIX_FORMATS.map((format) => blocksFor(format, SIZES_MIB.at(-1)!)));
  const acts = new Map(MATRIX_FORMATS.map((format) => activationFormatOf(format)).map((format) => [format, region.take(MAX_TOKENS * (4 + activationRowBytes(format, N_COLS)) + 64)]));
  const scratch = region.take(Math.max(matmulScratchBytes(N_COLS), ...ATTENTION_SHAPES.map(({ headDim }) => attentionScratchBytes(headDim, 0))));
  const y = region.take(MAX_TOKENS * maxRows * 4);
  const halves = region.take(65536 * 4);
  const ggmlActs = region.take((N_COLS / 32) * 34);
  const queries = region.take(2 * 32 * 128 * 4);
  const tables = region.take((CONTEXT / POSITIONS_PER_PAGE) * 4 + 16);
  const w = region.take(MAX_WEIGHT_BYTES);
  const memory = new WebAssembly.Memory({ initial: Math.ceil(region.end / 65536) });
  const u8 = new Uint8Array(memory.buffer);
  const u32 = new Uint32Array(memory.buffer);
  const f32 = new Float32Array(memory.buffer);
  // Bytes 0x20..0x2f serve as nibbles, as int8 and, in pairs, as normal f16 scales; activations likewise.
  // The same bytes are a cache: its f16, bf16 and f32 values are normal numbers, far from overflow.
  for (let i = w; i < w + MAX_WEIGHT_BYTES; i++) u8[i] = 0x20 + ((i * 7) & 15);
  for (const [format, at] of acts) {
    const rowBytes = activationRowBytes(format, N_COLS);
    for (let t = 0; t < MAX_TOKENS; t++) {
      const row = at + 64 + t * rowBytes;
      u32[at / 4 + t] = row;
      if (format === "f32") for (let i = 0; i < N_COLS; i++) f32[row / 4 + i] = ((i * 37 + t) & 127) / 127;
      else {
        for (let i = 0; i < N_COLS; i++) u8[row + i] = (i * 37 + t) & 127;
        f32.fill(0.01, (row + N_COLS) / 4, (row + N_COLS) / 4 + N_COLS / 32);
      }
    }
  }
  const half = new DataView(new ArrayBuffer(2));
  for (let bits = 0; bits < 65536; bits++) {
    half.setUint16(0, bits);
    f32[halves / 4 + bits] = half.getFloat16(0);
  }
  u8.fill(0x22, ggmlActs, ggmlActs + (N_COLS / 32) * 34);

  const loops = instantiateLoops(bench, memory);
  const list: Workload[] = [];
  const add = (name: string, bytes: number, operations: number, run: () => void): void => {
    if (only.test(name)) list.push({ name, bytes, operations, run });
  };
  const streams = new Set<number>([...SIZES_MIB.map((mib) => mib * MIB), ...KV_FORMATS.flatMap((format) => ATTENTION_SHAPES.map((shape) => attentionBytes(format, shape)))]);
  for (const bytes of [...streams].sort((a, b) => a - b)) add(streamName(bytes), bytes, 0, () => void loops.stream(w, bytes));
  add("dots i32", 0, DOTS * 320, () => void loops.dotsI32(DOTS));
  add("dots i16", 0, DOTS * 320, () => void loops.dotsI16(DOTS));
  for (const mib of SIZES_MIB) {
    const nRows = Math.floor((mib * MIB) / (N_COLS / 32 * 18));
    add(ggmlName(mib), nRows * (N_COLS / 32) * 18, 2 * nRows * N_COLS, () => loops.ggmlQ4Rows(w, nRows, N_COLS / 32, ggmlActs, y, halves));
  }
  for (const [variant, module] of Object.entries(variants) as [KernelVariant, WebAssembly.Module][]) {
    const kernels = instantiateKernels(module, memory, variant);
    for (const format of MATRIX_FORMATS) {
      const product = (nTokens: number, mib: number): void => {
        const nRows = 32 * blocksFor(format, mib);
        add(productName(variant, format, nTokens, mib), matrixBytes(format, nRows, N_COLS), 2 * nRows * N_COLS * nTokens,
          () => kernels.matmul(formatCode(format), w, nRows, N_COLS, acts.get(activationFormatOf(format))!, nTokens, y, maxRows * 4, scratch));
      };
      for (const mib of SIZES_MIB) product(1, mib);
      for (const nTokens of BATCHES) product(nTokens, BATCH_MIB);
      if (activationFormatOf(format) === "qa8") product(LARGE_BATCH, SIZES_MIB.at(-1)!);
    }
    for (const format of KV_FORMATS) {
      for (const shape of ATTENTION_SHAPES) {
        add(attentionName(variant, format, shape.name), attentionBytes(format, shape), 4 * shape.nHeads * shape.headDim * CONTEXT,
          attentionOverCache(kernels, format, shape, { w, y, queries, tables, scratch }, { f32, u32 }));
      }
    }
  }
  return list;
}

export const streamName = (bytes: number): string => `stream ${Number((bytes / MIB).toPrecision(4))} MiB`;

interface Shape { readonly nHeads: number; readonly nKvHeads: number; readonly headDim: number }
interface Places { readonly w: number; readonly y: number; readonly queries: number; readonly tables: number; readonly scratch: number }

/** One query at position 4,095 over a full cache, whose pages lie one after the other. */
function attentionOverCache(kernels: Kernels, format: KvFormat, { nHeads, nKvHeads, headDim }: Shape, at: Places, { f32, u32 }: { f32: Float32Array; u32: Uint32Array }): () => void {
  const code = KV_FORMATS.indexOf(format);
  const pageBytes = kvPageBytes(format, 1, nKvHeads, headDim, 0);
  return () => {
    for (let page = 0; page < CONTEXT / POSITIONS_PER_PAGE; page++) u32[at.tables / 4 + page] = at.w + page * pageBytes;
    const pointers = at.tables + (CONTEXT / POSITIONS_PER_PAGE) * 4;
    u32[pointers / 4] = at.tables;
    u32[pointers / 4 + 1] = CONTEXT - 1;
    for (let i = 0; i < nHeads * headDim; i++) f32[at.queries / 4 + i] = ((i * 29) & 63) / 64 - 0.5;
    const rowBytes = nHeads * headDim * 4;
    kernels.attention(code, at.queries, rowBytes, at.y, rowBytes, 1, nHeads, nKvHeads, headDim, 0, pointers, 0, pointers + 4, headDim ** -0.5, 0, 0, at.scratch);
  };
}

class Regions {
  end: number;
  constructor(start: number) { this.end = start; }
  /** The address of `bytes` more bytes, aligned to 64. */
  take(bytes: number): number {
    const at = Math.ceil(this.end / 64) * 64;
    this.end = at + bytes;
    return at;
  }
}
