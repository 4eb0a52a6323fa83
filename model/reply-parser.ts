// What a model's tokens mean in a chat reply: reasoning, answer, calls of tools. Owns the parts a reply is made of, and the choice of a
// parser: by the control tokens of the vocabulary and the markers the model's own template writes, never by the model's name.
// Refuses to know HTTP. Parsers: harmony-parser.ts (channels), marker-parser.ts (<think>, <tool_call>).

import { createHarmonyParser, hasHarmony } from "./harmony-parser.ts";
import { createMarkerParser, THINK_END, THINK_START, TOOL_START } from "./marker-parser.ts";
import type { Tokenizer } from "./tokenizer.ts";

export type ReplyPart =
  | { readonly kind: "content"; readonly text: string }
  | { readonly kind: "reasoning"; readonly text: string }
  /** A call of a tool, in pieces: `name` comes with the first piece of call number `index`, then its arguments grow. */
  | { readonly kind: "tool"; readonly index: number; readonly name?: string; readonly arguments: string };

/** Turns a reply's tokens into parts. The parts put together are the same however the tokens come; text appears once its characters are whole. */
export interface ReplyParser {
  push(id: number): ReplyPart[];
  /** What is left when the generation has ended, with or without a stop token. Nothing may be pushed after it. */
  flush(): ReplyPart[];
}

/** How replies of a model are read: everything that can be told from its vocabulary and template. */
export interface ReplyFormat {
  readonly harmony: boolean;
  /** The template knows <think>…</think>. */
  readonly thinking: boolean;
  /** The template writes calls of tools as <tool_call>{"name": …, "arguments": …}</tool_call>. */
  readonly toolMarkers: boolean;
}

export function replyFormat(tokenizer: Tokenizer, template: string): ReplyFormat {
  return { harmony: hasHarmony(tokenizer, template), thinking: template.includes(THINK_END), toolMarkers: template.includes(TOOL_START) };
}

/** A parser for the reply to one prompt. `prompt` is the rendered text: a template may end it inside a thought, or after one. */
export function createReplyParser(tokenizer: Tokenizer, format: ReplyFormat, prompt: string, withTools: boolean): ReplyParser {
  if (format.harmony) return createHarmonyParser(tokenizer);
  const isThinking = format.thinking && prompt.trimEnd().endsWith(THINK_START);
  return createMarkerParser(tokenizer, { thinking: format.thinking, isThinking, tools: withTools && format.toolMarkers });
}
