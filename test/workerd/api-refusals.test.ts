// Everything the API must refuse, black box through the Worker's fetch: requirement -> request -> status and shape of the error; and who is not let in.
// Out of scope: what is answered (the other api files), and settings of keys (admission.test.ts, auth.test.ts).

import { createExecutionContext, waitOnExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import worker, { type EdgeEnv } from "../../worker/index.ts";
import { EDGE_LIMITS } from "../../worker/limits.ts";
import { type ApiRow, toRequest } from "../support/api-rows.ts";
import { ask, CHAT, COMPLETIONS, CONTEXT, type ErrorBody, fetchRow, get, say, VOCABULARY } from "./api-client.ts";

const edgeEnv = env as unknown as EdgeEnv;

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
  { requirement: "a ratio beyond one", call: COMPLETIONS, body: { ...ask, moe: { prune: { ratio: 1.5 } } }, status: 400, error: { param: "moe.prune.ratio", message: /found 1.5, expected a number from 0 to 1/ } },
  { requirement: "a rule nobody knows", call: CHAT, body: { ...say, moe: { prune: "often" } }, status: 400, error: { param: "moe.prune", message: /found "often", expected "calibrated", "learned", or an object such as/ } },
  { requirement: "a rule with a field nobody knows", call: COMPLETIONS, body: { ...ask, moe: { prune: { ratio: 0.4, layer: 1 } } }, status: 400, error: { param: "moe.prune" } },
  { requirement: "a mask router the model does not have", call: COMPLETIONS, body: { ...ask, moe: { prune: "learned" } }, status: 400, error: { param: "moe.prune", code: "invalid_value", message: /this model has no mask router; expected a ratio/ } },
  { requirement: "ratios of a calibration the model never had", call: CHAT, body: { ...say, moe: { prune: "calibrated" } }, status: 400, error: { param: "moe.prune", message: /this model has none/ } },
  { requirement: "a ratio for each of too few layers", call: COMPLETIONS, body: { ...ask, moe: { prune: { ratio: [0.4] } } }, status: 400, error: { param: "moe.prune", message: /1 ratios were given; expected one for each of 2 layers/ } },
  { requirement: "a layer without experts", call: COMPLETIONS, body: { ...ask, moe: { prune: { ratio: 0.4, layers: [9] } } }, status: 400, error: { param: "moe.prune", message: /Layer 9 was named; expected layers with experts/ } },
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
