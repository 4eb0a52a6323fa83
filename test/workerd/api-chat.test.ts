// POST /v1/chat/completions: shape, the template, roles, content in parts, lengths, log-probabilities.
// Out of scope: calls of tools and formats (structured.test.ts).

import { describe, expect, it } from "vitest";
import { answer, CHAT, type Chat, chunksOf, type Completion, COMPLETIONS, post, say } from "./api-client.ts";

describe("chat", () => {
  const chatGreedy = { ...say, temperature: 0, max_tokens: 12 };

  it("has OpenAI's shape", async () => {
    const body = await answer<Chat>(CHAT, chatGreedy);
    expect(body).toMatchObject({ object: "chat.completion", choices: [{ index: 0, message: { role: "assistant" }, logprobs: null }] });
    expect(body.id).toMatch(/^chatcmpl-/);
    expect(body.choices[0]!.message.content.length).toBeGreaterThan(0);
  });

  it("is what the template makes of the messages", async () => {
    const { prompt } = await answer<{ prompt: string }>("POST /apply-template", { messages: say.messages });
    const { tokens } = await answer<{ tokens: number[] }>("POST /tokenize", { content: prompt });
    const chat = await answer<Chat>(CHAT, chatGreedy);
    expect(chat.usage.prompt_tokens).toBe(tokens.length);
    const completion = await answer<Completion>(COMPLETIONS, { model: "tiny", prompt: tokens, temperature: 0, max_tokens: 12 });
    expect(chat.choices[0]!.message.content).toBe(completion.choices[0]!.text);
  });

  it("streams a role, then content, then a reason", async () => {
    const whole = await answer<Chat>(CHAT, chatGreedy);
    const chunks = await chunksOf(await post(CHAT, { ...chatGreedy, stream: true }));
    expect(chunks.every((chunk) => chunk.object === "chat.completion.chunk")).toBe(true);
    expect(chunks[0]!.choices[0]!.delta).toEqual({ role: "assistant", content: "" });
    expect(chunks.map((chunk) => chunk.choices[0]!.delta!.content ?? "").join("")).toBe(whole.choices[0]!.message.content);
    expect(chunks.at(-1)!.choices[0]).toMatchObject({ delta: {}, finish_reason: whole.choices[0]!.finish_reason });
  });

  it("takes content as parts, and null", async () => {
    const expected = (await answer<Chat>(CHAT, chatGreedy)).choices[0]!.message.content;
    const parts = await answer<Chat>(CHAT, { ...chatGreedy, messages: [{ role: "user", content: [{ type: "text", text: "a" }, { type: "text", text: "bc" }] }] });
    expect(parts.choices[0]!.message.content).toBe(expected);
    await answer<Chat>(CHAT, { ...chatGreedy, messages: [...say.messages, { role: "assistant", content: null }, ...say.messages] });
  });

  it("takes max_completion_tokens", async () => {
    const { max_tokens: _, ...request } = chatGreedy;
    expect((await answer<Chat>(CHAT, { ...request, max_completion_tokens: 2 })).usage.completion_tokens).toBe(2);
  });

  it("gives log-probabilities with bytes", async () => {
    const body = await answer<Chat>(CHAT, { ...chatGreedy, max_tokens: 4, logprobs: true, top_logprobs: 2 });
    const { content } = body.choices[0]!.logprobs!;
    expect(content.map((entry) => entry.token).join("")).toBe(body.choices[0]!.message.content);
    for (const entry of content) {
      expect(new TextDecoder().decode(new Uint8Array(entry.bytes))).toBe(entry.token);
      expect(entry.top_logprobs).toHaveLength(2);
      expect(entry.logprob).toBeLessThanOrEqual(0);
    }
  });
});
