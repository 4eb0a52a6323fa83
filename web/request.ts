// The request the page makes of the form: path and body as any other client would send them. The page and the code it offers to copy share it.
// Owns the order of the fields, and what a template's conversation looks like. Refuses the DOM (settings.ts reads it) and streaming (app.ts adds it).

export type Mode = "completion" | "chat";

export interface Message {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

export interface Asked {
  readonly path: "/v1/completions" | "/v1/chat/completions";
  readonly body: Readonly<Record<string, unknown>>;
}

export interface Wishes {
  /** Put before a chat; empty for none. */
  readonly system: string;
  /** Every other field of the body, as the API names them. */
  readonly fields: Readonly<Record<string, unknown>>;
}

export function requestFor(mode: Mode, model: string, { system, fields }: Wishes, conversation: readonly Message[], text: string): Asked {
  if (mode === "completion") return { path: "/v1/completions", body: { model, prompt: text, ...fields } };
  const opening: Message[] = system === "" ? [] : [{ role: "system", content: system }];
  return { path: "/v1/chat/completions", body: { model, messages: [...opening, ...conversation, { role: "user", content: text }], ...fields } };
}
