// Replies read token by token: Harmony's channels, <think> and <tool_call>, in every chunking, truncated anywhere, with unknown channels and
// with noise; and what becomes of them in OpenAI's shapes.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { GenerateTarget } from "../../../durable/generate-client.ts";
import type { GenerateRequest } from "../../../durable/generate.ts";
import { PRE_TOKENIZERS } from "../../../formats/pre-tokenizers.ts";
import { byteLevelDocument, sentencePieceDocument, TOKEN_TYPES } from "../../../formats/tokenizer-document.ts";
import { BYTE_ALPHABET } from "../../../model/byte-alphabet.ts";
import { createReplyParser, replyFormat, type ReplyPart } from "../../../model/reply-parser.ts";
import { createTokenizer, type Tokenizer } from "../../../model/tokenizer.ts";
import { runChoice } from "../../../worker/generation.ts";
import { chatShape } from "../../../worker/shapes.ts";
import { PLAIN_SAMPLING } from "../../../model/sampling.ts";

const CONTROL = ["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>"];

/** A tokenizer whose tokens are any texts: what is asked for is added. Control tokens have the first ids and no text. */
function anyTokenizer(control: readonly string[]): Tokenizer & { ids(texts: readonly string[]): number[] } {
  const tokens = [...control];
  const refuse = (): never => { throw new Error("not used here"); };
  const textOf = (id: number): string => (id < control.length ? "" : tokens[id]!);
  return {
    vocabSize: 0, encodeText: refuse, encodeTemplate: refuse, protect: refuse, unprotect: refuse, restoreMarks: refuse,
    decode: (ids) => ids.map(textOf).join(""),
    tokenOf: (id) => tokens[id], isControl: (id) => id < control.length,
    idOf: (token) => (tokens.includes(token) ? tokens.indexOf(token) : undefined),
    stream: () => ({ push: textOf, flush: () => "" }),
    ids: (texts) => texts.map((text) => (tokens.includes(text) ? tokens.indexOf(text) : tokens.push(text) - 1)),
  };
}

interface Reply { reasoning: string; content: string; calls: { name: string; arguments: string }[] }
function joined(parts: readonly ReplyPart[]): Reply {
  const reply: Reply = { reasoning: "", content: "", calls: [] };
  for (const part of parts) {
    if (part.kind !== "tool") reply[part.kind] += part.text;
    else if (part.name !== undefined) reply.calls[part.index] = { name: part.name, arguments: part.arguments };
    else reply.calls[part.index]!.arguments += part.arguments;
  }
  return reply;
}

/** Text with control tokens in it, cut into them and into pieces of plain text at `cuts` (fractions). */
function pieces(text: string, control: readonly string[], cuts: readonly number[]): string[] {
  const at = new Set(cuts.map((cut) => Math.floor(cut * text.length)));
  const out: string[] = [];
  let open = false;
  for (let i = 0; i < text.length;) {
    const token = control.find((literal) => text.startsWith(literal, i));
    if (token !== undefined) out.push(token);
    else if (open && !at.has(i)) out[out.length - 1] += text[i]!;
    else out.push(text[i]!);
    open = token === undefined;
    i += token?.length ?? 1;
  }
  return out;
}

const HARMONY_TEMPLATE = "<|start|>assistant<|channel|>final<|message|>";
const QWEN_TEMPLATE = "<think> </think> <tool_call>";

interface Way { readonly template: string; readonly control: readonly string[]; readonly prompt: string; readonly tools: boolean }
const harmony: Way = { template: HARMONY_TEMPLATE, control: CONTROL, prompt: "<|start|>assistant", tools: true };
const qwen: Way = { template: QWEN_TEMPLATE, control: [], prompt: "assistant\n", tools: true };

const read = (way: Way, text: string, cuts: readonly number[] = []): Reply => joined(Object.values(readPieces(way, pieces(text, way.control, cuts))).flat());

/** Parts that came with the tokens, and those that came with the end. */
function readPieces(way: Way, texts: readonly string[]): { streamed: ReplyPart[]; last: ReplyPart[] } {
  const tokenizer = anyTokenizer(way.control);
  const parser = createReplyParser(tokenizer, replyFormat(tokenizer, way.template), way.prompt, way.tools);
  return { streamed: tokenizer.ids(texts).flatMap((id) => parser.push(id)), last: parser.flush() };
}

const SAID = { reasoning: "", content: "", calls: [] };
const HARMONY_ROWS: readonly (readonly [string, string, Partial<Reply>])[] = [
  ["a thought and an answer", "<|channel|>analysis<|message|>Let me see.<|end|><|start|>assistant<|channel|>final<|message|>It is 4.", { reasoning: "Let me see.", content: "It is 4." }],
  ["an answer at once", "<|channel|>final<|message|>4\n", { content: "4\n" }],
  ["a call, recipient after the channel", "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\":\"Bern\"}<|call|>", { reasoning: "Hm", calls: [{ name: "get_weather", arguments: "{\"city\":\"Bern\"}" }] }],
  ["a call, recipient after the role", " to=functions.get_weather<|channel|>commentary json<|message|>{}", { calls: [{ name: "get_weather", arguments: "{}" }] }],
  ["two calls, a preamble before", "<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant<|channel|>commentary to=functions.a<|message|>1<|call|><|start|>assistant<|channel|>commentary to=functions.b<|message|>2<|call|>", { content: "I will look.", calls: [{ name: "a", arguments: "1" }, { name: "b", arguments: "2" }] }],
  ["a call of a tool that is not there", "<|channel|>analysis to=python code<|message|>1+1<|call|>", { reasoning: "1+1" }],
  ["an unknown channel", "<|channel|>musing<|message|>la la<|end|><|start|>assistant<|channel|>final<|message|>4", { reasoning: "la la", content: "4" }],
  ["no channel at all", "<|message|>4", { content: "4" }],
  ["no marker at all", "It is 4.", { content: "It is 4." }],
  ["no marker at all, at length", "word ".repeat(100), { content: "word ".repeat(100) }],
  ["a body that is cut off by the next message", "<|channel|>analysis<|message|>Hm<|start|>assistant<|channel|>final<|message|>4", { reasoning: "Hm", content: "4" }],
  ["a message that forgot its start", "<|channel|>analysis<|message|>Hm<|end|><|channel|>final<|message|>4", { reasoning: "Hm", content: "4" }],
  ["a message that forgot its end and start", "<|channel|>analysis<|message|>Hm<|channel|>final<|message|>4", { reasoning: "Hm", content: "4" }],
  ["cut in the header", "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>fi", { reasoning: "Hm" }],
  ["cut after the role", "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant", { reasoning: "Hm" }],
  ["cut in a call's recipient", " to=functions.get_w", {}],
  ["nothing", "", {}],
];
const QWEN_ROWS: readonly (readonly [string, string, Partial<Reply>])[] = [
  ["a thought and an answer", "<think>\nLet me see.\n\nYes.\n</think>\n\nIt is 4.\n", { reasoning: "Let me see.\n\nYes.", content: "It is 4.\n" }],
  ["an empty thought", "<think>\n\n</think>\n\n4", { content: "4" }],
  ["white space before the thought", "\n<think>a</think>b", { reasoning: "a", content: "b" }],
  ["no thought", " It is < 4 <thi", { content: " It is < 4 <thi" }],
  ["a thought that does not end", "<think>\nHm </thi", { reasoning: "Hm </thi" }],
  ["a marker inside the answer", "4 <think>5</think>", { content: "4 <think>5</think>" }],
  ["a call", "<think>a</think>\n\nLook:\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>", { reasoning: "a", content: "Look:", calls: [{ name: "f", arguments: "{\"a\": 1}" }] }],
  ["two calls", "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n<tool_call>{\"name\":\"g\"}</tool_call>\n", { calls: [{ name: "f", arguments: "{}" }, { name: "g", arguments: "{}" }] }],
  ["a list of calls", "<tool_call>[{\"name\":\"f\",\"arguments\":\"{}\"},{\"name\":\"g\"}]</tool_call>", { calls: [{ name: "f", arguments: "{}" }, { name: "g", arguments: "{}" }] }],
  ["a call that is no JSON", "a <tool_call>f(1)</tool_call> b", { content: "a <tool_call>f(1)</tool_call> b" }],
  ["markers around nothing", "a\n<tool_call>\n</tool_call>\n", { content: "a\n<tool_call>\n</tool_call>\n" }],
  ["a call that is cut off in its name", "a\n<tool_call>{\"name\": \"fi", { content: "a\n<tool_call>{\"name\": \"fi" }],
  ["a call that is cut off after its name", "<tool_call>{\"name\": \"f\"", { calls: [{ name: "f", arguments: "" }] }],
  ["a call that is cut off in its arguments", "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"x</", { calls: [{ name: "f", arguments: "{\"a\": \"x</" }] }],
  ["a call that is cut off in its end", "<tool_call>{\"name\": \"f\", \"arguments\": {}}\n</tool_c", { calls: [{ name: "f", arguments: "{}" }] }],
  ["a call that breaks before its name", "<tool_call>{\"arguments\": {\"a\": 1}, name: \"f\"}</tool_call> b", { content: "<tool_call>{\"arguments\": {\"a\": 1}, name: \"f\"}</tool_call> b" }],
  ["a call that breaks after its name", "<tool_call>{\"name\": \"f\", oops}</tool_call>", { content: "oops}</tool_call>", calls: [{ name: "f", arguments: "" }] }],
  ["a call whose end is forgotten", "<tool_call>{\"name\": \"f\"}\n\nDone.", { content: "Done.", calls: [{ name: "f", arguments: "{}" }] }],
  ["a call with a bracket too many", "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}}\n</tool_call>", { calls: [{ name: "f", arguments: "{\"a\": 1}" }] }],
  ["arguments that are no JSON", "<tool_call>{\"name\": \"f\", \"arguments\": {a: 1,}}</tool_call>", { calls: [{ name: "f", arguments: "{a: 1,}" }] }],
  ["arguments before the name", "<tool_call>{\"arguments\": {\"a\": [1, \"}\\\"\"]}, \"name\": \"f\"}</tool_call>", { calls: [{ name: "f", arguments: "{\"a\": [1, \"}\\\"\"]}" }] }],
  ["arguments as parameters, and more keys", "<tool_call>{\"id\": \"c1\", \"name\": \"f\", \"n\": -1.5, \"x\": {\"name\": \"g\"}, \"parameters\": {\"b\": null}, \"arguments\": 1, \"name\": \"h\"}</tool_call>", { calls: [{ name: "f", arguments: "{\"b\": null}" }] }],
  ["arguments as a JSON string", "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": \\\"\\ud83d\\ude42\\u00e9\\n\\q\\ud83d\\u1\\\"}\"}</tool_call>", { calls: [{ name: "f", arguments: "{\"a\": \"\u{1F642}\u00e9\n\\q\uFFFD\\u1\"}" }] }],
  ["arguments that are a word", "<tool_call>{\"name\": \"f\", \"arguments\": null}</tool_call><tool_call>{\"name\": \"g\", \"arguments\": 12 }</tool_call><tool_call>{\"name\": \"h\", \"arguments\": tru", { calls: [{ name: "f", arguments: "{}" }, { name: "g", arguments: "12" }, { name: "h", arguments: "tru" }] }],
  ["calls one after the other", "<tool_call>{\"name\": \"f\"}\n{\"name\": \"g\"}</tool_call>\nDone.", { content: "Done.", calls: [{ name: "f", arguments: "{}" }, { name: "g", arguments: "{}" }] }],
  ["a list whose second is no call", "<tool_call>[{\"name\": \"f\"}, {\"x\": 1}]</tool_call>", { content: "{\"x\": 1}]</tool_call>", calls: [{ name: "f", arguments: "{}" }] }],
  ["a list that is cut off in its second", "<tool_call>[{\"name\": \"f\"}, {\"name\": \"g", { content: "{\"name\": \"g", calls: [{ name: "f", arguments: "{}" }] }],
  ["a call without a name, and one that has it", "<tool_call>{\"name\": \"\"}</tool_call> <tool_call>{\"name\": \"f\"}</tool_call>", { content: "<tool_call>{\"name\": \"\"}</tool_call>", calls: [{ name: "f", arguments: "{}" }] }],
  ["a call without its end", "<tool_call>{\"name\": \"f\"}", { calls: [{ name: "f", arguments: "{}" }] }],
  ["nothing", "", {}],
];

describe.each([["Harmony", harmony, HARMONY_ROWS], ["markers", qwen, QWEN_ROWS]] as const)("%s", (_, way, rows) => {
  it.each(rows)("%s", (__, text, expected) => {
    expect(read(way, text)).toEqual({ ...SAID, ...expected });
  });

  it("is the same in every chunking", () => {
    const row = fc.constantFrom(...rows);
    fc.assert(fc.property(row, fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 30 }), ([, text], cuts) => {
      expect(read(way, text, cuts)).toEqual(read(way, text));
      expect(read(way, text, Array.from({ length: text.length }, (___, i) => i / text.length))).toEqual(read(way, text));
    }), { numRuns: 500 });
  });

  it("shows nothing that a longer reply would take back, and what is lost by truncation is what was not said", () => {
    fc.assert(fc.property(fc.constantFrom(...rows), fc.nat(200), ([, text], n) => {
      const texts = pieces(text, way.control, Array.from({ length: text.length }, (___, i) => i / text.length));
      const [part, whole] = [joined(readPieces(way, texts.slice(0, n)).streamed), read(way, text)];
      expect([whole.reasoning.startsWith(part.reasoning), whole.content.startsWith(part.content)]).toEqual([true, true]);
      part.calls.forEach((call, i) => {
        expect(whole.calls[i]!.name).toBe(call.name);
        expect(whole.calls[i]!.arguments.startsWith(call.arguments)).toBe(true);
      });
    }), { numRuns: 1000 });
  });

  it("takes any noise", () => {
    const bit = fc.constantFrom(...CONTROL, "<think>", "</think>", "<tool_call>", "</tool_call>", "<", "th", "{\"name\":\"f\"}", "to=functions.", "assistant", " ", "\n", "a", "🙂",
      "{\"name\":\"f\",\"arguments\":", "\"parameters\":\"", "\\", "\\ud83d", "\\u", "\"", "{", "}", "[", "]", ",", ":", "null");
    fc.assert(fc.property(fc.array(bit, { maxLength: 40 }), fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 30 }), (bits, cuts) => {
      const text = bits.join("");
      expect(read(way, text, cuts)).toEqual(read(way, text));
    }), { numRuns: 2000 });
  });
});

describe("how a reply is read", () => {
  it("a prompt that ends inside a thought makes the reply begin there", () => {
    expect(read({ ...qwen, prompt: "<｜Assistant｜><think>\n" }, "Hm\n</think>\n\n4")).toEqual({ ...SAID, reasoning: "Hm", content: "4" });
    expect(read({ ...qwen, prompt: "assistant\n<think>\n\n</think>\n\n" }, "4 </think>")).toEqual({ ...SAID, content: "4 </think>" });
  });

  it("markers that are control tokens count as their text", () => {
    expect(read({ ...qwen, control: ["<think>", "</think>", "<tool_call>", "</tool_call>"] }, "<think>Hm</think>4<tool_call>{\"name\":\"f\"}</tool_call>")).toEqual({ reasoning: "Hm", content: "4", calls: [{ name: "f", arguments: "{}" }] });
  });

  it("half a character at a border stays on its side", () => {
    const tokens = [...BYTE_ALPHABET, ...CONTROL];
    const real = createTokenizer(byteLevelDocument({ tokens, types: tokens.map((token) => (CONTROL.includes(token) ? TOKEN_TYPES.control : TOKEN_TYPES.normal)), where: "t" }, [], PRE_TOKENIZERS["gpt-4o"]!));
    const parser = createReplyParser(real, replyFormat(real, HARMONY_TEMPLATE), "", false);
    const ids = [...real.encodeTemplate("<|channel|>analysis<|message|>a"), 0xf0, 0x9f, ...real.encodeTemplate("<|end|><|start|>assistant<|channel|>final<|message|>é")];
    expect(joined([...ids.flatMap((id) => parser.push(id)), ...parser.flush()])).toEqual({ ...SAID, reasoning: "a\uFFFD", content: "é" });
  });

  it("calls are read only where tools were given, thoughts only where the template has them", () => {
    const text = "<think>a</think>\n<tool_call>{\"name\":\"f\"}</tool_call> ";
    expect(read({ ...qwen, tools: false }, text)).toEqual({ ...SAID, reasoning: "a", content: "<tool_call>{\"name\":\"f\"}</tool_call> " });
    expect(read({ ...qwen, template: "<tool_call>", tools: false }, text)).toEqual({ ...SAID, content: text });
    // Channels need their control tokens: a template that only speaks of them is none.
    expect(read({ ...harmony, control: [] }, "<|channel|>final<|message|>4")).toEqual({ ...SAID, content: "<|channel|>final<|message|>4" });
  });
});

describe("a call", () => {
  const call = fc.record({
    name: fc.string({ minLength: 1, unit: "grapheme" }), given: fc.dictionary(fc.string({ unit: "grapheme" }), fc.jsonValue({ maxDepth: 3 })).filter((given) => !JSON.stringify(given).includes("</tool_call>")), indent: fc.constantFrom(0, 2),
    order: fc.constantFrom("name first", "arguments first"), key: fc.constantFrom("arguments", "parameters"), isText: fc.boolean(), wrap: fc.constantFrom("%", "[%]", "\n %\n"),
  });
  type Call = typeof call extends fc.Arbitrary<infer T> ? T : never;
  const writtenArguments = ({ given, indent }: Call): string => JSON.stringify(given, null, indent);
  const written = (of: Call): string => {
    const [name, given] = [`"name": ${JSON.stringify(of.name)}`, `"${of.key}": ${of.isText ? JSON.stringify(writtenArguments(of)) : writtenArguments(of)}`];
    return `<tool_call>${of.wrap.replace("%", () => `{${of.order === "name first" ? `${name}, ${given}` : `${given}, ${name}`}}`)}</tool_call>`;
  };
  /** Tokens that no half character ends, as a tokenizer's stream gives them. */
  const tokensOf = (text: string, cuts: readonly number[]): string[] => {
    const chars = Array.from(text);
    const at = [...new Set(cuts.map((cut) => Math.floor(cut * chars.length)))].sort((a, b) => a - b);
    return [0, ...at].map((from, i) => chars.slice(from, at[i]).join("")).filter((piece) => piece !== "");
  };

  it("has the arguments as they are written, wherever tokens meet, in any order and form", () => {
    fc.assert(fc.property(fc.array(call, { minLength: 1, maxLength: 3 }), fc.array(fc.double({ min: 0, max: 1, noNaN: true, maxExcluded: true }), { maxLength: 60 }), (calls, cuts) => {
      const { streamed, last } = readPieces(qwen, tokensOf(calls.map(written).join("\n"), cuts));
      expect(joined([...streamed, ...last])).toEqual({ ...SAID, calls: calls.map((of) => ({ name: of.name, arguments: writtenArguments(of) })) });
      // A name comes once, and no piece is of a call before the last one named.
      const named = streamed.flatMap((part) => (part.kind === "tool" ? [part] : []));
      let current = -1;
      for (const part of named) {
        if (part.name !== undefined) current++;
        expect(part.index).toBe(current);
      }
    }), { numRuns: 1000 });
  });

  it("is told when its name is, and grows with its text, but for what could be its end", () => {
    const head = "<tool_call>{\"name\": \"f\"";
    fc.assert(fc.property(call, (of) => {
      const [body, tokenizer] = [writtenArguments(of), anyTokenizer([])];
      const parser = createReplyParser(tokenizer, replyFormat(tokenizer, qwen.template), qwen.prompt, true);
      const push = (text: string): ReplyPart[] => tokenizer.ids(Array.from(text)).flatMap((id) => parser.push(id));
      expect(push(head)).toEqual([{ kind: "tool", index: 0, name: "f", arguments: "" }]);
      expect(push(", \"arguments\": ")).toEqual([]);
      let [given, pushed] = ["", ""];
      for (const char of body) {
        pushed += char;
        for (const part of push(char)) given += part.kind === "tool" && part.name === undefined ? part.arguments : "?";
        expect(pushed.startsWith(given)).toBe(true);
        expect("</tool_call>".startsWith(pushed.slice(given.length))).toBe(true);
      }
      expect(given).toBe(body);
      expect([...push("}\n</tool_call>"), ...parser.flush()]).toEqual([]);
    }), { numRuns: 300 });
  });
});

describe("in a generation", () => {
  const tokenizer = anyTokenizer(CONTROL);
  const format = replyFormat(tokenizer, HARMONY_TEMPLATE);
  const target = (texts: readonly string[], reason: "stop" | "length"): (() => GenerateTarget) => () => ({
    fetch: async () => new Response([
      ...tokenizer.ids(texts).map((id, i) => ({ type: "token", id, index: i })),
      { type: "end", reason, stopId: null, promptTokens: 1, cachedTokens: 0, completionTokens: texts.length, moe: { steps: 1, frames: 0, bytes: 0, retries: 0, hedges: 0 }, timings: { queueMs: 0, promptMs: 1, completionMs: 2 } },
    ].map((event) => `${JSON.stringify(event)}\n`).join("")),
  }) as unknown as GenerateTarget;
  const request: GenerateRequest = { promptIds: [0], maxTokens: 50, sampling: { ...PLAIN_SAMPLING, temperature: 0, seed: 0 }, choice: 0, stopIds: [], trace: false };
  async function run(texts: readonly string[], stops: readonly string[], reason: "stop" | "length" = "stop"): Promise<{ whole: { finish_reason: string; message: Record<string, unknown> }; deltas: { delta: Record<string, unknown>; finish_reason: string | null }[] }> {
    const shape = chatShape({ tokenizer, index: 0, withLogprobs: false, everyToken: false, echoText: null, callPrefix: "call_" });
    const deltas: object[] = [];
    for await (const piece of runChoice(target(texts, reason), tokenizer, { request, stops, reply: () => createReplyParser(tokenizer, format, "", true) }, new AbortController().signal)) {
      const choice = shape.add(piece);
      if (choice !== null) deltas.push(choice);
    }
    return { whole: shape.whole() as never, deltas: deltas as never };
  }
  const THOUGHT = ["<|channel|>", "analysis", "<|message|>", "Stop", " here", "<|end|>", "<|start|>", "assistant"];

  it("reasoning and answer are apart, and stop strings cut the answer only", async () => {
    const { whole, deltas } = await run([...THOUGHT, "<|channel|>", "final", "<|message|>", "It is", " 4. Stop", " now"], ["Stop"]);
    expect(whole).toMatchObject({ finish_reason: "stop", message: { role: "assistant", content: "It is 4. ", reasoning_content: "Stop here" } });
    expect(deltas.map(({ delta }) => delta)).toEqual([{ reasoning_content: "Stop" }, { reasoning_content: " here" }, { content: "It is" }, { content: " 4. " }, {}]);
  });

  it("a completion continues its prompt: the space of its first word is there", async () => {
    const pieces = ["<unk>", "<s>", "\u2581the"];
    const spm = createTokenizer(sentencePieceDocument({ tokens: pieces, types: [2, 3, 1], where: "t" }, { scores: [0, 0, 0], unknownId: 0, byteFallback: false, spacePrefix: "each" }));
    const events = [{ type: "token", index: 0, id: 2 }, { type: "end", reason: "length", stopId: null, promptTokens: 2, cachedTokens: 0, completionTokens: 1, moe: { steps: 1, frames: 0, bytes: 0, retries: 0, hedges: 0 }, timings: { queueMs: 0, promptMs: 1, completionMs: 2 } }];
    const answered = () => ({ fetch: async () => new Response(events.map((event) => `${JSON.stringify(event)}\n`).join("")) }) as unknown as GenerateTarget;
    const text = async (promptIds: readonly number[]): Promise<string> => {
      let all = "";
      for await (const piece of runChoice(answered, spm, { request: { ...request, promptIds }, stops: [], reply: null }, new AbortController().signal)) if (piece.kind !== "prompt") all += piece.text;
      return all;
    };
    expect([await text([1, 2]), await text([1])]).toEqual([" the", "the"]);
  });

  it("calls stream as OpenAI's, and are the reason to end", async () => {
    const texts = [...THOUGHT, "<|channel|>", "commentary", " to=functions.f", "<|message|>", "{\"a\"", ":1}"];
    const { whole, deltas } = await run(texts, []);
    const id = "call_0"; // the prefix given, and the number of the call
    expect(whole).toMatchObject({ finish_reason: "tool_calls", message: { content: null, tool_calls: [{ id, type: "function", function: { name: "f", arguments: "{\"a\":1}" } }] } });
    expect(deltas.slice(2)).toMatchObject([
      { delta: { tool_calls: [{ index: 0, id, type: "function", function: { name: "f", arguments: "" } }] }, finish_reason: null },
      { delta: { tool_calls: [{ index: 0, function: { arguments: "{\"a\"" } }] } },
      { delta: { tool_calls: [{ index: 0, function: { arguments: ":1}" } }] } },
      { delta: {}, finish_reason: "tool_calls" },
    ]);
    expect((await run(texts, [], "length")).whole.finish_reason).toBe("length");
  });
});
