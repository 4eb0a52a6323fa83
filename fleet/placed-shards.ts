// Shards whose experts are placed by a trace (placement.ts), as many as the experts take: capacity-shards.ts' answer where routing is known.
// Owns the way from a pack and its limits to a placement problem, and the numbers of shards that are tried. Refuses experts that are cut over shards: a placement is of whole ones.

import { allocatedBytes } from "../model/heap.ts";
import { type CapacityLimits, type CapacityPack, CapacityPlanError, mib, roomBytes } from "./capacity-pack.ts";
import { ExpertSegments, replicated, shardBytes, type ShardsCapacity, type ShardsWish } from "./capacity-shards.ts";
import { assignPlaced, placeExperts, type PlacementMode, type PlacementOptions } from "./placement.ts";
import { expertTable, makePlan } from "./plan.ts";
import { turnsOfRegions } from "./region-crossing.ts";
import type { RoutingCounts } from "./routing-counts.ts";

export interface PlacedWish extends ShardsWish {
  readonly mode: Exclude<PlacementMode, "contiguous">;
  readonly counts: RoutingCounts;
  /** Regions that the shards take turns in; crossing costs the same between any two. */
  readonly nRegions: number;
  /** Of the search (placement.ts). */
  readonly maxSteps?: PlacementOptions["maxSteps"];
}

/** `inOrder`: the same experts as they are served without a placement; with so many shards, or a few more, it is tried. Throws CapacityPlanError. */
export async function placeShards(pack: CapacityPack, limits: CapacityLimits, inOrder: ShardsCapacity, wish: PlacedWish): Promise<ShardsCapacity> {
  if (inOrder.isSliced) {
    throw new CapacityPlanError(`The placement "${wish.mode}" is of whole experts, but one exceeds an isolate of ${mib(limits.isolateBytes)}, so they are cut over shards. Ask for the placement "contiguous", or give more --memory.`);
  }
  const [known, table] = [new ExpertSegments(pack, limits), expertTable(pack)];
  const expertBytes = table.map(({ segmentBytes }) => segmentBytes.reduce((sum, bytes) => sum + allocatedBytes(bytes), 0));
  const roomOf = (nShards: number): number => Math.floor((known.weightRoomBytes - wish.spareBytes / nShards) / wish.replicas);
  let why = "";
  for (const nShards of wish.nShards === null ? triedCounts(inOrder.plan.nShards, wish.counts.nExperts, expertBytes, roomOf(inOrder.plan.nShards)) : [wish.nShards]) {
    const shardRegions = turnsOfRegions(nShards, wish.nRegions);
    try {
      const placement = await placeExperts({
        counts: wish.counts, shardRegions, expertBytes, capacityBytes: new Array<number>(nShards).fill(roomOf(nShards)),
        regionCost: Array.from({ length: Math.max(1, wish.nRegions) }, (_, a) => Array.from({ length: Math.max(1, wish.nRegions) }, (_, b) => (a === b ? 0 : 1))),
      }, { mode: wish.mode, ...(wish.maxSteps === undefined ? {} : { maxSteps: wish.maxSteps }) });
      const found = replicated(known, makePlan(table, nShards, assignPlaced(placement)), wish.replicas, false);
      if (found.shards.every((shard) => shardBytes(shard) <= roomBytes(limits))) return found;
      why = `The fullest of ${nShards} shards would take ${mib(Math.max(...found.shards.map(shardBytes)))}.`;
    } catch (cause) {
      if (!(cause instanceof RangeError)) throw cause;
      why = cause.message;
    }
  }
  throw new CapacityPlanError(`No placement "${wish.mode}" was found: ${why} An isolate of ${mib(limits.isolateBytes)} has ${mib(known.weightRoomBytes)} for the experts of a shard${wish.replicas > 1 ? `, which holds the parts of ${wish.replicas}` : ""}. `
    + "Give more --shards or more --memory, or ask for the placement \"contiguous\".");
}

/** As many as in order, a little more for the search to move in, and as many as leave room for equal counts of every layer. */
function triedCounts(inOrder: number, nExperts: number, expertBytes: readonly number[], roomOfShard: number): number[] {
  const nLayers = expertBytes.length / nExperts;
  const largest = expertBytes.reduce((most, bytes) => Math.max(most, bytes), 0);
  const even = Math.ceil(nExperts / Math.max(1, Math.floor(roomOfShard / (largest * nLayers))));
  return [...new Set([inOrder, inOrder + 1, Math.ceil(inOrder * 1.05), Math.max(even, inOrder)])].sort((a, b) => a - b);
}
