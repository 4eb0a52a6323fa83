// Row 11, efficiency leverage (Ling, 2025): the law's published points.

import { expect, it } from "vitest";
import { bestGranularity, efficiencyLeverage, REFERENCE_FLOPS } from "../../passes/efficiency.ts";

it("more than seven at 3.1 % of experts, granularity 12 and 10^22 FLOP; about one where all take part", () => {
  expect(efficiencyLeverage(0.031, 12, REFERENCE_FLOPS)).toBeCloseTo(7.24, 2);
  expect(efficiencyLeverage(1, 12, REFERENCE_FLOPS)).toBeCloseTo(0.99, 2);
});

it("is best near granularity 12, grows with compute and with sparsity", () => {
  expect(bestGranularity()).toBeCloseTo(11.3, 1);
  const at = (granularity: number): number => efficiencyLeverage(0.031, granularity, REFERENCE_FLOPS);
  for (const other of [2, 6, 10, 14, 24]) expect(at(other)).toBeLessThan(at(bestGranularity()));
  expect(efficiencyLeverage(0.031, 12, 1e24)).toBeGreaterThan(efficiencyLeverage(0.031, 12, 1e20));
  expect([0.5, 0.25, 0.125, 0.0625].map((activation) => efficiencyLeverage(activation, 12, 1e22)).every((el, i, all) => i === 0 || el > all[i - 1]!)).toBe(true);
});
