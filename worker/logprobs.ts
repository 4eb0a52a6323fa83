// Log-probabilities in OpenAI's two shapes: parallel arrays for completions, objects for chat. Owns the offsets of a choice's tokens.

import type { Tokenizer } from "../model/tokenizer.ts";
import { tokenBytes, tokenText } from "./token-text.ts";

/** A token with what the model thought of it; null where nothing stands before it. */
export interface ScoredToken {
  readonly id: number;
  readonly logprob: number | null;
  readonly top: readonly { readonly id: number; readonly logprob: number }[];
}

export interface CompletionLogprobs {
  readonly tokens: string[];
  readonly token_logprobs: (number | null)[];
  readonly top_logprobs: (Record<string, number> | null)[];
  readonly text_offset: number[];
}

/** Arrays for completions; `offset` is the number of characters before the first token. */
export function completionLogprobs(tokenizer: Tokenizer, tokens: readonly ScoredToken[], offset: number): CompletionLogprobs {
  const texts = tokens.map((token) => tokenText(tokenizer, token.id));
  let at = offset;
  return {
    tokens: texts,
    token_logprobs: tokens.map((token) => token.logprob),
    top_logprobs: tokens.map((token) => {
      if (token.logprob === null) return null;
      const own = { [tokenText(tokenizer, token.id)]: token.logprob };
      return { ...Object.fromEntries(token.top.map((other) => [tokenText(tokenizer, other.id), other.logprob])), ...own };
    }),
    text_offset: tokens.map((token, i) => {
      const here = at;
      // Control tokens have a name but no place in the text.
      if (!tokenizer.isControl(token.id)) at += texts[i]!.length;
      return here;
    }),
  };
}

/** Characters that tokens take in the text, as `text_offset` counts them. */
export const textLength = (tokenizer: Tokenizer, tokens: readonly ScoredToken[]): number =>
  tokens.reduce((sum, token) => sum + (tokenizer.isControl(token.id) ? 0 : tokenText(tokenizer, token.id).length), 0);

export function chatLogprobs(tokenizer: Tokenizer, tokens: readonly ScoredToken[]): object {
  const entry = (id: number, logprob: number) => ({ token: tokenText(tokenizer, id), logprob, bytes: tokenBytes(tokenizer, id) });
  return {
    content: tokens.map((token) => ({
      ...entry(token.id, token.logprob ?? 0),
      top_logprobs: token.top.map((other) => entry(other.id, other.logprob)),
    })),
    refusal: null,
  };
}
