// A small model as plain numbers: a config and seeded weights, for tests of the engine without pack or file.
// Owns nothing but the numbers. Refuses formats: those come through formats/.

import { expertInputSize, expertOutputSize, ffnShape, sharedWidth, trunkTensors, type ExpertMatrix, type ModelConfig } from "../../model/config.ts";
import type { DefinitionMatrix } from "../../model/definition.ts";
import { plainInverseFrequencies } from "../../model/rope.ts";
import type { PlainWeights } from "./direct-engine.ts";

/** Two layers, eight experts, two of them for each token. */
export const seededConfig: ModelConfig = {
  architecture: "test", vocabSize: 61, hiddenSize: 48, nLayers: 2, nHeads: 4, nKvHeads: 2, headDim: 12, mla: null, maxPositions: 256, norm: "rms", normEps: 1e-5,
  rope: { style: "half", dim: 12, theta: 10000, inverseFrequencies: plainInverseFrequencies(12, 10000), magnitude: 1, long: null },
  qkNorm: "none", qkvBias: false, oBias: false, attentionSinks: false, clipQkv: null, attentionScale: 12 ** -0.5, slidingWindows: [0, 0], layerFfns: ["moe", "moe"],
  denseIntermediateSize: 0, nExperts: 8, expertKind: "swiglu", swigluLimit: 0, expertIntermediateSize: 40, sharedIntermediateSize: 0, sharedGate: false,
  router: {
    score: "softmax", select: "top-k", sparsemixerEpsilon: 0, weigh: "score", scale: 1, topK: 2, logitBias: false, selectionBias: false,
    nGroups: 1, topKGroups: 1, groupScore: "max",
  },
  tieWordEmbeddings: false, headBias: false, embeddingMultiplier: 1, residualMultiplier: 1, logitsScaling: 1, eosTokenIds: [], bosTokenId: null,
};

/** Seeded weights in a range that keeps logits of order 1 to 10; every name has its own stream. */
export function seededWeights(config: ModelConfig, seed: number): PlainWeights {
  const cache = new Map<string, DefinitionMatrix>();
  const shapes = new Map<string, readonly [rows: number, cols: number]>();
  for (const t of trunkTensors(config)) {
    if (t.kind === "vector") shapes.set(t.name, [1, t.length]);
    else if (t.kind === "matrix") shapes.set(t.name, [t.nRows, t.nCols]);
    else for (let i = 0; i < t.count; i++) shapes.set(`${t.name}.${i}`, [t.nRows, t.nCols]);
  }
  const shapeOf = (name: string): readonly [rows: number, cols: number] => {
    const ffn = /^layers\.(\d+)\.(experts\.\d+|shared)\.(gate|up|down)(Bias)?$/.exec(name);
    if (ffn === null) return shapes.get(name)!;
    const width = ffn[2] === "shared" ? sharedWidth(config, Number(ffn[1])) : config.expertIntermediateSize;
    const { nRows, nCols } = ffnShape(ffn[2] === "shared" ? config.hiddenSize : expertInputSize(config), ffn[2] === "shared" ? config.hiddenSize : expertOutputSize(config), width, ffn[3] as ExpertMatrix);
    return ffn[4] === undefined ? [nRows, nCols] : [1, nRows];
  };
  return (name) => {
    const cached = (matrix: DefinitionMatrix): DefinitionMatrix => {
      cache.set(name, matrix);
      return matrix;
    };
    const known = cache.get(name);
    if (known !== undefined) return known;
    const [rows, cols] = shapeOf(name);
    let state = [...name].reduce((h, ch) => Math.imul(h ^ ch.charCodeAt(0), 0x01000193), seed ^ 0x811c9dc5);
    const next = () => {
      state = Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9 | 0;
      return ((state ^ (state >>> 13)) >>> 0) / 2 ** 31 - 1;
    };
    if (name.endsWith("routerTable")) return cached({ rows, cols, values: Float32Array.from({ length: cols }, (_, id) => (id * 5 + 3) % config.nExperts) });
    const isNorm = /[nN]orm$/.test(name);
    // An expert that attends too sharply says the same as another.
    const scale = /router(\.\d+)?$/i.test(name) && config.router.gate?.kind === "attention" ? 0.1 : /router(\.\d+)?$/i.test(name) || name === "embed" ? 1 : rows === 1 ? 0.5 : 2 / Math.sqrt(cols);
    const values = Float32Array.from({ length: rows * cols }, () => (isNorm ? 1 + 0.3 * next() : scale * next()));
    return cached({ rows, cols, values: name.endsWith("routerSpread") ? values.map(Math.abs) : values });
  };
}
