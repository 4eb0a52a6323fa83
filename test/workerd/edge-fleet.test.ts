// Which lane and region a request tries first, from what an isolate has learned: names, affinity, memory and its age, turns, health that fades, regions that
// load, a stream's way back. Objects are scripted here; real ones are in lanes.test.ts and failover.test.ts.

import { describe, expect, it } from "vitest";
import type { Clock } from "../../durable/clock.ts";
import { EdgeFleet, type Caller } from "../../durable/edge-fleet.ts";
import type { DurableEnv } from "../../durable/env.ts";
import type { GenerateRequest } from "../../durable/generate.ts";
import { LIMITS } from "../../durable/limits.ts";
import { orchestratorName, placeOf } from "../../durable/place-names.ts";
import { RoundTrip } from "../../durable/round-trip.ts";
import type { LocationHint } from "../../fleet/regions.ts";
import { PLAIN_SAMPLING } from "../../model/sampling.ts";

/** Time that moves when a test says so; nothing here waits for it. */
class StillClock implements Clock {
  #nowMs = 1_000_000;
  nowMs(): number { return this.#nowMs; }
  after(): () => void { return () => {}; }
  advance(ms: number): void { this.#nowMs += ms; }
}

const EUROPE = { continent: "EU", coordinates: null };
const NOWHERE = { continent: null, coordinates: null };
const request = (promptIds: readonly number[], maxTokens = 10): GenerateRequest => ({ promptIds, maxTokens, stopIds: [], sampling: { ...PLAIN_SAMPLING, temperature: 0, seed: 0 }, cacheScope: "k" });
const long = (seed: number): number[] => Array.from({ length: 70 }, (_, i) => (i < 64 ? seed : i));

interface World {
  readonly status?: (name: string) => string;
  readonly free?: (name: string) => number | null;
  readonly lanes?: number;
}
/** Answers pings and directories' questions by name. */
function world({ status = () => "ready", free = () => null, lanes = 1 }: World, asked: string[] = []): DurableEnv {
  return {
    PACK_ID: "m", SHARDS_COUNT: "1", ISOLATES: "shared",
    ORCHESTRATOR: { getByName: (name: string) => ({ fetch: async (url: string) => {
      asked.push(`${name} ${url.replace("https://orchestrator", "")}`);
      const of = status(name);
      if (of === "away") throw new Error("no route");
      return Response.json({ status: of, roundTrips: [] });
    } }) },
    DIRECTORY: { getByName: (name: string) => ({ status: async () => {
      const { region } = placeOf(name);
      return { lanes: Array.from({ length: lanes }, (_, lane) => orchestratorName("m", { region, lane })).map((of) => ({ name: of, freeKvPositions: free(of) })) };
    } }) },
  } as unknown as DurableEnv;
}
const fleetOf = (regions: readonly (LocationHint | null)[], lanes: number, clock = new StillClock()) => new EdgeFleet("m", regions, lanes, clock);
const placesOf = (fleet: EdgeFleet, env: DurableEnv, of: GenerateRequest, caller: Caller = NOWHERE, prefer: ReturnType<typeof placeOf> | null = null): string[] =>
  fleet.route(env, of, { caller, prefer }).ways.map(({ place }) => fleet.nameOf(place));

describe("names", () => {
  it("say region and lane, and are read again in those of stages and directories", () => {
    for (const region of [null, "weur", "apac-ne"] as const) for (const lane of [0, 1, 63]) {
      const name = orchestratorName("pack-1.2_x", { region, lane });
      expect(placeOf(name)).toEqual({ region, lane });
      expect(placeOf(`${name}/stage-3`)).toEqual({ region, lane });
    }
    expect(orchestratorName("pack", { region: null, lane: 0 })).toBe("pack");
    expect(placeOf("pack/0123456789ab/main@weur")).toEqual({ region: "weur", lane: 0 });
    for (const other of [undefined, "", "pack", "pack@moon", "a@weur@enam"]) expect(placeOf(other)).toEqual({ region: null, lane: 0 });
  });
});

describe("lanes", () => {
  it("take the same beginning each time and different ones evenly, without a directory and for all isolates alike", () => {
    const [one, other] = [fleetOf([null], 3), fleetOf([null], 3)];
    const env = world({});
    const counts = new Map<string, number>();
    for (let seed = 0; seed < 300; seed++) {
      const [first] = placesOf(one, env, request(long(seed)));
      for (const fleet of [one, other]) expect(placesOf(fleet, env, request([...long(seed).slice(0, 64), 7, 7, 7]))[0]).toBe(first);
      counts.set(first!, (counts.get(first!) ?? 0) + 1);
    }
    expect([...counts.keys()].sort()).toEqual(["m", "m/lane-1", "m/lane-2"]);
    expect(Math.min(...counts.values())).toBeGreaterThan(60);
  });

  it("take turns where a beginning is nobody's and memory is unknown", () => {
    const fleet = fleetOf([null], 3);
    const first = Array.from({ length: 90 }, () => placesOf(fleet, world({}), request([1, 2]))[0]);
    for (const name of ["m", "m/lane-1", "m/lane-2"]) expect(first.filter((of) => of === name).length).toBeGreaterThan(15);
  });

  it("without room give way to those that have it, by reports that grow old", async () => {
    const clock = new StillClock();
    const fleet = fleetOf([null], 2, clock);
    const keyed = Array.from({ length: 20 }, (_, seed) => long(seed)).find((ids) => placesOf(fleet, world({}), request(ids))[0] === "m")!;
    const env = world({ lanes: 2, free: (name) => (name === "m" ? 50 : 1000) });
    expect(placesOf(fleet, env, request(keyed))[0]).toBe("m");
    await fleet.refresh(env, "0".repeat(64));
    expect(placesOf(fleet, env, request(keyed))).toEqual(["m/lane-1", "m"]);
    clock.advance(LIMITS.laneTableOldMs);
    expect(placesOf(fleet, env, request(keyed))[0]).toBe("m");
  });

  it("share requests out between two reports: what was sent is no longer free", async () => {
    const fleet = fleetOf([null], 2);
    const env = world({ lanes: 2, free: () => 1000 });
    await fleet.refresh(env, "0".repeat(64));
    const first = Array.from({ length: 10 }, () => placesOf(fleet, env, request([1, 2], 98))[0]);
    expect(first.filter((name) => name === "m")).toHaveLength(5);
  });

  it("that have said nothing are not woken for nobody's beginning while others have room", async () => {
    const fleet = fleetOf([null], 3);
    const env = world({ lanes: 3, free: (name) => (name === "m/lane-1" ? 150 : null) });
    await fleet.refresh(env, "0".repeat(64));
    expect(placesOf(fleet, env, request([1, 2], 98))[0]).toBe("m/lane-1");
    expect(placesOf(fleet, env, request([1, 2], 98))[0]).not.toBe("m/lane-1");
  });

  it("of a stream that goes on are the one it names, where there is such a one", () => {
    const fleet = fleetOf(["weur", "enam"], 2);
    for (const region of ["weur", "enam"] as const) for (const lane of [0, 1]) {
      const places = placesOf(fleet, world({}), request(long(1)), EUROPE, { region, lane });
      expect(places[0]).toBe(orchestratorName("m", { region, lane }));
      expect([...places].sort()).toEqual(["m/lane-1@enam", "m/lane-1@weur", "m@enam", "m@weur"]);
    }
    for (const prefer of [{ region: "oc", lane: 0 }, { region: "weur", lane: 9 }, { region: null, lane: 0 }] as const) expect(placesOf(fleet, world({}), request(long(1)), EUROPE, prefer)[0]).toMatch(/@weur$/);
  });
});

describe("regions", () => {
  it("are tried from near to far, whoever failed lately last, until that has faded", async () => {
    const clock = new StillClock();
    const fleet = fleetOf(["enam", "weur", "oc"], 1, clock);
    const env = world({});
    expect(fleet.order(env, EUROPE)).toEqual(["weur", "enam", "oc"]);
    fleet.route(env, request([1]), { caller: EUROPE, prefer: null }).ways[0]!.failed();
    expect(fleet.order(env, EUROPE)).toEqual(["enam", "oc", "weur"]);
    clock.advance(120_000);
    expect(fleet.order(env, EUROPE)).toEqual(["weur", "enam", "oc"]);
  });

  it("that do not answer pings go last; one that loads goes behind one that is up, and is woken beside the requests", async () => {
    const asked: string[] = [];
    const fleet = fleetOf(["weur", "enam", "oc"], 1); // equally far by their pings, so by name
    const env = world({ status: (name) => (name === "m@enam" ? "cold" : name === "m@weur" ? "ready" : "away") }, asked);
    await fleet.refresh(env, "0".repeat(64));
    expect(asked.sort()).toEqual(["m@enam /ping?measure=1", "m@oc /ping?measure=1", "m@weur /ping?measure=1"]);
    expect(fleet.order(env, EUROPE)).toEqual(["weur", "enam", "oc"]);
    asked.length = 0;
    await fleet.refresh(env, "0".repeat(64));
    expect(asked).toContain("m@enam /status?warm=1");
    expect(asked).not.toContain("m@weur /status?warm=1");
  });

  it("outside the jurisdiction are never tried", () => {
    expect(fleetOf(["weur", "enam"], 1).order({ ...world({}), JURISDICTION: "eu" }, { continent: "NA", coordinates: null })).toEqual(["weur"]);
  });

  it("are asked again when what is known has grown old, and one alone never", async () => {
    const clock = new StillClock();
    const [regions, lanes, alone] = [fleetOf(["weur", "enam"], 1, clock), fleetOf([null], 2, clock), fleetOf([null], 1, clock)];
    expect([regions.isDue(), regions.isDue(), lanes.isDue(), alone.isDue()]).toEqual([true, false, true, false]);
    clock.advance(LIMITS.laneTableMs);
    expect([regions.isDue(), lanes.isDue()]).toEqual([false, true]);
    clock.advance(LIMITS.pingEveryMs);
    expect(regions.isDue()).toBe(true);
  });
});

describe("a round trip", () => {
  it("follows pings, and is lowered by requests but never raised", () => {
    const trip = new RoundTrip();
    expect(trip.shown(5)).toBeNull();
    trip.pinged(100, 0);
    trip.atMost(900, 10);
    expect(trip.shown(10)).toEqual({ ms: 100, ageMs: 10 });
    trip.atMost(60, 20);
    expect(trip.shown(30)).toEqual({ ms: 90, ageMs: 10 });
    trip.pinged(190, 40);
    expect(trip.ms).toBe(115);
  });
});
