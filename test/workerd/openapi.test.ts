// The OpenAPI document against the program: valid in itself, its paths are the app's, it takes what the schemas take and refuses what they refuse, and every
// field of real replies is in it. Out of scope: what requests do.

import { env, exports } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import { z } from "zod";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import worker from "../../worker/index.ts";
import { ENDPOINTS, openApiDocument, schemaOf, type SchemaName } from "../../worker/openapi.ts";
import { PAGE_FILES } from "../../worker/page.ts";
import { evenMap, mapBytes } from "../support/even-map.ts";
import { packToMemory } from "../support/pack-to-memory.ts";
import { tinyChatFiles } from "../support/tiny-chat.ts";
import { deploy, fleetEnv } from "./fleet-fixture.ts";

const PACK = "openapi";
beforeAll(async () => {
  const pack = await packToMemory(await openHuggingFace(new MemorySource(tinyChatFiles(512)), "tiny"), { id: PACK, contextLength: 512 });
  for (const [name, bytes] of pack.files) await fleetEnv.PACKS!.put(`packs/${PACK}/${name}`, bytes);
  await fleetEnv.PACKS!.put(`packs/${PACK}/routing-map.json`, mapBytes(await evenMap(pack.source)));
  deploy({ packId: PACK, shards: 2 });
  Object.assign(env, { OPEN_ACCESS: "true" });
});
const ask = (path: string, body?: object, method: string = body === undefined ? "GET" : "POST"): Promise<Response> => (exports as unknown as { default: Fetcher }).default.fetch(new Request(`https://edge${path}`, { method, ...(body === undefined ? {} : { body: JSON.stringify({ model: PACK, ...body }) }) }));

type Json = { readonly [key: string]: unknown };
const document = openApiDocument();
const schemas = (document["components"] as { schemas: Record<string, Json> }).schemas;
function* nodes(value: unknown, at = "#"): Generator<[string, Json]> {
  if (typeof value !== "object" || value === null) return;
  if (!Array.isArray(value)) yield [at, value as Json];
  for (const [key, child] of Object.entries(value)) yield* nodes(child, `${at}/${key.replaceAll("~", "~0").replaceAll("/", "~1")}`);
}

describe("the document", () => {
  it("is served without a key, as it is here", async () => {
    const response = await worker.fetch(new Request("https://edge/openapi.json"), { ...env, API_KEYS: "some-key", OPEN_ACCESS: "false" } as never);
    expect(response.status).toBe(200);
    expect(response.headers.get("Content-Type")).toContain("application/json");
    expect(await response.json()).toEqual(document);
  });

  it("refers only to what it has, and uses every schema it has", () => {
    const targets = new Set([...nodes(document)].map(([at]) => at));
    const refs = [...nodes(document)].flatMap(([at, node]) => (typeof node["$ref"] === "string" ? [[at, node["$ref"]] as const] : []));
    for (const [at, target] of refs) expect(targets, at).toContain(target);
    const used = new Set(refs.map(([, target]) => target));
    for (const name of Object.keys(schemas)) expect(used, name).toContain(`#/components/schemas/${name}`);
  });

  it("has the paths and methods of the app, and no others", () => {
    const routes = worker.routes.filter(({ method, path }) => method !== "ALL" && !PAGE_FILES.some((file) => file === path)).map(({ method, path }) => `${method} ${path.replace(/:(\w+)/g, "{$1}")}`);
    const described = Object.entries(document["paths"] as Record<string, Json>).flatMap(([path, methods]) => Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`));
    expect(described.sort()).toEqual([...new Set(routes)].sort());
  });

  it("names each operation once, with a summary and parameters for its path", () => {
    const operations = Object.entries(document["paths"] as Record<string, Record<string, Json>>).flatMap(([path, methods]) => Object.values(methods).map((operation) => [path, operation] as const));
    expect(new Set(operations.map(([, { operationId }]) => operationId)).size).toBe(operations.length);
    for (const [path, { summary, parameters, responses }] of operations) {
      expect(summary).toMatch(/\.$/);
      const inPath = (parameters as Json[]).filter((parameter) => parameter["in"] === "path").map(({ name }) => name);
      expect(inPath).toEqual([...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name));
      for (const response of Object.values(responses as Record<string, Json>)) expect(response["description"]).toMatch(/\.$/);
    }
  });

  it.each(ENDPOINTS.flatMap(({ request }) => (request === undefined ? [] : [request])).concat("MoeExtensions"))("%s has a meaning for every field", (name) => {
    for (const [field, schema] of Object.entries(schemas[name]!["properties"] as Record<string, Json>)) expect(schema["description"], `${name}.${field}`).toMatch(/\.$/);
  });
});

/** The document's schema as a validator of its own: made from JSON alone, by zod's reader of JSON Schema. */
function validatorOf(name: string): z.ZodType {
  const local = JSON.parse(JSON.stringify(schemas).replaceAll("#/components/schemas/", "#/$defs/")) as Record<string, Json>;
  return z.fromJSONSchema({ ...local[name]!, $defs: local } as never);
}

const say = { model: "m", messages: [{ role: "user", content: "hi" }] };
const tool = { type: "function", function: { name: "f", parameters: { type: "object" } } };
const profile = { format: "workers-moe-profile", version: 1, name: "quiet", description: "", model: PACK, access: "admin", interventions: [{ op: "suppress", experts: { 0: [1] } }], found: null };
const samples: readonly (readonly [SchemaName, readonly object[], readonly object[]])[] = [
  ["ChatCompletionRequest", [
    say, { ...say, temperature: null, n: 8, stop: ["a", "b"], logit_bias: { 5: -100 }, seed: 7, stream: true, stream_options: { include_usage: true } },
    { ...say, messages: [{ role: "user", content: [{ type: "text", text: "a" }] }, { role: "assistant", content: null, tool_calls: [{ function: { name: "f", arguments: "{}" } }] }, { role: "tool", content: "1", tool_call_id: "c" }] },
    { ...say, tools: [tool], tool_choice: { type: "function", function: { name: "f" } }, response_format: { type: "json_schema", json_schema: { schema: {} } }, moe: { trace: true, date: "2026-11-01", draft_tokens: 0, cache: false, profile: "quiet", interventions: [{ op: "stimulate", experts: { 3: [1, 17] } }] }, unknown: 1 },
  ], [
    {}, { ...say, messages: [] }, { ...say, messages: [{ role: "wizard", content: "" }] }, { ...say, temperature: 2.1 }, { ...say, n: 9 }, { ...say, n: 1.5 }, { ...say, stop: ["a", "b", "c", "d", "e"] }, { ...say, logit_bias: { 5: 101 } },
    { ...say, logit_bias: { the: 1 } }, { ...say, top_logprobs: 21 }, { ...say, tool_choice: "maybe" }, { ...say, response_format: { type: "xml" } }, { ...say, moe: { draft_tokens: 8 } }, { ...say, moe: { interventions: [{ op: "stimulate", experts: [3] }] } }, { ...say, moe: { profile: 5 } }, { ...say, moe: { date: "yesterday" } }, { ...say, stream: "yes" },
  ]],
  ["CompletionRequest", [
    { model: "m", prompt: "a" }, { model: "m", prompt: ["a", "b"] }, { model: "m", prompt: [1, 2] }, { model: "m", prompt: [[1], [2]], echo: true, logprobs: 5, max_tokens: 0 },
  ], [{ model: "m" }, { model: "", prompt: "a" }, { model: "m", prompt: [] }, { model: "m", prompt: ["a", 1] }, { model: "m", prompt: "a", logprobs: 6 }, { model: "m", prompt: "a", top_p: 0 }, { model: "m", prompt: "a", repetition_penalty: 10.5 }]],
  ["MessageRequest", [
    { ...say, max_tokens: 1 }, { ...say, max_tokens: 9, system: [{ type: "text", text: "s" }], tools: [{ name: "f", input_schema: {} }], tool_choice: { type: "tool", name: "f" }, thinking: { type: "enabled", budget_tokens: 5 } },
    { ...say, max_tokens: 1, messages: [{ role: "assistant", content: [{ type: "tool_use", id: "a", name: "f", input: {} }] }, { role: "user", content: [{ type: "tool_result", tool_use_id: "a", content: "1" }] }] },
  ], [say, { ...say, max_tokens: 0 }, { ...say, max_tokens: 1, tool_choice: { type: "tool" } }, { ...say, max_tokens: 1, messages: [{ role: "user", content: [{ type: "image" }] }] }]],
  ["ResponseRequest", [
    { model: "m", input: "a" }, { model: "m", input: [{ role: "user", content: "a" }, { type: "function_call", call_id: "c", name: "f", arguments: "{}" }, { type: "function_call_output", call_id: "c", output: "1" }], text: { format: { type: "json_object" } } },
  ], [{ model: "m" }, { model: "m", input: [] }, { model: "m", input: "a", max_output_tokens: 0 }, { model: "m", input: "a", text: { format: { type: "xml" } } }]],
  ["CountTokensRequest", [say], [{ model: "m" }]],
  ["EmbeddingRequest", [{ model: "m", input: "a" }, { model: "m", input: [[1, 2]], encoding_format: "base64" }], [{ model: "m" }, { model: "m", input: "a", encoding_format: "hex" }]],
  ["TokenizeRequest", [{ content: "a", add_special: true }], [{}, { content: 1 }]],
  ["DetokenizeRequest", [{ tokens: [] }, { tokens: [1] }], [{ tokens: "a" }, { tokens: [-1] }]],
  ["ApplyTemplateRequest", [say], [{ messages: "a" }]],
  ["RoutingProfile", [
    profile, { ...profile, packHash: "0a".repeat(32), access: "infer", found: { map: [1] } }, { ...profile, packHash: null, interventions: [] },
    { ...profile, interventions: [{ op: "add_std", experts: { 0: [1] }, lambda: -0.5 }, { op: "top_k", k: 2, layers: [1] }, { op: "top_k", k: 1 }, { op: "null_bias", bias: [0.5, null] }, { op: "null_bias", bias: -1 }, { op: "gain", experts: {}, gain: 0 }, { op: "mask", experts: { 11: [] } }] },
  ], [
    {}, { ...profile, version: 2 }, { ...profile, name: "Quiet" }, { ...profile, packHash: "0a" }, { ...profile, access: "all" }, { ...profile, colour: "red" }, { ...profile, interventions: [{ op: "melt" }] }, { ...profile, interventions: [{ op: "gain", experts: {} }] },
    { ...profile, interventions: [{ op: "mask", experts: { first: [1] } }] }, { ...profile, interventions: [{ op: "top_k", k: 0 }] }, { ...profile, interventions: [{ op: "mask", experts: {}, gain: 1 }] }, { ...profile, found: "by hand" },
  ]],
  ["FleetChangeRequest", [{ shards: 3 }, { shards: 3, replicas: 2 }, { plan: { version: 1 } }, {}], [{ shards: 0 }, { shards: 1.5 }, { replicas: 17 }, { plan: "3 shards" }]],
];

describe.each(samples)("%s", (name, taken, refused) => {
  it("takes what the program takes", () => {
    for (const sample of taken) {
      expect(schemaOf(name).safeParse(sample).error, JSON.stringify(sample)).toBeUndefined();
      expect(validatorOf(name).safeParse(sample).error, JSON.stringify(sample)).toBeUndefined();
    }
  });
  it("refuses what the program refuses", () => {
    for (const sample of refused) {
      expect(schemaOf(name).safeParse(sample).success, JSON.stringify(sample)).toBe(false);
      expect(validatorOf(name).safeParse(sample).success, JSON.stringify(sample)).toBe(false);
    }
  });
});

it("has samples of every request", () => {
  expect(samples.map(([name]) => name).sort()).toEqual(ENDPOINTS.flatMap(({ request }) => (request === undefined ? [] : [request])).sort());
});

/** A reply is its schema's, and has no field that the schema does not name: those would be gone from what is parsed. */
const conforms = (name: SchemaName, reply: unknown): void => {
  const parsed = schemaOf(name).safeParse(reply);
  expect(parsed.error, JSON.stringify(reply)).toBeUndefined();
  expect(parsed.data, name).toEqual(reply);
};
const POINT = { type: "object", properties: { x: { type: "integer", minimum: 0, maximum: 9 } }, required: ["x"], additionalProperties: false };
const chat = { messages: [{ role: "user", content: "hello" }], max_tokens: 8, temperature: 1.2 };
const call = { ...chat, max_tokens: 100, tools: [{ type: "function", function: { name: "locate", parameters: POINT } }], tool_choice: "required", parallel_tool_calls: false };

describe("replies", () => {
  const requests: Readonly<Record<string, readonly object[]>> = {
    "/v1/chat/completions": [chat, { ...chat, n: 2, logprobs: true, top_logprobs: 2, moe: { trace: true } }, call],
    "/v1/completions": [{ prompt: "abc", max_tokens: 4 }, { prompt: ["abc", "d"], max_tokens: 4, echo: true, logprobs: 2, moe: { trace: true } }],
    "/v1/responses": [{ input: "hello", max_output_tokens: 8 }, { input: "hello", max_output_tokens: 100, tools: [{ type: "function", name: "locate", parameters: POINT }], tool_choice: "required", metadata: { a: "b" } }],
    "/v1/messages": [chat, { ...chat, max_tokens: 100, tools: [{ name: "locate", input_schema: POINT }], tool_choice: { type: "any" } }],
    "/v1/messages/count_tokens": [chat], "/v1/embeddings": [{ input: "abc" }, { input: ["a", "b"], encoding_format: "base64" }],
    "/tokenize": [{ content: "abc" }], "/detokenize": [{ tokens: [5, 6] }], "/apply-template": [chat],
    "/v1/fleet": [{ shards: 3 }], "/v1/fleet/warm": [{}], "/v1/profiles/{name}": [profile],
  };
  for (const { method, path, reply, event, status = 200 } of ENDPOINTS) {
    if (typeof reply !== "string") continue;
    const bodies = method === "get" || method === "delete" ? [undefined] : requests[path]!;
    it.each(bodies.map((body) => [body] as const))(`of ${method} ${path} are ${reply}: %j`, async (body) => {
      if (path.includes("profiles")) await ask("/v1/profiles/quiet", profile, "PUT");
      const response = await ask(path.replace("{id}", PACK).replace("{name}", "quiet"), body, method.toUpperCase());
      const text = await response.text();
      if (path === "/health" && response.status === 503) return conforms("HealthWaiting", JSON.parse(text));
      expect(response.status, text).toBe(status);
      conforms(reply, JSON.parse(text));
    });
    if (event === undefined) continue;
    it.each(bodies.map((body) => [body] as const))(`of ${path}, streamed, are ${event}: %j`, async (body) => {
      const response = await ask(path, { ...body, stream: true, ...(path.includes("completions") ? { stream_options: { include_usage: true } } : {}) });
      const events = [...(await response.text()).matchAll(/^data: (.*)$/gm)].map(([, data]) => data!).filter((data) => data !== "[DONE]");
      expect(events.length).toBeGreaterThan(3);
      for (const data of events) conforms(event, JSON.parse(data));
    });
  }

  it.each(ENDPOINTS.filter(({ request }) => request !== undefined).map(({ path, method }) => [path, method] as const))("of %s to a bad request are errors", async (path, method) => {
    const response = await ask(path, { model: 5, content: 5, tokens: 5, messages: 5 }, method.toUpperCase());
    expect(response.status).toBe(400);
    conforms(path.startsWith("/v1/messages") ? "MessageError" : "Error", await response.json());
  });
});
