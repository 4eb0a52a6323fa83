// OpenAI's response objects for both endpoints, streamed and whole, from the pieces of generation.ts.
// A shape is a fold: `add` takes a piece and gives the choice of a stream chunk; `whole` gives the choice of the one reply.

import type { Tokenizer } from "../model/tokenizer.ts";
import type { Aside, Piece } from "./generation.ts";
import { chatLogprobs, completionLogprobs, textLength, type ScoredToken } from "./logprobs.ts";

export interface ChoiceShape {
  /** The choice of a chunk for this piece, or null when there is nothing to show. */
  add(piece: Piece): object | null;
  whole(): object;
}

export interface ShapeOptions {
  readonly tokenizer: Tokenizer;
  readonly index: number;
  readonly withLogprobs: boolean;
  /** Chunks are sent for tokens without text too, because their traces or scores matter. */
  readonly everyToken: boolean;
  /** Completions with echo: the prompt as it will be shown; null = no echo. */
  readonly echoText: string | null;
  /** The beginning of its calls' ids: a reply that is resumed has the same ones. */
  readonly callPrefix: string;
}

/** Text and tokens of a choice so far. */
interface Folded {
  text: string;
  reasoning: string;
  readonly calls: ToolCall[];
  readonly tokens: ScoredToken[];
  finish: "stop" | "length" | null;
}

function fold(folded: Folded, piece: Piece, echoText: string | null): { text: string; tokens: readonly ScoredToken[] } {
  const text = piece.kind === "prompt" ? echoText ?? "" : piece.text;
  const tokens = piece.kind === "prompt" ? piece.tokens : piece.kind === "token" ? [piece.token] : [];
  folded.text += text;
  folded.tokens.push(...tokens);
  if (piece.kind === "end") folded.finish = piece.reason;
  return { text, tokens };
}

/** A call of a tool as OpenAI writes it. */
interface ToolCall {
  readonly id: string;
  readonly type: "function";
  readonly function: { readonly name: string; arguments: string };
}

export function completionShape({ tokenizer, index, withLogprobs, everyToken, echoText }: ShapeOptions): ChoiceShape {
  const folded: Folded = { text: "", reasoning: "", calls: [], tokens: [], finish: null };
  let echoed = echoText === null;
  let offset = 0;
  return {
    add(piece) {
      if (piece.kind === "prompt" && echoed) {
        // A long prompt comes in several pieces; its text was shown with the first.
        folded.tokens.push(...piece.tokens);
        if (!withLogprobs) return null;
        const logprobs = completionLogprobs(tokenizer, piece.tokens, offset);
        offset += textLength(tokenizer, piece.tokens);
        return { index, text: "", logprobs, finish_reason: null };
      }
      const { text, tokens } = fold(folded, piece, echoText);
      if (piece.kind === "prompt") echoed = true;
      const logprobs = withLogprobs && tokens.length > 0 ? completionLogprobs(tokenizer, tokens, offset) : null;
      offset += textLength(tokenizer, tokens);
      if (text === "" && piece.kind !== "end" && !everyToken) return null;
      return { index, text, logprobs, finish_reason: folded.finish };
    },
    whole: () => ({
      index, text: folded.text, finish_reason: folded.finish,
      logprobs: withLogprobs ? completionLogprobs(tokenizer, folded.tokens, 0) : null,
    }),
  };
}

export function chatShape({ tokenizer, index, withLogprobs, everyToken, callPrefix }: ShapeOptions): ChoiceShape {
  const folded: Folded = { text: "", reasoning: "", calls: [], tokens: [], finish: null };
  /** Calls of tools are a reason of their own to end, unless the reply was cut off. */
  const finishReason = (): string | null => (folded.finish === "stop" && folded.calls.length > 0 ? "tool_calls" : folded.finish);
  return {
    add(piece) {
      const { text, tokens } = fold(folded, piece, null);
      const aside = foldAside(folded, callPrefix, piece.kind === "prompt" ? [] : piece.aside);
      const delta = { ...(aside.reasoning === "" ? {} : { reasoning_content: aside.reasoning }), ...(text === "" ? {} : { content: text }), ...(aside.calls.length === 0 ? {} : { tool_calls: aside.calls }) };
      if (Object.keys(delta).length === 0 && piece.kind !== "end" && !everyToken) return null;
      const logprobs = withLogprobs && tokens.length > 0 ? chatLogprobs(tokenizer, tokens) : null;
      return { index, delta, logprobs, finish_reason: finishReason() };
    },
    whole: () => ({
      index, finish_reason: finishReason(),
      message: {
        role: "assistant", content: folded.text === "" && folded.calls.length > 0 ? null : folded.text, refusal: null,
        ...(folded.reasoning === "" ? {} : { reasoning_content: folded.reasoning }), ...(folded.calls.length === 0 ? {} : { tool_calls: folded.calls }),
      },
      logprobs: withLogprobs ? chatLogprobs(tokenizer, folded.tokens) : null,
    }),
  };
}

/** Adds reasoning and calls to what there is; returns them as a chunk shows them. */
function foldAside(folded: Folded, callPrefix: string, asides: readonly Aside[]): { reasoning: string; calls: object[] } {
  let reasoning = "";
  const calls: object[] = [];
  for (const aside of asides) {
    if (aside.kind === "reasoning") {
      reasoning += aside.text;
    } else if (aside.name !== undefined) {
      const call: ToolCall = { id: `${callPrefix}${aside.index}`, type: "function", function: { name: aside.name, arguments: aside.arguments } };
      folded.calls[aside.index] = call;
      calls.push({ index: aside.index, ...call, function: { ...call.function } });
    } else {
      folded.calls[aside.index]!.function.arguments += aside.arguments;
      calls.push({ index: aside.index, function: { arguments: aside.arguments } });
    }
  }
  folded.reasoning += reasoning;
  return { reasoning, calls };
}
