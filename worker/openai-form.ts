// Replies of /v1/completions and /v1/chat/completions: one document, or chunks whose choices are the shapes of shapes.ts. Owns what stands around the
// choices: heads, usage only where it was asked for, our `moe`, and `[DONE]`.

import { errorBody } from "./errors.ts";
import { type Choice, type End, moeOf, type ReplyForm, type ReplyHead, type StreamEvent, usageOf } from "./reply-form.ts";
import type { ChoiceShape } from "./shapes.ts";

export interface OpenAiOptions {
  readonly object: string;
  readonly chunkObject: string;
  readonly includeUsage: boolean;
  readonly withTrace: boolean;
  readonly choices: readonly Choice[];
  /** Of the choices, in the same order. */
  readonly shapes: readonly ChoiceShape[];
  /** Choices of a first chunk (the roles of a chat). */
  readonly openingChoices: readonly object[];
}

const DONE: StreamEvent = { data: "[DONE]" };

export function openAiForm(head: ReplyHead, { object, chunkObject, includeUsage, withTrace, choices, shapes, openingChoices }: OpenAiOptions): ReplyForm {
  const { id, created, model } = head;
  const shown = { id, created, model };
  const ends: (End | undefined)[] = [];
  const traces: object[][] = choices.map(() => []);
  let nEnded = 0;
  // OpenAI puts `usage: null` into every chunk when a last one with usage was asked for.
  const usageField = includeUsage ? { usage: null } : {};
  const chunk = (of: readonly object[], more: object = {}): StreamEvent => ({ data: { ...shown, object: chunkObject, choices: of, ...usageField, ...more } });
  return {
    opening: () => (openingChoices.length === 0 ? [] : [chunk(openingChoices)]),
    add(index, piece) {
      if (piece.kind === "end") {
        ends[index] = piece;
        nEnded++;
      }
      const trace = piece.kind === "token" ? piece.trace : null;
      if (trace !== null) traces[index]!.push(trace);
      const choice = shapes[index]!.add(piece);
      if (choice === null) return [];
      const isLast = piece.kind === "end" && nEnded === choices.length;
      return [chunk([choice], trace !== null ? { moe: { token: trace } } : isLast ? { moe: moeOf(head, ends) } : {})];
    },
    closing: () => [...(includeUsage ? [{ data: { ...shown, object: chunkObject, choices: [], usage: usageOf(choices, ends) } }] : []), DONE],
    failure: (error) => [{ data: errorBody(error) }, DONE],
    document: () => ({
      ...shown, object,
      choices: shapes.map((shape, index) => ({ ...shape.whole(), ...(withTrace ? { moe: { tokens: traces[index] } } : {}) })),
      usage: usageOf(choices, ends), moe: moeOf(head, ends),
    }),
  };
}
