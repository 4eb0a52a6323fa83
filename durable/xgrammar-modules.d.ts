// What cli/build-grammar.mjs makes of XGrammar: the part of its API that is used here.

declare module "*/xgrammar.mjs" {
  interface Disposable { dispose(): void }
  export interface Compiled extends Disposable {}
  export interface TokenizerInfo extends Disposable {}
  export const TokenizerInfo: {
    /** `encodedVocab` as the tokenizer writes its tokens; "" for tokens that are no text. */
    createTokenizerInfo(encodedVocab: readonly string[], vocabType: "raw" | "byte_fallback" | "byte_level", prependSpace: boolean, vocabSize: number, stopTokenIds: readonly number[]): Promise<TokenizerInfo>;
  };
  export interface Grammar extends Disposable {
    /** In EBNF. */
    toString(): string;
  }
  /** `indent` -1: one line. `strict`: objects have no properties but those named. */
  export const Grammar: { fromJSONSchema(schema: string, anyWhitespace: boolean, indent: number, separators: readonly [string, string], strict: boolean): Promise<Grammar> };
  export interface GrammarCompiler extends Disposable {
    compileGrammar(grammar: string, rootRule?: string): Promise<Compiled>;
    compileStructuralTag(tag: string): Promise<Compiled>;
  }
  export const GrammarCompiler: { createGrammarCompiler(info: TokenizerInfo, cacheEnabled: boolean): Promise<GrammarCompiler> };
  export interface GrammarMatcher extends Disposable {
    /** Writes one bit per token, the lowest id in the lowest bit of the first word. `into` has a word for each 32 tokens begun. */
    getNextTokenBitmask(into: Int32Array): void;
    /** False, and nothing changed, where the grammar does not allow the token. */
    acceptToken(id: number): boolean;
  }
  export const GrammarMatcher: { createGrammarMatcher(compiled: Compiled): Promise<GrammarMatcher> };
  export function start(wasmModule: WebAssembly.Module, print: (line: string) => void, takeMemory: (memory: WebAssembly.Memory) => void): void;
}
