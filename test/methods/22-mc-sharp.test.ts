// Row 22, MC# (2025), and ODP of row 5: experts that a token does without at run time. Rule and mask router by hand, the same bits in batches, chunks, placements, slices and
// rings, a cache that keeps settings apart. How ratios and routers are found: 22-mc-sharp-calibration.test.ts; what it gives on the demo model: 22-mc-sharp-demo.test.ts.

import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../cli/build-kernels.mjs";
import { systemClock } from "../../durable/clock.ts";
import type { GenerateEvent, GenerateRequest } from "../../durable/generate.ts";
import { parseGenerateRequest } from "../../durable/generate-request.ts";
import { LIMITS } from "../../durable/limits.ts";
import { Scheduler, type StepEngine } from "../../durable/scheduler.ts";
import { TraceSamples } from "../../durable/trace-samples.ts";
import { MemorySource } from "../../formats/memory-source.ts";
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
import { directEngine, type DirectOptions } from "../support/direct-engine.ts";
import { packToMemory } from "../support/pack-to-memory.ts";
import { plainCheckpoint } from "../support/plain-checkpoint.ts";
import { openStage } from "../support/ring.ts";
import { openStages, ringCluster } from "../support/ring-cluster.ts";
import { seededConfig, seededWeights } from "../support/seeded-model.ts";

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
