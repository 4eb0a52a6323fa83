// The float64 definition against numbers computed from the published formulas (architectures reference, golden numbers).
// The YaRN frequencies of the same list are tested with model/rope.ts.
import { describe, expect, test } from "vitest";
import type { RouterConfig } from "../../../model/config.ts";
import { clampedSwiglu, rmsNorm, route, silu, softmax, sparsemixer } from "../../../model/definition.ts";
import { selectInGroups, weigh } from "../../../model/router.ts";
import { yarnMscale } from "../../../model/rope.ts";

const L = [1, -0.5, 2, 0.25, 1.5, -2, 0, 0.75];
const plain: RouterConfig = {
  score: "softmax", select: "top-k", sparsemixerEpsilon: 0, weigh: "score", scale: 1, topK: 3, logitBias: false, selectionBias: false, nGroups: 1, topKGroups: 1, groupScore: "max",
};
const deepseekV3: RouterConfig = { ...plain, score: "sigmoid", weigh: "renormalize", scale: 2.5, topK: 2, nGroups: 4, topKGroups: 2, groupScore: "top2-sum", selectionBias: true };
const V3_BIAS = [0.1, -0.3, -0.6, 0.2, -0.2, 0.9, 0, 0.05];

/** [what, router, bias, ids, weights] */
const ROUTES: [string, RouterConfig, number[] | undefined, number[], number[]][] = [
  ["softmax, then top-k", plain, undefined, [2, 4, 0], [0.3744723, 0.2271289, 0.1377606]],
  ["softmax, top-k, renormalised", { ...plain, weigh: "renormalize" }, undefined, [2, 4, 0], [0.5064804, 0.3071959, 0.1863237]],
  ["top-k, then softmax over the chosen", { ...plain, score: "logits", weigh: "softmax-selected" }, undefined, [2, 4, 0], [0.5064804, 0.3071959, 0.1863237]],
  ["DeepSeek-V3: sigmoid, bias, groups by their best two", deepseekV3, V3_BIAS, [5, 7], [0.3732642, 2.1267358]],
  ["DeepSeek-V2: groups by their best, scaled", { ...plain, nGroups: 4, topKGroups: 2, scale: 16 }, undefined, [2, 4, 3], [5.9915562, 3.6340625, 1.0411763]],
  ["the largest logits, each with weight one", { ...plain, score: "logits", weigh: "one" }, undefined, [2, 4, 0], [1, 1, 1]],
  ["every expert with weight one", { ...plain, score: "one", topK: 8 }, undefined, [0, 1, 2, 3, 4, 5, 6, 7], [1, 1, 1, 1, 1, 1, 1, 1]],
];

const expectClose = (found: ArrayLike<number>, expected: number[], digits = 6) => {
  expect(found.length).toBe(expected.length);
  expected.forEach((value, i) => expect(found[i]).toBeCloseTo(value, digits));
};

describe("router of the definition", () => {
  test.each(ROUTES)("%s", (_, router, bias, ids, weights) => {
    const found = route(router, L, bias);
    expect(found.ids).toEqual(ids);
    expectClose(found.weights, weights);
  });

  test("masked groups stay masked when every biased score is negative", () => {
    const all = route(deepseekV3, L, V3_BIAS.map((b) => b - 1.2));
    expect(all.ids).toEqual([5, 7]);
    expectClose(all.weights, [0.3732642, 2.1267358]);
  });

  test("ties go to the lowest id, and the margin says so", () => {
    const found = route({ ...plain, topK: 1 }, [1, 2, 2, 0]);
    expect(found.ids).toEqual([1]);
    expect(found.margin).toBe(0);
  });

  test.each([[L, [2, 4], [1, 1]], [[2, 1.99, 1.98, 0.5, 1.97, -1, 0, 1], [0, 1], [0.2537624, 0.3366722]]])(
    "sparsemixer of %j", (logits, ids, weights) => {
      const found = sparsemixer(logits, 0.01);
      expect(found.ids).toEqual(ids);
      expectClose(found.weights, weights);
    });
});

describe("router of the engine, in f32", () => {
  test.each(ROUTES)("%s", (_, router, bias, ids, weights) => {
    const scores = Float32Array.from(router.score === "softmax" ? softmax(L) : router.score === "sigmoid" ? L.map((x) => 1 / (1 + Math.exp(-x))) : router.score === "one" ? L.map(() => 1) : L);
    const chosen = selectInGroups(router, scores, bias === undefined ? null : Float32Array.from(bias));
    expect(chosen).toEqual(ids);
    const w = Float32Array.from(chosen, (id) => scores[id]!);
    weigh(router, w, 0, w.length);
    expectClose(w, weights, 5);
  });
});

describe("parts of the definition", () => {
  test("gpt-oss activation", () => {
    const cases: [number, number, number][] = [[1, 1, 1.6915915], [-1, 0.5, -0.2313064], [9, 9, 55.999625], [-9, -9, 0.000012], [0.5, -1, 0]];
    for (const [gate, up, expected] of cases) expect(clampedSwiglu(gate, up)).toBeCloseTo(expected, 6);
  });

  test("a sink takes part in the denominator only", () => {
    const found = softmax([0.3, 1, -0.2], 0.5);
    expectClose(found, [0.2065396, 0.4159197, 0.1252726]);
    expect(found.reduce((a, b) => a + b)).toBeCloseTo(0.7477, 4);
    expectClose(softmax([0.3, 1, -0.2], -Infinity), softmax([0.3, 1, -0.2]), 12);
  });

  test("RMSNorm and silu by hand", () => {
    expectClose(rmsNorm([3, 4], [1, 2], 0), [3 / Math.sqrt(12.5), 8 / Math.sqrt(12.5)], 12);
    expect(silu(1)).toBeCloseTo(0.7310585786, 9);
  });

  test("MLA's score scale and PhiMoE's magnitude", () => {
    const scale = (mscaleAllDim: number) => (yarnMscale(40, mscaleAllDim) ** 2) / Math.sqrt(192);
    expect(yarnMscale(40, 0.707)).toBeCloseTo(1.2608037774, 9);
    expect(scale(0.707)).toBeCloseTo(0.11472138679, 9);
    expect(yarnMscale(40, 1)).toBeCloseTo(1.3688879454, 9);
    expect(scale(1)).toBeCloseTo(0.13523377886, 9);
    expect(Math.sqrt(1 + Math.log(131072 / 4096) / Math.log(4096))).toBeCloseTo(1.1902380714, 9);
  });
});
