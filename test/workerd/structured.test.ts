// Replies that must look like something, through the whole API over a random-weight model: JSON, schemas, grammars, calls of tools. Whatever such a
// model would say, what it says is what was asked for; a schema with one way is said as it is; and nothing of it depends on streaming, company or seed.

import { env, exports } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import { packToMemory } from "../support/pack-to-memory.ts";
import { tinyChatFiles } from "../support/tiny-chat.ts";
import { deploy, fleetEnv } from "./fleet-fixture.ts";

const PACK = "structured";
beforeAll(async () => {
  const files = tinyChatFiles(1024);
  const pack = await packToMemory(await openHuggingFace(new MemorySource(files), "tiny"), { id: PACK, contextLength: 1024 });
  for (const [name, bytes] of pack.files) await fleetEnv.PACKS!.put(`packs/${PACK}/${name}`, bytes);
  deploy({ packId: PACK, shards: 2 });
  Object.assign(env, { OPEN_ACCESS: "true" });
});

interface Reply {
  readonly choices: readonly { readonly text: string; readonly finish_reason: string; readonly message: { readonly content: string | null; readonly reasoning_content?: string; readonly tool_calls?: readonly { readonly function: { readonly name: string; readonly arguments: string } }[] } }[];
  readonly error?: { readonly message: string; readonly param: string | null; readonly code: string };
}
async function post(path: string, body: object): Promise<{ status: number; body: Reply }> {
  const response = await (exports as unknown as { default: Fetcher }).default.fetch(new Request(`https://edge${path}`, { method: "POST", body: JSON.stringify({ model: PACK, ...body }) }));
  return { status: response.status, body: await response.json<Reply>() };
}
const chat = async (body: object): Promise<Reply["choices"][number]> => {
  const reply = await post("/v1/chat/completions", { messages: [{ role: "user", content: "hello" }], max_tokens: 300, ...body });
  expect(reply.body.error?.message).toBeUndefined();
  return reply.body.choices[0]!;
};
/** Free strings of a random-weight model hardly ever end; short ones must. */
const POINT = { type: "object", properties: { label: { type: "string", maxLength: 4 }, x: { type: "integer", minimum: -9, maximum: 99 }, kind: { enum: ["a", "b"] } }, required: ["label", "x", "kind"], additionalProperties: false };
const formatOf = (schema: object, strict = true): object => ({ type: "json_schema", json_schema: { name: "reply", schema, strict } });
const requirePoint = (text: string): void => {
  const value = JSON.parse(text) as { label: string; x: number; kind: string };
  expect(Object.keys(value)).toEqual(["label", "x", "kind"]);
  expect(value.label.length <= 4 && Number.isInteger(value.x) && value.x >= -9 && value.x <= 99 && ["a", "b"].includes(value.kind)).toBe(true);
};

describe("response_format", () => {
  it.each([1, 2, 3])("json_schema is followed at any temperature, seed %i", async (seed) => {
    const { message, finish_reason } = await chat({ response_format: formatOf(POINT), temperature: 1.5, seed });
    expect(finish_reason).toBe("stop");
    requirePoint(message.content!);
  });

  it("with one way to say it is said that way, in a chat, a completion and a stream", async () => {
    const schema = { type: "object", properties: { answer: { const: "forty-two" }, sure: { const: true } }, required: ["answer", "sure"], additionalProperties: false };
    const text = '{"answer": "forty-two", "sure": true}';
    expect(await chat({ response_format: formatOf(schema) })).toMatchObject({ finish_reason: "stop", message: { content: text } });
    expect((await post("/v1/completions", { prompt: "abc", max_tokens: 100, response_format: formatOf(schema) })).body.choices[0]).toMatchObject({ text, finish_reason: "stop" });
    const response = await (exports as unknown as { default: Fetcher }).default.fetch(new Request("https://edge/v1/chat/completions", {
      method: "POST", body: JSON.stringify({ model: PACK, messages: [{ role: "user", content: "hi" }], response_format: formatOf(schema), stream: true, logprobs: true }),
    }));
    const chunks = (await response.text()).split("\n\n").flatMap((event) => event.split("\n")).filter((line) => line.startsWith("data: {")).map((line) => JSON.parse(line.slice(6)) as { choices: { delta: { content?: string }; finish_reason: string | null }[] });
    expect(chunks.map(({ choices }) => choices[0]?.delta.content ?? "").join("")).toBe(text);
    expect(chunks.at(-1)!.choices[0]!.finish_reason).toBe("stop");
  });

  it("is cut at max_tokens and says so", async () => {
    expect((await chat({ response_format: formatOf(POINT), max_tokens: 3 })).finish_reason).toBe("length");
  });

  it("json_object gives an object", async () => {
    const { message, finish_reason } = await chat({ response_format: { type: "json_object" }, temperature: 1, seed: 4, logit_bias: { [String((await tokensOf("}"))[0])]: 20 } });
    expect(finish_reason).toBe("stop");
    expect(typeof JSON.parse(message.content!)).toBe("object");
  });

  it("is the same beside others, each with a schema of its own", async () => {
    const bodies = [1, 2, 3, 4, 5].map((seed) => ({ response_format: seed % 2 === 0 ? formatOf(POINT) : formatOf({ type: "array", items: { type: "boolean" }, maxItems: 4 }), temperature: 1, seed }));
    const alone: (string | null)[] = [];
    for (const body of bodies) alone.push((await chat({ ...body, moe: { cache: false } })).message.content);
    expect((await Promise.all(bodies.map(chat))).map(({ message }) => message.content)).toEqual(alone);
  });

  it("waits for the end of a thought", async () => {
    const { message } = await chat({ response_format: formatOf(POINT), chat_template_kwargs: { enable_thinking: true }, logit_bias: Object.fromEntries((await tokensOf("</think>")).map((id) => [id, 6])), temperature: 0.7, seed: 9, max_tokens: 900 });
    expect(message.reasoning_content ?? "").not.toContain("</think>");
    if (message.content !== "" && message.content !== null) requirePoint(message.content.trim());
  });
});

const tokensOf = async (content: string): Promise<number[]> =>
  (await post("/tokenize", { content }) as unknown as { body: { tokens: number[] } }).body.tokens;

describe("grammar", () => {
  it("in GBNF is followed", async () => {
    const grammar = 'root ::= move (" " move)? "."\nmove ::= [a-h] [1-8] "-" [a-h] [1-8]';
    expect((await chat({ grammar, temperature: 1, seed: 2 })).message.content).toMatch(/^[a-h][1-8]-[a-h][1-8]( [a-h][1-8]-[a-h][1-8])?\.$/);
    expect((await post("/v1/completions", { prompt: "abc", max_tokens: 50, grammar, seed: 3 })).body.choices[0]!.text).toMatch(/^[a-h][1-8]-[a-h][1-8]( [a-h][1-8]-[a-h][1-8])?\.$/);
  });
});

describe("tools", () => {
  const tools = [
    { type: "function", function: { name: "add", parameters: { type: "object", properties: { a: { type: "integer", minimum: 0, maximum: 9 }, b: { type: "integer", minimum: 0, maximum: 9 } }, required: ["a", "b"], additionalProperties: false } } },
    { type: "function", function: { name: "stop", parameters: { type: "object", properties: {}, additionalProperties: false } } },
  ];

  it("are called when they must be, with arguments that fit", async () => {
    for (const seed of [1, 2, 3]) {
      const { message, finish_reason } = await chat({ tools, tool_choice: "required", parallel_tool_calls: false, temperature: 1, seed });
      expect(finish_reason).toBe("tool_calls");
      expect(message.tool_calls!.length).toBe(1);
      const [{ function: call }] = message.tool_calls! as [{ function: { name: string; arguments: string } }];
      const given = JSON.parse(call.arguments) as Record<string, number>;
      expect(["add", "stop"]).toContain(call.name);
      if (call.name === "add") expect(Object.keys(given).sort().join() === "a,b" && Object.values(given).every((value) => Number.isInteger(value) && value >= 0 && value <= 9)).toBe(true);
    }
  });

  it("together with log-probabilities, in a stream", async () => {
    const response = await (exports as unknown as { default: Fetcher }).default.fetch(new Request("https://edge/v1/chat/completions", {
      method: "POST", body: JSON.stringify({ model: PACK, messages: [{ role: "user", content: "hi" }], tools, tool_choice: { type: "function", function: { name: "stop" } }, logprobs: true, top_logprobs: 2, stream: true, max_tokens: 300 }),
    }));
    const chunks = (await response.text()).split("\n").filter((line) => line.startsWith("data: {")).map((line) => JSON.parse(line.slice(6)) as { choices: { delta: { tool_calls?: { function: { name?: string } }[] }; logprobs: { content: object[] } | null; finish_reason: string | null }[] });
    expect(chunks.flatMap(({ choices }) => choices[0]?.delta.tool_calls ?? []).map((call) => call.function.name).filter((name) => name !== undefined)).toEqual(["stop"]);
    expect(chunks.reduce((n, { choices }) => n + (choices[0]?.logprobs?.content.length ?? 0), 0)).toBeGreaterThan(10);
    expect(chunks.at(-1)!.choices[0]!.finish_reason).toBe("tool_calls");
  });

  it("by name alone when one is named", async () => {
    const { message } = await chat({ tools, tool_choice: { type: "function", function: { name: "stop" } }, temperature: 1, seed: 5 });
    expect(message.tool_calls!.map((call) => [call.function.name, JSON.parse(call.function.arguments)])).toEqual([["stop", {}]]);
  });

  it("are not called where they must not be", async () => {
    const { message } = await chat({ tools, tool_choice: "none", max_tokens: 20 });
    expect(message.tool_calls).toBeUndefined();
  });
});

describe("refusals", () => {
  const cases: readonly [object, RegExp, string | null][] = [
    [{ response_format: { type: "xml" } }, /expected \{"type": "text"\}/, "response_format.type"],
    [{ response_format: { type: "json_schema" } }, /response_format.json_schema` is missing/, "response_format.json_schema"],
    [{ response_format: formatOf({ type: "objekt" }) }, /JSON schema cannot be used: Unsupported type "objekt"/, null],
    [{ response_format: formatOf({ $ref: "#/nowhere" }) }, /Cannot find field nowhere/, null],
    [{ grammar: "root ::= a" }, /Rule "a" is not defined/, null],
    [{ grammar: 'root ::= "a"', response_format: { type: "json_object" } }, /expected one of them/, "grammar"],
    [{ tool_choice: "required" }, /there are no `tools`/, "tool_choice"],
    [{ tools: [{ type: "function", function: { name: "f" } }], tool_choice: { type: "function", function: { name: "g" } } }, /names the function "g", which is not among `tools` \(f\)/, "tool_choice"],
    [{ tools: [{ type: "function", function: { name: "f" } }], tool_choice: "maybe" }, /expected "none", "auto", "required"/, "tool_choice"],
    [{ tools: [{ type: "function", function: { name: "f" } }], tool_choice: "required", response_format: { type: "json_object" } }, /expected one of them/, "tool_choice"],
  ];
  it.each(cases)("%o", async (body, message, param) => {
    const reply = await post("/v1/chat/completions", { messages: [{ role: "user", content: "hello" }], max_tokens: 20, ...body });
    expect(reply.status, JSON.stringify(reply.body)).toBe(400);
    expect(reply.body.error!.message).toMatch(message);
    expect(reply.body.error!.param).toBe(param);
  });
});
