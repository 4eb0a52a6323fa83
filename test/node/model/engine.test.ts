// The engine against the float64 definition, and its promise of the same bits under any batch and chunking.
// Weights are seeded; the shapes cover the differences between the architectures (query-key norms, head sizes, grouped heads, rope style,
// sliding window, clamping, renormalised weights, multipliers).
import { describe, expect, test } from "vitest";
import type { ModelConfig } from "../../../model/config.ts";
import { forwardDefinition } from "../../../model/definition.ts";
import { type Kernels, type KvFormat, kvLayerBytes } from "../../../model/kernels.ts";
import { probabilitiesOf } from "../../../model/draw.ts";
import type { LogitsRequest } from "../../../model/logits.ts";
import { instantiateKernels } from "../../../model/wasm-kernels.ts";
import { CapacityError } from "../../../model/heap.ts";
import { plainInverseFrequencies } from "../../../model/rope.ts";
import { createScalarKernels } from "../../../model/scalar-kernels.ts";
import type { Tap } from "../../../model/taps.ts";
import { KERNEL_VARIANTS } from "../../kernel-cases.ts";
import { kernelModule } from "../kernels/modules.ts";
import { directEngine, logitsOf } from "../../support/direct-engine.ts";
import { seededConfig as base, seededWeights } from "../../support/seeded-model.ts";

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
  "latent experts of one group": { latentExperts: { rank: 32, nGroups: 1 } },
  "latent experts of four groups, with a shared expert": { latentExperts: { rank: 32, nGroups: 4 }, sharedIntermediateSize: 24, sharedGate: true },
  "every expert with weight one": { nExperts: 4, router: { ...base.router, score: "one", topK: 4 } },
};

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

  test.each(["f16", "q8"] as const)("one by one, whole, and any chunking give the same bits with a cache in %s", async (kvFormat) => {
    const weights = seededWeights(config, 3);
    const { engine } = directEngine(config, weights, 65536, { kernels: kernels(), contextLength: 64, kvFormat });
    const whole = bits(await logitsOf(engine, ids.slice(0, 40), [16]));
    for (const chunks of [[1], [3, 7, 1, 16], [16, 1], [2, 5]]) expect(bits(await logitsOf(engine, ids.slice(0, 40), chunks))).toEqual(whole);
  });
});

describe("the q8 cache", () => {
  const weights = seededWeights(base, 5);

  test.each(KERNEL_VARIANTS)("%s in any chunks gives the reference's logits, bit for bit, which stay near those of an f32 cache", async (variant) => {
    const config = { ...base, slidingWindows: [0, 37] };
    const memory = new WebAssembly.Memory({ initial: 2 });
    const wasm = instantiateKernels(kernelModule(variant), memory, variant);
    const long = Array.from({ length: 70 }, (_, i) => (i * i * 5 + 3 * i + 7) % 61);
    const run = (k: Kernels, kvFormat: KvFormat, chunks: number[]) =>
      logitsOf(directEngine(config, weights, 65536, { kernels: k, contextLength: 96, kvFormat, maxChunkTokens: 40 }).engine, long, chunks);
    const expected = await run(kernels(), "q8", [7]);
    for (const chunks of [[1], [40], [3, 33, 1]]) expect(bits(await run(wasm, "q8", chunks))).toEqual(bits(expected));
    const exact = await run(kernels(), "f32", [40]);
    const scale = Math.max(...exact.map(Math.abs));
    const difference = Math.sqrt(exact.reduce((sum, x, i) => sum + (x - expected[i]!) ** 2, 0) / exact.length);
    expect(difference).toBeGreaterThan(0);
    expect(difference).toBeLessThan(0.02 * scale);
  });

  test("a page holds 34 bytes for 32 values, and the ledger counts it", () => {
    for (const [headDim, tiles] of [[32, 1], [64, 2], [80, 3], [16, 1]] as const) expect(kvLayerBytes("q8", 3, headDim, 0)).toBe(3 * 2 * tiles * 34 * 32);
    const config = { ...base, headDim: 64, nHeads: 2, nKvHeads: 1, attentionScale: 0.125 };
    const inUse = (kvFormat: KvFormat) => {
      const { engine, heap } = directEngine(config, seededWeights(config, 2), 65536, { kernels: kernels(), contextLength: 64, kvFormat });
      const before = heap.usedBytes;
      engine.kv.open(64);
      return { pageBytes: engine.kv.pageBytes, used: heap.usedBytes - before };
    };
    const [q8, f16] = [inUse("q8"), inUse("f16")];
    expect(q8.pageBytes).toBe(2 * 2 * 32 * 68);
    expect(q8.pageBytes / f16.pageBytes).toBe(34 / 64);
    expect(q8.used).toBeGreaterThanOrEqual(2 * q8.pageBytes);
    expect(q8.used).toBeLessThan(2 * q8.pageBytes + 256);
  });
});

describe("the largest logits alone, and probabilities", () => {
  test.each([false, true])("are those of the whole row, for entries of every kind in one step, bias on the head: %s", async (headBias) => {
    const config = { ...base, logitsScaling: 4, vocabSize: 517, headBias };
    const { engine } = directEngine(config, seededWeights(config, 5), 65536, { kernels: kernels(), contextLength: 64, maxChunkTokens: 72 });
    const third = { apply: (row: Float32Array) => row.map((value, id) => (id % 3 === 1 ? value : -Infinity)), push: () => {}, isComplete: false, dispose: () => {} };
    const asked: LogitsRequest[] = [{ top: 5, of: "all" }, "all", { top: 1, of: "last" }, "none", { top: 64, of: "last" }, "last", { top: 2, of: "all" }, { temperature: 0.7, of: "last" }, { temperature: 1.3, of: "all" },
      { temperature: 0.9, stage: third, of: "last" }, { among: { ...third, candidates: Uint32Array.of(1, 31, 34, 505) }, of: "last" }, { among: { ...third, candidates: Uint32Array.of(config.vocabSize - 1) }, of: "last" },
      { among: { ...third, candidates: Uint32Array.from({ length: 100 }, (_, i) => 3 * i + 1) }, of: "last" }, { top: 1, stage: third, of: "last" }];
    const texts = asked.map((_, i) => ids.slice(i, i + 3 + (i % 4)));
    const step = async (logits: (i: number) => LogitsRequest) => {
      const timelines = texts.map(() => engine.kv.open(20));
      const result = await engine.step(texts.map((text, i) => ({ timeline: timelines[i]!, ids: text, logits: logits(i) })));
      timelines.forEach((timeline) => engine.kv.close(timeline));
      return result;
    };
    const whole = await step(() => "all");
    const found = await step((i) => asked[i]!);
    asked.forEach((request, i) => {
      const v = config.vocabSize;
      const rows = texts[i]!.map((_, t) => whole.logits[i]!.subarray(t * v, (t + 1) * v));
      if (typeof request !== "object") {
        expect(found.tops[i]).toBeNull();
        expect(bits(found.logits[i]!)).toEqual(bits(request === "all" ? whole.logits[i]! : request === "last" ? rows.at(-1)!.slice() : new Float32Array(0)));
        return;
      }
      const chosen = request.of === "all" ? rows : rows.slice(-1);
      if ("among" in request) {
        const left = request.among.apply(chosen[0]!);
        expect(bits(found.logits[i]!)).toEqual(bits(Float32Array.from(request.among.candidates!, (id) => left[id]!)));
        return;
      }
      if ("temperature" in request) {
        expect(found.tops[i]).toBeNull();
        expect(bits(found.logits[i]!)).toEqual(bits(Float32Array.from(chosen.flatMap((row) => Array.from(probabilitiesOf(request.stage?.apply(row) ?? row, request.temperature))))));
        return;
      }
      const k = Math.min((request as { top: number }).top, v);
      const stage = "stage" in request ? request.stage ?? null : null;
      const ranked = chosen.map((row) => stage?.apply(row) ?? row).map((row) => Array.from(row.keys()).sort((a, b) => row[b]! - row[a]! || a - b).slice(0, k).map((id) => ({ id, value: row[id]! })));
      expect(found.logits[i]!.length).toBe(0);
      expect(Array.from(found.tops[i]!.ids)).toEqual(ranked.flat().map(({ id }) => id));
      expect(bits(found.tops[i]!.values)).toEqual(bits(Float32Array.from(ranked.flat().map(({ value }) => value))));
      expect(Array.from(found.tops[i]!.notFinite)).toEqual(ranked.map(() => -1));
    });
    await expect(step(() => ({ top: 0, of: "last" }))).rejects.toThrow(/The 0 largest logits were asked for; 1 to 64/);
  });
});

test("states are what logits are made of, in any chunks and company", async () => {
  for (const variant of [{}, { norm: "layer" as const, headBias: true, logitsScaling: 2 }]) {
    const config: ModelConfig = { ...base, ...variant };
    const weights = seededWeights(config, 5);
    const { engine } = directEngine(config, weights, 65536, { kernels: kernels(), contextLength: 64, maxChunkTokens: 40 });
    const step = async (entries: readonly (readonly [readonly number[], LogitsRequest])[]) => {
      const timelines = entries.map(([text]) => engine.kv.open(text.length));
      const { logits } = await engine.step(entries.map(([text, logitsOfEntry], i) => ({ timeline: timelines[i]!, ids: text, logits: logitsOfEntry })));
      timelines.forEach((timeline) => engine.kv.close(timeline));
      return logits;
    };
    const text = ids.slice(0, 11);
    const [states, rows] = await step([[text, { states: true, of: "all" }], [text, "all"]]);
    const [head, bias] = [weights("head"), config.headBias ? Array.from(weights("headBias").values) : []];
    const scale = Math.max(...rows!.map(Math.abs));
    for (let t = 0; t < text.length; t++) for (let v = 0; v < config.vocabSize; v++) {
      let logit = bias[v] ?? 0;
      for (let i = 0; i < config.hiddenSize; i++) logit += head.values[v * config.hiddenSize + i]! * states![t * config.hiddenSize + i]!;
      expect(Math.abs(logit / config.logitsScaling - rows![t * config.vocabSize + v]!)).toBeLessThan(1e-5 * scale);
    }
    const [last] = await step([[text, { states: true, of: "last" }], [ids.slice(5, 20), "last"]]);
    expect(bits(last!)).toEqual(bits(states!.slice(-config.hiddenSize)));
  }
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
