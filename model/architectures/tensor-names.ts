// Tensor names shared by architectures: those llama.cpp's converter gives every decoder (llama-arch.cpp), in all forms seen (stacked
// experts, fused gate-up stacks of newer files, per-expert tensors of the first Mixtral files, fused q, k, v, both forms of DeepSeek's kv_b), and those of
// the Llama family in Hugging Face checkpoints. Refuses nothing itself: formats/checkpoint.ts picks the form a file has.

import type { FfnLocations, TensorNames } from "./architecture.ts";
import { type Location, fusedKvB, fusedQkv, fusedTensor, ownTensor, perHeadTensor, stackedTensor } from "./locations.ts";

export const ownTensors = (tensors: Readonly<Record<string, string>>): Record<string, readonly Location[]> =>
  Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, [ownTensor(tensor)]]));

const inBlock = (tensors: Readonly<Record<string, string>>): Record<string, readonly Location[]> =>
  ownTensors(Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, `blk.{layer}.${tensor}`])));

export const GGUF_NAMES: TensorNames = {
  trunk: {
    ...ownTensors({ embed: "token_embd.weight", norm: "output_norm.weight", normBias: "output_norm.bias", head: "output.weight", headBias: "output.bias" }),
    ...inBlock({
      attnNorm: "attn_norm.weight", attnNormBias: "attn_norm.bias", o: "attn_output.weight", oBias: "attn_output.bias",
      qNorm: "attn_q_norm.weight", kNorm: "attn_k_norm.weight", sinks: "attn_sinks.weight", ffnNormBias: "ffn_norm.bias",
      qA: "attn_q_a.weight", qANorm: "attn_q_a_norm.weight", qB: "attn_q_b.weight", kvA: "attn_kv_a_mqa.weight", kvANorm: "attn_kv_a_norm.weight",
      router: "ffn_gate_inp.weight", routerBias: "ffn_gate_inp.bias", selectionBias: "exp_probs_b.bias", sharedGate: "ffn_gate_inp_shexp.weight",
    }),
    q: [ownTensor("blk.{layer}.attn_q.weight"), fusedQkv("blk.{layer}.attn_qkv.weight", "q")],
    k: [ownTensor("blk.{layer}.attn_k.weight"), fusedQkv("blk.{layer}.attn_qkv.weight", "k")],
    v: [ownTensor("blk.{layer}.attn_v.weight"), fusedQkv("blk.{layer}.attn_qkv.weight", "v")],
    qBias: [ownTensor("blk.{layer}.attn_q.bias"), fusedQkv("blk.{layer}.attn_qkv.bias", "q")],
    kBias: [ownTensor("blk.{layer}.attn_k.bias"), fusedQkv("blk.{layer}.attn_qkv.bias", "k")],
    vBias: [ownTensor("blk.{layer}.attn_v.bias"), fusedQkv("blk.{layer}.attn_qkv.bias", "v")],
    kB: [perHeadTensor("blk.{layer}.attn_k_b.weight"), fusedKvB("blk.{layer}.attn_kv_b.weight", "k")],
    vB: [perHeadTensor("blk.{layer}.attn_v_b.weight"), fusedKvB("blk.{layer}.attn_kv_b.weight", "v")],
    // gpt-oss calls it by the name that llama.cpp gives norms behind attention.
    ffnNorm: [ownTensor("blk.{layer}.ffn_norm.weight"), ownTensor("blk.{layer}.post_attention_norm.weight")],
  },
  experts: {
    gate: [
      stackedTensor("blk.{layer}.ffn_gate_exps.weight"),
      stackedTensor("blk.{layer}.ffn_gate_up_exps.weight", 2, 0),
      ownTensor("blk.{layer}.ffn_gate.{expert}.weight"),
    ],
    up: [
      stackedTensor("blk.{layer}.ffn_up_exps.weight"),
      stackedTensor("blk.{layer}.ffn_gate_up_exps.weight", 2, 1),
      ownTensor("blk.{layer}.ffn_up.{expert}.weight"),
    ],
    down: [stackedTensor("blk.{layer}.ffn_down_exps.weight"), ownTensor("blk.{layer}.ffn_down.{expert}.weight")],
    gateBias: [stackedTensor("blk.{layer}.ffn_gate_exps.bias"), stackedTensor("blk.{layer}.ffn_gate_up_exps.bias", 2, 0)],
    upBias: [stackedTensor("blk.{layer}.ffn_up_exps.bias"), stackedTensor("blk.{layer}.ffn_gate_up_exps.bias", 2, 1)],
    downBias: [stackedTensor("blk.{layer}.ffn_down_exps.bias")],
  },
  shared: {
    gate: [ownTensor("blk.{layer}.ffn_gate_shexp.weight")],
    up: [ownTensor("blk.{layer}.ffn_up_shexp.weight")],
    down: [ownTensor("blk.{layer}.ffn_down_shexp.weight")],
  },
  dense: {
    gate: [ownTensor("blk.{layer}.ffn_gate.weight")],
    up: [ownTensor("blk.{layer}.ffn_up.weight")],
    down: [ownTensor("blk.{layer}.ffn_down.weight")],
  },
  // Factors of rotary frequencies, which the config has taken up.
  ignorable: [/^rope_(freqs|factors_long|factors_short)\.weight$/],
  extraLayers: null,
};

/** Names shared by Hugging Face decoders of the Llama family; MoE parts differ. */
export const HUGGING_FACE_TRUNK: Readonly<Record<string, readonly Location[]>> = ownTensors({
  embed: "model.embed_tokens.weight",
  norm: "model.norm.weight",
  normBias: "model.norm.bias",
  head: "lm_head.weight",
  headBias: "lm_head.bias",
  attnNorm: "model.layers.{layer}.input_layernorm.weight",
  attnNormBias: "model.layers.{layer}.input_layernorm.bias",
  q: "model.layers.{layer}.self_attn.q_proj.weight",
  k: "model.layers.{layer}.self_attn.k_proj.weight",
  v: "model.layers.{layer}.self_attn.v_proj.weight",
  o: "model.layers.{layer}.self_attn.o_proj.weight",
  qBias: "model.layers.{layer}.self_attn.q_proj.bias",
  kBias: "model.layers.{layer}.self_attn.k_proj.bias",
  vBias: "model.layers.{layer}.self_attn.v_proj.bias",
  oBias: "model.layers.{layer}.self_attn.o_proj.bias",
  qNorm: "model.layers.{layer}.self_attn.q_norm.weight",
  kNorm: "model.layers.{layer}.self_attn.k_norm.weight",
  ffnNorm: "model.layers.{layer}.post_attention_layernorm.weight",
  ffnNormBias: "model.layers.{layer}.post_attention_layernorm.bias",
});

/** Matrices called gate_proj, up_proj and down_proj under `stem`. */
export const projections = (stem: string): FfnLocations =>
  ({ gate: [ownTensor(`${stem}.gate_proj.weight`)], up: [ownTensor(`${stem}.up_proj.weight`)], down: [ownTensor(`${stem}.down_proj.weight`)] });

/** Experts with tensors of their own, or stacked with gate and up fused. */
const MLP_EXPERTS: FfnLocations = {
  gate: [...projections("model.layers.{layer}.mlp.experts.{expert}").gate, stackedTensor("model.layers.{layer}.mlp.experts.gate_up_proj", 2, 0)],
  up: [...projections("model.layers.{layer}.mlp.experts.{expert}").up, stackedTensor("model.layers.{layer}.mlp.experts.gate_up_proj", 2, 1)],
  down: [...projections("model.layers.{layer}.mlp.experts.{expert}").down, stackedTensor("model.layers.{layer}.mlp.experts.down_proj")],
};

/** Names of the Llama family with a block `mlp` that holds experts or is a dense layer (OLMoE, Qwen, DeepSeek, Llama). */
export const HUGGING_FACE_NAMES: TensorNames = {
  trunk: { ...HUGGING_FACE_TRUNK, ...ownTensors({ router: "model.layers.{layer}.mlp.gate.weight" }) },
  experts: MLP_EXPERTS,
  shared: projections("model.layers.{layer}.mlp.shared_experts"),
  dense: projections("model.layers.{layer}.mlp"),
  // Old checkpoints stored the rotary frequencies, which follow from the config.
  ignorable: [/\.rotary_emb\.inv_freq$/],
  extraLayers: null,
};

/** Names of Mixtral's block (PhiMoE has the same): w1 = gate, w3 = up, w2 = down. */
export const MIXTRAL_NAMES: TensorNames = {
  ...HUGGING_FACE_NAMES,
  trunk: { ...HUGGING_FACE_TRUNK, ...ownTensors({ router: "model.layers.{layer}.block_sparse_moe.gate.weight" }) },
  experts: {
    gate: [ownTensor("model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight")],
    up: [ownTensor("model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight")],
    down: [ownTensor("model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight")],
  },
};

/** Granite's block: all experts in two tensors, gate above up in the first; the shared part likewise. */
export const GRANITE_NAMES: TensorNames = {
  ...HUGGING_FACE_NAMES,
  trunk: { ...HUGGING_FACE_TRUNK, ...ownTensors({ router: "model.layers.{layer}.block_sparse_moe.router.layer.weight" }) },
  experts: {
    gate: [stackedTensor("model.layers.{layer}.block_sparse_moe.input_linear.weight", 2, 0)],
    up: [stackedTensor("model.layers.{layer}.block_sparse_moe.input_linear.weight", 2, 1)],
    down: [stackedTensor("model.layers.{layer}.block_sparse_moe.output_linear.weight")],
  },
  shared: {
    gate: [fusedTensor("model.layers.{layer}.shared_mlp.input_linear.weight", 2, 0)],
    up: [fusedTensor("model.layers.{layer}.shared_mlp.input_linear.weight", 2, 1)],
    down: [ownTensor("model.layers.{layer}.shared_mlp.output_linear.weight")],
  },
};


