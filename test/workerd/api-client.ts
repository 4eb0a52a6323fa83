// What tests of the API ask with: requests through the Worker's own fetch, over the tiny pack and the real fleet, and the shapes of what comes back.
// Owns no assertion but that an answer expected to be one is one. Out of scope: the quality of text (a tiny random model writes noise).

import { exports } from "cloudflare:workers";
import { expect } from "vitest";
import { type ApiRow, toRequest } from "../support/api-rows.ts";

export const CONTEXT = 128;
export const VOCABULARY = 97;
export const COMPLETIONS = "POST /v1/completions";
export const CHAT = "POST /v1/chat/completions";
export const ask = { model: "tiny", prompt: "abc" };
export const say = { model: "tiny", messages: [{ role: "user", content: "abc" }] };

export const fetchRow = (row: ApiRow): Promise<Response> => (exports as unknown as { default: Fetcher }).default.fetch(toRequest(row));
export const get = (path: string): Promise<Response> => fetchRow({ requirement: "", call: `GET ${path}`, status: 200 });
export const post = (call: string, body: unknown): Promise<Response> => fetchRow({ requirement: "", call, body, status: 200 });
export async function answer<T>(call: string, body: unknown): Promise<T> {
  const response = await post(call, body);
  const text = await response.text();
  expect(response.status, text).toBe(200);
  return JSON.parse(text) as T;
}

export interface ErrorBody { error: { message: string; type: string; param: string | null; code: string | null } }
export interface Completion {
  id: string; object: string; model: string;
  choices: { index: number; text: string; finish_reason: string; logprobs: null | { tokens: string[]; token_logprobs: (number | null)[]; top_logprobs: (Record<string, number> | null)[]; text_offset: number[] }; moe?: { tokens: { experts: number[][] }[] } }[];
  usage: { prompt_tokens: number; completion_tokens: number; total_tokens: number };
  moe: { seed: number; frames: number };
}
export interface Chat {
  id: string; object: string;
  choices: { index: number; message: { role: string; content: string }; finish_reason: string; logprobs: null | { content: { token: string; logprob: number; bytes: number[]; top_logprobs: unknown[] }[] } }[];
  usage: { prompt_tokens: number; completion_tokens: number };
}
export interface Chunk {
  id: string; object: string; usage?: object | null; moe?: { token?: { id: number; experts: number[][] } }; error?: { message: string };
  choices: { index: number; text?: string; delta?: { role?: string; content?: string }; finish_reason: string | null }[];
}
export async function chunksOf(response: Response): Promise<Chunk[]> {
  const text = await response.text();
  const events = text.split("\n\n").filter((event) => event !== "").map((event) => event.replace(/^id: [^\n]+\n/, ""));
  expect(events.every((event) => event.startsWith("data: "))).toBe(true);
  expect(events.at(-1)).toBe("data: [DONE]");
  return events.slice(0, -1).map((event) => JSON.parse(event.slice(6)) as Chunk);
}
export const greedy = { ...ask, temperature: 0, max_tokens: 24 };
