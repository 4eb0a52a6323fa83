// A plan from outside is taken only where this pack and this version can begin with it.

import { expect, it } from "vitest";
import { usablePlan } from "../../../durable/usable-plan.ts";
import type { FleetPlan } from "../../../fleet/fleet-plan.ts";
import type { PackManifest } from "../../../formats/manifest.ts";

const HASH = "ab".repeat(32);
const expert = (layer: number, number: number) => ({ layer, expert: number, segments: [{}, {}] });
const manifest = { id: "tiny", experts: [expert(0, 0), expert(0, 1)] } as unknown as PackManifest;
const slot = (number: number, segments: readonly [number, number] = [0, 2]) => ({ layer: 0, expert: number, segments });
const stage = { embeddingRows: [0, 8], layers: [0, 1], headRows: [0, 8], slots: [] } as const;
const PLAN: FleetPlan = {
  version: 1, packId: "tiny", packHash: HASH, fleet: "main", epoch: 3, shards: [{ slots: [slot(0)], region: null }, { slots: [slot(1)], region: null }], stages: [stage], lanes: 1, jurisdiction: null,
};
const use = (change: Partial<FleetPlan>): FleetPlan => usablePlan({ ...PLAN, ...change }, { manifest, packHash: HASH, fleet: "main" });

it("takes one whose shards and stage hold every segment", () => {
  expect(use({})).toEqual(PLAN);
  expect(use({ shards: PLAN.shards.slice(0, 1), stages: [{ ...stage, slots: [slot(1)] }] }).shards).toHaveLength(1);
});

it("refuses another pack's, another fleet's, a ring, and what leaves a segment to nobody", () => {
  expect(() => use({ packId: "other" })).toThrow(/of pack other, revision .*; this pack is tiny/);
  expect(() => use({ packHash: "cd".repeat(32) })).toThrow(/revision cdcd.*; this pack is tiny, revision abab/);
  expect(() => use({ fleet: "else" })).toThrow('The plan is of the fleet "else", and the variables name the fleet "main"');
  expect(() => use({ stages: [{ ...stage, embeddingRows: [0, 8], layers: [0, 1], headRows: [0, 4] }, { ...stage, embeddingRows: [8, 8], layers: [1, 1], headRows: [4, 8] }] })).toThrow(/2 stages and 1 lanes; expected one of each/);
  expect(() => use({ lanes: 2 })).toThrow(/1 stages and 2 lanes/);
  expect(() => use({ shards: [PLAN.shards[0]!, { slots: [slot(1, [1, 2])], region: null }] })).toThrow("The plan gives segment 0 of layer 0, expert 1 to nobody");
  expect(() => usablePlan({}, { manifest, packHash: HASH, fleet: "main" })).toThrow(/The plan's field version/);
});
