// A trained model with a known text: stories260K, its dense FFN run as four experts of weight 1, greedy for 200 steps.
// Here in process with the scalar kernels; test/workerd/stories.test.ts runs the same through shards.
import { describe, expect, test } from "vitest";
import { argmax } from "../../../model/sampling.ts";
import { createScalarKernels } from "../../../model/scalar-kernels.ts";
import { directEngine } from "../../support/direct-engine.ts";
import { BOS, hasStories, readStories, STORIES_SKIP_REASON, STORIES_STEPS, STORIES_TEXT } from "../../support/llama2c.ts";

describe.skipIf(!hasStories)(hasStories ? "stories260K" : `stories260K: ${STORIES_SKIP_REASON}`, () => {
  test("writes its known text", async () => {
    const { config, weights, decode } = readStories(4);
    const kernels = createScalarKernels(new WebAssembly.Memory({ initial: 2 }));
    const { engine } = directEngine(config, weights, 65536, { kernels, contextLength: STORIES_STEPS });
    const timeline = engine.kv.open(STORIES_STEPS);
    const ids = [BOS];
    while (ids.length <= STORIES_STEPS) {
      const { logits } = await engine.step([{ timeline, ids: [ids.at(-1)!], logits: "last" }]);
      ids.push(argmax(logits[0]!));
    }
    expect(decode(ids)).toBe(STORIES_TEXT);
  });
});
