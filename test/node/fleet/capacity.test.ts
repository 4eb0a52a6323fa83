// The calculators of a deployment against hand-computed cases, against a real pack's manifest, and against the plan that admits loads (durable/memory-plan.ts).

import fc from "fast-check";
import { beforeAll, describe, expect, it, test } from "vitest";
import { capacityLimits } from "../../../cli/plan-document.ts";
import { plannedConfig } from "../../../cli/plan-model.ts";
import { LIMITS } from "../../../durable/limits.ts";
import { kvBytes, orchestratorMemory, pageBytes, plannedBytes, shardMemory } from "../../../durable/memory-plan.ts";
import { type CapacityPack, kvBytesPerToken, packBytes, parameterCounts, roomBytes } from "../../../fleet/capacity-pack.ts";
import { planShards, shardBytes } from "../../../fleet/capacity-shards.ts";
import { allocatedBytes } from "../../../model/heap.ts";
import { planLanes, stageBytes } from "../../../fleet/capacity-stages.ts";
import { planCapacity } from "../../../fleet/capacity.ts";
import type { PackManifest } from "../../../formats/manifest.ts";
import { openPack } from "../../../formats/pack-reader.ts";
import { openTinyHuggingFace, packToMemory } from "../../support/pack-to-memory.ts";
import { tinyModel } from "../../support/tiny-models.ts";

const MIB = 1024 * 1024;
const ONE = { replicas: 1, spareBytes: 0, regions: [], regionHolds: "deployment", expertsIn: "shards" } as const;

async function realPack(kind: "olmoe" | "mixtral" | "deepseek_v2" | "granitemoe", segmentWidth = 32): Promise<PackManifest> {
  const pack = await packToMemory(await openTinyHuggingFace(tinyModel(kind, 2)), { quant: "q8", segmentWidth });
  return (await openPack(pack.source)).manifest;
}

describe.each(["olmoe", "mixtral", "deepseek_v2", "granitemoe"] as const)("a real %s pack", (kind) => {
  let manifest: PackManifest;
  beforeAll(async () => { manifest = await realPack(kind); });

  it("adds up to the bytes of the manifest's blobs", () => {
    const bytes = packBytes(manifest);
    const blobs = Object.values(manifest.blobs).reduce((sum, blob) => sum + blob.bytes, 0);
    const segments = (list: PackManifest["shared"]): number => list.flatMap((ffn) => ffn.segments).reduce((sum, s) => sum + s.bytes, 0);
    expect(bytes.trunkBytes).toBe(blobs + segments(manifest.shared));
    expect(bytes.expertBytes).toBe(segments(manifest.experts));
    expect(bytes.totalBytes).toBe(bytes.embeddingBytes + bytes.headBytes + bytes.ropeBytes + bytes.expertBytes + bytes.layerBytes.reduce((a, b) => a + b));
    expect(bytes.headBytes > 0 || manifest.config.tieWordEmbeddings).toBe(true);
  });

  it("needs in one isolate what the plan that admits loads says", () => {
    const limits = capacityLimits(manifest, LIMITS.isolateBytes);
    const wanted = { streams: 3, contextTokens: manifest.contextLength };
    const lane = planLanes(manifest, limits, wanted);
    const admitted = orchestratorMemory(manifest, { stepTokens: limits.roundTokens, roundTokens: limits.roundTokens, ranges: [] }, LIMITS);
    expect(lane.stages).toHaveLength(1);
    const [stage] = lane.stages;
    expect({ weightBytes: stage!.weightBytes, scratchBytes: stage!.scratchBytes, frameBytes: stage!.frameBytes }).toEqual(admitted);
    expect(stage!.kvBytes).toBe(3 * kvBytes(manifest, wanted.contextTokens));
    expect(stage!.layers).toEqual([0, manifest.config.nLayers]);
  });

  it.each([1, 2, 5])("over %i shards each has what the plan that admits loads says", (nShards) => {
    const { plan, shards, isSliced } = planShards(manifest, capacityLimits(manifest, LIMITS.isolateBytes), { nShards, replicas: 1, spareBytes: 0 });
    expect(isSliced).toBe(false);
    plan.slots.forEach((slots, shard) => expect(shards[shard]).toEqual(shardMemory(manifest, slots, LIMITS)));
  });

  it("in stages of a ring needs in each what the plan that admits its load says", () => {
    const limits = capacityLimits(manifest, LIMITS.isolateBytes);
    const whole = planLanes(manifest, limits, { streams: 1, contextTokens: 32 }).stages[0]!;
    const isolateBytes = LIMITS.inFlightBytes + stageBytes(whole) - Math.floor(whole.weightBytes * 0.4);
    const { stages } = planLanes(manifest, { ...limits, isolateBytes }, { streams: 1, contextTokens: 32 });
    expect(stages.length).toBeGreaterThan(1);
    for (const { weightBytes, expertBytes, scratchBytes, frameBytes, kvBytes: cacheBytes, ...span } of stages) {
      expect(expertBytes).toBe(0);
      const admitted = orchestratorMemory(manifest, { stepTokens: limits.roundTokens, roundTokens: limits.roundTokens, ranges: [], span }, LIMITS);
      expect({ weightBytes, scratchBytes, frameBytes }).toEqual(admitted);
      const nLayers = span.layers[1] - span.layers[0];
      expect(cacheBytes).toBe(nLayers === 0 ? 0 : pageBytes(manifest, nLayers) + allocatedBytes(LIMITS.activeGenerations * Math.ceil(manifest.contextLength / 32) * 4));
    }
  });

  it("in stages that hold the experts of their layers needs in each what the plan that admits its load says, and holds each expert once", () => {
    const limits = capacityLimits(manifest, LIMITS.isolateBytes);
    const wish = { contextTokens: 32, streams: 1, nShards: null, ...ONE, expertsIn: "stages" } as const;
    const [whole] = planCapacity(manifest, limits, wish).stages;
    const isolateBytes = LIMITS.inFlightBytes + stageBytes(whole!) - Math.floor(whole!.weightBytes * 0.3);
    const plan = planCapacity(manifest, { ...limits, isolateBytes }, wish);
    expect(plan.stages.length).toBeGreaterThan(1);
    expect([plan.experts.shards, plan.isolates]).toEqual([[], plan.stages.length]);
    for (const [at, { weightBytes, expertBytes, scratchBytes, frameBytes, kvBytes: _, ...span }] of plan.stages.entries()) {
      const ranges = plan.stageSlots[at]!;
      const of = { stepTokens: limits.roundTokens, roundTokens: limits.roundTokens, span };
      expect({ weightBytes, scratchBytes, frameBytes }).toEqual(orchestratorMemory(manifest, { ...of, ranges }, LIMITS));
      // Segments that lie in memory once may be of either.
      expect(expertBytes).toBe(weightBytes - orchestratorMemory(manifest, { ...of, ranges: [] }, LIMITS).weightBytes);
      expect(ranges.every(({ layer }) => layer >= span.layers[0] && layer < span.layers[1])).toBe(true);
      expect(stageBytes(plan.stages[at]!)).toBeLessThanOrEqual(isolateBytes - LIMITS.inFlightBytes);
    }
    expect(plan.stageSlots.flat()).toEqual(manifest.experts.map(({ layer, expert, segments }) => ({ layer, expert, segments: [0, segments.length] })));
  });

  it("in as many stages as a small memory asks for holds every layer and every row once, and each fits", () => {
    const limits = capacityLimits(manifest, LIMITS.isolateBytes);
    const whole = planLanes(manifest, limits, { streams: 1, contextTokens: 32 }).stages[0]!;
    // Room for the working memory and a good part of the weights.
    const isolateBytes = LIMITS.inFlightBytes + stageBytes(whole) - Math.floor(whole.weightBytes * 0.4);
    const { stages, stagesForWeights } = planLanes(manifest, { ...limits, isolateBytes }, { streams: 1, contextTokens: 32 });
    expect(stages.length).toBeGreaterThan(1);
    expect(stagesForWeights).toBe(stages.length);
    const { config } = manifest;
    let [embedding, layers, head] = [0, 0, 0];
    for (const stage of stages) {
      expect(stageBytes(stage)).toBeLessThanOrEqual(isolateBytes - LIMITS.inFlightBytes);
      for (const [from, to, at] of [[...stage.embeddingRows, embedding], [...stage.layers, layers], [...stage.headRows, head]] as const) if (to > from) expect(from).toBe(at);
      [embedding, layers, head] = [Math.max(embedding, stage.embeddingRows[1]), Math.max(layers, stage.layers[1]), Math.max(head, stage.headRows[1])];
    }
    expect([embedding, layers, head]).toEqual([config.vocabSize, config.nLayers, config.vocabSize]);
  });
});

test("experts cut into slices: each shard has what the plan that admits loads says, and all slots are held once", async () => {
const manifest = await realPack("mixtral");
  const one = manifest.experts[0]!;
  expect(one.segments.length).toBeGreaterThan(1);
  // An isolate in which the first segments fit and the whole expert does not.
  const largest = Math.max(...one.segments.map((segment) => segment.bytes));
  const alone = plannedBytes(shardMemory(manifest, [{ layer: one.layer, expert: one.expert, segments: [0, 1] }], LIMITS)) - one.segments[0]!.bytes + largest;
  const limits = { ...capacityLimits(manifest, LIMITS.isolateBytes), isolateBytes: alone + LIMITS.inFlightBytes };
  const { plan, shards, isSliced } = planShards(manifest, limits, { nShards: null, replicas: 1, spareBytes: 0 });
  expect(isSliced).toBe(true);
  plan.slots.forEach((slots, shard) => {
    if (slots.length > 0) expect(shards[shard]).toEqual(shardMemory(manifest, slots, LIMITS));
    expect(shardBytes(shards[shard]!)).toBeLessThanOrEqual(roomBytes(limits));
  });
  expect(plan.shardBytes.reduce((a, b) => a + b)).toBe(packBytes(manifest).expertBytes);
});

/** OLMoE's shape, smaller: 2 layers, 4 experts of 64 x 64, top-2, 1,024 words. */
const SMALL = {
  ...tinyModel("olmoe", 1).config, nLayers: 2, layerFfns: ["moe", "moe"] as const, slidingWindows: [0, 0], hiddenSize: 64, nHeads: 2, nKvHeads: 2, headDim: 32, vocabSize: 1024,
  nExperts: 4, expertIntermediateSize: 64, router: { ...tinyModel("olmoe", 1).config.router, topK: 2 }, maxPositions: 1 << 20, qkNorm: "none" as const,
  rope: { ...tinyModel("olmoe", 1).config.rope, dim: 32, inverseFrequencies: Array.from({ length: 16 }, (_, i) => 1 / (i + 1)) },
};
const small = (contextTokens: number, quant: "q8" | "f32" = "q8"): CapacityPack => plannedConfig("small", SMALL, { quant, contextTokens }).pack;

describe("by hand", () => {
  it("bytes of each part", () => {
    // int8 tiles: 32 rows x 32 columns in 1,088 bytes. Embedding and head [1024, 64]: 32 x 2 tiles. q, k, v, o [64, 64]: 2 x 2 tiles; router f32 [4, 64]: one row block of 64 x 128; two norms.
    const layer = 4 * 4 * 1088 + 64 * 128 + 2 * 64 * 4;
    expect(packBytes(small(32))).toEqual({
      embeddingBytes: 64 * 1088, layerBytes: [layer, layer], headBytes: 64 * 1088 + 64 * 4, ropeBytes: 32 * 32 * 4, trunkBytes: 2 * 64 * 1088 + 256 + 4096 + 2 * layer,
      // gate and up [128, 64], down [64, 64]: 8 + 4 tiles.
      expertBytes: 2 * 4 * 12 * 1088, totalBytes: 2 * 64 * 1088 + 256 + 4096 + 2 * layer + 2 * 4 * 12 * 1088,
    });
    // K and V of two heads of 32 in f16, two layers.
    expect(kvBytesPerToken(small(32))).toBe(2 * 2 * 2 * 32 * 2);
    expect(kvBytesPerToken(small(32), 1)).toBe(2 * 2 * 32 * 2);
  });

  it("parameters", () => {
    const trunk = 2 * 1024 * 64 + 64 + 2 * (4 * 64 * 64 + 4 * 64 + 2 * 64);
    expect(parameterCounts(SMALL)).toEqual({ total: trunk + 2 * 4 * 3 * 64 * 64, active: trunk + 2 * 2 * 3 * 64 * 64, ofOneExpert: 3 * 64 * 64, trunkProducts: trunk - 1024 * 64 });
    expect(parameterCounts({ ...SMALL, tieWordEmbeddings: true }).trunkProducts).toBe(trunk - 1024 * 64);
  });

  it("stages: the weights set them, or the KV cache", () => {
    const limits = { isolateBytes: 16 * MIB, inFlightBytes: 8 * MIB, frameBytes: MIB, roundTokens: 8, entries: 32 };
    const at = (contextTokens: number, streams = 1) => planCapacity(small(contextTokens), limits, { contextTokens, streams, nShards: null, ...ONE });
    expect([at(32).stages.length, at(32).stagesSetBy]).toEqual([1, "weights"]);
    // 16,384 tokens of 512 bytes are 8 MiB: both layers' cache fills an isolate, one layer's half of it.
    const long = at(12_288);
    expect([long.stages.length, long.stagesForWeights, long.stagesSetBy]).toEqual([2, 1, "kv"]);
    expect(long.stages.map(({ layers }) => layers)).toEqual([[0, 1], [1, 2]]);
    expect(long.residentTokensPerLane).toBeGreaterThanOrEqual(12_288);
    // Eight of them fit no isolate layer by layer, so lanes share them.
    const many = at(12_288, 8);
    expect(many.lanes * many.streamsPerLane).toBeGreaterThanOrEqual(8);
    expect(many.lanes).toBeGreaterThan(1);
    for (const stage of many.stages) expect(stageBytes(stage)).toBeLessThanOrEqual(8 * MIB);
  });

  it("one more page than the resident tokens takes one more stage", () => {
    const limits = { isolateBytes: 16 * MIB, inFlightBytes: 8 * MIB, frameBytes: MIB, roundTokens: 8, entries: 32 };
    const pack = small(32_768);
    const { residentTokensPerLane } = planLanes(pack, limits, { streams: 1, contextTokens: 32 });
    expect(planLanes(pack, limits, { streams: 1, contextTokens: residentTokensPerLane }).stages).toHaveLength(1);
    expect(planLanes(pack, limits, { streams: 1, contextTokens: residentTokensPerLane + 1 }).stages).toHaveLength(2);
  });

  it("regions are whole copies", () => {
    const limits = capacityLimits(small(64), 90 * MIB);
    const wish = { contextTokens: 64, streams: 1, nShards: 3, replicas: 1, spareBytes: 0, regionHolds: "deployment", expertsIn: "shards" } as const;
    const [one, two] = [[], ["weur", "enam"]].map((regions) => planCapacity(small(64), limits, { ...wish, regions }));
    expect([one!.isolates, two!.isolates, two!.isolatesPerDeployment]).toEqual([4, 8, 4]);
    expect(two!.plannedBytes).toBe(2 * one!.plannedBytes);
    // Or hold one deployment's shards by turns: there is but one of everything.
    const split = planCapacity(small(64), limits, { ...wish, regions: ["weur", "enam"], regionHolds: "turns of shards" });
    expect([split.isolates, split.plannedBytes]).toEqual([one!.isolates, one!.plannedBytes]);
  });
});

describe("what cannot be is refused with the numbers", () => {
  const wish = { contextTokens: 32, streams: 1, nShards: null, ...ONE };
  const limits = { isolateBytes: 90 * MIB, inFlightBytes: 8 * MIB, frameBytes: MIB, roundTokens: 8, entries: 32 };
  const huge = plannedConfig("huge", { ...SMALL, expertIntermediateSize: 1 << 20 }, { quant: "f32", contextTokens: 65_536 }).pack;

  test.each([
    ["an isolate no larger than its frames", small(32), { ...limits, isolateBytes: 8 * MIB }, wish, /8388608 bytes leaves nothing beside the 8388608 bytes/],
    ["more context than the pack has", small(32), limits, { ...wish, contextTokens: 33 }, /33 tokens was asked for; small has positions for 32/],
    ["a trunk of which nothing fits", small(32), { ...limits, isolateBytes: 9 * MIB }, wish, /that is 1\.\d MiB, but an isolate of 9\.0 MiB has 1\.0 MiB/],
    ["one request's cache in one layer", small(1 << 17), { ...limits, isolateBytes: 56 * MIB }, { ...wish, contextTokens: 1 << 17 },
      /Layer \d alone takes 16\.\d MiB .*\(16\.0 MiB of it the rotation table.*one request of 131072 tokens takes 32\.\d MiB .* that is 49\.\d MiB, .* has 48\.0 MiB/],
    ["too few shards", huge, limits, { ...wish, nShards: 3 }, /Over 3 shards the largest takes .* at least \d+ shards/],
    ["a segment beyond an isolate", { ...huge, experts: huge.experts.map((e) => ({ ...e, segments: [{ ...e.segments[0]!, bytes: 100 * MIB }] })) }, limits, wish,
      /Layer 0, expert 0 takes 100\.0 MiB; even its segment 0 \(100\.0 MiB\) takes 10\d\.\d MiB .* has 82\.0 MiB/],
  ] as const)("%s", (_, pack, of, asked, message) => {
    expect(() => planCapacity(pack, of, asked)).toThrow(message);
  });
});

describe("for any wish", () => {
  const limitsOf = (isolateMib: number) => ({ isolateBytes: isolateMib * MIB, inFlightBytes: MIB, frameBytes: MIB / 8, roundTokens: 4, entries: 32 });
  const plan = (contextTokens: number, streams: number, isolateMib: number) => {
    try {
      return planCapacity(small(1 << 15), limitsOf(isolateMib), { contextTokens, streams, nShards: null, ...ONE });
    } catch {
      return null;
    }
  };
  const context = fc.integer({ min: 1, max: 1 << 15 });
  const streams = fc.integer({ min: 1, max: 12 });
  const memory = fc.double({ min: 5, max: 30, noNaN: true });

  it("more memory never needs more isolates, and never refuses what less allowed", () => {
    fc.assert(fc.property(context, streams, memory, memory, (tokens, n, a, b) => {
      const [less, more] = [plan(tokens, n, Math.min(a, b)), plan(tokens, n, Math.max(a, b))];
      if (less === null) return;
      expect(more).not.toBeNull();
      expect(more!.isolates).toBeLessThanOrEqual(less.isolates);
    }), { numRuns: 150, seed: 6 });
  });

  it("more context, or more streams, never needs fewer isolates, and in one lane never fewer bytes", () => {
    fc.assert(fc.property(context, context, streams, streams, memory, (a, b, n, m, isolateMib) => {
      const [less, more] = [plan(Math.min(a, b), Math.min(n, m), isolateMib), plan(Math.max(a, b), Math.max(n, m), isolateMib)];
      if (more === null) return;
      expect(less).not.toBeNull();
      expect(less!.isolates).toBeLessThanOrEqual(more.isolates);
      if (less!.lanes === more.lanes) expect(less!.plannedBytes).toBeLessThanOrEqual(more.plannedBytes);
    }), { numRuns: 150, seed: 6 });
  });

  it("every isolate fits, and all streams have their cache", () => {
    let [planned, withLanes, withStages] = [0, 0, 0];
    fc.assert(fc.property(context, streams, memory, (tokens, n, isolateMib) => {
      const found = plan(tokens, n, isolateMib);
      if (found === null) return;
      planned++;
      if (found.lanes > 1) withLanes++;
      if (found.stages.length > 1) withStages++;
      expect(found.largestIsolateBytes).toBeLessThanOrEqual(roomBytes(limitsOf(isolateMib)));
      expect(found.lanes * found.streamsPerLane).toBeGreaterThanOrEqual(n);
      expect(found.residentTokensPerLane).toBeGreaterThanOrEqual(found.streamsPerLane * tokens);
    }), { numRuns: 150, seed: 6 });
    // The three properties say something: most wishes can be met, in all forms.
    expect(planned).toBeGreaterThan(75);
    expect(withLanes).toBeGreaterThan(20);
    expect(withStages).toBeGreaterThan(20);
  });
});
