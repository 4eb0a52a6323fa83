// GET /health and GET /ready: the orchestrators' states in the words of the API. Owns what several of them come to: a deployment serves where any of them does,
// and is degraded where one that should is not well; those that sleep are no fault. /health wakes the lanes of the caller's nearest region, /ready nobody.

import type { DurableEnv } from "../durable/env.ts";
import type { OrchestratorStatus } from "../durable/generate.ts";
import { RequestError } from "./errors.ts";
import { callerOf, edgeFleet } from "./fleets.ts";
import { laneStates, lanesOf, type LaneState } from "./lane-states.ts";

/** How long a client should wait before asking again while the model loads: loading takes seconds, and asking is cheap. */
const RETRY_AFTER_SECONDS = 1;

const isServing = (status: OrchestratorStatus | null): boolean => status?.status === "ready" || status?.status === "degraded";

/** `wakes`: asking starts the loading. */
export async function health(env: DurableEnv, request: Request, wakes: boolean): Promise<Response> {
  const fleet = await edgeFleet(env);
  const lanes = lanesOf(env, fleet, callerOf(request));
  const found = await laneStates(lanes, fleet.isPlural, false);
  const nearest = found[0]!.place.region;
  const asleep = found.filter(({ place, status }) => place.region === nearest && !isServing(status) && status?.status !== "warming");
  if (!wakes || asleep.length === 0) return healthResponse(found);
  const asked = await laneStates(asleep, fleet.isPlural, true);
  // A failure is reported once before its next try hides it.
  return healthResponse(found.map((state) => (state.status?.status === "failed" ? state : asked.find(({ name }) => name === state.name) ?? state)));
}

/** 200 where somebody serves; 503 with Retry-After while all are cold or warming; throws where none can be loaded or reached. */
export function healthResponse(states: readonly LaneState[]): Response {
  const known = states.flatMap(({ status }) => (status === null ? [] : [status]));
  const pack = known.find((of) => of.pack !== null)?.pack ?? null;
  const more = {
    ...(pack === null ? {} : { model: pack.id }),
    ...(states.length === 1 ? {} : { lanes: states.map(({ place, status }) => ({ ...place, status: status?.status ?? "unreachable" })) }),
  };
  if (known.some(isServing)) {
    const isWell = known.length === states.length && !known.some(({ status }) => status === "degraded" || status === "failed");
    const sum = (of: (generations: OrchestratorStatus["generations"]) => number): number => known.reduce((total, { generations }) => total + of(generations), 0);
    return Response.json({ status: isWell ? "ready" : "degraded", ...more, generations: { active: sum((of) => of.active), queued: sum((of) => of.queued), cancelled: sum((of) => of.cancelled) } });
  }
  const coming = known.filter(({ status }) => status === "cold" || status === "warming");
  if (coming.length > 0) {
    const status = coming.some((of) => of.status === "warming") ? "warming" : "cold";
    return Response.json({ status, loaded: Math.max(...coming.map(({ loaded }) => loaded)), ...more }, { status: 503, headers: { "Retry-After": String(RETRY_AFTER_SECONDS) } });
  }
  const failed = known.find(({ status }) => status === "failed");
  if (failed === undefined) throw new RequestError({ status: 503, code: "fleet_unreachable", message: `None of the deployment's ${states.length} orchestrators can be reached.`, retryAfterSeconds: RETRY_AFTER_SECONDS });
  throw new RequestError({ status: 500, code: "model_load_failed", message: failed.message ?? "The model could not be loaded." });
}
