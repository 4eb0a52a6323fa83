// Round trips from one region's orchestrator to the others': what GET /ping answers, and the pings it sends itself when it is asked to measure.
// Owns when they are due. Refuses to wait for one: an answer tells what was measured before, with its age. docs/fleet.md, "Regions".

import { type Clock, within } from "./clock.ts";
import type { DurableEnv } from "./env.ts";
import type { OrchestratorStatus } from "./generate.ts";
import type { Limits } from "./limits.ts";
import { orchestratorName } from "./place-names.ts";
import { namedOrchestrator, regionsOf } from "./places.ts";
import { type MeasuredTrip, RoundTrip } from "./round-trip.ts";

export interface PingReply {
  readonly status: OrchestratorStatus["status"];
  /** To the other regions, as far as they were measured. */
  readonly roundTrips: readonly (MeasuredTrip & { readonly to: string })[];
}

export interface OtherRegion {
  readonly name: string;
  ping(): Promise<unknown>;
}

/** The other regions of the deployment; none for an object that is part of no region, and where the variables say nothing that can be used: whoever needs them says so. */
export function otherRegions(env: DurableEnv): OtherRegion[] {
  const { REGION: own } = env;
  if (own === undefined) return [];
  try {
    return regionsOf(env).filter((region) => region !== own).map((region) => ({
      name: region,
      ping: async () => (await namedOrchestrator(env, orchestratorName(env.PACK_ID, { region, lane: 0 })).fetch("https://orchestrator/ping")).arrayBuffer(),
    }));
  } catch {
    return [];
  }
}

export class RegionPings {
  readonly #others: readonly (OtherRegion & { readonly trip: RoundTrip })[];
  readonly #clock: Clock;
  readonly #limits: Pick<Limits, "pingEveryMs" | "pingDeadlineMs">;
  #askedAtMs = -Infinity;

  constructor(others: readonly OtherRegion[], clock: Clock, limits: Pick<Limits, "pingEveryMs" | "pingDeadlineMs">) {
    this.#others = others.map((other) => ({ name: other.name, ping: () => other.ping(), trip: new RoundTrip() }));
    this.#clock = clock;
    this.#limits = limits;
  }

  /** `measure`: the others are pinged now, unless they were lately. Pings themselves never ask for that, so they end with one. */
  answer(status: OrchestratorStatus["status"], measure: boolean): PingReply {
    const nowMs = this.#clock.nowMs();
    if (measure && nowMs - this.#askedAtMs >= this.#limits.pingEveryMs) {
      this.#askedAtMs = nowMs;
      for (const other of this.#others) void this.#ping(other);
    }
    return { status, roundTrips: this.#others.flatMap(({ name, trip }) => {
      const shown = trip.shown(nowMs);
      return shown === null ? [] : [{ to: name, ...shown }];
    }) };
  }

  async #ping({ ping, trip }: OtherRegion & { readonly trip: RoundTrip }): Promise<void> {
    const sinceMs = this.#clock.nowMs();
    try {
      await within(this.#clock, this.#limits.pingDeadlineMs, ping(), "the ping was not answered");
      trip.pinged(this.#clock.nowMs() - sinceMs, this.#clock.nowMs());
    } catch {
      // What was measured before grows old, and is shown so.
    }
  }
}
