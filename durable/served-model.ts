// Brings a model up in an orchestrator: the pack as it is now, the plan in force, its own part, and the other stages of the ring where there are any.
// Owns the assembly and its progress. Refuses requests (orchestrator.ts) and sampling (scheduler.ts).

import type { FleetPlan } from "../fleet/fleet-plan.ts";
import type { PackManifest } from "../formats/manifest.ts";
import type { OpenPack } from "../formats/pack-reader.ts";
import type { StepResult } from "../model/step.ts";
import { allocatedBytes } from "../model/heap.ts";
import { KV_BLOCK } from "../model/kernels.ts";
import { KvCache } from "../model/kv-cache.ts";
import type { Tap } from "../model/taps.ts";
import { packSource } from "./byte-sources.ts";
import { SeededRandom, systemClock } from "./clock.ts";
import { strictIsolates, type DurableEnv } from "./env.ts";
import type { EpochSwitch } from "./epoch-switch.ts";
import { defaultPlan } from "./fan-out.ts";
import { givenPlan } from "./given-plan.ts";
import type { Tenant } from "./isolate.ts";
import type { ManifestCache } from "./manifest-cache.ts";
import { currentPack } from "./opened-packs.ts";
import { PageNumbers } from "./page-numbers.ts";
import { placeOf } from "./place-names.ts";
import type { PlanInForce } from "./plan-in-force.ts";
import { RingEngine, type RingHandlers } from "./ring-engine.ts";
import { RingFigures } from "./ring-figures.ts";
import { RingLine } from "./ring-line.ts";
import type { StepEngine } from "./scheduler.ts";
import { StageCore } from "./stage-core.ts";
import { RING_PROTOCOL_VERSION } from "./stage-handshake.ts";
import { StageObject } from "./stage-objects.ts";
import { inEpochs, noProgress, openPages, openPart, outagesOf, type PartProgress, type StagePart } from "./stage-part.ts";
import type { TrunkReads } from "./weight-reads.ts";

export interface ServedModel {
  readonly manifest: PackManifest;
  readonly packHash: string;
  /** For the scheduler: each step in one epoch of the plan. */
  readonly engine: StepEngine;
  readonly kv: KvCache;
  /** Positions of the KV cache that are in no use. */
  readonly freeKvPositions: () => number;
  /** The plan in force and the lines to the shards of the own layers. */
  readonly epochs: EpochSwitch;
  /** Null where one object holds everything. */
  readonly ring: RingEngine | null;
  /** What the other stages know of their layers; null where there are none. */
  readonly figures: RingFigures | null;
}

/** How far another stage of the ring has come. */
export interface StageProgress {
  readonly name: string;
  loadedBytes: number;
  totalBytes: number;
  isReady: boolean;
}

/** Progress while a model comes up; of the ring, too, whose last stage connects before all is up. */
export interface Progress extends PartProgress {
  pack: { readonly id: string; readonly hash: string; readonly contextLength: number } | null;
  line: RingLine | null;
  stages: readonly StageProgress[];
}

export const startProgress = (): Progress => ({ ...noProgress(), pack: null, line: null, stages: [] });

export interface ModelHost {
  readonly env: DurableEnv;
  readonly tenant: Tenant;
  /** Own name, after which the ring's other stages are named. */
  readonly name: string;
  /** Who knows which plan is in force; without it that of the variables is. */
  readonly plans: PlanInForce | null;
  readonly reads: TrunkReads;
  readonly manifests: ManifestCache | null;
}

/** Loads everything. Throws SourceError, ModelError, CapacityError or ShardError; what was opened is closed again then. */
export async function bringUp({ env, tenant, name, plans, reads, manifests }: ModelHost, progress: Progress): Promise<ServedModel> {
  const pack = await currentPack(env, manifests);
  const { manifest, packHash } = pack;
  if (manifest.id !== env.PACK_ID) throw new Error(`${packSource(env).description} holds the pack "${manifest.id}"; the variable PACK_ID says "${env.PACK_ID}".`);
  progress.pack = { id: manifest.id, hash: packHash, contextLength: manifest.contextLength };
  const initial = (await givenPlan(env, manifest, packHash)) ?? defaultPlan(env, manifest, packHash);
  const plan: FleetPlan = plans === null ? initial : await plans.atStart(initial);
  // The other stages load while this one does.
  const transports = plan.stages.slice(1).map((_, i) => new StageObject(env, plan, name, placeOf(name).lane, i + 1));
  const line = transports.length === 0 ? null : (progress.line = ringLine(env, tenant, name, plan, transports, progress));
  const relay: { engine: RingEngine | null } = { engine: null };
  const handlers: RingHandlers = { frame: (frame) => relay.engine?.received(frame), lost: (ring) => relay.engine?.lost(ring) };
  const opening = line?.open(handlers);
  opening?.catch(() => undefined);
  const part = await openPart({ env, tenant, pack, plan, stage: 0, plans, progress, reads }).catch((cause: unknown) => {
    line?.close("the model could not be loaded");
    throw cause;
  });
  if (line === null || opening === undefined) return sole(pack, part, tenant);
  try {
    const first = await opening;
    const { pages, most } = openPages(part, tenant);
    const numbers = new PageNumbers(Math.min(most, first.pages));
    const kv = new KvCache(numbers, manifest.config, manifest.contextLength);
    const ring = new RingEngine({
      engine: part.engine, core: new StageCore({ engine: inEpochs(part), pages, stage: 0, outages: outagesOf(part) }), kv, numbers, spans: plan.stages, links: line, first, epoch: plan.epoch, clock: systemClock,
      limits: tenant.isolate.limits, entries: tenant.isolate.limits.activeGenerations, maxChunkTokens: Math.min(part.engine.maxChunkTokens, first.chunkTokens),
    });
    relay.engine = ring;
    const { nLayers, nExperts } = manifest.config;
    const figures = new RingFigures({ stages: transports, nCounters: nLayers * nExperts, work: () => ring.work, clock: systemClock, limits: tenant.isolate.limits });
    return { manifest, packHash, engine: ring, kv, freeKvPositions: () => KV_BLOCK * (numbers.unused + kv.idlePages), epochs: part.epochs, ring, figures };
  } catch (error) {
    line.close("the model could not be loaded");
    part.close("the model could not be loaded");
    throw error;
  }
}

function sole({ manifest, packHash }: OpenPack, { engine, epochs, terms }: StagePart, tenant: Tenant): ServedModel {
  const { config, kv, maxChunkTokens, contextLength } = engine;
  return {
    manifest, packHash, epochs, kv, ring: null, figures: null, freeKvPositions: () => KV_BLOCK * (kv.idlePages + Math.max(0, Math.floor(tenant.roomBytes / allocatedBytes(kv.pageBytes)))),
    engine: {
      config, kv, maxChunkTokens, contextLength,
      step: (entries, taps = [], of = null) => {
        const run = (all: readonly Tap[]): Promise<StepResult> => epochs.step(() => engine.step(entries, all));
        return of === null ? run(taps) : terms.during(of, () => run(of.leavesOut ? [of.leftOut.tap, ...taps] : taps));
      },
      outages: { isAway: (shard) => epochs.clients.some(({ name, isAway }) => name === shard && isAway) },
    },
  };
}

function ringLine(env: DurableEnv, tenant: Tenant, name: string, plan: FleetPlan, transports: readonly StageObject[], progress: Progress): RingLine {
  const stages = transports.map((transport): StageProgress => ({ name: transport.name, loadedBytes: 0, totalBytes: 0, isReady: false }));
  progress.stages = stages;
  return new RingLine({
    transports, hello: { protocolVersion: RING_PROTOCOL_VERSION, plan, lane: placeOf(name).lane, first: name, strictIsolates: strictIsolates(env) }, limits: tenant.isolate.limits, clock: systemClock,
    // Numbers of rings, and jitter: neither ever touches a result.
    random: new SeededRandom(crypto.getRandomValues(new Uint32Array(1))[0]!),
    onProgress: (stage, loadedBytes, totalBytes, isReady) => void Object.assign(stages[stage - 1]!, { loadedBytes, totalBytes, isReady }),
  });
}
