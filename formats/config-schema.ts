// The schema of a model's config record, as packs and canonical models hold it. Owns what a valid record is. Refuses unknown keys; what one setting means
// for another is checkConfig's matter (model/architectures/common.ts).

import { z } from "zod";
import { CONFIG_MOST, type ModelConfig } from "../model/config.ts";
import { EXPERT_KINDS, ROPE_STYLES } from "../model/kernels.ts";
import { GATE_ACTIVATIONS, MOST_SCOPE_TOKENS } from "../model/router-config.ts";

const count = z.int().min(0);
const size = z.int().min(1);

const width = size.max(CONFIG_MOST.hidden);
const gate = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("mlp"), width, activation: z.enum(GATE_ACTIVATIONS) }),
  z.strictObject({ kind: z.literal("cosine"), width, temperature: z.number().positive() }),
  z.strictObject({ kind: z.literal("attention") }), z.strictObject({ kind: z.literal("sparsity") }), z.strictObject({ kind: z.literal("hash") }),
  z.strictObject({ kind: z.literal("conditions"), conditions: z.array(z.array(z.number()).readonly()).min(1).readonly() }),
  z.strictObject({ kind: z.literal("tasks"), nTasks: size.max(CONFIG_MOST.experts) }),
]);
const scope = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("sequence"), tokens: size.max(MOST_SCOPE_TOKENS) }),
  z.strictObject({ kind: z.literal("condition"), size: width }),
]);

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
  expertPool: z.strictObject({ layers: size.max(CONFIG_MOST.layers) }).optional(),
  latentExperts: z.strictObject({ rank: size.max(CONFIG_MOST.hidden), nGroups: size.max(CONFIG_MOST.experts) }).exactOptional(),
  productExperts: z.strictObject({
    form: z.enum(["vertical", "horizontal"]), nKeys: size.max(CONFIG_MOST.productKeys), nHeads: size.max(CONFIG_MOST.heads), topK: size, expertSize: size.max(CONFIG_MOST.hidden), routerLayers: size.max(CONFIG_MOST.layers),
  }).exactOptional(),
  sharedIntermediateSize: count,
  sharedGate: z.boolean(),
  router: z.strictObject({
    score: z.enum(["softmax", "sigmoid", "logits", "one"]), select: z.enum(["top-k", "sparsemixer", "threshold"]), sparsemixerEpsilon: z.number().min(0),
    threshold: z.strictObject({ least: z.number().min(0).lt(1), temperature: z.number().positive() }).optional(), nullExperts: size.max(CONFIG_MOST.experts).optional(), nullWeights: z.literal("kept").optional(), gate: gate.optional(), scope: scope.optional(), branches: z.array(z.strictObject({ topK: size, scope: scope.optional() })).readonly().optional(),
    weigh: z.enum(["score", "renormalize", "softmax-selected", "one"]),
    scale: z.number(), topK: count, auxiliaries: z.strictObject({ perToken: size, weighAmong: z.enum(["run", "ranked"]) }).optional(), logitBias: z.boolean(), selectionBias: z.boolean(), nGroups: size, topKGroups: size,
    groupScore: z.enum(["max", "top2-sum"]),
  }),
  onlinePruning: z.strictObject({ ratios: z.array(z.number().min(0).max(1)).readonly().nullable(), protectFirst: count, renormalize: z.boolean(), keepRouter: z.boolean() }).optional(),
  tieWordEmbeddings: z.boolean(), headBias: z.boolean(),
  embeddingMultiplier: z.number(), residualMultiplier: z.number(), logitsScaling: z.number(),
  eosTokenIds: z.array(count).readonly(),
  bosTokenId: count.nullable(),
});
