// Row 22, MC# (2025), and ODP of row 5: experts that a token does without at run time. Rule and mask router by hand, the same bits in batches, chunks, placements, slices and
// rings, a cache that keeps settings apart, and the fitter against finite differences and real changes of a layer. What it gives on the demo model: 22-mc-sharp-demo.test.ts.

import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../cli/build-kernels.mjs";
import { kernelModules } from "../../cli/open-pack.ts";
import { systemClock } from "../../durable/clock.ts";
import type { GenerateEvent, GenerateRequest } from "../../durable/generate.ts";
import { parseGenerateRequest } from "../../durable/generate-request.ts";
import { LIMITS } from "../../durable/limits.ts";
import { Scheduler, type StepEngine } from "../../durable/scheduler.ts";
import { TraceSamples } from "../../durable/trace-samples.ts";
import { openModelFolder } from "../../formats/canonical-model.ts";
import { MemorySink, MemorySource } from "../../formats/memory-source.ts";
import { openPack } from "../../formats/pack-reader.ts";
import { readTrace, traceHeader } from "../../formats/trace.ts";
import { keepRouterColumns, type ModelConfig } from "../../model/config.ts";
import type { StepEntry } from "../../model/step.ts";
import { NO_EXPERT } from "../../model/expert-batch.ts";
import type { Experts, Placement } from "../../model/experts.ts";
import { keepFeatures, keepScores, keptByRatio, largestWithMost, leaveOut } from "../../model/online-pruning.ts";
import { pruningKey, pruningKinds, pruningRule, type PruningRule } from "../../model/online-pruning-rule.ts";
import { PLAIN_SAMPLING } from "../../model/sampling.ts";
import { createScalarKernels } from "../../model/scalar-kernels.ts";
import { wholeModel, type StageSpan } from "../../model/stage-span.ts";
import { lossOf, sampleLayer, wantedTokens } from "../../passes/kept-experts.ts";
import { LayeredModel } from "../../passes/layered-model.ts";
import { prefixLosses, RouterFit } from "../../passes/mask-router.ts";
import { onlinePruningModel } from "../../passes/online-pruning-model.ts";
import { chooseRatios, ratioPoint, ratioQuantile } from "../../passes/pruning-ratios.ts";
import { checkpointWeights } from "../../passes/streamed-model.ts";
import { directEngine, type DirectOptions } from "../support/direct-engine.ts";
import { openTinyHuggingFace, packToMemory } from "../support/pack-to-memory.ts";
import { plainCheckpoint } from "../support/plain-checkpoint.ts";
import { openStage } from "../support/ring.ts";
import { openStages, ringCluster } from "../support/ring-cluster.ts";
import { seededConfig, seededWeights } from "../support/seeded-model.ts";
import { tinyModel } from "../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const config: ModelConfig = {
  ...seededConfig, router: { ...seededConfig.router, topK: 4, weigh: "renormalize" }, onlinePruning: { ratios: [0.3, 0.6], protectFirst: 2, renormalize: true, keepRouter: true },
};
const byRatio = (ratio: number | readonly number[], more: Partial<PruningRule> = {}): PruningRule => ({ by: "ratio", ratios: typeof ratio === "number" ? [ratio, ratio] : ratio, protectFirst: 0, renormalize: true, ...more } as PruningRule);
const learned: PruningRule = { by: "learned", protectFirst: 3, renormalize: false };
const weights = seededWeights(config, 22);
const ids = Array.from({ length: 33 }, (_, i) => (i * i * 7 + 3 * i + 11) % 61);
const bits = (x: Float32Array): Uint32Array => new Uint32Array(x.buffer, x.byteOffset, x.length);
const open = (of: ModelConfig = config, more: Partial<DirectOptions> = {}): ReturnType<typeof directEngine> =>
  directEngine(of, weights, 65536, { kernels: createScalarKernels(new WebAssembly.Memory({ initial: 2 })), contextLength: 64, maxChunkTokens: 40, ...more });

interface Evaluated { readonly logits: Uint32Array; readonly leftOut: number; readonly of: number }
async function evaluated({ engine }: ReturnType<typeof open>, pruning: PruningRule | null, chunks: readonly number[] = [33], beside: (at: number) => Omit<StepEntry, "timeline">[] = () => []): Promise<Evaluated> {
  const timeline = engine.kv.open(40);
  const parts: number[] = [];
  let [leftOut, of] = [0, 0];
  for (let done = 0, i = 0; done < ids.length; i++) {
    const chunk = ids.slice(done, done + chunks[Math.min(i, chunks.length - 1)]!);
    const others = beside(i).map((entry) => ({ ...entry, timeline: engine.kv.open(8) }));
    const { logits, pruned } = await engine.step([...others, { timeline, ids: chunk, logits: "all", routing: pruning === null ? null : { pruning } }]);
    parts.push(...bits(logits[others.length]!));
    leftOut += pruned?.[others.length]!.leftOut ?? 0;
    of += pruned?.[others.length]!.of ?? 0;
    for (const entry of others) engine.kv.close(entry.timeline);
    done += chunk.length;
  }
  engine.kv.close(timeline);
  return { logits: Uint32Array.from(parts), leftOut, of };
}

describe("the rule by ratio", () => {
  it("leaves out what weighs less than so many times the first, and never the first", () => {
    const given = Float32Array.of(0.5, 0.25, 0.2, 0.05);
    expect(keptByRatio(0.4, given)).toEqual([true, true, true, false]); // 0.2 is no less than 0.4 x 0.5
    expect(keptByRatio(0.5, given)).toEqual([true, true, false, false]);
    expect(keptByRatio(1, given)).toEqual([true, false, false, false]);
    expect(keptByRatio(0, given)).toEqual([true, true, true, true]);
    // MC-MoE's case: of two the second, where w2 < beta w1. Ranks of a biased selection need not descend.
    expect(keptByRatio(0.6, Float32Array.of(0.7, 0.3))).toEqual([true, false]);
    expect(keptByRatio(0.6, Float32Array.of(0.2, 0.5, 0.1))).toEqual([true, true, false]);
  });

  it("weighs those that stay as the router would, or lets them be", () => {
    const take = (renormalize: boolean, router: Partial<ModelConfig["router"]> = {}): [number[], number[]] => {
      const [own, given] = [Uint32Array.of(5, 2, 7, 0), Float32Array.of(0.4, 0.3, 0.2, 0.1)];
      leaveOut({ ...config.router, ...router }, renormalize, [true, false, true, false], Float32Array.of(0.05, 0, 0.15, 0, 0, 0.2, 0, 0.1), own, given);
      return [Array.from(own), Array.from(given)];
    };
    expect(take(true)).toEqual([[5, NO_EXPERT, 7, NO_EXPERT], [Math.fround(2 / 3), 0, Math.fround(1 / 3), 0].map((x) => expect.closeTo(x, 6) as number)]);
    expect(take(true, { scale: 3 })[1]).toEqual([2, 0, 1, 0].map((x) => expect.closeTo(x, 6) as number));
    expect(take(true, { select: "threshold" })[1]).toEqual([2 / 3, 0, 1 / 3, 0].map((x) => expect.closeTo(x, 6) as number));
    expect(take(true, { select: "sparsemixer" })[1]).toEqual([0.4, 0, 0.2, 0].map(Math.fround));
    expect(take(false)).toEqual([[5, NO_EXPERT, 7, NO_EXPERT], [0.4, 0, 0.2, 0].map(Math.fround)]);
    expect(take(true, { weigh: "score" })[1]).toEqual([0.4, 0, 0.2, 0].map(Math.fround));
  });

  it("brings weights to a sum of one, whoever stays", () => {
    fc.assert(fc.property(fc.array(fc.float({ min: Math.fround(1e-3), max: 1, noNaN: true }), { minLength: 2, maxLength: 8 }), fc.nat(), fc.constantFrom("renormalize" as const, "softmax-selected" as const), (scores, mask, weigh) => {
      const kept = scores.map((_, rank) => rank === 0 || (mask >> rank) % 2 === 1);
      const given = new Float32Array(scores.length);
      leaveOut({ ...config.router, topK: scores.length, weigh }, true, kept, Float32Array.from(scores), Uint32Array.from(scores.keys()), given);
      expect(given.reduce((sum, weight) => sum + weight, 0)).toBeCloseTo(1, 5);
      kept.forEach((stays, rank) => { if (!stays) expect(given[rank]).toBe(0); });
    }));
  });
});

describe("the mask router", () => {
  it("reads residual and weights, and its largest score says how many stay", () => {
    const x = Float32Array.of(3, 4); // root mean square sqrt(12.5)
    const features = keepFeatures(x, Float32Array.of(0.6, 0.3, 0.1), 0);
    const size = Math.sqrt(12.5);
    [3 / size, 4 / size, 0.6, 0.5, 1 / 6, 1].forEach((value, i) => { expect(features[i]).toBeCloseTo(value, 6); });
    expect(features.length).toBe(keepRouterColumns(2, 3));
    // Scores 1 + first weight, 2 x residual 0, residual 1 - 1.
    const parameters = Float32Array.of(0, 0, 1, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, -1);
    const scores = keepScores(parameters, x, Float32Array.of(0.6, 0.3, 0.1), 0);
    [1.6, 6 / size, 4 / size - 1].forEach((value, i) => { expect(scores[i]).toBeCloseTo(value, 5); });
    expect(largestWithMost(scores)).toBe(2);
  });

  it("keeps more where scores are equal, and all where they are none", () => {
    expect(largestWithMost([1, 2, 2])).toBe(3);
    expect(largestWithMost([2, 2, 1])).toBe(2);
    expect(largestWithMost([NaN, NaN, NaN])).toBe(3);
    expect(largestWithMost([3, 1, 1])).toBe(1);
  });
});

describe("an engine", () => {
  it("in which all experts stay gives the bits of one that knows no rule", async () => {
    const { onlinePruning: _, ...never } = config;
    const plain = await evaluated(open(never), null);
    expect(plain).toMatchObject({ leftOut: 0, of: 0 });
    expect((await evaluated(open(), null)).logits).toEqual(plain.logits);
    expect(await evaluated(open(), byRatio(0))).toEqual({ logits: plain.logits, leftOut: 0, of: 33 * 2 * 4 });
    expect((await evaluated(open(), byRatio(1, { protectFirst: 33 }))).logits).toEqual(plain.logits);
    expect((await evaluated(open(), byRatio(1))).logits).not.toEqual(plain.logits);
  });

  it.each(["renormalize", "softmax-selected", "score"] as const)("in which only the first stays is a model of one expert a token: %s", async (weigh) => {
    const router = { ...config.router, weigh, score: weigh === "softmax-selected" ? "logits" as const : "softmax" as const };
    const one = await evaluated(open({ ...config, onlinePruning: undefined, router: { ...router, topK: 1 } }), null);
    expect(await evaluated(open({ ...config, router }), byRatio(1))).toEqual({ logits: one.logits, leftOut: 33 * 2 * 3, of: 33 * 2 * 4 });
  });

  it("leaves protected positions and other layers alone", async () => {
    const { engine } = open();
    const seen: [layer: number, position: number, nTaken: number][] = [];
    const timeline = engine.kv.open(40);
    await engine.step([{ timeline, ids, logits: "none", routing: { pruning: byRatio([0, 1], { protectFirst: 5 }) } }], [{ at: "selection", run: ({ layer, positions, ids: chosen, weights: given }) => {
      positions.forEach((position, t) => {
        seen.push([layer, position, chosen.subarray(4 * t, 4 * t + 4).filter((id) => id !== NO_EXPERT).length]);
        expect(given.subarray(4 * t, 4 * t + 4).reduce((sum, weight) => sum + weight, 0)).toBeCloseTo(1, 5);
      });
    } }]);
    expect(seen.length).toBe(66);
    for (const [layer, position, nTaken] of seen) expect(nTaken).toBe(layer === 1 && position >= 5 ? 1 : 4);
  });

  it.each([["ratio", byRatio([0.9, 0.6], { protectFirst: 4, renormalize: false })], ["ratio, renormalised", byRatio(0.8)], ["learned", learned]] as const)("gives the same bits in chunks, beside others, over parts and slices: %s", async (_, rule) => {
    const expected = await evaluated(open(), rule);
    expect(expected.leftOut).toBeGreaterThan(20);
    expect(expected.leftOut).toBeLessThan(33 * 2 * 3);
    const other = (pruning: PruningRule | null, seed: number): Omit<StepEntry, "timeline"> => ({ ids: [seed, 5, 9], logits: "last", routing: pruning === null ? null : { pruning } });
    const beside = (i: number): Omit<StepEntry, "timeline">[] => [other(null, i), other(byRatio(1), 7), other(learned, 3)].slice(0, 1 + (i % 3));
    for (const chunks of [[1], [3, 8, 1, 21], [16]]) {
      expect(await evaluated(open(), rule, chunks)).toEqual(expected);
      expect(await evaluated(open(), rule, chunks, beside)).toEqual(expected);
    }
    // Two rounds a step, and experts in four parts, their segments apart.
    expect(await evaluated(open(config, { maxRoundTokens: 20 }), rule)).toEqual(expected);
    const placement: Placement = { nParts: 4, partOf: (layer, expert, segment) => (layer + expert + 3 * segment) % 4 };
    const apart = (inner: Experts & { runPart: (layer: number, batch: Parameters<Experts["run"]>[1], part: number) => void }): Experts => ({
      placement, overlapTokens: Infinity, depart: () => undefined,
      run: (layer, batch) => {
        for (const part of [2, 0, 3, 1]) inner.runPart(layer, batch, part);
        return { frames: 0, bytes: 0, retries: 0, hedges: 0, parts: [] };
      },
    });
    expect(await evaluated(open(config, { experts: apart }), rule, [5])).toEqual(expected);
    const sliced = await evaluated(open(config, { segmentWidth: 32 }), rule);
    expect(await evaluated(open(config, { segmentWidth: 32, experts: apart }), rule, [7], beside)).toEqual(sliced);
    expect(sliced.leftOut).toBeGreaterThan(20);
  });
});

const VOCAB = config.vocabSize;
const request = (seed: number, more: Partial<GenerateRequest> = {}): GenerateRequest =>
  ({ promptIds: Array.from({ length: 9 + seed }, (_, i) => (i * i * 13 + seed) % VOCAB), maxTokens: 12, stopIds: [], sampling: { ...PLAIN_SAMPLING, temperature: 0, seed }, ...more });
/** All events of requests that run together, without the clock's, by what is the same wherever they run. */
async function said(engine: StepEngine, requests: readonly GenerateRequest[], samples: TraceSamples | null = null): Promise<GenerateEvent[][]> {
  const scheduler = new Scheduler(engine, systemClock, LIMITS, () => {}, samples);
  return Promise.all(requests.map((of) => new Promise<GenerateEvent[]>((resolve) => {
    const events: GenerateEvent[] = [];
    void scheduler.submit(of, (event) => {
      events.push(event);
      if (event.type === "end" || event.type === "error") resolve(events);
    }).accepted.then((refusal) => { if (refusal !== null) resolve([refusal]); });
  })));
}
const tokensOf = (events: readonly GenerateEvent[]): unknown[] => events.flatMap((event): unknown[] => (event.type === "token" ? [{ id: event.id, logprob: event.logprob, experts: event.experts, weights: event.weights }] : event.type === "error" ? [event] : []));
const endOf = (events: readonly GenerateEvent[]): Extract<GenerateEvent, { type: "end" }> => events.at(-1) as Extract<GenerateEvent, { type: "end" }>;
const packed = async (): Promise<{ source: MemorySource; manifest: Awaited<ReturnType<typeof openPack>>["manifest"]; packHash: string }> => {
  const { source } = await packToMemory(plainCheckpoint(config, weights), { quant: "q8", segmentWidth: 32 });
  return { source, ...await openPack(source) };
};

describe("a generation", () => {
  const RULES: readonly (PruningRule | undefined)[] = [undefined, byRatio(0.8), learned, byRatio([0, 0.9], { renormalize: false, protectFirst: 6 })];
  // Greedy text of a small model repeats itself, so guesses are made of it; log-probabilities show every bit.
  const requests = RULES.flatMap((pruning, i) => [request(2 * i, { logprobs: 0 }), request(2 * i + 1, { trace: true, maxTokens: 5, draftTokens: 0 })].map((of) => (pruning === undefined ? of : { ...of, routing: { pruning } })));

  it("is what it is alone beside others with other settings, and in a ring", async () => {
    const { source, manifest } = await packed();
    const whole = async (): Promise<StepEngine> => (await openStage(source, manifest, wholeModel(manifest.config), 32)).engine;
    const alone: GenerateEvent[][] = [];
    for (const of of requests) alone.push(...await said(await whole(), [of]));
    expect(alone.every((events) => endOf(events).type === "end")).toBe(true);
    const together = await said(await whole(), requests);
    const spans: StageSpan[] = [{ embeddingRows: [0, VOCAB], layers: [0, 1], headRows: [0, 0] }, { embeddingRows: [0, 0], layers: [1, 2], headRows: [0, VOCAB] }];
    const ring = await said(ringCluster(await openStages(source, manifest, spans), manifest).engine, requests);
    alone.forEach((events, i) => {
      const { pruned } = endOf(events).moe;
      expect(pruned === undefined).toBe(requests[i]!.routing === undefined);
      if (pruned !== undefined) expect(pruned.leftOut).toBeGreaterThan(0);
      for (const others of [together, ring]) {
        expect(tokensOf(others[i]!), `request ${i}`).toEqual(tokensOf(events));
        // Guesses depend on the pace; without them the counts are the same everywhere.
        if (requests[i]!.draftTokens === 0) expect(endOf(others[i]!).moe.pruned).toEqual(pruned);
      }
    });
    // Traces name only those that were asked.
    const traced = alone[3]!.flatMap((event) => (event.type === "token" ? event.experts! : []));
    expect(traced.some((experts) => experts.length < 4) && traced.every((experts) => experts.length >= 1 && experts.every((id) => id < 8))).toBe(true);
    expect(tokensOf(alone[2]!)).not.toEqual(tokensOf((await said(await whole(), [{ ...requests[2]!, routing: { pruning: byRatio(0) } }]))[0]!));
  });

  it("continues with the same bits where its stream broke, and takes nothing over from other settings", async () => {
    const { source, manifest } = await packed();
    const { engine } = await openStage(source, manifest, wholeModel(manifest.config), 32);
    const base = request(3, { promptIds: Array.from({ length: 44 }, (_, i) => (i * 11) % VOCAB), cacheScope: "one", maxTokens: 6, logprobs: 0 });
    const withRule = (pruning: PruningRule | undefined): GenerateRequest => (pruning === undefined ? base : { ...base, routing: { pruning } });
    const first = new Map<PruningRule | undefined, GenerateEvent[]>();
    for (const rule of RULES) {
      const [events] = await said(engine, [withRule(rule)]);
      expect(endOf(events!).cachedTokens).toBe(0);
      first.set(rule, events!);
    }
    for (const rule of RULES) {
      const [again] = await said(engine, [withRule(rule)]);
      expect(endOf(again!).cachedTokens).toBe(43);
      expect(tokensOf(again!)).toEqual(tokensOf(first.get(rule)!));
      const emittedIds = first.get(rule)!.flatMap((event) => (event.type === "token" ? [event.id] : [])).slice(0, 3);
      const [rest] = await said(engine, [{ ...withRule(rule), cacheScope: "another", emittedIds }]);
      expect(tokensOf(rest!)).toEqual(tokensOf(first.get(rule)!).slice(3));
    }
    expect(new Set([byRatio(0.8), byRatio(0.7), byRatio(0.8, { renormalize: false }), byRatio(0.8, { protectFirst: 1 }), learned].map(pruningKey)).size).toBe(5);
    expect(pruningKey(byRatio(0.8))).not.toContain(" ");
  });

  it("leaves samples of its routing with those it took", async () => {
    const { source, manifest, packHash } = await packed();
    const { engine } = await openStage(source, manifest, wholeModel(manifest.config), 32);
    const samples = new TraceSamples(traceHeader({ manifest, packHash }), 1, { next: () => 0 }, { traceBytes: 1 << 20 });
    await said(engine, [requests[5]!], samples);
    const trace = readTrace(samples.file(), "it");
    const lengths = Array.from({ length: trace.length }, (_, i) => trace.record(i)).map(({ ids: taken, weights: given }) => [taken.length, given.length]);
    expect(lengths.every(([n, m]) => n === m && n! >= 1)).toBe(true);
    expect(lengths.some(([n]) => n! < 4) && lengths.some(([n]) => n === 4)).toBe(true);
  });

  it("is refused where the model has no part for its rule", async () => {
    const engineOf = async (of: ModelConfig): Promise<StepEngine> => open(of).engine;
    const { onlinePruning: _, ...plain } = config;
    const refusal = async (of: ModelConfig, pruning: PruningRule): Promise<unknown> => (await said(await engineOf(of), [request(1, { routing: { pruning } })]))[0]![0];
    expect(await refusal(plain, learned)).toMatchObject({ type: "error", code: "invalid-request", message: expect.stringContaining("this model has no mask router") as unknown });
    expect(await refusal(plain, byRatio([0.1, 0.2, 0.3]))).toMatchObject({ code: "invalid-request", message: "3 ratios were given; expected one for each of 2 layers." });
    expect(await refusal({ ...plain, router: { ...plain.router, topK: 1 } }, byRatio(0.5))).toMatchObject({ message: expect.stringContaining("takes 1 for a token; expected at least 2") as unknown });
    expect(parseGenerateRequest(JSON.stringify(request(1, { routing: { pruning: byRatio(1.5) } })))).toMatchObject({ type: "error", code: "invalid-request" });
    expect(parseGenerateRequest(JSON.stringify(request(1, { routing: { pruning: learned } })))).toEqual(request(1, { routing: { pruning: learned } }));
  });
});

it("a wish becomes a rule, or a sentence", () => {
  expect(pruningRule(config, "calibrated")).toEqual({ by: "ratio", ratios: [0.3, 0.6], protectFirst: 2, renormalize: true });
  expect(pruningKinds(config)).toEqual(["ratio", "calibrated", "learned"]);
  expect(pruningKinds({ ...config, onlinePruning: undefined })).toEqual(["ratio"]);
  expect(pruningKinds({ ...config, router: { ...config.router, topK: 1 } })).toEqual([]);
  expect(pruningRule(config, "learned")).toEqual({ by: "learned", protectFirst: 2, renormalize: true });
  expect(pruningRule(config, { ratio: 0.4, layers: [1], protectFirst: 0, renormalize: false })).toEqual({ by: "ratio", ratios: [0, 0.4], protectFirst: 0, renormalize: false });
  expect(pruningRule({ ...config, onlinePruning: undefined }, { ratio: [0.1, 0.2] })).toEqual({ by: "ratio", ratios: [0.1, 0.2], protectFirst: 4, renormalize: false });
  expect(pruningRule({ ...config, onlinePruning: undefined }, "calibrated")).toContain("this model has none");
  expect(pruningRule(config, { ratio: [0.1, 0.2], layers: [1] })).toContain("together with a list of layers");
  expect(pruningRule(config, { ratio: 0.1, layers: [2] })).toBe("Layer 2 was named; expected layers with experts, which are 0, 1 here.");
  expect(pruningRule(config, { ratio: 2 })).toBe("A ratio is 2; expected a number from 0 to 1.");
  expect(pruningRule({ ...config, layerFfns: ["dense", "dense"] }, { ratio: 0.1 })).toContain("dense model");
});

const SEQUENCES = Array.from({ length: 6 }, (_, s) => Array.from({ length: 21 + s }, (_, i) => (i * 37 + s * 11 + 2) % 97));
const lengths = SEQUENCES.map(({ length }) => length);

describe("a calibration", () => {
  it.each(["qwen3_moe", "granitemoe", "deepseek_v3"] as const)("measures what the layer's output really changes by: %s", async (architecture) => {
    const checkpoint = await openTinyHuggingFace(tinyModel(architecture, 22), { dtype: "F32" });
    const { config: c } = checkpoint;
    const model = await LayeredModel.open(checkpointWeights(checkpoint, 64), SEQUENCES, kernelModules());
    const [n, k] = [lengths.reduce((a, b) => a + b, 0), c.router.topK];
    for (let layer = 0; layer < c.nLayers; layer++) {
      if (c.layerFfns[layer] !== "moe") {
        await model.runLayer(layer);
        continue;
      }
      const before = await model.tryLayer(layer);
      const changed = await Promise.all([0.9]).then(async ([ratio]) => {
        const masks: boolean[][] = [];
        const after = await model.tryLayer(layer, { taps: [{ at: "selection", run: ({ nTokens, values, rowLength, ids: chosen, weights: given }) => {
          for (let t = 0; t < nTokens; t++) {
            const kept = keptByRatio(ratio!, given.subarray(t * k, (t + 1) * k));
            masks.push(kept);
            leaveOut(c.router, true, kept, values.subarray(t * rowLength, (t + 1) * rowLength), chosen.subarray(t * k, (t + 1) * k), given.subarray(t * k, (t + 1) * k));
          }
        } }] });
        return { after, masks };
      });
      const samples = await sampleLayer(model, layer, lengths, { protectFirst: 0, withFeatures: false, most: Infinity });
      expect(samples.n).toBe(n);
      expect(changed.masks.some((kept) => kept.includes(false))).toBe(true);
      let total = 0;
      for (let i = 0; i < n; i++) {
        let [change, size] = [0, 0];
        for (let j = i * c.hiddenSize; j < (i + 1) * c.hiddenSize; j++) {
          change += (changed.after[j]! - before[j]!) ** 2;
          size += before[j]! ** 2;
        }
        const loss = lossOf(c, true, samples, i, changed.masks[i]!);
        expect(Math.abs(loss - change / size)).toBeLessThan(1e-4 * (change / size) + 1e-9);
        total += loss;
      }
      const point = ratioPoint(c, true, samples, 0.9);
      expect(point.loss).toBeCloseTo(total / n, 12);
      expect(point.share).toBeCloseTo(changed.masks.flat().filter((stays) => !stays).length / (n * k), 12);
    }
  });

  it("takes tokens behind the protected positions, evenly", () => {
    expect(wantedTokens([4, 3], 2, 9)).toEqual([2, 3, 6]);
    expect(wantedTokens([10], 0, 5)).toEqual([0, 2, 4, 6, 8]);
  });

  it("chooses ratios for a share: MC-MoE's medians in the layers that mind least, or the least loss", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel("qwen3_moe", 22, { config: { num_experts_per_tok: 4 } }), { dtype: "F32" });
    const { config: c } = checkpoint;
    const model = await LayeredModel.open(checkpointWeights(checkpoint, 64), SEQUENCES, kernelModules());
    const layers: Awaited<ReturnType<typeof sampleLayer>>[] = [];
    for (let layer = 0; layer < c.nLayers; layer++) layers.push(await sampleLayer(model, layer, lengths, { protectFirst: 1, withFeatures: false, most: Infinity }));
    const share = (choice: ReturnType<typeof chooseRatios>): number => choice.reduce((sum, { point }) => sum + point.share, 0) / choice.length;
    const loss = (choice: ReturnType<typeof chooseRatios>): number => choice.reduce((sum, { point }) => sum + point.loss, 0);
    for (const wanted of [0.1, 0.2, 0.5]) {
      const [medians, least] = [chooseRatios(c, false, layers, wanted, "median"), chooseRatios(c, false, layers, wanted, "least-loss")];
      for (const choice of [medians, least]) expect(Math.abs(share(choice) - wanted)).toBeLessThan(0.03);
      expect(loss(least)).toBeLessThan(loss(medians) * (wanted + 0.03) / wanted);
    }
    const [chosen] = [chooseRatios(c, false, layers, 0.1, "median")];
    const at = layers.map((samples) => ratioPoint(c, false, samples, ratioQuantile(samples, 4, 0.5)));
    // One layer of two is enough for a tenth: the one whose median costs less.
    expect(chosen.filter(({ point }) => point.ratio > 0).map(({ layer }) => layer)).toEqual([at[0]!.loss <= at[1]!.loss ? 0 : 1]);
    expect(() => chooseRatios(c, false, layers, 0.8, "median")).toThrow("expected more than 0 and less than 0.750, since the first of 4 always stays");
  });
});

describe("the fit of a mask router", () => {
  it("descends along the exact gradient of the expectation", () => {
    const n = 7;
    const of = { hiddenSize: 4, router: { ...config.router, topK: 3 } };
    const columns = keepRouterColumns(4, 3);
    const features = Float32Array.from({ length: n * columns }, (_, i) => Math.sin(i * 1.7));
    const samples = { layer: 0, n, features, weights: new Float32Array(0), scores: new Float32Array(0), logits: new Float32Array(0), products: new Float64Array(0), residual: new Float64Array(0) };
    const losses = Float64Array.from({ length: 3 * n }, (_, i) => (i % 3 === 2 ? 0 : Math.abs(Math.cos(i))));
    const tokens = Array.from({ length: n }, (_, i) => i);
    const valueAt = (p: number, by: number): number => {
      const fit = new RouterFit(of, samples, losses, 0.4);
      fit.parameters[p]! += by;
      return fit.objective(0.2, tokens).value;
    };
    const { gradient } = new RouterFit(of, samples, losses, 0.4).objective(0.2, tokens);
    const step = 1e-5;
    for (let p = 0; p < gradient.length; p++) expect(Math.abs(gradient[p]! - (valueAt(p, step) - valueAt(p, -step)) / (2 * step))).toBeLessThan(1e-6);
    expect(gradient.some((slope) => Math.abs(slope) > 1e-3)).toBe(true);
  });

  it("begins as the rule by ratio", () => {
    const of = { hiddenSize: 4, router: { ...config.router, topK: 4 } };
    const given = [[0.5, 0.3, 0.15, 0.05], [0.4, 0.3, 0.2, 0.1], [0.9, 0.05, 0.03, 0.02]].map((row) => Float32Array.from(row));
    for (const own of given) {
      const fit = new RouterFit(of, { layer: 0, n: 1, features: keepFeatures(Float32Array.of(1, -2, 0.5, 3), own, 1e-6), weights: own, scores: own, logits: own, products: new Float64Array(16), residual: Float64Array.of(1) }, new Float64Array(4), 0.4);
      expect(fit.share(0) * 4).toBeCloseTo(keptByRatio(0.4, own).filter((stays) => !stays).length, 6);
    }
  });

  it("writes a model whose routers leave out the share, lose less than ratios do, and serve", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel("qwen3_moe", 23, { config: { num_experts_per_tok: 4 } }), { dtype: "F32" });
    const sequences = Array.from({ length: 12 }, (_, s) => Array.from({ length: 40 }, (_, i) => (i * i * 3 + 7 * s * i + s) % 97));
    const run = async (rule: "ratio" | "learned"): Promise<{ report: Awaited<ReturnType<typeof onlinePruningModel>>; files: Map<string, Uint8Array> }> => {
      const sink = new MemorySink();
      return { report: await onlinePruningModel(checkpoint, sink, kernelModules(), { rule, share: 0.25, allotment: "least-loss", protectFirst: 2, renormalize: null, sequences, seed: 1 }), files: sink.files };
    };
    const [ratio, router] = [await run("ratio"), await run("learned")];
    for (const { report } of [ratio, router]) expect(Math.abs(report.share - 0.25)).toBeLessThan(0.02);
    const loss = ({ report }: typeof ratio): number => report.layers.reduce((sum, of) => sum + of.loss, 0);
    expect(loss(router)).toBeLessThan(loss(ratio));
    const model = await openModelFolder(new MemorySource(router.files), "learned");
    expect(model.config.onlinePruning).toMatchObject({ protectFirst: 2, keepRouter: true, renormalize: router.report.renormalize });
    const names = new Set([...model.places()].map(({ name }) => name));
    expect([0, 1].map((layer) => names.has(`layers.${layer}.keepRouter`))).toEqual([true, true]);
    for (const { name } of checkpoint.places()) expect(await model.readF32(name)).toEqual(await checkpoint.readF32(name));
    const { source } = await packToMemory(model, { quant: "f32" });
    const { manifest } = await openPack(source);
    const { engine } = await openStage(source, manifest, wholeModel(manifest.config), 64);
    const rule = pruningRule(manifest.config, "learned") as PruningRule;
    let [leftOut, all] = [0, 0];
    for (const of of sequences) {
      const { pruned } = await engine.step([{ timeline: engine.kv.open(40), ids: of, logits: "none", routing: { pruning: rule } }]);
      leftOut += pruned![0]!.leftOut;
      all += pruned![0]!.of;
    }
    // The layers below were run with all experts when the share was set, and protected tokens count here.
    expect(leftOut / all).toBeGreaterThan(0.18);
    expect(leftOut / all).toBeLessThan(0.3);
    // A pass over it again replaces what it had.
    const again = new MemorySink();
    await onlinePruningModel(model, again, kernelModules(), { rule: "ratio", share: 0.25, allotment: "median", protectFirst: 2, renormalize: true, sequences, seed: 1 });
    const later = await openModelFolder(new MemorySource(again.files), "again");
    expect(later.config.onlinePruning).toMatchObject({ keepRouter: false, renormalize: true });
    expect([...later.places()].length).toBe([...checkpoint.places()].length);
    const dense = await openTinyHuggingFace(tinyModel("llama", 1));
    await expect(onlinePruningModel(dense, new MemorySink(), kernelModules(), { rule: "ratio", share: 0.2, allotment: "median", protectFirst: 0, renormalize: true, sequences, seed: 1 })).rejects.toThrow("this is a dense model");
  });

  it("knows what keeping the first few loses", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel("qwen3_moe", 22), { dtype: "F32" });
    const model = await LayeredModel.open(checkpointWeights(checkpoint, 64), SEQUENCES, kernelModules());
    const samples = await sampleLayer(model, 0, lengths, { protectFirst: 0, withFeatures: true, most: 9 });
    const losses = prefixLosses(checkpoint.config, true, samples);
    const { topK: k } = checkpoint.config.router;
    expect(samples.n).toBe(9);
    expect(samples.features.length).toBe(9 * keepRouterColumns(checkpoint.config.hiddenSize, k));
    for (let i = 0; i < 9; i++) {
      expect(losses[i * k]).toBe(lossOf(checkpoint.config, true, samples, i, Array.from({ length: k }, (_, rank) => rank === 0)));
      expect(losses[i * k + k - 1]).toBe(0);
    }
  });
});
