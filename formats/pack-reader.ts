// Reads a pack: its manifest, then blobs by name into memory of the caller's choice. Owns the plan of reads (each part once,
// near extents together, whole parts where the source has no ranges), who is asked before the source, and the hash check of every
// extent, whatever it came from, before a byte of it is handed on. Refuses to hold more than one extent per lane.

import { type ByteSource, SourceError } from "./byte-source.ts";
import { FORMAT_LIMITS } from "./limits.ts";
import { type NamedBlob, type PackManifest, validateManifest } from "./manifest.ts";
import { parseJson, readFileOrNull, sha256Hex } from "./read-bytes.ts";

export interface OpenPack {
  readonly manifest: PackManifest;
  /** SHA-256 of manifest.json: the revision. */
  readonly packHash: string;
}

/** Reads and validates manifest.json. */
export async function openPack(source: ByteSource): Promise<OpenPack> {
  return packOf(source, await readManifest(source));
}

/** The bytes of manifest.json, as they are. */
export async function readManifest(source: ByteSource): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = await readFileOrNull(source, "manifest.json", FORMAT_LIMITS.manifestBytes);
  if (bytes === null) {
    throw new SourceError(`${source.description} has no manifest.json, expected a pack (workers-moe pack <model> --out DIR makes one).`);
  }
  return bytes;
}

/** The pack whose manifest.json these bytes are; `source` is for messages. */
export const packOf = async (source: Pick<ByteSource, "description">, bytes: Uint8Array<ArrayBuffer>): Promise<OpenPack> =>
  ({ manifest: validateManifest(source.description, parseJson(source, "manifest.json", bytes)), packHash: await sha256Hex(bytes) });

/** The parsed tokenizer.json, or null where the pack has none. Throws when its hash differs from the manifest's. */
export async function readTokenizerJson(source: ByteSource, manifest: PackManifest): Promise<unknown> {
  if (manifest.tokenizer === null) return null;
  const { file, sha256 } = manifest.tokenizer;
  const bytes = await readFileOrNull(source, file, FORMAT_LIMITS.tokenizerBytes);
  if (bytes === null) throw new SourceError(`${source.description} has no ${file}, which its manifest names.`);
  const found = await sha256Hex(bytes);
  if (found !== sha256) throw new SourceError(`${source.description}, ${file}: found SHA-256 ${found}, expected ${sha256}.`);
  return parseJson(source, file, bytes);
}

/** A blob and what to do with its bytes: `write` gets pieces (extents, in any order) with their offset in the blob. */
export interface BlobTarget extends NamedBlob {
  write(bytes: Uint8Array, offset: number): void;
}

/** One extent wanted by some targets. */
export interface WantedExtent {
  readonly part: number;
  readonly offset: number;
  readonly bytes: number;
  readonly hash: string;
  /** A blob it belongs to, and where in it; below 0 where the blob is a run that begins within the extent. */
  readonly blobHash: string;
  readonly blobOffset: number;
  readonly uses: { readonly target: BlobTarget; readonly blobOffset: number }[];
}

/** One stream to read: [offset, end) of a part, and the extents in it, ascending. */
interface PlannedRead {
  readonly part: number;
  readonly offset: number;
  readonly end: number;
  readonly extents: readonly WantedExtent[];
}

/** Extents closer than this are read as one range: a request costs more than these bytes. */
const JOIN_GAP_BYTES = 64 * 1024;

/** Somebody who may have an extent nearer than the source. */
export interface ExtentOrigin {
  /** Bytes said to be the extent's, or null. Does not throw; the buffer is the caller's until it asks again. */
  offer(extent: WantedExtent): Promise<Uint8Array<ArrayBuffer> | null>;
  /** What it offered was something else, and was not used. True where it may have another offer. */
  mistaken(extent: WantedExtent): boolean;
}

/** The extents of all targets, each once, in the order of the parts. */
function extentsOf(targets: readonly BlobTarget[]): WantedExtent[] {
  const wanted = new Map<string, WantedExtent>();
  for (const target of targets) {
    let blobOffset = 0;
    for (const [part, offset, bytes, hash] of target.blob.extents) {
      const key = `${part} ${offset}`;
      const extent = wanted.get(key) ?? { part, offset, bytes, hash, blobHash: target.blob.hash, blobOffset: blobOffset - (target.skipBytes ?? 0), uses: [] };
      extent.uses.push({ target, blobOffset });
      wanted.set(key, extent);
      blobOffset += bytes;
    }
  }
  return [...wanted.values()].sort((a, b) => a.part - b.part || a.offset - b.offset);
}

/** The reads that bring all extents, each part at most once when the source has no ranges. */
export const planReads = (manifest: PackManifest, targets: readonly BlobTarget[], hasRanges: boolean): PlannedRead[] => readsOf(manifest, extentsOf(targets), hasRanges);

function readsOf(manifest: PackManifest, extents: readonly WantedExtent[], hasRanges: boolean): PlannedRead[] {
  const reads: { part: number; offset: number; end: number; extents: WantedExtent[] }[] = [];
  for (const extent of extents) {
    const last = reads.at(-1);
    const near = last !== undefined && last.part === extent.part && (!hasRanges || extent.offset - last.end <= JOIN_GAP_BYTES);
    if (near) {
      last.extents.push(extent);
      last.end = extent.offset + extent.bytes;
    } else reads.push({ part: extent.part, offset: hasRanges ? extent.offset : 0, end: extent.offset + extent.bytes, extents: [extent] });
  }
  if (!hasRanges) for (const read of reads) read.end = manifest.parts[read.part]!.bytes;
  return reads;
}

/** Bytes came whole but altered. */
class HashMismatch extends SourceError {}

export interface LoadOptions {
  /** Reads under way at a time; each holds one extent (at most 4 MiB). */
  readonly lanes?: number;
  /** Called with the bytes written so far, counted per target. */
  onProgress?(loadedBytes: number): void;
  /** Asked for each extent before the source is, in this order. The source is read for what none of them had. */
  readonly nearer?: readonly ExtentOrigin[];
  /** Extents asked of them at a time. */
  readonly nearerLanes?: number;
  /** Called for each extent that was right, with who gave it; null for the source. `bytes` are valid until this returns. */
  onExtent?(extent: WantedExtent, from: ExtentOrigin | null, bytes: Uint8Array<ArrayBuffer>): void;
  readonly signal?: AbortSignal;
}

/**
 * Loads blobs into their targets. Every extent is hashed before it is written. Throws SourceError naming pack, part, blob,
 * found and expected; bytes already written stay, so a caller must not use a target until this has resolved.
 */
export async function loadBlobs(
  source: ByteSource, manifest: PackManifest, targets: readonly BlobTarget[], options: LoadOptions = {},
): Promise<void> {
  let loadedBytes = 0;
  const hand: Hand = (extent, bytes, from) => {
    for (const { target, blobOffset } of extent.uses) {
      target.write(bytes, blobOffset);
      options.onProgress?.((loadedBytes += bytes.length));
    }
    options.onExtent?.(extent, from, bytes);
  };
  const extents = extentsOf(targets);
  const { nearer = [], signal } = options;
  const left = nearer.length === 0 ? extents : await askNearer(extents, nearer, options.nearerLanes ?? 1, hand, signal);
  const reads = readsOf(manifest, left, source.hasRanges);
  const spare: Uint8Array<ArrayBuffer>[] = [];
  const mostBytes = left.reduce((most, { bytes }) => Math.max(most, bytes), 0);
  await inLanes(reads, options.lanes ?? 1, signal, async (read) => {
    const buffer = spare.pop() ?? new Uint8Array(mostBytes);
    await readExtents(source, manifest, read, buffer, hand);
    spare.push(buffer);
  });
}

/** Takes an extent whose bytes are right. */
type Hand = (extent: WantedExtent, bytes: Uint8Array<ArrayBuffer>, from: ExtentOrigin | null) => void;

/** Works on all items, some at a time; ends them all with the first failure. */
async function inLanes<T>(items: readonly T[], lanes: number, signal: AbortSignal | undefined, work: (item: T) => Promise<void>): Promise<void> {
  let next = 0;
  let failed = false;
  const lane = async (): Promise<void> => {
    while (next < items.length && !failed) {
      signal?.throwIfAborted();
      try {
        await work(items[next++]!);
      } catch (error) {
        failed = true;
        throw error;
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(lanes, Math.max(1, items.length)) }, lane));
}

/** The extents none of the origins had, in their order. */
async function askNearer(extents: readonly WantedExtent[], origins: readonly ExtentOrigin[], lanes: number, hand: Hand, signal: AbortSignal | undefined): Promise<WantedExtent[]> {
  const found = new Set<WantedExtent>();
  await inLanes(extents, lanes, signal, async (extent) => {
    for (const origin of origins) {
      let asksAgain = true;
      while (asksAgain) {
        const bytes = await origin.offer(extent);
        if (bytes === null) break;
        if (bytes.length === extent.bytes && (await sha256Hex(bytes)) === extent.hash) {
          hand(extent, bytes, origin);
          found.add(extent);
          return;
        }
        asksAgain = origin.mistaken(extent);
      }
    }
  });
  return extents.filter((extent) => !found.has(extent));
}

async function readExtents(
  source: ByteSource, manifest: PackManifest, read: PlannedRead, buffer: Uint8Array<ArrayBuffer>, hand: Hand,
): Promise<void> {
  const part = manifest.parts[read.part]!;
  const stream = source.hasRanges ? source.read(part.name, read.offset, read.end - read.offset) : source.read(part.name);
  let index = 0;
  let at = read.offset; // in the part
  let filled = 0; // of the extent at hand
  try {
    for await (const chunk of stream) {
      let used = 0;
      while (used < chunk.length && index < read.extents.length) {
        const extent = read.extents[index]!;
        if (at < extent.offset) {
          const skip = Math.min(chunk.length - used, extent.offset - at);
          used += skip;
          at += skip;
          continue;
        }
        const n = Math.min(chunk.length - used, extent.bytes - filled);
        buffer.set(chunk.subarray(used, used + n), filled);
        used += n;
        at += n;
        filled += n;
        if (filled === extent.bytes) {
          await deliver(source, manifest, extent, buffer.subarray(0, filled), hand);
          filled = 0;
          index++;
        }
      }
      if (index === read.extents.length) return;
    }
  } catch (error) {
    if (!(error instanceof SourceError) || error instanceof HashMismatch) throw error;
    const extent = read.extents[Math.min(index, read.extents.length - 1)]!;
    throw new SourceError(`${describe(source, manifest, extent)}: ${error.message}`, { cause: error });
  }
  const extent = read.extents[index]!;
  throw new SourceError(`${describe(source, manifest, extent)}: the part ends at byte ${at}, expected ${part.bytes} bytes.`);
}

async function deliver(
  source: ByteSource, manifest: PackManifest, extent: WantedExtent, bytes: Uint8Array<ArrayBuffer>, hand: Hand,
): Promise<void> {
  const found = await sha256Hex(bytes);
  if (found !== extent.hash) {
    throw new HashMismatch(`${describe(source, manifest, extent)}: found SHA-256 ${found}, expected ${extent.hash}; the bytes are damaged.`);
  }
  hand(extent, bytes, null);
}

function describe(source: ByteSource, manifest: PackManifest, extent: WantedExtent): string {
  const range = `bytes ${extent.offset} to ${extent.offset + extent.bytes}`;
  return `Pack ${manifest.id} (${source.description}), ${manifest.parts[extent.part]!.name}, ${range}, blob ${extent.uses[0]!.target.name}`;
}
