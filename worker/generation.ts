// One choice as the API sees it: the orchestrator's token events turned into text, with stop strings cut and half characters held back.
// Owns the order text -> stop scanner -> reader, and what a failed generation becomes in HTTP terms. The streamed and the whole reply
// both read this sequence. Refuses to know OpenAI's shapes (shapes.ts).

import { generate, type GenerateTarget, type GenerateWay } from "../durable/generate-client.ts";
import type { Place } from "../durable/place-names.ts";
import type { DegradedUsage, GenerateEvent, GenerateFailure, GenerateRequest, MoeUsage, Timings } from "../durable/generate.ts";
import type { ReplyParser, ReplyPart } from "../model/reply-parser.ts";
import type { Tokenizer } from "../model/tokenizer.ts";
import { RequestError } from "./errors.ts";
import type { ScoredToken } from "./logprobs.ts";
import { createStopScanner, type StopScanner } from "./stop-strings.ts";
import type { TokenTrace } from "./wire-types.ts";

export type Piece =
  /** The prompt's tokens with their scores; only with echo. */
  | { readonly kind: "prompt"; readonly tokens: readonly ScoredToken[] }
  /** One generated token. `text` is what became certain with it, possibly ""; `aside` is what is not the answer's text: reasoning, calls of tools. */
  | { readonly kind: "token"; readonly text: string; readonly aside: readonly Aside[]; readonly token: ScoredToken; readonly trace: TokenTrace | null }
  /** The last piece. `text` and `aside` are what had been held back, `stop` the stop string that ended it, null where none did; `isLate` where its deadline did, a length of time. */
  | { readonly kind: "end"; readonly text: string; readonly aside: readonly Aside[]; readonly reason: "stop" | "length"; readonly isLate: boolean; readonly stop: string | null; readonly promptTokens: number; readonly cachedTokens: number; readonly completionTokens: number; readonly moe: MoeUsage | null; readonly degraded: DegradedUsage | null; readonly timings: Timings | null; readonly coldStarts?: number; /** Who said it. */ readonly served?: Place };

export type Aside = Exclude<ReplyPart, { readonly kind: "content" }>;

export interface ChoiceInput {
  readonly request: GenerateRequest;
  /** Reads the tokens of a chat reply; without it all text is the answer. */
  readonly reply: (() => ReplyParser) | null;
  /** Searched for in the answer only, never in reasoning. */
  readonly stops: readonly string[];
}

type TokenEvent = Extract<GenerateEvent, { type: "token" }>;

/** Runs one choice to its end, by one way or several. Ending the sequence early, or aborting `signal`, cancels the generation at the orchestrator. */
export async function* runChoice(to: (() => GenerateTarget) | readonly GenerateWay[], tokenizer: Tokenizer, input: ChoiceInput, signal: AbortSignal): AsyncGenerator<Piece> {
  const scanner = createStopScanner(input.stops);
  const parser = input.reply?.() ?? continuation(tokenizer, input.request.promptIds);
  let [nTokens, cachedTokens] = [0, 0];
  // Counted here, too: a reply may end by a stop string, or have been continued elsewhere.
  const leftOut = { tokens: 0, expertRows: 0 };
  const seen = (): DegradedUsage | null => (leftOut.tokens > 0 ? { ...leftOut } : null);
  for await (const event of generate(to, input.request, { signal })) {
    switch (event.type) {
      case "prompt":
        yield { kind: "prompt", tokens: event.tokens };
        break;
      case "token": {
        nTokens++;
        if (event.degraded !== undefined) {
          leftOut.tokens++;
          leftOut.expertRows += event.degraded;
        }
        cachedTokens = event.cachedTokens ?? cachedTokens;
        const { text, aside, stop } = cut(parser.push(event.id), scanner);
        yield { kind: "token", text, aside, token: { id: event.id, logprob: event.logprob ?? null, top: event.top ?? [] }, trace: traceOf(event) };
        if (stop !== null) {
          yield { kind: "end", text: "", aside: [], reason: "stop", isLate: false, stop, promptTokens: input.request.promptIds.length, cachedTokens, completionTokens: nTokens, moe: null, degraded: seen(), timings: null };
          return;
        }
        break;
      }
      case "end": {
        const last = cut(parser.flush(), scanner);
        const text = last.stop === null ? last.text + scanner.flush() : last.text;
        yield { kind: "end", text, aside: last.aside, reason: last.stop !== null ? "stop" : event.reason === "deadline" ? "length" : event.reason, isLate: event.reason === "deadline", stop: last.stop, promptTokens: event.promptTokens, cachedTokens: event.cachedTokens, completionTokens: event.completionTokens, moe: event.moe, degraded: mostOf(seen(), event.moe.degraded), timings: event.timings, coldStarts: event.coldStarts ?? 0 };
        return;
      }
      case "error":
        throw failureError(event);
    }
  }
  throw new RequestError({ status: 502, code: "stream_broken", message: "The orchestrator's stream ended without an end event." });
}

/** What was seen and what the last orchestrator says, which also knows of rows after the last token. */
function mostOf(seen: DegradedUsage | null, told: DegradedUsage | undefined): DegradedUsage | null {
  if (seen === null || told === undefined) return seen ?? told ?? null;
  return { tokens: Math.max(seen.tokens, told.tokens), expertRows: Math.max(seen.expertRows, told.expertRows) };
}

/** Parts of a reply up to the first stop string in its answer. */
function cut(parts: readonly ReplyPart[], scanner: StopScanner): { text: string; aside: Aside[]; stop: string | null } {
  let text = "";
  const aside: Aside[] = [];
  for (const part of parts) {
    if (part.kind !== "content") {
      aside.push(part);
      continue;
    }
    const found = scanner.push(part.text);
    text += found.text;
    if (found.stop !== null) return { text, aside, stop: found.stop };
  }
  return { text, aside, stop: null };
}

/** All text is the answer, and continues the prompt's. */
function continuation(tokenizer: Tokenizer, promptIds: readonly number[]): ReplyParser {
  const stream = tokenizer.stream(promptIds);
  const content = (text: string): ReplyPart[] => (text === "" ? [] : [{ kind: "content", text }]);
  return { push: (id) => content(stream.push(id)), flush: () => content(stream.flush()) };
}

function traceOf(event: TokenEvent): TokenTrace | null {
  if (event.experts === undefined) return null;
  const { id, experts, weights, served, degraded } = event;
  return { id, experts, ...(weights === undefined ? {} : { weights }), ...served, ...(degraded === undefined ? {} : { degraded }) };
}

/** HTTP status and OpenAI code of each way a generation fails. */
const FAILURES: Readonly<Record<GenerateFailure["code"], { status: number; code: string; type: string }>> = {
  "invalid-request": { status: 400, code: "invalid_value", type: "invalid_request_error" },
  "context-exceeded": { status: 400, code: "context_length_exceeded", type: "invalid_request_error" },
  "warming": { status: 503, code: "model_warming", type: "server_error" },
  "load-failed": { status: 503, code: "model_load_failed", type: "server_error" },
  "overloaded": { status: 429, code: "overloaded", type: "rate_limit_error" },
  "capacity": { status: 503, code: "capacity_exceeded", type: "server_error" },
  "step-failed": { status: 500, code: "step_failed", type: "server_error" },
  "stream-broken": { status: 502, code: "stream_broken", type: "server_error" },
  "deadline-exceeded": { status: 504, code: "deadline_exceeded", type: "server_error" },
};

export function failureError(failure: GenerateFailure): RequestError {
  const { status, code, type } = FAILURES[failure.code];
  const loaded = failure.loaded === undefined ? "" : ` ${Math.floor(100 * failure.loaded)} % is loaded.`;
  return new RequestError({
    status, code, type, message: failure.message + loaded,
    ...(failure.retryable ? { retryAfterSeconds: Math.max(1, Math.ceil((failure.retryAfterMs ?? 1000) / 1000)) } : {}),
  });
}
