// Where a deployment's objects are: the variables REGIONS, JURISDICTION and LANES, and the way into a jurisdiction's sub-namespace: whoever takes an object takes
// it through here, so none is outside. Owns what an object makes of the region in its own name (place-names.ts). Refuses which region or lane a request goes to (fleet/region-order.ts, fleet/lanes.ts).

import { isJurisdiction, JURISDICTIONS, regionsWithin, type Jurisdiction } from "../fleet/region-order.ts";
import { isLocationHint, LOCATION_HINTS, type LocationHint } from "../fleet/regions.ts";
import type { FleetPlan } from "../fleet/fleet-plan.ts";
import type { DurableEnv } from "./env.ts";
import type { Orchestrator } from "./orchestrator.ts";
import { placeOf } from "./place-names.ts";

type RegionsEnv = Pick<DurableEnv, "REGIONS" | "JURISDICTION">;

/** Our list against the platform's own (2026-11): a jurisdiction that it gains or loses is a type error here. */
const isPlatforms: [DurableObjectJurisdiction] extends [Jurisdiction] ? (name: string) => name is DurableObjectJurisdiction : never = isJurisdiction;

/** Null: none. Throws RangeError where the platform has no such jurisdiction. */
export function jurisdictionOf({ JURISDICTION: name = "" }: Pick<DurableEnv, "JURISDICTION">): DurableObjectJurisdiction | null {
  if (name === "") return null;
  if (!isPlatforms(name)) throw new RangeError(`The variable JURISDICTION is "${name}"; expected one of ${JURISDICTIONS.join(", ")}, or nothing.`);
  return name;
}

/** The hints of a variable that lists some. Throws RangeError where one is none, or lies outside the jurisdiction. */
export function hintsIn(variable: string, list: string, jurisdiction: DurableObjectJurisdiction | null): LocationHint[] {
  if (list.trim() === "") return [];
  const hints = list.split(",").map((hint) => hint.trim());
  for (const hint of hints) {
    if (!isLocationHint(hint)) throw new RangeError(`The variable ${variable} is "${list}", and "${hint}" is no region; expected a comma list of ${LOCATION_HINTS.join(", ")}.`);
    if (jurisdiction !== null && !regionsWithin(jurisdiction).includes(hint)) throw new RangeError(`The variable ${variable} is "${list}", and ${hint} lies outside the jurisdiction ${jurisdiction}; expected ${regionsWithin(jurisdiction).join(", ")}.`);
  }
  return hints.filter(isLocationHint);
}

/** The regions that have the whole deployment each; empty: there is one, and the platform chooses where. Throws RangeError. */
export function regionsOf(env: RegionsEnv): LocationHint[] {
  const list = env.REGIONS ?? "";
  const hints = hintsIn("REGIONS", list, jurisdictionOf(env));
  if (new Set(hints).size < hints.length) throw new RangeError(`The variable REGIONS is "${list}"; expected each region once.`);
  return hints;
}

/** Null where the variable says nothing: it is 1, or as many as a given plan has. */
export function lanesAsked({ LANES: text = "" }: Pick<DurableEnv, "LANES">): number | null {
  if (text === "") return null;
  const count = Number(text);
  if (!Number.isInteger(count) || count < 1 || count > 64) throw new RangeError(`The variable LANES is "${text}"; expected a number from 1 to 64.`);
  return count;
}

/** The deployment's variables as an object of one region reads them. */
export const placedEnv = <Env extends DurableEnv>(env: Env, name: string | undefined): Env => regionEnv(env, placeOf(name).region);

/** The same, for whoever looks for a region's objects from outside. */
export const regionEnv = <Env extends DurableEnv>(env: Env, region: string | null): Env => (region === null ? env : { ...env, REGION: region });

/** The part of a namespace whose objects never leave the jurisdiction. */
export const withinJurisdiction = <T extends Rpc.DurableObjectBranded | undefined>(namespace: DurableObjectNamespace<T>, jurisdiction: string | null): DurableObjectNamespace<T> =>
  (jurisdiction === null ? namespace : namespace.jurisdiction(jurisdiction as DurableObjectJurisdiction));

/** What is asked when an object is made. */
export const hintOf = (region: string | null): DurableObjectNamespaceGetDurableObjectOptions => (region === null ? {} : { locationHint: region as DurableObjectLocationHint });

/** An orchestrator by its name. A fresh stub each time: one that has seen its object fail stays broken. */
export const namedOrchestrator = (env: Pick<DurableEnv, "ORCHESTRATOR" | "JURISDICTION">, name: string): DurableObjectStub<Orchestrator> =>
  withinJurisdiction(env.ORCHESTRATOR, jurisdictionOf(env)).getByName(name, hintOf(placeOf(name).region));

/**
 * A plan from outside as the region's own: of its fleet, its shards in it. Throws RangeError where it is of another jurisdiction, leaves it, or has other lanes
 * than the variable says.
 */
export function planAtPlace(env: Pick<DurableEnv, "JURISDICTION" | "LANES" | "REGION">, plan: FleetPlan, fleet: string): FleetPlan {
  const [jurisdiction, lanes] = [jurisdictionOf(env), lanesAsked(env)];
  if (plan.jurisdiction !== jurisdiction) throw new RangeError(`The plan is of ${plan.jurisdiction === null ? "no jurisdiction" : `the jurisdiction ${plan.jurisdiction}`}, and the variable JURISDICTION is "${jurisdiction ?? ""}"; expected the same.`);
  if (lanes !== null && plan.lanes !== lanes) throw new RangeError(`The plan has ${plan.lanes} lanes, and the variable LANES says ${lanes}; expected the same, or no such variable.`);
  requireWithin(plan);
  const { REGION: region } = env;
  return { ...plan, fleet, ...(region === undefined ? {} : { shards: plan.shards.map(({ slots }) => ({ slots, region })) }) };
}

/** Throws RangeError where a shard is asked to live outside the plan's jurisdiction. */
export function requireWithin({ jurisdiction, shards }: Pick<FleetPlan, "jurisdiction" | "shards">): void {
  if (jurisdiction === null) return;
  const allowed: readonly string[] = isJurisdiction(jurisdiction) ? regionsWithin(jurisdiction) : [];
  const outside = shards.findIndex(({ region }) => region !== null && !allowed.includes(region));
  if (outside >= 0) throw new RangeError(`The plan asks for shard ${outside} in ${shards[outside]!.region}, outside its jurisdiction ${jurisdiction}; expected ${allowed.join(", ") || "a jurisdiction the platform has"}.`);
}
