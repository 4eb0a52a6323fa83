// Streams that drop: whatever event a reader stopped at, the same request with its Last-Event-ID goes on with the next one, and nothing is lost or said
// twice: at every event, in every API, with reasoning and calls of tools, while the orchestrator stays and after it has restarted.

import { runInDurableObject } from "cloudflare:test";
import { env, exports } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import { packToMemory } from "../support/pack-to-memory.ts";
import { tinyChatFiles } from "../support/tiny-chat.ts";
import { deploy, fleetEnv, orchestrator } from "./fleet-fixture.ts";

const PACK = "resume";
beforeAll(async () => {
  const pack = await packToMemory(await openHuggingFace(new MemorySource(tinyChatFiles(512)), "tiny"), { id: PACK, contextLength: 512 });
  for (const [name, bytes] of pack.files) await fleetEnv.PACKS!.put(`packs/${PACK}/${name}`, bytes);
  deploy({ packId: PACK, shards: 2 });
  Object.assign(env, { OPEN_ACCESS: "true" });
});

interface SentEvent { readonly id: string; readonly text: string }
const post = (path: string, body: object, lastEventId: string | null): Promise<Response> => (exports as unknown as { default: Fetcher }).default.fetch(new Request(`https://edge${path}`, {
  method: "POST", body: JSON.stringify({ model: PACK, stream: true, ...body }), headers: lastEventId === null ? {} : { "Last-Event-ID": lastEventId },
}));
/** What a reply cost is not part of it: a resumed one costs less. */
const withoutCosts = (text: string): string => text.replace(/"moe":\{"seed":(-?\d+)[^}]*\}/g, '"moe":{"seed":$1}').replace(/,"frames":\[\[.*?\]\]/g, "").replace(/"cached_tokens":\d+/g, "").replace(/"cache_read_input_tokens":\d+/g, "").replace(/"input_tokens":\d+/g, "");
const eventsOf = (text: string): SentEvent[] => text.split("\n\n").filter((block) => block !== "").map((block) => ({ id: /^id: (.*)$/m.exec(block)?.[1] ?? "", text: withoutCosts(block) }));
async function all(path: string, body: object, lastEventId: string | null = null): Promise<SentEvent[]> {
  const response = await post(path, body, lastEventId);
  const text = await response.text();
  expect(response.status, text).toBe(200);
  return eventsOf(text);
}

const POINT = { type: "object", properties: { x: { type: "integer", minimum: 0, maximum: 9 } }, required: ["x"], additionalProperties: false };
const say = [{ role: "user", content: "hello" }];
const tool = { type: "function", function: { name: "locate", parameters: POINT } };
const REQUESTS: readonly (readonly [string, string, object])[] = [
  ["a completion", "/v1/completions", { prompt: "abc", max_tokens: 9, temperature: 1.2 }],
  ["a chat with usage", "/v1/chat/completions", { messages: say, max_tokens: 9, temperature: 1.2, seed: 5, stream_options: { include_usage: true } }],
  ["a chat with log-probabilities and experts", "/v1/chat/completions", { messages: say, max_tokens: 6, logprobs: true, top_logprobs: 2, moe: { trace: true } }],
  ["a call of a tool", "/v1/chat/completions", { messages: say, max_tokens: 200, tools: [tool], tool_choice: "required", parallel_tool_calls: false }],
  ["Anthropic's message", "/v1/messages", { messages: say, max_tokens: 9 }],
  ["a response", "/v1/responses", { input: "hello", max_output_tokens: 9 }],
];

describe.each(REQUESTS)("%s", (_, path, body) => {
  it("goes on from every event", async () => {
    const whole = await all(path, body);
    expect(new Set(whole.map(({ id }) => id)).size).toBe(whole.length);
    expect(whole.length).toBeGreaterThan(3);
    for (let n = 0; n < whole.length; n++) expect(await all(path, body, whole[n]!.id), `after event ${n + 1} of ${whole.length}`).toEqual(whole.slice(n + 1));
  });

  it("goes on where its reader left in the middle, and after the orchestrator restarted", async () => {
    const response = await post(path, body, null);
    const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    while (eventsOf(text.slice(0, text.lastIndexOf("\n\n") + 2)).length < 4) text += (await reader.read()).value!;
    await reader.cancel();
    const read = eventsOf(text.slice(0, text.lastIndexOf("\n\n") + 2));
    const rest = await all(path, body, read.at(-1)!.id);
    await runInDurableObject(orchestrator(PACK), (_, state) => { state.abort("the test pulls the plug"); }).catch(() => undefined);
    const again = await all(path, body, read.at(-1)!.id);
    expect(again).toEqual(rest);
    expect((await all(path, body, read[0]!.id)).slice(read.length - 1)).toEqual(rest);
  });
});

describe("the journal", () => {
  it("spares the evaluation of what was said, for the caller who heard it", async () => {
    const body = { prompt: "abcdef", max_tokens: 60, temperature: 1, moe: { cache: false } };
    const steps = async (lastEventId: string | null): Promise<{ steps: number; ids: string[] }> => {
      const response = await post("/v1/completions", body, lastEventId);
      const text = await response.text();
      return { steps: Number(/"steps":(\d+)/.exec(text)![1]), ids: eventsOf(text).map(({ id }) => id) };
    };
    const first = await steps(null);
    const resumed = await steps(first.ids[40]!);
    expect(first.steps).toBeGreaterThan(30);
    expect(resumed.steps).toBeLessThan(first.steps / 2);
  });

  it("knows a reply by its request as well: another one under its id says what it would have said anyway", async () => {
    const first = await all("/v1/completions", { prompt: "abc", max_tokens: 40, temperature: 1 });
    const [id, created, seed] = first.at(-1)!.id.split(".");
    const other = { prompt: "zyx", max_tokens: 30, temperature: 1 };
    const contentOf = (events: readonly SentEvent[]): string[] => events.map(({ text }) => /"text":("[^"]*")/.exec(text)?.[1] ?? "");
    expect(contentOf(await all("/v1/completions", other, `${id}.${created}.${seed}.0`))).toEqual(contentOf(await all("/v1/completions", { ...other, seed: Number(seed) })));
  });

  it("goes on rightly for two who continue one stream at once, and for one who was told more events than there are", async () => {
    const body = { prompt: "abcd", max_tokens: 40, temperature: 1 };
    const whole = await all("/v1/completions", body);
    const rests = await Promise.all([5, 20, 20].map((n) => all("/v1/completions", body, whole[n]!.id)));
    expect(rests).toEqual([whole.slice(6), whole.slice(21), whole.slice(21)]);
    expect(await all("/v1/completions", body, whole[0]!.id.replace(/\.\d+$/, ".999999999"))).toEqual([]);
  });

  it("is swept when nobody will continue it any more", async () => {
    await all("/v1/completions", { prompt: "abc", max_tokens: 20 });
    const kept = await runInDurableObject(orchestrator(PACK), async (_, state) => (await state.storage.list({ prefix: "reply:" })).size);
    expect(kept).toBeGreaterThan(0);
    const left = await runInDurableObject(orchestrator(PACK), async (instance, state) => {
      const entries = await state.storage.list<{ ids: Uint32Array; atMs: number }>({ prefix: "reply:" });
      for (const [key, entry] of entries) await state.storage.put(key, { ...entry, atMs: 0 });
      await (instance as unknown as { alarm(): Promise<void> }).alarm();
      return (await state.storage.list({ prefix: "reply:" })).size;
    });
    expect(left).toBe(0);
  });
});

describe("ids that mean nothing", () => {
  it("of another API's replies", async () => {
    const response = await post("/v1/completions", { prompt: "abc", max_tokens: 3 }, `msg_${"0".repeat(32)}.1234567890.1.1`);
    expect([response.status, (await response.json<{ error: { code: string } }>()).error.code]).toEqual([400, "invalid_event_id"]);
  });

  it.each(["hello", "cmpl-1.2.3.4", "", `chatcmpl-${"0".repeat(32)}.1234567890.1.x`,
    `cmpl-${"0".repeat(32)}.1234567890.1.-1`, `cmpl-${"0".repeat(32)}.1234567890.9999999999999999.1`, `cmpl-${"0".repeat(32)}.1234567890.1.9999999999`])("%o is refused", async (id) => {
    const response = await post("/v1/completions", { prompt: "abc", max_tokens: 3 }, id);
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ error: { code: "invalid_event_id", message: expect.stringContaining("expected the id of an event") } });
  });

  it("and a position in a reply that has none is refused", async () => {
    const [first] = await all("/v1/completions", { prompt: "abc", max_tokens: 3 });
    for (const more of [{ stream: false }, { n: 2 }]) expect((await post("/v1/completions", { prompt: "abc", max_tokens: 3, ...more }, first!.id)).status).toBe(400);
  });
});
