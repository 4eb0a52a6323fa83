// Every form a model's parts can take, one at a time and in the company real architectures give them: the engine against the float64
// definition, and the same bits whatever the chunks and segments. Sizes and weights are seeded and belong to no checkpoint.

import { describe, expect, it } from "vitest";
import type { ModelConfig } from "../../../model/config.ts";
import { forwardDefinition } from "../../../model/definition.ts";
import { plainInverseFrequencies } from "../../../model/rope.ts";
import { createScalarKernels } from "../../../model/scalar-kernels.ts";
import { RESERVED_BYTES } from "../../../model/wasm-kernels.ts";
import { directEngine, logitsOf } from "../../support/direct-engine.ts";
import { seededConfig, seededWeights } from "../../support/seeded-model.ts";

const base = seededConfig;
const rope = (dim: number, over: Partial<ModelConfig["rope"]> = {}): ModelConfig["rope"] =>
  ({ ...base.rope, dim, inverseFrequencies: plainInverseFrequencies(dim, 10000), ...over });
const mla = { qLoraRank: null, kvLoraRank: 16, nopeHeadDim: 8, ropeHeadDim: 4, valueHeadDim: 12, normEps: 1e-6 };
const latent = { nKvHeads: 1, headDim: 20, mla, rope: rope(4, { style: "interleaved" }), attentionScale: 12 ** -0.5 } as const;
const router = base.router;

const FORMS: Readonly<Record<string, Partial<ModelConfig>>> = {
  "a shared expert": { sharedIntermediateSize: 72 },
  "a shared expert with a gate": { sharedIntermediateSize: 72, sharedGate: true },
  "a leading dense layer": { layerFfns: ["dense", "moe"], denseIntermediateSize: 56 },
  "dense layers alone": { layerFfns: ["dense", "dense"], denseIntermediateSize: 56, nExperts: 0, expertIntermediateSize: 0, router: { ...router, topK: 0 } },
  "latent attention": latent,
  "latent attention with low-rank queries": { ...latent, mla: { ...mla, qLoraRank: 24 } },
  "attention sinks and a window": { attentionSinks: true, slidingWindows: [5, 0] },
  "biases on q, k, v and o": { qkvBias: true, oBias: true },
  "clamped experts with biases and a router bias": { expertKind: "clamped-swiglu", swigluLimit: 1.5, router: { ...router, score: "logits", weigh: "softmax-selected", logitBias: true } },
  "ReLU experts without a gate": { expertKind: "relu-mlp" },
  "GELU experts without a gate, beside a dense layer and a shared expert": { expertKind: "gelu-mlp", layerFfns: ["dense", "moe"], denseIntermediateSize: 56, sharedIntermediateSize: 40 },
  "latent ReLU experts": { expertKind: "relu-mlp", latentExperts: { rank: 32, nGroups: 2 } },
  "LayerNorm, biases and sparsemixer": { norm: "layer", qkvBias: true, oBias: true, headBias: true, router: { ...router, score: "logits", select: "sparsemixer", sparsemixerEpsilon: 0.01 } },
  "sigmoid scores, a selection bias, groups and a scale": {
    sharedIntermediateSize: 40, router: { ...router, score: "sigmoid", weigh: "renormalize", scale: 2.5, selectionBias: true, nGroups: 4, topKGroups: 2, groupScore: "top2-sum" },
  },
  "two experts run and two beside them": { router: { ...router, topK: 2, auxiliaries: { perToken: 2, weighAmong: "run" } }, sharedIntermediateSize: 72, sharedGate: true },
  "one expert run and three beside it, renormalised": { router: { ...router, topK: 1, weigh: "renormalize", auxiliaries: { perToken: 3, weighAmong: "run" } }, layerFfns: ["dense", "moe"], denseIntermediateSize: 48 },
  "experts beside clamped ones, weights of the selected": { expertKind: "clamped-swiglu", swigluLimit: 1.5, router: { ...router, score: "logits", weigh: "softmax-selected", logitBias: true, auxiliaries: { perToken: 2, weighAmong: "ranked" } } },
  "experts beside those of the best groups": {
    router: { ...router, score: "sigmoid", weigh: "renormalize", scale: 2.5, selectionBias: true, nGroups: 4, topKGroups: 2, groupScore: "top2-sum", auxiliaries: { perToken: 2, weighAmong: "ranked" } },
  },
  "multipliers": { embeddingMultiplier: 3, residualMultiplier: 0.22, logitsScaling: 6, attentionScale: 0.05, tieWordEmbeddings: true },
  "long rotary frequencies": { rope: rope(12, { magnitude: 1.1, long: { fromPositions: 8, inverseFrequencies: plainInverseFrequencies(12, 10000).map((f, i) => f / (1 + i)), magnitude: 1.3 } }) },
};
const IDS = [3, 17, 60, 4, 4, 29, 8, 55, 31, 12, 0, 41, 7];

const engineOf = (config: ModelConfig, options: { readonly maxChunkTokens?: number; readonly segmentWidth?: number } = {}) => {
  const memory = new WebAssembly.Memory({ initial: 16 });
  return directEngine(config, seededWeights(config, 5), RESERVED_BYTES, { kernels: createScalarKernels(memory), contextLength: 64, ...options }).engine;
};

describe.each(Object.entries(FORMS))("%s", (_, form) => {
  const config: ModelConfig = { ...base, ...form };

  it("gives the definition's logits", async () => {
    const { logits, routing } = forwardDefinition(config, seededWeights(config, 5), IDS);
    expect(Math.min(Infinity, ...routing.flat().map(({ margin }) => margin)), "the choice of experts is clear").toBeGreaterThan(1e-5);
    const found = await logitsOf(engineOf(config), IDS, [IDS.length]);
    const scale = Math.max(...logits.flat().map(Math.abs));
    expect(scale).toBeGreaterThan(0.1);
    logits.flat().forEach((value, i) => expect(Math.abs(found[i]! - value) / scale, `logit ${i}`).toBeLessThan(2e-5));
  });

  it("gives the same bits token by token, in chunks and at once", async () => {
    const whole = await logitsOf(engineOf(config), IDS, [IDS.length]);
    for (const chunks of [[1], [5, 1, 3]]) expect(await logitsOf(engineOf(config, { maxChunkTokens: 7 }), IDS, chunks)).toEqual(whole);
  });
});

it.each(["clamped experts with biases and a router bias", "ReLU experts without a gate", "GELU experts without a gate, beside a dense layer and a shared expert"])("the bias of down is added once, whatever the segments: %s", async (form) => {
  const config: ModelConfig = { ...base, ...FORMS[form]! };
  const [whole, sliced] = [await logitsOf(engineOf(config), IDS, [4]), await logitsOf(engineOf(config, { segmentWidth: 32 }), IDS, [4])];
  const scale = Math.max(...whole.map(Math.abs));
  whole.forEach((value, i) => expect(Math.abs(sliced[i]! - value) / scale).toBeLessThan(1e-5));
});

it("a sequence reserved for more than the short positions takes the long frequencies from its first token on", async () => {
  const config: ModelConfig = { ...base, ...FORMS["long rotary frequencies"]! };
  const short = IDS.slice(0, 6);
  const engine = engineOf(config);
  const logits = async (reserved: number): Promise<Float32Array> => {
    const timeline = engine.kv.open(reserved);
    const [row] = (await engine.step([{ timeline, ids: short, logits: "last" }])).logits;
    engine.kv.close(timeline);
    return row!;
  };
  const of = (reserved: number): number[] => forwardDefinition(config, seededWeights(config, 5), short, reserved).logits.at(-1)!;
  for (const reserved of [8, 9]) {
    const [found, expected] = [await logits(reserved), of(reserved)];
    expected.forEach((value, i) => expect(Math.abs(found[i]! - value)).toBeLessThan(1e-4));
  }
  expect(of(8)).not.toEqual(of(9));
});
