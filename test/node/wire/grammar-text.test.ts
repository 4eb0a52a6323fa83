// Grammars as texts: classes of characters beyond ASCII mean those characters, strings of JSON schemas are JSON, control tokens come only where a format
// names them, whatever the logits say and whatever tokens of single bytes a vocabulary has. Judged by acceptance, byte by byte.

import { describe, expect, it } from "vitest";
import { withJsonStrings, withUtf8Classes } from "../../../durable/character-classes.ts";
import type { Constraint } from "../../../durable/generate.ts";
import { LIMITS } from "../../../durable/limits.ts";
import { byteLevelDocument, TOKEN_TYPES } from "../../../formats/tokenizer-document.ts";
import { PRE_TOKENIZERS } from "../../../formats/pre-tokenizers.ts";
import { BYTE_ALPHABET } from "../../../model/byte-alphabet.ts";
import { createTokenizer } from "../../../model/tokenizer.ts";
import type { ChatRequest } from "../../../worker/schemas.ts";
import { harmonyFormat } from "../../../worker/harmony-constraint.ts";
import { Constraints, grammarWasm as wasm } from "../../support/constraints-module.ts";

const CONTROL = ["<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>", "<|return|>", "<|call|>"];
/** Ids 0 to 255 are the bytes; then the control tokens. */
const TOKENS = [...Array.from({ length: 256 }, (_, byte) => BYTE_ALPHABET[byte]!), ...CONTROL];
const tokenizer = createTokenizer(byteLevelDocument({ tokens: TOKENS, types: TOKENS.map((_, id) => (id < 256 ? TOKEN_TYPES.normal : TOKEN_TYPES.control)), where: "t" }, [], PRE_TOKENIZERS["gpt-4o"]!));
const STOP_IDS = [256 + CONTROL.indexOf("<|return|>"), 256 + CONTROL.indexOf("<|call|>")];
const ROW = new Float32Array(TOKENS.length).fill(1);

const idsOf = (text: string): number[] => text.split(/(<\|[a-z]+\|>)/).flatMap((part) => (CONTROL.includes(part) ? [256 + CONTROL.indexOf(part)] : [...new TextEncoder().encode(part)]));

/** How many tokens of the text are allowed, one after the other, and what may follow the last. */
async function follow(constraint: Constraint, ids: readonly number[]): Promise<{ n: number; next: number[]; ends: boolean }> {
  const stage = await (await Constraints.create(wasm, tokenizer, TOKENS.length, LIMITS)).stage(constraint, STOP_IDS);
  const allowed = (): number[] => (stage.isComplete ? [] : [...stage.apply(ROW).keys()].filter((id) => stage.apply(ROW)[id]! > -Infinity));
  let n = 0;
  while (n < ids.length && !stage.isComplete && stage.apply(ROW)[ids[n]!]! > -Infinity) stage.push(ids[n++]!);
  const next = allowed();
  const ends = stage.isComplete || next.some((id) => STOP_IDS.includes(id));
  stage.dispose();
  return { n, next, ends };
}
const accepts = async (constraint: Constraint, text: string): Promise<boolean> => {
  const ids = idsOf(text);
  const { n, ends } = await follow(constraint, ids);
  return n === ids.length && ends;
};
const grammar = (text: string): Constraint => ({ kind: "grammar", grammar: text });

describe("classes", () => {
  it.each([
    ["root ::= [à-ü]+", ["é", "àü"], ["ý", "ß", "e", ""]], ["root ::= [a日本]{2}", ["a日", "本本"], ["月a", "aa\u65e6"]], ["root ::= [^à-ü]", ["a", "日", "ý", "😀"], ["é"]],
    ["root ::= [\\u0400-\\U0001F600]*", ["Ж😀", ""], ["a", "😁"]], ['root ::= "[é-à" [😀-😂] # [ü-a', ["[é-à😁"], ["[é-à😃"]], ["root ::= [\\]\\-é]", ["]", "-", "é"], ["\\", "è"]],
  ] as const)("%s", async (text, good, bad) => {
    for (const one of good) expect([one, await accepts(grammar(text), one)]).toEqual([one, true]);
    for (const one of bad) expect([one, await accepts(grammar(text), one)]).toEqual([one, false]);
  });

  it("within ASCII stay as they are, and so do those nobody can read", () => {
    for (const text of ['root ::= [a-z"#] "[é]"', "root ::= [^a-z\\]]", "root ::= [\\dé]", "root ::= [ü-é]", "# [é]"]) expect(withUtf8Classes(text)).toBe(text);
  });

  it("never give a byte that no text has", async () => {
    for (const text of ["root ::= [\\0-\\U0010FFFF]*", "root ::= [^a]*"]) {
      const { next } = await follow(grammar(text), []);
      for (const byte of [0xc0, 0xc1, ...Array.from({ length: 11 }, (_, i) => 0xf5 + i)]) expect(next).not.toContain(byte);
      expect(next.every((id) => id < 256 || STOP_IDS.includes(id))).toBe(true);
    }
  });
});

describe("strings of a schema", () => {
  const schema = (of: object): Constraint => ({ kind: "json-schema", schema: JSON.stringify(of), strict: true });
  it.each([{ type: "string", maxLength: 3 }, { type: "string", pattern: "^[^x]{1,3}$" }, { type: "string", pattern: "^.*$" }, { type: "string" }])("%o have no control characters, quotes or halves of characters", async (of) => {
    const { next } = await follow(schema({ type: "object", properties: { a: of }, required: ["a"], additionalProperties: false }), idsOf('{"a": "'));
    expect(next.filter((id) => id < 0x20)).toEqual([]);
    expect(next).toContain("b".charCodeAt(0));
    expect(next).toContain(0xc3);
    expect(next.some((id) => id >= 0xf8)).toBe(false);
    expect(next.some((id) => id >= 0x80 && id < 0xc2)).toBe(false);
  });

  it("that could only be control characters are refused", async () => {
    expect(() => withJsonStrings('root ::= ("\\"" [\\n] "\\"")')).toThrow(/asks for \[\\n\], which JSON writes only as escapes/);
    expect(withJsonStrings('basic_escape ::= [\\"\\\\/bfnrt]')).toBe('basic_escape ::= [\\"\\\\/bfnrt]');
  });
});

describe("Harmony", () => {
  const tagsOf = (format: object): Constraint => ({ kind: "tags", tag: JSON.stringify({ type: "structural_tag", format }) });
  const json = tagsOf(harmonyFormat({ type: "json_schema", json_schema: { type: "object", properties: { a: { type: "boolean" } }, required: ["a"], additionalProperties: false } }, null, false));
  const tools = [{ type: "function", function: { name: "f", parameters: { type: "object", properties: { x: { const: 1 } }, required: ["x"], additionalProperties: false } } }] as unknown as NonNullable<ChatRequest["tools"]>;
  const FINAL = "<|channel|>final<|message|>";
  const THOUGHT = "<|channel|>analysis<|message|>hm, {\"é\": <end>\n<|end|><|start|>assistant";
  const CALL = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"x": 1}';

  it.each([
    [`${FINAL}{"a": true}`, true], [`${THOUGHT}${FINAL}{"a": false}`, true], [`${THOUGHT}${THOUGHT}${FINAL}{"a": true}`, true],
    [`${FINAL}{"a": 1}`, false], [`${FINAL}{"a": true} and`, false], ['{"a": true}', false], [`<|channel|>commentary<|message|>Well.<|end|><|start|>assistant${FINAL}{"a": true}`, false], [`${THOUGHT}{"a": true}`, false], [CALL, false],
    [`<|channel|>analysis<|message|>a<|channel|>`, false], ["<|channel|>analysis<|message|>", false],
  ])("a schema: %s is %s", async (text, good) => {
    expect(await accepts(json, text)).toBe(good);
  });

  it.each([
    [CALL, true, true], [`${THOUGHT}${CALL}`, true, true], ['<|channel|>commentary to=functions.f json<|message|>{"x": 1}', true, true], [' to=functions.f<|channel|>commentary <|constrain|>json<|message|>{"x": 1}', true, true],
    ['<|channel|>commentary to=functions.f<|message|>{"x": 1}', true, true], ['<|channel|>commentary to=functions.g<|message|>{"x": 1}', false, false], ['<|channel|>commentary to=functions.f<|message|>{"x": 2}', false, false],
    [`${FINAL}Hello.`, false, true], [`<|channel|>commentary<|message|>I call.<|end|><|start|>assistant${CALL}`, false, true], [`${CALL}<|end|>`, false, false], [`${FINAL}a<|end|>`, false, false],
  ])("tools: %s, where one must be called: %s, may be: %s", async (text, must, may) => {
    expect([await accepts(tagsOf(harmonyFormat(null, tools, true)), text), await accepts(tagsOf(harmonyFormat(null, tools, false)), text)]).toEqual([must, may]);
  });

  it("control tokens are neither text nor spelled by bytes", async () => {
    const thought = await follow(json, idsOf("<|channel|>analysis<|message|>"));
    expect(thought.next.filter((id) => id >= 256).map((id) => CONTROL[id - 256])).toEqual(["<|end|>"]);
    expect(thought.next.some((id) => id < 256 && id >= 0xf5)).toBe(false);
    expect((await follow(json, [])).next.map((id) => CONTROL[id - 256])).toEqual(["<|channel|>"]);
    expect((await follow(json, idsOf(`${FINAL}{"a": `))).next.every((id) => id < 256)).toBe(true);
  });

  it("and other formats never have them", async () => {
    const free = tagsOf({ type: "triggered_tags", triggers: ["<f>"], tags: [{ begin: "<f>", content: { type: "json_schema", json_schema: { const: 1 } }, end: "</f>" }] });
    for (const constraint of [free, grammar("root ::= [^a]*"), grammar("root ::= [\\0-\\U0010FFFF]*")]) expect((await follow(constraint, [])).next.filter((id) => id >= 256 && !STOP_IDS.includes(id))).toEqual([]);
    const constraints = await Constraints.create(wasm, tokenizer, TOKENS.length, LIMITS);
    await expect(constraints.stage(grammar('root ::= "\\UFFFFFFF8"'), [])).rejects.toThrow(/names the code point \\UFFFFFFF8/);
    await expect(constraints.stage(tagsOf(harmonyFormat({ type: "grammar", grammar: 'root ::= "\\UFFFFFFFC"' }, null, false)), [])).rejects.toThrow(/names the code point/);
  });

  it("cannot be had where the vocabulary has no control tokens for it", async () => {
    const plain = createTokenizer(byteLevelDocument({ tokens: TOKENS.slice(0, 256), types: TOKENS.slice(0, 256).map(() => TOKEN_TYPES.normal), where: "t" }, [], PRE_TOKENIZERS["gpt-4o"]!));
    await expect((await Constraints.create(wasm, plain, 256, LIMITS)).stage(json, [])).rejects.toThrow(/the vocabulary has no control token <\|start\|>/);
  });
});
