// Whether a plan from outside is one that a deployment of this pack and this version can begin with. Owns the sentences that refuse it.
// Refuses to know where it came from: a file beside the pack (given-plan.ts), or the command line (cli/commands/serve.ts).

import { parseFleetPlan, type FleetPlan } from "../fleet/fleet-plan.ts";
import { SlotTable } from "../fleet/slot-table.ts";
import type { PackManifest } from "../formats/manifest.ts";
import { checkRing } from "../model/stage-span.ts";

/** What the plan must be one of: the pack, and the fleet that the variables name. */
export interface PlanOwner {
  readonly manifest: Pick<PackManifest, "id" | "experts" | "config">;
  readonly packHash: string;
  readonly fleet: string;
}

/** The plan in a parsed document. Throws RangeError where it is none, or of something else, or leaves something to nobody. */
export function usablePlan(document: unknown, { manifest, packHash, fleet }: PlanOwner): FleetPlan {
  const plan = parseFleetPlan(document);
  if (plan.packId !== manifest.id || plan.packHash !== packHash) throw new RangeError(`The plan is of pack ${plan.packId}, revision ${plan.packHash}; this pack is ${manifest.id}, revision ${packHash}.`);
  if (plan.fleet !== fleet) throw new RangeError(`The plan is of the fleet "${plan.fleet}", and the variables name the fleet "${fleet}"; expected FLEET to be the plan's.`);
  try {
    checkRing(manifest.config, plan.stages);
  } catch (cause) {
    throw new RangeError(`The plan's stages do not fit this pack: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
  for (const [stage, { slots, layers: [first, end] }] of plan.stages.entries()) {
    const foreign = slots.find(({ layer }) => layer < first || layer >= end);
    if (foreign !== undefined) throw new RangeError(`The plan gives stage ${stage}, which has layers ${first} to ${end}, experts of layer ${foreign.layer} to compute; expected its own layers' alone.`);
  }
  const held = new SlotTable([...plan.shards, ...plan.stages].map(({ slots }) => slots));
  for (const { layer, expert, segments } of manifest.experts) {
    const missing = segments.findIndex((_, segment) => held.holdersOf(layer, expert, segment).length === 0);
    if (missing >= 0) throw new RangeError(`The plan gives segment ${missing} of layer ${layer}, expert ${expert} to nobody; expected a shard or the orchestrator to hold it.`);
  }
  return plan;
}
