// What cli/build-grammar.mjs makes of XGrammar: the part of its API that is used here.

declare module "*/xgrammar.mjs" {
  interface Disposable { dispose(): void }
  export interface Compiled extends Disposable {}
  export interface TokenizerInfo extends Disposable {}
  export interface Grammar extends Disposable {
    /** In EBNF, with everything that repeats unfolded. */
    toString(): string;
  }
  export interface GrammarCompiler extends Disposable {
    compileGrammar(grammar: string, rootRule?: string): Promise<Compiled>;
    compileStructuralTag(tag: string): Promise<Compiled>;
  }
  export interface GrammarMatcher extends Disposable {
    /** Writes one bit per token, the lowest id in the lowest bit of the first word. `into` has a word for each 32 tokens begun. */
    getNextTokenBitmask(into: Int32Array): void;
    /** False, and nothing changed, where the grammar does not allow the token. */
    acceptToken(id: number): boolean;
  }
  export interface Library {
    readonly TokenizerInfo: {
      /** `encodedVocab` as the tokenizer writes its tokens; "" for tokens that are no text. */
      createTokenizerInfo(encodedVocab: readonly string[], vocabType: "raw" | "byte_fallback" | "byte_level", prependSpace: boolean, vocabSize: number, stopTokenIds: readonly number[]): Promise<TokenizerInfo>;
    };
    /** `indent` -1: one line. `strict`: objects have no properties but those named. */
    readonly Grammar: {
      fromJSONSchema(schema: string, anyWhitespace: boolean, indent: number, separators: readonly [string, string], strict: boolean): Promise<Grammar>;
      fromEBNF(grammar: string): Promise<Grammar>;
    };
    readonly GrammarCompiler: { createGrammarCompiler(info: TokenizerInfo, cacheEnabled: boolean): Promise<GrammarCompiler> };
    readonly GrammarMatcher: { createGrammarMatcher(compiled: Compiled): Promise<GrammarMatcher> };
    readonly memoryBytes: number;
    /** False once something was written beyond the stack's end, after which nothing in this memory can be trusted. */
    readonly isStackWhole: boolean;
    /** After a call that ended with an error, which may have left its part of the stack taken. */
    restoreStack(): void;
  }
  /** A library with a memory of its own. `print` hears what it says. */
  export function openLibrary(wasmModule: WebAssembly.Module, stackBytes: number, print: (line: string) => void): Library;
}
