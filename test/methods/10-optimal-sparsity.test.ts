// Row 10, Optimal Sparsity (2025): parameters, active parameters and sparsity of published models, to half a percent of what their cards say.

import { expect, it } from "vitest";
import { planUntraced } from "../../cli/plan-fleet.ts";
import { plannedConfig } from "../../cli/plan-model.ts";
import { planText } from "../../cli/plan-text.ts";
import { parameterCounts } from "../../fleet/capacity-pack.ts";
import { shapeOf, trainingFlops } from "../../passes/efficiency.ts";
import { releaseConfig, type Release } from "../support/release-configs.ts";
import { tinyModel } from "../support/tiny-models.ts";

/** Billions in total and active, as model cards and papers give them. */
const PUBLISHED: readonly (readonly [Release, total: number, active: number, sparsity: number])[] = [
  ["OLMoE-1B-7B", 6.92, 1.28, 1 - 8 / 64], // OLMoE, 2024, table 1
  ["Granite-3.0-1B-A400M", 1.33, 0.43, 1 - 8 / 32],
  ["Qwen3-30B-A3B", 30.5, 3.3, 1 - 8 / 128], // Qwen3, 2025
  ["Mixtral-8x7B", 46.7, 12.9, 1 - 2 / 8], // Mixtral of Experts, 2024
  ["DeepSeek-V2-Lite", 15.7, 2.66, 1 - 6 / 64], // its config; the card says 15.7 and, without embeddings, 2.4
];

it.each(PUBLISHED)("%s", (name, total, active, sparsity) => {
  const config = releaseConfig(name);
  const counts = parameterCounts(config);
  // Cards round to three digits, Granite's to two of 0.4.
  expect(Math.abs(counts.total / 1e9 / total - 1)).toBeLessThan(0.005);
  expect(Math.abs(counts.active / 1e9 / active - 1)).toBeLessThan(name === "Qwen3-30B-A3B" ? 0.02 : 0.01);
  expect(shapeOf(config)!.sparsity).toBeCloseTo(sparsity, 12);
});

it("counts by hand", () => {
  expect(shapeOf(tinyModel("llama", 1).config)).toBeNull();
  // 8 experts of 32, 3 chosen, two shared ones of 32 together 64 wide.
  expect(shapeOf(tinyModel("deepseek_v2", 1).config)).toEqual({ sparsity: 1 - 3 / 8, activation: 5 / 10, granularity: 4 });
  expect(trainingFlops(1e9, 2e12)).toBe(1.2e22);
});

it("plan tells shape and tokens per parameter, and nothing of the sort of a dense model", () => {
  const request = { isolateBytes: 90 * 2 ** 20, streams: 1, nShards: null, regions: [], regionHolds: "deployment", replicas: 1, spareBytes: 0, placement: null, expertsIn: null, trainingTokens: 5.1e12 } as const;
  const { document } = planUntraced(plannedConfig("olmoe", releaseConfig("OLMoE-1B-7B"), {}), request);
  expect(document.model.efficiency!.tokensPerParameter).toBeCloseTo(5.1e12 / document.model.parameters, 6);
  expect(planText(document)).toMatch(/sparsity +87\.5 % of experts rest; granularity 4\.0\n/);
  expect(planUntraced(plannedConfig("dense", tinyModel("llama", 1).config, {}), request).document.model.efficiency).toBeNull();
});
