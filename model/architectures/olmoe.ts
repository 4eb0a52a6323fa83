// OLMoE (transformers OlmoeForCausalLM, llama.cpp arch "olmoe"): RMSNorm over the whole projected query and key before the
// heads are split, optional clamp of q, k, v, softmax router. Refuses biases, which the published models do not have.

import type { ModelConfig } from "../config.ts";
import { type Architecture, ownTensor, stackedTensor } from "./architecture.ts";
import {
  PLAIN, ascendingIds, everyLayer, expertWidthOfGguf, freezeConfig, headDimOf, refuseForeignSettings, ropeOfGguf, ropeOfHuggingFace, sizesOfGguf, softmaxRouter,
} from "./common.ts";
import { GGUF_NAMES, HUGGING_FACE_IGNORABLE, HUGGING_FACE_TRUNK } from "./tensor-names.ts";

export const olmoe: Architecture = {
  name: "olmoe",
  ggufName: "olmoe",

  fromHuggingFace(f, generation): ModelConfig {
    refuseForeignSettings(f);
    const hiddenSize = f.integer("hidden_size", 1);
    const nHeads = f.integer("num_attention_heads", 1);
    const nLayers = f.integer("num_hidden_layers", 1);
    const headDim = headDimOf(f, hiddenSize, nHeads);
    const { rope, maxPositions } = ropeOfHuggingFace(f, "half", headDim, 10000);
    return freezeConfig(f.file, {
      ...PLAIN,
      architecture: "olmoe",
      vocabSize: f.integer("vocab_size", 1),
      hiddenSize, nLayers, nHeads, headDim, maxPositions, rope,
      nKvHeads: f.integer("num_key_value_heads", 1, nHeads),
      normEps: f.positive("rms_norm_eps", 1e-5),
      qkNorm: "whole-vector",
      clipQkv: f.positiveOrNull("clip_qkv"),
      attentionScale: headDim ** -0.5,
      slidingWindows: everyLayer(nLayers, 0),
      layerFfns: everyLayer(nLayers, "moe"),
      nExperts: f.integer("num_experts", 1),
      expertIntermediateSize: f.integer("intermediate_size", 1),
      router: softmaxRouter(f.integer("num_experts_per_tok", 1), f.boolean("norm_topk_prob", false) ? "renormalize" : "score"),
      tieWordEmbeddings: f.boolean("tie_word_embeddings", false),
      eosTokenIds: ascendingIds(f.ids("eos_token_id"), generation?.ids("eos_token_id") ?? []),
    });
  },

  fromGguf(f, hasTensor): ModelConfig {
    const s = sizesOfGguf(f, "olmoe");
    f.only("olmoe.expert_gating_func", [1], "another router score");
    const { rope, maxPositions } = ropeOfGguf(f, "olmoe", "half", s.headDim);
    const { topK, ...sizes } = s;
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      architecture: "olmoe",
      maxPositions, rope,
      qkNorm: "whole-vector",
      clipQkv: f.positiveOrNull("olmoe.attention.clamp_kqv"),
      attentionScale: s.headDim ** -0.5,
      slidingWindows: everyLayer(s.nLayers, 0),
      layerFfns: everyLayer(s.nLayers, "moe"),
      expertIntermediateSize: expertWidthOfGguf(f, "olmoe"),
      router: softmaxRouter(topK, f.boolean("olmoe.expert_weights_norm", false) ? "renormalize" : "score"),
      tieWordEmbeddings: !hasTensor("output.weight"),
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
