// The control messages between orchestrator and shard, docs/protocol.md section 1.
// Owns their types and the reasons for which a shard refuses. Refuses: frames (protocol.ts) and who is asked (client.ts).

export const PROTOCOL_VERSION = 2;

/** Segments [first, end) of one expert that a shard must hold. */
export interface SlotRange {
  readonly layer: number;
  readonly expert: number;
  readonly segments: readonly [first: number, end: number];
}

export interface Hello {
  readonly protocolVersion: number;
  /** SHA-256 (hex) of the pack's manifest.json. */
  readonly packHash: string;
  readonly epoch: number;
  readonly slots: readonly SlotRange[];
  /** True where no two weight-holding objects may share an isolate. */
  readonly strictIsolates: boolean;
}

export const REFUSAL_CODES = ["protocol-version", "pack-hash", "memory", "isolate-shared", "load-failed"] as const;
export type RefusalCode = (typeof REFUSAL_CODES)[number];

export type Welcome =
  /** `isolate` names the shard's isolate: one that shares the orchestrator's shares its thread too. `hasRead`: it has read weights since it last said so. */
  | { readonly state: "ready"; readonly connection: number; readonly isolate: string; readonly hasRead: boolean }
  | { readonly state: "loading"; readonly loadedBytes: number; readonly totalBytes: number; readonly retryAfterMs: number }
  | { readonly state: "refused"; readonly code: RefusalCode; readonly message: string; readonly retryable: boolean };
