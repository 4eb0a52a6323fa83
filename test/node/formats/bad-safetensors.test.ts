// Folders of safetensors that are wrong: cut at every byte, with lengths, shapes and offsets that overflow, names given twice, text that is none,
// and an index that says what is not so. Single faults of a header are safetensors.test.ts.

import { describe, expect, it } from "vitest";
import type { ByteSource } from "../../../formats/byte-source.ts";
import { openHuggingFace } from "../../../formats/huggingface.ts";
import { MemorySource } from "../../../formats/memory-source.ts";
import { readSafetensorsFolder, readSafetensorsHeader } from "../../../formats/safetensors.ts";
import { refusalOf } from "../../support/refusal.ts";
import { type TensorData, safetensorsFile, safetensorsFolder, safetensorsHeader } from "../../support/safetensors-writer.ts";
import { tinyModel } from "../../support/tiny-models.ts";

const FILE = "model.safetensors";
const read = (bytes: Uint8Array) => readSafetensorsHeader(new MemorySource(new Map([[FILE, bytes]])), FILE);
const tensor = (name: string, n: number): TensorData => ({ name, dtype: "F32", shape: [n, 2], bytes: new Uint8Array(n * 8).fill(n) });
const TENSORS = [tensor("a", 3), tensor("b", 5), tensor("c", 1)];

/** A file whose header is this text, with 72 bytes of data. */
const headed = (text: string | Uint8Array): Uint8Array => {
  const header = typeof text === "string" ? new TextEncoder().encode(text) : text;
  const out = new Uint8Array(8 + header.length + 72);
  new DataView(out.buffer).setBigUint64(0, BigInt(header.length), true);
  out.set(header, 8);
  return out;
};

describe("a file cut short", () => {
  it("at every byte", async () => {
    const whole = safetensorsFile(TENSORS);
    for (let length = 0; length < whole.length; length++) {
      expect(await refusalOf(() => read(whole.subarray(0, length))), `${length} bytes`)
        .toMatch(/^memory, model\.safetensors: (expected at least 8 bytes of header length, found \d|the header is said to have \d+ bytes, but the file has only \d+|tensor [abc] ends at byte \d+ of the data, but the file has only \d+ bytes of data; it is cut short or its header is wrong)\.$/);
    }
    expect((await read(whole)).size).toBe(3);
    expect(await refusalOf(() => read(Uint8Array.of(...whole, 0)))).toMatch(/the tensors take 72 bytes, but the file holds 73 bytes of data\.$/);
  });

  it("a model, beside every tensor's border", async () => {
    const files = tinyModel("qwen3_moe", 63, { config: { num_experts: 2 } }).huggingFaceFiles();
    const whole = files.get(FILE)!;
    const open = (length: number) => openHuggingFace(new MemorySource(new Map(files).set(FILE, whole.subarray(0, length))), "tiny");
    const borders = [...(await read(whole)).values()].flatMap((t) => [t.offset, t.offset + t.bytes]);
    for (const border of new Set(borders.flatMap((at) => [at - 1, at, at + 1]))) {
      const message = await refusalOf(() => open(border));
      if (border >= whole.length) expect(message).toBeNull();
      else expect(message, `${border} of ${whole.length}`).toMatch(/^memory, model\.safetensors: (tensor \S+ ends at byte \d+ of the data, but the file has only \d+ bytes of data|the header is said to have)/);
    }
  });

  it("one shard of two, and the index, at every byte", async () => {
    const files = safetensorsFolder(TENSORS, 2);
    for (const [name, whole] of files) {
      for (let length = 0; length < whole.length; length++) {
        const message = await refusalOf(() => readSafetensorsFolder(new MemorySource(new Map(files).set(name, whole.subarray(0, length)))));
        expect(message, `${name}, ${length} bytes`).toContain(`memory, ${name}`);
      }
    }
  });
});

describe("numbers that overflow", () => {
  const entry = (shape: string, offsets: string, dtype = "F32"): Uint8Array => headed(`{"a":{"dtype":"${dtype}","shape":${shape},"data_offsets":${offsets}}}`);
  it.each<[string, Uint8Array, RegExp]>([
    ["a header of 2^40 bytes", Uint8Array.of(0, 0, 0, 0, 0, 1, 0, 0, 123, 125), /the header is said to have 1099511627776 bytes, expected at most 100000000\.$/],
    ["a header of 2^64 - 1 bytes", new Uint8Array(16).fill(255), /the header is said to have 18446744073709551615 bytes/],
    ["a header of 99,999,999 bytes in a file of 16", Uint8Array.of(255, 224, 245, 5, 0, 0, 0, 0, 123, 125, 0, 0, 0, 0, 0, 0), /the header is said to have 99999999 bytes, but the file has only 16\.$/],
    ["a header of no bytes", new Uint8Array(8), /header\) is no valid JSON/],
    ["a dimension beyond 2^53", entry("[9007199254740993,2]", "[0,72]"), /tensor a has shape \[9007199254740992,2\], expected a list of whole numbers/],
    ["a product of dimensions that is 2^64", entry("[4294967296,4294967296]", "[0,0]"), /tensor a has data_offsets \[0, 0\], but F32 \[4294967296,4294967296\] takes \d+ bytes/],
    ["a product that is infinite", entry(`[${Array(40).fill("9007199254740991").join(",")}]`, "[0,72]"), /takes Infinity bytes/],
    ["offsets beyond 2^53", entry("[18]", "[9007199254740992,9007199254741064]"), /tensor a has data_offsets \[9007199254740992,9007199254741064\], expected \[begin, end\]/],
    ["an offset written 1e999", entry("[18]", "[0,1e999]"), /tensor a has data_offsets \[0,null\], expected \[begin, end\]/],
    ["an offset that is no whole number", entry("[18]", "[0,72.5]"), /expected \[begin, end\]/],
    ["six bits that end inside a byte", entry("[3]", "[0,2]", "F6_E2M3"), /F6_E2M3 \[3\] takes 2\.25 bytes/],
    ["a shape in a shape", entry("[[18]]", "[0,72]"), /tensor a has shape \[\[18\]\], expected a list of whole numbers/],
    ["a dtype that every object has", entry("[18]", "[0,72]", "constructor"), /tensor a has dtype "constructor", expected one of F64/],
  ])("%s", async (_, bytes, message) => {
    expect(await refusalOf(() => read(bytes))).toMatch(message);
  });

  it("a length in the file is no length to allocate: only what is there is asked for", async () => {
    const asked: number[] = [];
    const pretending: ByteSource = { description: "memory", hasRanges: true, size: async () => 50, async *read(_, from = 0, n = 0) { asked.push(n); yield new Uint8Array(n).fill(from === 0 ? 5 : 0); } };
    expect(await refusalOf(() => readSafetensorsHeader(pretending, FILE))).toMatch(/is said to have \d+ bytes/);
    expect(asked).toEqual([8]);
  });
});

describe("headers that are no headers", () => {
  const good = JSON.stringify(safetensorsHeader(TENSORS));
  it.each<[string, Uint8Array, RegExp]>([
    ["text that is no UTF-8", headed(Uint8Array.of(...new TextEncoder().encode(good.slice(0, -1)), 0x20, 0xff, 0x7d)), /\(header\) is no valid JSON: .*not valid/],
    ["brackets without end", headed("[".repeat(200_000)), /\(header\) is no valid JSON/],
    ["brackets without end in a name's place", headed(`{"a":${"[".repeat(5000)}${"]".repeat(5000)}}`), /nests objects and lists more than 64 deep/],
    ["a line end and an escape code in a name", headed('{"a\\n\\u001b[31mb":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"c":5}'), /tensor c has no dtype/],
    ["a name of a million letters", headed(`{"${"x".repeat(1_000_000)}":5}`), /tensor x+ \.\.\. .* expected one of F64/],
    ["null", headed("null"), /the header is no JSON object/],
    ["an entry that is null", headed('{"a":null}'), /tensor a has no dtype/],
    ["an entry that is a text", headed('{"a":"F32"}'), /tensor a has no dtype/],
    ["three offsets", headed('{"a":{"dtype":"F32","shape":[18],"data_offsets":[0,36,72]}}'), /tensor a has data_offsets \[0,36,72\], expected \[begin, end\]/],
    ["a name written twice in two ways", headed(good.replace('"b":', '"\\u0061":')), /the header names tensor a twice/],
  ])("%s", async (_, bytes, message) => {
    expect(await refusalOf(() => read(bytes))).toMatch(message);
  });
});

describe("an index that says what is not so", () => {
  const index = (document: unknown): Promise<string | null> => {
    const files = safetensorsFolder(TENSORS, 2);
    return refusalOf(() => readSafetensorsFolder(new MemorySource(files.set("model.safetensors.index.json", new TextEncoder().encode(JSON.stringify(document))))));
  };
  it.each<[unknown, RegExp]>([
    [null, /index\.json has no weight_map object/], [[], /index\.json has no weight_map object/], [{}, /index\.json has no weight_map object/], [{ weight_map: null }, /no weight_map object/],
    [{ weight_map: ["model-00001-of-00002.safetensors"] }, /no weight_map object|00001-of-00002\.safetensors/], [{ weight_map: {} }, /weight_map/],
    ...["../x.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x.safetensors", "x.bin", "", ".", "%2e%2e/x.safetensors", "a\n.safetensors", 5, null, {}].map((shard): [unknown, RegExp] =>
      [{ weight_map: { a: shard } }, /^memory, model\.safetensors\.index\.json: tensor a is said to be in .*, expected the name of a \.safetensors file beside it\.$/]),
    [{ weight_map: { a: "config.json.safetensors" } }, /shard config\.json\.safetensors, named by .* for tensor a, is missing/],
  ])("%j", async (document, message) => {
    expect(await index(document)).toMatch(message);
  });
});

it("FP8 experts in one stack, which no release has, are refused by name and shape", async () => {
  const files = tinyModel("deepseek_v3", 69, { exactIn: "F8_E4M3" }).huggingFaceFiles({ dtype: "F8_E4M3", fused: true });
  expect(await refusalOf(() => openHuggingFace(new MemorySource(files), "tiny")))
    .toBe("memory: tensor model.layers.1.mlp.experts.gate_up_proj in model.safetensors (layers.1.experts.0.gate) is F8_E4M3 [8, 64, 64], expected a matrix, whose blocks of 128 x 128 have a factor each.");
});
