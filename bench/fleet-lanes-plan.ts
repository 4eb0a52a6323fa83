// The plan of fleet-ring.ts: what `workers-moe plan --out` writes, changed so that a local cluster can run several lanes of it. Owns that change. Refuses plans of its own making
// (cli/plan-fleet.ts) and its own judgement of what a deployment can begin with (durable/usable-plan.ts).
// Locally the orchestrators of all lanes, which are the first stages, share the edge's isolate, so with strict isolates they must fit it together.

import { fleetRecord, planFleet, type FleetRequest } from "../cli/plan-fleet.ts";
import { openPlannedModel } from "../cli/plan-model.ts";
import { LIMITS } from "../durable/limits.ts";
import { usablePlan } from "../durable/usable-plan.ts";
import { parseFleetPlan, type FleetPlan } from "../fleet/fleet-plan.ts";
import type { PackManifest } from "../formats/manifest.ts";
import { isEmpty, VOCABULARY_BLOCK_ROWS } from "../model/stage-span.ts";

/** The plan with so many lanes, its first stage cut in two in the middle of the embedding. Throws RangeError where that stage holds more than embedding rows, or too few to be cut. */
export function inLanes(plan: FleetPlan, lanes: number): FleetPlan {
  const [first, ...rest] = plan.stages;
  if (first === undefined || !isEmpty(first.layers) || !isEmpty(first.headRows)) throw new RangeError("The plan's first stage holds layers or head rows; a plan was expected whose embedding takes a stage of its own.");
  const end = first.embeddingRows[1];
  const middle = Math.floor(end / 2 / VOCABULARY_BLOCK_ROWS) * VOCABULARY_BLOCK_ROWS;
  if (middle === 0) throw new RangeError(`The plan's first stage holds ${end} embedding rows; at least ${2 * VOCABULARY_BLOCK_ROWS} were expected, since they are cut at multiples of ${VOCABULARY_BLOCK_ROWS}.`);
  return parseFleetPlan({ ...plan, lanes, stages: [{ ...first, embeddingRows: [0, middle] }, { ...first, embeddingRows: [middle, end] }, ...rest] });
}

export interface LanesWish {
  readonly lanes: number;
  readonly streams: number;
  readonly contextTokens: number;
}

/** What `workers-moe plan <pack> --streams N --context N --out` writes, in lanes, as a deployment of the pack accepts it. */
export async function planInLanes(pack: string, { manifest, packHash }: { readonly manifest: PackManifest; readonly packHash: string }, { lanes, streams, contextTokens }: LanesWish): Promise<FleetPlan> {
  const model = await openPlannedModel(pack, { contextTokens });
  const request: FleetRequest = { isolateBytes: LIMITS.isolateBytes, streams, nShards: null, regions: [], regionHolds: "deployment", replicas: 1, spareBytes: 0, traces: [], placement: null, expertsIn: "shards" };
  const { plan } = await planFleet(model, request);
  const record = fleetRecord(model, plan, request, "main");
  return usablePlan(inLanes(record, lanes), { manifest, packHash, fleet: record.fleet });
}
