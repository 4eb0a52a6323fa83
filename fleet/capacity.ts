// The map of a deployment before anything exists: lanes of stages for trunk and KV cache, shards for the experts, in every region, and what each isolate holds.
// Owns the whole plan of memory and the refusal of impossible wishes. Refuses traffic, speed and money (traffic.ts, capacity-speed.ts, prices.ts) and where
// experts go: fleet/plan.ts assigns them.

import { type CapacityLimits, type CapacityPack, CapacityPlanError, kvBytesPerToken, packBytes, type PackBytes, type ParameterCounts, parameterCounts } from "./capacity-pack.ts";
import { planShards, shardBytes, type ShardsCapacity, type ShardsWish } from "./capacity-shards.ts";
import { type ExpertsIn, type LaneCapacity, planLanes, stageBytes } from "./capacity-stages.ts";
import { expertTable, makePlan, type PlannedExpert, type PlannedRange } from "./plan.ts";

export interface CapacityWish extends ShardsWish {
  readonly contextTokens: number;
  /** Requests resident at once, over all lanes of a region. */
  readonly streams: number;
  /** Location hints. Empty: one region, where the platform chooses. */
  readonly regions: readonly string[];
  /** What a region has: a deployment of its own, or its turns of one deployment's shards, whose stages are all in the first. */
  readonly regionHolds: "deployment" | "turns of shards";
  /** With "stages" every lane has experts of its own, and nothing is sent for them. */
  readonly expertsIn: ExpertsIn;
}

export interface CapacityPlan extends LaneCapacity {
  readonly bytes: PackBytes;
  readonly parameters: ParameterCounts;
  readonly kvBytesPerToken: number;
  readonly experts: ShardsCapacity;
  /** Of each stage, the experts that it computes itself. */
  readonly stageSlots: readonly (readonly PlannedRange[])[];
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
  if (wish.expertsIn === "stages") expectNoShards(pack, wish);
  const lane = planLanes(pack, limits, wish, wish.expertsIn);
  const experts = wish.expertsIn === "stages" ? NO_SHARDS : placed ?? planShards(pack, limits, wish);
  const ofStages = wish.expertsIn === "stages" ? expertTable(pack) : [];
  const held = experts.shards.filter(({ weightBytes }) => weightBytes > 0);
  const isolatesPerDeployment = lane.lanes * lane.stages.length + held.length;
  const deployments = wish.regionHolds === "deployment" ? Math.max(1, wish.regions.length) : 1;
  const sum = (bytes: readonly number[]): number => bytes.reduce((a, b) => a + b, 0);
  return {
    ...lane, experts, stageSlots: lane.stages.map(({ layers }) => wholeLayers(ofStages, layers)), isolatesPerDeployment, bytes: packBytes(pack), parameters: parameterCounts(pack.config), kvBytesPerToken: kvBytesPerToken(pack),
    stagesSetBy: lane.stages.length > lane.stagesForWeights ? "kv" : "weights",
    isolates: deployments * isolatesPerDeployment,
    largestIsolateBytes: Math.max(...lane.stages.map(stageBytes), ...held.map(shardBytes)),
    plannedBytes: deployments * (lane.lanes * sum(lane.stages.map(stageBytes)) + sum(held.map(shardBytes))),
  };
}

const NO_SHARDS: ShardsCapacity = Object.freeze({ plan: makePlan([], 1), slots: [], isSliced: false, shards: [] });

/** All experts of layers [from, end). */
const wholeLayers = (table: readonly PlannedExpert[], [from, end]: readonly [number, number]): PlannedRange[] =>
  table.filter(({ layer }) => layer >= from && layer < end).map(({ layer, expert, segmentBytes }) => ({ layer, expert, segments: [0, segmentBytes.length] }));

/** What only shards can have. */
function expectNoShards(pack: CapacityPack, { nShards, replicas, spareBytes, regionHolds }: CapacityWish): void {
  if (pack.experts.length === 0) throw new CapacityPlanError(`${pack.id} is a dense model: it has no experts for its stages to hold.`);
  const asked = nShards !== null ? `${nShards} shards` : replicas > 1 ? `${replicas} replicas` : spareBytes > 0 ? "room for replicas" : regionHolds === "turns of shards" ? "shards over several regions" : null;
  if (asked !== null) throw new CapacityPlanError(`The experts are to be held by the stages, which leaves no shards, and ${asked} were asked for too; expected one or the other.`);
}
