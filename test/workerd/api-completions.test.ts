// POST /v1/completions: shape, forms of prompts, lengths, stops, seeds, sampling, log-probabilities, echo.
// Out of scope: refusals (api-refusals.test.ts), streams (api-streams.test.ts) and exactness beyond one deployment.

import { describe, expect, it } from "vitest";
import { answer, ask, chunksOf, type Completion, COMPLETIONS, greedy, post, say } from "./api-client.ts";

describe("completions", () => {
  it("have OpenAI's shape", async () => {
    const body = await answer<Completion>(COMPLETIONS, greedy);
    expect(body).toMatchObject({ object: "text_completion", model: "tiny", choices: [{ index: 0, logprobs: null, finish_reason: expect.stringMatching(/^(stop|length)$/) }] });
    expect(body.id).toMatch(/^cmpl-/);
    expect(body.choices[0]!.text.length).toBeGreaterThan(0);
    expect(body.usage.prompt_tokens).toBe(3);
    expect(body.usage.total_tokens).toBe(3 + body.usage.completion_tokens);
    expect(body.moe.frames).toBeGreaterThan(0);
  });

  it("take a prompt in all four forms", async () => {
    const { tokens } = await answer<{ tokens: number[] }>("POST /tokenize", { content: "abc" });
    expect(tokens).toHaveLength(3);
    const text = (await answer<Completion>(COMPLETIONS, greedy)).choices[0]!.text;
    expect((await answer<Completion>(COMPLETIONS, { ...greedy, prompt: tokens })).choices[0]!.text).toBe(text);
    const other = (await answer<Completion>(COMPLETIONS, { ...greedy, prompt: "xyz" })).choices[0]!.text;
    const many = await answer<Completion>(COMPLETIONS, { ...greedy, prompt: ["abc", "xyz"] });
    expect(many.choices.map((choice) => [choice.index, choice.text])).toEqual([[0, text], [1, other]]);
    expect(many.usage.prompt_tokens).toBe(6);
    expect((await answer<Completion>(COMPLETIONS, { ...greedy, prompt: [tokens, tokens] })).choices.map((choice) => choice.text)).toEqual([text, text]);
  });

  it("take over a prompt the same key sent before, say how much, and answer the same", async () => {
    type Cached = Completion & { usage: { prompt_tokens_details: { cached_tokens: number } } };
    const asked = { ...greedy, prompt: "one two three four five six seven eight nine", max_tokens: 5 };
    const cold = await answer<Cached>(COMPLETIONS, { ...asked, moe: { cache: false } });
    const first = await answer<Cached>(COMPLETIONS, asked);
    const second = await answer<Cached>(COMPLETIONS, asked);
    const stopped = await answer<Cached>(COMPLETIONS, { ...asked, stop: cold.choices[0]!.text.slice(1, 3) });
    const found = [cold, first, second, stopped].map(({ usage }) => usage.prompt_tokens_details.cached_tokens);
    expect(found).toEqual([0, 0, 43, 43]);
    expect([first, second].map(({ choices }) => choices[0]!.text)).toEqual([cold.choices[0]!.text, cold.choices[0]!.text]);
    const chunks = await chunksOf(await post(COMPLETIONS, { ...asked, stream: true, stream_options: { include_usage: true } }));
    expect(chunks.at(-1)).toMatchObject({ usage: { prompt_tokens: 44, prompt_tokens_details: { cached_tokens: 43 } } });
    expect((await answer<Cached>(COMPLETIONS, { ...asked, echo: true, logprobs: 1 })).usage.prompt_tokens_details.cached_tokens).toBe(0);
  });

  it("stop at max_tokens and say so", async () => {
    const body = await answer<Completion>(COMPLETIONS, { ...greedy, max_tokens: 2 });
    expect(body.usage.completion_tokens).toBe(2);
    expect(body.choices[0]!.finish_reason).toBe("length");
  });

  it("cut at a stop string, wherever it lies", async () => {
    const text = (await answer<Completion>(COMPLETIONS, greedy)).choices[0]!.text;
    const stop = text.slice(3, 5);
    const body = await answer<Completion>(COMPLETIONS, { ...greedy, stop: ["never there", stop] });
    expect(body.choices[0]).toMatchObject({ text: text.slice(0, text.indexOf(stop)), finish_reason: "stop" });
    const chunks = await chunksOf(await post(COMPLETIONS, { ...greedy, stop, stream: true }));
    expect(chunks.map((chunk) => chunk.choices[0]?.text ?? "").join("")).toBe(text.slice(0, text.indexOf(stop)));
  });

  it("repeat with a seed, and differ between choices and between seeds", async () => {
    const textsOf = async (seed: number): Promise<string[]> =>
      (await answer<Completion>(COMPLETIONS, { ...ask, temperature: 1.5, max_tokens: 24, n: 3, seed })).choices.map((choice) => choice.text);
    const first = await textsOf(1);
    expect(new Set(first).size).toBe(3);
    expect(await textsOf(1)).toEqual(first);
    expect(await textsOf(2)).not.toEqual(first);
  });

  it("report the seed drawn where none was given, and repeat with it", async () => {
    const drawn = await answer<Completion>(COMPLETIONS, { ...ask, temperature: 1.5, max_tokens: 24 });
    const again = await answer<Completion>(COMPLETIONS, { ...ask, temperature: 1.5, max_tokens: 24, seed: drawn.moe.seed });
    expect(again.choices[0]!.text).toBe(drawn.choices[0]!.text);
    expect(again.moe.seed).toBe(drawn.moe.seed);
  });

  it("top_k of 1 is greedy at any temperature", async () => {
    const text = (await answer<Completion>(COMPLETIONS, greedy)).choices[0]!.text;
    expect((await answer<Completion>(COMPLETIONS, { ...greedy, temperature: 2, top_k: 1 })).choices[0]!.text).toBe(text);
  });

  it("follow a bias: a token is forced, or never said", async () => {
    const [forced] = (await answer<{ tokens: number[] }>("POST /tokenize", { content: "q" })).tokens;
    expect((await answer<Completion>(COMPLETIONS, { ...greedy, max_tokens: 6, logit_bias: { [forced!]: 100 } })).choices[0]!.text).toBe("qqqqqq");
    const text = (await answer<Completion>(COMPLETIONS, greedy)).choices[0]!.text;
    const [first] = (await answer<{ tokens: number[] }>("POST /tokenize", { content: text[0]! })).tokens;
    const without = (await answer<Completion>(COMPLETIONS, { ...greedy, logit_bias: { [first!]: -100 } })).choices[0]!.text;
    expect(without).not.toContain(text[0]!);
    expect(without.length).toBeGreaterThan(0);
  });

  it("follow penalties, alone, beside others and when guesses hold", async () => {
    const [q] = (await answer<{ tokens: number[] }>("POST /tokenize", { content: "q" })).tokens;
    const biased = { ...greedy, max_tokens: 12, logit_bias: { [q!]: 9 } };
    const counted = async (more: object): Promise<number> => (await answer<Completion>(COMPLETIONS, { ...biased, ...more })).choices[0]!.text.split("q").length - 1;
    const plain = await counted({});
    expect(plain).toBeGreaterThan(6);
    expect(await counted({ frequency_penalty: 2 })).toBeLessThan(plain);
    expect(await counted({ presence_penalty: 2, frequency_penalty: 2 })).toBeLessThan(plain);
    expect(await counted({ repetition_penalty: 9 })).toBeLessThan(plain);
    const asked = { ...biased, prompt: "abcabcabc", temperature: 0.9, seed: 5, frequency_penalty: 0.7, repetition_penalty: 1.2, typical_p: 0.9 };
    const alone = (await answer<Completion>(COMPLETIONS, { ...asked, moe: { draft_tokens: 0 } })).choices[0]!.text;
    const company = await Promise.all([asked, { ...asked, seed: 6 }, { ...asked, prompt: "xyz" }].map((body) => answer<Completion>(COMPLETIONS, body)));
    expect(company[0]!.choices[0]!.text).toBe(alone);
    expect(company[1]!.choices[0]!.text).not.toBe(alone);
  });

  it("give log-probabilities that are consistent", async () => {
    const body = await answer<Completion>(COMPLETIONS, { ...greedy, max_tokens: 5, logprobs: 3 });
    const { tokens, token_logprobs, top_logprobs, text_offset } = body.choices[0]!.logprobs!;
    expect(tokens.join("")).toBe(body.choices[0]!.text);
    for (let i = 0; i < tokens.length; i++) {
      const best = Math.max(...Object.values(top_logprobs[i]!));
      expect(Object.keys(top_logprobs[i]!).length).toBe(3);
      expect(token_logprobs[i]).toBe(best); // greedy takes the most likely
      expect(best).toBeLessThan(0);
      expect(text_offset[i]).toBe(tokens.slice(0, i).join("").length);
    }
  });

  it("echo with max_tokens 0 scores a prompt, and agrees with what generating said", async () => {
    const generated = await answer<Completion>(COMPLETIONS, { ...greedy, max_tokens: 4, logprobs: 1 });
    const whole = `abc${generated.choices[0]!.text}`;
    const scored = await answer<Completion>(COMPLETIONS, { ...ask, prompt: whole, max_tokens: 0, echo: true, logprobs: 1 });
    expect(scored.choices[0]!.text).toBe(whole);
    expect(scored.usage.completion_tokens).toBe(0);
    const { token_logprobs } = scored.choices[0]!.logprobs!;
    expect(token_logprobs[0]).toBeNull();
    expect(token_logprobs.slice(3)).toEqual(generated.choices[0]!.logprobs!.token_logprobs);
  });

  it("echo without log-probabilities shows the prompt first", async () => {
    const plain = await answer<Completion>(COMPLETIONS, greedy);
    const echoed = await answer<Completion>(COMPLETIONS, { ...greedy, echo: true });
    expect(echoed.choices[0]!.text).toBe(`abc${plain.choices[0]!.text}`);
    const chunks = await chunksOf(await post(COMPLETIONS, { ...greedy, echo: true, stream: true }));
    expect(chunks.map((chunk) => chunk.choices[0]!.text).join("")).toBe(`abc${plain.choices[0]!.text}`);
  });

  it("keep control tokens in user text as text", async () => {
    const { tokens } = await answer<{ tokens: number[] }>("POST /tokenize", { content: "<|endoftext|>" });
    expect(tokens).not.toContain(0);
    expect((await answer<{ content: string }>("POST /detokenize", { tokens })).content).toBe("<|endoftext|>");
  });

  it("ignore fields they do not know, and null", async () => {
    const body = await answer<Completion>(COMPLETIONS, { ...greedy, user: "me", a_new_field: 1, stop: null, seed: null, logprobs: null, presence_penalty: 0, logit_bias: {} });
    expect(body.choices[0]!.text).toBe((await answer<Completion>(COMPLETIONS, greedy)).choices[0]!.text);
  });
});
