// Where an object may be asked to live: the platform's location hints, one list for plans, options and variables.
// Owns the names (Durable Objects, "location hints", 2026-11). Refuses what a hint is worth: the platform places objects as it likes.
// durable/env.ts holds the list to the platform's own type.

export const LOCATION_HINTS = ["wnam", "enam", "sam", "weur", "eeur", "apac", "apac-ne", "apac-se", "oc", "afr", "me"] as const;
export type LocationHint = (typeof LOCATION_HINTS)[number];

export const isLocationHint = (text: string): text is LocationHint => (LOCATION_HINTS as readonly string[]).includes(text);
