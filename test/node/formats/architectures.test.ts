// Reading configurations: published ones, odd ones, and those this version must refuse by name.

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { ConfigFields } from "../../../model/architectures/config-fields.ts";
import { architectureOfGguf, architectureOfHuggingFace } from "../../../model/architectures/index.ts";
import type { ModelConfig } from "../../../model/config.ts";
import { dataFile } from "../../support/data-folder.ts";

const OLMOE = { model_type: "olmoe", vocab_size: 50304, hidden_size: 2048, intermediate_size: 1024, num_hidden_layers: 16, num_attention_heads: 16,
  num_key_value_heads: 16, num_experts: 64, num_experts_per_tok: 8, norm_topk_prob: false, rms_norm_eps: 1e-5, rope_theta: 10000.0, rope_scaling: null,
  max_position_embeddings: 4096, attention_bias: false, clip_qkv: null, hidden_act: "silu", tie_word_embeddings: false, eos_token_id: 50279 };
const QWEN3 = { model_type: "qwen3_moe", vocab_size: 151936, hidden_size: 2048, head_dim: 128, num_hidden_layers: 48, num_attention_heads: 32,
  num_key_value_heads: 4, intermediate_size: 6144, moe_intermediate_size: 768, num_experts: 128, num_experts_per_tok: 8, norm_topk_prob: true,
  decoder_sparse_step: 1, mlp_only_layers: [], rms_norm_eps: 1e-6, rope_theta: 1000000, max_position_embeddings: 40960, attention_bias: false,
  use_sliding_window: false, sliding_window: null, tie_word_embeddings: false, hidden_act: "silu", eos_token_id: 151645 };
const MIXTRAL = { model_type: "mixtral", vocab_size: 32000, hidden_size: 4096, intermediate_size: 14336, num_hidden_layers: 32, num_attention_heads: 32,
  num_key_value_heads: 8, head_dim: null, num_local_experts: 8, num_experts_per_tok: 2, rms_norm_eps: 1e-5, rope_theta: 1e6, sliding_window: null,
  max_position_embeddings: 32768, tie_word_embeddings: false, hidden_act: "silu", bos_token_id: 1, eos_token_id: 2 };

function read(json: object, generation: object | null = null): ModelConfig {
  const fields = new ConfigFields("config.json", json);
  return architectureOfHuggingFace(fields).fromHuggingFace(fields, generation === null ? null : new ConfigFields("generation_config.json", generation));
}

describe("published configurations", () => {
  it("reads OLMoE-1B-7B", () => {
    expect(read(OLMOE)).toMatchObject({ architecture: "olmoe", headDim: 128, qkNorm: "whole-vector", nExperts: 64, expertIntermediateSize: 1024,
      router: { score: "softmax", weigh: "score", topK: 8 }, eosTokenIds: [50279], clipQkv: null, attentionScale: 128 ** -0.5, rope: { style: "half", dim: 128 } });
  });

  it("reads Qwen3-30B-A3B, whose heads are wider than hidden / heads", () => {
    expect(read(QWEN3)).toMatchObject({ architecture: "qwen3_moe", headDim: 128, nKvHeads: 4, qkNorm: "per-head", expertIntermediateSize: 768, router: { weigh: "renormalize" } });
  });

  it("reads Mixtral-8x7B, whose head_dim is null", () => {
    expect(read(MIXTRAL)).toMatchObject({ architecture: "mixtral", headDim: 128, qkNorm: "none", nExperts: 8, slidingWindows: Array(32).fill(0), router: { weigh: "renormalize", topK: 2 } });
    expect(read({ ...MIXTRAL, sliding_window: 4096 }).slidingWindows).toEqual(Array(32).fill(4096));
  });

  it.skipIf(dataFile("configs/hf/olmoe.config.json") === null)("reads the files themselves (skipped where the data folder is absent)", () => {
    for (const name of ["olmoe", "olmoeins", "mixtral", "qwen3"]) {
      const config = read(JSON.parse(readFileSync(dataFile(`configs/hf/${name}.config.json`)!, "utf8")) as object);
      expect(config.nExperts).toBeGreaterThan(1);
      expect(config.rope.inverseFrequencies.length).toBe(config.headDim / 2);
    }
  });

  it("takes whole numbers for floats, missing optional keys, and lists of end-of-text ids from both files", () => {
    const { rms_norm_eps: _, num_key_value_heads: __, rope_scaling: ___, ...rest } = OLMOE;
    const config = read({ ...rest, rope_theta: 10000, eos_token_id: [50279, 7] }, { eos_token_id: [3, 7] });
    expect(config).toMatchObject({ nKvHeads: 16, normEps: 1e-5, eosTokenIds: [3, 7, 50279] });
    expect(read({ ...OLMOE, eos_token_id: null }).eosTokenIds).toEqual([]);
  });

  it("reads rope_parameters as newer files write them, linear scaling and YaRN", () => {
    const { rope_theta: _, ...rest } = QWEN3;
    const plain = read(QWEN3).rope;
    expect(read({ ...rest, rope_parameters: { rope_type: "default", rope_theta: 1000000 } }).rope).toEqual(plain);
    expect(read({ ...QWEN3, rope_scaling: { type: "linear", factor: 2 } }).rope.inverseFrequencies[5]).toBe(plain.inverseFrequencies[5]! / 2);
    const yarn = read({ ...QWEN3, rope_scaling: { rope_type: "yarn", factor: 4, original_max_position_embeddings: 32768 } });
    expect(yarn.maxPositions).toBe(131072);
    expect(yarn.rope.magnitude).toBeCloseTo(0.1 * Math.log(4) + 1, 12);
    expect(yarn.rope.inverseFrequencies.at(-1)).toBe(plain.inverseFrequencies.at(-1)! / 4);
  });

  it("is frozen", () => {
    const config = read(OLMOE);
    for (const record of [config, config.rope, config.router, config.eosTokenIds, config.rope.inverseFrequencies]) expect(Object.isFrozen(record)).toBe(true);
  });
});

describe("GGUF metadata", () => {
  const METADATA = { "general.architecture": "qwen3moe", "qwen3moe.context_length": 40960, "qwen3moe.embedding_length": 2048, "qwen3moe.block_count": 48,
    "qwen3moe.feed_forward_length": 6144, "qwen3moe.expert_feed_forward_length": 768, "qwen3moe.attention.head_count": 32, "qwen3moe.attention.head_count_kv": 4,
    "qwen3moe.attention.key_length": 128, "qwen3moe.attention.value_length": 128, "qwen3moe.attention.layer_norm_rms_epsilon": Math.fround(1e-6),
    "qwen3moe.rope.freq_base": 1000000, "qwen3moe.expert_count": 128, "qwen3moe.expert_used_count": 8, "qwen3moe.vocab_size": 151936, "tokenizer.ggml.eos_token_id": 151645 };
  const readGguf = (metadata: object): ModelConfig => {
    const fields = new ConfigFields("x.gguf", metadata);
    return architectureOfGguf(fields).fromGguf(fields, () => true);
  };

  it("gives the config that config.json gives, epsilon included", () => {
    expect(readGguf(METADATA)).toEqual(read(QWEN3));
  });

  it("scales rotary frequencies as config.json does", () => {
    const scaled = (type: string, factor: number, more = {}) => readGguf({ ...METADATA, "qwen3moe.rope.scaling.type": type, "qwen3moe.rope.scaling.factor": factor, ...more });
    expect(scaled("linear", 2)).toEqual(read({ ...QWEN3, rope_scaling: { type: "linear", factor: 2 } }));
    expect(scaled("yarn", 4, { "qwen3moe.rope.scaling.original_context_length": 32768 })).toEqual(read({ ...QWEN3, rope_scaling: { type: "yarn", factor: 4, original_max_position_embeddings: 32768 } }));
    expect(() => scaled("longrope", 4)).toThrow(/qwen3moe\.rope\.scaling\.type = "longrope"/);
  });

  it.each([
    [{ "qwen3moe.expert_gating_func": 2 }, /expert_gating_func = 2, which this version cannot run \(another router score\); expected 1/],
    [{ "qwen3moe.expert_shared_count": 1 }, /expert_shared_count = 1/],
    [{ "qwen3moe.expert_weights_scale": 2.5 }, /expert_weights_scale = 2\.5/],
    [{ "qwen3moe.attention.value_length": 64 }, /attention\.value_length = 64/],
    [{ "qwen3moe.rope.dimension_count": 64 }, /rope\.dimension_count = 64/],
    [{ "qwen3moe.vocab_size": null }, /neither qwen3moe\.vocab_size nor tokenizer\.ggml\.tokens/],
  ])("refuses %o", (change, message) => {
    expect(() => readGguf({ ...METADATA, ...change })).toThrow(message);
  });
});

describe("what is refused, by name", () => {
  it.each([
    [{ ...QWEN3, mlp_only_layers: [3] }, /mlp_only_layers = \[3\]/],
    [{ ...QWEN3, decoder_sparse_step: 2 }, /decoder_sparse_step = 2/],
    [{ ...QWEN3, use_sliding_window: true }, /use_sliding_window = true/],
    [{ ...OLMOE, attention_bias: true }, /attention_bias = true/],
    [{ ...OLMOE, hidden_act: "gelu" }, /hidden_act = "gelu"/],
    [{ ...OLMOE, rope_scaling: { type: "longrope", factor: 8 } }, /rope type "longrope".*"default", "linear" or "yarn"/],
    [{ ...OLMOE, vocab_size: "50304" }, /vocab_size = "50304", expected a whole number/],
    [{ ...OLMOE, num_experts: undefined }, /no num_experts/],
    [{ ...OLMOE, num_experts_per_tok: 65 }, /65 experts per token of 64/],
    [{ ...OLMOE, num_key_value_heads: 3 }, /16 attention heads are no multiple of 3/],
    [{ ...OLMOE, eos_token_id: 50304 }, /50304 is outside the vocabulary/],
    [{ ...OLMOE, hidden_size: 2050 }, /2050 is no multiple of num_attention_heads 16/],
    [{ ...OLMOE, partial_rotary_factor: 0.5 }, /partial_rotary_factor = 0.5/],
    [{ ...MIXTRAL, quantization_config: { quant_method: "gptq" } }, /quantization_config = \{"quant_method":"gptq"\}, .*expected no such key/],
    [{ ...MIXTRAL, layer_types: ["full_attention", "sliding_attention"] }, /layer_types = .*expected "full_attention" in every layer/],
  ])("%#", (json, message) => {
    expect(() => read(json)).toThrow(message);
    expect(() => read(json)).toThrow(/config\.json/);
  });

  it("an unknown architecture, with those known and the nearest", () => {
    expect(() => read({ ...QWEN3, model_type: "qwen2_moe" })).toThrow(/model_type = "qwen2_moe".*olmoe, qwen3_moe, mixtral.*nearest is "qwen3_moe"/);
    expect(() => architectureOfGguf(new ConfigFields("x.gguf", { "general.architecture": "olmo" }))).toThrow(/x\.gguf.*"olmo".*nearest is "olmoe"/);
  });

  it("a factor in GGUF metadata that the architecture does not have", () => {
    const fields = new ConfigFields("x.gguf", { "general.architecture": "llama", "llama.expert_count": 8, "llama.expert_used_count": 2, "llama.embedding_length": 64, "llama.block_count": 2, "llama.attention.head_count": 4, "llama.vocab_size": 97, "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.residual_scale": 0.22 });
    expect(() => architectureOfGguf(fields).fromGguf(fields, () => true)).toThrow(/llama\.residual_scale = 0\.22, which this version cannot run/);
  });

  it("a dense llama GGUF", () => {
    const fields = new ConfigFields("x.gguf", { "general.architecture": "llama" });
    expect(() => architectureOfGguf(fields).fromGguf(fields, () => true)).toThrow(/dense llama model: llama\.expert_count/);
  });
});
