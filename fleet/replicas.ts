// Copies of hot experts: how many each gets, and on which shards (docs/fleet.md, "Replicas"). Owns the greedy counts (next copy to the largest load per copy, as
// DeepSeek's EPLB, 2025) and the packing (longest first, Graham 1969). Refuses when to change: replica-policy.ts; and bytes moved: min-move.ts.

import type { PlannedShard } from "./fleet-plan.ts";
import type { PlannedExpert, PlannedRange } from "./plan.ts";

/** What is copied as one: an expert, or a piece of one in slices. */
export interface ReplicaSlot extends PlannedRange {
  readonly bytes: number;
  /** Its copies share it evenly. Of layers that a token passes all, loads are of one unit. */
  readonly load: number;
}

/** Shards of each slot, ascending. */
export type Holders = readonly (readonly number[])[];

/** A plan's slots and who holds them: experts in one piece, or segment by segment where some shard holds only some. A segment has its part of the expert's load. */
export function replicaSlots(shards: readonly PlannedShard[], table: readonly PlannedExpert[], loadOf: (layer: number, expert: number) => number): { readonly slots: ReplicaSlot[]; readonly held: number[][] } {
  const slots: ReplicaSlot[] = [];
  const held: number[][] = [];
  const rangesOf = new Map<number, { readonly shard: number; readonly segments: readonly [number, number] }[]>();
  const nameOf = (layer: number, expert: number): number => layer * 0x10000 + expert;
  shards.forEach((shard, number) => {
    for (const { layer, expert, segments } of shard.slots) {
      const ranges = rangesOf.get(nameOf(layer, expert)) ?? [];
      rangesOf.set(nameOf(layer, expert), ranges);
      ranges.push({ shard: number, segments });
    }
  });
  for (const { layer, expert, segmentBytes } of table) {
    const ranges = rangesOf.get(nameOf(layer, expert)) ?? [];
    const isWhole = ranges.every(({ segments: [from, to] }) => from === 0 && to === segmentBytes.length);
    const pieces = isWhole ? [[0, segmentBytes.length] as const] : segmentBytes.map((_, segment) => [segment, segment + 1] as const);
    const total = segmentBytes.reduce((sum, bytes) => sum + bytes, 0);
    for (const [first, end] of pieces) {
      const holders = new Set(ranges.filter(({ segments: [from, to] }) => from <= first && end <= to).map(({ shard }) => shard));
      if (holders.size === 0) continue; // a stage's own, which no shard answers for
      const bytes = segmentBytes.slice(first, end).reduce((sum, b) => sum + b, 0);
      slots.push({ layer, expert, segments: [first, end], bytes, load: (loadOf(layer, expert) * bytes) / total });
      held.push([...holders].sort((a, b) => a - b));
    }
  }
  return { slots, held };
}

/**
 * Copies of each slot, at least `least`, with at most `budgetBytes` more than that: the next copy goes to the slot with the largest load per copy, as long as it fits and
 * no slot has more copies than there are shards. With equal bytes no other counts have a smaller largest load per copy.
 */
export function replicaCounts(slots: readonly ReplicaSlot[], { nShards, budgetBytes, least = 1 }: { readonly nShards: number; readonly budgetBytes: number; readonly least?: number }): number[] {
  if (!Number.isInteger(least) || least < 1 || least > nShards) throw new RangeError(`At least ${least} copies of each expert on ${nShards} shards were asked for; expected 1 to ${nShards}, each on another shard.`);
  const counts = slots.map(() => least);
  let left = budgetBytes;
  for (;;) {
    let hottest = -1;
    slots.forEach(({ load, bytes }, i) => {
      if (load <= 0 || bytes > left || counts[i]! >= nShards) return;
      if (hottest < 0 || load * counts[hottest]! > slots[hottest]!.load * counts[i]!) hottest = i;
    });
    if (hottest < 0) return counts;
    counts[hottest]!++;
    left -= slots[hottest]!.bytes;
  }
}

export interface PackingRoom {
  readonly nShards: number;
  /** Of each shard. */
  readonly roomBytes: number;
  /** Where slots lie already. Who holds too few copies keeps all of them, who holds too many keeps those on the least loaded shards: nothing moves. */
  readonly held?: Holders;
}

/**
 * Shards of each slot's copies: the largest load per copy first, each on the shards with the least load in its layer (then bytes, then number) that have room and
 * no copy yet. A further copy without room is left out; a slot without any is refused with RangeError. From nothing and with room for all, the largest load of a
 * layer is at most its mean + (1 - 1/shards) x its largest load per copy.
 */
export function packCopies(slots: readonly ReplicaSlot[], counts: readonly number[], room: PackingRoom): number[][] {
  const holders = pack(slots, counts, room, [counts]);
  if (holders.every((shards) => shards.length > 0)) return holders;
  // Further copies of the hot took the room of the only ones of others: each slot's first copy goes first.
  const careful = pack(slots, counts, room, [counts.map(() => 1), counts]);
  const missing = careful.findIndex((shards) => shards.length === 0);
  if (missing < 0) return careful;
  const { layer, expert, bytes } = slots[missing]!;
  throw new RangeError(`Layer ${layer}, expert ${expert} has ${bytes} bytes and fits none of ${room.nShards} shards with room for ${room.roomBytes} each; the experts have ${slots.reduce((sum, slot) => sum + slot.bytes, 0)} bytes.`);
}

/** Rounds of packing, each up to its counts. */
function pack(slots: readonly ReplicaSlot[], counts: readonly number[], { nShards, roomBytes, held = slots.map(() => []) }: PackingRoom, rounds: readonly (readonly number[])[]): number[][] {
  const loadIn = new Map(slots.map(({ layer }) => [layer, new Float64Array(nShards)]));
  const filled = new Float64Array(nShards);
  const share = slots.map(({ load }, i) => load / counts[i]!);
  const holders = slots.map((): number[] => []);
  const put = (i: number, shard: number): void => {
    holders[i]!.push(shard);
    loadIn.get(slots[i]!.layer)![shard]! += share[i]!;
    filled[shard]! += slots[i]!.bytes;
  };
  const rank = (i: number) => (a: number, b: number): number => {
    const load = loadIn.get(slots[i]!.layer)!;
    return load[a]! - load[b]! || filled[a]! - filled[b]! || a - b;
  };
  const order = slots.map((_, i) => i).sort((a, b) => share[b]! - share[a]! || a - b);
  for (const i of order) if (held[i]!.length <= counts[i]!) for (const shard of held[i]!) put(i, shard);
  for (const i of order) if (held[i]!.length > counts[i]!) for (const shard of held[i]!.toSorted(rank(i)).slice(0, counts[i]!)) put(i, shard);
  const everyShard = Array.from({ length: nShards }, (_, shard) => shard);
  for (const upTo of rounds) {
    for (const i of order) {
      const more = upTo[i]! - holders[i]!.length;
      if (more <= 0) continue;
      const open = everyShard.filter((shard) => !holders[i]!.includes(shard) && filled[shard]! + slots[i]!.bytes <= roomBytes).sort(rank(i));
      for (const shard of open.slice(0, more)) put(i, shard);
    }
  }
  return holders.map((shards) => shards.sort((a, b) => a - b));
}

/** The largest load of any shard, by layer: what a layer waits for. */
export function largestLoads(slots: readonly ReplicaSlot[], holders: Holders, nShards: number): Map<number, number> {
  const loadIn = new Map<number, Float64Array>();
  slots.forEach(({ layer, load }, i) => {
    const at = loadIn.get(layer) ?? new Float64Array(nShards);
    loadIn.set(layer, at);
    for (const shard of holders[i]!) at[shard]! += load / holders[i]!.length;
  });
  return new Map([...loadIn].map(([layer, loads]) => [layer, Math.max(...loads)]));
}

/** A placement for min-move.ts: shards' slots, each shard in its region. */
export function partsOf(slots: readonly PlannedRange[], holders: Holders, regions: readonly (string | null)[]): PlannedShard[] {
  const parts = regions.map((region) => ({ region, slots: [] as PlannedRange[] }));
  slots.forEach(({ layer, expert, segments }, i) => { for (const shard of holders[i]!) parts[shard]!.slots.push({ layer, expert, segments }); });
  for (const part of parts) part.slots.sort((a, b) => a.layer - b.layer || a.expert - b.expert || a.segments[0] - b.segments[0]);
  return parts;
}
