// GGUF metadata of the shapes that are written as GGUF, as llama.cpp's converter (convert_hf_to_gguf.py) gives it for the release's config.json.
// Owns the keys of each architecture. Refuses those that are published as safetensors only.

import type { ModelConfig } from "../../model/config.ts";
import type { Field } from "./gguf-header.ts";
import { RELEASED_SHAPES, type ReleasedShape, type ShapeName } from "./released-shapes.ts";
import type { Vocabulary } from "./vocabulary.ts";

const u32 = (value: number): Field => ({ type: "u32", value });
const f32 = (value: number): Field => ({ type: "f32", value });
const string = (value: string): Field => ({ type: "string", value });
const flag = (value: boolean): Field => ({ type: "bool", value });

/** enum llama_ftype. */
const FILE_TYPES = { Q8_0: 7, Q4_K_M: 15, Q6_K: 18 } as const;
const ARCHITECTURES: Readonly<Partial<Record<ShapeName, string>>> = {
  qwen2_moe: "qwen2moe", qwen3_moe: "qwen3moe", deepseek_v2: "deepseek2", phimoe: "phimoe", llama: "llama", qwen3: "qwen3",
};

export function shapeMetadata(name: ShapeName, c: ModelConfig, vocabulary: Vocabulary, template: string): Record<string, Field> {
  const { config, form, release }: ReleasedShape = RELEASED_SHAPES[name];
  const arch = ARCHITECTURES[name];
  if (arch === undefined || form.kind !== "gguf") throw new Error(`${name} is written as safetensors; a shape in GGUF form was expected.`);
  const number = (key: string): number => config[key] as number;
  const own: Record<string, Field> = {};
  if (c.nExperts > 0) Object.assign(own, { expert_count: u32(c.nExperts), expert_used_count: u32(c.router.topK) });
  if (config["moe_intermediate_size"] !== undefined) own["expert_feed_forward_length"] = u32(c.expertIntermediateSize);
  if (name === "qwen2_moe") own["expert_shared_feed_forward_length"] = u32(c.sharedIntermediateSize);
  if (c.mla === null) Object.assign(own, { "attention.key_length": u32(c.headDim), "attention.value_length": u32(c.headDim), "attention.head_count_kv": u32(c.nKvHeads) });
  else {
    const { kvLoraRank, nopeHeadDim, ropeHeadDim, valueHeadDim } = c.mla;
    Object.assign(own, {
      vocab_size: u32(c.vocabSize), "attention.head_count_kv": u32(1), "attention.kv_lora_rank": u32(kvLoraRank), "attention.key_length": u32(kvLoraRank + ropeHeadDim),
      "attention.value_length": u32(kvLoraRank), "attention.key_length_mla": u32(nopeHeadDim + ropeHeadDim), "attention.value_length_mla": u32(valueHeadDim),
      leading_dense_block_count: u32(number("first_k_dense_replace")), expert_shared_count: u32(number("n_shared_experts")), expert_weights_scale: f32(c.router.scale),
      expert_weights_norm: flag(false), expert_gating_func: u32(1), "rope.scaling.type": string("yarn"), "rope.scaling.factor": f32(40),
      "rope.scaling.original_context_length": u32(4096), "rope.scaling.yarn_log_multiplier": f32(0.0707),
    });
  }
  if (name === "phimoe") {
    Object.assign(own, {
      "attention.sliding_window": u32(number("sliding_window")), "rope.scaling.original_context_length": u32(4096),
      "rope.scaling.attn_factor": f32(Math.sqrt(1 + Math.log(131072 / 4096) / Math.log(4096))),
    });
  }
  return {
    "general.architecture": string(arch), "general.name": string(`${release}, random weights`), "general.file_type": u32(FILE_TYPES[form.mixture]), "general.quantization_version": u32(2),
    ...Object.fromEntries(Object.entries({
      block_count: u32(c.nLayers), context_length: u32(number("max_position_embeddings")), embedding_length: u32(c.hiddenSize), feed_forward_length: u32(number("intermediate_size")),
      "attention.head_count": u32(c.nHeads), "attention.layer_norm_rms_epsilon": f32(c.normEps), "rope.freq_base": f32(c.rope.theta), "rope.dimension_count": u32(c.rope.dim), ...own,
    }).map(([key, field]) => [`${arch}.${key}`, field])),
    "tokenizer.ggml.model": string("gpt2"), "tokenizer.ggml.pre": string(form.pre), "tokenizer.ggml.tokens": { type: "strings", value: vocabulary.tokens },
    "tokenizer.ggml.token_type": { type: "i32s", value: vocabulary.types }, "tokenizer.ggml.merges": { type: "strings", value: vocabulary.merges },
    "tokenizer.ggml.bos_token_id": u32(number("bos_token_id")), "tokenizer.ggml.eos_token_id": u32(number("eos_token_id")), "tokenizer.ggml.add_bos_token": flag(false),
    "tokenizer.chat_template": string(template),
  };
}
