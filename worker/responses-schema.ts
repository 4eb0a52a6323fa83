// The body of POST /v1/responses as a zod schema: OpenAI's newer request (its API reference, 2026-11), narrowed to what this server does. Refuses input that
// is no text and tools that run at the server. What it means, and what would need something stored: responses.ts.

import { z } from "zod";
import { EDGE_LIMITS } from "./limits.ts";
import { integer, modelId, moe, sampling } from "./schemas.ts";

const part = z.object({ type: z.enum(["input_text", "output_text", "text"], "\"input_text\" or \"output_text\" (this server reads text only)"), text: z.string("a string") });
const message = z.object({
  type: z.literal("message").default("message"), role: z.enum(["user", "assistant", "system", "developer"], "\"user\", \"assistant\", \"system\" or \"developer\""),
  content: z.union([z.string(), z.array(part)], "a string, or an array of text parts"),
});
const call = z.object({ type: z.literal("function_call"), call_id: z.string("a string"), name: z.string("a string"), arguments: z.string("a JSON text") });
const result = z.object({ type: z.literal("function_call_output"), call_id: z.string("a string"), output: z.union([z.string(), z.array(part)], "a string, or an array of text parts") });
const reasoning = z.looseObject({ type: z.literal("reasoning"), content: z.array(z.object({ type: z.literal("reasoning_text"), text: z.string() })).nullish() });
const itemExpected = "a message, a function_call, a function_call_output or a reasoning item";
const item = z.union([call, result, reasoning, message], itemExpected);
const inputExpected = "a string, or an array of items";
const boolean = z.boolean("true or false");

export const responsesSchema = z.object({
  model: modelId,
  input: z.union([z.string(), z.array(item, itemExpected).min(1, inputExpected).max(EDGE_LIMITS.messages, `at most ${EDGE_LIMITS.messages} items`)], inputExpected).meta({ description: "Text, or items: messages, calls of functions and their results, and reasoning." }),
  instructions: z.string("a string").nullish().meta({ description: "A system message before the input." }),
  max_output_tokens: integer(1, Number.MAX_SAFE_INTEGER).nullish().meta({ description: "Most tokens to generate, reasoning included; as many as the context has room for when absent." }),
  ...sampling,
  stream: boolean.nullish().meta({ description: "Server-sent events instead of one document.", default: false }),
  tools: z.array(z.looseObject({ type: z.literal("function", "\"function\" (tools that run at the server are not served)"), name: z.string("a string").min(1, "a name"), description: z.string("a string").nullish(), parameters: z.record(z.string(), z.unknown(), "a JSON schema as an object").nullish(), strict: boolean.nullish() }), "an array of tools")
    .max(EDGE_LIMITS.tools, `at most ${EDGE_LIMITS.tools} tools`).nullish().meta({ description: "Functions the model may call, where its template takes tools." }),
  tool_choice: z.union([z.enum(["none", "auto", "required"]), z.object({ type: z.literal("function"), name: z.string() })], "\"none\", \"auto\", \"required\", or an object {\"type\": \"function\", \"name\": …}").nullish()
    .meta({ description: "\"auto\": calls or text; \"none\": no calls; \"required\": at least one call; a function: a call of it.", default: "auto" }),
  parallel_tool_calls: boolean.nullish().meta({ description: "Whether one reply may hold several calls.", default: true }),
  text: z.object({
    format: z.discriminatedUnion("type", [
      z.object({ type: z.literal("text") }), z.object({ type: z.literal("json_object") }),
      z.object({ type: z.literal("json_schema"), name: z.string("a string").nullish(), strict: boolean.nullish(), schema: z.record(z.string(), z.unknown(), "a JSON schema as an object") }),
    ], "an object whose `type` is \"text\", \"json_object\" or \"json_schema\"").nullish(),
  }, "an object with `format`").nullish().meta({ description: "What the reply's text must look like; tokens that would break it are never sampled." }),
  reasoning: z.looseObject({ effort: z.string("a string such as \"low\"").nullish() }, "an object such as {\"effort\": \"low\"}").nullish().meta({ description: "`effort` becomes the variable reasoning_effort of the model's template." }),
  metadata: z.record(z.string(), z.string(), "an object of strings").nullish().meta({ description: "Repeated in the response." }),
  previous_response_id: z.string().nullish().meta({ description: "Refused: nothing is stored here." }),
  conversation: z.unknown().optional().meta({ description: "Refused: nothing is stored here." }),
  background: boolean.nullish().meta({ description: "true is refused: replies are not produced in the background.", default: false }),
  store: boolean.nullish().meta({ description: "Ignored: nothing is stored, and the response says so." }),
  moe: moe.nullish().meta({ description: "Extensions of this server." }),
}, "a JSON object");
export type ResponsesRequest = z.infer<typeof responsesSchema>;
