// Streamed text of byte-level and of byte-fallback vocabularies: characters and emoji that span tokens, any cut of any bytes, ids at random.
// What is asked everywhere: the pieces put together are the whole text, and no piece shows half a character.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { byteLevelDocument, sentencePieceDocument, TOKEN_TYPES } from "../../../formats/tokenizer-document.ts";
import { PRE_TOKENIZERS } from "../../../formats/pre-tokenizers.ts";
import { BYTE_ALPHABET } from "../../../model/byte-alphabet.ts";
import { type Tokenizer, createTokenizer } from "../../../model/tokenizer.ts";
import { tokenBytes } from "../../../worker/token-text.ts";

const letters = (text: string): string => Array.from(new TextEncoder().encode(text), (byte) => BYTE_ALPHABET[byte]!).join("");
/** Bytes, some pieces that end inside a character, whole words, a control and a user-defined token. */
const BYTE_LEVEL_TOKENS = [...BYTE_ALPHABET, letters(" é").slice(0, 2), letters("🙂").slice(0, 3), letters("日本"), letters("日本").slice(1, 4), letters(" the"), "<|end|>", "<own>"];
const byteLevel = createTokenizer(byteLevelDocument({
  tokens: BYTE_LEVEL_TOKENS, types: BYTE_LEVEL_TOKENS.map((token) => (token === "<|end|>" ? TOKEN_TYPES.control : token === "<own>" ? TOKEN_TYPES.userDefined : TOKEN_TYPES.normal)), where: "t",
}, [], PRE_TOKENIZERS["gpt-2"]!));

const SPM_TOKENS = ["<unk>", "<s>", "</s>", ...Array.from({ length: 256 }, (_, b) => `<0x${b.toString(16).toUpperCase().padStart(2, "0")}>`), "\u2581", "\u2581the", "a", "é", "\u2581\u2581", "<own>"];
const SPM_TYPES = SPM_TOKENS.map((token, id) => (id === 0 ? TOKEN_TYPES.unknown : id < 3 ? TOKEN_TYPES.control : id < 259 ? TOKEN_TYPES.byte : token === "<own>" ? TOKEN_TYPES.userDefined : TOKEN_TYPES.normal));
const spm = (spacePrefix: "each" | "first" | "none"): Tokenizer => createTokenizer(sentencePieceDocument({ tokens: SPM_TOKENS, types: SPM_TYPES, where: "t" },
  { scores: SPM_TOKENS.map((_, id) => -id), unknownId: 0, byteFallback: true, spacePrefix }));

const TOKENIZERS: readonly (readonly [string, Tokenizer, (byte: number) => number])[] = [
  ["byte-level", byteLevel, (byte) => byte],
  ["byte fallback", spm("each"), (byte) => byte + 3],
  ["byte fallback, a space at the beginning only", spm("first"), (byte) => byte + 3],
  ["byte fallback, no space in front", spm("none"), (byte) => byte + 3],
];

const FIRST_ONLY = TOKENIZERS[2]![1];
/** Where the space in front is added by Metaspace, a text that has one is not given another: its own is taken for the added one (as in transformers). */
const withoutOwnSpace = (tokenizer: Tokenizer, text: string): string => (tokenizer === FIRST_ONLY && text.startsWith(" ") ? text.slice(1) : text);

function streamed(tokenizer: Tokenizer, ids: readonly number[]): { pieces: string[]; last: string } {
  const stream = tokenizer.stream();
  return { pieces: ids.map((id) => stream.push(id)), last: stream.flush() };
}

describe.each(TOKENIZERS)("%s", (_, tokenizer, byteId) => {
  it.each(["é", "日本語", "🙂", "👩‍👩‍👧‍👦 ok", "👍🏽", "🇨🇭", "e\u0301", "a\uFFFDb", "\uFEFFa"])("%j byte by byte: each character when it is whole", (text) => {
    const ids = [...new TextEncoder().encode(text)].map(byteId);
    const { pieces, last } = streamed(tokenizer, ids);
    expect(pieces.join("") + last).toBe(tokenizer.decode(ids));
    expect(tokenizer.decode(ids)).toBe(text);
    // A U+FFFD that is really there may wait for what follows; half a character may never show.
    if (!text.includes("\uFFFD")) {
      expect(last).toBe("");
      expect(pieces.filter((piece) => piece !== "")).toEqual([...text]);
    }
  });

  it("any text, tokenised, streams as itself", () => {
    fc.assert(fc.property(fc.string({ unit: "grapheme", maxLength: 30 }).filter((t) => !/[\uFDD0\u2581]/.test(t)), (text) => {
      const ids = tokenizer.encodeText(text);
      const { pieces, last } = streamed(tokenizer, ids);
      expect(pieces.join("") + last).toBe(withoutOwnSpace(tokenizer, text));
      for (const piece of pieces) expect(piece.isWellFormed()).toBe(true);
      if (!text.includes("\uFFFD")) expect(pieces.join("")).not.toContain("\uFFFD");
    }), { numRuns: 500 });
  });

  it("ids at random, valid UTF-8 or not: the pieces are the whole, whatever comes first", () => {
    const id = fc.oneof(fc.nat(tokenizer.vocabSize + 3), fc.integer({ min: 0x80, max: 0xff }).map(byteId));
    fc.assert(fc.property(fc.array(id, { maxLength: 40 }), (ids) => {
      const { pieces, last } = streamed(tokenizer, ids);
      expect(pieces.join("") + last).toBe(tokenizer.decode(ids));
    }), { numRuns: 3000 });
  });

  it("bytes of single tokens are those of the text they are part of", () => {
    fc.assert(fc.property(fc.string({ unit: "grapheme", maxLength: 20 }).filter((t) => !/[\uFDD0\u2581]/.test(t)), (text) => {
      const bytes = tokenizer.encodeText(text).flatMap((id) => tokenBytes(tokenizer, id));
      const spaced = text !== "" && (tokenizer === TOKENIZERS[1]![1] || tokenizer === FIRST_ONLY);
      expect(new TextDecoder("utf-8", { ignoreBOM: true }).decode(new Uint8Array(bytes))).toBe((spaced ? " " : "") + withoutOwnSpace(tokenizer, text));
    }), { numRuns: 300 });
  });
});

describe("a text that continues another", () => {
  const run = (tokenizer: Tokenizer, before: readonly number[], ids: readonly number[]): string => {
    const stream = tokenizer.stream(before);
    return ids.map((id) => stream.push(id)).join("") + stream.flush();
  };

  it("keeps the space of its first word, which the first word of all has not", () => {
    const [tokenizer, the] = [spm("each"), SPM_TOKENS.indexOf("\u2581the")];
    expect(run(tokenizer, [], [the, the])).toBe("the the");
    expect(run(tokenizer, [the], [the, the])).toBe(" the the");
    expect(run(tokenizer, [1], [the])).toBe("the"); // nothing but BOS before
  });

  it("does not take half a character of the prompt for its own", () => {
    for (const [, tokenizer, byteId] of TOKENIZERS) {
      const [first, ...rest] = [...new TextEncoder().encode("🙂")].map(byteId);
      expect(run(tokenizer, [first!], rest)).toBe(tokenizer.decode(rest));
      expect(run(tokenizer, [first!, ...rest], [byteId(97)])).toBe("a");
    }
  });
});
