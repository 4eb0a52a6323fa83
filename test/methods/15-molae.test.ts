// Row 15, MoLAE (2025): experts that read a latent row. The factors against singular values and least squares by other ways, the whole rank against the model as it was,
// every form and cut of a latent model bit for bit, the bytes that leave for shards, and, on the demo model, the shared B against a B for each expert.

import { Matrix, SingularValueDecomposition } from "ml-matrix";
import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../cli/build-kernels.mjs";
import { kernelModules } from "../../cli/open-pack.ts";
import type { ShardClient } from "../../durable/client.ts";
import { decodeHeader, FRAME_HEADER_BYTES, requestLayout, type FrameHeader } from "../../durable/protocol.ts";
import { LIMITS } from "../../durable/limits.ts";
import { WebSocketExperts } from "../../durable/websocket-experts.ts";
import type { ReplicaChoice } from "../../durable/replica-choice.ts";
import { openModelFolder } from "../../formats/canonical-model.ts";
import type { Checkpoint } from "../../formats/checkpoint.ts";
import { MemorySink, MemorySource } from "../../formats/memory-source.ts";
import { openPack } from "../../formats/pack-reader.ts";
import { parameterCounts } from "../../fleet/capacity-pack.ts";
import { expertInputSize, inputRowsPerToken, moeLayersOf, type LatentExpertsConfig } from "../../model/config.ts";
import { forwardDefinition } from "../../model/definition.ts";
import { ExpertBatchBuilder, PAIR_BYTES } from "../../model/expert-batch.ts";
import { Heap } from "../../model/heap.ts";
import { activationRowBytes, type ActivationFormat } from "../../model/kernels.ts";
import { createScalarKernels } from "../../model/scalar-kernels.ts";
import { wholeModel, type StageSpan } from "../../model/stage-span.ts";
import { factorError, fittedTo, metricOf, plainMetric, rankReduced, sharedBasis } from "../../passes/latent-factors.ts";
import { largestRank, latentizeModel, type LatentizeOptions, type LatentizeReport } from "../../passes/latentize-model.ts";
import { parseBitPlan } from "../../passes/bit-plan.ts";
import { mergeModel, type MergeOptions } from "../../passes/merge-model.ts";
import { pruneModel } from "../../passes/prune-model.ts";
import { quantizeModel } from "../../passes/quantize-model.ts";
import { demoWindows, missingTexts, openDemo } from "../support/demo-texts.ts";
import { logitsOf } from "../support/direct-engine.ts";
import { meanNll } from "../support/mean-nll.ts";
import { openTinyHuggingFace, openTinyPlain, packToMemory, type MemoryPack } from "../support/pack-to-memory.ts";
import { openStage, ringOf, soleOf } from "../support/ring.ts";
import { SeededRandom } from "../support/seeded-random.ts";
import { tinyModel, type TinyArchitecture } from "../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const SEQUENCES = Array.from({ length: 6 }, (_, s) => Array.from({ length: 25 + s }, (_, i) => (i * i * 13 + i * 31 + s * 7 + 3) % 97));

describe("factors", () => {
  const random = new SeededRandom(15);
  const drawn = (rows: number, columns: number): Matrix => Matrix.from1DArray(rows, columns, Array.from({ length: rows * columns }, () => random.normal()));
  const n = 12;
  const matrices = [drawn(5, n), drawn(5, n), drawn(5, n)];
  const stacked = new Matrix(matrices.flatMap((w) => w.to2DArray()));
  const spread = drawn(n, n);
  const moments = spread.mmul(spread.transpose());
  const stack = matrices.map((w) => ({ w, weight: 1 }));
  const tail = (of: Matrix, rank: number): number => new SingularValueDecomposition(of, { autoTranspose: true }).diagonal.slice(rank).reduce((sum, s) => sum + s * s, 0);

  it.each([1, 4, 11, 12])("of rank %i lose the tail of the singular values, plainly and as inputs weigh them (Eckart-Young)", (rank) => {
    for (const metric of [plainMetric(n), metricOf(Float64Array.from(moments.to1DArray()), n)]) {
      const { b, singularValues } = sharedBasis(stack, metric, rank);
      const lost = matrices.reduce((sum, w) => sum + factorError(w, fittedTo(w, metric, b), b, metric), 0);
      const expected = tail(stacked.mmul(metric.factor.lowerTriangularMatrix), rank);
      expect(Math.abs(lost - expected)).toBeLessThan(1e-8 * (1 + expected));
      expect(singularValues.slice(rank).reduce((sum, s) => sum + s * s, 0)).toBeCloseTo(expected, 7);
      // z is of uncorrelated numbers of one size.
      expect(b.mmul(metric.c).mmul(b.transpose()).sub(Matrix.eye(rank, rank)).norm("frobenius")).toBeLessThan(1e-9);
    }
  });

  it("fit each matrix to its own inputs: no other A does better, and with weights that matter more weighs more", () => {
    const own = metricOf(Float64Array.from(drawn(n, n).mmul(Matrix.eye(n, n, 2)).to1DArray().map((x, i) => (i % (n + 1) === 0 ? 9 : x / 20))), n);
    const { b } = sharedBasis(stack, plainMetric(n), 5);
    const [w] = matrices as [Matrix];
    const a = fittedTo(w, own, b);
    const least = factorError(w, a, b, own);
    for (let i = 0; i < 20; i++) expect(factorError(w, Matrix.add(a, drawn(5, 5).mul(0.01)), b, own)).toBeGreaterThan(least);
    const lostBy = (weight: number): number => {
      const basis = sharedBasis(matrices.map((of, i) => ({ w: of, weight: i === 0 ? weight : 1 })), plainMetric(n), 5).b;
      return factorError(w, fittedTo(w, plainMetric(n), basis), basis, plainMetric(n));
    };
    expect(lostBy(100)).toBeLessThan(lostBy(1) / 4);
  });

  it("cut a matrix down to its own directions first", () => {
    const metric = metricOf(Float64Array.from(moments.to1DArray()), n);
    const [w] = matrices as [Matrix];
    const lower = metric.factor.lowerTriangularMatrix;
    for (const rank of [1, 3]) expect(Matrix.sub(w, rankReduced(w, metric, rank)).mmul(lower).norm("frobenius") ** 2).toBeCloseTo(tail(w.mmul(lower), rank), 7);
    expect(rankReduced(w, metric, 5)).toBe(w);
  });
});

async function latentized(checkpoint: Checkpoint, options: Partial<LatentizeOptions>): Promise<{ model: Checkpoint; report: LatentizeReport }> {
  const sink = new MemorySink();
  const report = await latentizeModel(checkpoint, sink, kernelModules(), { by: "shared", metric: "inputs", nGroups: 1, rank: 32, expertRank: null, sequences: SEQUENCES, ...options });
  return { report, model: await openModelFolder(new MemorySource(sink.files), "latent") };
}

const opened = async (pack: MemoryPack, span?: StageSpan) => {
  const { manifest } = await openPack(pack.source);
  return { manifest, stage: await openStage(pack.source, manifest, span ?? wholeModel(manifest.config)) };
};
const IDS = Array.from({ length: 30 }, (_, i) => (i * i * 7 + 3 * i + 11) % 97);
const logitsWith = async (checkpoint: Checkpoint, chunks: readonly number[] = [30]): Promise<Float32Array> => logitsOf((await opened(await packToMemory(checkpoint, { quant: "f32" }))).stage.engine, IDS, chunks);
const largest = (values: Float32Array): number => values.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
const difference = (a: Float32Array, b: Float32Array): number => a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i]!)), 0);

describe("a model made latent", () => {
  it.each([["qwen3_moe", 1], ["olmoe", 4], ["gpt_oss", 2], ["deepseek_v3", 2]] as const)("at the whole rank is the model as it was: %s in %i groups", async (architecture: TinyArchitecture, nGroups) => {
    const checkpoint = await openTinyHuggingFace(tinyModel(architecture, 15), { dtype: "F32" });
    for (const metric of ["inputs", "plain"] as const) {
      const { model, report } = await latentized(checkpoint, { rank: checkpoint.config.hiddenSize, nGroups, metric });
      expect(model.config).toEqual({ ...checkpoint.config, latentExperts: { rank: checkpoint.config.hiddenSize, nGroups } });
      expect(report.layers.map(({ layer }) => layer)).toEqual(moeLayersOf(checkpoint.config));
      for (const { error } of report.layers) expect(error).toBeLessThan(1e-4);
      const [before, after] = [await logitsWith(checkpoint), await logitsWith(model)];
      expect(difference(before, after)).toBeLessThan(1e-4 * Math.max(1, largest(before)));
    }
  });

  it("computes what the float64 definition says, and has as many parameters as were counted", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel("qwen3_moe", 16), { dtype: "F32" });
    const { model, report } = await latentized(checkpoint, { nGroups: 2 });
    const places = [...model.places()];
    expect(report.parameters.after).toBe(places.reduce((sum, { nRows, nCols }) => sum + nRows * nCols, 0));
    expect(report.parameters.before).toBe(parameterCounts(checkpoint.config).total);
    expect(report.layers.every(({ error }) => error > 0.02 && error < 0.9)).toBe(true);
    const weights = new Map(await Promise.all(places.map(async ({ name, nRows, nCols }) => [name, { rows: nRows, cols: nCols, values: await model.readF32(name) }] as const)));
    const { logits, routing } = forwardDefinition(model.config, (name) => weights.get(name)!, IDS);
    const clear = IDS.findIndex((_, t) => routing.some((layer) => layer[t]!.margin < 1e-3));
    const upTo = clear < 0 ? IDS.length : clear;
    expect(upTo).toBeGreaterThan(10);
    const found = await logitsWith(model);
    const scale = Math.max(1, ...logits.flat().map(Math.abs));
    for (let t = 0; t < upTo; t++) logits[t]!.forEach((x, v) => expect(Math.abs(found[t * model.config.vocabSize + v]! - x)).toBeLessThan(1e-4 * scale));
  });

  it("loses less the larger the rank, less than plainly, and leaves every other tensor as it was", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel("qwen3_moe", 17, { config: { hidden_size: 128 } }), { dtype: "F32" });
    const lost = async (options: Partial<LatentizeOptions>): Promise<number> => (await latentized(checkpoint, options)).report.layers[0]!.error;
    const [small, middle, plain, cut] = [await lost({ rank: 32 }), await lost({ rank: 96 }), await lost({ rank: 96, metric: "plain" }), await lost({ rank: 96, expertRank: 8 })];
    expect(middle).toBeLessThan(small);
    expect(middle).toBeLessThan(plain);
    expect(cut).toBeGreaterThan(middle);
    const { model } = await latentized(checkpoint, { rank: 64, nGroups: 2 });
    for (const { name } of checkpoint.places()) if (!/\.(gate|up)$/.test(name)) expect(await model.readF32(name)).toEqual(await checkpoint.readF32(name));
    expect(model.place("layers.1.latent.1")).toMatchObject({ nRows: 64, nCols: 128 });
    expect(model.place("layers.1.experts.5.gate")).toMatchObject({ nRows: checkpoint.config.expertIntermediateSize, nCols: 64 });
  });

  it("for each expert alone stays dense, of as many parameters as the shared form at most", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel("olmoe", 18), { dtype: "F32" });
    const { model, report } = await latentized(checkpoint, { by: "per-expert", nGroups: 2 });
    expect(model.config).toEqual(checkpoint.config);
    const { nExperts, expertIntermediateSize: width, hiddenSize } = model.config;
    const own = (rank: number): number => nExperts * rank * (2 * width + hiddenSize);
    const shared = nExperts * 2 * width * 32 + 2 * 32 * hiddenSize;
    expect([own(report.rank) <= shared, own(report.rank + 1) > shared]).toEqual([true, true]);
    const [gate, up] = [await model.readF32("layers.1.experts.3.gate"), await model.readF32("layers.1.experts.3.up")];
    const both = Matrix.from1DArray(2 * width, hiddenSize, [...gate, ...up]);
    const { diagonal } = new SingularValueDecomposition(both, { autoTranspose: true });
    expect(diagonal[report.rank - 1]! / diagonal[0]!).toBeGreaterThan(1e-3);
    expect(diagonal[report.rank]! / diagonal[0]!).toBeLessThan(1e-6);
  });

  it("goes through the other passes: quantised by what latent rows are, cut to as many experts of each latent group, merged where there is one", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel("qwen3_moe", 21), { dtype: "F32" });
    const { model } = await latentized(checkpoint, { rank: 32, nGroups: 2 });
    const [plan, logits] = [parseBitPlan("routed=8", model.config), await logitsWith(model)];
    for (const method of ["gptq", "nearest"] as const) {
      const sink = new MemorySink();
      const report = await quantizeModel(model, sink, kernelModules(), { plan, method, actOrder: false, damping: 0.01, weighting: "count", sequences: SEQUENCES });
      expect(report.matrices.filter(({ name }) => name.includes("latent")).map(({ name, rows }) => [name, rows > 0])).toEqual([0, 1].flatMap((layer) => [0, 1].map((group) => [`layers.${layer}.latent.${group}`, method === "gptq"])));
      expect(report.matrices.every(({ error }) => error < 0.02)).toBe(true);
      const quantized = await openModelFolder(new MemorySource(sink.files), "quantized");
      expect(quantized.place("layers.0.latent.1").type).toBe("Q8_0");
      expect(difference(await logitsWith(quantized), logits)).toBeLessThan(0.05 * largest(logits));
    }
    const pruned = new MemorySink();
    const { layers } = await pruneModel(model, pruned, kernelModules(), { keep: 4, score: "easy-ep", seed: 1, domains: [SEQUENCES] });
    for (const { kept } of layers) expect(kept.map((expert) => Math.floor(expert / 4))).toEqual([0, 0, 1, 1]);
    const fewer = await openModelFolder(new MemorySource(pruned.files), "pruned");
    expect(fewer.config).toMatchObject({ nExperts: 4, latentExperts: { rank: 32, nGroups: 2 } });
    expect((await logitsWith(fewer)).every(Number.isFinite)).toBe(true);
    const merging: MergeOptions = { share: 0.5, join: "mean", rank: 1, sequences: SEQUENCES, seed: 1 };
    await expect(mergeModel(model, new MemorySink(), kernelModules(), merging)).rejects.toThrow(/has 2 latent groups, whose experts read different rows; one group was expected/);
    const merged = new MemorySink();
    await mergeModel((await latentized(checkpoint, {})).model, merged, kernelModules(), merging);
    expect((await logitsWith(await openModelFolder(new MemorySource(merged.files), "merged"))).every(Number.isFinite)).toBe(true);
  });

  it("that cannot be is refused in words", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel("olmoe", 19));
    const refused = async (options: Partial<LatentizeOptions>, of = checkpoint): Promise<unknown> => latentized(of, options).then(() => null, (error: Error) => error.message);
    expect(await refused({}, await openTinyHuggingFace(tinyModel("llama", 1)))).toMatch(/is a dense model: it has no experts to make latent\.$/);
    expect(await refused({}, (await latentized(checkpoint, {})).model)).toMatch(/has latent experts of rank 32 already; a model whose experts read whole rows was expected\.$/);
    expect(await refused({ rank: 40 })).toMatch(/latent experts read rows of 40, expected a multiple of 32 of at most 64, the hidden size\.$/);
    expect(await refused({ rank: 96 })).toMatch(/latent experts read rows of 96, expected a multiple of 32 of at most 64/);
    expect(await refused({ nGroups: 3 })).toMatch(/8 experts are no multiple of 3 latent groups\.$/);
    expect(await refused({ sequences: [] })).toMatch(/at least one sequence was expected\.$/);
    expect(await refused({ expertRank: 0 })).toMatch(/expected at least 1\.$/);
    const kept = (rank: number, nGroups: number): number => parameterCounts({ ...checkpoint.config, latentExperts: { rank, nGroups } }).total / parameterCounts(checkpoint.config).total;
    expect(largestRank(checkpoint, 1, kept(32, 1))).toBe(32);
    expect(largestRank(checkpoint, 1, 2)).toBe(64);
    expect(() => largestRank(checkpoint, 2, kept(32, 2) - 0.001)).toThrow(/with the least rank, 32, latent experts leave 0\.\d{3}\.$/);
  });
});

const LATENT: LatentExpertsConfig = { rank: 32, nGroups: 2 };

describe.each(["q8", "q4", "f32"] as const)("a latent pack in %s", (quant) => {
  const packOf = (latentExperts: LatentExpertsConfig | undefined): Promise<MemoryPack> =>
    packToMemory(openTinyPlain(tinyModel("qwen2_moe", 20, { config: { vocab_size: 1061, num_hidden_layers: 3 }, ...(latentExperts === undefined ? {} : { latentExperts }) })), { quant, segmentWidth: 32 });
  const bits = (x: Float32Array): Uint32Array => new Uint32Array(x.buffer, x.byteOffset, x.length);

  it("gives the same bits one by one, whole and in any chunks", async () => {
    const { engine } = (await opened(await packOf(LATENT))).stage;
    const whole = bits(await logitsOf(engine, IDS, [30]));
    expect(whole.some((word) => word !== 0)).toBe(true);
    for (const chunks of [[1], [3, 7, 1, 16], [16, 1]]) expect(bits(await logitsOf(engine, IDS, chunks))).toEqual(whole);
  });

  it("gives the same bits from a ring of stages", async () => {
    const pack = await packOf(LATENT);
    const [ALL, NONE] = [[0, 1061], [0, 0]] as const;
    const spans: StageSpan[] = [{ embeddingRows: ALL, layers: [0, 1], headRows: NONE }, { embeddingRows: NONE, layers: [1, 2], headRows: NONE }, { embeddingRows: NONE, layers: [2, 3], headRows: ALL }];
    const [ring, sole] = [ringOf(await Promise.all(spans.map(async (span) => (await opened(pack, span)).stage))), soleOf((await opened(pack)).stage)];
    const run = async (of: typeof ring): Promise<Uint32Array[]> => {
      const sequence = of.open(40);
      const found: Uint32Array[] = [];
      for (const ids of [IDS.slice(0, 13), [5]]) found.push(...(await of.step([{ sequence, ids, logits: "all" }])).map(({ logits }) => bits(logits)));
      return found;
    };
    expect(await run(ring)).toEqual(await run(sole));
  });

  it("says so in its manifest; one whose experts are not latent says nothing of it", async () => {
    const [latent, plain] = [await opened(await packOf(LATENT)), await opened(await packOf(undefined))];
    expect(latent.manifest.config.latentExperts).toEqual(LATENT);
    expect(latent.manifest.blobs["layers.2.latent"]).toMatchObject({ count: 2, rows: 32, cols: 64, format: quant });
    expect(JSON.stringify(plain.manifest)).not.toContain("atent");
  });
});

/** Request frames of one round in which every token takes all experts of `chosen`, on one shard of two. */
function framesOf(hiddenSize: number, latentExperts: LatentExpertsConfig | undefined, activations: ActivationFormat, chosen: readonly (readonly number[])[]): { header: FrameHeader; frame: ArrayBuffer; heap: Heap; acts: number }[] {
  const config = { hiddenSize, router: {}, ...(latentExperts === undefined ? {} : { latentExperts }) };
  const [nExperts, topK, nTokens] = [8, chosen[0]!.length, chosen.length];
  const heap = new Heap(new WebAssembly.Memory({ initial: 64 }), 65536, 1 << 25);
  const sent: ArrayBuffer[] = [];
  const client = { name: "one", isAway: false, elsewhere: false, state: "open", submit: (frame: ArrayBuffer) => { sent.push(frame); return {}; } } as unknown as ShardClient;
  const placement = { nParts: 2, hasReplicas: false, partOf: (_: number, expert: number) => (expert < 6 ? 0 : 1) } as unknown as ReplicaChoice;
  const experts = new WebSocketExperts({
    clients: [client, client], placement, heap, frame: heap.alloc(LIMITS.frameBytes, "frames"), kernels: createScalarKernels(heap.memory), config, activations, maxTokens: nTokens, frameBytes: LIMITS.frameBytes,
    overlapTokens: Infinity, clock: { nowMs: () => 0, after: () => () => {} } as never, limits: LIMITS,
  });
  const rowsPerToken = inputRowsPerToken(config);
  const stride = activationRowBytes(activations, expertInputSize(config));
  const acts = heap.alloc(nTokens * rowsPerToken * stride, "rows");
  for (let i = 0; i < nTokens * rowsPerToken * stride; i++) heap.u8[acts + i] = (i * 37 + 11) % 251;
  const [ids, pairs, rows] = [heap.alloc(nTokens * topK * 4, "ids"), heap.alloc(nTokens * topK * PAIR_BYTES, "pairs"), heap.alloc(nTokens * topK * hiddenSize * 4, "rows")];
  heap.u32.set(chosen.flat(), ids / 4);
  const builder = new ExpertBatchBuilder(heap, { maxTokens: nTokens, topK, nExperts, maxSegments: 1, hidden: hiddenSize, rowsPerToken, expertsPerRow: nExperts / rowsPerToken, expertsPerBranch: nExperts }, { placement });
  void experts.run(0, builder.build(0, 1, nTokens, ids, ids, new Array<number>(nExperts).fill(1), acts, stride, rows, pairs).batch);
  return sent.map((frame) => {
    const decoded = decodeHeader(frame);
    if (!decoded.ok) throw new Error(decoded.message);
    return { header: decoded.header, frame, heap, acts };
  });
}

describe("the bytes that leave for shards", () => {
  const CHOSEN = [[0, 1], [2, 7], [5, 4], [6, 7], [3, 1]];
  const dispatched = (frames: readonly { header: FrameHeader }[]): number => frames.reduce((sum, { header }) => sum + requestLayout(header).groups - FRAME_HEADER_BYTES, 0);

  it.each(["f32", "qa8"] as const)("are rank / hidden of what they were, row for row: %s", (activations) => {
    const before = dispatched(framesOf(512, undefined, activations, CHOSEN));
    for (const rank of [128, 256]) expect(dispatched(framesOf(512, { rank, nGroups: 1 }, activations, CHOSEN)) / before).toBe(rank / 512);
  });

  it("hold, of each token, the rows of the latent groups that are read there, and each list names its own", () => {
    const latent = { rank: 32, nGroups: 4 }; // experts 0 and 1, 2 and 3, 4 and 5 on the first shard, 6 and 7 on the other
    const rowBytes = activationRowBytes("f32", 32);
    const [first, second] = framesOf(64, latent, "f32", CHOSEN) as [ReturnType<typeof framesOf>[number], ReturnType<typeof framesOf>[number]];
    // (token, group) read: (0,0) (1,1) (2,2) (4,0) (4,1); (1,3) (3,3).
    for (const [{ header, frame, heap, acts }, wanted, lists] of [
      [first, [0, 5, 10, 16, 17], [[0, [0]], [1, [0, 3]], [2, [1]], [3, [4]], [4, [2]], [5, [2]]]], [second, [7, 15], [[6, [1]], [7, [0, 1]]]],
    ] as const) {
      const at = requestLayout(header);
      expect([header.hidden, header.input, header.nRows]).toEqual([64, 32, wanted.length]);
      wanted.forEach((row, i) => expect(new Uint8Array(frame, at.activations + i * rowBytes, rowBytes)).toEqual(heap.u8.slice(acts + row * rowBytes, acts + (row + 1) * rowBytes)));
      const [groups, tokens] = [new Uint32Array(frame, at.groups), new Uint16Array(frame, at.tokens)];
      let token = 0;
      for (const [g, [expert, rows]] of lists.entries()) {
        expect([groups[2 * g], [...tokens.subarray(token, token + groups[2 * g + 1]!)]]).toEqual([expert, rows]);
        token += rows.length;
      }
      expect(header.nTokens).toBe(token);
    }
  });
});

describe.skipIf(missingTexts !== null)(`on the demo model${missingTexts === null ? "" : ` (${missingTexts})`}`, () => {
  it("one B for all experts of a layer predicts better than one for each, of the same size: two thirds of gate and up", async () => {
    const checkpoint = await openDemo();
    const [sequences, heldOut] = [{ first: 0, count: 12 }, { first: 600_000, count: 8 }].map((of) => demoWindows(checkpoint, "drama", { ...of, length: 256, every: 8000 })) as [number[][], number[][]];
    const options = { rank: 160, sequences };
    const [shared, own] = [await latentized(checkpoint, options), await latentized(checkpoint, { ...options, by: "per-expert" })];
    const [before, ofShared, ofOwn] = [await meanNll(checkpoint, heldOut), await meanNll(shared.model, heldOut), await meanNll(own.model, heldOut)];
    expect(before).toBeLessThan(ofShared);
    // Measured: docs/compression.md.
    expect(ofShared - before).toBeLessThan(0.75 * (ofOwn - before));
    for (const [i, { error }] of shared.report.layers.entries()) expect(error).toBeLessThan(own.report.layers[i]!.error);
  }, 900_000);
});
