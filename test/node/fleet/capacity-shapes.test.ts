// Releases from their config.json alone: parameters as published, and a plan for each with nothing but the config read. What a plan took is printed, never asserted.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { planDocument } from "../../../cli/plan-document.ts";
import { plannedConfig } from "../../../cli/plan-model.ts";
import { parameterCounts } from "../../../fleet/capacity-pack.ts";
import { planOf } from "../../fleet-table.ts";
import { dataFile } from "../../support/data-folder.ts";
import { configOfJson, type Release, releaseConfig } from "../../support/release-configs.ts";

const MIB = 1024 * 1024;

/** Parameters as the releases' own safetensors indexes and cards have them, in 1e9. */
const MODELS: readonly { name: Release; config: string | null; published: number; active: number }[] = [
  { name: "OLMoE-1B-7B", config: "olmoe", published: 6.919, active: 1.28 },
  { name: "Granite-3.0-1B-A400M", config: null, published: 1.335, active: 0.428 },
  { name: "Qwen3-30B-A3B", config: "qwen3", published: 30.53, active: 3.35 },
  { name: "Mixtral-8x7B", config: "mixtral", published: 46.70, active: 12.88 },
  { name: "DeepSeek-V2-Lite", config: "deepseek2", published: 15.71, active: 2.66 },
];

const wish = (isolateMib: number) => ({ isolateBytes: isolateMib * MIB, streams: 4, nShards: null, replicas: 1, spareBytes: 0, regions: [], regionHolds: "deployment", placement: "contiguous", expertsIn: "shards" }) as const;

describe.each(MODELS)("$name", ({ name, config: of, published, active }) => {
  const file = of === null ? null : dataFile(`configs/hf/${of}.config.json`);
  test.skipIf(file === null)(`has the sizes of its config.json${file === null ? " (skipped: the data folder has none)" : ""}`, () => {
    expect(planDocument(plannedConfig(name, configOfJson(name, JSON.parse(readFileSync(file!, "utf8")) as object), { quant: "q4" }), wish(90)).document).toEqual(planOf(name));
  });

  test("plans as q4 and q8", () => {
    const config = releaseConfig(name);
    const counts = parameterCounts(config);
    expect(Math.abs(counts.total / 1e9 / published - 1)).toBeLessThan(0.005);
    expect(Math.abs(counts.active / 1e9 / active - 1)).toBeLessThan(0.01);
    // A layer is never cut, and its dense first one takes 83 MiB in int8.
    if (name === "DeepSeek-V2-Lite") {
      expect(() => planDocument(plannedConfig(name, config, { quant: "q8" }), wish(90))).toThrow(/Layer 0 alone takes 83\.\d MiB of weights .* an isolate of 90\.0 MiB has 82\.0 MiB for an object/);
      expect(planDocument(plannedConfig(name, config, { quant: "q8" }), wish(104)).document.isolates.largestBytes).toBeGreaterThan(83 * MIB);
    }
    for (const quant of name === "DeepSeek-V2-Lite" ? ["q4"] as const : ["q4", "q8"] as const) {
      const begin = performance.now();
      const model = plannedConfig(name, config, { quant });
      const plan = planDocument(model, wish(90)).document;
      console.log(`${name} ${quant}: ${plan.isolates.all} isolates, planned in ${((performance.now() - begin) / 1000).toFixed(2)} s`);
      // int4 with an f16 scale for 32 is 4.5 bits, int8 8.5; embedding and head stay int8.
      const bits = 8 * plan.bytes.expertBytes / (counts.ofOneExpert * config.layerFfns.filter((kind) => kind === "moe").length * config.nExperts);
      expect(bits).toBeCloseTo(quant === "q4" ? 4.5 : 8.5, 6);
      expect(model.packBytes).toBe(plan.bytes.totalBytes);
      expect(plan.isolates.largestBytes).toBeLessThanOrEqual(82 * MIB);
      expect(plan.lanes.residentTokensPerLane).toBeGreaterThanOrEqual(plan.lanes.streamsPerLane * plan.asked.contextTokens);
      // Mixtral's expert is 94.5 MiB in int4: more than an isolate has; of the others none is.
      expect(plan.shards.isSliced).toBe(name === "Mixtral-8x7B");
      expect(plan.isolates.all).toBe(plan.lanes.lanes * plan.lanes.stages.length + plan.shards.shards);
    }
  });
});
