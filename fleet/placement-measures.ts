// How good a placement is: how evenly each layer's load lies on the shards, what the slowest shards add up to, what crosses regions, and how many
// shards a token asks. Owns the measures, always counted from the whole placement. Refuses decisions: the searches keep sums of their own.

import { shardBytesOf, type PlacementTask, type ShardMap } from "./placement-problem.ts";
import type { RoutedToken } from "./expert-load.ts";

export interface LayerBalance {
  readonly layer: number;
  /** Load of the busiest shard over the mean: 1 is even. 0 where nothing was routed. */
  readonly imbalance: number;
  /** Coefficient of variation of the shards' loads: 0 is even. */
  readonly loadCv: number;
}

export interface PlacementMeasures {
  readonly layers: readonly LayerBalance[];
  /** Mean over the layers. */
  readonly loadCv: number;
  /** Sum over the layers of the busiest shard's load: layers follow one another, and each waits for its slowest shard. */
  readonly slowest: number;
  /** Activations whose token's next expert lies in another region, of all, and weighted by the cost between the two. */
  readonly crossActivations: number;
  readonly activations: number;
  readonly crossCost: number;
  readonly shardBytes: readonly number[];
}

export function measurePlacement(task: PlacementTask, shardOf: ShardMap): PlacementMeasures {
  const loads = shardLoads(task, shardOf);
  const layers = task.layers.map((layer, i) => balanceOf(layer, loads.subarray(i * task.nShards, (i + 1) * task.nShards)));
  return {
    layers, ...crossings(task, shardOf),
    loadCv: layers.reduce((total, { loadCv }) => total + loadCv, 0) / layers.length,
    slowest: task.layers.reduce((total, _, i) => total + Math.max(...loads.subarray(i * task.nShards, (i + 1) * task.nShards)), 0),
    shardBytes: Array.from(shardBytesOf(task, shardOf)),
  };
}

/** [layers][shards] */
export function shardLoads({ nLayers, nExperts, nShards, load }: PlacementTask, shardOf: ShardMap): Float64Array {
  const loads = new Float64Array(nLayers * nShards);
  for (let i = 0; i < nLayers; i++) for (let e = i * nExperts; e < (i + 1) * nExperts; e++) loads[i * nShards + shardOf[e]!]! += load[e]!;
  return loads;
}

function balanceOf(layer: number, loads: Float64Array): LayerBalance {
  const mean = loads.reduce((total, x) => total + x, 0) / loads.length;
  if (mean === 0) return { layer, imbalance: 0, loadCv: 0 };
  const variance = loads.reduce((total, x) => total + (x - mean) * (x - mean), 0) / loads.length;
  return { layer, imbalance: Math.max(...loads) / mean, loadCv: Math.sqrt(variance) / mean };
}

function crossings({ nLayers, nExperts, nRegions, moves, cost, regionOf }: PlacementTask, shardOf: ShardMap): Pick<PlacementMeasures, "crossActivations" | "activations" | "crossCost"> {
  const between = new Float64Array(nRegions * nRegions);
  for (let i = 0; i + 1 < nLayers; i++) {
    for (let from = 0; from < nExperts; from++) {
      const row = (i * nExperts + from) * nExperts;
      const regionFrom = regionOf[shardOf[i * nExperts + from]!]! * nRegions;
      for (let to = 0; to < nExperts; to++) between[regionFrom + regionOf[shardOf[(i + 1) * nExperts + to]!]!]! += moves[row + to]!;
    }
  }
  let [crossActivations, activations, crossCost] = [0, 0, 0];
  between.forEach((count, at) => {
    activations += count;
    crossCost += count * cost[at]!;
    if (Math.floor(at / nRegions) !== at % nRegions) crossActivations += count;
  });
  return { crossActivations, activations, crossCost };
}

/** Mean number of shards that a token asks in one layer. Only single tokens say it; sums of experts do not. 0 where there are none. */
export function shardsTouched({ layers, nExperts, nShards }: PlacementTask, shardOf: ShardMap, records: Iterable<RoutedToken>): number {
  const indexOf = new Map(layers.map((layer, i) => [layer, i]));
  const lastSeen = new Float64Array(nShards).fill(-1);
  let [touched, rows] = [0, 0];
  for (const { layer, ids } of records) {
    const i = indexOf.get(layer);
    if (i === undefined) throw new RangeError(`A record is of layer ${layer}; the layers placed are ${layers.join(", ")}.`);
    for (let rank = 0; rank < ids.length; rank++) {
      const shard = shardOf[i * nExperts + ids[rank]!];
      if (shard === undefined || !(ids[rank]! < nExperts)) throw new RangeError(`A record of layer ${layer} names expert ${ids[rank]}; the model has ${nExperts}.`);
      if (lastSeen[shard] !== rows) touched++;
      lastSeen[shard] = rows;
    }
    rows++;
  }
  return rows === 0 ? 0 : touched / rows;
}
