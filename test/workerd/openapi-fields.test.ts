// Fields of requests that no other test of the API puts to use: what goes into the template, the ends of sampling, and what a response repeats or refuses.

import { env, exports } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import { packToMemory } from "../support/pack-to-memory.ts";
import { tinyChatFiles } from "../support/tiny-chat.ts";
import { deploy, fleetEnv } from "./fleet-fixture.ts";

const PACK = "fields";
/** Writes whatever it is given. */
const TEMPLATE =
  "{% for m in messages %}<{{ m.role }} {{ m.name or '' }}>{{ m.content }}[{{ m.reasoning_content or '' }}]({{ m.tool_call_id or '' }}){% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}{% endfor %}" +
  "{% for d in documents or [] %}{{ d.text }}{% endfor %}|{{ reasoning_effort or '' }}|{{ mood or '' }}|{{ strftime_now('%Y-%m-%d') }}|{% for t in tools or [] %}{{ t.function.name }}{% endfor %}|{% if enable_thinking %}<think>{% endif %}{# </think> #}";
beforeAll(async () => {
  const files = tinyChatFiles(512);
  const edit = (name: string, more: object): void =>
    void files.set(name, new TextEncoder().encode(JSON.stringify({ ...(JSON.parse(new TextDecoder().decode(files.get(name))) as object), ...more })));
  edit("tokenizer_config.json", { chat_template: TEMPLATE, add_bos_token: true, bos_token: "<|endoftext|>" });
  edit("config.json", { bos_token_id: 0 });
  const pack = await packToMemory(await openHuggingFace(new MemorySource(files), "tiny"), { id: PACK, contextLength: 512 });
  for (const [name, bytes] of pack.files) await fleetEnv.PACKS!.put(`packs/${PACK}/${name}`, bytes);
  deploy({ packId: PACK, shards: 2 });
  Object.assign(env, { OPEN_ACCESS: "true" });
});

interface Reply { readonly [key: string]: unknown; readonly choices: { text: string }[]; readonly content: object[]; readonly usage: { completion_tokens: number } }
const post = (path: string, body: object): Promise<Response> => (exports as unknown as { default: Fetcher }).default.fetch(new Request(`https://edge${path}`, { method: "POST", body: JSON.stringify({ model: PACK, ...body }) }));
async function answer(path: string, body: object): Promise<Reply> {
  const response = await post(path, body);
  const text = await response.text();
  expect(response.status, text).toBe(200);
  return JSON.parse(text) as Reply;
}
const user = { role: "user", content: "hi" };
const tool = { type: "function", function: { name: "look" } };

describe("the template is given", () => {
  const prompt = async (body: object): Promise<unknown> => (await answer("/apply-template", { messages: [user], moe: { date: "2026-11-05" }, ...body }))["prompt"];
  const plain = "<user >hi[]()||";
  it("names, thoughts, calls and the ids of their results", async () => {
    expect(await prompt({ messages: [
      { ...user, name: "ann" }, { role: "assistant", content: null, reasoning_content: "well", tool_calls: [{ id: "c1", type: "function", function: { name: "look", arguments: "{}" } }] }, { role: "tool", content: "1", tool_call_id: "c1" },
    ] })).toBe("<user ann>hi[]()<assistant >[well](){\"name\": \"look\", \"arguments\": {}}<tool >1[](c1)|||2026-11-05||");
  });
  it.each([
    ["documents", { documents: [{ text: "page" }] }, "<user >hi[]()page|||2026-11-05||"],
    ["the effort", { reasoning_effort: "low" }, `${plain.slice(0, -1)}low||2026-11-05||`],
    ["more variables", { chat_template_kwargs: { mood: "calm", enable_thinking: true } }, `${plain}calm|2026-11-05||<think>`],
    ["tools", { tools: [tool] }, `${plain}|2026-11-05|look|`],
    ["no tools where none may be called", { tools: [tool], tool_choice: "none" }, `${plain}|2026-11-05||`],
  ])("%s", async (_, body, expected) => {
    expect(await prompt(body)).toBe(expected);
  });
  it("the day of the request, where it names none", async () => {
    const day = (): string => `${plain}|${new Date().toISOString().slice(0, 10)}||`;
    const [before, given, after] = [day(), await prompt({ moe: {} }), day()];
    expect([before, after]).toContain(given); // midnight may pass
  });
  it("whether to think, as Anthropic's clients say it", async () => {
    const count = async (thinking?: object): Promise<number> => Number((await answer("/v1/messages/count_tokens", { messages: [user], ...(thinking === undefined ? {} : { thinking }) }))["input_tokens"]);
    const without = await count();
    expect([await count({ type: "enabled", budget_tokens: 1024 }) > without, await count({ type: "disabled" }), await count({ type: "adaptive" })]).toEqual([true, without, without]);
  });
});

it("add_special puts the first token before a text", async () => {
  const tokens = async (more: object): Promise<unknown> => (await answer("/tokenize", { content: "ab", ...more }))["tokens"];
  const plain = await tokens({});
  expect(plain).toHaveLength(2);
  expect([await tokens({ add_special: false }), await tokens({ add_special: true })]).toEqual([plain, [0, ...(plain as number[])]]);
  expect(await answer("/detokenize", { tokens: plain })).toEqual({ content: "ab" });
});

describe("sampling", () => {
  const hot = { prompt: "abc", max_tokens: 12, temperature: 2, seed: 3 };
  it.each([["top_p", 1e-9], ["min_p", 1], ["top_k", 1]])("with %s of %d is greedy at any temperature", async (field, value) => {
    const greedy = (await answer("/v1/completions", { ...hot, temperature: 0 })).choices[0]!.text;
    expect((await answer("/v1/completions", { ...hot, [field]: value })).choices[0]!.text).toBe(greedy);
    expect((await answer("/v1/completions", hot)).choices[0]!.text).not.toBe(greedy);
  });
  it("of a message takes the same, and top_p of 0", async () => {
    const message = { messages: [user], max_tokens: 12, temperature: 2 };
    const { content } = await answer("/v1/messages", { ...message, temperature: 0 });
    for (const more of [{ top_k: 1 }, { top_p: 0 }]) expect((await answer("/v1/messages", { ...message, ...more })).content).toEqual(content);
  });
});

describe("a response", () => {
  const ask = { input: "hi", max_output_tokens: 4 };
  it("repeats what it was asked with, and that nothing is stored", async () => {
    const settings = { instructions: "be brief", metadata: { a: "b" }, temperature: 0.5, top_p: 0.9, parallel_tool_calls: false, tool_choice: "none" };
    expect(await answer("/v1/responses", { ...ask, ...settings, store: true, reasoning: { effort: "low" } })).toMatchObject({ ...settings, max_output_tokens: 4, store: false, previous_response_id: null, reasoning: { effort: "low" } });
  });
  it.each([["previous_response_id", "resp_1"], ["conversation", "conv_1"], ["background", true]])("refuses %s", async (field, value) => {
    const response = await post("/v1/responses", { ...ask, [field]: value });
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ error: { param: field, code: "unsupported_parameter" } });
    expect((await post("/v1/responses", { ...ask, [field]: null })).status).toBe(200);
  });
});
