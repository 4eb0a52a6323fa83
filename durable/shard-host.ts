// What a shard needs of whoever hosts it: a tenant of an isolate, time, what survives eviction, and the places weights come from.
// Owns the ports between the shard's core and its host. Refuses the platform: shard.ts implements them by a Durable Object, simulations by plain objects.

import type { ByteSource } from "../formats/byte-source.ts";
import type { OpenPack } from "../formats/pack-reader.ts";
import type { Clock, Random } from "./clock.ts";
import type { Donor, Hello, Retirement } from "./handshake.ts";
import type { Tenant } from "./isolate.ts";

/** The shard's end of one line. */
export interface ShardSocket {
  readonly connection: number;
  send(bytes: ArrayBuffer): void;
  close(code: number, reason: string): void;
}

/** A value that outlives the object's memory. */
export interface Kept<T> {
  get(): T;
  put(value: T): void;
}

/** Manifests by revision. */
export interface PackPort {
  /** The manifest of a revision if this isolate has read it. */
  known(packHash: string): OpenPack | undefined;
  /** The manifest of the revision that is wanted, where it is at hand; else the store's as it is now. */
  current(wanted: string): Promise<OpenPack>;
}

/** A shard's own extents on disk. Everything is synchronous, may throw, and is believed only after its hash was checked. */
export interface ExtentCache {
  /** Hashes that have rows. */
  list(): string[];
  /** Null where rows are missing or together have another length. */
  read(hash: string, bytes: number): Uint8Array<ArrayBuffer> | null;
  write(hash: string, bytes: Uint8Array): void;
  remove(hash: string): void;
}

/** Another shard's `read`. */
export type DonorRead = (hash: string, offset: number, length: number) => Promise<ArrayBuffer | null>;

export interface WeightPorts {
  /** Throws SourceError where the deployment names none. */
  store(): ByteSource;
  /** Null where the host keeps nothing. */
  readonly cache: ExtentCache | null;
  /** The way to another shard; null when it is the asker itself. */
  donor(donor: Donor): DonorRead | null;
}

/** What it takes to bring weights into memory: of a shard, and of an orchestrator or stage for its trunk. */
export interface WeightHost {
  readonly tenant: Tenant;
  readonly clock: Clock;
  /** Jitter only: never part of a result. */
  readonly random: Random;
  readonly weights: WeightPorts;
}

export interface ShardHost extends WeightHost {
  readonly hellos: Kept<readonly Hello[]>;
  readonly retired: Kept<Retirement | null>;
  readonly packs: PackPort;
  /** Another number each time, also after the isolate was made anew. */
  newConnection(): number;
}
