// Row 5, MC-MoE (2024): bits of experts by knapsack. The published plans of Mixtral-8x7B, 32 layers at nine budgets, and brute force on small cases. And ODP for two experts a token, as
// the paper has it; everything else about experts left out at run time is row 22.

import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../cli/build-kernels.mjs";
import { kernelModules } from "../../cli/open-pack.ts";
import { openModelFolder } from "../../formats/canonical-model.ts";
import { MemorySink, MemorySource } from "../../formats/memory-source.ts";
import { openPack } from "../../formats/pack-reader.ts";
import { PatchedMatrices } from "../../formats/patched-matrices.ts";
import { NO_EXPERT } from "../../model/expert-batch.ts";
import { pruningRule, type PruningRule } from "../../model/online-pruning-rule.ts";
import { wholeModel } from "../../model/stage-span.ts";
import { type ExpertCosts, expertCosts, HALVED_EXPERTS, type PartCosts, planExperts, planParts, WHOLE_EXPERTS } from "../../passes/bit-costs.ts";
import { chooseBits, pmqCosts } from "../../passes/bit-knapsack.ts";
import { parseBitPlan } from "../../passes/bit-plan.ts";
import { nearest } from "../../passes/gptq.ts";
import { LayeredModel } from "../../passes/layered-model.ts";
import { onlinePruningModel } from "../../passes/online-pruning-model.ts";
import { checkpointWeights } from "../../passes/streamed-model.ts";
import { dataFile } from "../support/data-folder.ts";
import { DEMO_TEXTS, demoWindows, missingTexts, openDemo } from "../support/demo-texts.ts";
import { meanNll } from "../support/mean-nll.ts";
import { openTinyHuggingFace, packToMemory } from "../support/pack-to-memory.ts";
import { openStage } from "../support/ring.ts";
import { SeededRandom } from "../support/seeded-random.ts";
import { tinyModel } from "../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

interface Oracle {
  readonly budgets: Readonly<Record<string, readonly (readonly number[])[]>>;
  readonly frequency: readonly (readonly number[])[];
  readonly weight: readonly (readonly number[])[];
  readonly quantLoss: readonly (readonly Readonly<Record<string, number>>[])[];
}

const oracle = dataFile("oracles/pmq-mixtral-8x7b.json");
const WIDTHS = [1, 2, 3];
const ONE_OF_EACH = new Map([[2, 1], [3, 1]]);

describe.skipIf(oracle === null)("the published plans of Mixtral-8x7B (needs the data folder's oracles/pmq-mixtral-8x7b.json)", () => {
  it("are found, 288 of 288", () => {
    const { budgets, frequency, weight, quantLoss } = JSON.parse(readFileSync(oracle!, "utf8")) as Oracle;
    let same = 0;
    for (const [budget, plans] of Object.entries(budgets)) {
      for (const [layer, published] of plans.entries()) {
        const costs = pmqCosts(frequency[layer]!, weight[layer]!, quantLoss[layer]!.map((loss) => WIDTHS.map((width) => loss[width]!)));
        const found = chooseBits({ widths: WIDTHS, costs, budget: Number(budget), atLeast: ONE_OF_EACH });
        expect(found, `budget ${budget}, layer ${layer}`).toEqual(published);
        same++;
      }
    }
    expect(same).toBe(288);
  });
});

describe("the knapsack", () => {
  it("equals brute force", () => {
    const random = new SeededRandom(5);
    for (let round = 0; round < 300; round++) {
      const widths = [[1, 2, 3], [2, 4, 8], [2, 3, 4, 8]][round % 3]!;
      const n = 1 + random.below(5);
      const costs = Array.from({ length: n }, () => widths.map(() => random.uniform()));
      const sizes = costs.map(() => (round % 4 < 2 ? 1 : 1 + random.below(3)));
      const taken = (plan: readonly number[]): number => plan.reduce((sum, width, i) => sum + width * sizes[i]!, 0);
      const budget = random.below(taken(costs.map(() => widths.at(-1)!)) + 3);
      const atLeast = new Map(round % 2 === 0 ? [] : [[widths[1]!, 1 + random.below(2)], [widths.at(-1)!, 1]]);
      let best = Infinity;
      const walk = (plan: number[], sum: number): void => {
        if (plan.length < n) return widths.forEach((width, w) => walk([...plan, width], sum + costs[plan.length]![w]!));
        if (taken(plan) > budget) return;
        if ([...atLeast].some(([width, count]) => plan.filter((of) => of === width).length < count)) return;
        best = Math.min(best, sum);
      };
      walk([], 0);
      if (best === Infinity) expect(() => chooseBits({ widths, costs, budget, sizes, atLeast })).toThrow(/do not fit a budget of \d+ bits/);
      else {
        const found = chooseBits({ widths, costs, budget, sizes, atLeast });
        expect(taken(found)).toBeLessThanOrEqual(budget);
        for (const [width, count] of atLeast) expect(found.filter((of) => of === width).length).toBeGreaterThanOrEqual(count);
        expect(found.reduce((sum, width, i) => sum + costs[i]![widths.indexOf(width)]!, 0)).toBeCloseTo(best, 12);
      }
    }
  });

  it("gives an expert that nobody asks the fewest bits", () => {
    const costs = pmqCosts([90, 10, 0], [60, 10, 0], [[9, 4, 1], [9, 4, 1], [9, 4, 1]]);
    expect(costs[2]).toEqual([0, 0, 0]);
    // By hand: shares 0.9 and 6/7; 0.9 * (6/7)^1.5 * 4.
    expect(costs[0]![1]).toBeCloseTo(0.9 * (6 / 7) ** 1.5 * 4, 12);
    expect(chooseBits({ widths: WIDTHS, costs, budget: 6, atLeast: ONE_OF_EACH })).toEqual([3, 2, 1]);
  });

  it("refuses what is no choice", () => {
    expect(() => chooseBits({ widths: [2, 1], costs: [], budget: 1 })).toThrow("Widths 2, 1 were given; expected whole numbers, ascending.");
    expect(() => chooseBits({ widths: [1, 2], costs: [[1]], budget: 1 })).toThrow("Thing 0 has the costs 1; expected a number for each of 2 widths.");
    expect(() => chooseBits({ widths: [1, 2], costs: [[1, 1]], budget: 1, sizes: [0] })).toThrow("Sizes 0 were given; expected a whole number above zero for each of 1 things.");
    expect(() => chooseBits({ widths: [2, 4], costs: [[1, 1], [1, 1]], budget: 5, atLeast: new Map([[4, 1]]) })).toThrow("2 things of 2, 4 bits do not fit a budget of 5 bits with at least 1 of 4 bits.");
  });
});

describe("what experts lose", () => {
  const SEQUENCES = Array.from({ length: 5 }, (_, s) => Array.from({ length: 20 + s }, (_, i) => (i * 37 + s * 11 + 2) % 97));

  it.each(["olmoe", "granitemoeshared", "deepseek_v2"] as const)("is what the layer's output changes by with that expert alone at the width: %s", async (architecture) => {
    const checkpoint = await openTinyHuggingFace(tinyModel(architecture, 16));
    const { config } = checkpoint;
    const costs: PartCosts[] = [];
    const parts = [...WHOLE_EXPERTS, ...HALVED_EXPERTS];
    for await (const of of expertCosts(checkpoint, SEQUENCES, kernelModules(), [2, 4], parts)) costs.push(of);
    const model = await LayeredModel.open(checkpointWeights(checkpoint, 64), SEQUENCES, kernelModules());
    for (let layer = 0, i = 0; layer < config.nLayers; layer++) {
      if (config.layerFfns[layer] === "moe") {
        const before = await model.tryLayer(layer);
        for (const part of parts) {
          const { frequency, weight, loss, nWeights, ...of } = costs[i++]!;
          expect([of.layer, of.part.rule, nWeights]).toEqual([layer, part.rule, part.matrices.reduce((sum, matrix) => sum + checkpoint.place(`layers.${layer}.experts.0.${matrix}`).nRows * checkpoint.place(`layers.${layer}.experts.0.${matrix}`).nCols, 0)]);
          expect(frequency.reduce((a, b) => a + b, 0)).toBe(110 * config.router.topK);
          expect(weight.every((sum, e) => sum > 0 === frequency[e]! > 0)).toBe(true);
          for (const expert of [1, 6]) {
            for (const [w, type] of (["Q2_32", "Q4_0"] as const).entries()) {
              const patched = new PatchedMatrices(checkpoint);
              for (const matrix of part.matrices) {
                const name = `layers.${layer}.experts.${expert}.${matrix}`;
                const { nRows, nCols } = checkpoint.place(name);
                patched.set(name, nearest(await checkpoint.readF32(name), nRows, nCols, type));
              }
              const after = await model.tryLayer(layer, { weights: checkpointWeights(patched, 64) });
              const changed = Math.sqrt(after.reduce((sum, x, at) => sum + (x - before[at]!) ** 2, 0));
              expect(Math.abs(loss[expert]![w]! - changed)).toBeLessThan(1e-4 * changed + 1e-6);
            }
          }
        }
      }
      await model.runLayer(layer);
    }
  });

  it("of parts makes a plan whose bits go where the squared error falls most for each weight", () => {
    const { config } = tinyModel("olmoe", 16);
    const costs = HALVED_EXPERTS.map((part, p): PartCosts => ({
      layer: 1, part, nWeights: [128, 64][p]!, frequency: [], weight: [], loss: Array.from({ length: 8 }, (_, e) => [[3, 2][p]! * (e === 5 ? 2 : 1), 0]),
    }));
    // Of 24 units 12 bits are more than 2 each: 2 for a down, 4 for gate and up. Squares: 36 and 16 of expert 5, 9 and 4 of the others; for each unit 18, 16, 4.5, 4.
    expect(planParts(costs, [2, 4], 2.25).split("; ").filter((rule) => rule.endsWith("=4"))).toEqual(["exp[l1e5].gateUp=4", "exp[l1e5].down=4"]);
    expect(planParts(costs, [2, 4], 2.0834).split("; ").filter((rule) => rule.endsWith("=4"))).toEqual(["exp[l1e5].down=4"]);
    const plan = parseBitPlan(planParts(costs, [2, 4], 2.25), config);
    expect(["gate", "up", "down"].map((matrix) => plan.typeOf({ name: `layers.1.experts.5.${matrix}`, nRows: 64 }))).toEqual(["Q4_0", "Q4_0", "Q4_0"]);
    expect(plan.typeOf({ name: "layers.1.experts.4.down", nRows: 64 })).toBe("Q2_32");
    expect(() => planParts(costs, [2, 4], 1)).toThrow("1 bits per weight were asked for; widths of 2, 4 give 2 to 4.");
  });

  it("makes a plan of the asked average that quantising understands", async () => {
    const { config } = tinyModel("olmoe", 16);
    const costs = [0, 1].map((layer): ExpertCosts => ({ layer, frequency: [8, 7, 6, 5, 4, 3, 2, 1], weight: [8, 7, 6, 5, 4, 3, 2, 1], loss: Array.from({ length: 8 }, () => [10, 1]) }));
    const text = planExperts(costs, [2, 4], 2.5);
    expect(text.split("; ").filter((rule) => rule.endsWith("=4"))).toEqual(["exp[l0e0]=4", "exp[l0e1]=4", "exp[l1e0]=4", "exp[l1e1]=4"]);
    expect(parseBitPlan(text, config).typeOf({ name: "layers.1.experts.1.up", nRows: 64 })).toBe("Q4_0");
    expect(() => planExperts(costs, [2, 4], 5)).toThrow("5 bits per weight were asked for; widths of 2, 4 give 2 to 4.");
    // Three widths: at least one expert of each of the upper two, as published.
    const three = costs.map((of) => ({ ...of, loss: of.loss.map(() => [10, 9.9, 9.8]) }));
    expect(planExperts(three, [2, 4, 8], 3.25).split("; ").slice(0, 8).map((rule) => Number(rule.split("=")[1])).sort((a, b) => a - b)).toEqual([2, 2, 2, 2, 2, 4, 4, 8]);
  });
});

describe("the second expert", () => {
  it("is dropped where it weighs less than the layer's median share of the first, in the layers that mind least", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel("mixtral", 5), { dtype: "F32" });
    const { config } = checkpoint;
    expect(config.router.topK).toBe(2);
    const sequences = Array.from({ length: 8 }, (_, s) => Array.from({ length: 30 }, (_, i) => (i * i + 11 * s * i + s) % 97));
    const sink = new MemorySink();
    const { layers } = await onlinePruningModel(checkpoint, sink, kernelModules(), { rule: "ratio", share: 1 / (4 * config.nLayers), allotment: "median", protectFirst: 0, renormalize: true, sequences, seed: 1 });
    // One layer at its median: half of its second experts, a quarter of its calls.
    const chosen = layers.filter(({ ratio }) => ratio > 0);
    expect(chosen).toHaveLength(1);
    const source = new MemorySource(sink.files);
    const model = await openModelFolder(source, "odp");
    const { manifest, source: pack } = await packToMemory(model, { quant: "f32" }).then(async ({ source: of }) => ({ ...await openPack(of), source: of }));
    const { engine } = await openStage(pack, manifest, wholeModel(manifest.config), 64);
    const seconds: number[] = [];
    let dropped = 0;
    for (const ids of sequences) {
      const [plain, pruned] = [engine.kv.open(ids.length), engine.kv.open(ids.length)];
      const at = (run: (ids: Uint32Array, weights: Float32Array) => void) => [{ at: "selection" as const, layers: [chosen[0]!.layer], run: (event: { ids: Uint32Array; weights: Float32Array }) => run(event.ids, event.weights) }];
      await engine.step([{ timeline: plain, ids, logits: "none" }], at((_, weights) => { for (let t = 0; t < ids.length; t++) seconds.push(weights[2 * t + 1]! / weights[2 * t]!); }));
      await engine.step([{ timeline: pruned, ids, logits: "none", routing: { pruning: pruningRule(manifest.config, "calibrated") as PruningRule } }], at((taken, weights) => {
        for (let t = 0; t < ids.length; t++) {
          expect(taken[2 * t]).not.toBe(NO_EXPERT);
          if (taken[2 * t + 1] !== NO_EXPERT) continue;
          dropped++;
          expect([weights[2 * t], weights[2 * t + 1]]).toEqual([1, 0]);
        }
      }));
    }
    const median = [...seconds].sort((a, b) => a - b)[seconds.length / 2]!;
    expect(chosen[0]!.ratio).toBeCloseTo(median, 5);
    expect(Math.abs(dropped / seconds.length - 0.5)).toBeLessThan(0.02);
  });
});

describe.skipIf(missingTexts !== null)(`on the demo model${missingTexts === null ? "" : ` (${missingTexts})`}`, () => {
  it("2.5 bits on average lose less than drawn ones do, and parts by squared error at most 0.6 of what 2 bits do", async () => {
    const demo = await openDemo();
    const { config } = demo;
    const windows = (of: { first: number; count: number; length: number }): number[][] => DEMO_TEXTS.flatMap((name) => demoWindows(demo, name, { ...of, every: 3000 }));
    const [calibration, judged] = [windows({ first: 0, count: 6, length: 256 }), windows({ first: 60_000, count: 5, length: 256 })];
    const rounded = new Map<string, ReturnType<typeof nearest>>();
    for (const { name, nRows, nCols } of demo.places()) {
      if (!name.includes(".experts.")) continue;
      const values = await demo.readF32(name);
      for (const type of ["Q2_32", "Q4_0"] as const) rounded.set(`${name} ${type}`, nearest(values, nRows, nCols, type));
    }
    const lossOf = async (rules: string): Promise<number> => {
      const [plan, patched] = [parseBitPlan(rules, config), new PatchedMatrices(demo)];
      for (const place of demo.places()) {
        const type = plan.typeOf(place);
        if (type !== null) patched.set(place.name, rounded.get(`${place.name} ${type}`)!);
      }
      return meanNll(patched, judged);
    };
    const costs = new Map<string, PartCosts[]>([["pmq", []], ["error", []]]);
    for await (const of of expertCosts(demo, calibration, kernelModules(), [2, 4], [...WHOLE_EXPERTS, ...HALVED_EXPERTS])) costs.get(of.part.rule === "" ? "pmq" : "error")!.push(of);
    const before = await meanNll(demo, judged);
    const uniform = await lossOf("routed=2") - before;
    const pmq = await lossOf(planExperts(costs.get("pmq")!, [2, 4], 2.5)) - before;
    const parts = await lossOf(planParts(costs.get("error")!, [2, 4], 2.5)) - before;
    const drawn: number[] = [];
    for (let seed = 1; seed <= 5; seed++) {
      const random = new SeededRandom(seed);
      const rules = Array.from({ length: config.nLayers }, (_, layer) => {
        const order = Array.from({ length: config.nExperts }, (_, expert) => ({ expert, by: random.uniform() })).sort((a, b) => a.by - b.by);
        return order.slice(0, config.nExperts / 4).map(({ expert }) => `exp[l${layer}e${expert}]=4`);
      }).flat();
      drawn.push(await lossOf(["routed=2", ...rules].join("; ")) - before);
    }
    // Measured, by GPTQ: docs/compression.md.
    const median = drawn.sort((a, b) => a - b)[2]!;
    expect(pmq).toBeLessThan(median);
    expect(median).toBeLessThan(uniform);
    expect(parts).toBeLessThan(0.6 * uniform);
  }, 300_000);
});
