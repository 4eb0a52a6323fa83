// Qwen2-MoE and Qwen3-MoE (transformers Qwen2MoeForCausalLM and Qwen3MoeForCausalLM, llama.cpp archs "qwen2moe" and "qwen3moe"): some layers may be dense
// (decoder_sparse_step, mlp_only_layers). Qwen2-MoE has biases on q, k, v and a shared expert behind a sigmoid gate, Qwen3-MoE an RMSNorm over each query
// and key head. Refuses use_sliding_window without layer_types: the two reference implementations disagree on which layers it means.

import type { LayerFfn, ModelConfig } from "../config.ts";
import type { Architecture } from "./architecture.ts";
import { PLAIN, attentionBiases, everyLayer, freezeConfig, refuseForeignSettings, sizesOfGguf, sizesOfHuggingFace, softmaxRouter, windowsOfHuggingFace } from "./common.ts";
import type { ConfigFields } from "./config-fields.ts";
import { GGUF_NAMES, HUGGING_FACE_NAMES, ownTensors, projections } from "./tensor-names.ts";

const KEYS = ["decoder_sparse_step", "intermediate_size", "layer_types", "max_window_layers", "mlp_only_layers", "moe_intermediate_size", "norm_topk_prob", "num_experts",
  "num_experts_per_tok", "sliding_window", "use_sliding_window"];

/** Experts in every decoder_sparse_step-th layer, but in none of mlp_only_layers. */
function layersOf(f: ConfigFields, nLayers: number): LayerFfn[] {
  const step = f.integer("decoder_sparse_step", 1, 1);
  const dense = f.ids("mlp_only_layers");
  return Array.from({ length: nLayers }, (_, n) => (!dense.includes(n) && (n + 1) % step === 0 ? "moe" : "dense"));
}

/** What both families read alike. */
function moeOf(f: ConfigFields, sizes: { readonly nLayers: number; readonly maxPositions: number }) {
  if (!f.has("layer_types")) f.only("use_sliding_window", [false], "a sliding window on some layers; say which with layer_types");
  const layerFfns = layersOf(f, sizes.nLayers);
  return {
    layerFfns,
    slidingWindows: windowsOfHuggingFace(f, sizes.nLayers, sizes.maxPositions, () => false),
    denseIntermediateSize: layerFfns.includes("dense") ? f.integer("intermediate_size", 1) : 0,
    nExperts: f.integer("num_experts", 1),
    expertIntermediateSize: f.integer("moe_intermediate_size", 1),
    router: softmaxRouter(f.integer("num_experts_per_tok", 1), f.boolean("norm_topk_prob", false) ? "renormalize" : "score"),
  };
}

export const qwen2Moe: Architecture = {
  name: "qwen2_moe",
  ggufName: "qwen2moe",
  keys: [...KEYS, "qkv_bias", "shared_expert_intermediate_size"],
  ggufKeys: ["expert_shared_feed_forward_length", "expert_shared_count"],

  fromHuggingFace(f, generation): ModelConfig {
    refuseForeignSettings(f);
    const { sizes } = sizesOfHuggingFace(f, generation, "half", { theta: 10000, normEps: 1e-6 });
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      ...moeOf(f, sizes),
      architecture: "qwen2_moe",
      nKvHeads: f.integer("num_key_value_heads", 1, 16),
      qkvBias: f.boolean("qkv_bias", true), oBias: false,
      sharedIntermediateSize: f.integer("shared_expert_intermediate_size", 1),
      sharedGate: true,
    });
  },

  fromGguf(f, tensors): ModelConfig {
    const { sizes, topK } = sizesOfGguf(f, "qwen2moe", tensors, { style: "half", reads: qwen2Moe.ggufKeys });
    // Files older than the key have a shared expert as wide as the feed-forward length, and experts of an equal share of it (llama.cpp).
    const width = f.integer("qwen2moe.feed_forward_length", 1);
    const expertWidth = f.has("qwen2moe.expert_feed_forward_length") ? sizes.expertIntermediateSize : Math.floor(width / topK);
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      architecture: "qwen2_moe",
      slidingWindows: everyLayer(sizes.nLayers, 0),
      expertIntermediateSize: expertWidth,
      sharedIntermediateSize: f.integer("qwen2moe.expert_shared_feed_forward_length", 1, width),
      sharedGate: true,
      router: softmaxRouter(topK, f.boolean("qwen2moe.expert_weights_norm", false) ? "renormalize" : "score"),
    });
  },

  huggingFace: {
    ...HUGGING_FACE_NAMES,
    trunk: { ...HUGGING_FACE_NAMES.trunk, ...ownTensors({ sharedGate: "model.layers.{layer}.mlp.shared_expert_gate.weight" }) },
    shared: projections("model.layers.{layer}.mlp.shared_expert"),
  },
  gguf: GGUF_NAMES,
};

export const qwen3Moe: Architecture = {
  name: "qwen3_moe",
  ggufName: "qwen3moe",
  keys: [...KEYS, "attention_bias"],
  ggufKeys: [],

  fromHuggingFace(f, generation): ModelConfig {
    refuseForeignSettings(f);
    const { sizes } = sizesOfHuggingFace(f, generation, "half", { theta: 10000, normEps: 1e-6 });
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      ...attentionBiases(f),
      ...moeOf(f, sizes),
      architecture: "qwen3_moe",
      nKvHeads: f.integer("num_key_value_heads", 1, 4),
      qkNorm: "per-head",
    });
  },

  fromGguf(f, tensors): ModelConfig {
    const { sizes, topK } = sizesOfGguf(f, "qwen3moe", tensors, { style: "half" });
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      architecture: "qwen3_moe",
      qkNorm: "per-head",
      slidingWindows: everyLayer(sizes.nLayers, 0),
      router: softmaxRouter(topK, f.boolean("qwen3moe.expert_weights_norm", true) ? "renormalize" : "score"),
    });
  },

  huggingFace: HUGGING_FACE_NAMES,
  gguf: GGUF_NAMES,
};
