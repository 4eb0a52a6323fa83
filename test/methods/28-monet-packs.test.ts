// Row 28, Monet (Park et al., 2024), as files: Hugging Face folders, canonical models, packs in every kernel format, rings, plans, layer-by-layer runs and the commands that show them;
// 262,144 experts a layer in one engine. The layers themselves are 28-monet.test.ts.

import { execFile } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../cli/build-kernels.mjs";
import { inspect } from "../../cli/commands/inspect.ts";
import { compareModels } from "../../cli/compare-models.ts";
import { FolderSource } from "../../cli/file-source.ts";
import { kernelModules, openPackFrom } from "../../cli/open-pack.ts";
import { pinnedNode, ROOT } from "../../cli/setup.mjs";
import { parameterCounts } from "../../fleet/capacity-pack.ts";
import { ringTraffic } from "../../fleet/traffic.ts";
import { openModelFolder } from "../../formats/canonical-model.ts";
import { afterPass, unchanged, writeCanonical } from "../../formats/canonical-writer.ts";
import type { Checkpoint } from "../../formats/checkpoint.ts";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySink, MemorySource } from "../../formats/memory-source.ts";
import { QUANTS } from "../../formats/pack-formats.ts";
import { openPack } from "../../formats/pack-reader.ts";
import { cutRowLength, trunkTensors, type ModelConfig } from "../../model/config.ts";
import { forwardDefinition } from "../../model/definition.ts";
import { keyWeights } from "../../model/definition-product.ts";
import { engineRegions } from "../../model/engine-regions.ts";
import { Heap } from "../../model/heap.ts";
import { formatCode, matmulScratchBytes } from "../../model/kernels.ts";
import { keptKeys } from "../../model/product-router.ts";
import { ProductUse } from "../../model/product-use.ts";
import { createScalarKernels } from "../../model/scalar-kernels.ts";
import { checkRing, wholeModel, type StageSpan } from "../../model/stage-span.ts";
import { instantiateKernels, RESERVED_BYTES } from "../../model/wasm-kernels.ts";
import { parseBitPlan } from "../../passes/bit-plan.ts";
import { LayeredModel } from "../../passes/layered-model.ts";
import { moefyModel } from "../../passes/moefy-model.ts";
import { quantizeModel } from "../../passes/quantize-model.ts";
import { rotateModel } from "../../passes/rotate-model.ts";
import { checkpointWeights, packWeights } from "../../passes/streamed-model.ts";
import { kernelModule } from "../node/kernels/modules.ts";
import { directEngine, logitsOf, type PlainWeights } from "../support/direct-engine.ts";
import { tinyMonet, type TinyMonet } from "../support/monet-files.ts";
import { packToMemory, type MemoryPack } from "../support/pack-to-memory.ts";
import { plainCheckpoint } from "../support/plain-checkpoint.ts";
import { productConfig, productWeights } from "../support/product-model.ts";
import { openStage, ringOf, soleOf } from "../support/ring.ts";
import { SeededRandom } from "../support/seeded-random.ts";

let folder: string;
beforeAll(async () => {
  await buildKernels({ log: () => {} });
  folder = mkdtempSync(join(tmpdir(), "workers-moe-monet-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const IDS = Array.from({ length: 30 }, (_, i) => (i * i * 5 + 3 * i + 7) % 97);
const bits = (x: Float32Array): Uint32Array => new Uint32Array(x.buffer, x.byteOffset, x.length);
const opened = (model: TinyMonet): Promise<Checkpoint> => openHuggingFace(new MemorySource(model.files), "tiny-monet");
const FORMS = [["vertical", {}], ["horizontal", { moe_decompose: "horizontal", moe_dim: 6, moe_groups: 4 }]] as const;
const rms = (x: readonly number[]): number => Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / x.length);

describe.each(FORMS)("%s", (form, overrides) => {
  const model = tinyMonet(5, overrides);

  it("config.json and tensors of a published folder become the record and its tensors", async () => {
    const { config } = model;
    expect(config).toMatchObject({ architecture: "monet", nExperts: 0, layerFfns: ["product", "product", "product", "product"], productExperts: { form, nKeys: 16, nHeads: 4, topK: 4, routerLayers: form === "vertical" ? 2 : 4 } });
    const checkpoint = await opened(model);
    expect(checkpoint.warnings).toEqual([]);
    const names = trunkTensors(config).map(({ name }) => name);
    expect([...checkpoint.places()].map(({ name }) => name)).toEqual(names);
    expect(names.filter((name) => name.endsWith("product.w1"))).toEqual(form === "vertical" ? ["layers.0.product.w1", "layers.2.product.w1"] : ["layers.0.product.w1"]);
    for (const name of ["layers.0.product.w2", "layers.0.product.variance1", ...(form === "vertical" ? ["layers.3.product.b2", "layers.1.product.v21", "layers.1.product.u2Bias"] : ["layers.3.product.b", "layers.1.product.v"])]) {
      expect([...await checkpoint.readF32(name)]).toEqual([...Array.from(model.weights(name).values)]);
    }
  });

  it("an f32 pack says what the definition says, through a canonical model too", async () => {
    const checkpoint = await opened(model);
    const sink = new MemorySink();
    await writeCanonical(sink, { ...afterPass(checkpoint, { pass: "by hand", options: {} }), config: checkpoint.config }, [...checkpoint.places()].map(({ name }) => unchanged(checkpoint, name)));
    const canonical = await openModelFolder(new MemorySource(sink.files), "canonical");
    expect(canonical.config).toEqual(checkpoint.config);
    const [direct, again] = [await packToMemory(checkpoint, { quant: "f32" }), await packToMemory(canonical, { quant: "f32" })];
    const { engine } = await openPackFrom(direct.source);
    const found = await logitsOf(engine, IDS, [30]);
    expect(bits(await logitsOf((await openPackFrom(again.source)).engine, IDS, [7]))).toEqual(bits(found));
    const truth = forwardDefinition(checkpoint.config, model.weights, IDS).logits.flat();
    const most = Math.max(...truth.map(Math.abs));
    truth.forEach((v, i) => expect(Math.abs(v - found[i]!)).toBeLessThan(2e-5 * most));
  });

  it.each(QUANTS)("a pack in %s: the same bits from every kernel and in any chunks", async (quant) => {
    const pack = await packToMemory(await opened(model), { quant });
    const { engine, manifest } = await openPackFrom(pack.source);
    const found = bits(await logitsOf(engine, IDS, [30]));
    expect(found.every((word) => (word & 0x7f800000) !== 0x7f800000)).toBe(true);
    for (const chunks of [[1], [3, 7, 1, 16]]) expect(bits(await logitsOf(engine, IDS, chunks))).toEqual(found);
    const { simd128 } = kernelModules();
    expect(bits(await logitsOf((await openPackFrom(pack.source, { modules: { simd128 } })).engine, IDS, [11]))).toEqual(found);
    const v = manifest.blobs[`layers.1.product.${form === "vertical" ? "v11" : "v"}`]!;
    expect([v.format, manifest.blobs["layers.0.product.w1"]!.format, manifest.blobs[`layers.1.product.${form === "vertical" ? "b1" : "b"}`]!.format])
      .toEqual(quant === "source" || quant === "f32" ? ["f32", "f32", "f32-vector"] : [quant, "q8", "f32-vector"]);
  });

  it.each(["q8", "q4"] as const)("a pack in %s is the model of its own weights but for int8 activations", async (quant) => {
    const [config, pack] = [model.config, await packToMemory(await opened(model), { quant, kvFormat: "f32" })];
    const found = await logitsOf((await openPackFrom(pack.source)).engine, IDS, [30]);
    const [own, before] = [forwardDefinition(config, await packedWeights(pack), IDS).logits, forwardDefinition(config, model.weights, IDS).logits];
    const errors = (of: readonly number[][]): number[] => of.map((row, t) => rms(row.map((v, i) => v - found[t * row.length + i]!)) / rms(row)).sort((a, b) => a - b);
    // Of the median token: at some, a key comes in or goes out.
    expect(errors(own)[15]).toBeLessThan(0.08);
    if (quant === "q4") expect(errors(before)[15]!).toBeGreaterThan(2 * errors(own)[15]!);
  });

  it("layer by layer gives the bits of the whole, and agrees with its source", async () => {
    const [checkpoint, pack] = [await opened(model), await packToMemory(await opened(model), { quant: "q4" })];
    const { engine } = await openPackFrom(pack.source);
    const expected = bits(await logitsOf(engine, IDS, [30]));
    const layered = await LayeredModel.open(packWeights(pack.source, (await openPack(pack.source)).manifest), [IDS], kernelModules(), { chunkTokens: 8 });
    const seen: number[][] = [];
    for (let layer = 0; layer < 4; layer++) {
      const tried = await layered.tryLayer(layer, { taps: [{ at: "keys", run: ({ layer: own, nTokens }, first) => { seen.push([layer, own, first, nTokens]); } }] });
      expect(await layered.runLayer(layer)).toEqual(tried);
      expect(layered.usedBytes).toBe(0);
    }
    expect(seen).toEqual([0, 1, 2, 3].flatMap((layer) => [[layer, 0, 0, 8], [layer, 0, 8, 8], [layer, 0, 16, 8], [layer, 0, 24, 6]]));
    expect(bits((await layered.openHead()).logits(0, 30))).toEqual(expected);
    const exact = await packToMemory(checkpoint, { quant: "f32" });
    const { manifest } = await openPack(exact.source);
    const agreement = await compareModels([checkpointWeights(checkpoint, manifest.contextLength), packWeights(exact.source, manifest)], IDS);
    expect(agreement.logitError).toBeLessThan(1e-4);
    expect(agreement.layers).toHaveLength(4);
  });
});

/** A pack's tensors, multiplied out by the kernels. */
async function packedWeights(pack: MemoryPack): Promise<PlainWeights> {
  const { manifest } = await openPack(pack.source);
  const from = packWeights(pack.source, manifest);
  const kernels = createScalarKernels(new WebAssembly.Memory({ initial: 2 }));
  const heap = new Heap(kernels.memory, 65536, 1 << 28);
  const found = new Map<string, { rows: number; cols: number; values: Float32Array }>();
  for (const { name } of trunkTensors(manifest.config)) {
    const { format, nRows, nCols, bytes, load } = from.tensor(name);
    const [ptr, row] = [heap.alloc(bytes, "weights"), heap.alloc(nCols * 4, "row")];
    await load(heap, ptr);
    const values = new Float32Array(nRows * nCols);
    for (let r = 0; r < nRows; r++) {
      if (format !== "f32-vector") kernels.readRow(formatCode(format), ptr, nCols, r, row);
      const at = (format === "f32-vector" ? ptr : row) / 4;
      values.set(heap.f32.subarray(at, at + nCols), r * nCols);
    }
    for (const of of [ptr, row]) heap.free(of);
    found.set(name, { rows: nRows, cols: nCols, values });
  }
  return (name) => found.get(name)!;
}

describe("a ring", () => {
  const model = tinyMonet(9, { vocab_size: 1061, num_hidden_layers: 5 });
  const [ALL, NONE] = [[0, 1061], [0, 0]] as const;
  const cut = (...ends: number[]): StageSpan[] => ends.map((end, n) => ({ embeddingRows: n === 0 ? ALL : NONE, layers: [ends[n - 1] ?? 0, end], headRows: n === ends.length - 1 ? ALL : NONE }));

  it("cut anywhere gives the bits of one engine: a router's weights follow the residual", async () => {
    const pack = await packToMemory(await opened(model), { quant: "q8" });
    const { manifest } = await openPack(pack.source);
    const { config } = manifest;
    const sole = soleOf(await openStage(pack.source, manifest, wholeModel(config)));
    expect([1, 2, 3, 4, 5].map((layer) => cutRowLength(config, layer) - config.hiddenSize)).toEqual([2 * 4 * 16, 0, 2 * 4 * 16, 0, 0]);
    for (const spans of [cut(2, 5), cut(4, 5), cut(1, 5), cut(1, 2, 3, 4, 5), cut(3, 5)]) {
      checkRing(config, spans);
      const stages = await Promise.all(spans.map((span) => openStage(pack.source, manifest, span)));
      const run = async (of: ReturnType<typeof ringOf>): Promise<Uint32Array[]> => {
        const sequence = of.open(40);
        const found: Uint32Array[] = [];
        for (const ids of [IDS.slice(0, 23), [5]]) found.push(...(await of.step([{ sequence, ids, logits: "all" }])).map(({ logits }) => bits(logits)));
        return found;
      };
      const expected = await run(sole);
      expect(await run(ringOf(stages))).toEqual(expected);
      // What follows the residual counts.
      const lengths: number[] = [];
      const altered = ringOf(stages, { rows: (rows) => { lengths.push(rows.length / 23); return rows.map((x, i) => (i % (rows.length / 23) >= config.hiddenSize ? 0 : x)); } });
      const sequence = altered.open(40);
      const [{ logits }] = await altered.step([{ sequence, ids: IDS.slice(0, 23), logits: "all" }]) as unknown as [{ logits: Float32Array }];
      expect(lengths).toEqual(spans.slice(1).map(({ layers: [first] }) => cutRowLength(config, first)));
      expect(String(bits(logits)) === String(expected[0])).toBe(lengths.every((length) => length === config.hiddenSize));
    }
  });

  it("passes weights through a stage that needs none itself, and refuses rows without them", async () => {
    // Layers 0 and 2 share a router, layer 1 between them is dense.
    const own = productConfig({ routerLayers: 4 }, 3, { layerFfns: ["product", "dense", "product"], denseIntermediateSize: 40, vocabSize: 1061 });
    const pack = await packToMemory(plainCheckpoint(own, productWeights(own, 2)), { quant: "q8" });
    const { manifest } = await openPack(pack.source);
    const stages = await Promise.all(cut(1, 2, 3).map((span) => openStage(pack.source, manifest, span)));
    const [ring, sole] = [ringOf(stages), soleOf(await openStage(pack.source, manifest, wholeModel(own)))];
    const [a, b] = await Promise.all([ring, sole].map(async (of) => (await of.step([{ sequence: of.open(20), ids: IDS.slice(0, 9), logits: "all" }]))[0]!.logits)) as [Float32Array, Float32Array];
    expect(bits(a)).toEqual(bits(b));
    const short = ringOf(stages, { rows: (rows) => rows.slice(0, 9 * own.hiddenSize) });
    await expect(short.step([{ sequence: short.open(20), ids: IDS.slice(0, 9), logits: "all" }])).rejects.toThrow(/Residual rows of 432 numbers came for 9 tokens; 864 were expected/);
  });

  it("counts what follows the residual in the traffic of a plan", () => {
    const { config } = model;
    const of = (...ends: number[]): number => ringTraffic(config, cut(...ends), { tokens: 3, outputs: 0 }, { headerBytes: 80 } as never).bytes;
    expect(of(1, 5) - of(2, 5)).toBe(3 * 4 * 2 * 4 * 16);
  });
});

it("what a pass quantises is attention alone, layer by layer through groups that share a router", async () => {
  const checkpoint = await opened(tinyMonet(4));
  const sink = new MemorySink();
  const report = await quantizeModel(checkpoint, sink, kernelModules(), {
    plan: parseBitPlan("all=8; attn=4", checkpoint.config), method: "gptq", actOrder: false, damping: 0.01, weighting: "count", sequences: [IDS, IDS.map((id) => (id * 7 + 1) % 97)],
  });
  expect(report.matrices.map(({ name }) => name)).toEqual(expect.arrayContaining(["embed", "head", "layers.0.q", "layers.3.o"]));
  expect(report.matrices.filter(({ name }) => name.includes("product"))).toEqual([]);
  expect(report.matrices.filter(({ name }) => /layers/.test(name)).every(({ rows, error }) => rows > 0 && error < 0.2)).toBe(true);
  const model = await openModelFolder(new MemorySource(sink.files), "quantized");
  expect([model.place("layers.2.k").type, model.place("layers.2.product.v12").type, model.place("layers.2.product.w1").type]).toEqual(["Q4_0", "F32", "F32"]);
  expect([...await model.readF32("layers.1.product.u2")]).toEqual([...await checkpoint.readF32("layers.1.product.u2")]);
  const { engine } = await openPackFrom((await packToMemory(model, { quant: "source" })).source);
  expect((await logitsOf(engine, IDS, [30])).every(Number.isFinite)).toBe(true);
});

describe("262,144 experts a layer", () => {
  const config: ModelConfig = productConfig({ nKeys: 512, nHeads: 8, topK: 32, expertSize: 8, routerLayers: 2 }, 2, { hiddenSize: 256, nHeads: 4, nKvHeads: 2, headDim: 64, attentionScale: 0.125, rope: tinyMonet(1, { hidden_size: 256 }).config.rope });
  const weights = productWeights(config, 3);

  it("run in one engine, and are the sum over those that heads keep", async () => {
    expect(config.productExperts!.nKeys ** 2).toBe(262_144);
    const memory = new WebAssembly.Memory({ initial: 2 });
    const { engine, heap } = directEngine(config, weights, RESERVED_BYTES, { kernels: instantiateKernels(kernelModule("simd128"), memory, "simd128"), contextLength: 32 });
    const ids = [41];
    const kept: number[] = [];
    const timeline = engine.kv.open(4);
    const { logits } = await engine.step([{ timeline, ids, logits: "all" }], [{ at: "keys", layers: [0], run: ({ values, rowLength, nTokens }) => {
      for (let t = 0; t < nTokens; t++) kept.push(...keptKeys(config.productExperts!, values.subarray(t * rowLength, (t + 1) * rowLength)).flat().map(({ length }) => length));
    } }]);
    // About 32 of 512 keys for each head of either codebook.
    expect(kept).toHaveLength(2 * 8);
    expect(kept.reduce((a, b) => a + b, 0) / kept.length).toBeGreaterThan(8);
    expect(kept.reduce((a, b) => a + b, 0) / kept.length).toBeLessThan(128);
    const truth = forwardDefinition(config, weights, ids).logits;
    const most = Math.max(...truth.flat().map(Math.abs));
    truth.forEach((row, t) => row.forEach((v, i) => expect(Math.abs(v - logits[0]![t * row.length + i]!)).toBeLessThan(1e-4 * most)));
    expect(heap.usedBytes).toBeLessThan(40 << 20);
  });

  it("take working memory by the key, not by the expert", () => {
    const bytes = (nKeys: number): number => Object.values(engineRegions({ ...config, productExperts: { ...config.productExperts!, nKeys } }, { nTokens: 64, maxSegments: 1, sharedSegmentWidth: 0 })).reduce((a, b) => a + b, 0);
    const [small, large] = [bytes(256) - bytes(128), bytes(512) - bytes(256)];
    expect(large / small).toBeGreaterThan(1.9);
    expect(large / small).toBeLessThan(2.1);
    const weightsPerToken = 2 * 8 * 512 * 4;
    const regions = engineRegions(config, { nTokens: 64, maxSegments: 1, sharedSegmentWidth: 0 });
    expect(regions.productWeights).toBe(64 * weightsPerToken);
    // A row that V reads is eight times as long as any other.
    expect(regions.scratch).toBeGreaterThanOrEqual(matmulScratchBytes(512 * 4));
    // Nothing of it where there are no such layers.
    const { productExperts, ...plain } = config;
    expect(productExperts).toBeDefined();
    const none = engineRegions({ ...plain, layerFfns: ["dense", "dense"] }, { nTokens: 64, maxSegments: 1, sharedSegmentWidth: 32 });
    expect(Object.entries(none).filter(([name, size]) => name.startsWith("product") && size > 0)).toEqual([]);
  });

  it("keep about as many keys as asked where the batch norm's statistics are those of the logits", () => {
    const random = new SeededRandom(28);
    const [x, w] = [Array.from({ length: 4 }, () => random.normal()), Float32Array.from({ length: 8 * 512 * 4 }, () => random.normal())];
    const norm = x.reduce((sum, v) => sum + v * v, 0);
    const of: PlainWeights = (name) => (name.includes("product.w") ? { rows: 8 * 512, cols: 4, values: w } : { rows: 1, cols: 8, values: new Array<number>(8).fill(name.includes("mean") ? 0 : norm) });
    const n = keyWeights({ ...config, hiddenSize: 4 }, of, "layers.0.", x)[0].map((head) => head.filter((g) => g > 0).length);
    expect(n.reduce((a, b) => a + b, 0) / 8).toBeGreaterThan(24);
    expect(n.reduce((a, b) => a + b, 0) / 8).toBeLessThan(40);
  });
});

describe("shown and refused", () => {
  const run = (...args: string[]): Promise<string> => new Promise((resolve, reject) => {
    execFile(pinnedNode, [join(ROOT, "bin", "workers-moe.js"), ...args], (error, stdout, stderr) => { if (error === null) resolve(stdout); else reject(new Error(stderr)); });
  });

  it("inspect counts the experts and what takes part in a token", async () => {
    const model = tinyMonet(3);
    const seen = inspect({ kind: "checkpoint", checkpoint: await opened(model) });
    const all = trunkTensors(model.config).reduce((n, { name }) => n + model.weights(name).values.length, 0);
    const halves = trunkTensors(model.config).filter(({ name }) => /product\.(u|v|b)\d*(Bias)?$/.test(name)).reduce((n, { name }) => n + model.weights(name).values.length, 0);
    expect(seen).toMatchObject({ architecture: "monet", parameters: all, activeParameters: all, totalBytes: 4 * all });
    // Four heads that keep four of sixteen keys may need them all; two heads, half of them.
    const fewer = { ...model.config, productExperts: { ...model.config.productExperts!, nHeads: 2 } };
    const count = parameterCounts(fewer);
    expect(count.total - count.active).toBe(halves / 2);
    const path = join(folder, "tiny-monet");
    for (const [name, bytes] of model.files) {
      mkdirSync(dirname(join(path, name)), { recursive: true });
      writeFileSync(join(path, name), bytes);
    }
    expect(await run("inspect", path)).toMatch(/product experts +256 in each of 4 layers: 16 x 16 halves, vertical, 8 wide; 4 heads keep about 4 keys of either codebook, one router for 2 layers/);
    const pack = join(folder, "tiny-pack");
    await run("pack", path, "--out", pack, "--quant", "q8");
    expect(await run("inspect", pack)).toMatch(/product experts +256 in each of 4 layers/);
    expect(await run("verify", pack, "--source", path)).toMatch(/logit/);
    const [ids, out] = [join(folder, "ids.json"), join(folder, "logits.f32")];
    writeFileSync(ids, JSON.stringify(IDS));
    await run("logits", pack, "--tokens", ids, "--out", out);
    const expected = await logitsOf((await openPackFrom((await packToMemory(await opened(model), { quant: "q8" })).source)).engine, IDS, [30]);
    expect(bits(new Float32Array(new Uint8Array(readFileSync(out)).buffer))).toEqual(bits(expected));
  });

  it("trace counts the keys that tokens keep", async () => {
    const [path, text] = [join(folder, "trace-pack"), join(folder, "text.txt")];
    for (const [name, bytes] of (await packToMemory(await opened(tinyMonet(3)), { quant: "q8", id: "monet" })).files) {
      mkdirSync(dirname(join(path, name)), { recursive: true });
      writeFileSync(join(path, name), bytes);
    }
    writeFileSync(text, "the cat sat on the mat and the dog ran. ".repeat(8));
    const shown = await run("trace", path, "--text", text);
    expect(shown).toMatch(/monet: (\d+) tokens, 4 heads over two codebooks of 16 keys\.\nlayer 0\n +codebook 1 +\d\.\d of 16 kept by a head \(\d to \d+\), \d+ kept by none, busiest \d+ \(/);
    const { layers } = JSON.parse(await run("trace", path, "--text", text, "--json")) as { layers: { layer: number; tokens: number; codebooks: { kept: number; least: number; most: number; tokensOfKeys: number[] }[] }[] };
    expect(layers.map(({ layer }) => layer)).toEqual([0, 2]);
    const { engine, tokenizer } = await openPackFrom(new FolderSource(path));
    const ids = tokenizer!.encodeText(readFileSync(text, "utf8")).slice(0, engine.contextLength);
    expect(layers[0]!.tokens).toBeGreaterThanOrEqual(ids.length);
    // Of the first window, counted by hand.
    const counted = new ProductUse(engine.config);
    const byHand = [new Array<number>(16).fill(0), new Array<number>(16).fill(0)];
    let kept = 0;
    const timeline = engine.kv.open(ids.length);
    for (let done = 0; done < ids.length; done += 64) await engine.step([{ timeline, ids: ids.slice(done, done + 64), logits: "none" }], [counted.tap, { at: "keys", layers: [2], run: ({ values, rowLength, nTokens }) => {
      for (let t = 0; t < nTokens; t++) keptKeys(engine.config.productExperts!, values.subarray(t * rowLength, (t + 1) * rowLength)).forEach((heads, codebook) => {
        kept += heads.flat().length;
        for (const key of new Set(heads.flat())) byHand[codebook]![key]!++;
      });
    } }]);
    const [, second] = counted.layers;
    expect(second).toMatchObject({ layer: 2, tokens: ids.length });
    expect(second!.codebooks[0].kept + second!.codebooks[1].kept).toBe(kept);
    expect(second!.codebooks.map(({ tokensOfKeys }) => [...tokensOfKeys])).toEqual(byHand);
    if (layers[0]!.tokens === ids.length) expect(layers[1]!.codebooks.map(({ tokensOfKeys }) => tokensOfKeys)).toEqual(byHand);
    await expect(run("trace", path, "--text", text, "--out", join(folder, "x.trace"))).rejects.toThrow(/has product experts alone, of which a trace has no records/);
    expect(existsSync(join(folder, "x.trace"))).toBe(false);
  });

  it("what cannot be is refused in words", async () => {
    const refusal = (overrides: Readonly<Record<string, unknown>>): string => {
      try {
        tinyMonet(1, overrides);
      } catch (error) {
        return (error as Error).message;
      }
      return "";
    };
    expect(refusal({ hidden_act: "silu" })).toMatch(/hidden_act = "silu", which this version cannot run/);
    expect(refusal({ moe_decompose: "diagonal" })).toMatch(/moe_decompose .*"vertical" or "horizontal"/);
    expect(refusal({ moe_topk: 17 })).toMatch(/productExperts keeps 17 keys of 16\.$/);
    expect(refusal({ moe_dim: 5 })).toMatch(/vertical experts of 5 hidden units, expected an even number|expected a multiple of 4/);
    expect(refusal({ hidden_size: 60, num_attention_heads: 5, num_key_value_heads: 5 })).toMatch(/half the hidden size, 60 \/ 2, is 30, expected a multiple of 4/);
    const checkpoint = await opened(tinyMonet(1));
    await expect(rotateModel(checkpoint, new MemorySink(), { by: "hadamard", seed: 1 })).rejects.toThrow(/has product experts, whose halves write halves of the old basis/);
    await expect(moefyModel(checkpoint, new MemorySink(), kernelModules(), { nExperts: 2, topK: 1, split: "random", router: "mean", seed: 1, sequences: [] })).rejects.toThrow(/has product experts already/);
  });
});
