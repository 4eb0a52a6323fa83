// DeepSeek-V2 and V3 (transformers DeepseekV2ForCausalLM and DeepseekV3ForCausalLM; llama.cpp arch "deepseek2" for both): latent attention, leading dense
// layers, shared experts in one ungated part, groups of experts. V2 scores by softmax and judges a group by its best expert; V3 by sigmoid with a
// selection bias and by the two best. The scale of the scores carries the square of YaRN's mscale; cos and sin carry a ratio that is 1 in all releases.
// GGUF files of V2 have groups judged by two in llama.cpp; here by one, as the original does. Layers behind the last are multi-token prediction.
// Refuses attention biases and router methods other than the two.

import { type LayerFfn, type MlaConfig, ModelError, type ModelConfig, type RouterConfig } from "../config.ts";
import type { Architecture } from "./architecture.ts";
import { PLAIN, everyLayer, freezeConfig, groupedRouter, refuseForeignSettings, sizesOfGguf, sizesOfHuggingFace } from "./common.ts";
import type { ConfigFields } from "./config-fields.ts";
import { fusedKvB } from "./locations.ts";
import { decimalOfF32 } from "./rope-settings.ts";
import { GGUF_NAMES, HUGGING_FACE_NAMES, ownTensors } from "./tensor-names.ts";

const KEYS = ["attention_bias", "first_k_dense_replace", "intermediate_size", "kv_lora_rank", "moe_intermediate_size", "moe_layer_freq", "n_group", "n_routed_experts",
  "n_shared_experts", "norm_topk_prob", "num_experts_per_tok", "num_nextn_predict_layers", "q_lora_rank", "qk_head_dim", "qk_nope_head_dim", "qk_rope_head_dim",
  "rope_interleave", "routed_scaling_factor", "scoring_func", "topk_group", "topk_method", "v_head_dim"];
const GGUF_KEYS = ["attention.key_length_mla", "attention.kv_lora_rank", "attention.q_lora_rank", "attention.value_length_mla", "expert_gating_func", "expert_group_count",
  "expert_group_used_count", "expert_shared_count", "expert_weights_scale", "leading_dense_block_count", "nextn_predict_layers", "rope.scaling.yarn_log_multiplier"];

/** The norms within the low-rank forms keep their class's epsilon, whatever the config says for the others. */
const LATENT_NORM_EPS = 1e-6;
const SIGMOID = 2;

/** What follows from the latent form for the fields that other architectures have too. */
const latentSizes = (mla: MlaConfig, scoreMscale: number) => ({
  mla, nKvHeads: 1, headDim: mla.kvLoraRank + mla.ropeHeadDim, qkvBias: false, oBias: false,
  attentionScale: (mla.nopeHeadDim + mla.ropeHeadDim) ** -0.5 * scoreMscale * scoreMscale,
});

function routerOf(f: ConfigFields, version: "v2" | "v3"): RouterConfig {
  f.only("scoring_func", [version === "v2" ? "softmax" : "sigmoid"], "another router score");
  const method = f.string("topk_method", version === "v2" ? "greedy" : "noaux_tc");
  const known = version === "v2" ? ["greedy", "group_limited_greedy"] : ["noaux_tc"];
  if (!known.includes(method)) throw f.error("topk_method", known.map((m) => `"${m}"`).join(" or "));
  const grouped = method !== "greedy";
  return groupedRouter({
    score: version === "v2" ? "softmax" : "sigmoid",
    weigh: f.boolean("norm_topk_prob", version === "v3") ? "renormalize" : "score",
    scale: f.positive("routed_scaling_factor", version === "v2" ? 1 : 2.5),
    topK: f.integer("num_experts_per_tok", 1),
    selectionBias: version === "v3",
    ...groupsOf(grouped ? f.integer("n_group", 1, 1) : 1, grouped ? f.integer("topk_group", 1, 1) : 1, version === "v2" ? "max" : "top2-sum"),
  });
}

/** One group is none, and all groups are no limit; then nothing is judged. */
const groupsOf = (nGroups: number, topKGroups: number, groupScore: RouterConfig["groupScore"]): Pick<RouterConfig, "nGroups" | "topKGroups" | "groupScore"> =>
  nGroups <= 1 ? { nGroups: 1, topKGroups: 1, groupScore: "max" } : { nGroups, topKGroups, groupScore };

function layersOf(f: ConfigFields, nLayers: number): LayerFfn[] {
  const firstDense = f.integer("first_k_dense_replace", 0, 0);
  const frequency = f.integer("moe_layer_freq", 1, 1);
  return Array.from({ length: nLayers }, (_, n) => (n >= firstDense && n % frequency === 0 ? "moe" : "dense"));
}

const deepseek = (version: "v2" | "v3"): Architecture => ({
  name: `deepseek_${version}`,
  ggufName: "deepseek2",
  isGguf: (f) => (f.integer("deepseek2.expert_gating_func", 0, 1) === SIGMOID) === (version === "v3"),
  keys: KEYS,
  ggufKeys: GGUF_KEYS,

  fromHuggingFace(f, generation): ModelConfig {
    refuseForeignSettings(f);
    f.only("attention_bias", [false], "biases in latent attention");
    f.only("rope_interleave", [true], "rotary embedding by halves");
    const mla: MlaConfig = {
      qLoraRank: f.has("q_lora_rank") ? f.integer("q_lora_rank", 1) : null,
      kvLoraRank: f.integer("kv_lora_rank", 1), nopeHeadDim: f.integer("qk_nope_head_dim", 1), ropeHeadDim: f.integer("qk_rope_head_dim", 2),
      valueHeadDim: f.integer("v_head_dim", 1), normEps: LATENT_NORM_EPS,
    };
    const { sizes, scoreMscale } = sizesOfHuggingFace(f, generation, "interleaved", { theta: 10000, normEps: 1e-6, ropeDim: mla.ropeHeadDim });
    const layerFfns = layersOf(f, sizes.nLayers);
    const expertIntermediateSize = f.integer("moe_intermediate_size", 1);
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      ...latentSizes(mla, scoreMscale),
      architecture: `deepseek_${version}`,
      slidingWindows: everyLayer(sizes.nLayers, 0),
      layerFfns,
      denseIntermediateSize: layerFfns.includes("dense") ? f.integer("intermediate_size", 1) : 0,
      nExperts: f.integer("n_routed_experts", 1),
      expertIntermediateSize,
      sharedIntermediateSize: f.integer("n_shared_experts", 0, 0) * expertIntermediateSize,
      router: routerOf(f, version),
    });
  },

  fromGguf(f, tensors): ModelConfig {
    const key = (name: string): string => `deepseek2.${name}`;
    f.only(key("expert_gating_func"), [0, 1, SIGMOID], "another router score");
    const ropeHeadDim = f.integer(key("rope.dimension_count"), 2);
    const kvLoraRank = f.integer(key("attention.kv_lora_rank"), 1);
    const { sizes, topK, scoreMscale } = sizesOfGguf(f, "deepseek2", tensors, { style: "interleaved", reads: GGUF_KEYS, ropeDim: ropeHeadDim });
    // Newer files describe the cached row under key_length and the heads under key_length_mla; older ones the heads under key_length.
    const perHead = (name: string): number => f.integer(f.has(key(`${name}_mla`)) ? key(`${name}_mla`) : key(name), 1);
    const keyDim = perHead("attention.key_length");
    if (keyDim <= ropeHeadDim) throw new ModelError(`${f.file}: keys of ${keyDim} dimensions have no place for ${ropeHeadDim} rotated ones and others.`);
    // Of the cached row, or of the heads: nothing else would mean anything here.
    f.only(key("attention.head_count_kv"), [1, sizes.nHeads], "latent attention has one key-value head, or one a head");
    f.only(key("attention.key_length"), [kvLoraRank + ropeHeadDim, keyDim], "neither the cached row nor a head");
    f.only(key("attention.value_length"), [kvLoraRank, perHead("attention.value_length")], "neither the cached row nor a head");
    const leading = f.integer(key("leading_dense_block_count"), 0, 0);
    const differing = sizes.layerFfns.findIndex((kind, layer) => (kind === "dense") !== (layer < leading));
    if (differing >= 0) {
      throw new ModelError(`${f.file} has ${key("leading_dense_block_count")} = ${leading}, but by its tensors layer ${differing} is a ${sizes.layerFfns[differing]} layer.`);
    }
    const qLoraRank = f.integer(key("attention.q_lora_rank"), 0, 0);
    const mla: MlaConfig = {
      qLoraRank: qLoraRank === 0 ? null : qLoraRank, kvLoraRank, nopeHeadDim: keyDim - ropeHeadDim, ropeHeadDim,
      valueHeadDim: perHead("attention.value_length"), normEps: LATENT_NORM_EPS,
    };
    const scale = f.number(key("expert_weights_scale"), 0);
    return freezeConfig(f.file, {
      ...PLAIN,
      ...sizes,
      ...latentSizes(mla, scoreMscale),
      architecture: `deepseek_${version}`,
      slidingWindows: everyLayer(sizes.nLayers, 0),
      sharedIntermediateSize: f.integer(key("expert_shared_count"), 0, 0) * sizes.expertIntermediateSize,
      router: groupedRouter({
        score: version === "v2" ? "softmax" : "sigmoid",
        weigh: f.boolean(key("expert_weights_norm"), false) ? "renormalize" : "score",
        scale: scale === 0 ? 1 : decimalOfF32(scale),
        topK,
        selectionBias: tensors.has(`blk.${sizes.layerFfns.findIndex((kind) => kind === "moe")}.exp_probs_b.bias`),
        ...groupsOf(f.integer(key("expert_group_count"), 0, 1), f.integer(key("expert_group_used_count"), 0, 1), version === "v2" ? "max" : "top2-sum"),
      }),
    });
  },

  huggingFace: {
    ...HUGGING_FACE_NAMES,
    trunk: {
      ...HUGGING_FACE_NAMES.trunk,
      ...ownTensors({
        qA: "model.layers.{layer}.self_attn.q_a_proj.weight", qANorm: "model.layers.{layer}.self_attn.q_a_layernorm.weight",
        qB: "model.layers.{layer}.self_attn.q_b_proj.weight", kvA: "model.layers.{layer}.self_attn.kv_a_proj_with_mqa.weight",
        kvANorm: "model.layers.{layer}.self_attn.kv_a_layernorm.weight", selectionBias: "model.layers.{layer}.mlp.gate.e_score_correction_bias",
      }),
      kB: [fusedKvB("model.layers.{layer}.self_attn.kv_b_proj.weight", "k")],
      vB: [fusedKvB("model.layers.{layer}.self_attn.kv_b_proj.weight", "v")],
    },
    extraLayers: /^model\.layers\.(\d+)\./,
  },
  // Some files hold kv_b beside the two tensors made of it.
  gguf: { ...GGUF_NAMES, ignorable: [...GGUF_NAMES.ignorable, /^blk\.\d+\.attn_kv_b\.weight$/], extraLayers: /^blk\.(\d+)\./ },
});

export const deepseekV2 = deepseek("v2");
export const deepseekV3 = deepseek("v3");
