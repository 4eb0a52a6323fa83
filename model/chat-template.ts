// Chat messages -> token ids through the model's own Jinja template (@huggingface/jinja).
// Owns the context a template sees: messages, tokens, options and a date that is an input, never the wall clock.
// Refuses to let message content act as control tokens: content is protected before rendering (tokenizer.ts).

import { Template } from "@huggingface/jinja";
import { ModelError } from "./config.ts";
import type { Tokenizer } from "./tokenizer.ts";

export interface ChatMessage {
  readonly role: string;
  readonly content: string;
  readonly name?: string;
}

export interface ChatTemplateOptions {
  readonly addGenerationPrompt: boolean;
  /** The date a template may write; the caller fixes it so that the same request renders the same prompt. */
  readonly date: Date;
  readonly bosToken: string | null;
  readonly eosToken: string | null;
}

/** @huggingface/jinja 0.5.11 predefines strftime_now with the wall clock and refuses to have it declared again, but a template may set it. */
const TAKE_DATE = "{%- set strftime_now = date_of_request -%}";

/** Rendered text of a template. Throws ModelError with the template's own words when it raises. */
export function renderChat(template: string, messages: readonly ChatMessage[], options: ChatTemplateOptions): string {
  try {
    return new Template(TAKE_DATE + template).render({
      messages: messages.map((message) => ({ ...message })),
      add_generation_prompt: options.addGenerationPrompt,
      bos_token: options.bosToken ?? "",
      eos_token: options.eosToken ?? "",
      date_of_request: (format: string) => strftime(options.date, format),
    });
  } catch (cause) {
    throw new ModelError(`The chat template refused these messages: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

/** Ids of a rendered conversation; only what the template wrote itself can become a control token. */
export function encodeChat(tokenizer: Tokenizer, template: string, messages: readonly ChatMessage[], options: ChatTemplateOptions): number[] {
  const safe = messages.map((message) => ({
    ...message,
    content: tokenizer.protect(message.content),
    ...(message.name === undefined ? {} : { name: tokenizer.protect(message.name) }),
  }));
  return tokenizer.encodeTemplate(renderChat(template, safe, options));
}

const MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
const DAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/** The part of strftime that chat templates use, in UTC and English: no locale, no clock. */
export function strftime(date: Date, format: string): string {
  const two = (n: number): string => String(n).padStart(2, "0");
  const [month, day] = [MONTHS[date.getUTCMonth()]!, DAYS[date.getUTCDay()]!];
  const parts: Record<string, string> = {
    Y: String(date.getUTCFullYear()), m: two(date.getUTCMonth() + 1), d: two(date.getUTCDate()),
    B: month, b: month.slice(0, 3), A: day, a: day.slice(0, 3),
    H: two(date.getUTCHours()), M: two(date.getUTCMinutes()), S: two(date.getUTCSeconds()), "%": "%",
  };
  return format.replace(/%([YmdBbAaHMS%])/g, (_, key: string) => parts[key]!);
}
