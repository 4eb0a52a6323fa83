// A model run layer by layer, holding one layer at a time, gives the bits of one engine that holds all of it: for every architecture, whatever the
// chunks and however few experts fit; and it leaves no memory behind from one layer to the next.

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import { LayeredModel } from "../../../passes/layered-model.ts";
import { evaluate, kernelModules, openPackFrom } from "../../../cli/open-pack.ts";
import { checkpointWeights, packWeights } from "../../../passes/streamed-model.ts";
import { openPack } from "../../../formats/pack-reader.ts";
import { openTinyHuggingFace, packToMemory } from "../../support/pack-to-memory.ts";
import { TINY_ARCHITECTURES, tinyModel } from "../../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const IDS = Array.from({ length: 45 }, (_, i) => (i * 37 + 11) % 97);

/** Logits of every position, and the bytes in use after each layer. */
async function layered(weights: Parameters<typeof LayeredModel.open>[0], limits: { chunkTokens?: number; expertBytes?: number }) {
  const model = await LayeredModel.open(weights, [IDS], kernelModules(), limits);
  const used: number[] = [];
  for (let layer = 0; layer < model.config.nLayers; layer++) {
    await model.runLayer(layer);
    used.push(model.usedBytes);
  }
  const head = await model.openHead();
  const logits = new Float32Array(IDS.length * model.config.vocabSize);
  for (let first = 0; first < IDS.length; first += head.maxTokens) {
    logits.set(head.logits(first, Math.min(head.maxTokens, IDS.length - first)), first * model.config.vocabSize);
  }
  return { logits, used };
}

it("gives several sequences what each would get alone, and tries a layer without going on", async () => {
  const checkpoint = await openTinyHuggingFace(tinyModel("qwen3_moe", 6));
  const weights = checkpointWeights(checkpoint, 64);
  const sequences = [IDS.slice(0, 13), IDS.slice(5, 45), IDS.slice(20, 21)];
  const together = await LayeredModel.open(weights, sequences, kernelModules(), { chunkTokens: 16 });
  const seen: [firstToken: number, nTokens: number][] = [];
  const tried = await together.tryLayer(0, { taps: [{ at: "selection", run: ({ nTokens, ids }, firstToken) => { expect(ids.length).toBe(2 * nTokens); seen.push([firstToken, nTokens]); } }] });
  expect(seen).toEqual([[0, 13], [13, 16], [29, 16], [45, 8], [53, 1]]);
  expect(await together.runLayer(0)).toEqual(tried);
  expect(together.rows).toEqual(tried);
  const alone = await Promise.all(sequences.map(async (ids) => {
    const model = await LayeredModel.open(weights, [ids], kernelModules());
    return model.runLayer(0);
  }));
  expect([...tried]).toEqual(alone.flatMap((rows) => [...rows]));
  await expect(LayeredModel.open(weights, [IDS, []], kernelModules())).rejects.toThrow("Sequences of 0 to 45 tokens were given; expected 1 to 64.");
});

describe.each(TINY_ARCHITECTURES)("%s", (architecture) => {
  it.each(["q4", "source"] as const)("a %s pack gives the bits of its engine", async (quant) => {
    const { source } = await packToMemory(await openTinyHuggingFace(tinyModel(architecture, 5)), { quant });
    const { engine } = await openPackFrom(source);
    const expected = new Float32Array(IDS.length * engine.config.vocabSize);
    await evaluate(engine, IDS, (position, logits) => expected.set(logits, position * engine.config.vocabSize));
    const weights = packWeights(source, (await openPack(source)).manifest);
    for (const limits of [{}, { chunkTokens: 7, expertBytes: 0 }]) {
      const { logits, used } = await layered(weights, limits);
      expect(logits).toEqual(expected);
      expect(used).toEqual(used.map(() => 0));
    }
  });

  it("its checkpoint in f32 gives the bits of an f32 pack", async () => {
    const model = tinyModel(architecture, 5);
    const checkpoint = await openTinyHuggingFace(model, { dtype: "F32", experts: "plain" });
    const { source } = await packToMemory(checkpoint, { quant: "f32", segmentWidth: 2048 });
    const { manifest } = await openPack(source);
    const of = await layered(checkpointWeights(checkpoint, manifest.contextLength), { chunkTokens: 16 });
    expect(of.logits).toEqual((await layered(packWeights(source, manifest), {})).logits);
  });
});
