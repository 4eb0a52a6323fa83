// Replies that follow a JSON schema, a grammar or tags: before each token, XGrammar says which may come, and the others' logits become minus infinity.
// Owns the vocabulary as the library knows it, compiled grammars (the last few are kept) and one matcher per generation. Refuses schemas the library
// does not understand, with its own words, and to grow without bound. The library is loaded when a request first asks for it.

import * as xgrammar from "../build/xgrammar.mjs";
import type { Compiled, GrammarCompiler } from "../build/xgrammar.mjs";
import { BYTE_ALPHABET, BYTE_OF_CHARACTER } from "../model/byte-alphabet.ts";
import { ModelError } from "../model/config.ts";
import { HARMONY_CONTROLS } from "../model/harmony-parser.ts";
import type { LogitStage } from "../model/logit-adjustments.ts";
import { MARKERS } from "../model/marker-parser.ts";
import type { Tokenizer } from "../model/tokenizer.ts";
import { withJsonStrings, withUtf8Classes } from "./character-classes.ts";
import { ConstraintStage, MaskedRow } from "./constraint-stage.ts";
import type { Constraint } from "./generate.ts";
import { FIRST_NON_TEXT_BYTE, NON_TEXT_BYTES, requireCodePoints, withControls } from "./grammar-text.ts";
import type { Limits } from "./limits.ts";

/** The name of the end of a reply; stop tokens need one. */
const END = "<end of reply>";
/** As Python's json.dumps writes it, and so most of what models have read. */
const SEPARATORS = [", ", ": "] as const;

/** What the library said since it was last asked; it aborts with its reason in the line before. */
let said: string[] = [];
let memory: WebAssembly.Memory | null = null;

interface Entry {
  readonly compiled: Compiled;
  /** Control tokens come where its grammar says. */
  readonly namesControls: boolean;
}

export class Constraints {
  readonly #compiler: GrammarCompiler;
  readonly #vocabSize: number;
  readonly #limits: Limits;
  readonly #row: MaskedRow;
  /** The byte that stands for a control token in grammars. */
  readonly #controlBytes: ReadonlyMap<string, number>;
  /** Their ids. */
  readonly #controlIds: readonly number[];
  /** By constraint, the last used at the end. */
  readonly #compiled = new Map<string, Entry>();

  private constructor(compiler: GrammarCompiler, vocabSize: number, controls: ReadonlyMap<string, number>, controlIds: readonly number[], limits: Limits) {
    this.#compiler = compiler;
    this.#vocabSize = vocabSize;
    this.#controlBytes = controls;
    this.#controlIds = controlIds;
    this.#limits = limits;
    this.#row = new MaskedRow(vocabSize);
  }

  /** For a model whose logits have `vocabSize` entries. The end of a reply is a token of its own behind them: a model may have several, or none. */
  static async create(wasmModule: WebAssembly.Module, tokenizer: Tokenizer, vocabSize: number, limits: Limits): Promise<Constraints> {
    if (memory === null) xgrammar.start(wasmModule, (line) => { said.push(line); }, (own) => { memory = own; });
    // A control token has no text: nothing that is written spells it. Markers that some vocabularies have as control tokens are text all the same.
    const vocabulary = Array.from({ length: vocabSize }, (_, id) => {
      const token = tokenizer.tokenOf(id) ?? "";
      return tokenizer.isControl(id) && !MARKERS.has(token) ? "" : token;
    });
    const type = vocabularyType(vocabulary);
    const controls = new Map<string, number>();
    const controlIds: number[] = [];
    if (type !== "raw") {
      // Bytes that no text has would be broken characters in one. Some of them spell control tokens, and those alone.
      const bytes = NON_TEXT_BYTES.map((byte) => spelledByte(byte, type));
      const hasOne = (token: string): boolean => (type === "byte_level" ? bytes.some((byte) => token.includes(byte)) : bytes.includes(token));
      vocabulary.forEach((token, id) => { if (hasOne(token)) vocabulary[id] = ""; });
      HARMONY_CONTROLS.forEach((token, i) => {
        const id = tokenizer.idOf(token);
        if (id === undefined || id >= vocabSize || !tokenizer.isControl(id)) return;
        vocabulary[id] = spelledByte(FIRST_NON_TEXT_BYTE + i, type);
        controls.set(token, FIRST_NON_TEXT_BYTE + i);
        controlIds.push(id);
      });
    }
    const info = await xgrammar.TokenizerInfo.createTokenizerInfo([...vocabulary, END], type, false, vocabSize + 1, [vocabSize]);
    return new Constraints(await xgrammar.GrammarCompiler.createGrammarCompiler(info, false), vocabSize, controls, controlIds, limits);
  }

  /** A stage for one generation whose reply may end with any of `stopIds`. Throws ModelError where the constraint cannot be understood. */
  async stage(constraint: Constraint, stopIds: readonly number[]): Promise<LogitStage> {
    const { compiled, namesControls } = await this.#compile(constraint);
    const matcher = await xgrammar.GrammarMatcher.createGrammarMatcher(compiled);
    // Free text around tags may have any byte for the library, so control tokens too; a format that names them says where they come.
    return new ConstraintStage(matcher, this.#row, this.#vocabSize, stopIds, namesControls ? [] : this.#controlIds);
  }

  async #compile(constraint: Constraint): Promise<Entry> {
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
    let entry: Entry;
    try {
      entry = await this.#compileNew(constraint);
    } catch (cause) {
      const reason = said.find((line) => line.startsWith("[FATAL]"))?.replace(/^\[FATAL\] \S*: /, "") ?? (cause instanceof Error ? cause.message : String(cause));
      throw new ModelError(`The ${NAMES[constraint.kind]} cannot be used: ${reason}`);
    }
    this.#compiled.set(key, entry);
    for (const [oldest, of] of this.#compiled) {
      if (this.#compiled.size <= this.#limits.compiledGrammars) break;
      this.#compiled.delete(oldest);
      of.compiled.dispose(); // matchers in use keep it alive
    }
    return entry;
  }

  async #compileNew(constraint: Constraint): Promise<Entry> {
    const grammar = async (text: string): Promise<Entry> => ({ compiled: await this.#compiler.compileGrammar(text), namesControls: false });
    switch (constraint.kind) {
      case "json": return grammar(await jsonGrammar('{"type":"object"}', false));
      case "json-schema": return grammar(await jsonGrammar(constraint.schema, constraint.strict));
      case "grammar": {
        requireCodePoints(constraint.grammar);
        return grammar(withUtf8Classes(constraint.grammar));
      }
      case "tags": {
        let namesControls = false;
        const format = await this.#asGrammars(JSON.parse(constraint.tag), () => { namesControls = true; });
        return { compiled: await this.#compiler.compileStructuralTag(JSON.stringify(format)), namesControls };
      }
    }
  }

  /** The format with its schemas and the control tokens it names as grammars: the library would allow white space without end in schemas of its formats. */
  async #asGrammars(format: unknown, onControls: () => void): Promise<unknown> {
    if (Array.isArray(format)) return Promise.all(format.map((part) => this.#asGrammars(part, onControls)));
    if (typeof format !== "object" || format === null) return format;
    const { type, json_schema: schema, strict, grammar, controls } = format as { type?: unknown; json_schema?: unknown; strict?: unknown; grammar?: unknown; controls?: unknown };
    if (type === "json_schema" && schema !== undefined) return { type: "grammar", grammar: await jsonGrammar(JSON.stringify(schema), strict === true) };
    if (type === "grammar" && typeof grammar === "string") {
      requireCodePoints(grammar);
      if (controls === undefined) return { type, grammar: withUtf8Classes(grammar) };
      onControls();
      return { type, grammar: withControls(grammar, controls as Record<string, string>, this.#controlBytes) };
    }
    return Object.fromEntries(await Promise.all(Object.entries(format).map(async ([key, value]) => [key, await this.#asGrammars(value, onControls)])));
  }
}

/** The grammar of a schema: JSON on one line. */
async function jsonGrammar(schema: string, strict: boolean): Promise<string> {
  const grammar = await xgrammar.Grammar.fromJSONSchema(schema, false, -1, SEPARATORS, strict);
  const text = grammar.toString();
  grammar.dispose();
  return withJsonStrings(text);
}

const NAMES: Readonly<Record<Constraint["kind"], string>> = { json: "JSON grammar", "json-schema": "JSON schema", grammar: "grammar", tags: "format of the tool calls" };

/** How tokens are written: as bytes in GPT-2's alphabet, with <0xE4> for what is no text, or as they are. */
type VocabularyType = "raw" | "byte_fallback" | "byte_level";

function vocabularyType(vocabulary: readonly string[]): VocabularyType {
  if (vocabulary.includes("<0x0A>")) return "byte_fallback";
  return vocabulary.every((token) => [...token].every((character) => BYTE_OF_CHARACTER.has(character)) || token.includes(" ")) ? "byte_level" : "raw";
}

/** How the vocabulary writes a byte that is no text. */
const spelledByte = (byte: number, type: VocabularyType): string => (type === "byte_level" ? BYTE_ALPHABET[byte]! : `<0x${byte.toString(16).toUpperCase()}>`);
