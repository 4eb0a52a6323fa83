// One token on its own: text where its bytes are whole characters, `bytes:` where not, for byte-level BPE and for SentencePiece.

import { describe, expect, it } from "vitest";
import type { Tokenizer } from "../../../model/tokenizer.ts";
import { createTokenizer } from "../../../model/tokenizer.ts";
import { completionLogprobs, textLength } from "../../../worker/logprobs.ts";
import { tokenBytes, tokenText } from "../../../worker/token-text.ts";
import { tinyTokenizerJson } from "../../support/tiny-tokenizer.ts";

/** A vocabulary given as raw token strings, decoded as byte-level BPE would. */
function withTokens(tokens: readonly string[], decoded: readonly string[], control: readonly number[] = []): Tokenizer {
  const refuse = (): never => {
    throw new Error("not used here");
  };
  return {
    vocabSize: tokens.length, encodeText: refuse, encodeTemplate: refuse, protect: refuse, unprotect: refuse, restoreMarks: refuse, idOf: refuse, stream: refuse,
    decode: (ids) => ids.map((id) => decoded[id]).join(""),
    tokenOf: (id) => tokens[id], isControl: (id) => control.includes(id),
  };
}

describe("token text", () => {
  // "ä½ł" is 你 (e4 bd a0) in GPT-2's byte alphabet; "ä½" is its first two bytes.
  const byteLevel = withTokens(["Ġhello", "ä½ł", "ä½", "<|end|>"], [" hello", "你", "\uFFFD", ""], [3]);
  it.each([
    [0, " hello", [32, 104, 101, 108, 108, 111]],
    [1, "你", [0xe4, 0xbd, 0xa0]],
    [2, "bytes:\\xe4\\xbd", [0xe4, 0xbd]],
    [3, "<|end|>", [..."<|end|>"].map((c) => c.charCodeAt(0))],
  ])("byte-level token %i is %j", (id, text, bytes) => {
    expect(tokenText(byteLevel, id)).toBe(text);
    expect(tokenBytes(byteLevel, id)).toEqual(bytes);
  });

  const sentencePiece = withTokens(["▁the", "<0xE4>", "er"], ["the", "\uFFFD", "er"]);
  it.each([[0, " the"], [1, "bytes:\\xe4"], [2, "er"]])("SentencePiece token %i is %j", (id, text) => {
    expect(tokenText(sentencePiece, id)).toBe(text);
  });

  it("places tokens by the text before them, and control tokens nowhere", () => {
    const tokens = [3, 0, 1].map((id) => ({ id, logprob: -1, top: [] }));
    expect(completionLogprobs(byteLevel, tokens, 10).text_offset).toEqual([10, 10, 16]);
    expect(textLength(byteLevel, tokens)).toBe(7);
  });

  it("agrees with the real tokenizer on every token of the tiny vocabulary", () => {
    const tokenizer = createTokenizer(tinyTokenizerJson(97));
    for (let id = 2; id < 97; id++) expect(tokenText(tokenizer, id)).toBe(tokenizer.decode([id]));
    expect(tokenText(tokenizer, 0)).toBe("<|endoftext|>");
  });
});
