// Row 8, MoEQuant (2025): expert-balanced self-sampling against the same search run naively, affinity guidance that is plain GPTQ with equal weights, and the
// rotation that comes first: Hadamard matrices by their definition, and a rotated model that says the same.

import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../cli/build-kernels.mjs";
import { kernelModules } from "../../cli/open-pack.ts";
import { openModelFolder } from "../../formats/canonical-model.ts";
import type { Checkpoint } from "../../formats/checkpoint.ts";
import { MemorySink, MemorySource } from "../../formats/memory-source.ts";
import { moeLayersOf } from "../../model/config.ts";
import type { Engine } from "../../model/engine.ts";
import { logprobs } from "../../model/sampling.ts";
import { createTokenizer } from "../../model/tokenizer.ts";
import { parseBitPlan } from "../../passes/bit-plan.ts";
import { openCheckpointEngine } from "../../passes/checkpoint-engine.ts";
import { gptq } from "../../passes/gptq.ts";
import { Hessian } from "../../passes/hessian.ts";
import { LayeredModel } from "../../passes/layered-model.ts";
import { quantizeModel } from "../../passes/quantize-model.ts";
import { rotateModel } from "../../passes/rotate-model.ts";
import { hadamardParts, paley, rotationOf } from "../../passes/rotation.ts";
import { balancedScore, drawDifferent, type SampledSequence, selfSample, type SelfSamplingOptions, TAU, usageDeviation } from "../../passes/self-sampling.ts";
import { checkpointWeights } from "../../passes/streamed-model.ts";
import { dataFile } from "../support/data-folder.ts";
import { openDemo } from "../support/demo-texts.ts";
import { openTinyHuggingFace, openTinyPlain } from "../support/pack-to-memory.ts";
import { SeededRandom } from "../support/seeded-random.ts";
import { TINY_ARCHITECTURES, type TinyArchitecture, tinyModel } from "../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const LENGTH = 40;
const OPTIONS: SelfSamplingOptions = { sequences: 3, length: LENGTH, seed: 4, beams: 4, tau: 1.2, candidates: "likeliest", together: 2, isBarred: (id) => id < 3 };

const engineOf = async (architecture: TinyArchitecture, chunk = 64): Promise<Engine> =>
  openCheckpointEngine(checkpointWeights(await openTinyHuggingFace(tinyModel(architecture, 31)), 64), kernelModules(), { maxChunkTokens: chunk });

async function sampled(engine: Engine, options: Partial<SelfSamplingOptions> = {}): Promise<SampledSequence[]> {
  const out: SampledSequence[] = [];
  for await (const sequence of selfSample(engine, { ...OPTIONS, ...options })) out.push(sequence);
  expect([engine.kv.openTimelines, engine.kv.pages]).toEqual([0, 0]);
  return out;
}

interface Evaluated {
  readonly logits: readonly Float32Array[];
  readonly usage: readonly Uint32Array[];
}

/** A whole sequence anew: logits behind every token, and who was asked. */
async function evaluated(engine: Engine, ids: readonly number[]): Promise<Evaluated> {
  const { config } = engine;
  const layers = moeLayersOf(config);
  const usage = layers.map(() => new Uint32Array(config.nExperts));
  const timeline = engine.kv.open(ids.length);
  const { logits } = await engine.step([{ timeline, ids, logits: "all" }], [{ at: "selection", run: ({ layer, ids: chosen }) => chosen.forEach((id) => { usage[layers.indexOf(layer)]![id]!++; }) }]);
  engine.kv.close(timeline);
  return { usage, logits: ids.map((_, i) => logits[0]!.slice(i * config.vocabSize, (i + 1) * config.vocabSize)) };
}

describe("expert-balanced self-sampling", () => {
  it("scores as by hand", () => {
    // Of two tokens with two experts each, one layer asks 2, 1, 1, 0 and the other all alike.
    expect(usageDeviation([Uint32Array.of(2, 1, 1, 0), Uint32Array.of(1, 1, 1, 1)], 2)).toBeCloseTo(Math.sqrt(0.5) / 2 / 2, 12);
    expect(balancedScore(-3, -1, 3, 0.6, 1.2)).toBeCloseTo(4 / 4 + 0.5, 12);
    expect(balancedScore(-3, -1, 3, 0.6, Infinity)).toBe(1);
  });

  it.each(["qwen3_moe", "deepseek_v2", "gpt_oss"] as const)("is the same search with every sequence evaluated anew: %s", async (architecture) => {
    const engine = await engineOf(architecture);
    const tau = 0.1; // so that balance decides something
    const found = await sampled(engine, { tau });
    const likeliest = await sampled(engine, { tau: Infinity });
    expect(found.map(({ ids }) => ids)).not.toEqual(likeliest.map(({ ids }) => ids));
    expect(new Set(found.map(({ ids }) => ids[0])).size).toBe(3);
    for (const { ids: expected, logprob, usage } of found) {
      expect(expected.length).toBe(LENGTH);
      expect(expected.every((id) => id >= 3)).toBe(true);
      let beams: { ids: number[]; logprob: number; usage: readonly Uint32Array[] }[] = [{ ids: [expected[0]!], logprob: 0, usage: [] }];
      while (beams[0]!.ids.length < LENGTH) {
        const all = [];
        for (const [from, beam] of beams.entries()) {
          const of = await evaluated(engine, beam.ids);
          const l = beam.ids.length;
          for (const { id, logprob: p } of logprobs(of.logits[l - 1]!, 0, 97).top.filter(({ id }) => id >= 3).slice(0, 4)) {
            all.push({ from, id, ids: [...beam.ids, id], logprob: beam.logprob + p, usage: of.usage, score: -(beam.logprob + p) / (l + 1) + usageDeviation(of.usage, l) / tau });
          }
        }
        beams = all.sort((a, b) => a.score - b.score || a.from - b.from || a.id - b.id).slice(0, 4);
      }
      expect(expected).toEqual(beams[0]!.ids);
      expect(logprob).toBeCloseTo(beams[0]!.logprob, 9);
      expect(usage).toEqual(beams[0]!.usage);
    }
  });

  it("does not depend on how many sequences are written at a time, and repeats by its seed", async () => {
    const engine = await engineOf("qwen3_moe");
    for (const candidates of ["drawn", "likeliest"] as const) {
      const one = await sampled(engine, { candidates, together: 1 });
      expect(await sampled(engine, { candidates, together: 3 })).toEqual(one);
      expect((await sampled(engine, { candidates, seed: 5 })).map(({ ids }) => ids)).not.toEqual(one.map(({ ids }) => ids));
    }
  });

  it("with one beam draws each token from the model's probabilities", async () => {
    const engine = await engineOf("qwen3_moe");
    const [{ ids, logprob }] = await sampled(engine, { beams: 1, candidates: "drawn" }) as [SampledSequence];
    const { logits } = await evaluated(engine, ids);
    expect(logprob).toBeCloseTo(ids.slice(1).reduce((sum, id, i) => sum + logprobs(logits[i]!, id, 0).logprob, 0), 9);
    // By hand: masses 1, 0, 2, 1; the draw 0.5 falls on the third, then on the last of what is left.
    expect(drawDifferent(Float64Array.of(1, 0, 2, 1), 4, () => 0.5)).toEqual([2, 3, 0]);
    const random = new SeededRandom(8);
    const counts = [0, 0, 0];
    for (let i = 0; i < 4000; i++) counts[drawDifferent(Float64Array.of(1, 2, 5), 2, () => random.uniform())[1]!]!++;
    // The second of two: (2/8)(1/6) + (5/8)(1/3) = 1/4 of the time the first, (1/8)(2/7) + (5/8)(2/3) = 19/42 the second.
    for (const [id, p] of [1 / 4, 19 / 42].entries()) expect(Math.abs(counts[id]! / 4000 - p)).toBeLessThan(0.03);
  });

  it("asks experts more evenly than beam search alone, the more the less tau is", async () => {
    const engine = await engineOf("olmoe");
    const deviation = async (tau: number): Promise<number> => {
      const found = await sampled(engine, { tau, sequences: 12, together: 4, candidates: "drawn" });
      return found.reduce((sum, { usage }) => sum + usageDeviation(usage, LENGTH - 1), 0);
    };
    const [strong, weak, none] = [await deviation(0.02), await deviation(0.3), await deviation(Infinity)];
    expect(strong).toBeLessThan(0.8 * none);
    expect(weak).toBeLessThan(none);
  });

  it("refuses what cannot be written", async () => {
    const engine = await engineOf("qwen3_moe");
    await expect(sampled(engine, { length: 65 })).rejects.toThrow("Sequences of 65 tokens were asked for; expected 2 to 64.");
    await expect(sampled(engine, { together: 20 })).rejects.toThrow("20 sequences of 4 beams were asked for at a time; a step takes 64 tokens.");
    await expect(sampled(engine, { isBarred: () => true })).rejects.toThrow("No token of the vocabulary may stand in a text.");
    await expect(sampled(await engineOf("llama"))).rejects.toThrow("A dense model has no experts to balance a text by.");
  });
});

const TEXTS = ["en_shakespeare/tinyshakespeare.txt.gz", "en_tinystories/tinystories_sample.txt.gz", "code_ts/hono.ts.txt.gz", "en_wikitext2/wikitext2.valid.txt.gz"].map((name) => dataFile(`text/${name}`));

describe.skipIf(TEXTS.includes(null))("on the demo model (needs texts of the data folder)", () => {
  it("experts are asked at least twice as evenly as by plain texts, one or all of four", async () => {
    const checkpoint = await openDemo();
    const { config } = checkpoint;
    const tokenizer = createTokenizer(JSON.parse(new TextDecoder().decode(checkpoint.tokenizer!.json)));
    const [n, length] = [16, 64];
    const deviationOf = async (sequences: readonly (readonly number[])[]): Promise<number> => {
      const model = await LayeredModel.open(checkpointWeights(checkpoint, length), sequences, kernelModules());
      const usage: Uint32Array[] = [];
      for (let layer = 0; layer < config.nLayers; layer++) {
        const counts = new Uint32Array(config.nExperts);
        await model.runLayer(layer, { taps: [{ at: "selection", run: ({ ids }) => ids.forEach((id) => { counts[id]!++; }) }] });
        usage.push(counts);
      }
      return usageDeviation(usage, n * length);
    };
    const engine = await openCheckpointEngine(checkpointWeights(checkpoint, length), kernelModules(), { maxChunkTokens: 64 });
    const written = await sampled(engine, { sequences: n, length, seed: 1, candidates: "drawn", tau: TAU.drawn, together: 16, isBarred: (id) => tokenizer.isControl(id) || tokenizer.tokenOf(id) === undefined });
    const own = await deviationOf(written.map(({ ids }) => ids));
    const texts = TEXTS.map((file) => tokenizer.encodeText(gunzipSync(readFileSync(file!)).toString("utf8").slice(0, 60_000)));
    const windows = (ids: readonly number[], count: number): number[][] => Array.from({ length: count }, (_, i) => ids.slice(i * 600, i * 600 + length));
    for (const ids of texts) expect(own).toBeLessThanOrEqual(0.5 * await deviationOf(windows(ids, n)));
    expect(own).toBeLessThanOrEqual(0.5 * await deviationOf(texts.flatMap((ids) => windows(ids, n / 4))));
  }, 300_000);
});

describe("affinity guidance", () => {
  it("with every weight 1 is plain GPTQ, bit for bit, and differs with others", () => {
    const random = new SeededRandom(3);
    const [n, nRows] = [64, 8];
    const inputs = Array.from({ length: 90 }, () => Float32Array.from({ length: n }, () => random.normal()));
    const weights = Float32Array.from({ length: nRows * n }, () => random.normal());
    const bytesOf = (h: Float64Array): Uint8Array => gptq(weights, nRows, n, h, { type: "Q4_0", actOrder: false, damping: 0.01 }).bytes;
    const by = (c: (row: number) => number): Hessian => {
      const hessian = new Hessian(n);
      inputs.forEach((x, row) => hessian.add(x, 0, c(row)));
      return hessian;
    };
    // GPTQ's own: the sum of x x^T.
    const plain = new Float64Array(n * n);
    for (const x of inputs) for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) plain[i * n + j]! += x[i]! * x[j]!;
    const weighted = new Float64Array(n * n);
    const c = (row: number): number => (row % 2 === 0 ? 0.75 : 0.125);
    for (const [row, x] of inputs.entries()) for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) weighted[i * n + j]! += c(row) * x[i]! * x[j]!;
    expect(by(() => 1).matrix()).toEqual(plain);
    expect(bytesOf(by(() => 1).matrix())).toEqual(bytesOf(plain));
    by(c).matrix().forEach((x, i) => expect(x).toBeCloseTo(weighted[i]!, 9));
    expect(bytesOf(by(c).matrix())).not.toEqual(bytesOf(plain));
  });

  it("of a model whose router gives weight 1 to whom it chooses is plain GPTQ of the whole model", async () => {
    const sequences = Array.from({ length: 8 }, (_, s) => Array.from({ length: 40 }, (_, i) => (i * i * 7 + s * 31 + i) % 97));
    const written = async (topK: number, weighting: "count" | "affinity"): Promise<Uint8Array> => {
      const checkpoint = await openTinyHuggingFace(tinyModel("qwen3_moe", 32, { config: { num_experts_per_tok: topK, norm_topk_prob: true } }), { dtype: "F32" });
      const sink = new MemorySink();
      await quantizeModel(checkpoint, sink, kernelModules(), { plan: parseBitPlan("all=4", checkpoint.config), method: "gptq", actOrder: false, damping: 0.01, weighting, sequences });
      return sink.files.get("model.safetensors")!;
    };
    expect(await written(1, "affinity")).toEqual(await written(1, "count"));
    expect(await written(2, "affinity")).not.toEqual(await written(2, "count"));
  });
});

describe("rotations", () => {
  it.each([1, 4, 8, 12, 20, 24, 28, 36, 60, 180])("Paley's matrix of %i rows is Hadamard's", (size) => {
    const h = paley(size)!;
    for (let a = 0; a < size; a++) {
      for (let b = 0; b < size; b++) {
        let sum = 0;
        for (let i = 0; i < size; i++) sum += h[a * size + i]! * h[b * size + i]!;
        expect(sum).toBe(a === b ? size : 0);
      }
    }
    expect(h.every((x) => Math.abs(x) === 1)).toBe(true);
  });

  it("are orthogonal, and Hadamard's has entries of one size", () => {
    for (const [by, size] of [["hadamard", 64], ["hadamard", 96], ["hadamard", 112], ["hadamard", 240], ["orthogonal", 50]] as const) {
      const rotate = rotationOf(by, size, 7);
      const rows = Array.from({ length: size }, (_, i) => {
        const x = new Float64Array(size);
        x[i] = 1;
        rotate(x);
        return x;
      });
      for (let a = 0; a < size; a++) for (let b = a; b < size; b++) expect(Math.abs(rows[a]!.reduce((sum, x, i) => sum + x * rows[b]![i]!, 0) - (a === b ? 1 : 0))).toBeLessThan(1e-9);
      if (by === "hadamard") for (const row of rows) for (const x of row) expect(Math.abs(Math.abs(x) * Math.sqrt(size) - 1)).toBeLessThan(1e-9);
    }
    // gpt-oss's 2880, Qwen's 5120 and 3584, DeepSeek's 7168.
    expect([2880, 5120, 3584, 7168].map((size) => hadamardParts(size).of)).toEqual([180, 20, 28, 28]);
    expect(() => hadamardParts(52 * 23)).toThrow("No Hadamard matrix of 1196 rows is known here");
    expect(() => hadamardParts(33)).toThrow("Rotate with --by orthogonal.");
  });
});

describe("a rotated model", () => {
  const ids = Array.from({ length: 30 }, (_, i) => (i * 37 + 5) % 97);

  async function logitsOf(checkpoint: Checkpoint): Promise<Float32Array> {
    const model = await LayeredModel.open(checkpointWeights(checkpoint, 32), [ids], kernelModules());
    for (let layer = 0; layer < checkpoint.config.nLayers; layer++) await model.runLayer(layer);
    return (await model.openHead()).logits(0, 30);
  }

  async function rotated(checkpoint: Checkpoint, by: "hadamard" | "orthogonal"): Promise<Checkpoint> {
    const sink = new MemorySink();
    await rotateModel(checkpoint, sink, { by, seed: 3 });
    return openModelFolder(new MemorySource(sink.files), "rotated");
  }

  it.each(TINY_ARCHITECTURES.filter((name) => name !== "phimoe").flatMap((name) => [[name, false], [name, true]] as const))("says the same: %s, tied %s", async (architecture, tied) => {
    const checkpoint = await openTinyHuggingFace(tinyModel(architecture, 33, { config: { tie_word_embeddings: tied } }), { dtype: "F32", experts: "plain" });
    const expected = await logitsOf(checkpoint);
    const largest = expected.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    for (const by of ["hadamard", "orthogonal"] as const) {
      const model = await rotated(checkpoint, by);
      expect(model.config).toEqual({ ...checkpoint.config, tieWordEmbeddings: false });
      expect(await model.readF32("layers.0.attnNorm")).toEqual(new Float32Array(64).fill(1));
      expect(await model.readF32("embed")).not.toEqual(await checkpoint.readF32("embed"));
      const found = await logitsOf(model);
      expect(found.reduce((most, x, i) => Math.max(most, Math.abs(x - expected[i]!)), 0)).toBeLessThan(1e-4 * largest);
    }
  });

  it("says the same with latent experts, which read what their group's matrix makes of the residual", async () => {
    const checkpoint = await openTinyPlain(tinyModel("qwen2_moe", 35, { latentExperts: { rank: 32, nGroups: 2 } }));
    const [expected, found] = [await logitsOf(checkpoint), await logitsOf(await rotated(checkpoint, "hadamard"))];
    const largest = expected.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    expect(found.reduce((most, x, i) => Math.max(most, Math.abs(x - expected[i]!)), 0)).toBeLessThan(1e-4 * largest);
  });

  it("spreads a channel that is larger than the others", async () => {
    const tiny = tinyModel("qwen3_moe", 34);
    const norm = tiny.weights.get("layers.0.ffnNorm")!;
    norm.values[5] = 40;
    const checkpoint = await openTinyHuggingFace(tiny, { dtype: "F32" });
    const peak = async (of: Checkpoint, name: string, fold: boolean): Promise<number> => {
      const [values, scale] = [await of.readF32(name), await of.readF32("layers.0.ffnNorm")];
      const folded = Float64Array.from(values, (x, i) => Math.abs(fold ? x * scale[i % 64]! : x));
      return Math.max(...folded) / Math.sqrt(folded.reduce((sum, x) => sum + x * x, 0) / folded.length);
    };
    const name = "layers.0.experts.2.up";
    expect(await peak(await rotated(checkpoint, "hadamard"), name, false)).toBeLessThan(0.5 * await peak(checkpoint, name, true));
  });

  it("is refused where a mean is subtracted, and leaves nothing", async () => {
    const sink = new MemorySink();
    await expect(rotateModel(await openTinyHuggingFace(tinyModel("phimoe", 1)), sink, { by: "hadamard", seed: 1 })).rejects.toThrow(/has LayerNorm, which subtracts a mean over the old basis; only models with RMSNorm can be rotated\.$/);
    expect(sink.files.size).toBe(0);
  });
});
