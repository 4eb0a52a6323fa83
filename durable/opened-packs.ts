// Manifests of this isolate, by revision: every object in it needs the same one, and parsing takes a while.
// Keeps values, never promises: one object must not wait for input of another (a rule of the platform, 2026-11). Which revision is current the store says;
// where it does not answer, the one an object went by before goes on (manifest-cache.ts), checked against its hash.
// Refuses to mix revisions: a source that holds another one than asked for is an error.

import { type OpenPack, packOf, readManifest } from "../formats/pack-reader.ts";
import { packSource, type PackEnv } from "./byte-sources.ts";
import { SeededRandom, systemClock, within } from "./clock.ts";
import { LIMITS } from "./limits.ts";
import type { ManifestCache } from "./manifest-cache.ts";
import { SteadySource } from "./steady-source.ts";

/** More than one only while a deployment changes over; the oldest goes. */
const KEPT = 4;
const packs = new Map<string, OpenPack>();

/** The manifest of a revision if this isolate has read it. */
export const knownPack = (packHash: string): OpenPack | undefined => packs.get(packHash);

/** The manifest as it is now. With a cache it is the cached one where the store does not bring one in time. */
export async function currentPack(env: PackEnv, cache: ManifestCache | null = null): Promise<OpenPack> {
  const read = readManifest(new SteadySource(packSource(env), { clock: systemClock, random: new SeededRandom(Date.now()), limits: LIMITS }));
  let bytes: Uint8Array<ArrayBuffer>;
  try {
    const kept = cache === null ? null : await keptPack(cache, env.PACK_ID);
    if (kept === null) bytes = await read;
    else {
      try {
        bytes = await within(systemClock, LIMITS.manifestMs, read, `the manifest did not come in ${LIMITS.manifestMs} ms`);
      } catch {
        return remembered(kept);
      }
    }
  } finally {
    // Where nobody waits for it any more its failure is nobody's.
    read.catch(() => undefined);
  }
  const pack = remembered(await packOf(packSource(env), bytes));
  if (cache !== null && pack.manifest.id === env.PACK_ID) keep(cache, pack.packHash, bytes);
  return pack;
}

/** The manifest of a revision that is asked for by its hash: from memory or the cache where it is there, else the store's as it is now. */
export async function packOfRevision(env: PackEnv, packHash: string, cache: ManifestCache): Promise<OpenPack> {
  const known = packs.get(packHash) ?? await keptPack(cache, env.PACK_ID);
  return known?.packHash === packHash ? remembered(known) : currentPack(env, cache);
}

function remembered(pack: OpenPack): OpenPack {
  packs.delete(pack.packHash);
  packs.set(pack.packHash, pack);
  for (const hash of packs.keys()) {
    if (packs.size <= KEPT) break;
    packs.delete(hash);
  }
  return pack;
}

/** What the cache holds, where it is a manifest of this pack and has the hash it had when it was written. */
async function keptPack(cache: ManifestCache, packId: string): Promise<OpenPack | null> {
  try {
    const row = cache.read();
    if (row === null) return null;
    const pack = packs.get(row.packHash) ?? await packOf({ description: "the object's own cache" }, row.bytes);
    return pack.packHash === row.packHash && pack.manifest.id === packId ? pack : null;
  } catch {
    return null; // a cache that cannot be read, or holds no manifest, is an empty one
  }
}

function keep(cache: ManifestCache, packHash: string, bytes: Uint8Array): void {
  try {
    if (cache.read()?.packHash !== packHash) cache.write(packHash, bytes);
  } catch {
    // Full, or gone: the store is asked the next time.
  }
}
