// A plan from outside is taken only where this pack and this version can begin with it.

import { expect, it } from "vitest";
import { usablePlan } from "../../../durable/usable-plan.ts";
import type { FleetPlan } from "../../../fleet/fleet-plan.ts";
import type { PackManifest } from "../../../formats/manifest.ts";

const HASH = "ab".repeat(32);
const expert = (layer: number, number: number) => ({ layer, expert: number, segments: [{}, {}] });
const config = { nLayers: 1, vocabSize: 1024, tieWordEmbeddings: false };
const manifest = { id: "tiny", config, experts: [expert(0, 0), expert(0, 1)] } as unknown as PackManifest;
const slot = (number: number, segments: readonly [number, number] = [0, 2]) => ({ layer: 0, expert: number, segments });
const stage = { embeddingRows: [0, 1024], layers: [0, 1], headRows: [0, 1024], slots: [] } as const;
const PLAN: FleetPlan = {
  version: 1, packId: "tiny", packHash: HASH, fleet: "main", epoch: 3, shards: [{ slots: [slot(0)], region: null }, { slots: [slot(1)], region: null }], stages: [stage], lanes: 1, jurisdiction: null,
};
const use = (change: Partial<FleetPlan>): FleetPlan => usablePlan({ ...PLAN, ...change }, { manifest, packHash: HASH, fleet: "main" });

it("takes one whose shards and stage hold every segment", () => {
  expect(use({})).toEqual(PLAN);
  expect(use({ shards: PLAN.shards.slice(0, 1), stages: [{ ...stage, slots: [slot(1)] }] }).shards).toHaveLength(1);
});

it("refuses another pack's, another fleet's, and what leaves a segment to nobody", () => {
  expect(() => use({ packId: "other" })).toThrow(/of pack other, revision .*; this pack is tiny/);
  expect(() => use({ packHash: "cd".repeat(32) })).toThrow(/revision cdcd.*; this pack is tiny, revision abab/);
  expect(() => use({ fleet: "else" })).toThrow('The plan is of the fleet "else", and the variables name the fleet "main"');
  expect(() => use({ shards: [PLAN.shards[0]!, { slots: [slot(1, [1, 2])], region: null }] })).toThrow("The plan gives segment 0 of layer 0, expert 1 to nobody");
  expect(() => usablePlan({}, { manifest, packHash: HASH, fleet: "main" })).toThrow(/The plan's field version/);
});

it("takes a ring that holds the model once, and lanes of it", () => {
  const ring = [{ embeddingRows: [0, 1024], layers: [0, 0], headRows: [0, 0], slots: [] }, { embeddingRows: [1024, 1024], layers: [0, 1], headRows: [0, 512], slots: [slot(1)] }, { embeddingRows: [1024, 1024], layers: [1, 1], headRows: [512, 1024], slots: [] }] as const;
  const shards = PLAN.shards.slice(0, 1);
  expect(use({ stages: ring, shards, lanes: 3 }).stages).toHaveLength(3);
  expect(() => use({ stages: ring.slice(0, 2), shards })).toThrow(/The plan's stages do not fit this pack: A ring holds 1024 embedding rows, 1 layers and 512 head rows/);
  expect(() => use({ stages: [ring[0]!, { ...ring[1]!, headRows: [0, 100] }, { ...ring[2]!, headRows: [100, 1024] }], shards })).toThrow(/stages do not fit this pack: .*multiples of 512 rows/);
  expect(() => use({ stages: [{ ...ring[0]!, slots: [slot(1)] }, { ...ring[1]!, slots: [] }, ring[2]!], shards })).toThrow("The plan gives stage 0, which has layers 0 to 0, experts of layer 0 to compute");
});
