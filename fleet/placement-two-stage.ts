// Placement as MoETuner does it: clusters of even load per layer (placement-clusters.ts), then which cluster goes to which shard, one to one per layer, for the
// least cost between consecutive layers. Owns the second stage and how both meet the shards' room. Refuses what finds no room, with the numbers.

import { clusterLayer } from "./placement-clusters.ts";
import { IntegerProgramme } from "./placement-ilp.ts";
import { searchPlacement, type SearchOptions } from "./placement-search.ts";
import { overfull, type PlacementTask, type ShardMap } from "./placement-problem.ts";

/**
 * Variables of the second programme up to which it is solved: (layers - 1) x shards² x regions² pairs and layers x shards² assignments. Three layers over four shards
 * in two regions have 176 and take half a second; four layers take three, and the local search finds the same.
 */
export const ASSIGN_ILP_MAX_VARIABLES = 200;

/** There are fewer clusters than experts, so fewer swaps suffice. */
const STEPS_PER_CLUSTER = 1_000;

/** Throws RangeError where the clusters do not fit the shards. */
export async function twoStageMap(task: PlacementTask, { seed, maxSteps }: Pick<SearchOptions, "seed" | "maxSteps">): Promise<ShardMap> {
  let reason = "";
  // First as even as can be; where such clusters do not fit, no cluster larger than its layer's part of the smallest shard, which then always fits.
  const wanted = task.expertBytes.reduce((total, b) => total + b, 0);
  const smallest = task.capacityBytes.reduce((min, b) => Math.min(min, b), Infinity);
  for (const limit of [Infinity, wanted === 0 ? Infinity : smallest / wanted]) {
    const clusterOf = await clusterAll(task, limit);
    if (clusterOf === null) {
      reason = `Two-stage placement found no clusters of even load that fit: the smallest shard has room for ${smallest} bytes, and the experts have ${wanted} over ${task.nShards} shards.`;
      break;
    }
    const clusters = clusterTask(task, clusterOf);
    const shardOf = await assignClusters(clusters, { seed, maxSteps: Math.min(maxSteps, STEPS_PER_CLUSTER * task.nLayers * task.nShards) });
    const map = Int32Array.from(clusterOf, (cluster, i) => shardOf[Math.floor(i / task.nExperts) * task.nShards + cluster]!);
    const over = overfull(task, map, "Two-stage placement");
    if (over === null) return map;
    reason = over;
  }
  throw new RangeError(reason);
}

async function clusterAll({ nLayers, nExperts, nShards, load, expertBytes }: PlacementTask, share: number): Promise<Int32Array | null> {
  const clusterOf = new Int32Array(nLayers * nExperts);
  for (let i = 0; i < nLayers; i++) {
    const [first, end] = [i * nExperts, (i + 1) * nExperts];
    const bytes = expertBytes.slice(first, end);
    const found = await clusterLayer({ load: load.slice(first, end), bytes, nClusters: nShards, maxBytes: share === Infinity ? Infinity : share * bytes.reduce((total, b) => total + b, 0) });
    if (found === null) return null;
    clusterOf.set(found, first);
  }
  return clusterOf;
}

/** The same task with clusters in the place of experts. */
export function clusterTask(task: PlacementTask, clusterOf: Int32Array): PlacementTask {
  const { nLayers, nExperts, nShards } = task;
  const load = new Float64Array(nLayers * nShards);
  const expertBytes = new Float64Array(nLayers * nShards);
  const moves = new Float64Array(Math.max(0, nLayers - 1) * nShards * nShards);
  for (let i = 0; i < nLayers; i++) {
    for (let e = 0; e < nExperts; e++) {
      const from = i * nShards + clusterOf[i * nExperts + e]!;
      load[from]! += task.load[i * nExperts + e]!;
      expertBytes[from]! += task.expertBytes[i * nExperts + e]!;
      if (i + 1 < nLayers) for (let f = 0; f < nExperts; f++) moves[from * nShards + clusterOf[(i + 1) * nExperts + f]!]! += task.moves[(i * nExperts + e) * nExperts + f]!;
    }
  }
  return { ...task, nExperts: nShards, load, moves, expertBytes };
}

/** Second stage: shard of each cluster, one to one in each layer. May be overfull where nothing that fits was found. */
export async function assignClusters(clusters: PlacementTask, options: Pick<SearchOptions, "seed" | "maxSteps">): Promise<ShardMap> {
  const { nLayers, nShards, nRegions } = clusters;
  const inOrder = Int32Array.from({ length: nLayers * nShards }, (_, i) => i % nShards);
  const variables = Math.max(0, nLayers - 1) * (nShards * nRegions) ** 2 + nLayers * nShards * nShards;
  const solved = variables <= ASSIGN_ILP_MAX_VARIABLES ? await assignByProgramme(clusters) : null;
  if (solved?.proven === true) return solved.shardOf;
  const goal = { slowestWeight: 0, maxSquares: new Float64Array(nLayers).fill(Infinity), maxCrossCost: Infinity };
  return searchPlacement(clusters, goal, solved === null ? [inOrder] : [solved.shardOf, inOrder], { tries: "swaps", ...options }).shardOf;
}

async function assignByProgramme({ nLayers, nShards, nRegions, moves, cost, regionOf, expertBytes, capacityBytes }: PlacementTask): Promise<{ readonly shardOf: ShardMap; readonly proven: boolean } | null> {
  const programme = new IntegerProgramme();
  const shards = Array.from({ length: nShards }, (_, s) => s);
  const regions = Array.from({ length: nRegions }, (_, r) => r);
  const unit = moves.reduce((max, n) => Math.max(max, n), 0) * cost.reduce((max, c) => Math.max(max, c), 0) || 1;
  /** [layer][cluster][shard] */
  const y = Array.from({ length: nLayers }, () => shards.map(() => shards.map(() => programme.binary())));
  for (const layer of y) {
    for (const row of layer) programme.row(1, 1, row.map((variable) => [variable, 1]));
    for (const s of shards) programme.row(1, 1, layer.map((row) => [row[s]!, 1]));
  }
  for (const s of shards) programme.row(-Infinity, 1, y.flatMap((layer, i) => layer.map((row, c) => [row[s]!, expertBytes[i * nShards + c]! / (capacityBytes[s]! || 1)] as const)));
  const inRegion = (row: readonly number[], region: number): (readonly [number, number])[] => shards.filter((s) => regionOf[s] === region).map((s) => [row[s]!, -1]);
  for (let i = 0; i + 1 < nLayers; i++) {
    for (const a of shards) for (const b of shards) {
      const count = moves[(i * nShards + a) * nShards + b]!;
      if (count === 0) continue;
      // What goes from cluster a to b is shared out over pairs of regions; its margins are the regions the two are in.
      const w = regions.map((r) => regions.map((q) => programme.continuous((count * cost[r * nRegions + q]!) / unit)));
      for (const r of regions) {
        programme.row(0, 0, [...w[r]!.map((variable) => [variable, 1] as const), ...inRegion(y[i]![a]!, r)]);
        programme.row(0, 0, [...w.map((row) => [row[r]!, 1] as const), ...inRegion(y[i + 1]![b]!, r)]);
      }
    }
  }
  const solution = await programme.minimise();
  return solution && { shardOf: Int32Array.from(y.flat(), (row) => row.findIndex((variable) => solution.values[variable]! > 0.5)), proven: solution.proven };
}
