// A model run layer by layer, holding one layer at a time, gives the bits of one engine that holds all of it: for every architecture, whatever the
// chunks and however few experts fit; and it leaves no memory behind from one layer to the next.

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import { LayeredModel } from "../../../cli/layered-model.ts";
import { evaluate, openPackFrom } from "../../../cli/open-pack.ts";
import { checkpointWeights, packWeights } from "../../../cli/streamed-model.ts";
import { openPack } from "../../../formats/pack-reader.ts";
import { openTinyHuggingFace, packToMemory } from "../../support/pack-to-memory.ts";
import { TINY_ARCHITECTURES, tinyModel } from "../../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const IDS = Array.from({ length: 45 }, (_, i) => (i * 37 + 11) % 97);

/** Logits of every position, and the bytes in use after each layer. */
async function layered(weights: Parameters<typeof LayeredModel.open>[0], limits: { chunkTokens?: number; expertBytes?: number }) {
  const model = await LayeredModel.open(weights, IDS, limits);
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
