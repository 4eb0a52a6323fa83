// Mixtral (transformers MixtralForCausalLM; llama.cpp knows it as arch "llama" with experts): no query-key norms, softmax
// router with renormalised weights, w1 = gate, w3 = up, w2 = down. In GGUF the rows of q and k are permuted and the rotary
// embedding is interleaved, which is the same model; nothing is permuted back.
// Refuses a "llama" GGUF without experts.

import { ModelError, type ModelConfig } from "../config.ts";
import { type Architecture, ownTensor } from "./architecture.ts";
import { PLAIN, everyLayer, freezeConfig, refuseForeignSettings, sizesOfGguf, sizesOfHuggingFace, softmaxRouter } from "./common.ts";
import { GGUF_NAMES, HUGGING_FACE_IGNORABLE, HUGGING_FACE_TRUNK } from "./tensor-names.ts";

export const mixtral: Architecture = {
  name: "mixtral",
  ggufName: "llama",

  fromHuggingFace(f, generation): ModelConfig {
    refuseForeignSettings(f);
    const sizes = sizesOfHuggingFace(f, generation, "half", { theta: 1e6, normEps: 1e-5 });
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      architecture: "mixtral",
      nKvHeads: f.integer("num_key_value_heads", 1),
      qkNorm: "none",
      slidingWindows: everyLayer(sizes.nLayers, f.has("sliding_window") ? f.integer("sliding_window", 1) : 0),
      nExperts: f.integer("num_local_experts", 1),
      expertIntermediateSize: f.integer("intermediate_size", 1),
      router: softmaxRouter(f.integer("num_experts_per_tok", 1), "renormalize"),
    });
  },

  fromGguf(f, hasTensor): ModelConfig {
    if (!f.has("llama.expert_count") || f.values["llama.expert_count"] === 0) {
      throw new ModelError(`${f.file} is a dense llama model: llama.expert_count is missing or 0, expected the number of experts of a Mixture-of-Experts model.`);
    }
    const { sizes, topK } = sizesOfGguf(f, "llama", "interleaved", hasTensor);
    f.only("llama.expert_weights_norm", [true], "expert weights that are not renormalised");
    const window = f.has("llama.attention.sliding_window") ? f.integer("llama.attention.sliding_window", 0) : 0;
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      architecture: "mixtral",
      qkNorm: "none",
      slidingWindows: everyLayer(sizes.nLayers, window),
      router: softmaxRouter(topK, "renormalize"),
    });
  },

  huggingFace: {
    trunk: { ...HUGGING_FACE_TRUNK, router: "model.layers.{layer}.block_sparse_moe.gate.weight" },
    experts: {
      gate: [ownTensor("model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight")],
      up: [ownTensor("model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight")],
      down: [ownTensor("model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight")],
    },
    ignorable: HUGGING_FACE_IGNORABLE,
  },
  gguf: GGUF_NAMES,
};
