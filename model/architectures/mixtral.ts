// Mixtral (transformers MixtralForCausalLM; llama.cpp knows it as arch "llama" with experts): no query-key norms, softmax
// router with renormalised weights, w1 = gate, w3 = up, w2 = down. In GGUF the rows of q and k are permuted and the rotary
// embedding is interleaved, which is the same model; nothing is permuted back. Refuses weights that are not renormalised.

import type { ModelConfig } from "../config.ts";
import type { Architecture } from "./architecture.ts";
import { PLAIN, everyLayer, freezeConfig, refuseForeignSettings, sizesOfGguf, sizesOfHuggingFace, softmaxRouter, windowsOfGguf, windowsOfHuggingFace } from "./common.ts";
import { GGUF_NAMES, MIXTRAL_NAMES } from "./tensor-names.ts";

export const mixtral: Architecture = {
  name: "mixtral",
  ggufName: "llama",
  isGguf: (f) => f.integer("llama.expert_count", 0, 0) > 0,
  keys: ["intermediate_size", "layer_types", "num_experts_per_tok", "num_local_experts", "sliding_window"],
  ggufKeys: ["attention.sliding_window"],

  fromHuggingFace(f, generation): ModelConfig {
    refuseForeignSettings(f);
    f.only("attention_bias", [false], "biases in attention");
    const { sizes } = sizesOfHuggingFace(f, generation, "half", { theta: 1e6, normEps: 1e-5 });
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      architecture: "mixtral",
      nKvHeads: f.integer("num_key_value_heads", 1, 8),
      qkvBias: false, oBias: false,
      slidingWindows: windowsOfHuggingFace(f, sizes.nLayers, sizes.maxPositions, () => true),
      layerFfns: everyLayer(sizes.nLayers, "moe"),
      nExperts: f.integer("num_local_experts", 1),
      expertIntermediateSize: f.integer("intermediate_size", 1),
      router: softmaxRouter(f.integer("num_experts_per_tok", 1), "renormalize"),
    });
  },

  fromGguf(f, tensors): ModelConfig {
    const { sizes, topK } = sizesOfGguf(f, "llama", tensors, { style: "interleaved", reads: mixtral.ggufKeys });
    f.only("llama.expert_weights_norm", [true], "expert weights that are not renormalised");
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      architecture: "mixtral",
      slidingWindows: windowsOfGguf(f, "llama", sizes.nLayers, sizes.maxPositions),
      router: softmaxRouter(topK, "renormalize"),
    });
  },

  huggingFace: MIXTRAL_NAMES,
  gguf: GGUF_NAMES,
};
