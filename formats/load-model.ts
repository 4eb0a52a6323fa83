// A whole pack into one memory: trunk and every expert, for the command line, the simulator and tests.
// Owns addresses of blobs and their binding to the engine's fields. Refuses partial models: shards load their slots through
// the weight ledger of durable/ instead.

import type { Heap } from "../model/heap.ts";
import { formatCode } from "../model/kernels.ts";
import type { SegmentLookup, SegmentWeights } from "../model/local-experts.ts";
import { bindTrunk, type TrunkWeights } from "../model/trunk.ts";
import type { ByteSource } from "./byte-source.ts";
import { type PackManifest, segmentName, trunkBlobsOf } from "./manifest.ts";
import { type BlobTarget, loadBlobs } from "./pack-reader.ts";

export interface LoadedModel {
  readonly trunk: TrunkWeights;
  readonly lookup: SegmentLookup;
  /** [layer][expert]; empty rows for layers without experts. */
  readonly segmentCounts: number[][];
  /** Dense layers and shared experts, by layer; empty for layers without. */
  readonly shared: SegmentWeights[][];
  /** Widest segment in intermediate dimensions. */
  readonly maxSegmentWidth: number;
}

/** Segments per expert, [layer][expert]. */
export function segmentCounts(manifest: PackManifest): number[][] {
  const counts: number[][] = Array.from({ length: manifest.config.nLayers }, () => []);
  for (const { layer, expert, segments } of manifest.experts) counts[layer]![expert] = segments.length;
  return counts;
}

/** Dense layers and shared experts by layer, where `ptrOf` says that blobs lie. */
export function bindShared(manifest: Pick<PackManifest, "config" | "shared">, ptrOf: (hash: string) => number): SegmentWeights[][] {
  const layers: SegmentWeights[][] = Array.from({ length: manifest.config.nLayers }, () => []);
  for (const { layer, gateUp, down, segments } of manifest.shared) {
    layers[layer] = segments.map(({ start, end, hash }) => ({ ptr: ptrOf(hash), width: end - start, gateUp: formatCode(gateUp), down: formatCode(down) }));
  }
  return layers;
}

/** The trunk's fields, where `ptrOf` says that blobs lie. Throws ModelError naming the first tensor that is missing or has another shape. */
export const bindPackTrunk = (manifest: Pick<PackManifest, "config" | "blobs">, ptrOf: (hash: string) => number): TrunkWeights =>
  bindTrunk(manifest.config, (name) => {
    const blob = manifest.blobs[name];
    return blob === undefined ? undefined : { ptr: ptrOf(blob.hash), format: blob.format, nRows: blob.rows, nCols: blob.cols };
  });

/** Loads all blobs into `heap`; equal blobs share one copy. Throws SourceError or CapacityError. */
export async function loadModel(source: ByteSource, manifest: PackManifest, heap: Heap, onProgress?: (loadedBytes: number, totalBytes: number) => void): Promise<LoadedModel> {
  const byHash = new Map<string, number>();
  const targets: BlobTarget[] = [];
  let totalBytes = 0;
  const place = (name: string, blob: { readonly hash: string; readonly bytes: number; readonly extents: BlobTarget["blob"]["extents"] }): number => {
    const known = byHash.get(blob.hash);
    if (known !== undefined) return known;
    const ptr = heap.alloc(blob.bytes, "weights");
    byHash.set(blob.hash, ptr);
    totalBytes += blob.bytes;
    targets.push({ name, blob, write: (bytes, offset) => heap.u8.set(bytes, ptr + offset) });
    return ptr;
  };
  for (const { name, blob } of trunkBlobsOf(manifest)) place(name, blob);
  const { nLayers, nExperts } = manifest.config;
  // By number: the engine asks for every group of every layer of every step.
  const segments: (readonly SegmentWeights[])[] = Array.from({ length: nLayers * nExperts }, () => []);
  let maxSegmentWidth = 32;
  for (const { layer, expert, gateUp, down, segments: slices } of manifest.experts) {
    segments[layer * nExperts + expert] = slices.map((slice, i) => {
      const width = slice.end - slice.start;
      maxSegmentWidth = Math.max(maxSegmentWidth, width);
      return { ptr: place(segmentName(layer, expert, i), slice), width, gateUp: formatCode(gateUp), down: formatCode(down) };
    });
  }
  await loadBlobs(source, manifest, targets, { onProgress: (loadedBytes) => onProgress?.(loadedBytes, totalBytes) });
  const ptrOf = (hash: string): number => byHash.get(hash)!;
  return {
    trunk: bindPackTrunk(manifest, ptrOf),
    lookup: (layer, expert, segment) => segments[layer * nExperts + expert]?.[segment],
    segmentCounts: segmentCounts(manifest), shared: bindShared(manifest, ptrOf), maxSegmentWidth,
  };
}
