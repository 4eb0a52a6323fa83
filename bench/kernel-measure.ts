// Measures matrix products against what the machine can do at most: streaming through SIMD registers and dots in registers.
// Runs alike in Node and in a Worker. Owns the workloads and the statistics; the caller owns modules and clock.
// Every figure is a median over interleaved rounds, so that a noisy neighbour hits all of them alike: trust the ratios.

import { formatCode, matmulScratchBytes, matrixBytes, qa8RowBytes } from "../model/kernels.ts";
import type { MatrixFormat } from "../model/kernels.ts";
import { RESERVED_BYTES, instantiateKernels } from "../model/wasm-kernels.ts";
import type { KernelVariant } from "../model/wasm-kernels.ts";

const MIB = 1024 * 1024;
const N_COLS = 2048;
const MAX_TOKENS = 8;
const MAX_WEIGHT_BYTES = 19 * MIB;

export interface BenchLoops {
  stream(at: number, bytes: number): number;
  dotsI32(n: number): number;
  dotsI16(n: number): number;
}

export interface Workload {
  readonly name: string;
  /** Weight bytes read and integer operations done (a multiply and an add are two) by one call. */
  readonly bytes: number;
  readonly operations: number;
  run(): void;
}

export interface Measured {
  readonly name: string;
  readonly gigabytesPerSecond: number;
  readonly gigaOperationsPerSecond: number;
}

export interface MeasureOptions {
  readonly variants: Readonly<Partial<Record<KernelVariant, WebAssembly.Module>>>;
  readonly bench: WebAssembly.Module;
  readonly nowMs: () => number;
  /** Shortest sample; longer than the clock's step. */
  readonly sampleMs: number;
  readonly rounds: number;
}

/** Row blocks of 2048 columns that make about `mib` MiB. */
const blocksFor = (format: MatrixFormat, mib: number): number => Math.max(1, Math.floor(mib * MIB / matrixBytes(format, 32, N_COLS)));

export function workloads(options: MeasureOptions): Workload[] {
  const scratchBytes = matmulScratchBytes(N_COLS);
  const rowBytes = qa8RowBytes(N_COLS);
  const maxRows = 32 * blocksFor("q4", 18);
  const acts = RESERVED_BYTES;
  const scratch = acts + MAX_TOKENS * (rowBytes + 16);
  const y = Math.ceil((scratch + scratchBytes) / 64) * 64;
  const w = Math.ceil((y + MAX_TOKENS * maxRows * 4) / 4096) * 4096;
  const memory = new WebAssembly.Memory({ initial: Math.ceil((w + MAX_WEIGHT_BYTES) / 65536) });
  const u8 = new Uint8Array(memory.buffer);
  // Bytes 0x20..0x2f serve as nibbles, as int8 and, in pairs, as normal f16 scales; activations likewise.
  for (let i = w; i < u8.length; i++) u8[i] = 0x20 + ((i * 7) & 15);
  for (let t = 0; t < MAX_TOKENS; t++) {
    const row = acts + MAX_TOKENS * 16 + t * rowBytes;
    for (let i = 0; i < N_COLS; i++) u8[row + i] = (i * 37 + t) & 127;
    new Float32Array(memory.buffer, row + N_COLS, N_COLS / 32).fill(0.01);
    new Uint32Array(memory.buffer, acts, MAX_TOKENS)[t] = row;
  }
  const loops = new WebAssembly.Instance(options.bench, { env: { memory } }).exports as unknown as BenchLoops;
  const list: Workload[] = [];
  for (const mib of [0.25, 1, 18]) {
    const bytes = mib * MIB;
    list.push({ name: `stream ${mib} MiB`, bytes, operations: 0, run: () => loops.stream(w, bytes) });
  }
  list.push({ name: "dots i32", bytes: 0, operations: 20_000 * 320, run: () => loops.dotsI32(20_000) });
  list.push({ name: "dots i16", bytes: 0, operations: 20_000 * 320, run: () => loops.dotsI16(20_000) });
  for (const [variant, module] of Object.entries(options.variants) as [KernelVariant, WebAssembly.Module][]) {
    const kernels = instantiateKernels(module, memory, variant);
    const product = (format: MatrixFormat, nTokens: number, mib: number): void => {
      const nRows = 32 * blocksFor(format, mib);
      list.push({
        name: `${variant} ${format} x ${nTokens} ${mib} MiB`,
        bytes: matrixBytes(format, nRows, N_COLS),
        operations: 2 * nRows * N_COLS * nTokens,
        run: () => kernels.matmul(formatCode(format), w, nRows, N_COLS, acts, nTokens, y, maxRows * 4, scratch),
      });
    };
    for (const format of ["q4", "q8"] as const) {
      for (const mib of [0.25, 1, 18]) product(format, 1, mib);
      for (const nTokens of [2, 4, 8]) product(format, nTokens, 1);
    }
  }
  return list;
}

const median = (values: number[]): number => values.sort((a, b) => a - b)[values.length >> 1]!;

export function measure(list: readonly Workload[], options: MeasureOptions): Measured[] {
  const repeat = (work: Workload, times: number): number => {
    const start = options.nowMs();
    for (let i = 0; i < times; i++) work.run();
    return options.nowMs() - start;
  };
  // Warm up past the baseline compiler, then find how many calls make a sample.
  const times = list.map((work) => {
    let n = 1;
    for (let spent = 0; spent < options.sampleMs * 2; n *= 2) spent = repeat(work, n);
    n = Math.max(1, n >> 2);
    return n;
  });
  const samples = list.map((): number[] => []);
  for (let round = 0; round < options.rounds; round++) {
    list.forEach((work, i) => samples[i]!.push(repeat(work, times[i]!) / times[i]!));
  }
  return list.map((work, i) => {
    const ms = median(samples[i]!);
    return { name: work.name, gigabytesPerSecond: work.bytes / ms / 1e6, gigaOperationsPerSecond: work.operations / ms / 1e6 };
  });
}
