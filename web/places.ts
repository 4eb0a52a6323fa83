// The platform's location hints in words (2026-11). Refuses to know where anything is: only what it was asked for.

const REGIONS: Readonly<Record<string, string>> = {
  wnam: "Western North America", enam: "Eastern North America", sam: "South America", weur: "Western Europe", eeur: "Eastern Europe", apac: "Asia-Pacific",
  "apac-ne": "North-East Asia", "apac-se": "South-East Asia", oc: "Oceania", afr: "Africa", me: "Middle East", edge: "the Worker that answered",
};

/** Its short name, and what that means. */
export const placeOf = (region: string | null): readonly [name: string, saying: string] => (region === null ? ["any", "the platform chose"] : [region, REGIONS[region] ?? ""]);
