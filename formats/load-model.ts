// A pack into one memory, or one stage's part of it: trunk and every expert of its layers, for the command line, the simulator and tests.
// Owns addresses of blobs and their binding to the engine's fields; which they are is stage-blobs.ts. Refuses experts elsewhere: isolates load
// what they hold through the weight ledger of durable/ instead.

import type { Heap } from "../model/heap.ts";
import { formatCode } from "../model/kernels.ts";
import type { SegmentLookup, SegmentWeights } from "../model/local-experts.ts";
import { wholeModel, type StageSpan } from "../model/stage-span.ts";
import { bindTrunk, type TrunkWeights } from "../model/trunk.ts";
import type { ByteSource } from "./byte-source.ts";
import { type NamedBlob, type PackManifest, segmentName } from "./manifest.ts";
import { type BlobTarget, loadBlobs } from "./pack-reader.ts";
import { placeExtent, stageBlobs } from "./stage-blobs.ts";

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

/** Dense layers and shared experts of a stage by layer, where `ptrOf` says that blobs lie. */
export function bindShared(manifest: Pick<PackManifest, "config" | "shared">, ptrOf: (hash: string) => number, span: StageSpan = wholeModel(manifest.config)): SegmentWeights[][] {
  const layers: SegmentWeights[][] = Array.from({ length: manifest.config.nLayers }, () => []);
  for (const { layer, gateUp, down, segments } of manifest.shared) {
    if (layer < span.layers[0] || layer >= span.layers[1]) continue;
    layers[layer] = segments.map(({ start, end, hash }) => ({ ptr: ptrOf(hash), width: end - start, gateUp: formatCode(gateUp), down: formatCode(down) }));
  }
  return layers;
}

/** The trunk's fields, where `ptrOf` says that blobs of stageBlobs lie. Throws ModelError naming the first tensor that is missing or has another shape. */
export function bindPackTrunk(manifest: Pick<PackManifest, "config" | "blobs">, ptrOf: (hash: string) => number, span: StageSpan = wholeModel(manifest.config)): TrunkWeights {
  const held = new Map([...stageBlobs({ ...manifest, shared: [] }, span)].map((blob) => [blob.name, blob]));
  return bindTrunk(manifest.config, (name) => {
    const blob = manifest.blobs[name];
    if (blob === undefined) return undefined;
    const { format, rows: nRows, cols: nCols } = blob;
    const mine = held.get(name);
    // Without layers nobody reads the rotation table, but its shape tells the context's length.
    if (mine === undefined) return name === "rope" ? { ptr: 0, format, nRows, nCols } : undefined;
    const [ptr, n] = [ptrOf(mine.blob.hash), mine.rows === null ? null : mine.rows[1] - mine.rows[0]];
    if (n === null) return { ptr, format, nRows, nCols };
    return format === "f32-vector" ? { ptr, format, nRows, nCols: n } : { ptr, format, nRows: n, nCols };
  }, span);
}

/** Loads the blobs of a stage into `heap`; equal blobs share one copy. Throws SourceError or CapacityError. */
export async function loadModel(
  source: ByteSource, manifest: PackManifest, heap: Heap, onProgress?: (loadedBytes: number, totalBytes: number) => void, span: StageSpan = wholeModel(manifest.config),
): Promise<LoadedModel> {
  const byHash = new Map<string, number>();
  const targets: BlobTarget[] = [];
  let totalBytes = 0;
  const place = (held: NamedBlob): number => {
    const { name, blob } = held;
    const known = byHash.get(blob.hash);
    if (known !== undefined) return known;
    const ptr = heap.alloc(blob.bytes, "weights");
    byHash.set(blob.hash, ptr);
    totalBytes += blob.extents.reduce((sum, [, , bytes]) => sum + bytes, 0);
    targets.push({ name, blob, write: (bytes, offset) => placeExtent(heap.u8, ptr, held, bytes, offset) });
    return ptr;
  };
  for (const held of stageBlobs(manifest, span)) place(held);
  const { nLayers, nExperts } = manifest.config;
  // By number: the engine asks for every group of every layer of every step.
  const segments: (readonly SegmentWeights[])[] = Array.from({ length: nLayers * nExperts }, () => []);
  let maxSegmentWidth = 32;
  for (const { layer, expert, gateUp, down, segments: slices } of manifest.experts) {
    if (layer < span.layers[0] || layer >= span.layers[1]) continue;
    segments[layer * nExperts + expert] = slices.map((slice, i) => {
      const width = slice.end - slice.start;
      maxSegmentWidth = Math.max(maxSegmentWidth, width);
      return { ptr: place({ name: segmentName(layer, expert, i), blob: slice }), width, gateUp: formatCode(gateUp), down: formatCode(down) };
    });
  }
  await loadBlobs(source, manifest, targets, { onProgress: (loadedBytes) => onProgress?.(loadedBytes, totalBytes) });
  const ptrOf = (hash: string): number => byHash.get(hash)!;
  return {
    trunk: bindPackTrunk(manifest, ptrOf, span),
    lookup: (layer, expert, segment) => segments[layer * nExperts + expert]?.[segment],
    segmentCounts: segmentCounts(manifest), shared: bindShared(manifest, ptrOf, span), maxSegmentWidth,
  };
}
