// Replies that follow a JSON schema, a grammar or tags: before each token, XGrammar says which may come, and the others' logits become minus infinity.
// Owns the way from a constraint to the text that the library compiles, the vocabulary as it is to know it, and when its memory is given up for a new one.
// Refuses what the library does not understand, with its own words, and what would hold up or harm others (grammar-bounds.ts).

import { BYTE_ALPHABET, BYTE_OF_CHARACTER } from "../model/byte-alphabet.ts";
import { HARMONY_CONTROLS } from "../model/harmony-parser.ts";
import { CapacityError } from "../model/heap.ts";
import type { LogitStage } from "../model/logit-adjustments.ts";
import { MARKERS } from "../model/marker-parser.ts";
import type { Tokenizer } from "../model/tokenizer.ts";
import { withJsonStrings, withUtf8Classes } from "./character-classes.ts";
import { ConstraintStage, MaskedRow } from "./constraint-stage.ts";
import type { Constraint } from "./generate.ts";
import { requireBoundedGrammar, requireBoundedRules, requireBoundedSchema } from "./grammar-bounds.ts";
import { GrammarLibrary, type GrammarSource, type GrammarVocabulary, type VocabularyType } from "./grammar-library.ts";
import { mergedRules } from "./grammar-rules.ts";
import { FIRST_NON_TEXT_BYTE, NON_TEXT_BYTES, requireCodePoints, withControls } from "./grammar-text.ts";
import type { Limits } from "./limits.ts";

export class Constraints {
  readonly #wasmModule: WebAssembly.Module;
  readonly #tokenizer: Tokenizer;
  readonly #vocabSize: number;
  readonly #limits: Limits;
  readonly #row: MaskedRow;
  #library: GrammarLibrary;

  private constructor(wasmModule: WebAssembly.Module, tokenizer: Tokenizer, vocabSize: number, limits: Limits, library: GrammarLibrary) {
    this.#wasmModule = wasmModule;
    this.#tokenizer = tokenizer;
    this.#vocabSize = vocabSize;
    this.#limits = limits;
    this.#row = new MaskedRow(vocabSize);
    this.#library = library;
  }

  /** For a model whose logits have `vocabSize` entries. The end of a reply is a token of its own behind them: a model may have several, or none. */
  static async create(wasmModule: WebAssembly.Module, tokenizer: Tokenizer, vocabSize: number, limits: Limits): Promise<Constraints> {
    return new Constraints(wasmModule, tokenizer, vocabSize, limits, await GrammarLibrary.open(wasmModule, vocabularyOf(tokenizer, vocabSize), limits));
  }

  /** Memory of the library, for those who watch it. */
  get memoryBytes(): number { return this.#library.memoryBytes; }

  /**
   * A stage for one generation whose reply may end with any of `stopIds`. Throws ModelError where the constraint cannot be understood or asks too much,
   * CapacityError where grammars in use leave no room for it.
   */
  async stage(constraint: Constraint, stopIds: readonly number[]): Promise<LogitStage> {
    const library = await this.#usable();
    const { entry, matcher } = await library.matcher(JSON.stringify(constraint), NAMES[constraint.kind], () => this.#sourceOf(library, constraint));
    // Free text around tags may have any byte for the library, so control tokens too; a format that names them says where they come.
    return new ConstraintStage(matcher, this.#row, this.#vocabSize, stopIds, entry.namesControls ? [] : library.vocabulary.controlIds);
  }

  /** The library, or another one where it broke, or has grown and nobody uses it. */
  async #usable(): Promise<GrammarLibrary> {
    const old = this.#library;
    const isLarge = old.memoryBytes > this.#limits.grammarBytes;
    if (isLarge) old.forget();
    if (old.isBroken || (isLarge && old.nMatchers === 0)) {
      const library = await GrammarLibrary.open(this.#wasmModule, vocabularyOf(this.#tokenizer, this.#vocabSize), this.#limits);
      // Another request may have been quicker.
      if (this.#library === old) this.#library = library;
    }
    if (this.#library.memoryBytes > this.#limits.grammarMostBytes) {
      throw new CapacityError(`Grammars in use take ${this.#library.memoryBytes} bytes, beyond ${this.#limits.grammarMostBytes}; ask again when their replies have ended.`);
    }
    return this.#library;
  }

  async #sourceOf(library: GrammarLibrary, constraint: Constraint): Promise<GrammarSource> {
    switch (constraint.kind) {
      case "json": return { kind: "grammar", text: await this.#jsonGrammar(library, '{"type":"object"}', false), namesControls: false };
      case "json-schema": return { kind: "grammar", text: await this.#jsonGrammar(library, constraint.schema, constraint.strict), namesControls: false };
      case "grammar": return { kind: "grammar", text: await this.#ownGrammar(library, constraint.grammar), namesControls: false };
      case "tags": {
        let namesControls = false;
        const format = await this.#asGrammars(library, JSON.parse(constraint.tag), () => { namesControls = true; });
        return { kind: "tags", text: JSON.stringify(format), namesControls };
      }
    }
  }

  /** The format with its schemas and the control tokens it names as grammars: the library would allow white space without end in schemas of its formats. */
  async #asGrammars(library: GrammarLibrary, format: unknown, onControls: () => void): Promise<unknown> {
    if (Array.isArray(format)) {
      const parts: unknown[] = [];
      for (const part of format) parts.push(await this.#asGrammars(library, part, onControls));
      return parts;
    }
    if (typeof format !== "object" || format === null) return format;
    const { type, json_schema: schema, strict, grammar, controls } = format as { type?: unknown; json_schema?: unknown; strict?: unknown; grammar?: unknown; controls?: unknown };
    if (type === "json_schema" && schema !== undefined) return { type: "grammar", grammar: await this.#jsonGrammar(library, JSON.stringify(schema), strict === true) };
    if (type === "grammar" && typeof grammar === "string") {
      if (controls === undefined) return { type, grammar: await this.#ownGrammar(library, grammar) };
      onControls();
      return { type, grammar: withControls(grammar, controls as Record<string, string>, library.vocabulary.controlBytes) };
    }
    const parts: [string, unknown][] = [];
    for (const [key, value] of Object.entries(format)) parts.push([key, await this.#asGrammars(library, value, onControls)]);
    return Object.fromEntries(parts);
  }

  /** A grammar that a request gave. */
  async #ownGrammar(library: GrammarLibrary, grammar: string): Promise<string> {
    requireCodePoints(grammar);
    requireBoundedGrammar(grammar, this.#limits);
    const text = withUtf8Classes(grammar);
    requireBoundedRules(await library.unfolded(text), this.#vocabSize, this.#limits);
    return text;
  }

  /** The grammar of a schema: JSON on one line. */
  async #jsonGrammar(library: GrammarLibrary, schema: string, strict: boolean): Promise<string> {
    requireBoundedSchema(schema, this.#limits);
    const text = mergedRules(withJsonStrings(await library.ofSchema(schema, strict)));
    requireBoundedRules(text, this.#vocabSize, this.#limits);
    return text;
  }
}

const NAMES: Readonly<Record<Constraint["kind"], string>> = { json: "JSON grammar", "json-schema": "JSON schema", grammar: "grammar", tags: "format of the tool calls" };

/** The vocabulary as the library is to know it, and the control tokens that grammars may name. */
function vocabularyOf(tokenizer: Tokenizer, vocabSize: number): GrammarVocabulary {
  // A control token has no text: nothing that is written spells it. Markers that some vocabularies have as control tokens are text all the same.
  const tokens = Array.from({ length: vocabSize }, (_, id) => {
    const token = tokenizer.tokenOf(id) ?? "";
    return tokenizer.isControl(id) && !MARKERS.has(token) ? "" : token;
  });
  const type = vocabularyType(tokens);
  const controlBytes = new Map<string, number>();
  const controlIds: number[] = [];
  if (type !== "raw") {
    // Bytes that no text has would be broken characters in one. Some of them spell control tokens, and those alone.
    const bytes = NON_TEXT_BYTES.map((byte) => spelledByte(byte, type));
    const hasOne = (token: string): boolean => (type === "byte_level" ? bytes.some((byte) => token.includes(byte)) : bytes.includes(token));
    tokens.forEach((token, id) => { if (hasOne(token)) tokens[id] = ""; });
    HARMONY_CONTROLS.forEach((token, i) => {
      const id = tokenizer.idOf(token);
      if (id === undefined || id >= vocabSize || !tokenizer.isControl(id)) return;
      tokens[id] = spelledByte(FIRST_NON_TEXT_BYTE + i, type);
      controlBytes.set(token, FIRST_NON_TEXT_BYTE + i);
      controlIds.push(id);
    });
  }
  return { tokens, type, controlBytes, controlIds };
}

function vocabularyType(vocabulary: readonly string[]): VocabularyType {
  if (vocabulary.includes("<0x0A>")) return "byte_fallback";
  return vocabulary.every((token) => [...token].every((character) => BYTE_OF_CHARACTER.has(character)) || token.includes(" ")) ? "byte_level" : "raw";
}

/** How the vocabulary writes a byte that is no text. */
const spelledByte = (byte: number, type: VocabularyType): string => (type === "byte_level" ? BYTE_ALPHABET[byte]! : `<0x${byte.toString(16).toUpperCase()}>`);
