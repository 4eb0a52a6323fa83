// POST /v1/messages and /v1/messages/count_tokens: Anthropic's request as the chat request it means. Owns the way its blocks become
// messages. Refuses what the chat itself refuses.

import type { Caller } from "./auth.ts";
import { chatChoices } from "./completions.ts";
import { messagesForm } from "./messages-form.ts";
import type { Countable, MessagesRequest } from "./messages-schema.ts";
import type { EdgePack } from "./pack.ts";
import { chatPrompt, requireModel } from "./prompt.ts";
import type { Choice, Reply } from "./reply-form.ts";
import type { ChatRequest } from "./schemas.ts";

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
