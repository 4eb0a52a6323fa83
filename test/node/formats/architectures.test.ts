// Reading configurations: published ones, odd ones, and those this version must refuse by name.

import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { GgufTensors } from "../../../model/architectures/architecture.ts";
import { ConfigFields } from "../../../model/architectures/config-fields.ts";
import { SHARED_KEYS } from "../../../model/architectures/config-keys.ts";
import { ARCHITECTURES, architectureOfGguf, architectureOfHuggingFace } from "../../../model/architectures/index.ts";
import type { ModelConfig } from "../../../model/config.ts";
import { dataFile } from "../../support/data-folder.ts";
import { TINY_ARCHITECTURES, tinyModel } from "../../support/tiny-models.ts";

const OLMOE = { model_type: "olmoe", vocab_size: 50304, hidden_size: 2048, intermediate_size: 1024, num_hidden_layers: 16, num_attention_heads: 16,
  num_key_value_heads: 16, num_experts: 64, num_experts_per_tok: 8, norm_topk_prob: false, rms_norm_eps: 1e-5, rope_theta: 10000.0, rope_scaling: null,
  max_position_embeddings: 4096, attention_bias: false, clip_qkv: null, hidden_act: "silu", tie_word_embeddings: false, eos_token_id: 50279 };
const QWEN3 = { model_type: "qwen3_moe", vocab_size: 151936, hidden_size: 2048, head_dim: 128, num_hidden_layers: 48, num_attention_heads: 32,
  num_key_value_heads: 4, intermediate_size: 6144, moe_intermediate_size: 768, num_experts: 128, num_experts_per_tok: 8, norm_topk_prob: true,
  decoder_sparse_step: 1, mlp_only_layers: [], rms_norm_eps: 1e-6, rope_theta: 1000000, max_position_embeddings: 40960, attention_bias: false,
  use_sliding_window: false, sliding_window: null, tie_word_embeddings: false, hidden_act: "silu", eos_token_id: 151645 };
const QWEN2 = { model_type: "qwen2_moe", vocab_size: 151936, hidden_size: 2048, intermediate_size: 5632, moe_intermediate_size: 1408, shared_expert_intermediate_size: 5632,
  num_hidden_layers: 24, num_attention_heads: 16, num_key_value_heads: 16, num_experts: 60, num_experts_per_tok: 4, norm_topk_prob: false, decoder_sparse_step: 1,
  max_window_layers: 21, rope_theta: 1000000.0, rms_norm_eps: 1e-6, sliding_window: 32768, use_sliding_window: false, max_position_embeddings: 8192, hidden_act: "silu",
  tie_word_embeddings: false, eos_token_id: 151643 };
const MIXTRAL = { model_type: "mixtral", vocab_size: 32000, hidden_size: 4096, intermediate_size: 14336, num_hidden_layers: 32, num_attention_heads: 32,
  num_key_value_heads: 8, head_dim: null, num_local_experts: 8, num_experts_per_tok: 2, rms_norm_eps: 1e-5, rope_theta: 1e6, sliding_window: null,
  max_position_embeddings: 32768, tie_word_embeddings: false, hidden_act: "silu", bos_token_id: 1, eos_token_id: 2 };
const GRANITE = { model_type: "granitemoe", vocab_size: 49155, hidden_size: 1536, intermediate_size: 512, num_hidden_layers: 32, num_attention_heads: 24, num_key_value_heads: 8,
  num_local_experts: 40, num_experts_per_tok: 8, rope_theta: 10000000, max_position_embeddings: 131072, rms_norm_eps: 1e-6, tie_word_embeddings: true, hidden_act: "silu",
  attention_bias: false, embedding_multiplier: 12, attention_multiplier: 0.015625, residual_multiplier: 0.22, logits_scaling: 6, router_jitter_noise: 0.0, eos_token_id: 0 };
const V2_LITE = { model_type: "deepseek_v2", vocab_size: 102400, hidden_size: 2048, num_hidden_layers: 27, num_attention_heads: 16, num_key_value_heads: 16, intermediate_size: 10944,
  moe_intermediate_size: 1408, n_routed_experts: 64, num_experts_per_tok: 6, n_shared_experts: 2, first_k_dense_replace: 1, moe_layer_freq: 1, topk_method: "greedy",
  scoring_func: "softmax", n_group: 1, topk_group: 1, norm_topk_prob: false, routed_scaling_factor: 1.0, q_lora_rank: null, kv_lora_rank: 512, qk_nope_head_dim: 128,
  qk_rope_head_dim: 64, v_head_dim: 128, rope_theta: 10000, rope_scaling: { type: "yarn", factor: 40, beta_fast: 32, beta_slow: 1, mscale: 0.707, mscale_all_dim: 0.707,
    original_max_position_embeddings: 4096 }, max_position_embeddings: 163840, rms_norm_eps: 1e-6, hidden_act: "silu", attention_bias: false, tie_word_embeddings: false,
  bos_token_id: 100000, eos_token_id: 100001, aux_loss_alpha: 0.001, seq_aux: true, pretraining_tp: 1 };
const V3 = { ...V2_LITE, model_type: "deepseek_v3", vocab_size: 129280, hidden_size: 7168, num_hidden_layers: 61, num_attention_heads: 128, num_key_value_heads: 128, intermediate_size: 18432,
  moe_intermediate_size: 2048, n_routed_experts: 256, num_experts_per_tok: 8, n_shared_experts: 1, first_k_dense_replace: 3, n_group: 8, topk_group: 4, topk_method: "noaux_tc",
  scoring_func: "sigmoid", norm_topk_prob: true, routed_scaling_factor: 2.5, q_lora_rank: 1536, num_nextn_predict_layers: 1, ep_size: 1, eos_token_id: 1,
  rope_scaling: { type: "yarn", factor: 40, beta_fast: 32, beta_slow: 1, mscale: 1.0, mscale_all_dim: 1.0, original_max_position_embeddings: 4096 },
  quantization_config: { activation_scheme: "dynamic", fmt: "e4m3", quant_method: "fp8", weight_block_size: [128, 128] } };
const PHI_FACTORS = (first: number): number[] => Array.from({ length: 64 }, (_, i) => Math.fround(first + i));
const PHI = { model_type: "phimoe", vocab_size: 32064, hidden_size: 4096, intermediate_size: 6400, num_hidden_layers: 32, num_attention_heads: 32, num_key_value_heads: 8,
  num_local_experts: 16, num_experts_per_tok: 2, rms_norm_eps: 1e-5, attention_bias: true, lm_head_bias: true, rope_theta: 10000, max_position_embeddings: 131072,
  original_max_position_embeddings: 4096, router_jitter_noise: 0.01, input_jitter_noise: 0.01, sliding_window: 131072, tie_word_embeddings: false, hidden_act: "silu", eos_token_id: 32000,
  rope_scaling: { type: "longrope", short_factor: PHI_FACTORS(1), long_factor: PHI_FACTORS(2), short_mscale: 1.243163121016122, long_mscale: 1.5, original_max_position_embeddings: 4096 } };
const GPT_OSS = { model_type: "gpt_oss", vocab_size: 201088, hidden_size: 2880, intermediate_size: 2880, num_hidden_layers: 24, num_attention_heads: 64, num_key_value_heads: 8, head_dim: 64,
  num_local_experts: 32, num_experts_per_tok: 4, experts_per_token: 4, sliding_window: 128, layer_types: Array.from({ length: 24 }, (_, n) => (n % 2 ? "full_attention" : "sliding_attention")),
  rms_norm_eps: 1e-5, attention_bias: true, rope_theta: 150000, rope_scaling: { rope_type: "yarn", factor: 32.0, beta_fast: 32.0, beta_slow: 1.0, original_max_position_embeddings: 4096,
    truncate: false }, swiglu_limit: 7.0, max_position_embeddings: 131072, initial_context_length: 4096, tie_word_embeddings: false, hidden_act: "silu", eos_token_id: 200002,
  quantization_config: { quant_method: "mxfp4", modules_to_not_convert: ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"] } };
const LLAMA = { model_type: "llama", vocab_size: 128256, hidden_size: 2048, intermediate_size: 8192, num_hidden_layers: 16, num_attention_heads: 32, num_key_value_heads: 8, head_dim: 64,
  rms_norm_eps: 1e-5, rope_theta: 500000.0, rope_scaling: { factor: 32.0, high_freq_factor: 4.0, low_freq_factor: 1.0, original_max_position_embeddings: 8192, rope_type: "llama3" },
  max_position_embeddings: 131072, attention_bias: false, mlp_bias: false, tie_word_embeddings: true, hidden_act: "silu", eos_token_id: [128001, 128008, 128009] };

function read(json: object, generation: object | null = null): ModelConfig {
  const fields = new ConfigFields("config.json", json);
  return architectureOfHuggingFace(fields).fromHuggingFace(fields, generation === null ? null : new ConfigFields("generation_config.json", generation));
}

/** A file with these tensors: an untied head, no biases, no dense layers. */
const tensorsOf = (names: readonly string[] = [], vectors: Readonly<Record<string, readonly number[]>> = {}): GgufTensors =>
  ({ has: (name) => name === "output.weight" || names.includes(name), vector: (name) => vectors[name] ?? null });

const readGguf = (metadata: object, tensors = tensorsOf()): ModelConfig => {
  const fields = new ConfigFields("x.gguf", metadata);
  return architectureOfGguf(fields).fromGguf(fields, tensors);
};

const expectClose = (found: readonly number[], expected: Readonly<Record<number, number>>): void => {
  for (const [i, value] of Object.entries(expected)) expect(found[Number(i)]! / value, `element ${i}`).toBeCloseTo(1, 8);
};

describe("published configurations", () => {
  it("reads OLMoE-1B-7B", () => {
    expect(read(OLMOE)).toMatchObject({ architecture: "olmoe", headDim: 128, qkNorm: "whole-vector", nExperts: 64, expertIntermediateSize: 1024,
      router: { score: "softmax", weigh: "score", topK: 8 }, eosTokenIds: [50279], clipQkv: null, attentionScale: 128 ** -0.5, rope: { style: "half", dim: 128 } });
    expect(read({ ...OLMOE, norm_topk_prob: true, clip_qkv: 8 })).toMatchObject({ router: { weigh: "renormalize" }, clipQkv: 8 });
  });

  it("reads Qwen3-30B-A3B, whose heads are wider than hidden / heads", () => {
    expect(read(QWEN3)).toMatchObject({ architecture: "qwen3_moe", headDim: 128, nKvHeads: 4, qkNorm: "per-head", expertIntermediateSize: 768, router: { weigh: "renormalize" } });
  });

  it("reads Qwen1.5-MoE-A2.7B: biases on q, k, v but not o, a gated shared expert, weights as they are", () => {
    expect(read(QWEN2)).toMatchObject({ architecture: "qwen2_moe", qkvBias: true, oBias: false, qkNorm: "none", sharedIntermediateSize: 5632, sharedGate: true, expertIntermediateSize: 1408,
      layerFfns: Array(24).fill("moe"), denseIntermediateSize: 0, slidingWindows: Array(24).fill(0), router: { weigh: "score", topK: 4 } });
    const stepped = read({ ...QWEN2, decoder_sparse_step: 3, mlp_only_layers: [5] });
    expect(stepped.layerFfns.flatMap((kind, n) => (kind === "moe" ? [n] : []))).toEqual([2, 8, 11, 14, 17, 20, 23]);
    expect(stepped.denseIntermediateSize).toBe(5632);
  });

  it("reads Mixtral-8x7B, whose head_dim is null", () => {
    expect(read(MIXTRAL)).toMatchObject({ architecture: "mixtral", headDim: 128, qkNorm: "none", nExperts: 8, slidingWindows: Array(32).fill(0), router: { weigh: "renormalize", topK: 2 } });
    expect(read({ ...MIXTRAL, sliding_window: 4096 }).slidingWindows).toEqual(Array(32).fill(4096));
  });

  it("reads Granite 3.0 3B-A800M, whose multipliers may be whole numbers", () => {
    expect(read(GRANITE)).toMatchObject({ architecture: "granitemoe", embeddingMultiplier: 12, attentionScale: 0.015625, residualMultiplier: 0.22, logitsScaling: 6, tieWordEmbeddings: true,
      sharedIntermediateSize: 0, router: { score: "logits", weigh: "softmax-selected", topK: 8 } });
    expect(read({ ...GRANITE, attention_multiplier: 1, residual_multiplier: 1 })).toMatchObject({ attentionScale: 1, residualMultiplier: 1 });
    expect(read({ ...GRANITE, model_type: "granitemoeshared", shared_intermediate_size: 1024 })).toMatchObject({ sharedIntermediateSize: 1024, sharedGate: false });
  });

  it("reads DeepSeek-V2-Lite: latent attention as one key-value head, mscale in the scores only", () => {
    const config = read(V2_LITE);
    expect(config).toMatchObject({ architecture: "deepseek_v2", nKvHeads: 1, headDim: 576, rope: { style: "interleaved", dim: 64, magnitude: 1, long: null },
      mla: { qLoraRank: null, kvLoraRank: 512, nopeHeadDim: 128, ropeHeadDim: 64, valueHeadDim: 128, normEps: 1e-6 }, maxPositions: 163840,
      layerFfns: ["dense", ...Array<string>(26).fill("moe")], denseIntermediateSize: 10944, sharedIntermediateSize: 2816, sharedGate: false,
      router: { score: "softmax", weigh: "score", scale: 1, topK: 6, selectionBias: false, nGroups: 1 } });
    expect(config.attentionScale).toBeCloseTo(0.11472138679, 10);
    expectClose(config.rope.inverseFrequencies, { 0: 1, 1: 0.749894209, 10: 0.0562341325, 11: 0.0390069266, 15: 0.00833450895, 16: 0.0055, 20: 0.000790569415, 23: 3.33380358e-05, 24: 2.5e-05, 31: 3.33380358e-06 });
    // A ratio other than 1 goes into cos and sin.
    const uneven = read({ ...V2_LITE, rope_scaling: { ...V2_LITE.rope_scaling, mscale: 1 } });
    expect(uneven.rope.magnitude).toBeCloseTo((0.1 * Math.log(40) + 1) / 1.2608037774, 8);
    expect(uneven.attentionScale).toBe(config.attentionScale);
    expect(read({ ...V2_LITE, rope_scaling: null })).toMatchObject({ attentionScale: 192 ** -0.5 });
  });

  it("reads DeepSeek-V2's groups and V3's: the best expert, or the two best with a bias", () => {
    const v2 = read({ ...V2_LITE, topk_method: "group_limited_greedy", n_group: 8, topk_group: 3, routed_scaling_factor: 16.0, q_lora_rank: 1536 });
    expect(v2).toMatchObject({ mla: { qLoraRank: 1536 }, router: { nGroups: 8, topKGroups: 3, groupScore: "max", scale: 16, weigh: "score" } });
    // Greedy means no groups, whatever n_group says.
    expect(read({ ...V2_LITE, n_group: 8, topk_group: 3 }).router.nGroups).toBe(1);
    const v3 = read(V3);
    expect(v3).toMatchObject({ architecture: "deepseek_v3", layerFfns: [...Array<string>(3).fill("dense"), ...Array<string>(58).fill("moe")], sharedIntermediateSize: 2048,
      router: { score: "sigmoid", weigh: "renormalize", scale: 2.5, topK: 8, selectionBias: true, nGroups: 8, topKGroups: 4, groupScore: "top2-sum" } });
    expect(v3.attentionScale).toBeCloseTo(0.13523377886, 10);
    expect(read({ ...V3, moe_layer_freq: 2 }).layerFfns.slice(0, 6)).toEqual(["dense", "dense", "dense", "dense", "moe", "dense"]);
  });

  it("reads Phi-3.5-MoE: LayerNorm, biases everywhere, sparsemixer, two sets of frequencies with magnitudes of their own", () => {
    const config = read(PHI);
    expect(config).toMatchObject({ architecture: "phimoe", norm: "layer", qkvBias: true, oBias: true, headBias: true, normEps: 1e-5, slidingWindows: Array(32).fill(0),
      router: { select: "sparsemixer", sparsemixerEpsilon: 0.01, topK: 2 }, maxPositions: 131072, rope: { magnitude: 1.243163121016122, long: { fromPositions: 4096, magnitude: 1.5 } } });
    expect(config.rope.inverseFrequencies[5]).toBeCloseTo(10000 ** (-10 / 128) / 6, 12);
    expect(config.rope.long!.inverseFrequencies[5]).toBeCloseTo(10000 ** (-10 / 128) / 7, 12);
    const { short_mscale: _, long_mscale: __, ...bare } = PHI.rope_scaling;
    expect(read({ ...PHI, rope_scaling: bare }).rope).toMatchObject({ magnitude: expect.closeTo(1.1902380714, 10), long: { magnitude: expect.closeTo(1.1902380714, 10) } });
    expect(read({ ...PHI, sliding_window: 2047 }).slidingWindows[31]).toBe(2047);
    expect(() => read({ ...PHI, num_experts_per_tok: 3 })).toThrow(/3 experts per token, but sparsemixer selects 2/);
    expect(() => read({ ...PHI, rope_scaling: { ...PHI.rope_scaling, long_factor: PHI_FACTORS(1).slice(1) } })).toThrow(/rope_scaling has long_factor = .*expected a list of 64 numbers/);
  });

  it("reads gpt-oss-20b: windows in every other layer, sinks, a ramp that is not rounded", () => {
    const config = read(GPT_OSS);
    expect(config).toMatchObject({ architecture: "gpt_oss", attentionSinks: true, qkvBias: true, oBias: true, expertKind: "clamped-swiglu", swigluLimit: 7, attentionScale: 0.125,
      router: { score: "logits", weigh: "softmax-selected", logitBias: true, topK: 4 }, maxPositions: 131072 });
    expect(config.slidingWindows).toEqual(Array.from({ length: 24 }, (_, n) => (n % 2 === 0 ? 128 : 0)));
    expect(config.rope.magnitude).toBeCloseTo(1.3465735902799727, 14);
    expectClose(config.rope.inverseFrequencies, { 0: 1, 1: 0.689044306, 8: 0.0508132748, 9: 0.0317056962, 12: 0.00679495949, 16: 0.000456483919, 17: 0.000129318701, 18: 3.83088124e-05, 24: 4.09997848e-06, 31: 3.02351143e-07 });
    const rounded = read({ ...GPT_OSS, rope_scaling: { ...GPT_OSS.rope_scaling, truncate: true } });
    expect(rounded.rope.inverseFrequencies[12]).not.toBeCloseTo(config.rope.inverseFrequencies[12]!, 5);
    const { layer_types: _, ...untyped } = GPT_OSS;
    expect(read(untyped)).toEqual(config);
    expect(read({ ...GPT_OSS, layer_types: Array(24).fill("full_attention") }).slidingWindows).toEqual(Array(24).fill(0));
  });

  it("reads dense models: Llama 3.2 with its own scaling of frequencies, Qwen2, Qwen3", () => {
    const config = read(LLAMA);
    expect(config).toMatchObject({ architecture: "llama", nExperts: 0, layerFfns: Array(16).fill("dense"), denseIntermediateSize: 8192, sharedIntermediateSize: 0, router: { score: "one", topK: 0 } });
    const plain = read({ ...LLAMA, rope_scaling: null }).rope.inverseFrequencies;
    expect(config.rope.inverseFrequencies.map((f, i) => plain[i]! / f).filter((factor) => factor > 1.0001 && factor < 31.9999).length).toBeGreaterThan(1);
    expect([config.rope.inverseFrequencies[0], config.rope.inverseFrequencies[31]! * 32]).toEqual([plain[0], plain[31]]);
    const { num_experts: _, num_experts_per_tok: __, moe_intermediate_size: ___, norm_topk_prob: ____, decoder_sparse_step: _____, mlp_only_layers: ______, ...dense } = QWEN3;
    expect(read({ ...dense, model_type: "qwen3" })).toMatchObject({ qkNorm: "per-head", qkvBias: false, denseIntermediateSize: 6144, nExperts: 0 });
    const { attention_bias: _a, ...qwen2 } = dense;
    expect(read({ ...qwen2, model_type: "qwen2" })).toMatchObject({ qkNorm: "none", qkvBias: true, oBias: false });
    expect(read({ ...qwen2, model_type: "qwen2", use_sliding_window: true, sliding_window: 4096, max_window_layers: 40 }).slidingWindows)
      .toEqual([...Array<number>(40).fill(0), ...Array<number>(8).fill(4096)]);
  });

  it.skipIf(dataFile("configs/hf/olmoe.config.json") === null)("reads the files themselves (skipped where the data folder is absent)", () => {
    for (const name of ["olmoe", "olmoeins", "olmoedpo", "olmoesft", "mixtral", "qwen", "qwen2", "qwen3", "deepseek2", "phi", "powermoe"]) {
      const config = read(JSON.parse(readFileSync(dataFile(`configs/hf/${name}.config.json`)!, "utf8")) as object);
      expect(config.nExperts).toBeGreaterThan(1);
      expect(config.rope.inverseFrequencies.length).toBe(config.rope.dim / 2);
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
    for (const config of [read(PHI), read(V3)]) {
      const { rope, router, mla, eosTokenIds, slidingWindows, layerFfns } = config;
      for (const record of [config, rope, router, mla, eosTokenIds, slidingWindows, layerFfns, rope.inverseFrequencies, rope.long, rope.long?.inverseFrequencies]) expect(Object.isFrozen(record)).toBe(true);
    }
  });
});

describe("GGUF metadata", () => {
  const METADATA = { "general.architecture": "qwen3moe", "qwen3moe.context_length": 40960, "qwen3moe.embedding_length": 2048, "qwen3moe.block_count": 48,
    "qwen3moe.feed_forward_length": 6144, "qwen3moe.expert_feed_forward_length": 768, "qwen3moe.attention.head_count": 32, "qwen3moe.attention.head_count_kv": 4,
    "qwen3moe.attention.key_length": 128, "qwen3moe.attention.value_length": 128, "qwen3moe.attention.layer_norm_rms_epsilon": Math.fround(1e-6),
    "qwen3moe.rope.freq_base": 1000000, "qwen3moe.expert_count": 128, "qwen3moe.expert_used_count": 8, "qwen3moe.vocab_size": 151936, "tokenizer.ggml.eos_token_id": 151645 };
  const as = (arch: string, more: object = {}): object =>
    ({ ...Object.fromEntries(Object.entries(METADATA).map(([key, value]) => [key.replace("qwen3moe", arch), value])), "general.architecture": arch, ...more });

  it("gives the config that config.json gives, epsilon included", () => {
    expect(readGguf(METADATA)).toEqual(read(QWEN3));
  });

  it("scales rotary frequencies as config.json does", () => {
    const scaled = (type: string, factor: number, more = {}) => readGguf({ ...METADATA, "qwen3moe.rope.scaling.type": type, "qwen3moe.rope.scaling.factor": factor, ...more });
    expect(scaled("linear", 2)).toEqual(read({ ...QWEN3, rope_scaling: { type: "linear", factor: 2 } }));
    expect(scaled("yarn", 4, { "qwen3moe.rope.scaling.original_context_length": 32768 })).toEqual(read({ ...QWEN3, rope_scaling: { type: "yarn", factor: 4, original_max_position_embeddings: 32768 } }));
    expect(() => scaled("longrope", 4)).toThrow(/qwen3moe\.rope\.scaling\.type = "longrope"/);
    expect(scaled("yarn", 4, { "qwen3moe.rope.scaling.attn_factor": 0.5 }).rope.magnitude).toBeCloseTo(0.5 * (0.1 * Math.log(4) + 1), 12);
  });

  it("Llama 3's factors come from a tensor, and must be as many as there are frequencies", () => {
    const llama = as("llama", { "llama.expert_count": 0, "llama.rope.freq_base": 500000, "llama.attention.key_length": 64, "llama.attention.value_length": 64 });
    const plain = read({ ...LLAMA, rope_scaling: null }).rope.inverseFrequencies;
    const meant = read(LLAMA).rope.inverseFrequencies;
    const config = readGguf(llama, tensorsOf([], { "rope_freqs.weight": plain.map((f, i) => Math.fround(f / meant[i]!)) }));
    expect(config.layerFfns[0]).toBe("dense");
    config.rope.inverseFrequencies.forEach((f, i) => expect(f / meant[i]!).toBeCloseTo(1, 6));
    expect(() => readGguf(llama, tensorsOf([], { "rope_freqs.weight": [1, 2] }))).toThrow(/rope_freqs\.weight holds 2 factors, expected 32/);
    expect(() => readGguf(llama, tensorsOf([], { "rope_freqs.weight": Array<number>(32).fill(0) }))).toThrow(/expected 32 numbers above 0/);
  });

  it("DeepSeek's two ways to write head sizes give one config; a layer that contradicts its keys is named", () => {
    const V = { "deepseek2.attention.head_count_kv": 1, "deepseek2.attention.kv_lora_rank": 512, "deepseek2.rope.dimension_count": 64, "deepseek2.expert_shared_count": 2, "deepseek2.leading_dense_block_count": 1, "deepseek2.block_count": 3,
      "deepseek2.rope.scaling.type": "yarn", "deepseek2.rope.scaling.factor": 40, "deepseek2.rope.scaling.original_context_length": 4096, "deepseek2.rope.scaling.yarn_log_multiplier": Math.fround(0.0707) };
    const tensors = tensorsOf(["blk.0.ffn_gate.weight"]);
    const old = readGguf(as("deepseek2", { ...V, "deepseek2.attention.key_length": 192, "deepseek2.attention.value_length": 128 }), tensors);
    const renewed = readGguf(as("deepseek2", { ...V, "deepseek2.attention.key_length": 576, "deepseek2.attention.value_length": 512, "deepseek2.attention.key_length_mla": 192, "deepseek2.attention.value_length_mla": 128 }), tensors);
    expect(old).toEqual(renewed);
    expect(old.mla).toEqual(read(V2_LITE).mla);
    expect([old.attentionScale, old.rope.magnitude]).toEqual([read(V2_LITE).attentionScale, 1]);
    expect(() => readGguf(as("deepseek2", { ...V, "deepseek2.leading_dense_block_count": 2 }), tensors)).toThrow(/leading_dense_block_count = 2, but by its tensors layer 1 is a moe layer/);
  });

  it("DeepSeek's gating function tells V2 from V3, and a file's tensors whether there is a selection bias", () => {
    const base = { "deepseek2.attention.head_count_kv": 1, "deepseek2.attention.kv_lora_rank": 512, "deepseek2.rope.dimension_count": 64, "deepseek2.attention.key_length": 192, "deepseek2.block_count": 3,
      "deepseek2.expert_group_count": 8, "deepseek2.expert_group_used_count": 4, "deepseek2.expert_weights_scale": 2.5, "deepseek2.expert_weights_norm": true };
    expect(readGguf(as("deepseek2", { ...base, "deepseek2.expert_gating_func": 2 }), tensorsOf(["blk.0.exp_probs_b.bias"])))
      .toMatchObject({ architecture: "deepseek_v3", router: { score: "sigmoid", weigh: "renormalize", selectionBias: true, scale: 2.5, groupScore: "top2-sum", nGroups: 8, topKGroups: 4 } });
    expect(readGguf(as("deepseek2", base))).toMatchObject({ architecture: "deepseek_v2", router: { score: "softmax", selectionBias: false, groupScore: "max" } });
    expect(() => readGguf(as("deepseek2", { ...base, "deepseek2.expert_gating_func": 4 }))).toThrow(/expert_gating_func = 4, which this version cannot run/);
  });

  it("gpt-oss' gating function may be named; Granite's files may have no multiplier; PhiMoE's head may have no bias", () => {
    const two = (arch: string): object => ({ [`${arch}.expert_used_count`]: 2 });
    const oss = { "gpt-oss.attention.sliding_window": 128 };
    expect(readGguf(as("gpt-oss", { ...oss, "gpt-oss.expert_gating_func": 3 })).slidingWindows.slice(0, 3)).toEqual([128, 0, 128]);
    expect(() => readGguf(as("gpt-oss", { ...oss, "gpt-oss.expert_gating_func": 1 }))).toThrow(/expert_gating_func = 1/);
    expect(readGguf(as("granitemoe"))).toMatchObject({ embeddingMultiplier: 1, logitsScaling: 1, attentionScale: 128 ** -0.5, rope: { style: "interleaved" } });
    expect(readGguf(as("phimoe", two("phimoe")), tensorsOf(["output.bias"])).headBias).toBe(true);
    expect(readGguf(as("phimoe", two("phimoe"))).headBias).toBe(false);
  });

  it("Qwen2-MoE files older than the keys of widths divide the feed-forward length", () => {
    const { "qwen2moe.expert_feed_forward_length": _, ...old } = as("qwen2moe", { "qwen2moe.feed_forward_length": 5632, "qwen2moe.expert_used_count": 4 }) as Record<string, unknown>;
    expect(readGguf(old)).toMatchObject({ expertIntermediateSize: 1408, sharedIntermediateSize: 5632, sharedGate: true });
  });

  it.each([
    [{ "qwen3moe.expert_gating_func": 2 }, /expert_gating_func = 2, which this version cannot run .*expected 0 or 1/],
    [{ "qwen3moe.expert_shared_count": 1 }, /expert_shared_count = 1/],
    [{ "qwen3moe.expert_weights_scale": 2.5 }, /expert_weights_scale = 2\.5/],
    [{ "qwen3moe.leading_dense_block_count": 1 }, /leading_dense_block_count = 1/],
    [{ "qwen3moe.attention.kv_lora_rank": 512 }, /kv_lora_rank = 512/],
    [{ "qwen3moe.logit_scale": 6 }, /logit_scale = 6/],
    [{ "qwen3moe.final_logit_softcapping": 30 }, /final_logit_softcapping = 30/],
    [{ "qwen3moe.attention.value_length": 64 }, /attention\.value_length = 64/],
    [{ "qwen3moe.rope.dimension_count": 64 }, /rope\.dimension_count = 64/],
    [{ "qwen3moe.vocab_size": null }, /neither qwen3moe\.vocab_size nor tokenizer\.ggml\.tokens/],
  ])("refuses %o", (change, message) => {
    expect(() => readGguf({ ...METADATA, ...change })).toThrow(message);
  });
});

describe("what is refused, by name", () => {
  it.each([
    [{ ...QWEN3, mlp_only_layers: 3.5 }, /mlp_only_layers = 3\.5/],
    [{ ...QWEN3, decoder_sparse_step: 0 }, /decoder_sparse_step = 0/],
    [{ ...QWEN3, use_sliding_window: true }, /use_sliding_window = true/],
    [{ ...OLMOE, attention_bias: "yes" }, /attention_bias = "yes"/],
    [{ ...MIXTRAL, attention_bias: true }, /attention_bias = true, which architecture mixtral has not/],
    [{ ...V3, attention_bias: true }, /attention_bias = true, which this version cannot run/],
    [{ ...OLMOE, hidden_act: "gelu" }, /hidden_act = "gelu"/],
    [{ ...LLAMA, mlp_bias: true }, /mlp_bias = true/],
    [{ ...OLMOE, rope_scaling: { type: "dynamic", factor: 8 } }, /rope type "dynamic".*"default", "linear", "yarn", "llama3" or "longrope"/],
    [{ ...OLMOE, vocab_size: "50304" }, /vocab_size = "50304", expected a whole number/],
    [{ ...OLMOE, num_experts: undefined }, /no num_experts/],
    [{ ...OLMOE, num_experts_per_tok: 65 }, /65 experts per token of 64/],
    [{ ...OLMOE, num_key_value_heads: 3 }, /16 attention heads are no multiple of 3/],
    [{ ...OLMOE, eos_token_id: 50304 }, /50304 is outside the vocabulary/],
    [{ ...OLMOE, hidden_size: 2050 }, /2050 is no multiple of num_attention_heads 16/],
    [{ ...OLMOE, partial_rotary_factor: 0.5 }, /partial_rotary_factor = 0.5/],
    [{ ...OLMOE, logits_scaling: 8 }, /logits_scaling = 8, which architecture olmoe has not \(granitemoe has\)/],
    [{ ...OLMOE, moe_intermediate_size: 512 }, /moe_intermediate_size = 512, which architecture olmoe has not/],
    [{ ...LLAMA, sliding_window: 4096 }, /sliding_window = 4096, which architecture llama has not/],
    [{ ...MIXTRAL, quantization_config: { quant_method: "gptq" } }, /quantization_config = \{"quant_method":"gptq"\}, .*expected no such key/],
    [{ ...V3, quantization_config: { ...V3.quantization_config, weight_block_size: [64, 64] } }, /quantization_config = .*weight_block_size \[128,128\]/],
    [{ ...GPT_OSS, quantization_config: { quant_method: "fp8" } }, /quantization_config = .*quant_method "mxfp4"/],
    [{ ...MIXTRAL, layer_types: ["full_attention", "chunked_attention"] }, /layer_types = .*expected "full_attention" or "sliding_attention" for each of 32 layers/],
    [{ ...V2_LITE, topk_method: "noaux_tc" }, /topk_method = "noaux_tc", expected "greedy" or "group_limited_greedy"/],
    [{ ...V2_LITE, scoring_func: "sigmoid" }, /scoring_func = "sigmoid"/],
    [{ ...V3, n_group: 7 }, /256 experts are no multiple of 7 groups/],
    [{ ...V3, topk_group: 9 }, /9 groups per token of 8 groups/],
    [{ ...V3, n_group: 256, topk_group: 8 }, /fewer than the two experts/],
    [{ ...V3, n_group: 64, topk_group: 1 }, /8 experts per token, but 1 groups hold only 4/],
    [{ ...V3, kv_lora_rank: 510 }, /kv_lora_rank\) is 510, expected a multiple of 4/],
    [{ ...V3, qk_nope_head_dim: 126 }, /qk_nope_head_dim\) is 126, expected a multiple of 4/],
    [{ ...QWEN3, hidden_size: 2050 }, /the hidden size is 2050, expected a multiple of 4/],
    [{ ...QWEN3, head_dim: 126 }, /the head dimension is 126, expected a multiple of 4/],
    [{ ...GPT_OSS, experts_per_token: 8 }, /experts_per_token = 8.*num_experts_per_tok is 4/],
  ])("%#", (json, message) => {
    expect(() => read(json)).toThrow(message);
    expect(() => read(json)).toThrow(/config\.json/);
  });

  it("settings of another architecture that are switched off are no matter", () => {
    expect(read({ ...OLMOE, logits_scaling: 1, sliding_window: null, mlp_only_layers: [], n_shared_experts: 0, layer_types: Array(16).fill("full_attention") })).toEqual(read(OLMOE));
  });

  it("an unknown architecture, with those known, the nearest by its keys, and what differs", () => {
    const kimi = { ...V3, model_type: "kimi_k9", kda_layers: [1, 2], moe_layer_freq: undefined };
    expect(() => read(kimi)).toThrow(/model_type = "kimi_k9", an architecture this version does not know\. Known: olmoe, mixtral, .*qwen3; the nearest is "deepseek_v3"\. This one has keys that deepseek_v3 does not know: kda_layers; deepseek_v3 reads keys that are missing here: .*moe_layer_freq/);
    const { decoder_sparse_step: _, ...qwen } = QWEN3;
    expect(() => read({ ...qwen, model_type: "qwen4_moe", linear_num_value_heads: 32 })).toThrow(/nearest is "qwen3_moe"\. This one has keys that qwen3_moe does not know: linear_num_value_heads; qwen3_moe reads keys that are missing here: .*decoder_sparse_step/);
    expect(() => architectureOfGguf(new ConfigFields("x.gguf", { "general.architecture": "olmo", "olmo.attention.clamp_kqv": 8, "olmo.attention.max_alibi_bias": 8 })))
      .toThrow(/x\.gguf.*"olmo".*nearest is "olmoe"\. This one has keys that olmoe does not know: attention\.max_alibi_bias\./);
  });

  it.skipIf(dataFile("configs/hf/grin.config.json") === null)("real configurations of unknown architectures (skipped where the data folder is absent)", () => {
    const nearest = (name: string): string => {
      try {
        read(JSON.parse(readFileSync(dataFile(`configs/hf/${name}.config.json`)!, "utf8")) as object);
      } catch (error) {
        return /the nearest is "(\w+)"/.exec((error as Error).message)?.[1] ?? (error as Error).message;
      }
      return "read";
    };
    expect(nearest("grin")).toBe("phimoe");
    expect(nearest("deepseek")).toBe("deepseek_v2");
  });

  it("a GGUF whose llama has no count of experts is a dense one; a tied head has no tensor", () => {
    const fields = new ConfigFields("x.gguf", { "general.architecture": "llama", "llama.embedding_length": 64, "llama.feed_forward_length": 96, "llama.block_count": 2, "llama.attention.head_count": 4, "llama.vocab_size": 97, "llama.context_length": 128, "llama.attention.layer_norm_rms_epsilon": 1e-5 });
    expect(architectureOfGguf(fields).name).toBe("llama");
    expect(architectureOfGguf(fields).fromGguf(fields, { has: () => false, vector: () => null })).toMatchObject({ nExperts: 0, tieWordEmbeddings: true, layerFfns: ["dense", "dense"] });
    expect(architectureOfGguf(new ConfigFields("x.gguf", { ...fields.values, "llama.expert_count": 8 })).name).toBe("mixtral");
    const scaled = new ConfigFields("x.gguf", { ...fields.values, "llama.residual_scale": 0.22 });
    expect(() => architectureOfGguf(scaled).fromGguf(scaled, tensorsOf())).toThrow(/llama\.residual_scale = 0\.22, which this version cannot run/);
  });
});

describe.each(TINY_ARCHITECTURES)("%s", (name) => {
  it("says which keys it reads: no others are asked for, and all of its own", () => {
    const architecture = ARCHITECTURES.find((a) => a.name === name)!;
    const asked = new Set<string>();
    const spied = (json: object): ConfigFields => new ConfigFields("config.json", new Proxy(json, { get: (target, key) => (asked.add(String(key)), Reflect.get(target, key)) }));
    const { configJson } = tinyModel(name, 1);
    // Forms of a config that make an architecture look at further keys.
    for (const more of [{}, { mlp_only_layers: [0] }, { use_sliding_window: true, sliding_window: 16, layer_types: null }, { layer_types: Array(configJson["num_hidden_layers"]).fill("sliding_attention"), sliding_window: 16 }]) {
      try {
        architecture.fromHuggingFace(spied({ ...configJson, ...more }), null);
      } catch (error) {
        expect((error as Error).message).toMatch(/use_sliding_window/);
      }
    }
    // Read by no one but known to say nothing further here: what another key says too, or what only training uses.
    const unread = ["initial_context_length", "input_jitter_noise", "num_nextn_predict_layers", "original_max_position_embeddings", "qk_head_dim", ...(name === "qwen2_moe" || name === "qwen3_moe" ? ["max_window_layers"] : [])];
    expect([...asked].filter((key) => !SHARED_KEYS.includes(key) && !architecture.keys.includes(key) && !["attention_bias", "layer_types", "position_embedding_type"].includes(key))).toEqual([]);
    expect(architecture.keys.filter((key) => !asked.has(key) && !unread.includes(key))).toEqual([]);
    expect(Object.keys(configJson).filter((key) => !SHARED_KEYS.includes(key) && !architecture.keys.includes(key) && key !== "ep_size")).toEqual([]);
  });
});
