// The start-up choice: a right variant is taken, a wrong one is found out and left for the next, down to the scalar reference.

import { describe, expect, test } from "vitest";
import { RESERVED_BYTES, chooseKernels, instantiateKernels } from "../../../model/wasm-kernels.ts";
import { compileModule, kernelBytes, kernelModule } from "./modules.ts";
import type { KernelVariant } from "../../../model/wasm-kernels.ts";

/** The variant with one constant altered: the mask of the low nibbles keeps three bits. */
function brokenModule(variant: KernelVariant): WebAssembly.Module {
  const bytes = kernelBytes(variant);
  const mask = variant === "simd128" ? [15, 0, 15, 0, 15, 0, 15, 0] : [15, 15, 15, 15, 15, 15, 15, 15];
  const at = bytes.findLastIndex((_, i) => mask.every((byte, j) => bytes[i + j] === byte));
  expect(at).toBeGreaterThan(0);
  bytes[at] = 7;
  return compileModule(bytes);
}

const memory = () => new WebAssembly.Memory({ initial: 2 });
const good = { simd128: kernelModule("simd128"), relaxedI32: kernelModule("relaxed-i32"), relaxedI16: kernelModule("relaxed-i16") };

describe("chooseKernels", () => {
  test("takes the variant that the probe names", () => {
    const choice = chooseKernels({ modules: good, memory: memory() });
    const expected = { vnni: "relaxed-i32", sdot: "relaxed-i32", pmaddubsw: "relaxed-i16", none: "simd128", unknown: "relaxed-i16" }[choice.probe.engine];
    expect(choice.probe.engine).toMatch(/vnni|sdot|pmaddubsw/);
    expect(choice.kernels.name).toBe(expected);
    expect(choice.selfTest).toEqual([{ variant: expected, mismatch: null, error: null }]);
  });

  test("leaves wrong variants for the next right one", () => {
    const modules = { ...good, relaxedI32: brokenModule("relaxed-i32"), relaxedI16: brokenModule("relaxed-i16") };
    const choice = chooseKernels({ modules, memory: memory() });
    expect(choice.kernels.name).toBe("simd128");
    expect(choice.selfTest.map((report) => report.mismatch === null)).toEqual([false, false, true]);
    expect(choice.selfTest[0]!.mismatch!.caseName).toMatch(/q4/);
  });

  test("ends with the scalar reference when every variant is wrong", () => {
    const modules = { simd128: brokenModule("simd128"), relaxedI32: brokenModule("relaxed-i32"), relaxedI16: brokenModule("relaxed-i16") };
    const choice = chooseKernels({ modules, memory: memory() });
    expect(choice.kernels.name).toBe("scalar");
    expect(choice.selfTest).toHaveLength(3);
  });

  test("does without relaxed modules", () => {
    const choice = chooseKernels({ modules: { simd128: good.simd128 }, memory: memory() });
    expect(choice.probe).toEqual({ value: null, engine: "none" });
    expect(choice.kernels.name).toBe("simd128");
  });
});

describe("instantiateKernels", () => {
  test("writes its constants below RESERVED_BYTES only, and not where another variant has its own", () => {
    const shared = memory();
    const touched = (variant: KernelVariant): number[] => {
      const own = memory();
      instantiateKernels(kernelModule(variant), own, variant);
      return [...new Uint8Array(own.buffer).entries()].filter(([, byte]) => byte !== 0).map(([at]) => at);
    };
    const all = (["simd128", "relaxed-i32", "relaxed-i16"] as const).map((variant) => {
      instantiateKernels(kernelModule(variant), shared, variant);
      return touched(variant);
    });
    expect(Math.max(...all.flat())).toBeLessThan(RESERVED_BYTES);
    expect(new Set(all.flat()).size).toBe(all.flat().length);
  });

  test("refuses modules of another kind and memories that are too small, saying what it found", () => {
    expect(() => instantiateKernels(compileModule(kernelBytes("bench")), memory(), "simd128")).toThrow(/lacks the operation quantizeRows/);
    expect(() => instantiateKernels(kernelModule("simd128"), new WebAssembly.Memory({ initial: 0 }), "simd128")).toThrow(/has 0 bytes; expected at least 65536/);
  });
});
