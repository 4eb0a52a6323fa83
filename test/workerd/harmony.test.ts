// Replies in channels held to formats, through the whole API over a random-weight gpt-oss: thoughts are free, the final channel is what was asked for, a call
// has arguments that fit. The control tokens between them come where Harmony has them, and nowhere else.

import { env, exports } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import { packToMemory } from "../support/pack-to-memory.ts";
import { harmonyId, tinyHarmonyFiles } from "../support/tiny-harmony.ts";
import { deploy, fleetEnv } from "./fleet-fixture.ts";

const PACK = "harmony";
beforeAll(async () => {
  const pack = await packToMemory(await openHuggingFace(new MemorySource(tinyHarmonyFiles(2048)), "tiny"), { id: PACK, contextLength: 2048 });
  for (const [name, bytes] of pack.files) await fleetEnv.PACKS!.put(`packs/${PACK}/${name}`, bytes);
  deploy({ packId: PACK, shards: 2 });
  Object.assign(env, { OPEN_ACCESS: "true" });
});

interface Message { readonly content: string | null; readonly reasoning_content?: string; readonly tool_calls?: readonly { readonly function: { readonly name: string; readonly arguments: string } }[] }
interface Choice { readonly finish_reason: string; readonly message: Message; readonly text?: string }
const letterId = (letter: string): number => (letter === " " ? 2 : letter.charCodeAt(0) - 30);
/** Ends thoughts, which a random model never would, and has some of them: "analysis" made about as likely as "final". */
const ENDS = { [harmonyId("<|end|>")]: 5, [letterId("a")]: 2 };

async function post(path: string, body: object): Promise<{ choices: Choice[]; error?: { message: string } }> {
  const response = await (exports as unknown as { default: Fetcher }).default.fetch(new Request(`https://edge${path}`, { method: "POST", body: JSON.stringify({ model: PACK, ...body }) }));
  return response.json();
}
const chat = async (body: object): Promise<Choice> => {
  const reply = await post("/v1/chat/completions", { messages: [{ role: "user", content: "hello" }], max_tokens: 700, temperature: 1, logit_bias: ENDS, ...body });
  expect(reply.error?.message).toBeUndefined();
  return reply.choices[0]!;
};
const formatOf = (schema: object): object => ({ type: "json_schema", json_schema: { name: "reply", schema, strict: true } });
const POINT = { type: "object", properties: { label: { type: "string", maxLength: 4 }, x: { type: "integer", minimum: -9, maximum: 99 }, kind: { enum: ["a", "b"] } }, required: ["label", "x", "kind"], additionalProperties: false };
const MARKS = /<\||\uFFFD/;

describe("response_format", () => {
  it("holds the final channel to the schema, after thoughts or without", async () => {
    const thoughts: string[] = [];
    for (let seed = 1; seed <= 12; seed++) {
      const { message, finish_reason } = await chat({ response_format: formatOf(POINT), seed, logit_bias: { ...ENDS, [harmonyId("<|end|>")]: 4 } });
      expect(finish_reason).toBe("stop");
      const value = JSON.parse(message.content!) as { label: string; x: number; kind: string };
      expect(Object.keys(value)).toEqual(["label", "x", "kind"]);
      expect(value.label.length <= 4 && value.x >= -9 && value.x <= 99 && ["a", "b"].includes(value.kind)).toBe(true);
      if (message.reasoning_content !== undefined) thoughts.push(message.reasoning_content);
      expect(message.content).not.toMatch(MARKS);
    }
    expect([thoughts.length > 2, thoughts.length < 12]).toEqual([true, true]);
    for (const thought of thoughts.filter((text) => text.length > 5)) expect(() => JSON.parse(thought) as unknown).toThrow();
    expect(thoughts.some((text) => text.length > 5)).toBe(true);
  });

  it("with one way to say it is said that way, also where every other token is far likelier", async () => {
    const schema = { type: "object", properties: { answer: { const: "forty-two" }, sure: { const: true } }, required: ["answer", "sure"], additionalProperties: false };
    for (const seed of [1, 2, 3]) expect(await chat({ response_format: formatOf(schema), seed })).toMatchObject({ finish_reason: "stop", message: { content: '{"answer": "forty-two", "sure": true}' } });
    const unlikely = Object.fromEntries([...[..."forty-two"].map((letter) => [letterId(letter), -60]), [letterId("a"), -100]]);
    expect((await chat({ response_format: formatOf(schema), logit_bias: unlikely, temperature: 0 })).message.content).toBe('{"answer": "forty-two", "sure": true}');
  });

  it("cut in a thought or between messages says nothing of it in the answer", async () => {
    for (const max_tokens of [4, 12, 16, 18, 20, 24]) {
      const { message, finish_reason } = await chat({ response_format: formatOf(POINT), max_tokens, temperature: 0, logit_bias: { [harmonyId("<|end|>")]: 90, [letterId("a")]: 80 } });
      expect([finish_reason, message.content ?? ""]).toEqual(["length", ""]);
    }
  });

  it("json_object and a grammar too, and streamed", async () => {
    expect(typeof JSON.parse((await chat({ response_format: { type: "json_object" }, seed: 4, logit_bias: { ...ENDS, [letterId("}")]: 20 } })).message.content!)).toBe("object");
    expect((await chat({ grammar: 'root ::= [a-h] [1-8] "-" [a-h] [1-8]', seed: 2 })).message.content).toMatch(/^[a-h][1-8]-[a-h][1-8]$/);
    const response = await (exports as unknown as { default: Fetcher }).default.fetch(new Request("https://edge/v1/chat/completions", {
      method: "POST", body: JSON.stringify({ model: PACK, messages: [{ role: "user", content: "hi" }], response_format: formatOf(POINT), stream: true, seed: 3, logit_bias: ENDS, max_tokens: 700 }),
    }));
    const chunks = (await response.text()).split("\n").filter((line) => line.startsWith("data: {")).map((line) => JSON.parse(line.slice(6)) as { choices: { delta: { content?: string } }[] });
    expect(Object.keys(JSON.parse(chunks.map(({ choices }) => choices[0]?.delta.content ?? "").join("")) as object)).toEqual(["label", "x", "kind"]);
  });
});

describe("tools", () => {
  const digit = { type: "integer", minimum: 0, maximum: 9 };
  const tools = [
    { type: "function", function: { name: "add", parameters: { type: "object", properties: { a: digit, b: digit }, required: ["a", "b"], additionalProperties: false } } },
    { type: "function", function: { name: "add_all", parameters: { type: "object", properties: { of: { type: "array", items: digit, maxItems: 3 } }, required: ["of"], additionalProperties: false } } },
  ];
  const requireCall = ({ name, arguments: text }: { name: string; arguments: string }): void => {
    const given = JSON.parse(text) as Record<string, unknown>;
    const numbers = name === "add" ? [given.a, given.b] : (given.of as unknown[]);
    expect(Object.keys(given)).toEqual(name === "add" ? ["a", "b"] : ["of"]);
    expect(numbers.every((value) => Number.isInteger(value) && (value as number) >= 0 && (value as number) <= 9)).toBe(true);
  };

  it("are called when they must be, once, with arguments that fit", async () => {
    const names = new Set<string>();
    for (let seed = 1; seed <= 6; seed++) {
      const { message, finish_reason } = await chat({ tools, tool_choice: "required", seed });
      expect(finish_reason).toBe("tool_calls");
      expect(message.tool_calls!.length).toBe(1);
      requireCall(message.tool_calls![0]!.function);
      expect(message.content ?? "").toBe("");
      names.add(message.tool_calls![0]!.function.name);
    }
    expect([...names].sort()).toEqual(["add", "add_all"]);
  });

  it("by name alone when one is named", async () => {
    for (const seed of [1, 2, 3]) {
      const { message } = await chat({ tools, tool_choice: { type: "function", function: { name: "add" } }, seed });
      expect(message.tool_calls!.map((call) => call.function.name)).toEqual(["add"]);
      requireCall(message.tool_calls![0]!.function);
    }
  });

  it("are called or not where they may be, and a call fits", async () => {
    let [calls, answers] = [0, 0];
    for (let seed = 1; seed <= 8; seed++) {
      const { message } = await chat({ tools, seed, logit_bias: { ...ENDS, [harmonyId("<|return|>")]: 6, [letterId(" ")]: 4 } });
      for (const call of message.tool_calls ?? []) requireCall(call.function);
      if (message.tool_calls === undefined) answers++;
      else calls++;
      expect(message.content ?? "").not.toMatch(MARKS);
    }
    expect([calls > 0, answers > 0]).toEqual([true, true]);
  });

  it("and a format of the answer that forbids them exclude each other", async () => {
    expect((await post("/v1/chat/completions", { messages: [{ role: "user", content: "hi" }], tools, tool_choice: "required", response_format: { type: "json_object" } })).error!.message).toMatch(/expected one of them/);
  });
});

it("a grammar of the request cannot spell control tokens", async () => {
  for (const path of ["/v1/chat/completions", "/v1/completions"]) {
    const body = { prompt: "a", messages: [{ role: "user", content: "hi" }] };
    const { error } = await post(path, { ...(path.includes("chat") ? { messages: body.messages } : { prompt: body.prompt }), grammar: 'root ::= "\\UFFFFFFF8" "x"' });
    expect(error!.message).toMatch(/names the code point \\UFFFFFFF8; expected/);
  }
});
