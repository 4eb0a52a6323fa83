// Measures kernels against what the machine can do at most: streaming through SIMD registers and dots in registers.
// Runs alike in Node and in a Worker. Owns the measuring; workloads are rows of bench/kernel-workloads.ts, modules and clock are the caller's.
// Every figure is a median over interleaved rounds, so that a noisy neighbour hits all of them alike: trust the ratios.

import { median } from "./statistics.ts";

export interface BenchLoops {
  stream(at: number, bytes: number): number;
  dotsI32(n: number): number;
  dotsI16(n: number): number;
  ggmlQ4Rows(w: number, nRows: number, nBlocks: number, acts: number, y: number, halves: number): void;
}

export const instantiateLoops = (bench: WebAssembly.Module, memory: WebAssembly.Memory): BenchLoops =>
  new WebAssembly.Instance(bench, { env: { memory } }).exports as unknown as BenchLoops;

export interface Workload {
  readonly name: string;
  /** Bytes read and integer operations done (a multiply and an add are two) by one call. */
  readonly bytes: number;
  readonly operations: number;
  /** Peers answer asynchronously. */
  run(): void | Promise<unknown>;
}

export interface Measured {
  readonly name: string;
  readonly gigabytesPerSecond: number;
  readonly gigaOperationsPerSecond: number;
}

export interface MeasureOptions {
  readonly nowMs: () => number;
  /** Shortest sample; longer than the clock's step. */
  readonly sampleMs: number;
  readonly rounds: number;
}

export async function measure(list: readonly Workload[], options: MeasureOptions): Promise<Measured[]> {
  const repeat = async (work: Workload, times: number): Promise<number> => {
    const start = options.nowMs();
    for (let i = 0; i < times; i++) {
      const pending = work.run();
      if (pending !== undefined) await pending;
    }
    return options.nowMs() - start;
  };
  // Warm up past the baseline compiler, then find how many calls make a sample.
  const times: number[] = [];
  for (const work of list) {
    let n = 1;
    for (let spent = 0; spent < options.sampleMs * 2; n *= 2) spent = await repeat(work, n);
    times.push(Math.max(1, n >> 2));
  }
  const samples = list.map((): number[] => []);
  for (let round = 0; round < options.rounds; round++) {
    for (const [i, work] of list.entries()) samples[i]!.push(await repeat(work, times[i]!) / times[i]!);
  }
  return list.map((work, i) => {
    const ms = median(samples[i]!);
    return { name: work.name, gigabytesPerSecond: work.bytes / ms / 1e6, gigaOperationsPerSecond: work.operations / ms / 1e6 };
  });
}
