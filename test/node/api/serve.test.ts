// `workers-moe serve` as a user has it: real sockets, wrangler dev, workerd, four shards. What only this stack can show: keys from the environment,
// readers that hang up, an event loop that stays responsive during a generation, ports, signals.

import { existsSync, readdirSync } from "node:fs";
import { request } from "node:http";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ROOT } from "../../../cli/setup.mjs";
import { LONG_CONTEXT, run, startServe, writeTinyPack, type Serving } from "../../support/serve.ts";

const KEY = "test-key";
const ADMIN_KEY = "test-admin-key";
const adminHeaders = { "Authorization": `Bearer ${ADMIN_KEY}` };
const headers = { "Authorization": `Bearer ${KEY}`, "Content-Type": "application/json" };
let pack: { folder: string; remove: () => void };
let server: Serving;

beforeAll(async () => {
  pack = await writeTinyPack();
  server = await startServe(pack.folder, { API_KEYS: `other, ${KEY}`, ADMIN_KEYS: ADMIN_KEY });
});
afterAll(async () => {
  await server?.stop();
  pack?.remove();
});

const ask = (body: object, signal?: AbortSignal): Promise<Response> => fetch(`${server.url}/v1/completions`, {
  method: "POST", headers, body: JSON.stringify({ model: "tiny", prompt: "abc", temperature: 1, seed: 1, ...body }), ...(signal === undefined ? {} : { signal }),
});
interface Fleet { status: string; generations: { active: number; queued: number; cancelled: number } }
const fleet = async (): Promise<Fleet> => (await fetch(`${server.url}/v1/fleet`, { headers: adminHeaders })).json() as Promise<Fleet>;
/** Asks until the condition holds; the test's time limit is the only clock. */
async function until(holds: (fleet: Fleet) => boolean): Promise<Fleet> {
  for (;;) {
    const found = await fleet();
    if (holds(found)) return found;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

describe("serve", () => {
  it("is ready when it says so, and served with the keys of the environment only", async () => {
    expect(server.output()).toContain("API_KEYS and ADMIN_KEYS are set");
    expect((await fetch(`${server.url}/health`, { headers })).status).toBe(200);
    expect((await fetch(`${server.url}/health`)).status).toBe(401);
    expect((await fetch(`${server.url}/`)).headers.get("Content-Type")).toMatch(/^text\/html/);
  });

  it("streams tokens as they come, and answers others meanwhile", async () => {
    const response = await ask({ max_tokens: LONG_CONTEXT - 3, stream: true });
    const reader = response.body!.getReader();
    await reader.read();
    // A loop that never lets the runtime look at its sockets would answer this only when the generation is over.
    expect((await fleet()).generations.active).toBe(1);
    await reader.cancel();
    await until(({ generations }) => generations.active === 0);
  });

  it("ends the generation of a reader that leaves a stream, and nobody else's", async () => {
    const before = (await fleet()).generations.cancelled;
    const expected = await (await ask({ max_tokens: 200 })).json() as { choices: { text: string }[] };
    const leaving = await ask({ max_tokens: LONG_CONTEXT - 3, stream: true });
    const staying = ask({ max_tokens: 200 });
    const reader = leaving.body!.getReader();
    await reader.read();
    await reader.cancel();
    await until(({ generations }) => generations.cancelled === before + 1);
    expect(((await (await staying).json()) as typeof expected).choices[0]!.text).toBe(expected.choices[0]!.text);
  });

  it("ends the generation of a reader that leaves a reply that is not streamed", async () => {
    const before = (await fleet()).generations.cancelled;
    // node:http, because fetch keeps the connection of an aborted reply open until more of it comes.
    await new Promise<void>((left, failed) => {
      const asked = request(`${server.url}/v1/completions`, { method: "POST", headers }, (response) => {
        response.once("data", () => {
          response.on("error", () => {}); // the break is of our own making
          asked.destroy();
          left();
        });
      });
      asked.on("error", failed);
      asked.end(JSON.stringify({ model: "tiny", prompt: "abc", max_tokens: LONG_CONTEXT - 3 }));
    });
    const after = await until(({ generations }) => generations.active === 0);
    expect(after.generations.cancelled).toBe(before + 1);
  });

  it("says which port is taken and how to choose another", async () => {
    const port = new URL(server.url).port;
    const { output, exit } = run(["serve", pack.folder, "--port", port]);
    expect(await exit).toBe(1);
    expect(output()).toContain(`Port ${port} is taken by another program. Choose another: \`PORT=${Number(port) + 1} npm start\``);
  });

  it("ends cleanly when told to, and leaves no folder behind", async () => {
    const other = await startServe(pack.folder);
    expect(other.output()).toContain("Open access");
    // Its own among those of servers that other tests start and stop meanwhile.
    const state = `state-${new URL(other.url).port}`;
    const folders = (): string[] => readdirSync(join(ROOT, "build")).filter((name) => name.startsWith("serve-") && existsSync(join(ROOT, "build", name, state)));
    expect(folders()).toHaveLength(1);
    expect(await other.stop()).toBe(0);
    expect(folders()).toEqual([]);
  });
});

describe("serve --processes 3", () => {
  it("gives the same text from shards in two processes of their own, and ends with all of them", async () => {
    const apart = await startServe(pack.folder, { API_KEYS: KEY, ADMIN_KEYS: ADMIN_KEY }, ["--processes", "3"]);
    try {
      const text = async (url: string): Promise<string> => {
        const response = await fetch(`${url}/v1/completions`, { method: "POST", headers, body: JSON.stringify({ model: "tiny", prompt: "abcdefgh".repeat(40), temperature: 1, seed: 4, max_tokens: 30 }) });
        return ((await response.json()) as { choices: { text: string }[] }).choices[0]!.text;
      };
      expect(await text(apart.url)).toBe(await text(server.url));
      const objects = async (url: string): Promise<number> => ((await (await fetch(`${url}/v1/fleet`, { headers: adminHeaders })).json()) as { isolate: { objects: string[] } }).isolate.objects.length;
      expect([await objects(apart.url), await objects(server.url)]).toEqual([1, 5]); // the orchestrator alone; with four shards
    } finally {
      expect(await apart.stop()).toBe(0);
    }
    await expect(fetch(apart.url)).rejects.toThrow();
  });
});
