// Row 7, Sub-MoE (2025): merging experts in a shared subspace. Likeness by brute force, clusters against all partitions, the subspace formula against the weighted mean
// it is, a merged model whose equal experts are stored once,
// and experts joined by their neurons: the choice against a library's least squares, and two experts that share neurons.

import { Matrix, SingularValueDecomposition, solve } from "ml-matrix";
import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../cli/build-kernels.mjs";
import { kernelModules } from "../../cli/open-pack.ts";
import { openModelFolder } from "../../formats/canonical-model.ts";
import { MemorySink, MemorySource } from "../../formats/memory-source.ts";
import { PatchedMatrices } from "../../formats/patched-matrices.ts";
import { ExpertUse } from "../../passes/expert-use.ts";
import { expertLikeness } from "../../passes/expert-likeness.ts";
import { joinExperts } from "../../passes/joined-experts.ts";
import { LayerInputs } from "../../passes/layer-inputs.ts";
import { LayeredModel } from "../../passes/layered-model.ts";
import { clusterExperts, clusterLayers } from "../../passes/likeness-clusters.ts";
import { mergedMatrix, mergeModel } from "../../passes/merge-model.ts";
import { selectNeurons } from "../../passes/neuron-selection.ts";
import { pruneModel } from "../../passes/prune-model.ts";
import { checkpointWeights } from "../../passes/streamed-model.ts";
import { DEMO_TEXTS, demoWindows, missingTexts, openDemo } from "../support/demo-texts.ts";
import { meanNll } from "../support/mean-nll.ts";
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
        const { of, distance } = clusterExperts({ likeness }, n, k, 1, 0);
        expect(new Set(of).size).toBe(k);
        expect([...new Set(of)]).toEqual(Array.from({ length: k }, (_, c) => c));
        expect(distance).toBeCloseTo(bestPartition(likeness, n, k), 9);
        expect(clusterExperts({ likeness }, n, k, 1, 0)).toEqual({ of, distance });
      }
    }
  });

  it("with masses are the best there are for them: k copies of an expert are one of mass k", () => {
    for (let round = 0; round < 10; round++) {
      const n = 4 + (round % 3);
      const likeness = likenessOf(round, n, 3);
      const masses = Array.from({ length: n }, (_, e) => 1 + ((e * 5 + round) % 3));
      const copies = masses.flatMap((mass, e) => new Array<number>(mass).fill(e));
      const copied = Float64Array.from({ length: copies.length ** 2 }, (_, at) => likeness[copies[Math.floor(at / copies.length)]! * n + copies[at % copies.length]!]!);
      for (let k = 1; k <= Math.min(n, 3); k++) {
        const { of, distance } = clusterExperts({ likeness, masses }, n, k, 1, 0);
        expect(new Set(of).size).toBe(k);
        expect(distance).toBeCloseTo(bestPartition(copied, copies.length, k), 9);
      }
    }
    expect(() => clusterExperts({ likeness: likenessOf(1, 4, 2), masses: [1, 0, 1, 1] }, 4, 2, 1, 0)).toThrow("Masses 1, 0, 1, 1 were given; expected a number above zero for each of 4 experts.");
  });

  it("weigh experts by what they give", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel("granitemoeshared", 77), { dtype: "F32" });
    const { config } = checkpoint;
    const model = await LayeredModel.open(checkpointWeights(checkpoint, 32), SEQUENCES, kernelModules());
    const use = new ExpertUse(config);
    const wanted = new Array<number>(config.nExperts).fill(0);
    const { routing } = await new LayerInputs(model, checkpoint, 32, 0).feedForward();
    const next = new Array<number>(config.nExperts).fill(0);
    await model.tryLayer(0, { taps: [...use.taps, { at: "expertOutput", run: ({ values, rowLength, batch }, firstToken) => {
      for (let g = 0; g < batch!.nGroups; g++) {
        for (let i = batch!.groupStart[g]!, row = batch!.groupRow[g]!; i < batch!.groupStart[g + 1]!; i++, row++) {
          const [expert, token] = [batch!.groupExpert[g]!, firstToken + batch!.groupTokens[i]!];
          const rank = [...routing!.ids.subarray(token * routing!.topK, (token + 1) * routing!.topK)].indexOf(expert);
          wanted[expert]! += routing!.weights[token * routing!.topK + rank]! ** 2 * values.subarray(row * rowLength, (row + 1) * rowLength).reduce((sum, x) => sum + x * x, 0);
          next[expert]!++;
        }
      }
    } }] });
    expect(use.frequency).toEqual(next);
    const sum = wanted.reduce((a, b) => a + b, 0);
    use.masses.forEach((mass, e) => expect(mass).toBeCloseTo(Math.max((config.nExperts * wanted[e]!) / sum, 1e-6), 6));
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
    const report = await mergeModel(checkpoint, sink, kernelModules(), { share: 0.5, join: "mean", rank: 1, sequences: SEQUENCES, seed: 1 });
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
    await mergeModel(checkpoint, whole, kernelModules(), { share: 1, join: "mean", rank: 1, sequences: SEQUENCES, seed: 1 });
    expect((await packToMemory(await openModelFolder(new MemorySource(whole.files), "whole"))).summary.manifest.experts).toEqual((await packToMemory(checkpoint)).summary.manifest.experts);
    const refused = async (share: number, of = checkpoint): Promise<unknown> => mergeModel(of, new MemorySink(), kernelModules(), { share, join: "mean", rank: 1, sequences: SEQUENCES, seed: 1 }).catch((error: Error) => error.message);
    for (const share of [0, 0.05, 1.5]) expect(await refused(share)).toBe(`A share of ${share} of all experts was to stay; expected at least one of 8 in each layer, at most all.`);
    expect(await refused(0.5, await openTinyHuggingFace(tinyModel("llama", 1)))).toMatch(/is a dense model: it has no experts to merge\.$/);
  });
});

describe("neurons for several experts", () => {
  const products = (rows: readonly (readonly number[])[], a: number, b: number): number => rows.reduce((sum, row) => sum + row[a]! * row[b]!, 0);

  it("are the ones a search of all subsets' first steps would take, with the best linear map of them", () => {
    const random = new SeededRandom(70);
    const [n, nOutputs, nRows, keep] = [7, 3, 60, 3];
    const rows = Array.from({ length: nRows }, () => Array.from({ length: n }, () => random.normal()));
    const wanted = rows.map((row) => Array.from({ length: nOutputs }, (_, o) => row[1]! * (o + 1) - 2 * row[4]! + 0.3 * row[o]! + 0.1 * random.normal()));
    const moments = Float64Array.from({ length: n * n }, (_, at) => products(rows, Math.floor(at / n), at % n));
    const target = Float64Array.from({ length: n * nOutputs }, (_, at) => rows.reduce((sum, row, r) => sum + row[Math.floor(at / nOutputs)]! * wanted[r]![at % nOutputs]!, 0));
    const ridge = 0.01 * Array.from({ length: n }, (_, i) => moments[i * n + i]!).reduce((a, b) => a + b, 0) / n;
    /** What the best map of some neurons explains, and the map, by a library. */
    const best = (of: readonly number[]): { explained: number; map: Matrix } => {
      const a = new Matrix(of.map((i) => of.map((j) => moments[i * n + j]! + (i === j ? ridge : 0))));
      const c = new Matrix(of.map((i) => Array.from({ length: nOutputs }, (_, o) => target[i * nOutputs + o]!)));
      const map = solve(a, c);
      return { explained: map.transpose().mmul(c).trace(), map };
    };
    const { chosen, outputs, explained } = selectNeurons(moments, target, n, nOutputs, keep);
    for (let step = 0; step < keep; step++) {
      const before = chosen.slice(0, step);
      const others = Array.from({ length: n }, (_, i) => i).filter((i) => !before.includes(i));
      const gains = others.map((i) => best([...before, i]).explained);
      expect(chosen[step]).toBe(others[gains.indexOf(Math.max(...gains))]);
    }
    expect(chosen.slice(0, 2).sort()).toEqual([1, 4]);
    const { explained: most, map } = best(chosen);
    expect(explained).toBeCloseTo(most, 8);
    for (let p = 0; p < keep; p++) for (let o = 0; o < nOutputs; o++) expect(outputs[p * nOutputs + o]).toBeCloseTo(map.get(p, o), 9);
    for (const wrong of [0, 8, 1.5]) expect(() => selectNeurons(moments, target, n, nOutputs, wrong)).toThrow(`${wrong} of 7 neurons were to be chosen; expected 1 to 7.`);
    expect(() => selectNeurons(new Float64Array(49), target, n, nOutputs, keep)).toThrow("The moments of 7 neurons sum up to 0; expected more than zero.");
  });

  it.each(["qwen3_moe", "deepseek_v3", "gpt_oss"] as const)("are found again where two experts share them in another order, beside idle ones: %s", async (architecture) => {
    const checkpoint = await openTinyHuggingFace(tinyModel(architecture, 71), { dtype: "F32" });
    const { config } = checkpoint;
    const layer = config.layerFfns.indexOf("moe");
    const [width, hidden] = [config.expertIntermediateSize, config.hiddenSize];
    const at = (expert: number, matrix: string): string => `layers.${layer}.experts.${expert}.${matrix}`;
    // Odd neurons of expert 5 are those of expert 2, backwards; even ones are each one's own and give nothing.
    const alike = new PatchedMatrices(checkpoint);
    const set = (of: PatchedMatrices, name: string, values: Float32Array): void => of.set(name, { type: "F32", bytes: new Uint8Array(values.slice().buffer) });
    const shared = Array.from({ length: width / 2 }, (_, i) => 2 * i + 1);
    const place = (j: number): number => width - j; // odd to odd
    for (const matrix of ["gate", "up", ...(architecture === "gpt_oss" ? ["gateBias", "upBias"] : [])]) {
      const [from, to] = [await checkpoint.readF32(at(2, matrix)), await checkpoint.readF32(at(5, matrix))];
      const n = from.length / width;
      for (const j of shared) to.set(from.subarray(j * n, (j + 1) * n), place(j) * n);
      set(alike, at(5, matrix), to);
    }
    const [down2, down5] = [await checkpoint.readF32(at(2, "down")), new Float32Array(hidden * width)];
    for (let r = 0; r < hidden; r++) {
      for (let j = 0; j < width; j += 2) down2[r * width + j] = 0;
      for (const j of shared) down5[r * width + place(j)] = down2[r * width + j]!;
    }
    set(alike, at(2, "down"), down2);
    set(alike, at(5, "down"), down5);
    if (architecture === "gpt_oss") set(alike, at(5, "downBias"), await checkpoint.readF32(at(2, "downBias")));

    const many = Array.from({ length: 40 }, (_, s) => Array.from({ length: 30 }, (_, i) => (i * i * 7 + i * 41 + s * 13 + 1) % 97)); // more tokens than neurons
    const model = await LayeredModel.open(checkpointWeights(alike, 32), many, kernelModules());
    for (let before = 0; before < layer; before++) await model.runLayer(before);
    const [joined] = await joinExperts(model, alike, 32, layer, [[2, 5]]);
    expect(joined!.members).toEqual([2, 5]);
    expect(joined!.error).toBeLessThan(0.02); // the ridge's
    // What the two share are its neurons. (Clamped ones say much of each other: some may do without their like.)
    const gate = joined!.expert!.get("gate")!;
    const own = await alike.readF32(at(2, "gate"));
    const n = gate.length / width;
    const rows = new Set(Array.from({ length: width }, (_, r) => gate.subarray(r * n, (r + 1) * n).join()));
    if (architecture !== "gpt_oss") for (const j of shared) expect(rows.has(own.subarray(j * n, (j + 1) * n).join())).toBe(true);
    // And the layer gives what it did; with the two experts' mean it does not.
    const [ofNeurons, ofMeans] = [new PatchedMatrices(alike), new PatchedMatrices(alike)];
    for (const expert of [2, 5]) {
      for (const [matrix, values] of joined!.expert!) set(ofNeurons, at(expert, matrix), values);
      for (const matrix of ["gate", "up", "down"] as const) {
        const { nRows, nCols } = checkpoint.place(at(2, matrix));
        set(ofMeans, at(expert, matrix), mergedMatrix(await Promise.all([2, 5].map((e) => alike.readF32(at(e, matrix)))), [1, 1], nRows, nCols, 1));
      }
    }
    const wanted = await model.tryLayer(layer);
    const change = async (of: PatchedMatrices): Promise<number> => (await model.tryLayer(layer, { weights: checkpointWeights(of, 32) })).reduce((sum, x, i) => sum + (x - wanted[i]!) ** 2, 0);
    expect(await change(ofNeurons)).toBeLessThan(0.02 * await change(ofMeans));
  });

  it("make a model that is stored as one of means is, and says what each cluster lost", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel("gpt_oss", 72), { dtype: "F32" });
    const [sink, mean] = [new MemorySink(), new MemorySink()];
    const options = { share: 0.5, rank: 1, sequences: SEQUENCES, seed: 1 };
    const report = await mergeModel(checkpoint, sink, kernelModules(), { ...options, join: "neurons" });
    const means = await mergeModel(checkpoint, mean, kernelModules(), { ...options, join: "mean" });
    expect(report.layers.map(({ frequency }) => frequency)).toEqual(means.layers.map(({ frequency }) => frequency));
    for (const { of, errors } of report.layers) {
      expect(errors!.length).toBe(new Set(of).size);
      errors!.forEach((error, cluster) => expect(error > 0 && error < 1).toBe(of.filter((own) => own === cluster).length > 1));
    }
    const model = await openModelFolder(new MemorySource(sink.files), "joined");
    expect(model.lineage!.passes.at(-1)).toMatchObject({ pass: "merge", options: { join: "neurons" } });
    const hashes = (await packToMemory(model)).summary.manifest.experts.map(({ segments }) => segments[0]!.hash);
    expect(new Set(hashes).size).toBe(8);
    const { layer, of, frequency } = report.layers.find(({ of }) => new Set(of).size < 8)!;
    const members = of.flatMap((cluster, e) => (cluster === of.find((own, at) => of.indexOf(own) !== at) ? [e] : []));
    const at = (e: number, matrix: string): string => `layers.${layer}.experts.${e}.${matrix}`;
    expect(await model.readF32(at(members[0]!, "gate"))).toEqual(await model.readF32(at(members[1]!, "gate")));
    // Down's bias is the mean by frequency.
    const biases = await Promise.all(members.map((e) => checkpoint.readF32(at(e, "downBias"))));
    const sum = members.reduce((total, e) => total + frequency[e]!, 0);
    expect((await model.readF32(at(members[0]!, "downBias")))[3]).toBeCloseTo(biases.reduce((total, bias, i) => total + (sum === 0 ? 1 / members.length : frequency[members[i]!]! / sum) * bias[3]!, 0), 6);
    await expect(mergeModel(checkpoint, new MemorySink(), kernelModules(), { ...options, join: "neurons", rank: 0.5 })).rejects.toThrow("Experts joined by neurons have no directions to leave out, and a rank of 0.5 was asked for; expected 1, or --join mean.");
  });

  it("are not looked for where experts are wider than rows", async () => {
    const tiny = tinyModel("mixtral", 73);
    const checkpoint = await openTinyHuggingFace(tiny, { dtype: "F32" });
    const wide = new PatchedMatrices(checkpoint, { ...checkpoint.config, expertIntermediateSize: checkpoint.config.hiddenSize + 1 });
    const model = await LayeredModel.open(checkpointWeights(checkpoint, 32), SEQUENCES, kernelModules());
    await expect(joinExperts(model, wide, 32, 0, [[0, 1]])).rejects.toThrow(/has experts of \d+ neurons and rows of \d+; experts are joined by neurons where they have no more than a row\. Take --join mean\.$/);
  });
});

describe.skipIf(missingTexts !== null)(`on the demo model${missingTexts === null ? "" : ` (${missingTexts})`}`, () => {
  it("a quarter of the experts costs less joined by neurons than left out by frequency", async () => {
    const demo = await openDemo();
    const windows = (of: { first: number; count: number; length: number }): number[][] => DEMO_TEXTS.flatMap((name) => demoWindows(demo, name, { ...of, every: 3000 }));
    const [calibration, judged] = [windows({ first: 0, count: 8, length: 256 }), windows({ first: 60_000, count: 3, length: 128 })];
    const made = async (write: (sink: MemorySink) => Promise<unknown>): Promise<number> => {
      const sink = new MemorySink();
      await write(sink);
      return meanNll(await openModelFolder(new MemorySource(sink.files), "made"), judged);
    };
    const before = await meanNll(demo, judged);
    const joined = await made((sink) => mergeModel(demo, sink, kernelModules(), { share: 0.75, join: "neurons", rank: 1, sequences: calibration, seed: 1 }));
    const pruned = await made((sink) => pruneModel(demo, sink, kernelModules(), { keep: 24, score: "frequency", seed: 1, domains: [calibration] }));
    // Measured: docs/compression.md.
    expect(joined - before).toBeGreaterThan(0);
    expect(joined - before).toBeLessThan(0.75 * (pruned - before));
  }, 300_000);
});
