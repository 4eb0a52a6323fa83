// OLMoE (transformers OlmoeForCausalLM, llama.cpp arch "olmoe"): RMSNorm over the whole projected query and key before the
// heads are split, optional clamp of q, k, v, softmax router whose weights are renormalised only on demand. Refuses nothing further.

import type { ModelConfig } from "../config.ts";
import type { Architecture } from "./architecture.ts";
import { PLAIN, attentionBiases, everyLayer, freezeConfig, refuseForeignSettings, sizesOfGguf, sizesOfHuggingFace, softmaxRouter } from "./common.ts";
import { GGUF_NAMES, HUGGING_FACE_NAMES } from "./tensor-names.ts";

export const olmoe: Architecture = {
  name: "olmoe",
  ggufName: "olmoe",
  keys: ["attention_bias", "clip_qkv", "intermediate_size", "norm_topk_prob", "num_experts", "num_experts_per_tok"],
  ggufKeys: ["attention.clamp_kqv"],

  fromHuggingFace(f, generation): ModelConfig {
    refuseForeignSettings(f);
    const { sizes } = sizesOfHuggingFace(f, generation, "half", { theta: 10000, normEps: 1e-5 });
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      ...attentionBiases(f),
      architecture: "olmoe",
      nKvHeads: f.integer("num_key_value_heads", 1, sizes.nHeads),
      qkNorm: "whole-vector",
      clipQkv: f.positiveOrNull("clip_qkv"),
      slidingWindows: everyLayer(sizes.nLayers, 0),
      layerFfns: everyLayer(sizes.nLayers, "moe"),
      nExperts: f.integer("num_experts", 1),
      expertIntermediateSize: f.integer("intermediate_size", 1),
      router: softmaxRouter(f.integer("num_experts_per_tok", 1), f.boolean("norm_topk_prob", false) ? "renormalize" : "score"),
    });
  },

  fromGguf(f, tensors): ModelConfig {
    const { sizes, topK } = sizesOfGguf(f, "olmoe", tensors, { style: "half", reads: olmoe.ggufKeys });
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      architecture: "olmoe",
      qkNorm: "whole-vector",
      clipQkv: f.positiveOrNull("olmoe.attention.clamp_kqv"),
      slidingWindows: everyLayer(sizes.nLayers, 0),
      router: softmaxRouter(topK, f.boolean("olmoe.expert_weights_norm", false) ? "renormalize" : "score"),
    });
  },

  huggingFace: HUGGING_FACE_NAMES,
  gguf: GGUF_NAMES,
};
