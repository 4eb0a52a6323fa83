// A trained model with a known text: stories260K, its dense FFN run as four experts of weight 1, greedy for 200 steps.
// Here in process: with the scalar kernels and plain weights, and through an f32 pack with the WebAssembly kernels.
// test/workerd/stories.test.ts runs the same pack through shards.
import { describe, expect, test } from "vitest";
import { openPackFrom } from "../../../cli/open-pack.ts";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import type { Engine } from "../../../model/engine.ts";
import { argmax } from "../../../model/sampling.ts";
import { createScalarKernels } from "../../../model/scalar-kernels.ts";
import { directEngine } from "../../support/direct-engine.ts";
import { packToMemory } from "../../support/pack-to-memory.ts";
import { plainCheckpoint } from "../../support/plain-checkpoint.ts";
import { hasStories, readStories, STORIES_SKIP_REASON } from "../../support/llama2c.ts";
import { BOS, decodePieces, STORIES_STEPS, STORIES_TEXT } from "../../support/llama2c-text.ts";

async function greedy(engine: Engine): Promise<number[]> {
  const timeline = engine.kv.open(STORIES_STEPS);
  const ids = [BOS];
  while (ids.length <= STORIES_STEPS) {
    const { logits } = await engine.step([{ timeline, ids: [ids.at(-1)!], logits: "last" }]);
    ids.push(argmax(logits[0]!));
  }
  return ids;
}

describe.skipIf(!hasStories)(hasStories ? "stories260K writes its known text" : `stories260K: ${STORIES_SKIP_REASON}`, () => {
  test("with the scalar kernels", async () => {
    const { config, weights, pieces } = readStories(4);
    const kernels = createScalarKernels(new WebAssembly.Memory({ initial: 2 }));
    const { engine } = directEngine(config, weights, 65536, { kernels, contextLength: STORIES_STEPS });
    expect(decodePieces(pieces, await greedy(engine))).toBe(STORIES_TEXT);
  });

  test("through an f32 pack", async () => {
    await buildKernels({ log: () => {} });
    const { config, weights, pieces } = readStories(4);
    const { source } = await packToMemory(plainCheckpoint(config, weights), { quant: "f32" });
    const { engine, kernels } = await openPackFrom(source);
    expect(kernels.kernels.name).not.toBe("scalar");
    expect(decodePieces(pieces, await greedy(engine))).toBe(STORIES_TEXT);
  });
});
