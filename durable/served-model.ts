// Brings a model up in an orchestrator: manifest, plan, shards, trunk, engine, in an order that lets the shards load at the same time.
// Owns the assembly and its progress. Refuses requests (orchestrator.ts) and sampling (scheduler.ts).

import { segmentCounts } from "../formats/load-model.ts";
import type { PackManifest } from "../formats/manifest.ts";
import type { Plan } from "../fleet/plan.ts";
import { Engine } from "../model/engine.ts";
import { bindTrunk } from "../model/trunk.ts";
import { packSource } from "./byte-sources.ts";
import type { ShardClient } from "./client.ts";
import type { DurableEnv } from "./env.ts";
import { maxSegmentsOf, openFanOut } from "./fan-out.ts";
import type { Tenant } from "./isolate.ts";
import { currentPack } from "./opened-packs.ts";
import { maxChunkTokens } from "./protocol.ts";

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

/** Loads everything. Throws SourceError, ModelError, CapacityError or ShardError; what was opened is closed again then. */
export async function bringUp(env: DurableEnv, tenant: Tenant, progress: Progress): Promise<ServedModel> {
  const { isolate } = tenant;
  const { limits } = isolate;
  const { manifest, packHash } = await currentPack(env);
  if (manifest.id !== env.PACK_ID) throw new Error(`${packSource(env).description} holds the pack "${manifest.id}"; the variable PACK_ID says "${env.PACK_ID}".`);
  const { config } = manifest;
  progress.pack = { id: manifest.id, hash: packHash, contextLength: manifest.contextLength };
  const fanOut = openFanOut(env, manifest, packHash, limits, isolate.inFlight);
  progress.expertTotalBytes = fanOut.plan.shardBytes.reduce((sum, bytes) => sum + bytes, 0);
  progress.clients = fanOut.clients;
  try {
    const connected = fanOut.connect();
    // The trunk may fail first; the shards' failure must not go unhandled then.
    connected.catch(() => undefined);
    const trunk = Object.entries(manifest.blobs).map(([name, blob]) => ({ name, blob }));
    progress.trunkTotalBytes = trunk.reduce((sum, { blob }) => sum + blob.bytes, 0);
    if (!tenant.adopt(trunk)) await tenant.load(packSource(env), manifest, trunk, (bytes) => { progress.trunkBytes = bytes; });
    progress.trunkBytes = progress.trunkTotalBytes;
    const chunkTokens = maxChunkTokens({ topK: config.router.topK, maxSegments: maxSegmentsOf(manifest), hidden: config.hiddenSize, activations: manifest.activations });
    const engine = new Engine({
      config, kernels: isolate.kernels, heap: tenant.heap, kvFormat: manifest.kvFormat, activations: manifest.activations, maxChunkTokens: chunkTokens,
      segmentCounts: segmentCounts(manifest), experts: fanOut.experts(tenant.heap, chunkTokens),
      trunk: bindTrunk(config, (name) => {
        const blob = manifest.blobs[name];
        return blob === undefined ? undefined : { ptr: tenant.ptrOf(blob.hash), format: blob.format, nRows: blob.rows, nCols: blob.cols };
      }),
    });
    await connected;
    return { manifest, packHash, plan: fanOut.plan, engine, clients: fanOut.clients };
  } catch (error) {
    fanOut.close("the model could not be loaded");
    tenant.freeOwn();
    throw error;
  }
}
