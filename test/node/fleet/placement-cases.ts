// Small placement problems drawn from a seed, and what is best for them by trying everything. Owns definitions that share no code with the searches:
// sums are written out the long way.

import type { PlacementProblem } from "../../../fleet/placement-problem.ts";
import { seededNumbers } from "../../../model/kernel-case.ts";

export interface CaseShape {
  readonly nLayers: number;
  readonly nExperts: number;
  readonly nShards: number;
  readonly nRegions: number;
  /** Room on each shard over its even part of the bytes; Infinity is no limit. */
  readonly slack: number;
}

/** The seed draws shape and numbers: at most 6 experts, 3 shards, 3 layers. `maxStates` bounds what brute force would have to try. */
export function drawCase(seed: number, maxStates: number): { readonly shape: CaseShape; readonly problem: PlacementProblem } {
  const random = seededNumbers(seed);
  const upTo = (n: number): number => Math.floor(random() * n);
  for (;;) {
    const shape: CaseShape = { nLayers: 2 + upTo(2), nExperts: 2 + upTo(5), nShards: 2 + upTo(2), nRegions: 1 + upTo(3), slack: random() < 0.5 ? 1.3 + random() : Infinity };
    if (shape.nShards ** (shape.nExperts * shape.nLayers) > maxStates) continue;
    const { nLayers, nExperts, nShards, nRegions, slack } = shape;
    const load = Float64Array.from({ length: nLayers * nExperts }, () => 1 + upTo(200));
    const moves = Float64Array.from({ length: (nLayers - 1) * nExperts * nExperts }, () => upTo(5) * upTo(40));
    const regionCost = Array.from({ length: nRegions }, () => new Array<number>(nRegions).fill(0));
    for (let a = 0; a < nRegions; a++) for (let b = 0; b < a; b++) regionCost[a]![b] = regionCost[b]![a] = 1 + upTo(9);
    const expertBytes = Array.from({ length: nLayers * nExperts }, () => 10 + upTo(3));
    const total = expertBytes.reduce((sum, b) => sum + b, 0);
    return {
      shape,
      problem: {
        counts: { layers: Array.from({ length: nLayers }, (_, i) => 2 * i + 1), nExperts, load, moves },
        shardRegions: Array.from({ length: nShards }, (_, s) => s % nRegions), regionCost, expertBytes,
        capacityBytes: new Array<number>(nShards).fill(slack === Infinity ? total : Math.ceil((total * slack) / nShards) + 12),
      },
    };
  }
}

/** Every way of giving `length` things a shard below `n`. */
export function* everyMap(length: number, n: number): Generator<Int32Array> {
  const map = new Int32Array(length);
  for (;;) {
    yield map;
    let at = 0;
    while (at < length && ++map[at]! === n) map[at++] = 0;
    if (at === length) return;
  }
}

/** Costs of crossing, the long way. */
export function crossCostOf({ counts: { layers, nExperts, moves }, shardRegions, regionCost }: PlacementProblem, shardOf: ArrayLike<number>): number {
  let cost = 0;
  for (let i = 0; i + 1 < layers.length; i++) for (let e = 0; e < nExperts; e++) for (let f = 0; f < nExperts; f++) {
    cost += moves[(i * nExperts + e) * nExperts + f]! * regionCost[shardRegions[shardOf[i * nExperts + e]!]!]![shardRegions[shardOf[(i + 1) * nExperts + f]!]!]!;
  }
  return cost;
}

/** Loads of the shards in each layer. */
export function loadsOf({ counts: { layers, nExperts, load }, shardRegions }: PlacementProblem, shardOf: ArrayLike<number>): number[][] {
  return layers.map((_, i) => shardRegions.map((_, s) => {
    let sum = 0;
    for (let e = 0; e < nExperts; e++) if (shardOf[i * nExperts + e] === s) sum += load[i * nExperts + e]!;
    return sum;
  }));
}

export const variationOf = (loads: readonly number[]): number => {
  const mean = loads.reduce((sum, x) => sum + x, 0) / loads.length;
  return mean === 0 ? 0 : Math.sqrt(loads.reduce((sum, x) => sum + (x - mean) ** 2, 0) / loads.length) / mean;
};

export function fits({ expertBytes, capacityBytes }: PlacementProblem, shardOf: ArrayLike<number>): boolean {
  const bytes = new Array<number>(capacityBytes.length).fill(0);
  for (let i = 0; i < shardOf.length; i++) bytes[shardOf[i]!]! += expertBytes[i]!;
  return bytes.every((b, s) => b <= capacityBytes[s]!);
}

/** Experts in order, as the definition says it. */
export const inOrder = (nLayers: number, nExperts: number, nShards: number): number[] =>
  Array.from({ length: nLayers * nExperts }, (_, i) => Math.floor(((i % nExperts) * nShards) / nExperts));

/** The least cost plus weight x slowest under the joint mode's limits, or null where nothing meets them. Layers alone are checked first, then put together. */
export function bestJoint(problem: PlacementProblem, slowestWeight: number): number | null {
  const { counts: { layers, nExperts }, shardRegions } = problem;
  const [nLayers, nShards] = [layers.length, shardRegions.length];
  const contiguous = inOrder(nLayers, nExperts, nShards);
  const limits = loadsOf(problem, contiguous).map(variationOf);
  const costLimit = fits(problem, contiguous) ? crossCostOf(problem, contiguous) : Infinity;
  const whole = new Int32Array(nLayers * nExperts);
  const options = layers.map((_, i) => {
    const found: { readonly map: Int32Array; readonly largest: number }[] = [];
    for (const map of everyMap(nExperts, nShards)) {
      whole.set(map, i * nExperts);
      const loads = loadsOf(problem, whole)[i]!;
      if (variationOf(loads) <= limits[i]! + 1e-9) found.push({ map: map.slice(), largest: Math.max(...loads) });
    }
    return found;
  });
  let best = Infinity;
  const choose = (i: number, slowest: number): void => {
    if (i === nLayers) {
      if (!fits(problem, whole)) return;
      const cost = crossCostOf(problem, whole);
      if (cost <= costLimit) best = Math.min(best, cost + slowestWeight * slowest);
      return;
    }
    for (const { map, largest } of options[i]!) {
      whole.set(map, i * nExperts);
      choose(i + 1, slowest + largest);
    }
  };
  choose(0, 0);
  return best === Infinity ? null : best;
}

/**
 * Fewest activations that any placement over two regions lets cross, where no layer's load varies more than with experts in order; shards' room is not looked at,
 * so no placement within it does better. What crosses depends on the experts' regions alone, so layers go through all halves of their experts.
 */
export function fewestCrossings(problem: PlacementProblem): number {
  const { counts: { layers, nExperts, load }, shardRegions } = problem;
  const nShards = shardRegions.length;
  const limits = loadsOf(problem, inOrder(layers.length, nExperts, nShards)).map(variationOf);
  const halves = layers.map((_, i) => {
    const found = new Set<number>();
    for (const map of everyMap(nExperts, nShards)) {
      const loads = new Array<number>(nShards).fill(0);
      let half = 0;
      for (let e = 0; e < nExperts; e++) {
        loads[map[e]!]! += load[i * nExperts + e]!;
        half |= shardRegions[map[e]!]! << e;
      }
      if (!found.has(half) && variationOf(loads) <= limits[i]! + 1e-9) found.add(half);
    }
    return [...found];
  });
  let best = new Map(halves[0]!.map((half) => [half, 0]));
  for (let i = 0; i + 1 < layers.length; i++) {
    best = new Map(halves[i + 1]!.map((to) => [to, Math.min(...[...best].map(([from, before]) => before + crossingsBetween(problem, i, from, to)))]));
  }
  return Math.min(...best.values());
}

function crossingsBetween({ counts: { nExperts, moves } }: PlacementProblem, layer: number, from: number, to: number): number {
  let sum = 0;
  for (let e = 0; e < nExperts; e++) for (let f = 0; f < nExperts; f++) if (((from >> e) & 1) !== ((to >> f) & 1)) sum += moves[(layer * nExperts + e) * nExperts + f]!;
  return sum;
}
