// What bench/compression.ts makes of its figures: medians over samples, rises over the model as published on the same text, marks of a page, plans drawn at an exact average.

import { describe, expect, it } from "vitest";
import { experiments, randomPlan } from "../../../bench/compression/experiments.ts";
import { filled } from "../../../bench/compression/pages.ts";
import { figuresOf, plot, table } from "../../../bench/compression/tables.ts";
import type { Measured } from "../../../bench/compression.ts";

const measured = (label: string, sample: number, meanNll: number, bytes: number, domain = "mix", steps: readonly string[][] = [["x"]]): Measured =>
  ({ group: "widths", label, sample, steps, quant: steps.length === 0 ? "f32" : null, domain, scoring: [], result: { meanNll, perplexity: Math.exp(meanNll), countedTokens: 10, bytes, leftOut: label === "b" ? 0.125 : 0 } });

describe("figures", () => {
  const document = { model: "m", measured: [
    measured("as published", 1, 2, 4096, "mix", []), measured("math: all", 1, 1, 4096, "math", []),
    measured("a", 1, 2.1, 2048), measured("a", 2, 2.4, 2048), measured("a", 3, 2.2, 2048), measured("b", 1, 1.5, 1024, "math"),
  ] };
  it("are medians of samples, and rise over what was published, on the same text", () => {
    expect(figuresOf(document)).toMatchObject([
      { label: "as published", samples: 1, rise: 0 }, { label: "math: all", rise: 0 },
      { label: "a", samples: 3, bytes: 2048, perplexity: Math.exp(2.2), least: Math.exp(2.1), most: Math.exp(2.4) }, { label: "b", samples: 1, rise: 0.5 },
    ]);
    expect(figuresOf(document)[2]!.rise).toBeCloseTo(0.2, 12);
    expect(table(figuresOf(document)).split("\n")[4]).toBe("| a | 2.0 KiB | 9.025 (8.166 to 11.023, 3) | +0.2000 |");
    expect(table(figuresOf(document)).split("\n")[5]).toBe("| b, 12.5 % of calls left out | 1.0 KiB | 4.482 | +0.5000 |");
  });
  it("without the model as published are refused", () => expect(() => figuresOf({ model: "m", measured: [measured("a", 1, 2, 1)] })).toThrow("Nothing was measured of the model as published on mix, which widths: a is compared with."));
  it("are drawn with every label", async () => {
    const svg = await plot(figuresOf(document), "title");
    for (const label of ["as published", "math: all", "title"]) expect(svg).toContain(label);
  });
});

it("a page takes text between its marks only", () => {
  expect(filled("a <!-- k: begin -->old<!-- k: end --> b", "k", "new")).toBe("a <!-- k: begin -->\nnew\n<!-- k: end --> b");
  expect(() => filled("a", "k", "new")).toThrow('The page has no marks "<!-- k: begin -->"');
});

describe("experiments", () => {
  const all = experiments({ nExperts: 16, nLayers: 3, hiddenSize: 64 });
  it("give every method that calibrates the tokens that its baseline has, five times", () => {
    const texts = (label: string): string[] => all.filter((of) => of.label === label).map(({ steps }) => steps.at(-1)!.slice(-6).join(" "));
    expect(texts("2.5 bits, PMQ")).toEqual(texts("2.5 bits, drawn"));
    expect(texts("2 bits, GPTQ")).toEqual(texts("2.5 bits, drawn"));
    expect(new Set(texts("2 bits, GPTQ")).size).toBe(5);
  });
  it("draw other plans for every seed, each with a quarter of 4 bits in every layer", () => {
    const plans = [1, 2, 3, 4, 5].map((seed) => randomPlan({ nExperts: 16, nLayers: 3 }, seed));
    expect(new Set(plans).size).toBe(5);
    for (const plan of plans) for (const layer of [0, 1, 2]) expect(plan.match(new RegExp(`exp\\[l${layer}e\\d+\\]=4`, "g"))!.length).toBe(4);
  });
});
