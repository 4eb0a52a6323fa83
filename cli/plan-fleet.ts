// The whole of `plan`: capacity, traces where there are some, shards placed by them, the document and the record.
// Owns the order of these, which options go together, and the sentences for those that do not. Refuses sums: fleet/ has them.

import { CapacityPlanError } from "../fleet/capacity-pack.ts";
import { recordOfCapacity } from "../fleet/capacity-record.ts";
import { ExpertSegments, planShards, type ShardsCapacity } from "../fleet/capacity-shards.ts";
import type { ExpertsIn } from "../fleet/capacity-stages.ts";
import type { CapacityPlan } from "../fleet/capacity.ts";
import type { FleetPlan } from "../fleet/fleet-plan.ts";
import { addHotReplicas } from "../fleet/hot-replicas.ts";
import { placeShards } from "../fleet/placed-shards.ts";
import type { PlacementMode } from "../fleet/placement.ts";
import { turnsOfRegions } from "../fleet/region-crossing.ts";
import { capacityLimits, insteadOf, planDocument, type PlanDocument, type PlanRequest } from "./plan-document.ts";
import type { PlannedModel } from "./plan-model.ts";
import { readTraces, type TracedRouting } from "./read-traces.ts";

export interface FleetRequest extends Omit<PlanRequest, "placement" | "expertsIn"> {
  readonly traces: readonly string[];
  /** null: in stages where a token then takes fewer hops, and nothing is asked that only shards have. */
  readonly expertsIn: ExpertsIn | null;
  /** null: joint with a trace, contiguous without one and where experts are cut over shards. */
  readonly placement: PlacementMode | null;
}

export interface PlannedFleet {
  readonly plan: CapacityPlan;
  readonly document: PlanDocument;
}

/** Throws CapacityPlanError with the numbers where it cannot be, SourceError on what is no trace. */
export async function planFleet(model: PlannedModel, request: FleetRequest): Promise<PlannedFleet> {
  const { pack } = model;
  if (request.traces.length === 0) return planUntraced(model, request);
  if (request.expertsIn === "stages") throw new CapacityPlanError("A --trace says which experts go to which shard; where stages hold the experts of their layers there is nothing to choose. Leave out one of the two.");
  const routing = await readTraces(request.traces, pack);
  const inOrder = planShards(pack, capacityLimits(pack, request.isolateBytes), request);
  const placement = request.placement ?? (inOrder.isSliced ? "contiguous" : "joint");
  const experts = await placed(model, request, placement, inOrder, routing);
  const hot = request.spareBytes === 0 ? { experts, copies: 0, bytes: 0 }
    : addHotReplicas(pack, new ExpertSegments(pack, capacityLimits(pack, request.isolateBytes)), experts, { counts: routing.counts, replicas: request.replicas, budgetBytes: request.spareBytes });
  return planDocument(model, { ...request, placement, expertsIn: "shards" }, { routing, experts: hot.experts, hot });
}

/** By even draws. Throws CapacityPlanError where it cannot be, and on what only a trace can say. */
export function planUntraced(model: PlannedModel, request: Omit<FleetRequest, "traces">): PlannedFleet {
  if (request.spareBytes > 0) throw new CapacityPlanError("A --replica-budget is for the experts that are asked most; give a --trace that says which these are, or --replicas for all of them.");
  if (request.placement !== null && request.placement !== "contiguous") throw new CapacityPlanError(`The placement "${request.placement}" is made from routing; give a --trace, as \`workers-moe trace\` writes it.`);
  const planned = (expertsIn: ExpertsIn): PlannedFleet => planDocument(model, { ...request, placement: "contiguous", expertsIn });
  return request.expertsIn === null ? fewestHops(model, request, planned) : planned(request.expertsIn);
}

/** The experts apart, or whole layers in one isolate each where that takes fewer hops; and in a few figures what it was not. */
function fewestHops({ pack }: PlannedModel, { nShards, replicas, spareBytes, regionHolds, placement }: Omit<FleetRequest, "traces">, planned: (expertsIn: ExpertsIn) => PlannedFleet): PlannedFleet {
  const apart = planned("shards");
  if (pack.experts.length === 0 || nShards !== null || replicas > 1 || spareBytes > 0 || regionHolds !== "deployment" || placement !== null) return apart;
  let whole: PlannedFleet;
  try {
    whole = planned("stages");
  } catch (cause) {
    if (cause instanceof CapacityPlanError) return apart;
    throw cause;
  }
  const [chosen, other] = whole.document.traffic.token.hops < apart.document.traffic.token.hops ? [whole, apart] : [apart, whole];
  return { ...chosen, document: { ...chosen.document, experts: { ...chosen.document.experts, instead: insteadOf(other.document) } } };
}

async function placed({ pack }: PlannedModel, request: FleetRequest, mode: PlacementMode, inOrder: ShardsCapacity, { counts }: TracedRouting): Promise<ShardsCapacity> {
  if (mode === "contiguous") return inOrder;
  return placeShards(pack, capacityLimits(pack, request.isolateBytes), inOrder, {
    mode, counts, nShards: request.nShards, replicas: request.replicas, spareBytes: request.spareBytes, nRegions: request.regionHolds === "deployment" ? 1 : request.regions.length,
  });
}

/** The record that a fleet begins with. Throws CapacityPlanError where there is none: of a model that is not packed, and of several deployments. */
export function fleetRecord({ pack, packHash }: PlannedModel, plan: CapacityPlan, request: Pick<FleetRequest, "regions" | "regionHolds">, fleet: string): FleetPlan {
  if (packHash === null) throw new CapacityPlanError(`${pack.id} is not packed; a plan names the revision of a pack that it is of. Pack it with \`workers-moe pack\`, and plan the pack.`);
  const { regions, regionHolds } = request;
  if (regions.length > 1 && regionHolds === "deployment") {
    throw new CapacityPlanError(`A plan is of one deployment; here each of ${regions.join(", ")} has one of its own. Write a plan for each of them, or spread one deployment with --split-regions.`);
  }
  const turns = turnsOfRegions(plan.experts.slots.length, regions.length);
  return recordOfCapacity(plan, { packId: pack.id, packHash, fleet, jurisdiction: null, regionOf: (shard) => regions[turns[shard]!] ?? null });
}
