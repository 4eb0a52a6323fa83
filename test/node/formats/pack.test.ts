// The pack: what goes in comes out, bit for bit; the same input gives the same bytes; damage is told by name.

import { describe, expect, it } from "vitest";
import { SourceError } from "../../../formats/byte-source.ts";
import { decodeRows } from "../../../formats/dequantize.ts";
import { type PackManifest, type PackSegment, blobsOf, formatManifest, matrixFormatOf, segmentName, sharedSegmentName, validateManifest } from "../../../formats/manifest.ts";
import { openGguf } from "../../../formats/gguf-checkpoint.ts";
import { readGgufHeader } from "../../../formats/gguf.ts";
import { MemorySink, MemorySource } from "../../../formats/memory-source.ts";
import { type BlobTarget, loadBlobs, openPack, planReads, readTokenizerJson } from "../../../formats/pack-reader.ts";
import type { PackSink } from "../../../formats/pack-sink.ts";
import { writePack } from "../../../formats/pack-writer.ts";
import { QUANTS, type Quant } from "../../../formats/pack-formats.ts";
import { encodeRows, noLoss } from "../../../formats/quantize.ts";
import { typeOfFormat } from "../../../formats/stored-types.ts";
import { untileGateUp, untileMatrix } from "../../../formats/tiles.ts";
import { sharedWidth } from "../../../model/config.ts";
import { type MatrixFormat, gateUpRows, matrixBytes } from "../../../model/kernels.ts";
import { ropeTable } from "../../../model/rope.ts";
import { type MemoryPack, openTinyGguf, openTinyHuggingFace, packToMemory } from "../../support/pack-to-memory.ts";
import { isPermuted } from "../../support/tiny-files.ts";
import { TINY_ARCHITECTURES, type TinyArchitecture, type TinyMatrix, tinyModel } from "../../support/tiny-models.ts";

/** All blobs of a pack by name, through the reader. */
async function loadAll(pack: MemoryPack): Promise<{ manifest: PackManifest; blobs: Map<string, Uint8Array> }> {
  const { manifest } = await openPack(pack.source);
  const blobs = new Map<string, Uint8Array>();
  const targets = [...blobsOf(manifest)].map((b): BlobTarget => {
    const bytes = new Uint8Array(b.blob.bytes);
    blobs.set(b.name, bytes);
    return { ...b, write: (piece, offset) => bytes.set(piece, offset) };
  });
  await loadBlobs(pack.source, manifest, targets);
  return { manifest, blobs };
}

/** What a matrix's values become in a format: themselves, or quantised and back. */
function through(format: MatrixFormat, values: Float32Array, nRows: number, nCols: number): Float32Array {
  const type = typeOfFormat(format);
  return type === "F16" || type === "BF16" ? values : decodeRows(type, encodeRows(type, "W", values, nRows, nCols, noLoss()), nRows, nCols);
}

const columns = (m: TinyMatrix, from: number, to: number): Float32Array =>
  Float32Array.from({ length: m.rows * (to - from) }, (_, i) => m.values[Math.floor(i / (to - from)) * m.cols + from + (i % (to - from))]!);

/** Every quantisation for one architecture of each expert kind, f32 and q8 for the others, whose matrices go the same way. */
const quantsOf = (architecture: TinyArchitecture): readonly Quant[] => (architecture === "qwen3_moe" || architecture === "gpt_oss" ? QUANTS : ["source", "f32", "q8"]);

const same = (found: Float32Array, expected: Float32Array, name: string): void => {
  const bytes = (v: Float32Array): Uint8Array => new Uint8Array(v.buffer, v.byteOffset, v.byteLength);
  // The slow comparison is for its message.
  if (Buffer.compare(bytes(found), bytes(expected)) !== 0) expect(found, name).toEqual(expected);
};

describe.each(TINY_ARCHITECTURES)("%s", (architecture) => {
  it.each(quantsOf(architecture))("a %s pack gives back every matrix, vector, dense layer, shared expert and expert", async (quant) => {
    const model = tinyModel(architecture, 31);
    const { config } = model;
    const { manifest, blobs } = await loadAll(await packToMemory(await openTinyHuggingFace(model), { quant, segmentWidth: 32 }));
    expect(manifest.config).toEqual(config);
    for (const [name, weight] of model.weights) {
      if (/\.(experts|shared)\./.test(name)) continue;
      const [, stack, index] = /^(layers\.\d+\.[kv]B)\.(\d+)$/.exec(name) ?? [];
      const blob = manifest.blobs[stack ?? name]!;
      const bytes = blobs.get(stack ?? name)!;
      if (blob.format === "f32-vector") {
        same(new Float32Array(bytes.buffer), weight.values, name);
        continue;
      }
      const format = matrixFormatOf(blob);
      const at = Number(index ?? 0) * matrixBytes(format, weight.rows, weight.cols);
      same(decodeRows(typeOfFormat(format), untileMatrix(format, bytes.subarray(at), weight.rows, weight.cols), weight.rows, weight.cols), through(format, weight.values, weight.rows, weight.cols), name);
    }
    same(new Float32Array(blobs.get("rope")!.buffer), ropeTable(config.rope, manifest.contextLength), "rope");
    const moeLayers = config.layerFfns.flatMap((kind, layer) => (kind === "moe" ? [layer] : []));
    expect(manifest.experts.map((e) => [e.layer, e.expert])).toEqual(moeLayers.flatMap((layer) => Array.from({ length: config.nExperts }, (_, e) => [layer, e])));
    expect(manifest.shared.map((e) => e.layer)).toEqual(config.layerFfns.flatMap((_, layer) => (sharedWidth(config, layer) > 0 ? [layer] : [])));
    const parts = [
      ...manifest.experts.map((e) => ({ e, at: `layers.${e.layer}.experts.${e.expert}.`, whole: config.expertIntermediateSize, segment: (n: number) => segmentName(e.layer, e.expert, n) })),
      ...manifest.shared.map((e) => ({ e, at: `layers.${e.layer}.shared.`, whole: sharedWidth(config, e.layer), segment: (n: number) => sharedSegmentName(e.layer, n) })),
    ];
    for (const { e, at, whole, segment } of parts) {
      expect(e.segments.map((s) => [s.start, s.end])).toEqual(Array.from({ length: whole / 32 }, (_, i) => [32 * i, 32 * i + 32]));
      const weight = (m: string): TinyMatrix => model.weights.get(at + m)!;
      e.segments.forEach((s, n) => {
        const bytes = blobs.get(segment(n))!;
        const width = s.end - s.start;
        const hidden = config.hiddenSize;
        const { gate, up } = untileGateUp(e.gateUp, bytes, width, hidden);
        for (const [name, stored] of [["gate", gate], ["up", up]] as const) {
          const expected = weight(name).values.subarray(s.start * hidden, s.end * hidden);
          same(decodeRows(typeOfFormat(e.gateUp), stored, width, hidden), through(e.gateUp, expected, width, hidden), at + name);
        }
        const downAt = matrixBytes(e.gateUp, gateUpRows(config.expertKind, e.gateUp, width), hidden);
        const down = untileMatrix(e.down, bytes.subarray(downAt), hidden, width);
        same(decodeRows(typeOfFormat(e.down), down, hidden, width), through(e.down, columns(weight("down"), s.start, s.end), hidden, width), `${at}down`);
        if (config.expertKind !== "clamped-swiglu" || !at.includes("experts")) return;
        const biases = new Float32Array(bytes.slice(downAt + matrixBytes(e.down, hidden, width)).buffer);
        for (let i = 0; i < width; i++) {
          const row = 32 * (i >> 4) + (i & 15);
          expect([biases[row], biases[row + 16]], `${at}biases`).toEqual([weight("gateBias").values[s.start + i], weight("upBias").values[s.start + i]]);
        }
        const downBias = biases.subarray(gateUpRows(config.expertKind, e.gateUp, width), gateUpRows(config.expertKind, e.gateUp, width) + hidden);
        same(downBias, n === 0 ? weight("downBias").values : new Float32Array(hidden), `${at}downBias`);
      });
    }
  });

  it("is the same, byte for byte, from every lossless form of a model", async () => {
    const model = tinyModel(architecture, 32);
    const hashes = async (pack: MemoryPack): Promise<string[]> => [...blobsOf((await openPack(pack.source)).manifest)].map((b) => b.blob.hash);
    const first = await packToMemory(await openTinyHuggingFace(model), { quant: "q4" });
    const again = await packToMemory(await openTinyHuggingFace(model), { quant: "q4" });
    expect([...again.files.keys()]).toEqual([...first.files.keys()]);
    for (const [name, bytes] of first.files) expect(Buffer.compare(again.files.get(name)!, bytes), name).toBe(0);
    expect(await hashes(await packToMemory(await openTinyHuggingFace(model, { dtype: "F32", shards: 2 }), { quant: "q4" }))).toEqual(await hashes(first));
    // Permuted rows of q and k are other bytes of the same model.
    if (!isPermuted(architecture)) expect(await hashes(await packToMemory(await openTinyGguf(model, { type: "F16" }), { quant: "q4" }))).toEqual(await hashes(first));
  });

  it.each(["Q8_0", "Q4_0"] as const)("a source pack of a %s file holds its bytes re-ordered, without loss", async (type) => {
    const model = tinyModel(architecture, 33, { exactIn: type });
    const checkpoint = await openTinyGguf(model, { type });
    const { manifest, blobs } = await loadAll(await packToMemory(checkpoint));
    const format = type === "Q8_0" ? "q8" : "q4";
    for (const name of ["embed", "layers.1.o", ...(checkpoint.config.tieWordEmbeddings ? [] : ["head"])]) {
      const place = checkpoint.place(name);
      expect(matrixFormatOf(manifest.blobs[name]!)).toBe(format);
      expect(untileMatrix(format, blobs.get(name)!, place.nRows, place.nCols)).toEqual(await checkpoint.readRows(place, 0, place.nRows));
    }
    const isMoe = checkpoint.config.nExperts > 0;
    const place = checkpoint.place(isMoe ? "layers.1.experts.3.gate" : "layers.1.shared.gate");
    const { gate } = untileGateUp(format, blobs.get(isMoe ? segmentName(1, 3, 0) : sharedSegmentName(1, 0))!, place.nRows, 64);
    expect(gate).toEqual(await checkpoint.readRows(place, 0, place.nRows));
    expect(manifest.kvFormat).toBe("f16");
  });
});

describe("GGUF types with minima, super-blocks and exponents", () => {
  it.each([["Q4_1", "q4m"], ["Q4_K", "q4k"], ["Q6_K", "q6k"], ["MXFP4", "mxfp4"]] as const)("a source pack of a %s file holds its bytes re-ordered, without loss", async (type, format) => {
    const model = tinyModel("qwen3_moe", 35, { config: { hidden_size: 256, moe_intermediate_size: 256, head_dim: 128 } });
    const checkpoint = await openTinyGguf(model, { type });
    const { manifest, blobs } = await loadAll(await packToMemory(checkpoint));
    for (const name of ["embed", "layers.1.q", "head"]) {
      const place = checkpoint.place(name);
      expect(place.type).toBe(type);
      expect(matrixFormatOf(manifest.blobs[name]!)).toBe(format);
      expect(untileMatrix(format, blobs.get(name)!, place.nRows, place.nCols)).toEqual(await checkpoint.readRows(place, 0, place.nRows));
    }
    expect(manifest.activations).toBe("qa8");
    const segment = blobs.get(segmentName(1, 3, 0))!;
    const { up } = untileGateUp(format, segment, 256, 256);
    const rows = async (matrix: string) => {
      const place = checkpoint.place(`layers.1.experts.3.${matrix}`);
      return checkpoint.readRows(place, 0, place.nRows);
    };
    expect(up).toEqual(await rows("up"));
    expect(untileMatrix(format, segment.subarray(matrixBytes(format, 512, 256)), 256, 256)).toEqual(await rows("down"));
  });

  it.each(["Q4_K", "Q6_K"] as const)("a segment that would start inside a block of %s is refused, naming the block", async (type) => {
    const model = tinyModel("qwen3_moe", 35, { config: { hidden_size: 256, moe_intermediate_size: 256, head_dim: 128 } });
    await expect(packToMemory(await openTinyGguf(model, { type }), { segmentWidth: 128 })).rejects.toThrow(`Column 128 is inside a block of 256 of type ${type}`);
  });
});

describe("shapes that are no multiple of 32", () => {
  it("width 44: a last segment of 12, padded to 16 rows in f32 and to 32 in the quantised formats", async () => {
    const model = tinyModel("mixtral", 34, { config: { intermediate_size: 44, hidden_size: 48, num_attention_heads: 4, head_dim: 12 } });
    for (const quant of QUANTS.filter((q) => q !== "source")) {
      const { manifest, blobs } = await loadAll(await packToMemory(await openTinyHuggingFace(model), { quant, segmentWidth: 32 }));
      const e = manifest.experts[5]!;
      expect(e.segments.map((s: PackSegment) => [s.start, s.end])).toEqual([[0, 32], [32, 44]]);
      const bytes = blobs.get(segmentName(e.layer, e.expert, 1))!;
      const { up } = untileGateUp(e.gateUp, bytes, 12, 48);
      const values = model.weights.get(`layers.${e.layer}.experts.${e.expert}.up`)!.values.subarray(32 * 48, 44 * 48);
      expect(decodeRows(typeOfFormat(e.gateUp), up, 12, 48)).toEqual(through(e.gateUp, values, 12, 48));
      const down = untileMatrix(e.down, bytes.subarray(matrixBytes(e.gateUp, gateUpRows("swiglu", e.gateUp, 12), 48)), 48, 12);
      expect(decodeRows(typeOfFormat(e.down), down, 48, 12)).toEqual(through(e.down, columns(model.weights.get(`layers.${e.layer}.experts.${e.expert}.down`)!, 32, 44), 48, 12));
    }
  });
});

describe("parts and extents", () => {
  it("large blobs are cut at 4 MiB, parts keep their limit, equal blobs are stored once", async () => {
    const model = tinyModel("qwen3_moe", 35, { config: { vocab_size: 36000, tie_word_embeddings: true } });
    const twin = [...model.weights.keys()].filter((n) => n.startsWith("layers.0.experts.0."));
    for (const name of twin) model.weights.get(name.replace("experts.0", "experts.5"))!.values.set(model.weights.get(name)!.values);
    for (const parts of ["assets", "r2"] as const) {
      const pack = await packToMemory(await openTinyHuggingFace(model), { quant: "f32", parts });
      const { manifest, blobs } = await loadAll(pack);
      expect(manifest.blobs.embed!.extents.map((e) => e[2])).toEqual([4194304, 4194304, 36000 * 64 * 4 - 2 * 4194304]);
      expect(manifest.parts.length).toBe(parts === "r2" ? 1 : 3);
      for (const p of manifest.parts) {
        expect(p.bytes).toBeLessThanOrEqual(parts === "r2" ? 64 << 20 : 4 << 20);
        expect(pack.files.get(p.name)!.length).toBe(p.bytes);
      }
      expect(manifest.experts[0]!.segments[0]!.extents).toEqual(manifest.experts[5]!.segments[0]!.extents);
      expect(manifest.experts[0]!.segments[0]!.extents).not.toEqual(manifest.experts[1]!.segments[0]!.extents);
      const embed = untileMatrix("f32", blobs.get("embed")!, 36000, 64);
      expect(Buffer.from(embed).equals(new Uint8Array(model.weights.get("embed")!.values.buffer))).toBe(true);
    }
  });

  it("a pack names its tokenizer, template, context and end-of-text ids", async () => {
    const { source, summary } = await packToMemory(await openTinyHuggingFace(tinyModel("olmoe", 36)), { contextLength: 40, id: "my.model-1" });
    const { manifest, packHash } = await openPack(source);
    expect(packHash).toBe(summary.packHash);
    expect(manifest).toMatchObject({ id: "my.model-1", contextLength: 40, kvFormat: "f16", activations: "f32", tokenizer: { eosToken: "<|endoftext|>", addBos: false, chatTemplate: expect.stringContaining("messages") } });
    expect(await readTokenizerJson(source, manifest)).toMatchObject({ model: { type: "BPE" } });
  });

  it("each part is read once, and only the needed ranges where there are ranges", async () => {
    const pack = await packToMemory(await openTinyHuggingFace(tinyModel("mixtral", 37)), { quant: "f32" });
    const { manifest } = await openPack(pack.source);
    const all = [...blobsOf(manifest)].map((b) => ({ ...b, write(): void {} }));
    expect(planReads(manifest, all, false).map((r) => [r.part, r.offset, r.end])).toEqual(manifest.parts.map((p, i) => [i, 0, p.bytes]));
    expect(planReads(manifest, all, true).length).toBe(manifest.parts.length);
    const some = all.filter((b) => b.name === "layers.0.q" || b.name === segmentName(1, 7, 0));
    const ranges = planReads(manifest, some, true);
    expect(ranges.length).toBe(2);
    expect(ranges.reduce((n, r) => n + r.end - r.offset, 0)).toBe(some.reduce((n, b) => n + b.blob.bytes, 0));
  });

  // 3 parts in f32; the embedding alone has two extents.
  const packed = openTinyHuggingFace(tinyModel("qwen3_moe", 38, { config: { vocab_size: 20000, tie_word_embeddings: true } })).then((c) => packToMemory(c, { quant: "f32" }));
  it.each([{ hasRanges: true, lanes: 1 }, { hasRanges: false, lanes: 1 }, { hasRanges: true, lanes: 5 }, { hasRanges: false, lanes: 3 }])("loads the same bytes with %o", async ({ hasRanges, lanes }) => {
    const { files, summary: { manifest } } = await packed;
    const source = new MemorySource(files, { hasRanges });
    const wanted = [...blobsOf(manifest)].filter((_, i) => i % 3 === 0);
    const found = new Map<string, Uint8Array>(wanted.map((b) => [b.name, new Uint8Array(b.blob.bytes)]));
    let progress = 0;
    const targets = wanted.map((b): BlobTarget => ({ ...b, write: (piece, at) => found.get(b.name)!.set(piece, at) }));
    await loadBlobs(source, manifest, targets, { lanes, onProgress: (n) => { progress = n; } });
    expect(progress).toBe(wanted.reduce((n, b) => n + b.blob.bytes, 0));
    for (const b of wanted) {
      const expected = b.blob.extents.map(([part, offset, bytes]) => files.get(manifest.parts[part]!.name)!.subarray(offset, offset + bytes));
      expect(Buffer.concat(expected).equals(found.get(b.name)!), b.name).toBe(true);
    }
  });
});

describe("damage", () => {
  const fresh = async (hasRanges: boolean) => {
    const pack = await packToMemory(await openTinyHuggingFace(tinyModel("olmoe", 39)), { quant: "q8" }, { hasRanges });
    const { manifest } = await openPack(pack.source);
    const written: number[] = [];
    const load = (): Promise<void> => loadBlobs(pack.source, manifest, [...blobsOf(manifest)].filter((b) => b.name === "layers.1.k").map((b) => ({ ...b, write: (bytes: Uint8Array) => void written.push(bytes.length) })));
    return { pack, manifest, load, written, extent: manifest.blobs["layers.1.k"]!.extents[0]! };
  };

  it.each([true, false])("an altered byte is told with pack, part, blob, found and expected, and nothing is handed on (ranges: %s)", async (hasRanges) => {
    const { pack, load, written, extent } = await fresh(hasRanges);
    pack.files.get("parts/00000.bin")![extent[1] + 5]! ^= 1;
    await expect(load()).rejects.toThrow(new RegExp(`^Pack tiny \\(memory\\), parts/00000\\.bin, bytes ${extent[1]} to ${extent[1] + extent[2]}, blob layers\\.1\\.k: found SHA-256 [0-9a-f]{64}, expected ${extent[3]}`));
    await expect(load()).rejects.toThrow(SourceError);
    expect(written).toEqual([]);
  });

  it.each([true, false])("a part cut short is told too (ranges: %s)", async (hasRanges) => {
    const { pack, load, written, extent } = await fresh(hasRanges);
    pack.files.set("parts/00000.bin", pack.files.get("parts/00000.bin")!.slice(0, extent[1] + 100));
    await expect(load()).rejects.toThrow(/Pack tiny .*parts\/00000\.bin.*blob layers\.1\.k.*(ends at|expected \d+ bytes)/);
    pack.files.delete("parts/00000.bin");
    await expect(load()).rejects.toThrow(/blob layers\.1\.k: memory has no file parts\/00000\.bin/);
    expect(written).toEqual([]);
  });

  it("an altered byte elsewhere in the part does not stop the blobs that are whole", async () => {
    const { pack, load, written, extent } = await fresh(true);
    pack.files.get("parts/00000.bin")![extent[1] + extent[2]]! ^= 1;
    await load();
    expect(written).toEqual([extent[2]]);
  });

  it("a changed tokenizer is refused", async () => {
    const { pack, manifest } = await fresh(true);
    pack.files.set("tokenizer.json", new Uint8Array([123, 125]));
    await expect(readTokenizerJson(pack.source, manifest)).rejects.toThrow(/tokenizer\.json: found SHA-256 44136fa3\w+, expected/);
  });
});

describe("manifests that are refused", () => {
  type Altered<T> = T extends readonly (infer E)[] ? Altered<E>[] : T extends object ? { -readonly [K in keyof T]: Altered<T[K]> } : T;
  type Json = Altered<Omit<PackManifest, "blobs" | "experts" | "parts">> & {
    blobs: Record<string, { format: string; rows: number; hash: string; extents: [number, number, number, string][] }>;
    experts: { segments: { start: number }[] }[];
    parts: { name: string; bytes: number }[];
  };
  const refused: [string, (m: Json) => void, RegExp][] = [
    ["a newer version", (m) => { Object.assign(m, { version: 3 }); }, /manifest\.json: version/],
    ["an unknown key", (m) => { Object.assign(m, { extra: 1 }); }, /Unrecognized key.*extra/],
    ["an unknown key in the config", (m) => { Object.assign(m.config, { moons: 2 }); }, /config.*moons/],
    ["an id with capitals", (m) => { m.id = "Demo"; }, /id: expected lower-case/],
    ["a missing blob", (m) => { delete m.blobs["layers.0.q"]; }, /blob layers\.0\.q is missing/],
    ["an unknown blob", (m) => { m.blobs.moon = m.blobs.norm!; }, /blob moon has no place/],
    ["a wrong shape", (m) => { m.blobs.embed!.rows = 96; }, /blob embed has shape \[96, 64\], expected \[97, 64\]/],
    ["a wrong size", (m) => { m.blobs.embed!.format = "f32"; }, /blob embed has \d+ bytes, but f32 \[97, 64\] takes/],
    ["extents that overlap", (m) => { m.blobs["layers.0.q"]!.extents[0]![1] = m.blobs.embed!.extents[0]![1] + 64; }, /starts at byte \d+ of parts\/00000\.bin, inside/],
    ["an extent beyond its part", (m) => { m.parts[0]!.bytes -= 64; }, /ends at byte \d+ of parts\/00000\.bin, which has/],
    ["an extent off its alignment", (m) => { m.blobs.norm!.extents[0]![1] += 4; }, /norm starts at byte \d+ of .*multiple of 64/],
    ["a part that is not there", (m) => { m.blobs.norm!.extents[0]![0] = 7; }, /norm lies in part 7, but there are 1 parts/],
    ["extents short of the blob", (m) => { m.blobs.norm!.extents[0]![2] -= 64; }, /extents of norm have 192 bytes, expected 256/],
    ["a hash that is not the extent's", (m) => { m.blobs.norm!.hash = "0".repeat(64); }, /norm has hash 0+, but its only extent/],
    ["a missing expert", (m) => { m.experts.pop(); }, /expert table has 15 entries, expected 16/],
    ["experts out of order", (m) => { m.experts.reverse(); }, /entry 0 of the expert table is \(layer 1, expert 7\), expected \(0, 0\)/],
    ["segments with a gap", (m) => { m.experts[3]!.segments[0]!.start = 32; }, /layer 0, expert 3: segment 0 is \[32, 32\)/],
    ["segments short of the expert", (m) => { m.config.expertIntermediateSize = 64; }, /segments end at 32, but the expert is 64 wide/],
    ["another activation format", (m) => { m.activations = "f32"; }, /layer 0, expert 0 has format q8, which does not take f32/],
    ["a part name that leaves the pack", (m) => { m.parts[0]!.name = "../x.bin"; }, /parts\.0\.name/],
  ];
  it.each(refused)("%s", async (_, change, message) => {
    const { summary } = await packToMemory(await openTinyHuggingFace(tinyModel("olmoe", 40)), { quant: "q8" });
    const json = JSON.parse(formatManifest(summary.manifest)) as Json;
    expect(validateManifest("pack", structuredClone(json))).toEqual(summary.manifest);
    change(json);
    expect(() => validateManifest("pack", json)).toThrow(message);
  });

  it("no manifest, no JSON", async () => {
    await expect(openPack(new MemorySource(new Map()))).rejects.toThrow(/memory has no manifest\.json/);
    await expect(openPack(new MemorySource(new Map([["manifest.json", new Uint8Array([123])]])))).rejects.toThrow(/manifest\.json is no valid JSON/);
  });
});

describe("packing that fails", () => {
  it.each([
    ["Q8_0", 34, 0, [0x00, 0xfc], "0xfc00"], ["Q4_0", 18, 0, [0x00, 0xfc], "0xfc00"], ["Q4_1", 20, 0, [0x01, 0x7c], "0x7c01"], ["Q4_1", 20, 2, [0x00, 0xfc], "0xfc00"],
    ["Q4_K", 144, 0, [0x00, 0x7c], "0x7c00"], ["Q4_K", 144, 2, [0x00, 0xfe], "0xfe00"], ["Q6_K", 210, 208, [0x00, 0x7c], "0x7c00"], ["MXFP4", 17, 0, [255], "E8M0 255"],
  ] as const)("names the tensor, row and block of a %s (block of %i) whose scale at byte %i is not finite", async (type, blockBytes, offset, broken, said) => {
    const bytes = tinyModel("qwen3_moe", 7, { config: { hidden_size: 256, moe_intermediate_size: 256, head_dim: 128 } }).ggufBytes({ type });
    // The last block of the last tensor.
    const header = await readGgufHeader(new MemorySource(new Map([["tiny.gguf", bytes]])), "tiny.gguf");
    const last = [...header.tensors.values()].filter((t) => t.type === type).sort((a, b) => b.offset - a.offset)[0]!;
    bytes.set(broken, last.offset + last.bytes - blockBytes + offset);
    const checkpoint = await openGguf(new MemorySource(new Map([["tiny.gguf", bytes]])), "tiny.gguf");
    await expect(packToMemory(checkpoint, { quant: "source" })).rejects.toThrow(new RegExp(`${last.name.replaceAll(".", "\\.")} .*row \\d+, block \\d+ has the scale ${said}`));
  });

  it("leaves nothing: the sink is told to discard, whatever failed", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel("olmoe", 41));
    const calls: string[] = [];
    const sink: PackSink = {
      description: "failing sink",
      append: async (name) => { calls.push(name); if (calls.length > 3) throw new Error("the disk is full"); },
      commit: async () => void calls.push("commit"),
      discard: async () => void calls.push("discard"),
    };
    await expect(writePack(checkpoint, sink, { id: "x" })).rejects.toThrow("the disk is full");
    expect(calls.at(-1)).toBe("discard");
    expect(calls).not.toContain("commit");
    const memory = new MemorySink();
    await expect(writePack(checkpoint, memory, { id: "x" }, ({ doneBytes }) => { if (doneBytes > 50_000) throw new Error("stopped"); })).rejects.toThrow("stopped");
    expect(memory.files.size).toBe(0);
  });

  it.each([
    [{ contextLength: 129 }, /context of 129 was asked for, but the model was made for 1 to 128/],
    [{ segmentWidth: 48 }, /segment width of 48/],
    [{ id: "Big Model" }, /pack id "Big Model"/],
  ])("%o", async (options, message) => {
    const checkpoint = await openTinyHuggingFace(tinyModel("olmoe", 41));
    await expect(packToMemory(checkpoint, options)).rejects.toThrow(message);
  });

  it("a checkpoint cut short, naming the tensor", async () => {
    const model = tinyModel("olmoe", 42);
    const files = model.huggingFaceFiles();
    const source = new MemorySource(files);
    const { openHuggingFace } = await import("../../../formats/huggingface.ts");
    const checkpoint = await openHuggingFace(source, "tiny");
    files.set("model.safetensors", files.get("model.safetensors")!.slice(0, -100)); // cut after its header was read
    await expect(packToMemory(checkpoint)).rejects.toThrow(/^Tensor model\.layers\.1\.mlp\.experts\.7\.down_proj\.weight \(layers\.1\.experts\.7\.down\), rows 0 to 63: memory, model\.safetensors/);
  });

  it("a file that mixes what one pack cannot hold, naming the tensors", async () => {
    const mixed = (change: (name: string) => "F32" | null) => {
      const model = tinyModel("mixtral", 43);
      return model.ggufBytes({ type: "Q8_0", overrideType: change });
    };
    const { openGguf } = await import("../../../formats/gguf-checkpoint.ts");
    const open = (bytes: Uint8Array) => openGguf(new MemorySource(new Map([["m.gguf", bytes]])), "m.gguf");
    const downs = await open(mixed((name) => (name.includes("ffn_down_exps") ? "F32" : null)));
    await expect(packToMemory(downs)).rejects.toThrow(/^memory, m\.gguf: tensor blk\.0\.ffn_gate_exps\.weight has type Q8_0 and blk\.0\.ffn_down_exps\.weight has F32; experts of one pack/);
    const ups = await open(mixed((name) => (name === "blk.1.ffn_up_exps.weight" ? "F32" : null)));
    await expect(packToMemory(ups)).rejects.toThrow(/tensor blk\.1\.ffn_gate_exps\.weight has type Q8_0 and blk\.1\.ffn_up_exps\.weight has F32; gate and up/);
    expect((await packToMemory(ups, { quant: "q8" })).summary.manifest.activations).toBe("qa8");
  });
});
