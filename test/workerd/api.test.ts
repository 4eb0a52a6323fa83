// API conformance, black box through the Worker's fetch, over a tiny pack and the real fleet: requirement -> request -> status and shape.
// The first table holds everything that must be refused, and how. Behaviour that needs more than one request follows.
// Out of scope: the quality of text (a tiny random model writes noise) and exactness (exactness tests).

import { createExecutionContext, waitOnExecutionContext } from "cloudflare:test";
import { env, exports } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import worker, { type EdgeEnv } from "../../worker/index.ts";
import { EDGE_LIMITS } from "../../worker/limits.ts";
import { type ApiRow, toRequest } from "../support/api-rows.ts";

const edgeEnv = env as unknown as EdgeEnv;
const CONTEXT = 128;
const VOCABULARY = 97;
const COMPLETIONS = "POST /v1/completions";
const CHAT = "POST /v1/chat/completions";
const ask = { model: "tiny", prompt: "abc" };
const say = { model: "tiny", messages: [{ role: "user", content: "abc" }] };

interface ErrorBody { error: { message: string; type: string; param: string | null; code: string | null } }
const fetchRow = (row: ApiRow): Promise<Response> => (exports as unknown as { default: Fetcher }).default.fetch(toRequest(row));
const post = (call: string, body: unknown): Promise<Response> => fetchRow({ requirement: "", call, body, status: 200 });
async function answer<T>(call: string, body: unknown): Promise<T> {
  const response = await post(call, body);
  const text = await response.text();
  expect(response.status, text).toBe(200);
  return JSON.parse(text) as T;
}

const refused: readonly ApiRow[] = [
  // The body as a whole
  { requirement: "malformed JSON", call: COMPLETIONS, rawBody: '{"model": "tiny", ', status: 400, error: { code: "invalid_json", message: /not JSON.*Expected a JSON object/ } },
  { requirement: "an empty body", call: CHAT, rawBody: "", status: 400, error: { code: "invalid_json" } },
  { requirement: "a body that is an array", call: COMPLETIONS, body: [], status: 400, error: { message: /found \[\], expected a JSON object/ } },
  { requirement: "a body that is null", call: CHAT, rawBody: "null", status: 400, error: { message: /found null, expected a JSON object/ } },
  { requirement: "a body over the limit", call: COMPLETIONS, rawBody: `{"model":"tiny","prompt":"${"a".repeat(EDGE_LIMITS.bodyBytes)}"}`, status: 413, error: { code: "request_too_large", message: /larger than 1048576 bytes/ } },
  // The model
  { requirement: "no model", call: COMPLETIONS, body: { prompt: "abc" }, status: 400, error: { param: "model", code: "missing_required_parameter" } },
  { requirement: "a model of the wrong type", call: CHAT, body: { ...say, model: 7 }, status: 400, error: { param: "model", message: /found 7, expected the id of a model/ } },
  { requirement: "an unknown model", call: COMPLETIONS, body: { ...ask, model: "gpt-9" }, status: 404, error: { param: "model", code: "model_not_found", message: /"gpt-9" does not exist here; this server has "tiny"/ } },
  { requirement: "an unknown model, chat", call: CHAT, body: { ...say, model: "gpt-9" }, status: 404, error: { code: "model_not_found" } },
  { requirement: "an unknown model, by its page", call: "GET /v1/models/gpt-9", status: 404, error: { code: "model_not_found" } },
  // Prompts
  { requirement: "no prompt", call: COMPLETIONS, body: { model: "tiny" }, status: 400, error: { param: "prompt", code: "missing_required_parameter" } },
  { requirement: "a prompt that is a number", call: COMPLETIONS, body: { ...ask, prompt: 5 }, status: 400, error: { param: "prompt", message: /found 5, expected a string, an array/ } },
  { requirement: "an empty prompt", call: COMPLETIONS, body: { ...ask, prompt: "" }, status: 400, error: { param: "prompt", code: "empty_prompt" } },
  { requirement: "an empty list of prompts", call: COMPLETIONS, body: { ...ask, prompt: [] }, status: 400, error: { param: "prompt" } },
  { requirement: "strings and ids mixed", call: COMPLETIONS, body: { ...ask, prompt: ["a", 3] }, status: 400, error: { param: "prompt" } },
  { requirement: "an empty prompt among several", call: COMPLETIONS, body: { ...ask, prompt: ["abc", ""] }, status: 400, error: { param: "prompt[1]" } },
  { requirement: "too many prompts", call: COMPLETIONS, body: { ...ask, prompt: Array.from({ length: EDGE_LIMITS.promptsPerRequest + 1 }, () => "a") }, status: 400, error: { param: "prompt" } },
  { requirement: "a token id out of range", call: COMPLETIONS, body: { ...ask, prompt: [5, VOCABULARY] }, status: 400, error: { param: "prompt[1]", code: "token_out_of_range", message: /found 97, expected an id from 0 to 96/ } },
  { requirement: "a negative token id", call: COMPLETIONS, body: { ...ask, prompt: [-1] }, status: 400, error: { param: "prompt[0]", message: /found -1, expected a token id/ } },
  { requirement: "a fractional token id", call: COMPLETIONS, body: { ...ask, prompt: [1.5] }, status: 400, error: { param: "prompt" } },
  { requirement: "a prompt longer than the context", call: COMPLETIONS, body: { ...ask, prompt: "a".repeat(CONTEXT + 1), max_tokens: 1 }, status: 400, error: { code: "context_length_exceeded", message: /maximum context length is 128 tokens.*130 tokens \(129 in the prompt, 1 in the completion\)/ } },
  { requirement: "prompt and max_tokens longer than the context", call: COMPLETIONS, body: { ...ask, max_tokens: CONTEXT }, status: 400, error: { code: "context_length_exceeded" } },
  { requirement: "a conversation longer than the context", call: CHAT, body: { ...say, messages: [{ role: "user", content: "a".repeat(CONTEXT) }] }, status: 400, error: { param: "messages", code: "context_length_exceeded" } },
  // Messages
  { requirement: "no messages", call: CHAT, body: { model: "tiny" }, status: 400, error: { param: "messages", code: "missing_required_parameter" } },
  { requirement: "an empty list of messages", call: CHAT, body: { ...say, messages: [] }, status: 400, error: { param: "messages", message: /expected at least one message/ } },
  { requirement: "a message that is a string", call: CHAT, body: { ...say, messages: ["hi"] }, status: 400, error: { param: "messages[0]" } },
  { requirement: "an unknown role", call: CHAT, body: { ...say, messages: [{ role: "wizard", content: "hi" }] }, status: 400, error: { param: "messages[0].role", message: /found "wizard", expected "system"/ } },
  { requirement: "content of the wrong type", call: CHAT, body: { ...say, messages: [{ role: "user", content: 3 }] }, status: 400, error: { param: "messages[0].content" } },
  { requirement: "an image", call: CHAT, body: { ...say, messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "x" } }] }] }, status: 400, error: { param: "messages[0].content" } },
  // Numbers
  { requirement: "max_tokens below 0", call: COMPLETIONS, body: { ...ask, max_tokens: -1 }, status: 400, error: { param: "max_tokens", message: /found -1, expected an integer of at least 0/ } },
  { requirement: "max_tokens 0 without echo", call: COMPLETIONS, body: { ...ask, max_tokens: 0 }, status: 400, error: { param: "max_tokens", message: /only with `echo: true`/ } },
  { requirement: "max_tokens 0 in a chat", call: CHAT, body: { ...say, max_tokens: 0 }, status: 400, error: { param: "max_tokens" } },
  { requirement: "max_completion_tokens of the wrong type", call: CHAT, body: { ...say, max_completion_tokens: "9" }, status: 400, error: { param: "max_completion_tokens" } },
  { requirement: "max_tokens that is no integer", call: COMPLETIONS, body: { ...ask, max_tokens: 1.5 }, status: 400, error: { param: "max_tokens" } },
  { requirement: "a temperature out of range", call: COMPLETIONS, body: { ...ask, temperature: 2.5 }, status: 400, error: { param: "temperature", message: /found 2.5, expected a number from 0 to 2/ } },
  { requirement: "a temperature that is text", call: CHAT, body: { ...say, temperature: "hot" }, status: 400, error: { param: "temperature", message: /found "hot"/ } },
  { requirement: "top_p of 0", call: COMPLETIONS, body: { ...ask, top_p: 0 }, status: 400, error: { param: "top_p" } },
  { requirement: "top_p above 1", call: COMPLETIONS, body: { ...ask, top_p: 1.1 }, status: 400, error: { param: "top_p" } },
  { requirement: "top_k below 0", call: COMPLETIONS, body: { ...ask, top_k: -3 }, status: 400, error: { param: "top_k" } },
  { requirement: "min_p above 1", call: COMPLETIONS, body: { ...ask, min_p: 2 }, status: 400, error: { param: "min_p" } },
  { requirement: "a fractional seed", call: COMPLETIONS, body: { ...ask, seed: 0.5 }, status: 400, error: { param: "seed" } },
  { requirement: "a presence penalty beyond 2", call: COMPLETIONS, body: { ...ask, presence_penalty: 2.5 }, status: 400, error: { param: "presence_penalty", message: /expected a number from -2 to 2/ } },
  { requirement: "a frequency penalty that is text", call: CHAT, body: { ...say, frequency_penalty: "much" }, status: 400, error: { param: "frequency_penalty" } },
  { requirement: "a repetition penalty of 0", call: COMPLETIONS, body: { ...ask, repetition_penalty: 0 }, status: 400, error: { param: "repetition_penalty", message: /above 0/ } },
  { requirement: "typical_p of 0", call: COMPLETIONS, body: { ...ask, typical_p: 0 }, status: 400, error: { param: "typical_p" } },
  { requirement: "a bias beyond 100", call: CHAT, body: { ...say, logit_bias: { 5: 101 } }, status: 400, error: { param: "logit_bias.5" } },
  { requirement: "a bias for a word", call: COMPLETIONS, body: { ...ask, logit_bias: { the: 1 } }, status: 400, error: { message: /expected an object from token ids to numbers/ } },
  { requirement: "a bias for no token of the model", call: COMPLETIONS, body: { ...ask, logit_bias: { [VOCABULARY]: 1 } }, status: 400, error: { param: "logit_bias.97", code: "token_out_of_range", message: /ids are 0 to 96/ } },
  { requirement: "a bias that is a list", call: COMPLETIONS, body: { ...ask, logit_bias: [1] }, status: 400, error: { param: "logit_bias" } },
  { requirement: "n of 0", call: CHAT, body: { ...say, n: 0 }, status: 400, error: { param: "n" } },
  { requirement: "n over the limit", call: COMPLETIONS, body: { ...ask, n: EDGE_LIMITS.choicesPerPrompt + 1 }, status: 400, error: { param: "n" } },
  // Stops
  { requirement: "too many stop strings", call: COMPLETIONS, body: { ...ask, stop: ["a", "b", "c", "d", "e"] }, status: 400, error: { param: "stop", message: /array of 5 entries, expected a string, or an array of at most 4/ } },
  { requirement: "a stop string that is too long", call: CHAT, body: { ...say, stop: "x".repeat(EDGE_LIMITS.stopStringChars + 1) }, status: 400, error: { param: "stop" } },
  { requirement: "an empty stop string", call: COMPLETIONS, body: { ...ask, stop: [""] }, status: 400, error: { param: "stop[0]", message: /found "", expected a string, or an array/ } },
  { requirement: "a stop of the wrong type", call: COMPLETIONS, body: { ...ask, stop: 3 }, status: 400, error: { param: "stop" } },
  // Log-probabilities and streaming
  { requirement: "too many logprobs", call: COMPLETIONS, body: { ...ask, logprobs: EDGE_LIMITS.completionLogprobs + 1 }, status: 400, error: { param: "logprobs" } },
  { requirement: "logprobs of the other endpoint's type", call: COMPLETIONS, body: { ...ask, logprobs: true }, status: 400, error: { param: "logprobs" } },
  { requirement: "chat logprobs that are a number", call: CHAT, body: { ...say, logprobs: 3 }, status: 400, error: { param: "logprobs" } },
  { requirement: "top_logprobs without logprobs", call: CHAT, body: { ...say, top_logprobs: 2 }, status: 400, error: { param: "top_logprobs" } },
  { requirement: "stream of the wrong type", call: COMPLETIONS, body: { ...ask, stream: "yes" }, status: 400, error: { param: "stream" } },
  { requirement: "echo of the wrong type", call: COMPLETIONS, body: { ...ask, echo: 1 }, status: 400, error: { param: "echo" } },
  { requirement: "more guesses than a step takes", call: COMPLETIONS, body: { ...ask, moe: { draft_tokens: 8 } }, status: 400, error: { param: "moe.draft_tokens", message: /integer from 0 to 7/ } },
  { requirement: "a date that does not exist", call: CHAT, body: { ...say, moe: { date: "2026-13-40" } }, status: 400, error: { param: "moe.date" } },
  // Fields of OpenAI's that are not served
  { requirement: "tools", call: CHAT, body: { ...say, tools: [{ type: "function", function: { name: "f" } }] }, status: 400, error: { param: "tools", code: "unsupported_parameter" } },
  { requirement: "a suffix", call: COMPLETIONS, body: { ...ask, suffix: "end" }, status: 400, error: { param: "suffix" } },
  // Other routes
  { requirement: "an unknown path", call: "GET /v1/unknown", status: 404, error: { code: "unknown_url" } },
  { requirement: "a part of the pack: it is not public", call: "GET /packs/tiny/parts/00000.bin", status: 404, error: { code: "unknown_url" } },
  { requirement: "the manifest: it is not public", call: "GET /packs/tiny/manifest.json", status: 404, error: { code: "unknown_url" } },
  { requirement: "a shard: it has no route", call: "GET /connect?connection=1", status: 404, error: { code: "unknown_url" } },
  { requirement: "the wrong method", call: "GET /v1/completions", status: 405, error: { code: "method_not_allowed", message: /does not take GET; expected POST/ } },
  { requirement: "tokenizing a number", call: "POST /tokenize", body: { content: 4 }, status: 400, error: { param: "content" } },
  { requirement: "detokenizing text", call: "POST /detokenize", body: { tokens: "abc" }, status: 400, error: { param: "tokens" } },
];

describe("what is refused", () => {
  it.each(refused)("$call: $requirement -> $status", async (row) => {
    const response = await fetchRow(row);
    const body = await response.json<ErrorBody>();
    expect(response.status).toBe(row.status);
    expect(Object.keys(body)).toEqual(["error"]);
    expect(Object.keys(body.error).sort()).toEqual(["code", "message", "param", "type"]);
    expect(body.error.type).toBe(row.error?.type ?? "invalid_request_error");
    if (row.error?.code !== undefined) expect(body.error.code).toBe(row.error.code);
    if (row.error?.param !== undefined) expect(body.error.param).toBe(row.error.param);
    expect(body.error.message).toMatch(row.error?.message ?? /.\.$/);
  });
});

describe("keys", () => {
  const withEnv = async (settings: Partial<EdgeEnv>, headers: Record<string, string> = {}, call = "GET /v1/models"): Promise<Response> => {
    const context = createExecutionContext();
    // An orchestrator or a shard that is touched before the key is checked would fail here.
    const untouchable = new Proxy({}, { get: () => { throw new Error("A Durable Object was touched."); } });
    const response = await worker.fetch(toRequest({ requirement: "", call, headers, status: 0 }), {
      ...edgeEnv, OPEN_ACCESS: "false", API_KEYS: "first-key, second-key", ORCHESTRATOR: untouchable, SHARDS: untouchable, ...settings,
    } as unknown as EdgeEnv, context);
    await waitOnExecutionContext(context);
    return response;
  };
  const codeOf = async (response: Response): Promise<string | null> => (await response.json<ErrorBody>()).error.code;

  it.each(["first-key", "second-key"])("%s opens", async (key) => {
    expect((await withEnv({}, { Authorization: `Bearer ${key}` })).status).toBe(200);
  });
  it.each([
    ["no header", {}, "missing_api_key"],
    ["another scheme", { Authorization: "Basic first-key" }, "missing_api_key"],
    ["a wrong key", { Authorization: "Bearer third-key" }, "invalid_api_key"],
    ["the beginning of a key", { Authorization: "Bearer first" }, "invalid_api_key"],
    ["both keys as one", { Authorization: "Bearer first-key,second-key" }, "invalid_api_key"],
  ])("%s does not", async (_, headers, code) => {
    for (const call of ["GET /v1/models", "GET /health", "GET /v1/fleet", "POST /v1/completions", "GET /nowhere"]) {
      const response = await withEnv({}, headers as unknown as Record<string, string>, call);
      expect(response.status).toBe(401);
      expect(response.headers.get("WWW-Authenticate")).toBe("Bearer");
      expect(await codeOf(response)).toBe(code);
    }
  });
  it("without keys nobody is served, and the error says what to do", async () => {
    const response = await withEnv({ API_KEYS: "" }, { Authorization: "Bearer " });
    expect(response.status).toBe(401);
    expect((await response.json<ErrorBody>()).error.message).toContain("wrangler secret put API_KEYS");
  });
  it("OPEN_ACCESS does not open a deployment that has keys", async () => {
    expect((await withEnv({ OPEN_ACCESS: "true" })).status).toBe(401);
  });
  it("the page needs no key", async () => {
    const response = await withEnv({}, {}, "GET /");
    expect(response.status).toBe(200);
    expect(await response.text()).toContain("<title>");
  });
});

interface Completion {
  id: string; object: string; model: string;
  choices: { index: number; text: string; finish_reason: string; logprobs: null | { tokens: string[]; token_logprobs: (number | null)[]; top_logprobs: (Record<string, number> | null)[]; text_offset: number[] }; moe?: { tokens: { experts: number[][] }[] } }[];
  usage: { prompt_tokens: number; completion_tokens: number; total_tokens: number };
  moe: { seed: number; frames: number };
}
interface Chat {
  id: string; object: string;
  choices: { index: number; message: { role: string; content: string }; finish_reason: string; logprobs: null | { content: { token: string; logprob: number; bytes: number[]; top_logprobs: unknown[] }[] } }[];
  usage: { prompt_tokens: number; completion_tokens: number };
}
interface Chunk {
  id: string; object: string; usage?: object | null; moe?: { token?: { id: number; experts: number[][] } }; error?: { message: string };
  choices: { index: number; text?: string; delta?: { role?: string; content?: string }; finish_reason: string | null }[];
}
async function chunksOf(response: Response): Promise<Chunk[]> {
  const text = await response.text();
  const events = text.split("\n\n").filter((event) => event !== "").map((event) => event.replace(/^id: [^\n]+\n/, ""));
  expect(events.every((event) => event.startsWith("data: "))).toBe(true);
  expect(events.at(-1)).toBe("data: [DONE]");
  return events.slice(0, -1).map((event) => JSON.parse(event.slice(6)) as Chunk);
}
const greedy = { ...ask, temperature: 0, max_tokens: 24 };

describe("models and health", () => {
  it("GET /health becomes ready, with Retry-After until then", async () => {
    for (;;) {
      const response = await fetchRow({ requirement: "", call: "GET /health", status: 200 });
      const body = await response.json<{ status: string; loaded?: number }>();
      if (response.status === 200) {
        expect(["ready", "degraded"]).toContain(body.status);
        return;
      }
      expect(response.status).toBe(503);
      expect(Number(response.headers.get("Retry-After"))).toBeGreaterThan(0);
      expect(["cold", "warming"]).toContain(body.status);
      expect(body.loaded).toBeGreaterThanOrEqual(0);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  });

  it("GET /v1/models lists the pack, and its page says the same", async () => {
    const list = await (await fetchRow({ requirement: "", call: "GET /v1/models", status: 200 })).json<{ object: string; data: { id: string; object: string; moe: { context_length: number; experts: number } }[] }>();
    expect(list).toMatchObject({ object: "list", data: [{ id: "tiny", object: "model", owned_by: "workers-moe", moe: { context_length: CONTEXT, vocabulary: VOCABULARY } }] });
    const one = await (await fetchRow({ requirement: "", call: "GET /v1/models/tiny", status: 200 })).json();
    expect(one).toEqual(list.data[0]);
  });

  it("GET /v1/fleet names four shards", async () => {
    await answer(COMPLETIONS, greedy);
    const fleet = await (await fetchRow({ requirement: "", call: "GET /v1/fleet", status: 200 })).json<{ status: string; shards: object[] }>();
    expect(fleet.status).toBe("ready");
    expect(fleet.shards).toHaveLength(4);
  });

  it("serves the page", async () => {
    expect(await (await fetchRow({ requirement: "", call: "GET /", status: 200 })).text()).toContain("<title>");
  });
});

describe("completions", () => {
  it("have OpenAI's shape", async () => {
    const body = await answer<Completion>(COMPLETIONS, greedy);
    expect(body).toMatchObject({ object: "text_completion", model: "tiny", choices: [{ index: 0, logprobs: null, finish_reason: expect.stringMatching(/^(stop|length)$/) }] });
    expect(body.id).toMatch(/^cmpl-/);
    expect(body.choices[0]!.text.length).toBeGreaterThan(0);
    expect(body.usage.prompt_tokens).toBe(3);
    expect(body.usage.total_tokens).toBe(3 + body.usage.completion_tokens);
    expect(body.moe.frames).toBeGreaterThan(0);
  });

  it("take a prompt in all four forms", async () => {
    const { tokens } = await answer<{ tokens: number[] }>("POST /tokenize", { content: "abc" });
    expect(tokens).toHaveLength(3);
    const text = (await answer<Completion>(COMPLETIONS, greedy)).choices[0]!.text;
    expect((await answer<Completion>(COMPLETIONS, { ...greedy, prompt: tokens })).choices[0]!.text).toBe(text);
    const other = (await answer<Completion>(COMPLETIONS, { ...greedy, prompt: "xyz" })).choices[0]!.text;
    const many = await answer<Completion>(COMPLETIONS, { ...greedy, prompt: ["abc", "xyz"] });
    expect(many.choices.map((choice) => [choice.index, choice.text])).toEqual([[0, text], [1, other]]);
    expect(many.usage.prompt_tokens).toBe(6);
    expect((await answer<Completion>(COMPLETIONS, { ...greedy, prompt: [tokens, tokens] })).choices.map((choice) => choice.text)).toEqual([text, text]);
  });

  it("take over a prompt the same key sent before, say how much, and answer the same", async () => {
    type Cached = Completion & { usage: { prompt_tokens_details: { cached_tokens: number } } };
    const asked = { ...greedy, prompt: "one two three four five six seven eight nine", max_tokens: 5 };
    const cold = await answer<Cached>(COMPLETIONS, { ...asked, moe: { cache: false } });
    const first = await answer<Cached>(COMPLETIONS, asked);
    const second = await answer<Cached>(COMPLETIONS, asked);
    const stopped = await answer<Cached>(COMPLETIONS, { ...asked, stop: cold.choices[0]!.text.slice(1, 3) });
    const found = [cold, first, second, stopped].map(({ usage }) => usage.prompt_tokens_details.cached_tokens);
    expect(found).toEqual([0, 0, 43, 43]);
    expect([first, second].map(({ choices }) => choices[0]!.text)).toEqual([cold.choices[0]!.text, cold.choices[0]!.text]);
    const chunks = await chunksOf(await post(COMPLETIONS, { ...asked, stream: true, stream_options: { include_usage: true } }));
    expect(chunks.at(-1)).toMatchObject({ usage: { prompt_tokens: 44, prompt_tokens_details: { cached_tokens: 43 } } });
    expect((await answer<Cached>(COMPLETIONS, { ...asked, echo: true, logprobs: 1 })).usage.prompt_tokens_details.cached_tokens).toBe(0);
  });

  it("stop at max_tokens and say so", async () => {
    const body = await answer<Completion>(COMPLETIONS, { ...greedy, max_tokens: 2 });
    expect(body.usage.completion_tokens).toBe(2);
    expect(body.choices[0]!.finish_reason).toBe("length");
  });

  it("cut at a stop string, wherever it lies", async () => {
    const text = (await answer<Completion>(COMPLETIONS, greedy)).choices[0]!.text;
    const stop = text.slice(3, 5);
    const body = await answer<Completion>(COMPLETIONS, { ...greedy, stop: ["never there", stop] });
    expect(body.choices[0]).toMatchObject({ text: text.slice(0, text.indexOf(stop)), finish_reason: "stop" });
    const chunks = await chunksOf(await post(COMPLETIONS, { ...greedy, stop, stream: true }));
    expect(chunks.map((chunk) => chunk.choices[0]?.text ?? "").join("")).toBe(text.slice(0, text.indexOf(stop)));
  });

  it("repeat with a seed, and differ between choices and between seeds", async () => {
    const textsOf = async (seed: number): Promise<string[]> =>
      (await answer<Completion>(COMPLETIONS, { ...ask, temperature: 1.5, max_tokens: 24, n: 3, seed })).choices.map((choice) => choice.text);
    const first = await textsOf(1);
    expect(new Set(first).size).toBe(3);
    expect(await textsOf(1)).toEqual(first);
    expect(await textsOf(2)).not.toEqual(first);
  });

  it("report the seed drawn where none was given, and repeat with it", async () => {
    const drawn = await answer<Completion>(COMPLETIONS, { ...ask, temperature: 1.5, max_tokens: 24 });
    const again = await answer<Completion>(COMPLETIONS, { ...ask, temperature: 1.5, max_tokens: 24, seed: drawn.moe.seed });
    expect(again.choices[0]!.text).toBe(drawn.choices[0]!.text);
    expect(again.moe.seed).toBe(drawn.moe.seed);
  });

  it("top_k of 1 is greedy at any temperature", async () => {
    const text = (await answer<Completion>(COMPLETIONS, greedy)).choices[0]!.text;
    expect((await answer<Completion>(COMPLETIONS, { ...greedy, temperature: 2, top_k: 1 })).choices[0]!.text).toBe(text);
  });

  it("follow a bias: a token is forced, or never said", async () => {
    const [forced] = (await answer<{ tokens: number[] }>("POST /tokenize", { content: "q" })).tokens;
    expect((await answer<Completion>(COMPLETIONS, { ...greedy, max_tokens: 6, logit_bias: { [forced!]: 100 } })).choices[0]!.text).toBe("qqqqqq");
    const text = (await answer<Completion>(COMPLETIONS, greedy)).choices[0]!.text;
    const [first] = (await answer<{ tokens: number[] }>("POST /tokenize", { content: text[0]! })).tokens;
    const without = (await answer<Completion>(COMPLETIONS, { ...greedy, logit_bias: { [first!]: -100 } })).choices[0]!.text;
    expect(without).not.toContain(text[0]!);
    expect(without.length).toBeGreaterThan(0);
  });

  it("follow penalties, alone, beside others and when guesses hold", async () => {
    const [q] = (await answer<{ tokens: number[] }>("POST /tokenize", { content: "q" })).tokens;
    const biased = { ...greedy, max_tokens: 12, logit_bias: { [q!]: 9 } };
    const counted = async (more: object): Promise<number> => (await answer<Completion>(COMPLETIONS, { ...biased, ...more })).choices[0]!.text.split("q").length - 1;
    const plain = await counted({});
    expect(plain).toBeGreaterThan(6);
    expect(await counted({ frequency_penalty: 2 })).toBeLessThan(plain);
    expect(await counted({ presence_penalty: 2, frequency_penalty: 2 })).toBeLessThan(plain);
    expect(await counted({ repetition_penalty: 9 })).toBeLessThan(plain);
    const asked = { ...biased, prompt: "abcabcabc", temperature: 0.9, seed: 5, frequency_penalty: 0.7, repetition_penalty: 1.2, typical_p: 0.9 };
    const alone = (await answer<Completion>(COMPLETIONS, { ...asked, moe: { draft_tokens: 0 } })).choices[0]!.text;
    const company = await Promise.all([asked, { ...asked, seed: 6 }, { ...asked, prompt: "xyz" }].map((body) => answer<Completion>(COMPLETIONS, body)));
    expect(company[0]!.choices[0]!.text).toBe(alone);
    expect(company[1]!.choices[0]!.text).not.toBe(alone);
  });

  it("give log-probabilities that are consistent", async () => {
    const body = await answer<Completion>(COMPLETIONS, { ...greedy, max_tokens: 5, logprobs: 3 });
    const { tokens, token_logprobs, top_logprobs, text_offset } = body.choices[0]!.logprobs!;
    expect(tokens.join("")).toBe(body.choices[0]!.text);
    for (let i = 0; i < tokens.length; i++) {
      const best = Math.max(...Object.values(top_logprobs[i]!));
      expect(Object.keys(top_logprobs[i]!).length).toBe(3);
      expect(token_logprobs[i]).toBe(best); // greedy takes the most likely
      expect(best).toBeLessThan(0);
      expect(text_offset[i]).toBe(tokens.slice(0, i).join("").length);
    }
  });

  it("echo with max_tokens 0 scores a prompt, and agrees with what generating said", async () => {
    const generated = await answer<Completion>(COMPLETIONS, { ...greedy, max_tokens: 4, logprobs: 1 });
    const whole = `abc${generated.choices[0]!.text}`;
    const scored = await answer<Completion>(COMPLETIONS, { ...ask, prompt: whole, max_tokens: 0, echo: true, logprobs: 1 });
    expect(scored.choices[0]!.text).toBe(whole);
    expect(scored.usage.completion_tokens).toBe(0);
    const { token_logprobs } = scored.choices[0]!.logprobs!;
    expect(token_logprobs[0]).toBeNull();
    expect(token_logprobs.slice(3)).toEqual(generated.choices[0]!.logprobs!.token_logprobs);
  });

  it("echo without log-probabilities shows the prompt first", async () => {
    const plain = await answer<Completion>(COMPLETIONS, greedy);
    const echoed = await answer<Completion>(COMPLETIONS, { ...greedy, echo: true });
    expect(echoed.choices[0]!.text).toBe(`abc${plain.choices[0]!.text}`);
    const chunks = await chunksOf(await post(COMPLETIONS, { ...greedy, echo: true, stream: true }));
    expect(chunks.map((chunk) => chunk.choices[0]!.text).join("")).toBe(`abc${plain.choices[0]!.text}`);
  });

  it("keep control tokens in user text as text", async () => {
    const { tokens } = await answer<{ tokens: number[] }>("POST /tokenize", { content: "<|endoftext|>" });
    expect(tokens).not.toContain(0);
    expect((await answer<{ content: string }>("POST /detokenize", { tokens })).content).toBe("<|endoftext|>");
  });

  it("ignore fields they do not know, and null", async () => {
    const body = await answer<Completion>(COMPLETIONS, { ...greedy, user: "me", a_new_field: 1, stop: null, seed: null, logprobs: null, presence_penalty: 0, logit_bias: {} });
    expect(body.choices[0]!.text).toBe((await answer<Completion>(COMPLETIONS, greedy)).choices[0]!.text);
  });
});

describe("embeddings", () => {
  interface Embeddings { object: string; data: { object: string; index: number; embedding: number[] | string }[]; usage: { prompt_tokens: number } }
  const EMBEDDINGS = "POST /v1/embeddings";
  const vectorsOf = async (input: unknown): Promise<number[][]> => (await answer<Embeddings>(EMBEDDINGS, { model: "tiny", input })).data.map(({ embedding }) => embedding as number[]);

  it("are vectors of length 1, in order, the same alone and in company, as text and as ids", async () => {
    const texts = ["one two three", "four", "a longer text that needs more than one page of the cache, surely", "one two three"];
    const together = await vectorsOf(texts);
    expect(together.length).toBe(4);
    for (const vector of together) expect(vector.reduce((sum, x) => sum + x * x, 0)).toBeCloseTo(1, 5);
    expect(together[3]).toEqual(together[0]);
    expect(together[1]).not.toEqual(together[0]);
    for (const [i, text] of texts.entries()) expect(await vectorsOf(text)).toEqual([together[i]]);
    const { tokens } = await answer<{ tokens: number[] }>("POST /tokenize", { content: texts[0] });
    expect(await vectorsOf(tokens)).toEqual([together[0]]);
  });

  it("come as base64 of f32 when asked, and count their tokens", async () => {
    const [plain] = await vectorsOf("abc");
    const body = await answer<Embeddings>(EMBEDDINGS, { model: "tiny", input: "abc", encoding_format: "base64" });
    const bytes = Uint8Array.from(atob(body.data[0]!.embedding as string), (c) => c.charCodeAt(0));
    expect(Array.from(new Float32Array(bytes.buffer))).toEqual(plain);
    expect(body).toMatchObject({ object: "list", usage: { prompt_tokens: 3 }, data: [{ object: "embedding", index: 0 }] });
  });

  it("are refused in numbers the model has not, and beyond its context", async () => {
    for (const [more, param] of [[{ dimensions: 8 }, "dimensions"], [{ input: "a".repeat(CONTEXT + 1) }, "input"], [{ input: [] }, "input"], [{ encoding_format: "hex" }, "encoding_format"]] as const) {
      const response = await post(EMBEDDINGS, { model: "tiny", input: "abc", ...more });
      expect(response.status).toBe(400);
      expect(await response.json()).toMatchObject({ error: { param } });
    }
  });
});

describe("streams", () => {
  it("are server-sent events whose text is the whole reply's", async () => {
    const whole = await answer<Completion>(COMPLETIONS, greedy);
    const response = await post(COMPLETIONS, { ...greedy, stream: true });
    expect(response.headers.get("Content-Type")).toMatch(/^text\/event-stream/);
    const chunks = await chunksOf(response);
    expect(chunks.map((chunk) => chunk.choices[0]!.text).join("")).toBe(whole.choices[0]!.text);
    expect(new Set(chunks.map((chunk) => chunk.id)).size).toBe(1);
    expect(chunks.at(-1)!.choices[0]!.finish_reason).toBe(whole.choices[0]!.finish_reason);
    expect(chunks.slice(0, -1).every((chunk) => chunk.choices[0]!.finish_reason === null)).toBe(true);
    expect(chunks.every((chunk) => !("usage" in chunk))).toBe(true);
  });

  it("end with usage only when asked", async () => {
    const chunks = await chunksOf(await post(COMPLETIONS, { ...greedy, max_tokens: 3, stream: true, stream_options: { include_usage: true } }));
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { prompt_tokens: 3, completion_tokens: 3, total_tokens: 6 } });
    expect(chunks.slice(0, -1).every((chunk) => chunk.usage === null)).toBe(true);
  });

  it("carry several choices at once", async () => {
    const whole = await answer<Completion>(COMPLETIONS, { ...greedy, prompt: ["abc", "xyz"] });
    const chunks = await chunksOf(await post(COMPLETIONS, { ...greedy, prompt: ["abc", "xyz"], stream: true }));
    for (const index of [0, 1]) {
      const text = chunks.flatMap((chunk) => chunk.choices).filter((choice) => choice.index === index).map((choice) => choice.text).join("");
      expect(text).toBe(whole.choices[index]!.text);
    }
  });

  it("carry the experts of every token in every layer when asked", async () => {
    const { data } = await (await fetchRow({ requirement: "", call: "GET /v1/models", status: 200 })).json<{ data: { moe: { moe_layers: number[]; experts: number; experts_per_token: number } }[] }>();
    const { moe_layers, experts, experts_per_token } = data[0]!.moe;
    const chunks = await chunksOf(await post(COMPLETIONS, { ...greedy, max_tokens: 4, stream: true, moe: { trace: true } }));
    const traces = chunks.flatMap((chunk) => (chunk.moe?.token === undefined ? [] : [chunk.moe.token]));
    expect(traces).toHaveLength(4);
    for (const trace of traces) {
      expect(trace.experts).toHaveLength(moe_layers.length);
      for (const chosen of trace.experts) {
        expect(new Set(chosen).size).toBe(experts_per_token);
        expect(chosen.every((expert) => expert >= 0 && expert < experts)).toBe(true);
      }
    }
    const whole = await answer<Completion>(COMPLETIONS, { ...greedy, max_tokens: 4, moe: { trace: true } });
    expect(whole.choices[0]!.moe!.tokens.map((token) => token.experts)).toEqual(traces.map((trace) => trace.experts));
  });

  it("that a reader leaves do not disturb the others", async () => {
    const expected = (await answer<Completion>(COMPLETIONS, greedy)).choices[0]!.text;
    const leaving = await post(COMPLETIONS, { ...greedy, max_tokens: 100, stream: true });
    const staying = answer<Completion>(COMPLETIONS, greedy);
    const reader = leaving.body!.getReader();
    await reader.read();
    await reader.cancel();
    expect((await staying).choices[0]!.text).toBe(expected);
    for (;;) {
      const fleet = await (await fetchRow({ requirement: "", call: "GET /v1/fleet", status: 200 })).json<{ generations: { active: number; queued: number } }>();
      if (fleet.generations.active === 0 && fleet.generations.queued === 0) break; // else the test runs into its time limit
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  });
});

describe("chat", () => {
  const chatGreedy = { ...say, temperature: 0, max_tokens: 12 };

  it("has OpenAI's shape", async () => {
    const body = await answer<Chat>(CHAT, chatGreedy);
    expect(body).toMatchObject({ object: "chat.completion", choices: [{ index: 0, message: { role: "assistant" }, logprobs: null }] });
    expect(body.id).toMatch(/^chatcmpl-/);
    expect(body.choices[0]!.message.content.length).toBeGreaterThan(0);
  });

  it("is what the template makes of the messages", async () => {
    const { prompt } = await answer<{ prompt: string }>("POST /apply-template", { messages: say.messages });
    const { tokens } = await answer<{ tokens: number[] }>("POST /tokenize", { content: prompt });
    const chat = await answer<Chat>(CHAT, chatGreedy);
    expect(chat.usage.prompt_tokens).toBe(tokens.length);
    const completion = await answer<Completion>(COMPLETIONS, { model: "tiny", prompt: tokens, temperature: 0, max_tokens: 12 });
    expect(chat.choices[0]!.message.content).toBe(completion.choices[0]!.text);
  });

  it("streams a role, then content, then a reason", async () => {
    const whole = await answer<Chat>(CHAT, chatGreedy);
    const chunks = await chunksOf(await post(CHAT, { ...chatGreedy, stream: true }));
    expect(chunks.every((chunk) => chunk.object === "chat.completion.chunk")).toBe(true);
    expect(chunks[0]!.choices[0]!.delta).toEqual({ role: "assistant", content: "" });
    expect(chunks.map((chunk) => chunk.choices[0]!.delta!.content ?? "").join("")).toBe(whole.choices[0]!.message.content);
    expect(chunks.at(-1)!.choices[0]).toMatchObject({ delta: {}, finish_reason: whole.choices[0]!.finish_reason });
  });

  it("takes content as parts, and null", async () => {
    const expected = (await answer<Chat>(CHAT, chatGreedy)).choices[0]!.message.content;
    const parts = await answer<Chat>(CHAT, { ...chatGreedy, messages: [{ role: "user", content: [{ type: "text", text: "a" }, { type: "text", text: "bc" }] }] });
    expect(parts.choices[0]!.message.content).toBe(expected);
    await answer<Chat>(CHAT, { ...chatGreedy, messages: [...say.messages, { role: "assistant", content: null }, ...say.messages] });
  });

  it("takes max_completion_tokens", async () => {
    const { max_tokens: _, ...request } = chatGreedy;
    expect((await answer<Chat>(CHAT, { ...request, max_completion_tokens: 2 })).usage.completion_tokens).toBe(2);
  });

  it("gives log-probabilities with bytes", async () => {
    const body = await answer<Chat>(CHAT, { ...chatGreedy, max_tokens: 4, logprobs: true, top_logprobs: 2 });
    const { content } = body.choices[0]!.logprobs!;
    expect(content.map((entry) => entry.token).join("")).toBe(body.choices[0]!.message.content);
    for (const entry of content) {
      expect(new TextDecoder().decode(new Uint8Array(entry.bytes))).toBe(entry.token);
      expect(entry.top_logprobs).toHaveLength(2);
      expect(entry.logprob).toBeLessThanOrEqual(0);
    }
  });
});
