// Tokenizers built from GGUF metadata: small vocabularies that tell one pre-tokenizer from another, defaults, and what is refused.
// Published vectors: tokenizer-vectors.test.ts.

import { describe, expect, it } from "vitest";
import { tokenizerOfGguf } from "../../../formats/gguf-tokenizer.ts";
import { ConfigFields } from "../../../model/architectures/config-fields.ts";
import { type Tokenizer, createTokenizer } from "../../../model/tokenizer.ts";
import { openTinyGguf, openTinyHuggingFace } from "../../support/pack-to-memory.ts";
import { tinyModel } from "../../support/tiny-models.ts";

const build = (metadata: Record<string, unknown>) => tokenizerOfGguf(new ConfigFields("m.gguf", metadata));
const load = (metadata: Record<string, unknown>): Tokenizer => createTokenizer(JSON.parse(new TextDecoder().decode(build(metadata).tokenizer!.json)));

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
    // Up to three digits are one piece, so they may merge; a whole piece that is a token needs no merge.
    expect(pieces(with_("llama-bpe"), "1212")).toEqual(["12", "1", "2"]);
    expect(pieces(with_("gpt-4o"), "aS's")).toEqual(["a", "S", "'s"]);
    expect(pieces(with_("deepseek-v3"), "a12")).toEqual(["a", "12"]);
    expect(pieces(with_("deepseek-coder"), "a12")).toEqual(["a", "1", "2"]);
    expect(pieces(with_("deepseek-llm"), "a12")).toEqual(["a", "12"]);
    const whole = { ...SMALL, "tokenizer.ggml.merges": [], "tokenizer.ggml.pre": "llama-bpe" };
    expect(pieces(load(whole), "12")).toEqual(["12"]);
    expect(pieces(load({ ...whole, "tokenizer.ggml.pre": "dbrx" }), "12")).toEqual(["1", "2"]);
  });

  it("control tokens stay text in user text, user-defined tokens do not", () => {
    const t = load(SMALL);
    expect(t.encodeTemplate("a<end>")).toEqual([5, 11]);
    expect(t.encodeText("a<own>")).toEqual([5, 12]);
    expect(t.encodeText("<end>")).not.toContain(11);
    expect([t.isControl(11), t.isControl(12)]).toEqual([true, false]);
    // Not by merging either, nor as a whole piece.
    const spelled = { ...SMALL, "tokenizer.ggml.tokens": [...CHARACTERS, ...Object.values(PAIRS), "aa", "<own>"], "tokenizer.ggml.merges": ["a a"] };
    for (const pre of ["gpt-2", "llama-bpe"]) {
      const mergeable = load({ ...spelled, "tokenizer.ggml.pre": pre });
      expect(pieces(mergeable, "aa")).toEqual(["a", "a"]);
      expect(mergeable.encodeTemplate("aa")).toEqual([11]);
    }
  });

  it("role tokens of Phi-3 and PhiMoE swallow the white space after them, others do not", () => {
    const phi = { "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["<unk>", "<s>", "<|user|>", "\u2581", "a"], "tokenizer.ggml.scores": [0, 0, 0, -1, -2], "tokenizer.ggml.token_type": [2, 3, 3, 1, 1] };
    const ids = (architecture: string, text: string): number[] => load({ ...phi, "general.architecture": architecture }).encodeTemplate(text);
    expect(ids("phimoe", "<|user|>\n a")).toEqual([2, 3, 4]);
    expect(ids("llama", "<|user|> a")).toEqual([2, 3, 3, 4]);
    expect(ids("phimoe", "<s> a")).toEqual([1, 3, 3, 4]);
  });

  it("empty tokens get names of their own; a token twice is refused", () => {
    const tokens = [...SMALL["tokenizer.ggml.tokens"]];
    tokens.splice(7, 2, "", "");
    expect(load({ ...SMALL, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": [] }).tokenOf(8)).toBe("[EMPTY_8]");
    tokens.splice(7, 2, "x", "x");
    expect(() => build({ ...SMALL, "tokenizer.ggml.tokens": tokens })).toThrow(/m\.gguf, tokenizer\.ggml\.tokens has the token "x" twice, with the ids 7 and 8\./);
  });

  it("BOS is added by default for SentencePiece, not for byte-level BPE, and as the file says", () => {
    const spm = { "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", "a"], "tokenizer.ggml.scores": [0, 0, 0, -1], "tokenizer.ggml.token_type": [2, 3, 3, 1], "tokenizer.ggml.bos_token_id": 1 };
    expect(build(spm).bosTokenId).toBe(1);
    expect(build({ ...spm, "tokenizer.ggml.add_bos_token": false }).bosTokenId).toBe(null);
    expect(build({ ...SMALL, "tokenizer.ggml.bos_token_id": 11 })).toMatchObject({ bosTokenId: null, tokenizer: { addBos: false, bosToken: "<end>" } });
    expect(build({ ...SMALL, "tokenizer.ggml.bos_token_id": 11, "tokenizer.ggml.add_bos_token": true }).bosTokenId).toBe(11);
    expect(build({ ...SMALL, "tokenizer.ggml.bos_token_id": 11, "tokenizer.ggml.pre": "llama-bpe" }).bosTokenId).toBe(11);
  });

  it("knows the control tokens that end a text: all of a turn's ends, and in Harmony not the end of one message", () => {
    const ends = (tokens: readonly string[], type = 3): readonly number[] =>
      build({ "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": tokens.map(() => type), "tokenizer.ggml.merges": [] }).endTokenIds;
    expect(ends(["a", "<|endoftext|>", "<|im_start|>", "<|im_end|>"])).toEqual([1, 3]);
    expect(ends(["<|system|>", "<|end|>", "<|endoftext|>"])).toEqual([1, 2]);
    expect(ends(["<|endoftext|>", "<|return|>", "<|end|>", "<|call|>", "<|start|>"])).toEqual([0, 1, 3]);
    expect(ends(["<|im_end|>"], 1)).toEqual([]);
  });

  it("a file without tokenizer, or without the pre-tokenizer's name, says so", () => {
    expect(build({})).toMatchObject({ tokenizer: null, warnings: [expect.stringContaining("token ids only")] });
    const { "tokenizer.ggml.pre": _, ...unnamed } = SMALL;
    expect(build(unnamed).warnings).toEqual([expect.stringContaining("GPT-2's is used")]);
  });

  it.each([
    [{ "tokenizer.ggml.model": "bert" }, /tokenizer\.ggml\.model = "bert".*expected "gpt2" or "llama"/],
    [{ ...SMALL, "tokenizer.ggml.pre": "tekken" }, /tokenizer\.ggml\.pre = "tekken".*gpt-2, olmo, refact, starcoder, qwen2/],
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
