// Whether a shard may take on an epoch: whether everything it would serve then fits its isolate together, and whether the isolate is its own.
// Owns the reasons, with their numbers, and which of them may pass. Refuses to load or let go of anything (shard-core.ts): it is asked before that.

import type { PackManifest } from "../formats/manifest.ts";
import { CapacityError } from "../model/heap.ts";
import type { Hello } from "./handshake.ts";
import { tenantBytes, type Tenant } from "./isolate.ts";
import { LoadRefusal } from "./load-refusal.ts";
import { blobsOfSlots, plannedBytes, shardMemory } from "./memory-plan.ts";
import { rangesOf } from "./served-hellos.ts";

/** Throws LoadRefusal where `hellos`, which are what is served and `hello`, do not fit together. */
export function admit(tenant: Tenant, manifest: PackManifest, hellos: readonly Hello[], hello: Hello): void {
  const { limits } = tenant.isolate;
  const epochs = hellos.map(({ epoch }) => epoch).join(", ");
  if (hellos.length > limits.servedEpochs) throw new LoadRefusal("memory", true, `${tenant.name} would serve the epochs ${epochs}; ${limits.servedEpochs} at a time is the limit, and none of them was retired.`);
  const nBlobs = new Set(blobsOfSlots(manifest, rangesOf(hellos)).map(({ blob }) => blob.hash)).size;
  const purpose = `${nBlobs} expert segments of pack ${manifest.id} and what serving them takes${hellos.length > 1 ? `, for the epochs ${epochs} together,` : ""}`;
  try {
    tenant.admit(plannedBytes(shardMemory(manifest, rangesOf(hellos), limits)), purpose);
  } catch (error) {
    if (!(error instanceof CapacityError)) throw error;
    // The others may be retired soon; what does not fit alone never will.
    const fitsAlone = hellos.length > 1 && plannedBytes(shardMemory(manifest, hello.slots, limits)) <= tenantBytes(limits);
    throw new LoadRefusal("memory", fitsAlone, fitsAlone ? `${error.message} Epoch ${hello.epoch} alone would fit, once the others are retired.` : error.message);
  }
}

/** In strict mode, the words that name another shard in this isolate; null when there is none. */
export function neighbourOf(tenant: Tenant, { strictIsolates }: Pick<Hello, "strictIsolates">): string | null {
  if (!strictIsolates) return null;
  const others = tenant.isolate.tenants.filter((other) => other !== tenant && other.kind === "shard" && other.alive);
  if (others.length === 0) return null;
  return `${tenant.name} shares its isolate with ${others.map(({ name }) => name).join(", ")}; strict mode wants one shard per isolate.`;
}
