// Streams of both OpenAI endpoints: events, usage only when asked, several choices, traces, and readers who leave.
// Out of scope: going on after one has dropped (resume.test.ts).

import { describe, expect, it } from "vitest";
import { answer, CHAT, chunksOf, type Completion, COMPLETIONS, get, greedy, post } from "./api-client.ts";

describe("streams", () => {
  it("are server-sent events whose text is the whole reply's", async () => {
    const whole = await answer<Completion>(COMPLETIONS, greedy);
    const response = await post(COMPLETIONS, { ...greedy, stream: true });
    expect(response.headers.get("Content-Type")).toMatch(/^text\/event-stream/);
    const chunks = await chunksOf(response);
    expect(chunks.map((chunk) => chunk.choices[0]!.text).join("")).toBe(whole.choices[0]!.text);
    expect(new Set(chunks.map((chunk) => chunk.id)).size).toBe(1);
    expect(chunks.at(-1)!.choices[0]!.finish_reason).toBe(whole.choices[0]!.finish_reason);
    expect(chunks.slice(0, -1).every((chunk) => chunk.choices[0]!.finish_reason === null)).toBe(true);
    expect(chunks.every((chunk) => !("usage" in chunk))).toBe(true);
  });

  it("end with usage only when asked", async () => {
    const chunks = await chunksOf(await post(COMPLETIONS, { ...greedy, max_tokens: 3, stream: true, stream_options: { include_usage: true } }));
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { prompt_tokens: 3, completion_tokens: 3, total_tokens: 6 } });
    expect(chunks.slice(0, -1).every((chunk) => chunk.usage === null)).toBe(true);
  });

  it("carry several choices at once", async () => {
    const whole = await answer<Completion>(COMPLETIONS, { ...greedy, prompt: ["abc", "xyz"] });
    const chunks = await chunksOf(await post(COMPLETIONS, { ...greedy, prompt: ["abc", "xyz"], stream: true }));
    for (const index of [0, 1]) {
      const text = chunks.flatMap((chunk) => chunk.choices).filter((choice) => choice.index === index).map((choice) => choice.text).join("");
      expect(text).toBe(whole.choices[index]!.text);
    }
  });

  it("carry log-probabilities of several choices, those of the whole reply", async () => {
    const asked = { model: "tiny", messages: [{ role: "user", content: "abc" }], n: 3, temperature: 1.2, seed: 4, max_tokens: 8, logprobs: true, top_logprobs: 2 };
    type Scored = { choices: { index: number; logprobs: { content: object[] } | null }[] };
    const whole = await answer<Scored>(CHAT, asked);
    const chunks = await chunksOf(await post(CHAT, { ...asked, stream: true })) as unknown as Scored[];
    const streamed = chunks.flatMap(({ choices }) => choices);
    for (const { index, logprobs } of whole.choices) {
      expect(logprobs!.content.length).toBeGreaterThan(0);
      expect(streamed.filter((choice) => choice.index === index).flatMap((choice) => choice.logprobs?.content ?? [])).toEqual(logprobs!.content);
    }
    expect(new Set(whole.choices.map(({ logprobs }) => JSON.stringify(logprobs))).size).toBe(3);
  });

  it("carry the experts of every token in every layer when asked", async () => {
    const { data } = await (await get("/v1/models")).json<{ data: { moe: { moe_layers: number[]; experts: number; experts_per_token: number } }[] }>();
    const { moe_layers, experts, experts_per_token } = data[0]!.moe;
    const chunks = await chunksOf(await post(COMPLETIONS, { ...greedy, max_tokens: 4, stream: true, moe: { trace: true } }));
    const traces = chunks.flatMap((chunk) => (chunk.moe?.token === undefined ? [] : [chunk.moe.token]));
    expect(traces).toHaveLength(4);
    for (const trace of traces) {
      expect(trace.experts).toHaveLength(moe_layers.length);
      for (const chosen of trace.experts) {
        expect(new Set(chosen).size).toBe(experts_per_token);
        expect(chosen.every((expert) => expert >= 0 && expert < experts)).toBe(true);
      }
    }
    const whole = await answer<Completion>(COMPLETIONS, { ...greedy, max_tokens: 4, moe: { trace: true } });
    expect(whole.choices[0]!.moe!.tokens.map((token) => token.experts)).toEqual(traces.map((trace) => trace.experts));
  });

  it("that a reader leaves do not disturb the others", async () => {
    const expected = (await answer<Completion>(COMPLETIONS, greedy)).choices[0]!.text;
    const leaving = await post(COMPLETIONS, { ...greedy, max_tokens: 100, stream: true });
    const staying = answer<Completion>(COMPLETIONS, greedy);
    const reader = leaving.body!.getReader();
    await reader.read();
    await reader.cancel();
    expect((await staying).choices[0]!.text).toBe(expected);
    for (;;) {
      const fleet = await (await get("/v1/fleet")).json<{ generations: { active: number; queued: number } }>();
      if (fleet.generations.active === 0 && fleet.generations.queued === 0) break; // else the test runs into its time limit
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  });
});
