// Tiny seeded models of every architecture, as weights by canonical name, as Hugging Face folders and as GGUF files.
// All forms hold the same numbers: weights are rounded to values that F32, F16 and BF16 share, or, on request, to values
// that Q8_0 or Q4_0 hold. Scales are chosen so that logits are of order 1 to 10 and routers decide clearly.
// Refuses learning anything: these models are for arithmetic, not for text.

import { ARCHITECTURES } from "../../model/architectures/index.ts";
import { ConfigFields } from "../../model/architectures/config-fields.ts";
import { EXPERT_MATRICES, type ExpertMatrix, type ModelConfig, expertShape, trunkTensors } from "../../model/config.ts";
import { decodeRows } from "../../formats/dequantize.ts";
import type { StoredType } from "../../formats/stored-types.ts";
import { type GgufField, type GgufTensor, f32, flag, ggufFile, text, u32 } from "./gguf-writer.ts";
import { type TensorData, safetensorsFolder } from "./safetensors-writer.ts";
import { SeededRandom } from "./seeded-random.ts";
import { roundForAllTypes, storedRows } from "./stored-rows.ts";
import { END_OF_TEXT, TINY_CHAT_TEMPLATE, tinyTokenizerJson, tinyTokens } from "./tiny-tokenizer.ts";

export type TinyArchitecture = "olmoe" | "qwen3_moe" | "mixtral";
export const TINY_ARCHITECTURES: readonly TinyArchitecture[] = ["olmoe", "qwen3_moe", "mixtral"];

export interface TinyOverrides {
  /** Keys of config.json to set or replace (sizes, norm_topk_prob, clip_qkv, tie_word_embeddings, rope_scaling ...). */
  readonly config?: Readonly<Record<string, unknown>>;
  /** What every matrix but the router is exactly representable in. Default BF16, which also suits F16 and F32. */
  readonly exactIn?: "BF16" | "Q8_0" | "Q4_0";
}

export interface TinyMatrix {
  readonly rows: number;
  readonly cols: number;
  readonly values: Float32Array; // [rows, cols]
}

export interface HuggingFaceOptions {
  readonly dtype?: "F32" | "F16" | "BF16";
  readonly shards?: number;
  /** Experts as stacked, fused tensors (gate_up_proj [E, 2I, H], down_proj [E, H, I]). */
  readonly fused?: boolean;
}

export interface GgufOptions {
  readonly type?: StoredType;
  readonly version?: 2 | 3;
  readonly alignment?: number;
  /** How experts are stored: one tensor for all, gate and up fused, or one tensor each. */
  readonly experts?: "stacked" | "fused" | "own";
  /** Another type for single tensors, by their GGUF name; null keeps `type`. */
  readonly overrideType?: (name: string) => StoredType | null;
}

export interface TinyModel {
  readonly config: ModelConfig;
  /** Trunk tensors by their canonical name; experts as "layers.N.experts.E.gate" (up, down). Vectors have one row. */
  readonly weights: ReadonlyMap<string, TinyMatrix>;
  /** Files of the Hugging Face folder, by name. */
  huggingFaceFiles(options?: HuggingFaceOptions): Map<string, Uint8Array>;
  ggufBytes(options?: GgufOptions): Uint8Array;
}

const SIZES = { vocab_size: 97, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, num_experts_per_tok: 2,
  max_position_embeddings: 128, hidden_act: "silu", tie_word_embeddings: false, eos_token_id: 0 };

const CONFIGS: Readonly<Record<TinyArchitecture, Readonly<Record<string, unknown>>>> = {
  olmoe: { ...SIZES, model_type: "olmoe", num_experts: 8, intermediate_size: 32, rms_norm_eps: 1e-5, rope_theta: 10000, rope_scaling: null,
    norm_topk_prob: false, attention_bias: false, clip_qkv: null },
  // A head dimension of its own: 4 heads of 32 in a hidden size of 64.
  qwen3_moe: { ...SIZES, model_type: "qwen3_moe", head_dim: 32, num_experts: 8, moe_intermediate_size: 64, intermediate_size: 128, rms_norm_eps: 1e-6,
    rope_theta: 1000000, norm_topk_prob: true, attention_bias: false, decoder_sparse_step: 1, mlp_only_layers: [] },
  mixtral: { ...SIZES, model_type: "mixtral", head_dim: null, num_local_experts: 8, intermediate_size: 64, rms_norm_eps: 1e-5, rope_theta: 1000000,
    sliding_window: null },
};

/** Standard deviations; norms are 1 plus a fifth of a normal deviate. */
const SCALES: Readonly<Record<string, number>> = { embed: 1, q: 0.15, k: 0.15, v: 0.15, o: 0.15, router: 0.3, head: 0.25, gate: 0.15, up: 0.15, down: 0.2 };

const encoder = new TextEncoder();
const json = (value: unknown): Uint8Array => encoder.encode(JSON.stringify(value, null, 2) + "\n");

export function tinyModel(architecture: TinyArchitecture, seed: number, overrides: TinyOverrides = {}): TinyModel {
  const configJson: Record<string, unknown> = { ...CONFIGS[architecture], ...overrides.config };
  const source = ARCHITECTURES.find((a) => a.name === architecture)!;
  const config = source.fromHuggingFace(new ConfigFields("config.json", configJson), null);
  const random = new SeededRandom(seed * 7919 + TINY_ARCHITECTURES.indexOf(architecture));
  const exactIn = overrides.exactIn ?? "BF16";
  const weights = new Map<string, TinyMatrix>();
  const matrix = (name: string, rows: number, cols: number, scale: number, exact: StoredType) => {
    let values = Float32Array.from({ length: rows * cols }, () => roundForAllTypes(random.normal() * scale));
    if (exact === "Q8_0" || exact === "Q4_0") values = new Float32Array(decodeRows(exact, storedRows(exact, values, rows, cols), rows, cols));
    weights.set(name, { rows, cols, values });
  };
  for (const t of trunkTensors(config)) {
    const last = t.name.split(".").at(-1)!;
    if (t.kind === "matrix") matrix(t.name, t.nRows, t.nCols, SCALES[last]!, last === "router" ? "BF16" : exactIn);
    else weights.set(t.name, { rows: 1, cols: t.length, values: Float32Array.from({ length: t.length }, () => roundForAllTypes(1 + 0.2 * random.normal())) });
  }
  for (let layer = 0; layer < config.nLayers; layer++) {
    for (let expert = 0; expert < config.nExperts; expert++) {
      for (const m of EXPERT_MATRICES) {
        const { nRows, nCols } = expertShape(config, m);
        matrix(`layers.${layer}.experts.${expert}.${m}`, nRows, nCols, SCALES[m]!, exactIn);
      }
    }
  }

  const sourceName = (names: Readonly<Record<string, string>>, canonical: string): string => {
    const [, layer, last] = /^layers\.(\d+)\.(.+)$/.exec(canonical) ?? [null, "", canonical];
    return names[last!]!.replace("{layer}", layer!);
  };
  const expertOf = (layer: number, expert: number, m: ExpertMatrix): TinyMatrix => weights.get(`layers.${layer}.experts.${expert}.${m}`)!;
  const join = (parts: readonly TinyMatrix[]): Float32Array => {
    const out = new Float32Array(parts.reduce((n, p) => n + p.values.length, 0));
    let at = 0;
    for (const p of parts) {
      out.set(p.values, at);
      at += p.values.length;
    }
    return out;
  };
  const everyExpert = (layer: number, ...of: ExpertMatrix[]): TinyMatrix[] =>
    Array.from({ length: config.nExperts }, (_, e) => of.map((m) => expertOf(layer, e, m))).flat();

  const huggingFaceFiles = ({ dtype = "BF16", shards = 1, fused = false }: HuggingFaceOptions = {}): Map<string, Uint8Array> => {
    const tensors: TensorData[] = [];
    const add = (name: string, shape: readonly number[], values: Float32Array) =>
      tensors.push({ name, dtype, shape, bytes: storedRows(dtype, values, 1, values.length) });
    for (const t of trunkTensors(config)) {
      const { values } = weights.get(t.name)!;
      add(sourceName(source.huggingFace.trunk, t.name), t.kind === "matrix" ? [t.nRows, t.nCols] : [t.length], values);
    }
    const { hiddenSize: H, expertIntermediateSize: I, nExperts: E } = config;
    for (let layer = 0; layer < config.nLayers; layer++) {
      if (fused) {
        add(`model.layers.${layer}.mlp.experts.gate_up_proj`, [E, 2 * I, H], join(everyExpert(layer, "gate", "up")));
        add(`model.layers.${layer}.mlp.experts.down_proj`, [E, H, I], join(everyExpert(layer, "down")));
        continue;
      }
      for (let expert = 0; expert < E; expert++) {
        for (const m of EXPERT_MATRICES) {
          const { rows, cols, values } = expertOf(layer, expert, m);
          add(source.huggingFace.experts[m][0]!.tensor.replace("{layer}", `${layer}`).replace("{expert}", `${expert}`), [rows, cols], values);
        }
      }
    }
    return safetensorsFolder(tensors, shards)
      .set("config.json", json(configJson))
      .set("generation_config.json", json({ eos_token_id: [0] }))
      .set("tokenizer.json", json(tinyTokenizerJson(config.vocabSize)))
      .set("tokenizer_config.json", json({ tokenizer_class: "PreTrainedTokenizerFast", add_bos_token: false, bos_token: null, eos_token: END_OF_TEXT, chat_template: TINY_CHAT_TEMPLATE, clean_up_tokenization_spaces: false }));
  };

  const ggufBytes = ({ type = "F32", version = 3, alignment = 32, experts = "stacked", overrideType }: GgufOptions = {}): Uint8Array => {
    const tensors: GgufTensor[] = [];
    const add = (name: string, asked: StoredType, shape: readonly number[], values: Float32Array): void => {
      const as = overrideType?.(name) ?? asked;
      tensors.push({ name, type: as, shape, bytes: storedRows(as, values, values.length / shape.at(-1)!, shape.at(-1)!) });
    };
    for (const t of trunkTensors(config)) {
      const m = weights.get(t.name)!;
      const last = t.name.split(".").at(-1)!;
      const permuted = architecture === "mixtral" && (last === "q" || last === "k");
      const values = permuted ? permuteForGguf(m, last === "q" ? config.nHeads : config.nKvHeads) : m.values;
      if (t.kind === "vector") add(sourceName(source.gguf.trunk, t.name), "F32", [t.length], values);
      else add(sourceName(source.gguf.trunk, t.name), last === "router" ? "F32" : type, [t.nRows, t.nCols], values);
    }
    const { hiddenSize: H, expertIntermediateSize: I, nExperts: E } = config;
    for (let layer = 0; layer < config.nLayers; layer++) {
      const at = `blk.${layer}.`;
      if (experts === "own") {
        for (let e = 0; e < E; e++) for (const m of EXPERT_MATRICES) {
          const { rows, cols, values } = expertOf(layer, e, m);
          add(`${at}ffn_${m}.${e}.weight`, type, [rows, cols], values);
        }
        continue;
      }
      if (experts === "fused") add(`${at}ffn_gate_up_exps.weight`, type, [E, 2 * I, H], join(everyExpert(layer, "gate", "up")));
      else for (const m of ["gate", "up"] as const) add(`${at}ffn_${m}_exps.weight`, type, [E, I, H], join(everyExpert(layer, m)));
      add(`${at}ffn_down_exps.weight`, type, [E, H, I], join(everyExpert(layer, "down")));
    }
    return ggufFile(ggufMetadata(config, source.ggufName), tensors, { version, alignment });
  };

  return {
    config, weights, huggingFaceFiles, ggufBytes,
  };
}

/** Rows of q and k as llama.cpp's converter orders them for interleaved rotary: [head][half][pair] -> [head][pair][half]. */
export function permuteForGguf(m: TinyMatrix, nHeads: number): Float32Array {
  const headRows = m.rows / nHeads;
  const out = new Float32Array(m.values.length);
  for (let h = 0; h < nHeads; h++) {
    for (let i = 0; i < headRows / 2; i++) {
      for (let half = 0; half < 2; half++) {
        const from = (h * headRows + half * (headRows / 2) + i) * m.cols;
        out.set(m.values.subarray(from, from + m.cols), (h * headRows + 2 * i + half) * m.cols);
      }
    }
  }
  return out;
}

function ggufMetadata(c: ModelConfig, arch: string): Map<string, GgufField> {
  const fields = new Map<string, GgufField>([
    ["general.architecture", text(arch)],
    ["general.name", text("tiny")],
    [`${arch}.context_length`, u32(c.maxPositions)],
    [`${arch}.embedding_length`, u32(c.hiddenSize)],
    [`${arch}.block_count`, u32(c.nLayers)],
    [`${arch}.feed_forward_length`, u32(c.expertIntermediateSize)],
    [`${arch}.attention.head_count`, u32(c.nHeads)],
    [`${arch}.attention.head_count_kv`, u32(c.nKvHeads)],
    [`${arch}.attention.key_length`, u32(c.headDim)],
    [`${arch}.attention.value_length`, u32(c.headDim)],
    [`${arch}.attention.layer_norm_rms_epsilon`, f32(c.normEps)],
    [`${arch}.rope.freq_base`, f32(c.rope.theta)],
    [`${arch}.rope.dimension_count`, u32(c.rope.dim)],
    [`${arch}.expert_count`, u32(c.nExperts)],
    [`${arch}.expert_used_count`, u32(c.router.topK)],
    [`${arch}.expert_weights_norm`, flag(c.router.weigh === "renormalize")],
    ["tokenizer.ggml.model", text("gpt2")],
    ["tokenizer.ggml.pre", text("gpt-2")],
    ["tokenizer.ggml.tokens", { type: "strings", value: tinyTokens(c.vocabSize) }],
    ["tokenizer.ggml.token_type", { type: "i32s", value: tinyTokens(c.vocabSize).map((_, id) => (id < 2 ? 3 : 1)) }],
    ["tokenizer.ggml.merges", { type: "strings", value: [] }],
    ["tokenizer.ggml.eos_token_id", u32(0)],
    ["tokenizer.ggml.add_bos_token", flag(false)],
    ["tokenizer.chat_template", text(TINY_CHAT_TEMPLATE)],
  ]);
  if (arch === "qwen3moe") fields.set(`${arch}.expert_feed_forward_length`, u32(c.expertIntermediateSize));
  if (c.clipQkv !== null) fields.set(`${arch}.attention.clamp_kqv`, f32(c.clipQkv));
  return fields;
}
