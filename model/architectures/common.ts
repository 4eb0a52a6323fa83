// What all architectures read alike: sizes, rotary scaling, end-of-text ids, GGUF key names, and the frozen record.
// Owns the defaults that are no flags (granite's multipliers at 1, no groups). Refuses what the engine has no place for,
// naming the key. Rope scaling: transformers' modeling_rope_utils; GGUF: llama.cpp's rope.scaling keys.

import { ModelError, type ModelConfig, type RopeConfig, type RouterConfig } from "../config.ts";
import type { RopeStyle } from "../kernels.ts";
import { linearInverseFrequencies, plainInverseFrequencies, yarnFrequencies, yarnMscale } from "../rope.ts";
import type { ConfigFields } from "./config-fields.ts";

/** Settings that most architectures leave alone. */
export const PLAIN = {
  qkvBias: false,
  clipQkv: null,
  denseIntermediateSize: 0,
  sharedIntermediateSize: 0,
  sharedGate: false,
  embeddingMultiplier: 1,
  residualMultiplier: 1,
  logitsScaling: 1,
  bosTokenId: null,
} as const;

/** Softmax over all experts, then top-k; the commonest router. */
export const softmaxRouter = (topK: number, weigh: RouterConfig["weigh"]): RouterConfig => ({
  score: "softmax", weigh, scale: 1, topK, logitBias: false, selectionBias: false, nGroups: 1, topKGroups: 1, groupScore: "max",
});

export const everyLayer = <T>(nLayers: number, value: T): T[] => Array.from({ length: nLayers }, () => value);

/** Ascending ids without repeats. */
export const ascendingIds = (...lists: (readonly number[])[]): number[] => [...new Set(lists.flat())].sort((a, b) => a - b);

/** Checks what no schema says, then freezes the record and its lists. */
export function freezeConfig(file: string, c: ModelConfig): ModelConfig {
  const wrong = (what: string): never => { throw new ModelError(`${file}: ${what}.`); };
  if (c.nHeads % c.nKvHeads !== 0) wrong(`${c.nHeads} attention heads are no multiple of ${c.nKvHeads} key-value heads`);
  if (c.headDim % 2 !== 0) wrong(`the head dimension ${c.headDim} is odd, expected an even number`);
  if (c.rope.dim % 2 !== 0 || c.rope.dim > c.headDim) wrong(`${c.rope.dim} rotated dimensions do not fit heads of ${c.headDim}`);
  if (c.router.topK > c.nExperts) wrong(`${c.router.topK} experts per token of ${c.nExperts} experts`);
  for (const id of c.eosTokenIds) if (id >= c.vocabSize) wrong(`end-of-text id ${id} is outside the vocabulary of ${c.vocabSize}`);
  for (const list of [c.slidingWindows, c.layerFfns, c.eosTokenIds, c.rope.inverseFrequencies]) Object.freeze(list);
  Object.freeze(c.rope);
  Object.freeze(c.router);
  return Object.freeze(c);
}

/** Head dimension: given, or hidden / heads. */
function headDimOf(f: ConfigFields, hiddenSize: number, nHeads: number): number {
  if (f.has("head_dim")) return f.integer("head_dim", 2);
  if (hiddenSize % nHeads !== 0) {
    throw new ModelError(`${f.file}: hidden_size ${hiddenSize} is no multiple of num_attention_heads ${nHeads}, and there is no head_dim.`);
  }
  return hiddenSize / nHeads;
}

/**
 * What every MoE config.json states under the same keys. `theta` and `normEps` are the defaults of the architecture's config class.
 * Left to the architecture: key-value heads, windows, norms, experts.
 */
export function sizesOfHuggingFace(f: ConfigFields, generation: ConfigFields | null, style: RopeStyle, defaults: { readonly theta: number; readonly normEps: number }) {
  const hiddenSize = f.integer("hidden_size", 1);
  const nHeads = f.integer("num_attention_heads", 1);
  const nLayers = f.integer("num_hidden_layers", 1);
  const headDim = headDimOf(f, hiddenSize, nHeads);
  return {
    ...ropeOfHuggingFace(f, style, headDim, defaults.theta),
    vocabSize: f.integer("vocab_size", 1),
    hiddenSize, nLayers, nHeads, headDim,
    normEps: f.positive("rms_norm_eps", defaults.normEps),
    attentionScale: headDim ** -0.5,
    layerFfns: everyLayer(nLayers, "moe" as const),
    tieWordEmbeddings: f.boolean("tie_word_embeddings", false),
    eosTokenIds: ascendingIds(f.ids("eos_token_id"), generation?.ids("eos_token_id") ?? []),
  };
}

/** Settings of a Hugging Face config that no supported architecture has; each would change the result if it were passed over. */
export function refuseForeignSettings(f: ConfigFields): void {
  f.only("hidden_act", ["silu"], "another activation");
  f.only("attention_bias", [false], "biases in attention");
  f.only("mlp_bias", [false], "biases in experts");
  f.only("quantization_config", [], "weights quantised by another program; use the unquantised checkpoint, or a GGUF file");
  const types = f.values["layer_types"];
  if (Array.isArray(types) && types.some((t) => t !== "full_attention")) throw f.error("layer_types", `"full_attention" in every layer`);
}

/** Rotary settings of a Hugging Face config, in the old form (rope_theta, rope_scaling) or the new (rope_parameters). */
function ropeOfHuggingFace(f: ConfigFields, style: RopeStyle, dim: number, defaultTheta: number): { rope: RopeConfig; maxPositions: number } {
  const declared = f.integer("max_position_embeddings", 1);
  const parameters = f.object("rope_parameters");
  const scaling = parameters ?? f.object("rope_scaling");
  const theta = parameters?.has("rope_theta") ? parameters.positive("rope_theta") : f.positive("rope_theta", defaultTheta);
  f.only("partial_rotary_factor", [1], "rotating a part of each head");
  const type = scaling === null ? "default" : scaling.string(scaling.has("rope_type") ? "rope_type" : "type", "default");
  const plain = (inverseFrequencies: number[], maxPositions: number, magnitude = 1) =>
    ({ rope: { style, dim, theta, inverseFrequencies, magnitude }, maxPositions });
  if (scaling === null || type === "default") return plain(plainInverseFrequencies(dim, theta), declared);
  if (type === "linear") {
    return plain(linearInverseFrequencies(dim, theta, scaling.positive("factor")), declared);
  }
  if (type === "yarn") {
    const factor = scaling.positive("factor");
    const originalContext = scaling.integer("original_max_position_embeddings", 1, declared);
    const { inverseFrequencies } = yarnFrequencies({
      dim, theta, factor, originalContext,
      betaFast: scaling.positive("beta_fast", 32), betaSlow: scaling.positive("beta_slow", 1), truncate: scaling.boolean("truncate", true),
    });
    const magnitude = scaling.has("attention_factor") ? scaling.positive("attention_factor")
      : scaling.has("mscale") && scaling.has("mscale_all_dim")
        ? yarnMscale(factor, scaling.positive("mscale")) / yarnMscale(factor, scaling.positive("mscale_all_dim"))
        : yarnMscale(factor);
    return plain(inverseFrequencies, Math.max(declared, Math.floor(originalContext * factor)), magnitude);
  }
  throw new ModelError(`${scaling.file} has rope type "${type}", which this version cannot run; expected "default", "linear" or "yarn".`);
}

/** Rotary settings of GGUF metadata. `arch` prefixes the keys. */
function ropeOfGguf(f: ConfigFields, arch: string, style: RopeStyle, dim: number): { rope: RopeConfig; maxPositions: number } {
  const declared = f.integer(`${arch}.context_length`, 1);
  const theta = decimalOfF32(f.positive(`${arch}.rope.freq_base`, 10000));
  f.only(`${arch}.rope.dimension_count`, [dim], "rotating a part of each head");
  const type = f.string(`${arch}.rope.scaling.type`, "none");
  let inverseFrequencies: number[];
  let maxPositions = declared;
  let magnitude = 1;
  if (type === "none") {
    // Files older than the typed keys give linear scaling by this one alone.
    const factor = f.positive(`${arch}.rope.scale_linear`, 1);
    inverseFrequencies = linearInverseFrequencies(dim, theta, factor);
  } else if (type === "linear") {
    inverseFrequencies = linearInverseFrequencies(dim, theta, f.positive(`${arch}.rope.scaling.factor`));
  } else if (type === "yarn") {
    const factor = f.positive(`${arch}.rope.scaling.factor`);
    const originalContext = f.integer(`${arch}.rope.scaling.original_context_length`, 1, declared);
    inverseFrequencies = yarnFrequencies({
      dim, theta, factor, originalContext, truncate: true,
      betaFast: f.positive(`${arch}.rope.scaling.yarn_beta_fast`, 32), betaSlow: f.positive(`${arch}.rope.scaling.yarn_beta_slow`, 1),
    }).inverseFrequencies;
    magnitude = f.positive(`${arch}.rope.scaling.attn_factor`, 1) * yarnMscale(factor);
    maxPositions = Math.max(declared, Math.floor(originalContext * factor));
  } else {
    throw new ModelError(`${f.file} has ${arch}.rope.scaling.type = "${type}", which this version cannot run; expected "none", "linear" or "yarn".`);
  }
  return { rope: { style, dim, theta, inverseFrequencies, magnitude }, maxPositions };
}

/** What every MoE GGUF states under its architecture's prefix, and the number of experts per token apart. */
export function sizesOfGguf(f: ConfigFields, arch: string, style: RopeStyle, hasTensor: (name: string) => boolean) {
  const hiddenSize = f.integer(`${arch}.embedding_length`, 1);
  const nHeads = f.integer(`${arch}.attention.head_count`, 1);
  const headDim = f.has(`${arch}.attention.key_length`) ? f.integer(`${arch}.attention.key_length`, 2) : hiddenSize / nHeads;
  if (!Number.isInteger(headDim)) throw new ModelError(`${f.file}: embedding_length ${hiddenSize} is no multiple of head_count ${nHeads}.`);
  f.only(`${arch}.attention.value_length`, [headDim], "values of another width than keys");
  for (const key of ["expert_shared_count", "leading_dense_block_count", "expert_group_count"]) {
    f.only(`${arch}.${key}`, [0, ...(key === "expert_group_count" ? [1] : [])], "the architecture has none");
  }
  f.only(`${arch}.expert_weights_scale`, [0, 1], "scaled expert weights");
  for (const key of ["embedding_scale", "residual_scale", "logit_scale", "attention.scale", "attn_logit_softcapping", "final_logit_softcapping"]) {
    f.only(`${arch}.${key}`, [0], "the architecture has no such factor");
  }
  const tokens = f.values["tokenizer.ggml.tokens"];
  const vocabSize = f.has(`${arch}.vocab_size`) ? f.integer(`${arch}.vocab_size`, 1) : Array.isArray(tokens) ? tokens.length : 0;
  if (vocabSize === 0) throw new ModelError(`${f.file} has neither ${arch}.vocab_size nor tokenizer.ggml.tokens, so the size of the vocabulary is unknown.`);
  f.only(`${arch}.expert_gating_func`, [1], "another router score");
  const nLayers = f.integer(`${arch}.block_count`, 1);
  const sizes = {
    ...ropeOfGguf(f, arch, style, headDim),
    vocabSize, hiddenSize, nHeads, headDim, nLayers,
    nKvHeads: f.integer(`${arch}.attention.head_count_kv`, 1, nHeads),
    normEps: decimalOfF32(f.positive(`${arch}.attention.layer_norm_rms_epsilon`)),
    attentionScale: headDim ** -0.5,
    layerFfns: everyLayer(nLayers, "moe" as const),
    nExperts: f.integer(`${arch}.expert_count`, 1),
    expertIntermediateSize: expertWidthOfGguf(f, arch),
    tieWordEmbeddings: !hasTensor("output.weight"),
    eosTokenIds: ascendingIds(f.ids("tokenizer.ggml.eos_token_id"), f.ids("tokenizer.ggml.eot_token_id")),
  };
  return { sizes, topK: f.integer(`${arch}.expert_used_count`, 1) };
}

/** GGUF holds 1e-5 as an f32; the shortest decimal with that f32 is the number that was meant. */
function decimalOfF32(x: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const decimal = Number(x.toPrecision(digits));
    if (Math.fround(decimal) === Math.fround(x)) return decimal;
  }
  return x;
}

/** Width of one expert in GGUF: its own key, or the feed-forward length where that key is missing (Mixtral, OLMoE). */
const expertWidthOfGguf = (f: ConfigFields, arch: string): number =>
  f.has(`${arch}.expert_feed_forward_length`) ? f.integer(`${arch}.expert_feed_forward_length`, 1) : f.integer(`${arch}.feed_forward_length`, 1);
