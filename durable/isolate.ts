// The one WebAssembly memory of an isolate and the ledger of who uses it. Module scope on purpose: memory of a dead object is not
// given back, and module globals survive eviction (2026-11), so weights live here, by content hash, and objects only borrow them.
// Owns: the memory and its kernels, resident blobs and who holds them, bytes in flight.
// Refuses: loading, and what one object may have (tenant.ts).

import { Heap } from "../model/heap.ts";
import type { Kernels } from "../model/kernels.ts";
import { chooseKernels, RESERVED_BYTES, type KernelModules } from "../model/wasm-kernels.ts";
import { InFlightBudget } from "./in-flight-budget.ts";
import type { Limits } from "./limits.ts";
import { Tenant, type TenantKind } from "./tenant.ts";

export { Tenant, tenantBytes, type TenantKind } from "./tenant.ts";

interface ResidentBlob {
  readonly ptr: number;
  readonly bytes: number;
  readonly holders: Set<Tenant>;
}

/** What an isolate is made of: kernels and a heap over their memory. Simulations lend many of them one compiled instance and a range of its memory each. */
export interface IsolateParts {
  readonly kernels: Kernels;
  readonly heap: Heap;
  readonly name?: string;
}

/** A memory of its own, the kernels that suit the engine, and a heap over all of it. */
export function isolateParts(modules: KernelModules, limits: Limits): IsolateParts {
  const memory = createMemory(limits);
  return { kernels: chooseKernels({ modules, memory }).kernels, heap: new Heap(memory, RESERVED_BYTES, limits.memoryMaximumBytes - RESERVED_BYTES) };
}

export class Isolate {
  readonly heap: Heap;
  readonly kernels: Kernels;
  readonly inFlight: InFlightBudget;
  readonly limits: Limits;
  /** Tells isolates apart, for whoever asks whether two objects share a thread. */
  readonly name: string;
  readonly #blobs = new Map<string, ResidentBlob>();
  readonly #tenants = new Map<string, Tenant>();

  constructor({ kernels, heap, name }: IsolateParts, limits: Limits) {
    this.limits = limits;
    this.kernels = kernels;
    this.heap = heap;
    this.name = name ?? crypto.randomUUID();
    this.inFlight = new InFlightBudget(limits.inFlightBytes);
  }

  /**
   * Registers an object. One that comes back under the same key (after eviction or abort) replaces its former self, whose own
   * allocations are freed; the blobs it held stay, so that it can adopt them. `instance` tells whether the object still lives.
   * `strict`: the limit holds for the isolate as a whole, not for each object in it.
   */
  enter(key: string, kind: TenantKind, name: string, instance: object, strict: boolean): Tenant {
    const former = this.#tenants.get(key);
    const tenant = new Tenant(this, kind, name, instance, strict, former);
    this.#tenants.set(key, tenant);
    return tenant;
  }

  get tenants(): readonly Tenant[] { return [...this.#tenants.values()]; }

  resident(hash: string): ResidentBlob | undefined { return this.#blobs.get(hash); }

  /** Makes loaded bytes resident; `ptr` passes to the ledger. */
  publish(hash: string, ptr: number, bytes: number, holder: Tenant): void {
    this.#blobs.set(hash, { ptr, bytes, holders: new Set([holder]) });
  }

  /** Lets go of a blob; its bytes are freed with the last holder. */
  drop(hash: string, holder: Tenant): void {
    const blob = this.#blobs.get(hash);
    if (blob === undefined || !blob.holders.delete(holder) || blob.holders.size > 0) return;
    this.#blobs.delete(hash);
    this.heap.free(blob.ptr);
  }

  /** Frees what objects that are gone still hold, except `asker`; true when anything was freed. */
  reclaim(asker: Tenant): boolean {
    const before = this.heap.usedBytes;
    for (const [key, tenant] of this.#tenants) {
      if (tenant === asker || tenant.alive) continue;
      tenant.leave();
      this.#tenants.delete(key);
    }
    return this.heap.usedBytes < before;
  }
}

/** Address space for the largest size is reserved at once, so that growing never copies; memory is only used as it is touched. */
function createMemory(limits: Limits): WebAssembly.Memory {
  const pages = (bytes: number): number => Math.floor(bytes / 65536);
  memoriesCreated++;
  try {
    return new WebAssembly.Memory({ initial: pages(RESERVED_BYTES), maximum: pages(limits.memoryMaximumBytes) });
  } catch {
    // A host that does not reserve that much still serves what one production isolate holds.
    return new WebAssembly.Memory({ initial: pages(RESERVED_BYTES), maximum: pages(RESERVED_BYTES + limits.isolateBytes) });
  }
}

let memoriesCreated = 0;
let current: Isolate | null = null;

/** Weight memories made in this isolate so far: 1 however many objects came and went. */
export const weightMemories = (): number => memoriesCreated;

/** The isolate's singleton, made at first use. */
export function thisIsolate(modules: KernelModules, limits: Limits): Isolate {
  current ??= new Isolate(isolateParts(modules, limits), limits);
  return current;
}
