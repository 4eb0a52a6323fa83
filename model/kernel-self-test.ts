// Compares an implementation of Kernels with the scalar reference on small deterministic data, bit for bit.
// Owns the arena in which a case lays out its inputs, the cases of the start-up self-test and the comparison; the kernel tests
// build their larger tables from the same case makers. A case also fails when an operation writes outside its outputs and scratch.
// Refuses clocks and randomness: every byte follows from a seed.

import { f32ToF16 } from "./float-math.ts";
import {
  KV_FORMATS, MATRIX_FORMATS, ROPE_STYLES, activationFormatOf, activationRowBytes, attentionScratchBytes, expertScratchBytes, formatCode, gateUpRows,
  kvLayerBytes, matmulScratchBytes, matrixBytes, qa8RowBytes, topLogitsScratchBytes, tileBytes,
} from "./kernels.ts";
import type { Kernels, KvFormat, MatrixFormat, RopeStyle } from "./kernels.ts";

/** Numbers in [0, 1) from a seed (mulberry32). */
export function seededNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** A stretch of the memory in which one case after another lays out its data. */
export class Arena {
  readonly memory: WebAssembly.Memory;
  readonly start: number;
  top: number;
  readonly scratch: { at: number; bytes: number }[] = [];

  constructor(memory: WebAssembly.Memory, start: number) {
    this.memory = memory;
    this.start = start;
    this.top = start;
  }

  reset(): void {
    this.top = this.start;
    this.scratch.length = 0;
  }

  /** Address of `bytes` zeroed bytes at a multiple of 16, followed by a gap of poison that nothing may write. */
  alloc(bytes: number): number {
    const at = this.top;
    const end = at + Math.ceil(bytes / 16) * 16;
    this.top = end + 32;
    const missing = this.top - this.memory.buffer.byteLength;
    if (missing > 0) this.memory.grow(Math.ceil(missing / 65536));
    const u8 = new Uint8Array(this.memory.buffer);
    u8.fill(0, at, at + bytes);
    u8.fill(0xa5, at + bytes, this.top);
    return at;
  }

  allocScratch(bytes: number): number {
    const at = this.alloc(bytes);
    this.scratch.push({ at, bytes });
    return at;
  }

  f32(values: ArrayLike<number>): number {
    const at = this.alloc(values.length * 4);
    new Float32Array(this.memory.buffer, at, values.length).set(values);
    return at;
  }

  u32(values: ArrayLike<number>): number {
    const at = this.alloc(values.length * 4);
    new Uint32Array(this.memory.buffer, at, values.length).set(values);
    return at;
  }

  bytes(values: ArrayLike<number>): number {
    const at = this.alloc(values.length);
    new Uint8Array(this.memory.buffer).set(values, at);
    return at;
  }
}

/** `prepare` lays out inputs and outputs in the arena, the same bytes at every call, and returns what to run. */
export interface KernelCase {
  readonly name: string;
  prepare(arena: Arena): (kernels: Kernels) => void;
}

export interface Mismatch {
  readonly caseName: string;
  readonly count: number;
  /** Byte offset of the first difference from the arena's start, and both values there, as f32. */
  readonly at: number;
  readonly expected: number;
  readonly found: number;
}

/** Runs one case on both and compares every byte of the arena outside scratch; NaN equals NaN. Null = equal. */
export function compareCase(test: KernelCase, reference: Kernels, candidate: Kernels, arena: Arena): Mismatch | null {
  const runOn = (kernels: Kernels): Uint32Array => {
    arena.reset();
    const run = test.prepare(arena);
    run(kernels);
    const u8 = new Uint8Array(arena.memory.buffer);
    for (const { at, bytes } of arena.scratch) u8.fill(0, at, at + bytes);
    return new Uint32Array(arena.memory.buffer.slice(arena.start, arena.top));
  };
  const expected = runOn(reference);
  const found = runOn(candidate);
  const expectedF32 = new Float32Array(expected.buffer);
  const foundF32 = new Float32Array(found.buffer);
  let count = 0;
  let first = -1;
  for (let i = 0; i < expected.length; i++) {
    if (expected[i] === found[i] || (expectedF32[i] !== expectedF32[i] && foundF32[i] !== foundF32[i])) continue;
    if (first < 0) first = i;
    count++;
  }
  return count === 0 ? null : { caseName: test.name, count, at: first * 4, expected: expectedF32[first], found: foundF32[first] };
}

/** How the bytes of a test matrix are drawn. `extreme`: largest magnitudes only; `tiny-scales`: negative, zero and subnormal scales and minima. */
export type WeightStyle = "random" | "extreme" | "tiny-scales";

/** Bytes of the largest magnitudes, and the share of the first of the two. For q4k they are also the largest bytes as sc and m, for q6k scales of -128. */
const EXTREMES = {
  q8: [[0x80, 0x7f], 0.6], q4: [[0xff, 0x00], 0.8], q4m: [[0xff, 0x00], 0.8], q4k: [[0xff, 0x00], 0.8], q2: [[0xff, 0x00], 0.8], mxfp4: [[0x77, 0xff], 0.8], q6k: [[0x00, 0xff], 0.8],
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

export function expertCase(gateUp: MatrixFormat, down: MatrixFormat, hidden: number, width: number, nTokens: number, seed: number, style: WeightStyle = "random"): KernelCase {
  return {
    name: `expertFfn ${gateUp}/${down} hidden ${hidden} width ${width} x ${nTokens}, seed ${seed}, ${style}`,
    prepare(arena) {
      const random = seededNumbers(seed);
      const first = drawMatrix(gateUp, gateUpRows(gateUp, width), hidden, random, style);
      const second = drawMatrix(down, hidden, width, random, style);
      const both = new Uint8Array(first.length + second.length);
      both.set(first);
      both.set(second, first.length);
      const w = arena.bytes(both);
      const acts = drawActivations(arena, gateUp, nTokens, hidden, random, style);
      const yStride = Math.ceil(hidden / 4) * 16;
      const y = arena.alloc(yStride * nTokens);
      const scratch = arena.allocScratch(expertScratchBytes(hidden, width));
      return (k) => k.expertFfn(formatCode(gateUp), formatCode(down), w, hidden, width, acts, nTokens, y, yStride, scratch);
    },
  };
}

/** Rows of f32 in [-reach, reach) with a stride that is not the row's length. */
function drawRows(arena: Arena, nTokens: number, n: number, random: () => number, reach = 1): { at: number; stride: number } {
  const stride = Math.ceil(n / 4) * 16 + 16;
  const at = arena.alloc(stride * nTokens);
  for (let t = 0; t < nTokens; t++) {
    new Float32Array(arena.memory.buffer, at + t * stride, n).forEach((_, i, all) => { all[i] = (random() * 2 - 1) * reach; });
  }
  return { at, stride };
}

/** `values` (optional) overwrite the head of the first row. */
export function quantizeCase(nTokens: number, nCols: number, seed: number, values: readonly number[] = []): KernelCase {
  return {
    name: `quantizeRows ${nCols} x ${nTokens}, seed ${seed}${values.length > 0 ? `, from ${values.slice(0, 3).join(" ")}` : ""}`,
    prepare(arena) {
      const x = drawRows(arena, nTokens, nCols, seededNumbers(seed), 3);
      new Float32Array(arena.memory.buffer).set(values.slice(0, nCols), x.at / 4);
      const stride = qa8RowBytes(nCols) + 16;
      const out = arena.alloc(stride * nTokens);
      return (k) => k.quantizeRows(x.at, x.stride, out, stride, nTokens, nCols);
    },
  };
}

export function rowCases(n: number, nTokens: number, seed: number): KernelCase[] {
  const named = (name: string, prepare: KernelCase["prepare"]): KernelCase => ({ name: `${name} ${n} x ${nTokens}, seed ${seed}`, prepare });
  return [
    named("rmsNormRows", (arena) => {
      const random = seededNumbers(seed);
      const x = drawRows(arena, nTokens, n, random, 4);
      const weight = drawRows(arena, 1, n, random);
      const out = arena.alloc(x.stride * nTokens);
      return (k) => {
        k.rmsNormRows(x.at, x.stride, weight.at, 1e-5, out, x.stride, nTokens, n);
        k.rmsNormRows(x.at, x.stride, weight.at, 1e-6, x.at, x.stride, nTokens, n);
      };
    }),
    named("rmsNormQuantizeRows", (arena) => {
      const random = seededNumbers(seed);
      const x = drawRows(arena, nTokens, n, random, 4);
      const weight = drawRows(arena, 1, n, random);
      const out = arena.alloc(x.stride * nTokens);
      const stride = qa8RowBytes(n) + 16;
      const [both, alone] = [arena.alloc(stride * nTokens), arena.alloc(stride * nTokens)];
      return (k) => {
        k.rmsNormQuantizeRows(x.at, x.stride, weight.at, 1e-5, out, x.stride, both, stride, nTokens, n);
        k.rmsNormQuantizeRows(x.at, x.stride, weight.at, 1e-5, 0, 0, alone, stride, nTokens, n);
      };
    }),
    named("softmaxRows", (arena) => {
      const x = drawRows(arena, nTokens, n, seededNumbers(seed), 30);
      return (k) => k.softmaxRows(x.at, x.stride, nTokens, n);
    }),
    named("topKRows", (arena) => {
      const random = seededNumbers(seed);
      const x = drawRows(arena, nTokens, n, () => Math.floor(random() * 12) / 12); // many ties
      const top = Math.min(n, 5);
      const ids = arena.alloc(nTokens * top * 4);
      const values = arena.alloc(nTokens * top * 4);
      return (k) => k.topKRows(x.at, x.stride, nTokens, n, top, ids, values);
    }),
    named("addRows, addBiasRows, scaleRows, clampRows", (arena) => {
      const random = seededNumbers(seed);
      const x = drawRows(arena, nTokens, n, random, 2);
      const y = drawRows(arena, nTokens, n, random);
      const bias = drawRows(arena, 1, n, random);
      const clamped = drawRows(arena, nTokens, n, random, 2);
      return (k) => {
        k.addRows(x.at, x.stride, y.at, y.stride, nTokens, n);
        k.addBiasRows(x.at, x.stride, bias.at, nTokens, n);
        k.scaleRows(x.at, x.stride, 0.3, nTokens, n);
        k.clampRows(clamped.at, clamped.stride, 1.1, nTokens, n);
      };
    }),
    named("combine", (arena) => {
      const random = seededNumbers(seed);
      const y = drawRows(arena, nTokens, n, random);
      const rows = drawRows(arena, nTokens * 6, n, random);
      const nPairs = nTokens * 2;
      const pairs = arena.alloc(nPairs * 20);
      for (let p = 0; p < nPairs; p++) {
        new Uint32Array(arena.memory.buffer, pairs + p * 20, 4).set([p % nTokens, rows.at + p * 3 * rows.stride, rows.stride, 1 + (p % 3)]);
        new Float32Array(arena.memory.buffer, pairs + p * 20 + 16, 1)[0] = random();
      }
      return (k) => k.combine(pairs, nPairs, y.at, y.stride, n);
    }),
  ];
}

export function ropeCase(style: RopeStyle, nHeads: number, headDim: number, ropeDim: number, positions: readonly number[], seed: number): KernelCase {
  return {
    name: `ropeRows ${style} ${nHeads} x ${headDim}, ${ropeDim} rotated, seed ${seed}`,
    prepare(arena) {
      const random = seededNumbers(seed);
      const x = drawRows(arena, positions.length, nHeads * headDim, random);
      const table = arena.f32(Array.from({ length: (Math.max(...positions) + 1) * ropeDim }, () => random() * 2 - 1));
      const at = arena.u32(positions);
      return (k) => k.ropeRows(ROPE_STYLES.indexOf(style), x.at, x.stride, positions.length, nHeads, headDim, ropeDim, table, at);
    },
  };
}

export interface AttentionShape {
  readonly kvFormat: KvFormat;
  readonly nHeads: number;
  readonly nKvHeads: number;
  readonly headDim: number;
  /** Position of each query; the cache holds 0 .. the largest. */
  readonly positions: readonly number[];
  readonly window: number;
  readonly sinks: boolean;
  /** One value in place of a drawn one: column `column` of row `row` of the keys, values or queries. */
  readonly spike?: { readonly in: "k" | "v" | "q"; readonly row: number; readonly column: number; readonly value: number };
}

/** Writes keys and values through kvWrite, then attends. Pages carry a layer offset and lie in reverse order. */
export function attentionCase(shape: AttentionShape, seed: number): KernelCase {
  const { kvFormat, nHeads, nKvHeads, headDim, positions, window } = shape;
  return {
    name: `attention ${kvFormat}, ${nHeads}/${nKvHeads} heads of ${headDim}, positions ${positions.join(" ")}, window ${window}, ${shape.sinks ? "" : "no "}sinks, ${shape.spike === undefined ? "" : `${shape.spike.value} in ${shape.spike.in}, `}seed ${seed}`,
    prepare(arena) {
      const random = seededNumbers(seed);
      const nKeys = Math.max(...positions) + 1;
      const nPages = Math.ceil(nKeys / 32);
      const layerOffset = kvLayerBytes(kvFormat, nKvHeads, headDim);
      const pages = Array.from({ length: nPages }, () => arena.alloc(2 * layerOffset)).reverse();
      for (const page of pages) new Uint8Array(arena.memory.buffer).fill(0xff, page, page + 2 * layerOffset); // NaN in slots never written
      const pageTable = arena.u32(pages);
      const cols = Math.max(nHeads, nKvHeads) * headDim;
      const k = drawRows(arena, nKeys, cols, random, 2);
      const v = drawRows(arena, nKeys, cols, random, 2);
      const keyPositions = arena.u32(Array.from({ length: nKeys }, (_, i) => i));
      const keyPages = arena.u32(Array.from({ length: nKeys }, (_, i) => pages[i >> 5]));
      const q = drawRows(arena, positions.length, cols, random, 2);
      if (shape.spike !== undefined) {
        const { in: place, row, column, value } = shape.spike;
        const rows = { k, v, q }[place];
        new Float32Array(arena.memory.buffer, rows.at + row * rows.stride, cols)[column] = value;
      }
      const out = arena.alloc(q.stride * positions.length);
      const tables = arena.u32(positions.map(() => pageTable));
      const at = arena.u32(positions);
      const sinks = shape.sinks ? drawRows(arena, 1, nHeads, random).at : 0;
      const code = KV_FORMATS.indexOf(kvFormat);
      const scratch = arena.allocScratch(attentionScratchBytes(headDim));
      return (kernels) => {
        kernels.kvWrite(code, k.at, v.at, k.stride, nKeys, nKvHeads, headDim, keyPages, layerOffset, keyPositions);
        kernels.attention(code, q.at, out, q.stride, positions.length, nHeads, nKvHeads, headDim, tables, layerOffset, at, headDim ** -0.5, window, sinks, scratch);
      };
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

export function checksumCase(nBytes: number, seed: number): KernelCase {
  return {
    name: `checksum of ${nBytes} bytes, seed ${seed}`,
    prepare(arena) {
      const random = seededNumbers(seed);
      const bytes = arena.bytes(Uint8Array.from({ length: nBytes }, () => Math.floor(random() * 256)));
      const out = arena.alloc(4);
      return (k) => { new Int32Array(k.memory.buffer, out, 1)[0] = k.checksum(bytes, nBytes); };
    },
  };
}

/** The cases run once per isolate at start: every operation, every batch piece, extreme values. Some tens of milliseconds. */
export function selfTestCases(): KernelCase[] {
  const cases: KernelCase[] = [];
  for (const format of MATRIX_FORMATS) {
    cases.push(matmulCase(format, 36, 64, 15, 1), readRowCase(format, 34, 43, 2));
    if (activationFormatOf(format) === "qa8") cases.push(matmulCase(format, 32, 32, 15, 3, "extreme"), matmulCase(format, 32, 32, 1, 4, "tiny-scales"));
  }
  cases.push(
    matmulCase("q4k", 33, 300, 3, 13), matmulCase("q6k", 33, 300, 3, 13), expertCase("q4", "q8", 32, 40, 3, 5), expertCase("q4k", "mxfp4", 32, 40, 2, 14),
    expertCase("q6k", "q6k", 32, 40, 2, 16), expertCase("f32", "f32", 20, 43, 3, 6),
    topLogitsCase("q8", 530, 32, 3, 5, 0.5, 14), quantizeCase(2, 40, 7), ...rowCases(23, 2, 8), checksumCase(240, 15),
    ropeCase("half", 2, 14, 12, [0, 3], 9), ropeCase("interleaved", 2, 14, 12, [1, 2], 10),
    attentionCase({ kvFormat: "f16", nHeads: 2, nKvHeads: 1, headDim: 22, positions: [0, 35], window: 0, sinks: true }, 11),
    attentionCase({ kvFormat: "f32", nHeads: 2, nKvHeads: 2, headDim: 8, positions: [40], window: 20, sinks: false }, 12),
    attentionCase({ kvFormat: "q8", nHeads: 3, nKvHeads: 1, headDim: 40, positions: [2, 33, 34, 63, 64], window: 40, sinks: true }, 13),
  );
  return cases;
}
