// One engine of a deployment brought up in its object: lines to the shards of its layers, its part of the trunk, the experts it computes itself. A sole
// orchestrator is the one part there is. Owns the order that lets shards load at the same time, and that nothing stays open after a failure.
// Refuses requests (orchestrator.ts), rings (stage.ts, ring-line.ts) and plans (plan-in-force.ts).

import { bindPackTrunk, bindShared, segmentCounts } from "../formats/load-model.ts";
import type { FleetPlan } from "../fleet/fleet-plan.ts";
import { Engine } from "../model/engine.ts";
import { MAX_ROUNDS } from "../model/experts.ts";
import { allocatedBytes } from "../model/heap.ts";
import { KV_BLOCK } from "../model/kernels.ts";
import { ExpertRunner, LocalExperts } from "../model/local-experts.ts";
import { isEmpty } from "../model/stage-span.ts";
import type { ShardClient } from "./client.ts";
import type { DurableEnv } from "./env.ts";
import { fanOutOf, type FanOut, type ShardShare } from "./epoch-lines.ts";
import { EpochSwitch } from "./epoch-switch.ts";
import { objectLines } from "./fan-out.ts";
import type { Tenant } from "./isolate.ts";
import { blobsOfSlots, kvBytes, maxSegmentsOf, maxSlotWidth, orchestratorMemory, pageBytes, plannedBytes, trunkBlobs } from "./memory-plan.ts";
import type { OpenPack } from "../formats/pack-reader.ts";
import type { PlanInForce } from "./plan-in-force.ts";
import { maxChunkTokens } from "./protocol.ts";
import { bindSlots } from "./served-experts.ts";
import type { PassOutages, StageCoreParts } from "./stage-core.ts";
import { StagePages } from "./stage-pages.ts";
import { StepTerms } from "./step-terms.ts";
import type { TrunkReads } from "./weight-reads.ts";

/** Progress while a part comes up; `clients` and `shares` fill as soon as the plan is known. */
export interface PartProgress {
  trunkBytes: number;
  trunkTotalBytes: number;
  /** The plan's; null before there is one. */
  epoch: number | null;
  clients: readonly ShardClient[];
  shares: readonly ShardShare[];
}

export const noProgress = (): PartProgress => ({ trunkBytes: 0, trunkTotalBytes: 0, epoch: null, clients: [], shares: [] });

export interface PartWish {
  readonly env: DurableEnv;
  readonly tenant: Tenant;
  readonly pack: OpenPack;
  readonly plan: FleetPlan;
  /** Number in the plan's stages. */
  readonly stage: number;
  /** Null: nobody asks for another plan, and none is kept. */
  readonly plans: PlanInForce | null;
  readonly progress: PartProgress;
  /** The way to the trunk's bytes. */
  readonly reads: TrunkReads;
}

export interface StagePart {
  readonly engine: Engine;
  /** The plan in force and the lines to its shards. */
  readonly epochs: EpochSwitch;
  /** Of the step under way. */
  readonly terms: StepTerms;
  close(reason: string): void;
}

const show = (progress: PartProgress, { plan, clients, shares }: FanOut): void => void Object.assign(progress, { epoch: plan.epoch, clients, shares });

/** Loads everything. Throws SourceError, ModelError, CapacityError or ShardError; what was opened is closed again then. */
export async function openPart({ env, tenant, pack: { manifest }, plan, stage, plans, progress, reads }: PartWish): Promise<StagePart> {
  const { isolate } = tenant;
  const { limits } = isolate;
  const { config } = manifest;
  const span = plan.stages[stage]!;
  const live: { epochs: EpochSwitch | null } = { epochs: null };
  const lines = { ...objectLines(env, manifest, limits, isolate, stage), stale: () => live.epochs?.stale(), terms: new StepTerms() };
  const fanOut = fanOutOf(lines, plan);
  show(progress, fanOut);
  try {
    const connected = fanOut.connect();
    // The trunk may fail first; the shards' failure must not go unhandled then.
    connected.catch(() => undefined);
    const roundTokens = maxChunkTokens(config, maxSegmentsOf(manifest), manifest.activations);
    const ranges = fanOut.ownSlots;
    const blobs = [...trunkBlobs(manifest, span), ...blobsOfSlots(manifest, ranges)];
    progress.trunkTotalBytes = blobs.reduce((sum, { blob }) => sum + blob.bytes, 0);
    const nLayers = span.layers[1] - span.layers[0];
    // At least the shortest request must find room beside what is loaded.
    const leastBytes = nLayers === config.nLayers ? kvBytes(manifest, 1) : pageBytes(manifest, nLayers);
    tenant.admit(plannedBytes(orchestratorMemory(manifest, { stepTokens: roundTokens, roundTokens, ranges, span }, limits)) + leastBytes, `${partWords(plan, stage)} of pack ${manifest.id} and what running it takes`);
    if (!tenant.adopt(blobs)) await reads.load(manifest, blobs, (bytes) => { progress.trunkBytes = bytes; });
    progress.trunkBytes = progress.trunkTotalBytes;
    await connected;
    // Where shards have threads of their own a step may be two rounds long: one is computed there while the other is here.
    // In a ring the stages overlap already.
    const stepTokens = plan.stages.length === 1 && fanOut.clients.some((client) => client.elsewhere) ? Math.min(limits.chunkTokens, MAX_ROUNDS * roundTokens) : roundTokens;
    const own = ranges.length === 0 ? undefined : new LocalExperts(
      new ExpertRunner(isolate.kernels, tenant.heap, config, maxSlotWidth(manifest, ranges), roundTokens), bindSlots(tenant, manifest, ranges));
    const frame = isEmpty(span.layers) ? 0 : tenant.heap.alloc(limits.frameBytes, "frames");
    const epochs = new EpochSwitch({
      lines, plans, ownSlots: ranges, switched: (to) => show(progress, to),
      expertsOf: (of) => of.experts(tenant.heap, isolate.kernels, roundTokens, own === undefined ? undefined : () => own, frame),
    }, fanOut);
    live.epochs = epochs;
    const ptrOf = (hash: string): number => tenant.ptrOf(hash);
    const engine = new Engine({
      config, kernels: isolate.kernels, heap: tenant.heap, kvFormat: manifest.kvFormat, activations: manifest.activations, maxChunkTokens: stepTokens,
      maxRoundTokens: roundTokens, segmentCounts: segmentCounts(manifest), shared: bindShared(manifest, ptrOf, span), experts: epochs.experts,
      trunk: bindPackTrunk(manifest, ptrOf, span),
    });
    return {
      engine, epochs, terms: lines.terms,
      close: (reason) => {
        epochs.experts.current.fanOut.close(reason);
        tenant.freeOwn();
      },
    };
  } catch (error) {
    fanOut.close("the model could not be loaded");
    tenant.freeOwn();
    throw error;
  }
}

/** Pages for the part's layers in what room there is beside it, and how many that are. Throws CapacityError where not even their tables fit. */
export function openPages({ engine }: StagePart, tenant: Tenant): { readonly pages: StagePages; readonly most: number } {
  const { kv: { pageBytes: bytes }, contextLength } = engine;
  const entries = tenant.isolate.limits.activeGenerations;
  const pagesPerTimeline = Math.ceil(contextLength / KV_BLOCK);
  const most = bytes === 0 ? Infinity : Math.floor((tenant.roomBytes - allocatedBytes(entries * pagesPerTimeline * 4)) / allocatedBytes(bytes));
  return { pages: new StagePages({ heap: tenant.heap, pageBytes: bytes, most, entries, pagesPerTimeline }), most };
}

/** Its passes, each in one epoch of the plan. `passed` is called after each. */
export const inEpochs = ({ engine, epochs }: StagePart, passed: () => void = () => {}): StageCoreParts["engine"] => ({
  config: engine.config, span: engine.span, answers: (asks, finals) => engine.answers(asks, finals),
  pass: (pass, taps) => epochs.step(() => engine.pass(pass, taps)).finally(passed),
});

/** Its lines to shards, as passes go by terms. */
export const outagesOf = ({ epochs, terms }: StagePart): PassOutages => ({
  during: (of, pass) => terms.during(of, pass),
  away: () => epochs.clients.filter(({ isAway }) => isAway).map(({ name }) => name),
});

const partWords = ({ stages }: FleetPlan, stage: number): string => (stages.length === 1 ? "the trunk" : `stage ${stage} of ${stages.length} of the trunk`);
