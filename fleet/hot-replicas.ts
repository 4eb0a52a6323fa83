// Shards that also hold copies of the experts a trace asks most, within a budget: the counts and the packing of replicas.ts on a plan's shards.
// Owns the way there and back. Refuses to add shards: capacity-shards.ts keeps the budget free on those there are.

import type { CapacityPack } from "./capacity-pack.ts";
import type { ExpertSegments, ShardsCapacity } from "./capacity-shards.ts";
import { expertTable } from "./plan.ts";
import { packCopies, partsOf, replicaCounts, replicaSlots } from "./replicas.ts";
import type { RoutingCounts } from "./routing-counts.ts";

export interface HotReplicas {
  readonly experts: ShardsCapacity;
  readonly copies: number;
  /** Of the budget: what is left is less than the next copy, or no shard has room for it. */
  readonly bytes: number;
}

export function addHotReplicas(pack: CapacityPack, known: ExpertSegments, experts: ShardsCapacity, { counts, replicas, budgetBytes }: { readonly counts: RoutingCounts; readonly replicas: number; readonly budgetBytes: number }): HotReplicas {
  const indexOf = new Map(counts.layers.map((layer, i) => [layer, i]));
  const regions = experts.slots.map(() => null);
  const { slots, held } = replicaSlots(experts.slots.map((of) => ({ slots: of, region: null })), expertTable(pack), (layer, expert) => counts.load[indexOf.get(layer)! * counts.nExperts + expert]!);
  const wanted = replicaCounts(slots, { nShards: experts.slots.length, budgetBytes, least: replicas });
  const holders = packCopies(slots, wanted, { nShards: experts.slots.length, roomBytes: known.weightRoomBytes, held });
  const parts = partsOf(slots, holders, regions).map((part) => part.slots);
  const more = holders.map((shards, i) => shards.length - held[i]!.length);
  return {
    experts: { ...experts, slots: parts, shards: parts.map((of) => known.capacity(of)) },
    copies: more.reduce((sum, n) => sum + n, 0), bytes: more.reduce((sum, n, i) => sum + n * slots[i]!.bytes, 0),
  };
}
