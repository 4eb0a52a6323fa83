// Dense Qwen2 and Qwen3 (transformers Qwen2ForCausalLM and Qwen3ForCausalLM, llama.cpp archs "qwen2" and "qwen3"): Qwen2 has biases on q, k and v,
// Qwen3 an RMSNorm over each query and key head and a head dimension of its own. Layers from max_window_layers on may have a sliding window.
// llama.cpp's files say nothing of windows. Refuses nothing further.

import type { ModelConfig } from "../config.ts";
import type { Architecture } from "./architecture.ts";
import { NO_EXPERTS, PLAIN, attentionBiases, denseSizesOfGguf, everyLayer, freezeConfig, refuseForeignSettings, sizesOfHuggingFace, windowsOfHuggingFace } from "./common.ts";
import { GGUF_NAMES, HUGGING_FACE_NAMES } from "./tensor-names.ts";

const qwenDense = (name: "qwen2" | "qwen3", qkNorm: ModelConfig["qkNorm"]): Architecture => ({
  name,
  ggufName: name,
  keys: ["intermediate_size", "layer_types", "max_window_layers", "sliding_window", "use_sliding_window", ...(name === "qwen3" ? ["attention_bias"] : [])],
  ggufKeys: [],

  fromHuggingFace(f, generation): ModelConfig {
    refuseForeignSettings(f);
    const { sizes } = sizesOfHuggingFace(f, generation, "half", { theta: 10000, normEps: 1e-6 });
    const slides = f.boolean("use_sliding_window", false);
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      ...(name === "qwen2" ? { qkvBias: true, oBias: false } : attentionBiases(f)),
      ...NO_EXPERTS,
      architecture: name,
      nKvHeads: f.integer("num_key_value_heads", 1, 32),
      qkNorm,
      slidingWindows: windowsOfHuggingFace(f, sizes.nLayers, sizes.maxPositions, (layer) => slides && layer >= f.integer("max_window_layers", 0, 28)),
      layerFfns: everyLayer(sizes.nLayers, "dense"),
      denseIntermediateSize: f.integer("intermediate_size", 1),
    });
  },

  fromGguf(f, tensors): ModelConfig {
    const sizes = denseSizesOfGguf(f, name, tensors, { style: "half" });
    return freezeConfig(f.file, { ...PLAIN, ...sizes, architecture: name, qkNorm, slidingWindows: everyLayer(sizes.nLayers, 0) });
  },

  huggingFace: HUGGING_FACE_NAMES,
  gguf: GGUF_NAMES,
});

export const qwen2 = qwenDense("qwen2", "none");
export const qwen3 = qwenDense("qwen3", "per-head");
