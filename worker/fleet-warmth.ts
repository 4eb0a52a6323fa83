// POST /v1/fleet/warm: every orchestrator of every lane and region loads its model and connects its shards, all at the same time, and says how far it has come.
// Owns what of their states is progress, and when it is done. Refuses to wait: whoever wants to know asks again, which changes nothing (docs/deploy.md).

import type { DurableEnv } from "../durable/env.ts";
import { callerOf, edgeFleet } from "./fleets.ts";
import { laneStates, lanesOf, type LaneState } from "./lane-states.ts";
import type { FleetWarmth } from "./wire-types.ts";

export async function warmFleet(env: DurableEnv, request: Request): Promise<FleetWarmth> {
  const fleet = await edgeFleet(env);
  return warmthOf(await laneStates(lanesOf(env, fleet, callerOf(request)), fleet.isPlural, true));
}

function warmthOf(states: readonly LaneState[]): FleetWarmth {
  const lanes = states.map(({ place: { region, lane }, name, status }) => ({
    region, lane, name, status: status?.status ?? null, loaded: status?.loaded ?? 0, message: status?.message ?? null,
    shards: (status?.shards ?? []).filter(({ weightBytes }) => weightBytes > 0).map(({ name: shard, warmth, weightBytes, loadedBytes }) => (
      { name: shard, warmth, weightBytes, loadedBytes: warmth === "active" || warmth === "linger" ? weightBytes : loadedBytes })),
  }));
  const ready = lanes.every(({ status, shards }) => (status === "ready" || status === "degraded") && shards.every(({ warmth }) => warmth === "active" || warmth === "linger"));
  return { ready, loaded: Math.min(...lanes.map(({ loaded }) => loaded)), lanes };
}
