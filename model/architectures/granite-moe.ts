// GraniteMoE and GraniteMoeShared (transformers GraniteMoeForCausalLM and GraniteMoeSharedForCausalLM; llama.cpp arch "granitemoe" for both): four
// multipliers, read always from the config, where they may be whole numbers; top-k of the logits, then softmax over those; the second family adds an
// ungated shared part. In GGUF the rows of q and k are permuted and the rotary embedding is interleaved. Refuses position embeddings other than rotary.

import type { ModelConfig } from "../config.ts";
import type { Architecture } from "./architecture.ts";
import { PLAIN, attentionBiases, everyLayer, freezeConfig, refuseForeignSettings, selectedSoftmaxRouter, sizesOfGguf, sizesOfHuggingFace } from "./common.ts";
import { decimalOfF32 } from "./rope-settings.ts";
import { GGUF_NAMES, GRANITE_NAMES } from "./tensor-names.ts";

const GGUF_KEYS = ["embedding_scale", "residual_scale", "logit_scale", "attention.scale", "expert_shared_feed_forward_length", "expert_shared_count"];
const SHARED_WIDTH = "granitemoe.expert_shared_feed_forward_length";

const graniteMoe = (name: "granitemoe" | "granitemoeshared"): Architecture => ({
  name,
  ggufName: "granitemoe",
  isGguf: (f) => (f.integer(SHARED_WIDTH, 0, 0) > 0) === (name === "granitemoeshared"),
  keys: ["attention_bias", "attention_multiplier", "embedding_multiplier", "intermediate_size", "logits_scaling", "num_experts_per_tok", "num_local_experts",
    "position_embedding_type", "residual_multiplier", ...(name === "granitemoeshared" ? ["shared_intermediate_size"] : [])],
  ggufKeys: GGUF_KEYS,

  fromHuggingFace(f, generation): ModelConfig {
    refuseForeignSettings(f);
    f.only("position_embedding_type", ["rope"], "other position embeddings");
    const { sizes } = sizesOfHuggingFace(f, generation, "half", { theta: 10000, normEps: 1e-6 });
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      ...attentionBiases(f),
      architecture: name,
      nKvHeads: f.integer("num_key_value_heads", 1, sizes.nHeads),
      attentionScale: f.positive("attention_multiplier", 1),
      slidingWindows: everyLayer(sizes.nLayers, 0),
      layerFfns: everyLayer(sizes.nLayers, "moe"),
      nExperts: f.integer("num_local_experts", 1),
      expertIntermediateSize: f.integer("intermediate_size", 1),
      sharedIntermediateSize: name === "granitemoeshared" ? f.integer("shared_intermediate_size", 0, 0) : 0,
      router: selectedSoftmaxRouter(f.integer("num_experts_per_tok", 1), false),
      embeddingMultiplier: f.positive("embedding_multiplier", 1),
      residualMultiplier: f.positive("residual_multiplier", 1),
      logitsScaling: f.positive("logits_scaling", 1),
    });
  },

  fromGguf(f, tensors): ModelConfig {
    const { sizes, topK } = sizesOfGguf(f, "granitemoe", tensors, { style: "interleaved", reads: GGUF_KEYS });
    f.only("granitemoe.rope.scaling.finetuned", [true], "a model without rotary embedding");
    f.only("granitemoe.expert_weights_norm", [true], "expert weights that are not renormalised");
    const factor = (key: string, fallback: number): number => {
      const given = f.number(`granitemoe.${key}`, 0);
      return given === 0 ? fallback : decimalOfF32(given);
    };
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      architecture: name,
      attentionScale: factor("attention.scale", sizes.attentionScale),
      slidingWindows: everyLayer(sizes.nLayers, 0),
      sharedIntermediateSize: f.integer(SHARED_WIDTH, 0, 0),
      router: selectedSoftmaxRouter(topK, false),
      embeddingMultiplier: factor("embedding_scale", 1),
      residualMultiplier: factor("residual_scale", 1),
      logitsScaling: factor("logit_scale", 1),
    });
  },

  huggingFace: GRANITE_NAMES,
  gguf: GGUF_NAMES,
});

export const graniteMoeShared = graniteMoe("granitemoeshared");
export const graniteMoePlain = graniteMoe("granitemoe");
