// Which bytes of a pack one stage of a ring holds: whole blobs of its layers, and of the vocabulary's matrices the run of bytes that its rows are. Owns that list:
// loading, binding and counting memory go by it, and for a whole model it is trunkBlobsOf. Extents are hashed one by one, so of a run those are read that it
// overlaps (at most 4 MiB at either end beside it). Refuses reading (pack-reader.ts) and memory. Tile layout: docs/arithmetic.md section 3; packs: docs/formats.md.

import type { ModelConfig } from "../model/config.ts";
import { matrixBytes } from "../model/kernels.ts";
import { endsLayers, isEmpty, type Span, type StageSpan } from "../model/stage-span.ts";
import { trunkBlobsOf, type NamedBlob, type PackBlob, type PackManifest } from "./manifest.ts";

/**
 * A blob, or a run of its bytes under a hash of its own (no SHA-256: the extents have theirs): `blob.bytes` are those that are held, `blob.extents` those that are read, and the run
 * begins `skipBytes` into them.
 */
export interface HeldBlob extends NamedBlob {
  readonly skipBytes: number;
  /** Rows of the vocabulary that they are; null where the whole blob is held. */
  readonly rows: Span | null;
}

/** The trunk's matrices and vectors with a row for each token of the vocabulary, and whose rows they are. */
const VOCABULARY: Readonly<Record<string, "embeddingRows" | "headRows">> = { embed: "embeddingRows", head: "headRows", headBias: "headRows" };

/** Whether a trunk blob that has no rows for tokens is held: a layer's, the last norm beside the last layer, the rotation table beside any. */
function isHeld(name: string, config: ModelConfig, span: StageSpan): boolean {
  const layer = /^layers\.(\d+)\./.exec(name);
  if (layer !== null) return Number(layer[1]) >= span.layers[0] && Number(layer[1]) < span.layers[1];
  return name === "rope" ? !isEmpty(span.layers) : endsLayers(config, span);
}

/** What a stage holds of the trunk, dense layers and shared experts of its layers among it. */
export function* stageBlobs(manifest: Pick<PackManifest, "config" | "blobs" | "shared">, span: StageSpan): Iterable<HeldBlob> {
  const { config, blobs } = manifest;
  for (const { name, blob } of trunkBlobsOf(manifest)) {
    const of = VOCABULARY[name];
    if (of === undefined) {
      if (isHeld(name, config, span)) yield { name, blob, skipBytes: 0, rows: null };
      continue;
    }
    const rows = span[of];
    if (rows[0] === 0 && rows[1] === config.vocabSize) yield { name, blob, skipBytes: 0, rows: null };
    else if (!isEmpty(rows)) yield heldRows(name, blobs[name]!, rows, config.hiddenSize);
  }
}

/** Rows of a blob; they begin at a whole row block of any format (VOCABULARY_BLOCK_ROWS). */
function heldRows(name: string, blob: PackBlob, rows: Span, nCols: number): HeldBlob {
  const bytesOf = (n: number): number => (blob.format === "f32-vector" ? 4 * n : matrixBytes(blob.format, n, nCols));
  const [start, end] = [bytesOf(rows[0]), bytesOf(rows[1])];
  const extents: PackBlob["extents"][number][] = [];
  let [at, skipBytes] = [0, 0];
  for (const extent of blob.extents) {
    const [, , bytes] = extent;
    if (at < end && at + bytes > start) {
      if (extents.length === 0) skipBytes = start - at;
      extents.push(extent);
    }
    at += bytes;
  }
  return { name, rows, blob: { hash: `${blob.hash}:${start}-${end}`, bytes: end - start, extents }, skipBytes };
}

/** Copies what is held of an extent to where it belongs; `offset` counts from the first extent of the held ones, as a BlobTarget gets it. */
export function placeExtent(u8: Uint8Array, ptr: number, { skipBytes = 0, blob }: Pick<NamedBlob, "skipBytes" | "blob">, bytes: Uint8Array, offset: number): void {
  const [from, to] = [Math.max(0, skipBytes - offset), Math.min(bytes.length, skipBytes + blob.bytes - offset)];
  u8.set(bytes.subarray(from, to), ptr + offset + from - skipBytes);
}
