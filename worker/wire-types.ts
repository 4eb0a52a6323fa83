// Types of what the API sends that the page reads: OpenAI's objects and our extensions under `moe`. Types only; worker and page share them.

import type { FleetStatus } from "../durable/directory-record.ts";
import type { OrchestratorStatus } from "../durable/generate.ts";
import type { InterventionOp } from "../model/interventions.ts";

export type { RoutingMap } from "../formats/routing-map.ts";
export type { RoutingProfile } from "../formats/routing-profile.ts";
export type { InterventionOp } from "../model/interventions.ts";
/** What a profile or a request does to routing, by name: an intervention, or product experts left out. */
export type ProfileOp = InterventionOp | "mask_experts";

/** GET /v1/fleet. */
export type FleetReply = OrchestratorStatus & {
  readonly directory: FleetStatus | null;
  /** The caller's nearest first; what stands above is of its first lane that answers. */
  readonly regions: readonly {
    /** Null: the platform chose. */
    readonly region: string | null;
    readonly directory: FleetStatus | null;
    /** `status`: null where it could not be reached. */
    readonly lanes: readonly { readonly lane: number; readonly name: string; readonly status: OrchestratorStatus | null }[];
  }[];
  /** Milliseconds there and back, decayed: from the Worker ("edge") to the regions, and from each to the others. */
  readonly roundTrips: readonly { readonly from: string; readonly to: string; readonly ms: number; readonly ageMs: number }[];
};
export type { ShardStatus } from "../durable/generate.ts";

/** POST /v1/fleet/warm. */
export interface FleetWarmth {
  /** Every lane serves, and every shard has a line to it. */
  readonly ready: boolean;
  /** 0 to 1, of the lane that has come least far. */
  readonly loaded: number;
  readonly lanes: readonly (Pick<OrchestratorStatus, "loaded" | "message"> & {
    readonly region: string | null;
    readonly lane: number;
    readonly name: string;
    /** Null: it could not be reached. */
    readonly status: OrchestratorStatus["status"] | null;
    readonly shards: readonly Pick<OrchestratorStatus["shards"][number], "name" | "warmth" | "weightBytes" | "loadedBytes">[];
  })[];
}

/** A frame that took a token to experts of one layer: to which shard, how long until its reply was taken, and its bytes both ways. All tokens of a step share their frames. */
export interface TraceFrame {
  /** Number of the shard, as /v1/fleet lists them. */
  readonly shard: number;
  readonly ms: number;
  readonly bytes: number;
}

/** Experts of one token: ids in rank order and, where the trace has them, their weights, per MoE layer in ascending order: [moeLayer][rank]. */
export interface TokenTrace {
  readonly id: number;
  readonly experts: readonly (readonly number[])[];
  readonly weights?: readonly (readonly number[])[];
  /** Number of the shard that holds each of them (of an expert spread over shards, its first segment); null in the orchestrator itself. */
  readonly shards?: readonly (readonly (number | null)[])[];
  /** [moeLayer][frame]; none where the orchestrator computed everything itself. */
  readonly frames?: readonly (readonly TraceFrame[])[];
  /** Expert rows that were left out of what it was chosen by; absent for none. */
  readonly degraded?: number;
}

/** What a reply cost the fleet, and the seed that repeats it: with the last choice of a stream. */
export interface ReplyCost {
  readonly seed: number;
  readonly steps: number;
  readonly frames: number;
  readonly bytes: number;
  readonly retries: number;
  /** Messages that were late and went to another holder as well. */
  readonly hedges: number;
  /** Where it was said: null where the platform chose. */
  readonly region: string | null;
  /** Number of the orchestrator there. */
  readonly lane: number;
  /** Only with `moe.degrade`, where something was left out. */
  readonly degraded?: { readonly tokens: number; readonly expert_rows: number };
  /** Only with `moe.prune`: expert calls left out, and how many all would have been. */
  readonly pruned?: { readonly left_out: number; readonly of: number };
  /** Objects that came up or read weights while the reply waited. */
  readonly cold_starts: number;
  /** Of the choice that took longest: waiting for room, reading the prompt, and from the first token to the last. Whole milliseconds. */
  readonly timings: { readonly queue_ms: number; readonly prompt_ms: number; readonly completion_ms: number };
}

export interface Usage {
  readonly prompt_tokens: number;
  /** Of these, the tokens an earlier request of the same key had evaluated. */
  readonly prompt_tokens_details: { readonly cached_tokens: number };
  readonly completion_tokens: number;
  readonly total_tokens: number;
}

/** A piece of a call of a tool: the first of each index has its name, all have text to append to its arguments. */
export interface ToolCallDelta {
  readonly index: number;
  /** With the first piece. */
  readonly id?: string;
  readonly function: { readonly name?: string; readonly arguments: string };
}

export interface StreamChunk {
  readonly id: string;
  readonly object: string;
  readonly created: number;
  readonly model: string;
  readonly choices: readonly {
    readonly index: number;
    readonly text?: string;
    readonly delta?: { readonly role?: string; readonly content?: string; readonly reasoning_content?: string; readonly tool_calls?: readonly ToolCallDelta[] };
    readonly logprobs: object | null;
    readonly finish_reason: string | null;
  }[];
  readonly usage?: Usage | null;
  readonly moe?: { readonly token?: TokenTrace } & Partial<ReplyCost>;
  readonly error?: { readonly message: string };
}

export interface HealthReply {
  readonly status: "ready" | "degraded" | "cold" | "warming";
  /** Share of the bytes that are loaded, 0 to 1; with `cold` and `warming`. */
  readonly loaded?: number;
  /** Of several orchestrators each one's own state. */
  readonly lanes?: readonly { readonly region: string | null; readonly lane: number; readonly status: string }[];
}

export interface ModelObject {
  readonly id: string;
  readonly object: "model";
  readonly created: number;
  readonly owned_by: string;
  readonly moe: {
    readonly architecture: string;
    readonly context_length: number;
    readonly vocabulary: number;
    readonly experts: number;
    readonly experts_per_token: number;
    /** Numbers of the layers that have experts, ascending: the rows of a trace. */
    readonly moe_layers: readonly number[];
    /** Layers whose experts are made of halves, and how many each has; absent where none has. */
    readonly product_experts?: { readonly layers: readonly number[]; readonly experts: number };
    /** Rules by which `moe.prune` may leave experts out. */
    readonly prune: readonly ("ratio" | "calibrated" | "learned")[];
    /** Operations that `moe.interventions` may have. */
    readonly interventions: readonly InterventionOp[];
    /** Tasks that `moe.task` chooses among, and numbers of `moe.condition`; absent where the model does not route by them. */
    readonly tasks?: number;
    readonly condition_numbers?: number;
    readonly chat: boolean;
    /** Whether GET /v1/routing-map has one. */
    readonly routing_map: boolean;
    readonly pack_hash: string;
  };
}

/** A routing profile without what it does. */
export interface ProfileSummary {
  readonly name: string;
  readonly description: string;
  readonly model: string;
  readonly packHash: string | null;
  readonly access: "admin" | "infer";
  /** In the order they are applied. */
  readonly ops: readonly ProfileOp[];
}

export interface ProfileList {
  readonly object: "list";
  readonly data: readonly ProfileSummary[];
}

export interface ProfileDeleted {
  readonly name: string;
  readonly deleted: true;
}

export interface ModelList {
  readonly object: "list";
  readonly data: readonly ModelObject[];
}
