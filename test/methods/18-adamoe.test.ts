// Row 18, AdaMoE (Z. Zeng et al., 2024): null experts take places and compute nothing, so that a token takes as many true ones as it needs. As the authors' code chooses and weighs; beside a
// model that has none, bit for bit; and put beside a trained model's experts without training (compress nulls): the mean is met, and the demo loses less than with so many for every token.

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../cli/build-kernels.mjs";
import { kernelModules, openPackFrom } from "../../cli/open-pack.ts";
import { openModelFolder } from "../../formats/canonical-model.ts";
import type { Checkpoint } from "../../formats/checkpoint.ts";
import { MemorySink, MemorySource } from "../../formats/memory-source.ts";
import { PatchedMatrices } from "../../formats/patched-matrices.ts";
import { freezeConfig } from "../../model/architectures/common.ts";
import type { ModelConfig } from "../../model/config.ts";
import { type DefinitionMatrix, forwardDefinition, softmax } from "../../model/definition.ts";
import { NO_EXPERT } from "../../model/expert-batch.ts";
import { Heap } from "../../model/heap.ts";
import type { RouterConfig } from "../../model/router-config.ts";
import { routeTokens } from "../../model/router.ts";
import { createScalarKernels } from "../../model/scalar-kernels.ts";
import type { Tap } from "../../model/taps.ts";
import { RESERVED_BYTES } from "../../model/wasm-kernels.ts";
import { NULL_ROWS, NULL_WEIGHTS, nullExpertsModel, type NullExpertsOptions } from "../../passes/null-experts-model.ts";
import { demoWindows, missingTexts, openDemo } from "../support/demo-texts.ts";
import { directEngine, logitsOf, type PlainWeights } from "../support/direct-engine.ts";
import { meanNll } from "../support/mean-nll.ts";
import { packToMemory } from "../support/pack-to-memory.ts";
import { plainCheckpoint } from "../support/plain-checkpoint.ts";
import { seededConfig, seededWeights } from "../support/seeded-model.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const IDS = [3, 17, 60, 4, 4, 29, 8, 55, 31, 12, 0, 41, 7];
const router = (over: Partial<RouterConfig>): RouterConfig => ({ ...seededConfig.router, weigh: "renormalize", ...over });
const engineOf = (config: ModelConfig, weights: PlainWeights) => directEngine(config, weights, RESERVED_BYTES, { kernels: createScalarKernels(new WebAssembly.Memory({ initial: 16 })), contextLength: 64 }).engine;

function routed(r: RouterConfig, nTrue: number, logits: readonly number[]): { ids: number[]; weights: number[] } {
  const kernels = createScalarKernels(new WebAssembly.Memory({ initial: 2 }));
  const heap = new Heap(kernels.memory, 1024, 65536);
  const [at, ids, weights] = Array.from({ length: 3 }, () => heap.alloc(256, "test")) as [number, number, number];
  heap.f32.set(logits, at / 4);
  routeTokens(kernels, heap, r, { logits: at, stride: 128, ids, weights, rankedIds: 0, rankedWeights: 0, branchIds: 0, branchWeights: 0 }, 1, nTrue, 0);
  return { ids: [...heap.u32.subarray(ids / 4, ids / 4 + r.topK)], weights: [...heap.f32.subarray(weights / 4, weights / 4 + r.topK)] };
}
const near = (found: readonly number[], expected: readonly number[]): void => {
  expect(found.length).toBe(expected.length);
  found.forEach((value, i) => expect(Math.abs(value - expected[i]!)).toBeLessThan(1e-6));
};

describe("by hand", () => {
  // Gates 1, 8, 2, 4 of true experts, 6 and 3 of null ones, of 24.
  const logits = [1, 8, 2, 4, 6, 3].map(Math.log);

  it("null experts take places; weights are a sum over the true ones; what is missing stands last", () => {
    const { ids, weights } = routed(router({ topK: 4, nullExperts: 2 }), 4, logits);
    expect(ids).toEqual([1, 3, NO_EXPERT, NO_EXPERT]);
    near(weights, [8 / 12, 4 / 12, 0, 0]);
  });

  it("scores that are weights as they are become a softmax over the true experts", () => {
    near(routed(router({ topK: 4, nullExperts: 2, weigh: "score" }), 4, logits).weights, [8 / 15, 4 / 15, 0, 0]);
    near(routed(router({ topK: 4, nullExperts: 2, score: "logits", weigh: "softmax-selected" }), 4, logits).weights, [8 / 12, 4 / 12, 0, 0]);
  });

  it("where null experts keep their weights, these are nobody's", () => {
    near(routed(router({ topK: 4, nullExperts: 2, nullWeights: "kept" }), 4, logits).weights, [8 / 21, 4 / 21, 0, 0]);
    near(routed(router({ topK: 4, nullExperts: 2, nullWeights: "kept", weigh: "score" }), 4, logits).weights, [8 / 24, 4 / 24, 0, 0]);
  });

  it("a token may have none at all", () => {
    const { ids, weights } = routed(router({ topK: 2, nullExperts: 2 }), 4, [0, 0, 0, 0, 5, 6]);
    expect(ids).toEqual([NO_EXPERT, NO_EXPERT]);
    expect(weights).toEqual([0, 0]);
  });

  it("is the authors' gate: softmax over all, the k largest, null ones struck out, the rest over their sum", () => {
    let state = 5;
    const next = (): number => (state = (state * 48271) % 0x7fffffff) / 0x7fffffff;
    for (let i = 0; i < 200; i++) {
      const own = Array.from({ length: 8 + 16 }, () => Math.fround(8 * next() - 4));
      const p = softmax(own);
      const chosen = p.map((_, e) => e).sort((a, b) => p[b]! - p[a]!).slice(0, 5).filter((e) => e < 8);
      const sum = chosen.reduce((total, e) => total + p[e]!, 0);
      const { ids, weights } = routed(router({ topK: 5, nullExperts: 16 }), 8, own);
      expect(ids.filter((id) => id !== NO_EXPERT)).toEqual(chosen);
      near(weights.slice(0, chosen.length), chosen.map((e) => p[e]! / sum));
    }
  });
});

it("null experts that nobody chooses change no bit, whatever makes the weights", async () => {
  for (const over of [{ weigh: "renormalize" }, { score: "logits", weigh: "softmax-selected" }, { score: "sigmoid", weigh: "score" }] as const) {
    const plain: ModelConfig = { ...seededConfig, router: router({ ...over, logitBias: true }) };
    const own = seededWeights(plain, 7);
    const weights: PlainWeights = (name): DefinitionMatrix => {
      const m = own(name);
      if (name.endsWith(".router")) return { ...m, rows: 12, values: Float32Array.from([...Array.from(m.values), ...new Array<number>(4 * m.cols).fill(0)]) };
      return name.endsWith(".routerBias") ? { ...m, cols: 12, values: Float32Array.from([...Array.from(m.values), ...new Array<number>(4).fill(-1e30)]) } : m;
    };
    const nulls: ModelConfig = { ...plain, router: { ...plain.router, nullExperts: 4 } };
    expect(await logitsOf(engineOf(nulls, weights), IDS, [5, 3])).toEqual(await logitsOf(engineOf(plain, own), IDS, [5, 3]));
  }
});

it("a layer whose tokens all do without passes only the residual on, and asks nobody", async () => {
  const config: ModelConfig = { ...seededConfig, router: router({ nullExperts: 2, logitBias: true }) };
  const own = seededWeights(config, 7);
  const weights: PlainWeights = (name) => (name === "layers.1.routerBias" ? { rows: 1, cols: 10, values: Float32Array.from({ length: 10 }, (_, e) => (e < 8 ? -1e30 : 0)) } : own(name));
  const engine = engineOf(config, weights);
  const [inputs, outputs]: number[][] = [[], []];
  let groups = -1;
  const taps: Tap[] = [
    { at: "input", layers: [1], run: ({ values }) => inputs!.push(...values) }, { at: "layerOutput", layers: [1], run: ({ values }) => outputs!.push(...values) },
    { at: "expertOutput", layers: [1], run: ({ batch }) => { groups = batch!.nGroups; } },
  ];
  const { logits: [logits] } = await engine.step([{ timeline: engine.kv.open(16), ids: IDS, logits: "all" }], taps);
  expect(groups).toBe(0);
  expect(outputs).toEqual(inputs);
  const expected = forwardDefinition(config, weights, IDS).logits.flat();
  const scale = Math.max(...expected.map(Math.abs));
  expected.forEach((value, i) => expect(Math.abs(logits![i]! - value) / scale).toBeLessThan(2e-5));
});

/** The model with null experts, and the mean of true ones that tokens of `texts` take. */
async function withNulls(checkpoint: Checkpoint, options: NullExpertsOptions, texts: readonly (readonly number[])[]) {
  const sink = new MemorySink();
  const report = await nullExpertsModel(checkpoint, sink, kernelModules(), options);
  const made = await openModelFolder(new MemorySource(sink.files), "nulls");
  const { engine } = await openPackFrom((await packToMemory(made, { quant: "f32" })).source);
  let [taken, places] = [0, 0];
  for (const ids of texts) {
    const timeline = engine.kv.open(ids.length);
    for (let done = 0; done < ids.length; done += 64) {
      await engine.step([{ timeline, ids: ids.slice(done, done + 64), logits: "none" }], [{ at: "selection", run: ({ ids: chosen, nTokens }) => {
        taken += chosen.filter((id) => id !== NO_EXPERT).length;
        places += nTokens;
      } }]);
    }
    engine.kv.close(timeline);
  }
  return { report, made, active: taken / places };
}

describe("put beside a trained model's experts", () => {
  const config: ModelConfig = { ...seededConfig, router: router({ topK: 4 }) };
  const sequences = Array.from({ length: 6 }, (_, s) => Array.from({ length: 40 }, (_, i) => (i * i * 7 + 3 * i + 11 * s) % 61));
  const checkpoint = () => plainCheckpoint(config, seededWeights(config, 18));

  it.each(NULL_ROWS.flatMap((rows) => NULL_WEIGHTS.map((weights) => [rows, weights] as const)))("%s rows, weights %s: tokens take what was asked for on average, as the report says", async (rows, weights) => {
    for (const target of [1.7, 3]) {
      const { report, active, made } = await withNulls(checkpoint(), { active: target, rows, weights, sequences }, sequences);
      expect(report).toMatchObject({ rows, weights, nullExperts: 4 });
      expect(Math.abs(report.active - target)).toBeLessThan(0.05);
      // Later layers see what the earlier ones gave with all experts.
      expect(Math.abs(active - target)).toBeLessThan(0.35);
      expect(made.config.router).toMatchObject({ nullExperts: 4, logitBias: true, topK: 4 });
    }
  });

  it("of several ways the one that loses less is taken, and what cannot be is refused", async () => {
    const { report } = await withNulls(checkpoint(), { active: 3, rows: null, weights: null, sequences }, []);
    const losses = await Promise.all(NULL_ROWS.flatMap((rows) => NULL_WEIGHTS.map(async (weights) => {
      const { report: { layers } } = await withNulls(checkpoint(), { active: 3, rows, weights, sequences }, []);
      return { rows, weights, loss: layers.reduce((sum, { loss }) => sum + loss, 0) };
    })));
    const least = losses.reduce((best, one) => (one.loss < best.loss ? one : best));
    expect([report.rows, report.weights]).toEqual([least.rows, least.weights]);
    const refused = (of: Checkpoint, active = 3) => expect(nullExpertsModel(of, new MemorySink(), kernelModules(), { active, rows: null, weights: null, sequences })).rejects;
    await refused(checkpoint(), 4).toThrow("expected more than 0 and fewer than 4");
    const sparse: ModelConfig = { ...seededConfig, router: { ...seededConfig.router, score: "logits", select: "sparsemixer", sparsemixerEpsilon: 0.01 } };
    await refused(plainCheckpoint(sparse, seededWeights(sparse, 1)), 1).toThrow("expected selection by top-k");
  });
});

describe.skipIf(missingTexts !== null)(`the demo model (${missingTexts ?? "with its texts"})`, () => {
  it("with 3.0 experts on average predicts better than with 3 for every token", { timeout: 600_000 }, async () => {
    const demo = await openDemo();
    const windows = (first: number, count: number) => (["stories", "drama", "code", "chinese"] as const).flatMap((name) => demoWindows(demo, name, { length: 192, count, first, every: 9_000 }));
    const [sequences, held] = [windows(1_000, 8), windows(100_000, 2)];
    const { made, active, report } = await withNulls(demo, { active: 3, rows: null, weights: null, sequences }, held);
    expect([report.rows, report.weights]).toEqual(["fitted", "kept"]);
    expect(Math.abs(report.active - 3)).toBeLessThan(0.05);
    const three = new PatchedMatrices(demo, freezeConfig("three", { ...demo.config, router: { ...demo.config.router, topK: 3 } }));
    const [all, own, fixed] = [await meanNll(demo, held), await meanNll(made, held), await meanNll(three, held)];
    expect(active).toBeLessThan(3.1);
    expect(own).toBeGreaterThan(all);
    expect(own).toBeLessThan(fixed);
  });
});
