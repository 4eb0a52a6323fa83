// Reads Harmony, the format gpt-oss replies in: messages `<|start|>role<|channel|>name to=recipient <|constrain|>type<|message|>body<|end|>`.
// Owns which channel is what: final and commentary are the answer, analysis and channels nobody knows are reasoning, a recipient
// `functions.x` makes a message a call of x. Refuses nothing: a model may write anything, and what it wrote must not be lost or break the stream.
// Source: openai/harmony docs/format.md.

import type { ReplyParser, ReplyPart } from "./reply-parser.ts";
import type { TextStream, Tokenizer } from "./tokenizer.ts";

const START = "<|start|>";
const CHANNEL = "<|channel|>";
const MESSAGE = "<|message|>";
const CONSTRAIN = "<|constrain|>";
const END = "<|end|>";
/** The control tokens that stand in a reply, apart from those that end it. */
export const HARMONY_CONTROLS = [START, CHANNEL, MESSAGE, CONSTRAIN, END] as const;
const MESSAGE_ENDS: ReadonlySet<string> = new Set([END, "<|call|>", "<|return|>"]);
/** A header is a few words. Longer text without any marker is a model that does not keep to the format: it is shown. */
const HEADER_CHARS_MOST = 256;

/** True where the template writes channels and the vocabulary has the control tokens for them. */
export const hasHarmony = (tokenizer: Tokenizer, template: string): boolean =>
  template.includes(CHANNEL) && [START, CHANNEL, MESSAGE, END].every((token) => isControl(tokenizer, token));

const isControl = (tokenizer: Tokenizer, token: string): boolean => {
  const id = tokenizer.idOf(token);
  return id !== undefined && tokenizer.isControl(id);
};

/** Where a message's body goes. */
type Target = { readonly kind: "content" | "reasoning" } | { readonly kind: "tool"; readonly index: number };

/** The prompt ends with `<|start|>assistant`, so the reply begins inside a header. */
export function createHarmonyParser(tokenizer: Tokenizer): ReplyParser {
  let stream: TextStream = tokenizer.stream();
  /** The header so far, with its markers; null inside a body. */
  let header: string | null = "";
  /** It began with its marker, so what it says is a role, cut off or not. */
  let isMarked = false;
  let target: Target = { kind: "content" };
  let nCalls = 0;

  /** Text of the current header or body. */
  const take = (text: string): ReplyPart[] => {
    if (text === "") return [];
    if (header === null) return [target.kind === "tool" ? { kind: "tool", index: target.index, arguments: text } : { kind: target.kind, text }];
    header += text;
    if (header.length <= HEADER_CHARS_MOST || hasMarker(header)) return [];
    return plainText();
  };
  /** A header without any marker was no header. */
  const plainText = (): ReplyPart[] => {
    const text = header ?? "";
    header = null;
    target = { kind: "content" };
    return text === "" ? [] : [{ kind: "content", text }];
  };
  const close = (): ReplyPart[] => {
    const parts = take(stream.flush());
    stream = tokenizer.stream();
    return parts;
  };
  const openBody = (): ReplyPart[] => {
    const { channel, recipient } = readHeader(header ?? "");
    header = null;
    const name = recipient === null ? null : /^functions\.(.+)$/.exec(recipient)?.[1] ?? null;
    if (name !== null) {
      target = { kind: "tool", index: nCalls++ };
      return [{ kind: "tool", index: target.index, name, arguments: "" }];
    }
    // A call of a tool this server has not (python, browser) is part of the thought; so is what an unknown channel says.
    target = { kind: recipient === null && (channel === null || channel === "final" || channel === "commentary") ? "content" : "reasoning" };
    return [];
  };

  return {
    push(id) {
      const token = tokenizer.isControl(id) ? tokenizer.tokenOf(id)! : null;
      if (token === null) return take(stream.push(id));
      const parts = close();
      if (token === START) {
        // A body that is cut off by the next message ends there.
        header = "";
        isMarked = true;
      } else if (token === CHANNEL || token === CONSTRAIN) {
        if (header !== null) header += token;
        else if (token === CHANNEL) header = token; // a message that forgot its end and start
      } else if (token === MESSAGE) {
        if (header !== null) parts.push(...openBody());
      } else if (MESSAGE_ENDS.has(token)) {
        if (header !== null && isPlain(header)) parts.push(...plainText());
        header = "";
        isMarked = false;
      }
      return parts;
    },
    flush() {
      const parts = close();
      // A reply that ends in the middle of a header has said nothing in it, unless it never wrote a marker at all.
      if (header !== null && !isMarked && isPlain(header)) parts.push(...plainText());
      return parts;
    },
  };
}

const hasMarker = (header: string): boolean => header.includes(CHANNEL) || header.includes(CONSTRAIN);
const isPlain = (header: string): boolean => !hasMarker(header) && !/^\s*(assistant\b|to=|$)/.test(header);

function readHeader(header: string): { channel: string | null; recipient: string | null } {
  const channel = /<\|channel\|>\s*([^\s<]+)/.exec(header)?.[1] ?? null;
  const recipient = /(?:^|[\s>])to=([^\s<]+)/.exec(header)?.[1] ?? null;
  return { channel, recipient };
}
