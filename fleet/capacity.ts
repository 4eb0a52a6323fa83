// The map of a deployment before anything exists: lanes of stages for trunk and KV cache, shards for the experts, in every region, and what each isolate holds.
// Owns the whole plan of memory and the refusal of impossible wishes. Refuses traffic, speed and money (traffic.ts, capacity-speed.ts, prices.ts) and where
// experts go: fleet/plan.ts assigns them.

import { type CapacityLimits, type CapacityPack, CapacityPlanError, kvBytesPerToken, packBytes, type PackBytes, type ParameterCounts, parameterCounts } from "./capacity-pack.ts";
import { planShards, shardBytes, type ShardsCapacity, type ShardsWish } from "./capacity-shards.ts";
import { type LaneCapacity, planLanes, stageBytes } from "./capacity-stages.ts";

export interface CapacityWish extends ShardsWish {
  readonly contextTokens: number;
  /** Requests resident at once, over all lanes of a region. */
  readonly streams: number;
  /** Location hints. Empty: one region, where the platform chooses. */
  readonly regions: readonly string[];
  /** What a region has: a deployment of its own, or its turns of one deployment's shards, whose stages are all in the first. */
  readonly regionHolds: "deployment" | "turns of shards";
}

export interface CapacityPlan extends LaneCapacity {
  readonly bytes: PackBytes;
  readonly parameters: ParameterCounts;
  readonly kvBytesPerToken: number;
  readonly experts: ShardsCapacity;
  /** What asks for the most stages: a trunk that is too large alone, or the KV cache beside it. */
  readonly stagesSetBy: "weights" | "kv";
  readonly isolatesPerDeployment: number;
  readonly isolates: number;
  readonly largestIsolateBytes: number;
  /** Over all isolates of all regions: weights, KV cache, working memory, frames. */
  readonly plannedBytes: number;
}

/** `placed`: the shards, where they are not to be planned here. Throws CapacityPlanError with the numbers where the wish cannot be met. */
export function planCapacity(pack: CapacityPack, limits: CapacityLimits, wish: CapacityWish, placed?: ShardsCapacity): CapacityPlan {
  if (limits.isolateBytes <= limits.inFlightBytes) {
    throw new CapacityPlanError(`An isolate of ${limits.isolateBytes} bytes leaves nothing beside the ${limits.inFlightBytes} bytes kept for frames in flight. Give more --memory.`);
  }
  if (wish.contextTokens > pack.contextLength) {
    throw new CapacityPlanError(`A context of ${wish.contextTokens} tokens was asked for; ${pack.id} has positions for ${pack.contextLength}.`);
  }
  const lane = planLanes(pack, limits, wish);
  const experts = placed ?? planShards(pack, limits, wish);
  const held = experts.shards.filter(({ weightBytes }) => weightBytes > 0);
  const isolatesPerDeployment = lane.lanes * lane.stages.length + held.length;
  const deployments = wish.regionHolds === "deployment" ? Math.max(1, wish.regions.length) : 1;
  const sum = (bytes: readonly number[]): number => bytes.reduce((a, b) => a + b, 0);
  return {
    ...lane, experts, isolatesPerDeployment, bytes: packBytes(pack), parameters: parameterCounts(pack.config), kvBytesPerToken: kvBytesPerToken(pack),
    stagesSetBy: lane.stages.length > lane.stagesForWeights ? "kv" : "weights",
    isolates: deployments * isolatesPerDeployment,
    largestIsolateBytes: Math.max(...lane.stages.map(stageBytes), ...held.map(shardBytes)),
    plannedBytes: deployments * (lane.lanes * sum(lane.stages.map(stageBytes)) + sum(held.map(shardBytes))),
  };
}
