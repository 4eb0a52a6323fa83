// Replies of POST /v1/responses in OpenAI's newer words: output items of reasoning, messages and function calls, and a stream of numbered, named events
// around them. Source: OpenAI's API reference, Responses and its streaming events (2026-11).

import { errorBody, type RequestError } from "./errors.ts";
import { ReplyBlocks, type Block } from "./reply-blocks.ts";
import { type Choice, type End, moeOf, type ReplyForm, type ReplyHead, type StreamEvent, usageOf } from "./reply-form.ts";

/** Settings of the request that a response repeats. */
export interface EchoedSettings {
  readonly instructions: string | null;
  readonly max_output_tokens: number | null;
  readonly temperature: number;
  readonly top_p: number;
  readonly tools: readonly object[];
  readonly tool_choice: string | object;
  readonly parallel_tool_calls: boolean;
  readonly text: object;
  readonly reasoning: object;
  readonly metadata: object;
}

export function responsesForm(head: ReplyHead, choices: readonly [Choice], settings: EchoedSettings): ReplyForm {
  const reply = new ReplyBlocks();
  let end: End | null = null;
  let reasoningTokens = 0;
  let nEvents = 0;
  const suffix = head.id.slice(-24);

  const statusOf = (block: Block): string => (end !== null && end.reason === "length" && block === reply.blocks.at(-1) ? "incomplete" : "completed");
  const itemId = (at: number): string => `${{ reasoning: "rs", text: "msg", call: "fc" }[reply.blocks[at]!.kind]}_${suffix}${at}`;
  const textPart = (text: string): object => ({ type: "output_text", text, annotations: [], logprobs: [] });
  const itemOf = (at: number, status: string): object => {
    const block = reply.blocks[at]!;
    switch (block.kind) {
      case "reasoning": return { type: "reasoning", id: itemId(at), summary: [], content: block.text === "" ? [] : [{ type: "reasoning_text", text: block.text }], status };
      case "text": return { type: "message", id: itemId(at), role: "assistant", status, content: status === "in_progress" ? [] : [textPart(block.text)] };
      case "call": return { type: "function_call", id: itemId(at), call_id: `call_${suffix}${at}`, name: block.call!.name, arguments: block.text, status };
    }
  };
  const usage = (): object => {
    const { prompt_tokens, prompt_tokens_details, completion_tokens, total_tokens } = usageOf(choices, end === null ? [] : [end]);
    return { input_tokens: prompt_tokens, input_tokens_details: prompt_tokens_details, output_tokens: completion_tokens, output_tokens_details: { reasoning_tokens: reasoningTokens }, total_tokens };
  };
  const response = (status: string, error: RequestError | null = null): object => ({
    id: head.id, object: "response", created_at: head.created, status, background: false, model: head.model,
    error: error === null ? null : { code: error.code ?? "server_error", message: error.message },
    incomplete_details: status === "incomplete" ? { reason: "max_output_tokens" } : null,
    output: status === "in_progress" ? [] : reply.blocks.map((block, at) => itemOf(at, statusOf(block))),
    previous_response_id: null, store: false, truncation: "disabled", service_tier: "default", user: null, ...settings,
    usage: status === "in_progress" ? null : usage(), ...(status === "in_progress" ? {} : { moe: moeOf(head, [end ?? undefined]) }),
  });
  const finalStatus = (): string => (end?.reason === "length" ? "incomplete" : "completed");
  const event = (type: string, of: object): StreamEvent => ({ event: type, data: { type, sequence_number: nEvents++, ...of } });

  const opened = (at: number): StreamEvent[] => {
    const item = { output_index: at, item_id: itemId(at) };
    const added = event("response.output_item.added", { output_index: at, item: itemOf(at, "in_progress") });
    return reply.blocks[at]!.kind === "text" ? [added, event("response.content_part.added", { ...item, content_index: 0, part: textPart("") })] : [added];
  };
  const grown = (at: number, delta: string): StreamEvent => {
    const item = { output_index: at, item_id: itemId(at), delta };
    switch (reply.blocks[at]!.kind) {
      case "reasoning": return event("response.reasoning_text.delta", { ...item, content_index: 0 });
      case "text": return event("response.output_text.delta", { ...item, content_index: 0, logprobs: [] });
      case "call": return event("response.function_call_arguments.delta", item);
    }
  };
  const closed = (at: number): StreamEvent[] => {
    const block = reply.blocks[at]!;
    const item = { output_index: at, item_id: itemId(at) };
    const done = event.bind(null);
    const before = block.kind === "reasoning" ? [done("response.reasoning_text.done", { ...item, content_index: 0, text: block.text })]
      : block.kind === "text" ? [done("response.output_text.done", { ...item, content_index: 0, text: block.text, logprobs: [] }), done("response.content_part.done", { ...item, content_index: 0, part: textPart(block.text) })]
        : [done("response.function_call_arguments.done", { ...item, name: block.call!.name, arguments: block.text })];
    return [...before, done("response.output_item.done", { output_index: at, item: itemOf(at, statusOf(block)) })];
  };

  /** The first events are numbered before those of the first piece, although that piece was there before they are asked for. */
  const first = [event("response.created", { response: response("in_progress") }), event("response.in_progress", { response: response("in_progress") })];
  return {
    opening: () => first,
    add(_, piece) {
      if (piece.kind === "end") end = piece;
      else if (piece.kind === "token" && piece.aside.some((part) => part.kind === "reasoning")) reasoningTokens++;
      return reply.add(piece).flatMap((change) => (change.type === "open" ? opened(change.at) : change.type === "grow" ? [grown(change.at, change.text)] : closed(change.at)));
    },
    closing: () => [event(`response.${finalStatus()}`, { response: response(finalStatus()) })],
    failure: (error) => [event("error", { ...errorBody(error).error }), event("response.failed", { response: response("failed", error) })],
    document: () => response(finalStatus()),
  };
}
