// The engine against the float64 definition, and its promise of the same bits under any batch and chunking.
// Weights are seeded; the shapes cover the differences between the architectures (query-key norms, head sizes, grouped heads, rope style,
// sliding window, clamping, renormalised weights, multipliers).
import { describe, expect, test } from "vitest";
import { trunkTensors, type ModelConfig } from "../../../model/config.ts";
import { forwardDefinition, type DefinitionMatrix } from "../../../model/definition.ts";
import { CapacityError } from "../../../model/heap.ts";
import { plainInverseFrequencies } from "../../../model/rope.ts";
import { createScalarKernels } from "../../../model/scalar-kernels.ts";
import type { Tap } from "../../../model/taps.ts";
import { directEngine, logitsOf, type PlainWeights } from "../../support/direct-engine.ts";

const base: ModelConfig = {
  architecture: "test", vocabSize: 61, hiddenSize: 48, nLayers: 2, nHeads: 4, nKvHeads: 2, headDim: 12, maxPositions: 256, normEps: 1e-5,
  rope: { style: "half", dim: 12, theta: 10000, inverseFrequencies: plainInverseFrequencies(12, 10000), magnitude: 1 },
  qkNorm: "none", qkvBias: false, clipQkv: null, attentionScale: 12 ** -0.5, slidingWindows: [0, 0], layerFfns: ["moe", "moe"],
  denseIntermediateSize: 0, nExperts: 8, expertIntermediateSize: 40, sharedIntermediateSize: 0, sharedGate: false,
  router: { score: "softmax", weigh: "score", scale: 1, topK: 2, logitBias: false, selectionBias: false, nGroups: 1, topKGroups: 1, groupScore: "max" },
  tieWordEmbeddings: false, embeddingMultiplier: 1, residualMultiplier: 1, logitsScaling: 1, eosTokenIds: [], bosTokenId: null,
};

const VARIANTS: Record<string, Partial<ModelConfig>> = {
  "plain softmax router": {},
  "OLMoE: norm over the whole projected vector, clamp": { qkNorm: "whole-vector", clipQkv: 0.9 },
  "Qwen3: norm per head, head size apart from hidden size, renormalised": {
    qkNorm: "per-head", nHeads: 4, headDim: 16, attentionScale: 0.25, router: { ...base.router, weigh: "renormalize" },
    rope: { ...base.rope, dim: 16, inverseFrequencies: plainInverseFrequencies(16, 10000) },
  },
  "Mixtral in GGUF form: interleaved rope, tied head": { rope: { ...base.rope, style: "interleaved" }, tieWordEmbeddings: true },
  "sliding window, biases, multipliers, softmax over the chosen": {
    slidingWindows: [5, 0], qkvBias: true, embeddingMultiplier: 3, residualMultiplier: 0.5, logitsScaling: 2,
    router: { ...base.router, score: "logits", weigh: "softmax-selected" },
  },
  "group-limited sigmoid router": { router: { ...base.router, score: "sigmoid", weigh: "renormalize", nGroups: 4, topKGroups: 2, groupScore: "top2-sum", scale: 2.5 } },
  "every expert with weight one": { nExperts: 4, router: { ...base.router, score: "one", topK: 4 } },
};

/** Seeded weights in a range that keeps logits of order 1 to 10; every name has its own stream. */
function seededWeights(config: ModelConfig, seed: number): PlainWeights {
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

const ids = Array.from({ length: 40 }, (_, i) => (i * i * 7 + 3 * i + 11) % 61);
const kernels = () => createScalarKernels(new WebAssembly.Memory({ initial: 2 }));
const bits = (x: Float32Array) => new Uint32Array(x.buffer, x.byteOffset, x.length);

describe.each(Object.entries(VARIANTS))("%s", (_, variant) => {
  const config: ModelConfig = { ...base, ...variant };

  test("agrees with the float64 definition where the router's choice is clear", async () => {
    let judged = 0;
    for (let seed = 1; seed <= 40 && judged < 60; seed++) {
      const weights = seededWeights(config, seed);
      const truth = forwardDefinition(config, weights, ids);
      const clear = ids.findIndex((_, t) => truth.routing.some((layer) => layer[t]!.margin < 1e-3));
      const upTo = clear < 0 ? ids.length : clear; // a token whose choice may flip also changes those after it
      const { engine } = directEngine(config, weights, 65536, { kernels: kernels(), contextLength: 64 });
      const found = await logitsOf(engine, ids.slice(0, Math.max(1, upTo)), [16]);
      const scale = Math.max(1, ...truth.logits.slice(0, upTo).flat().map(Math.abs));
      for (let t = 0; t < upTo; t++) {
        for (let v = 0; v < config.vocabSize; v++) expect(Math.abs(found[t * config.vocabSize + v]! - truth.logits[t]![v]!)).toBeLessThan(1e-4 * scale);
      }
      judged += upTo;
    }
    expect(judged).toBeGreaterThanOrEqual(60);
  });

  test("one by one, whole, and any chunking give the same bits", async () => {
    const weights = seededWeights(config, 3);
    const { engine } = directEngine(config, weights, 65536, { kernels: kernels(), contextLength: 64, kvFormat: "f16" });
    const whole = bits(await logitsOf(engine, ids.slice(0, 40), [16]));
    for (const chunks of [[1], [3, 7, 1, 16], [16, 1], [2, 5]]) expect(bits(await logitsOf(engine, ids.slice(0, 40), chunks))).toEqual(whole);
  });
});

describe("batches and timelines", () => {
  const weights = seededWeights(base, 5);

  test("several timelines in one step give the bits of each alone", async () => {
    const { engine } = directEngine(base, weights, 65536, { kernels: kernels(), contextLength: 64 });
    const [a, b] = [ids.slice(0, 11), ids.slice(20, 34)];
    const alone = [await logitsOf(engine, a, [11]), await logitsOf(engine, b, [14])];
    const [ta, tb] = [engine.kv.open(20), engine.kv.open(20)];
    const found: number[][] = [[], []];
    const feed = async (na: [number, number], nb: [number, number]) => {
      const { logits } = await engine.step([{ timeline: ta, ids: a.slice(...na), logits: "all" }, { timeline: tb, ids: b.slice(...nb), logits: "all" }]);
      logits.forEach((part, i) => found[i]!.push(...part));
    };
    await feed([0, 4], [0, 9]);
    await feed([4, 5], [9, 10]);
    await feed([5, 11], [10, 14]);
    alone.forEach((expected, i) => expect(bits(Float32Array.from(found[i]!))).toEqual(bits(expected)));
  });

  test("segments are part of the model: the same segments in any run, and logits close to the unsliced model", async () => {
    const run = async (segmentWidth: number) => logitsOf(directEngine(base, weights, 65536, { kernels: kernels(), contextLength: 64, segmentWidth }).engine, ids.slice(0, 9), [9]);
    const [whole, sliced, again] = [await run(40), await run(32), await run(32)];
    expect(bits(sliced)).toEqual(bits(again));
    expect(bits(sliced)).not.toEqual(bits(whole));
    whole.forEach((value, i) => expect(sliced[i]).toBeCloseTo(value, 4));
  });

  test("pages come back, and a full cache refuses with the numbers", () => {
    const { engine, heap } = directEngine(base, weights, 65536, { kernels: kernels(), contextLength: 64 });
    const before = heap.usedBytes;
    const timelines = [engine.kv.open(64), engine.kv.open(33), engine.kv.open(1)];
    expect(timelines.map((t) => t.pages.length)).toEqual([2, 2, 1]);
    for (const timeline of [...timelines, timelines[0]!]) engine.kv.close(timeline);
    expect(heap.usedBytes).toBe(before);
    expect(() => engine.kv.open(65)).toThrow(CapacityError);
    expect(() => heap.alloc(1 << 30, "a test")).toThrow(/a test needs 1073741824 bytes .* are free \(in use: .*weights \d+/);
  });

  test("a failed step changes nothing and can be repeated", async () => {
    const { engine } = directEngine(base, weights, 65536, { kernels: kernels(), contextLength: 64 });
    const expected = await logitsOf(engine, ids.slice(0, 8), [8]);
    const timeline = engine.kv.open(8);
    await engine.step([{ timeline, ids: ids.slice(0, 5), logits: "none" }]);
    const fault: Tap = { at: "expertOutput", layers: [1], run: () => { throw new Error("lost"); } };
    await expect(engine.step([{ timeline, ids: ids.slice(5, 8), logits: "all" }], [fault])).rejects.toThrow("lost");
    expect(timeline.length).toBe(5);
    const { logits } = await engine.step([{ timeline, ids: ids.slice(5, 8), logits: "all" }]);
    expect(bits(logits[0]!)).toEqual(bits(expected.slice(5 * base.vocabSize)));
  });

  test("bad ids, overfull timelines and steps in parallel are refused by name", async () => {
    const { engine } = directEngine(base, weights, 65536, { kernels: kernels(), contextLength: 64 });
    const timeline = engine.kv.open(4);
    await expect(engine.step([{ timeline, ids: [61], logits: "none" }])).rejects.toThrow(/Token id 61 at position 0 is outside the vocabulary of 61/);
    await expect(engine.step([{ timeline, ids: [1, 2, 3, 4, 5], logits: "none" }])).rejects.toThrow(/0 of 4 reserved tokens; 5 more/);
    const running = engine.step([{ timeline, ids: [1], logits: "none" }]);
    await expect(engine.step([{ timeline, ids: [1], logits: "none" }])).rejects.toThrow(/await the previous/);
    await running;
  });

  test("taps see positions, choices and rows; reading changes no bit", async () => {
    const { engine } = directEngine(base, weights, 65536, { kernels: kernels(), contextLength: 64 });
    const expected = await logitsOf(engine, ids.slice(0, 6), [6]);
    const seen: string[] = [];
    const taps = (["input", "logits", "selection", "expertOutput", "layerOutput"] as const).map((at): Tap => ({
      at, layers: [1], run: (e) => void seen.push(`${at} ${e.layer} ${e.nTokens} ${e.positions.join(",")} ${e.ids.length} ${e.values.length / e.rowLength}`),
    }));
    const timeline = engine.kv.open(6);
    const { logits } = await engine.step([{ timeline, ids: ids.slice(0, 6), logits: "all" }], taps);
    expect(bits(logits[0]!)).toEqual(bits(expected));
    expect(seen).toEqual(["input 1 6 0,1,2,3,4,5 0 6", "logits 1 6 0,1,2,3,4,5 0 6", "selection 1 6 0,1,2,3,4,5 12 6", "expertOutput 1 6 0,1,2,3,4,5 0 12", "layerOutput 1 6 0,1,2,3,4,5 0 6"]);
  });
});
