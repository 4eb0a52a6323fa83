// The request the page makes of the form: path and body as any other client would send them. The page and the code it offers to copy share it.
// Owns the order of the fields, and what a conversation with calls of tools looks like. Refuses the DOM (settings.ts reads it) and streaming (app.ts adds it).

export type Mode = "completion" | "chat";

/** A call as the model made it, its arguments a JSON text. */
export interface Call {
  readonly id: string;
  readonly name: string;
  readonly arguments: string;
}

interface SentCall {
  readonly id: string;
  readonly type: "function";
  readonly function: { readonly name: string; readonly arguments: string };
}

export type Message =
  | { readonly role: "system" | "user"; readonly content: string }
  | { readonly role: "assistant"; readonly content: string | null; readonly tool_calls?: readonly SentCall[] }
  | { readonly role: "tool"; readonly tool_call_id: string; readonly content: string };

/** What is said to the model next: a user's text, or the results of the calls it made. */
export type Turn = { readonly text: string } | { readonly calls: readonly Call[]; readonly results: readonly string[] };

export const messagesOf = (turn: Turn): Message[] => ("text" in turn ? [{ role: "user", content: turn.text }]
  : turn.calls.map(({ id }, i) => ({ role: "tool", tool_call_id: id, content: turn.results[i]! })));

/** What the model said as a message of its conversation; null where it said nothing. */
export function said(answer: string, calls: readonly Call[]): Message | null {
  if (calls.length === 0) return answer === "" ? null : { role: "assistant", content: answer };
  return {
    role: "assistant", content: answer === "" ? null : answer,
    tool_calls: calls.map((call) => ({ id: call.id, type: "function", function: { name: call.name, arguments: call.arguments } })),
  };
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

/** A text to go on from. */
export const completionOf = (model: string, { fields }: Wishes, prompt: string): Asked => ({ path: "/v1/completions", body: { model, prompt, ...fields } });

export function chatOf(model: string, { system, fields }: Wishes, conversation: readonly Message[]): Asked {
  const opening: Message[] = system === "" ? [] : [{ role: "system", content: system }];
  return { path: "/v1/chat/completions", body: { model, messages: [...opening, ...conversation], ...fields } };
}
