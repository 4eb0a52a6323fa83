// A kernel case: inputs and outputs laid out in an arena, run on an implementation of Kernels and on the scalar reference, and compared bit for bit.
// Owns the arena, the comparison and the seeded numbers; a case also fails when an operation writes outside its outputs and scratch.
// The makers of cases: kernel-cases-*.ts. Refuses clocks and randomness: every byte follows from a seed.

import type { Kernels } from "./kernels.ts";

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

/** Rows of f32 in [-reach, reach) with a stride that is not the row's length. */
export function drawRows(arena: Arena, nTokens: number, n: number, random: () => number, reach = 1): { at: number; stride: number } {
  const stride = Math.ceil(n / 4) * 16 + 16;
  const at = arena.alloc(stride * nTokens);
  for (let t = 0; t < nTokens; t++) {
    new Float32Array(arena.memory.buffer, at + t * stride, n).forEach((_, i, all) => { all[i] = (random() * 2 - 1) * reach; });
  }
  return { at, stride };
}
