// What an isolate's WebAssembly memory will hold, from manifest and limits alone: weights, KV cache, scratch and frames, to the byte.
// Owns the sums; the sizes come from those who allocate them (engine-regions.ts, local-experts.ts, kv-cache.ts), so that plan and fact
// cannot drift apart. The ledger admits a load by it (isolate.ts), docs/memory.md shows it.
// Refuses the JS heap: that is measured, not planned.

import { segmentName, type NamedBlob, type PackExpert, type PackManifest } from "../formats/manifest.ts";
import { stageBlobs } from "../formats/stage-blobs.ts";
import { ModelError, expertInputSize } from "../model/config.ts";
import { engineRegions } from "../model/engine-regions.ts";
import { allocatedBytes } from "../model/heap.ts";
import { activationRowBytes, KV_BLOCK } from "../model/kernels.ts";
import { pageBytesOf } from "../model/kv-page.ts";
import { runnerRegions } from "../model/local-experts.ts";
import { isEmpty, wholeModel, type StageSpan } from "../model/stage-span.ts";
import { RESERVED_BYTES } from "../model/wasm-kernels.ts";
import type { SlotRange } from "./handshake.ts";
import type { Limits } from "./limits.ts";

/** What the plan reads of a manifest. */
export type PlannedPack = Pick<PackManifest, "id" | "config" | "kvFormat" | "activations" | "blobs" | "shared" | "experts">;

/** Bytes of one object by purpose, as the heap counts them. */
export interface MemoryPlan {
  readonly weightBytes: number;
  readonly scratchBytes: number;
  readonly frameBytes: number;
}

/** One segment of an expert that somebody holds. */
export interface Slot {
  readonly layer: number;
  readonly expert: number;
  readonly segment: number;
  readonly of: PackExpert;
}

const tables = new WeakMap<PlannedPack["experts"], ReadonlyMap<number, PackExpert>>();

/** A pack's experts by layer and number: asked for with every plan, and thousands in all. */
function tableOf({ experts }: PlannedPack): ReadonlyMap<number, PackExpert> {
  let table = tables.get(experts);
  if (table === undefined) tables.set(experts, (table = new Map(experts.map((entry) => [entry.layer * 65536 + entry.expert, entry]))));
  return table;
}

/** The slots of some ranges, in order. Throws ModelError when the pack has no such slot. */
export function* slotsOf(manifest: PlannedPack, ranges: readonly SlotRange[]): Iterable<Slot> {
  const table = tableOf(manifest);
  for (const { layer, expert, segments: [first, end] } of ranges) {
    const of = table.get(layer * 65536 + expert);
    if (of === undefined) throw new ModelError(`The plan asks for layer ${layer}, expert ${expert}, which pack ${manifest.id} does not have.`);
    if (first < 0 || end > of.segments.length || first >= end) {
      throw new ModelError(`The plan asks for segments ${first} to ${end} of layer ${layer}, expert ${expert}; it has ${of.segments.length}.`);
    }
    for (let segment = first; segment < end; segment++) yield { layer, expert, segment, of };
  }
}

/** The blobs behind the slots. Throws ModelError when the pack has no such slot. */
export const blobsOfSlots = (manifest: PlannedPack, ranges: readonly SlotRange[]): NamedBlob[] =>
  Array.from(slotsOf(manifest, ranges), ({ layer, expert, segment, of }) => ({ name: segmentName(layer, expert, segment), blob: of.segments[segment]! }));

/** The trunk's blobs, dense layers and shared experts among them; or what a stage holds of them. */
export const trunkBlobs = (manifest: PlannedPack, span: StageSpan = wholeModel(manifest.config)): NamedBlob[] => [...stageBlobs(manifest, span)];

/** Widest segment of the span's dense layers and shared experts; 0 where there are none. */
const sharedSegmentWidth = (manifest: PlannedPack, { layers: [first, end] }: StageSpan): number =>
  manifest.shared.filter(({ layer }) => layer >= first && layer < end).flatMap(({ segments }) => segments).reduce((most, { start, end: to }) => Math.max(most, to - start), 0);

/** Widest segment of the slots, in intermediate dimensions; at least 1. */
export function maxSlotWidth(manifest: PlannedPack, ranges: readonly SlotRange[]): number {
  let width = 1;
  for (const { segment, of } of slotsOf(manifest, ranges)) width = Math.max(width, of.segments[segment]!.end - of.segments[segment]!.start);
  return width;
}

/** Most segments any expert of the pack has. */
export const maxSegmentsOf = (manifest: PlannedPack): number => manifest.experts.reduce((most, { segments }) => Math.max(most, segments.length), 1);

/** Most tokens of one group in a frame: what its activations leave room for. */
export const frameTokens = (manifest: PlannedPack, limits: Limits): number =>
  Math.min(0xffff, Math.ceil(limits.frameBytes / activationRowBytes(manifest.activations, expertInputSize(manifest.config))));

/** Bytes of blobs in memory; equal ones share one copy. */
function weightBytes(blobs: readonly NamedBlob[]): number {
  const unique = new Map(blobs.map(({ blob }) => [blob.hash, blob.bytes]));
  let sum = 0;
  for (const bytes of unique.values()) sum += allocatedBytes(bytes);
  return sum;
}

const allocated = (regions: Readonly<Record<string, number>>): number => Object.values(regions).reduce((sum, bytes) => sum + (bytes === 0 ? 0 : allocatedBytes(bytes)), 0);

/** A shard that holds `ranges`: their weights, its runner's scratch, one request and one reply. */
export function shardMemory(manifest: PlannedPack, ranges: readonly SlotRange[], limits: Limits): MemoryPlan {
  return {
    weightBytes: weightBytes(blobsOfSlots(manifest, ranges)),
    scratchBytes: allocated(runnerRegions(expertInputSize(manifest.config), maxSlotWidth(manifest, ranges), frameTokens(manifest, limits))),
    frameBytes: 2 * allocatedBytes(limits.frameBytes),
  };
}

/** What an orchestrator, or one stage of a ring, is to hold and take at a time. */
export interface TrunkShare {
  readonly stepTokens: number;
  readonly roundTokens: number;
  /** Experts that it computes itself. */
  readonly ranges: readonly SlotRange[];
  /** Of the trunk; absent: all. */
  readonly span?: StageSpan;
}

/**
 * An orchestrator with steps of `stepTokens` in rounds of `roundTokens`, which holds the trunk, or its span of it, and the experts of `ranges`: weights, the
 * engine's regions, a runner where it has experts, and the frame in which requests are put together. Without KV cache.
 */
export function orchestratorMemory(manifest: PlannedPack, { stepTokens, roundTokens, ranges, span = wholeModel(manifest.config) }: TrunkShare, limits: Limits): MemoryPlan {
  const { config } = manifest;
  const runner = ranges.length === 0 ? 0 : allocated(runnerRegions(expertInputSize(config), maxSlotWidth(manifest, ranges), roundTokens));
  return {
    weightBytes: weightBytes([...trunkBlobs(manifest, span), ...blobsOfSlots(manifest, ranges)]),
    scratchBytes: allocated(engineRegions(config, { nTokens: stepTokens, maxSegments: maxSegmentsOf(manifest), sharedSegmentWidth: sharedSegmentWidth(manifest, span), span })) + runner,
    // A stage without layers asks nobody.
    frameBytes: isEmpty(span.layers) ? 0 : allocatedBytes(limits.frameBytes),
  };
}

/** A page of the KV cache: 32 positions of `nLayers` layers, as it lies in memory. */
export const pageBytes = ({ config, kvFormat }: PlannedPack, nLayers: number): number =>
  (nLayers === 0 ? 0 : allocatedBytes(pageBytesOf(config, kvFormat, nLayers)));

/** KV cache of one request of `nTokens` positions: pages of 32 positions over all layers, and their table. */
export function kvBytes(manifest: PlannedPack, nTokens: number): number {
  const nPages = Math.ceil(nTokens / KV_BLOCK);
  return nPages * pageBytes(manifest, manifest.config.nLayers) + allocatedBytes(nPages * 4);
}

/** Bytes of the isolate's memory, which grows in pages of 64 KiB behind a reserved head. */
export const linearMemoryBytes = (usedBytes: number): number => RESERVED_BYTES + Math.ceil(usedBytes / 65536) * 65536;

export const plannedBytes = (plan: MemoryPlan): number => plan.weightBytes + plan.scratchBytes + plan.frameBytes;
