// A fleet for the balance's tests: eight equal experts of one layer on four shards. Owns no assertion.

import type { FleetPlan } from "../../../fleet/fleet-plan.ts";

const BYTES = 1_000, N_EXPERTS = 8, N_SHARDS = 4;
const table = Array.from({ length: N_EXPERTS }, (_, expert) => ({ layer: 0, expert, segmentBytes: [BYTES] }));
const plan: FleetPlan = {
  version: 1, packId: "p", packHash: "0".repeat(64), fleet: "f", epoch: 1, lanes: 1, jurisdiction: null,
  stages: [{ embeddingRows: [0, 1], layers: [0, 1], headRows: [0, 1], slots: [] }],
  shards: Array.from({ length: N_SHARDS }, (_, shard) => ({ region: null, slots: [0, 1].map((i) => ({ layer: 0, expert: 2 * shard + i, segments: [0, 1] as const })) })),
};

export const directoryPlan = { plan, table, BYTES, N_EXPERTS };
