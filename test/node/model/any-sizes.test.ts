// Every architecture at sizes nobody chose: seeded widths, heads, experts, ranks and vocabularies that are multiples of nothing but 4 where the
// cache's rows demand it. From folder and GGUF through the pack to logits, judged by the float64 definition. Users' models have other sizes than ours.

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import { evaluate, openPackFrom } from "../../../cli/open-pack.ts";
import { forwardDefinition } from "../../../model/definition.ts";
import { openTinyGguf, openTinyHuggingFace, packToMemory } from "../../support/pack-to-memory.ts";
import { SeededRandom } from "../../support/seeded-random.ts";
import { TINY_ARCHITECTURES, type TinyArchitecture, tinyModel } from "../../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const OWN_HEAD_DIM: ReadonlySet<TinyArchitecture> = new Set(["qwen3_moe", "mixtral", "qwen3", "gpt_oss"]);

/** Sizes for config.json, under the names the architecture has for them. */
function anySizes(architecture: TinyArchitecture, random: SeededRandom): Record<string, unknown> {
  const between = (low: number, high: number): number => low + random.below(high - low + 1);
  const [kvHeads, headDim] = [between(1, 3), 4 * between(1, 12)];
  const heads = kvHeads * between(1, 3);
  const [nExperts, width, dense, shared] = [between(2, 9), between(3, 80), between(3, 90), between(3, 70)];
  const common = {
    vocab_size: between(97, 140), num_hidden_layers: between(1, 4), num_attention_heads: heads, num_key_value_heads: kvHeads,
    ...(OWN_HEAD_DIM.has(architecture) ? { hidden_size: 4 * between(3, 30), head_dim: headDim } : { hidden_size: heads * headDim }),
  };
  const num_experts_per_tok = between(1, Math.min(4, nExperts));
  switch (architecture) {
    case "olmoe": return { ...common, num_experts: nExperts, num_experts_per_tok, intermediate_size: width };
    case "qwen3_moe": return { ...common, num_experts: nExperts, num_experts_per_tok, moe_intermediate_size: width, intermediate_size: dense };
    case "mixtral": return { ...common, num_local_experts: nExperts, num_experts_per_tok, intermediate_size: width };
    case "qwen2_moe": return { ...common, num_experts: nExperts, num_experts_per_tok, moe_intermediate_size: width, intermediate_size: dense, shared_expert_intermediate_size: shared };
    case "granitemoe": return { ...common, num_local_experts: nExperts, num_experts_per_tok, intermediate_size: width };
    case "granitemoeshared": return { ...common, num_local_experts: nExperts, num_experts_per_tok, intermediate_size: width, shared_intermediate_size: shared };
    case "phimoe": return { ...common, num_local_experts: nExperts, intermediate_size: width, rope_scaling: null };
    // Blocks of 32 along both of an expert's dimensions, as its files have.
    case "gpt_oss": return { ...common, num_local_experts: nExperts, experts_per_token: num_experts_per_tok, num_experts_per_tok, intermediate_size: 32 * between(1, 3), hidden_size: 32 * between(1, 3), sliding_window: between(1, 20) };
    case "deepseek_v2": case "deepseek_v3": {
      const [groups, perGroup] = [between(1, 3), between(2, 4)];
      return {
        ...common, num_hidden_layers: between(2, 3), num_key_value_heads: heads, n_routed_experts: groups * perGroup, n_group: groups, topk_group: between(1, groups), num_experts_per_tok: between(1, perGroup),
        moe_intermediate_size: width, intermediate_size: dense, n_shared_experts: between(1, 2), first_k_dense_replace: between(0, 1), kv_lora_rank: 4 * between(1, 10),
        qk_nope_head_dim: 4 * between(1, 6), qk_rope_head_dim: 4 * between(1, 5), v_head_dim: 4 * between(1, 7), q_lora_rank: architecture === "deepseek_v3" || between(0, 1) === 1 ? between(3, 30) : null,
      };
    }
    case "llama": case "qwen2": case "qwen3": return { ...common, intermediate_size: dense };
  }
}

const IDS = Array.from({ length: 11 }, (_, i) => (i * i * 5 + 3 * i + 7) % 97);

describe.each(TINY_ARCHITECTURES)("%s", (architecture) => {
  it.each([1, 2, 3])("sizes of seed %i: f32 logits agree with the float64 definition within 1e-4 of the largest", async (seed) => {
    const config = anySizes(architecture, new SeededRandom(seed * 101 + TINY_ARCHITECTURES.indexOf(architecture)));
    const model = tinyModel(architecture, seed, { config });
    const truth = forwardDefinition(model.config, (name) => model.weights.get(name)!, IDS);
    const unclear = IDS.findIndex((_, t) => truth.routing.some((layer) => layer[t]!.margin < 1e-3));
    const upTo = unclear < 0 ? IDS.length : unclear; // a token whose choice may flip also changes those after it
    const scale = Math.max(1, ...truth.logits.slice(0, upTo).flat().map(Math.abs));
    for (const source of [await openTinyHuggingFace(model), await openTinyGguf(model, { type: "F16" })]) {
      const { engine } = await openPackFrom((await packToMemory(source, { quant: "f32" })).source);
      await evaluate(engine, IDS, (position, logits) => {
        if (position >= upTo) return;
        const worst = truth.logits[position]!.reduce((most, value, v) => Math.max(most, Math.abs(logits[v]! - value)), 0);
        expect(worst / scale, `position ${position} of ${JSON.stringify(config)}`).toBeLessThan(1e-4);
      });
    }
    expect(upTo, "tokens judged").toBeGreaterThan(0);
  });
});
