// Schemas and grammars that would hold up everyone or break the library: each is refused before the library sees it, quickly and in words, and the
// next request is served as if nothing had been. Rules that are merged describe what they described.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { requireBoundedGrammar, requireBoundedRules, requireBoundedSchema } from "../../../durable/grammar-bounds.ts";
import type { Constraint } from "../../../durable/generate.ts";
import { mergedRules } from "../../../durable/grammar-rules.ts";
import { LIMITS, type Limits } from "../../../durable/limits.ts";
import { PLAIN_SAMPLING, sample } from "../../../model/sampling.ts";
import { createTokenizer } from "../../../model/tokenizer.ts";
import { Constraints, GrammarLibrary, grammarWasm as wasm } from "../../support/constraints-module.ts";
import { tinyTokenizerJson } from "../../support/tiny-tokenizer.ts";

const VOCAB = 97;
const tiny = createTokenizer(tinyTokenizerJson(VOCAB));
const schema = (of: unknown): Constraint => ({ kind: "json-schema", schema: JSON.stringify(of), strict: true });
const grammar = (text: string): Constraint => ({ kind: "grammar", grammar: text });
const nested = (n: number, wrap: (inner: unknown) => unknown): unknown => { let inner: unknown = { type: "integer" }; for (let i = 0; i < n; i++) inner = wrap(inner); return inner; };
const references = (n: number) => ({ $defs: Object.fromEntries(Array.from({ length: n }, (_, i) => [`d${i}`, i === n - 1 ? { type: "integer" } : { type: "array", items: { $ref: `#/$defs/d${i + 1}` } }])), $ref: "#/$defs/d0" });

/** What random logits make of a constraint, greedy by a hash of position and token. */
async function written(constraints: Awaited<ReturnType<typeof Constraints.create>>, constraint: Constraint, seed: number): Promise<string> {
  const stage = await constraints.stage(constraint, [0]);
  const ids: number[] = [];
  while (ids.length < 400 && !stage.isComplete) {
    const row = Float32Array.from({ length: VOCAB }, (_, id) => ((Math.imul(id + 1, 0x9e3779b1) ^ Math.imul(ids.length + seed, 0x85ebca6b)) >>> 8) % 1000);
    const { id } = sample(row, { ...PLAIN_SAMPLING, temperature: 0, seed }, 0, ids.length, null, stage);
    if (id === 0) break;
    ids.push(id);
    stage.push(id);
  }
  stage.dispose();
  return tiny.decode(ids);
}

describe("what is refused", () => {
  it.each<[string, Constraint, RegExp]>([
    ["objects in each other", schema(nested(60, (inner) => ({ type: "object", properties: { a: inner } }))), /nests objects and lists more than 100 deep/],
    ["lists in each other, 3,000 deep", schema(nested(3000, (inner) => ({ type: "array", items: inner }))), /nests objects and lists more than 100 deep/],
    ["a constant 3,000 deep", schema({ const: nested(3000, (inner) => [inner]) }), /nests objects and lists more than 100 deep/],
    ["a chain of references", schema(references(402)), /more than 400 references/],
    ["brackets in each other", grammar(`root ::= ${"(".repeat(3000)}"a"${")".repeat(3000)}`), /nests brackets more than 100 deep/],
    ["brackets of a pattern", schema({ type: "string", pattern: `^${"(".repeat(101)}a${")".repeat(101)}$` }), /nests brackets more than 100 deep/],
    ["repetitions of repetitions", grammar('root ::= ("a"{0,300}){0,300}'), /repetitions within repetitions come to 90000; 16384 is the limit/],
    ["the same in three brackets", grammar('root ::= (("x" | "a"{30}){30}){30}'), /come to 27000/],
    ["the same in a pattern", schema({ type: "array", items: { type: "string", pattern: "^([a-z]{0,300},){0,300}$" } }), /come to 90000/],
    ["the same in a pattern of names", schema({ type: "object", patternProperties: { "^(a{0,300}){0,300}$": {} } }), /come to 90000/],
    ["a grammar that unfolds to too much", grammar(`root ::= ${Array.from({ length: 120 }, (_, i) => `("a${i}" "b"{128}){100}`).join(" ")}`), /unfolded it has \d+ characters; 524288 is the limit/],
  ])("%s", async (_, constraint, message) => {
    const constraints = await Constraints.create(wasm, tiny, VOCAB, LIMITS);
    const before = await written(constraints, schema({ type: "integer" }), 1);
    for (let i = 0; i < 3; i++) await expect(constraints.stage(constraint, [0])).rejects.toThrow(message);
    expect(await written(constraints, schema({ type: "integer" }), 1)).toBe(before);
  });

  it("is what would have a large vocabulary looked at too often; what stays below is not, and neither are limited strings of one schema counted twice", () => {
    const rules = (n: number): string => `root ::= ${'[^"\\\\] '.repeat(n)}`;
    expect(() => requireBoundedRules(rules(83), 200_000, LIMITS)).not.toThrow();
    expect(() => requireBoundedRules(rules(84), 200_000, LIMITS)).toThrow("the 200000 tokens of the vocabulary looked at 84 times; 83 is the limit");
    // Narrow classes begin few tokens; what is in a literal is no class.
    expect(() => requireBoundedRules(`root ::= ${'[0-9] [\\x30-\\x39] [^\\x00-\\x7f] "[a-z]" # [a-z]'.repeat(500)}`, 200_000, LIMITS)).not.toThrow();
    expect(() => requireBoundedRules(`root ::= ${"[\\x61-\\x7a] ".repeat(84)}`, 200_000, LIMITS)).toThrow("looked at 84 times");
  });

  it("never is what people ask for", () => {
    for (const text of ['root ::= ("a" | "b"){0,128} "c"{5}', 'root ::= ([a-z]{1,20} ", "){0,100}', "root ::= ((((x))))\nx ::= [^\\n(){}]* # ((({9,9}", 'root ::= "{1000000}" ("(" "{" {2}){3}'])
      expect(() => requireBoundedGrammar(text, LIMITS), text).not.toThrow();
    for (const of of [references(300), { type: "string", pattern: "^\\d{4}-\\d{2}-(\\d{2}|[({]{3})$" }, { properties: { pattern: { type: "object" }, $ref: { const: 1 } } }, nested(45, (inner) => ({ type: "object", properties: { a: inner } }))])
      expect(() => requireBoundedSchema(JSON.stringify(of), LIMITS)).not.toThrow();
  });
});

describe("merged rules", () => {
  it("describe what they described: the same text from any logits, with fewer rules", async () => {
    const constraints = await Constraints.create(wasm, tiny, VOCAB, LIMITS);
    const library = await GrammarLibrary.open(wasm, { tokens: Array.from({ length: VOCAB }, (_, id) => tiny.tokenOf(id) ?? ""), type: "byte_level", controlBytes: new Map(), controlIds: [] }, LIMITS);
    const leaf = fc.oneof(fc.record({ type: fc.constant("string"), maxLength: fc.integer({ min: 1, max: 9 }) }), fc.record({ type: fc.constantFrom("integer", "boolean", "null") }), fc.record({ enum: fc.uniqueArray(fc.constantFrom("a", "bb", 3, null), { minLength: 1 }) }));
    const object = (inner: fc.Arbitrary<unknown>) => fc.dictionary(fc.constantFrom("a", "b", "c", "d"), inner, { minKeys: 1 }).map((properties) => ({ type: "object", properties, required: Object.keys(properties).slice(0, 2), additionalProperties: false }));
    await fc.assert(fc.asyncProperty(object(fc.oneof(leaf, object(leaf), fc.record({ type: fc.constant("array"), items: leaf, maxItems: fc.integer({ min: 0, max: 3 }) }))), fc.nat(1000), async (of, seed) => {
      const plain = await library.ofSchema(JSON.stringify(of), true);
      const merged = mergedRules(plain);
      expect(merged.length).toBeLessThanOrEqual(plain.length);
      expect(mergedRules(merged)).toBe(merged);
      expect(await written(constraints, grammar(merged), seed)).toBe(await written(constraints, grammar(plain), seed));
    }), { numRuns: 25 });
  });

  it("have limited strings share the rules of the longest, and leave out what nothing reaches", async () => {
    const library = await GrammarLibrary.open(wasm, { tokens: ["a"], type: "raw", controlBytes: new Map(), controlIds: [] }, LIMITS);
    const rules = async (lengths: readonly number[]): Promise<number> =>
      mergedRules(await library.ofSchema(JSON.stringify({ type: "object", properties: Object.fromEntries(lengths.map((maxLength, i) => [`p${i}`, { type: "string", maxLength }])) }), true)).split("\n").filter((line) => /_\d+ ::= \("" \| \(\[/.test(line)).length;
    expect(await rules([40])).toBe(40);
    expect(await rules([40, 30, 20, 40])).toBe(40);
    expect(mergedRules("root ::= a\na ::= \"x\" b\nb ::= \"b\"\nc ::= a\n")).toBe("root ::= a\na ::= \"x\" b\nb ::= \"b\"\n");
    // Names in literals, classes and comments are no names.
    expect(mergedRules('root ::= b c\nb ::= "c" [c]\nc ::= "c" [c]\n')).toBe('root ::= c c\nc ::= "c" [c]\n');
  });
});

describe("the library", () => {
  it("is another one after it broke, and what it had under way says so", async () => {
    // Without bounds, to have it broken.
    const unbounded: Limits = { ...LIMITS, grammarDepth: Infinity, grammarStackBytes: 64 * 1024 };
    const constraints = await Constraints.create(wasm, tiny, VOCAB, unbounded);
    const expected = await written(constraints, schema({ type: "integer" }), 3);
    const underWay = await constraints.stage(schema({ type: "integer" }), [0]);
    await expect(constraints.stage(schema(nested(200, (inner) => ({ type: "array", items: inner }))), [0])).rejects.toThrow("The JSON schema cannot be used");
    expect(() => underWay.apply(new Float32Array(VOCAB))).toThrow("The grammar library broke");
    underWay.dispose();
    expect(await written(constraints, schema({ type: "integer" }), 3)).toBe(expected);
  });

  it("has its stack back after every refusal", async () => {
    const constraints = await Constraints.create(wasm, tiny, VOCAB, { ...LIMITS, grammarStackBytes: 64 * 1024 });
    const underWay = await constraints.stage(schema({ type: "integer" }), [0]);
    // Each leaves 0.6 to 3 KB of the stack taken.
    for (let i = 0; i < 300; i++) await expect(constraints.stage(schema({ type: "array", items: { type: `nothing ${i}` } }), [0])).rejects.toThrow("Unsupported type");
    expect(underWay.apply(new Float32Array(VOCAB))).toHaveLength(VOCAB);
    underWay.dispose();
    const memoryBytes = constraints.memoryBytes;
    expect(await written(constraints, schema(nested(10, (inner) => ({ type: "array", items: inner, minItems: 1 }))), 1)).toMatch(/^\[{10}/);
    expect(constraints.memoryBytes).toBe(memoryBytes);
  });

  it("forgets and begins anew when it has grown, unless it is in use; then new grammars wait", async () => {
    const empty = (await Constraints.create(wasm, tiny, VOCAB, LIMITS)).memoryBytes;
    const limits: Limits = { ...LIMITS, grammarBytes: empty, grammarMostBytes: empty, compiledGrammars: 64 };
    const constraints = await Constraints.create(wasm, tiny, VOCAB, limits);
    const large = (i: number): Constraint => schema({ type: "object", properties: Object.fromEntries(Array.from({ length: 120 }, (_, k) => [`p${i}x${k}`, { type: "string", maxLength: 100 }])) });
    const held = await constraints.stage(large(0), [0]);
    let n = 1;
    for (; constraints.memoryBytes === empty && n < 100; n++) (await constraints.stage(large(n), [0])).dispose();
    expect(constraints.memoryBytes).toBeGreaterThan(empty);
    await expect(constraints.stage(large(n), [0])).rejects.toThrow(/Grammars in use take \d+ bytes, beyond \d+; ask again when their replies have ended/);
    expect(held.apply(new Float32Array(VOCAB))).toHaveLength(VOCAB);
    held.dispose();
    (await constraints.stage(large(n), [0])).dispose();
    expect(constraints.memoryBytes).toBe(empty);
    // In use, it forgets what nobody uses: what comes next takes the place of that.
    const roomy = await Constraints.create(wasm, tiny, VOCAB, { ...limits, grammarMostBytes: Infinity });
    const inUse = await roomy.stage(large(0), [0]);
    for (let i = 1; i < n + 3; i++) (await roomy.stage(large(i), [0])).dispose();
    const grown = roomy.memoryBytes;
    for (let i = n + 3; i < 3 * n; i++) (await roomy.stage(large(i), [0])).dispose();
    expect(roomy.memoryBytes).toBe(grown);
    inUse.dispose();
  });
});
