// How many shards a pack's experts take, and what each holds: weights, its runner's scratch, one request and one reply (docs/memory.md).
// Owns the search for the fewest, whole experts where each fits an isolate and slices where one does not. Refuses where a single segment fits none.
// The sums are those of durable/memory-plan.ts, which this room may not import; a test holds both to the same bytes.

import { allocatedBytes } from "../model/heap.ts";
import { expertInputSize } from "../model/config.ts";
import { activationRowBytes } from "../model/kernels.ts";
import { runnerRegions } from "../model/local-experts.ts";
import { type CapacityLimits, type CapacityPack, CapacityPlanError, ffnBytes, mib, roomBytes } from "./capacity-pack.ts";
import { expertTable, makePlan, type Plan, type PlannedRange, slicedExperts, wholeExperts } from "./plan.ts";

export interface ShardCapacity {
  readonly weightBytes: number;
  readonly scratchBytes: number;
  readonly frameBytes: number;
}

export interface ShardsCapacity {
  /** Each segment once: on the shard that holds it first. */
  readonly plan: Plan;
  /** Of each shard, its replicas of others' segments among them. */
  readonly slots: readonly (readonly PlannedRange[])[];
  readonly isSliced: boolean;
  /** In the plan's order; a shard without slots has nothing. */
  readonly shards: readonly ShardCapacity[];
}

/** How many shards, and how many of them hold each segment. */
export interface ShardsWish {
  /** null: the fewest that fit. */
  readonly nShards: number | null;
  readonly replicas: number;
  /** Kept free over all shards, for copies of the experts that are asked most. */
  readonly spareBytes: number;
}

/** All that an object uses. */
export const shardBytes = (shard: ShardCapacity): number => shard.weightBytes + shard.scratchBytes + shard.frameBytes;

/** The expert table, looked up by (layer, expert), and what slots of it take. */
export class ExpertSegments {
  readonly #of: ReadonlyMap<number, CapacityPack["experts"][number]>;
  readonly #pack: CapacityPack;
  readonly #limits: CapacityLimits;

  constructor(pack: CapacityPack, limits: CapacityLimits) {
    this.#of = new Map(pack.experts.map((entry) => [entry.layer * 65536 + entry.expert, entry]));
    this.#pack = pack;
    this.#limits = limits;
  }

  /** Equal segments lie in memory once. */
  capacity(slots: readonly PlannedRange[]): ShardCapacity {
    if (slots.length === 0) return { weightBytes: 0, scratchBytes: 0, frameBytes: 0 };
    const unique = new Map<string, number>();
    let width = 1;
    for (const { layer, expert, segments: [first, end] } of slots) {
      for (const segment of this.#of.get(layer * 65536 + expert)!.segments.slice(first, end)) {
        unique.set(segment.hash, segment.bytes);
        width = Math.max(width, segment.end - segment.start);
      }
    }
    let weightBytes = 0;
    for (const bytes of unique.values()) weightBytes += allocatedBytes(bytes);
    return { weightBytes, scratchBytes: this.#scratchBytes(width), frameBytes: 2 * allocatedBytes(this.#limits.frameBytes) };
  }

  /** Most weights that fit a shard beside frames and the working memory of the pack's widest segment. */
  get weightRoomBytes(): number {
    const width = this.#pack.experts.reduce((most, { segments }) => segments.reduce((w, { start, end }) => Math.max(w, end - start), most), 1);
    return roomBytes(this.#limits) - this.#scratchBytes(width) - 2 * allocatedBytes(this.#limits.frameBytes);
  }

  #scratchBytes(width: number): number {
    const { config, activations } = this.#pack;
    const tokens = Math.min(0xffff, Math.ceil(this.#limits.frameBytes / activationRowBytes(activations, expertInputSize(config))));
    const { rowAddresses, scratch } = runnerRegions(expertInputSize(config), width, tokens);
    return allocatedBytes(rowAddresses) + allocatedBytes(scratch);
  }
}

/** A plan whose every segment is on `replicas` shards: what a shard holds, the next ones hold too, the first after the last. So a plan that is even stays even. */
export function replicated(known: ExpertSegments, plan: Plan, replicas: number, isSliced: boolean): ShardsCapacity {
  const n = plan.nShards;
  const slots = plan.slots.map((own, shard) => (replicas === 1 ? own : joinedRanges(Array.from({ length: replicas }, (_, r) => plan.slots[(shard - r + n) % n]!).flat())));
  return { plan, slots, isSliced, shards: slots.map((of) => known.capacity(of)) };
}

/** Ascending, neighbours as one range. */
function joinedRanges(ranges: readonly PlannedRange[]): PlannedRange[] {
  const joined: PlannedRange[] = [];
  for (const range of [...ranges].sort((a, b) => a.layer - b.layer || a.expert - b.expert || a.segments[0] - b.segments[0])) {
    const last = joined.at(-1);
    if (last !== undefined && last.layer === range.layer && last.expert === range.expert && last.segments[1] === range.segments[0]) joined[joined.length - 1] = { ...last, segments: [last.segments[0], range.segments[1]] };
    else joined.push(range);
  }
  return joined;
}

/**
 * The experts over `nShards` shards, or over the fewest that hold them; a dense pack has none. Throws CapacityPlanError where a segment fits no isolate, or the
 * experts do not fit so many shards.
 */
export function planShards(pack: CapacityPack, limits: CapacityLimits, { nShards, replicas, spareBytes }: ShardsWish): ShardsCapacity {
  const [table, room, known] = [expertTable(pack), roomBytes(limits), new ExpertSegments(pack, limits)];
  if (table.length === 0) return { plan: makePlan([], 1), slots: [], isSliced: false, shards: [] };
  if (nShards !== null && replicas > nShards) throw new CapacityPlanError(`${replicas} replicas of every segment were asked for over ${nShards} shards; each is on another shard, so there must be at least ${replicas}.`);
  const alone = (ranges: PlannedRange[]): number => shardBytes(known.capacity(ranges));
  let isSliced = false;
  let nUnits = 0;
  for (const entry of pack.experts) {
    const { layer, expert, segments } = entry;
    nUnits += segments.length;
    if (alone([{ layer, expert, segments: [0, segments.length] }]) <= room) continue;
    isSliced = true;
    segments.forEach((segment, i) => {
      const bytes = alone([{ layer, expert, segments: [i, i + 1] }]);
      if (bytes > room) {
        throw new CapacityPlanError(`Layer ${layer}, expert ${expert} takes ${mib(ffnBytes(entry))}; even its segment ${i} (${mib(segment.bytes)}) takes ${mib(bytes)} with frames and working memory, `
          + `but an isolate of ${mib(limits.isolateBytes)} has ${mib(room)} for an object. Pack it with fewer bits or narrower segments, or give more --memory.`);
      }
    });
  }
  const assign = isSliced ? slicedExperts : wholeExperts;
  const over = (n: number): ShardsCapacity => replicated(known, makePlan(table, n, assign), replicas, isSliced);
  const fits = ({ shards }: ShardsCapacity): boolean => shards.every((shard) => shardBytes(shard) + spareBytes / shards.length <= room);
  if (nShards !== null) {
    const asked = over(nShards);
    if (fits(asked)) return asked;
    const largest = Math.max(...asked.shards.map(shardBytes));
    throw new CapacityPlanError(`Over ${nShards} shards the largest takes ${mib(largest)}${spareBytes > 0 ? `, and ${mib(spareBytes / nShards)} of each is asked for copies` : ""}, but an isolate of ${mib(limits.isolateBytes)} has ${mib(room)} for an object. `
      + `The experts need at least ${fewest(over, fits, pack, room, nUnits * replicas, { replicas, spareBytes }).plan.nShards} shards.`);
  }
  return fewest(over, fits, pack, room, nUnits * replicas, { replicas, spareBytes });
}

/** Every part alone fits, so without anything spare the search ends at one shard for each. */
function fewest(over: (n: number) => ShardsCapacity, fits: (plan: ShardsCapacity) => boolean, pack: CapacityPack, room: number, nParts: number, { replicas, spareBytes }: Pick<ShardsWish, "replicas" | "spareBytes">): ShardsCapacity {
  const unique = new Map(pack.experts.flatMap(({ segments }) => segments.map(({ hash, bytes }) => [hash, bytes] as const)));
  let bytes = spareBytes;
  for (const of of unique.values()) bytes += of * replicas;
  const most = Math.min(nParts + Math.ceil(spareBytes / room), 0xffff);
  for (let n = Math.max(replicas, Math.ceil(bytes / room)); n <= most; n++) {
    const found = over(n);
    if (fits(found)) return found;
  }
  throw new CapacityPlanError(`The experts take ${mib(bytes)} in ${nParts} parts${replicas > 1 ? `, each on ${replicas} shards` : ""}, more than ${most} shards of ${mib(room)} hold. Give more --memory, or pack with fewer bits.`);
}
