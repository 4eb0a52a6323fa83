// Row 25, QuantMoE-Bench (2024): scores of fixed matrices by hand, plans by structure whose average is exact to the byte of what is written, and on the demo model that
// bits for what every token passes and for frequent experts lose less than the same bits for any.

import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../cli/build-kernels.mjs";
import { kernelModules } from "../../cli/open-pack.ts";
import { openModelFolder } from "../../formats/canonical-model.ts";
import { decodeRows } from "../../formats/dequantize.ts";
import { MemorySink, MemorySource } from "../../formats/memory-source.ts";
import { PatchedMatrices } from "../../formats/patched-matrices.ts";
import { moeLayersOf } from "../../model/config.ts";
import { createTokenizer } from "../../model/tokenizer.ts";
import { accountBits, averageBits } from "../../passes/bit-accounting.ts";
import { parseBitPlan, partOf } from "../../passes/bit-plan.ts";
import { meanCosine, measureBlocks, type BlockMeasure } from "../../passes/block-importance.ts";
import { nearest, type QuantizedMatrix } from "../../passes/gptq.ts";
import { LayeredModel } from "../../passes/layered-model.ts";
import { matrixOutlierScore, outlierScore } from "../../passes/outlier-score.ts";
import { quantizeModel } from "../../passes/quantize-model.ts";
import { checkpointWeights } from "../../passes/streamed-model.ts";
import { expertOrder, ORDERS, structurePlan, type ExpertMeasures } from "../../passes/structure-plans.ts";
import { dataFile } from "../support/data-folder.ts";
import { openDemo } from "../support/demo-texts.ts";
import { meanNll } from "../support/mean-nll.ts";
import { openTinyHuggingFace, packToMemory } from "../support/pack-to-memory.ts";
import { type TinyArchitecture, tinyModel } from "../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const SEQUENCES = Array.from({ length: 6 }, (_, s) => Array.from({ length: 24 }, (_, i) => (i * 29 + s * 17 + 1) % 97));

describe("the outlier score", () => {
  it("is that of the worst column", () => {
    // Columns: 1, 1, 1, 1; 2, 2, 2, 10 (10 / 4); 0, 0, 4, 0 (4 / 1); zeros.
    const matrix = Float32Array.of(1, 2, 0, 0, -1, -2, 0, 0, 1, 2, -4, 0, 1, 10, 0, 0);
    expect(outlierScore(matrix, 4)).toBe(4);
    expect(outlierScore(matrix.filter((_, i) => i % 4 < 2), 2)).toBe(2.5);
    expect(outlierScore(matrix.filter((_, i) => i % 4 === 0), 1)).toBe(1);
    expect(outlierScore(new Float32Array(6), 3)).toBe(1);
  });

  it("of a checkpoint's matrix is that of its values", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel("olmoe", 41));
    for (const name of ["layers.0.q", "layers.1.experts.3.down", "embed"]) {
      expect(await matrixOutlierScore(checkpoint, name)).toBe(outlierScore(await checkpoint.readF32(name), checkpoint.place(name).nCols));
    }
  });
});

describe("block importance", () => {
  it("is one minus the mean cosine of rows before and after", () => {
    expect(meanCosine(Float32Array.of(1, 0, 3, 4), Float32Array.of(0, 2, 6, 8), 2)).toBeCloseTo((0 + 1) / 2, 12);
    expect(meanCosine(Float32Array.of(3, 4), Float32Array.of(4, 3), 2)).toBeCloseTo(24 / 25, 12);
    expect(meanCosine(Float32Array.of(0, 0, 1, 1), Float32Array.of(1, 1, 1, 1), 2)).toBeCloseTo(1 / 2, 12);
  });

  it("of a model is that of its layers' rows, with the experts' frequency", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel("deepseek_v2", 42));
    const measured: BlockMeasure[] = [];
    for await (const of of measureBlocks(checkpoint, SEQUENCES, kernelModules())) measured.push(of);
    const model = await LayeredModel.open(checkpointWeights(checkpoint, 24), SEQUENCES, kernelModules());
    const { hiddenSize, router: { topK }, layerFfns } = checkpoint.config;
    for (const [layer, kind] of layerFfns.entries()) {
      const before = model.rows;
      const after = await model.runLayer(layer);
      let sum = 0;
      for (let t = 0; t < 144; t++) {
        const [a, b] = [before, after].map((rows) => Array.from(rows.subarray(t * hiddenSize, (t + 1) * hiddenSize))) as [number[], number[]];
        sum += a.reduce((dot, x, i) => dot + x * b[i]!, 0) / (Math.hypot(...a) * Math.hypot(...b));
      }
      expect(measured[layer]!.importance).toBeCloseTo(1 - sum / 144, 9);
      expect(measured[layer]!.frequency.reduce((a, b) => a + b, 0)).toBe(kind === "moe" ? 144 * topK : 0);
    }
  });
});

/** Measures that say their own order. */
const MEASURES: ExpertMeasures = {
  frequency: [[], [1, 9, 3, 4, 5, 6, 7, 8], [2, 3, 4, 5, 6, 7, 8, 1]], importance: [0.9, 0.1, 0.5], outliers: [[], [5, 5, 5, 5, 5, 5, 9, 5], [1, 1, 1, 1, 1, 1, 1, 7]],
};

describe("plans by structure", () => {
  const { config } = tinyModel("deepseek_v2", 1); // layer 0 dense, then 8 experts and a shared one

  it("order experts by each measure", () => {
    const first = (order: (typeof ORDERS)[number], n = 3): string[] => expertOrder(order, config, MEASURES, 1).slice(0, n).map(({ layer, expert }) => `l${layer}e${expert}`);
    expect(first("structure", 9)).toEqual(["l1e1", "l1e7", "l1e6", "l1e5", "l1e4", "l1e3", "l1e2", "l1e0", "l2e6"]);
    expect(first("frequency", 4)).toEqual(["l1e1", "l1e7", "l2e6", "l1e6"]);
    expect(first("importance")).toEqual(["l2e6", "l2e5", "l2e4"]);
    expect(first("outliers")).toEqual(["l1e6", "l2e7", "l1e0"]);
    expect(first("random", 16)).not.toEqual(expertOrder("random", config, MEASURES, 2).map(({ layer, expert }) => `l${layer}e${expert}`));
    expect(new Set(first("random", 99)).size).toBe(16);
  });

  it.each(["qwen3_moe", "deepseek_v2", "qwen2_moe", "gpt_oss"] as const)("have the average that was asked for or the largest below it, to the byte of what is written: %s", async (architecture: TinyArchitecture) => {
    const checkpoint = await openTinyHuggingFace(tinyModel(architecture, 43), { dtype: "F32", experts: "plain" });
    const order = expertOrder("random", checkpoint.config, MEASURES, 3);
    for (const [widths, bits] of [[[2, 4], 2.5], [[2, 4], 3.1], [[2, 4], 4.5], [[2, 4, 8], 4.5], [[2, 8], 8.5], [[2, 3, 4], 3.2], [[3, 4], 4.2]] as const) {
      const { rules, average } = structurePlan(checkpoint, order, widths, bits);
      const plan = parseBitPlan(rules, checkpoint.config);
      const sink = new MemorySink();
      await quantizeModel(checkpoint, sink, kernelModules(), { plan, method: "nearest", actOrder: false, damping: 0, weighting: "count", sequences: [] });
      const model = await openModelFolder(new MemorySource(sink.files), "planned");
      let [weights, bytes] = [0, 0];
      let smallest = Infinity;
      for (const { name, nRows, nCols, storedBytes } of model.places()) {
        if (nRows === 1 || !name.startsWith("layers.") || name.endsWith(".router")) continue;
        weights += nRows * nCols;
        bytes += storedBytes;
        if (name.includes(".experts.")) smallest = Math.min(smallest, nRows * nCols);
      }
      expect(average).toBe((8 * bytes) / weights);
      expect(average).toBeLessThanOrEqual(bits + 1e-9);
      // Not even one more expert fits.
      expect((bits - average) * weights).toBeLessThan(3 * smallest * 4 + 1);
      const account = accountBits(checkpoint, plan);
      for (const [part, sum] of account.parts) {
        const places = [...model.places()].filter(({ name, nRows }) => nRows > 1 && partOf(model.config, name).structure === part);
        expect([part, sum.bits, sum.weights]).toEqual([part, places.reduce((n, of) => n + 8 * of.storedBytes, 0), places.reduce((n, of) => n + of.nRows * of.nCols, 0)]);
      }
      // The pack holds the same bits where rows fill its row blocks.
      const { manifest } = (await packToMemory(model)).summary;
      const biases = manifest.config.expertKind === "swiglu" ? 0 : 1;
      if (biases === 0) {
        const routed = account.parts.get("routed")!;
        const segments = manifest.experts.flatMap((expert) => expert.segments);
        expect(8 * segments.reduce((n, segment) => n + segment.bytes, 0)).toBe(routed.bits);
        expect(averageBits(routed)).toBe((8 * segments.reduce((n, segment) => n + segment.bytes, 0)) / routed.weights);
      }
    }
  });

  it("give every token's parts the most, then experts in their order", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel("deepseek_v2", 44));
    const order = expertOrder("frequency", checkpoint.config, MEASURES, 1);
    const { rules } = structurePlan(checkpoint, order, [2, 4], 4);
    const plan = parseBitPlan(rules, checkpoint.config);
    const raised = order.filter(({ layer, expert }) => plan.typeOf({ name: `layers.${layer}.experts.${expert}.up`, nRows: 32 }) === "Q4_0");
    expect(raised.length).toBeGreaterThan(0);
    expect(raised).toEqual(order.slice(0, raised.length));
    for (const name of ["layers.0.kvA", "layers.2.o", "layers.1.shared.up", "layers.0.shared.down"]) expect(plan.typeOf({ name, nRows: 32 })).toBe("Q4_0");
    // Three widths: what every token passes gets 8 bits, and experts pay for it.
    const wide = parseBitPlan(structurePlan(checkpoint, order, [2, 4, 8], 5.5).rules, checkpoint.config);
    expect(wide.typeOf({ name: "layers.0.kvA", nRows: 32 })).toBe("Q8_0");
    expect(moeLayersOf(checkpoint.config)).toEqual([1, 2]);
  });

  it("refuse budgets below the smallest width, and columns that make no groups", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel("qwen3_moe", 45));
    const order = expertOrder("random", checkpoint.config, MEASURES, 1);
    expect(() => structurePlan(checkpoint, order, [2, 4], 2.4)).toThrow("2.4 bits per weight were asked for, scales included; with 2 bits for everything within layers it is 2.500 already.");
    const narrow = await openTinyHuggingFace(tinyModel("qwen3_moe", 3, { config: { moe_intermediate_size: 48 } }));
    expect(() => structurePlan(narrow, order, [2, 4], 3)).toThrow(/\(layers\.0\.experts\.0\.down\) has 48 columns; the plan's Q2_32 takes multiples of 32\./);
  });
});

const TEXTS = ["en_shakespeare/tinyshakespeare.txt.gz", "en_tinystories/tinystories_sample.txt.gz", "code_ts/hono.ts.txt.gz", "code_py/tinygrad.py.txt.gz"].map((name) => dataFile(`text/${name}`));

describe.skipIf(TEXTS.includes(null))("on the demo model (needs texts of the data folder)", () => {
  const WINDOW = 128;

  it("the same bits for what every token passes and for frequent experts cost less than for any", async () => {
    const checkpoint = await openDemo();
    const { config } = checkpoint;
    const tokenizer = createTokenizer(JSON.parse(new TextDecoder().decode(checkpoint.tokenizer!.json)));
    const ids = TEXTS.map((file) => tokenizer.encodeText(gunzipSync(readFileSync(file!)).toString("utf8").slice(-120_000)));
    const windows = (of: readonly number[], starts: readonly number[]): number[][] => starts.map((start) => of.slice(start, start + WINDOW));
    // The first 20,000 tokens of each text for calibration, what is behind them to judge.
    const heldOut = ids.flatMap((of) => windows(of, [20_000]));
    expect(heldOut.every(({ length }) => length === WINDOW)).toBe(true);
    const rounded = new Map<string, QuantizedMatrix>();
    for (const place of checkpoint.places()) {
      const { structure } = partOf(config, place.name);
      if (place.nRows === 1 || (structure !== "attn" && structure !== "routed")) continue;
      const values = decodeRows(place.type, await checkpoint.readRows(place, 0, place.nRows), place.nRows, place.nCols);
      for (const type of ["Q2_32", "Q4_0"] as const) rounded.set(`${place.name} ${type}`, nearest(values, place.nRows, place.nCols, type));
    }
    const nllOf = async (rules: string): Promise<number> => {
      const plan = parseBitPlan(rules, config);
      const patched = new PatchedMatrices(checkpoint);
      for (const place of checkpoint.places()) {
        const type = plan.typeOf(place);
        if (type !== null) patched.set(place.name, rounded.get(`${place.name} ${type}`)!);
      }
      return meanNll(patched, heldOut);
    };
    const average = (rules: string): number => averageBits(accountBits(checkpoint, parseBitPlan(rules, config)).layers);
    let frequentWins = 0;
    for (let seed = 1; seed <= 5; seed++) {
      const frequency: (readonly number[])[] = [];
      for await (const of of measureBlocks(checkpoint, ids.flatMap((text) => windows(text, [seed * 2000])), kernelModules())) frequency.push(of.frequency);
      const order = (by: "frequency" | "random") => expertOrder(by, config, { frequency, importance: [], outliers: [] }, seed);
      const [frequent, any] = [structurePlan(checkpoint, order("frequency"), [2, 4], 3.2), structurePlan(checkpoint, order("random"), [2, 4], 3.2)];
      expect(any.average).toBe(frequent.average);
      const found = await nllOf(any.rules);
      if (await nllOf(frequent.rules) < found) frequentWins++;
      if (seed > 1) continue;
      // Uniform: attention is treated as experts are, and as many more experts have its bits: 8 experts are as large as a layer's attention is, twice.
      const raised = order("random").filter(({ layer, expert }) => parseBitPlan(any.rules, config).typeOf({ name: `layers.${layer}.experts.${expert}.up`, nRows: 64 }) === "Q4_0").length;
      const uniform = ["attn=2; routed=2", ...order("random").slice(0, raised + 16).map(({ layer, expert }) => `exp[l${layer}e${expert}]=4`)].join("; ");
      expect(averageBits(accountBits(checkpoint, parseBitPlan(uniform, config)).layers)).toBe(any.average);
      expect(found).toBeLessThan(await nllOf(uniform) - 0.1);
    }
    expect(frequentWins).toBeGreaterThanOrEqual(4);
  }, 300_000);
});
