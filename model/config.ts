// What a model is, as data: one frozen record per model, filled in one place per architecture (architectures/*.ts).
// Owns the vocabulary in which forward.ts, definition.ts, the pack and the planner speak of a model.
// Refuses: per-architecture classes, flags that fork behaviour. A new architecture is a new record, plus at most one named function.
// Terms follow the checkpoints: ../docs/architecture.md lists the sources.

import type { RopeStyle } from "./kernels.ts";

/** How expert scores are made from the router's logits, before selection. `one`: every expert scores 1 (no router matrix). */
export type RouterScore = "softmax" | "sigmoid" | "logits" | "one";
/** How the weights of the selected experts are made from their scores. */
export type RouterWeigh = "score" | "renormalize" | "softmax-selected";

export interface RouterConfig {
  readonly score: RouterScore;
  readonly weigh: RouterWeigh;
  /** Multiplies the weights (routed_scaling_factor); 1 = none. */
  readonly scale: number;
  /** Experts per token. */
  readonly topK: number;
  /** Router logits get a bias (gpt-oss). */
  readonly logitBias: boolean;
  /** A bias used for selection only (DeepSeek-V3's e_score_correction_bias). */
  readonly selectionBias: boolean;
  /** Group-limited selection; nGroups 1 = none. */
  readonly nGroups: number;
  readonly topKGroups: number;
  readonly groupScore: "max" | "top2-sum";
}

export type LayerFfn = "moe" | "dense";

export interface RopeConfig {
  readonly style: RopeStyle;
  /** Rotated dimensions of each head, counted from 0. */
  readonly dim: number;
  readonly theta: number;
  /** Inverse frequencies [dim / 2] after any scaling (YaRN, linear, ...), in f64. */
  readonly inverseFrequencies: readonly number[];
  /** Multiplies cos and sin (YaRN's attention factor); 1 = none. */
  readonly magnitude: number;
}

export interface ModelConfig {
  /** model_type of the Hugging Face config ("olmoe", "qwen3_moe", "mixtral", "llama" ...). */
  readonly architecture: string;
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly nLayers: number;
  readonly nHeads: number;
  readonly nKvHeads: number;
  readonly headDim: number;
  /** Longest context the checkpoint was made for, in tokens. */
  readonly maxPositions: number;
  readonly normEps: number;
  readonly rope: RopeConfig;
  /** Query-key RMSNorm: over each head (Qwen3) or over the whole projected vector (OLMoE). */
  readonly qkNorm: "none" | "per-head" | "whole-vector";
  /** Bias on q, k, v projections (Qwen2). */
  readonly qkvBias: boolean;
  /** Clamp of q, k, v to +-limit; null = none (OLMoE clip_qkv). */
  readonly clipQkv: number | null;
  /** Factor on attention scores, usually headDim^-0.5. */
  readonly attentionScale: number;
  /** Sliding window of each layer in tokens; 0 = full attention. */
  readonly slidingWindows: readonly number[];
  readonly layerFfns: readonly LayerFfn[];
  /** Intermediate width of dense layers; 0 where there are none. */
  readonly denseIntermediateSize: number;
  readonly nExperts: number;
  /** Intermediate width of one expert. */
  readonly expertIntermediateSize: number;
  /** Intermediate width of the shared expert; 0 = none. */
  readonly sharedIntermediateSize: number;
  /** Shared expert's output is multiplied by sigmoid(gate . x) (Qwen2-MoE). */
  readonly sharedGate: boolean;
  readonly router: RouterConfig;
  readonly tieWordEmbeddings: boolean;
  readonly embeddingMultiplier: number;
  readonly residualMultiplier: number;
  /** Logits are divided by this (Granite). */
  readonly logitsScaling: number;
  /** Ids that end a generation, ascending. */
  readonly eosTokenIds: readonly number[];
  /** Prepended to a prompt where the tokenizer does so; null = none. */
  readonly bosTokenId: number | null;
}

/** An error of the model or its files: what was found, what was expected, where. Rendered once at the edge. */
export class ModelError extends Error {
  override readonly name = "ModelError";
}

/** Canonical tensor names of a model: what formats/ delivers and forward.ts binds. Shapes are [rows, columns]. */
export type TrunkTensor =
  | { readonly name: string; readonly kind: "matrix"; readonly nRows: number; readonly nCols: number }
  | { readonly name: string; readonly kind: "vector"; readonly length: number };

/**
 * Every trunk tensor of a model in loading order. Names are ours and the same for every source format:
 * embed, layers.N.{attnNorm,q,k,v,o,qBias,kBias,vBias,qNorm,kNorm,ffnNorm,router,routerBias,selectionBias,
 * sharedGateUp...}, norm, head. A tied head has no tensor of its own.
 */
export function trunkTensors(c: ModelConfig): TrunkTensor[] {
  const out: TrunkTensor[] = [];
  const matrix = (name: string, nRows: number, nCols: number) => out.push({ name, kind: "matrix", nRows, nCols });
  const vector = (name: string, length: number) => out.push({ name, kind: "vector", length });
  const qDim = c.nHeads * c.headDim;
  const kvDim = c.nKvHeads * c.headDim;
  matrix("embed", c.vocabSize, c.hiddenSize);
  for (let n = 0; n < c.nLayers; n++) {
    const at = `layers.${n}.`;
    vector(at + "attnNorm", c.hiddenSize);
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
    matrix(at + "o", c.hiddenSize, qDim);
    vector(at + "ffnNorm", c.hiddenSize);
    if (c.layerFfns[n] === "moe" && c.router.score !== "one") matrix(at + "router", c.nExperts, c.hiddenSize);
  }
  vector("norm", c.hiddenSize);
  if (!c.tieWordEmbeddings) matrix("head", c.vocabSize, c.hiddenSize);
  return out;
}

/** The three matrices of an expert, in the checkpoint's words. */
export const EXPERT_MATRICES = ["gate", "up", "down"] as const;
export type ExpertMatrix = (typeof EXPERT_MATRICES)[number];

/** Shape of an expert's matrix. */
export const expertShape = (c: ModelConfig, matrix: ExpertMatrix): { nRows: number; nCols: number } =>
  matrix === "down"
    ? { nRows: c.hiddenSize, nCols: c.expertIntermediateSize }
    : { nRows: c.expertIntermediateSize, nCols: c.hiddenSize };
