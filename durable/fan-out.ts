// The lines from one orchestrator to the shards of a plan, and the experts behind them.
// Owns which shard has which slots, and the clients. Refuses the engine and its memory: whoever holds them asks for `experts`.

import type { PackManifest } from "../formats/manifest.ts";
import { makePlan, type Plan } from "../fleet/plan.ts";
import type { Heap } from "../model/heap.ts";
import { InFlightBudget, ShardClient } from "./client.ts";
import { SeededRandom, systemClock } from "./clock.ts";
import { planUnit, shardCount, strictIsolates, type DurableEnv } from "./env.ts";
import { PROTOCOL_VERSION } from "./handshake.ts";
import type { Limits } from "./limits.ts";
import { ObjectTransport, shardName } from "./shard-transport.ts";
import { WebSocketExperts } from "./websocket-experts.ts";

export interface FanOut {
  readonly plan: Plan;
  readonly clients: readonly ShardClient[];
  /** Connects every shard that has slots; rejects with ShardError. */
  connect(): Promise<unknown>;
  /** Experts behind the lines, for an engine over `heap` with steps of at most `maxTokens`. */
  experts(heap: Heap, maxTokens: number): WebSocketExperts;
  close(reason: string): void;
}

/** Most segments any expert of the pack has. */
export const maxSegmentsOf = (manifest: PackManifest): number => Math.max(1, ...manifest.experts.map(({ segments }) => segments.length));

export function openFanOut(env: DurableEnv, manifest: PackManifest, packHash: string, limits: Limits, budget: InFlightBudget): FanOut {
  const { config, activations } = manifest;
  const nShards = shardCount(env);
  const plan = makePlan(manifest.experts.map(({ layer, expert, segments }) => ({ layer, expert, segmentBytes: segments.map((s) => s.bytes) })), nShards, planUnit(env));
  const clients = plan.slots.map((slots, shard) => new ShardClient({
    transport: (nameAttempt) => new ObjectTransport(env.SHARDS, shardName(manifest.id, packHash, plan.epoch, shard, nShards, nameAttempt)),
    hello: { protocolVersion: PROTOCOL_VERSION, packHash, epoch: plan.epoch, slots, strictIsolates: strictIsolates(env) },
    // Jitter only has to differ between shards; it never touches a result.
    limits, clock: systemClock, random: new SeededRandom(shard + 1), budget,
  }));
  return {
    plan, clients,
    // A shard without slots has nothing to say; it is never sent a frame either.
    connect: () => Promise.all(clients.filter((_, shard) => plan.slots[shard]!.length > 0).map((client) => client.connect())),
    experts: (heap, maxTokens) => new WebSocketExperts({
      clients, shardOf: (layer, expert, segment) => plan.shardOf(layer, expert, segment), heap, hidden: config.hiddenSize,
      activations, maxTokens, frameBytes: limits.frameBytes,
    }, config.nExperts * maxSegmentsOf(manifest)),
    close: (reason) => { for (const client of clients) client.close(reason); },
  };
}
