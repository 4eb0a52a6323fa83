// One object in an isolate's ledger (isolate.ts): the blobs it holds, what it allocated for itself, and how much that may be.
// Owns loading into place, and that what was not read whole is freed again. Refuses more than the limits allow, before anything is read or
// allocated; the error carries the numbers. A tenant brings the source of its weights (weight-reads.ts).

import type { ByteSource } from "../formats/byte-source.ts";
import type { NamedBlob, PackManifest } from "../formats/manifest.ts";
import { loadBlobs, type LoadOptions } from "../formats/pack-reader.ts";
import { placeExtent } from "../formats/stage-blobs.ts";
import { CapacityError, Heap } from "../model/heap.ts";
import type { Isolate } from "./isolate.ts";
import type { Limits } from "./limits.ts";

export type TenantKind = "orchestrator" | "shard";

/** What a tenant may use of WebAssembly memory: the isolate's bytes less what frames in flight may take. */
export const tenantBytes = (limits: Limits): number => limits.isolateBytes - limits.inFlightBytes;

/** One object's view of the isolate: its share of the memory and the blobs it holds. */
export class Tenant {
  readonly isolate: Isolate;
  readonly kind: TenantKind;
  readonly name: string;
  readonly strict: boolean;
  /** Allocations of this object alone: engine regions, KV pages, scratch. Freed when the object is replaced. */
  readonly heap: Heap;
  readonly #instance: WeakRef<object>;
  readonly #own = new Map<number, number>();
  #ownBytes = 0;
  #held: Map<string, number>;
  #heldBytes: number;

  constructor(isolate: Isolate, kind: TenantKind, name: string, instance: object, strict: boolean, former: Tenant | undefined) {
    this.isolate = isolate;
    this.kind = kind;
    this.name = name;
    this.strict = strict;
    this.#instance = new WeakRef(instance);
    this.heap = new TenantHeap(this);
    this.#held = former === undefined ? new Map() : former.#held;
    this.#heldBytes = former === undefined ? 0 : former.#heldBytes;
    if (former !== undefined) {
      for (const hash of this.#held.keys()) {
        const { holders } = isolate.resident(hash)!;
        holders.delete(former);
        holders.add(this);
      }
      former.#held = new Map();
      former.#heldBytes = 0;
      former.leave();
    }
  }

  /** False once the object has been collected; an evicted one may count as alive for a while. */
  get alive(): boolean { return this.#instance.deref() !== undefined; }
  get usedBytes(): number { return this.#ownBytes + this.#heldBytes; }
  get weightBytes(): number { return this.#heldBytes; }
  get ownBytes(): number { return this.#ownBytes; }

  holds(hash: string): boolean { return this.#held.has(hash); }

  /** Address of a resident blob this tenant holds. */
  ptrOf(hash: string): number {
    const blob = this.isolate.resident(hash);
    if (blob === undefined) throw new Error(`Blob ${hash} is not resident; it must be loaded or adopted first.`);
    return blob.ptr;
  }

  /** Holds exactly these blobs if all of them are resident: no reading, no copying. Returns false and changes nothing otherwise. */
  adopt(blobs: readonly NamedBlob[]): boolean {
    if (!blobs.every(({ blob }) => this.isolate.resident(blob.hash) !== undefined)) return false;
    this.hold(blobs);
    return true;
  }

  /** What it may still allocate. */
  get roomBytes(): number {
    return tenantBytes(this.isolate.limits) - (this.strict ? this.isolate.heap.usedBytes : this.usedBytes);
  }

  /** Throws CapacityError when an object of `plannedBytes` in all would not fit, before anything is read or allocated. */
  admit(plannedBytes: number, purpose: string): void {
    this.#require(plannedBytes - this.usedBytes, purpose);
  }

  /**
   * Holds exactly these blobs, reading what is not resident. Resolves when every byte is in place and its hash checked; throws
   * CapacityError when they do not fit (nothing is read then) or SourceError. `onProgress` gets bytes present out of all; `reads` may name
   * origins nearer than the source.
   */
  async load(source: ByteSource, manifest: PackManifest, blobs: readonly NamedBlob[], onProgress: (loadedBytes: number) => void, reads: Omit<LoadOptions, "onProgress"> = {}): Promise<void> {
    const unique = new Map(blobs.map((named) => [named.blob.hash, named]));
    const totalBytes = [...unique.values()].reduce((sum, { blob }) => sum + blob.bytes, 0);
    this.#require(totalBytes - this.#heldBytes, `${unique.size} blobs of pack ${manifest.id}`);
    // What the former plan needed and this one does not makes room first.
    for (const hash of [...this.#held.keys()]) if (!unique.has(hash)) this.#letGo(hash);
    const missing: { named: NamedBlob; ptr: number }[] = [];
    try {
      for (const named of unique.values()) {
        const resident = this.isolate.resident(named.blob.hash);
        if (resident !== undefined) this.#take(named.blob.hash, resident.bytes);
        else missing.push({ named, ptr: this.heap.alloc(named.blob.bytes, "weights") });
      }
      const presentBytes = this.#heldBytes;
      onProgress(presentBytes);
      await loadBlobs(source, manifest, missing.map(({ named, ptr }) => ({
        ...named, write: (bytes, offset) => placeExtent(this.heap.u8, ptr, named, bytes, offset),
      })), { ...reads, onProgress: (loaded) => onProgress(Math.min(totalBytes, presentBytes + loaded)) });
      for (const { named, ptr } of missing.splice(0)) this.#publish(named, ptr);
    } finally {
      // Whatever was not published was not read whole.
      for (const { ptr } of missing) if (this.#own.has(ptr)) this.heap.free(ptr);
    }
  }

  /** Frees this object's own allocations, for a start from scratch after a failure; blobs stay. */
  freeOwn(): void {
    for (const ptr of [...this.#own.keys()]) this.heap.free(ptr);
  }

  /** Gives everything back: the object is gone. */
  leave(): void {
    this.freeOwn();
    for (const hash of [...this.#held.keys()]) this.#letGo(hash);
  }

  /** Holds exactly these blobs, which are resident. */
  hold(blobs: readonly NamedBlob[]): void {
    const wanted = new Map(blobs.map(({ blob }) => [blob.hash, blob.bytes]));
    for (const hash of [...this.#held.keys()]) if (!wanted.has(hash)) this.#letGo(hash);
    for (const [hash, bytes] of wanted) this.#take(hash, bytes);
  }

  #publish({ blob }: NamedBlob, ptr: number): void {
    const resident = this.isolate.resident(blob.hash);
    if (resident !== undefined) {
      // Another object has loaded the same bytes meanwhile.
      this.heap.free(ptr);
      this.#take(blob.hash, resident.bytes);
      return;
    }
    this.#ownBytes -= this.#own.get(ptr)!;
    this.#own.delete(ptr);
    this.isolate.publish(blob.hash, ptr, blob.bytes, this);
    this.#held.set(blob.hash, blob.bytes);
    this.#heldBytes += blob.bytes;
  }

  #take(hash: string, bytes: number): void {
    if (this.#held.has(hash)) return;
    this.isolate.resident(hash)!.holders.add(this);
    this.#held.set(hash, bytes);
    this.#heldBytes += bytes;
  }

  #letGo(hash: string): void {
    this.#heldBytes -= this.#held.get(hash)!;
    this.#held.delete(hash);
    this.isolate.drop(hash, this);
  }

  /** For TenantHeap. */
  allocate(bytes: number, purpose: string): number {
    this.#require(bytes, purpose);
    let ptr: number;
    try {
      ptr = this.isolate.heap.alloc(bytes, purpose);
    } catch (error) {
      if (!(error instanceof CapacityError) || !this.isolate.reclaim(this)) throw error;
      ptr = this.isolate.heap.alloc(bytes, purpose);
    }
    this.#own.set(ptr, bytes);
    this.#ownBytes += bytes;
    return ptr;
  }

  /** For TenantHeap. */
  release(ptr: number): void {
    const bytes = this.#own.get(ptr);
    if (bytes === undefined) throw new Error(`Address ${ptr} is not an allocation of ${this.name}.`);
    this.#own.delete(ptr);
    this.#ownBytes -= bytes;
    this.isolate.heap.free(ptr);
  }

  #require(moreBytes: number, purpose: string): void {
    const limitBytes = tenantBytes(this.isolate.limits);
    const used = (): number => (this.strict ? this.isolate.heap.usedBytes : this.usedBytes);
    if (used() + moreBytes <= limitBytes) return;
    if (this.strict && this.isolate.reclaim(this) && used() + moreBytes <= limitBytes) return;
    const mib = (bytes: number): string => `${(bytes / 1048576).toFixed(1)} MiB`;
    throw new CapacityError(
      `${purpose} would bring ${this.strict ? "the isolate of " : ""}${this.name} to ${mib(used() + moreBytes)} (its own: weights ${mib(this.#heldBytes)}, working memory ${mib(this.#ownBytes)}); ` +
      `${mib(limitBytes)} is the limit: ${mib(this.isolate.limits.isolateBytes)} per isolate less ${mib(this.isolate.limits.inFlightBytes)} for frames. More shards (SHARDS_COUNT) make each smaller.`);
  }
}

/** The isolate's heap as one tenant sees it: every allocation is counted and can be taken back when the object is gone. */
class TenantHeap extends Heap {
  readonly #tenant: Tenant;
  constructor(tenant: Tenant) {
    super(tenant.isolate.heap.memory, 0, 0);
    this.#tenant = tenant;
  }
  override get usedBytes(): number { return this.#tenant.usedBytes; }
  override account(): Record<string, number> { return this.#tenant.isolate.heap.account(); }
  override alloc(bytes: number, purpose: string): number { return this.#tenant.allocate(bytes, purpose); }
  override free(ptr: number): void { this.#tenant.release(ptr); }
}
