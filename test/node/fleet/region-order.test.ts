// The order of regions: jurisdiction, nearness measured or guessed, names, failures that fade.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Caller, distanceKm, FAILURE_HALF_LIFE_MS, failedAgain, type Failures, failureWeight, REGION_CENTRES, regionOrder, type RegionState } from "../../../fleet/region-order.ts";

const NOWHERE: Caller = { continent: null, coordinates: null };
const region = (name: string, roundTripMs: number | null = null, failures: Failures | null = null): RegionState => ({ name, roundTripMs, failures });
const order = (regions: readonly RegionState[], caller = NOWHERE, jurisdiction: string | null = null, nowMs = 1000): string[] => regionOrder(regions, { caller, jurisdiction, nowMs });
const ALL = Object.keys(REGION_CENTRES).map((name) => region(name));

describe("regions", () => {
  it("by measured round trip, ties by name", () => {
    expect(order([region("weur", 30), region("enam", 9), region("apac", 30), region("oc", 250)])).toEqual(["enam", "apac", "weur", "oc"]);
  });

  it("by distance where nothing is measured", () => {
    const at = (latitude: number, longitude: number): Caller => ({ continent: null, coordinates: { latitude, longitude } });
    expect(order(ALL, at(48.9, 2.4)).slice(0, 3)).toEqual(["weur", "eeur", "me"]); // Paris
    expect(order(ALL, at(34.1, -118.2)).slice(0, 2)).toEqual(["wnam", "enam"]); // Los Angeles
    expect(order(ALL, at(-36.8, 174.8))[0]).toBe("oc"); // Auckland, over the date line
    expect(order(ALL, at(37.6, 127.0)).slice(0, 2)).toEqual(["apac-ne", "apac"]); // Seoul
    expect(order(ALL, { continent: "SA", coordinates: null })[0]).toBe("sam");
    expect(order(ALL, { continent: "EU", coordinates: { latitude: 34.1, longitude: -118.2 } })[0]).toBe("wnam"); // where one is says more than the continent
  });

  it("knows how far it is", () => {
    const point = (latitude: number, longitude: number) => ({ latitude, longitude });
    expect(Math.abs(distanceKm(point(51.51, -0.13), point(40.71, -74.01)) - 5570)).toBeLessThan(10); // London to New York
    expect(Math.abs(distanceKm(point(0, 179), point(0, -179)) - 222)).toBeLessThan(2);
    expect(distanceKm(point(90, 0), point(-90, 50))).toBe(Math.round(6371 * Math.PI));
    expect(distanceKm(point(10, 20), point(10, 20))).toBe(0);
  });

  it("a guess stands beside a measurement as a round trip over twice the distance", () => {
    const paris: Caller = { continent: "EU", coordinates: { latitude: 48.9, longitude: 2.4 } };
    expect(order([region("weur"), region("enam", 80)], paris)).toEqual(["weur", "enam"]); // 9.5 ms guessed
    expect(order([region("weur"), region("enam", 9)], paris)).toEqual(["enam", "weur"]);
    expect(order([region("weur"), region("enam", 900)])).toEqual(["enam", "weur"]); // from nowhere, nothing is guessed
    expect(order([region("mars"), region("enam")], { continent: "XX", coordinates: null })).toEqual(["enam", "mars"]);
  });

  it("never outside the jurisdiction, however near", () => {
    expect(order(ALL, { continent: "NA", coordinates: null }, "eu")).toEqual(["weur", "eeur"]);
    expect(order([...ALL, region("weur", 500)], NOWHERE, "us").sort()).toEqual(["enam", "wnam"]);
    expect(() => order([region("oc"), region("sam")], NOWHERE, "eu")).toThrow("The fleet has the regions oc, sam; the jurisdiction eu allows weur, eeur.");
    expect(() => order(ALL, NOWHERE, "toString")).toThrow("The jurisdiction toString is not known; expected one of eu, us, fedramp, fedramp-high.");
    expect(() => order([])).toThrow("The fleet has no regions.");
  });

  it("one that failed goes last, until its failures have faded", () => {
    const failed = failedAgain(null, 0);
    const at = (nowMs: number, failures: Failures): string[] => order([region("weur", 5, failures), region("enam", 90)], NOWHERE, null, nowMs);
    expect(at(0, failed)).toEqual(["enam", "weur"]);
    expect(at(2 * FAILURE_HALF_LIFE_MS - 1, failed)).toEqual(["enam", "weur"]);
    expect(at(2 * FAILURE_HALF_LIFE_MS, failed)).toEqual(["weur", "enam"]);
    const thrice = failedAgain(failedAgain(failed, 10), 20);
    expect(failureWeight(thrice, 20)).toBe(3);
    expect(at(2 * FAILURE_HALF_LIFE_MS + 20, thrice)).toEqual(["enam", "weur"]);
    expect(at(3 * FAILURE_HALF_LIFE_MS + 20, thrice)).toEqual(["weur", "enam"]);
    expect(order([region("weur", 5, thrice), region("enam", 90, failed)], NOWHERE, null, 20)).toEqual(["enam", "weur"]);
    expect(failureWeight(failed, -5)).toBe(1); // a clock that steps back forgives nothing
  });

  it("are each named once, whatever the order they come in", () => {
    fc.assert(fc.property(fc.shuffledSubarray(ALL, { minLength: 1 }), fc.array(fc.option(fc.integer({ min: 1, max: 5 })), { minLength: 11, maxLength: 11 }), fc.array(fc.integer({ min: 0, max: 2 }), { minLength: 11, maxLength: 11 }), (regions, ms, weights) => {
      const states = regions.map(({ name }, i) => region(name, ms[i]!, weights[i] === 0 ? null : { weight: weights[i]!, atMs: 900 }));
      const found = order(states, { continent: "AS", coordinates: null });
      expect([...found].sort()).toEqual(states.map(({ name }) => name).sort());
      expect(order(states.toReversed(), { continent: "AS", coordinates: null })).toEqual(found);
      const failing = found.map((name) => failureWeight(states.find((s) => s.name === name)!.failures, 1000));
      expect(failing).toEqual(failing.toSorted((a, b) => a - b));
    }), { seed: 6, numRuns: 500 });
  });
});
