// Packs that are wrong, and packing that cannot end: manifest.json cut at every byte and with every size of its config in turn another, parts cut
// beside every extent's border, journals of any content. Single faults of a manifest are pack.test.ts.

import { beforeAll, describe, expect, it } from "vitest";
import { SourceError } from "../../../formats/byte-source.ts";
import { type PackManifest, blobsOf, formatManifest, validateManifest } from "../../../formats/manifest.ts";
import { MemorySink, MemorySource } from "../../../formats/memory-source.ts";
import { JOURNAL } from "../../../formats/pack-journal.ts";
import { loadBlobs, openPack, readTokenizerJson } from "../../../formats/pack-reader.ts";
import { writePack } from "../../../formats/pack-writer.ts";
import { type MemoryPack, openTinyHuggingFace, packToMemory } from "../../support/pack-to-memory.ts";
import { refusalOf } from "../../support/refusal.ts";
import { tinyModel } from "../../support/tiny-models.ts";

let pack: MemoryPack;
beforeAll(async () => {
  pack = await packToMemory(await openTinyHuggingFace(tinyModel("qwen2_moe", 65, { config: { num_experts: 2 } })), { quant: "q8" });
});

const withFile = (name: string, bytes: Uint8Array): MemorySource => new MemorySource(new Map(pack.files).set(name, bytes));
/** Reads everything there is. */
async function readAll(source: MemorySource): Promise<void> {
  const { manifest } = await openPack(source);
  await readTokenizerJson(source, manifest);
  await loadBlobs(source, manifest, [...blobsOf(manifest)].map((blob) => ({ ...blob, write: () => undefined })));
}

describe("manifest.json", () => {
  it("cut at every byte", async () => {
    const whole = pack.files.get("manifest.json")!;
    for (let length = 0; length < whole.length - 1; length++) expect(await refusalOf(() => openPack(withFile("manifest.json", whole.slice(0, length)))), `${length} bytes`).toMatch(/^memory, manifest\.json is no valid JSON: /);
    expect(await refusalOf(() => readAll(withFile("manifest.json", whole.slice(0, -1))))).toBeNull(); // without its last line end
  });

  it("every number of it another, or none at all", () => {
    const document = JSON.parse(formatManifest(pack.summary.manifest)) as Record<string, unknown>;
    const refusals: string[] = [];
    const accepted: string[] = [];
    const visit = (container: Record<string, unknown>, path: string): void => {
      for (const [key, value] of Object.entries(container)) {
        if (typeof value === "object" && value !== null) visit(value as Record<string, unknown>, `${path}${key}.`);
        if (typeof value !== "number") continue;
        for (const other of [value + 1, -1, 0.5, 2 ** 53, 1e300, "1", null, {}]) {
          container[key] = other;
          try {
            validateManifest("pack", document);
            accepted.push(`${path}${key}`);
          } catch (error) {
            refusals.push((error as Error).message);
          }
        }
        container[key] = value;
      }
    };
    visit(document, "");
    for (const message of refusals) expect(message).toMatch(/^pack, manifest\.json: [^\n]*\.$/);
    expect(refusals.length).toBeGreaterThan(1500);
    // What no other number of the manifest tells. There are no dense layers; a part may be longer than what lies in it.
    const free = /^config\.(maxPositions|normEps|rope\.(theta|magnitude|inverseFrequencies\.\d+)|attentionScale|slidingWindows\.\d|denseIntermediateSize|swigluLimit|router\.(sparsemixerEpsilon|scale|topKGroups)|(embedding|residual)Multiplier|logitsScaling|eosTokenIds\.0)$|^parts\.0\.bytes$|^quantization\./;
    expect([...new Set(accepted)].filter((path) => !free.test(path))).toEqual([]);
  });

  it.each<[string, (m: { config: Record<string, unknown> }) => void, RegExp]>([
    ["2^40 layers", (m) => { m.config["nLayers"] = 2 ** 40; }, /config\.nLayers: Too big: expected number to be <=1024/],
    ["2^30 experts", (m) => { m.config["nExperts"] = 2 ** 30; }, /config\.nExperts: Too big: expected number to be <=65535/],
    ["65,535 experts", (m) => { m.config["nExperts"] = 65_535; }, /blob layers\.0\.router has shape \[2, 64\], expected \[65535, 64\]/],
    ["2^40 values a row", (m) => { m.config["hiddenSize"] = 2 ** 40; }, /config\.hiddenSize: Too big/],
    ["a missing size", (m) => { delete m.config["hiddenSize"]; }, /config\.hiddenSize: Invalid input: expected number, found nothing/],
  ])("%s: refused before anything is listed", (_, change, message) => {
    const document = JSON.parse(formatManifest(pack.summary.manifest)) as PackManifest & { config: Record<string, unknown> };
    change(document);
    expect(() => validateManifest("pack", document)).toThrow(message);
  });

  it.each<[string, (config: Record<string, unknown>) => void, RegExp]>([
    ["keys wider than the cached rows", (config) => { config["headDim"] = (config["headDim"] as number) + 4; }, /key-value heads of \d+, \d+ of them rotated, do not fit latent attention/],
    ["two key-value heads over one cached row", (config) => { config["nKvHeads"] = 2; }, /2 key-value heads of \d+, .* do not fit latent attention/],
    ["dense layers without a width", (config) => { config["denseIntermediateSize"] = 0; }, /there are dense layers, but they are 0 wide/],
  ])("latent attention and dense layers: %s", async (_, change, message) => {
    const { summary } = await packToMemory(await openTinyHuggingFace(tinyModel("deepseek_v2", 66)), { quant: "q8" });
    const document = JSON.parse(formatManifest(summary.manifest)) as { config: Record<string, unknown> };
    expect(() => validateManifest("pack", document)).not.toThrow();
    change(document.config);
    expect(() => validateManifest("pack", document)).toThrow(message);
  });
});

describe("parts and tokenizer", () => {
  it("a part cut beside every extent's border", async () => {
    const { manifest } = pack.summary;
    const name = manifest.parts[0]!.name;
    const whole = pack.files.get(name)!;
    const borders = new Set([...blobsOf(manifest)].flatMap(({ blob }) => blob.extents.flatMap(([, offset, bytes]) => [offset - 1, offset, offset + 1, offset + bytes - 1, offset + bytes])));
    for (const length of borders) {
      if (length < 0 || length >= whole.length) continue;
      expect(await refusalOf(() => readAll(withFile(name, whole.subarray(0, length)))), `${length} of ${whole.length}`).toMatch(/^Pack tiny \(memory\), parts\/00000\.bin, bytes \d+ to \d+, blob \S+: /);
    }
  });

  it("every extent altered in its first and last byte", async () => {
    const { manifest } = pack.summary;
    for (const { name, blob } of blobsOf(manifest)) {
      for (const [part, offset, bytes] of blob.extents) {
        for (const at of [offset, offset + bytes - 1]) {
          const changed = pack.files.get(manifest.parts[part]!.name)!.slice();
          changed[at] = changed[at]! ^ 1;
          expect(await refusalOf(() => loadBlobs(withFile(manifest.parts[part]!.name, changed), manifest, [{ name, blob, write: () => { throw new Error("Bytes were handed on."); } }]))).toMatch(/found SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}; the bytes are damaged\.$/);
        }
      }
    }
  });

  it("missing files, and a tokenizer of any length but its own", async () => {
    for (const name of pack.files.keys()) {
      const files = new Map(pack.files);
      files.delete(name);
      expect(await refusalOf(() => readAll(new MemorySource(files))), name).toContain(name);
    }
    const tokenizer = pack.files.get("tokenizer.json")!;
    for (let length = 0; length < tokenizer.length; length += 7) expect(await refusalOf(() => readAll(withFile("tokenizer.json", tokenizer.slice(0, length))))).toMatch(/^memory, tokenizer\.json: found SHA-256/);
  });
});

describe("packing what cannot be packed", () => {
  const model = tinyModel("olmoe", 66, { config: { num_experts: 2 } });

  it("a file cut after its header was read leaves nothing that could be taken for a pack, and the next run gives the whole", async () => {
    const files = model.huggingFaceFiles();
    const whole = files.get("model.safetensors")!;
    const expected = (await packToMemory(await openTinyHuggingFace(model))).files;
    for (const share of [0.2, 0.5, 0.9, 0.999]) {
      const { openHuggingFace } = await import("../../../formats/huggingface.ts");
      const checkpoint = await openHuggingFace(new MemorySource(files), "tiny");
      const sink = new MemorySink();
      files.set("model.safetensors", whole.slice(0, Math.floor(whole.length * share)));
      await expect(writePack(checkpoint, sink, { id: "tiny" })).rejects.toThrow(SourceError);
      expect(sink.files.size).toBe(0);
      files.set("model.safetensors", whole);
      await writePack(await openHuggingFace(new MemorySource(files), "tiny"), sink, { id: "tiny" });
      expect(sink.files).toEqual(expected);
    }
  });

  it("whatever a journal says, the pack is that of one run", async () => {
    const expected = (await packToMemory(await openTinyHuggingFace(model))).files;
    const lines = ["", "null\n", "5\n", "{}\n", "[]\n", "\u0000\u0000\n", `{"journal":2,"job":"${"0".repeat(64)}"}\n`, `{"journal":1,"job":"x"}\n`, `${"[".repeat(10_000)}\n`, "\ufeff{}\n", "x".repeat(100_000)];
    for (const line of lines) {
      const sink = new MemorySink();
      await sink.append(JOURNAL, new TextEncoder().encode(line));
      await sink.append("parts/00000.bin", Uint8Array.of(1, 2, 3));
      await sink.append("parts/99999.bin", Uint8Array.of(4));
      await writePack(await openTinyHuggingFace(model), sink, { id: "tiny" });
      expect(sink.files).toEqual(expected);
    }
  });
});

describe("weights that are no numbers", () => {
  const open = (change: (weights: Map<string, { values: Float32Array }>) => void, options: Parameters<typeof openTinyHuggingFace>[1]) => {
    const model = tinyModel("gpt_oss", 68, { config: { num_local_experts: 2 } });
    change(model.weights as unknown as Map<string, { values: Float32Array }>);
    return openTinyHuggingFace(model, options);
  };
  it.each<[string, number, number, "F32" | "F16" | "BF16", string]>([
    ["layers.1.q", 70, NaN, "F32", "row 1, column 6 is NaN"], ["layers.1.q", 70, Infinity, "F16", "row 1, column 6 is Infinity"], ["embed", 96 * 64, -Infinity, "BF16", "row 96, column 0 is -Infinity"],
    ["layers.0.router", 3, NaN, "BF16", "row 0, column 3 is NaN"], ["layers.1.experts.1.up", 64, Infinity, "F32", "row 1, column 0 is Infinity"], ["norm", 5, NaN, "BF16", "value 5 is NaN"], ["layers.0.qBias", 0, Infinity, "F32", "value 0 is Infinity"],
    ["layers.1.experts.0.downBias", 7, NaN, "F32", "value 7 is NaN"],
  ])("%s[%i] = %d in %s", async (name, at, value, dtype, said) => {
    for (const quant of ["source", "f32", "q8"] as const) {
      const checkpoint = await open((weights) => { weights.get(name)!.values[at] = value; }, { dtype });
      const message = await refusalOf(() => packToMemory(checkpoint, { quant }));
      expect(message, quant).toContain(said);
      expect(message).toMatch(/^Tensor \S+ of memory/);
    }
  });

  it("a sink of minus infinity is none, and packs", async () => {
    const checkpoint = await open((weights) => { weights.get("layers.0.sinks")!.values[1] = -Infinity; }, { dtype: "F32" });
    expect(await refusalOf(() => packToMemory(checkpoint))).toBeNull();
  });
});
