// A placement under change: sums that tell in a few operations what moving or swapping experts of one layer would do to cost, balance and room.
// Owns these sums. Refuses the choice of what to try (placement-search.ts) and the figures of a result (placement-measures.ts).

import { shardLoads } from "./placement-measures.ts";
import { shardBytesOf, type PlacementTask, type ShardMap } from "./placement-problem.ts";

/** What is made small, and what must hold. */
export interface SearchGoal {
  /** Weight of the slowest shards' sum beside the cost between regions. */
  readonly slowestWeight: number;
  /** Per layer the most that the shards' squared loads may add up to: a limit on their variation. Infinity is none. */
  readonly maxSquares: Float64Array;
  /** The most that crossing regions may cost. Infinity is none. */
  readonly maxCrossCost: number;
}

const TOP = 3;

export class PlacementState {
  readonly task: PlacementTask;
  readonly goal: SearchGoal;
  readonly shardOf: ShardMap;
  crossCost = 0;
  slowest = 0;
  readonly #loads: Float64Array;
  readonly #bytes: Float64Array;
  readonly #squares: Float64Array;
  readonly #largest: Float64Array;
  /** Of each layer the shards with the largest loads, largest first, -1 where there are fewer: two of them may be those that an exchange changes. */
  readonly #top: Int32Array;
  /** Cost of an expert's activations with the neighbouring layers, were it in a region: [regions][layers * nExperts]. */
  readonly #pull: Float64Array;
  readonly #movesInto: Float64Array;
  readonly #costStep: Float64Array;
  /** Of what `weigh` looked at last. */
  costChange = 0;
  slowestChange = 0;
  violationChange = 0;

  constructor(task: PlacementTask, goal: SearchGoal, start: ShardMap) {
    this.task = task;
    this.goal = goal;
    this.shardOf = start.slice();
    const { nLayers } = task;
    this.#loads = shardLoads(task, start);
    this.#bytes = shardBytesOf(task, start);
    this.#squares = new Float64Array(nLayers);
    this.#largest = new Float64Array(nLayers);
    this.#top = new Int32Array(nLayers * TOP);
    for (let i = 0; i < nLayers; i++) this.#sumUp(i);
    this.slowest = this.#largest.reduce((total, x) => total + x, 0);
    this.#movesInto = transposed(task);
    this.#costStep = new Float64Array(task.nRegions);
    this.#pull = new Float64Array(nLayers * task.nExperts * task.nRegions);
    for (let e = 0; e < start.length; e++) this.#tellNeighbours(e, -1, task.regionOf[start[e]!]!);
    for (let e = 0; e < start.length; e++) this.crossCost += this.#pull[task.regionOf[start[e]!]! * start.length + e]!;
    this.crossCost /= 2; // every pair was counted from both sides
  }

  get objective(): number {
    return this.crossCost + this.goal.slowestWeight * this.slowest;
  }

  /** How far the limits are passed, as the sum of the shares by which each is; 0 where all hold. */
  get violation(): number {
    let total = excess(this.crossCost, this.goal.maxCrossCost);
    for (let i = 0; i < this.task.nLayers; i++) total += excess(this.#squares[i]!, this.goal.maxSquares[i]!);
    for (let s = 0; s < this.task.nShards; s++) total += excess(this.#bytes[s]!, this.task.capacityBytes[s]!);
    return total;
  }

  /** Sets the changes that giving expert `e` to shard `to` would make, `other` of the same layer coming back in exchange (-1: none). */
  weigh(e: number, to: number, other: number): void {
    const { nExperts, nShards, regionOf, load, expertBytes, capacityBytes } = this.task;
    const layer = Math.floor(e / nExperts);
    const from = this.shardOf[e]!;
    const [a, b] = [regionOf[from]! * this.shardOf.length, regionOf[to]! * this.shardOf.length];
    let cost = this.#pull[b + e]! - this.#pull[a + e]!;
    let [shift, bytes] = [load[e]!, expertBytes[e]!];
    if (other >= 0) {
      cost += this.#pull[a + other]! - this.#pull[b + other]!;
      shift -= load[other]!;
      bytes -= expertBytes[other]!;
    }
    this.costChange = cost;
    const row = layer * nShards;
    const [fromLoad, toLoad] = [this.#loads[row + from]!, this.#loads[row + to]!];
    let largest = Math.max(fromLoad - shift, toLoad + shift);
    for (let k = layer * TOP; k < (layer + 1) * TOP; k++) {
      const s = this.#top[k]!;
      if (s < 0 || s === from || s === to) continue;
      if (this.#loads[row + s]! > largest) largest = this.#loads[row + s]!;
      break;
    }
    this.slowestChange = largest - this.#largest[layer]!;
    const squares = this.#squares[layer]!;
    const limit = this.goal.maxSquares[layer]!;
    let violation = excess(squares + 2 * shift * (toLoad - fromLoad + shift), limit) - excess(squares, limit);
    violation += excess(this.crossCost + cost, this.goal.maxCrossCost) - excess(this.crossCost, this.goal.maxCrossCost);
    violation += excess(this.#bytes[from]! - bytes, capacityBytes[from]!) - excess(this.#bytes[from]!, capacityBytes[from]!);
    violation += excess(this.#bytes[to]! + bytes, capacityBytes[to]!) - excess(this.#bytes[to]!, capacityBytes[to]!);
    this.violationChange = violation;
  }

  /** Does it. */
  apply(e: number, to: number, other: number): void {
    this.weigh(e, to, other);
    this.crossCost += this.costChange;
    const from = this.shardOf[e]!;
    this.#put(e, to);
    if (other >= 0) this.#put(other, from);
    const layer = Math.floor(e / this.task.nExperts);
    this.slowest -= this.#largest[layer]!;
    this.#sumUp(layer);
    this.slowest += this.#largest[layer]!;
  }

  #put(e: number, to: number): void {
    const { nExperts, nShards, regionOf, load, expertBytes } = this.task;
    const from = this.shardOf[e]!;
    const row = Math.floor(e / nExperts) * nShards;
    this.#loads[row + from]! -= load[e]!;
    this.#loads[row + to]! += load[e]!;
    this.#bytes[from]! -= expertBytes[e]!;
    this.#bytes[to]! += expertBytes[e]!;
    this.shardOf[e] = to;
    if (regionOf[from] !== regionOf[to]) this.#tellNeighbours(e, regionOf[from]!, regionOf[to]!);
  }

  #sumUp(layer: number): void {
    const { nShards } = this.task;
    const [loads, row, top, first] = [this.#loads, layer * nShards, this.#top, layer * TOP];
    let [squares, least] = [0, -1];
    top.fill(-1, first, first + TOP);
    for (let s = 0; s < nShards; s++) {
      const x = loads[row + s]!;
      squares += x * x;
      if (x <= least) continue;
      let k = first + TOP - 1;
      for (; k > first && (top[k - 1]! < 0 || loads[row + top[k - 1]!]! < x); k--) top[k] = top[k - 1]!;
      top[k] = s;
      const last = top[first + TOP - 1]!;
      if (last >= 0) least = loads[row + last]!;
    }
    this.#squares[layer] = squares;
    this.#largest[layer] = Math.max(0, loads[row + top[first]!]!);
  }

  /** Experts of the layers before and after learn that `e` went from one region (-1: from nowhere) to another. */
  #tellNeighbours(e: number, from: number, to: number): void {
    const { nLayers, nExperts, nRegions, moves, cost } = this.task;
    const layer = Math.floor(e / nExperts);
    for (let r = 0; r < nRegions; r++) this.#costStep[r] = cost[r * nRegions + to]! - (from < 0 ? 0 : cost[r * nRegions + from]!);
    if (layer > 0) this.#addPull((layer - 1) * nExperts, this.#movesInto, ((layer - 1) * nExperts + e - layer * nExperts) * nExperts);
    if (layer + 1 < nLayers) this.#addPull((layer + 1) * nExperts, moves, e * nExperts);
  }

  #addPull(first: number, counts: Float64Array, row: number): void {
    const nExperts = this.task.nExperts;
    const pull = this.#pull;
    for (let r = 0; r < this.task.nRegions; r++) {
      const step = this.#costStep[r]!;
      if (step === 0) continue;
      const base = r * this.shardOf.length + first;
      for (let f = 0; f < nExperts; f++) pull[base + f]! += counts[row + f]! * step;
    }
  }
}

/** [layers - 1][to][from]: an expert's column as a row, read at every change. */
function transposed({ nLayers, nExperts, moves }: PlacementTask): Float64Array {
  const into = new Float64Array(moves.length);
  for (let i = 0; i + 1 < nLayers; i++) {
    const base = i * nExperts * nExperts;
    for (let from = 0; from < nExperts; from++) for (let to = 0; to < nExperts; to++) into[base + to * nExperts + from] = moves[base + from * nExperts + to]!;
  }
  return into;
}

/** The share by which a value passes a limit. Rounding of sums is no passing. */
function excess(value: number, limit: number): number {
  const over = value - limit;
  return over > 1e-9 * (1 + Math.abs(limit)) ? over / (1 + limit) : 0;
}
