// What this machine's WebAssembly can do at most, in Node: memory streamed through SIMD registers, and dots in registers.
// Owns one memory and the loops of the bench module. Beside every other figure it makes a ratio, so it is measured in the same sitting.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "../cli/setup.mjs";
import { instantiateLoops, type BenchLoops } from "./kernel-measure.ts";
import { median, rounded } from "./statistics.ts";

const MIB = 1024 * 1024;
const BUFFER_MIB = 96;
const DOTS = 20_000;
const OPERATIONS_PER_DOT_LOOP = 320;

export interface MachineLimits {
  /** GB/s of a buffer of this many MiB, read over and over. */
  readonly streamGBps: Readonly<Record<string, number>>;
  readonly dotsI32Gops: number;
  readonly dotsI16Gops: number;
}

export const benchModule = (): WebAssembly.Module => new WebAssembly.Module(readFileSync(join(ROOT, "build/kernels-bench.wasm")));

let loops: BenchLoops | null = null;

/** Medians of `rounds` samples; about 20 ms each. */
export function machineLimits(rounds = 9): MachineLimits {
  if (loops === null) {
    const memory = new WebAssembly.Memory({ initial: BUFFER_MIB * 16 + 1 });
    new Uint8Array(memory.buffer).fill(1); // untouched pages are all one page of zeros, which never leaves the cache
    loops = instantiateLoops(benchModule(), memory);
  }
  const of = (work: () => void): number => median(Array.from({ length: rounds }, () => {
    const start = performance.now();
    work();
    return performance.now() - start;
  }));
  const { stream, dotsI32, dotsI16 } = loops;
  for (let i = 0; i < 200; i++) { // past the baseline compiler
    stream(65536, MIB);
    dotsI32(1000);
    dotsI16(1000);
  }
  return {
    streamGBps: Object.fromEntries([18, BUFFER_MIB].map((mib) => [`${mib} MiB`, rounded((mib * MIB) / of(() => void stream(65536, mib * MIB)) / 1e6)])),
    dotsI32Gops: rounded((DOTS * OPERATIONS_PER_DOT_LOOP) / of(() => void dotsI32(DOTS)) / 1e6),
    dotsI16Gops: rounded((DOTS * OPERATIONS_PER_DOT_LOOP) / of(() => void dotsI16(DOTS)) / 1e6),
  };
}
