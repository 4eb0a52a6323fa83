// Releases from their config.json alone: parameters as published, and a plan for each with nothing but the config read. What a plan took is printed, never asserted.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { planDocument } from "../../../cli/plan-document.ts";
import { plannedConfig } from "../../../cli/plan-model.ts";
import { parameterCounts } from "../../../fleet/capacity-pack.ts";
import { ConfigFields } from "../../../model/architectures/config-fields.ts";
import { architectureOfHuggingFace } from "../../../model/architectures/index.ts";
import { dataFile } from "../../support/data-folder.ts";

const MIB = 1024 * 1024;

/** ibm-granite/granite-3.0-1b-a400m-base, without what size does not depend on: no file of the data folder has it. */
const GRANITE = {
  architectures: ["GraniteMoeForCausalLM"], model_type: "granitemoe", vocab_size: 49155, hidden_size: 1024, intermediate_size: 512, num_hidden_layers: 24, num_attention_heads: 16,
  num_key_value_heads: 8, num_local_experts: 32, num_experts_per_tok: 8, attention_bias: false, hidden_act: "silu", rms_norm_eps: 1e-6, rope_theta: 10000, rope_scaling: null,
  max_position_embeddings: 4096, tie_word_embeddings: true, embedding_multiplier: 12, logits_scaling: 6, residual_multiplier: 0.22, attention_multiplier: 0.015625, bos_token_id: 0, eos_token_id: 0,
};

/** Parameters as the releases' own safetensors indexes and cards have them, in 1e9. */
const MODELS: readonly { name: string; config: string | object; published: number; active: number }[] = [
  { name: "OLMoE-1B-7B", config: "olmoe", published: 6.919, active: 1.28 },
  { name: "Granite-3.0-1B-A400M", config: GRANITE, published: 1.335, active: 0.428 },
  { name: "Qwen3-30B-A3B", config: "qwen3", published: 30.53, active: 3.35 },
  { name: "Mixtral-8x7B", config: "mixtral", published: 46.70, active: 12.88 },
  { name: "DeepSeek-V2-Lite", config: "deepseek2", published: 15.71, active: 2.66 },
];

const wish = (isolateMib: number) => ({ isolateBytes: isolateMib * MIB, streams: 4, nShards: null, regions: [] });

describe.each(MODELS)("$name", ({ name, config: of, published, active }) => {
  const file = typeof of === "string" ? dataFile(`configs/hf/${of}.config.json`) : null;
  const isAbsent = typeof of === "string" && file === null;

  test.skipIf(isAbsent)(`plans as q4 and q8${isAbsent ? ` (skipped: configs/hf/${String(of)}.config.json of the data folder is absent)` : ""}`, () => {
    const fields = new ConfigFields(name, typeof of === "string" ? JSON.parse(readFileSync(file!, "utf8")) as object : of);
    const config = architectureOfHuggingFace(fields).fromHuggingFace(fields, null);
    const counts = parameterCounts(config);
    expect(Math.abs(counts.total / 1e9 / published - 1)).toBeLessThan(0.005);
    expect(Math.abs(counts.active / 1e9 / active - 1)).toBeLessThan(0.01);
    // A layer is never cut, and its dense first one takes 83 MiB in int8.
    if (name === "DeepSeek-V2-Lite") {
      expect(() => planDocument(plannedConfig(name, config, { quant: "q8" }), wish(90))).toThrow(/Layer 0 alone takes 83\.\d MiB of weights .* an isolate of 90\.0 MiB has 82\.0 MiB for an object/);
      expect(planDocument(plannedConfig(name, config, { quant: "q8" }), wish(104)).isolates.largestBytes).toBeGreaterThan(83 * MIB);
    }
    for (const quant of name === "DeepSeek-V2-Lite" ? ["q4"] as const : ["q4", "q8"] as const) {
      const begin = performance.now();
      const model = plannedConfig(name, config, { quant });
      const plan = planDocument(model, wish(90));
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
