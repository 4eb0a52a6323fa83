// GGUF models that are wrong: cut at every byte of the header and beside every border behind it, with counts, lengths and offsets that overflow,
// and metadata that contradicts the tensors. Synthetic headers are gguf.test.ts; here whole models are opened, of every architecture.

import { describe, expect, it } from "vitest";
import type { ByteSource } from "../../../formats/byte-source.ts";
import { openGguf } from "../../../formats/gguf-checkpoint.ts";
import { readGgufFile } from "../../../formats/gguf-header.ts";
import { MemorySource } from "../../../formats/memory-source.ts";
import { type GgufField, type GgufTensor, ggufFile, text, u32 } from "../../support/gguf-writer.ts";
import { refusalOf } from "../../support/refusal.ts";
import { TINY_ARCHITECTURES, tinyModel } from "../../support/tiny-models.ts";

const FILE = "tiny.gguf";
const sourceOf = (bytes: Uint8Array): MemorySource => new MemorySource(new Map([[FILE, bytes]]));
const open = (bytes: Uint8Array) => openGguf(sourceOf(bytes), FILE);

describe("a model cut short", () => {
  const whole = tinyModel("olmoe", 61, { config: { num_experts: 2 } }).ggufBytes({ type: "Q8_0" });

  it("at every byte of its header", async () => {
    const headerBytes = (await readGgufFile(sourceOf(whole), FILE)).bytes.length;
    expect(headerBytes).toBeGreaterThan(2000);
    for (let length = 0; length < headerBytes; length++) {
      expect(await refusalOf(() => open(whole.subarray(0, length))), `${length} bytes`).toMatch(/^memory, tiny\.gguf: .*(is cut short within its header: expected \d+ more bytes for .+ at byte \d+, the end of the file|but the file has only \d+ bytes left)\.$/);
    }
  });

  it("beside every border: the header's end, its padding, each tensor's start and end", async () => {
    const { tensors, bytes } = await readGgufFile(sourceOf(whole), FILE);
    const places = [...tensors.values()].sort((a, b) => a.offset - b.offset);
    const end = Math.max(...places.map((t) => t.offset + t.bytes));
    const borders = new Set([bytes.length, ...places.flatMap((t) => [t.offset, t.offset + t.bytes])].flatMap((at) => [at - 1, at, at + 1]));
    let refused = 0;
    for (const length of borders) {
      const message = await refusalOf(() => open(whole.subarray(0, length)));
      if (length >= end) expect(message, `${length} of ${end}`).toBeNull();
      else if (length < bytes.length) expect(message).toMatch(/cut short within its header/);
      else {
        refused++;
        // The first tensor of the table that does not fit.
        const missing = [...tensors.values()].find((t) => t.offset + t.bytes > length)!;
        expect(message).toBe(`memory, tiny.gguf: tensor ${missing.name} (${missing.type} [${missing.shape.join(", ")}]) ends at byte ${missing.offset + missing.bytes}, but the file has only ${length} bytes; it is cut short.`);
      }
    }
    expect(refused).toBeGreaterThan(3 * places.length);
  });

  it("one file of several, at every byte of its header", async () => {
    const part = (no: number): Uint8Array => ggufFile(new Map<string, GgufField>([["split.no", u32(no)], ["split.count", u32(2)]]), [{ name: `t${no}`, type: "F32", shape: [8], bytes: new Uint8Array(32) }]);
    const [first, second] = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"] as const;
    for (let length = 0; length < part(1).length; length++) {
      const files = new MemorySource(new Map([[first, part(0)], [second, part(1).subarray(0, length)]]));
      expect(await refusalOf(() => openGguf(files, first)), `${length} bytes`).toMatch(/^memory, m-00002-of-00002\.gguf: .*(cut short|only \d+ bytes)/);
    }
  });
});

describe("numbers that overflow", () => {
  const tensor = (name: string, shape: readonly number[]): GgufTensor => ({ name, type: "F32", shape, bytes: new Uint8Array(64) });
  const fields = new Map<string, GgufField>([["general.architecture", text("llama")], ["list", { type: "i32s", value: [1, 2, 3] }]]);
  const file = ggufFile(fields, [tensor("alpha", [4, 4]), tensor("omega", [4, 4])]);
  const at = (marker: string, beyond: number): number => Buffer.from(file.buffer).indexOf(marker) + marker.length + beyond;
  /** The file with other numbers of 8 bytes. */
  const put = (...changes: readonly (readonly [at: number, value: bigint])[]): Uint8Array => {
    const out = file.slice();
    for (const [where, value] of changes) new DataView(out.buffer).setBigUint64(where, BigInt.asUintN(64, value), true);
    return out;
  };
  const [N_TENSORS, N_FIELDS, FIRST_KEY] = [8, 16, 24];
  // Behind the name: u32 dimensions, u64 each (fastest first), u32 type, u64 offset.
  const dims = (name: string): number => at(name, 4);
  const offset = (name: string): number => at(name, 4 + 16 + 4);
  const length = at("list", 4 + 4);

  it.each<[string, Uint8Array, RegExp]>([
    ["a thousand million tensors", put([N_TENSORS, 10n ** 9n]), /announces 1000000000 tensors, at least 32000000000 bytes, but the file has only \d+ bytes left/],
    ["2^53 tensors", put([N_TENSORS, 2n ** 53n]), /counts: found the number 9007199254740992, expected one within 2\^53/],
    ["2^64 - 1 fields", put([N_FIELDS, -1n]), /found the number 18446744073709551615/],
    ["a key of 2^60 bytes", put([FIRST_KEY, 2n ** 60n]), /the key of metadata field 1 of 2: found the number 1152921504606846976, expected one within 2\^53/],
    ["a key of 2^52 bytes", put([FIRST_KEY, 2n ** 52n]), /is a text of 4503599627370496 bytes, but the file has only \d+ bytes left/],
    ["an array of 2^62 values, whose bytes would wrap to 0", put([length, 2n ** 62n]), /metadata field list: found the number 4611686018427387904/],
    ["an array of 2^50 values", put([length, 2n ** 50n]), /announces 1125899906842624 values in metadata field list, at least 4503599627370496 bytes/],
    ["dimensions whose product is 2^64, which wraps to 0", put([dims("alpha"), 2n ** 32n], [dims("alpha") + 8, 2n ** 32n]), /tensor alpha has shape \[4294967296, 4294967296\], more values than 2\^53/],
    ["dimensions whose product wraps to the right size", put([dims("alpha"), 2n ** 32n], [dims("alpha") + 8, 2n ** 32n + 4n]), /more values than 2\^53/],
    ["a dimension of 2^63", put([dims("alpha"), 2n ** 63n]), /table entry of tensor alpha: found the number 9223372036854775808/],
    ["values whose bytes are beyond 2^53", put([dims("alpha"), 2n ** 26n], [dims("alpha") + 8, 2n ** 27n - 1n]), /tensor alpha (ends beyond byte 2\^53|.*ends at byte \d+, but the file has only)/],
    ["an offset of 2^64 - 32, which wraps into the header", put([offset("omega"), -32n]), /table entry of tensor omega: found the number 18446744073709551584/],
    ["an offset of 2^53 - 32", put([offset("omega"), 2n ** 53n - 32n]), /tensor omega ends beyond byte 2\^53/],
    ["an offset beyond the file", put([offset("omega"), 2n ** 40n]), /tensor omega \(F32 \[4, 4\]\) ends at byte \d+, but the file has only \d+ bytes/],
    ["an offset beside the alignment", put([offset("omega"), 33n]), /tensor omega starts at byte 33 of the data, expected a multiple of the alignment 32/],
    ["two tensors in one place", put([offset("omega"), 0n]), /tensor omega starts at byte \d+, inside tensor alpha, which ends at byte \d+/],
  ])("%s", async (_, bytes, message) => {
    expect(await refusalOf(() => readGgufFile(sourceOf(bytes), FILE))).toMatch(message);
  });

  it("arrays in arrays in arrays, without end", async () => {
    // Each array holds one array.
    const deep = new Uint8Array(24 + 8 + 1 + 4 + 12 * 5000);
    deep.set(file.subarray(0, 24));
    const view = new DataView(deep.buffer);
    view.setBigUint64(N_TENSORS, 0n, true);
    view.setBigUint64(N_FIELDS, 1n, true);
    view.setBigUint64(24, 1n, true);
    deep[32] = 0x61;
    view.setUint32(33, 9, true);
    for (let i = 0; i < 5000; i++) {
      view.setUint32(37 + 12 * i, 9, true);
      view.setBigUint64(41 + 12 * i, 1n, true);
    }
    expect(await refusalOf(() => readGgufFile(sourceOf(deep), FILE))).toBe("memory, tiny.gguf: metadata field a[0][0][0] nests arrays more than 3 deep.");
  });

  it("a header that goes on for ever is read as far as its limit, never more", async () => {
    // Every field is a text of 64 MiB of zeros in a file that pretends to hold them.
    const start = new Uint8Array(24 + 8 + 1 + 4 + 8);
    start.set(file.subarray(0, 24));
    const view = new DataView(start.buffer);
    view.setBigUint64(N_TENSORS, 1n, true);
    view.setBigUint64(N_FIELDS, 100n, true);
    view.setBigUint64(24, 1n, true);
    start[32] = 0x61;
    view.setUint32(33, 8, true);
    view.setBigUint64(37, 2n ** 38n, true);
    const asked: number[] = [];
    const pretending: ByteSource = {
      description: "memory", hasRanges: true, size: async () => 2 ** 40,
      async *read(_, from = 0, n = 0) {
        asked.push(from + n);
        for (let done = 0; done < n; done += 1 << 20) {
          const chunk = new Uint8Array(Math.min(1 << 20, n - done));
          if (from + done === 0) chunk.set(start);
          yield chunk;
        }
      },
    };
    expect(await refusalOf(() => readGgufFile(pretending, FILE))).toMatch(/^memory, tiny\.gguf: the header goes on beyond 268435456 bytes\.$/);
    expect(Math.max(...asked)).toBeLessThanOrEqual(2 ** 28);
  });
});

describe.each(TINY_ARCHITECTURES)("metadata of %s that contradicts its tensors", (architecture) => {
  const model = tinyModel(architecture, 62);
  // What decides shapes; the others (context, epsilon, rotary settings, the number of experts chosen) fit any tensors.
  const SIZES = /\.(embedding_length|block_count|feed_forward_length|expert_feed_forward_length|expert_shared_feed_forward_length|expert_count|attention\.(head_count|head_count_kv|key_length|value_length|key_length_mla|value_length_mla|kv_lora_rank|q_lora_rank))$/;

  it("each size off by one, doubled, halved, zero, enormous, of another kind", async () => {
    const whole = model.ggufBytes();
    const { metadata } = await readGgufFile(sourceOf(whole), FILE);
    expect(await refusalOf(() => open(whole))).toBeNull();
    const keys = Object.keys(metadata).filter((key) => SIZES.test(key));
    expect(keys.length).toBeGreaterThan(5);
    for (const key of keys) {
      const value = metadata[key] as number;
      // A model with experts in every layer has no use for the width of dense layers, nor latent attention for key-value heads that its own keys say.
      const isUnused = (key.endsWith(".feed_forward_length") && keys.some((k) => k.endsWith("expert_feed_forward_length")) && !model.config.layerFfns.includes("dense"));
      const wrong: readonly GgufField[] = [u32(value + 1), u32(value * 2), u32(Math.floor(value / 2)), u32(0), u32(0xffffffff), { type: "u64", value: 2n ** 52n }, { type: "f32", value: NaN }, { type: "f32", value: -1 }, { type: "f32", value: 0.5 },
        text(String(value)), { type: "bool", value: true }, { type: "strings", value: [] }];
      for (const field of wrong) {
        const message = await refusalOf(() => open(model.ggufBytes({ metadata: { [key]: field } })));
        if (isUnused) continue;
        expect(message, `${key} = ${JSON.stringify(field, (_, v: unknown) => (typeof v === "bigint" ? String(v) : v))}`).toMatch(/^memory, tiny\.gguf/);
      }
    }
  });
});
