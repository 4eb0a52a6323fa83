// Manifests of this isolate, by revision: every object in it needs the same one, and parsing takes a while.
// Keeps values, never promises: one object must not wait for input of another (a rule of the platform, 2026-11).
// Refuses to mix revisions: a source that holds another one than asked for is an error.

import { openPack, type OpenPack } from "../formats/pack-reader.ts";
import { packSource, type PackEnv } from "./byte-sources.ts";
import { SeededRandom, systemClock } from "./clock.ts";
import { LIMITS } from "./limits.ts";
import { SteadySource } from "./steady-source.ts";

/** More than one only while a deployment changes over; the oldest goes. */
const KEPT = 4;
const packs = new Map<string, OpenPack>();

/** The manifest of a revision if this isolate has read it. */
export const knownPack = (packHash: string): OpenPack | undefined => packs.get(packHash);

/** Reads the manifest as it is now. */
export async function currentPack(env: PackEnv): Promise<OpenPack> {
  const pack = await openPack(new SteadySource(packSource(env), { clock: systemClock, random: new SeededRandom(Date.now()), limits: LIMITS }));
  packs.delete(pack.packHash);
  packs.set(pack.packHash, pack);
  for (const hash of packs.keys()) {
    if (packs.size <= KEPT) break;
    packs.delete(hash);
  }
  return pack;
}
