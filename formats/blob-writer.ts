// Cuts a stream of bytes into extents, hashes each, and lays them into parts through a PackSink. Owns alignment, part
// limits, and storing equal extents once. Holds at most one extent in memory. Refuses to know what the bytes mean.
// Goes on behind parts that an earlier run finished: their extents are stored already, and blobs that lie in them need not be written again.

import { FORMAT_LIMITS } from "./limits.ts";
import type { TensorLoss } from "./loss-ledger.ts";
import type { PackExtent } from "./manifest.ts";
import { type FinishedPart, type PackJournal, type WrittenBlob, keptContents } from "./pack-journal.ts";
import type { PackSink } from "./pack-sink.ts";
import { sha256Hex } from "./read-bytes.ts";

export interface StoredBlob {
  readonly hash: string;
  readonly bytes: number;
  readonly extents: PackExtent[];
}

export class BlobWriter {
  readonly parts: { name: string; bytes: number }[];
  readonly #sink: PackSink;
  readonly #partLimitBytes: number;
  readonly #journal: PackJournal;
  readonly #buffer = new Uint8Array(FORMAT_LIMITS.extentBytes);
  #used = 0;
  #extents: PackExtent[] = [];
  /** Number of the next blob. */
  #next = 0;
  readonly #stored: Map<string, readonly [part: number, offset: number]>;
  readonly #kept: ReadonlyMap<number, WrittenBlob>;
  readonly #nKeptParts: number;
  /** Of the part at hand, and since the one before it. */
  #partExtents: [offset: number, bytes: number, hash: string][] = [];
  #written: [number: number, blob: WrittenBlob][] = [];

  constructor(sink: PackSink, partLimitBytes: number, journal: PackJournal) {
    this.#sink = sink;
    this.#partLimitBytes = partLimitBytes;
    this.#journal = journal;
    this.parts = journal.kept.map(({ name, bytes }) => ({ name, bytes }));
    this.#nKeptParts = this.parts.length;
    const { extents, blobs } = keptContents(journal.kept);
    this.#stored = extents;
    this.#kept = blobs;
  }

  /** Parts that will be there for the next run if this one fails now. */
  get nFinishedParts(): number {
    return Math.max(this.#nKeptParts, this.parts.length - 1);
  }

  /** The next blob where an earlier run wrote it and its parts are kept, else null: then it has to be written. */
  takeKept(): WrittenBlob | null {
    const blob = this.#kept.get(this.#next);
    if (blob === undefined) return null;
    this.#next++;
    return blob;
  }

  /** Appends to the blob being written. */
  async write(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      const n = Math.min(bytes.length - at, this.#buffer.length - this.#used);
      this.#buffer.set(bytes.subarray(at, at + n), this.#used);
      this.#used += n;
      at += n;
      if (this.#used === this.#buffer.length) await this.#flush();
    }
  }

  /** Ends the blob. Its hash is its only extent's, or the SHA-256 of its extents' hashes, one after the other. `losses` are noted beside it. */
  async finish(losses: readonly TensorLoss[] = []): Promise<StoredBlob> {
    if (this.#used > 0) await this.#flush();
    const extents = this.#extents;
    this.#extents = [];
    const blob = { hash: await blobHash(extents), bytes: extents.reduce((n, e) => n + e[2], 0), extents };
    this.#written.push([this.#next++, { ...blob, losses }]);
    return blob;
  }

  async #flush(): Promise<void> {
    const bytes = this.#buffer.subarray(0, this.#used);
    this.#used = 0;
    const hash = await sha256Hex(bytes);
    const [part, offset] = this.#stored.get(hash) ?? (await this.#store(hash, bytes));
    this.#extents.push([part, offset, bytes.length, hash]);
  }

  async #store(hash: string, bytes: Uint8Array): Promise<readonly [part: number, offset: number]> {
    const { extentAlignment } = FORMAT_LIMITS;
    let last = this.parts.at(-1);
    let offset = last === undefined ? 0 : Math.ceil(last.bytes / extentAlignment) * extentAlignment;
    // A part that an earlier run finished is never added to.
    if (last === undefined || this.parts.length === this.#nKeptParts || offset + bytes.length > this.#partLimitBytes) {
      if (this.parts.length > this.#nKeptParts) await this.#journal.add(this.#finishedPart());
      last = { name: `parts/${String(this.parts.length).padStart(5, "0")}.bin`, bytes: 0 };
      this.parts.push(last);
      offset = 0;
    }
    if (offset > last.bytes) await this.#sink.append(last.name, new Uint8Array(offset - last.bytes));
    await this.#sink.append(last.name, bytes);
    last.bytes = offset + bytes.length;
    this.#partExtents.push([offset, bytes.length, hash]);
    const place = [this.parts.length - 1, offset] as const;
    this.#stored.set(hash, place);
    return place;
  }

  #finishedPart(): FinishedPart {
    const part = { ...this.parts.at(-1)!, extents: this.#partExtents, blobs: this.#written };
    this.#partExtents = [];
    this.#written = [];
    return part;
  }
}

/** Hash of a blob from the hashes of its extents. */
export async function blobHash(extents: readonly PackExtent[]): Promise<string> {
  if (extents.length === 1) return extents[0]![3];
  return sha256Hex(Uint8Array.from(extents.flatMap((e) => e[3].match(/../g)!.map((h) => Number.parseInt(h, 16)))));
}
