// Every kind of routing against PyTorch: tiny models and their logits in float64, written by demo/routing/golden-logits.py, which shares no line with the engine or
// the definition. Weights are drawn alike on both sides (seeded-model.ts), and a few sums show that they are the same.

import { describe, expect, it } from "vitest";
import { freezeConfig } from "../../../model/architectures/common.ts";
import { NO_EXPERT } from "../../../model/expert-batch.ts";
import type { GateAnswers } from "../../../model/gate-stage.ts";
import { createScalarKernels } from "../../../model/scalar-kernels.ts";
import type { Tap } from "../../../model/taps.ts";
import { RESERVED_BYTES } from "../../../model/wasm-kernels.ts";
import { directEngine } from "../../support/direct-engine.ts";
import { goldenRoutings, goldenWeights } from "../../support/routing-golden.ts";

describe.each(goldenRoutings())("$name", (golden) => {
  const { config, ids, moe } = golden;
  const answers: GateAnswers = { ...(moe.task === undefined ? {} : { task: moe.task }), ...(moe.condition === undefined ? {} : { condition: Float32Array.from(moe.condition) }) };

  it("has the weights that PyTorch had", () => {
    freezeConfig("the golden model", structuredClone(config));
    const weights = goldenWeights(golden);
    expect(Object.keys(golden.sums).length).toBeGreaterThan(0);
    for (const [name, sum] of Object.entries(golden.sums)) {
      const { values } = weights(name);
      let found = 0;
      for (let i = 0; i < values.length; i++) found += values[i]!;
      expect(Math.abs(found - sum), name).toBeLessThan(1e-4);
    }
  });

  it("gives PyTorch's experts, weights and logits", async () => {
    const memory = new WebAssembly.Memory({ initial: 16 });
    const { engine } = directEngine(config, goldenWeights(golden), RESERVED_BYTES, { kernels: createScalarKernels(memory), contextLength: 32 });
    const routing: [number, number][][][] = [];
    const tap: Tap = { at: "selection", run: ({ ids: chosen, weights, nTokens }) => {
      const k = chosen.length / nTokens;
      routing.push(Array.from({ length: nTokens }, (_, t) => Array.from(chosen.subarray(t * k, (t + 1) * k), (id, rank): [number, number] => [id, weights[t * k + rank]!]).filter(([id]) => id !== NO_EXPERT).sort(([a], [b]) => a - b)));
    } };
    const timeline = engine.kv.open(ids.length);
    const { logits: [logits] } = await engine.step([{ timeline, ids, logits: "all", answers }], [tap]);
    golden.routing.forEach((layer, l) => layer.forEach((token, t) => {
      expect(routing[l]![t]!.map(([id]) => id), `experts of layer ${l}, token ${t}`).toEqual(token.map(([id]) => id));
      token.forEach(([, weight], i) => expect(Math.abs(routing[l]![t]![i]![1] - weight)).toBeLessThan(1e-5));
    }));
    const scale = Math.max(...golden.logits.map(Math.abs));
    golden.logits.forEach((value, i) => expect(Math.abs(logits![i]! - value) / scale, `logit ${i}`).toBeLessThan(1e-5));
  });
});
