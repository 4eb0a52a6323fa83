// OLMoE (transformers OlmoeForCausalLM, llama.cpp arch "olmoe"): RMSNorm over the whole projected query and key before the
// heads are split, optional clamp of q, k, v, softmax router. Refuses biases, which the published models do not have.

import type { ModelConfig } from "../config.ts";
import { type Architecture, ownTensor, stackedTensor } from "./architecture.ts";
import { PLAIN, everyLayer, freezeConfig, refuseForeignSettings, sizesOfGguf, sizesOfHuggingFace, softmaxRouter } from "./common.ts";
import { GGUF_NAMES, HUGGING_FACE_IGNORABLE, HUGGING_FACE_TRUNK } from "./tensor-names.ts";

export const olmoe: Architecture = {
  name: "olmoe",
  ggufName: "olmoe",

  fromHuggingFace(f, generation): ModelConfig {
    refuseForeignSettings(f);
    const sizes = sizesOfHuggingFace(f, generation, "half", { theta: 10000, normEps: 1e-5 });
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      architecture: "olmoe",
      nKvHeads: f.integer("num_key_value_heads", 1, sizes.nHeads),
      qkNorm: "whole-vector",
      clipQkv: f.positiveOrNull("clip_qkv"),
      slidingWindows: everyLayer(sizes.nLayers, 0),
      nExperts: f.integer("num_experts", 1),
      expertIntermediateSize: f.integer("intermediate_size", 1),
      router: softmaxRouter(f.integer("num_experts_per_tok", 1), f.boolean("norm_topk_prob", false) ? "renormalize" : "score"),
    });
  },

  fromGguf(f, hasTensor): ModelConfig {
    const { sizes, topK } = sizesOfGguf(f, "olmoe", "half", hasTensor);
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

  huggingFace: {
    trunk: { ...HUGGING_FACE_TRUNK, router: "model.layers.{layer}.mlp.gate.weight" },
    experts: {
      gate: [ownTensor("model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight"), stackedTensor("model.layers.{layer}.mlp.experts.gate_up_proj", 2, 0)],
      up: [ownTensor("model.layers.{layer}.mlp.experts.{expert}.up_proj.weight"), stackedTensor("model.layers.{layer}.mlp.experts.gate_up_proj", 2, 1)],
      down: [ownTensor("model.layers.{layer}.mlp.experts.{expert}.down_proj.weight"), stackedTensor("model.layers.{layer}.mlp.experts.down_proj")],
    },
    ignorable: HUGGING_FACE_IGNORABLE,
  },
  gguf: GGUF_NAMES,
};
