// `workers-moe serve` with keys, limits and origins from the environment. What only real sockets can show: that a reader who hangs up gives back the tokens
// set aside for what it never read. Everything else about keys and limits: test/workerd/auth.test.ts and admission.test.ts.

import { request, type IncomingMessage } from "node:http";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { startServe, writeTinyPack, type Serving } from "../../support/serve.ts";

let pack: { folder: string; remove: () => void };
let server: Serving;
beforeAll(async () => {
  pack = await writeTinyPack();
  server = await startServe(pack.folder, {
    API_KEYS: "alice:alice-key, bob:bob-key, plain-key", ADMIN_KEYS: "root-key", CORS_ORIGINS: "https://app.example", KEY_SETTINGS: JSON.stringify({ alice: { tokensPerDay: 5000 }, bob: { tokensPerDay: 5000 }, "*": { maxTokens: 3 } }),
  });
});
afterAll(async () => {
  await server?.stop();
  pack?.remove();
});

const ask = (key: string, body: object): Promise<Response> => fetch(`${server.url}/v1/completions`, {
  method: "POST", headers: { Authorization: `Bearer ${key}`, Origin: "https://app.example" }, body: JSON.stringify({ model: "tiny", prompt: "abc", ...body }),
});

describe("serve with keys and limits", () => {
  it("says which keys there are, and takes all of its settings from the environment", async () => {
    expect(server.output()).toContain("API_KEYS and ADMIN_KEYS are set");
    const plain = await ask("plain-key", { max_tokens: 50 });
    expect(plain.headers.get("Access-Control-Allow-Origin")).toBe("https://app.example");
    expect(await plain.json()).toMatchObject({ usage: { completion_tokens: 3 } });
    const metrics = (key: string): Promise<Response> => fetch(`${server.url}/metrics`, { headers: { Authorization: `Bearer ${key}` } });
    expect([(await metrics("alice-key")).status, (await metrics("root-key")).status]).toEqual([403, 200]);
  });

  it.each([["alice", true], ["bob", false]] as const)("counts to where a reader hung up (%s, stream: %s)", async (name, stream) => {
    const [longest, more] = [4000, 1500]; // both do not fit into a day
    // node:http, because fetch keeps the connection of an aborted reply open until more of it comes.
    const asked = request(`${server.url}/v1/completions`, { method: "POST", headers: { Authorization: `Bearer ${name}-key` } });
    asked.end(JSON.stringify({ model: "tiny", prompt: "abc", max_tokens: longest, stream }));
    const response = await new Promise<IncomingMessage>((resolve, reject) => asked.once("response", resolve).once("error", reject));
    await new Promise((resolve) => response.once("data", resolve));
    expect(await (await ask(`${name}-key`, { max_tokens: more })).json()).toMatchObject({ error: { code: "insufficient_quota" } });
    response.on("error", () => {}); // the break is of our own making
    asked.destroy();
    // The test's time limit is the only clock.
    while ((await ask(`${name}-key`, { max_tokens: more, stop: ["a", "b", "c", "d"] })).status === 429) await new Promise((resolve) => setTimeout(resolve, 20));
  });
});
