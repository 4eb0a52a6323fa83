// Replies of POST /v1/messages in Anthropic's words: blocks of thinking, text and tool_use; a stream of named events around them; errors of its own shape.
// Source: docs.anthropic.com, Messages API and its streaming (2026-11).

import type { RequestError } from "./errors.ts";
import { ReplyBlocks, type Block } from "./reply-blocks.ts";
import { type Choice, type End, moeOf, type ReplyForm, type ReplyHead, type StreamEvent, usageOf } from "./reply-form.ts";

const callId = (head: ReplyHead, block: Block): string => `toolu_${head.id.slice(-24)}${block.call!.index}`;

/** A call's arguments as an object; what is no JSON object (a reply that was cut) is an empty one, as the official API gives then. */
function inputOf(text: string): object {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? value : {};
  } catch {
    return {};
  }
}

export function messagesForm(head: ReplyHead, choices: readonly [Choice]): ReplyForm {
  const reply = new ReplyBlocks();
  let end: End | null = null;

  const usage = (): object => {
    const { prompt_tokens, prompt_tokens_details: { cached_tokens }, completion_tokens } = usageOf(choices, end === null ? [] : [end]);
    return { input_tokens: prompt_tokens - cached_tokens, cache_creation_input_tokens: 0, cache_read_input_tokens: cached_tokens, output_tokens: completion_tokens };
  };
  const contentOf = (block: Block): object => {
    switch (block.kind) {
      case "reasoning": return { type: "thinking", thinking: block.text, signature: "" };
      case "text": return { type: "text", text: block.text };
      case "call": return { type: "tool_use", id: callId(head, block), name: block.call!.name, input: inputOf(block.text) };
    }
  };
  const deltaOf = (block: Block, text: string): object => {
    switch (block.kind) {
      case "reasoning": return { type: "thinking_delta", thinking: text };
      case "text": return { type: "text_delta", text };
      case "call": return { type: "input_json_delta", partial_json: text };
    }
  };
  const ending = (): { stop_reason: string | null; stop_sequence: string | null } => {
    if (end === null) return { stop_reason: null, stop_sequence: null };
    if (end.reason === "length") return { stop_reason: "max_tokens", stop_sequence: null };
    if (end.stop !== null) return { stop_reason: "stop_sequence", stop_sequence: end.stop };
    return { stop_reason: reply.blocks.some((block) => block.kind === "call") ? "tool_use" : "end_turn", stop_sequence: null };
  };
  const message = (): object => ({
    id: head.id, type: "message", role: "assistant", model: head.model, content: reply.blocks.map(contentOf), ...ending(), usage: usage(),
  });
  const event = (type: string, of: object): StreamEvent => ({ event: type, data: { type, ...of } });

  return {
    opening: () => [event("message_start", { message: { ...message(), content: [], stop_reason: null, stop_sequence: null, usage: { ...usage(), output_tokens: 0 } } })],
    add(_, piece) {
      if (piece.kind === "end") end = piece;
      return reply.add(piece).map((change) => {
        switch (change.type) {
          case "open": return event("content_block_start", { index: change.at, content_block: contentOf({ ...change.block, text: "" }) });
          case "grow": return event("content_block_delta", { index: change.at, delta: deltaOf(reply.blocks[change.at]!, change.text) });
          case "close": return event("content_block_stop", { index: change.at });
        }
      });
    },
    closing: () => [event("message_delta", { delta: ending(), usage: usage(), moe: moeOf(head, [end ?? undefined]) }), event("message_stop", {})],
    failure: (error) => [{ event: "error", data: messagesError(error) }],
    document: () => ({ ...message(), moe: moeOf(head, [end ?? undefined]) }),
  };
}

/** Anthropic's name of each status. */
const ERROR_TYPES: Readonly<Record<number, string>> = {
  400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error",
};

export const messagesError = (error: RequestError): object =>
  ({ type: "error", error: { type: ERROR_TYPES[error.status] ?? (error.status < 500 ? "invalid_request_error" : "api_error"), message: error.message } });
