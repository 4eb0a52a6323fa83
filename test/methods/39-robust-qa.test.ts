// Row 39, DistilBERT with switch layers (robust QA), the experts: lin1, GELU, lin2 as PyTorch computes them (goldens/39-robust-qa.py), in the exact form with erf; the token's
// one expert counts as much as its probability. Attention both ways and the span head are not here: experts only.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../cli/build-kernels.mjs";
import { gelu } from "../../model/definition.ts";
import { createScalarKernels } from "../../model/scalar-kernels.ts";
import { instantiateKernels } from "../../model/wasm-kernels.ts";
import { KERNEL_VARIANTS } from "../kernel-cases.ts";
import { kernelModule } from "../node/kernels/modules.ts";
import { drawnNumbers } from "../support/drawn-numbers.ts";
import { PlainExperts } from "../support/plain-experts.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const golden = JSON.parse(readFileSync(join(import.meta.dirname, "goldens/39-robust-qa.json"), "utf8")) as { ids: number[]; probability: number[]; outputs: number[]; tanhDifference: number; y: number[] };
const [TOKENS, SIZE, WIDTH, EXPERTS] = [8, 32, 76, 4];
const X = drawnNumbers(1, 2, TOKENS * SIZE);
const experts = Array.from({ length: EXPERTS }, (_, e) => ({
  up: drawnNumbers(100 + 4 * e, 0.5, WIDTH * SIZE), upBias: drawnNumbers(101 + 4 * e, 1, WIDTH), down: drawnNumbers(102 + 4 * e, 0.25, SIZE * WIDTH), downBias: drawnNumbers(103 + 4 * e, 0.5, SIZE),
}));

const kernelsOf = (variant: "scalar" | (typeof KERNEL_VARIANTS)[number]) => {
  const memory = new WebAssembly.Memory({ initial: 64 });
  return variant === "scalar" ? createScalarKernels(memory) : instantiateKernels(kernelModule(variant), memory, variant);
};

describe.each(["scalar", ...KERNEL_VARIANTS] as const)("%s", (variant) => {
  it.each([WIDTH, 32])("in segments of %i: every expert is PyTorch's within 1e-5, which the form with tanh is not", (segmentWidth) => {
    const layer = new PlainExperts(kernelsOf(variant), "gelu-mlp", experts, segmentWidth);
    for (let e = 0; e < EXPERTS; e++) {
      const found = layer.run(e, X);
      for (let t = 0; t < TOKENS; t++) for (let i = 0; i < SIZE; i++) expect(Math.abs(found[t * SIZE + i]! - golden.outputs[(t * EXPERTS + e) * SIZE + i]!)).toBeLessThan(1e-5);
    }
    expect(golden.tanhDifference).toBeGreaterThan(1e-4);
  });

  it("the switch layer is PyTorch's within 1e-5, by one expert a token", () => {
    const layer = new PlainExperts(kernelsOf(variant), "gelu-mlp", experts, WIDTH);
    const y = layer.layer(X, golden.ids.map((id) => [id]), golden.probability.map((p) => [p]));
    y.forEach((value, i) => expect(Math.abs(value - golden.y[i]!)).toBeLessThan(1e-5));
    expect([layer.calls, layer.leftOut]).toEqual([TOKENS, 0]);
    expect(new Set(golden.ids).size).toBe(EXPERTS);
  });
});

it("in float64 the definition agrees with PyTorch's f32", () => {
  const dot = (w: Float32Array, row: number, x: ArrayLike<number>): number => Array.from(x).reduce((sum, v, i) => sum + v * w[row * x.length + i]!, 0);
  experts.forEach(({ up, upBias, down, downBias }, e) => {
    for (let t = 0; t < TOKENS; t++) {
      const x = X.subarray(t * SIZE, (t + 1) * SIZE);
      const h = Array.from(upBias, (b, j) => gelu(dot(up, j, x) + b));
      for (let i = 0; i < SIZE; i++) expect(Math.abs(dot(down, i, h) + downBias[i]! - golden.outputs[(t * EXPERTS + e) * SIZE + i]!)).toBeLessThan(1e-5);
    }
  });
});
