// OpenAI's response objects for both endpoints, streamed and whole, from the pieces of generation.ts.
// A shape is a fold: `add` takes a piece and gives the choice of a stream chunk; `whole` gives the choice of the one reply.

import type { Tokenizer } from "../model/tokenizer.ts";
import type { Piece } from "./generation.ts";
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
}

/** Text and tokens of a choice so far. */
interface Folded {
  text: string;
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

export function completionShape({ tokenizer, index, withLogprobs, everyToken, echoText }: ShapeOptions): ChoiceShape {
  const folded: Folded = { text: "", tokens: [], finish: null };
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

export function chatShape({ tokenizer, index, withLogprobs, everyToken }: ShapeOptions): ChoiceShape {
  const folded: Folded = { text: "", tokens: [], finish: null };
  return {
    add(piece) {
      const { text, tokens } = fold(folded, piece, null);
      if (text === "" && piece.kind !== "end" && !everyToken) return null;
      const logprobs = withLogprobs && tokens.length > 0 ? chatLogprobs(tokenizer, tokens) : null;
      return { index, delta: text === "" ? {} : { content: text }, logprobs, finish_reason: folded.finish };
    },
    whole: () => ({
      index, message: { role: "assistant", content: folded.text, refusal: null }, finish_reason: folded.finish,
      logprobs: withLogprobs ? chatLogprobs(tokenizer, folded.tokens) : null,
    }),
  };
}
