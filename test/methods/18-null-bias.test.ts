// Row 18, AdaMoE (2024), as far as it goes without training: biases of null experts, calibrated so that a token takes so many true experts on average. The mean on the calibration's own texts, and on the demo model what the same
// number of experts costs on other texts when each token has its own, beside a fixed number for all: more. The operation itself is held to hand-computed numbers in test/node/model/interventions.test.ts.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../cli/build-kernels.mjs";
import { evaluateText } from "../../cli/commands/eval.ts";
import { openPack } from "../../cli/open-pack.ts";
import type { ModelConfig } from "../../model/config.ts";
import type { Engine } from "../../model/engine.ts";
import { NO_EXPERT } from "../../model/expert-batch.ts";
import type { Intervention } from "../../model/interventions.ts";
import { createScalarKernels } from "../../model/scalar-kernels.ts";
import { calibrateNullBias } from "../../passes/null-bias.ts";
import { dataFile } from "../support/data-folder.ts";
import { directEngine } from "../support/direct-engine.ts";
import { seededConfig, seededWeights } from "../support/seeded-model.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const config: ModelConfig = { ...seededConfig, router: { ...seededConfig.router, topK: 4, weigh: "renormalize" } };
const SEQUENCES = Array.from({ length: 5 }, (_, s) => Array.from({ length: 40 }, (_, i) => (i * i * 7 + 3 * i + 11 * s) % 61));

/** Experts a token takes, by layer, over these texts. */
async function meanActive(engine: Engine, sequences: readonly (readonly number[])[], interventions: readonly Intervention[]): Promise<number[]> {
  const { nLayers, router: { topK } } = engine.config;
  const [taken, places] = [new Float64Array(nLayers), new Float64Array(nLayers)];
  for (const ids of sequences) {
    const timeline = engine.kv.open(ids.length);
    while (timeline.length < ids.length) {
      await engine.step([{ timeline, ids: ids.slice(timeline.length, timeline.length + engine.maxChunkTokens), logits: "none", routing: { interventions } }], [{ at: "selection", run: ({ layer, ids: chosen }) => {
        taken[layer]! += chosen.filter((id) => id !== NO_EXPERT).length;
        places[layer]! += chosen.length;
      } }]);
    }
    engine.kv.close(timeline);
  }
  return Array.from(taken, (n, layer) => (topK * n) / places[layer]!);
}

describe("a calibration", () => {
  it.each([0.5, 1.7, 3, 3.9])("gives tokens %f experts on average, in every layer", async (target) => {
    const { engine } = directEngine(config, seededWeights(config, 18), 65536, { kernels: createScalarKernels(new WebAssembly.Memory({ initial: 2 })), contextLength: 64, maxChunkTokens: 16 });
    const { intervention, meanActive: said } = await calibrateNullBias(engine, SEQUENCES, target);
    const measured = await meanActive(engine, SEQUENCES, [intervention]);
    expect(measured).toEqual(said.map((mean) => expect.closeTo(mean, 9) as number));
    for (const mean of measured) expect(Math.abs(mean - target)).toBeLessThan(0.05);
  });

  it("of all of them has no bias, and of none or more is refused", async () => {
    const { engine } = directEngine(config, seededWeights(config, 18), 65536, { kernels: createScalarKernels(new WebAssembly.Memory({ initial: 2 })), contextLength: 64 });
    expect((await calibrateNullBias(engine, SEQUENCES, 4)).intervention).toEqual({ op: "null_bias", bias: [null, null] });
    await expect(calibrateNullBias(engine, SEQUENCES, 0)).rejects.toThrow("expected more than 0 and at most 4");
    await expect(calibrateNullBias(engine, SEQUENCES, 4.1)).rejects.toThrow("to take 4.1 experts on average");
    const sparse = { ...config, router: { ...config.router, select: "sparsemixer" as const, topK: 2, sparsemixerEpsilon: 0.1 } };
    const other = directEngine(sparse, seededWeights(sparse, 18), 65536, { kernels: createScalarKernels(new WebAssembly.Memory({ initial: 2 })), contextLength: 64 });
    await expect(calibrateNullBias(other.engine, SEQUENCES, 1)).rejects.toThrow("makes the weights while it chooses");
  });
});

const stories = dataFile("text/en_tinystories/tinystories_sample.txt.gz");
const drama = dataFile("text/en_shakespeare/tinyshakespeare.txt.gz");

describe.skipIf(stories === null || drama === null)("the demo model (needs the data folder's text/en_tinystories and text/en_shakespeare)", () => {
  it("hits the mean on other texts too, and loses more than with so many for every token: measured, docs/routing.md", { timeout: 600_000 }, async () => {
    const model = await openPack(join(import.meta.dirname, "../../demo/pack"));
    const read = (file: string, from: number, chars: number): string => gunzipSync(readFileSync(file)).toString("utf8").slice(from, from + chars);
    const ids = model.tokenizer!.encodeText([stories!, drama!].map((file) => read(file, 0, 12_000)).join("\n"));
    const held = [stories!, drama!].map((file) => read(file, 400_000, 5_000)).join("\n");
    const sequences = Array.from({ length: Math.floor(ids.length / 512) }, (_, i) => ids.slice(512 * i, 512 * (i + 1)));
    const loss = async (...interventions: Intervention[]): Promise<number> => (await evaluateText(model, held, true, "the held-out text", { interventions })).meanNll;
    const { intervention } = await calibrateNullBias(model.engine, sequences, 3);
    const mean = (await meanActive(model.engine, [model.tokenizer!.encodeText(held).slice(0, 512)], [intervention])).reduce((a, b) => a + b) / 4;
    expect(Math.abs(mean - 3)).toBeLessThan(0.1);
    const [whole, own, fixed] = [await loss(), await loss(intervention), await loss({ op: "top_k", k: 3 })];
    expect([whole, own, fixed]).toEqual([3.626, 3.693, 3.651].map((nats) => expect.closeTo(nats, 2) as number));
    // A softmax does not mind what all logits of a token share; a constant null logit does.
    expect(own - whole).toBeGreaterThan(2 * (fixed - whole));
  });
});
