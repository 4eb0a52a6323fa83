// Types of build-grammar.mjs, which stays plain JavaScript because it runs before anything is built.

/** Writes build/xgrammar.mjs and build/xgrammar.wasm. Throws where the package has changed. */
export function buildGrammar(): void;
