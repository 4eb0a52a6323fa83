// What all architectures read alike: sizes, windows, biases, end-of-text ids, GGUF key names, and the frozen record.
// Owns the defaults that are no flags (granite's multipliers at 1, no groups). Refuses what the engine has no place for,
// naming the key. Rotary settings are rope-settings.ts; keys of other architectures config-keys.ts.

import { auxiliariesOf, type LayerFfn, ModelError, type ModelConfig, type RouterConfig } from "../config.ts";
import { checkRouter } from "../router-config.ts";
import type { RopeStyle } from "../kernels.ts";
import type { GgufTensors } from "./architecture.ts";
import type { ConfigFields } from "./config-fields.ts";
import { decimalOfF32, ropeOfGguf, ropeOfHuggingFace } from "./rope-settings.ts";

/** Settings that most architectures leave alone. */
export const PLAIN = {
  mla: null,
  norm: "rms",
  qkNorm: "none",
  attentionSinks: false,
  clipQkv: null,
  denseIntermediateSize: 0,
  expertKind: "swiglu",
  swigluLimit: 0,
  sharedIntermediateSize: 0,
  sharedGate: false,
  headBias: false,
  embeddingMultiplier: 1,
  residualMultiplier: 1,
  logitsScaling: 1,
  bosTokenId: null,
} as const;

const PLAIN_ROUTER = {
  score: "softmax", select: "top-k", sparsemixerEpsilon: 0, weigh: "score", scale: 1, topK: 0, logitBias: false, selectionBias: false, nGroups: 1, topKGroups: 1,
  groupScore: "max",
} as const satisfies RouterConfig;

/** Softmax over all experts, then top-k; the commonest router. */
export const softmaxRouter = (topK: number, weigh: RouterConfig["weigh"]): RouterConfig => ({ ...PLAIN_ROUTER, weigh, topK });
/** Top-k of the logits, then softmax over those (Granite, gpt-oss). */
export const selectedSoftmaxRouter = (topK: number, logitBias: boolean): RouterConfig =>
  ({ ...PLAIN_ROUTER, score: "logits", weigh: "softmax-selected", topK, logitBias });
/** PhiMoE's two experts. */
export const sparsemixerRouter = (topK: number, sparsemixerEpsilon: number): RouterConfig =>
  ({ ...PLAIN_ROUTER, score: "logits", select: "sparsemixer", sparsemixerEpsilon, topK });
/** DeepSeek-V2 and V3. */
export const groupedRouter = (r: Pick<RouterConfig, "score" | "weigh" | "scale" | "topK" | "selectionBias" | "nGroups" | "topKGroups" | "groupScore">): RouterConfig =>
  ({ ...PLAIN_ROUTER, ...r });

/** A model without experts. */
export const NO_EXPERTS = { nExperts: 0, expertIntermediateSize: 0, router: { ...PLAIN_ROUTER, score: "one" } } as const;

export const everyLayer = <T>(nLayers: number, value: T): T[] => Array.from({ length: nLayers }, () => value);

/** Ascending ids without repeats. */
export const ascendingIds = (...lists: (readonly number[])[]): number[] => [...new Set(lists.flat())].sort((a, b) => a - b);

/** Checks what no schema says: what one setting means for another. Throws ModelError naming `file`. */
export function checkConfig(file: string, c: ModelConfig): void {
  const wrong = (what: string): never => { throw new ModelError(`${file}: ${what}.`); };
  if (c.nHeads % c.nKvHeads !== 0) wrong(`${c.nHeads} attention heads are no multiple of ${c.nKvHeads} key-value heads`);
  // Rows of activations and of the cache are whole vectors of four f32.
  const fourfold: readonly (readonly [string, number])[] = c.mla === null
    ? [["the hidden size", c.hiddenSize], ["the head dimension", c.headDim]]
    : [["the hidden size", c.hiddenSize], ["the rank of keys and values (kv_lora_rank)", c.mla.kvLoraRank], ["the unrotated part of a head (qk_nope_head_dim)", c.mla.nopeHeadDim],
      ["the rotated part of a head (qk_rope_head_dim)", c.mla.ropeHeadDim], ["a head of values (v_head_dim)", c.mla.valueHeadDim]];
  for (const [what, size] of fourfold) if (size % 4 !== 0) wrong(`${what} is ${size}, expected a multiple of 4`);
  // Keys of latent attention are the cached rows (config.ts): another width would be read past their end.
  if (c.mla !== null && (c.headDim !== c.mla.kvLoraRank + c.mla.ropeHeadDim || c.rope.dim !== c.mla.ropeHeadDim || c.nKvHeads !== 1))
    wrong(`${c.nKvHeads} key-value heads of ${c.headDim}, ${c.rope.dim} of them rotated, do not fit latent attention of rank ${c.mla.kvLoraRank} with ${c.mla.ropeHeadDim} rotated`);
  if (c.layerFfns.includes("dense") && c.denseIntermediateSize === 0) wrong("there are dense layers, but they are 0 wide");
  if (c.rope.dim % 2 !== 0 || c.rope.dim > c.headDim) wrong(`${c.rope.dim} rotated dimensions do not fit heads of ${c.headDim}`);
  checkRouter(c, wrong);
  const { topK } = c.router;
  const auxiliaries = auxiliariesOf(c.router);
  if (c.onlinePruning != null) {
    const { ratios, keepRouter } = c.onlinePruning;
    if (ratios !== null && ratios.length !== c.nLayers) wrong(`onlinePruning has ${ratios.length} ratios, expected one for each of ${c.nLayers} layers`);
    if (ratios?.some((ratio, layer) => ratio > 0 && c.layerFfns[layer] !== "moe")) wrong("onlinePruning has ratios above 0 in layers without experts");
    if ((ratios !== null || keepRouter) && topK < 2) wrong(`onlinePruning leaves out experts, but a token takes ${topK}; expected at least 2`);
  }
  if (c.expertPool !== undefined) {
    const { layers } = c.expertPool;
    if (layers < 2 || c.nLayers % layers !== 0) wrong(`pools of experts span ${layers} layers each, expected two or more that divide ${c.nLayers}`);
    if (c.layerFfns.some((kind) => kind !== "moe")) wrong("layers share pools of experts, but not every layer has experts");
  }
  if (c.latentExperts !== undefined) {
    const { rank, nGroups: nLatent } = c.latentExperts;
    if (auxiliaries > 0) wrong("it has latent experts and auxiliary ones; expected one of them, since a scaled row has no latent form here");
    if (rank % 32 !== 0 || rank > c.hiddenSize) wrong(`latent experts read rows of ${rank}, expected a multiple of 32 of at most ${c.hiddenSize}, the hidden size`);
    if (c.nExperts === 0 || c.nExperts % nLatent !== 0) wrong(`${c.nExperts} experts are no multiple of ${nLatent} latent groups`);
  }
  const nProduct = c.layerFfns.filter((kind) => kind === "product").length;
  if ((nProduct > 0) !== (c.productExperts !== undefined)) wrong(`${nProduct} layers have product experts, but productExperts is ${c.productExperts === undefined ? "missing" : "there"}`);
  if (c.productExperts !== undefined) {
    const { form, nKeys, nHeads, topK: nKept, expertSize, routerLayers } = c.productExperts;
    if (nKept > nKeys) wrong(`productExperts keeps ${nKept} keys of ${nKeys}`);
    // Rows and their halves are whole vectors of four f32.
    const parts: readonly (readonly [string, number])[] = [[`the keys of all heads, ${nHeads} x ${nKeys}`, nHeads * nKeys], ...(form === "vertical" ? [[`half the hidden size, ${c.hiddenSize} / 2`, c.hiddenSize / 2] as const] : []),
      [`the hidden units of a codebook, ${nKeys} x ${expertSize}${form === "vertical" ? " / 2" : ""}`, nKeys * expertSize / (form === "vertical" ? 2 : 1)]];
    for (const [what, size] of parts) if (size % 4 !== 0) wrong(`productExperts: ${what}, is ${size}, expected a multiple of 4`);
    if (form === "vertical" && expertSize % 2 !== 0) wrong(`productExperts: vertical experts of ${expertSize} hidden units, expected an even number`);
    const orphan = c.layerFfns.findIndex((kind, layer) => kind === "product" && c.layerFfns[layer - layer % routerLayers] !== "product");
    if (orphan >= 0) wrong(`layer ${orphan} has product experts, but layer ${orphan - orphan % routerLayers}, whose router it shares, has none`);
  }
  for (const id of c.eosTokenIds) if (id >= c.vocabSize) wrong(`end-of-text id ${id} is outside the vocabulary of ${c.vocabSize}`);
}

/** Checks the record, then freezes it and its lists. */
export function freezeConfig(file: string, c: ModelConfig): ModelConfig {
  checkConfig(file, c);
  for (const list of [c.slidingWindows, c.layerFfns, c.eosTokenIds, c.rope.inverseFrequencies, c.rope.long?.inverseFrequencies, c.rope.long, c.mla, c.onlinePruning, c.onlinePruning?.ratios, c.latentExperts, c.expertPool, c.productExperts]) Object.freeze(list);
  Object.freeze(c.rope);
  for (const part of [c.router.auxiliaries, c.router.gate, c.router.scope, c.router.threshold, c.router.branches, ...(c.router.branches ?? []), ...(c.router.gate?.kind === "conditions" ? [c.router.gate.conditions, ...c.router.gate.conditions] : [])]) Object.freeze(part);
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

/** Defaults of an architecture's config class, for keys that a config.json may leave out. */
export interface ConfigDefaults {
  readonly theta: number;
  readonly normEps: number;
  /** Rotated dimensions where they are not the whole head. */
  readonly ropeDim?: number;
}

/** What every config.json states under the same keys. Left to the architecture: key-value heads, windows, norms, experts. */
export function sizesOfHuggingFace(f: ConfigFields, generation: ConfigFields | null, style: RopeStyle, defaults: ConfigDefaults) {
  const hiddenSize = f.integer("hidden_size", 1);
  const nHeads = f.integer("num_attention_heads", 1);
  const nLayers = f.integer("num_hidden_layers", 1);
  const headDim = defaults.ropeDim ?? headDimOf(f, hiddenSize, nHeads);
  const { rope, maxPositions, scoreMscale } = ropeOfHuggingFace(f, style, headDim, defaults);
  const sizes = {
    rope, maxPositions,
    vocabSize: f.integer("vocab_size", 1),
    hiddenSize, nLayers, nHeads, headDim,
    normEps: f.positive("rms_norm_eps", defaults.normEps),
    attentionScale: headDim ** -0.5,
    tieWordEmbeddings: f.boolean("tie_word_embeddings", false),
    eosTokenIds: ascendingIds(f.ids("eos_token_id"), generation?.ids("eos_token_id") ?? []),
  };
  return { sizes, scoreMscale };
}

/** Biases of attention where one key decides over all four projections (Llama, OLMoE, Qwen3, Granite, PhiMoE, gpt-oss). */
export function attentionBiases(f: ConfigFields, fallback = false): { qkvBias: boolean; oBias: boolean } {
  const bias = f.boolean("attention_bias", fallback);
  return { qkvBias: bias, oBias: bias };
}

/** A window that covers the whole context is none. */
export const windowOf = (window: number, maxPositions: number): number => (window >= maxPositions ? 0 : window);

/**
 * Sliding windows by layer: `layer_types` decides where it is given, else `slides` says which layers have the window of `sliding_window`.
 */
export function windowsOfHuggingFace(f: ConfigFields, nLayers: number, maxPositions: number, slides: (layer: number) => boolean): number[] {
  const types: unknown = f.values["layer_types"] ?? null;
  if (types !== null && (!Array.isArray(types) || types.length !== nLayers || types.some((t) => t !== "full_attention" && t !== "sliding_attention"))) {
    throw f.error("layer_types", `"full_attention" or "sliding_attention" for each of ${nLayers} layers`);
  }
  const sliding = Array.from({ length: nLayers }, (_, n) => (types === null ? f.has("sliding_window") && slides(n) : (types as unknown[])[n] === "sliding_attention"));
  return sliding.map((is) => (is ? windowOf(f.integer("sliding_window", 1), maxPositions) : 0));
}

/** The activation and quantisation settings that every architecture must have the same way. */
export function refuseForeignSettings(f: ConfigFields, quantization: "fp8" | "mxfp4" = "fp8", activation = "silu"): void {
  f.only("hidden_act", [activation], "another activation");
  f.only("activation_function", [activation], "another activation");
  f.only("mlp_bias", [false], "biases in feed-forward layers");
  const q = f.object("quantization_config");
  if (q === null) return;
  // The tensors themselves say which of them are quantised; what must agree is how their bits are read.
  const known = q.values["quant_method"] === quantization
    && (quantization === "mxfp4" || ((q.values["fmt"] ?? "e4m3") === "e4m3" && JSON.stringify(q.values["weight_block_size"]) === "[128,128]"));
  if (!known) {
    const expected = quantization === "mxfp4" ? `quant_method "mxfp4"` : `quant_method "fp8" with fmt "e4m3" and weight_block_size [128,128]`;
    f.only("quantization_config", [], `weights quantised in another way than ${expected}; use the unquantised checkpoint, or a GGUF file`);
  }
}

/** GGUF keys that only some architectures have, with the values that mean nothing. An architecture reads those it names itself. */
const GGUF_OPTIONAL_KEYS: Readonly<Record<string, readonly unknown[]>> = {
  "expert_shared_count": [0], "expert_shared_feed_forward_length": [0], "leading_dense_block_count": [0], "nextn_predict_layers": [0],
  "expert_group_count": [0, 1], "expert_group_used_count": [0, 1], "expert_weights_scale": [0, 1], "expert_gating_func": [0, 1],
  "embedding_scale": [0, 1], "residual_scale": [0, 1], "logit_scale": [0, 1], "attention.scale": [0],
  "attention.q_lora_rank": [0], "attention.kv_lora_rank": [0], "attention.key_length_mla": [0], "attention.value_length_mla": [0],
  "attention.sliding_window": [0], "attention.sliding_window_pattern": [0], "attention.clamp_kqv": [0],
  "attn_logit_softcapping": [0], "final_logit_softcapping": [0], "rope.scaling.yarn_log_multiplier": [0], "interleave_moe_layer_step": [0, 1],
};

export interface GgufReading {
  readonly style: RopeStyle;
  /** Optional keys that the architecture itself reads. */
  readonly reads?: readonly string[];
  /** Rotated dimensions where they are not the whole head; head sizes are the architecture's matter then. */
  readonly ropeDim?: number;
  /** YaRN's, which no key tells. */
  readonly truncate?: boolean;
}

/** What every GGUF states under its architecture's prefix. */
function commonSizesOfGguf(f: ConfigFields, arch: string, tensors: GgufTensors, { style, reads = [], truncate = true, ropeDim }: GgufReading) {
  for (const [key, inert] of Object.entries(GGUF_OPTIONAL_KEYS)) {
    if (!reads.includes(key)) f.only(`${arch}.${key}`, inert, "the architecture has no such setting");
  }
  const hiddenSize = f.integer(`${arch}.embedding_length`, 1);
  const nHeads = f.integer(`${arch}.attention.head_count`, 1);
  const headDim = ropeDim ?? (f.has(`${arch}.attention.key_length`) ? f.integer(`${arch}.attention.key_length`, 2) : hiddenSize / nHeads);
  if (!Number.isInteger(headDim)) throw new ModelError(`${f.file}: embedding_length ${hiddenSize} is no multiple of head_count ${nHeads}.`);
  if (ropeDim === undefined) f.only(`${arch}.attention.value_length`, [headDim], "values of another width than keys");
  const tokens = f.values["tokenizer.ggml.tokens"];
  const vocabSize = f.has(`${arch}.vocab_size`) ? f.integer(`${arch}.vocab_size`, 1) : Array.isArray(tokens) ? tokens.length : 0;
  if (vocabSize === 0) throw new ModelError(`${f.file} has neither ${arch}.vocab_size nor tokenizer.ggml.tokens, so the size of the vocabulary is unknown.`);
  const nLayers = f.integer(`${arch}.block_count`, 1) - (reads.includes("nextn_predict_layers") ? f.integer(`${arch}.nextn_predict_layers`, 0, 0) : 0);
  if (nLayers < 1) throw f.error(`${arch}.nextn_predict_layers`, `fewer than ${arch}.block_count`);
  const { rope, maxPositions, scoreMscale } = ropeOfGguf(f, arch, tensors, { style, dim: headDim, truncate });
  const sizes = {
    rope, maxPositions, vocabSize, hiddenSize, nHeads, headDim, nLayers,
    nKvHeads: f.integer(`${arch}.attention.head_count_kv`, 1, nHeads),
    normEps: decimalOfF32(f.positive(`${arch}.attention.layer_norm_rms_epsilon`)),
    attentionScale: headDim ** -0.5,
    qkvBias: tensors.has("blk.0.attn_q.bias") || tensors.has("blk.0.attn_qkv.bias"),
    oBias: tensors.has("blk.0.attn_output.bias"),
    tieWordEmbeddings: !tensors.has("output.weight"),
    eosTokenIds: ascendingIds(f.ids("tokenizer.ggml.eos_token_id"), f.ids("tokenizer.ggml.eot_token_id")),
  };
  return { sizes, scoreMscale };
}

/** Of a model with experts; the number of experts per token apart. */
export function sizesOfGguf(f: ConfigFields, arch: string, tensors: GgufTensors, reading: GgufReading) {
  const { sizes, scoreMscale } = commonSizesOfGguf(f, arch, tensors, reading);
  const layerFfns = layersOfGguf(tensors, sizes.nLayers);
  const experts = {
    layerFfns,
    denseIntermediateSize: layerFfns.includes("dense") ? f.integer(`${arch}.feed_forward_length`, 1) : 0,
    nExperts: f.integer(`${arch}.expert_count`, 1),
    expertIntermediateSize: expertWidthOfGguf(f, arch),
  };
  return { sizes: { ...sizes, ...experts }, topK: f.integer(`${arch}.expert_used_count`, 1), scoreMscale };
}

/** Of a model without experts. */
export function denseSizesOfGguf(f: ConfigFields, arch: string, tensors: GgufTensors, reading: GgufReading) {
  const { sizes } = commonSizesOfGguf(f, arch, tensors, reading);
  return { ...sizes, ...NO_EXPERTS, layerFfns: everyLayer(sizes.nLayers, "dense" as const), denseIntermediateSize: f.integer(`${arch}.feed_forward_length`, 1) };
}

/** A layer is dense that has a dense layer's matrices and no router. */
const layersOfGguf = (tensors: GgufTensors, nLayers: number): LayerFfn[] =>
  Array.from({ length: nLayers }, (_, n) => (tensors.has(`blk.${n}.ffn_gate.weight`) && !tensors.has(`blk.${n}.ffn_gate_inp.weight`) ? "dense" : "moe"));

/** Width of one expert in GGUF: its own key, or the feed-forward length where that key is missing (Mixtral, OLMoE). */
const expertWidthOfGguf = (f: ConfigFields, arch: string): number =>
  f.has(`${arch}.expert_feed_forward_length`) ? f.integer(`${arch}.expert_feed_forward_length`, 1) : f.integer(`${arch}.feed_forward_length`, 1);

/** Windows of a GGUF whose layers are all alike. */
export function windowsOfGguf(f: ConfigFields, arch: string, nLayers: number, maxPositions: number): number[] {
  const window = f.has(`${arch}.attention.sliding_window`) ? f.integer(`${arch}.attention.sliding_window`, 0) : 0;
  return everyLayer(nLayers, windowOf(window, maxPositions));
}


