// In which order a request tries regions (docs/fleet.md, "Regions"): only those its jurisdiction allows, the nearest first by measured round trip or by distance,
// those that failed lately last. Owns the table of regions and how failures fade. Refuses to measure and to call: times and measurements are arguments.

import { isLocationHint, type LocationHint } from "./regions.ts";

export interface Point {
  /** Degrees, north and east positive. */
  readonly latitude: number;
  readonly longitude: number;
}

/**
 * Where objects of a location hint are likely to be: a large city of each, not a promise (hints and what they name: Cloudflare, "Data location", 2026-11;
 * Asia-Pacific without a side is taken as the middle of both).
 */
export const REGION_CENTRES: Readonly<Record<LocationHint, Point>> = Object.freeze({
  wnam: { latitude: 37.3, longitude: -121.9 }, // San Jose
  enam: { latitude: 39.0, longitude: -77.5 }, // Ashburn
  sam: { latitude: -23.5, longitude: -46.6 }, // São Paulo
  weur: { latitude: 50.1, longitude: 8.7 }, // Frankfurt
  eeur: { latitude: 52.2, longitude: 21.0 }, // Warsaw
  apac: { latitude: 22.3, longitude: 114.2 }, // Hong Kong
  "apac-ne": { latitude: 35.7, longitude: 139.7 }, // Tokyo
  "apac-se": { latitude: 1.4, longitude: 103.8 }, // Singapore
  oc: { latitude: -33.9, longitude: 151.2 }, // Sydney
  afr: { latitude: -26.2, longitude: 28.0 }, // Johannesburg
  me: { latitude: 25.2, longitude: 55.3 }, // Dubai
});

/** Where most callers of a continent are, by the two letters that the platform gives with a request (2026-11). */
const CONTINENT_CENTRES: Readonly<Record<string, Point>> = Object.freeze({
  AF: { latitude: 1, longitude: 17 }, AN: { latitude: -77.8, longitude: 166.7 }, AS: { latitude: 24, longitude: 95 }, EU: { latitude: 50, longitude: 12 },
  NA: { latitude: 39, longitude: -95 }, OC: { latitude: -30, longitude: 148 }, SA: { latitude: -15, longitude: -55 },
});

/** Hints whose centre lies within a jurisdiction (Durable Object jurisdictions: 2026-11). */
const JURISDICTION_REGIONS = Object.freeze({
  eu: ["weur", "eeur"], us: ["wnam", "enam"], fedramp: ["wnam", "enam"], "fedramp-high": ["wnam", "enam"],
} satisfies Record<string, readonly LocationHint[]>);
export type Jurisdiction = keyof typeof JURISDICTION_REGIONS;
export const JURISDICTIONS = Object.keys(JURISDICTION_REGIONS) as readonly Jurisdiction[];
export const isJurisdiction = (name: string): name is Jurisdiction => Object.hasOwn(JURISDICTION_REGIONS, name);
/** Hints that a jurisdiction allows. */
export const regionsWithin = (jurisdiction: Jurisdiction): readonly LocationHint[] => JURISDICTION_REGIONS[jurisdiction];

/** A round trip guessed from a distance: light in fibre takes 1 ms there and back for 100 km, and cables are about twice as long as the way. */
const GUESSED_MS_PER_KM = 0.02;

const EARTH_RADIUS_KM = 6371;

/** A failure counts half after this time; a region is tried as if it had not failed once less than a half is left. */
export const FAILURE_HALF_LIFE_MS = 30_000;
const FAILING = 0.5;
export const isFailing = (failures: Failures | null, nowMs: number): boolean => failureWeight(failures, nowMs) >= FAILING;

export interface Failures {
  readonly weight: number;
  readonly atMs: number;
}

export interface RegionState {
  /** A location hint. */
  readonly name: string;
  /** From where the request is; null: not measured. */
  readonly roundTripMs: number | null;
  readonly failures: Failures | null;
}

export interface Caller {
  /** Two letters; null where the platform does not say. */
  readonly continent: string | null;
  readonly coordinates: Point | null;
}

/** What is left of earlier failures: whole half-lives only, so that it is the same everywhere. */
export function failureWeight(failures: Failures | null, nowMs: number): number {
  if (failures === null) return 0;
  return failures.weight / 2 ** Math.floor(Math.max(0, nowMs - failures.atMs) / FAILURE_HALF_LIFE_MS);
}

/** One failure more. */
export const failedAgain = (failures: Failures | null, nowMs: number): Failures => ({ weight: failureWeight(failures, nowMs) + 1, atMs: nowMs });

/** Great circle, in whole kilometres: the last bits of sines differ between engines. */
export function distanceKm(a: Point, b: Point): number {
  const [latA, latB, lonA, lonB] = [a.latitude, b.latitude, a.longitude, b.longitude].map((degrees) => (degrees * Math.PI) / 180) as [number, number, number, number];
  const h = Math.sin((latB - latA) / 2) ** 2 + Math.cos(latA) * Math.cos(latB) * Math.sin((lonB - lonA) / 2) ** 2;
  return Math.round(2 * EARTH_RADIUS_KM * Math.asin(Math.sqrt(Math.min(1, h))));
}

/** Names in the order to try. `jurisdiction`: null for none. Throws RangeError where it is not known or leaves no region. */
export function regionOrder(regions: readonly RegionState[], { caller, jurisdiction, nowMs }: { readonly caller: Caller; readonly jurisdiction: string | null; readonly nowMs: number }): string[] {
  const allowed = jurisdiction === null ? null : isJurisdiction(jurisdiction) ? regionsWithin(jurisdiction) : unknown(jurisdiction);
  const within = regions.filter(({ name }) => allowed === null || allowed.some((hint) => hint === name));
  if (within.length === 0) throw new RangeError(`The fleet has ${regions.length === 0 ? "no regions" : `the regions ${regions.map(({ name }) => name).join(", ")}`}${allowed === null ? "" : `; the jurisdiction ${jurisdiction} allows ${allowed.join(", ")}`}.`);
  const from = caller.coordinates ?? (caller.continent !== null && Object.hasOwn(CONTINENT_CENTRES, caller.continent) ? CONTINENT_CENTRES[caller.continent]! : null);
  return within.map((region) => {
    const left = failureWeight(region.failures, nowMs);
    return { name: region.name, failing: left >= FAILING ? left : 0, ms: region.roundTripMs ?? guessedMs(region.name, from) };
  }).sort((a, b) => a.failing - b.failing || (a.ms === b.ms ? 0 : a.ms - b.ms) || (a.name < b.name ? -1 : 1)).map(({ name }) => name);
}

const guessedMs = (region: string, from: Point | null): number =>
  from === null || !isLocationHint(region) ? Infinity : distanceKm(from, REGION_CENTRES[region]) * GUESSED_MS_PER_KM;

function unknown(jurisdiction: string): never {
  throw new RangeError(`The jurisdiction ${jurisdiction} is not known; expected one of ${JURISDICTIONS.join(", ")}.`);
}
