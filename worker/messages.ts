// POST /v1/messages and /v1/messages/count_tokens: Anthropic's request as the chat request it means. Owns its schema and the way its blocks become
// messages. Refuses images and documents, and anything the chat itself refuses.

import { z } from "zod";
import type { Caller } from "./auth.ts";
import { chatChoices } from "./completions.ts";
import { EDGE_LIMITS } from "./limits.ts";
import { messagesForm } from "./messages-form.ts";
import type { EdgePack } from "./pack.ts";
import { chatPrompt, requireModel } from "./prompt.ts";
import type { Choice, Reply } from "./reply-form.ts";
import { type ChatRequest, moe } from "./schemas.ts";

const text = z.object({ type: z.literal("text"), text: z.string("a string") });
const toolUse = z.object({ type: z.literal("tool_use"), id: z.string("a string"), name: z.string("a string"), input: z.record(z.string(), z.unknown(), "an object") });
const toolResult = z.object({
  type: z.literal("tool_result"), tool_use_id: z.string("a string"), content: z.union([z.string(), z.array(text)], "a string, or an array of text blocks").nullish(), is_error: z.boolean("true or false").nullish(),
});
const thinking = z.object({ type: z.literal("thinking"), thinking: z.string("a string") });
const redacted = z.object({ type: z.literal("redacted_thinking") });
const blockExpected = "a block of type \"text\", \"thinking\", \"tool_use\" or \"tool_result\" (this server reads text only)";
const block = z.discriminatedUnion("type", [text, toolUse, toolResult, thinking, redacted], blockExpected);
const message = z.object({
  role: z.enum(["user", "assistant", "system"], "\"user\" or \"assistant\""),
  content: z.union([z.string(), z.array(block)], "a string, or an array of blocks"),
}, "an object with `role` and `content`");
const countable = {
  model: z.string("the id of a model as a string").min(1, "the id of a model, not an empty string"),
  messages: z.array(message, "an array of messages").min(1, "at least one message").max(EDGE_LIMITS.messages, `at most ${EDGE_LIMITS.messages} messages`),
  system: z.union([z.string(), z.array(text)], "a string, or an array of text blocks").nullish(),
  tools: z.array(z.looseObject({
    type: z.literal("custom", "\"custom\", or no such field (tools that run at the server are not served)").nullish(), name: z.string("a string").min(1, "a name"), description: z.string("a string").nullish(),
    input_schema: z.record(z.string(), z.unknown(), "a JSON schema as an object"),
  }, "an object with `name` and `input_schema`"), "an array of tools").max(EDGE_LIMITS.tools, `at most ${EDGE_LIMITS.tools} tools`).nullish(),
  tool_choice: z.discriminatedUnion("type", [
    z.object({ type: z.literal("auto"), disable_parallel_tool_use: z.boolean().nullish() }), z.object({ type: z.literal("any"), disable_parallel_tool_use: z.boolean().nullish() }),
    z.object({ type: z.literal("tool"), name: z.string("a string"), disable_parallel_tool_use: z.boolean().nullish() }), z.object({ type: z.literal("none") }),
  ], "an object whose `type` is \"auto\", \"any\", \"tool\" or \"none\"").nullish(),
  thinking: z.looseObject({ type: z.enum(["enabled", "disabled", "adaptive"], "\"enabled\", \"disabled\" or \"adaptive\"") }, "an object with `type`").nullish(),
};
const share = (max: number) => z.number(`a number from 0 to ${max}`).min(0, `a number from 0 to ${max}`).max(max, `a number from 0 to ${max}`);
const count = (min: number) => z.number(`an integer of at least ${min}`).int(`an integer of at least ${min}`).min(min, `an integer of at least ${min}`);
const stopExpected = `an array of at most ${EDGE_LIMITS.stopStrings} strings, each of 1 to ${EDGE_LIMITS.stopStringChars} characters`;

export const countTokensSchema = z.object(countable, "a JSON object");
export const messagesSchema = z.object({
  ...countable,
  max_tokens: count(1),
  temperature: share(2).nullish(),
  top_p: share(1).nullish(),
  top_k: count(0).nullish(),
  stop_sequences: z.array(z.string(stopExpected).min(1, stopExpected).max(EDGE_LIMITS.stopStringChars, stopExpected), stopExpected).max(EDGE_LIMITS.stopStrings, stopExpected).nullish(),
  stream: z.boolean("true or false").nullish(),
  moe: moe.nullish(),
}, "a JSON object");
export type MessagesRequest = z.infer<typeof messagesSchema>;
type Countable = z.infer<typeof countTokensSchema>;
type ChatMessages = ChatRequest["messages"];

const joined = (content: string | readonly { readonly text: string }[]): string => (typeof content === "string" ? content : content.map((part) => part.text).join(""));

/** Results of tools are messages of their own, before what the user says with them. */
function chatMessages({ role, content }: Countable["messages"][number]): ChatMessages {
  if (typeof content === "string") return [{ role, content }];
  const results = content.flatMap((part) => (part.type === "tool_result" ? [{ role: "tool" as const, tool_call_id: part.tool_use_id, content: joined(part.content ?? "") }] : []));
  const calls = content.flatMap((part) => (part.type === "tool_use" ? [{ id: part.id, type: "function" as const, function: { name: part.name, arguments: JSON.stringify(part.input) } }] : []));
  const words = content.flatMap((part) => (part.type === "text" ? [part.text] : [])).join("");
  const thoughts = content.flatMap((part) => (part.type === "thinking" ? [part.thinking] : [])).join("");
  const says = words !== "" || calls.length > 0 || results.length === 0;
  return [...results, ...(says ? [{ role, content: words, ...(calls.length === 0 ? {} : { tool_calls: calls }), ...(thoughts === "" ? {} : { reasoning_content: thoughts }) }] : [])];
}

function toolChoice(choice: Countable["tool_choice"]): Pick<ChatRequest, "tool_choice" | "parallel_tool_calls"> {
  switch (choice?.type) {
    case undefined: return {};
    case "none": return { tool_choice: "none" };
    case "auto": return { tool_choice: "auto", parallel_tool_calls: choice.disable_parallel_tool_use !== true };
    case "any": return { tool_choice: "required", parallel_tool_calls: choice.disable_parallel_tool_use !== true };
    case "tool": return { tool_choice: { type: "function", function: { name: choice.name } } };
  }
}

const chatOf = ({ model, messages, system, tools, tool_choice, thinking: wish }: Countable): ChatRequest => ({
  model,
  messages: [...(system == null ? [] : [{ role: "system" as const, content: joined(system) }]), ...messages.flatMap(chatMessages)],
  ...(tools == null || tools.length === 0 ? {} : { tools: tools.map(({ name, description, input_schema }) => ({ type: "function" as const, function: { name, parameters: input_schema, ...(description == null ? {} : { description }) } })) }),
  ...toolChoice(tool_choice),
  ...(wish == null || wish.type === "adaptive" ? {} : { chat_template_kwargs: { enable_thinking: wish.type === "enabled" } }),
});

export function messagesReply(pack: EdgePack, request: MessagesRequest, caller: Caller): Reply {
  const { max_tokens, temperature, top_p, top_k, stop_sequences, moe: own } = request;
  const { choices } = chatChoices(pack, {
    ...chatOf(request), max_tokens, temperature, top_k, stop: stop_sequences, moe: own,
    // 0 means the same as the smallest share to the official API.
    top_p: top_p === 0 ? Number.MIN_VALUE : top_p,
  }, caller);
  return { model: pack.id, stream: request.stream === true, choices, idPrefix: "msg_", form: (head) => messagesForm(head, choices as unknown as [Choice]) };
}

export function countTokens(pack: EdgePack, request: Countable): { input_tokens: number } {
  requireModel(pack, request.model);
  return { input_tokens: chatPrompt(pack, chatOf(request)).ids.length };
}
