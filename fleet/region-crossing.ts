// How much crosses regions where shards are spread over several: frames that leave the stages' region, and tokens whose next expert lies in another one.
// Owns both shares, of whole experts and of such that are cut over shards. Refuses what crossing costs: round trips between regions are not measured (2026-11).

import type { Plan } from "./plan.ts";
import type { RoutingCounts } from "./routing-counts.ts";
import type { LayerTraffic } from "./traffic.ts";

/** Region of each shard, an index; regions take turns, so that neighbours, which hold each other's replicas, are in different ones. */
export const turnsOfRegions = (nShards: number, nRegions: number): number[] => Array.from({ length: nShards }, (_, shard) => shard % Math.max(1, nRegions));

/** Of a step's frames to shards, the share that leaves region 0, where the stages are. 0 where there are none. */
export function framesLeaving(layers: readonly LayerTraffic[], regionOf: readonly number[]): number {
  let [leaving, all] = [0, 0];
  for (const { touchChance } of layers) {
    touchChance.forEach((chance, shard) => {
      all += chance;
      if (regionOf[shard] !== 0) leaving += chance;
    });
  }
  return all === 0 ? 0 : leaving / all;
}

/** Of a token's pairs of an expert and one of the next layer's, the share in two regions; `plan` holds each segment once. 0 where there are no pairs. */
export function nextExpertCrosses({ layers, nExperts, moves }: Pick<RoutingCounts, "layers" | "nExperts" | "moves">, plan: Pick<Plan, "slots">, regionOf: readonly number[]): number {
  const nRegions = 1 + regionOf.reduce((most, region) => Math.max(most, region), 0);
  const indexOf = new Map(layers.map((layer, i) => [layer, i]));
  /** [layer][expert][region]: part of the expert that lies there. */
  const parts = new Float64Array(layers.length * nExperts * nRegions);
  const segments = new Float64Array(layers.length * nExperts);
  plan.slots.forEach((ranges, shard) => {
    for (const { layer, expert, segments: [first, end] } of ranges) {
      const at = indexOf.get(layer)! * nExperts + expert;
      parts[at * nRegions + regionOf[shard]!]! += end - first;
      segments[at]! += end - first;
    }
  });
  parts.forEach((part, at) => { parts[at] = part / segments[Math.floor(at / nRegions)]!; });
  let [crossing, all] = [0, 0];
  moves.forEach((count, at) => {
    if (count === 0) return;
    const from = Math.floor(at / nExperts);
    const to = (Math.floor(from / nExperts) + 1) * nExperts + at % nExperts;
    let together = 0;
    for (let region = 0; region < nRegions; region++) together += parts[from * nRegions + region]! * parts[to * nRegions + region]!;
    all += count;
    crossing += count * (1 - together);
  });
  return all === 0 ? 0 : crossing / all;
}
