// PhiMoE (transformers PhimoeForCausalLM, the original PhiMoEForCausalLM; llama.cpp arch "phimoe"): LayerNorm with bias, biases everywhere in attention
// and on the head, LongRoPE, two experts by sparsemixer. llama.cpp and mlx weigh by a softmax over the two instead, and llama.cpp takes RMSNorm for LayerNorm; the
// original is followed here for files of both forms. GGUF files do not hold router_jitter_noise: it is the 0.01 of every release.
// Refuses other numbers of experts per token than sparsemixer's two.

import type { ModelConfig } from "../config.ts";
import type { Architecture } from "./architecture.ts";
import {
  PLAIN, attentionBiases, everyLayer, freezeConfig, refuseForeignSettings, sizesOfGguf, sizesOfHuggingFace, sparsemixerRouter, windowsOfGguf, windowsOfHuggingFace,
} from "./common.ts";
import { GGUF_NAMES, MIXTRAL_NAMES } from "./tensor-names.ts";

const RELEASED_JITTER = 0.01;

export const phiMoe: Architecture = {
  name: "phimoe",
  ggufName: "phimoe",
  keys: ["attention_bias", "input_jitter_noise", "intermediate_size", "layer_types", "lm_head_bias", "num_experts_per_tok", "num_local_experts",
    "original_max_position_embeddings", "router_jitter_noise", "sliding_window"],
  ggufKeys: ["attention.sliding_window"],

  fromHuggingFace(f, generation): ModelConfig {
    refuseForeignSettings(f);
    const { sizes } = sizesOfHuggingFace(f, generation, "half", { theta: 1e6, normEps: 1e-5 });
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      ...attentionBiases(f),
      architecture: "phimoe",
      nKvHeads: f.integer("num_key_value_heads", 1, 8),
      norm: "layer",
      headBias: f.boolean("lm_head_bias", false),
      slidingWindows: windowsOfHuggingFace(f, sizes.nLayers, sizes.maxPositions, () => true),
      layerFfns: everyLayer(sizes.nLayers, "moe"),
      nExperts: f.integer("num_local_experts", 1),
      expertIntermediateSize: f.integer("intermediate_size", 1),
      router: sparsemixerRouter(f.integer("num_experts_per_tok", 1), f.number("router_jitter_noise", RELEASED_JITTER)),
    });
  },

  fromGguf(f, tensors): ModelConfig {
    const { sizes, topK } = sizesOfGguf(f, "phimoe", tensors, { style: "half", reads: phiMoe.ggufKeys });
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      architecture: "phimoe",
      norm: "layer",
      headBias: tensors.has("output.bias"),
      slidingWindows: windowsOfGguf(f, "phimoe", sizes.nLayers, sizes.maxPositions),
      router: sparsemixerRouter(topK, RELEASED_JITTER),
    });
  },

  huggingFace: MIXTRAL_NAMES,
  gguf: GGUF_NAMES,
};
