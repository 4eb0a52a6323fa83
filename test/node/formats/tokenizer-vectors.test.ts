// Tokenizers of every source against published vectors: llama.cpp's vocabulary tests (made with the original tokenizers) and
// tiktoken's test plans. Vectors without a vocabulary are listed by name, so that a new one is noticed.

import { readFileSync, readdirSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { tokenizerOfGguf } from "../../../formats/gguf-tokenizer.ts";
import { readGgufHeader } from "../../../formats/gguf.ts";
import { MemorySource } from "../../../formats/memory-source.ts";
import { PRE_TOKENIZERS } from "../../../formats/pre-tokenizers.ts";
import { TOKEN_TYPES, byteLevelDocument } from "../../../formats/tokenizer-document.ts";
import { readSentencePiece, sentencePieceFileDocument } from "../../../formats/tokenizer-sentencepiece.ts";
import { looksLikeRanks, readRanks, tiktokenDocument } from "../../../formats/tokenizer-tiktoken.ts";
import { ConfigFields } from "../../../model/architectures/config-fields.ts";
import { type Tokenizer, createTokenizer } from "../../../model/tokenizer.ts";
import { dataFile } from "../../support/data-folder.ts";

const SOURCE = new MemorySource(new Map());
const ABSENT = dataFile("tokenizers/gguf-vocab") === null;

/** A file of the data folder, unpacked. */
function bytesOf(name: string): Uint8Array {
  const plain = dataFile(name);
  return new Uint8Array(plain === null ? gunzipSync(readFileSync(dataFile(`${name}.gz`)!)) : readFileSync(plain));
}
const textOf = (name: string): string => new TextDecoder().decode(bytesOf(name));

interface Vector { readonly text: string; readonly ids: readonly number[] }

function vectorsOf(name: string): Vector[] {
  const texts = textOf(`tokenizers/gguf-vocab/ggml-vocab-${name}.gguf.inp`).split("\n__ggml_vocab_test__\n");
  const lines = textOf(`tokenizers/gguf-vocab/ggml-vocab-${name}.gguf.out`).split("\n");
  return texts.map((text, i) => ({ text, ids: lines[i]!.split(" ").filter((word) => word !== "").map(Number) }));
}

async function fromGguf(name: string): Promise<Tokenizer> {
  const header = await readGgufHeader(new MemorySource(new Map([["m.gguf", bytesOf(`tokenizers/gguf-vocab/ggml-vocab-${name}.gguf`)]])), "m.gguf");
  return createTokenizer(JSON.parse(new TextDecoder().decode(tokenizerOfGguf(new ConfigFields("m.gguf", header.metadata)).tokenizer!.json)));
}

const fromRanks = (name: string): Tokenizer => createTokenizer(tiktokenDocument(SOURCE, name, readRanks(SOURCE, name, bytesOf(name)), []).document);

/** Llama 3 as vocabulary and merges, the form of GPT-2's original files. */
function llama3(): Tokenizer {
  const vocabulary = JSON.parse(textOf("tokenizers/llama3/encoder.json")) as Record<string, number>;
  const tokens: string[] = [];
  for (const [token, id] of Object.entries(vocabulary)) tokens[id] = token;
  const merges = textOf("tokenizers/llama3/vocab.bpe").split("\n").filter((line) => line !== "" && !line.startsWith("#")).map((line) => line.split(" ") as [string, string]);
  return createTokenizer(byteLevelDocument({ tokens, types: tokens.map(() => TOKEN_TYPES.normal), where: "encoder.json" }, merges, PRE_TOKENIZERS["llama-bpe"]!));
}

/** Where the vocabulary of each set of vectors comes from. */
const VOCABULARIES: Readonly<Record<string, () => Promise<Tokenizer> | Tokenizer>> = {
  "deepseek-coder": () => fromGguf("deepseek-coder"),
  "deepseek-llm": () => fromGguf("deepseek-llm"),
  "deepseek-r1-qwen": () => fromRanks("tokenizers/qwen/qwen.tiktoken"),
  "gpt-2": () => fromGguf("gpt-2"),
  "llama-bpe": llama3,
  "llama-spm": () => fromGguf("llama-spm"),
  "phi-3": () => fromGguf("llama-spm"), // its first 32,000 tokens
  qwen2: () => fromRanks("tokenizers/qwen/qwen.tiktoken"),
  refact: () => fromGguf("refact"),
  starcoder: () => fromGguf("starcoder"),
};

describe.skipIf(ABSENT)("llama.cpp's vectors (skipped where the data folder is absent)", () => {
  it.each(Object.keys(VOCABULARIES))("%s: the published ids, the text back, and any text back", async (name) => {
    const tokenizer = await VOCABULARIES[name]!();
    const vectors = vectorsOf(name);
    expect(vectors.length).toBeGreaterThanOrEqual(46);
    const wrong = vectors.filter(({ text, ids }) => String(tokenizer.encodeText(text)) !== String(ids))
      .map(({ text, ids }) => ({ text, found: tokenizer.encodeText(text), ids }));
    expect(wrong).toEqual([]);
    const nfc = name === "qwen2" || name === "deepseek-r1-qwen";
    for (const { text, ids } of vectors) expect(tokenizer.decode(ids)).toBe(nfc ? text.normalize("NFC") : text);
    // U+FDD0 is the mark by which the tokenizer keeps control tokens out of user text; U+2581 is SentencePiece's space.
    const anyText = fc.string({ unit: "grapheme", maxLength: 40 }).filter((t) => !/[\uFDD0\u2581]/.test(t));
    fc.assert(fc.property(anyText, (t) => { expect(tokenizer.decode(tokenizer.encodeText(t))).toBe(nfc ? t.normalize("NFC") : t); }), { numRuns: 200 });
  });

  it("are all used but those without a vocabulary", () => {
    const sets = readdirSync(dataFile("tokenizers/gguf-vocab")!).flatMap((file) => /^ggml-vocab-(.+)\.gguf\.inp$/.exec(file)?.[1] ?? []);
    expect(sets.filter((name) => !Object.hasOwn(VOCABULARIES, name)).sort()).toEqual(["bert-bge", "chameleon", "command-r", "falcon", "gemma-4", "mpt", "qwen35", "roberta-bpe"]);
  });

  it("gpt-neox has a vocabulary without vectors: any text comes back, runs of spaces are tokens of their own", async () => {
    const tokenizer = await fromGguf("gpt-neox");
    expect(tokenizer.decode(tokenizer.encodeText("a\n        b  c é 日本 🙂"))).toBe("a\n        b  c é 日本 🙂");
    expect(tokenizer.encodeText(" ".repeat(8))).toHaveLength(1);
    fc.assert(fc.property(fc.string({ unit: "grapheme", maxLength: 40 }), (t) => { expect(tokenizer.decode(tokenizer.encodeText(t))).toBe(t.replaceAll("\uFDD0", "")); }), { numRuns: 200 });
  });
});

describe.skipIf(dataFile("tokenizers/tiktoken") === null)("tiktoken's test plans (skipped where the data folder is absent)", () => {
  const plans = (): { encoding: string; text: string; ids: string }[] =>
    textOf("tokenizers/tiktoken/tests/TestPlans.txt").split(/^EncodingName: /m).slice(1).map((plan) => {
      const [, encoding, text, ids] = /^(\S+)\r?\nSample: ([^]*)\r?\nEncoded: \[([^\]]*)\]/.exec(plan)!;
      return { encoding: encoding!, text: text!, ids: ids!.replaceAll(" ", "") };
    });
  it.each(["r50k_base", "cl100k_base", "o200k_base"])("%s gives the published ids", (name) => {
    const tokenizer = fromRanks(`tokenizers/tiktoken/${name}.tiktoken`);
    const own = plans().filter((plan) => plan.encoding === name);
    expect(own.length).toBeGreaterThan(10);
    expect(own.filter(({ text, ids }) => String(tokenizer.encodeTemplate(text)) !== ids).map(({ text, ids }) => ({ text, ids, found: String(tokenizer.encodeTemplate(text)) }))).toEqual([]);
  });

  it("special tokens of o200k_harmony have the ids gpt-oss names", () => {
    const tokenizer = fromRanks("tokenizers/tiktoken/o200k_base.tiktoken");
    const named = { "<|startoftext|>": 199998, "<|endoftext|>": 199999, "<|return|>": 200002, "<|constrain|>": 200003, "<|channel|>": 200005, "<|start|>": 200006, "<|end|>": 200007, "<|message|>": 200008, "<|call|>": 200012 };
    for (const [token, id] of Object.entries(named)) {
      expect(tokenizer.idOf(token)).toBe(id);
      expect(tokenizer.encodeTemplate(`a${token}b`)).toContain(id);
      expect(tokenizer.encodeText(`a${token}b`)).not.toContain(id);
    }
    expect(tokenizer.vocabSize).toBe(201088);
  });
});

describe.skipIf(dataFile("tokenizers/olmo") === null)("published tokenizer.json (skipped where the data folder is absent)", () => {
  it.each(["tokenizers/olmo/allenai_gpt-neox-olmo-dolma-v1_5.json", "tokenizers/olmoe-hf/tokenizer.json"])("%s gives the ids of its GGUF relative, NFC apart", async (name) => {
    const [published, gguf] = [createTokenizer(JSON.parse(textOf(name))), await fromGguf("gpt-neox")];
    for (const { text } of vectorsOf("gpt-2")) {
      expect(published.encodeText(text), JSON.stringify(text)).toEqual(gguf.encodeText(text.normalize("NFC")));
      expect(published.decode(published.encodeText(text))).toBe(text.normalize("NFC"));
    }
  });
});

describe.skipIf(dataFile("tokenizers/mistral") === null)("SentencePiece files (skipped where the data folder is absent)", () => {
  const load = (name: string, legacy: boolean): Tokenizer => createTokenizer(sentencePieceFileDocument(SOURCE, name, readSentencePiece(SOURCE, name, bytesOf(name)), [], legacy));

  it("a tokenizer.model gives what the same vocabulary gives as GGUF", async () => {
    const [file, gguf] = [load("tokenizers/mistral/tokenizer.model.v1", true), await fromGguf("llama-spm")];
    // Mistral's vocabulary is not Llama's; but the published Llama vectors decode to themselves in both, and unknown characters become bytes.
    for (const { text } of vectorsOf("llama-spm")) {
      expect(file.decode(file.encodeText(text))).toBe(text);
      expect(gguf.decode(gguf.encodeText(text))).toBe(text);
    }
    expect(file.encodeText("Hello")).toEqual([22557]);
    expect(file.idOf("</s>")).toBe(2);
    expect(looksLikeRanks(bytesOf("tokenizers/mistral/tokenizer.model.v1"))).toBe(false);
  });

  it("version 3 has control tokens that text cannot make", () => {
    const tokenizer = load("tokenizers/mistral/mistral_instruct_tokenizer_240323.model.v3", false);
    expect(tokenizer.vocabSize).toBe(32768);
    expect(tokenizer.encodeTemplate("[INST]")).toEqual([3]);
    expect(tokenizer.encodeText("[INST]")).not.toContain(3);
    expect(tokenizer.decode(tokenizer.encodeText("[INST]"))).toBe("[INST]");
  });
});
