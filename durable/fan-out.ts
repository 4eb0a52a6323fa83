// The lines from one orchestrator to the shards of a plan, and the experts behind them.
// Owns which shard has which slots, and the clients. Refuses the engine and its memory: whoever holds them asks for `experts`.

import type { PackManifest } from "../formats/manifest.ts";
import { makePlan, type Plan } from "../fleet/plan.ts";
import type { ModelConfig } from "../model/config.ts";
import type { Experts } from "../model/experts.ts";
import type { Heap } from "../model/heap.ts";
import type { Kernels } from "../model/kernels.ts";
import { MixedExperts, type LocalExperts } from "../model/local-experts.ts";
import { ShardClient } from "./client.ts";
import { SeededRandom, systemClock } from "./clock.ts";
import { orchestratorHoldsExperts, planUnit, shardCount, shardNamespace, shardRegion, strictIsolates, type DurableEnv } from "./env.ts";
import { PROTOCOL_VERSION } from "./handshake.ts";
import type { Isolate } from "./isolate.ts";
import type { Limits } from "./limits.ts";
import { ObjectTransport, shardName } from "./shard-transport.ts";
import { WebSocketExperts } from "./websocket-experts.ts";

/** What the plan gives a shard, known before anything is loaded. */
export interface ShardShare {
  readonly weightBytes: number;
  /** (layer, expert) pairs it holds something of. */
  readonly experts: number;
  /** Where it was asked to live; null where the platform chose. */
  readonly region: DurableObjectLocationHint | null;
}

export interface FanOut {
  readonly plan: Plan;
  readonly clients: readonly ShardClient[];
  /** Of each client, in its order. */
  readonly shares: readonly ShardShare[];
  /** Slots of the orchestrator itself; the last part of the placement when there are any. */
  readonly ownSlots: Plan["slots"][number];
  /** Connects every shard that has slots; rejects with ShardError. */
  connect(): Promise<unknown>;
  /** Experts for an engine over `heap` and its kernels with rounds of at most `maxTokens`: those behind the lines, and `own` for the own slots, without which a plan that has some is refused. */
  experts(heap: Heap, kernels: Pick<Kernels, "checksum">, maxTokens: number, own?: () => LocalExperts): Experts;
  close(reason: string): void;
}

/**
 * Fewest tokens of a step that are worth two rounds: each expert should still get about eight tokens in each half, the batch the
 * kernels are fastest with.
 */
export const overlapTokens = ({ nExperts, router }: ModelConfig): number => (router.topK === 0 ? Infinity : Math.ceil((16 * nExperts) / router.topK));

/** `isolate` is what the lines share with their neighbours: its name and its bytes in flight. */
export function openFanOut(env: DurableEnv, manifest: PackManifest, packHash: string, limits: Limits, isolate: Pick<Isolate, "name" | "inFlight">): FanOut {
  const { config, activations } = manifest;
  const nShards = shardCount(env);
  // The orchestrator's own share, if it has one, is the plan's last part.
  const nParts = nShards + (orchestratorHoldsExperts(env) ? 1 : 0);
  const plan = makePlan(manifest.experts.map(({ layer, expert, segments }) => ({ layer, expert, segmentBytes: segments.map((s) => s.bytes) })), nParts, planUnit(env));
  const shares = Array.from({ length: nShards }, (_, shard) => ({ weightBytes: plan.shardBytes[shard]!, experts: plan.shardExperts[shard]!, region: shardRegion(env, shard) }));
  const clients = plan.slots.slice(0, nShards).map((slots, shard) => new ShardClient({
    transport: (nameAttempt) => {
      const { region } = shares[shard]!;
      return new ObjectTransport(shardNamespace(env, shard), shardName(manifest.id, packHash, plan.epoch, shard, nParts, region, nameAttempt), region);
    },
    hello: { protocolVersion: PROTOCOL_VERSION, packHash, epoch: plan.epoch, slots, strictIsolates: strictIsolates(env) },
    // Jitter only has to differ between shards; it never touches a result.
    limits, clock: systemClock, random: new SeededRandom(shard + 1), budget: isolate.inFlight, isolate: isolate.name,
  }));
  return {
    plan, clients, shares, ownSlots: plan.slots[nShards] ?? [],
    // A shard without slots has nothing to say; it is never sent a frame either.
    connect: () => Promise.all(clients.filter((_, shard) => plan.slots[shard]!.length > 0).map((client) => client.connect())),
    experts: (heap, kernels, maxTokens, own) => {
      const onShards = new WebSocketExperts({
        clients, placement: { nParts, partOf: plan.shardOf }, heap, kernels, hidden: config.hiddenSize,
        activations, maxTokens, frameBytes: limits.frameBytes, overlapTokens: overlapTokens(config), clock: systemClock,
      });
      if (nParts === nShards) return onShards;
      if (own === undefined) throw new Error("The plan gives the orchestrator experts of its own, and nobody here computes them.");
      return new MixedExperts(onShards, own(), nShards);
    },
    close: (reason) => { for (const client of clients) client.close(reason); },
  };
}
