// Brings an object's weights into its cache after they were loaded, a batch at a time, in writes nobody waits for, and removes what it no longer needs.
// Owns when: after a pause, and later while frames are being answered, since messages wait for a write. Refuses to fail anything: a cache that cannot
// be written is left as it is, and the weights come from elsewhere the next time.

import type { NamedBlob } from "../formats/manifest.ts";
import type { Limits } from "./limits.ts";
import type { WeightHost } from "./shard-host.ts";

/** An extent as a part of a blob in memory. */
interface Piece {
  readonly hash: string;
  readonly blobHash: string;
  readonly offset: number;
  readonly bytes: number;
}

/** Weights above the limit are not cached. Blobs of equal hash share their bytes. */
export const isCacheable = (blobs: readonly NamedBlob[], { cacheBytes }: Pick<Limits, "cacheBytes">): boolean =>
  [...new Map(blobs.map(({ blob }) => [blob.hash, blob.bytes])).values()].reduce((sum, bytes) => sum + bytes, 0) <= cacheBytes;

/** The extents that lie in memory as a whole, as parts of their blobs; of a run of a blob, those at its ends may not. */
function wholePieces(blobs: readonly NamedBlob[]): Map<string, Piece> {
  const pieces = new Map<string, Piece>();
  for (const { blob, skipBytes = 0 } of new Map(blobs.map((named) => [named.blob.hash, named])).values()) {
    let offset = -skipBytes;
    for (const [, , bytes, hash] of blob.extents) {
      if (offset >= 0 && offset + bytes <= blob.bytes) pieces.set(hash, { hash, blobHash: blob.hash, offset, bytes });
      offset += bytes;
    }
  }
  return pieces;
}

/** The other extents of these blobs: whoever reads them must keep them then, since memory will not hold all of their bytes. */
export function cutExtents(blobs: readonly NamedBlob[]): Set<string> {
  const whole = wholePieces(blobs);
  return new Set(blobs.flatMap(({ blob }) => blob.extents.map(([, , , hash]) => hash)).filter((hash) => !whole.has(hash)));
}

export class WeightKeeper {
  readonly #host: WeightHost;
  /** Frames answered so far: it tells whether any came since the last look. */
  readonly #frames: () => number;
  #wanted: Map<string, Piece> = new Map();
  /** Written by whoever reads them, and not removed here. */
  #cut: ReadonlySet<string> = new Set();
  /** Null until the cache was asked what it has. */
  #missing: Piece[] | null = [];
  #surplus: string[] = [];
  #cancel: (() => void) | null = null;
  #lastFrames = 0;
  #pauses = 0;

  constructor(host: WeightHost, frames: () => number) {
    this.#host = host;
    this.#frames = frames;
  }

  /** Extents that are to be written. */
  get pending(): number { return this.#missing?.length ?? this.#wanted.size; }

  /** The cache is to hold the extents of exactly these blobs, which lie in memory. */
  keep(blobs: readonly NamedBlob[]): void {
    const { weights, tenant } = this.#host;
    if (weights.cache === null) return;
    const kept = isCacheable(blobs, tenant.isolate.limits) ? blobs : [];
    this.#wanted = wholePieces(kept);
    this.#cut = cutExtents(kept);
    this.#missing = null;
    this.#schedule();
  }

  #schedule(): void {
    this.#cancel?.();
    this.#cancel = this.#host.clock.after(this.#host.tenant.isolate.limits.cachePauseMs, () => {
      this.#cancel = null;
      const frames = this.#frames();
      const isBusy = frames !== this.#lastFrames && this.#pauses < this.#host.tenant.isolate.limits.cachePauses;
      this.#lastFrames = frames;
      this.#pauses = isBusy ? this.#pauses + 1 : 0;
      try {
        if (isBusy || this.#batch()) this.#schedule();
      } catch {
        // Full, or gone: what was written is still worth having, and checked when read.
        this.#missing = [];
      }
    });
  }

  /** Removes and writes one batch; true when more is to do. */
  #batch(): boolean {
    const cache = this.#host.weights.cache!;
    const { isolate } = this.#host.tenant;
    if (this.#missing === null) {
      const present = new Set(cache.list());
      this.#missing = [...this.#wanted.values()].filter(({ hash }) => !present.has(hash));
      this.#surplus = [...present].filter((hash) => !this.#wanted.has(hash) && !this.#cut.has(hash));
    }
    for (const hash of this.#surplus.splice(0)) cache.remove(hash);
    let written = 0;
    for (let piece = this.#missing[0]; piece !== undefined && (written === 0 || written + piece.bytes <= isolate.limits.cacheBatchBytes); piece = this.#missing[0]) {
      this.#missing.shift();
      const blob = isolate.resident(piece.blobHash);
      if (blob === undefined) continue;
      const at = blob.ptr + piece.offset;
      cache.write(piece.hash, isolate.heap.u8.subarray(at, at + piece.bytes));
      written += piece.bytes;
    }
    return this.#missing.length > 0;
  }
}
