// What a request says its reply must look like, as a constraint of the orchestrator: response_format, grammar, and tools the model may, must or must
// not call. Owns how a call is written where the model's template marks calls as <tool_call>{…}</tool_call>, and that a thought comes first where the
// prompt ends inside one. Refuses what the model's format of replies cannot hold, and two wishes at once. Replies in channels: harmony-constraint.ts.

import type { Constraint } from "../durable/generate.ts";
import { THINK_END, THINK_START, TOOL_END, TOOL_START } from "../model/marker-parser.ts";
import { invalid } from "./errors.ts";
import { harmonyFormat, type Format } from "./harmony-constraint.ts";
import type { EdgePack } from "./pack.ts";
import { hasTools, type Prompt } from "./prompt.ts";
import type { ChatRequest } from "./schemas.ts";

type Tool = NonNullable<ChatRequest["tools"]>[number];

const ANY_OBJECT = { type: "object" };
const tagsOf = (format: Format): Constraint => ({ kind: "tags", tag: JSON.stringify({ type: "structural_tag", format }) });

export function chatConstraint(pack: EdgePack, request: ChatRequest, prompt: Prompt): Constraint | null {
  const text = textConstraint(request);
  const tools = callableTools(request);
  const mustCall = isForced(request);
  if (text !== null && tools !== null && mustCall) {
    throw invalid("tool_choice", "`tool_choice` asks for a call of a tool, and `response_format` or `grammar` for something else; expected one of them.", "invalid_value");
  }
  // A reply is either what response_format says or free text with calls in it.
  if (text === null && tools === null) return null;
  const format = pack.replyFormat!;
  if (format.harmony) return tagsOf(harmonyFormat(text === null ? null : formatOf(text), tools, mustCall));
  const calls = tools === null ? null : callFormat(pack, request, tools);
  if (text === null && calls === null) return null;
  const isThinking = format.thinking && prompt.text.trimEnd().endsWith(THINK_START);
  if (!isThinking) return text ?? tagsOf(calls!);
  const thought: Format = { type: "tag", begin: "", content: { type: "any_text" }, end: THINK_END };
  const rest = text === null ? calls! : formatOf(text);
  return tagsOf({ type: "sequence", elements: [thought, { type: "regex", pattern: "\\n{0,2}" }, rest] });
}

/** What the text must look like: of a completion all of it, of a chat the answer. */
export function textConstraint({ response_format, grammar }: Pick<ChatRequest, "response_format" | "grammar">): Constraint | null {
  const isJson = response_format != null && response_format.type !== "text";
  if (grammar != null && isJson) throw invalid("grammar", "`grammar` and `response_format` both say what the reply must look like; expected one of them.", "invalid_value");
  if (grammar != null) return { kind: "grammar", grammar };
  switch (response_format?.type) {
    case "json_object": return { kind: "json" };
    case "json_schema": return { kind: "json-schema", schema: JSON.stringify(response_format.json_schema.schema), strict: response_format.json_schema.strict === true };
    default: return null;
  }
}

/** The same as a part of a longer format. */
function formatOf(constraint: Constraint): Format {
  switch (constraint.kind) {
    case "json": return { type: "json_schema", json_schema: ANY_OBJECT };
    case "json-schema": return { type: "json_schema", json_schema: JSON.parse(constraint.schema) as unknown, strict: constraint.strict };
    case "grammar": return { type: "grammar", grammar: constraint.grammar };
    case "tags": return JSON.parse(constraint.tag) as Format;
  }
}

/** The reply must be a call. */
const isForced = ({ tool_choice }: ChatRequest): boolean => tool_choice != null && tool_choice !== "auto" && tool_choice !== "none";

/** The tools that may be called; null where none is. */
function callableTools(request: ChatRequest): readonly Tool[] | null {
  const { tools } = request;
  if (!hasTools(request)) {
    if (isForced(request)) throw invalid("tool_choice", "`tool_choice` asks for a call, and there are no `tools`; expected at least one.", "invalid_value");
    return null;
  }
  const named = namedTool(request);
  const callable = named === null ? tools! : tools!.filter((tool) => tool.function.name === named);
  if (callable.length === 0) throw invalid("tool_choice", `\`tool_choice\` names the function "${named}", which is not among \`tools\` (${tools!.map((tool) => tool.function.name).join(", ")}).`, "invalid_value");
  return callable;
}

const namedTool = ({ tool_choice }: ChatRequest): string | null => (typeof tool_choice === "object" && tool_choice !== null ? tool_choice.function.name : null);

/** Free text with calls in it, or calls alone; null where nothing is known of how the model calls. */
function callFormat(pack: EdgePack, request: ChatRequest, tools: readonly Tool[]): Format | null {
  const forced = isForced(request);
  if (!pack.replyFormat!.toolMarkers) {
    if (!forced) return null;
    throw invalid("tool_choice", `The model "${pack.id}" has no form of calls that this server can force; expected "auto" or "none".`, "unsupported_parameter");
  }
  return {
    type: "triggered_tags", triggers: [TOOL_START], at_least_one: forced, stop_after_first: namedTool(request) !== null || request.parallel_tool_calls === false,
    tags: tools.map(({ function: { name, parameters } }) => ({
      begin: `${TOOL_START}\n{"name": ${JSON.stringify(name)}, "arguments": `, content: { type: "json_schema", json_schema: parameters ?? ANY_OBJECT }, end: `}\n${TOOL_END}`,
    })),
  };
}
