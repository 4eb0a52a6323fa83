// Tensor names shared by architectures: those llama.cpp's converter gives every Mixture-of-Experts decoder (llama-arch.cpp), in
// all forms seen (stacked experts, fused gate-up stacks of newer files, per-expert tensors of the first Mixtral files), and
// those of the Llama family in Hugging Face checkpoints. Refuses nothing itself: formats/checkpoint.ts picks the form a file has.

import { ownTensor, stackedTensor, type TensorNames } from "./architecture.ts";

export const GGUF_NAMES: TensorNames = {
  trunk: {
    embed: "token_embd.weight",
    norm: "output_norm.weight",
    head: "output.weight",
    attnNorm: "blk.{layer}.attn_norm.weight",
    q: "blk.{layer}.attn_q.weight",
    k: "blk.{layer}.attn_k.weight",
    v: "blk.{layer}.attn_v.weight",
    o: "blk.{layer}.attn_output.weight",
    qBias: "blk.{layer}.attn_q.bias",
    kBias: "blk.{layer}.attn_k.bias",
    vBias: "blk.{layer}.attn_v.bias",
    qNorm: "blk.{layer}.attn_q_norm.weight",
    kNorm: "blk.{layer}.attn_k_norm.weight",
    ffnNorm: "blk.{layer}.ffn_norm.weight",
    router: "blk.{layer}.ffn_gate_inp.weight",
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
  },
  ignorable: [],
};

/** Names shared by Hugging Face decoders of the Llama family; MoE parts differ. */
export const HUGGING_FACE_TRUNK: Readonly<Record<string, string>> = {
  embed: "model.embed_tokens.weight",
  norm: "model.norm.weight",
  head: "lm_head.weight",
  attnNorm: "model.layers.{layer}.input_layernorm.weight",
  q: "model.layers.{layer}.self_attn.q_proj.weight",
  k: "model.layers.{layer}.self_attn.k_proj.weight",
  v: "model.layers.{layer}.self_attn.v_proj.weight",
  o: "model.layers.{layer}.self_attn.o_proj.weight",
  qBias: "model.layers.{layer}.self_attn.q_proj.bias",
  kBias: "model.layers.{layer}.self_attn.k_proj.bias",
  vBias: "model.layers.{layer}.self_attn.v_proj.bias",
  qNorm: "model.layers.{layer}.self_attn.q_norm.weight",
  kNorm: "model.layers.{layer}.self_attn.k_norm.weight",
  ffnNorm: "model.layers.{layer}.post_attention_layernorm.weight",
};

/** Old checkpoints stored the rotary frequencies, which follow from the config. */
export const HUGGING_FACE_IGNORABLE: readonly RegExp[] = [/\.rotary_emb\.inv_freq$/];
