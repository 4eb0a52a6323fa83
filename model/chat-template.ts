// Chat messages -> token ids through the model's own Jinja template (@huggingface/jinja), in the context transformers gives it.
// Owns that context: messages, tools, documents, tokens, options, and a date that is an input, never the wall clock; and in which form
// a template takes tool calls. Refuses to let anything of a request act as control tokens: all its texts are protected before rendering
// (tokenizer.ts). Sources: transformers' chat_template_utils.py (context), llama.cpp's common/chat.cpp (probing for the form of tool calls).

import { Template } from "@huggingface/jinja";
import { ModelError } from "./config.ts";
import type { Tokenizer } from "./tokenizer.ts";

export interface ToolCall {
  readonly id?: string;
  readonly type: "function";
  readonly function: {
    readonly name: string;
    /** JSON, as OpenAI writes it. Templates that want the object get the object. */
    readonly arguments: string;
  };
}

export interface ChatMessage {
  readonly role: string;
  readonly content: string;
  readonly name?: string;
  /** What the model thought before this answer; templates take it as reasoning_content or thinking. */
  readonly reasoning?: string;
  readonly toolCalls?: readonly ToolCall[];
  /** With the role "tool": the call this is the result of. */
  readonly toolCallId?: string;
}

export interface ChatTemplateOptions {
  readonly addGenerationPrompt: boolean;
  /** The date a template may write; the caller fixes it so that the same request renders the same prompt. */
  readonly date: Date;
  readonly bosToken: string | null;
  readonly eosToken: string | null;
  /** Functions the model may call, in OpenAI's form. */
  readonly tools?: readonly unknown[];
  readonly documents?: readonly unknown[];
  /** More variables for the template, such as enable_thinking. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

/** @huggingface/jinja 0.5.11 predefines these (the clock with the wall clock) and refuses to have them declared again, but a template may set them. */
const TAKE_OURS = "{%- set strftime_now = date_of_request -%}{%- set raise_exception = refuse_request -%}";
/** Names a request may not give: the context's own, and those the library predefines. */
const RESERVED = new Set([
  "messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token", "date_of_request", "refuse_request",
  "raise_exception", "strftime_now", "range", "namespace", "true", "false", "none", "True", "False", "None",
]);

/** What the template itself raised. */
class TemplateRefusal extends Error {
  override readonly name = "TemplateRefusal";
}

/** How a template takes an assistant message that calls tools. */
interface CallForm {
  readonly arguments: "object" | "json";
  /** Content of such a message where it has none. */
  readonly emptyContent: "" | null;
}

/** For messages that call nothing. */
const NO_CALLS: CallForm = { arguments: "object", emptyContent: "" };

interface Compiled {
  readonly template: Template;
  /** Null where the template renders such messages without their calls. */
  readonly callForm: CallForm | null;
  /** Roles beyond system, user and assistant appear in the source where they are understood. */
  readonly knowsDeveloper: boolean;
  readonly escapesToAscii: boolean;
}

/** Compiled templates by source. A Worker serves one model; a few more only in tests. */
const compiled = new Map<string, Compiled>();
const COMPILED_MOST = 4;

function compile(source: string): Compiled {
  const known = compiled.get(source);
  if (known !== undefined) return known;
  let template: Template;
  try {
    template = new Template(TAKE_OURS + source);
  } catch (cause) {
    throw new ModelError(`The chat template of this model cannot be read here: ${wordsOf(cause)}`, { cause });
  }
  const made = {
    template, callForm: findCallForm(template),
    knowsDeveloper: source.includes("developer"),
    escapesToAscii: source.includes("ensure_ascii"),
  };
  if (compiled.size >= COMPILED_MOST) compiled.delete(compiled.keys().next().value!);
  compiled.set(source, made);
  return made;
}

/** True where the template reads `tools`: others would silently drop them. */
export const takesTools = (source: string): boolean => /\btools\b/.test(source);

/** Rendered text of a template. Throws ModelError with the template's own words when it raises. */
export function renderChat(source: string, messages: readonly ChatMessage[], options: ChatTemplateOptions): string {
  const { template, callForm, knowsDeveloper } = compile(source);
  for (const name of Object.keys(options.variables ?? {})) {
    if (RESERVED.has(name) || !/^[A-Za-z_]\w*$/.test(name)) throw new ModelError(`The chat template cannot be given a variable called ${JSON.stringify(name)}; expected a name of letters, digits and _ other than ${[...RESERVED].slice(0, 6).join(", ")} and Jinja's own.`);
  }
  if (callForm === null && messages.some((message) => message.toolCalls !== undefined)) {
    throw new ModelError("The chat template of this model does not write calls of tools, so it would drop those in the messages; expected messages without tool_calls.");
  }
  try {
    return template.render(contextOf(messages.map((message) => templateMessage(message, callForm ?? NO_CALLS, knowsDeveloper)), options));
  } catch (cause) {
    const why = cause instanceof TemplateRefusal ? "refused these messages" : "cannot be rendered here for these messages";
    throw new ModelError(`The chat template ${why}: ${wordsOf(cause)}`, { cause });
  }
}

/** A rendered conversation and its ids; only what the template wrote itself can become a control token. */
export function encodeChat(tokenizer: Tokenizer, source: string, messages: readonly ChatMessage[], options: ChatTemplateOptions): { readonly text: string; readonly ids: number[] } {
  const safe = <T>(value: T): T => protectAll(tokenizer, value) as T;
  const rendered = renderChat(source, safe(messages), {
    ...options,
    ...(options.tools === undefined ? {} : { tools: safe(options.tools) }),
    ...(options.documents === undefined ? {} : { documents: safe(options.documents) }),
    ...(options.variables === undefined ? {} : { variables: safe(options.variables) }),
  });
  // A template that writes JSON in ASCII escapes the marks as well.
  const text = compile(source).escapesToAscii ? tokenizer.restoreMarks(rendered) : rendered;
  return { text: tokenizer.unprotect(text), ids: tokenizer.encodeTemplate(text) };
}

/** Every string in a JSON value protected, keys too. */
function protectAll(tokenizer: Tokenizer, value: unknown): unknown {
  if (typeof value === "string") return tokenizer.protect(value);
  if (Array.isArray(value)) return value.map((entry) => protectAll(tokenizer, entry));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, entry]) => [tokenizer.protect(key), protectAll(tokenizer, entry)]));
}

/** transformers always passes tools and documents, None where there are none. */
const contextOf = (messages: readonly object[], options: ChatTemplateOptions): Record<string, unknown> => ({
  ...options.variables,
  messages,
  tools: options.tools ?? null,
  documents: options.documents ?? null,
  add_generation_prompt: options.addGenerationPrompt,
  bos_token: options.bosToken ?? "",
  eos_token: options.eosToken ?? "",
  date_of_request: (format: string) => strftime(options.date, format),
  refuse_request: (words: unknown) => { throw new TemplateRefusal(String(words)); },
});

/** A message in the keys transformers documents. Keys that are absent stay absent: templates ask with `in` and `is defined`. */
function templateMessage(message: ChatMessage, form: CallForm, knowsDeveloper: boolean): Record<string, unknown> {
  const { role, content, name, reasoning, toolCalls, toolCallId } = message;
  return {
    // OpenAI's new name for the system message, which only its own templates know.
    role: role === "developer" && !knowsDeveloper ? "system" : role,
    content: toolCalls !== undefined && content === "" ? form.emptyContent : content,
    ...(name === undefined ? {} : { name }),
    ...(reasoning === undefined ? {} : { reasoning_content: reasoning, thinking: reasoning }),
    ...(toolCallId === undefined ? {} : { tool_call_id: toolCallId }),
    ...(toolCalls === undefined ? {} : {
      tool_calls: toolCalls.map((call) => ({
        ...call, function: { ...call.function, arguments: form.arguments === "object" ? objectOf(call.function.arguments) : call.function.arguments },
      })),
    }),
  };
}

/** Arguments that are no JSON object go in as they are: some models write such calls, and a conversation must be able to go on. */
function objectOf(json: string): unknown {
  try {
    const value: unknown = JSON.parse(json);
    return typeof value === "object" && value !== null ? value : json;
  } catch {
    return json;
  }
}

/** Tries the forms on a small conversation and takes the first whose call appears as it should. transformers' own form comes first. */
function findCallForm(template: Template): CallForm | null {
  const forms: readonly CallForm[] = [
    { arguments: "object", emptyContent: "" }, { arguments: "object", emptyContent: null },
    { arguments: "json", emptyContent: "" }, { arguments: "json", emptyContent: null },
  ];
  const call: ToolCall = { id: "call00001", type: "function", function: { name: "probe_name", arguments: "{\"probe_key\": \"probe_value\"}" } };
  const tool = { type: "function", function: { name: "probe_name", description: "A probe.", parameters: { type: "object", properties: { parameter: { type: "string", description: "A parameter." } } } } };
  const options: ChatTemplateOptions = { addGenerationPrompt: true, date: new Date(0), bosToken: "", eosToken: "", tools: [tool] };
  let drops = false;
  for (const form of forms) {
    const messages: readonly ChatMessage[] = [
      { role: "user", content: "question" }, { role: "assistant", content: "", toolCalls: [call] },
      { role: "tool", content: "result", name: "probe_name", toolCallId: "call00001" },
    ];
    try {
      const text = template.render(contextOf(messages.map((message) => templateMessage(message, form, true)), options));
      if (text.includes("probe_key") && text.includes("probe_value") && !text.includes("\\\"probe_key")) return form;
      drops = true;
    } catch {
      // A form the template does not take.
    }
  }
  // A template that takes none will say why when it is given one.
  return drops ? null : forms[0]!;
}

/** The words of the template or the library as the end of a sentence. The library's own TypeErrors tell of its code, not of the template. */
function wordsOf(cause: unknown): string {
  const words = cause instanceof TypeError ? "it uses something that is not there, or is no valid Jinja" : cause instanceof Error ? cause.message : String(cause);
  return /[.!?]\s*$/.test(words) ? words.trimEnd() : `${words}.`;
}

const MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/** The part of strftime that chat templates use, in UTC and English: no locale, no clock. */
export function strftime(date: Date, format: string): string {
  const two = (n: number): string => String(n).padStart(2, "0");
  const [month, day] = [MONTHS[date.getUTCMonth()]!, DAYS[date.getUTCDay()]!];
  const parts: Record<string, string> = {
    Y: String(date.getUTCFullYear()), y: two(date.getUTCFullYear() % 100), m: two(date.getUTCMonth() + 1), d: two(date.getUTCDate()),
    B: month, b: month.slice(0, 3), A: day, a: day.slice(0, 3),
    H: two(date.getUTCHours()), M: two(date.getUTCMinutes()), S: two(date.getUTCSeconds()), "%": "%",
  };
  // `%-d` and the like leave out the leading zero.
  return format.replace(/%(-?)([YymdBbAaHMS%])/g, (_, bare: string, key: string) => (bare === "" ? parts[key]! : parts[key]!.replace(/^0(?=\d)/, "")));
}
