// Tokenizer files that are wrong: tokenizer.json of every wrong shape, and every file cut at every byte. Single faults of tokenizer.model, rank files
// and vocab.json are tokenizer-files.test.ts.

import { describe, expect, it } from "vitest";
import { readTokenizer } from "../../../formats/huggingface.ts";
import { MemorySource } from "../../../formats/memory-source.ts";
import { createTokenizer } from "../../../model/tokenizer.ts";
import { refusalOf } from "../../support/refusal.ts";
import { tinyModel } from "../../support/tiny-models.ts";
import { tinyTokenizerJson } from "../../support/tiny-tokenizer.ts";
import { rankFiles, sentencePieceModels, splitVocabulary } from "../../fuzz/corpora.ts";

const encoder = new TextEncoder();
const CONFIG = { ...tinyModel("olmoe", 1).config, vocabSize: 300 };
const read = (files: Record<string, Uint8Array>): Promise<string | null> => refusalOf(async () => {
  const { tokenizer } = await readTokenizer(new MemorySource(new Map(Object.entries(files))), CONFIG, []);
  if (tokenizer !== null) createTokenizer(JSON.parse(new TextDecoder().decode(tokenizer.json))).encodeText("ab 1 <|endoftext|>");
});

describe("tokenizer.json of a wrong shape", () => {
  type Document = Record<string, unknown> & { model: Record<string, unknown>; added_tokens: unknown };
  const sequence = (key: string, parts: unknown): object => ({ type: "Sequence", [key]: parts });
  const split = (more: object): object => ({ type: "Split", pattern: { Regex: "a" }, behavior: "Isolated", invert: false, ...more });
  let deep: unknown = { type: "NFC" };
  for (let i = 0; i < 20; i++) deep = sequence("normalizers", [deep]);

  it.each<[string, (d: Document) => void, RegExp]>([
    ["no model", (d) => { delete (d as Record<string, unknown>)["model"]; }, /holds no `model`/],
    ["a model that is a list", (d) => { (d as Record<string, unknown>)["model"] = []; }, /holds no `model`/],
    ["a kind of model that is none", (d) => { d.model["type"] = "LSTM"; }, /has model\.type = "LSTM", expected "BPE" or "Unigram" or "WordPiece"/],
    ["no vocabulary", (d) => { delete d.model["vocab"]; }, /has model\.vocab = nothing, expected the tokens with their ids/],
    ["a vocabulary that is a list, in a BPE model", (d) => { d.model["vocab"] = [["a", 0]]; }, /has a list as model\.vocab, expected an object of tokens with their ids in a BPE model/],
    ["a vocabulary that is an object, in a Unigram model", (d) => { d.model["type"] = "Unigram"; }, /has an object as model\.vocab, expected a list/],
    ["scores that are texts", (d) => { Object.assign(d.model, { type: "Unigram", vocab: [["a", "-1"]] }); }, /has the entry \["a","-1"\] in model\.vocab, expected a token and its score/],
    ["an id that is a text", (d) => { (d.model["vocab"] as Record<string, unknown>)["!"] = "3"; }, /gives the token "!" the id "3", expected a whole number from 0 to 16777216/],
    ["an id below 0", (d) => { (d.model["vocab"] as Record<string, unknown>)["!"] = -1; }, /gives the token "!" the id -1/],
    ["an id beyond any vocabulary", (d) => { (d.model["vocab"] as Record<string, unknown>)["!"] = 2 ** 40; }, /gives the token "!" the id 1099511627776/],
    ["an id that is an object", (d) => { (d.model["vocab"] as Record<string, unknown>)["!"] = {}; }, /gives the token "!" the id {}/],
    ["an id beyond the model's vocabulary", (d) => { (d.model["vocab"] as Record<string, unknown>)["!"] = 300; }, /has ids up to 300, but the model's vocabulary has 300/],
    ["no merges", (d) => { delete d.model["merges"]; }, /has model\.merges = nothing, expected a list of pairs/],
    ["a merge of three pieces", (d) => { d.model["merges"] = ["a b", "a b c"]; }, /has model\.merges\[1\] = "a b c", expected two pieces/],
    ["a merge of a number", (d) => { d.model["merges"] = [["a", 1]]; }, /has model\.merges\[0\] = \["a",1\]/],
    ["added tokens that are a number", (d) => { d.added_tokens = 5; }, /has added_tokens = 5, expected a list of tokens/],
    ["an added token that is null", (d) => { d.added_tokens = [null]; }, /has the added token null, expected an object/],
    ["an added token without text", (d) => { d.added_tokens = [{ id: 1, content: "" }]; }, /has the added token {"id":1,"content":""}/],
    ["an added token of 200,000 letters", (d) => { d.added_tokens = [{ id: 1, content: "x".repeat(200_000), special: true }]; }, /has the added token .*\.\.\., expected an object with a text of 1 to 512 characters/],
    ["an added token with an id beyond any vocabulary", (d) => { d.added_tokens = [{ id: 2 ** 30, content: "x" }]; }, /and an id from 0 to 16777216/],
    ["an added token that is special as a text", (d) => { d.added_tokens = [{ id: 1, content: "x", special: "yes" }]; }, /has added token\.special = "yes", expected true or false/],
    ["an unknown normaliser", (d) => { d["normalizer"] = { type: "Rot13" }; }, /has normalizer = {"type":"Rot13"}, expected an object of type Sequence, NFC/],
    ["a normaliser that every object has", (d) => { d["normalizer"] = { type: "constructor" }; }, /has normalizer = {"type":"constructor"}/],
    ["a normaliser that is a text", (d) => { d["normalizer"] = "NFC"; }, /has normalizer = "NFC"/],
    ["a replacement without text", (d) => { d["normalizer"] = { type: "Replace", pattern: { String: "a" }, content: null }; }, /has normalizer\.content = null, expected a text/],
    ["a normaliser in a sequence", (d) => { d["normalizer"] = sequence("normalizers", [{ type: "NFC" }, null]); }, /has normalizer\.normalizers\[1\] = null/],
    ["sequences without end", (d) => { d["normalizer"] = deep; }, /nests normalizer\.normalizers\[0\].* more than 8 deep/],
    ["a sequence that is none", (d) => { d["pre_tokenizer"] = sequence("pretokenizers", { 0: {} }); }, /has pre_tokenizer\.pretokenizers = {"0":{}}, expected a list/],
    ["a split without a pattern", (d) => { d["pre_tokenizer"] = split({ pattern: {} }); }, /has pre_tokenizer\.pattern = {}, expected an object with a text as "String" or "Regex"/],
    ["a split in another manner", (d) => { d["pre_tokenizer"] = split({ behavior: { a: 1 } }); }, /has pre_tokenizer\.behavior = {"a":1}, expected "Removed" or/],
    ["a regular expression that is none", (d) => { d["pre_tokenizer"] = split({ pattern: { Regex: "(((" } }); }, /tokenizer\.json cannot be used: Invalid regular expression/],
    ["pieces of length 0", (d) => { d["pre_tokenizer"] = { type: "FixedLength", length: 0 }; }, /has pre_tokenizer\.length = 0, expected a whole number from 1/],
    ["a template that is no list", (d) => { d["post_processor"] = { type: "TemplateProcessing", single: 5 }; }, /has post_processor\.single = 5, expected a list of objects/],
    ["a template of texts", (d) => { d["post_processor"] = { type: "TemplateProcessing", single: ["$A"] }; }, /has post_processor\.single = \["\$A"\]/],
    ["a decoder that strips half a letter", (d) => { d["decoder"] = { type: "Strip", content: " ", start: 0.5, stop: 0 }; }, /has decoder\.start = 0\.5, expected a whole number/],
    ["an unknown decoder", (d) => { d["decoder"] = { type: ["ByteLevel"] }; }, /has decoder = {"type":\["ByteLevel"\]}, expected an object of type Sequence, ByteLevel/],
  ])("%s", async (_, change, message) => {
    const document = structuredClone(tinyTokenizerJson(97)) as Document;
    expect(await read({ "tokenizer.json": encoder.encode(JSON.stringify(document)) })).toBeNull();
    change(document);
    const refused = await read({ "tokenizer.json": encoder.encode(JSON.stringify(document)) });
    expect(refused).toMatch(message);
    expect(refused).toMatch(/^(memory, )?tokenizer\.json /);
  });

  it("each part in each other's place, of each kind: read or refused", async () => {
    const document = tinyTokenizerJson(97) as Document;
    const values = [null, 0, -1, "x", [], {}, [null], { type: "Sequence" }, { type: "ByteLevel" }, { type: null }, document.model, document["decoder"], document["pre_tokenizer"], [[["a"]]]];
    for (const key of Object.keys(document)) {
      for (const value of values) await read({ "tokenizer.json": encoder.encode(JSON.stringify({ ...document, [key]: value })) });
    }
    for (const key of Object.keys(document.model)) {
      for (const value of values) await read({ "tokenizer.json": encoder.encode(JSON.stringify({ ...document, model: { ...document.model, [key]: value } })) });
    }
  });
});

describe("files cut short at every byte", () => {
  it("tokenizer.model: a shorter vocabulary, or one sentence", async () => {
    const whole = sentencePieceModels()[0]!;
    let refused = 0;
    for (let length = 0; length < whole.length; length++) {
      const message = await read({ "tokenizer.model": whole.slice(0, length) });
      if (message === null) continue;
      refused++;
      expect(message, `${length} bytes`).toMatch(/^memory, tokenizer\.model /);
    }
    // Only behind the normaliser's settings does a cut leave a model: those it lacks are the defaults.
    expect(refused).toBeGreaterThan(whole.length - 4);
  });

  it("ranks: another number of them, or a line that is none", async () => {
    const whole = rankFiles()[0]!;
    for (let length = 20; length < whole.length; length += 1) {
      expect(await read({ "qwen.tiktoken": whole.slice(0, length) }), `${length} bytes`)
        .toMatch(/^memory, qwen\.tiktoken(, line \d+ is .*, expected a new token in base64, a space, and the rank \d+| has no token for the byte \d+, expected all 256| has \d+ ranks, which is no vocabulary this version knows| is no SentencePiece model)/);
    }
  });

  it("vocab.json and merges.txt", async () => {
    const files = splitVocabulary();
    expect(await read(files)).toBeNull();
    for (const name of ["vocab.json", "added_tokens.json", "tokenizer_config.json"]) {
      const whole = files[name]!;
      // Added tokens of tokenizer_config.json win over those of the older file, which is not read then.
      if (name === "added_tokens.json") continue;
      for (let length = 0; length < whole.length; length++) expect(await read({ ...files, [name]: whole.slice(0, length) }), `${name}, ${length} bytes`).toMatch(new RegExp(`^memory, ${name.replace(".", "\\.")} is no valid JSON`));
    }
    const merges = files["merges.txt"]!;
    for (let length = 0; length < merges.length; length++) {
      const message = await read({ ...files, "merges.txt": merges.slice(0, length) });
      if (message !== null) expect(message).toMatch(/^memory, merges\.txt, line \d+ is .*, expected two pieces with a space between\.$/);
    }
  });
});
