// GGUF headers: our test writer is checked by another reader, our reader by that writer; then every way a file can lie.

import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gunzipSync } from "node:zlib";
import { GGMLQuantizationType, gguf } from "@huggingface/gguf";
import { describe, expect, it } from "vitest";
import { type ByteSource, SourceError } from "../../../formats/byte-source.ts";
import { openGguf } from "../../../formats/gguf-checkpoint.ts";
import { FolderSource } from "../../../cli/file-source.ts";
import { decodeRows } from "../../../formats/dequantize.ts";
import { readGgufHeader } from "../../../formats/gguf.ts";
import { MemorySource } from "../../../formats/memory-source.ts";
import { readBytes } from "../../../formats/read-bytes.ts";
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

/** Where the bytes of `marker` stand first. */
function indexOf(bytes: Uint8Array, marker: string): number {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).indexOf(marker, 0, "utf8");
}

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
        // PhiMoE's file holds two factors for each rotary frequency beside the weights.
        const ropeFactors = 2 * (model.config.rope.long?.inverseFrequencies.length ?? 0);
        expect(theirs.parameterCount).toBe([...model.weights.values()].reduce((n, w) => n + w.values.length, ropeFactors));
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
      expect(await openGguf(new MemorySource(new Map([["m.gguf", new Uint8Array(bytes)]])), "m.gguf")).toMatchObject({ kind: "gguf", name: "m" });
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
  /** The file with other bytes where `marker` stands first. */
  const withBytes = (marker: string, ...values: number[]): Uint8Array => changed(indexOf(FILE, marker), ...values);
  const dataStart = FILE.length - 352; // 60 bytes padded to 64, 272 padded to 288
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
    ["an alignment of zero", () => ggufFile(new Map([...FIELDS, ["general.alignment", u32(0)]]), TENSORS), /general\.alignment is 0, expected a power of two up to 65536/],
    ["an alignment beyond any page", () => ggufFile(new Map([...FIELDS, ["general.alignment", u32(2 ** 31)]]), TENSORS), /general\.alignment is 2147483648, expected a power of two/],
    ["an alignment that is a text", () => ggufFile(new Map([...FIELDS, ["general.alignment", text("32")]]), TENSORS), /general\.alignment is "32"/],
    ["more tensors than the file has bytes for", () => changed(8, 0, 1), /announces 256 tensors, at least 8192 bytes, but the file has only \d+ bytes left/],
    ["more fields than the file has bytes for", () => changed(16, 0, 0, 0, 0, 1), /announces 4294967296 metadata fields, at least 55834574848 bytes, but the file has only/],
    ["a count beyond 2^53", () => changed(8, 0, 0, 0, 0, 0, 0, 0x20, 0), /counts: found the number 9007199254740992, expected one within 2\^53/],
    ["a count of -1", () => changed(16, 255, 255, 255, 255, 255, 255, 255, 255), /counts: found the number 18446744073709551615/],
    ["a text longer than the file", () => changed(24, 255, 255, 255), /the key of metadata field 1 of 7 is a text of 16777215 bytes, but the file has only \d+ bytes left/],
    ["a key that is no UTF-8", () => changed(32, 0xff), /the key of metadata field 1 of 7 is no valid UTF-8/],
    ["a value that is no UTF-8", () => withBytes("llama", 0xc3, 0x28), /metadata field general\.architecture is no valid UTF-8/],
    ["a text in an array that is no UTF-8", () => withBytes("\u0120a", 0xff), /metadata field words\[2\] is no valid UTF-8/],
    ["a truth value of 7", () => withBytes("yes", 121, 101, 115, 7, 0, 0, 0, 7), /metadata field yes holds the truth value 7, expected 0 or 1/],
    ["a number beyond 2^53", () => withBytes("big", 98, 105, 103, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 0), /metadata field big: found the number 9007199254740992/],
    ["a tensor without values", () => ggufFile(FIELDS, [{ ...TENSORS[0]!, shape: [0, 5] }]), /tensor a has shape \[0, 5\], expected dimensions of at least 1/],
    ["dimensions whose product overflows", () => ggufFile(FIELDS, [{ ...TENSORS[0]!, shape: [2 ** 40, 2 ** 40, 5] }]), /tensor a has shape \[1099511627776, 1099511627776, 5\], more values than 2\^53/],
    ["no dimension", () => ggufFile(FIELDS, [{ ...TENSORS[0]!, shape: [] }]), /tensor a has 0 dimensions, expected 1 to 4/],
    ["a file cut short in its data", () => FILE.slice(0, dataStart + 200), /tensor b \(Q8_0 \[2, 2, 64\]\) ends at byte \d+, but the file has only \d+ bytes; it is cut short/],
    ["a file cut short in its table", () => FILE.slice(0, dataStart - 60), /cut short within its header.*tensor/],
    ["a file cut short in its metadata", () => FILE.slice(0, 130), /cut short within its header.*metadata field/],
    ["an array longer than the file", () => ggufFile(new Map([["i", { type: "i32s", value: [1] }]]), TENSORS).map((b, i) => (i === 24 + 9 + 4 + 4 + 5 ? 0xff : b)), /announces \d+ values in metadata field i, at least \d+ bytes, but the file has only \d+ bytes left/],
  ];
  it.each(refused)("%s", async (_, make, message) => {
    await expect(read(make())).rejects.toThrow(message);
    await expect(read(make())).rejects.toThrow(/memory, m\.gguf/);
  });

  it("a file cut at any byte, in one sentence", async () => {
    for (let length = 0; length < dataStart + 64 + 272; length++) {
      const error: unknown = await read(FILE.slice(0, length)).then(() => null, (e: unknown) => e);
      expect(error, `${length} of ${FILE.length} bytes`).toBeInstanceOf(SourceError);
      expect((error as Error).message, `${length} bytes`).toMatch(/^memory, m\.gguf: [^\n]*(cut short|bytes left)[^\n]*\.$/);
    }
    expect((await read(FILE.slice(0, dataStart + 64 + 272))).tensors.size).toBe(2); // without the padding behind the last tensor
  });

  it("any byte changed: read or refused, never anything else", async () => {
    let refusals = 0;
    for (let at = 0; at < dataStart; at++) {
      for (const value of [0, 1, 0x7f, 0xff]) {
        const error: unknown = await read(changed(at, value)).then(() => null, (e: unknown) => e);
        if (error === null) continue;
        refusals++;
        expect(error, `byte ${at} = ${value}`).toBeInstanceOf(SourceError);
      }
    }
    expect(refusals).toBeGreaterThan(500);
  });

  it("a claimed length is not believed: nothing is read or allocated for it", async () => {
    // An array of 2^36 bytes in a file that pretends to be as large.
    const bytes = ggufFile(new Map([["i", { type: "i32s", value: [1] }]]), TENSORS);
    new DataView(bytes.buffer).setUint32(24 + 8 + 1 + 4, 0, true); // elements are u8
    new DataView(bytes.buffer).setBigUint64(24 + 8 + 1 + 4 + 4, 1n << 36n, true);
    const asked: number[] = [];
    const pretending: ByteSource = {
      description: "memory", hasRanges: true, size: async () => 2 ** 40,
      async *read(_, offset = 0, length = 0) { asked.push(length); const out = new Uint8Array(length); out.set(bytes.subarray(offset, offset + length)); yield out; },
    };
    await expect(readGgufHeader(pretending, "m.gguf")).rejects.toThrow(/announces 68719476736 values in metadata field i, expected at most 4194304/);
    expect(asked).toEqual([1 << 20]);
  });

  it("a key that JavaScript reads in its own way is one like any other", async () => {
    const header = await read(ggufFile(new Map([["__proto__", u32(1)], ["constructor", u32(2)]]), TENSORS));
    expect(Object.entries(header.metadata)).toEqual([["__proto__", 1], ["constructor", 2]]);
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
    // Rows of 256 are whole blocks of IQ3_S, which takes fewer bytes than the F32 that is there.
    const marker = [...new TextEncoder().encode("blk.0.ffn_gate_exps.weight")];
    const at = good.findIndex((_, i) => marker.every((c, j) => good[i + j] === c));
    new DataView(good.buffer).setUint32(at + marker.length + 4 + 24, 21, true);
    await expect(openGguf(new MemorySource(new Map([["m.gguf", good]])), "m.gguf")).rejects.toThrow(/tensor blk\.0\.ffn_gate_exps\.weight in m\.gguf .*has type IQ3_S, which this version does not read; expected one of F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q6_K, MXFP4, Q5_0, Q5_1, Q2_K, Q3_K, Q5_K, IQ4_NL, IQ4_XS/);
  });
});

describe("a model in several files", () => {
  const tensor = (name: string): GgufTensor => ({ name, type: "F32", shape: [1, 8], bytes: new Uint8Array(32).fill(name.length) });
  const part = (no: number, tensors: GgufTensor[], fields: [string, GgufField][] = []): Uint8Array =>
    ggufFile(new Map<string, GgufField>([["split.no", u32(no)], ["split.count", u32(3)], ["split.tensors.count", { type: "u64", value: 4n }], ...fields]), tensors);
  const files = (): Map<string, Uint8Array> => new Map([
    ["m-00001-of-00003.gguf", part(0, [tensor("a"), tensor("bb")], [["general.architecture", text("olmoe")]])],
    ["m-00002-of-00003.gguf", part(1, [tensor("ccc")])],
    ["m-00003-of-00003.gguf", part(2, [tensor("dddd")])],
  ]);
  const open = (all: Map<string, Uint8Array>, file = "m-00001-of-00003.gguf") => readGgufHeader(new MemorySource(all), file);

  it.each(["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"])("is found from %s", async (file) => {
    const header = await open(files(), file);
    expect([...header.tensors.values()].map((t) => [t.name, t.file])).toEqual([
      ["a", "m-00001-of-00003.gguf"], ["bb", "m-00001-of-00003.gguf"], ["ccc", "m-00002-of-00003.gguf"], ["dddd", "m-00003-of-00003.gguf"]]);
    expect(header).toMatchObject({ name: "m", files: [...files().keys()], metadata: { "general.architecture": "olmoe" } });
    expect(header.bytes).toEqual((await open(files())).bytes);
    const last = header.tensors.get("dddd")!;
    expect(files().get(last.file)!.subarray(last.offset, last.offset + 32)).toEqual(new Uint8Array(32).fill(4));
  });

  const without = (name: string, put?: Uint8Array): Map<string, Uint8Array> => {
    const all = files();
    if (put === undefined) all.delete(name);
    else all.set(name, put);
    return all;
  };
  it.each<[string, () => Promise<unknown>, RegExp]>([
    ["a missing file, by name", () => open(without("m-00002-of-00003.gguf")), /^memory: m-00002-of-00003\.gguf, number 2 of the 3 files of this model, is missing\.$/],
    ["a missing first file", () => open(without("m-00001-of-00003.gguf"), "m-00003-of-00003.gguf"), /m-00001-of-00003\.gguf, number 1 of the 3 files/],
    ["a file in another's place", () => open(without("m-00002-of-00003.gguf", part(2, [tensor("ccc")]))), /m-00002-of-00003\.gguf: split\.no is 2, expected 1 by its name/],
    ["a file of another model", () => open(without("m-00003-of-00003.gguf", ggufFile(new Map(), [tensor("dddd")]))), /m-00003-of-00003\.gguf: split\.count is missing, expected 3/],
    ["a tensor in two files", () => open(without("m-00003-of-00003.gguf", part(2, [tensor("a")]))), /^memory: tensor a is both in m-00001-of-00003\.gguf and in m-00003-of-00003\.gguf\.$/],
    ["a tensor short", () => open(without("m-00003-of-00003.gguf", part(2, []))), /split\.tensors\.count is 4, but the 3 files hold 3 tensors/],
    ["a name that does not say which", () => open(new Map([["m.gguf", part(1, [])]]), "m.gguf"), /the file is number 2 of a model split over 3, but its name does not say so; expected a name like m-00002-of-00003\.gguf/],
    ["a name that says another", () => open(new Map([["m-00001-of-00003.gguf", part(1, [])]])), /number 2 of a model split over 3.*expected a name like m-00002-of-00003\.gguf/],
    ["a number beyond the count", () => open(new Map([["m-00001-of-00003.gguf", part(3, [])]])), /split\.no is 3, expected 0 to 2, for split\.count is 3/],
    ["a count that is a text", () => open(new Map([["m.gguf", ggufFile(new Map([["split.count", text("3")]]), [])]]), "m.gguf"), /split\.count is "3", expected a whole number/],
  ])("refuses %s", async (_, make, message) => {
    await expect(make()).rejects.toThrow(message);
    await expect(make()).rejects.toThrow(SourceError);
  });
});

it("values beyond 4 GiB are read from where they are (a sparse file of 6 GiB)", async () => {
  const folder = mkdtempSync(join(tmpdir(), "gguf-"));
  try {
    const header = ggufFile(FIELDS, [{ name: "huge", type: "F32", shape: [3 << 19, 1024], bytes: new Uint8Array(0) }, { name: "last", type: "F32", shape: [1, 8], bytes: new Uint8Array(32) }]);
    new DataView(header.buffer).setBigUint64(indexOf(header, "last") + 4 + 4 + 16 + 4, 6n << 30n, true);
    writeFileSync(join(folder, "m.gguf"), header);
    truncateSync(join(folder, "m.gguf"), header.length + 6 * 2 ** 30);
    const { tensors } = await readGgufHeader(new FolderSource(folder), "m.gguf");
    const { offset } = tensors.get("last")!;
    expect(offset).toBeGreaterThan(6 * 2 ** 30);
    const handle = openSync(join(folder, "m.gguf"), "r+");
    writeSync(handle, Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8.5), 0, 32, offset);
    closeSync(handle);
    expect(statSync(join(folder, "m.gguf")).blocks * 512).toBeLessThan(2 ** 24);
    expect([...decodeRows("F32", await readBytes(new FolderSource(folder), "m.gguf", offset, 32), 1, 8)]).toEqual([1, 2, 3, 4, 5, 6, 7, 8.5]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
