// A tiny Monet as its Hugging Face folder: config.json with the keys of MonetConfig, tensors under the names of MonetForCausalLM, the batch norms' counters among them.
// Owns names and shapes. Refuses numbers of its own: those are product-model.ts's.

import { ConfigFields } from "../../model/architectures/config-fields.ts";
import { monet } from "../../model/architectures/monet.ts";
import { trunkTensors, type ModelConfig } from "../../model/config.ts";
import type { PlainWeights } from "./direct-engine.ts";
import { productWeights } from "./product-model.ts";
import { type TensorData, safetensorsFolder } from "./safetensors-writer.ts";
import { END_OF_TEXT, TINY_CHAT_TEMPLATE, tinyTokenizerJson } from "./tiny-tokenizer.ts";

const CONFIG = {
  architectures: ["MonetForCausalLM"], model_type: "monet", vocab_size: 97, hidden_size: 64, intermediate_size: null, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2, hidden_act: "relu2",
  max_position_embeddings: 128, initializer_range: 0.02, rms_norm_eps: 1e-6, use_cache: true, bos_token_id: 1, eos_token_id: 0, pretraining_tp: 1, tie_word_embeddings: false, rope_theta: 10000.0,
  rope_scaling: null, attention_bias: false, attention_dropout: 0.0, mlp_bias: null, moe_dim: 8, moe_heads: 4, moe_experts: 16, moe_topk: 4, moe_groups: 2, moe_decompose: "vertical",
  output_router_probs: false,
};

const OUTSIDE: Readonly<Record<string, string>> = { embed: "model.embed_tokens.weight", norm: "model.norm.weight", head: "lm_head.weight" };
const IN_LAYER: Readonly<Record<string, string>> = {
  attnNorm: "input_layernorm.weight", ffnNorm: "post_attention_layernorm.weight", q: "self_attn.q_proj.weight", k: "self_attn.k_proj.weight", v: "self_attn.v_proj.weight", o: "self_attn.o_proj.weight",
};

function storedName(name: string): string {
  const [, layer, rest] = /^layers\.(\d+)\.(.+)$/.exec(name) ?? [];
  if (layer === undefined) return OUTSIDE[name]!;
  const [, part, codebook] = /^product\.(w|mean|variance)([12])$/.exec(rest!) ?? [];
  if (part !== undefined) return `model.layers.${layer}.router.${part === "w" ? `w${codebook}.weight` : `norm${codebook}.running_${part === "mean" ? "mean" : "var"}`}`;
  const of = /^product\.(\w+)$/.exec(rest!)?.[1];
  if (of === undefined) return `model.layers.${layer}.${IN_LAYER[rest!]}`;
  return `model.layers.${layer}.moe.${of.startsWith("b") ? of : of.endsWith("Bias") ? `${of.slice(0, -4)}.bias` : `${of}.weight`}`;
}

export interface TinyMonet { readonly config: ModelConfig; readonly weights: PlainWeights; readonly files: Map<string, Uint8Array> }

export function tinyMonet(seed: number, overrides: Readonly<Record<string, unknown>> = {}): TinyMonet {
  const json = { ...CONFIG, ...overrides };
  const config = monet.fromHuggingFace(new ConfigFields("config.json", json), null);
  const weights = productWeights(config, seed);
  const tensors = trunkTensors(config).flatMap((t): TensorData[] => {
    const values = Float32Array.from(weights(t.name).values);
    const shape = t.kind !== "vector" ? [t.nRows, t.nCols] : /\.b[12]?$/.test(t.name) ? [config.productExperts!.nKeys, t.length / config.productExperts!.nKeys] : [t.length];
    const stored: TensorData = { name: storedName(t.name), dtype: "F32", shape, bytes: new Uint8Array(values.buffer) };
    return t.name.includes("product.mean") ? [stored, { name: stored.name.replace("running_mean", "num_batches_tracked"), dtype: "I64", shape: [], bytes: new Uint8Array(8) }] : [stored];
  });
  const text = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value));
  const files = safetensorsFolder(tensors, 1).set("config.json", text(json)).set("tokenizer.json", text(tinyTokenizerJson(config.vocabSize)))
    .set("tokenizer_config.json", text({ tokenizer_class: "PreTrainedTokenizerFast", add_bos_token: false, bos_token: null, eos_token: END_OF_TEXT, chat_template: TINY_CHAT_TEMPLATE, clean_up_tokenization_spaces: false }));
  return { config, weights, files };
}
