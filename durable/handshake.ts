// The control messages between orchestrator and shard, docs/protocol.md section 1.
// Owns their types and the reasons for which a shard refuses. Refuses: frames (protocol.ts) and who is asked (client.ts).

export const PROTOCOL_VERSION = 3;

/** Segments [first, end) of one expert that a shard must hold. */
export interface SlotRange {
  readonly layer: number;
  readonly expert: number;
  readonly segments: readonly [first: number, end: number];
}

/** Another shard of the fleet that holds some of the slots now, and may be asked for their bytes. */
export interface Donor {
  readonly shard: number;
  readonly name: string;
  readonly slots: readonly SlotRange[];
}

export interface Hello {
  readonly protocolVersion: number;
  /** SHA-256 (hex) of the pack's manifest.json. */
  readonly packHash: string;
  readonly epoch: number;
  readonly slots: readonly SlotRange[];
  /** True where no two weight-holding objects may share an isolate. */
  readonly strictIsolates: boolean;
  readonly donors: readonly Donor[];
}

/** Every epoch of a pack below a number is over. */
export interface Retirement {
  readonly packHash: string;
  readonly below: number;
}

export const REFUSAL_CODES = ["protocol-version", "pack-hash", "memory", "isolate-shared", "retired", "load-failed"] as const;
export type RefusalCode = (typeof REFUSAL_CODES)[number];

export type Welcome =
  /** `isolate` names the shard's isolate: one that shares the orchestrator's shares its thread too. `hasRead`: it has read weights since it last said so. */
  | { readonly state: "ready"; readonly connection: number; readonly isolate: string; readonly hasRead: boolean; /** Absent from shards of an older deployment. */ readonly read?: ReadFigures }
  | { readonly state: "loading"; readonly loadedBytes: number; readonly totalBytes: number; readonly retryAfterMs: number }
  | { readonly state: "refused"; readonly code: RefusalCode; readonly message: string; readonly retryable: boolean };

/** Bytes of weights by where they came from, since the object came up. */
export interface MovedBytes {
  readonly memory: number;
  readonly cache: number;
  readonly donors: number;
  readonly store: number;
}

/** What bringing weights into memory took, since the object came up. */
export interface ReadFigures {
  readonly moved: MovedBytes;
  /** Of all loads together; the platform's clock stands still while an object computes (2026-11). */
  readonly loadMs: number;
}

/** What a shard says of itself when asked. */
export interface ShardReport extends ReadFigures {
  /** Epochs whose frames it answers, ascending. */
  readonly epochs: readonly number[];
  /** `cold`: told what to serve, and evicted since. */
  readonly state: "empty" | "cold" | "loading" | "serving";
  readonly isolate: string;
  readonly weightBytes: number;
  /** Extents of its slots that are not in its cache yet. */
  readonly uncachedExtents: number;
}
