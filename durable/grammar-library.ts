// One XGrammar library with one model's vocabulary: a memory of its own, the grammars it has compiled (the last few are kept), and who uses them.
// Owns its errors: what it says when it refuses, and when it broke, after which nothing of it is used any more. Refuses to read constraints
// (constraints.ts). Format: https://xgrammar.mlc.ai, version 0.1.27.

import { openLibrary, type Compiled, type GrammarCompiler, type GrammarMatcher, type Library } from "../build/xgrammar.mjs";
import { ModelError } from "../model/config.ts";
import type { Limits } from "./limits.ts";

/** How tokens are written: as bytes in GPT-2's alphabet, with <0xE4> for what is no text, or as they are. */
export type VocabularyType = "raw" | "byte_fallback" | "byte_level";

export interface GrammarVocabulary {
  /** By id; "" for what is no text. */
  readonly tokens: readonly string[];
  readonly type: VocabularyType;
  /** The byte that stands for a control token in grammars. */
  readonly controlBytes: ReadonlyMap<string, number>;
  /** Their ids. */
  readonly controlIds: readonly number[];
}

/** What is compiled: EBNF, or a structural tag as JSON. */
export interface GrammarSource {
  readonly kind: "grammar" | "tags";
  readonly text: string;
  /** Control tokens come where it says. */
  readonly namesControls: boolean;
}

interface Entry {
  readonly compiled: Compiled;
  readonly namesControls: boolean;
}

/** The name of the end of a reply; stop tokens need one. */
const END = "<end of reply>";
/** As Python's json.dumps writes it, and so most of what models have read. */
const SEPARATORS = [", ", ": "] as const;

export class GrammarLibrary {
  readonly vocabulary: Omit<GrammarVocabulary, "tokens">;
  readonly #library: Library;
  readonly #compiler: GrammarCompiler;
  readonly #limits: Limits;
  /** What it said since it was last asked; it aborts with its reason in the line before. */
  readonly #said: string[];
  /** By constraint, the last used at the end. */
  readonly #compiled = new Map<string, Entry>();
  isBroken = false;
  /** Generations that use it. */
  nMatchers = 0;

  private constructor(library: Library, compiler: GrammarCompiler, { type, controlBytes, controlIds }: GrammarVocabulary, said: string[], limits: Limits) {
    this.#library = library;
    this.#compiler = compiler;
    this.vocabulary = { type, controlBytes, controlIds };
    this.#said = said;
    this.#limits = limits;
  }

  static async open(wasmModule: WebAssembly.Module, vocabulary: GrammarVocabulary, limits: Limits): Promise<GrammarLibrary> {
    const said: string[] = [];
    const library = openLibrary(wasmModule, limits.grammarStackBytes, (line) => { said.push(line); });
    const vocabSize = vocabulary.tokens.length;
    const info = await library.TokenizerInfo.createTokenizerInfo([...vocabulary.tokens, END], vocabulary.type, false, vocabSize + 1, [vocabSize]);
    return new GrammarLibrary(library, await library.GrammarCompiler.createGrammarCompiler(info, false), vocabulary, said, limits);
  }

  get memoryBytes(): number { return this.#library.memoryBytes; }

  /** A schema as a grammar of JSON on one line. */
  ofSchema(schema: string, strict: boolean): Promise<string> {
    return this.#textOf(() => this.#library.Grammar.fromJSONSchema(schema, false, -1, SEPARATORS, strict));
  }

  /** A grammar as the library reads it. */
  unfolded(grammar: string): Promise<string> {
    return this.#textOf(() => this.#library.Grammar.fromEBNF(grammar));
  }

  async #textOf(read: () => Promise<{ toString(): string; dispose(): void }>): Promise<string> {
    const grammar = await read();
    const text = grammar.toString();
    grammar.dispose();
    return text;
  }

  /** A matcher over what `key` stands for: compiled before, or from `source`. `name` is for messages. Throws ModelError in the library's own words. */
  async matcher(key: string, name: string, source: () => Promise<GrammarSource>): Promise<{ entry: Entry; matcher: GrammarMatcher }> {
    this.#said.length = 0;
    try {
      const entry = this.#compiled.get(key) ?? await this.#compile(await source());
      this.#compiled.delete(key);
      this.#compiled.set(key, entry);
      while (this.#compiled.size > this.#limits.compiledGrammars) this.#drop(this.#compiled.keys().next().value!);
      const matcher = await this.#library.GrammarMatcher.createGrammarMatcher(entry.compiled);
      this.nMatchers++;
      return { entry, matcher: this.#watched(matcher) };
    } catch (cause) {
      throw new ModelError(`The ${name} cannot be used: ${this.#reasonOf(cause)}`);
    }
  }

  /** Lets go of every grammar; matchers in use keep theirs. */
  forget(): void {
    for (const key of [...this.#compiled.keys()]) this.#drop(key);
  }

  #drop(key: string): void {
    this.#compiled.get(key)?.compiled.dispose();
    this.#compiled.delete(key);
  }

  async #compile({ kind, text, namesControls }: GrammarSource): Promise<Entry> {
    const compiled = await (kind === "tags" ? this.#compiler.compileStructuralTag(text) : this.#compiler.compileGrammar(text));
    this.#requireWhole();
    return { compiled, namesControls };
  }

  #reasonOf(cause: unknown): string {
    // It refuses by aborting. Any other trap, or a stack that was overrun, leaves a memory that may hold anything.
    const isRefusal = !(cause instanceof RangeError) && !(cause instanceof WebAssembly.RuntimeError && !cause.message.startsWith("Aborted"));
    if (!isRefusal || !this.#library.isStackWhole) this.isBroken = true;
    else this.#library.restoreStack();
    const fatal = this.#said.find((line) => line.startsWith("[FATAL]"))?.replace(/^\[FATAL\] \S*: /, "");
    return fatal ?? (cause instanceof Error ? cause.message : String(cause));
  }

  #requireWhole(): void {
    if (!this.#library.isStackWhole) this.isBroken = true;
    if (this.isBroken) throw new ModelError("The grammar library broke; replies begun from here on have a new one.");
  }

  /** A matcher that is counted, and gives nothing once the library broke. */
  #watched(matcher: GrammarMatcher): GrammarMatcher {
    const required = (): void => { if (this.isBroken) this.#requireWhole(); };
    return {
      getNextTokenBitmask: (into) => {
        required();
        matcher.getNextTokenBitmask(into);
      },
      acceptToken: (id) => {
        required();
        return matcher.acceptToken(id);
      },
      dispose: () => {
        this.nMatchers--;
        if (!this.isBroken) matcher.dispose();
      },
    };
  }
}
