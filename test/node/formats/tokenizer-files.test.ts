// Tokenizers of folders without tokenizer.json, the parsers of their files against broken bytes, and merges taken out that never happen.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { openHuggingFace } from "../../../formats/huggingface.ts";
import { MemorySource } from "../../../formats/memory-source.ts";
import { PRE_TOKENIZERS } from "../../../formats/pre-tokenizers.ts";
import { TOKEN_TYPES, byteLevelDocument, sentencePieceDocument } from "../../../formats/tokenizer-document.ts";
import { buildTokenizer } from "../../../formats/tokenizer-files.ts";
import { prunedMerges, withPrunedMerges } from "../../../formats/tokenizer-merges.ts";
import { readSentencePiece, sentencePieceFileDocument } from "../../../formats/tokenizer-sentencepiece.ts";
import { mergesFromRanks, readRanks } from "../../../formats/tokenizer-tiktoken.ts";
import { BYTE_ALPHABET } from "../../../model/byte-alphabet.ts";
import { MergeRanks } from "../../../model/merge-ranks.ts";
import { type Tokenizer, createTokenizer } from "../../../model/tokenizer.ts";
import { tinyModel } from "../../support/tiny-models.ts";
import { type Piece, bytesField, sentencePieceFile } from "../../support/sentencepiece-writer.ts";

const utf8 = (text: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(text).slice();
const sourceOf = (files: Readonly<Record<string, string | Uint8Array<ArrayBuffer>>>): MemorySource =>
  new MemorySource(new Map(Object.entries(files).map(([name, content]) => [name, typeof content === "string" ? utf8(content) : content])));
const EMPTY = sourceOf({});

const BYTES: readonly Piece[] = Array.from({ length: 256 }, (_, b): Piece => [`<0x${b.toString(16).toUpperCase().padStart(2, "0")}>`, 0, TOKEN_TYPES.byte]);
const PIECES: readonly Piece[] = [
  ["<unk>", 0, TOKEN_TYPES.unknown], ["<s>", 0, TOKEN_TYPES.control], ["</s>", 0, TOKEN_TYPES.control], ...BYTES,
  ["ab", -1, 1], ["\u2581a", -2, 1], ["\u2581ab", -3, 1], ["<own>", 0, TOKEN_TYPES.userDefined], ["ba", -0.5, TOKEN_TYPES.unused], ["a", -4, 1], ["b", -5, 1], ["\u2581", -6, 1],
];
const ranksFile = (tokens: readonly string[]): string => tokens.map((token, rank) => `${btoa(token)} ${rank}\n`).join("");
const ALL_BYTES = Array.from({ length: 256 }, (_, b) => String.fromCharCode(b));

async function load(files: Readonly<Record<string, string | Uint8Array<ArrayBuffer>>>, settings: Readonly<Record<string, unknown>> = {}): Promise<Tokenizer> {
  return createTokenizer(JSON.parse(new TextDecoder().decode((await buildTokenizer(sourceOf(files), settings))!.json)));
}
const names = (t: Tokenizer, ids: readonly number[]): (string | undefined)[] => ids.map((id) => t.tokenOf(id));

describe("tokenizer.model of SentencePiece", () => {
  const file = { "tokenizer.model": sentencePieceFile(PIECES) };

  it("merges by score, falls back to bytes, keeps control tokens out of text", async () => {
    const t = await load(file);
    expect(names(t, t.encodeText("ab ab"))).toEqual(["\u2581ab", "\u2581ab"]);
    expect(names(t, t.encodeText("aé"))).toEqual(["\u2581a", "<0xC3>", "<0xA9>"]);
    expect(t.decode(t.encodeText("a é<s>b"))).toBe("a é<s>b");
    expect(t.encodeTemplate("<s>a")).toEqual([1, t.idOf("\u2581a")]);
    expect(t.encodeText("<s>a</s><0x0A>")).not.toEqual(expect.arrayContaining([1]));
    expect(t.encodeText("<own>")).toEqual([t.idOf("<own>")]);
    // An unused piece is never made, although its score would be the best.
    expect(names(t, t.encodeText("bba"))).not.toContain("ba");
  });

  it("tells the texts of bytes from bytes: what a user writes is text", async () => {
    const t = await load(file);
    expect(t.decode(t.encodeText("<0x0A>"))).toBe("<0x0A>");
    expect(t.encodeText("<0x0A>")).not.toContain(t.idOf("<0x0A>"));
  });

  it("space in front: of every run of text, of the first only (legacy: false), or nowhere", async () => {
    const first = (t: Tokenizer): (string | undefined)[] => names(t, t.encodeTemplate("a</s>a"));
    expect(first(await load(file))).toEqual(["\u2581a", "</s>", "\u2581a"]);
    expect(first(await load(file, { legacy: false }))).toEqual(["\u2581a", "</s>", "a"]);
    expect(first(await load({ "tokenizer.model": sentencePieceFile(PIECES, { dummyPrefix: false }) }))).toEqual(["a", "</s>", "a"]);
  });

  it("takes added tokens of tokenizer_config.json, with what they swallow, and of added_tokens.json", async () => {
    const n = PIECES.length;
    const settings = { added_tokens_decoder: { 1: { content: "<s>", special: true }, [n]: { content: "<|end|>", special: true, rstrip: true }, [n + 1]: { content: "<tool>", special: false } } };
    const t = await load(file, settings);
    expect(t.encodeTemplate("<|end|>\n a")).toEqual([n, t.idOf("\u2581a")]);
    expect([t.isControl(n), t.isControl(n + 1)]).toEqual([true, false]);
    expect((await load({ ...file, "added_tokens.json": `{"<|x|>": ${n}}` })).encodeTemplate("<|x|>")).toEqual([n]);
    await expect(load(file, { added_tokens_decoder: { [n + 1]: { content: "<gap>" } } })).rejects.toThrow(`has ${n} pieces and tokenizer_config.json adds the id ${n + 1}, expected ids without a gap`);
    await expect(load(file, { added_tokens_decoder: { x: { content: "<gap>" } } })).rejects.toThrow(/adds the token "<gap>" with the id null/);
  });

  it.each([
    [sentencePieceFile(PIECES, { modelType: 1 }), /type unigram, which this version cannot build; expected BPE/],
    [sentencePieceFile(PIECES, { modelType: 9 }), /type 9/],
    [sentencePieceFile(PIECES, { charsMap: 20 }), /normalises text \(identity, 20 bytes of rules, extra spaces kept\)/],
    [sentencePieceFile(PIECES, { removeSpaces: true }), /extra spaces removed/],
    [sentencePieceFile([["a", 0, 7]]), /piece 0 at byte 2 has the text "a", score 0 and type 7/],
    [sentencePieceFile([["a", Infinity, 1]]), /score Infinity/],
    [new Uint8Array([8 * 1 + 2, 200, 1]), /a field of 200 bytes with 0 left at byte 3/],
    [new Uint8Array([8 * 1 + 3]), /wire type 3 at byte 1/],
    [new Uint8Array([0, 0]), /field number 0/],
    [new Uint8Array([255, 255]), /the file ends inside a number/],
    [new Uint8Array(12).fill(255), /longer than ten bytes/],
    [new Uint8Array(0), /holds no pieces/],
    [new Uint8Array([...bytesField(1, bytesField(1, [0xff]))]), /the text at byte 4 is not UTF-8/],
  ])("refuses broken files: %#", async (bytes, message) => {
    await expect(load({ "tokenizer.model": bytes })).rejects.toThrow(message);
  });

  it("two pieces of one text are refused", async () => {
    await expect(load({ "tokenizer.model": sentencePieceFile([...PIECES, ["ab", -9, 1]]) })).rejects.toThrow(/has the token "ab" twice, with the ids 259 and 267/);
  });

  it("any bytes give a model or one sentence", () => {
    const whole = sentencePieceFile(PIECES);
    fc.assert(fc.property(fc.oneof(
      fc.uint8Array({ maxLength: 200 }),
      fc.nat(whole.length).map((n) => whole.slice(0, n)),
      fc.tuple(fc.nat(whole.length - 1), fc.nat(255)).map(([at, value]) => { const copy = whole.slice(); copy[at] = value; return copy; }),
    ), (bytes) => {
      try {
        sentencePieceFileDocument(EMPTY, "m", readSentencePiece(EMPTY, "m", bytes), [], true);
      } catch (error) {
        expect((error as Error).name).toMatch(/^(SourceError|ModelError)$/);
        expect((error as Error).message).toMatch(/\.$/);
      }
    }), { numRuns: 3000 });
  });
});

it("a model folder without tokenizer.json gets the tokenizer that tokenizer.model makes, and says so where there is none", async () => {
  const files = tinyModel("qwen3_moe", 1).huggingFaceFiles();
  files.delete("tokenizer.json");
  expect((await openHuggingFace(new MemorySource(files), "m")).warnings).toContainEqual(expect.stringMatching(/no tokenizer\.json, tokenizer\.model.*token ids only/));
  files.set("tokenizer.model", sentencePieceFile(PIECES.filter(([, , type]) => type !== TOKEN_TYPES.byte), { byteFallback: false }));
  files.set("tokenizer_config.json", utf8(JSON.stringify({ bos_token: "<s>", eos_token: "</s>", chat_template: "x" })));
  const { tokenizer, config } = await openHuggingFace(new MemorySource(files), "m");
  expect(tokenizer).toMatchObject({ kind: "SentencePiece BPE (tokenizer.model)", addBos: true, bosToken: "<s>", eosToken: "</s>", chatTemplate: "x" });
  expect([config.bosTokenId, config.eosTokenIds]).toEqual([1, [0, 2]]); // 0 is what the tiny generation_config.json names
  const t = createTokenizer(JSON.parse(new TextDecoder().decode(tokenizer!.json)));
  expect(names(t, t.encodeText("ab a"))).toEqual(["\u2581ab", "\u2581a"]);
});

describe("tiktoken's rank files", () => {
  it("refuses lines that are none, naming them", () => {
    const read = (text: string) => () => readRanks(EMPTY, "r", utf8(text));
    expect(read("QQ== 0\nQg== 2\n")).toThrow(/line 2 is "Qg== 2", expected a new token in base64, a space, and the rank 1/);
    expect(read("QQ== 0\nQQ== 1\n")).toThrow(/line 2 is "QQ== 1"/);
    expect(read("QQ== 0\n%% 1\n")).toThrow(/line 2/);
    expect(read("QQ== 0\nQQQQQ 1\n")).toThrow(/line 2/);
    expect(read("QQ== 0\n")).toThrow(/has no token for the byte 0, expected all 256/);
  });

  it("refuses a number of ranks it does not know the pre-tokenizer of", async () => {
    await expect(load({ "qwen.tiktoken": ranksFile(ALL_BYTES) })).rejects.toThrow(/qwen\.tiktoken has 256 ranks, .*expected 50256 \(gpt-2\), .*199998 \(o200k_harmony\)/);
    await expect(load({ "tokenizer.model": ranksFile(ALL_BYTES) })).rejects.toThrow(/tokenizer\.model has 256 ranks/);
  });

  it("one merge per token does what tiktoken does: join the neighbours whose join has the lowest rank", () => {
    // tiktoken's own rule, without merges.
    const byRank = (tokens: readonly string[], text: string): string[] => {
      const ranks = new Map(tokens.map((token, rank) => [token, rank]));
      const parts = [...text];
      for (;;) {
        let best = Infinity;
        let at = -1;
        parts.forEach((part, i) => {
          const rank = i + 1 < parts.length ? ranks.get(part + parts[i + 1]!) ?? Infinity : Infinity;
          if (rank < best) [best, at] = [rank, i];
        });
        if (at < 0) return parts;
        parts.splice(at, 2, parts[at]! + parts[at + 1]!);
      }
    };
    const letters = fc.constantFrom("a", "b", "c");
    const word = fc.array(letters, { minLength: 2, maxLength: 5 }).map((w) => w.join(""));
    fc.assert(fc.property(fc.uniqueArray(word, { maxLength: 25 }), fc.array(letters, { maxLength: 12 }), (words, text) => {
      // In any order, also one no training would give: a token may come before its parts.
      const all = ["a", "b", "c", ...words, ...BYTE_ALPHABET.filter((c) => !"abc".includes(c))];
      const pre = { regexes: [], nfc: false, wholePieces: false, addBos: false };
      const t = createTokenizer(byteLevelDocument({ tokens: all, types: all.map(() => 1), where: "t" }, mergesFromRanks(all), pre));
      expect(names(t, t.encodeText(text.join("")))).toEqual(byRank(all, text.join("")));
    }), { numRuns: 1500 });
  });
});

describe("vocab.json with merges.txt", () => {
  const tokens = [...BYTE_ALPHABET, "ab", "<|end|>"];
  const files = { "vocab.json": JSON.stringify(Object.fromEntries(tokens.map((token, id) => [token, id]))), "merges.txt": "#version: 0.2\na b\n" };
  const settings = { tokenizer_class: "Qwen2Tokenizer", added_tokens_decoder: { 257: { content: "<|end|>", special: true } } };

  it("needs a class whose pre-tokenizer is known", async () => {
    const t = await load(files, settings);
    expect(t.encodeText("ab")).toEqual([256]);
    expect(t.encodeTemplate("ab<|end|>")).toEqual([256, 257]);
    expect(t.encodeText("<|end|>")).not.toContain(257);
    await expect(load(files, {})).rejects.toThrow(/tokenizer_class = "none"; expected one of GPT2Tokenizer/);
  });

  it("refuses ids given twice, holes, and merges that are none", async () => {
    await expect(load({ ...files, "vocab.json": "{\"a\":0,\"b\":0}" }, settings)).rejects.toThrow(/gives the token "b" the id 0/);
    await expect(load({ ...files, "vocab.json": "{\"a\":0,\"b\":5}" }, { tokenizer_class: "GPT2Tokenizer" })).rejects.toThrow(/no token with the id 1, but 6 ids/);
    await expect(load({ ...files, "merges.txt": "a b c\n" }, settings)).rejects.toThrow(/merges\.txt, line 1 is "a b c"/);
  });

  it("a folder without any of these has none", async () => {
    expect(await buildTokenizer(EMPTY, {})).toBe(null);
    expect(await buildTokenizer(sourceOf({ "vocab.json": "{}" }), {})).toBe(null);
  });
});

describe("merges that never happen", () => {
  const letters = fc.constantFrom("a", "b");
  const piece = fc.array(letters, { minLength: 1, maxLength: 4 }).map((w) => w.join(""));
  /** Every way to split some words into others, as converters list them, but in any order. */
  const lists = fc.uniqueArray(piece, { maxLength: 12 }).chain((words) => {
    const known = new Set(["a", "b", ...words]);
    const splits = words.flatMap((word) => Array.from({ length: word.length - 1 }, (_, i): [string, string] => [word.slice(0, i + 1), word.slice(i + 1)]));
    const all = splits.filter(([l, r]) => known.has(l) && known.has(r));
    return fc.shuffledSubarray(all, { minLength: Math.ceil(0.8 * all.length) });
  });
  const document = (merges: readonly (readonly [string, string])[]): object => {
    const tokens = [...new Set([...BYTE_ALPHABET, ...merges.flatMap(([l, r]) => [l, r, l + r])])];
    return {
      added_tokens: [], normalizer: null, pre_tokenizer: null, post_processor: null, decoder: null,
      model: { type: "BPE", vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges },
    };
  };

  it("can be left out of any list without changing any text", () => {
    let nPruned = 0;
    fc.assert(fc.property(lists, fc.array(fc.array(letters, { maxLength: 14 }), { minLength: 1, maxLength: 8 }), (merges, texts) => {
      const pruned = prunedMerges(merges);
      nPruned += merges.length - pruned.length;
      const [all, less] = [createTokenizer(document(merges)), createTokenizer(document(pruned))];
      for (const text of texts) expect(names(less, less.encodeText(text.join("")))).toEqual(names(all, all.encodeText(text.join(""))));
    }), { numRuns: 2000 });
    expect(nPruned).toBeGreaterThan(500);
  });

  it("a published tokenizer.json stays as it is where all can happen, and where it is not understood", () => {
    expect(withPrunedMerges(document([["a", "b"]]))).toBe(null);
    expect(withPrunedMerges(document([["a", "b"], ["ab", "c"], ["b", "c"], ["a", "bc"]]))).toMatchObject({ model: { merges: ["a b", "ab c", "b c"] } });
    for (const broken of [null, {}, { model: { type: "BPE", merges: [1] } }, { model: { type: "Unigram" } }]) expect(withPrunedMerges(broken)).toBe(null);
  });

  it("SentencePiece lists every way to split a piece; those left give the same ids", () => {
    const tokens = ["a", "b", "ab", "ba", "aba", "abab"];
    const built = sentencePieceDocument({ tokens, types: tokens.map(() => 1), where: "t" }, { scores: [0, 0, -1, -2, -3, -4], unknownId: null, byteFallback: false, spacePrefix: "none" }) as { model: { merges: string[] } };
    expect(built.model.merges).toEqual(["a b", "b a", "ab a", "ab ab"]);
  });
});

it("ranks in typed arrays are those of the library's map, whatever the pieces", () => {
  const pieces = fc.string({ unit: fc.constantFrom("a", ",", "\"", "\\", "]", "[", "é", "🙂", "\n"), minLength: 1, maxLength: 4 });
  fc.assert(fc.property(fc.uniqueArray(pieces, { minLength: 2, maxLength: 20 }), fc.array(fc.tuple(fc.nat(19), fc.nat(19)), { maxLength: 60 }), fc.nat(5), (all, pairs, nUnknown) => {
    const ids = new Map(all.slice(nUnknown).map((token, id) => [token, id]));
    const merges = pairs.filter(([l, r]) => l < all.length && r < all.length).map(([l, r]): [string, string] => [all[l]!, all[r]!]);
    const plain = new Map(merges.map((merge, rank) => [JSON.stringify(merge), rank]));
    const packed = new MergeRanks(ids, ids.size, merges, new Map());
    for (const l of all) for (const r of all) expect(packed.get(JSON.stringify([l, r]))).toBe(plain.get(JSON.stringify([l, r])));
  }), { numRuns: 500 });
  const banned = new MergeRanks(new Map([["a", 0], ["b", 1]]), 2, ["a b", "b a"], new Map([["ab", 5]]));
  expect([banned.get("[\"a\",\"b\"]"), banned.get("[\"b\",\"a\"]")]).toEqual([undefined, 1]);
});

it("composes characters where the family does, and only there", () => {
  const composing = Object.entries(PRE_TOKENIZERS).filter(([, pre]) => {
    const t = createTokenizer(byteLevelDocument({ tokens: BYTE_ALPHABET, types: BYTE_ALPHABET.map(() => 1), where: "t" }, [], pre));
    return t.decode(t.encodeText("e\u0301")) === "\u00e9";
  });
  expect(composing.map(([name]) => name)).toEqual(["olmo", "qwen2", "deepseek-r1-qwen"]);
});

it("every pre-tokenizer compiles and keeps all of a text", () => {
  const tokens = [...BYTE_ALPHABET];
  for (const pre of Object.values(PRE_TOKENIZERS)) {
    const t = createTokenizer(byteLevelDocument({ tokens, types: tokens.map(() => 1), where: "t" }, [], pre));
    fc.assert(fc.property(fc.string({ unit: "grapheme", maxLength: 30 }), (text) => {
      const plain = text.replaceAll("\uFDD0", "");
      expect(t.decode(t.encodeText(text))).toBe(pre.nfc ? plain.normalize("NFC") : plain);
    }), { numRuns: 100 });
  }
});
