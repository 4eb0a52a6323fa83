// Generations with interventions: what one says alone it says beside others with other interventions, in a ring, and where its stream broke; the prefix cache keeps them apart; traces and samples have a
// place for tokens that lost all experts of a layer; a request that cannot be is a sentence. Out of scope: the operations themselves (test/node/model/interventions.test.ts).

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import { systemClock } from "../../../durable/clock.ts";
import type { GenerateEvent, GenerateRequest } from "../../../durable/generate.ts";
import { parseGenerateRequest } from "../../../durable/generate-request.ts";
import { LIMITS } from "../../../durable/limits.ts";
import { ringChunkTokens } from "../../../durable/ring-rows.ts";
import { Scheduler, type StepEngine } from "../../../durable/scheduler.ts";
import { TraceSamples } from "../../../durable/trace-samples.ts";
import { openPack } from "../../../formats/pack-reader.ts";
import { readTrace, traceHeader } from "../../../formats/trace.ts";
import type { ModelConfig } from "../../../model/config.ts";
import type { Intervention } from "../../../model/interventions.ts";
import { type RequestRouting, routingKey } from "../../../model/request-routing.ts";
import { PLAIN_SAMPLING } from "../../../model/sampling.ts";
import { type StageSpan, wholeModel } from "../../../model/stage-span.ts";
import { packToMemory } from "../../support/pack-to-memory.ts";
import { plainCheckpoint } from "../../support/plain-checkpoint.ts";
import { openStage } from "../../support/ring.ts";
import { openStages, ringCluster } from "../../support/ring-cluster.ts";
import { seededConfig, seededWeights } from "../../support/seeded-model.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const config: ModelConfig = { ...seededConfig, router: { ...seededConfig.router, topK: 4, weigh: "renormalize" } };
const VOCAB = config.vocabSize;
const ALL = [0, 1, 2, 3, 4, 5, 6, 7];
const steer = (...interventions: readonly Intervention[]): RequestRouting => ({ interventions });
const ROUTINGS: readonly (RequestRouting | undefined)[] = [
  undefined, steer({ op: "add_std", experts: { 0: [1], 1: [2, 5] }, lambda: 2 }, { op: "mask", experts: { 1: [0, 3] } }), steer({ op: "suppress", experts: { 0: [2], 1: ALL } }),
  { pruning: { by: "ratio", ratios: [0.8, 0.8], protectFirst: 0, renormalize: true }, ...steer({ op: "stimulate", experts: { 1: [6] } }, { op: "top_k", k: 3 }) }, steer({ op: "null_bias", bias: [0.3, -0.1] }, { op: "gain", experts: { 0: [4] }, gain: 1.7 }),
];
const request = (seed: number, more: Partial<GenerateRequest> = {}): GenerateRequest =>
  ({ promptIds: Array.from({ length: 9 + seed }, (_, i) => (i * i * 13 + seed) % VOCAB), maxTokens: 12, stopIds: [], sampling: { ...PLAIN_SAMPLING, temperature: 0, seed }, ...more });
/** Greedy text of a small model repeats itself, so guesses are made of the first kind; log-probabilities show every bit. */
const requests = ROUTINGS.flatMap((routing, i) => [request(2 * i, { logprobs: 0 }), request(2 * i + 1, { trace: true, maxTokens: 5, draftTokens: 0 })].map((of): GenerateRequest => (routing === undefined ? of : { ...of, routing })));

/** All events of requests that run together, by what is the same wherever they run. */
async function said(engine: StepEngine, of: readonly GenerateRequest[], samples: TraceSamples | null = null): Promise<GenerateEvent[][]> {
  const scheduler = new Scheduler(engine, systemClock, LIMITS, () => {}, samples);
  return Promise.all(of.map((one) => new Promise<GenerateEvent[]>((resolve) => {
    const events: GenerateEvent[] = [];
    void scheduler.submit(one, (event) => {
      events.push(event);
      if (event.type === "end" || event.type === "error") resolve(events);
    }).accepted.then((refusal) => { if (refusal !== null) resolve([refusal]); });
  })));
}
const tokensOf = (events: readonly GenerateEvent[]): unknown[] => events.flatMap((event): unknown[] => (event.type === "token" ? [{ id: event.id, logprob: event.logprob, experts: event.experts, weights: event.weights }] : event.type === "error" ? [event] : []));
const endOf = (events: readonly GenerateEvent[]): Extract<GenerateEvent, { type: "end" }> => events.at(-1) as Extract<GenerateEvent, { type: "end" }>;
const packed = async (): Promise<{ source: Awaited<ReturnType<typeof packToMemory>>["source"]; manifest: Awaited<ReturnType<typeof openPack>>["manifest"]; packHash: string }> => {
  const { source } = await packToMemory(plainCheckpoint(config, seededWeights(config, 22)), { quant: "q8", segmentWidth: 32 });
  return { source, ...await openPack(source) };
};
const SPANS: StageSpan[] = [{ embeddingRows: [0, VOCAB], layers: [0, 1], headRows: [0, 0] }, { embeddingRows: [0, 0], layers: [1, 2], headRows: [0, VOCAB] }];

describe("a generation with interventions", () => {
  it("is what it is alone beside others with other ones, and in a ring", async () => {
    const { source, manifest } = await packed();
    const whole = async (): Promise<StepEngine> => (await openStage(source, manifest, wholeModel(manifest.config), 32)).engine;
    const alone: GenerateEvent[][] = [];
    for (const of of requests) alone.push(...await said(await whole(), [of]));
    expect(alone.every((events) => endOf(events).type === "end")).toBe(true);
    const together = await said(await whole(), requests);
    const ring = await said(ringCluster(await openStages(source, manifest, SPANS), manifest).engine, requests);
    alone.forEach((events, i) => {
      for (const others of [together, ring]) {
        expect(tokensOf(others[i]!), `request ${i}`).toEqual(tokensOf(events));
        expect(endOf(others[i]!).moe.pruned === undefined).toBe(requests[i]!.routing?.pruning === undefined);
        if (requests[i]!.draftTokens === 0) expect(endOf(others[i]!).moe.pruned).toEqual(endOf(events).moe.pruned);
      }
      if (i >= 2 && i % 2 === 0) expect(endOf(events).type).toBe("end");
    });
    // Each list changes what is said or how likely it is.
    for (let i = 2; i < requests.length; i += 2) {
      const { routing: _, ...plain } = requests[i]!;
      expect(tokensOf(alone[i]!)).not.toEqual(tokensOf((await said(await whole(), [plain]))[0]!));
    }
  });

  it("names in a trace those who were asked, with a place for a layer of none", async () => {
    const { source, manifest, packHash } = await packed();
    const { engine } = await openStage(source, manifest, wholeModel(manifest.config), 32);
    const samples = new TraceSamples(traceHeader({ manifest, packHash }), 1, { next: () => 0 }, { traceBytes: 1 << 20 });
    const [events] = await said(engine, [requests[5]!], samples);
    const tokens = events!.flatMap((event) => (event.type === "token" ? [event] : []));
    expect(tokens.length).toBe(5);
    for (const { experts, weights, served } of tokens) {
      expect([experts![1], weights![1], served!.shards[1], served!.frames[1]]).toEqual([[], [], [], []]);
      expect(experts![0]!.length).toBeGreaterThan(2);
      expect(experts![0]).not.toContain(2);
      expect([experts!.length, weights!.length, served!.shards.length, served!.frames.length]).toEqual([2, 2, 2, 2]);
    }
    const trace = readTrace(samples.file(), "it");
    const records = Array.from({ length: trace.length }, (_, i) => trace.record(i));
    expect(records.filter(({ layer }) => layer === 1).every(({ ids, weights }) => ids.length === 0 && weights.length === 0)).toBe(true);
    expect(records.filter(({ layer }) => layer === 0).every(({ ids }) => ids.length >= 3)).toBe(true);
    expect(records.length).toBe(2 * (requests[5]!.promptIds.length + 4));
  });

  it("continues with the same bits where its stream broke, and takes nothing over from other settings", async () => {
    const { source, manifest } = await packed();
    const { engine } = await openStage(source, manifest, wholeModel(manifest.config), 32);
    const base = request(3, { promptIds: Array.from({ length: 44 }, (_, i) => (i * 11) % VOCAB), cacheScope: "one", maxTokens: 6, logprobs: 0 });
    const first = new Map<RequestRouting | undefined, GenerateEvent[]>();
    const by = (routing: RequestRouting | undefined): GenerateRequest => (routing === undefined ? base : { ...base, routing });
    for (const routing of ROUTINGS) {
      const [events] = await said(engine, [by(routing)]);
      expect(endOf(events!).cachedTokens).toBe(0);
      first.set(routing, events!);
    }
    for (const routing of ROUTINGS) {
      const [again] = await said(engine, [by(structuredClone(routing))]);
      expect(endOf(again!).cachedTokens).toBe(43);
      expect(tokensOf(again!)).toEqual(tokensOf(first.get(routing)!));
      const emittedIds = first.get(routing)!.flatMap((event) => (event.type === "token" ? [event.id] : [])).slice(0, 3);
      const [rest] = await said(engine, [{ ...by(routing), cacheScope: "another", emittedIds }]);
      expect(tokensOf(rest!)).toEqual(tokensOf(first.get(routing)!).slice(3));
    }
    const keys = ROUTINGS.flatMap((routing) => (routing === undefined ? [] : [routingKey(routing)]));
    expect(new Set(keys).size).toBe(4);
    expect(keys.join("")).not.toContain(" ");
    const near: readonly RequestRouting[] = [0.5, 0.25].flatMap((lambda) => [[1], [2], [1, 2]].map((experts) => steer({ op: "add_std", experts: { 0: experts }, lambda })));
    expect(new Set(near.map(routingKey)).size).toBe(6);
  });

  it("is refused where the model has no part for it, or where it says too much", async () => {
    const { source, manifest } = await packed();
    const { engine } = await openStage(source, manifest, wholeModel(manifest.config), 32);
    const refused = async (routing: RequestRouting): Promise<unknown> => (await said(engine, [request(1, { routing })]))[0]![0];
    expect(await refused(steer({ op: "mask", experts: { 1: [0, 1, 2, 3, 4] } }))).toMatchObject({ type: "error", code: "invalid-request", message: expect.stringContaining("expected at least 4 to stay") });
    const parsed = (routing: unknown): unknown => parseGenerateRequest(JSON.stringify({ ...request(1), routing }));
    for (const of of ROUTINGS) if (of !== undefined) expect(parsed(of)).toEqual({ ...request(1), routing: of });
    expect(parsed({ interventions: [{ op: "melt", experts: {} }] })).toMatchObject({ code: "invalid-request", message: expect.stringContaining("routing.interventions.0") });
    expect(parsed({ interventions: Array.from({ length: LIMITS.interventions + 1 }, () => ({ op: "top_k", k: 1 })) })).toMatchObject({ code: "invalid-request" });
    expect(parsed({ interventions: [{ op: "mask", experts: Object.fromEntries(Array.from({ length: 90 }, (_, layer) => [layer, Array.from({ length: 128 }, (_, e) => e)])) }] })).toMatchObject({ code: "invalid-request", message: expect.stringContaining(`${LIMITS.routingChars} characters`) });
  });
});

describe("a step", () => {
  it("has fewer tokens where what is asked of routing takes of a ring's frames, and only then", async () => {
    const { source, manifest } = await packed();
    const { engine } = await openStage(source, manifest, wholeModel(manifest.config), 32);
    const steps: { readonly asked: boolean; readonly tokens: number }[] = [];
    const narrow: StepEngine = {
      config: engine.config, kv: engine.kv, maxChunkTokens: engine.maxChunkTokens, contextLength: engine.contextLength, chunkTokensBeside: (routings) => (routings.length === 0 ? engine.maxChunkTokens : 3),
      step: (entries, taps) => {
        steps.push({ asked: entries.some(({ routing }) => routing != null), tokens: entries.reduce((sum, of) => sum + of.ids.length, 0) });
        return engine.step(entries, taps);
      },
    };
    const prompt = { promptIds: Array.from({ length: 25 }, (_, i) => i), logprobs: 0, draftTokens: 0 };
    const [plain] = await said(narrow, [request(1, prompt)]);
    const [asked] = await said(narrow, [request(1, { ...prompt, routing: ROUTINGS[1]! })]);
    expect([plain, asked].map((events) => endOf(events!).type)).toEqual(["end", "end"]);
    expect(Math.max(...steps.filter((of) => !of.asked).map(({ tokens }) => tokens))).toBe(25);
    expect(Math.max(...steps.filter((of) => of.asked).map(({ tokens }) => tokens))).toBe(3);
    // The longest that a request may ask for, for every generation of a batch of the widest model.
    expect(ringChunkTokens({ nEntries: LIMITS.activeGenerations, nPages: LIMITS.activeGenerations * 256, nWanted: 8192, nRoutingBytes: LIMITS.activeGenerations * (LIMITS.routingChars + 1), hidden: 7168 })).toBeGreaterThan(3);
  });
});
