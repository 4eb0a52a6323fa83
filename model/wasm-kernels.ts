// Loads the WebAssembly kernels and decides which variant this engine runs: a probe of its relaxed dot product, then a self-test
// against the scalar reference, then the next variant, and the scalar reference if none is right.
// Refuses clocks (they stand still during compute in production, 2026-11), compiling (modules come in ready-made) and silence:
// the choice reports why. The memory belongs to the host.

import { Arena, compareCase } from "./kernel-case.ts";
import type { Mismatch } from "./kernel-case.ts";
import { selfTestCases } from "./kernel-self-test.ts";
import type { KernelOps, Kernels } from "./kernels.ts";
import { createScalarKernels } from "./scalar-kernels.ts";

/** The head of every memory, where the modules keep their constants and small buffers. Hosts allocate from here on. */
export const RESERVED_BYTES = 65536;

/** The compiled variants. A relaxed one may be missing where it would not validate. */
export interface KernelModules {
  readonly simd128: WebAssembly.Module;
  readonly relaxedI32?: WebAssembly.Module;
  readonly relaxedI16?: WebAssembly.Module;
}

export type KernelVariant = "simd128" | "relaxed-i32" | "relaxed-i16";

const OPERATIONS: readonly (keyof KernelOps)[] = [
  "quantizeRows", "matmul", "expertFfn", "rmsNormRows", "rmsNormQuantizeRows", "layerNormRows", "ropeRows", "kvWrite", "attention", "softmaxRows", "topKRows", "topLogits",
  "addRows", "copyRows", "addBiasRows", "scaleRows", "clampRows", "combine", "readRow", "checksum",
];

/** One variant over `memory`, which must have at least RESERVED_BYTES. */
export function instantiateKernels(module: WebAssembly.Module, memory: WebAssembly.Memory, name: KernelVariant): Kernels {
  if (memory.buffer.byteLength < RESERVED_BYTES) {
    throw new Error(`The kernels' memory has ${memory.buffer.byteLength} bytes; expected at least ${RESERVED_BYTES}, the part reserved for their constants.`);
  }
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  for (const operation of OPERATIONS) {
    if (typeof exports[operation] !== "function") throw new Error(`The kernel module ${name} lacks the operation ${operation}: it belongs to another version.`);
  }
  return { ...(exports as unknown as KernelOps), name, memory };
}

/** What the relaxed dot of (-128, 255) gives: it tells how the engine multiplies. null = no relaxed module. */
export interface DotProbe {
  readonly value: number | null;
  readonly engine: "vnni" | "pmaddubsw" | "sdot" | "none" | "unknown";
}

function probeDot(module: WebAssembly.Module | undefined): DotProbe {
  if (module === undefined) return { value: null, engine: "none" };
  const memory = new WebAssembly.Memory({ initial: 1 });
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  const value = (exports["probeDot"] as () => number)();
  switch (value) {
    case -130560: return { value, engine: "vnni" }; // 4 * -128 * 255: unsigned bytes, no saturation, one instruction
    case -65536: return { value, engine: "pmaddubsw" }; // pairs saturate to i16: three instructions, so i16 sums are faster
    case 512: return { value, engine: "sdot" }; // 4 * -128 * -1: signed bytes, one instruction
    default: return { value, engine: "unknown" };
  }
}

export interface VariantReport {
  readonly variant: KernelVariant;
  /** null = bit-equal to the scalar reference in every case. */
  readonly mismatch: Mismatch | null;
  /** Set when the variant could not run at all. */
  readonly error: string | null;
}

export interface KernelChoice {
  readonly kernels: Kernels;
  readonly probe: DotProbe;
  /** Variants tried, in order; the last one was chosen unless it failed too, and then the scalar reference is. */
  readonly selfTest: readonly VariantReport[];
}

/** Every self-test case of one variant, in a small memory of its own. */
export function selfTest(module: WebAssembly.Module, variant: KernelVariant): VariantReport {
  try {
    const memory = new WebAssembly.Memory({ initial: 4 });
    const reference = createScalarKernels(memory);
    const candidate = instantiateKernels(module, memory, variant);
    const arena = new Arena(memory, RESERVED_BYTES);
    for (const test of selfTestCases()) {
      const mismatch = compareCase(test, reference, candidate, arena);
      if (mismatch !== null) return { variant, mismatch, error: null };
    }
    return { variant, mismatch: null, error: null };
  } catch (cause) {
    return { variant, mismatch: null, error: cause instanceof Error ? cause.message : String(cause) };
  }
}

/** Picks the fastest variant that is right on this engine. Deterministic: no clock, no randomness. */
export function chooseKernels(options: { modules: KernelModules; memory: WebAssembly.Memory }): KernelChoice {
  const { modules, memory } = options;
  const probe = probeDot(modules.relaxedI32 ?? modules.relaxedI16);
  const relaxed: KernelVariant[] = probe.engine === "vnni" || probe.engine === "sdot" ? ["relaxed-i32", "relaxed-i16"] : ["relaxed-i16", "relaxed-i32"];
  const byName = { "simd128": modules.simd128, "relaxed-i32": modules.relaxedI32, "relaxed-i16": modules.relaxedI16 };
  const reports: VariantReport[] = [];
  for (const variant of [...relaxed, "simd128" as const]) {
    const module = byName[variant];
    if (module === undefined) continue;
    const report = selfTest(module, variant);
    reports.push(report);
    if (report.mismatch === null && report.error === null) {
      return { kernels: instantiateKernels(module, memory, variant), probe, selfTest: reports };
    }
  }
  return { kernels: createScalarKernels(memory), probe, selfTest: reports };
}
