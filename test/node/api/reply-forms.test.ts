// Replies as typed blocks, streamed and whole, in Anthropic's words and in those of OpenAI's responses: whatever a token holds (the end of a call and text
// after it, a call at once), the deltas of each block put together are the block, blocks come one after the other, and no piece is lost.

import fc from "fast-check";
import { expect, it } from "vitest";
import type { ReplyPart } from "../../../model/reply-parser.ts";
import type { Aside, Piece } from "../../../worker/generation.ts";
import { messagesForm } from "../../../worker/messages-form.ts";
import { ReplyBlocks } from "../../../worker/reply-blocks.ts";
import type { Choice, ReplyForm } from "../../../worker/reply-form.ts";
import { responsesForm } from "../../../worker/responses-form.ts";

const head = { id: "msg_000000000000000000000000", created: 0, model: "m", seed: 1 };
const choice = { promptIndex: 0, opening: [], input: { request: { promptIds: [1] } } } as unknown as Choice;
const settings = { instructions: null, max_output_tokens: null, temperature: 1, top_p: 1, tools: [], tool_choice: "auto", parallel_tool_calls: true, text: {}, reasoning: {}, metadata: {} };

const pieceOf = (parts: readonly ReplyPart[]): Piece => ({
  kind: "token", token: { id: 0, logprob: null, top: [] }, trace: null, text: parts.map((part) => (part.kind === "content" ? part.text : "")).join(""),
  aside: parts.filter((part): part is Aside => part.kind !== "content"),
});
const END: Piece = { kind: "end", text: "", aside: [], reason: "stop", isLate: false, stop: null, promptTokens: 1, cachedTokens: 0, completionTokens: 1, moe: null, degraded: null, timings: null };

/** A reply's parts in order as parsers give them: thoughts, then text and calls in turn; a call's arguments in pieces. `cuts`: which parts share a token with the one before. */
const parts = fc.array(fc.oneof(
  fc.record({ kind: fc.constant("content" as const), text: fc.string({ minLength: 1 }) }),
  fc.record({ kind: fc.constant("tool" as const), pieces: fc.array(fc.string({ minLength: 1 }), { maxLength: 4 }) }),
), { maxLength: 6 }).map((items) => {
  let index = -1;
  return items.flatMap((item): ReplyPart[] => {
    if (item.kind === "content") return [item];
    index++;
    return [{ kind: "tool", index, name: `f${index}`, arguments: "" }, ...item.pieces.map((text): ReplyPart => ({ kind: "tool", index, arguments: text }))];
  });
});

it("a call that ends in the token in which text begins keeps its arguments, and the text its own", () => {
  const blocks = new ReplyBlocks();
  blocks.add(pieceOf([{ kind: "tool", index: 0, name: "f", arguments: "{" }]));
  const changes = blocks.add(pieceOf([{ kind: "tool", index: 0, arguments: "}" }, { kind: "content", text: "Done." }, { kind: "tool", index: 1, name: "g", arguments: "" }, { kind: "tool", index: 1, arguments: "1" }]));
  expect(blocks.blocks.map(({ kind, text }) => [kind, text])).toEqual([["call", "{}"], ["text", "Done."], ["call", "1"]]);
  expect(changes.map(({ type, at }) => [type, at])).toEqual([["grow", 0], ["close", 0], ["open", 1], ["grow", 1], ["close", 1], ["open", 2], ["grow", 2]]);
});

type Event = Readonly<Record<string, never>> & { readonly type: string; readonly index: number; readonly output_index: number; readonly delta: string & { readonly text?: string; readonly partial_json?: string } };
const forms: readonly (readonly [string, () => ReplyForm, (event: Event) => [number, string] | null, (document: never) => string[]])[] = [
  ["messages", () => messagesForm(head, [choice]), (event) => (event.type === "content_block_delta" ? [event.index, event.delta.text ?? event.delta.partial_json!] : null),
    (document: { content: { type: string; text: string; input: object }[] }) => document.content.map(({ type, text, input }) => (type === "text" ? text : JSON.stringify(input)))],
  ["responses", () => responsesForm(head, [choice], settings), (event) => (/\.delta$/.test(event.type) ? [event.output_index, event.delta] : null),
    (document: { output: { content?: { text: string }[]; arguments?: string }[] }) => document.output.map(({ content, arguments: given }) => given ?? content![0]!.text)],
];
it.each(forms)("%s: deltas are the blocks of the whole reply, whatever shares a token", (name, make, deltaOf, textsOf) => {
  fc.assert(fc.property(parts, fc.array(fc.boolean()), (of, shared) => {
    // A token holds what a parser can have found in it: the end of one call, then text, then calls.
    const tokens: ReplyPart[][] = [];
    for (const [i, part] of of.entries()) {
      const last = tokens.at(-1);
      if (last !== undefined && shared[i] === true && !(part.kind === "content" && last.some((other) => other.kind === "content" || (other.kind === "tool" && other.name !== undefined)))) last.push(part);
      else tokens.push([part]);
    }
    const form = make();
    const events = [...tokens.flatMap((token) => form.add(0, pieceOf(token))), ...form.add(0, END), ...form.closing()].map(({ data }) => data as Event);
    const streamed: string[] = [];
    for (const event of events) {
      const delta = deltaOf(event);
      if (delta !== null) streamed[delta[0]] = (streamed[delta[0]] ?? "") + delta[1];
    }
    const blocks: string[] = [];
    let wasText = false;
    for (const part of of) {
      if (part.kind === "content" && wasText) blocks[blocks.length - 1] += part.text;
      else if (part.kind === "content") blocks.push(part.text);
      else if (part.kind === "tool" && part.name !== undefined) blocks.push(part.arguments);
      else if (part.kind === "tool") blocks[blocks.length - 1] += part.arguments;
      wasText = part.kind === "content";
    }
    expect(Array.from(blocks, (_, i) => streamed[i] ?? "")).toEqual(blocks);
    // Messages show arguments as the object they are, where they are one.
    if (name === "responses") expect(textsOf(form.document() as never)).toEqual(blocks);
    else expect(textsOf(form.document() as never)).toHaveLength(blocks.length);
  }), { numRuns: 500 });
});
