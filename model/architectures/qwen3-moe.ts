// Qwen3-MoE (transformers Qwen3MoeForCausalLM, llama.cpp arch "qwen3moe"): RMSNorm over each query and key head, a head
// dimension of its own, softmax router with renormalised weights. Refuses dense layers among the sparse ones (no released
// model has them), biases and sliding windows.

import type { ModelConfig } from "../config.ts";
import type { Architecture } from "./architecture.ts";
import {
  PLAIN, ascendingIds, everyLayer, expertWidthOfGguf, freezeConfig, headDimOf, refuseForeignSettings, ropeOfGguf, ropeOfHuggingFace, sizesOfGguf, softmaxRouter,
} from "./common.ts";
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
    const hiddenSize = f.integer("hidden_size", 1);
    const nHeads = f.integer("num_attention_heads", 1);
    const nLayers = f.integer("num_hidden_layers", 1);
    const headDim = headDimOf(f, hiddenSize, nHeads);
    const { rope, maxPositions } = ropeOfHuggingFace(f, "half", headDim, 10000);
    return freezeConfig(f.file, {
      ...PLAIN,
      architecture: "qwen3_moe",
      vocabSize: f.integer("vocab_size", 1),
      hiddenSize, nLayers, nHeads, headDim, maxPositions, rope,
      nKvHeads: f.integer("num_key_value_heads", 1),
      normEps: f.positive("rms_norm_eps", 1e-6),
      qkNorm: "per-head",
      attentionScale: headDim ** -0.5,
      slidingWindows: everyLayer(nLayers, 0),
      layerFfns: everyLayer(nLayers, "moe"),
      nExperts: f.integer("num_experts", 1),
      expertIntermediateSize: f.integer("moe_intermediate_size", 1),
      router: softmaxRouter(f.integer("num_experts_per_tok", 1), f.boolean("norm_topk_prob", false) ? "renormalize" : "score"),
      tieWordEmbeddings: f.boolean("tie_word_embeddings", false),
      eosTokenIds: ascendingIds(f.ids("eos_token_id"), generation?.ids("eos_token_id") ?? []),
    });
  },

  fromGguf(f, hasTensor): ModelConfig {
    const s = sizesOfGguf(f, "qwen3moe");
    f.only("qwen3moe.expert_gating_func", [1], "another router score");
    const { rope, maxPositions } = ropeOfGguf(f, "qwen3moe", "half", s.headDim);
    const { topK, ...sizes } = s;
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      architecture: "qwen3_moe",
      maxPositions, rope,
      qkNorm: "per-head",
      attentionScale: s.headDim ** -0.5,
      slidingWindows: everyLayer(s.nLayers, 0),
      layerFfns: everyLayer(s.nLayers, "moe"),
      expertIntermediateSize: expertWidthOfGguf(f, "qwen3moe"),
      router: softmaxRouter(topK, f.boolean("qwen3moe.expert_weights_norm", true) ? "renormalize" : "score"),
      tieWordEmbeddings: !hasTensor("output.weight"),
    });
  },

  // The MoE block has the names of OLMoE's.
  huggingFace: olmoe.huggingFace,
  gguf: GGUF_NAMES,
};
