// Row 22, MC# (2025), and ODP of row 5: how a model's ratios and mask routers are found. Losses of a calibration against real changes of a layer, ratios for a share, the fit's gradient against finite
// differences, and the model that is written. What a request does with them is 22-mc-sharp.test.ts.

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../cli/build-kernels.mjs";
import { kernelModules } from "../../cli/open-pack.ts";
import { openModelFolder } from "../../formats/canonical-model.ts";
import { MemorySink, MemorySource } from "../../formats/memory-source.ts";
import { openPack } from "../../formats/pack-reader.ts";
import { keepRouterColumns } from "../../model/config.ts";
import { keepFeatures, keptByRatio, leaveOut } from "../../model/online-pruning.ts";
import { pruningRule, type PruningRule } from "../../model/online-pruning-rule.ts";
import { wholeModel } from "../../model/stage-span.ts";
import { lossOf, sampleLayer, wantedTokens } from "../../passes/kept-experts.ts";
import { LayeredModel } from "../../passes/layered-model.ts";
import { prefixLosses, RouterFit } from "../../passes/mask-router.ts";
import { onlinePruningModel } from "../../passes/online-pruning-model.ts";
import { chooseRatios, ratioPoint, ratioQuantile } from "../../passes/pruning-ratios.ts";
import { checkpointWeights } from "../../passes/streamed-model.ts";
import { openTinyHuggingFace, packToMemory } from "../support/pack-to-memory.ts";
import { openStage } from "../support/ring.ts";
import { seededConfig } from "../support/seeded-model.ts";
import { tinyModel } from "../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const router = { ...seededConfig.router, topK: 4, weigh: "renormalize" } as const;
const SEQUENCES = Array.from({ length: 6 }, (_, s) => Array.from({ length: 21 + s }, (_, i) => (i * 37 + s * 11 + 2) % 97));
const lengths = SEQUENCES.map(({ length }) => length);

describe("a calibration", () => {
  it.each(["qwen3_moe", "granitemoe", "deepseek_v3"] as const)("measures what the layer's output really changes by: %s", async (architecture) => {
    const checkpoint = await openTinyHuggingFace(tinyModel(architecture, 22), { dtype: "F32" });
    const { config: c } = checkpoint;
    const model = await LayeredModel.open(checkpointWeights(checkpoint, 64), SEQUENCES, kernelModules());
    const [n, k] = [lengths.reduce((a, b) => a + b, 0), c.router.topK];
    for (let layer = 0; layer < c.nLayers; layer++) {
      if (c.layerFfns[layer] !== "moe") {
        await model.runLayer(layer);
        continue;
      }
      const before = await model.tryLayer(layer);
      const changed = await Promise.all([0.9]).then(async ([ratio]) => {
        const masks: boolean[][] = [];
        const after = await model.tryLayer(layer, { taps: [{ at: "selection", run: ({ nTokens, values, rowLength, ids: chosen, weights: given }) => {
          for (let t = 0; t < nTokens; t++) {
            const kept = keptByRatio(ratio!, given.subarray(t * k, (t + 1) * k));
            masks.push(kept);
            leaveOut(c.router, true, kept, values.subarray(t * rowLength, (t + 1) * rowLength), chosen.subarray(t * k, (t + 1) * k), given.subarray(t * k, (t + 1) * k));
          }
        } }] });
        return { after, masks };
      });
      const samples = await sampleLayer(model, layer, lengths, { protectFirst: 0, withFeatures: false, most: Infinity });
      expect(samples.n).toBe(n);
      expect(changed.masks.some((kept) => kept.includes(false))).toBe(true);
      let total = 0;
      for (let i = 0; i < n; i++) {
        let [change, size] = [0, 0];
        for (let j = i * c.hiddenSize; j < (i + 1) * c.hiddenSize; j++) {
          change += (changed.after[j]! - before[j]!) ** 2;
          size += before[j]! ** 2;
        }
        const loss = lossOf(c, true, samples, i, changed.masks[i]!);
        expect(Math.abs(loss - change / size)).toBeLessThan(1e-4 * (change / size) + 1e-9);
        total += loss;
      }
      const point = ratioPoint(c, true, samples, 0.9);
      expect(point.loss).toBeCloseTo(total / n, 12);
      expect(point.share).toBeCloseTo(changed.masks.flat().filter((stays) => !stays).length / (n * k), 12);
    }
  });

  it("takes tokens behind the protected positions, evenly", () => {
    expect(wantedTokens([4, 3], 2, 9)).toEqual([2, 3, 6]);
    expect(wantedTokens([10], 0, 5)).toEqual([0, 2, 4, 6, 8]);
  });

  it("chooses ratios for a share: MC-MoE's medians in the layers that mind least, or the least loss", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel("qwen3_moe", 22, { config: { num_experts_per_tok: 4 } }), { dtype: "F32" });
    const { config: c } = checkpoint;
    const model = await LayeredModel.open(checkpointWeights(checkpoint, 64), SEQUENCES, kernelModules());
    const layers: Awaited<ReturnType<typeof sampleLayer>>[] = [];
    for (let layer = 0; layer < c.nLayers; layer++) layers.push(await sampleLayer(model, layer, lengths, { protectFirst: 1, withFeatures: false, most: Infinity }));
    const share = (choice: ReturnType<typeof chooseRatios>): number => choice.reduce((sum, { point }) => sum + point.share, 0) / choice.length;
    const loss = (choice: ReturnType<typeof chooseRatios>): number => choice.reduce((sum, { point }) => sum + point.loss, 0);
    for (const wanted of [0.1, 0.2, 0.5]) {
      const [medians, least] = [chooseRatios(c, false, layers, wanted, "median"), chooseRatios(c, false, layers, wanted, "least-loss")];
      for (const choice of [medians, least]) expect(Math.abs(share(choice) - wanted)).toBeLessThan(0.03);
      expect(loss(least)).toBeLessThan(loss(medians) * (wanted + 0.03) / wanted);
    }
    const [chosen] = [chooseRatios(c, false, layers, 0.1, "median")];
    const at = layers.map((samples) => ratioPoint(c, false, samples, ratioQuantile(samples, 4, 0.5)));
    // One layer of two is enough for a tenth: the one whose median costs less.
    expect(chosen.filter(({ point }) => point.ratio > 0).map(({ layer }) => layer)).toEqual([at[0]!.loss <= at[1]!.loss ? 0 : 1]);
    expect(() => chooseRatios(c, false, layers, 0.8, "median")).toThrow("expected more than 0 and less than 0.750, since the first of 4 always stays");
  });
});

describe("the fit of a mask router", () => {
  it("descends along the exact gradient of the expectation", () => {
    const n = 7;
    const of = { hiddenSize: 4, router: { ...router, topK: 3 } };
    const columns = keepRouterColumns(4, 3);
    const features = Float32Array.from({ length: n * columns }, (_, i) => Math.sin(i * 1.7));
    const samples = { layer: 0, n, features, weights: new Float32Array(0), scores: new Float32Array(0), logits: new Float32Array(0), products: new Float64Array(0), residual: new Float64Array(0) };
    const losses = Float64Array.from({ length: 3 * n }, (_, i) => (i % 3 === 2 ? 0 : Math.abs(Math.cos(i))));
    const tokens = Array.from({ length: n }, (_, i) => i);
    const valueAt = (p: number, by: number): number => {
      const fit = new RouterFit(of, samples, losses, 0.4);
      fit.parameters[p]! += by;
      return fit.objective(0.2, tokens).value;
    };
    const { gradient } = new RouterFit(of, samples, losses, 0.4).objective(0.2, tokens);
    const step = 1e-5;
    for (let p = 0; p < gradient.length; p++) expect(Math.abs(gradient[p]! - (valueAt(p, step) - valueAt(p, -step)) / (2 * step))).toBeLessThan(1e-6);
    expect(gradient.some((slope) => Math.abs(slope) > 1e-3)).toBe(true);
  });

  it("begins as the rule by ratio", () => {
    const of = { hiddenSize: 4, router };
    const given = [[0.5, 0.3, 0.15, 0.05], [0.4, 0.3, 0.2, 0.1], [0.9, 0.05, 0.03, 0.02]].map((row) => Float32Array.from(row));
    for (const own of given) {
      const fit = new RouterFit(of, { layer: 0, n: 1, features: keepFeatures(Float32Array.of(1, -2, 0.5, 3), own, 1e-6), weights: own, scores: own, logits: own, products: new Float64Array(16), residual: Float64Array.of(1) }, new Float64Array(4), 0.4);
      expect(fit.share(0) * 4).toBeCloseTo(keptByRatio(0.4, own).filter((stays) => !stays).length, 6);
    }
  });

  it("writes a model whose routers leave out the share, lose less than ratios do, and serve", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel("qwen3_moe", 23, { config: { num_experts_per_tok: 4 } }), { dtype: "F32" });
    const sequences = Array.from({ length: 12 }, (_, s) => Array.from({ length: 40 }, (_, i) => (i * i * 3 + 7 * s * i + s) % 97));
    const run = async (rule: "ratio" | "learned"): Promise<{ report: Awaited<ReturnType<typeof onlinePruningModel>>; files: Map<string, Uint8Array> }> => {
      const sink = new MemorySink();
      return { report: await onlinePruningModel(checkpoint, sink, kernelModules(), { rule, share: 0.25, allotment: "least-loss", protectFirst: 2, renormalize: null, sequences, seed: 1 }), files: sink.files };
    };
    const [ratio, learned] = [await run("ratio"), await run("learned")];
    for (const { report } of [ratio, learned]) expect(Math.abs(report.share - 0.25)).toBeLessThan(0.02);
    const loss = ({ report }: typeof ratio): number => report.layers.reduce((sum, of) => sum + of.loss, 0);
    expect(loss(learned)).toBeLessThan(loss(ratio));
    const model = await openModelFolder(new MemorySource(learned.files), "learned");
    expect(model.config.onlinePruning).toMatchObject({ protectFirst: 2, keepRouter: true, renormalize: learned.report.renormalize });
    const names = new Set([...model.places()].map(({ name }) => name));
    expect([0, 1].map((layer) => names.has(`layers.${layer}.keepRouter`))).toEqual([true, true]);
    for (const { name } of checkpoint.places()) expect(await model.readF32(name)).toEqual(await checkpoint.readF32(name));
    const { source } = await packToMemory(model, { quant: "f32" });
    const { manifest } = await openPack(source);
    const { engine } = await openStage(source, manifest, wholeModel(manifest.config), 64);
    const rule = pruningRule(manifest.config, "learned") as PruningRule;
    let [leftOut, all] = [0, 0];
    for (const of of sequences) {
      const { pruned } = await engine.step([{ timeline: engine.kv.open(40), ids: of, logits: "none", routing: { pruning: rule } }]);
      leftOut += pruned![0]!.leftOut;
      all += pruned![0]!.of;
    }
    // The layers below were run with all experts when the share was set, and protected tokens count here.
    expect(leftOut / all).toBeGreaterThan(0.18);
    expect(leftOut / all).toBeLessThan(0.3);
    // A pass over it again replaces what it had.
    const again = new MemorySink();
    await onlinePruningModel(model, again, kernelModules(), { rule: "ratio", share: 0.25, allotment: "median", protectFirst: 2, renormalize: true, sequences, seed: 1 });
    const later = await openModelFolder(new MemorySource(again.files), "again");
    expect(later.config.onlinePruning).toMatchObject({ keepRouter: false, renormalize: true });
    expect([...later.places()].length).toBe([...checkpoint.places()].length);
    const dense = await openTinyHuggingFace(tinyModel("llama", 1));
    await expect(onlinePruningModel(dense, new MemorySink(), kernelModules(), { rule: "ratio", share: 0.2, allotment: "median", protectFirst: 0, renormalize: true, sequences, seed: 1 })).rejects.toThrow("this is a dense model");
  });

  it("knows what keeping the first few loses", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel("qwen3_moe", 22), { dtype: "F32" });
    const model = await LayeredModel.open(checkpointWeights(checkpoint, 64), SEQUENCES, kernelModules());
    const samples = await sampleLayer(model, 0, lengths, { protectFirst: 0, withFeatures: true, most: 9 });
    const losses = prefixLosses(checkpoint.config, true, samples);
    const { topK: k } = checkpoint.config.router;
    expect(samples.n).toBe(9);
    expect(samples.features.length).toBe(9 * keepRouterColumns(checkpoint.config.hiddenSize, k));
    for (let i = 0; i < 9; i++) {
      expect(losses[i * k]).toBe(lossOf(checkpoint.config, true, samples, i, Array.from({ length: k }, (_, rank) => rank === 0)));
      expect(losses[i * k + k - 1]).toBe(0);
    }
  });
});
