// The private HTTP surface of an orchestrator object: POST /generate, GET /status and GET /metrics, docs/protocol.md section 5.
// Owns the types of the request, of the events streamed back (one JSON document per line) and of the status.
// Refuses text: prompts are token ids here, tokenizing is the Worker's. Validation: generate-request.ts.

import type { PrunedCalls } from "../model/online-pruning.ts";
import type { RequestRouting } from "../model/request-routing.ts";
import type { SamplingParams, TokenLogprob } from "../model/sampling.ts";
import type { ReadFigures } from "./handshake.ts";
import type { Warmth } from "./warmth.ts";

/** What a reply must look like. */
export type Constraint =
  /** Any JSON object. */
  | { readonly kind: "json" }
  /** JSON that a schema (its text) describes. `strict`: no properties but those it names. */
  | { readonly kind: "json-schema"; readonly schema: string; readonly strict: boolean }
  /** GBNF, from the rule `root` on. */
  | { readonly kind: "grammar"; readonly grammar: string }
  /** A structural tag of XGrammar, as JSON: free text with calls of tools in it, or calls alone. */
  | { readonly kind: "tags"; readonly tag: string };

export interface GenerateRequest {
  /** 1 to contextLength ids. */
  readonly promptIds: readonly number[];
  /** Ids already given to the reader, when a broken stream is continued: the next token is number emittedIds.length. */
  readonly emittedIds?: readonly number[];
  /** Tokens to generate in all, emittedIds included; 0 only scores the prompt. */
  readonly maxTokens: number;
  readonly sampling: SamplingParams;
  /** Number of this choice among those of one request; part of the sampling draw. */
  readonly choice?: number;
  /** A token among these ends the generation; it is reported in the end event and not as a token. */
  readonly stopIds: readonly number[];
  /** Log-probabilities of each token and of this many most likely ones, 0 to 20; absent = none. */
  readonly logprobs?: number;
  /** With `maxTokens` 0: the prompt as one vector, the mean of its tokens' states after the final norm, of length 1. */
  readonly embedding?: boolean;
  /** Score the prompt as well: `prompt` events carry each prompt token's log-probability. */
  readonly echo?: boolean;
  /** Most guesses per step, at most the limit's and that when absent. Part of the pace and the cost, never of the answer. */
  readonly draftTokens?: number;
  /** Report the experts chosen for each generated token, in every layer or in one. */
  readonly trace?: boolean | { readonly layer: number };
  /** Where experts cannot be computed for a while, go on without them (their rows left out of the sum) instead of waiting for them; every token that this touches says so. */
  readonly degrade?: boolean;
  /** What it asks of its tokens' routing, guesses included; absent: nothing. */
  readonly routing?: RequestRouting;
  /** Tokens that would break it are never sampled. */
  readonly constraint?: Constraint;
  /** The name under which the reply's ids are kept for a while. `resume`: what is kept of it comes first, unevaluated, then the rest. */
  readonly journal?: { readonly name: string; readonly resume: boolean };
  /** With whom it waits in line: callers take turns, however much each of them has sent. */
  readonly caller?: string;
  /** When the reader no longer wants more, in milliseconds since 1970: the generation ends there, or is refused where it has not begun. */
  readonly deadlineAtMs?: number;
  /** Whose evaluated tokens this generation may take over, and leave its own to; absent = nobody's. Never changes the answer. */
  readonly cacheScope?: string;
}

/** Experts of one token, [MoE layer, ascending][rank]; with a trace of one layer, that layer alone. */
export type PerLayer = readonly (readonly number[])[];

/** A frame that took a token to its experts of one layer. All tokens of a step share their frames. */
export interface TraceFrame {
  /** Number of the shard among OrchestratorStatus.shards. */
  readonly shard: number;
  /** From handing it over to taking its reply, retries and all; whole milliseconds, the platform's clock has no finer (2026-11). */
  readonly ms: number;
  /** Both ways. */
  readonly bytes: number;
}

/** Who computed a token's experts, in the order of `experts`. Unlike those it says how a reply came about, not what it is: placement and retries change it. */
export interface ServedToken {
  /** Number of the shard of each, of an expert spread over shards its first segment's; null in the orchestrator itself. */
  readonly shards: readonly (readonly (number | null)[])[];
  /** [MoE layer, ascending][frame] */
  readonly frames: readonly (readonly TraceFrame[])[];
}

export interface ScoredToken {
  readonly id: number;
  /** Null for the first token of a prompt, which nothing predicts. */
  readonly logprob: number | null;
  readonly top: readonly TokenLogprob[];
}

/** What the generation cost the fleet so far. Frames and bytes are those of the steps it took part in. */
export interface MoeUsage {
  readonly steps: number;
  readonly frames: number;
  readonly bytes: number;
  readonly retries: number;
  /** Frames that were late and went to another holder as well. */
  readonly hedges: number;
  /** Only with `degrade`, and absent where nothing was left out: tokens chosen right after rows were missing, and how many of experts were, one for each token evaluated, layer and expert. Later tokens build on them. */
  readonly degraded?: DegradedUsage;
  /** Only with `routing.pruning`: expert calls of what was evaluated for it, guesses that did not hold included. */
  readonly pruned?: PrunedCalls;
}

export interface DegradedUsage {
  readonly tokens: number;
  readonly expertRows: number;
}

/** Where a generation's time went; whole milliseconds, the platform's clock has no finer (2026-11). */
export interface Timings {
  /** From its arrival until its KV memory was reserved. */
  readonly queueMs: number;
  /** From there to the first token, or to the end where there is none. */
  readonly promptMs: number;
  /** From the first token to the end. */
  readonly completionMs: number;
}

export type GenerateErrorCode =
  | "invalid-request" | "context-exceeded" | "warming" | "load-failed" | "overloaded" | "capacity" | "step-failed" | "stream-broken" | "deadline-exceeded";

export interface GenerateFailure {
  readonly type: "error";
  readonly code: GenerateErrorCode;
  readonly message: string;
  /** True where the same request may succeed later. */
  readonly retryable: boolean;
  readonly retryAfterMs?: number;
  /** While warming: loaded fraction, 0 to 1. */
  readonly loaded?: number;
}

export type GenerateEvent =
  /** Prompt tokens from number `start` on, in order; only with echo. */
  | { readonly type: "prompt"; readonly start: number; readonly tokens: readonly ScoredToken[] }
  /** f32 [hidden]; only with embedding. */
  | { readonly type: "embedding"; readonly values: readonly number[] }
  /** Token number `index` (0 = first generated). `cachedTokens` comes with the first: prompt tokens that needed no evaluation, absent for none. `experts` and their `weights` are those of its predecessor's evaluation, which chose it. `degraded`: expert rows that were left out of what was evaluated since the token before; absent for none. */
  | { readonly type: "token"; readonly index: number; readonly id: number; readonly logprob?: number; readonly top?: readonly TokenLogprob[]; readonly experts?: PerLayer; readonly weights?: PerLayer; readonly served?: ServedToken; readonly cachedTokens?: number; readonly degraded?: number }
  /** `coldStarts`: objects that came up or read weights while this generation waited; absent for none. */
  | { readonly type: "end"; readonly reason: "stop" | "length" | "deadline"; readonly stopId: number | null; readonly promptTokens: number; readonly cachedTokens: number; readonly completionTokens: number; readonly moe: MoeUsage; readonly timings: Timings; readonly coldStarts?: number }
  | GenerateFailure;

/** HTTP status of a /generate that failed before its first event. */
export const FAILURE_STATUS: Readonly<Record<GenerateErrorCode, number>> = {
  "invalid-request": 400, "context-exceeded": 400, "warming": 503, "load-failed": 503, "overloaded": 429, "capacity": 503,
  "step-failed": 500, "stream-broken": 502, "deadline-exceeded": 504,
};

export interface ShardStatus {
  readonly name: string;
  readonly state: "idle" | "connecting" | "open" | "closed";
  readonly warmth: Warmth;
  /** What its memory was filled from, and how long that took, as it last said; null before its first line. */
  readonly read: ReadFigures | null;
  /** What the plan gives it to hold, known before it is loaded. */
  readonly weightBytes: number;
  /** (layer, expert) pairs it holds something of. */
  readonly experts: number;
  /** The location hint it was made with; null where the platform chose. */
  readonly region: string | null;
  /** What it last said about its loading; 0 where its weights were there at once. */
  readonly loadedBytes: number;
  readonly totalBytes: number;
  readonly frames: number;
  readonly bytes: number;
  readonly retries: number;
  /** Frames of which others were asked too, because this shard was late. */
  readonly hedges: number;
  /** Last reason for a reconnect or a retry; null when none. */
  readonly lastFault: string | null;
}

export interface OrchestratorStatus {
  /** `degraded`: ready, with a shard that is not connected at this moment. */
  readonly status: "cold" | "warming" | "ready" | "degraded" | "failed";
  /** Loaded fraction, 0 to 1. */
  readonly loaded: number;
  readonly message: string | null;
  readonly pack: { readonly id: string; readonly hash: string; readonly contextLength: number } | null;
  /** The plan in force; null before there is one. */
  readonly epoch: number | null;
  readonly isolate: {
    readonly limitBytes: number;
    readonly usedBytes: number;
    /** Bytes by purpose: weights, kv cache, engine scratch, frames ... */
    readonly account: Readonly<Record<string, number>>;
    /** Weight-holding objects seen in this isolate. */
    readonly objects: readonly string[];
    readonly kernels: string;
  } | null;
  readonly generations: { readonly active: number; readonly queued: number; readonly cancelled: number };
  /** Guesses evaluated since the model came up, and how many held (draft-gate.ts). */
  readonly drafts: { readonly tokens: number; readonly held: number };
  readonly shards: readonly ShardStatus[];
  /** What the trunk, or this stage's part of it, was filled from, and how long that took, since the object came up. */
  readonly read: ReadFigures;
  /** Of a ring, those after the first, which is this object; empty where there is none. */
  readonly stages: readonly { readonly name: string; readonly loadedBytes: number; readonly totalBytes: number; readonly isReady: boolean }[];
}
