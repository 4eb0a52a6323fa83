// Experts without a gate through every pass that takes experts apart: what has to come out the same does, what rounds or leaves out stays near, and gradients are those of
// finite differences.

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import { evaluate, kernelModules, openPackFrom } from "../../../cli/open-pack.ts";
import { parameterCounts } from "../../../fleet/capacity-pack.ts";
import { openModelFolder } from "../../../formats/canonical-model.ts";
import type { Checkpoint } from "../../../formats/checkpoint.ts";
import { MemorySink, MemorySource } from "../../../formats/memory-source.ts";
import { erf } from "../../../model/definition.ts";
import { Heap } from "../../../model/heap.ts";
import { chooseKernels, RESERVED_BYTES } from "../../../model/wasm-kernels.ts";
import { expertCosts, HALVED_EXPERTS, planParts } from "../../../passes/bit-costs.ts";
import { parseBitPlan } from "../../../passes/bit-plan.ts";
import { compressExperts } from "../../../passes/compressed-experts.ts";
import { ExpertGradients } from "../../../passes/expert-gradients.ts";
import { latentizeModel } from "../../../passes/latentize-model.ts";
import { mergeModel } from "../../../passes/merge-model.ts";
import { modelSizes } from "../../../passes/model-sizes.ts";
import { pruneModel } from "../../../passes/prune-model.ts";
import { quantizeModel } from "../../../passes/quantize-model.ts";
import { rotateModel } from "../../../passes/rotate-model.ts";
import { openTinyPlain, packToMemory } from "../../support/pack-to-memory.ts";
import { SeededRandom } from "../../support/seeded-random.ts";
import { tinyModel } from "../../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const SEQUENCES = Array.from({ length: 5 }, (_, s) => Array.from({ length: 25 + s }, (_, i) => (i * i * 13 + i * 31 + s * 7 + 3) % 97));
const IDS = SEQUENCES[2]!;

async function logitsOf(checkpoint: Checkpoint): Promise<Float32Array> {
  const { engine } = await openPackFrom((await packToMemory(checkpoint, { quant: "f32" })).source);
  const out = new Float32Array(IDS.length * 97);
  await evaluate(engine, IDS, (position, logits) => out.set(logits, position * 97));
  return out;
}
const after = async (run: (sink: MemorySink) => Promise<unknown>): Promise<Checkpoint> => {
  const sink = new MemorySink();
  await run(sink);
  return openModelFolder(new MemorySource(sink.files), "after");
};
/** Largest difference, as a share of the largest. */
const difference = (a: Float32Array, b: Float32Array): number =>
  a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i]!)), 0) / a.reduce((most, x) => Math.max(most, Math.abs(x)), 0);

describe.each(["relu-mlp", "gelu-mlp"] as const)("%s", (expertKind) => {
  const checkpoint = openTinyPlain(tinyModel("olmoe", 8, { expertKind, config: { num_experts_per_tok: 3 } }));

  it("rotated, made latent at the whole rank, with all experts kept, merged to as many: the same logits", async () => {
    const expected = await logitsOf(checkpoint);
    const same = [
      await after((sink) => rotateModel(checkpoint, sink, { by: "hadamard", seed: 1 })),
      await after((sink) => latentizeModel(checkpoint, sink, kernelModules(), { by: "shared", metric: "inputs", nGroups: 2, rank: 64, expertRank: null, sequences: SEQUENCES })),
      await after((sink) => pruneModel(checkpoint, sink, kernelModules(), { keep: 8, score: "easy-ep", seed: 1, domains: [SEQUENCES] })),
      await after((sink) => mergeModel(checkpoint, sink, kernelModules(), { share: 1, join: "mean", rank: 1, sequences: SEQUENCES, seed: 1 })),
    ];
    for (const model of same) expect(difference(expected, await logitsOf(model))).toBeLessThan(1e-4);
    expect(same[1]!.config.latentExperts).toEqual({ rank: 64, nGroups: 2 });
    expect([...same[1]!.places()].reduce((sum, { nRows, nCols }) => sum + nRows * nCols, 0)).toBe(parameterCounts(same[1]!.config).total);
  });

  it("quantised by either method: up and down, nothing else of an expert, within a few percent", async () => {
    const expected = await logitsOf(checkpoint);
    const plan = parseBitPlan("routed=8", checkpoint.config);
    for (const method of ["nearest", "gptq"] as const) {
      const sink = new MemorySink();
      const { matrices } = await quantizeModel(checkpoint, sink, kernelModules(), { plan, method, actOrder: false, damping: 0.01, weighting: "affinity", sequences: SEQUENCES });
      expect(matrices.length).toBe(2 * 8 * 2);
      expect(new Set(matrices.map(({ name }) => name.split(".").at(-1)))).toEqual(new Set(["up", "down"]));
      if (method === "gptq") expect(matrices.filter(({ rows }) => rows > 0).length).toBeGreaterThan(24);
      const model = await openModelFolder(new MemorySource(sink.files), method);
      expect(model.place("layers.1.experts.3.up").type).toBe("Q8_0");
      expect(model.place("layers.1.experts.3.upBias").type).toBe("F32");
      expect(difference(expected, await logitsOf(model))).toBeLessThan(0.1);
    }
  });

  it("planned in bits by error: a half of one matrix each, sizes that add up", async () => {
    const costs = [];
    for await (const of of expertCosts(checkpoint, SEQUENCES, kernelModules(), [2, 8], HALVED_EXPERTS)) costs.push(of);
    expect(costs.map(({ layer, part, nWeights }) => [layer, part.rule, nWeights])).toEqual([0, 1].flatMap((layer) => [".gateUp", ".down"].map((rule) => [layer, rule, 32 * 64])));
    for (const { loss } of costs) for (const [two, eight] of loss) if (two! > 0) expect(eight!).toBeLessThan(two!);
    const plan = parseBitPlan(planParts(costs, [2, 8], 5), checkpoint.config);
    const bits = ["up", "down"].flatMap((matrix) => Array.from({ length: 8 }, (_, e) => plan.typeOf(checkpoint.place(`layers.0.experts.${e}.${matrix}`))));
    expect([bits.filter((type) => type === "Q2_32").length, bits.filter((type) => type === "Q8_0").length]).toEqual([8, 8]);
    const sizes = await modelSizes(checkpoint, { findEqual: true });
    expect(sizes.experts).toEqual([0, 1].map((layer) => ({ layer, distinct: 8, bits: new Array<number>(8).fill(32) })));
  });

  it("merged to half by means and by neurons, pruned to half: a model of this kind", async () => {
    for (const join of ["mean", "neurons"] as const) {
      const model = await after((sink) => mergeModel(checkpoint, sink, kernelModules(), { share: 0.5, join, rank: 1, sequences: SEQUENCES, seed: 1 }));
      expect(model.config).toEqual(checkpoint.config);
      const { experts } = await modelSizes(model, { findEqual: true });
      expect(experts.reduce((sum, { distinct }) => sum + distinct, 0)).toBe(8);
      const change = difference(await logitsOf(checkpoint), await logitsOf(model));
      expect(change).toBeGreaterThan(1e-3);
      expect(change).toBeLessThan(1.5);
    }
    const pruned = await after((sink) => pruneModel(checkpoint, sink, kernelModules(), { keep: 4, score: "easy-ep", seed: 1, domains: [SEQUENCES] }));
    expect(pruned.config).toMatchObject({ nExperts: 4, expertKind });
    expect((await logitsOf(pruned)).every(Number.isFinite)).toBe(true);
  });

  it("an expert joined of two that are the same is that one, but for the ridge of the fit", async () => {
    const model = tinyModel("olmoe", 9, { expertKind });
    // Experts 2 e and 2 e + 1 are one.
    const twin = (name: string): string => name.replace(/experts\.(\d+)/, (_, e: string) => `experts.${Number(e) & ~1}`);
    const twins = openTinyPlain({ ...model, weights: new Map([...model.weights.keys()].map((name) => [name, model.weights.get(twin(name))!])) });
    const merged = await after((sink) => mergeModel(twins, sink, kernelModules(), { share: 0.5, join: "neurons", rank: 1, sequences: SEQUENCES, seed: 1 }));
    expect(difference(await logitsOf(twins), await logitsOf(merged))).toBeLessThan(0.1);
  });

  it("gives its experts and their derivatives to fits of compressed experts", async () => {
    const memory = new WebAssembly.Memory({ initial: RESERVED_BYTES / 65536, maximum: 4096 });
    const { kernels } = chooseKernels({ modules: kernelModules(), memory });
    const gradients = await ExpertGradients.load(checkpoint, 1, kernels, new Heap(memory, RESERVED_BYTES, 1 << 27), 4, 2);
    const random = new SeededRandom(3);
    const rows = Float32Array.from({ length: 4 * 64 }, () => random.normal());
    const pairs = [0, 1, 2, 3].flatMap((token) => [{ token, expert: token, weight: 0.75 }, { token, expert: 5, weight: 0.25 }]);
    const act = (u: number): number => (expertKind === "relu-mlp" ? Math.max(0, u) : (u / 2) * (1 + erf(u / Math.SQRT2)));
    const expected = async (x: Float32Array): Promise<Float64Array> => {
      const y = new Float64Array(4 * 64);
      for (const { token, expert, weight } of pairs) {
        const [up, upBias, down, downBias] = await Promise.all(["up", "upBias", "down", "downBias"].map((part) => checkpoint.readF32(`layers.1.experts.${expert}.${part}`))) as [Float32Array, Float32Array, Float32Array, Float32Array];
        const h = Array.from(upBias, (b, j) => act(Array.from({ length: 64 }, (_, i) => up[j * 64 + i]! * x[token * 64 + i]!).reduce((a, v) => a + v, b)));
        for (let i = 0; i < 64; i++) y[token * 64 + i]! += weight * h.reduce((sum, v, j) => sum + v * down[i * 32 + j]!, downBias[i]!);
      }
      return y;
    };
    const right = await expected(rows);
    gradients.forward(rows, pairs).forEach((value, i) => expect(Math.abs(value - right[i]!)).toBeLessThan(1e-4));
    // Of the sum of products with fixed numbers.
    const byResult = Float32Array.from({ length: rows.length }, () => random.normal());
    const byRows = gradients.backward(byResult);
    const loss = async (x: Float32Array): Promise<number> => (await expected(x)).reduce((sum, y, i) => sum + y * byResult[i]!, 0);
    for (const i of [0, 17, 63, 64, 130, 255]) {
      const moved = (by: number): Float32Array => rows.map((x, j) => (j === i ? x + by : x));
      const slope = (await loss(moved(2 ** -9)) - await loss(moved(-(2 ** -9)))) / (moved(2 ** -9)[i]! - moved(-(2 ** -9))[i]!);
      expect(Math.abs(byRows[i]! - slope)).toBeLessThan(0.02 * Math.hypot(...byRows) / 16);
    }
    gradients.close();
    const compressed = await after((sink) => compressExperts(checkpoint, sink, kernelModules(), { run: 2, weighAmong: "run", sequences: SEQUENCES, epochs: 2, batchTokens: 32, rate: 0.02, seed: 1 }));
    expect(compressed.config).toMatchObject({ expertKind, router: { topK: 2, auxiliaries: { perToken: 1 } } });
    expect((await logitsOf(compressed)).every(Number.isFinite)).toBe(true);
  });
});
