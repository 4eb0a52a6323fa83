// The deployment as variables, plan and a request's origin say it: which EdgeFleet is meant, made once per isolate and settings, and who asks.
// Owns the settings' mistakes becoming answers (500 bad_configuration). Refuses what is known of it (durable/edge-fleet.ts).

import { waitUntil } from "cloudflare:workers";
import { type Caller, EdgeFleet, type Route } from "../durable/edge-fleet.ts";
import type { DurableEnv } from "../durable/env.ts";
import { givenPlan } from "../durable/given-plan.ts";
import type { GenerateTarget } from "../durable/generate-client.ts";
import type { GenerateRequest } from "../durable/generate.ts";
import { currentPack } from "../durable/opened-packs.ts";
import type { Place } from "../durable/place-names.ts";
import { lanesAsked, regionsOf } from "../durable/places.ts";
import { badConfiguration } from "./errors.ts";
import { edgePack } from "./pack.ts";

/** Only values are kept, never promises: one request must not wait for input of another (a rule of the platform). */
const fleets = new Map<string, EdgeFleet>();

export async function edgeFleet(env: DurableEnv): Promise<EdgeFleet> {
  const key = JSON.stringify([env.PACK_SOURCE, env.PACK_ID, env.REGIONS, env.JURISDICTION, env.LANES, env.PLAN_FILE, env.FLEET]);
  const kept = fleets.get(key);
  if (kept !== undefined) return kept;
  const { regions, lanes } = variables(env);
  const fleet = new EdgeFleet(env.PACK_ID, regions.length === 0 ? [null] : regions, lanes ?? (await lanesOfPlan(env)));
  fleets.set(key, fleet);
  return fleet;
}

function variables(env: DurableEnv): { regions: ReturnType<typeof regionsOf>; lanes: number | null } {
  try {
    return { regions: regionsOf(env), lanes: lanesAsked(env) };
  } catch (cause) {
    throw badConfiguration(cause instanceof Error ? cause.message : String(cause));
  }
}

async function lanesOfPlan(env: DurableEnv): Promise<number> {
  if ((env.PLAN_FILE ?? "") === "") return 1;
  const { manifest, packHash } = await currentPack(env);
  try {
    return (await givenPlan(env, manifest, packHash))!.lanes;
  } catch (cause) {
    throw badConfiguration(cause instanceof Error ? cause.message : String(cause));
  }
}

/** Whence a request comes, as far as the platform says (2026-11: decimal degrees as text). */
export function callerOf(request: Request): Caller {
  const cf = (request.cf ?? {}) as { readonly continent?: unknown; readonly latitude?: unknown; readonly longitude?: unknown };
  const degrees = (of: unknown): number => (typeof of === "string" && of.trim() !== "" ? Number(of) : NaN);
  const [latitude, longitude] = [degrees(cf.latitude), degrees(cf.longitude)];
  const isPlace = Math.abs(latitude) <= 90 && Math.abs(longitude) <= 180;
  return { continent: typeof cf.continent === "string" ? cf.continent : null, coordinates: isPlace ? { latitude, longitude } : null };
}

export type Router = (request: GenerateRequest) => Route;

/** The ways of a request's generations. What has grown old is asked anew beside it. */
export async function routerOf(env: DurableEnv, request: Request, prefer: Place | null, wrapped: (target: GenerateTarget) => GenerateTarget): Promise<Router> {
  const fleet = await edgeFleet(env);
  if (fleet.isDue()) waitUntil(edgePack(env).then(({ hash }) => fleet.refresh(env, hash)));
  const caller = callerOf(request);
  return (generation) => fleet.route(env, generation, { caller, prefer, wrapped });
}
