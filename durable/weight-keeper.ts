// Brings a shard's weights into its cache after they were loaded, a batch at a time, in writes nobody waits for, and removes what it no longer needs.
// Owns when: after a pause, and later while frames are being answered, since messages wait for a write. Refuses to fail anything: a cache that cannot
// be written is left as it is, and the weights come from elsewhere the next time.

import type { NamedBlob } from "../formats/manifest.ts";
import type { ShardHost } from "./shard-host.ts";

/** An extent as a part of a blob in memory. */
interface Piece {
  readonly hash: string;
  readonly blobHash: string;
  readonly offset: number;
  readonly bytes: number;
}

export class WeightKeeper {
  readonly #host: ShardHost;
  /** Frames answered so far: it tells whether any came since the last look. */
  readonly #frames: () => number;
  #wanted: Map<string, Piece> = new Map();
  /** Null until the cache was asked what it has. */
  #missing: Piece[] | null = [];
  #surplus: string[] = [];
  #cancel: (() => void) | null = null;
  #lastFrames = 0;
  #pauses = 0;

  constructor(host: ShardHost, frames: () => number) {
    this.#host = host;
    this.#frames = frames;
  }

  /** Extents that are to be written. */
  get pending(): number { return this.#missing?.length ?? this.#wanted.size; }

  /** The cache is to hold the extents of exactly these blobs, which lie in memory. */
  keep(blobs: readonly NamedBlob[]): void {
    const { weights, tenant } = this.#host;
    if (weights.cache === null) return;
    this.#wanted = new Map();
    let sumBytes = 0;
    for (const { blob } of new Map(blobs.map((named) => [named.blob.hash, named])).values()) {
      sumBytes += blob.bytes;
      let offset = 0;
      for (const [, , bytes, hash] of blob.extents) {
        this.#wanted.set(hash, { hash, blobHash: blob.hash, offset, bytes });
        offset += bytes;
      }
    }
    if (sumBytes > tenant.isolate.limits.cacheBytes) this.#wanted = new Map();
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
      this.#surplus = [...present].filter((hash) => !this.#wanted.has(hash));
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
