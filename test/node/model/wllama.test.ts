// Every architecture against llama.cpp (wllama 3.8.1), which nobody here wrote, on tiny GGUF files: the same greedy tokens, and log-probabilities
// close to its own, whose KV cache is f16. Where llama.cpp deviates from the original implementation, the deviation is named here and must
// still be one; docs/models.md has the whole table of architectures and types.

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import { type TinyArchitecture, tinyModel } from "../../support/tiny-models.ts";
import { type WllamaComparison, compareWithWllama } from "../../support/wllama-comparison.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const PROMPT = "The quick brown fox, 12 + 34";
const TOKENS = 12;
const compare = (architecture: TinyArchitecture, config: Readonly<Record<string, unknown>>, type: "F32" | "Q8_0" = "F32", seed = 3): Promise<WllamaComparison> =>
  compareWithWllama(tinyModel(architecture, seed, { config }).ggufBytes({ type }), PROMPT, TOKENS);

/** [architecture, config as llama.cpp can take it] */
const AGREEING: readonly (readonly [TinyArchitecture, Readonly<Record<string, unknown>>])[] = [
  ["olmoe", { num_key_value_heads: 4 }], // its loader wants as many key-value heads as heads, which every release has
  ["qwen3_moe", {}], ["mixtral", {}], ["qwen2_moe", {}], ["granitemoe", {}], ["granitemoeshared", {}],
  ["deepseek_v2", { q_lora_rank: 24, topk_method: "greedy" }], // without low-rank queries it takes models of 27 layers only
  ["deepseek_v3", {}],
  ["gpt_oss", { rope_scaling: null }],
  ["llama", {}], ["qwen2", {}], ["qwen3", {}],
];

describe("agrees with llama.cpp", () => {
  it.each(AGREEING)("%s", async (architecture, config) => {
    const { refusal, agreed, compared, meanLogprob, worstLogprob } = await compare(architecture, config);
    expect(refusal).toBeNull();
    expect([agreed, compared]).toEqual([TOKENS, TOKENS]);
    expect(meanLogprob).toBeLessThan(0.01);
    expect(worstLogprob).toBeLessThan(0.05);
  });

  it("at int8 weights and activations, as long as its choice is clear", async () => {
    const { refusal, agreed, marginWhereParted, meanLogprob } = await compare("qwen3_moe", {}, "Q8_0");
    expect(refusal).toBeNull();
    if (agreed < TOKENS) expect(marginWhereParted).toBeLessThan(0.2);
    expect(meanLogprob).toBeLessThan(0.2);
  });
});

describe("where llama.cpp deviates from the original implementation", () => {
  it.each([
    ["phimoe", {}, "it has no sparsemixer: the two experts' weights are a softmax over both"],
    ["gpt_oss", {}, "it rounds the ends of YaRN's ramp, which gpt-oss does not (truncate: false)"],
    ["deepseek_v2", { q_lora_rank: 24 }, "it scores groups by their two best experts, DeepSeek-V2 by the best"],
  ] satisfies (readonly [TinyArchitecture, Readonly<Record<string, unknown>>, string])[])("%s %o: %s", async (architecture, config, _) => {
    // A seed at which the difference is plain: ten times what the agreeing ones differ by.
    const { refusal, meanLogprob } = await compare(architecture, config, "F32", 4);
    expect(refusal).toBeNull();
    expect(meanLogprob).toBeGreaterThan(0.1);
  });
});
