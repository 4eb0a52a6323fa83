// Row 20, EvoMoE (X. Nie et al., 2021), at inference: every expert whose gate is above a bound is run and weighed by it, however many those are.

import { describe, expect, it } from "vitest";
import type { ModelConfig } from "../../model/config.ts";
import { route } from "../../model/definition.ts";
import { NO_EXPERT } from "../../model/expert-batch.ts";
import { Heap } from "../../model/heap.ts";
import type { RouterConfig } from "../../model/router-config.ts";
import { routeTokens } from "../../model/router.ts";
import { createScalarKernels } from "../../model/scalar-kernels.ts";
import type { Tap } from "../../model/taps.ts";
import { RESERVED_BYTES } from "../../model/wasm-kernels.ts";
import { directEngine } from "../support/direct-engine.ts";
import { seededConfig, seededWeights } from "../support/seeded-model.ts";

const f = Math.fround;
const gate = (least: number, temperature: number, topK = 4): RouterConfig => ({ ...seededConfig.router, topK, select: "threshold", threshold: { least, temperature } });

function routed(router: RouterConfig, logits: readonly number[]): { ids: number[]; weights: number[] } {
  const kernels = createScalarKernels(new WebAssembly.Memory({ initial: 2 }));
  const heap = new Heap(kernels.memory, 1024, 65536);
  const [at, ids, weights] = Array.from({ length: 3 }, () => heap.alloc(256, "test")) as [number, number, number];
  heap.f32.set(logits, at / 4);
  routeTokens(kernels, heap, router, { logits: at, stride: 32, ids, weights, rankedIds: 0, rankedWeights: 0, branchIds: 0, branchWeights: 0 }, 1, logits.length, 0);
  return { ids: [...heap.u32.subarray(ids / 4, ids / 4 + router.topK)], weights: [...heap.f32.subarray(weights / 4, weights / 4 + router.topK)] };
}

describe("by hand", () => {
  // exp of these are 8, 4, 2 and 1, of 15.
  const logits = [0, Math.log(8), Math.log(2), Math.log(4)];

  it("those above the bound are run, in rank order, weighed by what they are", () => {
    const near = (found: readonly number[], expected: readonly number[]) => found.forEach((value, i) => expect(Math.abs(value - expected[i]!)).toBeLessThan(1e-6));
    const half = routed(gate(0.2, 1), logits);
    expect(half.ids).toEqual([1, 3, NO_EXPERT, NO_EXPERT]);
    near(half.weights, [8 / 15, 4 / 15, 0, 0]);
    const most = routed(gate(0.1, 1), logits);
    expect(most.ids).toEqual([1, 3, 2, NO_EXPERT]);
    expect(most.weights[3]).toBe(0);
  });

  it("the first stays where none is above, and no more than topK where more are", () => {
    expect(routed(gate(0.9, 1), logits).ids).toEqual([1, NO_EXPERT, NO_EXPERT, NO_EXPERT]);
    expect(routed(gate(0.001, 1, 2), logits).ids).toEqual([1, 3]);
  });

  it("a gate of exactly the bound is not above it", () => {
    // Four equal logits: each gate is a quarter, exactly.
    expect(routed(gate(0.25, 1), [1, 1, 1, 1]).ids).toEqual([0, NO_EXPERT, NO_EXPERT, NO_EXPERT]);
    expect(routed(gate(0.2499, 1), [1, 1, 1, 1]).ids).toEqual([0, 1, 2, 3]);
  });

  it("is the authors' function with its noise off: softmax of logits over the temperature, zero where not above 0.001", () => {
    let state = 9;
    const next = (): number => (state = (state * 48271) % 0x7fffffff) / 0x7fffffff;
    for (let i = 0; i < 200; i++) {
      const own = Array.from({ length: 8 }, () => 12 * next() - 6);
      const tau = 0.3 + 2 * next();
      const e = own.map((z) => Math.exp(z / tau - Math.max(...own) / tau));
      const gates = e.map((x) => x / e.reduce((a, b) => a + b, 0));
      const expected = gates.map((p) => (p > 0.001 ? p : 0));
      if (gates.some((p) => Math.abs(p - 0.001) < 1e-7)) continue;
      const { ids, weights } = routed(gate(0.001, tau, 8), own);
      const found = new Array<number>(8).fill(0);
      ids.forEach((id, rank) => { if (id !== NO_EXPERT) found[id] = weights[rank]!; });
      found.forEach((weight, id) => expect(Math.abs(weight - expected[id]!)).toBeLessThan(1e-6));
      const definition = route(gate(0.001, tau, 8), own);
      definition.ids.forEach((id, rank) => expect(Math.abs(definition.weights[rank]! - expected[id]!)).toBeLessThan(1e-12));
    }
  });
});

it("from one expert to all as the temperature rises: the mean count grows, and every token of a layer may have its own", async () => {
  const counts: number[] = [];
  const kinds = new Set<number>();
  for (const temperature of [0.05, 0.3, 1, 3, 10, 1000]) {
    const config: ModelConfig = { ...seededConfig, router: gate(f(0.1), temperature, 8) };
    const memory = new WebAssembly.Memory({ initial: 16 });
    const { engine } = directEngine(config, seededWeights(config, 5), RESERVED_BYTES, { kernels: createScalarKernels(memory), contextLength: 64, maxChunkTokens: 32 });
    let [chosen, tokens] = [0, 0];
    const tap: Tap = { at: "selection", run: ({ ids, nTokens }) => {
      tokens += nTokens;
      for (let t = 0; t < nTokens; t++) {
        const own = ids.subarray(t * 8, (t + 1) * 8).filter((id) => id !== NO_EXPERT).length;
        kinds.add(own);
        chosen += own;
      }
    } };
    await engine.step([{ timeline: engine.kv.open(20), ids: Array.from({ length: 20 }, (_, i) => (i * 17 + 3) % 61), logits: "none" }], [tap]);
    counts.push(chosen / tokens);
  }
  expect(counts[0]).toBeLessThan(1.05);
  expect(counts.at(-1)).toBe(8);
  counts.slice(1).forEach((count, i) => expect(count).toBeGreaterThanOrEqual(counts[i]!));
  expect(kinds.size).toBeGreaterThan(4);
});
