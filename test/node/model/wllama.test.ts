// Every architecture x GGUF type against llama.cpp (wllama 3.8.1), which nobody here wrote, on tiny files: our pack at the source's own quality must choose
// the same tokens where wllama's choice is clear, and its log-probabilities must be close. What llama.cpp refuses and where it deviates from the
// original implementation is in test/support/llama-cpp.ts, and must still be so: with the deviation, our definition says what it says.

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import { type CellModel, type Rows, type Truth, cellModel, engineRows, truthOf } from "../../support/cell-model.ts";
import { DEVIATIONS, LLAMA_CONTEXT_TOKENS, REFUSALS, deviationOf } from "../../support/llama-cpp.ts";
import { logitDifference } from "../../support/logit-difference.ts";
import { GGUF_TYPES, type ModelCell, cellTitle, wllamaBounds } from "../../support/model-cells.ts";
import { packToMemory } from "../../support/pack-to-memory.ts";
import { TINY_ARCHITECTURES, type TinyArchitecture } from "../../support/tiny-models.ts";
import { WllamaRunner, type WllamaSaid } from "../../support/wllama-comparison.ts";

let wllama: WllamaRunner;
beforeAll(async () => {
  await buildKernels({ log: () => {} });
  wllama = new WllamaRunner();
});
afterAll(() => wllama.close());

const PROMPTS = ["Hey!", "3 + 4", "fox;", "ZyX", "a b", "{q}", "?9#", "~*w", "M", ":-)", "0x1F", "don't"];
const TOKENS = 4;
const ggufOf = (model: CellModel): Uint8Array => model.files.get("tiny.gguf")!;

async function ask(model: CellModel, cache?: "f32"): Promise<WllamaSaid> {
  const said = await wllama.ask(ggufOf(model), PROMPTS, TOKENS, cache);
  if ("refusal" in said) throw new Error(`wllama does not load the file: ${said.refusal}`);
  return said;
}

/** wllama's rows beside ours, of the tokens whose choice of experts is at least so clear by the definition. */
const pairsOf = (said: WllamaSaid, { clearness }: Truth, ours: Rows, clear: number): (readonly [ArrayLike<number>, ArrayLike<number>])[] =>
  said.logprobs.flatMap((rows, s) => rows.flatMap((row, i) => {
    const t = said.from[s]! + i;
    return clearness[s]![t]! < clear ? [] : [[row, ours[s]![t]!] as const];
  }));

function expectClose(said: WllamaSaid, truth: Truth, ours: Rows, cell: ModelCell): void {
  const { clear, clearNats, relative, topLogprob, atLeast } = wllamaBounds(cell);
  const found = logitDifference(pairsOf(said, truth, ours, clear), clearNats);
  expect(found.rows, "tokens with a clear choice of experts").toBeGreaterThanOrEqual(atLeast);
  expect(found.sameToken, "tokens of clear choice that are the same").toBe(found.clearTokens);
  expect(found.relative).toBeLessThan(relative);
  expect(found.topLogprob).toBeLessThan(topLogprob);
}

const cells = (architecture: TinyArchitecture): (readonly [string, ModelCell])[] => GGUF_TYPES.map((type) => {
  const cell = { architecture, form: "gguf", type } as const;
  return [cellTitle(cell), cell];
});

describe.each(TINY_ARCHITECTURES.filter((architecture) => deviationOf(architecture) === null))("%s agrees with llama.cpp", (architecture) => {
  it.each(cells(architecture))("%s", async (_, cell) => {
    const model = cellModel(cell, 1);
    const said = await ask(model);
    const ours = await engineRows(await packToMemory(await model.open(), { quant: "source" }), said.sequences);
    expectClose(said, truthOf(model, said.sequences), ours, cell);
  });
});

describe.each(TINY_ARCHITECTURES.filter((architecture) => deviationOf(architecture) !== null))("%s agrees with llama.cpp but for its deviation", (architecture) => {
  it.each(cells(architecture))("%s", async (_, cell) => {
    const { changes, asLlamaCpp } = deviationOf(architecture)!;
    const model = cellModel(cell, 1, changes);
    const said = await ask(model);
    const truth = truthOf(model, said.sequences, asLlamaCpp(model.model.config), LLAMA_CONTEXT_TOKENS);
    expectClose(said, truth, truth.logits, cell);
  });
});

describe("where llama.cpp deviates from the original implementation", () => {
  it.each(DEVIATIONS.map((d) => [d.architecture, d.where ?? "always", d.sentence, d] as const))("%s, %s: %s", async (architecture, _, __, { changes, asLlamaCpp }) => {
    const [original, changed]: [ReturnType<typeof pairsOf>, ReturnType<typeof pairsOf>] = [[], []];
    for (const seed of [1, 2, 3]) {
      const model = cellModel({ architecture, form: "gguf", type: "F32" }, seed, changes);
      const said = await ask(model, "f32");
      for (const [pairs, config] of [[original, model.model.config], [changed, asLlamaCpp(model.model.config)]] as const) {
        const truth = truthOf(model, said.sequences, config, LLAMA_CONTEXT_TOKENS);
        pairs.push(...pairsOf(said, truth, truth.logits, 0.05));
      }
    }
    expect(Math.min(original.length, changed.length)).toBeGreaterThanOrEqual(20);
    // The deviation is plain, and it is all there is: what is left is llama.cpp's own rounding.
    expect(logitDifference(original).relative).toBeGreaterThan(0.05);
    expect(logitDifference(changed).relative).toBeLessThan(5e-3);
  });
});

describe("what llama.cpp refuses", () => {
  it.each(REFUSALS.map((r) => [r.architecture, r.where, r.sentence, r] as const))("%s, %s: %s", async (architecture, _, __, { changes, message }) => {
    const model = cellModel({ architecture, form: "gguf", type: "F32" }, 1, changes);
    const said = await wllama.ask(ggufOf(model), PROMPTS, TOKENS);
    expect("refusal" in said ? said.refusal : "it loaded the file").toMatch(message);
  });
});

it("DeepSeek-V2-Lite's own form, without low-rank queries in 27 layers, agrees with llama.cpp", async () => {
  // As many experts as are chosen: with 26 routers some choice would always be unclear.
  const model = cellModel({ architecture: "deepseek_v2", form: "gguf", type: "F32" }, 1, { config: { q_lora_rank: null, num_hidden_layers: 27, n_routed_experts: 3, num_experts_per_tok: 3 } });
  const said = await ask(model, "f32");
  const ours = await engineRows(await packToMemory(await model.open(), { quant: "source" }), said.sequences);
  const found = logitDifference(pairsOf(said, truthOf(model, said.sequences), ours, 0));
  expect([found.rows, found.sameToken]).toEqual([PROMPTS.length * TOKENS, found.clearTokens]);
  expect(found.relative).toBeLessThan(2e-2);
});
