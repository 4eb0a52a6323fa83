// Keys, scopes and origins, black box through the Worker's fetch, with Durable Objects that must not be touched: who may ask for what, and from which pages.
// The errors of requests without a key are rows of api-refusals.test.ts.

import { env } from "cloudflare:workers";
import { createExecutionContext, waitOnExecutionContext } from "cloudflare:test";
import { describe, expect, it } from "vitest";
import { requireKey, type AuthSettings } from "../../worker/auth.ts";
import worker, { type EdgeEnv } from "../../worker/index.ts";

const untouchable = new Proxy({}, { get: () => { throw new Error("A Durable Object was touched."); } });
const STATUS = {
  status: "ready", loaded: 1, message: "reads /packs/tiny/parts/3", pack: null, isolate: null, generations: { active: 0, queued: 0, cancelled: 0 }, drafts: { tokens: 0, held: 0 },
  shards: [{ name: "shard 0", state: "open", loadedBytes: 1, totalBytes: 1, frames: 1, bytes: 1, retries: 1, lastFault: "A frame of object 17 was not answered." }],
};
const orchestrator = { getByName: () => ({ fetch: async () => Response.json(STATUS) }) };

async function ask(call: string, headers: Record<string, string>, settings: object = {}): Promise<Response> {
  const [method, path] = call.split(" ") as [string, string];
  const context = createExecutionContext();
  const response = await worker.fetch(new Request(`https://edge${path}`, { method, headers }), {
    ...(env as unknown as EdgeEnv), OPEN_ACCESS: "false", API_KEYS: "plain-key, alice:alice-key", ADMIN_KEYS: "root-key", ORCHESTRATOR: untouchable, SHARDS: untouchable, BUDGETS: untouchable, ...settings,
  } as unknown as EdgeEnv, context);
  await waitOnExecutionContext(context);
  return response;
}
const bearer = (key: string): Record<string, string> => ({ Authorization: `Bearer ${key}` });
const codeOf = async (response: Response): Promise<unknown> => (await response.json<{ error: { code: string } }>()).error.code;

describe("keys", () => {
  it.each(["plain-key", "alice-key", "root-key"])("%s opens in either header", async (key) => {
    expect((await ask("GET /v1/models", bearer(key))).status).toBe(200);
    expect((await ask("GET /v1/models", { "x-api-key": key })).status).toBe(200);
    expect((await ask("GET /v1/models", { "x-api-key": key, Authorization: "Basic cHJveHk6cHJveHk=" })).status).toBe(200);
  });
  it.each(["alice", "alice:alice-key", "alice-key2", "alice-ke", "plain-key, alice:alice-key"])("%s does not", async (key) => {
    expect(await codeOf(await ask("GET /v1/models", { "x-api-key": key }))).toMatch(/invalid_api_key|missing_api_key/);
  });
  it("a bearer key comes before another header's", async () => {
    expect(await codeOf(await ask("GET /v1/models", { ...bearer("wrong"), "x-api-key": "plain-key" }))).toBe("invalid_api_key");
  });
  it("ADMIN_KEYS alone close a deployment, whatever OPEN_ACCESS says", async () => {
    expect((await ask("GET /v1/models", {}, { API_KEYS: "", OPEN_ACCESS: "true" })).status).toBe(401);
    expect((await ask("GET /v1/models", bearer("root-key"), { API_KEYS: "", OPEN_ACCESS: "true" })).status).toBe(200);
  });
  it("too many of them are a mistake that is said, and nobody is served", async () => {
    const response = await ask("GET /v1/models", bearer("key-0"), { API_KEYS: Array.from({ length: 65 }, (_, i) => `key-${i}`).join(",") });
    expect([response.status, await codeOf(response)]).toEqual([500, "bad_configuration"]);
  });
});

describe("a caller", () => {
  const settings: AuthSettings = { API_KEYS: "one, two, alice:three, alice:four, key:five", ADMIN_KEYS: "two" };
  const callerOf = (key: string) => requireKey(`Bearer ${key}`, settings);
  it("is told apart by key, counted by name, and shows neither", async () => {
    const [one, two, three, four] = await Promise.all(["one", "two", "three", "four"].map(callerOf));
    expect(new Set([one, two, three, four].map((caller) => caller!.id)).size).toBe(4);
    expect([three!.account, four!.account]).toEqual(["name:alice", "name:alice"]);
    expect(one!.account).toBe(`key:${one!.id}`);
    expect(JSON.stringify([one, three])).not.toMatch(/"(one|three)"/);
  });
  it("has the scopes of every list its key is in", async () => {
    expect([...(await callerOf("one")).scopes]).toEqual(["infer"]);
    expect(new Set((await callerOf("two")).scopes)).toEqual(new Set(["infer", "admin"]));
    expect(new Set((await requireKey(null, { OPEN_ACCESS: "true" })).scopes)).toEqual(new Set(["infer", "admin"]));
  });
});

describe("scopes", () => {
  it.each(["/metrics", "/v1/fleet", "/v1/fleet/plan", "/v1/traces"])("what looks inside needs admin, and the refusal says so: %s", async (path) => {
    const refused = await ask(`GET ${path}`, bearer("plain-key"), { ORCHESTRATOR: orchestrator });
    expect(refused.status).toBe(403);
    expect(await refused.json()).toMatchObject({ error: { code: "insufficient_permissions", message: expect.stringMatching(/scope "admin".*has "infer"/) } });
  });
  it("the fleet is shown to admin as it is, reasons of faults too", async () => {
    const withDirectory = (directory: object | null): object => ({ ...STATUS, directory, regions: [{ region: null, directory, lanes: [{ lane: 0, name: (env as unknown as EdgeEnv).PACK_ID, status: STATUS }] }], roundTrips: [] });
    expect(await (await ask("GET /v1/fleet", bearer("root-key"), { ORCHESTRATOR: orchestrator })).json()).toEqual(withDirectory({ plan: null, change: null, history: [], lanes: [], load: [], faults: [] }));
    const deaf = { getByName: () => ({ status: () => { throw new Error("The directory is gone."); } }) };
    expect(await (await ask("GET /v1/fleet", bearer("root-key"), { ORCHESTRATOR: orchestrator, DIRECTORY: deaf })).json()).toEqual(withDirectory(null));
  });
  it("a change of the fleet needs admin too", async () => {
    const refused = await ask("POST /v1/fleet", bearer("plain-key"), { ORCHESTRATOR: orchestrator, DIRECTORY: untouchable });
    expect([refused.status, await codeOf(refused)]).toEqual([403, "insufficient_permissions"]);
  });
});

describe("other origins", () => {
  const from = (origin: string) => ({ Origin: origin });
  const preflight = (origin: string) => ({ ...from(origin), "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization, content-type, x-stainless-lang" });
  const allowed = (response: Response): string | null => response.headers.get("Access-Control-Allow-Origin");

  it("are not allowed where nothing is said", async () => {
    expect(allowed(await ask("GET /v1/models", { ...bearer("plain-key"), ...from("https://app.example") }))).toBeNull();
    const response = await ask("OPTIONS /v1/chat/completions", preflight("https://app.example"));
    expect([response.status, allowed(response)]).toEqual([401, null]);
  });
  it("are those named, whose preflight needs no key", async () => {
    const settings = { CORS_ORIGINS: "https://app.example, http://localhost:3000" };
    const response = await ask("OPTIONS /v1/chat/completions", preflight("http://localhost:3000"), settings);
    expect([response.status, allowed(response)]).toEqual([204, "http://localhost:3000"]);
    expect(response.headers.get("Access-Control-Allow-Methods")).toBe("GET,POST,PUT,DELETE");
    expect(response.headers.get("Access-Control-Allow-Headers")).toContain("x-stainless-lang");
    expect(response.headers.get("Vary")).toContain("Origin");
    expect(allowed(await ask("OPTIONS /v1/chat/completions", preflight("https://app.example.evil"), settings))).toBeNull();
    expect(allowed(await ask("GET /v1/models", { ...bearer("plain-key"), ...from("https://app.example") }, settings))).toBe("https://app.example");
    expect(allowed(await ask("GET /v1/models", { ...bearer("plain-key"), ...from("https://other.example") }, settings))).toBeNull();
  });
  it("are all with a star, never with credentials, and read errors and Retry-After too", async () => {
    const response = await ask("GET /v1/models", from("https://app.example"), { CORS_ORIGINS: "*" });
    expect([response.status, allowed(response), response.headers.get("Access-Control-Allow-Credentials")]).toEqual([401, "*", null]);
    expect(response.headers.get("Access-Control-Expose-Headers")).toContain("Retry-After");
  });
  it.each(["https://app.example/", "app.example", "https://app.example/path"])("%s is no origin, and said to be none", async (origin) => {
    const response = await ask("GET /v1/models", bearer("plain-key"), { CORS_ORIGINS: origin });
    expect(response.status).toBe(500);
    expect(await response.text()).toContain("CORS_ORIGINS");
  });
});
