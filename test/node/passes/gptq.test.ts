// GPTQ against its definition: each column rounded in turn, the rest re-solved by least squares; against round-to-nearest; and what it writes is what it means.

import { inverse, Matrix } from "ml-matrix";
import { describe, expect, it } from "vitest";
import { decodeRows } from "../../../formats/dequantize.ts";
import type { GroupType } from "../../../formats/quantize-blocks.ts";
import { encodeRows, noLoss } from "../../../formats/quantize.ts";
import { gptq, nearest } from "../../../passes/gptq.ts";
import { GRIDS, type GroupScale } from "../../../passes/grids.ts";
import { Hessian, outputError } from "../../../passes/hessian.ts";
import { SeededRandom } from "../../support/seeded-random.ts";

const TYPES: readonly GroupType[] = ["Q8_0", "Q4_0", "Q4_1", "Q2_32", "Q3_32"];
const N = 64;

/** Inputs of a few common directions and some noise, as activations are. */
function inputsOf(seed: number, nRows: number, n = N): Float32Array[] {
  const random = new SeededRandom(seed);
  const directions = Array.from({ length: 6 }, () => Float32Array.from({ length: n }, () => random.normal()));
  return Array.from({ length: nRows }, () => {
    const amounts = directions.map(() => random.normal());
    return Float32Array.from({ length: n }, (_, i) => directions.reduce((sum, d, k) => sum + d[i]! * amounts[k]!, 0) + 0.3 * random.normal());
  });
}

function hessianOf(inputs: readonly Float32Array[], c: (row: number) => number = () => 1): Float64Array {
  const hessian = new Hessian(inputs[0]!.length);
  inputs.forEach((x, row) => hessian.add(x, 0, c(row)));
  return hessian.matrix();
}

function weightsOf(seed: number, nRows: number, n = N): Float32Array {
  const random = new SeededRandom(seed);
  return Float32Array.from({ length: nRows * n }, () => random.normal());
}

const PLAIN = { actOrder: false, damping: 0.01 } as const;

/** The definition: after each column the best remaining weights for the errors made so far, by inverting the remaining Hessian anew. */
function byDefinition(type: GroupType, weights: Float32Array, h: Float64Array): Float64Array {
  const grid = GRIDS[type];
  const damped = new Matrix(Array.from({ length: N }, (_, i) => Array.from({ length: N }, (_, j) => h[i * N + j]!)));
  const mean = damped.trace() / N;
  for (let i = 0; i < N; i++) damped.set(i, i, damped.get(i, i) + PLAIN.damping * mean);
  const left = Float64Array.from(weights);
  const out = new Float64Array(N);
  const of: GroupScale = { scale: 0, min: 0 };
  const all = inverse(damped);
  for (let i = 0; i < N; i++) {
    if (i % 32 === 0) {
      // What an error in column j costs when only the later ones can make up for it: 1 / [H_{j..}^-1]_00.
      const costs = Float64Array.from({ length: N }, (_, j) => (j < i || j >= i + 32 ? 0 : 1 / inverse(damped.subMatrix(j, N - 1, j, N - 1)).get(0, 0)));
      grid.fit(left, i, costs, i, of);
    }
    out[i] = grid.value(grid.code(left[i]!, of), of);
    const rest = i === 0 ? all : inverse(damped.subMatrix(i, N - 1, i, N - 1));
    const error = (left[i]! - out[i]!) / rest.get(0, 0);
    for (let j = i + 1; j < N; j++) left[j]! -= error * rest.get(0, j - i);
  }
  return out;
}

describe.each(TYPES)("%s", (type) => {
  it("rounds as the definition does", () => {
    const h = hessianOf(inputsOf(1, 300));
    const weights = weightsOf(2, 3);
    const { values } = gptq(weights, 3, N, h, { type, ...PLAIN });
    for (let r = 0; r < 3; r++) {
      expect([...values.subarray(r * N, (r + 1) * N)]).toEqual([...Float32Array.from(byDefinition(type, weights.subarray(r * N, (r + 1) * N), h))]);
    }
  });

  it.each([false, true])("writes what it means (act-order %s), and rows do not depend on each other", (actOrder) => {
    const h = hessianOf(inputsOf(3, 200));
    const weights = weightsOf(4, 5);
    const { values, bytes } = gptq(weights, 5, N, h, { type, actOrder, damping: 0.01 });
    expect(decodeRows(type, bytes, 5, N)).toEqual(values);
    const alone = gptq(weights.slice(2 * N, 3 * N), 1, N, h, { type, actOrder, damping: 0.01 });
    expect(alone.values).toEqual(values.slice(2 * N, 3 * N));
  });

  it("loses less of the outputs than rounding each weight to its nearest", () => {
    const h = hessianOf(inputsOf(5, 400));
    const weights = weightsOf(6, 16);
    const nearest = decodeRows(type, encodeRows(type, "W", weights, 16, N, noLoss()), 16, N);
    const lost = (values: Float32Array): number => outputError(h, weights, values, 16, N).error;
    for (const actOrder of [false, true]) expect(lost(gptq(weights, 16, N, h, { type, actOrder, damping: 0.01 }).values)).toBeLessThan(0.75 * lost(nearest));
  });
});

it.each(TYPES)("without correlations %s is rounded to the nearest of the best grid", (type) => {
  const h = Float64Array.from({ length: N * N }, (_, i) => (i % (N + 1) === 0 ? 1 : 0));
  const weights = weightsOf(7, 2);
  const { values, bytes } = gptq(weights, 2, N, h, { type, ...PLAIN });
  const of: GroupScale = { scale: 0, min: 0 };
  const x = Float64Array.from(weights);
  for (let g = 0; g < x.length; g += 32) {
    GRIDS[type].fit(x, g, new Float64Array(32).fill(1), 0, of);
    for (let i = g; i < g + 32; i++) expect(values[i]).toBe(Math.fround(GRIDS[type].value(GRIDS[type].code(x[i]!, of), of)));
  }
  expect(nearest(weights, 2, N, type)).toEqual({ type, values, bytes });
});

it.each([
  ["Q8_0", [-127, -126, -1, 0, 1, 126, 127]], ["Q4_0", [-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7]], ["Q2_32", [-3, -1, 1, 3]], ["Q3_32", [-4, -3, -2, -1, 0, 1, 2, 3]],
] as const)("%s has its levels and rounds to the nearest of them", (type, levels) => {
  for (const scale of [0.5, ...(type === "Q4_0" || type === "Q3_32" ? [-0.5] : [])]) {
    const of: GroupScale = { scale, min: 0 };
    const grid = GRIDS[type];
    for (const level of levels) {
      expect(grid.value(grid.code(level * scale, of), of) + 0).toBe(level * scale + 0); // -0 is 0
      expect(grid.value(grid.code((level + 0.4) * scale, of), of) + 0).toBe(level * scale + 0);
      expect(grid.value(grid.code((level - 0.4) * scale, of), of) + 0).toBe(level * scale + 0);
    }
    for (const end of [levels[0]!, levels.at(-1)!]) expect(grid.value(grid.code(end * 3 * scale, of), of)).toBe(end * scale);
    // What lies on a grid is found, whatever it weighs.
    if (type === "Q8_0") continue;
    const x = Float64Array.from({ length: 32 }, (_, i) => levels[(5 * i) % levels.length]! * scale);
    const found: GroupScale = { scale: 0, min: 0 };
    grid.fit(x, 0, Float64Array.from({ length: 32 }, (_, i) => 1 + i), 0, found);
    expect(found).toEqual(of);
  }
});

it("a Hessian with weights of one is the plain one, bit for bit; with others it is the sum it says", () => {
  const inputs = inputsOf(8, 50);
  expect(hessianOf(inputs, () => 1)).toEqual(hessianOf(inputs));
  const weighted = hessianOf(inputs, (row) => (row % 3) / 2);
  for (const [i, j] of [[0, 0], [3, 17], [17, 3], [63, 62]] as const) {
    expect(weighted[i * N + j]).toBeCloseTo(inputs.reduce((sum, x, row) => sum + ((row % 3) / 2) * x[i]! * x[j]!, 0), 6);
  }
});

it("columns whose inputs were always zero, and fewer inputs than columns, do no harm", () => {
  const inputs = inputsOf(9, 10).map((x) => x.map((value, i) => (i === 5 || i >= 40 ? 0 : value)));
  const h = hessianOf(inputs);
  const weights = weightsOf(10, 4);
  for (const actOrder of [false, true]) {
    const { values } = gptq(weights, 4, N, h, { type: "Q4_0", actOrder, damping: 0.01 });
    expect(values.every(Number.isFinite)).toBe(true);
    expect(outputError(h, weights, values, 4, N).error).toBeLessThan(outputError(h, weights, decodeRows("Q4_0", encodeRows("Q4_0", "W", weights, 4, N, noLoss()), 4, N), 4, N).error);
  }
  // Nobody ever asked them: all columns may take their nearest.
  expect(gptq(weights, 4, N, new Float64Array(N * N), { type: "Q8_0", ...PLAIN }).values.every((value, i) => Math.abs(value - weights[i]!) < 0.02)).toBe(true);
});

it("refuses inputs that are no numbers, and columns that make no groups", () => {
  expect(() => new Hessian(4).add(Float32Array.of(1, NaN, 2, 3), 0, 1)).toThrow("Value 1 of a calibration row is NaN, expected a number.");
  expect(() => gptq(new Float32Array(40), 1, 40, new Float64Array(1600), { type: "Q4_0", ...PLAIN })).toThrow("A matrix of 40 columns was to be quantised in groups of 32; expected a multiple.");
});
