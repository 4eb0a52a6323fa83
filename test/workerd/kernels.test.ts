// The kernels inside workerd, which compiles them with explicit bounds checks and another V8: the case table again, and the choice.

import { describe, expect, it } from "vitest";
import relaxedI16 from "../../build/kernels-relaxed-i16.wasm";
import relaxedI32 from "../../build/kernels-relaxed-i32.wasm";
import simd128 from "../../build/kernels-simd128.wasm";
import { chooseKernels } from "../../model/wasm-kernels.ts";
import { kernelCases, mismatchesOf } from "../kernel-cases.ts";

describe.each([["simd128", simd128], ["relaxed-i32", relaxedI32], ["relaxed-i16", relaxedI16]] as const)("%s", (variant, module) => {
  it("equals the scalar reference in every case", () => {
    expect(kernelCases().length).toBeGreaterThan(200);
    expect(mismatchesOf(module, variant)).toEqual([]);
  });
});

describe("chooseKernels", () => {
  it("takes a relaxed variant at the first try", () => {
    const choice = chooseKernels({ modules: { simd128, relaxedI32, relaxedI16 }, memory: new WebAssembly.Memory({ initial: 1 }) });
    expect(choice.kernels.name).toMatch(/^relaxed-/);
    expect(choice.selfTest).toEqual([{ variant: choice.kernels.name, mismatch: null, error: null }]);
  });
});
