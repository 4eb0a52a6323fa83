// Region and lane of an orchestrator, and its name, which carries both. Owns the one function that names an orchestrator and what is read in names: an
// orchestrator's, its stages', a directory's. Refuses variables and namespaces (places.ts).

import { isLocationHint, type LocationHint } from "../fleet/regions.ts";

/** One orchestrator of a deployment. Region null: the platform chose. */
export interface Place {
  readonly region: LocationHint | null;
  readonly lane: number;
}

/** Name of an orchestrator: objects never move and never change their pack, so it carries both; lane 0 of a deployment without regions has the pack's alone. */
export const orchestratorName = (packId: string, { region, lane }: Place): string => `${packId}${lane === 0 ? "" : `/lane-${lane}`}${region === null ? "" : `@${region}`}`;

/** What an object's name says of where it is: an orchestrator's, its stages', a directory's. */
export function placeOf(name: string | undefined): Place {
  const [, lane = "0", region = ""] = /^[^@]*?(?:\/lane-(\d{1,4}))?(?:@([a-z-]+))?(?:\/stage-\d+)?$/.exec(name ?? "") ?? [];
  return placed(region, lane);
}

/** A place in two words; a region that is none is the one of a deployment without regions. */
export const placed = (region: string, lane: string): Place => ({ region: isLocationHint(region) ? region : null, lane: Number(lane) });
