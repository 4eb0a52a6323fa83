// Dense Llama (transformers LlamaForCausalLM; llama.cpp arch "llama" without experts): every layer is one feed-forward part, stored and run like a
// shared expert. In GGUF the rows of q and k are permuted (biases too) and the rotary embedding is interleaved.
// Refuses biases in feed-forward layers.

import type { ModelConfig } from "../config.ts";
import type { Architecture } from "./architecture.ts";
import { NO_EXPERTS, PLAIN, attentionBiases, denseSizesOfGguf, everyLayer, freezeConfig, refuseForeignSettings, sizesOfHuggingFace, windowsOfGguf } from "./common.ts";
import { GGUF_NAMES, HUGGING_FACE_NAMES } from "./tensor-names.ts";

export const llama: Architecture = {
  name: "llama",
  ggufName: "llama",
  isGguf: (f) => f.integer("llama.expert_count", 0, 0) === 0,
  keys: ["attention_bias", "intermediate_size"],
  ggufKeys: ["attention.sliding_window"],

  fromHuggingFace(f, generation): ModelConfig {
    refuseForeignSettings(f);
    const { sizes } = sizesOfHuggingFace(f, generation, "half", { theta: 10000, normEps: 1e-6 });
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      ...attentionBiases(f),
      ...NO_EXPERTS,
      architecture: "llama",
      nKvHeads: f.integer("num_key_value_heads", 1, sizes.nHeads),
      slidingWindows: everyLayer(sizes.nLayers, 0),
      layerFfns: everyLayer(sizes.nLayers, "dense"),
      denseIntermediateSize: f.integer("intermediate_size", 1),
    });
  },

  fromGguf(f, tensors): ModelConfig {
    const sizes = denseSizesOfGguf(f, "llama", tensors, { style: "interleaved", reads: llama.ggufKeys });
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      architecture: "llama",
      slidingWindows: windowsOfGguf(f, "llama", sizes.nLayers, sizes.maxPositions),
    });
  },

  huggingFace: HUGGING_FACE_NAMES,
  gguf: GGUF_NAMES,
};
