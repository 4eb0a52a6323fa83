// The next plan of an elastic fleet: from the one in force to a wish, loading the fewest bytes (docs/fleet.md, "Moves"; ElasticMoE's virtual expert map).
// Owns what a wish is, what a change loads from whom, and the sequence where room is short. Refuses to decide that there is to be a change, and when.
// Shard numbers live on: a shard that is to hold nothing keeps its number, without slots.

import { balancedTarget, type Item } from "./balanced-target.ts";
import type { FleetPlan, PlannedShard } from "./fleet-plan.ts";
import { matchParts } from "./matched-target.ts";
import type { PlannedExpert, PlannedRange } from "./plan.ts";
import { stepsBetween } from "./room-steps.ts";
import { SegmentIndex } from "./segment-index.ts";

/** So many shards, evenly filled. */
export interface CountWish {
  /** Shards that hold something. */
  readonly shards: number;
  /** Copies of each expert, each on another shard. */
  readonly replicas: number | ((layer: number, expert: number) => number);
  /** Of shards that are new. */
  readonly region?: string | null;
  /** Weight bytes that fit a shard, those it still holds included. */
  readonly roomBytes: number;
}

/** A given placement, whatever its shards are called. */
export interface PlacementWish {
  readonly parts: readonly PlannedShard[];
  readonly roomBytes: number;
}

export type Wish = CountWish | PlacementWish;

export interface Change {
  /** To be adopted one after the other; empty where the plan in force is what is wished. */
  readonly plans: readonly FleetPlan[];
  /** Loaded in all. */
  readonly bytes: number;
  /** No way to what is wished loads less. Larger is `bytes` only after a detour, or where too many choices of shards were possible. */
  readonly leastBytes: number;
}

/** What one shard must load for a plan. */
export interface ShardMoves {
  readonly shard: number;
  readonly load: readonly PlannedRange[];
  readonly bytes: number;
  /** Who holds it now, each range with one of them; what nobody holds is not named and comes from the store. */
  readonly donors: readonly { readonly shard: number; readonly slots: readonly PlannedRange[] }[];
  readonly donatedBytes: number;
}

export interface Moves {
  /** Shards that load something, ascending. */
  readonly shards: readonly ShardMoves[];
  readonly bytes: number;
  /** Of these, what no shard holds. */
  readonly storeBytes: number;
}

type Holdings = readonly ReadonlySet<number>[];

/** Plans from the one in force to the wish. `table`: the pack's experts. Throws RangeError with the numbers where there is no way. */
export function planChange(from: FleetPlan, wish: Wish, table: readonly PlannedExpert[]): Change {
  const index = new SegmentIndex(table);
  const held = from.shards.map(({ slots }) => index.idsOf(slots));
  const { to, regions, leastBytes } = targetOf(from, held, wish, index);
  const all = to.map((_, shard) => held[shard] ?? new Set<number>());
  const steps = pieceSteps(all, to, index, wish.roomBytes);
  const plans = steps.map((holdings, i): FleetPlan => ({
    ...from, epoch: from.epoch + 1 + i, shards: holdings.map((ids, shard) => ({ slots: index.rangesOf(ids), region: regions[shard]! })),
  }));
  const bytes = steps.reduce((total, step, i) => total + step.reduce((sum, ids, shard) => sum + index.bytesOf([...ids].filter((id) => !(steps[i - 1] ?? all)[shard]!.has(id))), 0), 0);
  return { plans, bytes, leastBytes };
}

/** Bytes that a change must load at least, whatever the way. */
export function leastBytes(from: FleetPlan, wish: Wish, table: readonly PlannedExpert[]): number {
  const index = new SegmentIndex(table);
  return targetOf(from, from.shards.map(({ slots }) => index.idsOf(slots)), wish, index).leastBytes;
}

/** What each shard must load between two plans of one fleet, and from whom: of several holders one in its own region, then the one that gives least so far. */
export function movesOf(from: FleetPlan, to: FleetPlan, table: readonly PlannedExpert[]): Moves {
  const index = new SegmentIndex(table);
  const held = from.shards.map(({ slots }) => index.idsOf(slots));
  const given = new Float64Array(held.length);
  const shards = to.shards.flatMap(({ slots, region }, shard): ShardMoves[] => {
    const load = [...index.idsOf(slots)].filter((id) => !held[shard]?.has(id));
    if (load.length === 0) return [];
    const donated = new Map<number, number[]>();
    for (const id of load) {
      const rank = (s: number): number => (from.shards[s]!.region === region ? 0 : 1);
      const holders = held.flatMap((ids, s) => (ids.has(id) ? [s] : [])).sort((a, b) => rank(a) - rank(b) || given[a]! - given[b]! || a - b);
      const [donor] = holders;
      if (donor === undefined) continue;
      given[donor]! += index.bytes[id]!;
      const ids = donated.get(donor) ?? [];
      donated.set(donor, ids);
      ids.push(id);
    }
    const donors = [...donated].sort(([a], [b]) => a - b).map(([donor, ids]) => ({ shard: donor, slots: index.rangesOf(ids) }));
    return [{ shard, load: index.rangesOf(load), bytes: index.bytesOf(load), donors, donatedBytes: index.bytesOf([...donated.values()].flat()) }];
  });
  const [bytes, donatedBytes] = [shards.reduce((sum, s) => sum + s.bytes, 0), shards.reduce((sum, s) => sum + s.donatedBytes, 0)];
  return { shards, bytes, storeBytes: bytes - donatedBytes };
}

/** Steps in which what lies together before and after, an expert as a rule, moves as one piece: plans on the way leave no expert in slices that was none. */
function pieceSteps(from: Holdings, to: Holdings, index: SegmentIndex, roomBytes: number): Holdings[] {
  const places = new Array<string>(index.nSegments).fill("");
  [from, to].forEach((holdings, side) => holdings.forEach((ids, shard) => { for (const id of ids) places[id] += `${side}:${shard} `; }));
  const pieces = index.experts.flatMap(({ first, nSegments }) => {
    const together = new Map<string, number[]>();
    for (let id = first; id < first + nSegments; id++) {
      const ids = together.get(places[id]!) ?? [];
      together.set(places[id]!, ids);
      ids.push(id);
    }
    return [...together.values()];
  });
  const pieceOf = new Map(pieces.flatMap((ids, piece) => ids.map((id) => [id, piece])));
  const inPieces = (holdings: Holdings): Set<number>[] => holdings.map((ids) => new Set([...ids].map((id) => pieceOf.get(id)!)));
  const bytes = Float64Array.from(pieces, (ids) => index.bytesOf(ids));
  return stepsBetween(inPieces(from), inPieces(to), { bytes, roomBytes }).map((holdings) => holdings.map((held) => new Set([...held].flatMap((piece) => pieces[piece]!))));
}

interface Target {
  readonly to: Holdings;
  readonly regions: readonly (string | null)[];
  readonly leastBytes: number;
}

const targetOf = (from: FleetPlan, held: Holdings, wish: Wish, index: SegmentIndex): Target =>
  "parts" in wish ? placedTarget(from, held, wish, index) : countedTarget(from, held, wish, index);

function countedTarget(from: FleetPlan, held: Holdings, wish: CountWish, index: SegmentIndex): Target {
  const { shards: nShards, region = null } = wish;
  const ofStages = new Set(from.stages.flatMap(({ slots }) => [...index.idsOf(slots)]));
  if (held.every(({ size }) => size === 0) && ofStages.size === index.nSegments) {
    throw new RangeError(`No expert of pack ${from.packId} is for shards to hold: ${index.nSegments > 0 ? "the plan's stages hold them all, and stages stay as they are while a fleet runs" : "it has none"}.`);
  }
  if (!Number.isInteger(nShards) || nShards < 1 || nShards > 0xffff) throw new RangeError(`A change to ${nShards} shards was asked for; expected 1 to 65535.`);
  const items = itemsOf(ofStages, held, wish, index);
  const numbers = held.map((_, shard) => shard);
  const staying = numbers.filter((shard) => held[shard]!.size > 0);
  const resting = numbers.filter((shard) => held[shard]!.size === 0 && from.shards[shard]!.region === region);
  const added = [...resting, ...Array.from({ length: nShards }, (_, i) => held.length + i)];
  const { slots, leastBytes } = balancedTarget(items, held, { nShards, staying, added });
  const length = Math.max(held.length, ...[...slots.keys()].map((shard) => shard + 1));
  return {
    to: Array.from({ length }, (_, shard) => slots.get(shard) ?? new Set<number>()),
    regions: Array.from({ length }, (_, shard) => (shard < held.length ? from.shards[shard]!.region : region)), leastBytes,
  };
}

function placedTarget(from: FleetPlan, held: Holdings, { parts }: PlacementWish, index: SegmentIndex): Target {
  const wanted = parts.map(({ slots, region }) => ({ ids: index.idsOf(slots), region }));
  const covered = new Uint8Array(index.nSegments);
  for (const ids of [...wanted.map((part) => part.ids), ...from.stages.map(({ slots }) => index.idsOf(slots))]) for (const id of ids) covered[id] = 1;
  const missing = covered.indexOf(0);
  if (missing >= 0) {
    const [{ layer, expert, segments }] = index.rangesOf([missing]) as [PlannedRange];
    throw new RangeError(`The placement wished for has nobody for segment ${segments[0]} of layer ${layer}, expert ${expert}.`);
  }
  const numbers = matchParts(wanted, held.map((ids, shard) => ({ ids, region: from.shards[shard]!.region })), (ids) => index.bytesOf(ids));
  const length = numbers.reduce<number>((most, number) => Math.max(most, (number ?? -1) + 1), held.length);
  const at = Array.from({ length }, (_, shard) => wanted[numbers.indexOf(shard)]);
  const to = at.map((part) => part?.ids ?? new Set<number>());
  const leastBytes = to.reduce((sum, ids, shard) => sum + index.bytesOf([...ids].filter((id) => !held[shard]?.has(id))), 0);
  return { to, regions: at.map((part, shard) => (shard < held.length ? from.shards[shard]!.region : part!.region)), leastBytes };
}

/** All that shards are to hold, which is what stages do not compute themselves: experts in one piece, or by segments where the plan in force has them in slices or they do not fit a shard. */
function itemsOf(ofStages: ReadonlySet<number>, held: Holdings, { shards: nShards, replicas, roomBytes }: CountWish, index: SegmentIndex): Item[] {
  return index.experts.flatMap(({ layer, expert, first, nSegments }): Item[] => {
    const ids = Array.from({ length: nSegments }, (_, i) => first + i).filter((id) => !ofStages.has(id));
    const copies = typeof replicas === "number" ? replicas : replicas(layer, expert);
    if (!Number.isInteger(copies) || copies < 1 || copies > nShards) throw new RangeError(`${copies} copies of layer ${layer}, expert ${expert} on ${nShards} shards were asked for; expected 1 to ${nShards}, each on another shard.`);
    const bytes = index.bytesOf(ids);
    const isSliced = ids.length < nSegments || bytes > roomBytes || held.some((own) => ids.some((id) => own.has(id)) && ids.some((id) => !own.has(id)));
    if (!isSliced) return [{ layer, ids, bytes, copies }];
    return ids.map((id) => ({ layer, ids: [id], bytes: index.bytes[id]!, copies }));
  });
}
