// POST /v1/responses: OpenAI's newer request as the chat request it means. Owns how items become messages. Refuses what would need
// something stored (previous_response_id, conversation, background).

import type { Caller } from "./auth.ts";
import { chatChoices } from "./completions.ts";
import { invalid } from "./errors.ts";
import type { EdgePack } from "./pack.ts";
import type { Choice, Reply } from "./reply-form.ts";
import { responsesForm } from "./responses-form.ts";
import type { ResponsesRequest } from "./responses-schema.ts";
import { type ChatRequest, sampling } from "./schemas.ts";

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
