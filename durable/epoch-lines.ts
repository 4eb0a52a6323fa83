// The lines from one orchestrator to the shards of a plan, and the experts behind them: all of one epoch.
// Owns which shard has which slots, who may give bytes to whom, and the clients. Refuses the engine and its memory (whoever holds them asks for
// `experts`), and what a shard is on this platform (fan-out.ts).

import type { FleetPlan } from "../fleet/fleet-plan.ts";
import type { PlannedRange } from "../fleet/plan.ts";
import type { PackManifest } from "../formats/manifest.ts";
import type { ModelConfig } from "../model/config.ts";
import type { Experts } from "../model/experts.ts";
import type { Heap } from "../model/heap.ts";
import type { Kernels } from "../model/kernels.ts";
import { MixedExperts, type LocalExperts } from "../model/local-experts.ts";
import { ShardClient } from "./client.ts";
import { SeededRandom, type Clock } from "./clock.ts";
import type { ShardTransport } from "./frame-socket.ts";
import { PROTOCOL_VERSION, type Donor } from "./handshake.ts";
import type { Isolate } from "./isolate.ts";
import type { Limits } from "./limits.ts";
import { slotsOf } from "./memory-plan.ts";
import { ReplicaChoice } from "./replica-choice.ts";
import type { StepTerms } from "./step-terms.ts";
import { WebSocketExperts } from "./websocket-experts.ts";

/** What the plan gives a shard, known before anything is loaded. */
export interface ShardShare {
  readonly weightBytes: number;
  /** (layer, expert) pairs it holds something of. */
  readonly experts: number;
  /** Where it was asked to live; null where the platform chose. */
  readonly region: string | null;
}

export interface FanOut {
  readonly plan: FleetPlan;
  readonly clients: readonly ShardClient[];
  /** Of each client, in its order. */
  readonly shares: readonly ShardShare[];
  /** Slots of the orchestrator itself; the last part of the placement when there are any. */
  readonly ownSlots: readonly PlannedRange[];
  readonly placement: ReplicaChoice;
  /** Connects every shard that has slots; rejects with ShardError. */
  connect(): Promise<unknown>;
  /**
   * Experts for an engine over `heap` and its kernels with rounds of at most `maxTokens`: those behind the lines, and `own` for the own slots, without which a
   * plan that has some is refused. `frame`: address of a frame in the heap that those of another epoch use too; without it one is allocated.
   */
  experts(heap: Heap, kernels: Pick<Kernels, "checksum">, maxTokens: number, own?: () => LocalExperts, frame?: number): Experts;
  /** Ends the lines as soon as nothing is in flight. */
  finish(): void;
  close(reason: string): void;
}

/**
 * Fewest tokens of a step that are worth two rounds: each expert should still get about eight tokens in each half, the batch the
 * kernels are fastest with.
 */
export const overlapTokens = ({ nExperts, router }: ModelConfig): number => (router.topK === 0 ? Infinity : Math.ceil((16 * nExperts) / router.topK));

/** What lines are made of, apart from their plan. */
export interface LineParts {
  readonly manifest: PackManifest;
  readonly limits: Limits;
  readonly clock: Clock;
  readonly strictIsolates: boolean;
  /** What the lines share with their neighbours: the isolate's name and its bytes in flight. */
  readonly isolate: Pick<Isolate, "name" | "inFlight">;
  readonly transport: (plan: FleetPlan, shard: number, nameAttempt: number) => ShardTransport;
  /** A shard has ended the plan's epoch. */
  readonly stale?: () => void;
  /** Of the step under way; absent: every step waits for shards that are away. */
  readonly terms?: StepTerms;
  /** Of the ring, whose layers' shards these lines lead to; 0 where there is no other. */
  readonly stage: number;
}

/** `before`: the lines of the epoch in force, whose shards can give their bytes to those of this one. */
export function fanOutOf(of: LineParts, plan: FleetPlan, before: FanOut | null = null): FanOut {
  const { manifest, limits, clock, isolate, stale } = of;
  const { config, activations } = manifest;
  const { slots: ownSlots, layers: [firstLayer, endLayer] } = plan.stages[of.stage]!;
  const shares = plan.shards.map(({ slots, region }): ShardShare => ({
    weightBytes: [...slotsOf(manifest, slots)].reduce((sum, { segment, of: expert }) => sum + expert.segments[segment]!.bytes, 0),
    experts: new Set(slots.map(({ layer, expert }) => layer * 65536 + expert)).size, region,
  }));
  const clients = plan.shards.map(({ slots }, shard) => new ShardClient({
    transport: (nameAttempt) => of.transport(plan, shard, nameAttempt),
    hello: {
      protocolVersion: PROTOCOL_VERSION, packHash: plan.packHash, epoch: plan.epoch, slots, strictIsolates: of.strictIsolates,
      donors: before === null ? [] : donorsOf(shard, slots, before),
    },
    // Jitter only has to differ between shards; it never touches a result.
    limits, clock, random: new SeededRandom(shard + 1), budget: isolate.inFlight, isolate: isolate.name, ...(stale === undefined ? {} : { stale }),
  }));
  const placement = new ReplicaChoice([...plan.shards.map(({ slots }) => slots), ...(ownSlots.length === 0 ? [] : [ownSlots])], clients);
  return {
    plan, clients, shares, ownSlots, placement,
    // A shard without slots of these layers has nothing to say here; it is never sent a frame either.
    connect: () => Promise.all(clients.filter((_, shard) => plan.shards[shard]!.slots.some(({ layer }) => layer >= firstLayer && layer < endLayer)).map((client) => client.connect())),
    experts: (heap, kernels, maxTokens, own, frame) => {
      const onShards = new WebSocketExperts({
        clients, placement, heap, kernels, config, frame: frame ?? heap.alloc(limits.frameBytes, "frames"),
        activations, maxTokens, frameBytes: limits.frameBytes, overlapTokens: overlapTokens(config), clock, limits, ...(of.terms === undefined ? {} : { terms: of.terms }),
      });
      if (ownSlots.length === 0) return onShards;
      if (own === undefined) throw new Error("The plan gives the orchestrator experts of its own, and nobody here computes them.");
      return new MixedExperts(onShards, own(), clients.length);
    },
    finish: () => { for (const client of clients) client.finish(`epoch ${plan.epoch} is over`); },
    close: (reason) => { for (const client of clients) client.close(reason); },
  };
}

/** Shards of the epoch before that hold some of `slots`, `shard` itself left out. */
function donorsOf(shard: number, slots: readonly PlannedRange[], before: FanOut): Donor[] {
  const wanted = new Map<number, PlannedRange[]>();
  for (const range of slots) wanted.set(key(range), [...(wanted.get(key(range)) ?? []), range]);
  return before.plan.shards.flatMap(({ slots: held }, donor) => {
    if (donor === shard) return [];
    const shared = held.filter((range) => wanted.get(key(range))?.some(({ segments: [first, end] }) => first < range.segments[1] && range.segments[0] < end) === true);
    return shared.length === 0 ? [] : [{ shard: donor, name: before.clients[donor]!.name, slots: shared }];
  });
}

const key = ({ layer, expert }: PlannedRange): number => layer * 65536 + expert;
