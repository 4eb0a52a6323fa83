// Brings a model up in an orchestrator: manifest, plan, shards, trunk, engine, in an order that lets the shards load at the same time.
// Owns the assembly and its progress. Refuses requests (orchestrator.ts) and sampling (scheduler.ts).

import type { PackManifest } from "../formats/manifest.ts";
import { makePlan, type Plan } from "../fleet/plan.ts";
import { Engine } from "../model/engine.ts";
import { bindTrunk } from "../model/trunk.ts";
import { packSource } from "./byte-sources.ts";
import { ShardClient } from "./client.ts";
import { SeededRandom, systemClock } from "./clock.ts";
import { planUnit, shardCount, strictIsolates, type DurableEnv } from "./env.ts";
import { PROTOCOL_VERSION } from "./handshake.ts";
import type { Tenant } from "./isolate.ts";
import { currentPack } from "./opened-packs.ts";
import { maxChunkTokens } from "./protocol.ts";
import { ObjectTransport, shardName } from "./shard-transport.ts";
import { WebSocketExperts } from "./websocket-experts.ts";

export interface ServedModel {
  readonly manifest: PackManifest;
  readonly packHash: string;
  readonly plan: Plan;
  readonly engine: Engine;
  readonly clients: readonly ShardClient[];
}

/** Progress while a model comes up; `clients` fills as soon as the plan is known. */
export interface Progress {
  trunkBytes: number;
  trunkTotalBytes: number;
  expertTotalBytes: number;
  clients: readonly ShardClient[];
  pack: { readonly id: string; readonly hash: string; readonly contextLength: number } | null;
}

/** Segments of each expert, [layer][expert]; empty for layers without experts. */
export function segmentCounts(manifest: PackManifest): number[][] {
  const counts: number[][] = Array.from({ length: manifest.config.nLayers }, () => []);
  for (const { layer, expert, segments } of manifest.experts) counts[layer]![expert] = segments.length;
  return counts;
}

/** Loads everything. Throws SourceError, ModelError, CapacityError or ShardError; what was opened is closed again then. */
export async function bringUp(env: DurableEnv, tenant: Tenant, progress: Progress): Promise<ServedModel> {
  const { isolate } = tenant;
  const { limits } = isolate;
  const { manifest, packHash } = await currentPack(env);
  if (manifest.id !== env.PACK_ID) throw new Error(`${packSource(env).description} holds the pack "${manifest.id}"; the variable PACK_ID says "${env.PACK_ID}".`);
  const { config } = manifest;
  progress.pack = { id: manifest.id, hash: packHash, contextLength: manifest.contextLength };
  const nShards = shardCount(env);
  const plan = makePlan(manifest.experts.map(({ layer, expert, segments }) => ({ layer, expert, segmentBytes: segments.map((s) => s.bytes) })), nShards, planUnit(env));
  progress.expertTotalBytes = plan.shardBytes.reduce((sum, bytes) => sum + bytes, 0);
  const clients = plan.slots.map((slots, shard) => new ShardClient({
    transport: (nameAttempt) => new ObjectTransport(env.SHARDS, shardName(manifest.id, packHash, plan.epoch, shard, nShards, nameAttempt)),
    hello: { protocolVersion: PROTOCOL_VERSION, packHash, epoch: plan.epoch, slots, strictIsolates: strictIsolates(env) },
    // Jitter only has to differ between shards; it never touches a result.
    limits, clock: systemClock, random: new SeededRandom(shard + 1), budget: isolate.inFlight,
  }));
  progress.clients = clients;
  try {
    // A shard without slots has nothing to say; it is never sent a frame either.
    const connected = Promise.all(clients.filter((_, shard) => plan.slots[shard]!.length > 0).map((client) => client.connect()));
    // The trunk may fail first; the shards' failure must not go unhandled then.
    connected.catch(() => undefined);
    const trunk = Object.entries(manifest.blobs).map(([name, blob]) => ({ name, blob }));
    progress.trunkTotalBytes = trunk.reduce((sum, { blob }) => sum + blob.bytes, 0);
    if (!tenant.adopt(trunk)) await tenant.load(packSource(env), manifest, trunk, (bytes) => { progress.trunkBytes = bytes; });
    progress.trunkBytes = progress.trunkTotalBytes;
    const counts = segmentCounts(manifest);
    const maxSegments = Math.max(1, ...counts.flat());
    const chunkTokens = maxChunkTokens({ topK: config.router.topK, maxSegments, hidden: config.hiddenSize, activations: manifest.activations });
    const engine = new Engine({
      config, kernels: isolate.kernels, heap: tenant.heap, kvFormat: manifest.kvFormat, activations: manifest.activations, maxChunkTokens: chunkTokens,
      segmentCounts: counts,
      trunk: bindTrunk(config, (name) => {
        const blob = manifest.blobs[name];
        return blob === undefined ? undefined : { ptr: tenant.ptrOf(blob.hash), format: blob.format, nRows: blob.rows, nCols: blob.cols };
      }),
      experts: new WebSocketExperts({
        clients, shardOf: (layer, expert, segment) => plan.shardOf(layer, expert, segment), heap: tenant.heap, hidden: config.hiddenSize,
        activations: manifest.activations, maxTokens: chunkTokens, frameBytes: limits.frameBytes,
      }, config.nExperts * maxSegments),
    });
    await connected;
    return { manifest, packHash, plan, engine, clients };
  } catch (error) {
    for (const client of clients) client.close("the model could not be loaded");
    tenant.freeOwn();
    throw error;
  }
}
