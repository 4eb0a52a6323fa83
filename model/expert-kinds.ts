// The kinds of experts, as data: which matrices one has, and which biases (docs/arithmetic.md section 6, docs/routing.md "Experts"). Whoever stores, cuts, counts or
// computes experts goes by this table. What a kind computes between its matrices lies with the arithmetic: scalar-products.ts, kernels-as/activations.ts, definition.ts.
// Refuses kinds for shared experts and dense layers: those are swiglu.

import { type ExpertBias, type ExpertKind, type ExpertMatrix, expertOutputSize, type ModelConfig } from "./config.ts";

interface ExpertForm {
  /** In the order of canonical models and packs. */
  readonly matrices: readonly ExpertMatrix[];
  /** Vectors in the order in which a segment holds them; all or none. */
  readonly biases: readonly ExpertBias[];
}

export const EXPERT_FORMS: Readonly<Record<ExpertKind, ExpertForm>> = {
  "swiglu": { matrices: ["gate", "up", "down"], biases: [] },
  "clamped-swiglu": { matrices: ["gate", "up", "down"], biases: ["gateBias", "upBias", "downBias"] },
  "relu-mlp": { matrices: ["up", "down"], biases: ["upBias", "downBias"] },
  "gelu-mlp": { matrices: ["up", "down"], biases: ["upBias", "downBias"] },
};

export const isGated = (kind: ExpertKind): boolean => EXPERT_FORMS[kind].matrices.includes("gate");
export const hasBiases = (kind: ExpertKind): boolean => EXPERT_FORMS[kind].biases.length > 0;

/** Matrices of a model's routed experts. */
export const expertMatrices = ({ expertKind }: Pick<ModelConfig, "expertKind">): readonly ExpertMatrix[] => EXPERT_FORMS[expertKind].matrices;
/** Vectors of them. */
export const expertBiases = ({ expertKind }: Pick<ModelConfig, "expertKind">): readonly ExpertBias[] => EXPERT_FORMS[expertKind].biases;
/** Matrices whose rows are neurons: those that read the expert's input. */
export const inputMatrices = (c: Pick<ModelConfig, "expertKind">): readonly ExpertMatrix[] => expertMatrices(c).filter((matrix) => matrix !== "down");

/** How many numbers a vector of an expert has. */
export const biasLength = (c: ModelConfig, bias: ExpertBias): number => (bias === "downBias" ? expertOutputSize(c) : c.expertIntermediateSize);
