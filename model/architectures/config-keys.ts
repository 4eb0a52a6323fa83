// Keys of configurations: those every architecture reads, those that never change a result, and what an architecture's own say of a config it is
// not for. Owns the refusal of another architecture's settings (a key that would change the result is never passed over) and the comparison
// by which an unknown architecture is told apart from the nearest known one. Refuses reading values: that is each architecture's matter.

import { ModelError } from "../config.ts";
import type { Architecture } from "./architecture.ts";
import type { ConfigFields } from "./config-fields.ts";

/** Keys of config.json that every architecture reads (common.ts, rope-settings.ts). */
export const SHARED_KEYS: readonly string[] = [
  "model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "rope_scaling",
  "rope_parameters", "partial_rotary_factor", "max_position_embeddings", "hidden_act", "activation_function", "mlp_bias", "quantization_config", "tie_word_embeddings", "eos_token_id",
];

/** Keys that do not change what a model computes: training, bookkeeping, generation defaults, other token ids. */
const INERT_KEY = new RegExp("^(" + [
  "_.*", "architectures", "auto_map", "torch_dtype", "dtype", "transformers_version", "unsloth_.*", "use_cache", "use_bfloat16", "torchscript", "return_dict.*", "initializer_range",
  ".*dropout", ".*_pdrop", "output_.*", ".*_aux_loss_coef", "aux_loss_alpha", "seq_aux", "pretraining_tp", "ep_size", ".*jitter_noise", "bos_token_id", "pad_token_id", "sep_token_id",
  "cls_token_id", "decoder_start_token_id", "forced_.*_token_id", "id2label", "label2id", "problem_type", "task_specific_params", "is_decoder", "is_encoder_decoder", "add_cross_attention",
  "tie_encoder_decoder", "cross_attention_hidden_size", "chunk_size_feed_forward", "pruned_heads", "finetuning_task", "prefix", "tokenizer_class", "max_length", "min_length", "do_sample",
  "early_stopping", "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
  "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens",
  "tf_legacy_loss", "attn_implementation", "rope_theta_scaling", "use_mrope",
].join("|") + ")$");

/** GGUF keys (behind the architecture's prefix) that every architecture reads, or that say nothing of the result. */
const SHARED_GGUF_KEYS: readonly string[] = [
  "context_length", "embedding_length", "block_count", "feed_forward_length", "expert_feed_forward_length", "expert_count", "expert_used_count", "expert_weights_norm", "vocab_size",
  "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length", "attention.layer_norm_rms_epsilon", "attention.causal", "rope.dimension_count",
  "rope.freq_base", "rope.scale_linear", "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length", "rope.scaling.attn_factor", "rope.scaling.yarn_beta_fast",
  "rope.scaling.yarn_beta_slow", "rope.scaling.finetuned",
];

/** Values under which a setting is switched off. */
const isOff = (value: unknown): boolean =>
  value === undefined || value === null || value === false || value === 0 || value === 1 || value === ""
  || (Array.isArray(value) && value.every((v) => v === "full_attention"));

/** Keys of config.json that would decide a result, as far as anyone here knows. */
const decidingKeys = (f: ConfigFields): string[] =>
  Object.keys(f.values).filter((key) => f.has(key) && !SHARED_KEYS.includes(key) && !INERT_KEY.test(key));

/** Throws where config.json sets what other architectures read and this one does not. */
export function refuseForeignKeys(f: ConfigFields, architecture: Architecture, all: readonly Architecture[]): void {
  const others = new Set(all.flatMap((a) => a.keys));
  for (const key of decidingKeys(f)) {
    if (others.has(key) && !architecture.keys.includes(key) && !isOff(f.values[key])) {
      const owner = all.find((a) => a.keys.includes(key))!;
      throw new ModelError(
        `${f.file} has ${key} = ${f.shown(key)}, which architecture ${architecture.name} has not (${owner.name} has); expected no such key, or a value that switches it off.`,
      );
    }
  }
}

/** Keys of config.json that no architecture here reads and that may or may not matter. */
export const unknownKeys = (f: ConfigFields, all: readonly Architecture[]): string[] =>
  decidingKeys(f).filter((key) => !isOff(f.values[key]) && !all.some((a) => a.keys.includes(key)));

export interface KeyDifference {
  /** Keys of both, as a share of the keys of either. */
  readonly common: number;
  /** Keys of the config that the architecture does not read. */
  readonly more: readonly string[];
  /** Keys that the architecture reads and the config has not. */
  readonly fewer: readonly string[];
}

function difference(found: readonly string[], known: readonly string[]): KeyDifference {
  const more = found.filter((key) => !known.includes(key));
  return { common: (found.length - more.length) / Math.max(1, known.length + more.length), more, fewer: known.filter((key) => !found.includes(key)) };
}

/** A config.json beside what an architecture reads. */
export const huggingFaceDifference = (f: ConfigFields, a: Architecture): KeyDifference => difference(decidingKeys(f), a.keys);

/** Metadata beside what an architecture reads, without the prefix of keys. */
export function ggufDifference(f: ConfigFields, prefix: string, a: Architecture): KeyDifference {
  const found = Object.keys(f.values).filter((key) => key.startsWith(`${prefix}.`)).map((key) => key.slice(prefix.length + 1));
  return difference(found.filter((key) => !SHARED_GGUF_KEYS.includes(key)), a.ggufKeys);
}
