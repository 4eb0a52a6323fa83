// Experts that come and go give the bits of experts that stay, within their budget, and a failed read leaves nothing behind.

import { describe, expect, it } from "vitest";
import { ExpertRunner } from "../../../model/local-experts.ts";
import { createScalarKernels } from "../../../model/scalar-kernels.ts";
import { StreamedExperts, type FetchedSegment } from "../../../model/streamed-experts.ts";
import { RESERVED_BYTES } from "../../../model/wasm-kernels.ts";
import { segmentBytes } from "../../../model/kernels.ts";
import { directEngine, logitsOf } from "../../support/direct-engine.ts";
import { seededConfig as config, seededWeights } from "../../support/seeded-model.ts";

const IDS = [3, 17, 60, 4, 29, 8, 55, 31, 12, 0, 41, 7];
const kernels = () => createScalarKernels(new WebAssembly.Memory({ initial: 16 }));
const bytes = segmentBytes("swiglu", "f32", "f32", config.hiddenSize, config.hiddenSize, config.expertIntermediateSize);

/** An engine whose experts are copied from `of` when asked for; `loads` notes each. */
function streamed(budgetBytes: number, loads: string[], fail: (name: string) => boolean = () => false) {
  let experts: StreamedExperts | null = null;
  const of = directEngine(config, seededWeights(config, 9), RESERVED_BYTES, {
    kernels: kernels(), contextLength: 64,
    experts: (_, heap) => {
      const fetch = (layer: number, expert: number, segment: number): FetchedSegment => {
        const { ptr, ...weights } = of.lookup(layer, expert, segment)!;
        return {
          ...weights, bytes,
          load: async (to) => {
            if (fail(`${layer}.${expert}`)) throw new Error(`Expert ${expert} of layer ${layer} could not be read.`);
            loads.push(`${layer}.${expert}`);
            heap.u8.copyWithin(to, ptr, ptr + bytes);
          },
        };
      };
      return experts = new StreamedExperts(new ExpertRunner(createScalarKernels(heap.memory), heap, config, config.expertIntermediateSize, 16), heap, budgetBytes, fetch);
    },
  });
  return { ...of, experts: experts! };
}

describe("streamed experts", () => {
  it("give the same bits within any budget, and read again what had to leave", async () => {
    const whole = await logitsOf(directEngine(config, seededWeights(config, 9), RESERVED_BYTES, { kernels: kernels(), contextLength: 64 }).engine, IDS, [5]);
    const counts: number[] = [];
    for (const budget of [0, 3 * bytes, 1000 * bytes]) {
      const loads: string[] = [];
      const { engine, heap } = streamed(budget, loads);
      const before = heap.usedBytes;
      expect(await logitsOf(engine, IDS, [5])).toEqual(whole);
      expect(heap.usedBytes - before).toBeLessThanOrEqual(Math.max(budget, bytes));
      counts.push(loads.length);
      if (budget === 1000 * bytes) expect(new Set(loads).size).toBe(loads.length);
    }
    expect(counts[0]).toBeGreaterThanOrEqual(counts[1]!);
    expect(counts[1]).toBeGreaterThan(counts[2]!);
  });

  it("give a failed read's memory back and go on afterwards", async () => {
    const loads: string[] = [];
    let broken = true;
    const { engine, heap } = streamed(1000 * bytes, loads, (name) => broken && name.startsWith("1."));
    const timeline = engine.kv.open(4);
    const before = heap.usedBytes;
    await expect(engine.step([{ timeline, ids: [1, 2], logits: "last" }])).rejects.toThrow(/of layer 1 could not be read/);
    const kept = loads.length;
    expect(heap.usedBytes - before).toBe(kept * bytes);
    broken = false;
    await engine.step([{ timeline, ids: [1, 2], logits: "last" }]);
    expect(timeline.length).toBe(2);
  });
});
