// POST /v1/responses: OpenAI's newer request as the chat request it means. Owns its schema and how items become messages. Refuses what would need
// something stored (previous_response_id, conversation, background), tools that run at the server, and input that is no text.

import { z } from "zod";
import type { Caller } from "./auth.ts";
import { chatChoices } from "./completions.ts";
import { invalid } from "./errors.ts";
import { EDGE_LIMITS } from "./limits.ts";
import type { EdgePack } from "./pack.ts";
import type { Choice, Reply } from "./reply-form.ts";
import { type ChatRequest, moe, sampling } from "./schemas.ts";
import { responsesForm } from "./responses-form.ts";

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
  model: z.string("the id of a model as a string").min(1, "the id of a model, not an empty string"),
  input: z.union([z.string(), z.array(item, itemExpected).min(1, inputExpected).max(EDGE_LIMITS.messages, `at most ${EDGE_LIMITS.messages} items`)], inputExpected),
  instructions: z.string("a string").nullish(),
  max_output_tokens: z.number("an integer of at least 1").int("an integer of at least 1").min(1, "an integer of at least 1").nullish(),
  ...sampling,
  stream: boolean.nullish(),
  tools: z.array(z.looseObject({ type: z.literal("function", "\"function\" (tools that run at the server are not served)"), name: z.string("a string").min(1, "a name"), description: z.string("a string").nullish(), parameters: z.record(z.string(), z.unknown(), "a JSON schema as an object").nullish(), strict: boolean.nullish() }), "an array of tools")
    .max(EDGE_LIMITS.tools, `at most ${EDGE_LIMITS.tools} tools`).nullish(),
  tool_choice: z.union([z.enum(["none", "auto", "required"]), z.object({ type: z.literal("function"), name: z.string() })], "\"none\", \"auto\", \"required\", or an object {\"type\": \"function\", \"name\": …}").nullish(),
  parallel_tool_calls: boolean.nullish(),
  text: z.object({
    format: z.discriminatedUnion("type", [
      z.object({ type: z.literal("text") }), z.object({ type: z.literal("json_object") }),
      z.object({ type: z.literal("json_schema"), name: z.string("a string").nullish(), strict: boolean.nullish(), schema: z.record(z.string(), z.unknown(), "a JSON schema as an object") }),
    ], "an object whose `type` is \"text\", \"json_object\" or \"json_schema\"").nullish(),
  }, "an object with `format`").nullish(),
  reasoning: z.looseObject({ effort: z.string("a string such as \"low\"").nullish() }, "an object such as {\"effort\": \"low\"}").nullish(),
  metadata: z.record(z.string(), z.string(), "an object of strings").nullish(),
  previous_response_id: z.string().nullish(),
  conversation: z.unknown().optional(),
  background: boolean.nullish(),
  store: boolean.nullish(),
  moe: moe.nullish(),
}, "a JSON object");
export type ResponsesRequest = z.infer<typeof responsesSchema>;
type ChatMessages = ChatRequest["messages"];

const joined = (content: string | readonly { readonly text: string }[]): string => (typeof content === "string" ? content : content.map(({ text }) => text).join(""));

/** Items in order; a thought and calls belong to the assistant's message before or around them. */
function chatMessages(input: ResponsesRequest["input"]): ChatMessages {
  if (typeof input === "string") return [{ role: "user", content: input }];
  const messages: ChatMessages = [];
  let thought = "";
  const assistant = (): ChatMessages[number] => {
    const last = messages.at(-1);
    if (last?.role === "assistant") return last;
    const made: ChatMessages[number] = { role: "assistant", content: "", ...(thought === "" ? {} : { reasoning_content: thought }) };
    thought = "";
    messages.push(made);
    return made;
  };
  for (const of of input) {
    switch (of.type) {
      case "message":
        messages.push({ role: of.role, content: joined(of.content), ...(of.role === "assistant" && thought !== "" ? { reasoning_content: thought } : {}) });
        thought = "";
        break;
      case "function_call": {
        const to = assistant();
        to.tool_calls = [...(to.tool_calls ?? []), { id: of.call_id, type: "function", function: { name: of.name, arguments: of.arguments } }];
        break;
      }
      case "function_call_output":
        messages.push({ role: "tool", tool_call_id: of.call_id, content: joined(of.output) });
        break;
      case "reasoning":
        thought += joined(of.content ?? []);
    }
  }
  return messages;
}

export function responsesReply(pack: EdgePack, request: ResponsesRequest, caller: Caller): Reply {
  for (const field of ["previous_response_id", "conversation"] as const) {
    if (request[field] != null) throw invalid(field, `\`${field}\` needs replies that were stored; this server stores none. Send the conversation as \`input\`.`, "unsupported_parameter");
  }
  if (request.background === true) throw invalid("background", "`background` is true; replies are not produced in the background here, expected false.", "unsupported_parameter");
  const { model, input, instructions, max_output_tokens, tools, tool_choice, parallel_tool_calls, text, reasoning: effort, moe: own } = request;
  const format = text?.format;
  const { choices } = chatChoices(pack, {
    model, max_completion_tokens: max_output_tokens, moe: own,
    ...Object.fromEntries(Object.keys(sampling).map((key) => [key, request[key as keyof typeof sampling]])),
    messages: [...(instructions == null ? [] : [{ role: "system" as const, content: instructions }]), ...chatMessages(input)],
    ...(tools == null || tools.length === 0 ? {} : { tools: tools.map(({ name, description, parameters }) => ({ type: "function" as const, function: { name, ...(description == null ? {} : { description }), ...(parameters == null ? {} : { parameters }) } })) }),
    tool_choice: typeof tool_choice === "object" && tool_choice !== null ? { type: "function", function: { name: tool_choice.name } } : tool_choice,
    parallel_tool_calls,
    ...(format == null ? {} : { response_format: format.type === "json_schema" ? { type: format.type, json_schema: { schema: format.schema, strict: format.strict } } : format }),
    ...(effort?.effort == null ? {} : { reasoning_effort: effort.effort }),
  }, caller);
  const settings = {
    instructions: instructions ?? null, max_output_tokens: max_output_tokens ?? null, temperature: request.temperature ?? 1, top_p: request.top_p ?? 1, tools: tools ?? [], tool_choice: tool_choice ?? "auto",
    parallel_tool_calls: parallel_tool_calls ?? true, text: { format: format ?? { type: "text" } }, reasoning: { effort: effort?.effort ?? null, summary: null }, metadata: request.metadata ?? {},
  };
  return { model: pack.id, stream: request.stream === true, choices, idPrefix: "resp_", form: (head) => responsesForm(head, choices as unknown as [Choice], settings) };
}
