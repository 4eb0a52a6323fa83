// Replies that follow a JSON schema, a grammar or tags: before each token, XGrammar says which may come, and the others' logits become minus infinity.
// Owns the vocabulary as the library knows it, compiled grammars (the last few are kept) and one matcher per generation. Refuses schemas the library
// does not understand, with its own words, and to grow without bound. The library is loaded when a request first asks for it.

import * as xgrammar from "../build/xgrammar.mjs";
import type { Compiled, GrammarCompiler, GrammarMatcher } from "../build/xgrammar.mjs";
import { BYTE_OF_CHARACTER } from "../model/byte-alphabet.ts";
import { ModelError } from "../model/config.ts";
import type { LogitStage } from "../model/logit-adjustments.ts";
import { MARKERS } from "../model/marker-parser.ts";
import type { Tokenizer } from "../model/tokenizer.ts";
import type { Constraint } from "./generate.ts";
import type { Limits } from "./limits.ts";

/** The name of the end of a reply; stop tokens need one. */
const END = "<end of reply>";
/** As Python's json.dumps writes it, and so most of what models have read. */
const SEPARATORS = [", ", ": "] as const;

/** What the library said since it was last asked; it aborts with its reason in the line before. */
let said: string[] = [];
let memory: WebAssembly.Memory | null = null;

export class Constraints {
  readonly #compiler: GrammarCompiler;
  readonly #vocabSize: number;
  readonly #limits: Limits;
  /** By constraint, the last used at the end. */
  readonly #compiled = new Map<string, Compiled>();

  /** Tokens with bytes below 0x20. JSON has none in its strings, and ours none between; the library lets them into strings of limited length (0.1.27). */
  readonly #controlIds: readonly number[];

  private constructor(compiler: GrammarCompiler, vocabSize: number, controlIds: readonly number[], limits: Limits) {
    this.#compiler = compiler;
    this.#vocabSize = vocabSize;
    this.#controlIds = controlIds;
    this.#limits = limits;
  }

  /** For a model whose logits have `vocabSize` entries. The end of a reply is a token of its own behind them: a model may have several, or none. */
  static async create(wasmModule: WebAssembly.Module, tokenizer: Tokenizer, vocabSize: number, limits: Limits): Promise<Constraints> {
    if (memory === null) xgrammar.start(wasmModule, (line) => { said.push(line); }, (own) => { memory = own; });
    const vocabulary = Array.from({ length: vocabSize }, (_, id) => {
      const token = tokenizer.tokenOf(id) ?? "";
      return tokenizer.isControl(id) && !MARKERS.has(token) ? "" : token;
    });
    const type = vocabularyType(vocabulary);
    const controlIds = vocabulary.flatMap((token, id) => (hasControlByte(token, type) ? [id] : []));
    const info = await xgrammar.TokenizerInfo.createTokenizerInfo([...vocabulary, END], type, false, vocabSize + 1, [vocabSize]);
    return new Constraints(await xgrammar.GrammarCompiler.createGrammarCompiler(info, false), vocabSize, controlIds, limits);
  }

  /** A stage for one generation whose reply may end with any of `stopIds`. Throws ModelError where the constraint cannot be understood. */
  async stage(constraint: Constraint, stopIds: readonly number[]): Promise<LogitStage> {
    const matcher = await xgrammar.GrammarMatcher.createGrammarMatcher(await this.#compile(constraint));
    const isJson = constraint.kind === "json" || constraint.kind === "json-schema";
    return new ConstraintStage(matcher, this.#vocabSize, stopIds, isJson ? this.#controlIds : []);
  }

  async #compile(constraint: Constraint): Promise<Compiled> {
    const key = JSON.stringify(constraint);
    const known = this.#compiled.get(key);
    if (known !== undefined) {
      this.#compiled.delete(key);
      this.#compiled.set(key, known);
      return known;
    }
    if (memory !== null && memory.buffer.byteLength > this.#limits.grammarBytes) {
      throw new ModelError(`Grammars take ${memory.buffer.byteLength} bytes of this object's memory, beyond ${this.#limits.grammarBytes}; ask again when it has restarted, or with a grammar used before.`);
    }
    said = [];
    let compiled: Compiled;
    try {
      compiled = await this.#compileNew(constraint);
    } catch (cause) {
      const reason = said.find((line) => line.startsWith("[FATAL]"))?.replace(/^\[FATAL\] \S*: /, "") ?? (cause instanceof Error ? cause.message : String(cause));
      throw new ModelError(`The ${NAMES[constraint.kind]} cannot be used: ${reason}`);
    }
    this.#compiled.set(key, compiled);
    for (const [oldest, of] of this.#compiled) {
      if (this.#compiled.size <= this.#limits.compiledGrammars) break;
      this.#compiled.delete(oldest);
      of.dispose(); // matchers in use keep it alive
    }
    return compiled;
  }

  #compileNew(constraint: Constraint): Promise<Compiled> {
    switch (constraint.kind) {
      case "json": return this.#compiler.compileJSONSchema('{"type":"object"}', false, -1, SEPARATORS, false);
      case "json-schema": return this.#compiler.compileJSONSchema(constraint.schema, false, -1, SEPARATORS, constraint.strict);
      case "grammar": return this.#compiler.compileGrammar(constraint.grammar);
      case "tags": return (async () => this.#compiler.compileStructuralTag(JSON.stringify(await onOneLine(JSON.parse(constraint.tag)))))();
    }
  }
}

/** Schemas within tags as grammars of JSON on one line: the library would allow white space without end in them, and a model that likes it never gets anywhere. */
async function onOneLine(format: unknown): Promise<unknown> {
  if (Array.isArray(format)) return Promise.all(format.map(onOneLine));
  if (typeof format !== "object" || format === null) return format;
  const { type, json_schema: schema } = format as { type?: unknown; json_schema?: unknown };
  if (type === "json_schema" && schema !== undefined) {
    const grammar = await xgrammar.Grammar.fromJSONSchema(JSON.stringify(schema), false, -1, SEPARATORS, false);
    const text = grammar.toString();
    grammar.dispose();
    return { type: "grammar", grammar: text };
  }
  return Object.fromEntries(await Promise.all(Object.entries(format).map(async ([key, value]) => [key, await onOneLine(value)])));
}

const NAMES: Readonly<Record<Constraint["kind"], string>> = { json: "JSON grammar", "json-schema": "JSON schema", grammar: "grammar", tags: "format of the tool calls" };

/** How tokens are written: as bytes in GPT-2's alphabet, with <0xE4> for what is no text, or as they are. */
type VocabularyType = "raw" | "byte_fallback" | "byte_level";

function vocabularyType(vocabulary: readonly string[]): VocabularyType {
  if (vocabulary.includes("<0x0A>")) return "byte_fallback";
  return vocabulary.every((token) => [...token].every((character) => BYTE_OF_CHARACTER.has(character)) || token.includes(" ")) ? "byte_level" : "raw";
}

const hasControlByte = (token: string, type: VocabularyType): boolean => type === "byte_level"
  ? [...token].some((character) => (BYTE_OF_CHARACTER.get(character) ?? 0x20) < 0x20)
  : /[\0-\x1f]/.test(token) || /^<0x[01][0-9A-F]>$/.test(token);

class ConstraintStage implements LogitStage {
  readonly #matcher: GrammarMatcher;
  readonly #vocabSize: number;
  readonly #stopIds: ReadonlySet<number>;
  readonly #forbiddenIds: readonly number[];
  /** Of the next token; null until it is asked for. */
  #mask: Int32Array | null = null;
  #isDisposed = false;

  constructor(matcher: GrammarMatcher, vocabSize: number, stopIds: readonly number[], forbiddenIds: readonly number[]) {
    this.#matcher = matcher;
    this.#vocabSize = vocabSize;
    this.#stopIds = new Set(stopIds);
    this.#forbiddenIds = forbiddenIds;
  }

  apply(row: Float32Array): Float32Array {
    const mask = this.#next();
    const out = row.slice();
    for (let id = 0; id < out.length; id += 32) {
      const word = mask[id >> 5]!;
      if (word === -1) continue;
      const end = Math.min(32, out.length - id);
      for (let bit = 0; bit < end; bit++) if (((word >>> bit) & 1) === 0) out[id + bit] = -Infinity;
    }
    const mayEnd = this.#has(mask, this.#vocabSize);
    for (const id of this.#stopIds) if (id < out.length) out[id] = mayEnd ? row[id]! : -Infinity;
    if (out.every((value) => value === -Infinity)) throw new ModelError("The grammar allows no token of this vocabulary here.");
    return out;
  }

  push(id: number): void {
    this.#mask = null;
    if (!this.#matcher.acceptToken(id)) throw new ModelError(`Token ${id} does not follow the grammar.`);
  }

  /** Only the end may come. */
  get isComplete(): boolean {
    const mask = this.#next();
    return this.#has(mask, this.#vocabSize) && mask.every((word, i) => (i === this.#vocabSize >> 5 ? word & ~(1 << (this.#vocabSize & 31)) : word) === 0);
  }

  dispose(): void {
    if (!this.#isDisposed) this.#matcher.dispose();
    this.#isDisposed = true;
  }

  #next(): Int32Array {
    if (this.#mask !== null) return this.#mask;
    const mask = this.#matcher.getNextTokenBitmask();
    for (const id of this.#forbiddenIds) mask[id >> 5]! &= ~(1 << (id & 31));
    return this.#mask = mask;
  }

  #has(mask: Int32Array, id: number): boolean {
    return ((mask[id >> 5]! >>> (id & 31)) & 1) === 1;
  }
}
