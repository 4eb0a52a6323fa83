// Row 13, Compressed Experts (2025): of a token's experts the first are run, vectors of the others scale what these get. Vectors of ones are the model of fewer
// experts, bit for bit; vectors that are not, the float64 definition; neither batch nor place changes a bit; and fitted ones bring back much of what was lost.

import { gunzipSync } from "node:zlib";
import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../cli/build-kernels.mjs";
import { evaluateText } from "../../cli/commands/eval.ts";
import { kernelModules, openPackFrom } from "../../cli/open-pack.ts";
import { openModelFolder } from "../../formats/canonical-model.ts";
import type { Checkpoint } from "../../formats/checkpoint.ts";
import { MemorySink, MemorySource } from "../../formats/memory-source.ts";
import { openPack } from "../../formats/pack-reader.ts";
import type { RouterConfig } from "../../model/config.ts";
import { forwardDefinition } from "../../model/definition.ts";
import type { ExpertBatch, ExpertRunInfo, Experts, Placement } from "../../model/experts.ts";
import { Heap } from "../../model/heap.ts";
import { LocalExperts } from "../../model/local-experts.ts";
import { routeTokens } from "../../model/router.ts";
import { EXPERT_KINDS } from "../../model/kernels.ts";
import { createScalarKernels } from "../../model/scalar-kernels.ts";
import { wholeModel, type StageSpan } from "../../model/stage-span.ts";
import type { Tap } from "../../model/taps.ts";
import { createTokenizer } from "../../model/tokenizer.ts";
import { chooseKernels, RESERVED_BYTES } from "../../model/wasm-kernels.ts";
import { AuxiliaryFit, type AuxiliaryProblem } from "../../passes/auxiliary-fit.ts";
import { compressExperts } from "../../passes/compressed-experts.ts";
import { ExpertGradients, unitOf } from "../../passes/expert-gradients.ts";
import { pruneModel } from "../../passes/prune-model.ts";
import { dataFile } from "../support/data-folder.ts";
import { openDemo } from "../support/demo-texts.ts";
import { directEngine, logitsOf } from "../support/direct-engine.ts";
import { openTinyHuggingFace, packToMemory, type MemoryPack } from "../support/pack-to-memory.ts";
import { openStage, ringOf } from "../support/ring.ts";
import { seededConfig, seededWeights } from "../support/seeded-model.ts";
import { SeededRandom } from "../support/seeded-random.ts";
import { standBy } from "../support/stand-by.ts";
import { tinyModel, type TinyArchitecture, type TinyModel } from "../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const IDS = Array.from({ length: 45 }, (_, i) => (i * i * 5 + 3 * i + 7) % 97);
const SEQUENCES = Array.from({ length: 6 }, (_, s) => Array.from({ length: 40 }, (_, i) => (i * 37 + s * 11 + i * i + 2) % 97));
const bits = (x: Float32Array): Uint32Array => new Uint32Array(x.buffer, x.byteOffset, x.length);
const wave = (layer: number, i: number): number => 0.4 * Math.sin(1 + i * 0.37 + layer);
/** Routers that renormalise, weigh as they are, score by sigmoid in groups, take a softmax of the chosen, and experts with biases; with shared experts and dense layers. */
const ARCHITECTURES = ["olmoe", "mixtral", "qwen2_moe", "deepseek_v2", "deepseek_v3", "granitemoe", "gpt_oss"] as const satisfies readonly TinyArchitecture[];
/** Of eight experts. */
const tiny = (architecture: TinyArchitecture, topK: number, seed = 31): TinyModel =>
  tinyModel(architecture, seed, { config: { num_experts_per_tok: topK, ...(architecture === "gpt_oss" ? { experts_per_token: topK } : {}) } });
const open = (architecture: TinyArchitecture, topK: number): Promise<Checkpoint> => openTinyHuggingFace(tiny(architecture, topK));

async function packLogits(pack: MemoryPack, chunks: readonly number[] = [IDS.length], taps: readonly Tap[] = []): Promise<Uint32Array> {
  const { engine } = await openPackFrom(pack.source, { maxChunkTokens: 64 });
  const timeline = engine.kv.open(IDS.length);
  const rows: number[] = [];
  for (let done = 0, i = 0; done < IDS.length; i++) {
    const ids = IDS.slice(done, done + chunks[Math.min(i, chunks.length - 1)]!);
    rows.push(...(await engine.step([{ timeline, ids, logits: "all" }], taps)).logits[0]!);
    done += ids.length;
  }
  return bits(Float32Array.from(rows));
}

describe("by hand", () => {
  const plain: RouterConfig = { ...seededConfig.router, score: "logits" };
  const routed = (router: RouterConfig) => {
    const kernels = createScalarKernels(new WebAssembly.Memory({ initial: 2 }));
    const heap = new Heap(kernels.memory, 1024, 65536);
    const [logits, ids, weights, rankedIds, rankedWeights] = Array.from({ length: 5 }, () => heap.alloc(256, "test")) as [number, number, number, number, number];
    heap.f32.set([1, 8, 0.5, 2, 4, 0.25, 0.125, 0], logits / 4);
    routeTokens(kernels, heap, router, { logits, stride: 32, ids, weights, rankedIds, rankedWeights, branchIds: 0, branchWeights: 0 }, 1, 8, 0);
    const f32 = (at: number, n: number): number[] => [...heap.f32.subarray(at / 4, at / 4 + n)];
    const u32 = (at: number, n: number): number[] => [...heap.u32.subarray(at / 4, at / 4 + n)];
    return { ids: u32(ids, 2), weights: f32(weights, 2), standBy: u32(rankedIds + 8, 2), shares: f32(rankedWeights + 8, 2) };
  };
  const f = Math.fround;

  it("the first are run with the weights that are asked for, the next share one between them", () => {
    const both = { ids: [1, 4], standBy: [3, 0], shares: [f(2 / 3), f(1 / 3)] };
    for (const weighAmong of ["run", "ranked"] as const) expect(routed({ ...plain, auxiliaries: { perToken: 2, weighAmong } })).toEqual({ ...both, weights: [8, 4] });
    expect(routed({ ...plain, weigh: "renormalize", scale: 3, auxiliaries: { perToken: 2, weighAmong: "run" } }).weights).toEqual([f(f(2 / 3) * 3), f(f(1 / 3) * 3)]);
    const ranked = routed({ ...plain, weigh: "renormalize", scale: 3, auxiliaries: { perToken: 2, weighAmong: "ranked" } });
    expect(ranked.weights).toEqual([f(f(8 / 15) * 3), f(f(4 / 15) * 3)]);
    ranked.shares.forEach((share, i) => expect(share).toBeCloseTo(both.shares[i]!, 6));
    expect(routed({ ...plain, weigh: "one", auxiliaries: { perToken: 2, weighAmong: "run" } })).toEqual({ ...both, weights: [1, 1], shares: [0.5, 0.5] });
  });

  it("scores that are all zero give equal shares", () => {
    const kernels = createScalarKernels(new WebAssembly.Memory({ initial: 2 }));
    const heap = new Heap(kernels.memory, 1024, 65536);
    const [logits, ids, weights, rankedIds, rankedWeights] = Array.from({ length: 5 }, () => heap.alloc(256, "test")) as [number, number, number, number, number];
    heap.f32.set([500, 0, 0, 0, 0, 0, 0, 0], logits / 4);
    routeTokens(kernels, heap, { ...plain, score: "softmax", topK: 1, auxiliaries: { perToken: 2, weighAmong: "run" } }, { logits, stride: 32, ids, weights, rankedIds, rankedWeights, branchIds: 0, branchWeights: 0 }, 1, 8, 0);
    expect([...heap.f32.subarray(rankedWeights / 4 + 1, rankedWeights / 4 + 3)]).toEqual([0.5, 0.5]);
  });

  it("experts get the normed row times one plus the shared vectors; router and shared expert get the row", async () => {
    const config = { ...seededConfig, nLayers: 1, slidingWindows: [0], layerFfns: ["moe" as const], nExperts: 3, sharedIntermediateSize: 32, router: { ...plain, topK: 1, auxiliaries: { perToken: 2, weighAmong: "run" as const } } };
    const seeded = seededWeights(config, 4);
    let batch: ExpertBatch | null = null;
    let row = new Float32Array(0);
    const { engine, heap } = directEngine(config, seeded, RESERVED_BYTES, {
      kernels: createScalarKernels(new WebAssembly.Memory({ initial: 16 })), contextLength: 8,
      experts: (local, of) => ({ placement: local.placement, overlapTokens: Infinity, depart: () => undefined, run: (layer, asked) => {
        batch = asked;
        row = of.f32.slice(asked.activations / 4, asked.activations / 4 + config.hiddenSize);
        return local.run(layer, asked);
      } }),
    });
    let [scores, residual]: Float32Array[] = [];
    const tap = (at: Tap["at"], run: (values: Float32Array) => void): Tap => ({ at, run: ({ values }) => run(values.slice()) });
    await engine.step([{ timeline: engine.kv.open(1), ids: [7], logits: "last" }], [tap("logits", (v) => { scores = v; }), tap("input", (v) => { residual = v; })]);
    const inverse = 1 / Math.sqrt(residual!.reduce((sum, x) => sum + x * x, 0) / 48 + config.normEps);
    const normed = Array.from(residual!, (x, i) => x * inverse * seeded("layers.0.ffnNorm").values[i]!);
    const [run, ...others] = [0, 1, 2].sort((a, b) => scores![b]! - scores![a]!) as [number, number, number];
    const sum = others.reduce((s, e) => s + scores![e]!, 0);
    const scales = seeded("layers.0.auxiliaryScales").values;
    normed.forEach((x, i) => expect(row[i]).toBeCloseTo(x * (1 + others.reduce((s, e) => s + (scores![e]! / sum) * scales[e * 48 + i]!, 0)), 4));
    expect([batch!.nGroups, batch!.groupExpert[0]]).toEqual([1, run]);
    expect(heap.usedBytes).toBeGreaterThan(0);
  });
});

describe.each(ARCHITECTURES)("%s", (architecture) => {
  it("with vectors of ones is the model of fewer experts, bit for bit, also quantised", async () => {
    const [four, two] = [await open(architecture, 4), await open(architecture, 2)];
    const ones = await standBy(four, 2, "run", () => 0);
    for (const quant of ["f32", "q8"] as const) {
      const expected = await packLogits(await packToMemory(two, { quant }));
      expect(await packLogits(await packToMemory(ones, { quant }))).toEqual(expected);
      expect(await packLogits(await packToMemory(await standBy(four, 2, "run", wave), { quant }))).not.toEqual(expected);
    }
  });

  it("with vectors of ones and weights among all is the model of all of which the last count nothing", async () => {
    const four = await open(architecture, 4);
    const silence: Tap = { at: "selection", run: ({ weights, nTokens }) => { for (let t = 0; t < nTokens; t++) weights.fill(0, 4 * t + 2, 4 * t + 4); } };
    const expected = await packLogits(await packToMemory(four, { quant: "q8" }), [IDS.length], [silence]);
    expect(await packLogits(await packToMemory(await standBy(four, 2, "ranked", () => 0), { quant: "q8" }))).toEqual(expected);
  });

  it("agrees with the float64 definition, through the canonical model and its pack", async () => {
    let judged = 0;
    for (let seed = 1; seed <= 40 && judged < 40; seed++) {
      const model = tiny(architecture, 3, seed);
      const checkpoint = await standBy(await openTinyHuggingFace(model), 1, seed % 2 === 0 ? "run" : "ranked", wave);
      const scales = (layer: number) => Float32Array.from({ length: 8 * 64 }, (_, i) => wave(layer, i));
      const truth = forwardDefinition(checkpoint.config, (name) => {
        const layer = /^layers\.(\d+)\.auxiliaryScales$/.exec(name)?.[1];
        return layer === undefined ? model.weights.get(name)! : { rows: 1, cols: 512, values: scales(Number(layer)) };
      }, IDS);
      const unclear = IDS.findIndex((_, t) => truth.routing.some((layer) => layer[t]!.margin < 1e-3));
      const upTo = unclear < 0 ? IDS.length : unclear;
      const logits = new Float32Array((await packLogits(await packToMemory(checkpoint, { quant: "f32" }))).buffer);
      const scale = Math.max(1, ...truth.logits.slice(0, upTo).flat().map(Math.abs));
      for (let t = 0; t < upTo; t++) for (let v = 0; v < 97; v++) expect(Math.abs(logits[t * 97 + v]! - truth.logits[t]![v]!)).toBeLessThan(1e-4 * scale);
      judged += upTo;
    }
    expect(judged).toBeGreaterThanOrEqual(40);
  });
});

/** Experts in several parts, which are computed one after the other in another order than asked, when whoever asked has gone on. */
class PartedExperts implements Experts {
  readonly placement: Placement;
  readonly overlapTokens = 2;
  readonly #local: LocalExperts;

  constructor(local: LocalExperts, nParts: number, partOf: Placement["partOf"]) {
    this.#local = local;
    this.placement = { nParts, partOf };
  }

  depart(): undefined {}

  async run(layer: number, batch: ExpertBatch): Promise<ExpertRunInfo> {
    await new Promise((resolve) => setTimeout(resolve, 0));
    for (let part = this.placement.nParts - 1; part >= 0; part--) this.#local.runPart(layer, batch, part);
    return { frames: this.placement.nParts, bytes: 0, retries: 0, hedges: 0, parts: [] };
  }
}

describe.each(["olmoe", "mixtral", "deepseek_v3"] as const)("no bit depends on batch or place: %s", (architecture) => {
  const packOf = async (): Promise<MemoryPack> => packToMemory(await standBy(await open(architecture, 4), 2, "ranked", wave), { quant: "q8", segmentWidth: 32 });

  it("token by token, in chunks and at once", async () => {
    const pack = await packOf();
    const whole = await packLogits(pack);
    for (const chunks of [[1], [7, 1, 20], [32, 3]]) expect(await packLogits(pack, chunks)).toEqual(whole);
  });

  it("in one place, on four shards, with sliced experts, in halves, and over a ring", async () => {
    const pack = await packOf();
    const { manifest } = await openPack(pack.source);
    const expected = await packLogits(pack);
    const shards: Record<string, readonly [number, Placement["partOf"]]> = {
      "one shard": [1, () => 0], "four shards": [4, (_, expert) => expert % 4], "sliced experts": [3, (layer, expert, segment) => (layer + expert + segment) % 3],
    };
    for (const [, [nParts, partOf]] of Object.entries(shards)) {
      const stage = await openStage(pack.source, manifest, wholeModel(manifest.config), 64, (local) => new PartedExperts(local as LocalExperts, nParts, partOf));
      for (const chunks of [[IDS.length], [16, 5]]) expect(bits(await logitsOf(stage.engine, IDS, chunks))).toEqual(expected);
    }
    const { nLayers, vocabSize } = manifest.config;
    const spans: StageSpan[] = [{ embeddingRows: [0, vocabSize], layers: [0, 1], headRows: [0, 0] }, { embeddingRows: [vocabSize, vocabSize], layers: [1, nLayers], headRows: [0, vocabSize] }];
    const ring = ringOf(await Promise.all(spans.map((span) => openStage(pack.source, manifest, span))));
    const [answer] = await ring.step([{ sequence: ring.open(64), ids: IDS, logits: "all" }]);
    expect(bits(answer!.logits)).toEqual(expected);
  });

  it("half as many experts are run, and taps see those alone", async () => {
    const four = await open(architecture, 4);
    const callsOf = async (checkpoint: Checkpoint): Promise<{ calls: number; chosen: number[] }> => {
      let calls = 0;
      const chosen: number[] = [];
      await packLogits(await packToMemory(checkpoint, { quant: "q8" }), [IDS.length], [
        { at: "expertOutput", run: ({ batch }) => { calls += batch!.groupStart[batch!.nGroups]!; } }, { at: "selection", run: ({ ids, nTokens }) => { chosen.push(ids.length / nTokens); } },
      ]);
      return { calls, chosen };
    };
    const [all, half] = [await callsOf(four), await callsOf(await standBy(four, 2, "ranked", wave))];
    expect([all.calls, half.calls]).toEqual([2 * half.calls, IDS.length * 2 * half.chosen.length]);
    expect([new Set(all.chosen), new Set(half.chosen)]).toEqual([new Set([4]), new Set([2])]);
  });
});

describe("gradients", () => {
  it.each(EXPERT_KINDS)("of a unit are those of its finite differences: %s", (expertKind) => {
    const config = { expertKind, swigluLimit: 2 };
    for (const [gate, up] of [[0.3, -0.7], [-1.5, 1.2], [1.9, 1.4], [2.6, -1], [1, -2.5], [-4, 3]] as const) {
      const at = (g: number, u: number): number => unitOf(config, g, u).value;
      const { byGate, byUp } = unitOf(config, gate, up);
      expect(byGate).toBeCloseTo((at(gate + 1e-5, up) - at(gate - 1e-5, up)) / 2e-5, 6);
      expect(byUp).toBeCloseTo((at(gate, up + 1e-5) - at(gate, up - 1e-5)) / 2e-5, 6);
    }
  });

  async function problemOf(architecture: TinyArchitecture, nTokens: number, renormalises: boolean): Promise<{ problem: AuxiliaryProblem; experts: ExpertGradients }> {
    const checkpoint = await open(architecture, 4);
    const memory = new WebAssembly.Memory({ initial: RESERVED_BYTES / 65536, maximum: 4096 });
    const { kernels } = chooseKernels({ modules: kernelModules(), memory });
    const layer = checkpoint.config.layerFfns.indexOf("moe");
    const experts = await ExpertGradients.load(checkpoint, layer, kernels, new Heap(memory, RESERVED_BYTES, 1 << 27), 16, 4);
    const random = new SeededRandom(5);
    const ids = Uint32Array.from(Array.from({ length: nTokens }, (_, t) => [t, t + 3, t + 5, t + 6].map((e) => e % 8)).flat());
    const weights = Float32Array.from(Array.from({ length: nTokens }, () => [0.4, 0.3, 0.2, 0.1]).flat());
    return { experts, problem: { nExperts: 8, hidden: 64, rows: Float32Array.from({ length: nTokens * 64 }, () => random.normal()), ids, weights, nRanked: 4, nRun: 2, renormalises } };
  }

  it.each([["olmoe", false], ["mixtral", true], ["gpt_oss", true]] as const)("of the loss by the vectors are those of its finite differences: %s", async (architecture, renormalises) => {
    const { problem, experts } = await problemOf(architecture, 20, renormalises);
    const fit = new AuxiliaryFit(problem, experts, 16);
    const tokens = Array.from({ length: 20 }, (_, t) => t);
    fit.scales.forEach((_, i) => { fit.scales[i] = wave(0, i); });
    const { gradient } = fit.lossOf(tokens);
    const random = new SeededRandom(8);
    for (let draw = 0; draw < 4; draw++) {
      const direction = Float64Array.from(gradient, () => random.normal());
      const along = (by: number): number => {
        direction.forEach((d, i) => { fit.scales[i] = wave(0, i) + by * d; });
        return fit.lossOf(tokens).loss;
      };
      const [expected, found] = [(along(1e-3) - along(-1e-3)) / 2e-3, gradient.reduce((sum, g, i) => sum + g * direction[i]!, 0)];
      expect(Math.abs(expected - found)).toBeLessThan(2e-3 * Math.hypot(...gradient));
    }
    // Nobody stands by but these; whoever does not has no gradient.
    expect(gradient.some((g) => g !== 0)).toBe(true);
  });

  it("lead to vectors that are closer: a fit of what vectors can say finds most of it", async () => {
    const { problem, experts } = await problemOf("olmoe", 200, true);
    const fit = new AuxiliaryFit(problem, experts, 16);
    const { renormalised, fitted } = fit.run({ epochs: 20, batchTokens: 50, rate: 0.02, seed: 1 });
    expect(fitted).toBeLessThan(0.97 * renormalised);
    expect(fitted).toBeGreaterThan(0);
    const again = new AuxiliaryFit(problem, experts, 16);
    again.run({ epochs: 20, batchTokens: 50, rate: 0.02, seed: 1 });
    expect(again.scales).toEqual(fit.scales);
  });
});

describe("the pass", () => {
  const OPTIONS = { run: 2, weighAmong: "run", epochs: 3, batchTokens: 32, rate: 0.01, seed: 1, sequences: SEQUENCES } as const;

  it.each(["olmoe", "deepseek_v3"] as const)("writes vectors for every layer of experts and leaves all else as it was: %s", async (architecture) => {
    const four = await open(architecture, 4);
    const sink = new MemorySink();
    const done: number[] = [];
    const report = await compressExperts(four, sink, kernelModules(), OPTIONS, (epochs) => done.push(epochs));
    const nMoe = four.config.layerFfns.filter((kind) => kind === "moe").length;
    expect(done).toEqual(Array.from({ length: 3 * nMoe }, (_, i) => i + 1));
    expect(report).toMatchObject({ run: 2, auxiliaries: 2, calibrationTokens: 240 });
    expect(report.layers.length).toBe(nMoe);
    for (const { asTheyAre, renormalised, fitted } of report.layers) for (const error of [asTheyAre, renormalised, fitted]) expect(error).toBeGreaterThan(0);
    const model = await openModelFolder(new MemorySource(sink.files), "compressed");
    expect(model.config).toEqual({ ...four.config, router: { ...four.config.router, topK: 2, auxiliaries: { perToken: 2, weighAmong: "run" } } });
    expect(model.lineage!.passes.map(({ pass }) => pass)).toEqual(["auxiliary"]);
    for (const { name } of four.places()) expect(await model.readF32(name)).toEqual(await four.readF32(name));
    const scales = [...model.places()].filter(({ name }) => name.endsWith("auxiliaryScales"));
    expect(scales.map(({ nCols }) => nCols)).toEqual(Array.from({ length: nMoe }, () => 8 * 64));
    for (const { name } of scales) expect((await model.readF32(name)).some((x) => x !== 0)).toBe(true);
  });

  it("and pruning go together: vectors go with their experts", async () => {
    const compressed = await standBy(await open("olmoe", 4), 2, "run", wave);
    const sink = new MemorySink();
    const { layers } = await pruneModel(compressed, sink, kernelModules(), { keep: 5, score: "frequency", seed: 1, domains: [SEQUENCES] });
    const pruned = await openModelFolder(new MemorySource(sink.files), "pruned");
    for (const { layer, kept } of layers) {
      expect(await pruned.readF32(`layers.${layer}.auxiliaryScales`)).toEqual(Float32Array.from(kept.flatMap((e) => Array.from({ length: 64 }, (_, i) => wave(layer, e * 64 + i)))));
    }
    await expect(pruneModel(compressed, new MemorySink(), kernelModules(), { keep: 3, score: "random", seed: 1, domains: [SEQUENCES] })).rejects.toThrow(/expected 4, which a token takes/);
  });

  it("refuses what it cannot do", async () => {
    const refused = async (checkpoint: Checkpoint, run: number): Promise<unknown> => compressExperts(checkpoint, new MemorySink(), kernelModules(), { ...OPTIONS, run }).catch((error: Error) => error.message);
    const four = await open("olmoe", 4);
    for (const run of [0, 4, 5]) expect(await refused(four, run)).toBe(`${run} experts per token were to be run of 4; expected 1 to 3, so that some stand by.`);
    expect(await refused(await standBy(four, 2, "run", () => 0), 1)).toMatch(/has 2 auxiliary experts per token already; a model whose experts are all run was expected\.$/);
    expect(await refused(await openTinyHuggingFace(tinyModel("llama", 1)), 1)).toMatch(/is a dense model: it has no experts to stand by\.$/);
    expect(await refused(await openTinyHuggingFace(tinyModel("phimoe", 1)), 1)).toMatch(/sparsemixer/);
  });
});

const PIECES = ["text/math_gsm8k/train.jsonl.gz", "text/en_tinystories/tinystories_sample.txt.gz", "text/code_ts/hono.ts.txt.gz", "text/en_novel/war-and-peace.txt.gz"].map(dataFile);
const hasPieces = PIECES.every((file) => file !== null);

describe.skipIf(!hasPieces)(hasPieces ? "the demo" : "the demo: needs text/math_gsm8k, en_tinystories, code_ts and en_novel under WORKERS_MOE_DATA (default ../shared/data)", () => {
  it("with two of its four experts run keeps most of what two alone lose", async () => {
    const demo = await openDemo();
    const texts = PIECES.map((file) => gunzipSync(readFileSync(file!)).toString("utf8"));
    // The demo has seen most of these texts, as has every model it is compared with here.
    const [toFit, toJudge] = [texts.map((text) => text.slice(20_000, 22_000)).join("\n\n"), texts.map((text) => text.slice(90_000, 91_500)).join("\n\n")];
    const ids = createTokenizer(JSON.parse(new TextDecoder().decode(demo.tokenizer!.json))).encodeText(toFit);
    const sequences = Array.from({ length: Math.floor(ids.length / 256) }, (_, i) => ids.slice(256 * i, 256 * (i + 1)));
    const lossOf = async (checkpoint: Checkpoint): Promise<number> => (await evaluateText(await openPackFrom((await packToMemory(checkpoint, { quant: "q8" })).source), toJudge, true, "pieces")).meanNll;
    const compressed = async (weighAmong: "run" | "ranked"): Promise<number> => {
      const sink = new MemorySink();
      await compressExperts(demo, sink, kernelModules(), { run: 2, weighAmong, epochs: 3, batchTokens: 64, rate: 0.01, seed: 1, sequences });
      return lossOf(await openModelFolder(new MemorySource(sink.files), weighAmong));
    };
    const [four, two, amongRun, amongRanked] = [await lossOf(demo), await lossOf(await standBy(demo, 2, "run", () => 0)), await compressed("run"), await compressed("ranked")];
    expect(two).toBeGreaterThan(four);
    const recovered = (loss: number): number => (Math.exp(two) - Math.exp(loss)) / (Math.exp(two) - Math.exp(four));
    expect(recovered(amongRun)).toBeGreaterThan(0.4);
    expect(recovered(amongRanked)).toBeGreaterThan(0.4);
  });
});
