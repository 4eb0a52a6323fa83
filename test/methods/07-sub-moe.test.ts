// Row 7, Sub-MoE (2025): merging experts in a shared subspace. Likeness by brute force, clusters against all partitions, the subspace formula against the weighted mean
// it is, and a merged model whose equal experts are stored once.

import { Matrix, SingularValueDecomposition } from "ml-matrix";
import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../cli/build-kernels.mjs";
import { kernelModules } from "../../cli/open-pack.ts";
import { openModelFolder } from "../../formats/canonical-model.ts";
import { MemorySink, MemorySource } from "../../formats/memory-source.ts";
import { expertLikeness } from "../../passes/expert-likeness.ts";
import { LayerInputs } from "../../passes/layer-inputs.ts";
import { LayeredModel } from "../../passes/layered-model.ts";
import { clusterExperts, clusterLayers } from "../../passes/likeness-clusters.ts";
import { mergedMatrix, mergeModel } from "../../passes/merge-model.ts";
import { checkpointWeights } from "../../passes/streamed-model.ts";
import { openTinyHuggingFace, packToMemory } from "../support/pack-to-memory.ts";
import { SeededRandom } from "../support/seeded-random.ts";
import { tinyModel } from "../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const SEQUENCES = Array.from({ length: 4 }, (_, s) => Array.from({ length: 15 + s }, (_, i) => (i * 41 + s * 13 + 1) % 97));

/** Cosines of random unit vectors that lie around a few centres. */
function likenessOf(seed: number, n: number, nCentres: number): Float64Array {
  const random = new SeededRandom(seed);
  const centres = Array.from({ length: nCentres }, () => Array.from({ length: 6 }, () => random.normal()));
  const vectors = Array.from({ length: n }, (_, i) => {
    const v = centres[i % nCentres]!.map((x) => x + 0.2 * random.normal());
    const size = Math.hypot(...v);
    return v.map((x) => x / size);
  });
  return Float64Array.from({ length: n * n }, (_, i) => vectors[Math.floor(i / n)]!.reduce((sum, x, at) => sum + x * vectors[i % n]![at]!, 0));
}

/** Least sum of squared distances over all partitions into k. */
function bestPartition(likeness: Float64Array, n: number, k: number): number {
  let best = Infinity;
  const walk = (of: number[], used: number): void => {
    if (of.length === n) {
      if (used < k) return;
      let sum = 0;
      for (let c = 0; c < k; c++) {
        const members = of.flatMap((own, e) => (own === c ? [e] : []));
        // Sum of squared distances from the mean = sum of squares - |sum|^2 / n.
        for (const a of members) sum += likeness[a * n + a]!;
        for (const a of members) for (const b of members) sum -= likeness[a * n + b]! / members.length;
      }
      best = Math.min(best, sum);
      return;
    }
    for (let c = 0; c <= Math.min(used, k - 1); c++) walk([...of, c], Math.max(used, c + 1));
  };
  walk([], 0);
  return best;
}

describe("clusters", () => {
  it("are the best there are on small cases, numbered by their first member", () => {
    for (let round = 0; round < 20; round++) {
      const n = 4 + (round % 4);
      const likeness = likenessOf(round, n, 2 + (round % 3));
      for (let k = 1; k <= n; k++) {
        const { of, distance } = clusterExperts(likeness, n, k, 1, 0);
        expect(new Set(of).size).toBe(k);
        expect([...new Set(of)]).toEqual(Array.from({ length: k }, (_, c) => c));
        expect(distance).toBeCloseTo(bestPartition(likeness, n, k), 9);
        expect(clusterExperts(likeness, n, k, 1, 0)).toEqual({ of, distance });
      }
    }
  });

  it("go to the layers that need them", () => {
    // One layer of two kinds of experts, one whose eight are all different.
    const layers = [{ layer: 0, likeness: likenessOf(3, 8, 2) }, { layer: 1, likeness: likenessOf(4, 8, 8) }];
    const [alike, apart] = clusterLayers(layers, 8, 10, 1, 1);
    expect([new Set(alike!.of).size, new Set(apart!.of).size]).toEqual([2, 8]);
  });
});

describe("a merged matrix", () => {
  const random = new SeededRandom(9);
  const [nRows, nCols] = [6, 9];
  const matrices = Array.from({ length: 3 }, () => Float32Array.from({ length: nRows * nCols }, () => random.normal()));
  const weights = [5, 3, 0];

  it("is U S times the weighted mean of V, as the paper has it: without truncation the weighted mean", () => {
    const side = new Matrix(Array.from({ length: nRows }, (_, r) => matrices.flatMap((m) => [...m.subarray(r * nCols, (r + 1) * nCols)])));
    for (const rank of [nRows, 3, 1]) {
      const { leftSingularVectors: u, diagonal: s, rightSingularVectors: v } = new SingularValueDecomposition(side, { autoTranspose: true });
      const part = (i: number): Matrix => v.subMatrix(i * nCols, (i + 1) * nCols - 1, 0, rank - 1).transpose();
      const mean = part(0).mul(5 / 8).add(part(1).mul(3 / 8));
      const expected = u.subMatrix(0, nRows - 1, 0, rank - 1).mmul(Matrix.diag(s.slice(0, rank))).mmul(mean).to1DArray();
      const found = mergedMatrix(matrices, weights, nRows, nCols, rank / nRows);
      found.forEach((x, i) => expect(Math.abs(x - expected[i]!)).toBeLessThan(1e-5));
      if (rank === nRows) found.forEach((x, i) => expect(x).toBeCloseTo((5 * matrices[0]![i]! + 3 * matrices[1]![i]!) / 8, 5));
    }
  });

  it("of experts that nobody chose is their plain mean", () => {
    expect(mergedMatrix(matrices.slice(0, 2), [0, 0], nRows, nCols, 1)[7]).toBeCloseTo((matrices[0]![7]! + matrices[1]![7]!) / 2, 6);
  });
});

it.each(["qwen3_moe", "deepseek_v3"] as const)("likeness is the mean cosine of what experts give to every token: %s", async (architecture) => {
  const checkpoint = await openTinyHuggingFace(tinyModel(architecture, 18));
  const { config } = checkpoint;
  const model = await LayeredModel.open(checkpointWeights(checkpoint, 32), SEQUENCES, kernelModules());
  const layer = config.layerFfns.indexOf("moe");
  for (let before = 0; before < layer; before++) await model.runLayer(before);
  const likeness = await expertLikeness(model, checkpoint, 32, layer);
  const { values, width } = await new LayerInputs(model, checkpoint, 32, layer).feedForward();
  const nTokens = values.length / width;
  const outputs = await Promise.all([0, 3].map(async (expert) => {
    const [gate, up, down] = await Promise.all(["gate", "up", "down"].map((matrix) => checkpoint.readF32(`layers.${layer}.experts.${expert}.${matrix}`))) as [Float32Array, Float32Array, Float32Array];
    const inner = config.expertIntermediateSize;
    return Array.from({ length: nTokens }, (_, t) => {
      const of = (w: Float32Array, r: number): number => { let sum = 0; for (let i = 0; i < width; i++) sum += w[r * width + i]! * values[t * width + i]!; return sum; };
      const h = Array.from({ length: inner }, (_, r) => { const g = of(gate, r); return (g / (1 + Math.exp(-g))) * of(up, r); });
      return Array.from({ length: width }, (_, r) => h.reduce((sum, x, i) => sum + down[r * inner + i]! * x, 0));
    });
  }));
  const [a, b] = outputs as [number[][], number[][]];
  const cosine = a.reduce((sum, y, t) => sum + y.reduce((s, x, i) => s + x * b[t]![i]!, 0) / (Math.hypot(...y) * Math.hypot(...b[t]!)), 0) / nTokens;
  expect(likeness[3]).toBeCloseTo(cosine, 4);
  expect(likeness[3 * config.nExperts]).toBe(likeness[3]);
  expect(likeness[0]).toBe(1);
});

describe("a merged model", () => {
  it("stores what is equal once, and leaves the rest as it was", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel("qwen3_moe", 19), { dtype: "F32" });
    const sink = new MemorySink();
    const report = await mergeModel(checkpoint, sink, kernelModules(), { share: 0.5, rank: 1, sequences: SEQUENCES, seed: 1 });
    expect(report.layers.reduce((sum, { of }) => sum + new Set(of).size, 0)).toBe(8);
    expect(report.layers.map(({ frequency }) => frequency.reduce((a, b) => a + b, 0))).toEqual([132, 132]);
    const model = await openModelFolder(new MemorySource(sink.files), "merged");
    expect(model.config).toEqual(checkpoint.config);
    const [before, after] = [await packToMemory(checkpoint), await packToMemory(model)];
    const hashes = (pack: typeof after): string[] => pack.summary.manifest.experts.map(({ segments }) => segments[0]!.hash);
    expect(new Set(hashes(after)).size).toBe(8);
    for (const { layer, of } of report.layers) {
      for (let e = 0; e < 8; e++) {
        const alone = of.filter((cluster) => cluster === of[e]).length === 1;
        expect(hashes(after)[layer * 8 + e] === hashes(before)[layer * 8 + e]).toBe(alone);
        expect(hashes(after)[layer * 8 + e]).toBe(hashes(after)[layer * 8 + of.indexOf(of[e]!)]);
      }
    }
    expect(after.summary.packBytes).toBeLessThan(before.summary.packBytes);
    const expertBytes = before.summary.manifest.experts[0]!.segments[0]!.bytes;
    expect(before.summary.packBytes - after.summary.packBytes).toBe(8 * expertBytes);
    for (const { name } of checkpoint.places()) if (!name.includes("experts.")) expect(await model.readF32(name)).toEqual(await checkpoint.readF32(name));
  });

  it("in which all stay is the model, and shares that cannot be are refused", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel("olmoe", 20), { dtype: "F32" });
    const whole = new MemorySink();
    await mergeModel(checkpoint, whole, kernelModules(), { share: 1, rank: 1, sequences: SEQUENCES, seed: 1 });
    expect((await packToMemory(await openModelFolder(new MemorySource(whole.files), "whole"))).summary.manifest.experts).toEqual((await packToMemory(checkpoint)).summary.manifest.experts);
    const refused = async (share: number, of = checkpoint): Promise<unknown> => mergeModel(of, new MemorySink(), kernelModules(), { share, rank: 1, sequences: SEQUENCES, seed: 1 }).catch((error: Error) => error.message);
    for (const share of [0, 0.05, 1.5]) expect(await refused(share)).toBe(`A share of ${share} of all experts was to stay; expected at least one of 8 in each layer, at most all.`);
    expect(await refused(0.5, await openTinyHuggingFace(tinyModel("llama", 1)))).toMatch(/is a dense model: it has no experts to merge\.$/);
  });
});
