// Shards with replicas, placed by routing, with copies of hot experts, and the record of a plan: what is held, how often, and that it fits.

import { describe, expect, it } from "vitest";
import { plannedConfig } from "../../../cli/plan-model.ts";
import { roomBytes } from "../../../fleet/capacity-pack.ts";
import { recordOfCapacity } from "../../../fleet/capacity-record.ts";
import { ExpertSegments, planShards, shardBytes, type ShardsCapacity } from "../../../fleet/capacity-shards.ts";
import { planCapacity } from "../../../fleet/capacity.ts";
import { parseFleetPlan } from "../../../fleet/fleet-plan.ts";
import { addHotReplicas } from "../../../fleet/hot-replicas.ts";
import { placeShards } from "../../../fleet/placed-shards.ts";
import type { RoutingCounts } from "../../../fleet/routing-counts.ts";
import { evenCounts } from "../../../fleet/routing-counts.ts";
import { SlotTable } from "../../../fleet/slot-table.ts";
import { tinyModel } from "../../support/tiny-models.ts";

const MIB = 1024 * 1024;
const config = { ...tinyModel("olmoe", 3).config, nExperts: 8 };
const { pack } = plannedConfig("small", config, { quant: "q8", contextTokens: 32 });
const limits = { isolateBytes: 16 * MIB, inFlightBytes: 8 * MIB, frameBytes: MIB, roundTokens: 8, entries: 32 };
const wish = (nShards: number | null, replicas = 1, spareBytes = 0) => ({ nShards, replicas, spareBytes });
const fleet = { packId: "small", packHash: "0".repeat(64), fleet: "main", jurisdiction: null } as const;

/** How many shards hold each segment, least and most. */
function copies({ slots }: ShardsCapacity): [number, number] {
  const of = new SlotTable(slots);
  const counts = pack.experts.flatMap(({ layer, expert, segments }) => segments.map((_, s) => of.holdersOf(layer, expert, s).length));
  return [Math.min(...counts), Math.max(...counts)];
}

describe("replicas", () => {
  it.each([[1, 3], [2, 3], [3, 3], [3, 4], [2, 5]])("%i of every segment over %i shards: each on so many different ones, counted in memory", (replicas, nShards) => {
    const found = planShards(pack, limits, wish(nShards, replicas));
    expect(copies(found)).toEqual([replicas, replicas]);
    const known = new ExpertSegments(pack, limits);
    found.slots.forEach((slots, shard) => {
      expect(found.shards[shard]).toEqual(known.capacity(slots));
      expect(slots).toEqual([...slots].sort((a, b) => a.layer - b.layer || a.expert - b.expert));
    });
    // The first of each is the plan without replicas.
    expect(found.plan.slots).toEqual(planShards(pack, limits, wish(nShards)).plan.slots);
  });

  it("more than shards is refused; without a number of shards there are as many as it takes", () => {
    expect(() => planShards(pack, limits, wish(2, 3))).toThrow("3 replicas of every segment were asked for over 2 shards; each is on another shard, so there must be at least 3.");
    const [one, three] = [planShards(pack, limits, wish(null)), planShards(pack, limits, wish(null, 3))];
    expect(three.slots.length).toBeGreaterThanOrEqual(Math.max(3, one.slots.length));
    for (const shard of three.shards) expect(shardBytes(shard)).toBeLessThanOrEqual(roomBytes(limits));
  });

  it("room kept for copies takes more shards", () => {
    const spare = planShards(pack, limits, wish(null, 1, 40 * MIB));
    expect(spare.slots.length).toBeGreaterThan(planShards(pack, limits, wish(null)).slots.length);
    for (const shard of spare.shards) expect(shardBytes(shard) + 40 * MIB / spare.slots.length).toBeLessThanOrEqual(roomBytes(limits));
    expect(() => planShards(pack, limits, wish(2, 1, 40 * MIB))).toThrow(/20\.0 MiB of each is asked for copies.*at least \d+ shards/);
  });
});

/** Experts 0 and 1 of each layer are chosen ten times as often. */
function hotCounts(): RoutingCounts {
  const counts = evenCounts(Array.from(new Set(pack.experts.map(({ layer }) => layer))), config.nExperts);
  counts.load.forEach((_, i) => { counts.load[i] = i % config.nExperts < 2 ? 10 : 1; });
  return counts;
}

describe("placed by routing", () => {
  const inOrder = planShards(pack, limits, wish(4));
  it.each(["two-stage", "joint"] as const)("%s: every segment once on shards that fit, the hot ones apart", async (mode) => {
    const found = await placeShards(pack, limits, inOrder, { ...wish(4), mode, counts: hotCounts(), nRegions: 1, maxSteps: 20_000 });
    expect(copies(found)).toEqual([1, 1]);
    for (const { layer } of pack.experts) expect(found.plan.shardOf(layer, 0, 0)).not.toBe(found.plan.shardOf(layer, 1, 0));
    expect(copies(await placeShards(pack, limits, inOrder, { ...wish(4, 2), mode, counts: hotCounts(), nRegions: 2, maxSteps: 20_000 }))).toEqual([2, 2]);
  });

  it("what finds no room, or is cut over shards, is refused with the numbers", async () => {
    const of = { ...wish(4), mode: "joint", counts: hotCounts(), nRegions: 1, maxSteps: 1_000 } as const;
    await expect(placeShards(pack, limits, inOrder, { ...of, spareBytes: 1000 * MIB })).rejects.toThrow(/No placement "joint" was found: The experts have \d+ bytes.*Give more --shards or more --memory/);
    await expect(placeShards(pack, limits, { ...inOrder, isSliced: true }, of)).rejects.toThrow(/is of whole experts, but one exceeds an isolate of 16\.0 MiB/);
  });

  it("copies go to the experts asked most, within the budget", () => {
    const known = new ExpertSegments(pack, limits);
    const expertBytes = pack.experts[0]!.segments.reduce((sum, { bytes }) => sum + bytes, 0);
    const nHot = pack.experts.filter(({ expert }) => expert < 2).length;
    const { experts, copies: made, bytes } = addHotReplicas(pack, known, inOrder, { counts: hotCounts(), replicas: 1, budgetBytes: (nHot + 0.5) * expertBytes });
    expect([made, bytes]).toEqual([nHot, nHot * expertBytes]);
    const holders = new SlotTable(experts.slots);
    for (const { layer, expert } of pack.experts) expect(holders.holdersOf(layer, expert, 0)).toHaveLength(expert < 2 ? 2 : 1);
    experts.slots.forEach((slots, shard) => expect(experts.shards[shard]).toEqual(known.capacity(slots)));
  });
});

describe("the record", () => {
  const planOf = (of: typeof config) => planCapacity(plannedConfig("small", of, { quant: "q8", contextTokens: 32 }).pack, limits, { ...wish(3, 2), contextTokens: 32, streams: 3, regions: [], regionHolds: "deployment", expertsIn: "shards" });

  it("is one that a fleet reads, with the plan's stages, lanes and slots", () => {
    const plan = planOf(config);
    const record = recordOfCapacity(plan, { ...fleet, regionOf: (shard) => (shard === 1 ? "weur" : null) });
    expect(parseFleetPlan(JSON.parse(JSON.stringify(record)))).toEqual(record);
    expect(record).toMatchObject({ epoch: 1, lanes: plan.lanes, packHash: fleet.packHash, shards: plan.experts.slots.map((slots, shard) => ({ slots, region: shard === 1 ? "weur" : null })) });
    expect(record.stages.map(({ layers }) => layers)).toEqual(plan.stages.map(({ layers }) => layers));
    expect(() => recordOfCapacity(plan, { ...fleet, packHash: "?", regionOf: () => null })).toThrow("The plan's field packHash is not as expected");
  });

  it.each([true, false])("covers embedding and head once, the head tied: %s", (tieWordEmbeddings) => {
    const of = { ...config, tieWordEmbeddings };
    const record = recordOfCapacity(planOf(of), { ...fleet, regionOf: () => null });
    for (const rows of [record.stages.map(({ embeddingRows }) => embeddingRows), record.stages.map(({ headRows }) => headRows)]) {
      expect(rows.reduce((sum, [from, to]) => sum + to - from, 0)).toBe(of.vocabSize);
    }
  });
});
