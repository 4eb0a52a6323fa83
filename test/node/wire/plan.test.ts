// The plan: every slot on exactly one shard, layers balanced by bytes, the same input the same plan.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { makePlan, slicedExperts, wholeExperts } from "../../../fleet/plan.ts";

const table = (nLayers: number, nExperts: number, segmentBytes: (layer: number, expert: number) => number[]) =>
  Array.from({ length: nLayers * nExperts }, (_, i) => ({ layer: Math.floor(i / nExperts), expert: i % nExperts, segmentBytes: segmentBytes(Math.floor(i / nExperts), i % nExperts) }));

describe("a plan", () => {
  it("holds every slot once, as slots and shardOf agree", () => {
    fc.assert(fc.property(fc.integer({ min: 1, max: 7 }), fc.integer({ min: 1, max: 9 }), fc.boolean(), (nShards, nExperts, sliced) => {
      const experts = table(3, nExperts, (layer, expert) => Array.from({ length: 1 + ((layer + expert) % 3) }, (_, s) => 100 + s));
      const plan = makePlan(experts, nShards, sliced ? slicedExperts : wholeExperts);
      const seen = new Map<string, number>();
      plan.slots.forEach((ranges, shard) => {
        for (const { layer, expert, segments } of ranges)
          for (let s = segments[0]; s < segments[1]; s++) {
            const slot = `${layer}.${expert}.${s}`;
            expect(seen.has(slot)).toBe(false);
            seen.set(slot, shard);
            expect(plan.shardOf(layer, expert, s)).toBe(shard);
          }
      });
      expect(seen.size).toBe(experts.reduce((n, e) => n + e.segmentBytes.length, 0));
      // A shard counts an expert once, however many pieces of it it holds.
      expect(plan.shardExperts).toEqual(plan.slots.map((ranges) => new Set(ranges.map(({ layer, expert }) => `${layer}.${expert}`)).size));
      expect(plan.shardBytes.reduce((a, b) => a + b, 0)).toBe(experts.reduce((n, e) => n + e.segmentBytes.reduce((a, b) => a + b, 0), 0));
    }), { seed: 5 });
  });

  it("spreads each layer evenly by bytes", () => {
    const plan = makePlan(table(6, 16, () => [1000]), 4);
    for (let layer = 0; layer < 6; layer++) {
      for (let shard = 0; shard < 4; shard++) expect(plan.slots[shard]!.filter((r) => r.layer === layer).length).toBe(4);
    }
    expect(plan.shardBytes).toEqual([24000, 24000, 24000, 24000]);
    const uneven = makePlan(table(1, 4, (_, expert) => [expert === 0 ? 3000 : 1000]), 2);
    expect(uneven.shardBytes).toEqual([3000, 3000]);
    // A layer's own balance comes first: it is one round of the wire.
    const lopsided = makePlan([{ layer: 0, expert: 0, segmentBytes: [9000] }, ...table(2, 4, () => [1000]).filter((e) => e.layer === 1)], 2);
    expect([0, 1].map((shard) => lopsided.slots[shard]!.filter((r) => r.layer === 1).length)).toEqual([2, 2]);
  });

  it("keeps an expert whole, or spreads its segments when asked", () => {
    const experts = table(1, 2, () => [10, 10, 10]);
    expect(makePlan(experts, 2).slots.map((ranges) => ranges.map((r) => r.segments))).toEqual([[[0, 3]], [[0, 3]]]);
    expect([0, 1, 2].map((s) => makePlan(experts, 3, slicedExperts).shardOf(0, 0, s))).toEqual([0, 1, 2]);
  });

  it("refuses slots it does not have and shard counts that make no sense", () => {
    const plan = makePlan(table(1, 2, () => [10]), 2);
    expect(() => plan.shardOf(0, 2, 0)).toThrow("The plan has no slot for layer 0, expert 2, segment 0.");
    expect(() => plan.shardOf(1, 0, 0)).toThrow(/no slot/);
    expect(() => makePlan([], 0)).toThrow("A plan was asked for 0 shards; expected 1 to 65535.");
  });
});
