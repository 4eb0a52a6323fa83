// Canonical models: whatever a model was published as, its canonical folder says the same, and its pack has the same bytes. Damage is told by name.

import { describe, expect, it } from "vitest";
import { openModelFolder } from "../../../formats/canonical-model.ts";
import { type TensorToWrite, afterPass, unchanged, writeCanonical, writtenBytes } from "../../../formats/canonical-writer.ts";
import type { Checkpoint } from "../../../formats/checkpoint.ts";
import { decodeRows } from "../../../formats/dequantize.ts";
import type { PackManifest } from "../../../formats/manifest.ts";
import { MemorySink, MemorySource } from "../../../formats/memory-source.ts";
import type { QuantizedType } from "../../../formats/quantize-blocks.ts";
import { encodeRows, noLoss } from "../../../formats/quantize.ts";
import { formatOfType, KERNEL_TYPES } from "../../../formats/stored-types.ts";
import { openTinyGguf, openTinyHuggingFace, packToMemory } from "../../support/pack-to-memory.ts";
import { refusalOf } from "../../support/refusal.ts";
import { TINY_ARCHITECTURES, tinyModel } from "../../support/tiny-models.ts";

const PASS = { pass: "copy", options: { of: "everything" } };

/** Written again, tensor by tensor, as `change` says. */
async function rewritten(checkpoint: Checkpoint, change: (tensor: TensorToWrite) => TensorToWrite | Promise<TensorToWrite> = (tensor) => tensor, fileBytes?: number): Promise<Map<string, Uint8Array>> {
  const sink = new MemorySink();
  const tensors: TensorToWrite[] = [];
  for (const { name } of checkpoint.places()) tensors.push(await change(unchanged(checkpoint, name)));
  await writeCanonical(sink, afterPass(checkpoint, PASS), tensors, fileBytes === undefined ? {} : { fileBytes });
  return sink.files;
}

const opened = (files: Map<string, Uint8Array>): Promise<Checkpoint> => openModelFolder(new MemorySource(files), "again");

/** All that says what a pack's weights are. */
const weightsOf = ({ config, kvFormat, activations, blobs, shared, experts, tokenizer }: PackManifest): object => ({ config, kvFormat, activations, blobs, shared, experts, tokenizer });

async function bytesOf(tensor: TensorToWrite): Promise<Uint8Array> {
  const out = new Uint8Array(writtenBytes(tensor));
  let at = 0;
  for await (const bytes of tensor.read()) {
    out.set(bytes, at);
    at += bytes.length;
  }
  return out;
}

describe.each(TINY_ARCHITECTURES)("%s", (architecture) => {
  it.each([["a Hugging Face folder", openTinyHuggingFace, "huggingface"], ["a GGUF file", openTinyGguf, "gguf"]] as const)("%s, written again, makes the same pack", async (_, open, kind) => {
    const checkpoint = await open(tinyModel(architecture, 41));
    const again = await opened(await rewritten(checkpoint));
    expect(again.kind).toBe("canonical");
    expect(again.config).toEqual(checkpoint.config);
    expect(again.tokenizer).toEqual(checkpoint.tokenizer === null ? null : { ...checkpoint.tokenizer, kind: again.tokenizer!.kind });
    expect(again.lineage).toEqual({ source: { kind, name: checkpoint.name, sha256: checkpoint.sha256 }, passes: [PASS] });
    expect(weightsOf((await packToMemory(again)).summary.manifest)).toEqual(weightsOf((await packToMemory(checkpoint)).summary.manifest));
    // And once more: only the record grows.
    const third = await opened(await rewritten(again));
    expect(third.lineage!.source).toEqual(again.lineage!.source);
    expect(third.lineage!.passes).toEqual([PASS, PASS]);
  });
});

it.each(KERNEL_TYPES)("a matrix in %s keeps its values, and the pack takes its format", async (type) => {
  const checkpoint = await openTinyHuggingFace(tinyModel("qwen3_moe", 42, { config: { hidden_size: 256, moe_intermediate_size: 256 } }));
  const change = async (tensor: TensorToWrite): Promise<TensorToWrite> => {
    if (!/experts\.1\./.test(tensor.name)) return tensor;
    if (type === "F16" || type === "BF16") return { ...tensor, type, read: async function* () { yield plainRows(type, decodeRows(tensor.type, await bytesOf(tensor), tensor.nRows, tensor.nCols)); } };
    const values = decodeRows(tensor.type, await bytesOf(tensor), tensor.nRows, tensor.nCols);
    return { ...tensor, type, read: async function* () { yield encodeRows(type as "F32" | QuantizedType, tensor.name, values, tensor.nRows, tensor.nCols, noLoss()); } };
  };
  const files = await rewritten(checkpoint, change);
  const again = await opened(files);
  const place = again.place("layers.0.experts.1.down");
  expect([place.type, place.storedType]).toEqual([type, type]);
  const before = await change(unchanged(checkpoint, place.name));
  expect(decodeRows(type, await again.readRows(place, 0, place.nRows), place.nRows, place.nCols)).toEqual(decodeRows(type, await bytesOf(before), place.nRows, place.nCols));
  if (formatOfType(type) === "q2") {
    // Experts of several formats in one pack: all take the same activations.
    const mixed = await opened(await rewritten(checkpoint, async (tensor) => {
      if (!tensor.name.includes(".experts.")) return tensor;
      const values = decodeRows(tensor.type, await bytesOf(tensor), tensor.nRows, tensor.nCols);
      const of = ["Q2_32", "Q4_0", "Q8_0", "Q3_32"] as const;
      const to = of[Number(/experts\.(\d+)/.exec(tensor.name)![1]) % 4]!;
      return { ...tensor, type: to, read: async function* () { yield encodeRows(to, tensor.name, values, tensor.nRows, tensor.nCols, noLoss()); } };
    }));
    expect((await packToMemory(mixed)).summary.manifest.experts.slice(0, 4).map(({ gateUp, down }) => [gateUp, down])).toEqual([["q2", "q2"], ["q4", "q4"], ["q8", "q8"], ["q3", "q3"]]);
  }
});

function plainRows(type: "F16" | "BF16", values: Float32Array): Uint8Array {
  const out = new DataView(new ArrayBuffer(2 * values.length));
  const bits = new Uint32Array(values.buffer);
  values.forEach((value, i) => (type === "F16" ? out.setFloat16(2 * i, value, true) : out.setUint16(2 * i, bits[i]! >>> 16, true)));
  return new Uint8Array(out.buffer);
}

it("splits files, and reads them back", async () => {
  const checkpoint = await openTinyHuggingFace(tinyModel("olmoe", 43));
  const files = await rewritten(checkpoint, (tensor) => tensor, 20_000);
  const shards = [...files.keys()].filter((name) => /^model-\d{5}-of-\d{5}\.safetensors$/.test(name));
  expect(shards.length).toBeGreaterThan(2);
  expect(files.has("model.safetensors.index.json")).toBe(true);
  expect(weightsOf((await packToMemory(await opened(files))).summary.manifest)).toEqual(weightsOf((await packToMemory(checkpoint)).summary.manifest));
});

describe("refuses", () => {
  const tiny = () => openTinyHuggingFace(tinyModel("qwen3_moe", 44));
  const withDocument = async (change: (document: Record<string, unknown>) => void): Promise<string | null> => {
    const files = await rewritten(await tiny());
    const document = JSON.parse(new TextDecoder().decode(files.get("config.json"))) as Record<string, unknown>;
    change(document);
    return refusalOf(() => opened(files.set("config.json", new TextEncoder().encode(JSON.stringify(document)))));
  };

  it("another version, other keys, a config that contradicts itself", async () => {
    expect(await withDocument((d) => { d["version"] = 2; })).toBe("memory, config.json is of a canonical model of version 2; version 1 is read.");
    expect(await withDocument((d) => { d["more"] = 1; })).toMatch(/config\.json: the document: Unrecognized key: "more"/);
    expect(await withDocument((d) => { (d["config"] as Record<string, unknown>)["nHeads"] = 3; })).toMatch(/config\.json: 3 attention heads are no multiple of 2 key-value heads/);
    expect(await withDocument((d) => { d["passes"] = [{ pass: "" }]; })).toMatch(/config\.json: passes\.0\.pass: /);
  });

  it("tensors that are missing, of other shapes, or of types that nobody knows", async () => {
    const left = async (change: (tensor: TensorToWrite) => TensorToWrite | null): Promise<string | null> => {
      const checkpoint = await tiny();
      const sink = new MemorySink();
      const tensors = [...checkpoint.places()].flatMap(({ name }) => change(unchanged(checkpoint, name)) ?? []);
      await writeCanonical(sink, afterPass(checkpoint, PASS), tensors);
      return refusalOf(() => opened(sink.files));
    };
    expect(await left((t) => (t.name === "layers.1.q" ? null : t))).toBe("memory: tensor layers.1.q (layers.1.q) is missing.");
    expect(await left((t) => (t.name === "layers.1.q" ? { ...t, nRows: t.nRows / 2, nCols: t.nCols * 2 } : t))).toMatch(/tensor layers\.1\.q in model\.safetensors \(layers\.1\.q\) has shape \[\d+, \d+\], expected/);
    expect(await left((t) => (t.name === "layers.1.q" ? { ...t, name: "layers.1.q:Q9_9" } : t))).toMatch(/tensor layers\.1\.q:Q9_9 names a type that is not known here; expected one of F32, /);
    expect(await left((t) => (t.name === "layers.1.q" ? { ...t, name: "layers.1.q:Q8_0" } : t))).toMatch(/tensor layers\.1\.q:Q8_0 is (F32|BF16) \[\d+, \d+\], expected U8 \[rows, blocks, bytes of a block\]/);
  });

  it("to write tensors that bring other bytes than they said, and leaves nothing then", async () => {
    const checkpoint = await tiny();
    for (const [bytes, message] of [[4, /brought 4 bytes; expected \d{3,}\./], [1 << 20, /brought 1048576 bytes; expected/]] as const) {
      const sink = new MemorySink();
      const tensors = [...checkpoint.places()].map(({ name }) => unchanged(checkpoint, name));
      tensors[3] = { ...tensors[3]!, async *read() { yield new Uint8Array(bytes); } };
      await expect(writeCanonical(sink, afterPass(checkpoint, PASS), tensors)).rejects.toThrow(message);
      expect([sink.files.size, await sink.unfinished.list()]).toEqual([0, []]);
    }
  });

  it("rows that blocks do not fill", async () => {
    const checkpoint = await tiny();
    const tensors = [...checkpoint.places()].map(({ name }) => unchanged(checkpoint, name));
    const at = tensors.findIndex(({ nCols }) => nCols % 256 !== 0);
    tensors[at] = { ...tensors[at]!, type: "Q4_K" };
    await expect(writeCanonical(new MemorySink(), afterPass(checkpoint, PASS), tensors)).rejects.toThrow(/which blocks of 256 \(Q4_K\) do not fill; expected another type\./);
  });
});
