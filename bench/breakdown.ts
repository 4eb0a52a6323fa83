// Where the time of a step goes: every kernel of an engine is timed from outside and counted under the part of the model it serves.
// Owns the parts and the clock around each call (two readings, about 0.1 µs). Refuses to change a result: arguments pass through untouched.

import type { Kernels } from "../model/kernels.ts";

/** Times in ms by part of the model; `rest` is everything outside the kernels: JavaScript, copies, awaiting. */
export type Breakdown = Record<string, { ms: number; calls: number }>;

export interface TimedKernels {
  readonly wrap: (kernels: Kernels) => Kernels;
  /** What was counted since the last call, and starts anew. `elapsedMs` is the wall time it is part of. */
  take(elapsedMs: number): Breakdown;
}

/** `vocabSize` tells the head from other products, `nExperts` the router. */
export function timedKernels({ vocabSize, nExperts }: { readonly vocabSize: number; readonly nExperts: number }): TimedKernels {
  let parts: Breakdown = {};
  const partOf = (operation: string, args: readonly number[]): string => {
    if (operation === "expertFfn") return "experts";
    if (operation === "matmul") return args[2] === vocabSize ? "head" : args[2] === nExperts ? "router product" : "trunk products";
    return operation;
  };
  const timed = (operation: string, run: (...args: number[]) => void) => (...args: number[]): void => {
    const start = performance.now();
    run(...args);
    const part = (parts[partOf(operation, args)] ??= { ms: 0, calls: 0 });
    part.ms += performance.now() - start;
    part.calls++;
  };
  return {
    wrap: (kernels) => Object.fromEntries(Object.entries(kernels).map(([name, value]) =>
      [name, typeof value === "function" ? timed(name, value as (...args: number[]) => void) : value])) as unknown as Kernels,
    take(elapsedMs) {
      const taken = parts;
      parts = {};
      const inside = Object.values(taken).reduce((sum, { ms }) => sum + ms, 0);
      return { ...taken, rest: { ms: elapsedMs - inside, calls: 1 } };
    },
  };
}
