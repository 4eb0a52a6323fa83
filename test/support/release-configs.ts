// config.json of five releases, without what size does not depend on: enough to plan them. Owns the copies; a test compares those that the data folder has
// with its files. Refuses weights.

import { ConfigFields } from "../../model/architectures/config-fields.ts";
import { architectureOfHuggingFace } from "../../model/architectures/index.ts";
import type { ModelConfig } from "../../model/config.ts";

const CONFIGS = {
  "OLMoE-1B-7B": {
    architectures: ["OlmoeForCausalLM"], model_type: "olmoe", vocab_size: 50304, hidden_size: 2048, intermediate_size: 1024, num_hidden_layers: 16, num_attention_heads: 16, num_key_value_heads: 16,
    num_experts: 64, num_experts_per_tok: 8, norm_topk_prob: false, rms_norm_eps: 1e-5, rope_theta: 10000, rope_scaling: null, max_position_embeddings: 4096, attention_bias: false, clip_qkv: null,
    hidden_act: "silu", tie_word_embeddings: false, eos_token_id: 50279,
  },
  "Granite-3.0-1B-A400M": {
    architectures: ["GraniteMoeForCausalLM"], model_type: "granitemoe", vocab_size: 49155, hidden_size: 1024, intermediate_size: 512, num_hidden_layers: 24, num_attention_heads: 16,
    num_key_value_heads: 8, num_local_experts: 32, num_experts_per_tok: 8, attention_bias: false, hidden_act: "silu", rms_norm_eps: 1e-6, rope_theta: 10000, rope_scaling: null,
    max_position_embeddings: 4096, tie_word_embeddings: true, embedding_multiplier: 12, logits_scaling: 6, residual_multiplier: 0.22, attention_multiplier: 0.015625, bos_token_id: 0, eos_token_id: 0,
  },
  "Qwen3-30B-A3B": {
    architectures: ["Qwen3MoeForCausalLM"], model_type: "qwen3_moe", vocab_size: 151936, hidden_size: 2048, num_hidden_layers: 48, num_attention_heads: 32, num_key_value_heads: 4, head_dim: 128,
    num_experts: 128, num_experts_per_tok: 8, moe_intermediate_size: 768, intermediate_size: 6144, norm_topk_prob: true, decoder_sparse_step: 1, mlp_only_layers: [], hidden_act: "silu", rope_theta: 1e6,
    rope_scaling: null, rms_norm_eps: 1e-6, max_position_embeddings: 40960, attention_bias: false, use_sliding_window: false, sliding_window: null, tie_word_embeddings: false, bos_token_id: 151643,
    eos_token_id: 151645,
  },
  "Mixtral-8x7B": {
    architectures: ["MixtralForCausalLM"], model_type: "mixtral", vocab_size: 32000, hidden_size: 4096, intermediate_size: 14336, num_hidden_layers: 32, num_attention_heads: 32, num_key_value_heads: 8,
    num_local_experts: 8, num_experts_per_tok: 2, rms_norm_eps: 1e-5, rope_theta: 1e6, sliding_window: null, max_position_embeddings: 32768, hidden_act: "silu", tie_word_embeddings: false,
    bos_token_id: 1, eos_token_id: 2,
  },
  "DeepSeek-V2-Lite": {
    architectures: ["DeepseekV2ForCausalLM"], model_type: "deepseek_v2", vocab_size: 102400, hidden_size: 2048, intermediate_size: 10944, moe_intermediate_size: 1408, num_hidden_layers: 27,
    num_attention_heads: 16, num_key_value_heads: 16, n_routed_experts: 64, n_shared_experts: 2, num_experts_per_tok: 6, first_k_dense_replace: 1, moe_layer_freq: 1, n_group: 1, topk_group: 1,
    topk_method: "greedy", scoring_func: "softmax", norm_topk_prob: false, routed_scaling_factor: 1, kv_lora_rank: 512, q_lora_rank: null, qk_nope_head_dim: 128, qk_rope_head_dim: 64, v_head_dim: 128,
    attention_bias: false, hidden_act: "silu", rms_norm_eps: 1e-6, rope_theta: 10000, max_position_embeddings: 163840, tie_word_embeddings: false, bos_token_id: 100000, eos_token_id: 100001,
    rope_scaling: { type: "yarn", factor: 40, beta_fast: 32, beta_slow: 1, mscale: 0.707, mscale_all_dim: 0.707, original_max_position_embeddings: 4096 },
  },
} as const;

export type Release = keyof typeof CONFIGS;
export const RELEASES = Object.keys(CONFIGS) as Release[];

export function configOfJson(name: string, json: object): ModelConfig {
  const fields = new ConfigFields(name, json);
  return architectureOfHuggingFace(fields).fromHuggingFace(fields, null);
}

export const releaseConfig = (name: Release): ModelConfig => configOfJson(name, CONFIGS[name]);
