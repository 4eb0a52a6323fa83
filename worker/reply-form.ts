// What a reply looks like in one API's words, apart from how it is sent: a fold over the pieces of its choices. Owns the contract between respond.ts,
// which sends documents and server-sent events, and the forms (openai-form.ts, messages-form.ts, responses-form.ts). Refuses to know HTTP.

import type { PrunedCalls } from "../model/online-pruning.ts";
import type { Timings } from "../durable/generate.ts";
import type { RequestError } from "./errors.ts";
import type { ChoiceInput, Piece } from "./generation.ts";
import type { Usage } from "./wire-types.ts";

export interface Choice {
  readonly input: ChoiceInput;
  /** Number of the prompt it belongs to: a prompt's tokens are counted once, however many choices it has. */
  readonly promptIndex: number;
  /** Shown before anything is generated: the echo of a prompt that is not scored. */
  readonly opening: readonly Piece[];
}

/** One server-sent event: its name where the API gives events names, and JSON or a word. */
export interface StreamEvent {
  readonly event?: string;
  readonly data: object | string;
}

/** What tells one reply from another. */
export interface ReplyHead {
  readonly id: string;
  /** Seconds since 1970. */
  readonly created: number;
  readonly model: string;
  /** Of the sampling: the same request with it says the same. */
  readonly seed: number;
}

export interface ReplyForm {
  /** Events before the first piece. */
  opening(): StreamEvent[];
  /** Takes a piece of choice `index`; gives what a stream shows of it, perhaps nothing. */
  add(index: number, piece: Piece): StreamEvent[];
  /** Events after the last piece. */
  closing(): StreamEvent[];
  /** Events in place of what is missing: the stream ends with them. */
  failure(error: RequestError): StreamEvent[];
  /** The whole reply, once every piece was added. */
  document(): object;
}

export interface Reply {
  readonly idPrefix: string;
  readonly model: string;
  readonly stream: boolean;
  readonly choices: readonly Choice[];
  readonly form: (head: ReplyHead) => ReplyForm;
}

export type End = Extract<Piece, { kind: "end" }>;

/** Tokens of a reply, of the choices that have ended. */
export function usageOf(choices: readonly Choice[], ends: readonly (End | undefined)[]): Usage {
  const promptTokens = new Map<number, number>();
  // Choices of one prompt take over from each other: what the request found is what its first one did.
  const cachedTokens = new Map<number, number>();
  let completionTokens = 0;
  choices.forEach((choice, index) => {
    promptTokens.set(choice.promptIndex, ends[index]?.promptTokens ?? choice.input.request.promptIds.length);
    cachedTokens.set(choice.promptIndex, Math.min(cachedTokens.get(choice.promptIndex) ?? Infinity, ends[index]?.cachedTokens ?? 0));
    completionTokens += ends[index]?.completionTokens ?? 0;
  });
  const sum = (counts: ReadonlyMap<number, number>): number => [...counts.values()].reduce((total, n) => total + n, 0);
  const prompt = sum(promptTokens);
  return { prompt_tokens: prompt, prompt_tokens_details: { cached_tokens: sum(cachedTokens) }, completion_tokens: completionTokens, total_tokens: prompt + completionTokens };
}

/** What a reply cost the fleet, summed over the choices that ran to their end, who said it (of several choices the first's), and the seed that repeats it. */
export function moeOf({ seed }: ReplyHead, ends: readonly (End | undefined)[]): object {
  const counts = { steps: 0, frames: 0, bytes: 0, retries: 0, hedges: 0 };
  for (const end of ends) {
    counts.steps += end?.moe?.steps ?? 0;
    counts.frames += end?.moe?.frames ?? 0;
    counts.bytes += end?.moe?.bytes ?? 0;
    counts.retries += end?.moe?.retries ?? 0;
    counts.hedges += end?.moe?.hedges ?? 0;
  }
  const degraded = ends.flatMap((end) => end?.degraded ?? []);
  const sum = (of: "tokens" | "expertRows"): number => degraded.reduce((total, counted) => total + counted[of], 0);
  const pruned = ends.flatMap((end) => end?.moe?.pruned ?? []);
  const calls = (of: keyof PrunedCalls): number => pruned.reduce((total, counted) => total + counted[of], 0);
  // Choices run side by side: the longest of them is what the reply took.
  const most = (of: (timings: Timings) => number): number => Math.max(...ends.map((end) => (end?.timings == null ? 0 : of(end.timings))));
  const timings = { queue_ms: most(({ queueMs }) => queueMs), prompt_ms: most(({ promptMs }) => promptMs), completion_ms: most(({ completionMs }) => completionMs) };
  const coldStarts = Math.max(...ends.map((end) => end?.coldStarts ?? 0));
  const { region, lane } = ends.find((end) => end?.served !== undefined)?.served ?? { region: null, lane: 0 };
  return { seed, ...counts, region, lane, cold_starts: coldStarts, timings, ...(degraded.length > 0 ? { degraded: { tokens: sum("tokens"), expert_rows: sum("expertRows") } } : {}), ...(pruned.length > 0 ? { pruned: { left_out: calls("leftOut"), of: calls("of") } } : {}), ...(ends.some((end) => end?.isLate) ? { deadline_exceeded: true } : {}) };
}
