// Brings a model up in an orchestrator: manifest, plan, shards, trunk, engine, in an order that lets the shards load at the same time.
// Owns the assembly and its progress. Refuses requests (orchestrator.ts) and sampling (scheduler.ts).

import { bindPackTrunk, bindShared, segmentCounts } from "../formats/load-model.ts";
import type { PackManifest } from "../formats/manifest.ts";
import type { FleetPlan } from "../fleet/fleet-plan.ts";
import { Engine } from "../model/engine.ts";
import { MAX_ROUNDS } from "../model/experts.ts";
import { ExpertRunner, LocalExperts } from "../model/local-experts.ts";
import { packSource } from "./byte-sources.ts";
import type { ShardClient } from "./client.ts";
import type { DurableEnv } from "./env.ts";
import { fanOutOf, type FanOut, type ShardShare } from "./epoch-lines.ts";
import { EpochSwitch } from "./epoch-switch.ts";
import { defaultPlan, objectLines } from "./fan-out.ts";
import { givenPlan } from "./given-plan.ts";
import type { Tenant } from "./isolate.ts";
import { blobsOfSlots, maxSegmentsOf, maxSlotWidth, orchestratorMemory, plannedBytes, trunkBlobs, kvBytes } from "./memory-plan.ts";
import { currentPack } from "./opened-packs.ts";
import type { PlanInForce } from "./plan-in-force.ts";
import { maxChunkTokens } from "./protocol.ts";
import { bindSlots } from "./served-experts.ts";

export interface ServedModel {
  readonly manifest: PackManifest;
  readonly packHash: string;
  readonly engine: Engine;
  /** The plan in force and the lines to its shards; its `step` is the way to the engine's. */
  readonly epochs: EpochSwitch;
}

/** Progress while a model comes up; `clients` and `shares` fill as soon as the plan is known. */
export interface Progress {
  trunkBytes: number;
  trunkTotalBytes: number;
  /** The plan's; null before there is one. */
  epoch: number | null;
  clients: readonly ShardClient[];
  shares: readonly ShardShare[];
  pack: { readonly id: string; readonly hash: string; readonly contextLength: number } | null;
}

const show = (progress: Progress, { plan, clients, shares }: FanOut): void => void Object.assign(progress, { epoch: plan.epoch, clients, shares });

/** Loads everything. `plans`: who knows which plan is in force; without it that of the variables is. Throws SourceError, ModelError, CapacityError or ShardError; what was opened is closed again then. */
export async function bringUp(env: DurableEnv, tenant: Tenant, progress: Progress, plans: PlanInForce | null = null): Promise<ServedModel> {
  const { isolate } = tenant;
  const { limits } = isolate;
  const { manifest, packHash } = await currentPack(env);
  if (manifest.id !== env.PACK_ID) throw new Error(`${packSource(env).description} holds the pack "${manifest.id}"; the variable PACK_ID says "${env.PACK_ID}".`);
  const { config } = manifest;
  progress.pack = { id: manifest.id, hash: packHash, contextLength: manifest.contextLength };
  const initial = (await givenPlan(env, manifest, packHash)) ?? defaultPlan(env, manifest, packHash);
  const plan: FleetPlan = plans === null ? initial : await plans.atStart(initial);
  const live: { epochs: EpochSwitch | null } = { epochs: null };
  const lines = { ...objectLines(env, manifest, limits, isolate), stale: () => live.epochs?.stale() };
  const fanOut = fanOutOf(lines, plan);
  show(progress, fanOut);
  try {
    const connected = fanOut.connect();
    // The trunk may fail first; the shards' failure must not go unhandled then.
    connected.catch(() => undefined);
    const roundTokens = maxChunkTokens({ topK: config.router.topK, maxSegments: maxSegmentsOf(manifest), hidden: config.hiddenSize, activations: manifest.activations });
    const ranges = fanOut.ownSlots;
    const blobs = [...trunkBlobs(manifest), ...blobsOfSlots(manifest, ranges)];
    progress.trunkTotalBytes = blobs.reduce((sum, { blob }) => sum + blob.bytes, 0);
    // At least the shortest request must find room beside what is loaded.
    tenant.admit(plannedBytes(orchestratorMemory(manifest, { stepTokens: roundTokens, roundTokens, ranges }, limits)) + kvBytes(manifest, 1), `the trunk of pack ${manifest.id} and what running it takes`);
    if (!tenant.adopt(blobs)) await tenant.load(packSource(env), manifest, blobs, (bytes) => { progress.trunkBytes = bytes; });
    progress.trunkBytes = progress.trunkTotalBytes;
    await connected;
    // Where shards have threads of their own a step may be two rounds long: one is computed there while the other is here.
    const stepTokens = fanOut.clients.some((client) => client.elsewhere) ? Math.min(limits.chunkTokens, MAX_ROUNDS * roundTokens) : roundTokens;
    const own = ranges.length === 0 ? undefined : new LocalExperts(
      new ExpertRunner(isolate.kernels, tenant.heap, config, maxSlotWidth(manifest, ranges), roundTokens), bindSlots(tenant, manifest, ranges), config.hiddenSize);
    const frame = tenant.heap.alloc(limits.frameBytes, "frames");
    const epochs = new EpochSwitch({
      lines, plans, ownSlots: ranges, switched: (to) => show(progress, to),
      expertsOf: (of) => of.experts(tenant.heap, isolate.kernels, roundTokens, own === undefined ? undefined : () => own, frame),
    }, fanOut);
    live.epochs = epochs;
    const engine = new Engine({
      config, kernels: isolate.kernels, heap: tenant.heap, kvFormat: manifest.kvFormat, activations: manifest.activations, maxChunkTokens: stepTokens,
      maxRoundTokens: roundTokens, segmentCounts: segmentCounts(manifest), shared: bindShared(manifest, (hash) => tenant.ptrOf(hash)), experts: epochs.experts,
      trunk: bindPackTrunk(manifest, (hash) => tenant.ptrOf(hash)),
    });
    return { manifest, packHash, engine, epochs };
  } catch (error) {
    fanOut.close("the model could not be loaded");
    tenant.freeOwn();
    throw error;
  }
}
