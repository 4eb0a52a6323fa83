// What an isolate of the Worker knows of a deployment's orchestrators: regions with their round trips, failures and states, lanes with their free memory;
// and the ways a request may take by it (fleet/region-order.ts, fleet/lanes.ts). Owns that knowledge and its age: it is made anew beside requests and never
// waited for. Refuses the generation itself (durable/generate-client.ts). A guess that is wrong costs time and never changes an answer.

import { systemClock, within, type Clock } from "./clock.ts";
import type { FleetStatus } from "./directory-record.ts";
import { fleetDirectory, type DurableEnv } from "./env.ts";
import type { GenerateTarget, GenerateWay } from "./generate-client.ts";
import type { GenerateRequest, OrchestratorStatus } from "./generate.ts";
import { LIMITS } from "./limits.ts";
import { orchestratorName, placeOf, type Place } from "./place-names.ts";
import { jurisdictionOf, namedOrchestrator } from "./places.ts";
import type { PingReply } from "./region-pings.ts";
import { RoundTrip } from "./round-trip.ts";
import { plain } from "./rpc-result.ts";
import { chooseLane, prefixKey, type PrefixKey } from "../fleet/lanes.ts";
import { failedAgain, isFailing, regionOrder, type Caller, type Failures } from "../fleet/region-order.ts";
import type { LocationHint } from "../fleet/regions.ts";

/** A way, and where it leads. */
export interface PlacedWay extends GenerateWay {
  readonly place: Place;
}

/** The ways of one request, the first choice first. */
export interface Route {
  readonly ways: readonly PlacedWay[];
  /** Who answers it, or last did. */
  readonly served: Place;
}

export type { Caller };

interface KnownRegion {
  readonly region: LocationHint | null;
  readonly trip: RoundTrip;
  failures: Failures | null;
  state: { readonly status: OrchestratorStatus["status"]; readonly atMs: number } | null;
  roundTrips: { readonly list: PingReply["roundTrips"]; readonly atMs: number };
  /** When a request last went elsewhere because this region was loading. */
  missedAtMs: number;
  /** Free positions of the lanes that have said so, less what this isolate has sent there since. */
  lanes: { readonly free: Map<number, number>; readonly atMs: number } | null;
}

/** A region is asked second where it is known to be loading and another to be up. */
const isUp = ({ state }: KnownRegion): boolean => state?.status === "ready" || state?.status === "degraded";

export interface RouteWishes {
  readonly caller: Caller;
  /** Where the reply that is continued was said last; null for a new one. */
  readonly prefer: Place | null;
  /** Around each call. */
  readonly wrapped?: (target: GenerateTarget) => GenerateTarget;
}

export class EdgeFleet {
  readonly #clock: Clock;
  readonly #packId: string;
  readonly #regions: readonly KnownRegion[];
  readonly nLanes: number;
  #askedAtMs = -Infinity;
  #nKeyless = 0;

  constructor(packId: string, regions: readonly (LocationHint | null)[], nLanes: number, clock: Clock = systemClock) {
    this.#packId = packId;
    this.nLanes = nLanes;
    this.#clock = clock;
    this.#regions = regions.map((region) => ({ region, trip: new RoundTrip(), failures: null, state: null, roundTrips: { list: [], atMs: 0 }, missedAtMs: -Infinity, lanes: null }));
  }

  get nOrchestrators(): number { return this.nLanes * this.#regions.length; }
  get isPlural(): boolean { return this.nOrchestrators > 1; }

  nameOf(place: Place): string { return orchestratorName(this.#packId, place); }

  has({ region, lane }: Place): boolean { return lane < this.nLanes && this.#regions.some((of) => of.region === region); }

  /** Regions as a caller's requests try them: near ones first, those that failed lately last, and one that is known to load behind those that are known to be up. */
  order(env: DurableEnv, caller: Caller): (LocationHint | null)[] {
    return this.#order(env, caller).map(({ region }) => region);
  }

  #order(env: DurableEnv, caller: Caller): KnownRegion[] {
    if (this.#regions.length === 1) return [...this.#regions];
    const states = this.#regions.map(({ region, trip, failures }) => ({ name: region!, roundTripMs: trip.ms, failures }));
    const nowMs = this.#clock.nowMs();
    const names = regionOrder(states, { caller, jurisdiction: jurisdictionOf(env), nowMs });
    const ordered = names.map((name) => this.#regions.find(({ region }) => region === name)!);
    const isLoading = (of: KnownRegion): boolean => of.state !== null && !isUp(of) && nowMs - of.state.atMs < LIMITS.pingEveryMs;
    if (!ordered.some((of) => isUp(of) && nowMs - of.state!.atMs < LIMITS.pingEveryMs)) return ordered;
    for (const of of ordered.slice(0, ordered.findIndex((of) => !isLoading(of)))) of.missedAtMs = nowMs;
    const rank = (of: KnownRegion): number => (isFailing(of.failures, nowMs) ? 2 : isLoading(of) ? 1 : 0);
    return ordered.sort((a, b) => rank(a) - rank(b));
  }

  route(env: DurableEnv, request: GenerateRequest, { caller, prefer, wrapped = (target) => target }: RouteWishes): Route {
    const key = prefixKey(request.cacheScope ?? "", request.promptIds);
    const neededTokens = request.promptIds.length + request.maxTokens;
    const wished = prefer !== null && this.has(prefer) ? [prefer] : [];
    const chosen = this.#order(env, caller).flatMap((of) => this.#lanes(of, key, neededTokens).map((lane) => ({ region: of.region, lane })));
    const places = [...wished, ...chosen.filter(({ region, lane }) => !wished.some((of) => of.region === region && of.lane === lane))];
    const first = places[0]!;
    const free = this.#known(first.region).lanes?.free;
    const left = free?.get(first.lane);
    if (left !== undefined) free!.set(first.lane, left - neededTokens);
    let served = first;
    return {
      get served() { return served; },
      ways: places.map((place): PlacedWay => {
        const known = this.#known(place.region);
        return {
          place, group: place.region ?? "",
          target: () => wrapped(namedOrchestrator(env, this.nameOf(place))),
          isReady: async () => ["ready", "degraded"].includes((await this.#ping(env, place, false)).status),
          served: (ms) => {
            served = place;
            if (place.region !== null) known.trip.atMost(ms, this.#clock.nowMs());
          },
          failed: () => { known.failures = failedAgain(known.failures, this.#clock.nowMs()); },
        };
      }),
    };
  }

  #known(region: string | null): KnownRegion { return this.#regions.find((of) => of.region === region)!; }

  /** Lanes of a region in the order a request tries them. */
  #lanes({ lanes }: KnownRegion, key: PrefixKey | null, neededTokens: number): number[] {
    if (this.nLanes === 1) return [0];
    const free = lanes !== null && this.#clock.nowMs() - lanes.atMs < LIMITS.laneTableOldMs ? lanes.free : null;
    // Nobody's beginning: where nothing is known of memory, lanes take turns.
    const turn: PrefixKey | null = key ?? (free === null || free.size === 0 ? [this.#nKeyless++, 0] : null);
    // One that has said nothing yet sleeps or is new: its own beginnings wake it, and so does a request that finds no room elsewhere.
    const unknown = turn === null ? 0 : Infinity;
    let open = Array.from({ length: this.nLanes }, (_, lane) => ({ lane, freeTokens: free?.get(lane) ?? unknown }));
    if (turn === null && !open.some(({ freeTokens }) => freeTokens >= neededTokens)) open = open.map(({ lane, freeTokens }) => ({ lane, freeTokens: free!.has(lane) ? freeTokens : Infinity }));
    const order: number[] = [];
    while (open.length > 0) {
      const { lane } = chooseLane(open, { key: turn, neededTokens });
      order.push(lane);
      open = open.filter((of) => of.lane !== lane);
    }
    return order;
  }

  async #ping(env: DurableEnv, place: Place, measure: boolean): Promise<PingReply> {
    const known = this.#known(place.region);
    const sinceMs = this.#clock.nowMs();
    const response = await within(this.#clock, LIMITS.pingDeadlineMs, namedOrchestrator(env, this.nameOf(place)).fetch(`https://orchestrator/ping${measure ? "?measure=1" : ""}`), `it did not answer in ${LIMITS.pingDeadlineMs} ms`);
    const reply = await response.json<PingReply>();
    const nowMs = this.#clock.nowMs();
    known.trip.pinged(nowMs - sinceMs, nowMs);
    if (place.lane === 0) known.state = { status: reply.status, atMs: nowMs };
    if (measure) known.roundTrips = { list: reply.roundTrips, atMs: nowMs };
    return reply;
  }

  /** Whether what is known has grown old; true once for each time. */
  isDue(): boolean {
    if (!this.isPlural) return false;
    const nowMs = this.#clock.nowMs();
    if (nowMs - this.#askedAtMs < (this.nLanes > 1 ? LIMITS.laneTableMs : LIMITS.pingEveryMs)) return false;
    this.#askedAtMs = nowMs;
    return true;
  }

  /** Asks regions how far they are and directories how their lanes are. Rejects never: who does not answer has failed, and is known by what it said before. */
  async refresh(env: DurableEnv, packHash: string, isAll = false): Promise<void> {
    const nowMs = this.#clock.nowMs();
    await Promise.all(this.#regions.flatMap((of) => [
      nowMs - of.missedAtMs < LIMITS.pingEveryMs ? this.#wake(env, of).catch(() => undefined) : undefined,
      this.#regions.length > 1 && (isAll || of.state === null || nowMs - of.state.atMs >= LIMITS.pingEveryMs / 2)
        ? this.#ping(env, { region: of.region, lane: 0 }, true).catch(() => { of.failures = failedAgain(of.failures, this.#clock.nowMs()); }) : undefined,
      this.nLanes > 1 ? this.#askLanes(env, of, packHash).catch(() => undefined) : undefined,
    ]));
  }

  /** A region that is nearest to somebody and asleep: its requests go elsewhere meanwhile. */
  async #wake(env: DurableEnv, { region }: KnownRegion): Promise<void> {
    await (await namedOrchestrator(env, this.nameOf({ region, lane: 0 })).fetch("https://orchestrator/status?warm=1")).arrayBuffer();
  }

  async #askLanes(env: DurableEnv, of: KnownRegion, packHash: string): Promise<void> {
    const directory = fleetDirectory(of.region === null ? env : { ...env, REGION: of.region }, packHash);
    if (directory === null) return;
    const answer = plain<FleetStatus>(await within(this.#clock, LIMITS.directoryMs, Promise.resolve(directory.status()), "the directory did not answer"));
    const free = new Map<number, number>();
    for (const { name, freeKvPositions } of answer.lanes) {
      const place = placeOf(name);
      if (freeKvPositions !== null && place.lane < this.nLanes && name === this.nameOf({ region: of.region, lane: place.lane })) free.set(place.lane, freeKvPositions);
    }
    of.lanes = { free, atMs: this.#clock.nowMs() };
  }

  /** What was measured, from here and between the regions. */
  roundTrips(): { readonly from: string; readonly to: string; readonly ms: number; readonly ageMs: number }[] {
    const nowMs = this.#clock.nowMs();
    return this.#regions.flatMap(({ region, trip, roundTrips: { list, atMs } }) => {
      const shown = region === null ? null : trip.shown(nowMs);
      return [...(shown === null ? [] : [{ from: "edge", to: region!, ...shown }]), ...list.map(({ to, ms, ageMs }) => ({ from: region!, to, ms, ageMs: ageMs + Math.max(0, nowMs - atMs) }))];
    });
  }
}
