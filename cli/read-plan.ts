// A plan's file on the command line, judged as a deployment judges it. Owns the sentence for what is no JSON. Refuses to know the plan's rules (durable/usable-plan.ts).

import { readFileSync } from "node:fs";
import { usablePlan } from "../durable/usable-plan.ts";
import { parseFleetPlan, type FleetPlan } from "../fleet/fleet-plan.ts";
import type { PackManifest } from "../formats/manifest.ts";

/** Beside the pack's own files, where a deployment reads it (durable/given-plan.ts). */
export const PLAN_FILE = "fleet-plan.json";

/** A plan that this pack and this version can begin with; the fleet is its own. */
export function readPlan(path: string, manifest: PackManifest, packHash: string): FleetPlan {
  let document: unknown;
  try {
    document = JSON.parse(readFileSync(path, "utf8"));
  } catch (cause) {
    throw new Error(`${path} is no plan: ${cause instanceof Error ? cause.message : String(cause)}`);
  }
  const { fleet } = parseFleetPlan(document);
  return usablePlan(document, { manifest, packHash, fleet });
}
