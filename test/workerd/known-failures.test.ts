// What people report of other servers, as tests of this one. Each group names the report: items 10 to 13 of the reasons this server exists, with project and
// number. The orchestrator is the real one where the fleet matters, and one that says a given text where the text does.

import { createExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import type { GenerateEvent } from "../../durable/generate.ts";
import { createReplyParser, type ReplyPart } from "../../model/reply-parser.ts";
import type { Tokenizer } from "../../model/tokenizer.ts";
import worker, { type EdgeEnv } from "../../worker/index.ts";
import { packToMemory } from "../support/pack-to-memory.ts";
import { tinyChatFiles } from "../support/tiny-chat.ts";
import { tinyModel } from "../support/tiny-models.ts";
import { deploy, fleetEnv } from "./fleet-fixture.ts";

const edgeEnv = env as unknown as EdgeEnv;
const encoder = new TextEncoder();
async function putPack(id: string, files: Map<string, Uint8Array>, edit: (manifest: Record<string, unknown>) => object = (manifest) => manifest): Promise<void> {
  const pack = await packToMemory(await openHuggingFace(new MemorySource(files), "tiny"), { id, contextLength: 512 });
  for (const [name, bytes] of pack.files) {
    const edited = name === "manifest.json" ? encoder.encode(JSON.stringify(edit(JSON.parse(new TextDecoder().decode(bytes)) as Record<string, unknown>))) : bytes;
    await fleetEnv.PACKS!.put(`packs/${id}/${name}`, edited);
  }
}
const CHAT_PACK = "known-failures";
beforeAll(async () => {
  await putPack(CHAT_PACK, tinyChatFiles(512));
  deploy({ packId: CHAT_PACK, shards: 2 });
});
afterEach(() => vi.restoreAllMocks());

type Json = { readonly [key: string]: unknown };
const send = (path: string, body: object | null, settings: object = {}): Promise<Response> => Promise.resolve(worker.fetch(
  new Request(`https://edge${path}`, body === null ? {} : { method: "POST", body: JSON.stringify({ model: edgeEnv.PACK_ID, ...body }) }), { ...edgeEnv, OPEN_ACCESS: "true", ...settings } as unknown as EdgeEnv, createExecutionContext()));
async function answer<T = Json>(path: string, body: object, settings: object = {}): Promise<T> {
  const response = await send(path, body, settings);
  const text = await response.text();
  expect(response.status, text).toBe(200);
  return JSON.parse(text) as T;
}
/** Documents of a stream's events. */
async function eventsOf<T>(path: string, body: object, settings: object = {}): Promise<T[]> {
  const response = await send(path, { ...body, stream: true }, settings);
  const text = await response.text();
  expect(response.status, text).toBe(200);
  return [...text.matchAll(/^data: (\{.*)$/gm)].map(([, data]) => JSON.parse(data!) as T);
}

const lineOf = (event: GenerateEvent): Uint8Array => encoder.encode(`${JSON.stringify(event)}\n`);
/** An orchestrator that says this text, one character a token, and ends as it is told. */
async function saying(text: string, reason: "stop" | "length" = "stop"): Promise<{ settings: object; bytes: number }> {
  const { tokens } = await answer<{ tokens: number[] }>("/tokenize", { content: text });
  const lines = [...tokens.map((id, index): GenerateEvent => ({ type: "token", index, id, logprob: -1, top: [] })),
    { type: "end", reason, stopId: null, promptTokens: 3, cachedTokens: 0, completionTokens: tokens.length, moe: { steps: 1, frames: 0, bytes: 0, retries: 0, hedges: 0 }, timings: { queueMs: 0, promptMs: 1, completionMs: 2 } } satisfies GenerateEvent].map(lineOf);
  const fetch = async (): Promise<Response> => {
    let next = 0;
    return new Response(new ReadableStream({ pull(sink) { if (next < lines.length) sink.enqueue(lines[next++]!); else sink.close(); } }, { highWaterMark: 0 }));
  };
  return { settings: { ORCHESTRATOR: { getByName: () => ({ fetch }) } }, bytes: lines.reduce((sum, { length }) => sum + length, 0) };
}

interface Chunk {
  readonly choices: readonly {
    readonly index: number; readonly text?: string; readonly finish_reason: string | null; readonly logprobs: { readonly content?: readonly object[]; readonly tokens?: readonly string[] } | null;
    readonly delta?: { readonly content?: string; readonly tool_calls?: readonly { readonly index: number; readonly id?: string; readonly function: { readonly name?: string; readonly arguments: string } }[] };
  }[];
  readonly usage?: object | null;
}
const user = { messages: [{ role: "user", content: "hi" }], max_tokens: 8, temperature: 0 };
const POINT = { type: "object", properties: { x: { type: "integer", minimum: 0, maximum: 9 }, kind: { enum: ["a", "b"] } }, required: ["x", "kind"], additionalProperties: false };
const locate = { type: "function", function: { name: "locate", parameters: POINT } };
const ARGUMENTS = "{\"x\": 1, \"kind\": \"a\"}";
const CALL = `<tool_call>\n{"name": "locate", "arguments": ${ARGUMENTS}}\n</tool_call>`;

// ollama #14499: an unknown architecture is a 500. distributed-llama #132: an architecture is gone without a word. mesh-llm #1236: llama.cpp's limit of 512 experts.
describe("item 10: unknown architectures, and limits on experts", () => {
  it("an unknown architecture is named before anything is packed, with those known and the nearest", async () => {
    const files = tinyModel("qwen3_moe", 3).huggingFaceFiles();
    const config = JSON.parse(new TextDecoder().decode(files.get("config.json"))) as object;
    files.set("config.json", encoder.encode(JSON.stringify({ ...config, model_type: "kimi_k9", architectures: ["KimiK9ForCausalLM"] })));
    await expect(openHuggingFace(new MemorySource(files), "tiny")).rejects.toThrow(/"kimi_k9", an architecture this version does not know\. Known: .*the nearest is "qwen3_moe"/);
  });

  it("a pack that this version cannot compute is a clear answer of every endpoint, and no 500", async () => {
    await putPack("from-the-future", tinyChatFiles(512), (manifest) => ({ ...manifest, config: { ...manifest["config"] as object, expertKind: "hypernetwork" } }));
    const settings = { PACK_ID: "from-the-future" };
    for (const [path, body] of [["/v1/models", null], ["/v1/chat/completions", user], ["/v1/completions", { prompt: "a" }], ["/v1/messages", user], ["/v1/embeddings", { input: "a" }], ["/tokenize", { content: "a" }]] as const) {
      const response = await send(path, body, settings);
      const { error } = await response.json<{ error: { message: string; type: string; code?: string } }>();
      expect([path, response.status]).toEqual([path, 503]);
      expect(error.message).toMatch(/cannot be used: .*manifest\.json.*expertKind/);
      if (path !== "/v1/messages") expect(error.code).toBe("pack_unusable");
    }
  });

  it("896 experts are served, and chosen beyond the 512th", async () => {
    const model = tinyModel("qwen3_moe", 5, { config: { num_experts: 896, num_experts_per_tok: 8, num_hidden_layers: 1, max_position_embeddings: 512 } });
    await putPack("many-experts", model.huggingFaceFiles());
    const before = { ...edgeEnv };
    deploy({ packId: "many-experts", shards: 3 });
    const { data } = await (await send("/v1/models", null)).json<{ data: { moe: { experts: number } }[] }>();
    const { choices } = await answer<{ choices: { moe: { tokens: { experts: number[][] }[] } }[] }>("/v1/completions", { prompt: "abc", max_tokens: 12, moe: { trace: true } });
    Object.assign(env, before);
    expect(data[0]!.moe.experts).toBe(896);
    const chosen = choices[0]!.moe.tokens.flatMap(({ experts }) => experts.flat());
    expect(Math.max(...chosen)).toBeGreaterThan(511);
  });
});

// llama.cpp #16048: usage that nobody asked for. llama.cpp PR #15189, #17935, #8942: echo with logprobs. llama.cpp #28478: logprobs with tools in a stream refused.
describe("item 11: usage, echo, log-probabilities", () => {
  it.each([["/v1/chat/completions", user], ["/v1/completions", { prompt: "abc", max_tokens: 4 }]])("usage in a stream of %s comes only when asked, then once, in a chunk without choices", async (path, body) => {
    for (const options of [{}, { stream_options: null }, { stream_options: {} }, { stream_options: { include_usage: false } }]) {
      for (const chunk of await eventsOf<Chunk>(path, { ...body, ...options })) {
        expect(chunk).not.toHaveProperty("usage");
        expect(chunk.choices).toHaveLength(1);
      }
    }
    const asked = await eventsOf<Chunk>(path, { ...body, stream_options: { include_usage: true } });
    expect(asked.map(({ choices, usage }) => choices.length === 0 && usage !== null)).toEqual([...asked.slice(1).map(() => false), true]);
  });

  it("echo with logprobs scores the prompt, whole and streamed, with and without a continuation", async () => {
    for (const max_tokens of [0, 3]) {
      const body = { prompt: "abcd", max_tokens, temperature: 0, echo: true, logprobs: 2 };
      const { choices: [whole] } = await answer<{ choices: { text: string; logprobs: Record<"tokens" | "token_logprobs" | "top_logprobs" | "text_offset", unknown[]> }[] }>("/v1/completions", body);
      expect(whole!.text.slice(0, 4)).toBe("abcd");
      expect(whole!.logprobs.tokens).toHaveLength(4 + max_tokens);
      expect(whole!.logprobs.token_logprobs.map((value) => value === null)).toEqual([true, ...Array.from({ length: 3 + max_tokens }, () => false)]);
      const streamed = (await eventsOf<Chunk>("/v1/completions", body)).flatMap(({ choices }) => choices) as unknown as (typeof whole)[];
      expect(streamed.map((choice) => choice!.text).join("")).toBe(whole!.text);
      for (const field of ["tokens", "token_logprobs", "top_logprobs", "text_offset"] as const) expect(streamed.flatMap((choice) => choice!.logprobs?.[field] ?? [])).toEqual(whole!.logprobs[field]);
    }
  });

  it("log-probabilities, tools and a stream go together: every token has its score, of calls too", async () => {
    const { settings } = await saying(`Look: ${CALL}`);
    const chunks = await eventsOf<Chunk>("/v1/chat/completions", { ...user, tools: [locate], logprobs: true, top_logprobs: 0 }, settings);
    const scores = chunks.flatMap(({ choices }) => choices[0]!.logprobs?.content ?? []) as { token: string }[];
    expect(scores.map(({ token }) => token).join("")).toBe(`Look: ${CALL}`);
    expect(chunks.at(-1)!.choices[0]!.finish_reason).toBe("tool_calls");
    const real = await eventsOf<Chunk>("/v1/chat/completions", { ...user, tools: [locate], tool_choice: "required", parallel_tool_calls: false, logprobs: true, top_logprobs: 2, max_tokens: 200 });
    expect(real.at(-1)!.choices[0]!.finish_reason).toBe("tool_calls");
    expect(real.flatMap(({ choices }) => choices[0]!.logprobs?.content ?? []).length).toBeGreaterThan(10);
  });
});

// Workers AI: Flowise PR #4846 (function calling is a 400 with most models), vercel/ai #6861 (a stream with tools shows nothing), opencode.school #174
// (content arrays refused), LibreChat #2317; and its changelog's fixes of content: null, deltas of tool calls and their finish_reason.
describe("item 12: clients of Workers AI", () => {
  it.each([
    ["/v1/chat/completions", { tools: [locate] }], ["/v1/responses", { input: "hi", max_output_tokens: 8, tools: [{ type: "function", name: "locate", parameters: POINT }] }],
    ["/v1/messages", { tools: [{ name: "locate", input_schema: POINT }] }],
  ])("functions are taken by %s of a model whose template takes them", async (path, more) => {
    for (const stream of [false, true]) expect((await send(path, { ...(path === "/v1/responses" ? {} : user), ...more, stream })).status).toBe(200);
  });

  it("what is said before a call streams while it is said, although there are tools", async () => {
    const { settings } = await saying("Let me look.");
    const deltas = (await eventsOf<Chunk>("/v1/chat/completions", { ...user, tools: [locate] }, settings)).map(({ choices }) => choices[0]!.delta!.content ?? "");
    // White space may belong to a call that follows, so it comes with the next word.
    expect(deltas.filter((text) => text !== "")).toEqual([..."Let", " m", "e", " l", ..."ook."]);
  });

  it("a call streams as it is written: its name, then its arguments in pieces, in every API", async () => {
    const { settings } = await saying(CALL);
    const chunks = await eventsOf<Chunk>("/v1/chat/completions", { ...user, tools: [locate] }, settings);
    const deltas = chunks.flatMap(({ choices }) => choices[0]!.delta!.tool_calls ?? []);
    expect(deltas[0]).toMatchObject({ index: 0, id: expect.stringMatching(/^call_/), type: "function", function: { name: "locate", arguments: "" } });
    expect(deltas.slice(1).map((delta) => delta)).toEqual(Array.from(ARGUMENTS, (char) => ({ index: 0, function: { arguments: char } })));
    expect(chunks.map(({ choices }) => choices[0]!.finish_reason)).toEqual([...chunks.slice(1).map(() => null), "tool_calls"]);

    const messages = await eventsOf<{ type: string; delta?: { type: string; partial_json?: string; stop_reason?: string } }>("/v1/messages", { ...user, tools: [{ name: "locate", input_schema: POINT }] }, settings);
    expect(messages.flatMap(({ delta }) => (delta?.type === "input_json_delta" ? [delta.partial_json] : []))).toEqual([...ARGUMENTS]);
    expect(messages.find(({ type }) => type === "message_delta")!.delta!.stop_reason).toBe("tool_use");

    const responses = await eventsOf<{ type: string; delta?: string; arguments?: string }>("/v1/responses", { input: "hi", tools: [{ type: "function", name: "locate", parameters: POINT }] }, settings);
    expect(responses.flatMap(({ type, delta }) => (type === "response.function_call_arguments.delta" ? [delta] : []))).toEqual([...ARGUMENTS]);
    expect(responses.find(({ type }) => type === "response.function_call_arguments.done")!.arguments).toBe(ARGUMENTS);
  });

  it("the real fleet's calls stream in pieces too, whose sum is the whole reply's", async () => {
    const body = { ...user, tools: [locate], tool_choice: "required", parallel_tool_calls: false, temperature: 1, seed: 3, max_tokens: 200 };
    const { choices: [whole] } = await answer<{ choices: { message: { content: null; tool_calls: { id: string; function: { name: string; arguments: string } }[] }; finish_reason: string }[] }>("/v1/chat/completions", body);
    expect(whole).toMatchObject({ message: { content: null, tool_calls: [{ function: { name: "locate" } }] }, finish_reason: "tool_calls" });
    const deltas = (await eventsOf<Chunk>("/v1/chat/completions", body)).flatMap(({ choices }) => choices[0]!.delta!.tool_calls ?? []);
    expect(deltas.length).toBeGreaterThan(10);
    expect(deltas.map((delta) => delta.function.arguments).join("")).toBe(whole!.message.tool_calls[0]!.function.arguments);
  });

  it("a call cut by the length of the reply is what there is of it, and the reason says so", async () => {
    const { settings } = await saying(CALL.slice(0, -24), "length");
    const { choices } = await answer<{ choices: { message: { tool_calls: { function: { arguments: string } }[] }; finish_reason: string }[] }>("/v1/chat/completions", { ...user, tools: [locate] }, settings);
    expect(choices[0]!.finish_reason).toBe("length");
    expect(ARGUMENTS.startsWith(choices[0]!.message.tool_calls[0]!.function.arguments)).toBe(true);
    expect(choices[0]!.message.tool_calls[0]!.function.arguments.length).toBeGreaterThan(5);
  });

  it("content may be an array in every role, null, or absent beside calls", async () => {
    const parts = (text: string): object[] => [{ type: "text", text: text.slice(0, 1) }, { type: "text", text: text.slice(1) }];
    const call = { id: "c1", type: "function", function: { name: "locate", arguments: "{}" } };
    const prompt = async (messages: object[]): Promise<unknown> => (await answer("/apply-template", { messages }))["prompt"];
    const roles = ["system", "developer", "user", "assistant"];
    expect(await prompt(roles.map((role) => ({ role, content: parts("abc") })))).toBe(await prompt(roles.map((role) => ({ role, content: "abc" }))));
    const withCall = (content: object): object[] => [...user.messages, { role: "assistant", ...content, tool_calls: [call] }, { role: "tool", tool_call_id: "c1", content: parts("12") }];
    const [withNull, without, empty] = [await prompt(withCall({ content: null })), await prompt(withCall({})), await prompt(withCall({ content: "" }))];
    expect([withNull, without]).toEqual([empty, empty]);
    await answer("/v1/chat/completions", { ...user, messages: withCall({ content: null }), tools: [locate] });
  });
});

// edgeever #238: parsing a stream in the proxy uses up the CPU limit. Work is counted here, never timed.
describe("item 13: a stream through the edge", () => {
  it("one token is parsed once, written once and sent as one chunk", async () => {
    const countsOf = async (nTokens: number): Promise<{ nWritten: number }> => {
      const { settings, bytes } = await saying("x".repeat(nTokens));
      const asked = { ...user, max_tokens: nTokens, stream: true };
      const [parse, stringify] = [vi.spyOn(JSON, "parse"), vi.spyOn(JSON, "stringify")];
      let nChunks = 0;
      for (const reader = (await send("/v1/chat/completions", asked, settings)).body!.getReader(); !(await reader.read()).done; nChunks++);
      const parsedChars = parse.mock.calls.reduce((sum, [text]) => sum + text.length, 0);
      const nWritten = stringify.mock.calls.length;
      vi.restoreAllMocks();
      // The first chunk has the role too; the last ones are the end and [DONE].
      expect(nChunks).toBe(nTokens + 2);
      // Each byte the orchestrator sent, but the ends of its lines, and the body of the request.
      expect(parsedChars).toBe(bytes - (nTokens + 1) + JSON.stringify({ model: CHAT_PACK, ...asked }).length);
      return { nWritten };
    };
    const [once, twice] = [await countsOf(100), await countsOf(200)];
    expect(twice.nWritten - once.nWritten).toBe(100);
  });

  it.each([
    ["text", "word ", ""], ["white space", "\n", ""], ["white space behind text", "\n", "word"], ["white space in a thought", "\n", "<think>hm"], ["a thought", "hm ", "<think>"], ["a call's arguments", "\"a\", ", "<tool_call>{\"name\": \"f\", \"arguments\": ["],
    ["arguments that wait for a name", "1, ", "<tool_call>{\"arguments\": ["], ["what begins like markers", "<tool_", ""],
  ])("%s: twice the length is read twice, not more", async (_, piece, opening) => {
    // A tokenizer whose ids are characters: only the reading of the reply is counted.
    const tokenizer = { isControl: () => false, stream: () => ({ push: (id: number) => String.fromCharCode(id), flush: () => "" }) } as unknown as Tokenizer;
    const readChars = (n: number): number => {
      const ids = Array.from(opening + piece.repeat(n), (char) => char.charCodeAt(0));
      const parser = createReplyParser(tokenizer, { harmony: false, thinking: true, toolMarkers: true }, "", true);
      let nChars = 0;
      const spies = (["indexOf", "startsWith", "endsWith", "slice", "trimStart", "trimEnd"] as const).map((method) => {
        const real = String.prototype[method] as (this: string, ...args: unknown[]) => unknown;
        return vi.spyOn(String.prototype, method).mockImplementation(function (this: string, ...args: unknown[]) {
          nChars += this.length;
          return real.apply(this, args);
        } as never);
      });
      const parts: ReplyPart[] = [];
      for (const id of ids) parts.push(...parser.push(id));
      for (const spy of spies) spy.mockRestore();
      expect(parts.length + parser.flush().length).toBeGreaterThan(0);
      return nChars;
    };
    const [once, twice] = [readChars(200), readChars(400)];
    expect(once).toBeGreaterThan(200);
    expect(twice / once).toBeLessThan(2.2);
  });
});
