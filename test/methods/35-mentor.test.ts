// Row 35, MENTOR (2024), the experts: Linear-ReLU-Linear, as PyTorch computes them (goldens/35-mentor.py). The authors run all 32 and throw most away; here the four run that
// count. Its router is a matter of another test.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../cli/build-kernels.mjs";
import { createScalarKernels } from "../../model/scalar-kernels.ts";
import { instantiateKernels } from "../../model/wasm-kernels.ts";
import { KERNEL_VARIANTS } from "../kernel-cases.ts";
import { kernelModule } from "../node/kernels/modules.ts";
import { drawnNumbers } from "../support/drawn-numbers.ts";
import { PlainExperts } from "../support/plain-experts.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const golden = JSON.parse(readFileSync(join(import.meta.dirname, "goldens/35-mentor.json"), "utf8")) as { ids: number[]; weights: number[]; outputs: number[]; y: number[] };
const [TOKENS, SIZE, WIDTH, EXPERTS, TOP] = [6, 40, 48, 32, 4];
const X = drawnNumbers(1, 2, TOKENS * SIZE);
const experts = Array.from({ length: EXPERTS }, (_, e) => ({
  up: drawnNumbers(100 + 4 * e, 0.25, WIDTH * SIZE), upBias: drawnNumbers(101 + 4 * e, 0.5, WIDTH), down: drawnNumbers(102 + 4 * e, 0.25, SIZE * WIDTH), downBias: drawnNumbers(103 + 4 * e, 0.5, SIZE),
}));
const rowsOf = <T>(values: readonly T[], n: number): T[][] => Array.from({ length: values.length / n }, (_, i) => values.slice(i * n, (i + 1) * n));
const [ids, weights] = [rowsOf(golden.ids, TOP), rowsOf(golden.weights, TOP)];

const kernelsOf = (variant: "scalar" | (typeof KERNEL_VARIANTS)[number]) => {
  const memory = new WebAssembly.Memory({ initial: 64 });
  return variant === "scalar" ? createScalarKernels(memory) : instantiateKernels(kernelModule(variant), memory, variant);
};

describe.each(["scalar", ...KERNEL_VARIANTS] as const)("%s", (variant) => {
  it.each([WIDTH, 32])("in segments of %i: every expert is PyTorch's within 1e-5 for the first token", (segmentWidth) => {
    const layer = new PlainExperts(kernelsOf(variant), "relu-mlp", experts, segmentWidth);
    for (let e = 0; e < EXPERTS; e++) {
      layer.run(e, X.slice(0, SIZE)).forEach((value, i) => expect(Math.abs(value - golden.outputs[e * SIZE + i]!)).toBeLessThan(1e-5));
    }
  });

  it("the layer is PyTorch's within 1e-5, by 4 of 32 experts a token", () => {
    const layer = new PlainExperts(kernelsOf(variant), "relu-mlp", experts, WIDTH);
    const y = layer.layer(X, ids, weights);
    y.forEach((value, i) => expect(Math.abs(value - golden.y[i]!)).toBeLessThan(1e-5));
    expect(layer.calls).toBe(TOKENS * TOP);
    expect(Math.max(...y.map(Math.abs))).toBeGreaterThan(0.5);
  });

  it("has the scalar reference's bits", () => {
    const run = (of: Parameters<typeof kernelsOf>[0]): Float32Array => new PlainExperts(kernelsOf(of), "relu-mlp", experts, 32).layer(X, ids, weights);
    expect(new Uint32Array(run(variant).buffer)).toEqual(new Uint32Array(run("scalar").buffer));
  });
});

it("the weights are those of the top 4, divided by their sum + 1e-9", () => {
  for (const of of weights) {
    expect(of.reduce((sum, w) => sum + w, 0)).toBeCloseTo(1, 6);
    expect(of).toEqual([...of].sort((a, b) => b - a));
  }
});
