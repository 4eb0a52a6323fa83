// GGUF headers: our test writer is checked by another reader, our reader by that writer; then every way a file can lie.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { GGMLQuantizationType, gguf } from "@huggingface/gguf";
import { describe, expect, it } from "vitest";
import { type ByteSource, SourceError } from "../../../formats/byte-source.ts";
import { openGguf } from "../../../formats/gguf-checkpoint.ts";
import { readGgufHeader } from "../../../formats/gguf.ts";
import { MemorySource } from "../../../formats/memory-source.ts";
import { dataFile } from "../../support/data-folder.ts";
import { type GgufField, type GgufTensor, f32, flag, ggufFile, text, u32 } from "../../support/gguf-writer.ts";
import { TINY_ARCHITECTURES, tinyModel } from "../../support/tiny-models.ts";
import { writeGguf } from "../../support/write-tiny.ts";

const read = (bytes: Uint8Array) => readGgufHeader(new MemorySource(new Map([["m.gguf", bytes]])), "m.gguf");
const TENSORS: GgufTensor[] = [
  { name: "a", type: "F32", shape: [3, 5], bytes: new Uint8Array(60).fill(1) },
  { name: "b", type: "Q8_0", shape: [2, 2, 64], bytes: new Uint8Array(2 * 2 * 2 * 34).fill(2) },
];
const FIELDS = new Map<string, GgufField>([
  ["general.architecture", text("llama")], ["n", u32(7)], ["big", { type: "u64", value: 2n ** 40n }], ["x", f32(0.5)], ["yes", flag(true)],
  ["words", { type: "strings", value: ["é", "", "\u0120a"] }], ["numbers", { type: "i32s", value: [-1, 2] }],
]);
const FILE = ggufFile(FIELDS, TENSORS);

describe("reading", () => {
  it.each([{ version: 2 }, { version: 3 }, { version: 3, alignment: 256 }])("%o", async (options) => {
    const bytes = ggufFile(FIELDS, TENSORS, options);
    const header = await read(bytes);
    expect(header.metadata).toMatchObject({ n: 7, big: 2 ** 40, x: 0.5, yes: true, words: ["é", "", "\u0120a"], numbers: [-1, 2] });
    const b = header.tensors.get("b")!;
    expect(b).toMatchObject({ type: "Q8_0", shape: [2, 2, 64], bytes: 272 });
    expect(b.offset % (options.alignment ?? 32)).toBe(0);
    expect([...bytes.subarray(b.offset, b.offset + b.bytes)]).toEqual(Array(272).fill(2));
  });

  it("reads a header longer than the first read, and a tensor beyond 4 GiB", async () => {
    const many = new Map(FIELDS).set("words", { type: "strings", value: Array.from({ length: 90_000 }, (_, i) => `word number ${i}`) });
    const bytes = ggufFile(many, TENSORS);
    expect(bytes.length).toBeGreaterThan(1 << 20);
    expect((await read(bytes)).tensors.size).toBe(2);

    // One tensor of 6 GiB, then a small one; the file's size is pretended, its header is real.
    const huge = ggufFile(FIELDS, [{ name: "huge", type: "F32", shape: [3 << 19, 1024], bytes: new Uint8Array(0) }, { name: "last", type: "F32", shape: [1, 8], bytes: new Uint8Array(32) }]);
    const view = new DataView(huge.buffer);
    const marker = [...new TextEncoder().encode("last")];
    const at = huge.findIndex((_, i) => marker.every((c, j) => huge[i + j] === c));
    view.setBigUint64(at + 4 + 4 + 16 + 4, 6n << 30n, true);
    const memory = new MemorySource(new Map([["m.gguf", huge]]));
    const pretending: ByteSource = { description: "memory", hasRanges: true, size: async () => 7 * 2 ** 30, read: (n, o, l) => memory.read(n, o, Math.min(l!, huge.length - o!)) };
    await expect(readGgufHeader(pretending, "m.gguf")).rejects.toThrow(SourceError); // the pretended bytes are not there
    const padded = new Uint8Array(1 << 20);
    padded.set(huge);
    const padding = new MemorySource(new Map([["m.gguf", padded]]));
    const large: ByteSource = { ...pretending, read: (n, o, l) => padding.read(n, o, l) };
    expect((await readGgufHeader(large, "m.gguf")).tensors.get("last")!.offset).toBeGreaterThan(6 * 2 ** 30);
  });
});

describe("the writer of the tests", () => {
  it.each(TINY_ARCHITECTURES)("is read by @huggingface/gguf (%s)", async (architecture) => {
    const folder = mkdtempSync(join(tmpdir(), "gguf-"));
    try {
      for (const type of ["F32", "F16", "Q8_0", "Q4_0"] as const) {
        const model = tinyModel(architecture, 3);
        const file = join(folder, `${type}.gguf`);
        await writeGguf(model, file, { type });
        const theirs = await gguf(file, { allowLocalFile: true, computeParametersCount: true });
        const ours = await read(new Uint8Array(readFileSync(file)));
        expect(theirs.tensorInfos.map((t) => [t.name, t.shape.map(Number).reverse(), GGMLQuantizationType[t.dtype], Number(theirs.tensorDataOffset + t.offset)]))
          .toEqual([...ours.tensors.values()].map((t) => [t.name, t.shape, t.type, t.offset]));
        const { version, tensor_count, kv_count, ...fields } = theirs.metadata as Record<string, unknown>;
        expect(version).toBe(3);
        expect(fields).toEqual(ours.metadata);
        expect(theirs.parameterCount).toBe([...model.weights.values()].reduce((n, w) => n + w.values.length, 0));
      }
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  const random = dataFile("models/gguf/llama-2-tiny-random.gguf.gz");
  it.skipIf(random === null)("is not the only writer: a published file reads as @huggingface/gguf reads it (skipped where the data folder is absent)", async () => {
    const bytes = gunzipSync(readFileSync(random!));
    const folder = mkdtempSync(join(tmpdir(), "gguf-"));
    try {
      writeFileSync(join(folder, "m.gguf"), bytes);
      const theirs = await gguf(join(folder, "m.gguf"), { allowLocalFile: true });
      const ours = await read(new Uint8Array(bytes));
      expect(theirs.tensorInfos.map((t) => [t.name, Number(theirs.tensorDataOffset + t.offset)])).toEqual([...ours.tensors.values()].map((t) => [t.name, t.offset]));
      await expect(openGguf(new MemorySource(new Map([["m.gguf", new Uint8Array(bytes)]])), "m.gguf")).rejects.toThrow(/dense llama model/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe("what is refused", () => {
  const changed = (offset: number, ...values: number[]): Uint8Array => {
    const bytes = FILE.slice();
    bytes.set(values, offset);
    return bytes;
  };
  const dataStart = FILE.length - 384;
  const refused: [string, () => Uint8Array, RegExp][] = [
    ["another kind of file", () => changed(0, 0x50), /does not start with the bytes GGUF/],
    ["version 1", () => changed(4, 1), /GGUF version 1, expected 2 or 3/],
    ["a big-endian file", () => changed(4, 0, 0, 0, 3), /big-endian/],
    ["an unknown value type", () => ggufFile(FIELDS, TENSORS).map((b, i, all) => (i > 24 && all[i - 1] === 0x6e && b === 4 ? 77 : b)), /metadata field n has value type 77/],
    ["a key given twice", () => ggufFile(new Map([["a1", u32(1)], ["a2", u32(2)]]), TENSORS).map((b) => (b === 0x32 ? 0x31 : b)), /metadata key a1 comes twice/],
    ["a tensor given twice", () => ggufFile(FIELDS, [TENSORS[0]!, { ...TENSORS[1]!, name: "a" }]), /tensor a comes twice/],
    ["an unknown type number", () => ggufFile(FIELDS, [{ ...TENSORS[0]!, typeId: 99 }]), /tensor a has type number 99/],
    ["rows that are no whole blocks", () => ggufFile(FIELDS, [{ ...TENSORS[0]!, typeId: 8 }]), /tensor a has rows of 5, expected a multiple of 32, the block of Q8_0/],
    ["five dimensions", () => ggufFile(FIELDS, [{ ...TENSORS[0]!, shape: [1, 1, 1, 3, 5] }]), /tensor a has 5 dimensions/],
    ["an odd alignment", () => ggufFile(new Map([...FIELDS, ["general.alignment", u32(33)]]), TENSORS), /general\.alignment is 33/],
    ["an alignment the offsets do not have", () => ggufFile(new Map([...FIELDS, ["general.alignment", u32(64)]]), [TENSORS[0]!, { ...TENSORS[0]!, name: "c", bytes: new Uint8Array(96) }, { ...TENSORS[0]!, name: "d" }]), /tensor d starts at byte 160 of the data, expected a multiple of the alignment 64/],
    ["a split model", () => ggufFile(new Map([...FIELDS, ["split.count", u32(3)]]), TENSORS), /split over 3 files/],
    ["a file cut short in its data", () => FILE.slice(0, dataStart + 200), /tensor b \(Q8_0 \[2, 2, 64\]\) ends at byte \d+, but the file has only \d+ bytes; it is cut short/],
    ["a file cut short in its table", () => FILE.slice(0, dataStart - 60), /cut short within its header.*tensor/],
    ["a file cut short in its metadata", () => FILE.slice(0, 60), /cut short within its header.*metadata field/],
    ["an array longer than the file", () => ggufFile(new Map([["i", { type: "i32s", value: [1] }]]), TENSORS).map((b, i) => (i === 24 + 9 + 4 + 4 + 5 ? 0xff : b)), /metadata field i is an array of \d+ values, more than the file has bytes/],
  ];
  it.each(refused)("%s", async (_, make, message) => {
    await expect(read(make())).rejects.toThrow(message);
    await expect(read(make())).rejects.toThrow(/memory, m\.gguf/);
  });

  it("overlapping tensors", async () => {
    const bytes = ggufFile(FIELDS, [TENSORS[0]!, { ...TENSORS[1]!, name: "overlap" }]);
    const marker = [...new TextEncoder().encode("overlap")];
    const at = bytes.findIndex((_, i) => marker.every((c, j) => bytes[i + j] === c));
    new DataView(bytes.buffer).setBigUint64(at + 7 + 4 + 24 + 4, 32n, true);
    await expect(read(bytes)).rejects.toThrow(/tensor overlap starts at byte \d+, inside tensor a/);
  });

  it("a quantisation this version does not read, by its name", async () => {
    const model = tinyModel("mixtral", 1, { config: { hidden_size: 256 } });
    const good = model.ggufBytes();
    // Rows of 256 are whole blocks of Q3_K, which takes fewer bytes than the F32 that is there.
    const marker = [...new TextEncoder().encode("blk.0.ffn_gate_exps.weight")];
    const at = good.findIndex((_, i) => marker.every((c, j) => good[i + j] === c));
    new DataView(good.buffer).setUint32(at + marker.length + 4 + 24, 11, true);
    await expect(openGguf(new MemorySource(new Map([["m.gguf", good]])), "m.gguf")).rejects.toThrow(/tensor blk\.0\.ffn_gate_exps\.weight in m\.gguf .*has type Q3_K, which this version does not read; expected one of F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q6_K, MXFP4/);
  });
});
