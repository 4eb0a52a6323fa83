// Row 5, MC-MoE (2024): bits of experts by knapsack. The published plans of Mixtral-8x7B, 32 layers at nine budgets, and brute force on small cases.

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { chooseBits, pmqCosts } from "../../passes/bit-knapsack.ts";
import { dataFile } from "../support/data-folder.ts";
import { SeededRandom } from "../support/seeded-random.ts";

interface Oracle {
  readonly budgets: Readonly<Record<string, readonly (readonly number[])[]>>;
  readonly frequency: readonly (readonly number[])[];
  readonly weight: readonly (readonly number[])[];
  readonly quantLoss: readonly (readonly Readonly<Record<string, number>>[])[];
}

const oracle = dataFile("oracles/pmq-mixtral-8x7b.json");
const WIDTHS = [1, 2, 3];
const ONE_OF_EACH = new Map([[2, 1], [3, 1]]);

describe.skipIf(oracle === null)("the published plans of Mixtral-8x7B (needs the data folder's oracles/pmq-mixtral-8x7b.json)", () => {
  it("are found, 288 of 288", () => {
    const { budgets, frequency, weight, quantLoss } = JSON.parse(readFileSync(oracle!, "utf8")) as Oracle;
    let same = 0;
    for (const [budget, plans] of Object.entries(budgets)) {
      for (const [layer, published] of plans.entries()) {
        const costs = pmqCosts(frequency[layer]!, weight[layer]!, quantLoss[layer]!.map((loss) => WIDTHS.map((width) => loss[width]!)));
        const found = chooseBits({ widths: WIDTHS, costs, budget: Number(budget), atLeast: ONE_OF_EACH });
        expect(found, `budget ${budget}, layer ${layer}`).toEqual(published);
        same++;
      }
    }
    expect(same).toBe(288);
  });
});

describe("the knapsack", () => {
  it("equals brute force", () => {
    const random = new SeededRandom(5);
    for (let round = 0; round < 300; round++) {
      const widths = [[1, 2, 3], [2, 4, 8], [2, 3, 4, 8]][round % 3]!;
      const n = 1 + random.below(5);
      const costs = Array.from({ length: n }, () => widths.map(() => random.uniform()));
      const budget = random.below(n * widths.at(-1)! + 3);
      const atLeast = new Map(round % 2 === 0 ? [] : [[widths[1]!, 1 + random.below(2)], [widths.at(-1)!, 1]]);
      let best = Infinity;
      const walk = (plan: number[], sum: number): void => {
        if (plan.length < n) return widths.forEach((width, w) => walk([...plan, width], sum + costs[plan.length]![w]!));
        if (plan.reduce((a, b) => a + b, 0) > budget) return;
        if ([...atLeast].some(([width, count]) => plan.filter((of) => of === width).length < count)) return;
        best = Math.min(best, sum);
      };
      walk([], 0);
      if (best === Infinity) expect(() => chooseBits({ widths, costs, budget, atLeast })).toThrow(/do not fit a budget of \d+ bits/);
      else {
        const found = chooseBits({ widths, costs, budget, atLeast });
        expect(found.reduce((a, b) => a + b, 0)).toBeLessThanOrEqual(budget);
        for (const [width, count] of atLeast) expect(found.filter((of) => of === width).length).toBeGreaterThanOrEqual(count);
        expect(found.reduce((sum, width, i) => sum + costs[i]![widths.indexOf(width)]!, 0)).toBeCloseTo(best, 12);
      }
    }
  });

  it("gives an expert that nobody asks the fewest bits", () => {
    const costs = pmqCosts([90, 10, 0], [60, 10, 0], [[9, 4, 1], [9, 4, 1], [9, 4, 1]]);
    expect(costs[2]).toEqual([0, 0, 0]);
    // By hand: shares 0.9 and 6/7; 0.9 * (6/7)^1.5 * 4.
    expect(costs[0]![1]).toBeCloseTo(0.9 * (6 / 7) ** 1.5 * 4, 12);
    expect(chooseBits({ widths: WIDTHS, costs, budget: 6, atLeast: ONE_OF_EACH })).toEqual([3, 2, 1]);
  });

  it("refuses what is no choice", () => {
    expect(() => chooseBits({ widths: [2, 1], costs: [], budget: 1 })).toThrow("Widths 2, 1 were given; expected whole numbers, ascending.");
    expect(() => chooseBits({ widths: [1, 2], costs: [[1]], budget: 1 })).toThrow("Thing 0 has the costs 1; expected a number for each of 2 widths.");
    expect(() => chooseBits({ widths: [2, 4], costs: [[1, 1], [1, 1]], budget: 5, atLeast: new Map([[4, 1]]) })).toThrow("2 things of 2, 4 bits do not fit a budget of 5 bits with at least 1 of 4 bits.");
  });
});
