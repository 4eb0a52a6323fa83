// What a placement is asked for: routing counts, shards in regions with a cost between them, bytes of experts and of shards. Owns its check
// and the flat form that the searches read. Refuses what cannot be placed at all, with the numbers; how well it can be is the searches' part.

import type { RoutingCounts } from "./routing-counts.ts";

export interface PlacementProblem {
  readonly counts: RoutingCounts;
  /** Region of each shard, an index into `regionCost`. */
  readonly shardRegions: readonly number[];
  /** Cost of one activation that crosses from a region to another: symmetric, 0 within. */
  readonly regionCost: readonly (readonly number[])[];
  /** Per shard. */
  readonly capacityBytes: readonly number[];
  /** [layers][nExperts] */
  readonly expertBytes: ArrayLike<number>;
}

/** A checked problem, in flat arrays. An expert is `layer index * nExperts + expert` everywhere. */
export interface PlacementTask {
  readonly layers: readonly number[];
  readonly nLayers: number;
  readonly nExperts: number;
  readonly nShards: number;
  readonly nRegions: number;
  readonly load: Float64Array;
  readonly moves: Float64Array;
  readonly regionOf: Int32Array;
  /** [nRegions][nRegions] */
  readonly cost: Float64Array;
  readonly capacityBytes: Float64Array;
  readonly expertBytes: Float64Array;
}

/** Shard of each expert, [layers][nExperts]. */
export type ShardMap = Int32Array;

/** Throws RangeError with the numbers. */
export function placementTask({ counts, shardRegions, regionCost, capacityBytes, expertBytes }: PlacementProblem): PlacementTask {
  const [nLayers, nExperts, nShards, nRegions] = [counts.layers.length, counts.nExperts, shardRegions.length, regionCost.length];
  if (nLayers === 0 || nExperts === 0 || nShards === 0) throw new RangeError(`A placement of ${nLayers} layers of ${nExperts} experts over ${nShards} shards was asked for; expected at least one of each.`);
  shardRegions.forEach((region, shard) => {
    if (!Number.isInteger(region) || region < 0 || region >= nRegions) throw new RangeError(`Shard ${shard} is in region ${region}; the costs are of ${nRegions} regions.`);
  });
  regionCost.forEach((row, a) => {
    if (row.length !== nRegions) throw new RangeError(`Region ${a} has ${row.length} costs; expected ${nRegions}.`);
    row.forEach((cost, b) => {
      if (!(Number.isFinite(cost) && cost >= 0)) throw new RangeError(`The cost from region ${a} to ${b} is ${cost}; expected a number that is not negative.`);
      if (cost !== regionCost[b]![a] || (a === b && cost !== 0)) throw new RangeError(`The cost from region ${a} to ${b} is ${cost} and back ${regionCost[b]![a]}; expected the same both ways, and 0 within a region.`);
    });
  });
  if (capacityBytes.length !== nShards || expertBytes.length !== nLayers * nExperts) {
    throw new RangeError(`Capacities of ${capacityBytes.length} shards and bytes of ${expertBytes.length} experts were given; expected ${nShards} and ${nLayers * nExperts}.`);
  }
  const [capacity, bytes] = [Float64Array.from(capacityBytes), Float64Array.from(expertBytes)];
  const [need, have] = [sum(bytes), sum(capacity)];
  if (!(need <= have)) throw new RangeError(`The experts have ${need} bytes and ${nShards} shards together room for ${have}: ${need - have} bytes too few.`);
  const [largest, room] = [bytes.reduce((max, b) => Math.max(max, b), 0), capacity.reduce((max, b) => Math.max(max, b), 0)];
  if (largest > room) throw new RangeError(`An expert has ${largest} bytes; the largest shard has room for ${room}.`);
  return {
    layers: counts.layers, nLayers, nExperts, nShards, nRegions, load: counts.load, moves: counts.moves, regionOf: Int32Array.from(shardRegions),
    cost: Float64Array.from(regionCost.flat()), capacityBytes: capacity, expertBytes: bytes,
  };
}

/** Bytes on each shard. */
export function shardBytesOf({ nShards, expertBytes }: PlacementTask, shardOf: ShardMap): Float64Array {
  const bytes = new Float64Array(nShards);
  shardOf.forEach((shard, i) => { bytes[shard]! += expertBytes[i]!; });
  return bytes;
}

/** The fullest shard beyond its room as a sentence, or null where all fit. */
export function overfull(task: PlacementTask, shardOf: ShardMap, what: string): string | null {
  const bytes = shardBytesOf(task, shardOf);
  let worst = 0;
  for (let s = 1; s < task.nShards; s++) if (bytes[s]! - task.capacityBytes[s]! > bytes[worst]! - task.capacityBytes[worst]!) worst = s;
  if (bytes[worst]! <= task.capacityBytes[worst]!) return null;
  return `${what} puts ${bytes[worst]} bytes on shard ${worst}, which has room for ${task.capacityBytes[worst]}; the experts have ${sum(task.expertBytes)} bytes and the shards together room for ${sum(task.capacityBytes)}.`;
}

/** Experts in order, in each layer equal counts (off by one at most): what a fleet does without a trace. */
export function contiguousMap({ nLayers, nExperts, nShards }: PlacementTask): ShardMap {
  return Int32Array.from({ length: nLayers * nExperts }, (_, i) => Math.floor(((i % nExperts) * nShards) / nExperts));
}

const sum = (values: Float64Array): number => values.reduce((total, value) => total + value, 0);
