// A small model as plain numbers: a config and seeded weights, for tests of the engine without pack or file.
// Owns nothing but the numbers. Refuses formats: those come through formats/.

import { trunkTensors, type ModelConfig } from "../../model/config.ts";
import type { DefinitionMatrix } from "../../model/definition.ts";
import { plainInverseFrequencies } from "../../model/rope.ts";
import type { PlainWeights } from "./direct-engine.ts";

/** Two layers, eight experts, two of them for each token. */
export const seededConfig: ModelConfig = {
  architecture: "test", vocabSize: 61, hiddenSize: 48, nLayers: 2, nHeads: 4, nKvHeads: 2, headDim: 12, maxPositions: 256, normEps: 1e-5,
  rope: { style: "half", dim: 12, theta: 10000, inverseFrequencies: plainInverseFrequencies(12, 10000), magnitude: 1 },
  qkNorm: "none", qkvBias: false, clipQkv: null, attentionScale: 12 ** -0.5, slidingWindows: [0, 0], layerFfns: ["moe", "moe"],
  denseIntermediateSize: 0, nExperts: 8, expertIntermediateSize: 40, sharedIntermediateSize: 0, sharedGate: false,
  router: { score: "softmax", weigh: "score", scale: 1, topK: 2, logitBias: false, selectionBias: false, nGroups: 1, topKGroups: 1, groupScore: "max" },
  tieWordEmbeddings: false, embeddingMultiplier: 1, residualMultiplier: 1, logitsScaling: 1, eosTokenIds: [], bosTokenId: null,
};

/** Seeded weights in a range that keeps logits of order 1 to 10; every name has its own stream. */
export function seededWeights(config: ModelConfig, seed: number): PlainWeights {
  const cache = new Map<string, DefinitionMatrix>();
  const shapes = new Map(trunkTensors(config).map((t) => [t.name, t.kind === "matrix" ? [t.nRows, t.nCols] : [1, t.length]] as const));
  return (name) => {
    const known = cache.get(name);
    if (known !== undefined) return known;
    const expert = name.includes(".experts.");
    const [rows, cols] = expert
      ? name.endsWith("down") ? [config.hiddenSize, config.expertIntermediateSize] : [config.expertIntermediateSize, config.hiddenSize]
      : shapes.get(name)!;
    let state = [...name].reduce((h, ch) => Math.imul(h ^ ch.charCodeAt(0), 0x01000193), seed ^ 0x811c9dc5);
    const next = () => {
      state = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9 | 0;
      return ((state ^ (state >>> 13)) >>> 0) / 2 ** 31 - 1;
    };
    const scale = name.endsWith("router") ? 1 : name === "embed" ? 1 : 2 / Math.sqrt(cols!);
    const values = Float32Array.from({ length: rows! * cols! }, () => (rows === 1 ? 1 + 0.3 * next() : scale * next()));
    const matrix = { rows: rows!, cols: cols!, values };
    cache.set(name, matrix);
    return matrix;
  };
}
