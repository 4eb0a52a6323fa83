// The plan as a record: there and back, refusals that name the field, what a plan of shards becomes; and who holds what, against looking everywhere.

import { describe, expect, it } from "vitest";
import { type FleetPlan, parseFleetPlan, recordOf } from "../../../fleet/fleet-plan.ts";
import { makePlan, type PlannedRange, slicedExperts } from "../../../fleet/plan.ts";
import { SegmentIndex } from "../../../fleet/segment-index.ts";
import { SlotTable } from "../../../fleet/slot-table.ts";
import { seededNumbers } from "../../../model/kernel-case.ts";
import { evenTable, PACK_HASH } from "./change-cases.ts";

const range = (layer: number, expert: number, from: number, to: number): PlannedRange => ({ layer, expert, segments: [from, to] });

const PLAN: FleetPlan = {
  version: 1, packId: "p", packHash: PACK_HASH, fleet: "f", epoch: 7,
  shards: [{ slots: [range(0, 1, 0, 2), range(1, 0, 1, 2)], region: "weur" }, { slots: [], region: null }],
  stages: [{ embeddingRows: [0, 60], layers: [0, 1], headRows: [0, 0], slots: [range(0, 0, 0, 2)] }, { embeddingRows: [60, 60], layers: [1, 1], headRows: [0, 40], slots: [] },
    { embeddingRows: [60, 100], layers: [1, 2], headRows: [40, 100], slots: [range(1, 0, 0, 1), range(1, 1, 0, 2)] }],
  lanes: 2, jurisdiction: "eu",
};

/** The record with one field replaced. */
function but(path: string, value: unknown): unknown {
  const copy = structuredClone(PLAN) as unknown;
  const names = path.split(".");
  let at = copy as Record<string, unknown>;
  for (const name of names.slice(0, -1)) at = at[name] as Record<string, unknown>;
  at[names.at(-1)!] = value;
  return copy;
}

describe("a plan's record", () => {
  it("is the same after a way through JSON", () => {
    expect(parseFleetPlan(JSON.parse(JSON.stringify(PLAN)))).toEqual(PLAN);
  });

  it.each([
    ["version", 2], ["packId", ""], ["packHash", "AB".repeat(32)], ["packHash", "ab"], ["fleet", "x".repeat(65)], ["fleet", "a/b"], ["epoch", 0], ["epoch", 2 ** 32], ["epoch", 1.5], ["lanes", 0], ["lanes", 1025],
    ["jurisdiction", undefined], ["shards", {}], ["shards.0.region", 3], ["shards.0.slots.0.layer", 0x10000], ["shards.0.slots.0.expert", -1], ["shards.0.slots.1.segments", [1, 1]],
    ["shards.0.slots.1.segments", [1]], ["shards.0.slots.1", range(0, 0, 0, 2)], ["shards.0.slots.1", range(0, 1, 1, 3)], ["stages", []], ["stages.0.layers", [1, 0]], ["stages.2.layers", [2, 3]],
    ["stages.0.embeddingRows", [5, 60]], ["stages.2.headRows", [39, 100]], ["stages.2.slots.1", range(0, 5, 0, 1)],
  ])("with another %s (%j) is refused by the field's name", (path, value) => {
    const [whole] = path.split(".segments");
    expect(() => parseFleetPlan(but(path, value))).toThrow(RangeError);
    expect(() => parseFleetPlan(but(path, value))).toThrow(new RegExp(`^The plan's field ${whole!.replaceAll(".", "\\.")}(\\.\\S+)? is not as expected: .+\\.$`));
  });

  it("says what is wrong with spans, order, unknown fields and no document at all", () => {
    expect(() => parseFleetPlan(but("stages.2.layers", [2, 3]))).toThrow("The plan's field stages.2.layers is not as expected: the stages before reach up to 1 and this one begins at 2.");
    expect(() => parseFleetPlan(but("shards.0.slots.1", range(0, 1, 1, 3)))).toThrow("The plan's field shards.0.slots.1 is not as expected: ranges ascend by layer, expert and segment, and hold each segment once.");
    expect(() => parseFleetPlan({ ...PLAN, more: 1 })).toThrow(/field \(the document\) .*more/);
    for (const value of [null, "plan", [], undefined]) expect(() => parseFleetPlan(value)).toThrow("The plan's field (the document) is not as expected");
  });

  it("of a plan of shards keeps its slots; the part an orchestrator computes itself is its stage's", () => {
    const plan = makePlan(evenTable(2, 5, [10, 10]), 3, slicedExperts, 4);
    const of = { packId: "p", packHash: PACK_HASH, fleet: "f", nLayers: 2, vocabSize: 100, regionOf: (shard: number) => `r${shard}` };
    const [apart, own] = [recordOf(plan, { ...of, ownShard: null }), recordOf(plan, { ...of, ownShard: 1 })];
    expect([apart.shards.map(({ slots, region }) => [slots, region]), apart.stages[0]!.slots, apart.epoch]).toEqual([plan.slots.map((slots, s) => [slots, `r${s}`]), [], 4]);
    expect([own.shards.map(({ slots, region }) => [slots, region]), own.stages[0]!.slots]).toEqual([[[plan.slots[0], "r0"], [plan.slots[2], "r2"]], plan.slots[1]]);
    for (const record of [apart, own]) expect(parseFleetPlan(JSON.parse(JSON.stringify(record)))).toEqual(record);
  });
});

describe("who holds a segment", () => {
  it("as looking through all parts finds, on 60 random ones", () => {
    const random = seededNumbers(9);
    const upTo = (n: number): number => Math.floor(random() * n);
    let many = 0;
    for (let round = 0; round < 60; round++) {
      const [nLayers, nExperts, nSegments] = [1 + upTo(3), 1 + upTo(5), 1 + upTo(4)];
      const parts = Array.from({ length: 1 + upTo(5) }, () => Array.from({ length: upTo(8) }, () => {
        const from = upTo(nSegments);
        return range(upTo(nLayers), upTo(nExperts), from, from + 1 + upTo(nSegments - from));
      }));
      const table = new SlotTable(parts);
      for (let layer = 0; layer <= nLayers; layer++) for (let expert = 0; expert <= nExperts; expert++) for (let segment = 0; segment <= nSegments; segment++) {
        const holders = parts.flatMap((ranges, part) => (ranges.some((r) => r.layer === layer && r.expert === expert && r.segments[0] <= segment && segment < r.segments[1]) ? [part] : []));
        expect(table.holdersOf(layer, expert, segment), `round ${round}: ${layer}/${expert}/${segment}`).toEqual(holders);
        if (holders.length > 1) many++;
      }
    }
    expect(many).toBeGreaterThan(100);
    expect(new SlotTable([]).holdersOf(0, 0, 0)).toEqual([]);
  });

  it("is the same as the plan's own answer where there is one holder", () => {
    const table = evenTable(3, 7, [1, 1, 1]);
    const plan = makePlan(table, 4, slicedExperts);
    const holders = new SlotTable(plan.slots);
    for (const { layer, expert } of table) for (const segment of [0, 1, 2]) expect(holders.holdersOf(layer, expert, segment)).toEqual([plan.shardOf(layer, expert, segment)]);
  });
});

describe("segments by number", () => {
  it("are ranges again, whatever the table's order, neighbours joined within an expert only", () => {
    const table = evenTable(2, 3, [1, 2, 3]).toReversed();
    const index = new SegmentIndex(table);
    const ranges = [range(0, 0, 0, 1), range(0, 0, 2, 3), range(0, 1, 0, 3), range(1, 2, 1, 3)];
    expect(index.rangesOf(index.idsOf(ranges))).toEqual(ranges);
    expect(index.rangesOf(index.idsOf([range(0, 1, 1, 3), range(0, 1, 0, 2)]))).toEqual([range(0, 1, 0, 3)]);
    expect(index.bytesOf(index.idsOf(ranges))).toBe(1 + 3 + 6 + 5);
    expect(() => index.idsOf([range(1, 2, 1, 4)])).toThrow("A plan has segments 1 to 4 of layer 1, expert 2; the expert table has 3 segments of it.");
    expect(() => new SegmentIndex([...table, table[0]!])).toThrow("The expert table has 7 entries for 6 experts; expected one each.");
  });
});
