// The first plan of a deployment that brings one along: a file beside the pack (docs/formats.md, "The plan"), named by the variable PLAN_FILE.
// Owns reading it. Refuses to judge it (usable-plan.ts), to make one (fan-out.ts has the default) and to change it (the directory's).

import type { FleetPlan } from "../fleet/fleet-plan.ts";
import { FORMAT_LIMITS } from "../formats/limits.ts";
import type { PackManifest } from "../formats/manifest.ts";
import { parseJson, readFileOrNull } from "../formats/read-bytes.ts";
import { packSource } from "./byte-sources.ts";
import { fleetBaseName, fleetName, type DurableEnv } from "./env.ts";
import { planAtPlace } from "./places.ts";
import { usablePlan } from "./usable-plan.ts";

/** Null where the deployment brings none. Throws SourceError or RangeError that says what was found and expected. */
export async function givenPlan(env: DurableEnv, manifest: PackManifest, packHash: string): Promise<FleetPlan | null> {
  const name = env.PLAN_FILE ?? "";
  if (name === "") return null;
  const source = packSource(env);
  const bytes = await readFileOrNull(source, name, FORMAT_LIMITS.manifestBytes);
  if (bytes === null) throw new RangeError(`The variable PLAN_FILE is "${name}", and ${source.description} has no such file beside the pack.`);
  return planAtPlace(env, usablePlan(parseJson(source, name, bytes), { manifest, packHash, fleet: fleetBaseName(env) }), fleetName(env));
}
