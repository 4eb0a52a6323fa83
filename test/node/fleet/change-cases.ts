// Small fleets drawn from a seed, and what a change of them costs at least, by trying every way. Shares no code with fleet/.

import { seededNumbers } from "../../../model/kernel-case.ts";
import type { FleetPlan, PlannedShard } from "../../../fleet/fleet-plan.ts";
import type { PlannedExpert } from "../../../fleet/plan.ts";

export const PACK_HASH = "ab".repeat(32);

export function fleetOf(shards: readonly PlannedShard[], epoch = 1): FleetPlan {
  return {
    version: 1, packId: "p", packHash: PACK_HASH, fleet: "f", epoch, shards,
    stages: [{ embeddingRows: [0, 10], layers: [0, 4], headRows: [0, 10], slots: [] }], lanes: 1, jurisdiction: null,
  };
}

export const evenTable = (nLayers: number, nExperts: number, segmentBytes: readonly number[]): PlannedExpert[] =>
  Array.from({ length: nLayers * nExperts }, (_, i) => ({ layer: Math.floor(i / nExperts), expert: i % nExperts, segmentBytes }));

export interface DrawnChange {
  readonly table: readonly PlannedExpert[];
  readonly from: FleetPlan;
  /** Expert numbers (in the table) on each shard. */
  readonly held: readonly (readonly number[])[];
  readonly nShards: number;
  readonly replicas: number;
}

/** At most 5 experts in 1 or 2 layers, of 1 or 2 sizes, on at most 4 shards, each expert with 1 to 3 copies, spread without any order. */
export function drawChange(seed: number): DrawnChange {
  const random = seededNumbers(seed);
  const upTo = (n: number): number => Math.floor(random() * n);
  const [nLayers, nHeld, nSizes] = [1 + upTo(2), 1 + upTo(4), 1 + upTo(2)];
  const perLayer = 1 + upTo(nLayers === 1 ? 5 : 2);
  const table = evenTable(nLayers, perLayer, [0]).map((e) => ({ ...e, segmentBytes: upTo(nSizes) === 0 ? [6, 4] : [4, 3] }));
  const held: number[][] = Array.from({ length: nHeld }, () => []);
  table.forEach((_, e) => {
    const copies = 1 + upTo(Math.min(3, nHeld));
    const shards = Array.from({ length: nHeld }, (_, s) => s).sort(() => random() - 0.5).slice(0, copies);
    for (const s of shards) held[s]!.push(e);
  });
  const nShards = 1 + upTo(4);
  const shards = held.map((experts) => ({ region: null, slots: experts.map((e) => ({ layer: table[e]!.layer, expert: table[e]!.expert, segments: [0, 2] as const })) }));
  return { table, from: fleetOf(shards), held, nShards, replicas: 1 + upTo(Math.min(2, nShards)) };
}

export const bytesOfExpert = ({ segmentBytes }: PlannedExpert): number => segmentBytes.reduce((sum, b) => sum + b, 0);

/** Every set of `size` of the numbers below `n`. */
export function subsets(n: number, size: number): number[][] {
  if (size === 0) return [[]];
  if (n < size) return [];
  return [...subsets(n - 1, size), ...subsets(n - 1, size - 1).map((set) => [...set, n - 1])];
}

/** The fewest bytes of any change that keeps the bound: per size, and per size and layer, at most the even part rounded up. */
export function leastByTrying({ table, held, nShards, replicas }: DrawnChange): number {
  const inUse = held.filter((experts) => experts.length > 0);
  const pool = [...inUse, ...Array.from({ length: nShards }, () => [] as number[])];
  const sameSize = (a: number, b: number): boolean => bytesOfExpert(table[a]!) === bytesOfExpert(table[b]!);
  const sameLayer = (a: number, b: number): boolean => table[a]!.layer === table[b]!.layer;
  const numbers = table.map((_, e) => e);
  const copyChoices = subsets(nShards, replicas);
  let best = Infinity;
  for (const chosen of subsets(pool.length, nShards)) {
    const shards = chosen.map((s) => pool[s]!);
    const on: number[][] = shards.map(() => []);
    const place = (e: number, bytes: number): void => {
      if (bytes >= best) return;
      if (e === table.length) { best = bytes; return; }
      const mostOfSize = Math.ceil((numbers.filter((o) => sameSize(o, e)).length * replicas) / nShards);
      const mostOfBoth = Math.ceil((numbers.filter((o) => sameSize(o, e) && sameLayer(o, e)).length * replicas) / nShards);
      for (const set of copyChoices) {
        if (set.some((s) => on[s]!.filter((o) => sameSize(o, e)).length >= mostOfSize || on[s]!.filter((o) => sameSize(o, e) && sameLayer(o, e)).length >= mostOfBoth)) continue;
        for (const s of set) on[s]!.push(e);
        place(e + 1, bytes + set.reduce((sum, s) => sum + (shards[s]!.includes(e) ? 0 : bytesOfExpert(table[e]!)), 0));
        for (const s of set) on[s]!.pop();
      }
    };
    place(0, 0);
  }
  return best;
}
