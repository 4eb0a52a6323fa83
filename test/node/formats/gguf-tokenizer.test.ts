// Tokenizers built from GGUF metadata, against published vectors (llama.cpp's vocabulary tests, made with the original
// tokenizers), and small vocabularies that tell one pre-tokenizer from another.

import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { tokenizerOfGguf } from "../../../formats/gguf-tokenizer.ts";
import { readGgufHeader } from "../../../formats/gguf.ts";
import { MemorySource } from "../../../formats/memory-source.ts";
import { ConfigFields } from "../../../model/architectures/config-fields.ts";
import { type Tokenizer, createTokenizer } from "../../../model/tokenizer.ts";
import { dataFile } from "../../support/data-folder.ts";
import { openTinyGguf, openTinyHuggingFace } from "../../support/pack-to-memory.ts";
import { tinyModel } from "../../support/tiny-models.ts";

const build = (metadata: Record<string, unknown>) => tokenizerOfGguf(new ConfigFields("m.gguf", metadata));
const load = (metadata: Record<string, unknown>): Tokenizer => createTokenizer(JSON.parse(new TextDecoder().decode(build(metadata).tokenizer!.json)));

async function published(name: string): Promise<{ tokenizer: Tokenizer; vectors: { text: string; ids: number[] }[] }> {
  const at = (suffix: string): string | null => dataFile(`tokenizers/gguf-vocab/ggml-vocab-${name}.gguf${suffix}`);
  const bytes = at("") === null ? gunzipSync(readFileSync(at(".gz")!)) : readFileSync(at("")!);
  const header = await readGgufHeader(new MemorySource(new Map([["m.gguf", new Uint8Array(bytes)]])), "m.gguf");
  const texts = readFileSync(at(".inp")!, "utf8").split("\n__ggml_vocab_test__\n");
  const lines = readFileSync(at(".out")!, "utf8").split("\n");
  const vectors = texts.map((text, i) => ({ text, ids: lines[i]!.split(" ").filter((w) => w !== "").map(Number) }));
  return { tokenizer: load(header.metadata), vectors };
}

describe.each(["gpt-2", "llama-spm", "refact", "starcoder"])("%s", (name) => {
  const absent = dataFile(`tokenizers/gguf-vocab/ggml-vocab-${name}.gguf.inp`) === null;
  it.skipIf(absent)("gives the published ids and the text back, and any text back (skipped where the data folder is absent)", async () => {
    const { tokenizer, vectors } = await published(name);
    expect(vectors.length).toBe(47);
    for (const { text, ids } of vectors) {
      expect(tokenizer.encodeText(text), JSON.stringify(text)).toEqual(ids);
      expect(tokenizer.decode(ids)).toBe(text);
    }
    // U+FDD0 is the mark by which the tokenizer keeps control tokens out of user text; U+2581 is SentencePiece's space.
    const text = fc.string({ unit: "grapheme", maxLength: 40 }).filter((t) => !/[\uFDD0\u2581]/.test(t));
    fc.assert(fc.property(text, (t) => { expect(tokenizer.decode(tokenizer.encodeText(t))).toBe(t); }), { numRuns: 200 });
  });
});

const CHARACTERS = ["1", "2", "'", "S", "s", "a", "\u0120"];
const PAIRS = { "S a": "Sa", "1 2": "12", "' S": "'S", "' s": "'s" };
const SMALL = {
  "tokenizer.ggml.model": "gpt2",
  "tokenizer.ggml.pre": "gpt-2",
  "tokenizer.ggml.tokens": [...CHARACTERS, ...Object.values(PAIRS), "<end>", "<own>"],
  "tokenizer.ggml.token_type": [...Array<number>(11).fill(1), 3, 4],
  "tokenizer.ggml.merges": Object.keys(PAIRS),
  "tokenizer.ggml.eos_token_id": 11,
};

describe("small vocabularies", () => {
  const pieces = (t: Tokenizer, text: string): (string | undefined)[] => t.encodeText(text).map((id) => t.tokenOf(id));

  it("pre-tokenizers differ as they should: digits one by one, contractions in capitals", () => {
    const with_ = (pre: string): Tokenizer => load({ ...SMALL, "tokenizer.ggml.pre": pre });
    expect(pieces(with_("gpt-2"), "a's12")).toEqual(["a", "'s", "12"]);
    expect(pieces(with_("gpt-2"), "a'S")).toEqual(["a", "'", "S"]);
    expect(pieces(with_("olmo"), "a12")).toEqual(["a", "12"]);
    expect(pieces(with_("qwen2"), "a12")).toEqual(["a", "1", "2"]);
    expect(pieces(with_("qwen2"), "a'Sa")).toEqual(["a", "'S", "a"]);
  });

  it("control tokens stay text in user text, user-defined tokens do not", () => {
    const t = load(SMALL);
    expect(t.encodeTemplate("a<end>")).toEqual([5, 11]);
    expect(t.encodeText("a<own>")).toEqual([5, 12]);
    expect(t.encodeText("<end>")).not.toContain(11);
    expect([t.isControl(11), t.isControl(12)]).toEqual([true, false]);
  });

  it("BOS is added by default for SentencePiece, not for byte-level BPE, and as the file says", () => {
    const spm = { "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a"], "tokenizer.ggml.scores": [0, 0, 0, -1], "tokenizer.ggml.token_type": [2, 3, 3, 1], "tokenizer.ggml.bos_token_id": 1 };
    expect(build(spm).bosTokenId).toBe(1);
    expect(build({ ...spm, "tokenizer.ggml.add_bos_token": false }).bosTokenId).toBe(null);
    expect(build({ ...SMALL, "tokenizer.ggml.bos_token_id": 11 })).toMatchObject({ bosTokenId: null, tokenizer: { addBos: false, bosToken: "<end>" } });
    expect(build({ ...SMALL, "tokenizer.ggml.bos_token_id": 11, "tokenizer.ggml.add_bos_token": true }).bosTokenId).toBe(11);
  });

  it("a file without tokenizer, or without the pre-tokenizer's name, says so", () => {
    expect(build({})).toMatchObject({ tokenizer: null, warnings: [expect.stringContaining("token ids only")] });
    const { "tokenizer.ggml.pre": _, ...unnamed } = SMALL;
    expect(build(unnamed).warnings).toEqual([expect.stringContaining("GPT-2's is used")]);
  });

  it.each([
    [{ "tokenizer.ggml.model": "bert" }, /tokenizer\.ggml\.model = "bert".*expected "gpt2" or "llama"/],
    [{ ...SMALL, "tokenizer.ggml.pre": "tekken" }, /tokenizer\.ggml\.pre = "tekken".*gpt-2, olmo, qwen2/],
    [{ ...SMALL, "tokenizer.ggml.tokens": [1, 2] }, /tokenizer\.ggml\.tokens = \[1,2\], expected a list of strings/],
    [{ ...SMALL, "tokenizer.ggml.token_type": [1] }, /1 entries in tokenizer\.ggml\.token_type for 13 tokens/],
    [{ ...SMALL, "tokenizer.ggml.eos_token_id": 13 }, /eos_token_id = 13, but there are 13 tokens/],
    [{ ...SMALL, "tokenizer.ggml.merges": ["ab"] }, /merge "ab", expected two pieces/],
  ])("refuses %#", (metadata, message) => {
    expect(() => build(metadata)).toThrow(message);
  });
});

it("a tiny model has the same tokenizer in both forms", async () => {
  const model = tinyModel("qwen3_moe", 1);
  const [folder, file] = [await openTinyHuggingFace(model), await openTinyGguf(model)].map((c) => ({ ...c.tokenizer!, json: createTokenizer(JSON.parse(new TextDecoder().decode(c.tokenizer!.json))) }));
  const text = "Hello, World! 12 <|endoftext|> x";
  expect(folder!.json.encodeText(text)).toEqual(file!.json.encodeText(text));
  expect(file!.json.decode(file!.json.encodeText(text))).toBe(text);
  for (const key of ["chatTemplate", "eosToken", "addBos"] as const) expect(file![key]).toEqual(folder![key]);
});
