// The bodies of POST /v1/messages and /v1/messages/count_tokens as zod schemas: Anthropic's requests (its API reference, 2026-11), narrowed to what this server
// does. Refuses images, documents and tools that run at the server. What they mean: messages.ts.

import { z } from "zod";
import { EDGE_LIMITS } from "./limits.ts";
import { integer, modelId, moe, number } from "./schemas.ts";

const text = z.object({ type: z.literal("text"), text: z.string("a string").meta({ description: "Text." }) });
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
  model: modelId,
  messages: z.array(message, "an array of messages").min(1, "at least one message").max(EDGE_LIMITS.messages, `at most ${EDGE_LIMITS.messages} messages`).meta({ description: "The conversation: text, or blocks of text, thoughts, calls of tools and their results." }),
  system: z.union([z.string(), z.array(text)], "a string, or an array of text blocks").nullish().meta({ description: "What comes before the conversation." }),
  tools: z.array(z.looseObject({
    type: z.literal("custom", "\"custom\", or no such field (tools that run at the server are not served)").nullish(), name: z.string("a string").min(1, "a name"), description: z.string("a string").nullish(),
    input_schema: z.record(z.string(), z.unknown(), "a JSON schema as an object"),
  }, "an object with `name` and `input_schema`"), "an array of tools").max(EDGE_LIMITS.tools, `at most ${EDGE_LIMITS.tools} tools`).nullish().meta({ description: "Tools the model may call, where its template takes tools." }),
  tool_choice: z.discriminatedUnion("type", [
    z.object({ type: z.literal("auto"), disable_parallel_tool_use: z.boolean().nullish() }), z.object({ type: z.literal("any"), disable_parallel_tool_use: z.boolean().nullish() }),
    z.object({ type: z.literal("tool"), name: z.string("a string"), disable_parallel_tool_use: z.boolean().nullish() }), z.object({ type: z.literal("none") }),
  ], "an object whose `type` is \"auto\", \"any\", \"tool\" or \"none\"").nullish().meta({ description: "\"auto\": calls or text; \"any\": at least one call; \"tool\": a call of the tool `name`; \"none\": no calls. `disable_parallel_tool_use`: one call at most." }),
  thinking: z.looseObject({ type: z.enum(["enabled", "disabled", "adaptive"], "\"enabled\", \"disabled\" or \"adaptive\"") }, "an object with `type`").nullish().meta({ description: "\"enabled\" and \"disabled\" become the variable enable_thinking of the model's template; \"adaptive\" leaves it alone." }),
};
const stopExpected = `an array of at most ${EDGE_LIMITS.stopStrings} strings, each of 1 to ${EDGE_LIMITS.stopStringChars} characters`;

export const countTokensSchema = z.object(countable, "a JSON object");
export const messagesSchema = z.object({
  ...countable,
  max_tokens: integer(1, Number.MAX_SAFE_INTEGER).meta({ description: "Most tokens to generate." }),
  temperature: number(0, 2).nullish().meta({ description: "Logits are divided by it; 0 takes the most likely token.", default: 1 }),
  top_p: number(0, 1).nullish().meta({ description: "Keeps the smallest set of most likely tokens whose probability reaches it; 0 keeps one.", default: 1 }),
  top_k: integer(0, Number.MAX_SAFE_INTEGER).nullish().meta({ description: "Keeps so many of the most likely tokens; 0 keeps all.", default: 0 }),
  stop_sequences: z.array(z.string(stopExpected).min(1, stopExpected).max(EDGE_LIMITS.stopStringChars, stopExpected), stopExpected).max(EDGE_LIMITS.stopStrings, stopExpected).nullish()
    .meta({ description: "The reply ends before the first of these, wherever tokens meet." }),
  stream: z.boolean("true or false").nullish().meta({ description: "Server-sent events instead of one document.", default: false }),
  moe: moe.nullish().meta({ description: "Extensions of this server." }),
}, "a JSON object");
export type MessagesRequest = z.infer<typeof messagesSchema>;
export type Countable = z.infer<typeof countTokensSchema>;
