// What a model is, as data: one frozen record per model, filled in one place per architecture (architectures/*.ts).
// Owns the vocabulary in which forward.ts, definition.ts, the pack and the planner speak of a model.
// Refuses: per-architecture classes, flags that fork behaviour. A new architecture is a new record, plus at most one named function.
// Terms follow the checkpoints: ../docs/architecture.md lists the sources.

import { gateTensors } from "./gates/index.ts";
import type { RopeStyle } from "./kernels.ts";
import { auxiliariesOf, expertOutputSize, logitsOf, type RouterConfig } from "./router-config.ts";

export type { AuxiliariesConfig, GateConfig, RouterConfig, RouterScope, RouterScore, RouterSelect, RouterWeigh } from "./router-config.ts";
export { auxiliariesOf, expertOutputSize } from "./router-config.ts";
export { ModelError, oneLine } from "./model-error.ts";

/** `product`: experts made of halves (productExperts). */
export type LayerFfn = "moe" | "dense" | "product";

export interface RopeConfig {
  readonly style: RopeStyle;
  /** Rotated dimensions of each head, counted from 0. */
  readonly dim: number;
  readonly theta: number;
  /** Inverse frequencies [dim / 2] after any scaling (YaRN, linear, ...), in f64. */
  readonly inverseFrequencies: readonly number[];
  /** Multiplies cos and sin (YaRN's attention factor); 1 = none. */
  readonly magnitude: number;
  /** Other frequencies for sequences reserved for more positions than `fromPositions` (LongRoPE); null = none. */
  readonly long: { readonly fromPositions: number; readonly inverseFrequencies: readonly number[]; readonly magnitude: number } | null;
}

/**
 * Multi-head latent attention (DeepSeek): keys and values of all heads come from one latent row per token, which is what is cached, with one
 * rotated key part behind it. In this engine's terms: one key-value head of kvLoraRank + ropeHeadDim dims, whose values are its first
 * kvLoraRank dims (docs/arithmetic.md section 8).
 */
export interface MlaConfig {
  /** Rank of the query's low-rank form; null = one matrix. */
  readonly qLoraRank: number | null;
  readonly kvLoraRank: number;
  readonly nopeHeadDim: number;
  readonly ropeHeadDim: number;
  readonly valueHeadDim: number;
  /** Epsilon of the norms within the low-rank forms. */
  readonly normEps: number;
}

/**
 * Latent experts (MoLAE, Z. Liu et al., 2025): the nExperts / nGroups experts of a group, which follow each other, share one matrix B [rank, hidden], and gate and up
 * of each, [width, rank], read z = B x in place of x (docs/arithmetic.md section 6). Down is as ever.
 */
export interface LatentExpertsConfig {
  /** Numbers of z: a multiple of 32, a group of quantised activations. */
  readonly rank: number;
  readonly nGroups: number;
}

/** What an expert computes between its matrices, by the numbers of the kernels' ABI (kernels.ts EXPERT_KINDS). expert-kinds.ts says which matrices and biases each has. */
export type ExpertKind = "swiglu" | "clamped-swiglu" | "relu-mlp" | "gelu-mlp";

/**
 * Product experts (Monet, Park et al., 2024): expert (i, j) is half i of one codebook with half j of another, nKeys^2 in all (docs/arithmetic.md section 11).
 * `vertical`: both halves have hidden units and outputs of their own; `horizontal`: i reads, j writes.
 */
export interface ProductExpertsConfig {
  readonly form: "vertical" | "horizontal";
  /** Halves of either codebook. */
  readonly nKeys: number;
  /** Heads of the router; each keeps keys of its own. */
  readonly nHeads: number;
  /** Keys that a head keeps of a codebook, about: the share topK / nKeys sets a threshold. */
  readonly topK: number;
  /** Hidden units of one expert. */
  readonly expertSize: number;
  /** Layers that share a router, from a multiple of it on; the first has it. */
  readonly routerLayers: number;
}

/** Experts left out at run time (online-pruning.ts): what a calibration found for this model. Nobody goes by it unasked. */
export interface OnlinePruningConfig {
  /** By layer: an expert is left out where its weight is below so many times the first's; 0 leaves all. Null: none were calibrated. */
  readonly ratios: readonly number[] | null;
  /** Tokens at lower positions lose nothing. */
  readonly protectFirst: number;
  /** Whether the weights of those that stay are brought to the router's sum again. */
  readonly renormalize: boolean;
  /** Every layer with experts has a mask router, layers.N.keepRouter. */
  readonly keepRouter: boolean;
}

export interface ModelConfig {
  /** model_type of the Hugging Face config ("olmoe", "qwen3_moe", "mixtral", "llama" ...). */
  readonly architecture: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly nLayers: number;
  readonly nHeads: number;
  readonly nKvHeads: number;
  /** Dims of one key; with mla those of the cached row. */
  readonly headDim: number;
  readonly mla: MlaConfig | null;
  /** Longest context the checkpoint was made for, in tokens. */
  readonly maxPositions: number;
  /** RMSNorm, or LayerNorm with a bias (PhiMoE). */
  readonly norm: "rms" | "layer";
  readonly normEps: number;
  readonly rope: RopeConfig;
  /** Query-key RMSNorm: over each head (Qwen3) or over the whole projected vector (OLMoE). */
  readonly qkNorm: "none" | "per-head" | "whole-vector";
  /** Bias on q, k, v projections (Qwen2). */
  readonly qkvBias: boolean;
  /** Bias on the output projection. */
  readonly oBias: boolean;
  /** A learned logit per head in the softmax's denominator (gpt-oss). */
  readonly attentionSinks: boolean;
  /** Clamp of q, k, v to +-limit; null = none (OLMoE clip_qkv). */
  readonly clipQkv: number | null;
  /** Factor on attention scores, usually headDim^-0.5. */
  readonly attentionScale: number;
  /** Sliding window of each layer in tokens; 0 = full attention. */
  readonly slidingWindows: readonly number[];
  readonly layerFfns: readonly LayerFfn[];
  /** Intermediate width of dense layers; 0 where there are none. */
  readonly denseIntermediateSize: number;
  /** 0 in a dense model. */
  readonly nExperts: number;
  readonly expertKind: ExpertKind;
  /** Clamp of clamped-swiglu (swiglu_limit); else 0. */
  readonly swigluLimit: number;
  /** Intermediate width of one expert. */
  readonly expertIntermediateSize: number;
  /**
   * Layers that follow one another share one pool of experts (ReXMoE): nExperts counts the pool's, each layer has a router over all of them, and their
   * matrices are named by the first of these layers. Absent: each layer has its own.
   */
  readonly expertPool?: { readonly layers: number } | undefined;
  /** Absent: experts read the normalised row itself. */
  readonly latentExperts?: LatentExpertsConfig;
  /** Present where layers are `product`. */
  readonly productExperts?: ProductExpertsConfig;
  /** Intermediate width of the shared expert; 0 = none. */
  readonly sharedIntermediateSize: number;
  /** Shared expert's output is multiplied by sigmoid(gate . x) (Qwen2-MoE). */
  readonly sharedGate: boolean;
  readonly router: RouterConfig;
  /** Absent where nothing was calibrated. */
  readonly onlinePruning?: OnlinePruningConfig | undefined;
  readonly tieWordEmbeddings: boolean;
  /** Bias on the logits (PhiMoE). */
  readonly headBias: boolean;
  readonly embeddingMultiplier: number;
  readonly residualMultiplier: number;
  /** Logits are divided by this (Granite). */
  readonly logitsScaling: number;
  /** Ids that end a generation, ascending. */
  readonly eosTokenIds: readonly number[];
  /** Prepended to a prompt where the tokenizer does so; null = none. */
  readonly bosTokenId: number | null;
}

/**
 * Largest numbers of things that are listed one by one: far beyond any release, and small enough that a damaged file is refused at once instead of
 * filling the memory with lists. Expert numbers are u16 on the wire.
 */
export const CONFIG_MOST = { layers: 1024, headDim: 65_536, heads: 1 << 20, hidden: 1 << 20, experts: 65_535, productKeys: 32_768 } as const;

/**
 * Canonical tensor names of a model: what formats/ delivers and forward.ts binds. Shapes are [rows, columns]; `matrices` are `count` of them,
 * each padded to whole row blocks.
 */
export type TrunkTensor =
  | { readonly name: string; readonly kind: "matrix"; readonly nRows: number; readonly nCols: number }
  | { readonly name: string; readonly kind: "matrices"; readonly count: number; readonly nRows: number; readonly nCols: number }
  | { readonly name: string; readonly kind: "vector"; readonly length: number };

/**
 * Every trunk tensor of a model in loading order, but the feed-forward parts that are stored as segments (dense layers, shared experts: sharedWidth).
 * Names are ours and the same for every source format: embed, layers.N.{attnNorm, attnNormBias, q, k, v, qBias, kBias, vBias, qNorm, kNorm, sinks, o, oBias,
 * ffnNorm, ffnNormBias, router, routerHidden, routerHiddenBias, routerSpread, routerTable, routerBias, selectionBias, auxiliaryScales, keepRouter, sharedGate, latent, product.*}, with latent attention layers.N.{q or qA, qANorm, qB; kvA, kvANorm, kB, vB} instead
 * of q, k, v; norm, normBias, head, headBias. A tied head has no tensor of its own.
 */
export function trunkTensors(c: ModelConfig): TrunkTensor[] {
  const out: TrunkTensor[] = [];
  const matrix = (name: string, nRows: number, nCols: number) => out.push({ name, kind: "matrix", nRows, nCols });
  const vector = (name: string, length: number) => out.push({ name, kind: "vector", length });
  const norm = (name: string) => {
    vector(name, c.hiddenSize);
    if (c.norm === "layer") vector(`${name}Bias`, c.hiddenSize);
  };
  matrix("embed", c.vocabSize, c.hiddenSize);
  for (let n = 0; n < c.nLayers; n++) {
    const at = `layers.${n}.`;
    norm(at + "attnNorm");
    if (c.mla === null) {
      const [qDim, kvDim] = [c.nHeads * c.headDim, c.nKvHeads * c.headDim];
      matrix(at + "q", qDim, c.hiddenSize);
      matrix(at + "k", kvDim, c.hiddenSize);
      matrix(at + "v", kvDim, c.hiddenSize);
      if (c.qkvBias) {
        vector(at + "qBias", qDim);
        vector(at + "kBias", kvDim);
        vector(at + "vBias", kvDim);
      }
      if (c.qkNorm !== "none") {
        vector(at + "qNorm", c.qkNorm === "per-head" ? c.headDim : qDim);
        vector(at + "kNorm", c.qkNorm === "per-head" ? c.headDim : kvDim);
      }
    } else {
      const { qLoraRank, kvLoraRank, nopeHeadDim, ropeHeadDim, valueHeadDim } = c.mla;
      const qDim = c.nHeads * (nopeHeadDim + ropeHeadDim);
      if (qLoraRank === null) matrix(at + "q", qDim, c.hiddenSize);
      else {
        matrix(at + "qA", qLoraRank, c.hiddenSize);
        vector(at + "qANorm", qLoraRank);
        matrix(at + "qB", qDim, qLoraRank);
      }
      matrix(at + "kvA", kvLoraRank + ropeHeadDim, c.hiddenSize);
      vector(at + "kvANorm", kvLoraRank);
      // Per head: from a query's part to the latent, and from the latent to the head's values.
      out.push({ name: at + "kB", kind: "matrices", count: c.nHeads, nRows: kvLoraRank, nCols: nopeHeadDim });
      out.push({ name: at + "vB", kind: "matrices", count: c.nHeads, nRows: valueHeadDim, nCols: kvLoraRank });
    }
    if (c.attentionSinks) vector(at + "sinks", c.nHeads);
    matrix(at + "o", c.hiddenSize, attendedSize(c));
    if (c.oBias) vector(at + "oBias", c.hiddenSize);
    norm(at + "ffnNorm");
    if (c.layerFfns[n] === "product") out.push(...productTensors(c, n));
    if (c.layerFfns[n] !== "moe") continue;
    if (c.router.score !== "one") {
      for (const tensor of gateTensors(c)) out.push({ ...tensor, name: at + tensor.name });
      if (c.router.logitBias) vector(at + "routerBias", logitsOf(c));
    }
    if (c.router.selectionBias) vector(at + "selectionBias", c.nExperts);
    // [nExperts, hidden], less one.
    if (auxiliariesOf(c.router) > 0) vector(at + "auxiliaryScales", c.nExperts * c.hiddenSize);
    if (c.onlinePruning?.keepRouter === true) vector(at + "keepRouter", c.router.topK * keepRouterColumns(c.hiddenSize, c.router.topK));
    if (c.sharedGate) matrix(at + "sharedGate", 1, c.hiddenSize);
    if (c.latentExperts !== undefined) out.push({ name: at + "latent", kind: "matrices", count: c.latentExperts.nGroups, nRows: c.latentExperts.rank, nCols: c.hiddenSize });
  }
  norm("norm");
  if (!c.tieWordEmbeddings) matrix("head", c.vocabSize, c.hiddenSize);
  if (c.headBias) vector("headBias", c.vocabSize);
  return out;
}

/** What a layer of product experts has, in loading order: its keys, where it is the first that they serve, then its halves. */
function productTensors(c: ModelConfig, layer: number): TrunkTensor[] {
  const { form, nKeys, nHeads, expertSize } = c.productExperts!;
  const at = `layers.${layer}.product.`;
  const matrix = (name: string, nRows: number, nCols: number): TrunkTensor => ({ name: at + name, kind: "matrix", nRows, nCols });
  const vector = (name: string, length: number): TrunkTensor => ({ name: at + name, kind: "vector", length });
  const keys = (["1", "2"] as const).flatMap((n) => [matrix(`w${n}`, nHeads * nKeys, c.hiddenSize), vector(`mean${n}`, nHeads), vector(`variance${n}`, nHeads)]);
  const [d, width] = form === "vertical" ? [c.hiddenSize / 2, nKeys * expertSize / 2] : [c.hiddenSize, nKeys * expertSize];
  const halves = form === "vertical"
    ? [...["1", "2"].flatMap((n) => [matrix(`u${n}`, width, c.hiddenSize), vector(`u${n}Bias`, width)]), ...["11", "12", "21", "22"].map((n) => matrix(`v${n}`, d, width)), ...["1", "2"].map((n) => vector(`b${n}`, nKeys * d))]
    : [matrix("u", width, c.hiddenSize), vector("uBias", width), matrix("v", d, width), vector("b", nKeys * d)];
  return [...(productRouterLayer(c, layer) === layer ? keys : []), ...halves];
}

/** The layer whose router serves a layer of product experts. */
export const productRouterLayer = ({ productExperts }: Pick<ModelConfig, "productExperts">, layer: number): number => layer - layer % (productExperts?.routerLayers ?? 1);

/** Layers of product experts that have a router of their own. */
export const productRouterLayers = (c: Pick<ModelConfig, "productExperts" | "layerFfns">): number[] => c.layerFfns.flatMap((kind, layer) => (kind === "product" && productRouterLayer(c, layer) === layer ? [layer] : []));

/** Whether a layer, or one behind it, needs the router of one before it. */
export function sharesRouter({ productExperts, layerFfns }: Partial<Pick<ModelConfig, "productExperts" | "layerFfns">>, layer: number): boolean {
  if (productExperts === undefined) return false;
  const first = productRouterLayer({ productExperts }, layer);
  return first !== layer && layerFfns!.slice(layer, first + productExperts.routerLayers).includes("product");
}

/** Numbers of a token's keys of both codebooks, [2, nHeads, nKeys]; 0 without product experts. */
export const productWeightCount = ({ productExperts }: Partial<Pick<ModelConfig, "productExperts">>): number => (productExperts === undefined ? 0 : 2 * productExperts.nHeads * productExperts.nKeys);

/** Numbers of a token's row that crosses a cut before a layer: the residual, and behind it the weights of keys that layers behind the cut go by. */
export const cutRowLength = (c: Pick<ModelConfig, "hiddenSize"> & Partial<Pick<ModelConfig, "productExperts" | "layerFfns">>, layer: number): number => c.hiddenSize + (sharesRouter(c, layer) ? productWeightCount(c) : 0);

/** Numbers of a row of the mask router: one for each feature of a token (online-pruning.ts). */
export const keepRouterColumns = (hiddenSize: number, topK: number): number => hiddenSize + topK + 1;

/** What all heads of attention give together: columns of the output projection. */
export const attendedSize = (c: ModelConfig): number => c.nHeads * (c.mla === null ? c.headDim : c.mla.valueHeadDim);

/** Leading dims of a key that serve as its value (latent attention); 0 where values are cached on their own. */
export const latentDim = (c: Pick<ModelConfig, "mla">): number => c.mla?.kvLoraRank ?? 0;

/** Layers that have experts, ascending. */
export const moeLayersOf = ({ layerFfns }: Pick<ModelConfig, "layerFfns">): number[] => layerFfns.flatMap((kind, layer) => (kind === "moe" ? [layer] : []));

/** The layer whose name the experts of a layer have: the first of its pool, or itself. */
export const expertLayer = ({ expertPool }: Pick<ModelConfig, "expertPool">, layer: number): number => (expertPool === undefined ? layer : layer - (layer % expertPool.layers));

/** Width of the feed-forward part that every token of a layer passes: a dense layer's, or the shared experts'; 0 = none. */
export const sharedWidth = (c: ModelConfig, layer: number): number => ({ dense: c.denseIntermediateSize, moe: c.sharedIntermediateSize, product: 0 })[c.layerFfns[layer]!];

/** The three matrices of a dense layer, a shared expert or an expert with a gate, in the checkpoint's words; expert-kinds.ts knows who has which. */
export const EXPERT_MATRICES = ["gate", "up", "down"] as const;
export type ExpertMatrix = (typeof EXPERT_MATRICES)[number];

/** Vectors that an expert can have. */
export const EXPERT_BIASES = ["gateBias", "upBias", "downBias"] as const;
export type ExpertBias = (typeof EXPERT_BIASES)[number];

/** What decides which rows routed experts read. */
export type ExpertInput = Pick<ModelConfig, "hiddenSize" | "latentExperts">;

/** Numbers of a row that routed experts read. */
export const expertInputSize = ({ hiddenSize, latentExperts }: ExpertInput): number => latentExperts?.rank ?? hiddenSize;

/** Such rows that a token has: one, or one for each latent group. */
export const inputRowsPerToken = ({ latentExperts }: Pick<ModelConfig, "latentExperts">): number => latentExperts?.nGroups ?? 1;

/** Which of them each expert reads: floor(expert / this). */
export const expertsPerInputRow = (c: Pick<ModelConfig, "latentExperts" | "nExperts">): number => c.nExperts / inputRowsPerToken(c);

/** Shape of a matrix of a feed-forward part of the given intermediate width, which reads rows of `inputSize` and gives rows of `outputSize`. */
export const ffnShape = (inputSize: number, outputSize: number, width: number, matrix: ExpertMatrix): { nRows: number; nCols: number } =>
  matrix === "down" ? { nRows: outputSize, nCols: width } : { nRows: width, nCols: inputSize };

/** Shape of a routed expert's matrix. */
export const expertShape = (c: ModelConfig, matrix: ExpertMatrix): { nRows: number; nCols: number } => ffnShape(expertInputSize(c), expertOutputSize(c), c.expertIntermediateSize, matrix);
