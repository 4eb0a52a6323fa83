// Row 38, EMoE (2024): a dense model's feed-forward parts cut into experts. With all experts it is the model it was, and stories260K writes its known text.

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../cli/build-kernels.mjs";
import { kernelModules, openPackFrom } from "../../cli/open-pack.ts";
import { openModelFolder } from "../../formats/canonical-model.ts";
import type { Checkpoint } from "../../formats/checkpoint.ts";
import { MemorySink, MemorySource } from "../../formats/memory-source.ts";
import type { Engine } from "../../model/engine.ts";
import { argmax } from "../../model/sampling.ts";
import { moefyModel, type MoefyOptions } from "../../passes/moefy-model.ts";
import { hasStories, readDenseStories, STORIES_SKIP_REASON } from "../support/llama2c.ts";
import { BOS, decodePieces, STORIES_STEPS, STORIES_TEXT } from "../support/llama2c-text.ts";
import { openTinyHuggingFace, packToMemory } from "../support/pack-to-memory.ts";
import { plainCheckpoint } from "../support/plain-checkpoint.ts";
import { tinyModel } from "../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

async function moefied(checkpoint: Checkpoint, options: Partial<MoefyOptions> & Pick<MoefyOptions, "nExperts" | "topK">): Promise<Checkpoint> {
  const sink = new MemorySink();
  await moefyModel(checkpoint, sink, kernelModules(), { split: "keys", router: "mean", seed: 1, sequences: [], ...options });
  return openModelFolder(new MemorySource(sink.files), "moefied");
}

const engineOf = async (checkpoint: Checkpoint): Promise<Engine> => (await openPackFrom((await packToMemory(checkpoint, { quant: "f32" })).source)).engine;

/** Logits of a sequence. */
async function logitsOf(engine: Engine, ids: readonly number[]): Promise<Float32Array> {
  const { logits } = await engine.step([{ timeline: engine.kv.open(ids.length), ids, logits: "all" }]);
  return logits[0]!;
}

describe.each(["llama", "qwen3"] as const)("%s", (architecture) => {
  const IDS = Array.from({ length: 40 }, (_, i) => (i * 23 + 9) % 97);

  it("with all experts is the dense model; each neuron is in one expert, whose router row is the mean of its gate rows", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel(architecture, 71), { dtype: "F32" });
    const model = await moefied(checkpoint, { nExperts: 6, topK: 6 });
    expect(model.config).toMatchObject({ nExperts: 6, expertIntermediateSize: 16, denseIntermediateSize: 0, layerFfns: ["moe", "moe"], router: { weigh: "one", score: "logits", topK: 6 } });
    const [dense, experts] = [await logitsOf(await engineOf(checkpoint), IDS), await logitsOf(await engineOf(model), IDS)];
    const size = Math.sqrt(dense.reduce((sum, x) => sum + x * x, 0) / dense.length);
    dense.forEach((x, i) => expect(Math.abs(x - experts[i]!)).toBeLessThan(1e-5 * size));
    for (const layer of [0, 1]) {
      const gate = await checkpoint.readF32(`layers.${layer}.shared.gate`);
      const rows = (values: Float32Array): string[] => Array.from({ length: values.length / 64 }, (_, r) => values.subarray(r * 64, (r + 1) * 64).join());
      const cut = (await Promise.all([0, 1, 2, 3, 4, 5].map((e) => model.readF32(`layers.${layer}.experts.${e}.gate`)))).map(rows);
      expect(cut.flat().sort()).toEqual(rows(gate).sort());
      const router = await model.readF32(`layers.${layer}.router`);
      for (let e = 0; e < 6; e++) {
        const own = await model.readF32(`layers.${layer}.experts.${e}.gate`);
        for (const i of [0, 31, 63]) expect(router[e * 64 + i]).toBeCloseTo(Array.from({ length: 16 }, (_, r) => own[r * 64 + i]!).reduce((a, b) => a + b, 0) / 16, 6);
      }
    }
  });
});

it("refuses models with experts, and cuts that do not divide", async () => {
  const refused = async (checkpoint: Checkpoint, nExperts: number, topK: number): Promise<unknown> => moefied(checkpoint, { nExperts, topK }).catch((error: Error) => error.message);
  const dense = await openTinyHuggingFace(tinyModel("llama", 1));
  expect(await refused(await openTinyHuggingFace(tinyModel("olmoe", 1)), 4, 2)).toBe("memory has 8 experts already; a dense model was expected.");
  expect(await refused(dense, 7, 2)).toBe("memory has feed-forward parts 96 wide, which 7 experts do not divide; expected 2 or more that do.");
  expect(await refused(dense, 4, 5)).toBe("5 experts per token of 4 were asked for; expected 1 to 4.");
});

describe.skipIf(!hasStories)(hasStories ? "stories260K" : `stories260K: ${STORIES_SKIP_REASON}`, () => {
  it("with all of its experts writes its known text", async () => {
    const { config, weights, pieces } = readDenseStories();
    const engine = await engineOf(await moefied(plainCheckpoint(config, weights), { nExperts: 4, topK: 4 }));
    const timeline = engine.kv.open(STORIES_STEPS);
    const ids = [BOS];
    while (ids.length <= STORIES_STEPS) ids.push(argmax((await engine.step([{ timeline, ids: [ids.at(-1)!], logits: "last" }])).logits[0]!));
    expect(decodePieces(pieces, ids)).toBe(STORIES_TEXT);
  });
});
