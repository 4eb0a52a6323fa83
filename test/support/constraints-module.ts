// The grammar library, built and loaded, for tests in Node: its script is made at build time, so it can be imported only after that. Owns no assertion.

import { readFileSync } from "node:fs";
import { buildGrammar } from "../../cli/build-grammar.mjs";

buildGrammar();
export const { Constraints } = await import("../../durable/constraints.ts");
export const { GrammarLibrary } = await import("../../durable/grammar-library.ts");
export const grammarWasm = new WebAssembly.Module(readFileSync(new URL("../../build/xgrammar.wasm", import.meta.url)));
