// gpt-oss (transformers GptOssForCausalLM, llama.cpp arch "gpt-oss"): a learned sink per head in attention's softmax, sliding windows in every other layer,
// biases everywhere, top-k of the router's logits and softmax over those, clamped SwiGLU. YaRN's ramp has ends that are not rounded ("truncate": false;
// llama.cpp rounds them). In Hugging Face folders rows of gate and up take turns, in MXFP4 blocks or, unpacked, transposed.
// GGUF files do not hold the clamp: it is the 7 of every release. Refuses quantisation other than MXFP4.

import type { ModelConfig } from "../config.ts";
import type { Architecture } from "./architecture.ts";
import {
  PLAIN, attentionBiases, everyLayer, freezeConfig, refuseForeignSettings, selectedSoftmaxRouter, sizesOfGguf, sizesOfHuggingFace, windowOf, windowsOfHuggingFace,
} from "./common.ts";
import { alternatingVectors, mxfp4Blocks, stackedTensor, stackedTransposed } from "./locations.ts";
import { GGUF_NAMES, HUGGING_FACE_NAMES, ownTensors } from "./tensor-names.ts";

const RELEASED_LIMIT = 7;
const EXPERTS = "model.layers.{layer}.mlp.experts";
const WINDOW_PATTERN = "gpt-oss.attention.sliding_window_pattern";

/** Even layers slide unless the config says otherwise. */
const slides = (layer: number): boolean => layer % 2 === 0;

export const gptOss: Architecture = {
  name: "gpt_oss",
  ggufName: "gpt-oss",
  keys: ["attention_bias", "experts_per_token", "initial_context_length", "intermediate_size", "layer_types", "num_experts_per_tok", "num_local_experts",
    "sliding_window", "swiglu_limit"],
  ggufKeys: ["attention.sliding_window", "attention.sliding_window_pattern", "expert_gating_func"],

  fromHuggingFace(f, generation): ModelConfig {
    refuseForeignSettings(f, "mxfp4");
    const { sizes } = sizesOfHuggingFace(f, generation, "half", { theta: 150000, normEps: 1e-5 });
    const topK = f.integer(f.has("num_experts_per_tok") ? "num_experts_per_tok" : "experts_per_token", 1);
    f.only("experts_per_token", [topK], `num_experts_per_tok is ${topK}`);
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      ...attentionBiases(f, true),
      architecture: "gpt_oss",
      nKvHeads: f.integer("num_key_value_heads", 1, 8),
      attentionSinks: true,
      slidingWindows: windowsOfHuggingFace(f, sizes.nLayers, sizes.maxPositions, slides),
      layerFfns: everyLayer(sizes.nLayers, "moe"),
      nExperts: f.integer("num_local_experts", 1),
      expertKind: "clamped-swiglu",
      swigluLimit: f.positive("swiglu_limit", RELEASED_LIMIT),
      expertIntermediateSize: f.integer("intermediate_size", 1),
      router: selectedSoftmaxRouter(topK, true),
    });
  },

  fromGguf(f, tensors): ModelConfig {
    const { sizes, topK } = sizesOfGguf(f, "gpt-oss", tensors, {
      style: "half", truncate: false, reads: gptOss.ggufKeys,
    });
    f.only("gpt-oss.expert_gating_func", [0, 3], "another router score");
    f.only(WINDOW_PATTERN, [2], "another alternation of windows");
    const window = windowOf(f.integer("gpt-oss.attention.sliding_window", 1), sizes.maxPositions);
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      architecture: "gpt_oss",
      attentionSinks: true,
      slidingWindows: Array.from({ length: sizes.nLayers }, (_, layer) => (slides(layer) ? window : 0)),
      expertKind: "clamped-swiglu",
      swigluLimit: RELEASED_LIMIT,
      router: selectedSoftmaxRouter(topK, true),
    });
  },

  huggingFace: {
    ...HUGGING_FACE_NAMES,
    trunk: {
      ...HUGGING_FACE_NAMES.trunk,
      ...ownTensors({ sinks: "model.layers.{layer}.self_attn.sinks", router: "model.layers.{layer}.mlp.router.weight", routerBias: "model.layers.{layer}.mlp.router.bias" }),
    },
    experts: {
      gate: [mxfp4Blocks(`${EXPERTS}.gate_up_proj`, 2, 0), stackedTransposed(`${EXPERTS}.gate_up_proj`, 2, 0)],
      up: [mxfp4Blocks(`${EXPERTS}.gate_up_proj`, 2, 1), stackedTransposed(`${EXPERTS}.gate_up_proj`, 2, 1)],
      down: [mxfp4Blocks(`${EXPERTS}.down_proj`, 1, 0), stackedTransposed(`${EXPERTS}.down_proj`, 1, 0)],
      gateBias: [alternatingVectors(`${EXPERTS}.gate_up_proj_bias`, 2, 0)],
      upBias: [alternatingVectors(`${EXPERTS}.gate_up_proj_bias`, 2, 1)],
      downBias: [stackedTensor(`${EXPERTS}.down_proj_bias`)],
    },
  },
  gguf: GGUF_NAMES,
};
