// Every orchestrator of a deployment and what it says of itself, the caller's nearest region first. Owns who is asked and for how long: one of several that
// does not answer is told as such, the only one's failure is the request's. Refuses what the states mean for an API (health.ts, fleet.ts).

import { within, systemClock } from "../durable/clock.ts";
import type { Caller, EdgeFleet } from "../durable/edge-fleet.ts";
import type { DurableEnv } from "../durable/env.ts";
import type { GenerateTarget } from "../durable/generate-client.ts";
import type { OrchestratorStatus } from "../durable/generate.ts";
import { LIMITS } from "../durable/limits.ts";
import type { Place } from "../durable/place-names.ts";
import { namedOrchestrator } from "../durable/places.ts";

export interface LaneAt {
  readonly place: Place;
  readonly name: string;
  readonly target: GenerateTarget;
}

export interface LaneState extends LaneAt {
  /** Null: it could not be reached. */
  readonly status: OrchestratorStatus | null;
}

export const lanesOf = (env: DurableEnv, fleet: EdgeFleet, caller: Caller): LaneAt[] => fleet.order(env, caller).flatMap((region) => Array.from({ length: fleet.nLanes }, (_, lane) => {
  const place = { region, lane };
  const name = fleet.nameOf(place);
  return { place, name, target: namedOrchestrator(env, name) };
}));

/** `what` of each lane; null where one of several does not give it in time. */
export async function fromLanes<T>(lanes: readonly LaneAt[], isPlural: boolean, what: (target: GenerateTarget) => Promise<T>): Promise<(T | null)[]> {
  if (!isPlural) return Promise.all(lanes.map(({ target }) => what(target)));
  return Promise.all(lanes.map(({ target }) => within<T | null>(systemClock, LIMITS.pingDeadlineMs, what(target), "the orchestrator did not answer").catch(() => null)));
}

export async function laneStates(lanes: readonly LaneAt[], isPlural: boolean, warm: boolean): Promise<LaneState[]> {
  const found = await fromLanes(lanes, isPlural, async (target) => (await target.fetch(`https://orchestrator/status${warm ? "?warm=1" : ""}`, { method: "GET" })).json<OrchestratorStatus>());
  return lanes.map((lane, i) => ({ ...lane, status: found[i]! }));
}
