// A planned deployment as the record that a fleet begins with (fleet-plan.ts): epoch 1, the stages of a lane, the shards with what they hold and where.
// Owns the way from capacity to record. Refuses several deployments in one record: each region that has one of its own has a plan of its own.

import type { CapacityPlan } from "./capacity.ts";
import { FLEET_PLAN_VERSION, type FleetPlan, parseFleetPlan } from "./fleet-plan.ts";

export interface RecordedCapacity extends Pick<FleetPlan, "packId" | "packHash" | "fleet" | "jurisdiction"> {
  /** Location hint of each shard; null where the platform chooses. */
  readonly regionOf: (shard: number) => string | null;
}

/** Throws RangeError naming the field that no record can hold. */
export function recordOfCapacity(plan: Pick<CapacityPlan, "stages" | "stageSlots" | "lanes" | "experts">, { regionOf, packId, packHash, fleet, jurisdiction }: RecordedCapacity): FleetPlan {
  return parseFleetPlan({
    version: FLEET_PLAN_VERSION, packId, packHash, fleet, epoch: 1,
    shards: plan.experts.slots.map((slots, shard) => ({ slots, region: regionOf(shard) })),
    stages: plan.stages.map(({ embeddingRows, layers, headRows }, stage) => ({ embeddingRows, layers, headRows, slots: plan.stageSlots[stage]! })),
    lanes: plan.lanes, jurisdiction,
  });
}
