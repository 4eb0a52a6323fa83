// What a reply in channels (Harmony, gpt-oss) must look like: thoughts run free in the analysis channel, then the final channel or a call holds to a
// format. Owns how messages follow each other, with control tokens by name, which no text spells (durable/grammar-text.ts). Refuses to hold thoughts to anything.
// Source: openai/harmony docs/format.md; headers of calls as gpt-oss writes them and as its template shows them to it.

import { HARMONY_CONTROLS } from "../model/harmony-parser.ts";
import type { ChatRequest } from "./schemas.ts";

/** A part of XGrammar's structural tags. A grammar's `controls` are rules that stand for control tokens. */
export type Format = { readonly type: string } & Readonly<Record<string, unknown>>;

/** start, channel, message, constrain, end. */
const CONTROLS = Object.fromEntries(HARMONY_CONTROLS.map((token) => [token.slice(2, -2), token]));
const grammar = (text: string): Format => ({ type: "grammar", grammar: text, controls: CONTROLS });
const ANY_TEXT = "[^\\0]*";

/** Messages before the one that counts, in these channels. The prompt ends with <|start|>assistant, and so does each of them. */
const before = (...channels: readonly string[]): Format =>
  grammar(`root ::= (channel (${channels.map((name) => JSON.stringify(name)).join(" | ")}) message text end start "assistant")*\ntext ::= ${ANY_TEXT}`);

/**
 * `text` in the final channel, or a call of one of `tools`, or, where it need not call, free text. One call at most: the control token after it ends the reply.
 * What is said in the commentary channel belongs to the answer, so nothing is said there where the answer is held to a format.
 */
export function harmonyFormat(text: Format | null, tools: readonly NonNullable<ChatRequest["tools"]>[number][] | null, mustCall: boolean): Format {
  const final = (content: Format): Format => ({ type: "sequence", elements: [grammar('root ::= channel "final" message'), content] });
  if (text !== null) return { type: "sequence", elements: [before("analysis"), final(text)] };
  const calls = (tools ?? []).map(({ function: { name, parameters } }): Format => ({
    type: "sequence", elements: [callHeader(name), { type: "json_schema", json_schema: parameters ?? { type: "object" } }],
  }));
  return {
    type: "sequence",
    elements: mustCall ? [before("analysis"), { type: "or", elements: calls }] : [before("analysis", "commentary"), { type: "or", elements: [final(grammar(`root ::= ${ANY_TEXT}`)), ...calls] }],
  };
}

/** The recipient after the channel, as gpt-oss writes it, or before it, as its template does. */
function callHeader(name: string): Format {
  const recipient = JSON.stringify(` to=functions.${name}`);
  return grammar(`root ::= (channel "commentary" ${recipient} | ${recipient} channel "commentary") type message\ntype ::= "" | " json" | " "? constrain "json"`);
}
