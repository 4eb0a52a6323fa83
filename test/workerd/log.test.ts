// One line of JSON per request, when it has ended: what it says of replies, streams, errors and readers who left; what it never says. Request ids and
// Server-Timing on the replies themselves.

import { createExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import worker, { type EdgeEnv } from "../../worker/index.ts";
import { EDGE_LIMITS } from "../../worker/limits.ts";
import { packToMemory } from "../support/pack-to-memory.ts";
import { tinyChatFiles } from "../support/tiny-chat.ts";
import { deploy, fleetEnv, until } from "./fleet-fixture.ts";

const PACK = "log";
const KEY = "a-key-that-no-log-may-show";
const SECRET = "quokka";
beforeAll(async () => {
  const pack = await packToMemory(await openHuggingFace(new MemorySource(tinyChatFiles(512)), "tiny"), { id: PACK, contextLength: 512 });
  for (const [name, bytes] of pack.files) await fleetEnv.PACKS!.put(`packs/${PACK}/${name}`, bytes);
  deploy({ packId: PACK, shards: 2 });
});

type Line = Readonly<Record<string, unknown>>;
const written: string[] = [];
const lines = (): Line[] => written.map((line) => JSON.parse(line) as Line);
beforeEach(() => {
  written.length = 0;
  for (const to of ["log", "error"] as const) vi.spyOn(console, to).mockImplementation((line: string) => void written.push(line));
});
afterEach(() => vi.restoreAllMocks());

interface Asked { readonly body?: object; readonly method?: string; readonly headers?: Record<string, string>; readonly settings?: Partial<EdgeEnv> }
const ask = async (path: string, { body, method, headers = {}, settings = {} }: Asked = {}): Promise<Response> => worker.fetch(new Request(`https://edge${path}`, {
  headers: { Authorization: `Bearer ${KEY}`, ...headers }, ...(body === undefined ? {} : { method: "POST", body: JSON.stringify({ model: PACK, ...body }) }), ...(method === undefined ? {} : { method }),
}), { ...env, LOG: "", OPEN_ACCESS: "false", API_KEYS: KEY, ...settings } as unknown as EdgeEnv, createExecutionContext());
const chat = { messages: [{ role: "user", content: SECRET }], max_tokens: 8, temperature: 1.2 };

describe("a line", () => {
  it("of a whole reply says who, what, how many tokens, and how long", async () => {
    const response = await ask("/v1/chat/completions", { body: chat });
    const { usage, choices } = await response.json<{ usage: { prompt_tokens: number; completion_tokens: number; prompt_tokens_details: { cached_tokens: number } }; choices: { finish_reason: string }[] }>();
    expect(lines()).toEqual([{
      level: "info", time: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/), id: response.headers.get("x-request-id"), caller: expect.stringMatching(/^[0-9a-f]{32}$/),
      method: "POST", endpoint: "/v1/chat/completions", status: 200, stream: false, prompt_tokens: usage.prompt_tokens, cached_tokens: usage.prompt_tokens_details.cached_tokens,
      completion_tokens: usage.completion_tokens, finish: choices[0]!.finish_reason,
      auth_ms: expect.any(Number), tokenise_ms: expect.any(Number), queue_ms: expect.any(Number), first_token_ms: expect.any(Number), total_ms: expect.any(Number),
    }]);
  });

  it.each([
    ["/v1/chat/completions", { ...chat, n: 2 }], ["/v1/completions", { prompt: SECRET, max_tokens: 8 }], ["/v1/messages", chat], ["/v1/responses", { input: SECRET, max_output_tokens: 8 }],
  ])("of a stream of %s comes with its last byte", async (path, body) => {
    const response = await ask(path, { body: { ...body, stream: true } });
    expect(response.status).toBe(200);
    await response.text();
    expect(lines()).toEqual([expect.objectContaining({ endpoint: path, status: 200, stream: true, finish: expect.stringMatching(/^(stop|length|length,stop)$/), id: response.headers.get("x-request-id") })]);
    expect(lines()[0]!["completion_tokens"]).toBeGreaterThan(0);
  });

  it("of vectors counts their tokens", async () => {
    const response = await ask("/v1/embeddings", { body: { input: [SECRET, "abc"] } });
    const { usage } = await response.json<{ usage: { prompt_tokens: number } }>();
    expect(usage.prompt_tokens).toBe(SECRET.length + 3);
    expect(lines()).toEqual([{
      level: "info", time: expect.any(String), id: expect.any(String), caller: expect.any(String), method: "POST", endpoint: "/v1/embeddings", status: 200, stream: false,
      prompt_tokens: usage.prompt_tokens, cached_tokens: 0, completion_tokens: 0, finish: "embedded", auth_ms: expect.any(Number), tokenise_ms: expect.any(Number), queue_ms: expect.any(Number), total_ms: expect.any(Number),
    }]);
  });

  it("of a reader who left says so", async () => {
    const response = await ask("/v1/completions", { body: { prompt: "abc", max_tokens: 400, stream: true } });
    const reader = response.body!.getReader();
    await reader.read();
    expect(lines()).toEqual([]);
    await reader.cancel();
    await until(() => written.length > 0);
    expect(lines()).toEqual([expect.objectContaining({ finish: "cancelled", status: 200 })]);
    expect(lines()[0]!["completion_tokens"]).toBeLessThan(400);
  });

  it.each([
    ["POST /v1/completions", 400, "invalid_value", { body: { prompt: SECRET, temperature: SECRET } }],
    ["POST /v1/chat/completions", 404, "model_not_found", { body: { ...chat, model: SECRET } }],
    ["GET /v1/models", 401, "invalid_api_key", { headers: { Authorization: `Bearer ${SECRET}` } }],
    ["GET /v1/models/:id", 404, "model_not_found", {}],
    ["GET unknown", 404, "unknown_url", {}],
    ["DELETE unknown", 405, "method_not_allowed", { method: "DELETE", path: "/v1/models" }],
    ["POST /v1/completions", 413, "request_too_large", { body: { prompt: SECRET.repeat(EDGE_LIMITS.bodyBytes / SECRET.length) } }],
  ] as const)("of a refusal has its code and not its words: %s %i", async (route, status, code, asked) => {
    const [method, endpoint] = route.split(" ");
    const path = endpoint === "unknown" ? `/${SECRET}` : endpoint!.replace(":id", SECRET);
    const response = await ask("path" in asked ? asked.path : path, asked);
    expect(response.status).toBe(status);
    expect(lines()).toEqual([expect.objectContaining({ method, endpoint, status, level: "info", error: code })]);
    expect(lines()[0]).not.toHaveProperty("finish");
  });

  it("of a failure nobody foresaw names the place and not the message", async () => {
    const response = await ask("/health", { settings: { ORCHESTRATOR: { getByName: () => { throw new TypeError(`about ${SECRET}`); } } } as unknown as Partial<EdgeEnv> });
    expect(response.status).toBe(500);
    expect(lines()).toEqual([expect.objectContaining({ level: "error", status: 500, error: "internal_error", failed_at: expect.stringMatching(/^TypeError at .*:\d+/) })]);
    expect(written.join()).not.toContain(SECRET);
  });

  it("of a stream that broke has the code of what broke it", async () => {
    const broken = { fetch: async () => new Response(['{"type":"token","index":0,"id":5}', '{"type":"error","code":"step-failed","message":"about quokka","retryable":true}', ""].join("\n")) };
    const response = await ask("/v1/completions", { body: { prompt: "abc", stream: true }, settings: { ORCHESTRATOR: { getByName: () => broken } } as unknown as Partial<EdgeEnv> });
    expect(response.status).toBe(200);
    expect(await response.text()).toContain("step_failed");
    expect(lines()).toEqual([expect.objectContaining({ status: 200, finish: "error", error: "step_failed", completion_tokens: 1 })]);
  });

  it("never has a prompt, a reply's text or a key in it", async () => {
    await (await ask("/v1/chat/completions", { body: { ...chat, stop: [SECRET], moe: { trace: true } } })).text();
    await (await ask("/tokenize", { body: { content: SECRET } })).text();
    await (await ask("/v1/completions?quokka=1", { body: { prompt: SECRET, grammar: SECRET } })).text();
    expect(written).toHaveLength(3);
    expect(written.join()).not.toContain(SECRET);
    expect(written.join()).not.toContain(KEY);
  });

  it("is none where LOG is \"off\"; a data point of Analytics Engine has the same fields", async () => {
    const points: AnalyticsEngineDataPoint[] = [];
    const response = await ask("/v1/completions", { body: { prompt: SECRET, max_tokens: 4 }, settings: { LOG: "off", ANALYTICS: { writeDataPoint: (point?: AnalyticsEngineDataPoint) => void points.push(point!) } } });
    await response.text();
    expect(written).toEqual([]);
    expect(points).toEqual([{
      indexes: [expect.stringMatching(/^[0-9a-f]{32}$/)], blobs: [response.headers.get("x-request-id"), "POST", "/v1/completions", "200", expect.stringMatching(/^(stop|length)$/), "", "whole"],
      doubles: [expect.any(Number), expect.any(Number), 4, ...Array.from({ length: 5 }, () => expect.any(Number))],
    }]);
    expect(JSON.stringify(points)).not.toContain(SECRET);
  });
});

describe("x-request-id", () => {
  const idOf = async (path: string, given?: string): Promise<string | null> => {
    const response = await ask(path, given === undefined ? {} : { headers: { "x-request-id": given } });
    await response.arrayBuffer();
    return response.headers.get("x-request-id");
  };
  it.each(["/", "/health", "/v1/models", "/nowhere", "/v1/completions"])("is on every reply, also of %s", async (path) => {
    const [one, two] = [await idOf(path), await idOf(path)];
    expect(one).toMatch(/^[0-9a-f-]{36}$/);
    expect(two).not.toBe(one);
    expect(await idOf(path, "client_id-1=")).toBe("client_id-1=");
  });
  it.each(["", "a b", "quokka\"}", "x".repeat(129)])("is made anew where the client's is %j", async (given) => {
    expect(await idOf("/v1/models", given)).toMatch(/^[0-9a-f-]{36}$/);
  });
});

describe("Server-Timing", () => {
  const namesOf = (response: Response): string[] => (response.headers.get("Server-Timing") ?? "").split(",").map((metric) => metric.trim().split(";")[0]!).sort();
  it.each([[false], [true]])("of a reply names its phases (stream: %s)", async (stream) => {
    const response = await ask("/v1/completions", { body: { prompt: "abc", max_tokens: 4, stream } });
    await response.text();
    expect(namesOf(response)).toEqual(["auth", "first_token", "queue", "tokenise", "total"]);
    for (const metric of response.headers.get("Server-Timing")!.split(",")) expect(metric.trim()).toMatch(/^\w+;dur=\d+\.\d(;desc="[^"]+")?$/);
  });
  it("of a refusal names those it came to", async () => {
    expect(namesOf(await ask("/v1/completions", { headers: { Authorization: "Bearer x" }, body: {} }))).toEqual(["auth", "total"]);
  });
});
