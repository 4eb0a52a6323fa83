// The schema of a model's config record, as packs and canonical models hold it. Owns what a valid record is. Refuses unknown keys; what one setting means
// for another is checkConfig's matter (model/architectures/common.ts).

import { z } from "zod";
import { CONFIG_MOST, type ModelConfig } from "../model/config.ts";
import { EXPERT_KINDS, ROPE_STYLES } from "../model/kernels.ts";

const count = z.int().min(0);
const size = z.int().min(1);

export const configSchema: z.ZodType<ModelConfig> = z.strictObject({
  architecture: z.string().min(1),
  vocabSize: size, hiddenSize: size.max(CONFIG_MOST.hidden), nLayers: size.max(CONFIG_MOST.layers), nHeads: size.max(CONFIG_MOST.heads), nKvHeads: size.max(CONFIG_MOST.heads),
  headDim: size.max(CONFIG_MOST.headDim), maxPositions: size,
  normEps: z.number().positive(),
  rope: z.strictObject({
    style: z.enum(ROPE_STYLES), dim: size, theta: z.number().positive(),
    inverseFrequencies: z.array(z.number()).readonly(), magnitude: z.number().positive(),
    long: z.strictObject({ fromPositions: size, inverseFrequencies: z.array(z.number()).readonly(), magnitude: z.number().positive() }).nullable(),
  }),
  mla: z.strictObject({
    qLoraRank: size.nullable(), kvLoraRank: size, nopeHeadDim: size, ropeHeadDim: size, valueHeadDim: size, normEps: z.number().positive(),
  }).nullable(),
  norm: z.enum(["rms", "layer"]),
  qkNorm: z.enum(["none", "per-head", "whole-vector"]),
  qkvBias: z.boolean(), oBias: z.boolean(), attentionSinks: z.boolean(),
  clipQkv: z.number().positive().nullable(),
  attentionScale: z.number(),
  slidingWindows: z.array(count).readonly(),
  layerFfns: z.array(z.enum(["moe", "dense", "product"])).readonly(),
  denseIntermediateSize: count, nExperts: count.max(CONFIG_MOST.experts), expertKind: z.enum(EXPERT_KINDS), swigluLimit: z.number().min(0), expertIntermediateSize: count,
  latentExperts: z.strictObject({ rank: size.max(CONFIG_MOST.hidden), nGroups: size.max(CONFIG_MOST.experts) }).exactOptional(),
  productExperts: z.strictObject({
    form: z.enum(["vertical", "horizontal"]), nKeys: size.max(CONFIG_MOST.productKeys), nHeads: size.max(CONFIG_MOST.heads), topK: size, expertSize: size.max(CONFIG_MOST.hidden), routerLayers: size.max(CONFIG_MOST.layers),
  }).exactOptional(),
  sharedIntermediateSize: count,
  sharedGate: z.boolean(),
  router: z.strictObject({
    score: z.enum(["softmax", "sigmoid", "logits", "one"]), select: z.enum(["top-k", "sparsemixer"]), sparsemixerEpsilon: z.number().min(0), weigh: z.enum(["score", "renormalize", "softmax-selected", "one"]),
    scale: z.number(), topK: count, auxiliaries: z.strictObject({ perToken: size, weighAmong: z.enum(["run", "ranked"]) }).optional(), logitBias: z.boolean(), selectionBias: z.boolean(), nGroups: size, topKGroups: size,
    groupScore: z.enum(["max", "top2-sum"]),
  }),
  onlinePruning: z.strictObject({ ratios: z.array(z.number().min(0).max(1)).readonly().nullable(), protectFirst: count, renormalize: z.boolean(), keepRouter: z.boolean() }).optional(),
  tieWordEmbeddings: z.boolean(), headBias: z.boolean(),
  embeddingMultiplier: z.number(), residualMultiplier: z.number(), logitsScaling: z.number(),
  eosTokenIds: z.array(count).readonly(),
  bosTokenId: count.nullable(),
});
