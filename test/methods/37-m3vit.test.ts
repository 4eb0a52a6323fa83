// Row 37, M3ViT (H. Liang et al., 2022): a gate for each task, and experts in their own order: tokens wait for an expert, each is loaded once and leaves again, two buffers
// serve any number of them. A switch of the task loads nothing of the router.

import { describe, expect, it } from "vitest";
import type { ModelConfig } from "../../model/config.ts";
import { forwardDefinition } from "../../model/definition.ts";
import { segmentBytes } from "../../model/kernels.ts";
import { ExpertRunner, type SegmentLookup } from "../../model/local-experts.ts";
import { createScalarKernels } from "../../model/scalar-kernels.ts";
import { StreamedExperts } from "../../model/streamed-experts.ts";
import type { Tap } from "../../model/taps.ts";
import { RESERVED_BYTES } from "../../model/wasm-kernels.ts";
import { directEngine, logitsOf } from "../support/direct-engine.ts";
import { seededConfig, seededWeights } from "../support/seeded-model.ts";

/** M3ViT's: the 4 largest of 16. */
const config: ModelConfig = { ...seededConfig, nExperts: 16, router: { ...seededConfig.router, gate: { kind: "tasks", nTasks: 3 }, topK: 4 } };
const IDS = Array.from({ length: 14 }, (_, i) => (i * 23 + 5) % 61);
const EXPERT_BYTES = segmentBytes("swiglu", "f32", "f32", config.hiddenSize, config.hiddenSize, config.expertIntermediateSize);

/** An engine whose experts are copied into a budget when they are asked for; what was copied, and the most that lay there at once. */
function streamed(budgetBytes: number) {
  const kernels = createScalarKernels(new WebAssembly.Memory({ initial: 16 }));
  const loads: string[] = [];
  let most = 0;
  let lookup: SegmentLookup = () => undefined;
  const { engine, ...made } = directEngine(config, seededWeights(config, 5), RESERVED_BYTES, {
    kernels, contextLength: 64, experts: (_, heap) => new StreamedExperts(new ExpertRunner(kernels, heap, config, config.expertIntermediateSize, 16), heap, budgetBytes, (layer, expert, segment) => {
      const { ptr: from, ...of } = lookup(layer, expert, segment)!;
      return { ...of, bytes: EXPERT_BYTES, load: async (to) => {
        loads.push(`${layer}.${expert}`);
        heap.u8.copyWithin(to, from, from + EXPERT_BYTES);
        most = Math.max(most, heap.usedBytes);
      } };
    }),
  });
  lookup = made.lookup;
  const timeline = engine.kv.open(IDS.length);
  const before = made.heap.usedBytes;
  return { engine, timeline, loads, mostBytes: () => most - before };
}

const plain = () => directEngine(config, seededWeights(config, 5), RESERVED_BYTES, { kernels: createScalarKernels(new WebAssembly.Memory({ initial: 16 })), contextLength: 64 }).engine;

describe("tasks", () => {
  it("each has experts of its own, as the definition says", async () => {
    const chosen = new Map<number, string>();
    for (const task of [0, 1, 2]) {
      const ids: number[] = [];
      const engine = plain();
      const tap: Tap = { at: "selection", run: (event) => ids.push(...event.ids) };
      const { logits: [logits] } = await engine.step([{ timeline: engine.kv.open(IDS.length), ids: IDS, logits: "all", answers: { task } }], [tap]);
      const expected = forwardDefinition(config, seededWeights(config, 5), IDS, IDS.length, { task }).logits.flat();
      const scale = Math.max(...expected.map(Math.abs));
      expected.forEach((value, i) => expect(Math.abs(logits![i]! - value) / scale).toBeLessThan(2e-5));
      chosen.set(task, ids.join());
    }
    expect(new Set(chosen.values()).size).toBe(3);
  });

  it("requests of different tasks in one step get what each gets alone", async () => {
    const engine = plain();
    const timelines = [0, 1, 2].map(() => engine.kv.open(IDS.length));
    const { logits } = await engine.step([0, 1].map((task) => ({ timeline: timelines[task]!, ids: IDS.slice(0, 8), logits: "all" as const, answers: { task } })));
    for (const task of [0, 1]) expect(logits[task]).toEqual(await logitsOf(plain(), IDS.slice(0, 8), [8], { answers: { task } }));
  });

  it("a task that is not said, or that there is not, is refused before anything is computed", async () => {
    const engine = plain();
    const timeline = engine.kv.open(4);
    for (const [answers, message] of [[undefined, "not said"], [{ task: 3 }, "task is 3"], [{ task: 0.5 }, "0.5"]] as const) {
      await expect(engine.step([{ timeline, ids: [1], logits: "last", ...(answers === undefined ? {} : { answers }) }])).rejects.toThrow(message);
    }
    expect(timeline.length).toBe(0);
    const other = directEngine(seededConfig, seededWeights(seededConfig, 5), RESERVED_BYTES, { kernels: createScalarKernels(new WebAssembly.Memory({ initial: 16 })), contextLength: 64 }).engine;
    await expect(other.step([{ timeline: other.kv.open(4), ids: [1], logits: "last", answers: { task: 0 } }])).rejects.toThrow("know no tasks");
  });
});

describe("expert by expert", () => {
  it("every expert of a step is loaded once, into room for two, and the bits are those of token by token with all of them there", async () => {
    const { engine, timeline, loads, mostBytes } = streamed(2 * EXPERT_BYTES);
    const distinct = new Set<string>();
    const tap: Tap = { at: "selection", run: ({ layer, ids }) => ids.forEach((id) => distinct.add(`${layer}.${id}`)) };
    const { logits: [logits] } = await engine.step([{ timeline, ids: IDS, logits: "all", answers: { task: 1 } }], [tap]);
    expect(loads.length).toBe(distinct.size);
    expect(new Set(loads)).toEqual(distinct);
    expect(distinct.size).toBeGreaterThan(12);
    // Alignment of the heap aside.
    expect(mostBytes()).toBeLessThanOrEqual(2 * EXPERT_BYTES + 64);
    expect(logits).toEqual(await logitsOf(plain(), IDS, [1], { answers: { task: 1 } }));
  });

  it("a switch of the task loads no byte of a router: all of them are part of the trunk", async () => {
    const { engine, timeline, loads, mostBytes } = streamed(64 * EXPERT_BYTES);
    for (const task of [0, 1, 2, 0]) {
      timeline.length = 0;
      await engine.step([{ timeline, ids: IDS.slice(0, 4), logits: "last", answers: { task } }]);
    }
    // What was taken since is experts alone, each once.
    expect(new Set(loads).size).toBe(loads.length);
    expect(mostBytes()).toBe(loads.length * EXPERT_BYTES);
  });
});
