// Sizes and settings of one release per architecture, cut to a few layers: what config.json or GGUF metadata say there, which tokens are control tokens,
// in which form the weights are published or commonly used, and how a pack of it is made. Owns the values, written out from the releases' own config.json.
// Refuses weights and tokenizers of the releases: write-shape.ts makes them up. `differs` says what is not as released beside the number of layers.

import type { Quant } from "../../formats/pack-formats.ts";

/** Types of a GGUF file as llama-quantize mixes them, or of a Hugging Face folder. */
export type ShapeForm =
  | { readonly kind: "safetensors"; readonly dtype: "BF16" | "F8_E4M3" | "MXFP4"; readonly shards: number }
  | { readonly kind: "gguf"; readonly mixture: "Q4_K_M" | "Q6_K" | "Q8_0"; readonly pre: string };

export interface ReleasedShape {
  readonly release: string;
  /** In words; null where only layers are fewer. */
  readonly differs: string | null;
  /** config.json. */
  readonly config: Readonly<Record<string, unknown>>;
  readonly form: ShapeForm;
  /** `workers-moe pack --quant`. */
  readonly quant: Quant;
  /** Control tokens by id. */
  readonly controls: Readonly<Record<number, string>>;
  /** Workerd processes that serve it: one memory holds 4 GiB. */
  readonly processes: number;
}

const safetensors = (dtype: "BF16" | "F8_E4M3" | "MXFP4", shards: number): ShapeForm => ({ kind: "safetensors", dtype, shards });
const gguf = (mixture: "Q4_K_M" | "Q6_K" | "Q8_0", pre: string): ShapeForm => ({ kind: "gguf", mixture, pre });

const SILU = { hidden_act: "silu", tie_word_embeddings: false, torch_dtype: "bfloat16" };
const QWEN_CONTROLS = { 151643: "<|endoftext|>", 151644: "<|im_start|>", 151645: "<|im_end|>" };
const GRANITE_CONTROLS = { 0: "<|end_of_text|>", 49152: "<|start_of_role|>", 49153: "<|end_of_role|>" };

const PHI_SHORT = [1, 1.04, 1.04, 1.04, ...Array<number>(10).fill(1.05), 1.06, 1.06, 1.07, 1.07, 1.07, 1.07, 1.14, 1.16, 1.16, 1.16, 1.16, 1.18, 1.2, 1.32, 1.34, 1.35, 1.4, 1.48, 1.5, 1.59,
  1.65, 1.72, 1.9, 1.91, 1.91, 1.99, 2, 2, ...Array<number>(17).fill(2.01), 2.1, 2.32, 2.42, 2.59, 2.79];
const PHI_LONG = [1.02, 1.03, 1.04, 1.05, 1.05, 1.05, ...Array<number>(6).fill(1.06), 1.1, 1.18, 1.18, 1.37, 1.49, 2.11, 2.89, 3.95, 4.3, 6.43, 8.09, 10.69, 12.05, 18.23, 18.84, 19.9, 21.42, 26.2,
  34.28, 34.59, 38.73, 40.22, 42.54, 44, 47.59, 54.75, 56.19, 57.44, 57.49, 61.2, 61.54, 61.75, 61.78, 62.07, 63.11, 63.43, 63.56, 63.71, 63.92, 63.94, 63.94, 63.96, 63.98, 64.03, 64.03, 64.03,
  64.04, 64.1, 64.19, 64.21, 64.75, 64.96];
const PHI_MSCALE = 1.243163121016122;

export const RELEASED_SHAPES = {
  granitemoe: {
    release: "granite-3.1-3b-a800m", differs: null, form: safetensors("BF16", 2), quant: "q8", processes: 1, controls: GRANITE_CONTROLS,
    config: {
      ...SILU, architectures: ["GraniteMoeForCausalLM"], model_type: "granitemoe", vocab_size: 49155, hidden_size: 1536, intermediate_size: 512, num_hidden_layers: 2,
      num_attention_heads: 24, num_key_value_heads: 8, num_local_experts: 40, num_experts_per_tok: 8, rms_norm_eps: 1e-6, rope_theta: 1e7, rope_scaling: null,
      max_position_embeddings: 131072, attention_bias: false, embedding_multiplier: 12, attention_multiplier: 0.015625, residual_multiplier: 0.22, logits_scaling: 6,
      tie_word_embeddings: true, bos_token_id: 0, eos_token_id: 0, pad_token_id: 0,
    },
  },
  granitemoeshared: {
    release: "granite-4.0-tiny-preview", differs: "attention in every layer, where the release has Mamba in nine of ten", form: safetensors("BF16", 2), quant: "q4k", processes: 1,
    controls: GRANITE_CONTROLS,
    config: {
      ...SILU, architectures: ["GraniteMoeSharedForCausalLM"], model_type: "granitemoeshared", vocab_size: 49160, hidden_size: 1536, intermediate_size: 512, shared_intermediate_size: 1024,
      num_hidden_layers: 2, num_attention_heads: 12, num_key_value_heads: 4, num_local_experts: 62, num_experts_per_tok: 6, rms_norm_eps: 1e-5, rope_theta: 10000, rope_scaling: null,
      max_position_embeddings: 131072, attention_bias: false, embedding_multiplier: 12, attention_multiplier: 0.0078125, residual_multiplier: 0.22, logits_scaling: 6,
      tie_word_embeddings: true, bos_token_id: 0, eos_token_id: 0, pad_token_id: 0,
    },
  },
  olmoe: {
    release: "OLMoE-1B-7B-0924", differs: null, form: safetensors("BF16", 3), quant: "q4", processes: 1, controls: { 1: "<|padding|>", 50279: "<|endoftext|>" },
    config: {
      ...SILU, architectures: ["OlmoeForCausalLM"], model_type: "olmoe", vocab_size: 50304, hidden_size: 2048, intermediate_size: 1024, num_hidden_layers: 2, num_attention_heads: 16,
      num_key_value_heads: 16, num_experts: 64, num_experts_per_tok: 8, norm_topk_prob: false, rms_norm_eps: 1e-5, rope_theta: 10000, rope_scaling: null,
      max_position_embeddings: 4096, attention_bias: false, clip_qkv: null, pad_token_id: 1, eos_token_id: 50279,
    },
  },
  qwen2_moe: {
    release: "Qwen1.5-MoE-A2.7B", differs: null, form: gguf("Q8_0", "qwen2"), quant: "source", processes: 1, controls: QWEN_CONTROLS,
    config: {
      ...SILU, architectures: ["Qwen2MoeForCausalLM"], model_type: "qwen2_moe", vocab_size: 151936, hidden_size: 2048, intermediate_size: 5632, moe_intermediate_size: 1408,
      shared_expert_intermediate_size: 5632, num_hidden_layers: 2, num_attention_heads: 16, num_key_value_heads: 16, num_experts: 60, num_experts_per_tok: 4, norm_topk_prob: false,
      decoder_sparse_step: 1, mlp_only_layers: [], rope_theta: 1e6, rms_norm_eps: 1e-6, max_position_embeddings: 8192, use_sliding_window: false, sliding_window: 32768,
      max_window_layers: 21, qkv_bias: true, bos_token_id: 151643, eos_token_id: 151643,
    },
  },
  qwen3_moe: {
    release: "Qwen3-30B-A3B", differs: null, form: gguf("Q4_K_M", "qwen2"), quant: "source", processes: 1, controls: QWEN_CONTROLS,
    config: {
      ...SILU, architectures: ["Qwen3MoeForCausalLM"], model_type: "qwen3_moe", vocab_size: 151936, hidden_size: 2048, head_dim: 128, intermediate_size: 6144, moe_intermediate_size: 768,
      num_hidden_layers: 2, num_attention_heads: 32, num_key_value_heads: 4, num_experts: 128, num_experts_per_tok: 8, norm_topk_prob: true, decoder_sparse_step: 1, mlp_only_layers: [],
      rope_theta: 1e6, rope_scaling: null, rms_norm_eps: 1e-6, max_position_embeddings: 40960, attention_bias: false, use_sliding_window: false, sliding_window: null,
      max_window_layers: 48, bos_token_id: 151643, eos_token_id: 151645,
    },
  },
  deepseek_v2: {
    release: "DeepSeek-V2-Lite", differs: null, form: gguf("Q4_K_M", "deepseek-llm"), quant: "source", processes: 1,
    controls: { 100000: "<｜begin▁of▁sentence｜>", 100001: "<｜end▁of▁sentence｜>" },
    config: {
      ...SILU, architectures: ["DeepseekV2ForCausalLM"], model_type: "deepseek_v2", vocab_size: 102400, hidden_size: 2048, num_hidden_layers: 3, num_attention_heads: 16,
      num_key_value_heads: 16, intermediate_size: 10944, moe_intermediate_size: 1408, n_routed_experts: 64, num_experts_per_tok: 6, n_shared_experts: 2, first_k_dense_replace: 1,
      moe_layer_freq: 1, topk_method: "greedy", scoring_func: "softmax", n_group: 1, topk_group: 1, norm_topk_prob: false, routed_scaling_factor: 1.0, q_lora_rank: null,
      kv_lora_rank: 512, qk_nope_head_dim: 128, qk_rope_head_dim: 64, v_head_dim: 128, rope_theta: 10000, attention_bias: false, rms_norm_eps: 1e-6, max_position_embeddings: 163840,
      rope_scaling: { type: "yarn", factor: 40, beta_fast: 32, beta_slow: 1, mscale: 0.707, mscale_all_dim: 0.707, original_max_position_embeddings: 4096 },
      bos_token_id: 100000, eos_token_id: 100001,
    },
  },
  deepseek_v3: {
    release: "DeepSeek-V3", differs: "24 routed experts of 256 and one leading dense layer of three", form: safetensors("F8_E4M3", 4), quant: "q4", processes: 2,
    controls: { 0: "<｜begin▁of▁sentence｜>", 1: "<｜end▁of▁sentence｜>" },
    config: {
      ...SILU, architectures: ["DeepseekV3ForCausalLM"], model_type: "deepseek_v3", vocab_size: 129280, hidden_size: 7168, num_hidden_layers: 3, num_attention_heads: 128,
      num_key_value_heads: 128, intermediate_size: 18432, moe_intermediate_size: 2048, n_routed_experts: 24, num_experts_per_tok: 8, n_shared_experts: 1, first_k_dense_replace: 1,
      moe_layer_freq: 1, topk_method: "noaux_tc", scoring_func: "sigmoid", n_group: 8, topk_group: 4, norm_topk_prob: true, routed_scaling_factor: 2.5, q_lora_rank: 1536,
      kv_lora_rank: 512, qk_nope_head_dim: 128, qk_rope_head_dim: 64, v_head_dim: 128, rope_theta: 10000, attention_bias: false, rms_norm_eps: 1e-6, max_position_embeddings: 163840,
      rope_scaling: { type: "yarn", factor: 40, beta_fast: 32, beta_slow: 1, mscale: 1.0, mscale_all_dim: 1.0, original_max_position_embeddings: 4096 }, num_nextn_predict_layers: 1,
      bos_token_id: 0, eos_token_id: 1, quantization_config: { activation_scheme: "dynamic", fmt: "e4m3", quant_method: "fp8", weight_block_size: [128, 128] },
    },
  },
  phimoe: {
    release: "Phi-3.5-MoE", differs: null, form: gguf("Q4_K_M", "gpt-2"), quant: "source", processes: 1, controls: { 0: "<unk>", 1: "<s>", 2: "</s>", 32000: "<|endoftext|>", 32007: "<|end|>" },
    config: {
      ...SILU, architectures: ["PhiMoEForCausalLM"], model_type: "phimoe", vocab_size: 32064, hidden_size: 4096, intermediate_size: 6400, num_hidden_layers: 2, num_attention_heads: 32,
      num_key_value_heads: 8, num_local_experts: 16, num_experts_per_tok: 2, rms_norm_eps: 1e-5, attention_bias: true, lm_head_bias: true, rope_theta: 10000, router_jitter_noise: 0.01,
      input_jitter_noise: 0.01, sliding_window: 131072, max_position_embeddings: 131072, original_max_position_embeddings: 4096,
      rope_scaling: { type: "longrope", short_factor: PHI_SHORT, long_factor: PHI_LONG, short_mscale: PHI_MSCALE, long_mscale: PHI_MSCALE, original_max_position_embeddings: 4096 },
      bos_token_id: 1, eos_token_id: 32000,
    },
  },
  gpt_oss: {
    release: "gpt-oss-20b", differs: null, form: safetensors("MXFP4", 3), quant: "source", processes: 1,
    controls: { 199998: "<|startoftext|>", 199999: "<|endoftext|>", 200002: "<|return|>", 200003: "<|constrain|>", 200005: "<|channel|>", 200006: "<|start|>", 200007: "<|end|>",
      200008: "<|message|>", 200012: "<|call|>" },
    config: {
      ...SILU, architectures: ["GptOssForCausalLM"], model_type: "gpt_oss", vocab_size: 201088, hidden_size: 2880, head_dim: 64, intermediate_size: 2880, num_hidden_layers: 2,
      num_attention_heads: 64, num_key_value_heads: 8, num_local_experts: 32, num_experts_per_tok: 4, experts_per_token: 4, rms_norm_eps: 1e-5, attention_bias: true, rope_theta: 150000,
      sliding_window: 128, layer_types: ["sliding_attention", "full_attention"], swiglu_limit: 7.0, initial_context_length: 4096, max_position_embeddings: 131072,
      rope_scaling: { rope_type: "yarn", factor: 32, beta_fast: 32, beta_slow: 1, original_max_position_embeddings: 4096, truncate: false }, eos_token_id: 200002, pad_token_id: 199999,
      quantization_config: { quant_method: "mxfp4", modules_to_not_convert: ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"] },
    },
  },
  mixtral: {
    release: "Mixtral-8x7B-v0.1", differs: "one file beyond 4 GiB instead of many", form: safetensors("BF16", 1), quant: "q4", processes: 1, controls: { 0: "<unk>", 1: "<s>", 2: "</s>" },
    config: {
      ...SILU, architectures: ["MixtralForCausalLM"], model_type: "mixtral", vocab_size: 32000, hidden_size: 4096, intermediate_size: 14336, num_hidden_layers: 2, num_attention_heads: 32,
      num_key_value_heads: 8, head_dim: null, num_local_experts: 8, num_experts_per_tok: 2, rms_norm_eps: 1e-5, rope_theta: 1e6, sliding_window: null, max_position_embeddings: 32768,
      router_jitter_noise: 0.0, bos_token_id: 1, eos_token_id: 2,
    },
  },
  llama: {
    release: "Llama-3.1-8B", differs: null, form: gguf("Q4_K_M", "llama-bpe"), quant: "source", processes: 1, controls: { 128000: "<|begin_of_text|>", 128001: "<|end_of_text|>", 128009: "<|eot_id|>" },
    config: {
      ...SILU, architectures: ["LlamaForCausalLM"], model_type: "llama", vocab_size: 128256, hidden_size: 4096, intermediate_size: 14336, num_hidden_layers: 2, num_attention_heads: 32,
      num_key_value_heads: 8, rms_norm_eps: 1e-5, rope_theta: 500000, attention_bias: false, mlp_bias: false, max_position_embeddings: 131072,
      rope_scaling: { rope_type: "llama3", factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position_embeddings: 8192 }, bos_token_id: 128000, eos_token_id: 128001,
    },
  },
  qwen2: {
    release: "Qwen2-7B", differs: null, form: safetensors("BF16", 3), quant: "q8", processes: 1, controls: QWEN_CONTROLS,
    config: {
      ...SILU, architectures: ["Qwen2ForCausalLM"], model_type: "qwen2", vocab_size: 152064, hidden_size: 3584, intermediate_size: 18944, num_hidden_layers: 2, num_attention_heads: 28,
      num_key_value_heads: 4, rms_norm_eps: 1e-6, rope_theta: 1e6, use_sliding_window: false, sliding_window: 131072, max_window_layers: 28, max_position_embeddings: 131072,
      bos_token_id: 151643, eos_token_id: 151643,
    },
  },
  qwen3: {
    release: "Qwen3-8B", differs: null, form: gguf("Q6_K", "qwen2"), quant: "source", processes: 1, controls: QWEN_CONTROLS,
    config: {
      ...SILU, architectures: ["Qwen3ForCausalLM"], model_type: "qwen3", vocab_size: 151936, hidden_size: 4096, head_dim: 128, intermediate_size: 12288, num_hidden_layers: 2,
      num_attention_heads: 32, num_key_value_heads: 8, rms_norm_eps: 1e-6, rope_theta: 1e6, rope_scaling: null, attention_bias: false, use_sliding_window: false, sliding_window: null,
      max_window_layers: 36, max_position_embeddings: 40960, bos_token_id: 151643, eos_token_id: 151645,
    },
  },
} as const satisfies Readonly<Record<string, ReleasedShape>>;

export type ShapeName = keyof typeof RELEASED_SHAPES;
/** In the order above: small ones first, dense ones last. */
export const SHAPE_NAMES = Object.keys(RELEASED_SHAPES) as ShapeName[];
