// GET and POST /v1/fleet: what the directory knows of the plan, beside what the orchestrators say of themselves, and the start of a change.
// Owns how the directory's refusals become errors. Refuses to wait for a change to end: GET tells how it goes (docs/fleet.md, "Epochs").

import type { z } from "zod";
import { systemClock, within } from "../durable/clock.ts";
import type { DesireReply, Directory } from "../durable/directory.ts";
import type { FleetStatus } from "../durable/directory-record.ts";
import { fleetDirectory, type DurableEnv } from "../durable/env.ts";
import { LIMITS } from "../durable/limits.ts";
import { regionEnv } from "../durable/places.ts";
import { plain } from "../durable/rpc-result.ts";
import { badConfiguration, invalid, RequestError } from "./errors.ts";
import { callerOf, edgeFleet } from "./fleets.ts";
import { laneStates, lanesOf } from "./lane-states.ts";
import { edgePack } from "./pack.ts";
import type { fleetChangeSchema } from "./schemas.ts";
import type { FleetReply } from "./wire-types.ts";

async function directoryOf(env: DurableEnv, region: string | null): Promise<DurableObjectStub<Directory>> {
  const directory = fleetDirectory(regionEnv(env, region), (await edgePack(env)).hash);
  if (directory === null) throw badConfiguration("This deployment has no binding DIRECTORY, so its plan is the one its variables make; expected one to the class Directory (docs/deploy.md).");
  return directory;
}

/** What the directory of a region tells; null without one, or where it cannot be reached: the rest is told all the same. */
async function directoryStatus(env: DurableEnv, region: string | null): Promise<FleetStatus | null> {
  try {
    return plain<FleetStatus>(await within(systemClock, LIMITS.directoryMs, Promise.resolve((await directoryOf(env, region)).status()), "the directory did not answer"));
  } catch {
    return null;
  }
}

/** The nearest lane's own words, and all lanes and regions with what was measured between them. */
export async function fleetReply(env: DurableEnv, request: Request): Promise<FleetReply> {
  const fleet = await edgeFleet(env);
  const [lanes] = await Promise.all([laneStates(lanesOf(env, fleet, callerOf(request)), fleet.isPlural, false), fleet.isPlural ? fleet.refresh(env, (await edgePack(env)).hash, true) : null]);
  const first = lanes.find(({ status }) => status !== null)?.status;
  if (first == null) throw new RequestError({ status: 503, code: "fleet_unreachable", message: `None of the deployment's ${lanes.length} orchestrators can be reached.`, retryAfterSeconds: 1 });
  const regions = await Promise.all([...new Set(lanes.map(({ place }) => place.region))].map(async (region) => ({
    region, directory: await directoryStatus(env, region),
    lanes: lanes.filter(({ place }) => place.region === region).map(({ place: { lane }, name, status }) => ({ lane, name, status })),
  })));
  return { ...first, directory: regions[0]!.directory, regions, roundTrips: fleet.roundTrips() };
}

/** The region that is meant. Of several one must be named: each has a plan of its own. */
async function regionMeant(env: DurableEnv, given: string | null): Promise<string | null> {
  const regions = (await edgeFleet(env)).order(env, { continent: null, coordinates: null });
  if (given === null && regions.length === 1) return regions[0]!;
  const found = regions.find((region) => region !== null && region === given);
  if (found === undefined) throw invalid("region", `\`region\` is ${given === null ? "missing" : JSON.stringify(given)}; expected ${regions[0] === null ? "none, in a deployment without regions" : `one of ${regions.join(", ")}, each of which has a plan of its own`}.`);
  return found;
}

export async function changeFleet({ shards, replicas, plan, region }: z.infer<typeof fleetChangeSchema>, env: DurableEnv): Promise<FleetStatus> {
  const wish = { ...(typeof shards === "number" ? { shards } : {}), ...(typeof replicas === "number" ? { replicas } : {}), ...(plan ? { plan } : {}) };
  if (Object.keys(wish).length === 0) throw invalid(null, "The body wishes for nothing; expected `shards`, `replicas` and/or `plan`.");
  const reply = plain<DesireReply>(await (await directoryOf(env, await regionMeant(env, region ?? null))).desire(wish));
  if (reply.state === "begun") return reply.fleet;
  throw reply.code === "impossible" ? invalid(null, reply.message, "impossible_plan") : new RequestError({ status: 409, code: "change_conflict", message: reply.message });
}

export async function planInForce(env: DurableEnv, region: string | null): Promise<object> {
  const plan = plain<object | null>(await (await directoryOf(env, await regionMeant(env, region))).plan());
  if (plan === null) throw new RequestError({ status: 409, code: "no_plan", message: "The fleet has no plan yet: its first orchestrator brings one when it wakes (GET /health wakes it)." });
  return plan;
}
