// Where weights come from, a shard's and the trunk's: the isolate's memory, the object's own cache, a shard that holds them, the store; in this order,
// extent by extent. Owns the order, which donors are still worth asking, and the count of bytes by origin and of the time they took. Refuses to believe anybody: formats/pack-reader.ts checks every
// extent against its hash, whatever it came from. docs/protocol.md section 1.

import type { NamedBlob, PackManifest } from "../formats/manifest.ts";
import type { ExtentOrigin, WantedExtent } from "../formats/pack-reader.ts";
import { ModelError } from "../model/config.ts";
import { within } from "./clock.ts";
import type { Donor, MovedBytes, ReadFigures } from "./handshake.ts";
import { blobsOfSlots } from "./memory-plan.ts";
import type { DonorRead, ExtentCache, WeightHost } from "./shard-host.ts";
import { SteadySource } from "./steady-source.ts";
import { cutExtents, isCacheable, WeightKeeper } from "./weight-keeper.ts";

const uniqueOf = (blobs: readonly NamedBlob[]): Map<string, number> => new Map(blobs.map(({ blob }) => [blob.hash, blob.bytes]));

export class WeightReads {
  readonly #host: WeightHost;
  readonly #moved: { -readonly [Origin in keyof MovedBytes]: number } = { memory: 0, cache: 0, donors: 0, store: 0 };
  #loadMs = 0;

  constructor(host: WeightHost) {
    this.#host = host;
  }

  /** Bytes by origin, and how long they took as far as the clock shows, since the object came up. */
  get figures(): ReadFigures { return { moved: { ...this.#moved }, loadMs: this.#loadMs }; }

  /** Counts what the tenant is about to take over from memory. */
  adopted(blobs: readonly NamedBlob[]): void {
    for (const [hash, bytes] of uniqueOf(blobs)) if (!this.#host.tenant.holds(hash)) this.#moved.memory += bytes;
  }

  /** The tenant holds exactly these blobs afterwards. Throws as Tenant.load does. */
  async load(manifest: PackManifest, blobs: readonly NamedBlob[], donors: readonly Donor[], onProgress: (loadedBytes: number) => void): Promise<void> {
    const { tenant, clock, random, weights } = this.#host;
    const { isolate } = tenant;
    this.adopted(blobs.filter(({ blob }) => isolate.resident(blob.hash) !== undefined));
    const nearer: ExtentOrigin[] = [];
    const origins = new Map<ExtentOrigin | null, keyof MovedBytes>([[null, "store"]]);
    const add = (kind: keyof MovedBytes, origin: ExtentOrigin): void => {
      nearer.push(origin);
      origins.set(origin, kind);
    };
    if (weights.cache !== null) add("cache", cacheOrigin(weights.cache));
    const asked = donorOrigin(this.#host, manifest, donors);
    if (asked !== null) add("donors", asked);
    const store = new SteadySource(weights.store(), { clock, random, limits: isolate.limits });
    const cut = isCacheable(blobs, isolate.limits) ? cutExtents(blobs) : new Set<string>();
    const sinceMs = clock.nowMs();
    try {
      await tenant.load(store, manifest, blobs, onProgress, {
        nearer, nearerLanes: isolate.limits.donorReads,
        onExtent: ({ bytes, hash }, from, content) => {
          const origin = origins.get(from)!;
          this.#moved[origin] += bytes;
          // What will not lie in memory whole is written now or never.
          if (origin !== "cache" && weights.cache !== null && cut.has(hash)) written(weights.cache, hash, content);
        },
      });
    } finally {
      this.#loadMs += clock.nowMs() - sinceMs;
    }
  }
}

/** The reads of an orchestrator's trunk, or a stage's part of it. */
export interface TrunkReads {
  readonly figures: ReadFigures;
  /** Extents that are not in the cache yet. */
  readonly uncachedExtents: number;
  /** As WeightReads.load, and the cache holds the extents of exactly these blobs a while later. */
  load(manifest: PackManifest, blobs: readonly NamedBlob[], onProgress: (loadedBytes: number) => void): Promise<void>;
}

/** `steps`: how many were taken so far; while they are, the cache is written later. */
export function trunkReads(host: WeightHost, steps: () => number): TrunkReads {
  const [reads, keeper] = [new WeightReads(host), new WeightKeeper(host, steps)];
  return {
    get figures() { return reads.figures; },
    get uncachedExtents() { return keeper.pending; },
    load: async (manifest, blobs, onProgress) => {
      await reads.load(manifest, blobs, [], onProgress);
      keeper.keep(blobs);
    },
  };
}

function written(cache: ExtentCache, hash: string, bytes: Uint8Array): void {
  try {
    cache.write(hash, bytes);
  } catch {
    // Full, or gone: it comes from elsewhere the next time.
  }
}

/** A row that is no longer what was written is removed, so that it is written again. */
function cacheOrigin(cache: ExtentCache): ExtentOrigin {
  return {
    async offer({ hash, bytes }) {
      try {
        return cache.read(hash, bytes);
      } catch {
        return null; // a cache that cannot be read is an empty one
      }
    },
    mistaken({ hash }) {
      try {
        cache.remove(hash);
      } catch {
        // It is not believed the next time either.
      }
      return false;
    },
  };
}

interface AskedDonor {
  readonly read: DonorRead;
  faults: number;
}

/** Asks whoever holds an extent's blob, beginning with another one for each blob, and passes over who fails. Null where there is nobody. */
function donorOrigin({ clock, weights, tenant }: WeightHost, manifest: PackManifest, donors: readonly Donor[]): ExtentOrigin | null {
  const { limits } = tenant.isolate;
  const holders = new Map<string, AskedDonor[]>();
  for (const donor of donors) {
    const read = weights.donor(donor);
    if (read === null) continue;
    const asked = { read, faults: 0 };
    for (const hash of heldBy(manifest, donor)) {
      const list = holders.get(hash);
      if (list === undefined) holders.set(hash, [asked]);
      else list.push(asked);
    }
  }
  if (holders.size === 0) return null;
  /** Who gave the bytes that are being checked. */
  const givers = new Map<string, AskedDonor>();
  const ask = async (donor: AskedDonor, extent: WantedExtent): Promise<Uint8Array<ArrayBuffer> | null> => {
    try {
      const bytes = await within(clock, limits.donorDeadlineMs, donor.read(extent.blobHash, extent.blobOffset, extent.bytes), "the donor was silent");
      if (bytes === null) donor.faults++;
      return bytes === null ? null : new Uint8Array(bytes);
    } catch {
      donor.faults += limits.donorFaults;
      return null;
    }
  };
  return {
    async offer(extent) {
      const list = holders.get(extent.blobHash) ?? [];
      const first = list.length === 0 ? 0 : Number.parseInt(extent.blobHash.slice(0, 8), 16) % list.length;
      for (let i = 0; i < list.length; i++) {
        const donor = list[(first + i) % list.length]!;
        if (donor.faults >= limits.donorFaults) continue;
        const bytes = await ask(donor, extent);
        if (bytes === null) continue;
        givers.set(extent.hash, donor);
        return bytes;
      }
      return null;
    },
    mistaken({ hash }) {
      givers.get(hash)!.faults += limits.donorFaults;
      return true; // the next one
    },
  };
}

function heldBy(manifest: PackManifest, { slots }: Donor): Set<string> {
  try {
    return new Set(blobsOfSlots(manifest, slots).map(({ blob }) => blob.hash));
  } catch (error) {
    if (error instanceof ModelError) return new Set(); // who is said to hold what does not exist has nothing to give
    throw error;
  }
}
