// Clients that people already have, none of them written here, against a served random-weight model: OpenAI's, Vercel's AI SDK, Anthropic's.
// What they send must be understood and what they expect must come: texts, streams, tools, structured output, errors, aborts.

import Anthropic from "@anthropic-ai/sdk";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, jsonSchema, streamText, tool } from "ai";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { startServe, writeChatPack, type Serving } from "../../support/serve.ts";

const KEY = "sk-test-1";
let pack: { folder: string; remove: () => void };
let server: Serving;
let openai: OpenAI;
let anthropic: Anthropic;
beforeAll(async () => {
  pack = await writeChatPack();
  server = await startServe(pack.folder, { API_KEYS: KEY });
  openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: KEY, maxRetries: 0 });
  anthropic = new Anthropic({ baseURL: server.url, apiKey: KEY, maxRetries: 0 });
});
afterAll(async () => {
  await server?.stop();
  pack?.remove();
});

const MODEL = "chat";
const say = (content: string): { role: "user"; content: string }[] => [{ role: "user", content }];
const POINT = { type: "object", properties: { x: { type: "integer", minimum: 0, maximum: 9 }, kind: { type: "string", enum: ["a", "b"] } }, required: ["x", "kind"], additionalProperties: false } as const;
const requirePoint = (value: unknown): void => {
  const { x, kind } = value as { x: number; kind: string };
  expect(Number.isInteger(x) && x >= 0 && x <= 9 && ["a", "b"].includes(kind)).toBe(true);
};
const TOOL = { type: "function", function: { name: "locate", description: "finds", parameters: POINT } } as const;

describe("openai", () => {
  it("lists the model", async () => {
    const ids: string[] = [];
    for await (const model of openai.models.list()) ids.push(model.id);
    expect(ids).toEqual([MODEL]);
    expect((await openai.models.retrieve(MODEL)).object).toBe("model");
  });

  it("chats, whole and streamed, the same text", async () => {
    const body = { model: MODEL, messages: say("hello"), max_completion_tokens: 12, temperature: 0.8, seed: 3 };
    const whole = await openai.chat.completions.create(body);
    expect(whole.usage!.completion_tokens).toBeGreaterThan(0);
    let [text, finish, usage] = ["", null as string | null, 0];
    for await (const chunk of await openai.chat.completions.create({ ...body, stream: true, stream_options: { include_usage: true } })) {
      text += chunk.choices[0]?.delta.content ?? "";
      finish = chunk.choices[0]?.finish_reason ?? finish;
      usage = chunk.usage?.total_tokens ?? usage;
    }
    expect([text, finish, usage]).toEqual([whole.choices[0]!.message.content, whole.choices[0]!.finish_reason, whole.usage!.total_tokens]);
  });

  it("takes content in parts, null content, all roles, log-probabilities and several choices", async () => {
    const reply = await openai.chat.completions.create({
      model: MODEL, max_tokens: 5, n: 2, logprobs: true, top_logprobs: 2, seed: 1,
      messages: [
        { role: "system", content: "be brief" }, { role: "developer", content: [{ type: "text", text: "be kind" }] }, { role: "user", content: [{ type: "text", text: "a" }, { type: "text", text: "b" }] },
        { role: "assistant", content: null, tool_calls: [{ id: "c1", type: "function", function: { name: "locate", arguments: "{\"x\":1,\"kind\":\"a\"}" } }] }, { role: "tool", tool_call_id: "c1", content: "done" },
      ],
      tools: [TOOL],
    });
    expect(reply.choices.map((choice) => choice.index)).toEqual([0, 1]);
    for (const choice of reply.choices) expect(choice.logprobs!.content!.every((token) => token.top_logprobs.length === 2)).toBe(true);
  });

  it("completes a prompt, and scores one", async () => {
    const reply = await openai.completions.create({ model: MODEL, prompt: ["abc", "xyz"], max_tokens: 4, temperature: 0, logprobs: 1, echo: true });
    expect(reply.choices.map((choice) => choice.text.slice(0, 3))).toEqual(["abc", "xyz"]);
    expect(reply.choices[0]!.logprobs!.token_logprobs![0]).toBeNull();
  });

  it("embeds texts", async () => {
    const { data } = await openai.embeddings.create({ model: MODEL, input: ["hello", "world"] });
    expect(data.map(({ embedding }) => embedding.length)).toEqual([64, 64]);
    expect(Math.hypot(...data[0]!.embedding)).toBeCloseTo(1, 4);
  });

  it("gets structured output, parsed", async () => {
    const reply = await openai.chat.completions.create({
      model: MODEL, messages: say("where?"), temperature: 1, seed: 2, max_tokens: 200, response_format: { type: "json_schema", json_schema: { name: "point", strict: true, schema: POINT } },
    });
    requirePoint(JSON.parse(reply.choices[0]!.message.content!));
  });

  it("gets calls of tools, streamed in pieces", async () => {
    const body = { model: MODEL, messages: say("find it"), tools: [TOOL], tool_choice: "required" as const, parallel_tool_calls: false, temperature: 1, seed: 4, max_tokens: 300 };
    const whole = await openai.chat.completions.create(body);
    expect(whole.choices[0]!.finish_reason).toBe("tool_calls");
    const [call] = whole.choices[0]!.message.tool_calls! as unknown as [{ type: "function"; function: { name: string; arguments: string } }];
    expect(call.function.name).toBe("locate");
    requirePoint(JSON.parse(call.function.arguments));
    const stream = openai.chat.completions.stream(body);
    const final = await stream.finalChatCompletion();
    expect((final.choices[0]!.message.tool_calls![0] as typeof call).function.arguments).toBe(call.function.arguments);
  });

  it("gets responses, whole and streamed, the same", async () => {
    const body = { model: MODEL, input: [{ role: "user" as const, content: "hello" }], instructions: "be brief", max_output_tokens: 12, temperature: 0 };
    const whole = await openai.responses.create(body);
    expect(whole).toMatchObject({ object: "response", status: "incomplete", incomplete_details: { reason: "max_output_tokens" }, usage: { output_tokens: 12 } });
    expect(whole.output_text.length).toBeGreaterThan(0);
    const stream = openai.responses.stream(body);
    let pieces = "";
    const types: string[] = [];
    for await (const event of stream) {
      types.push(event.type);
      if (event.type === "response.output_text.delta") pieces += event.delta;
    }
    expect(pieces).toBe(whole.output_text);
    expect([types[0], types.at(-1)]).toEqual(["response.created", "response.incomplete"]);
    expect((await stream.finalResponse()).output_text).toBe(whole.output_text);
  });

  it("gets structured responses and function calls", async () => {
    const point = await openai.responses.create({ model: MODEL, input: "where?", max_output_tokens: 200, text: { format: { type: "json_schema", name: "point", strict: true, schema: POINT } } });
    expect(point.status).toBe("completed");
    requirePoint(JSON.parse(point.output_text));
    const tools = [{ type: "function" as const, name: "locate", description: "finds", parameters: POINT, strict: true }];
    const called = await openai.responses.create({ model: MODEL, input: "find it", tools, tool_choice: "required", parallel_tool_calls: false, max_output_tokens: 300 });
    const call = called.output.find((item) => item.type === "function_call")!;
    requirePoint(JSON.parse(call.arguments));
    const next = await openai.responses.create({
      model: MODEL, tools, max_output_tokens: 5, input: [{ role: "user", content: "find it" }, call, { type: "function_call_output", call_id: call.call_id, output: "there" }],
    });
    expect(next.output_text.length).toBeGreaterThan(0);
    await expect(openai.responses.create({ model: MODEL, input: "hi", previous_response_id: "resp_1" })).rejects.toThrow(/this server stores none/);
  });

  it("is told what is wrong in its own errors", async () => {
    await expect(openai.chat.completions.create({ model: "gpt-9", messages: say("hi") })).rejects.toThrow(OpenAI.NotFoundError);
    await expect(openai.chat.completions.create({ model: MODEL, messages: say("hi"), temperature: 9 })).rejects.toThrow(/`temperature` is not valid: found 9, expected a number from 0 to 2/);
    await expect(new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "sk-other", maxRetries: 0 }).models.list()).rejects.toThrow(OpenAI.AuthenticationError);
  });

  it("aborts a stream, and the server goes on", async () => {
    const stream = await openai.chat.completions.create({ model: MODEL, messages: say("hello"), max_tokens: 2000, stream: true, temperature: 1 });
    let n = 0;
    for await (const _ of stream) if (++n === 3) stream.controller.abort();
    expect(n).toBe(3);
    expect((await openai.chat.completions.create({ model: MODEL, messages: say("hello"), max_tokens: 3 })).choices.length).toBe(1);
  });
});

describe("ai with @ai-sdk/openai-compatible", () => {
  const model = () => createOpenAICompatible({ name: "own", baseURL: `${server.url}/v1`, apiKey: KEY, supportsStructuredOutputs: true, includeUsage: true })(MODEL);

  it("generates text, and streams the same", async () => {
    const options = { model: model(), prompt: "hello", maxOutputTokens: 10, temperature: 0.7, seed: 5, maxRetries: 0 };
    const whole = await generateText(options);
    const streamed = streamText(options);
    let text = "";
    for await (const piece of streamed.textStream) text += piece;
    expect(text).toBe(whole.text);
    expect((await streamed.usage).outputTokens).toBe(whole.usage.outputTokens);
  });

  it("generates an object", async () => {
    const { object } = await generateObject({ model: model(), schema: jsonSchema<{ x: number; kind: string }>(POINT), prompt: "where?", temperature: 1, seed: 6, maxRetries: 0 });
    requirePoint(object);
  });

  it("calls a tool, streamed", async () => {
    const result = streamText({ model: model(), prompt: "find it", seed: 7, maxRetries: 0, toolChoice: "required", tools: { locate: tool({ description: "finds", inputSchema: jsonSchema<{ x: number; kind: string }>(POINT) }) } });
    const calls = await result.toolCalls;
    expect(calls.length).toBeGreaterThan(0);
    for (const call of calls) requirePoint(call.input);
  });
});

describe("@anthropic-ai/sdk", () => {
  it("sends a message, whole and streamed, the same text", async () => {
    const body = { model: MODEL, max_tokens: 12, system: "be brief", messages: say("hello"), temperature: 0 };
    const whole = await anthropic.messages.create(body);
    expect(whole).toMatchObject({ type: "message", role: "assistant", model: MODEL, stop_reason: expect.stringMatching(/^(end_turn|max_tokens)$/) });
    const text = whole.content.flatMap((block) => (block.type === "text" ? [block.text] : [])).join("");
    const stream = anthropic.messages.stream(body);
    let pieces = "";
    stream.on("text", (delta) => { pieces += delta; });
    const final = await stream.finalMessage();
    expect(pieces).toBe(text);
    expect(final.content).toEqual(whole.content);
    expect(final.usage.output_tokens).toBe(whole.usage.output_tokens);
    expect(whole.usage.input_tokens + whole.usage.cache_read_input_tokens!).toBe((await anthropic.messages.countTokens({ model: MODEL, system: "be brief", messages: say("hello") })).input_tokens);
  });

  it("uses a tool, and takes its result", async () => {
    const tools = [{ name: "locate", description: "finds", input_schema: POINT as unknown as Anthropic.Tool.InputSchema }];
    const body = { model: MODEL, max_tokens: 300, messages: say("find it"), tools, tool_choice: { type: "any" as const, disable_parallel_tool_use: true }, temperature: 0 };
    const whole = await anthropic.messages.create(body);
    expect(whole.stop_reason).toBe("tool_use");
    const use = whole.content.find((block) => block.type === "tool_use")!;
    requirePoint(use.input);
    const final = await anthropic.messages.stream(body).finalMessage();
    expect(final.content.find((block) => block.type === "tool_use")!.input).toEqual(use.input);
    const next = await anthropic.messages.create({ model: MODEL, max_tokens: 5, tools, messages: [...say("find it"), { role: "assistant", content: whole.content }, { role: "user", content: [{ type: "tool_result", tool_use_id: use.id, content: "there" }, { type: "text", text: "thanks" }] }] });
    expect(next.usage.output_tokens).toBeGreaterThan(0);
  });

  it("stops at a stop sequence and says which", async () => {
    const body = { model: MODEL, max_tokens: 12, messages: say("hello"), temperature: 0 };
    const { content } = await anthropic.messages.create(body);
    const text = content.flatMap((block) => (block.type === "text" ? [block.text] : [])).join("");
    const stopped = await anthropic.messages.create({ ...body, stop_sequences: [text.slice(2, 4)] });
    expect(stopped).toMatchObject({ stop_reason: "stop_sequence", stop_sequence: text.slice(2, 4) });
  });

  it("is told what is wrong in its own errors", async () => {
    await expect(anthropic.messages.create({ model: "claude", max_tokens: 3, messages: say("hi") })).rejects.toThrow(Anthropic.NotFoundError);
    const error = await anthropic.messages.create({ model: MODEL, max_tokens: 0, messages: say("hi") }).catch((cause: unknown) => cause);
    expect(error).toBeInstanceOf(Anthropic.BadRequestError);
    expect((error as { error: object }).error).toMatchObject({ type: "error", error: { type: "invalid_request_error", message: expect.stringContaining("`max_tokens`") } });
    await expect(new Anthropic({ baseURL: server.url, apiKey: "sk-other", maxRetries: 0 }).messages.create({ model: MODEL, max_tokens: 3, messages: say("hi") })).rejects.toThrow(Anthropic.AuthenticationError);
  });
});
