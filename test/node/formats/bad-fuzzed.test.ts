// The fuzzer's finds, kept: inputs that once ended in an error of the code, in a message that was no sentence, in seconds or in gigabytes. And a short
// run of every target, so that none of them rusts. The long run is `npm run fuzz` (test/fuzz/fuzz.ts).

import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { largestAllocation, resetAllocations, watchAllocations } from "../../fuzz/allocations.ts";
import { tokenizerDocuments, packs, splitVocabulary, VOCABULARY_NAMES } from "../../fuzz/corpora.ts";
import { joinFiles } from "../../fuzz/joined-files.ts";
import { CASE_BYTES_MAX, type Find, inputOf, problemOf, runCases } from "../../fuzz/run-cases.ts";
import { type FuzzTarget, TARGETS } from "../../fuzz/targets.ts";
import { refusalOf } from "../../support/refusal.ts";
import { safetensorsFile } from "../../support/safetensors-writer.ts";
import { tinyModel } from "../../support/tiny-models.ts";

const encoder = new TextEncoder();
const targetOf = (name: string): FuzzTarget => TARGETS.find((target) => target.name === name)!;
/** The first document of a corpus, changed. */
function changed(bytes: Uint8Array, change: (document: never) => void): Uint8Array {
  const document = JSON.parse(new TextDecoder().decode(bytes)) as never;
  change(document);
  return encoder.encode(JSON.stringify(document));
}
const bpe = (): Uint8Array => tokenizerDocuments()[1]!;
const folder = (files: Readonly<Record<string, string>>): Uint8Array => {
  const model = tinyModel("olmoe", 1, { config: { num_experts: 2 } }).huggingFaceFiles();
  return joinFiles(["config.json", "generation_config.json", "tokenizer_config.json", "model.safetensors"].map((name) => ({ bytes: files[name] === undefined ? model.get(name)! : encoder.encode(files[name]), zeros: 0 })));
};
const vocabulary = (files: Readonly<Record<string, string>>): Uint8Array => {
  const good = splitVocabulary();
  return joinFiles(VOCABULARY_NAMES.map((name) => ({ bytes: files[name] === undefined ? good[name]! : encoder.encode(files[name]), zeros: 0 })));
};

type Change = (document: Record<string, unknown>) => void;
const finds: readonly (readonly [target: string, what: string, input: () => Uint8Array | Promise<Uint8Array>, message: RegExp])[] = [
  ["tokenizer.json", "added_tokens that is a number", () => changed(bpe(), ((d) => { d["added_tokens"] = 2 ** 24; }) as Change), /has added_tokens = 16777216, expected a list/],
  ["tokenizer.json", "an added token that is null", () => changed(bpe(), ((d) => { d["added_tokens"] = [null]; }) as Change), /has the added token null/],
  ["tokenizer.json", "a control token of 200,000 letters: a regular expression of as many, and all its beginnings", () => changed(bpe(), ((d) => { d["added_tokens"] = [{ id: 7, content: "x".repeat(200_000), special: true }]; }) as Change), /has the added token/],
  ["tokenizer.json", "a template that the library reads in the middle of a text", () => changed(bpe(), ((d) => { d["post_processor"] = { type: "TemplateProcessing", single: 0 }; }) as Change), /has post_processor\.single = 0/],
  ["tokenizer.json", "a manner of splitting that is no text", () => changed(bpe(), ((d) => { d["pre_tokenizer"] = { type: "Split", pattern: { String: "a" }, behavior: 5 }; }) as Change), /has pre_tokenizer\.behavior = 5/],
  ["tokenizer.json", "parts of no type", () => changed(bpe(), ((d) => { d["normalizer"] = {}; }) as Change), /has normalizer = {}, expected an object of type/],
  ["tokenizer.json", "a list of parts that is none", () => changed(bpe(), ((d) => { d["pre_tokenizer"] = { type: "Sequence", pretokenizers: 7 }; }) as Change), /has pre_tokenizer\.pretokenizers = 7, expected a list/],
  ["tokenizer.json", "an id that is an object", () => changed(bpe(), ((d) => { (d["model"] as { vocab: Record<string, unknown> }).vocab["a"] = {}; }) as Change), /gives the token "a" the id {}/],
  ["manifest.json", "2^40 layers, each of which was listed", async () => changed((await packs())[0]!, ((d) => { (d["config"] as Record<string, unknown>)["nLayers"] = 2 ** 40; }) as Change), /config\.nLayers: Too big: expected number to be <=1024, found 1099511627776/],
  ["manifest.json", "a key that is missing", async () => changed((await packs())[0]!, ((d) => { delete d["id"]; }) as Change), /manifest\.json: id: Invalid input: expected string, found nothing/],
  ["model-folder", "settings of the tokenizer that are null", () => folder({ "tokenizer_config.json": "null" }), /tokenizer_config\.json holds null, expected a JSON object/],
  ["model-folder", "an architecture's name of 300,000 letters, compared with every known one", () => folder({ "config.json": `{"model_type": "${"x".repeat(300_000)}"}` }), /has model_type = "x{64}\.\.\."/],
  ["model-folder", "lists in lists in a setting that is shown", () => folder({ "config.json": `{"model_type": ${"[".repeat(6000)}${"]".repeat(6000)}}` }), /nests objects and lists more than 64 deep/],
  ["vocab.json", "a class that is an object", () => vocabulary({ "tokenizer_config.json": '{"tokenizer_class": {"a": 1}}' }), /tokenizer_class = {"a":1}; expected one of/],
  ["vocab.json", "a class that every object has", () => vocabulary({ "tokenizer_config.json": '{"tokenizer_class": "constructor"}' }), /tokenizer_class = "constructor"; expected one of/],
  ["vocab.json", "an added token without text", () => vocabulary({ "tokenizer_config.json": '{"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": {"258": {}}}' }), /adds the token without content with the id 258/],
  ["vocab.json", "added tokens that are null", () => vocabulary({ "tokenizer_config.json": '{"tokenizer_class": "Qwen2Tokenizer"}', "added_tokens.json": "null" }), /added_tokens\.json holds null, expected a JSON object/],
  ["safetensors", "a dtype that every object has", () => safetensorsFile([], '{"a":{"dtype":"toString","shape":[],"data_offsets":[0,0]}}'), /tensor a has dtype "toString", expected one of/],
  ["safetensors", "a line end and an escape code in a name", () => safetensorsFile([], '{"a\\n\\u001b[2J":{}}'), /tensor a\\u000a\\u001b\[2J has no dtype/],
  ["safetensors", "a name of a million letters", () => safetensorsFile([], `{"${"x".repeat(1_000_000)}":{}}`), /^.{1900,2000}$/s],
  ["chat-template", "what the library stumbles over", () => encoder.encode("{% if %}{{ messages"), /The chat template of this model cannot be read here: .*\.$/],
];

describe("what was found once", () => {
  beforeAll(watchAllocations);

  it.each(finds)("%s: %s", async (name, _, input, message) => {
    const bytes = await input();
    expect(await refusalOf(() => targetOf(name).parse(bytes))).toMatch(message);
    expect(await problemOf(targetOf(name), bytes)).toBeNull();
  });
});

describe("a few hundred cases of every target", () => {
  it.each(TARGETS.map(({ name }) => name))("%s", async (name) => {
    const target = targetOf(name);
    const corpus = await target.corpus();
    for (const bytes of corpus) expect(await problemOf(target, bytes)).toBeNull();
    const problems: Find[] = [];
    await runCases(target, corpus, 1, 0, 300, (find) => void problems.push(find));
    // What took long on a busy machine is no matter here.
    expect(problems.filter(({ problem }) => !/^It took \d+ ms/.test(problem)).map(({ number, problem }) => `case ${number}: ${problem}`)).toEqual([]);
  });
});

describe("the fuzzer itself", () => {
  const always = (parse: () => void): FuzzTarget => ({ ...targetOf("safetensors"), parse });

  it("makes the same input of a seed and number, and others of others", async () => {
    const target = targetOf("tokenizer.json");
    const corpus = await target.corpus();
    expect(inputOf(target, corpus, 3, 17)).toEqual(inputOf(target, corpus, 3, 17));
    expect(new Set(Array.from({ length: 50 }, (_, n) => new TextDecoder().decode(inputOf(target, corpus, 3, n)))).size).toBeGreaterThan(40);
    expect(inputOf(target, corpus, 4, 17)).not.toEqual(inputOf(target, corpus, 3, 17));
  });

  it("changes most inputs without making them nonsense: many still parse", async () => {
    for (const name of ["gguf-header", "safetensors", "tokenizer.json", "frame", "manifest.json"]) {
      const target = targetOf(name);
      const corpus = await target.corpus();
      let parsed = 0;
      for (let n = 0; n < 200; n++) if ((await refusalOf(() => target.parse(inputOf(target, corpus, 9, n)))) === null) parsed++;
      expect(parsed, name).toBeGreaterThan(3);
      expect(parsed, name).toBeLessThan(190);
    }
  });

  it("finds errors of the code, messages that are no sentences, and memory", async () => {
    expect(await problemOf(always(() => { throw new TypeError("x is not a function"); }), new Uint8Array(1))).toMatch(/^TypeError: x is not a function/);
    for (const message of ["no", "two\nlines are none.", "has dtype undefined.", `${"long ".repeat(500)}.`]) {
      const error = new (await import("../../../formats/byte-source.ts")).SourceError("x y.");
      error.message = message;
      expect(await problemOf(always(() => { throw error; }), new Uint8Array(1)), message.slice(0, 20)).toMatch(/^The message is no printable sentence/);
    }
    expect(await problemOf(always(() => { new Uint8Array(CASE_BYTES_MAX + 1); }), new Uint8Array(1))).toMatch(/^It took \d+ bytes of memory/);
    resetAllocations();
    Array.from({ length: 100 });
    expect(largestAllocation()).toBe(800);
  });
});

afterAll(resetAllocations);
