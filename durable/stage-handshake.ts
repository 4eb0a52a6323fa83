// The control messages between stage 0 of a ring and the others, docs/protocol.md section 6. Owns their types, and the version by which stages of different code refuse
// each other. Refuses frames (ring-frame.ts).

import type { FleetPlan } from "../fleet/fleet-plan.ts";
import type { RefusalCode } from "./handshake.ts";
import type { LineFigures } from "./line-figures.ts";

/** Of frames and control together. Up to 3 it was the one of shards (handshake.ts). */
export const RING_PROTOCOL_VERSION = 6;

export interface StageHello {
  readonly protocolVersion: number;
  readonly plan: FleetPlan;
  readonly lane: number;
  /** Its number, from 1. */
  readonly stage: number;
  /** Drawn anew whenever the ring is built. */
  readonly ring: number;
  /** The ring that stood last; null where none did. An answer may be lost, so that "when you last answered" would not be known to both. */
  readonly before: number | null;
  /** Name of the object of stage 0, to which the last stage connects. */
  readonly first: string;
  readonly strictIsolates: boolean;
}

export type StageWelcome =
  /** `kept`: its pages are those it had in the ring `before`. `pages`: of the KV cache, as many as it has room for; `chunkTokens`: of a step. */
  | { readonly state: "ready"; readonly kept: boolean; readonly pages: number; readonly chunkTokens: number; readonly totalBytes: number; readonly isolate: string }
  | { readonly state: "loading"; readonly loadedBytes: number; readonly totalBytes: number; readonly retryAfterMs: number }
  | { readonly state: "refused"; readonly code: RefusalCode; readonly message: string; readonly retryable: boolean };

/** What a stage has counted (metrics-expert-load.ts). */
export interface StageFigures {
  /** A random number of this count: another one began at 0. */
  readonly life: number;
  /** How often each expert was chosen, [layer * experts + expert]. */
  readonly choices: Uint32Array;
  /** To each shard of its plan, by number. */
  readonly lines: readonly LineFigures[];
}
