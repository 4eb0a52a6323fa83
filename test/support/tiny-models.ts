// Tiny seeded models of every architecture, as weights by canonical name, as Hugging Face folders and as GGUF files.
// All forms hold the same numbers: weights are rounded to values that F32, F16 and BF16 share, or, on request, to values that Q8_0, Q4_0, MXFP4 or FP8
// with factors hold. Scales are chosen so that logits are of order 1 to 10 and routers decide clearly. Tensor names are tiny-files.ts.
// Refuses learning anything: these models are for arithmetic, not for text.

import { ARCHITECTURES } from "../../model/architectures/index.ts";
import { ConfigFields } from "../../model/architectures/config-fields.ts";
import { EXPERT_MATRICES, type ExpertKind, type LatentExpertsConfig, type ModelConfig, expertShape, ffnShape, sharedWidth, trunkTensors } from "../../model/config.ts";
import { expertBiases, expertMatrices } from "../../model/expert-kinds.ts";
import { decodeRows } from "../../formats/dequantize.ts";
import type { StoredType } from "../../formats/stored-types.ts";
import { fp8Codes, fp8Factors, roundToFp8 } from "./fp8-writer.ts";
import { type GgufField, type GgufTensor, f32, flag, ggufFile, text, u32 } from "./gguf-writer.ts";
import { type TensorData, safetensorsFolder } from "./safetensors-writer.ts";
import { SeededRandom } from "./seeded-random.ts";
import { roundForAllTypes, storedRows } from "./stored-rows.ts";
import { type GgufForm, type TinyMatrix, ggufTensors, huggingFaceTensors } from "./tiny-files.ts";
import { END_OF_TEXT, TINY_CHAT_TEMPLATE, tinyTokenizerJson, tinyTokens } from "./tiny-tokenizer.ts";

export { permuteForGguf } from "./tiny-files.ts";
export type { TinyMatrix } from "./tiny-files.ts";

export const TINY_ARCHITECTURES = ["olmoe", "qwen3_moe", "mixtral", "qwen2_moe", "granitemoe", "granitemoeshared", "deepseek_v2", "deepseek_v3", "phimoe", "gpt_oss",
  "llama", "qwen2", "qwen3"] as const;
export type TinyArchitecture = (typeof TINY_ARCHITECTURES)[number];

export interface TinyOverrides {
  /** Keys of config.json to set or replace (sizes, norm_topk_prob, clip_qkv, tie_word_embeddings, rope_scaling ...). */
  readonly config?: Readonly<Record<string, unknown>>;
  /** What every matrix but the router is exactly representable in. Default BF16, which also suits F16 and F32. F8_E4M3: with tiny factors per block. */
  readonly exactIn?: "BF16" | "Q8_0" | "Q4_0" | "MXFP4" | "F8_E4M3";
  /** For wide models: matrices but the embedding as much smaller as their rows are longer than 64, so that products stay of order 1. */
  readonly byFanIn?: boolean;
  /** No file of a published architecture has these: such a model is opened by openTinyPlain (pack-to-memory.ts). */
  readonly latentExperts?: LatentExpertsConfig;
  readonly expertKind?: ExpertKind;
}

export interface HuggingFaceOptions {
  /** F8_E4M3 quantises what DeepSeek-V3's release does: all matrices of layers but the router. */
  readonly dtype?: "F32" | "F16" | "BF16" | "F8_E4M3";
  readonly shards?: number;
  /** Experts as stacked, fused tensors (gate_up_proj [E, 2I, H], down_proj [E, H, I]). */
  readonly fused?: boolean;
  /** gpt-oss: experts as MXFP4 blocks and scales (as released), or unpacked. Default: MXFP4 where the model is exact in it. */
  readonly experts?: "mxfp4" | "plain";
  /** FP8 only: type of the factors; Qwen's releases have BF16. */
  readonly factors?: "F32" | "BF16";
  /** DeepSeek: a layer behind the last, as releases have for multi-token prediction. */
  readonly extraLayer?: boolean;
}

export interface GgufOptions extends Partial<GgufForm> {
  readonly type?: StoredType;
  readonly version?: 2 | 3;
  readonly alignment?: number;
  /** Another type for single tensors, by their GGUF name; null keeps `type`. */
  readonly overrideType?: (name: string) => StoredType | null;
  /** Metadata to set or replace; null takes a key away. */
  readonly metadata?: Readonly<Record<string, GgufField | null>>;
  readonly extraLayer?: boolean;
}

export interface TinyModel {
  readonly config: ModelConfig;
  /** The config.json it was made from. */
  readonly configJson: Readonly<Record<string, unknown>>;
  /** Tensors by the names of Checkpoint.places(). Vectors have one row. */
  readonly weights: ReadonlyMap<string, TinyMatrix>;
  /** Files of the Hugging Face folder, by name. */
  huggingFaceFiles(options?: HuggingFaceOptions): Map<string, Uint8Array>;
  ggufBytes(options?: GgufOptions): Uint8Array;
}

const SIZES = { vocab_size: 97, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, max_position_embeddings: 128, hidden_act: "silu",
  tie_word_embeddings: false, eos_token_id: 0 };
const MOE = { ...SIZES, num_experts_per_tok: 2 };
const DEEPSEEK = { ...MOE, num_hidden_layers: 3, num_key_value_heads: 4, intermediate_size: 160, moe_intermediate_size: 32, n_routed_experts: 8, n_shared_experts: 2, first_k_dense_replace: 1,
  moe_layer_freq: 1, kv_lora_rank: 32, qk_nope_head_dim: 32, qk_rope_head_dim: 16, v_head_dim: 32, rms_norm_eps: 1e-6, rope_theta: 10000, attention_bias: false, ep_size: 1,
  max_position_embeddings: 160, n_group: 4, topk_group: 2 };
/** Both multipliers as Phi-3.5-MoE has them; as released they are given, and here they are what a GGUF's attn_factor says too. */
const PHI_MSCALE = Math.sqrt(1 + Math.log(128 / 32) / Math.log(32));
const PHI_FACTORS = (start: number, step: number): number[] => Array.from({ length: 8 }, (_, i) => Math.fround(start + step * i * i));

const CONFIGS: Readonly<Record<TinyArchitecture, Readonly<Record<string, unknown>>>> = {
  olmoe: { ...MOE, model_type: "olmoe", num_experts: 8, intermediate_size: 32, rms_norm_eps: 1e-5, rope_theta: 10000, rope_scaling: null,
    norm_topk_prob: false, attention_bias: false, clip_qkv: null },
  // A head dimension of its own: 4 heads of 32 in a hidden size of 64.
  qwen3_moe: { ...MOE, model_type: "qwen3_moe", head_dim: 32, num_experts: 8, moe_intermediate_size: 64, intermediate_size: 128, rms_norm_eps: 1e-6,
    rope_theta: 1000000, norm_topk_prob: true, attention_bias: false, decoder_sparse_step: 1, mlp_only_layers: [] },
  mixtral: { ...MOE, model_type: "mixtral", head_dim: null, num_local_experts: 8, intermediate_size: 64, rms_norm_eps: 1e-5, rope_theta: 1000000,
    sliding_window: null },
  qwen2_moe: { ...MOE, model_type: "qwen2_moe", num_experts: 8, moe_intermediate_size: 32, intermediate_size: 96, shared_expert_intermediate_size: 64, rms_norm_eps: 1e-6,
    rope_theta: 1000000, norm_topk_prob: false, decoder_sparse_step: 1, mlp_only_layers: [], qkv_bias: true, use_sliding_window: false, sliding_window: 32768, max_window_layers: 21 },
  granitemoe: { ...MOE, model_type: "granitemoe", num_local_experts: 8, intermediate_size: 32, rms_norm_eps: 1e-6, rope_theta: 10000, rope_scaling: null, attention_bias: false,
    embedding_multiplier: 12, attention_multiplier: 0.125, residual_multiplier: 0.22, logits_scaling: 6 },
  granitemoeshared: { ...MOE, model_type: "granitemoeshared", num_local_experts: 8, intermediate_size: 32, shared_intermediate_size: 64, rms_norm_eps: 1e-6, rope_theta: 10000,
    rope_scaling: null, attention_bias: false, embedding_multiplier: 12, attention_multiplier: 0.125, residual_multiplier: 0.22, logits_scaling: 6, tie_word_embeddings: true },
  deepseek_v2: { ...DEEPSEEK, model_type: "deepseek_v2", num_experts_per_tok: 3, n_group: 2, topk_group: 1, q_lora_rank: null, topk_method: "group_limited_greedy", scoring_func: "softmax", norm_topk_prob: false, routed_scaling_factor: 4.0,
    rope_scaling: { type: "yarn", factor: 40, beta_fast: 32, beta_slow: 1, mscale: 0.707, mscale_all_dim: 0.707, original_max_position_embeddings: 4 } },
  deepseek_v3: { ...DEEPSEEK, model_type: "deepseek_v3", q_lora_rank: 32, n_shared_experts: 1, topk_method: "noaux_tc", scoring_func: "sigmoid", norm_topk_prob: true, routed_scaling_factor: 2.5,
    num_nextn_predict_layers: 1, rope_scaling: { type: "yarn", factor: 40, beta_fast: 32, beta_slow: 1, mscale: 1.0, mscale_all_dim: 1.0, original_max_position_embeddings: 4 } },
  phimoe: { ...MOE, model_type: "phimoe", num_local_experts: 8, intermediate_size: 32, rms_norm_eps: 1e-5, rope_theta: 10000, attention_bias: true, lm_head_bias: true,
    router_jitter_noise: 0.01, input_jitter_noise: 0, sliding_window: 128, original_max_position_embeddings: 32,
    rope_scaling: { type: "longrope", short_factor: PHI_FACTORS(1, 0.01), long_factor: PHI_FACTORS(1.02, 0.9), short_mscale: PHI_MSCALE, long_mscale: PHI_MSCALE, original_max_position_embeddings: 32 } },
  gpt_oss: { ...MOE, model_type: "gpt_oss", head_dim: 16, num_local_experts: 8, experts_per_token: 2, intermediate_size: 64, rms_norm_eps: 1e-5, rope_theta: 150000, attention_bias: true,
    sliding_window: 8, layer_types: ["sliding_attention", "full_attention"], swiglu_limit: 7.0, initial_context_length: 16,
    rope_scaling: { rope_type: "yarn", factor: 32, beta_fast: 32, beta_slow: 1, original_max_position_embeddings: 16, truncate: false }, max_position_embeddings: 512 },
  llama: { ...SIZES, model_type: "llama", intermediate_size: 96, rms_norm_eps: 1e-5, rope_theta: 10000, rope_scaling: null, attention_bias: false, mlp_bias: false },
  qwen2: { ...SIZES, model_type: "qwen2", intermediate_size: 96, rms_norm_eps: 1e-6, rope_theta: 1000000, use_sliding_window: false, sliding_window: 131072, max_window_layers: 28 },
  qwen3: { ...SIZES, model_type: "qwen3", head_dim: 32, intermediate_size: 96, rms_norm_eps: 1e-6, rope_theta: 1000000, attention_bias: false, use_sliding_window: false },
};

/** Standard deviations of matrices. */
const SCALES: Readonly<Record<string, number>> = {
  embed: 1, q: 0.15, k: 0.15, v: 0.15, o: 0.15, router: 0.3, head: 0.25, gate: 0.15, up: 0.15, down: 0.2,
  qA: 0.15, qB: 0.2, kvA: 0.15, kB: 0.2, vB: 0.2, sharedGate: 0.3, latent: 0.15,
};
/** Vectors that are no norms (those are 1 plus a fifth of a normal deviate): standard deviations. Clamps need biases that reach them. */
const VECTOR_SCALES: Readonly<Record<string, number>> = {
  attnNormBias: 0.2, ffnNormBias: 0.2, normBias: 0.2, qBias: 0.3, kBias: 0.3, vBias: 0.3, oBias: 0.2, headBias: 1, sinks: 1, routerBias: 1, selectionBias: 0.3,
  gateBias: 4, upBias: 4, downBias: 0.3,
};

/** Means of vectors. DeepSeek-V3's scores are all below zero with it, so that a mask of zero instead of minus infinity would choose what is masked. */
const VECTOR_MEANS: Readonly<Record<string, number>> = { selectionBias: -1.5 };
/** Granite multiplies embeddings by 12 and divides logits by 6. */
const GRANITE_SCALES: Readonly<Record<string, number>> = { ...SCALES, embed: 0.15, head: 0.75 };

const encoder = new TextEncoder();
const json = (value: unknown): Uint8Array => encoder.encode(JSON.stringify(value, null, 2) + "\n");

export function tinyModel(architecture: TinyArchitecture, seed: number, overrides: TinyOverrides = {}): TinyModel {
  const configJson: Record<string, unknown> = { ...CONFIGS[architecture], ...overrides.config };
  const layers = configJson["num_hidden_layers"] as number;
  // gpt-oss lists a type for each layer.
  if (architecture === "gpt_oss" && overrides.config?.["layer_types"] === undefined) {
    configJson["layer_types"] = Array.from({ length: layers }, (_, n) => (n % 2 === 0 ? "sliding_attention" : "full_attention"));
  }
  const source = ARCHITECTURES.find((a) => a.name === architecture)!;
  const published = source.fromHuggingFace(new ConfigFields("config.json", configJson), null);
  const { latentExperts, expertKind = published.expertKind } = overrides;
  const config: ModelConfig = { ...published, expertKind, ...(latentExperts === undefined ? {} : { latentExperts }) };
  const random = new SeededRandom(seed * 7919 + TINY_ARCHITECTURES.indexOf(architecture));
  const exactIn = overrides.exactIn ?? "BF16";
  const scales = architecture.startsWith("granite") ? GRANITE_SCALES : SCALES;
  const weights = new Map<string, TinyMatrix>();
  const matrix = (
    name: string, rows: number, cols: number, scale: number, exact: NonNullable<TinyOverrides["exactIn"]>,
    position = (i: number): readonly [number, number] => [Math.floor(i / cols), i % cols],
  ) => {
    // kB is the transpose of what makes keys of the latent row.
    const deviation = overrides.byFanIn === true && name !== "embed" ? scale * Math.sqrt(64 / (name.includes(".kB.") ? rows : cols)) : scale;
    let values = Float32Array.from({ length: rows * cols }, () => roundForAllTypes(random.normal() * deviation));
    if (exact === "F8_E4M3") values = roundToFp8(values, position);
    else if (exact !== "BF16") values = new Float32Array(decodeRows(exact, storedRows(exact, values, rows, cols), rows, cols));
    weights.set(name, { rows, cols, values });
  };
  const vector = (name: string, length: number) => {
    const last = name.split(".").at(-1)!;
    const scale = VECTOR_SCALES[last];
    const values = Float32Array.from({ length }, () => roundForAllTypes(scale === undefined ? 1 + 0.2 * random.normal() : (VECTOR_MEANS[last] ?? 0) + scale * random.normal()));
    weights.set(name, { rows: 1, cols: length, values });
  };
  for (const t of trunkTensors(config)) {
    const last = t.name.split(".").at(-1)!;
    if (t.kind === "vector") vector(t.name, t.length);
    else if (t.kind === "matrix") matrix(t.name, t.nRows, t.nCols, scales[last]!, last === "router" || last === "sharedGate" ? "BF16" : exactIn);
    else if (last === "latent") for (let i = 0; i < t.count; i++) matrix(`${t.name}.${i}`, t.nRows, t.nCols, SCALES[last]!, exactIn);
    else {
      // Where each value lies in kv_b, whose blocks FP8's factors belong to: kB is transposed there.
      const { nopeHeadDim, valueHeadDim } = config.mla!;
      for (let head = 0; head < t.count; head++) {
        const first = head * (nopeHeadDim + valueHeadDim);
        matrix(`${t.name}.${head}`, t.nRows, t.nCols, SCALES[last]!, exactIn, (i) => {
          const [row, col] = [Math.floor(i / t.nCols), i % t.nCols];
          return last === "kB" ? [first + col, row] : [first + nopeHeadDim + row, col];
        });
      }
    }
  }
  for (let layer = 0; layer < config.nLayers; layer++) {
    const width = sharedWidth(config, layer);
    for (const m of width > 0 ? EXPERT_MATRICES : []) {
      const { nRows, nCols } = ffnShape(config.hiddenSize, config.hiddenSize, width, m);
      matrix(`layers.${layer}.shared.${m}`, nRows, nCols, SCALES[m]!, exactIn);
    }
  }
  for (let layer = 0; layer < config.nLayers; layer++) {
    for (let expert = 0; config.layerFfns[layer] === "moe" && expert < config.nExperts; expert++) {
      for (const m of expertMatrices(config)) {
        const { nRows, nCols } = expertShape(config, m);
        matrix(`layers.${layer}.experts.${expert}.${m}`, nRows, nCols, SCALES[m]!, exactIn);
      }
      for (const b of expertBiases(config)) vector(`layers.${layer}.experts.${expert}.${b}`, b === "downBias" ? config.hiddenSize : config.expertIntermediateSize);
    }
  }

  const huggingFaceFiles = ({ dtype = "BF16", shards = 1, fused = false, experts = exactIn === "MXFP4" ? "mxfp4" : "plain", factors: factorType = "F32", extraLayer = false }: HuggingFaceOptions = {}): Map<string, Uint8Array> => {
    const tensors: TensorData[] = [];
    const isPacked = architecture === "gpt_oss" && experts === "mxfp4";
    const add = (name: string, shape: readonly number[], values: Float32Array, as: "F32" | "F16" | "BF16"): void =>
      void tensors.push({ name, dtype: as, shape, bytes: storedRows(as, values, 1, values.length) });
    const plainType = dtype === "F8_E4M3" ? "BF16" : dtype;
    for (const t of huggingFaceTensors(config, weights, { fused, withoutExperts: isPacked })) {
      const isFp8 = dtype === "F8_E4M3" && t.name.startsWith("model.layers.") && (t.class === "matrix" || t.class === "experts" || t.class === "mla");
      // The selection bias is F32 in every release.
      if (!isFp8) add(t.name, t.shape, t.values, t.name.endsWith("e_score_correction_bias") ? "F32" : plainType);
      else {
        tensors.push({ name: t.name, dtype: "F8_E4M3", shape: t.shape, bytes: fp8Codes(t.values, t.shape[1]!) });
        const factors = fp8Factors(t.shape[0]!, t.shape[1]!);
        add(`${t.name}_scale_inv`, factors.shape, factors.values, factorType);
      }
    }
    if (isPacked) for (let layer = 0; layer < config.nLayers; layer++) tensors.push(...mxfp4Tensors(config, weights, layer));
    if (extraLayer) {
      add(`model.layers.${config.nLayers}.eh_proj.weight`, [64, 128], new Float32Array(64 * 128), plainType);
      add(`model.layers.${config.nLayers}.mlp.experts.0.gate_proj.weight`, [32, 64], new Float32Array(32 * 64), plainType);
    }
    const settings = {
      ...configJson,
      ...(isPacked ? { quantization_config: { quant_method: "mxfp4", modules_to_not_convert: ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"] } } : {}),
      ...(dtype === "F8_E4M3" ? { quantization_config: { activation_scheme: "dynamic", fmt: "e4m3", quant_method: "fp8", weight_block_size: [128, 128] } } : {}),
    };
    return safetensorsFolder(tensors, shards)
      .set("config.json", json(settings))
      .set("generation_config.json", json({ eos_token_id: [0] }))
      .set("tokenizer.json", json(tinyTokenizerJson(config.vocabSize)))
      .set("tokenizer_config.json", json({ tokenizer_class: "PreTrainedTokenizerFast", add_bos_token: false, bos_token: null, eos_token: END_OF_TEXT, chat_template: TINY_CHAT_TEMPLATE, clean_up_tokenization_spaces: false }));
  };

  const ggufBytes = ({
    type = "F32", version = 3, alignment = 32, experts = "stacked", mla = "split", fusedQkv = false, overrideType, metadata = {}, extraLayer = false,
  }: GgufOptions = {}): Uint8Array => {
    const tensors: GgufTensor[] = [];
    const add = (name: string, asked: StoredType, shape: readonly number[], values: Float32Array): void => {
      const as = overrideType?.(name) ?? asked;
      tensors.push({ name, type: as, shape, bytes: storedRows(as, values, values.length / shape.at(-1)!, shape.at(-1)!) });
    };
    // A fused kv_b mixes what was rounded by rows with what was rounded by columns: a quantised type would round again.
    const typeOf = { matrix: type, experts: type, mla: ["F16", "BF16"].includes(type) ? type : "F32", vector: "F32", router: "F32" } as const;
    for (const t of ggufTensors(config, weights, { experts, mla, fusedQkv })) add(t.name, typeOf[t.class], t.shape, t.values);
    const scaling = configJson["rope_scaling"] as { short_factor?: number[]; long_factor?: number[] } | null | undefined;
    if (scaling?.short_factor !== undefined) {
      add("rope_factors_short.weight", "F32", [config.rope.dim / 2], Float32Array.from(scaling.short_factor));
      add("rope_factors_long.weight", "F32", [config.rope.dim / 2], Float32Array.from(scaling.long_factor!));
    }
    const fields = ggufMetadata(config, configJson, source.ggufName, mla);
    if (extraLayer) {
      add(`blk.${config.nLayers}.nextn.eh_proj.weight`, "F32", [64, 128], new Float32Array(64 * 128));
      fields.set(`${source.ggufName}.block_count`, u32(config.nLayers + 1)).set(`${source.ggufName}.nextn_predict_layers`, u32(1));
    }
    for (const [key, field] of Object.entries(metadata)) {
      if (field === null) fields.delete(key);
      else fields.set(key, field);
    }
    return ggufFile(fields, tensors, { version, alignment });
  };

  return { config, configJson, weights, huggingFaceFiles, ggufBytes };
}

/** gpt-oss' blocks [E, rows, H / 32, 16] and scales [E, rows, H / 32], gate in even and up in odd rows; byte j holds elements 2 j and 2 j + 1. */
function mxfp4Tensors(c: ModelConfig, weights: ReadonlyMap<string, TinyMatrix>, layer: number): TensorData[] {
  const pack = (name: string, rows: number, cols: number, row: (expert: number, i: number) => Float32Array): TensorData[] => {
    const groups = cols / 32;
    const blocks = new Uint8Array(c.nExperts * rows * groups * 16);
    const scales = new Uint8Array(c.nExperts * rows * groups);
    for (let r = 0; r < c.nExperts * rows; r++) {
      const stored = storedRows("MXFP4", row(Math.floor(r / rows), r % rows), 1, cols);
      for (let g = 0; g < groups; g++) {
        const at = r * groups + g;
        scales[at] = stored[g * 17]!;
        const code = (k: number): number => (k < 16 ? stored[g * 17 + 1 + k]! & 15 : stored[g * 17 + 1 + k - 16]! >> 4);
        for (let j = 0; j < 16; j++) blocks[at * 16 + j] = code(2 * j) | (code(2 * j + 1) << 4);
      }
    }
    return [
      { name: `${name}_blocks`, dtype: "U8", shape: [c.nExperts, rows, groups, 16], bytes: blocks },
      { name: `${name}_scales`, dtype: "U8", shape: [c.nExperts, rows, groups], bytes: scales },
    ];
  };
  const rowOf = (expert: number, part: string, i: number): Float32Array => {
    const { cols, values } = weights.get(`layers.${layer}.experts.${expert}.${part}`)!;
    return values.slice(i * cols, (i + 1) * cols);
  };
  const { hiddenSize: H, expertIntermediateSize: I } = c;
  return [
    ...pack(`model.layers.${layer}.mlp.experts.gate_up_proj`, 2 * I, H, (e, i) => rowOf(e, i % 2 === 0 ? "gate" : "up", i >> 1)),
    ...pack(`model.layers.${layer}.mlp.experts.down_proj`, H, I, (e, i) => rowOf(e, "down", i)),
  ];
}

/** Metadata as llama.cpp's converter writes it from the same config.json. */
function ggufMetadata(c: ModelConfig, source: Readonly<Record<string, unknown>>, arch: string, mla: GgufForm["mla"]): Map<string, GgufField> {
  const isMoe = c.nExperts > 0;
  const key = (name: string): string => `${arch}.${name}`;
  const fields = new Map<string, GgufField>([
    ["general.architecture", text(arch)],
    ["general.name", text("tiny")],
    [key("context_length"), u32(source["max_position_embeddings"] as number)],
    [key("embedding_length"), u32(c.hiddenSize)],
    [key("block_count"), u32(c.nLayers)],
    [key("feed_forward_length"), u32(source["intermediate_size"] as number)],
    [key("attention.head_count"), u32(c.nHeads)],
    [key("attention.head_count_kv"), u32(c.nKvHeads)],
    [key("attention.layer_norm_rms_epsilon"), f32(c.normEps)],
    [key("rope.freq_base"), f32(c.rope.theta)],
    [key("rope.dimension_count"), u32(c.rope.dim)],
    ["tokenizer.ggml.model", text("gpt2")],
    ["tokenizer.ggml.pre", text("gpt-2")],
    ["tokenizer.ggml.tokens", { type: "strings", value: tinyTokens(c.vocabSize) }],
    ["tokenizer.ggml.token_type", { type: "i32s", value: tinyTokens(c.vocabSize).map((_, id) => (id < 2 ? 3 : 1)) }],
    ["tokenizer.ggml.merges", { type: "strings", value: [] }],
    ["tokenizer.ggml.eos_token_id", u32(0)],
    ["tokenizer.ggml.add_bos_token", flag(false)],
    ["tokenizer.chat_template", text(TINY_CHAT_TEMPLATE)],
  ]);
  const set = (name: string, field: GgufField): void => void fields.set(key(name), field);
  if (isMoe) {
    set("expert_count", u32(c.nExperts));
    set("expert_used_count", u32(c.router.topK));
  }
  if (["olmoe", "qwen2moe", "qwen3moe", "deepseek2"].includes(arch)) set("expert_weights_norm", flag(c.router.weigh === "renormalize"));
  if (source["moe_intermediate_size"] !== undefined || arch === "gpt-oss") set("expert_feed_forward_length", u32(c.expertIntermediateSize));
  if (arch === "qwen2moe" || arch === "granitemoe") if (c.sharedIntermediateSize > 0) set("expert_shared_feed_forward_length", u32(c.sharedIntermediateSize));
  if (c.clipQkv !== null) set("attention.clamp_kqv", f32(c.clipQkv));
  if (c.mla === null) {
    set("attention.key_length", u32(c.headDim));
    set("attention.value_length", u32(c.headDim));
  } else {
    const { qLoraRank, kvLoraRank, nopeHeadDim, ropeHeadDim, valueHeadDim } = c.mla;
    set("vocab_size", u32(c.vocabSize));
    if (qLoraRank !== null) set("attention.q_lora_rank", u32(qLoraRank));
    set("attention.kv_lora_rank", u32(kvLoraRank));
    if (mla === "fused") {
      set("attention.head_count_kv", u32(c.nHeads));
      set("attention.key_length", u32(nopeHeadDim + ropeHeadDim));
      set("attention.value_length", u32(valueHeadDim));
    } else {
      set("attention.key_length", u32(kvLoraRank + ropeHeadDim));
      set("attention.value_length", u32(kvLoraRank));
      set("attention.key_length_mla", u32(nopeHeadDim + ropeHeadDim));
      set("attention.value_length_mla", u32(valueHeadDim));
    }
    set("leading_dense_block_count", u32(source["first_k_dense_replace"] as number));
    set("expert_shared_count", u32(source["n_shared_experts"] as number));
    set("expert_weights_scale", f32(c.router.scale));
    set("expert_gating_func", u32(c.router.score === "sigmoid" ? 2 : 1));
    if (c.router.nGroups > 1) {
      set("expert_group_count", u32(c.router.nGroups));
      set("expert_group_used_count", u32(c.router.topKGroups));
    }
  }
  if (arch === "granitemoe") {
    set("embedding_scale", f32(c.embeddingMultiplier));
    set("residual_scale", f32(c.residualMultiplier));
    set("logit_scale", f32(c.logitsScaling));
    set("attention.scale", f32(c.attentionScale));
  }
  if (arch === "phimoe" || arch === "gpt-oss") set("attention.sliding_window", u32(source["sliding_window"] as number));
  const scaling = source["rope_scaling"] as Readonly<Record<string, unknown>> | null | undefined;
  const type = scaling?.["rope_type"] ?? scaling?.["type"];
  if (type === "yarn") {
    set("rope.scaling.type", text("yarn"));
    set("rope.scaling.factor", f32(scaling!["factor"] as number));
    set("rope.scaling.original_context_length", u32(scaling!["original_max_position_embeddings"] as number));
    if (scaling!["mscale_all_dim"] !== undefined) set("rope.scaling.yarn_log_multiplier", f32(0.1 * (scaling!["mscale_all_dim"] as number)));
  } else if (type === "linear") {
    set("rope.scaling.type", text("linear"));
    set("rope.scaling.factor", f32(scaling!["factor"] as number));
  } else if (type === "longrope") {
    set("rope.scaling.original_context_length", u32(scaling!["original_max_position_embeddings"] as number));
    const factor = (source["max_position_embeddings"] as number) / (scaling!["original_max_position_embeddings"] as number);
    set("rope.scaling.attn_factor", f32(Math.sqrt(1 + Math.log(factor) / Math.log(scaling!["original_max_position_embeddings"] as number))));
  }
  return fields;
}
