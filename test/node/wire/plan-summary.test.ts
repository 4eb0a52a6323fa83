// What a plan's summary says of copies: segment by segment, whatever ranges the slots are cut into.

import { expect, it } from "vitest";
import { summaryOf } from "../../../durable/directory-record.ts";
import type { FleetPlan } from "../../../fleet/fleet-plan.ts";

const plan = (shards: FleetPlan["shards"]): FleetPlan => ({ version: 1, packId: "p", packHash: "0".repeat(64), fleet: "f", epoch: 3, lanes: 1, jurisdiction: null, shards, stages: [] });
const slot = (layer: number, expert: number, from: number, to: number) => ({ layer, expert, segments: [from, to] as const });

it("counts the copies of each segment, and on each shard those that others hold too", () => {
  const { copies, shards } = summaryOf(plan([
    { slots: [slot(0, 0, 0, 4)], region: "weur" },
    { slots: [slot(0, 0, 1, 3), slot(1, 0, 0, 1)], region: null },
    { slots: [slot(0, 0, 2, 3)], region: null },
    { slots: [], region: null },
  ]));
  expect(copies).toEqual([1, 3]);
  expect(shards).toEqual([{ segments: 4, shared: 2, region: "weur" }, { segments: 3, shared: 2, region: null }, { segments: 1, shared: 1, region: null }, { segments: 0, shared: 0, region: null }]);
});

it("says no copies of a plan without shards", () => {
  expect(summaryOf(plan([])).copies).toEqual([0, 0]);
});
