// How many shards a pack's experts take, and what each holds: weights, its runner's scratch, one request and one reply (docs/memory.md).
// Owns the search for the fewest, whole experts where each fits an isolate and slices where one does not. Refuses where a single segment fits none.
// The sums are those of durable/memory-plan.ts, which this room may not import; a test holds both to the same bytes.

import { allocatedBytes } from "../model/heap.ts";
import { activationRowBytes } from "../model/kernels.ts";
import { runnerRegions } from "../model/local-experts.ts";
import { type CapacityLimits, type CapacityPack, CapacityPlanError, expertTable, ffnBytes, mib, roomBytes } from "./capacity-pack.ts";
import { makePlan, type Plan, type PlannedRange, slicedExperts, wholeExperts } from "./plan.ts";

export interface ShardCapacity {
  readonly weightBytes: number;
  readonly scratchBytes: number;
  readonly frameBytes: number;
}

export interface ShardsCapacity {
  readonly plan: Plan;
  readonly isSliced: boolean;
  /** In the plan's order; a shard without slots has nothing. */
  readonly shards: readonly ShardCapacity[];
}

/** All that an object uses. */
export const shardBytes = (shard: ShardCapacity): number => shard.weightBytes + shard.scratchBytes + shard.frameBytes;

/** The expert table, looked up by (layer, expert). */
class ExpertSegments {
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

  #scratchBytes(width: number): number {
    const { config, activations } = this.#pack;
    const tokens = Math.min(0xffff, Math.ceil(this.#limits.frameBytes / activationRowBytes(activations, config.hiddenSize)));
    const { rowAddresses, scratch } = runnerRegions(config.hiddenSize, width, tokens);
    return allocatedBytes(rowAddresses) + allocatedBytes(scratch);
  }
}

/**
 * The experts over `nShards` shards, or over the fewest that hold them where `nShards` is null; a dense pack has none. Throws CapacityPlanError where
 * a segment fits no isolate, or the experts do not fit so many shards.
 */
export function planShards(pack: CapacityPack, limits: CapacityLimits, nShards: number | null): ShardsCapacity {
  const [table, room, known] = [expertTable(pack), roomBytes(limits), new ExpertSegments(pack, limits)];
  if (table.length === 0) return { plan: makePlan([], 1), isSliced: false, shards: [] };
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
  const over = (n: number): ShardsCapacity => {
    const plan = makePlan(table, n, assign);
    return { plan, isSliced, shards: plan.slots.map((slots) => known.capacity(slots)) };
  };
  const fits = ({ shards }: ShardsCapacity): boolean => shards.every((shard) => shardBytes(shard) <= room);
  if (nShards !== null) {
    const asked = over(nShards);
    if (fits(asked)) return asked;
    const largest = Math.max(...asked.shards.map(shardBytes));
    throw new CapacityPlanError(`Over ${nShards} shards the largest takes ${mib(largest)}, but an isolate of ${mib(limits.isolateBytes)} has ${mib(room)} for an object. `
      + `The experts need at least ${fewest(over, fits, pack, room, nUnits).plan.nShards} shards.`);
  }
  return fewest(over, fits, pack, room, nUnits);
}

/** Every part alone fits, so the search ends at one shard each. */
function fewest(over: (n: number) => ShardsCapacity, fits: (plan: ShardsCapacity) => boolean, pack: CapacityPack, room: number, nUnits: number): ShardsCapacity {
  const unique = new Map(pack.experts.flatMap(({ segments }) => segments.map(({ hash, bytes }) => [hash, bytes] as const)));
  let bytes = 0;
  for (const of of unique.values()) bytes += of;
  const most = Math.min(nUnits, 0xffff);
  for (let n = Math.max(1, Math.ceil(bytes / room)); n <= most; n++) {
    const found = over(n);
    if (fits(found)) return found;
  }
  throw new CapacityPlanError(`The experts take ${mib(bytes)} in ${nUnits} parts, more than ${most} shards of ${mib(room)} hold. Give more --memory, or pack with fewer bits.`);
}
