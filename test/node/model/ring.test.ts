// A ring of stages against one whole engine: every architecture, cut between layers, through the embedding and through the head, in every form that logits are
// asked for. Every number must be the same bits. Vocabularies are longer than elsewhere, since they are cut at multiples of 512 rows.

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import type { PackManifest } from "../../../formats/manifest.ts";
import { openPack } from "../../../formats/pack-reader.ts";
import { stageBlobs } from "../../../formats/stage-blobs.ts";
import { trunkBlobsOf } from "../../../formats/manifest.ts";
import { engineRegions } from "../../../model/engine-regions.ts";
import { allocatedBytes } from "../../../model/heap.ts";
import type { LogitStage } from "../../../model/logit-adjustments.ts";
import type { EntryLogits } from "../../../model/logits.ts";
import { checkRing, checkStage, wholeModel, type Span, type StageSpan } from "../../../model/stage-span.ts";
import { openTinyHuggingFace, packToMemory, type MemoryPack } from "../../support/pack-to-memory.ts";
import { openStage, ringOf, soleOf, type Ring, type RingEntry, type StageEngine } from "../../support/ring.ts";
import { TINY_ARCHITECTURES, tinyModel, type TinyArchitecture } from "../../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

/** Two whole blocks and a ragged third, shorter than the most that may be asked of the largest. */
const VOCAB = 1061;
const N_LAYERS = 3;
const NONE: Span = [0, 0];
const ALL: Span = [0, VOCAB];

const span = (embeddingRows: Span, layers: Span, headRows: Span): StageSpan => ({ embeddingRows, layers, headRows });

const UNTIED: Readonly<Record<string, readonly StageSpan[]>> = {
  "one stage": [span(ALL, [0, 3], ALL)],
  "two stages": [span(ALL, [0, 2], NONE), span(NONE, [2, 3], ALL)],
  "one layer a stage, the head where tokens are drawn": [span(ALL, [0, 1], ALL), span(NONE, [1, 2], NONE), span(NONE, [2, 3], NONE)],
  "embedding and head apart, each over several": [span([0, 512], NONE, NONE), span([512, VOCAB], NONE, NONE), span(NONE, [0, 1], NONE), span(NONE, [1, 3], [0, 512]), span(NONE, NONE, [512, 1024]), span(NONE, NONE, [1024, VOCAB])],
};
const TIED: Readonly<Record<string, readonly StageSpan[]>> = {
  "one stage": [span(ALL, [0, 3], ALL)],
  "two stages": [span(ALL, [0, 2], ALL), span(NONE, [2, 3], NONE)],
  "embedding over several, one layer a stage": [span([0, 512], NONE, [0, 512]), span([512, 1024], NONE, [512, 1024]), span([1024, VOCAB], [0, 1], [1024, VOCAB]), span(NONE, [1, 2], NONE), span(NONE, [2, 3], NONE)],
};

const packOf = async (architecture: TinyArchitecture, quant: "q8" | "f32", config: Record<string, unknown> = {}): Promise<{ pack: MemoryPack; manifest: PackManifest }> => {
  const model = tinyModel(architecture, 7, { config: { vocab_size: VOCAB, num_hidden_layers: N_LAYERS, ...config } });
  const pack = await packToMemory(await openTinyHuggingFace(model), { quant, segmentWidth: 32, ...(quant === "q8" ? { kvFormat: "q8" as const } : {}) });
  return { pack, manifest: (await openPack(pack.source)).manifest };
};

/** Leaves the given tokens, and says so; or every token, adjusted. */
const among = (ids: readonly number[]): LogitStage => ({
  apply: (row) => row.map((value, id) => (ids.includes(id) ? value : -Infinity)), candidates: Uint32Array.from(ids), push: () => {}, isComplete: false, dispose: () => {},
});
const halved: LogitStage = { apply: (row) => row.map((value, id) => (id % 2 === 0 ? value / 2 : value)), push: () => {}, isComplete: false, dispose: () => {} };

const token = (i: number): number => (i * i * 131 + 17 * i + 5) % VOCAB;
const ids = (from: number, n: number): number[] => Array.from({ length: n }, (_, i) => token(from + i));
const FEW = among([3, 4, 511, 512, 700, 1023, 1024, 1060]);
const MANY = among(Array.from({ length: 40 }, (_, i) => i * 26));

/** Prompts in chunks beside each other, then tokens, in all forms; a guess that is taken back. */
async function story(ring: Ring): Promise<EntryLogits[]> {
  const out: EntryLogits[] = [];
  const [a, b, c] = [ring.open(64), ring.open(64), ring.open(40)];
  const step = async (...entries: RingEntry[]): Promise<void> => { out.push(...await ring.step(entries)); };
  await step({ sequence: a, ids: ids(0, 9), logits: "all" });
  await step({ sequence: b, ids: ids(40, 5), logits: "none" }, { sequence: a, ids: ids(9, 27), logits: { top: 64, of: "all" } });
  await step({ sequence: c, ids: [VOCAB - 1], logits: { states: true, of: "all" } }, { sequence: a, ids: ids(36, 1), logits: "last" }, { sequence: b, ids: ids(45, 30), logits: { top: 3, of: "last" } });
  await step({ sequence: a, ids: ids(37, 1), logits: { temperature: 0.7, of: "last" } }, { sequence: b, ids: ids(75, 1), logits: { among: FEW, of: "last" } }, { sequence: c, ids: [0], logits: { among: MANY, of: "last" } });
  await step({ sequence: a, ids: ids(38, 1), logits: { top: 1, stage: halved, of: "last" } }, { sequence: b, ids: ids(76, 1), logits: { temperature: 1.3, stage: halved, of: "last" } }, { sequence: c, ids: [511, 512], logits: { states: true, of: "all" } });
  await step({ sequence: a, ids: ids(90, 4), logits: "all" });
  ring.rewind(a, 40);
  await step({ sequence: a, ids: ids(80, 2), logits: { top: 40, of: "all" } }, { sequence: c, ids: [5], logits: "none" });
  return out;
}

/** Same bits: NaN and the sign of zero count. */
function expectSame(found: readonly EntryLogits[], expected: readonly EntryLogits[]): void {
  expect(found.length).toBe(expected.length);
  found.forEach(({ logits, top }, i) => {
    const wanted = expected[i]!;
    expect(logits.length).toBe(wanted.logits.length);
    expect(logits.findIndex((value, n) => !Object.is(value, wanted.logits[n])), `entry ${i}`).toBe(-1);
    expect(top === null).toBe(wanted.top === null);
    if (top === null) return;
    expect(top.ids).toEqual(wanted.top!.ids);
    expect(top.notFinite).toEqual(wanted.top!.notFinite);
    expect(top.values.findIndex((value, n) => !Object.is(value, wanted.top!.values[n])), `largest of entry ${i}`).toBe(-1);
  });
}

const openRing = (pack: MemoryPack, manifest: PackManifest, spans: readonly StageSpan[]): Promise<StageEngine[]> => Promise.all(spans.map((of) => openStage(pack.source, manifest, of)));

const CASES: readonly (readonly [string, TinyArchitecture, "q8" | "f32", Record<string, unknown>])[] = [
  ...TINY_ARCHITECTURES.map((name) => [`${name}, q8`, name, "q8", {}] as const),
  ["granitemoe in f32", "granitemoe", "f32", {}], ["deepseek_v3 in f32", "deepseek_v3", "f32", {}],
  ["olmoe with a tied head, q8", "olmoe", "q8", { tie_word_embeddings: true }], ["qwen3 with a tied head in f32", "qwen3", "f32", { tie_word_embeddings: true }],
];

describe.each(CASES)("%s", (_, architecture, quant, config) => {
  it("gives the bits of the whole engine, however it is cut", async () => {
    const { pack, manifest } = await packOf(architecture, quant, config);
    const expected = await story(soleOf(await openStage(pack.source, manifest, wholeModel(manifest.config))));
    expect(expected.every(({ logits }) => logits.every(Number.isFinite))).toBe(true);
    for (const spans of Object.values(manifest.config.tieWordEmbeddings ? TIED : UNTIED)) {
      checkRing(manifest.config, spans);
      const stages = await openRing(pack, manifest, spans);
      const constants = stages.map((stage) => stage.reserved());
      const used = stages.map(({ heap }) => heap.usedBytes);
      expectSame(await story(ringOf(stages)), expected);
      stages.forEach(({ engine, heap, reserved }, i) => {
        // A region that a stage does not have is address 0: nobody has written there.
        expect(reserved(), `stage ${i}`).toEqual(constants[i]);
        const pages = heap.account()["kv cache"] ?? 0;
        expect(pages).toBe((2 + 2 + 2) * (engine.kv.pageBytes === 0 ? 0 : allocatedBytes(engine.kv.pageBytes)));
        expect(heap.usedBytes - used[i]!).toBe(pages + (heap.account()["kv page table"] ?? 0));
      });
    }
  });
});

describe("what is held", () => {
  it("is each byte of the trunk once, and no region that is not needed", async () => {
    const { pack, manifest } = await packOf("deepseek_v2", "q8");
    const { config } = manifest;
    expect([...stageBlobs(manifest, wholeModel(config))].map(({ name, blob }) => [name, blob])).toEqual([...trunkBlobsOf(manifest)].map(({ name, blob }) => [name, blob]));
    const spans = UNTIED["embedding and head apart, each over several"]!;
    const held = spans.map((of) => [...stageBlobs(manifest, of)]);
    const bytes = (of: readonly { readonly name: string; readonly blob: { readonly bytes: number } }[], keeps = (name: string) => name !== "rope"): number => of.filter(({ name }) => keeps(name)).reduce((sum, { blob }) => sum + blob.bytes, 0);
    expect(held.reduce((sum, of) => sum + bytes(of), 0)).toBe(bytes([...trunkBlobsOf(manifest)]));
    expect(held.map((of) => of.some(({ name }) => name === "rope"))).toEqual([false, false, true, true, false, false]);
    expect(held.map((of) => of.some(({ name }) => name === "norm"))).toEqual([false, false, false, true, false, false]);

    const shared = (of: StageSpan): number => manifest.shared.filter(({ layer }) => layer >= of.layers[0] && layer < of.layers[1]).flatMap(({ segments }) => segments).reduce((most, { start, end }) => Math.max(most, end - start), 0);
    const zero = spans.map((of) => Object.entries(engineRegions(config, { nTokens: 64, maxSegments: 1, sharedSegmentWidth: shared(of), span: of })).filter(([, size]) => size > 0).map(([name]) => name));
    expect(zero[0]).toEqual(["x", "logits", "topIds", "topValues", "notFinite"]);
    expect(zero[1]).toEqual(["x"]);
    // A dense layer: no router, no experts.
    expect(zero[2]).toEqual(expect.arrayContaining(["normedF32", "q", "k", "x", "y", "sharedRows", "scratch"]));
    for (const region of ["routerLogits", "ids", "pairs", "expertRows", "finalsF32", "logits", "topIds"]) expect(zero[2]).not.toContain(region);
    expect(zero[5]).toEqual(["finalsF32", "finalsQa8", "finalsF32Ptrs", "finalsQa8Ptrs", "logits", "topIds", "topValues", "notFinite", "scratch"]);

    for (const [i, of] of spans.entries()) {
      const { heap } = await openStage(pack.source, manifest, of);
      const regions = engineRegions(config, { nTokens: 64, maxSegments: 1, sharedSegmentWidth: shared(of), span: of });
      expect(heap.account()["engine scratch"] ?? 0, `stage ${i}`).toBe(Object.values(regions).reduce((sum, size) => sum + (size === 0 ? 0 : allocatedBytes(size)), 0));
    }
  });

  it("is read from the extents it overlaps alone", async () => {
    const vocab = 40_000;
    const { pack, manifest } = await packOf("qwen3", "f32", { vocab_size: vocab, num_hidden_layers: 1 });
    const nExtents = manifest.blobs["embed"]!.extents.length;
    const cut: StageSpan[] = [span([0, 12_800], NONE, NONE), span([12_800, 32_256], NONE, NONE), span([32_256, vocab], [0, 1], [0, 16_896]), span(NONE, NONE, [16_896, vocab])];
    checkRing(manifest.config, cut);
    const counts = cut.map((of) => [...stageBlobs(manifest, of)].filter(({ name }) => name === "embed" || name === "head").map(({ blob }) => blob.extents.length));
    expect(nExtents).toBe(3);
    expect(counts).toEqual([[1], [2], [2, 2], [2]]);
    const stages = await openRing(pack, manifest, cut);
    const sole = await openStage(pack.source, manifest, wholeModel(manifest.config));
    const run = async (ring: Ring): Promise<readonly EntryLogits[]> => ring.step([{ sequence: ring.open(32), ids: [0, 12_799, 12_800, 16_383, 16_384, 32_255, 32_256, vocab - 1], logits: "all" }]);
    expectSame(await run(ringOf(stages)), await run(soleOf(sole)));
  });
});

describe("the largest of several stages", () => {
  it("tie to the lowest id, and name the first that is not finite", async () => {
    const { pack, manifest } = await packOf("qwen3", "f32");
    const { hiddenSize } = manifest.config;
    const sole = await openStage(pack.source, manifest, wholeModel(manifest.config));
    const stages = await openRing(pack, manifest, UNTIED["embedding and head apart, each over several"]!);
    /** Row `id` of the head in every engine that holds it. */
    const setRow = (id: number, value: (k: number, old: (row: number) => number) => number): void => {
      for (const { heap, model: { trunk: { head, span: { headRows: [from, to] } } } } of [sole, ...stages]) {
        if (head === null || id < from || id >= to) continue;
        const at = (row: number, k: number): number => head.ptr / 4 + (Math.floor((row - from) / 32) * hiddenSize + k) * 32 + ((row - from) % 32);
        for (let k = 0; k < hiddenSize; k++) heap.f32[at(id, k)] = value(k, (row) => heap.f32[at(row, k)]!);
      }
    };
    const row = Float32Array.from({ length: hiddenSize }, (_, k) => Math.sin(k * 3.7) * 4);
    const prompts = [ids(0, 12)];
    const run = async (ring: Ring): Promise<readonly EntryLogits[]> => ring.step(prompts.map((of) => ({ sequence: ring.open(32), ids: of, logits: { top: 64, of: "all" } as const })));
    // The same row in all stages: equal logits, among the largest of some token.
    for (const id of [9, 500, 512, 900, 1024, 1060]) setRow(id, (k) => row[k]!);
    const expected = await run(soleOf(sole));
    const { ids: largest, values } = expected[0]!.top!;
    expect(Array.from(largest.keys()).some((i) => i % 64 > 0 && values[i] === values[i - 1] && largest[i]! >= 512 && largest[i - 1]! < 512)).toBe(true);
    expectSame(await run(ringOf(stages)), expected);
    for (const id of [700, 1030]) setRow(id, (k) => (k === 0 ? Infinity : row[k]!));
    setRow(1050, () => NaN);
    const broken = await run(soleOf(sole));
    expect(new Set(broken[0]!.top!.notFinite)).toEqual(new Set([700]));
    expectSame(await run(ringOf(stages)), broken);
    // More NaN in the first stage than it has numbers among the largest: they rank below what comes after them.
    for (let id = 0; id < 512; id++) if (id !== 9) setRow(id, () => NaN);
    const sparse = await run(soleOf(sole));
    expect(sparse[0]!.top!.notFinite[0]).toBe(0);
    expectSame(await run(ringOf(stages)), sparse);
  });
});

describe("a broken ring is seen", () => {
  it("by other bits where a residual loses its last bits, by an error where head blocks are swapped or missing", async () => {
    const { pack, manifest } = await packOf("olmoe", "q8");
    const expected = await story(soleOf(await openStage(pack.source, manifest, wholeModel(manifest.config))));
    const spans = UNTIED["embedding and head apart, each over several"]!;
    const stages = await openRing(pack, manifest, spans);
    const rounded = await story(ringOf(stages, { rows: (rows) => new Float32Array(new Uint32Array(rows.buffer).map((bits) => bits & 0xffffff00).buffer) }));
    expect(() => expectSame(rounded, expected)).toThrow();
    const swapped = ringOf(stages, { parts: ([a, b, ...rest]) => [{ ...a!, answers: b!.answers }, { ...b!, answers: a!.answers }, ...rest] });
    const other = await swapped.step([{ sequence: swapped.open(32), ids: ids(0, 9), logits: "all" }]);
    expect(() => expectSame(other, expected.slice(0, 1))).toThrow();
    for (const parts of [(all: readonly unknown[]) => all.slice(1), (all: readonly unknown[]) => all.slice(0, -1), (all: readonly unknown[]) => [...all].reverse()]) {
      const ring = ringOf(stages, { parts: (all) => parts(all) as typeof all });
      await expect(ring.step([{ sequence: ring.open(32), ids: [1], logits: "last" }])).rejects.toThrow(/head rows/);
    }
  });

  it("by refusals of spans that cannot be, and of rows that do not fit", async () => {
    const { pack, manifest } = await packOf("llama", "q8");
    const { config } = manifest;
    for (const [of, message] of [
      [span([0, 500], NONE, NONE), /cut at multiples of 512 rows/], [span(NONE, [2, 4], NONE), /layers 2 to 4/], [span(NONE, NONE, NONE), /needs something to hold/], [span([0, 512], [0, 1], NONE), /embedded before the first layer/],
    ] as const) expect(() => checkStage(config, of)).toThrow(message);
    expect(() => checkStage({ ...config, tieWordEmbeddings: true }, span([0, 512], NONE, [512, 1024]))).toThrow(/head is its embedding/);
    expect(() => checkRing(config, [span(ALL, [0, 1], NONE), span(NONE, [2, 3], ALL)])).toThrow(/begin at 1/);
    expect(() => checkRing(config, [span(ALL, [0, 3], [0, 512])])).toThrow(/512 head rows/);
    expect(() => checkRing(config, [span(NONE, [0, 3], NONE), span(ALL, NONE, ALL)])).toThrow(/embedding rows come before/);
    const [first, second, head] = await openRing(pack, manifest, [span([0, 512], NONE, NONE), span([512, VOCAB], [0, 3], NONE), span(NONE, NONE, ALL)]);
    const entry = (stage: StageEngine): { entries: { timeline: ReturnType<StageEngine["engine"]["kv"]["open"]>; ids: number[] }[]; asked: number[] } => ({ entries: [{ timeline: stage.engine.kv.open(32), ids: [1, 600] }], asked: [] });
    await expect(second!.engine.pass({ ...entry(second!), rows: null })).rejects.toThrow(/only the first begins without/);
    await expect(second!.engine.pass({ ...entry(second!), rows: new Float32Array(64) })).rejects.toThrow(/64 numbers came for 2 tokens; 128/);
    await expect(second!.engine.pass({ ...entry(second!), asked: [2], rows: new Float32Array(128) })).rejects.toThrow(/not among the 2 of the pass/);
    await expect(head!.engine.pass({ ...entry(head!), rows: new Float32Array(128) })).rejects.toThrow(/nothing passes through it/);
    await expect(first!.engine.step([{ timeline: first!.engine.kv.open(32), ids: [1], logits: "none" }])).rejects.toThrow(/one stage of a ring/);
    const { rows } = await first!.engine.pass({ ...entry(first!), rows: null });
    expect(rows.subarray(64).every((value) => value === 0) && rows.subarray(0, 64).some((value) => value !== 0)).toBe(true);
  });
});
