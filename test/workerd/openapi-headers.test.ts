// Headers and statuses of real answers against the OpenAPI document: no answer has a header of ours that its operation does not name there, each named
// header is seen, and refusals of every kind have a status that the operation names. Out of scope: bodies (openapi.test.ts).

import { createExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import worker, { type EdgeEnv } from "../../worker/index.ts";
import { EDGE_LIMITS } from "../../worker/limits.ts";
import { type Endpoint, ENDPOINTS, errorsOf, openApiDocument } from "../../worker/openapi.ts";
import { REPLY_HEADERS } from "../../worker/reply-headers.ts";
import { evenMap, mapBytes } from "../support/even-map.ts";
import { packToMemory } from "../support/pack-to-memory.ts";
import { tinyChatFiles } from "../support/tiny-chat.ts";
import { deploy, fleetEnv } from "./fleet-fixture.ts";

const PACK = "headers";
beforeAll(async () => {
  const pack = await packToMemory(await openHuggingFace(new MemorySource(tinyChatFiles(512)), "tiny"), { id: PACK, contextLength: 512 });
  for (const [name, bytes] of pack.files) await fleetEnv.PACKS!.put(`packs/${PACK}/${name}`, bytes);
  await fleetEnv.PACKS!.put(`packs/${PACK}/routing-map.json`, mapBytes(await evenMap(pack.source)));
  deploy({ packId: PACK, shards: 2 });
});

/** As an administrator whose key has every limit, of generous size. */
const LIMITS = { "*": { maxTokens: 400, tokensPerDay: 1_000_000, requestsPerMinute: 5000 } };
interface Asked { readonly method?: string; readonly body?: unknown; readonly key?: string; readonly settings?: object }
const ask = async (path: string, { method, body, key = "an-admin-key", settings = {} }: Asked = {}): Promise<Response> => {
  const response = await worker.fetch(new Request(`https://edge${path.replace("{id}", PACK).replace("{name}", "quiet")}`, {
    method: method ?? (body === undefined ? "GET" : "POST"), headers: { Authorization: `Bearer ${key}` }, ...(body === undefined ? {} : { body: typeof body === "string" ? body : JSON.stringify({ model: PACK, ...body }) }),
  }), { ...env, OPEN_ACCESS: "false", ADMIN_KEYS: "an-admin-key", CORS_ORIGINS: "*", KEY_SETTINGS: LIMITS, ...settings } as unknown as EdgeEnv, createExecutionContext());
  await response.clone().arrayBuffer();
  return response;
};

const chat = { messages: [{ role: "user", content: "hello" }], max_tokens: 4 };
const bodies: Readonly<Record<string, object>> = {
  "/v1/chat/completions": chat, "/v1/completions": { prompt: "abc", max_tokens: 4 }, "/v1/responses": { input: "hello", max_output_tokens: 4 }, "/v1/messages": chat, "/v1/messages/count_tokens": chat,
  "/v1/embeddings": { input: "abc" }, "/tokenize": { content: "abc" }, "/detokenize": { tokens: [5] }, "/apply-template": chat, "/v1/fleet": { shards: 3 }, "/v1/fleet/warm": {},
  "/v1/profiles/{name}": { format: "workers-moe-profile", version: 1, name: "quiet", description: "", access: "admin", interventions: [], found: null },
};
const hasBody = ({ method }: Endpoint): boolean => method === "post" || method === "put";
const bodyOf = (endpoint: Endpoint): { body?: object; method: string } => ({ method: endpoint.method.toUpperCase(), ...(hasBody(endpoint) ? { body: bodies[endpoint.path]! } : {}) });

type Responses = Readonly<Record<string, { readonly headers: object }>>;
const described = ({ path, method }: Endpoint): Responses => (openApiDocument()["paths"] as Record<string, Record<string, { responses: Responses }>>)[path]![method]!.responses;
/** What HTTP, hono/cors and the kinds of bodies need no document for. */
const PLAIN = /^(content-|cache-control$|x-accel-buffering$|access-control-|vary$)/;
const oursOf = (response: Response): string[] => [...response.headers.keys()].filter((name) => !PLAIN.test(name));
/** The header names of an answer are those its operation has for its status; which of them may be absent is up to the caller. */
const requireDescribed = (endpoint: Endpoint, response: Response): string[] => {
  const entry = described(endpoint)[String(response.status)];
  expect(entry, `${response.status} of ${endpoint.path}`).toBeDefined();
  const known = Object.keys(entry!.headers).map((name) => name.toLowerCase());
  for (const name of oursOf(response)) expect(known, `${name} with ${response.status} of ${endpoint.path}`).toContain(name);
  return known;
};

describe.each(ENDPOINTS.map((endpoint) => [`${endpoint.method.toUpperCase()} ${endpoint.path}`, endpoint] as const))("%s", (_, endpoint) => {
  it("answers with the headers that are described, and all of them", async () => {
    if (endpoint.path.includes("{name}")) await ask(endpoint.path, { method: "PUT", body: bodies[endpoint.path]! });
    let response = await ask(endpoint.path, bodyOf(endpoint));
    while (response.status === 503 && endpoint.path === "/health") response = await ask(endpoint.path);
    expect(response.status).toBe(endpoint.status ?? 200);
    expect(oursOf(response).sort()).toEqual(requireDescribed(endpoint, response).sort());
    if (endpoint.event === undefined) return;
    const streamed = await ask(endpoint.path, { body: { ...bodies[endpoint.path]!, stream: true } });
    expect(oursOf(streamed).sort()).toEqual(oursOf(response).sort());
  });

  it("refuses with statuses and headers that are described", async () => {
    const answers = [await ask(endpoint.path, { ...bodyOf(endpoint), method: "PATCH" })];
    if (endpoint.isPublic === undefined) answers.push(await ask(endpoint.path, { ...bodyOf(endpoint), key: "none" }), await ask(endpoint.path, { ...bodyOf(endpoint), settings: { KEY_SETTINGS: "{" } }));
    if (endpoint.needsAdmin) answers.push(await ask(endpoint.path, { ...bodyOf(endpoint), settings: { API_KEYS: "plain" }, key: "plain" }));
    const { method } = bodyOf(endpoint);
    if (hasBody(endpoint)) {
      // Where nothing is asked for, nothing can be wrong about it but its length.
      if (endpoint.request !== undefined) answers.push(await ask(endpoint.path, { method, body: { model: 5, content: 5, tokens: 5, messages: 5 } }));
      answers.push(await ask(endpoint.path, { method, body: "x".repeat(EDGE_LIMITS.bodyBytes + 1) }));
      if (endpoint.method === "post") answers.push(await ask(endpoint.path, { ...bodyOf(endpoint), settings: { RATE_LIMITER: { limit: async () => ({ success: false }) } } }));
    }
    for (const answer of answers) requireDescribed(endpoint, answer);
    const expected = [405, ...(endpoint.isPublic ? [] : [401, 500]), ...(endpoint.needsAdmin ? [403] : []), ...(endpoint.request === undefined ? [] : [400]), ...(hasBody(endpoint) ? [413] : []), ...(endpoint.method === "post" ? [429] : [])];
    expect(answers.map(({ status }) => status)).toEqual(expected);
    for (const answer of answers) {
      expect(answer.headers.has("Allow")).toBe(answer.status === 405);
      expect(answer.headers.has("WWW-Authenticate")).toBe(answer.status === 401);
      expect(answer.headers.has("Retry-After")).toBe(answer.status === 429);
    }
    expect(errorsOf(endpoint)).toEqual(expect.arrayContaining(expected));
  });
});

it("a page of another origin may read every header of ours that HTTP does not explain to it", async () => {
  const exposed = (await ask("/v1/models")).headers.get("Access-Control-Expose-Headers")!.split(",").map((name) => name.trim());
  expect(exposed.sort()).toEqual(Object.keys(REPLY_HEADERS).filter((name) => name !== "Allow" && name !== "WWW-Authenticate").sort());
});
