// Qwen3-MoE (transformers Qwen3MoeForCausalLM, llama.cpp arch "qwen3moe"): RMSNorm over each query and key head, a head
// dimension of its own, softmax router with renormalised weights. Refuses dense layers among the sparse ones (no released
// model has them), biases and sliding windows.

import type { ModelConfig } from "../config.ts";
import type { Architecture } from "./architecture.ts";
import { PLAIN, everyLayer, freezeConfig, refuseForeignSettings, sizesOfGguf, sizesOfHuggingFace, softmaxRouter } from "./common.ts";
import { olmoe } from "./olmoe.ts";
import { GGUF_NAMES } from "./tensor-names.ts";

export const qwen3Moe: Architecture = {
  name: "qwen3_moe",
  ggufName: "qwen3moe",

  fromHuggingFace(f, generation): ModelConfig {
    refuseForeignSettings(f);
    f.only("decoder_sparse_step", [1], "dense layers among the sparse ones");
    f.only("mlp_only_layers", [[]], "dense layers among the sparse ones");
    f.only("use_sliding_window", [false], "a sliding window on some layers");
    const sizes = sizesOfHuggingFace(f, generation, "half", { theta: 10000, normEps: 1e-6 });
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      architecture: "qwen3_moe",
      nKvHeads: f.integer("num_key_value_heads", 1),
      qkNorm: "per-head",
      slidingWindows: everyLayer(sizes.nLayers, 0),
      nExperts: f.integer("num_experts", 1),
      expertIntermediateSize: f.integer("moe_intermediate_size", 1),
      router: softmaxRouter(f.integer("num_experts_per_tok", 1), f.boolean("norm_topk_prob", false) ? "renormalize" : "score"),
    });
  },

  fromGguf(f, hasTensor): ModelConfig {
    const { sizes, topK } = sizesOfGguf(f, "qwen3moe", "half", hasTensor);
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      architecture: "qwen3_moe",
      qkNorm: "per-head",
      slidingWindows: everyLayer(sizes.nLayers, 0),
      router: softmaxRouter(topK, f.boolean("qwen3moe.expert_weights_norm", true) ? "renormalize" : "score"),
    });
  },

  // The MoE block has the names of OLMoE's.
  huggingFace: olmoe.huggingFace,
  gguf: GGUF_NAMES,
};
