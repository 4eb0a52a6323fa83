// The parts of a search that need no model: fronts by hand and by brute force, races on made-up tokens, candidates of a space.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { dominates, paretoFront } from "../../../passes/pareto-front.ts";
import { growingShares, type Runner, stillRunning, surelyWorse } from "../../../passes/racing.ts";
import { candidatesOf, defaultSpace, isProperPart, type PassCall, searchSpaceSchema } from "../../../passes/search-space.ts";

describe("the Pareto front", () => {
  it("by hand", () => {
    const points = [[1, 9], [2, 5], [2, 6], [3, 5], [4, 1], [5, 1], [1, 9], [9, 0]];
    expect(paretoFront(points, (p) => p)).toEqual([[1, 9], [2, 5], [4, 1], [1, 9], [9, 0]]);
    expect(paretoFront([[1, 2, 3], [1, 2, 4], [0, 3, 3]], (p) => p)).toEqual([[1, 2, 3], [0, 3, 3]]);
    expect(paretoFront([], (p) => p)).toEqual([]);
    expect(() => paretoFront([[1, NaN]], (p) => p)).toThrow("no number");
    expect(() => dominates([1], [1, 2])).toThrow("1 and of 2 figures");
  });

  it("keeps nothing that is dominated, and drops nothing that is not", () => {
    const figure = fc.integer({ min: 0, max: 6 });
    fc.assert(fc.property(fc.array(fc.tuple(figure, figure, figure), { maxLength: 24 }), (points) => {
      const front = paretoFront(points, (p) => p);
      const beats = (a: readonly number[], b: readonly number[]): boolean => a[0]! <= b[0]! && a[1]! <= b[1]! && a[2]! <= b[2]! && (a[0]! < b[0]! || a[1]! < b[1]! || a[2]! < b[2]!);
      for (const point of points) expect(front.includes(point)).toBe(!points.some((other) => beats(other, point)));
      expect(points.length === 0 || front.length > 0).toBe(true);
    }));
  });
});

describe("a race", () => {
  const runner = (prices: number[], nats: number[]): Runner => ({ prices, nats });

  it("measures twice as much each time, and all at last", () => {
    expect([1, 2, 5, 8, 15].map(growingShares)).toEqual([[1], [1, 2], [1, 2, 3, 5], [1, 2, 4, 8], [2, 4, 8, 15]]);
  });

  it("drops who is no cheaper and worse beyond the noise, by hand", () => {
    const a = runner([10, 5], [1, 1, 1, 1]);
    // Differences 0.1, 0.3, 0.1, 0.3: mean 0.2, variance 0.04 / 3, standard error 0.0577; 0.2 is 3.46 of them.
    const b = runner([10, 6], [1.1, 1.3, 1.1, 1.3]);
    expect(surelyWorse(a, b, 3.4)).toBe(true);
    expect(surelyWorse(a, b, 3.5)).toBe(false);
    expect(surelyWorse(b, a, 0)).toBe(false);
    expect(surelyWorse(a, runner([9, 6], [9, 9, 9, 9]), 2)).toBe(false); // cheaper in one thing
    expect(surelyWorse(a, runner([10, 5], [9]), 2)).toBe(false); // one token says nothing
    expect(surelyWorse(a, runner([10, 5], [1, 1, 1, 1]), 2)).toBe(false); // its equal
    expect(stillRunning([a, b], 2)).toEqual([a]);
  });

  it("never drops the best of the cheapest, nor what will be on the front when nothing is in doubt", () => {
    const model = fc.record({ prices: fc.tuple(fc.integer({ min: 0, max: 4 }), fc.integer({ min: 0, max: 4 })), level: fc.integer({ min: 0, max: 5 }) });
    fc.assert(fc.property(fc.array(model, { minLength: 1, maxLength: 12 }), (models) => {
      const runners = models.map(({ prices, level }) => ({ prices, level, nats: [level, level, level] }));
      const left = stillRunning(runners, 2);
      const front = paretoFront(runners, ({ prices, level }) => [...prices, level]);
      for (const one of front) expect(left).toContain(one);
      expect(paretoFront(left, ({ prices, level }) => [...prices, level])).toEqual(front);
    }));
  });
});

describe("a space", () => {
  const call = (pass: string, n: number): PassCall => ({ pass, options: { n } });

  it("gives every choice once, in order", () => {
    expect(candidatesOf({ stages: [[[], [call("a", 1)]], [[call("b", 1)], [call("b", 2), call("c", 1)], [call("b", 1)]]] }).map((of) => of.map(({ pass, options }) => `${pass}${options["n"]}`).join(" ")))
      .toEqual(["b1", "b2 c1", "a1 b1", "a1 b2 c1"]);
    const twelve = Array.from({ length: 17 }, (_, n) => [call("a", n)]);
    expect(() => candidatesOf({ stages: [twelve, twelve, twelve] })).toThrow("4913 candidates; expected at most 4096");
  });

  it("knows a candidate that does the same and less", () => {
    const [a, b, c] = [call("a", 1), call("b", 1), call("c", 1)];
    expect(isProperPart([a, c], [a, b, c])).toBe(true);
    expect(isProperPart([], [a])).toBe(true);
    expect(isProperPart([c, a], [a, b, c])).toBe(false);
    expect(isProperPart([a], [a])).toBe(false);
    expect(isProperPart([call("a", 2)], [a, b])).toBe(false);
  });

  it("is made for a model: fewer experts where there are some to spare, none of it for a dense one", () => {
    const options = { samples: 4, window: 16, seed: 3 };
    const config = (nExperts: number, topK: number, nGroups = 1) => ({ layerFfns: ["moe" as const], hiddenSize: 64, expertIntermediateSize: 32, nExperts, router: { topK, nGroups } as never });
    const all = candidatesOf(defaultSpace(config(32, 4), options));
    expect(all.length).toBe(20);
    const joins = (of: typeof all): unknown[] => of.flat().filter(({ pass }) => pass === "merge").map(({ options: { join } }) => join);
    expect(new Set(joins(all))).toEqual(new Set(["neurons"]));
    expect(new Set(joins(candidatesOf(defaultSpace({ ...config(32, 4), expertIntermediateSize: 65 }, options))))).toEqual(new Set(["mean"]));
    expect(all.flat().filter(({ pass }) => pass === "prune").every(({ options: of }) => of["keep"] === 24)).toBe(true);
    expect(candidatesOf(defaultSpace(config(20, 4, 4), options)).flat().find(({ pass }) => pass === "prune")!.options["keep"]).toBe(16); // a multiple of its groups
    expect(candidatesOf(defaultSpace(config(2, 2), options)).flat().some(({ pass }) => pass === "prune")).toBe(false);
    expect(candidatesOf(defaultSpace({ ...config(0, 0), layerFfns: ["dense"] }, options)).map((of) => of.map(({ pass }) => pass).join())).toEqual(["", "nearest", "gptq", "gptq"]);
    expect(searchSpaceSchema.safeParse(defaultSpace(config(32, 4), options)).success).toBe(true);
    expect(searchSpaceSchema.safeParse({ stages: [] }).success).toBe(false);
  });
});
