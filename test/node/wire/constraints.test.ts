// Replies held to schemas and grammars, over vocabularies of every kind: whatever the logits say, what is drawn is what the constraint describes,
// and a constraint with one way leaves no choice. Judged by JSON.parse and by small checks of the schema's own.

import { describe, expect, it } from "vitest";
import type { Constraint } from "../../../durable/generate.ts";
import { LIMITS } from "../../../durable/limits.ts";
import { byteLevelDocument, sentencePieceDocument, TOKEN_TYPES } from "../../../formats/tokenizer-document.ts";
import { PRE_TOKENIZERS } from "../../../formats/pre-tokenizers.ts";
import { BYTE_ALPHABET } from "../../../model/byte-alphabet.ts";
import { PLAIN_SAMPLING, sample } from "../../../model/sampling.ts";
import { createTokenizer, type Tokenizer } from "../../../model/tokenizer.ts";
import { Constraints, grammarWasm as wasm } from "../../support/constraints-module.ts";
import { SeededRandom } from "../../support/seeded-random.ts";
import { tinyTokenizerJson } from "../../support/tiny-tokenizer.ts";

const EOS = 0;
const tiny = createTokenizer(tinyTokenizerJson(97));
const schema = (of: object, strict = true): Constraint => ({ kind: "json-schema", schema: JSON.stringify(of), strict });

/** Draws from random logits until the reply is complete. */
async function drawn(tokenizer: Tokenizer, vocabSize: number, constraint: Constraint, seed: number, { maxTokens = 300, stopIds = [EOS], logit = (_: number, random: number): number => random } = {}): Promise<{ text: string; ids: number[]; complete: boolean }> {
  const constraints = await Constraints.create(wasm, tokenizer, vocabSize, LIMITS);
  const stage = await constraints.stage(constraint, stopIds);
  const random = new SeededRandom(seed);
  const ids: number[] = [];
  let complete = false;
  while (ids.length < maxTokens && !complete) {
    const row = Float32Array.from({ length: vocabSize }, (_, id) => logit(id, 3 * random.normal()));
    const { id } = sample(row, { ...PLAIN_SAMPLING, seed }, 0, ids.length, null, stage);
    if (stopIds.includes(id)) complete = true;
    else {
      ids.push(id);
      stage.push(id);
      complete = stage.isComplete;
    }
  }
  stage.dispose();
  return { text: tokenizer.decode(ids), ids, complete };
}

const PERSON = {
  type: "object", properties: { name: { type: "string", maxLength: 8 }, age: { type: "integer", minimum: 0, maximum: 150 }, tags: { type: "array", items: { enum: ["red", "blue"] }, maxItems: 3 } },
  required: ["name", "age", "tags"], additionalProperties: false,
};

describe("a schema", () => {
  it.each([1, 2, 3, 4, 5])("is followed from random logits, seed %i", async (seed) => {
    const { text, complete } = await drawn(tiny, 97, schema(PERSON), seed);
    expect(complete, text).toBe(true);
    const value = JSON.parse(text) as { name: string; age: number; tags: string[] };
    expect(Object.keys(value)).toEqual(["name", "age", "tags"]);
    expect(value.name.length).toBeLessThanOrEqual(8);
    expect(Number.isInteger(value.age) && value.age >= 0 && value.age <= 150).toBe(true);
    expect(value.tags.every((tag) => tag === "red" || tag === "blue")).toBe(true);
  });

  it("with one legal token at each step is said as it is, however unlikely, and ends without an end token", async () => {
    const only = { type: "object", properties: { a: { const: "yes" }, b: { enum: [12] } }, required: ["a", "b"], additionalProperties: false };
    const text = '{"a": "yes", "b": 12}';
    for (const stopIds of [[EOS], []]) {
      const found = await drawn(tiny, 97, schema(only), 7, { stopIds, logit: (id) => (text.includes(tiny.decode([id])) ? -80 : 80) });
      expect(found).toMatchObject({ text, complete: true });
    }
  });

  it("leaves the end to the model where the reply may go on", async () => {
    const { ids, complete } = await drawn(tiny, 97, schema({ type: "integer" }), 3, { maxTokens: 20, logit: (id, random) => (id === EOS ? -50 : random) });
    expect([ids.length, complete]).toEqual([20, false]);
    const ended = await drawn(tiny, 97, schema({ type: "integer" }), 3, { logit: (id, random) => (id === EOS ? 50 : random) });
    expect(ended.complete).toBe(true);
    expect(Number.isInteger(JSON.parse(ended.text))).toBe(true);
  });

  it("that is not strict allows other properties, a strict one does not", async () => {
    const loose = { type: "object", properties: { a: { type: "boolean" } }, required: ["a"] };
    const keys = async (strict: boolean): Promise<number> => {
      let most = 0;
      for (let seed = 0; seed < 12; seed++) {
        const { text, complete } = await drawn(tiny, 97, schema(loose, strict), seed, { logit: (id, random) => (",\"".includes(tiny.decode([id])) ? random + 6 : random) });
        if (complete) most = Math.max(most, Object.keys(JSON.parse(text) as object).length);
      }
      return most;
    };
    expect(await keys(true)).toBe(1);
    expect(await keys(false)).toBeGreaterThan(1);
  });
});

describe("other constraints", () => {
  it("any JSON object", async () => {
    let ended = 0;
    for (let seed = 0; seed < 10; seed++) {
      const { text, complete } = await drawn(tiny, 97, { kind: "json" }, seed, { logit: (id, random) => ("}]\"".includes(tiny.decode([id])) ? random + 4 : random) });
      if (!complete) continue;
      ended++;
      expect(typeof JSON.parse(text)).toBe("object");
    }
    expect(ended).toBeGreaterThan(5);
  });

  it("a grammar", async () => {
    const { text, complete } = await drawn(tiny, 97, { kind: "grammar", grammar: 'root ::= "move " [a-h] [1-8] ("-" | "x") [a-h] [1-8] "!"' }, 5);
    expect(complete).toBe(true);
    expect(text).toMatch(/^move [a-h][1-8][-x][a-h][1-8]!$/);
  });

  it("calls of tools, free text before them or not", async () => {
    const tag = (more: object): Constraint => ({ kind: "tags", tag: JSON.stringify({ type: "structural_tag", format: {
      type: "triggered_tags", triggers: ["<call>"], tags: [{ begin: "<call>f ", content: { type: "json_schema", json_schema: { type: "object", properties: { x: { type: "boolean" } }, required: ["x"], additionalProperties: false } }, end: "</call>" }], ...more,
    } }) });
    const forced = await drawn(tiny, 97, tag({ at_least_one: true, stop_after_first: true }), 3);
    expect(forced.complete).toBe(true);
    expect(forced.text).toMatch(/^<call>f \{"x": (true|false)\}<\/call>$/);
    const free = await drawn(tiny, 97, tag({}), 3, { maxTokens: 40 });
    expect(free.ids.length).toBe(40);
  });

  it.each([
    [schema({ type: "objekt" }), /JSON schema cannot be used: Unsupported type "objekt"/], [{ kind: "json-schema", schema: "{bad", strict: true }, /JSON schema cannot be used: it is no JSON/],
    [{ kind: "grammar", grammar: "root ::= a" }, /grammar cannot be used: .*Rule "a" is not defined/], [{ kind: "tags", tag: "{}" }, /format of the tool calls cannot be used/],
  ] satisfies [Constraint, RegExp][])("%o is refused with the library's reason, and the next one works", async (constraint, message) => {
    const constraints = await Constraints.create(wasm, tiny, 97, LIMITS);
    await expect(constraints.stage(constraint, [])).rejects.toThrow(message);
    (await constraints.stage({ kind: "json" }, [])).dispose();
  });
});

describe("vocabularies", () => {
  const words = ['{"', '":', ' "', '"}', '": ', "café", "日本", "é", "\n", " ", "name", "value", "}", "{", ":", "\"", ...Array.from("abcdefghijklmnopqrstuvwxyz0123456789,.-[]\\/")];
  const bytes = Array.from({ length: 256 }, (_, byte) => byte);

  it("of bytes: a character may come in pieces, and is whole in the end", async () => {
    const spelled = (text: string): string => [...new TextEncoder().encode(text)].map((byte) => BYTE_ALPHABET[byte]!).join("");
    const tokens = [...new Set(["<end>", ...bytes.map((byte) => BYTE_ALPHABET[byte]!), ...words.map(spelled)])];
    const tokenizer = createTokenizer(byteLevelDocument({ tokens, types: tokens.map((_, id) => (id === 0 ? TOKEN_TYPES.control : TOKEN_TYPES.normal)), where: "t" }, [], PRE_TOKENIZERS["gpt-4o"]!));
    for (const seed of [1, 2, 3]) {
      const { text, complete } = await drawn(tokenizer, tokens.length, schema(PERSON), seed, { maxTokens: 400 });
      expect(complete, text).toBe(true);
      expect(text).not.toContain("\uFFFD");
      expect(Object.keys(JSON.parse(text) as object)).toEqual(["name", "age", "tags"]);
    }
  });

  it("of SentencePiece with bytes to fall back on", async () => {
    const tokens = [...new Set(["<unk>", "</s>", ...bytes.map((byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`), ...words.map((word) => word.replaceAll(" ", "▁"))])];
    const types = tokens.map((token, id) => (id === 0 ? TOKEN_TYPES.unknown : id === 1 ? TOKEN_TYPES.control : token.startsWith("<0x") ? TOKEN_TYPES.byte : TOKEN_TYPES.normal));
    const tokenizer = createTokenizer(sentencePieceDocument({ tokens, types, where: "t" }, { scores: tokens.map((_, id) => -id), unknownId: 0, byteFallback: true, spacePrefix: "none" }));
    for (const seed of [1, 2, 3]) {
      const { text, complete } = await drawn(tokenizer, tokens.length, schema(PERSON), seed, { maxTokens: 400, stopIds: [1] });
      expect(complete, text).toBe(true);
      expect(Object.keys(JSON.parse(text.trim()) as object)).toEqual(["name", "age", "tags"]);
    }
  });
});
