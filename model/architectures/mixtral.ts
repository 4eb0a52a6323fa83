// Mixtral (transformers MixtralForCausalLM; llama.cpp knows it as arch "llama" with experts): no query-key norms, softmax
// router with renormalised weights, w1 = gate, w3 = up, w2 = down. In GGUF the rows of q and k are permuted and the rotary
// embedding is interleaved, which is the same model; nothing is permuted back.
// Refuses a "llama" GGUF without experts.

import { ModelError, type ModelConfig } from "../config.ts";
import { type Architecture, ownTensor } from "./architecture.ts";
import {
  PLAIN, ascendingIds, everyLayer, expertWidthOfGguf, freezeConfig, headDimOf, refuseForeignSettings, ropeOfGguf, ropeOfHuggingFace, sizesOfGguf, softmaxRouter,
} from "./common.ts";
import { GGUF_NAMES, HUGGING_FACE_IGNORABLE, HUGGING_FACE_TRUNK } from "./tensor-names.ts";

export const mixtral: Architecture = {
  name: "mixtral",
  ggufName: "llama",

  fromHuggingFace(f, generation): ModelConfig {
    refuseForeignSettings(f);
    const hiddenSize = f.integer("hidden_size", 1);
    const nHeads = f.integer("num_attention_heads", 1);
    const nLayers = f.integer("num_hidden_layers", 1);
    const headDim = headDimOf(f, hiddenSize, nHeads);
    const { rope, maxPositions } = ropeOfHuggingFace(f, "half", headDim, 1e6);
    return freezeConfig(f.file, {
      ...PLAIN,
      architecture: "mixtral",
      vocabSize: f.integer("vocab_size", 1),
      hiddenSize, nLayers, nHeads, headDim, maxPositions, rope,
      nKvHeads: f.integer("num_key_value_heads", 1),
      normEps: f.positive("rms_norm_eps", 1e-5),
      qkNorm: "none",
      attentionScale: headDim ** -0.5,
      slidingWindows: everyLayer(nLayers, f.has("sliding_window") ? f.integer("sliding_window", 1) : 0),
      layerFfns: everyLayer(nLayers, "moe"),
      nExperts: f.integer("num_local_experts", 1),
      expertIntermediateSize: f.integer("intermediate_size", 1),
      router: softmaxRouter(f.integer("num_experts_per_tok", 1), "renormalize"),
      tieWordEmbeddings: f.boolean("tie_word_embeddings", false),
      eosTokenIds: ascendingIds(f.ids("eos_token_id"), generation?.ids("eos_token_id") ?? []),
    });
  },

  fromGguf(f, hasTensor): ModelConfig {
    if (!f.has("llama.expert_count") || f.values["llama.expert_count"] === 0) {
      throw new ModelError(`${f.file} is a dense llama model: llama.expert_count is missing or 0, expected the number of experts of a Mixture-of-Experts model.`);
    }
    const s = sizesOfGguf(f, "llama");
    f.only("llama.expert_gating_func", [1], "another router score");
    f.only("llama.expert_weights_norm", [true], "expert weights that are not renormalised");
    const { rope, maxPositions } = ropeOfGguf(f, "llama", "interleaved", s.headDim);
    const { topK, ...sizes } = s;
    const window = f.has("llama.attention.sliding_window") ? f.integer("llama.attention.sliding_window", 0) : 0;
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      architecture: "mixtral",
      maxPositions, rope,
      qkNorm: "none",
      attentionScale: s.headDim ** -0.5,
      slidingWindows: everyLayer(s.nLayers, window),
      layerFfns: everyLayer(s.nLayers, "moe"),
      expertIntermediateSize: expertWidthOfGguf(f, "llama"),
      router: softmaxRouter(topK, "renormalize"),
      tieWordEmbeddings: !hasTensor("output.weight"),
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
