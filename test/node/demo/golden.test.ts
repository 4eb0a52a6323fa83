// The demo model against the code that trained it: the engine's f32 logits equal PyTorch's to float rounding, and the int8 pack that ships is
// made from these very weights.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import { FolderSource } from "../../../cli/file-source.ts";
import { evaluate, openPack, openPackFrom, type LocalModel } from "../../../cli/open-pack.ts";
import { openHuggingFace } from "../../../formats/huggingface.ts";
import { packToMemory } from "../../support/pack-to-memory.ts";

const DEMO = join(import.meta.dirname, "../../../demo");
const golden = JSON.parse(readFileSync(join(DEMO, "train-golden.json"), "utf8")) as { sequences: { ids: number[]; lastLogits: number[] }[] };
const checkpoint = () => openHuggingFace(new FolderSource(join(DEMO, "model")), "model");

async function lastLogits({ engine }: LocalModel, ids: number[]): Promise<Float32Array> {
  let last = new Float32Array(0);
  await evaluate(engine, ids, (_, logits) => { last = logits.slice(); });
  return last;
}

describe("the demo model", () => {
  beforeAll(() => buildKernels({ log: () => {} }));

  test("gives the training code's logits in f32", async () => {
    const model = await openPackFrom((await packToMemory(await checkpoint(), { id: "demo", quant: "f32" })).source);
    for (const { ids, lastLogits: expected } of golden.sequences) {
      const found = await lastLogits(model, ids);
      const scale = Math.max(1, ...expected.map(Math.abs));
      expected.forEach((value, id) => expect(Math.abs(found[id]! - value)).toBeLessThan(1e-4 * scale));
    }
  });

  test("ships as the int8 pack of its weights, whose choices stay close", async () => {
    const { packHash } = (await packToMemory(await checkpoint(), { id: "demo", quant: "q8" })).summary;
    const model = await openPack(join(DEMO, "pack"));
    expect(model.packHash).toBe(packHash);
    for (const { ids, lastLogits: expected } of golden.sequences) {
      const found = await lastLogits(model, ids);
      const error = Math.sqrt(expected.reduce((sum, value, id) => sum + (value - found[id]!) ** 2, 0));
      expect(error / Math.sqrt(expected.reduce((sum, value) => sum + value ** 2, 0))).toBeLessThan(0.05);
    }
  });
});
