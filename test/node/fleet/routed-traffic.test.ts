// Traffic by a trace, with and without replicas, against counting the long way; and what crosses regions.

import { describe, expect, it, test } from "vitest";
import { FRAME_SIZES } from "../../../cli/plan-document.ts";
import { READY, ReplicaChoice } from "../../../durable/replica-choice.ts";
import { makePlan, type PlannedExpert, type PlannedRange, slicedExperts } from "../../../fleet/plan.ts";
import { framesLeaving, nextExpertCrosses, turnsOfRegions } from "../../../fleet/region-crossing.ts";
import { evenTokens, replicatedTraffic, tokensOfTrace } from "../../../fleet/replicated-traffic.ts";
import { countRouting, evenCounts, type RoutedAt } from "../../../fleet/routing-counts.ts";
import { tracedTraffic } from "../../../fleet/traced-traffic.ts";
import { evenTraffic, frameBytes } from "../../../fleet/traffic.ts";
import { seededNumbers } from "../../../model/kernel-case.ts";

const config = { hiddenSize: 64, nExperts: 8, layerFfns: ["moe", "moe"] as const, router: { topK: 2 } };
const shape = (segmentsPerExpert: number) => ({ config, activations: "f32", segmentsPerExpert }) as const;
const table = (nSegments: number): PlannedExpert[] => [0, 1].flatMap((layer) => Array.from({ length: 8 }, (_, expert) => ({ layer, expert, segmentBytes: new Array<number>(nSegments).fill(100) })));
const placementOf = (slots: readonly (readonly PlannedRange[])[]): ReplicaChoice => new ReplicaChoice(slots, slots.map(() => ({ readiness: READY, wake: () => {} })));

function recordsOf(nTokens: number, skew: number): RoutedAt[] {
  const random = seededNumbers(7);
  const pick = (): number => Math.floor(8 * random() ** skew);
  return Array.from({ length: nTokens }, (_, token) => [0, 1].map((layer) => {
    const first = pick();
    let second = pick();
    while (second === first) second = pick();
    return { request: 0, token, layer, ids: [first, second] };
  })).flat();
}

describe("by a trace", () => {
  const records = recordsOf(500, 2);

  it.each([1, 4])("one token's frames, reads and products are those counted, of experts in %i segments", (nSegments) => {
    const plan = makePlan(table(nSegments), 3, nSegments === 1 ? undefined : slicedExperts);
    const layers = tracedTraffic(shape(nSegments), placementOf(plan.slots), records, FRAME_SIZES)(1);
    for (const layer of [0, 1]) {
      const of = records.filter((record) => record.layer === layer);
      let [touched, most] = [0, 0];
      const segments = new Float64Array(3);
      for (const { ids } of of) {
        const here = new Float64Array(3);
        for (const expert of Array.from(ids)) for (let s = 0; s < nSegments; s++) here[plan.shardOf(layer, expert, s)]!++;
        here.forEach((n, shard) => { segments[shard]! += n; });
        touched += here.filter((n) => n > 0).length;
        most += Math.max(...here);
      }
      const found = layers[layer]!;
      expect(found.frames).toBeCloseTo(touched / of.length, 9);
      expect(found.busiestExperts).toBeCloseTo(most / of.length / nSegments, 9);
      segments.forEach((n, shard) => {
        expect(found.expertsRead[shard]).toBeCloseTo(n / nSegments / of.length, 9);
        expect(found.expertTokens[shard]).toBeCloseTo(n / nSegments / of.length, 9);
      });
      expect(found.bytes).toBeCloseTo(frameBytes(shape(nSegments), FRAME_SIZES, { tokens: 1, frames: touched / of.length, rows: touched / of.length, groups: 2 * nSegments }), 6);
    }
  });

  it("a step of several draws them apart from each other: one expert for all is read once", () => {
    const same = Array.from({ length: 20 }, (_, token) => [0, 1].map((layer) => ({ request: 0, token, layer, ids: [3, 5] }))).flat();
    const [layer] = tracedTraffic(shape(1), placementOf(makePlan(table(1), 8).slots), same, FRAME_SIZES)(10);
    expect([layer!.frames, layer!.expertsRead[3], layer!.expertTokens[3], layer!.touchChance[0]]).toEqual([2, 1, 10, 0]);
  });

  it("of even draws says what even draws do", () => {
    const plan = makePlan(table(1), 3);
    const even = recordsOf(20_000, 1);
    const [traced, computed] = [tracedTraffic(shape(1), placementOf(plan.slots), even, FRAME_SIZES)(3), evenTraffic(shape(1), plan, 3, FRAME_SIZES)];
    traced.forEach(({ frames, bytes, busiestExperts, expertsRead }, i) => {
      expect(frames / computed[i]!.frames).toBeCloseTo(1, 2);
      expect(bytes / computed[i]!.bytes).toBeCloseTo(1, 2);
      expect(Math.abs(busiestExperts - computed[i]!.busiestExperts)).toBeLessThan(0.1);
      expectedNear(expertsRead, computed[i]!.expertsRead);
    });
  });

  it("of latent experts counts a row for each latent group that a shard reads, as short as it is", () => {
    const latent = { ...shape(1), config: { ...config, latentExperts: { rank: 32, nGroups: 4 } } };
    const plan = makePlan(table(1), 3);
    const even = recordsOf(20_000, 1);
    const rows = even.reduce((sum, { layer, ids }) => sum + new Set(Array.from(ids, (expert) => `${plan.shardOf(layer, expert, 0)} ${Math.floor(expert / 2)}`)).size, 0) / 40_000;
    const plain = tracedTraffic(shape(1), placementOf(plan.slots), even, FRAME_SIZES)(1);
    const [traced, computed, drawn] = [tracedTraffic(latent, placementOf(plan.slots), even, FRAME_SIZES)(1), evenTraffic(latent, plan, 1, FRAME_SIZES), replicatedTraffic(latent, { nParts: 3, partOf: (layer, expert, segment) => plan.shardOf(layer, expert, segment), startRound: () => {} }, evenTokens(8, 2), FRAME_SIZES)(1)];
    expect((traced[0]!.bytes + traced[1]!.bytes) / 2).toBeCloseTo(frameBytes(latent, FRAME_SIZES, { tokens: 1, frames: (traced[0]!.frames + traced[1]!.frames) / 2, rows, groups: 2 }), 6);
    traced.forEach(({ bytes, frames }, i) => {
      expect(frames).toBe(plain[i]!.frames);
      expect(bytes).toBeLessThan(plain[i]!.bytes);
      expect(bytes / computed[i]!.bytes).toBeCloseTo(1, 2);
      expect(Math.abs(bytes / drawn[i]!.bytes - 1)).toBeLessThan(0.03);
    });
  });

  const expectedNear = (found: Float64Array, expected: Float64Array): void => found.forEach((n, i) => expect(Math.abs(n / expected[i]! - 1)).toBeLessThan(0.03));

  it("of another model, or without a layer, is refused", () => {
    const placement = placementOf(makePlan(table(1), 3).slots);
    const of = (some: readonly RoutedAt[]) => () => tracedTraffic(shape(1), placement, some, FRAME_SIZES);
    expect(of([{ request: 0, token: 0, layer: 2, ids: [0, 1] }])).toThrow("A record is of layer 2; the layers with experts are 0, 1.");
    expect(of([{ request: 0, token: 0, layer: 0, ids: [0, 8] }])).toThrow("names expert 8; the model has 8");
    expect(of([{ request: 0, token: 0, layer: 0, ids: [0, 1] }])).toThrow("The trace has no record of layer 1");
  });
});

describe("with replicas", () => {
  const plan = makePlan(table(1), 4);
  const twice = plan.slots.map((own, shard) => [...own, ...plan.slots[(shard + 3) % 4]!].sort((a, b) => a.layer - b.layer || a.expert - b.expert));
  const traffic = (slots: readonly (readonly PlannedRange[])[], draw = evenTokens(8, 2)) => {
    const choice = placementOf(slots);
    return replicatedTraffic(shape(1), { nParts: choice.nParts, startRound: choice.startRound!, partOf: (l, e, s) => choice.partOf(l, e, s) }, draw, FRAME_SIZES);
  };

  it("a token asks fewer shards than without, and every token's two experts are computed once", () => {
    const [layer] = traffic(twice)(1);
    expect(layer!.frames).toBeLessThan(evenTraffic(shape(1), plan, 1, FRAME_SIZES)[0]!.frames - 0.1);
    expect(layer!.expertTokens.reduce((a, b) => a + b)).toBeCloseTo(2, 9);
    expect(traffic(twice)(1)).toEqual(traffic(twice)(1));
  });

  it("on every shard, one is asked for both", () => {
    const all = plan.slots.map(() => plan.slots.flat());
    const [layer] = traffic(all)(1);
    expect([layer!.frames, layer!.busiestExperts]).toEqual([1, 2].map((n) => expect.closeTo(n, 9)));
  });

  it("the holders are chosen for each step: who must be asked anyway takes what others hold too", () => {
    const only = (expert: number): PlannedRange => ({ layer: 0, expert, segments: [0, 1] });
    const slots = [[only(1)], [only(0), only(1)]];
    const choice = placementOf(slots);
    const one = { ...shape(1), config: { ...config, layerFfns: ["moe"] as const } };
    const [layer] = replicatedTraffic(one, { nParts: 2, startRound: choice.startRound!, partOf: (l, e, s) => choice.partOf(l, e, s) }, () => [0, 1], FRAME_SIZES)(1);
    expect([layer!.frames, layer!.touchChance[0]]).toEqual([1, 0]);
  });

  it("takes a trace's own tokens", () => {
    const [layer] = traffic(twice, tokensOfTrace([0, 1], [0, 1].map((l) => ({ request: 0, token: 0, layer: l, ids: [3, 4] }))))(5);
    // Two experts for all five: each is read once and computes five.
    expect(layer!.expertsRead.reduce((a, b) => a + b)).toBeCloseTo(2, 9);
    expect(layer!.expertTokens.reduce((a, b) => a + b)).toBeCloseTo(10, 9);
    expect(() => tokensOfTrace([0, 1], [{ request: 0, token: 0, layer: 0, ids: [3, 4] }])).toThrow("no record of layer 1");
  });
});

describe("crossing regions", () => {
  test("regions take turns", () => {
    expect(turnsOfRegions(5, 2)).toEqual([0, 1, 0, 1, 0]);
    expect(turnsOfRegions(3, 0)).toEqual([0, 0, 0]);
  });

  test("frames that leave the stages' region", () => {
    const layer = { layer: 0, touchChance: Float64Array.of(1, 0.5, 0.5), expertsRead: new Float64Array(3), expertTokens: new Float64Array(3), busiestExperts: 1, frames: 2, bytes: 0 };
    expect(framesLeaving([layer], [0, 1, 0])).toBe(0.25);
    expect(framesLeaving([], [0])).toBe(0);
  });

  it("of next experts is counted pair by pair, parts of an expert by their size", () => {
    const records = recordsOf(300, 2);
    const counts = countRouting({ moeLayers: [0, 1], nExperts: 8 }, records);
    for (const nSegments of [1, 4]) {
      const plan = makePlan(table(nSegments), 4, nSegments === 1 ? undefined : slicedExperts);
      const regionOf = [0, 1, 0, 1];
      let [crossing, pairs] = [0, 0];
      for (let token = 0; token < 300; token++) {
        for (const a of Array.from(records[2 * token]!.ids)) for (const b of Array.from(records[2 * token + 1]!.ids)) {
          for (let s = 0; s < nSegments; s++) for (let t = 0; t < nSegments; t++) {
            pairs++;
            if (regionOf[plan.shardOf(0, a, s)] !== regionOf[plan.shardOf(1, b, t)]) crossing++;
          }
        }
      }
      expect(nextExpertCrosses(counts, plan, regionOf)).toBeCloseTo(crossing / pairs, 9);
    }
    expect(nextExpertCrosses(evenCounts([0, 1], 8), makePlan(table(1), 2), [0, 1])).toBeCloseTo(0.5, 9);
    expect(nextExpertCrosses(evenCounts([0], 8), makePlan(table(1).slice(0, 8), 2), [0, 1])).toBe(0);
  });
});
