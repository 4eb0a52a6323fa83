// Makes XGrammar usable in a Worker: @mlc-ai/web-xgrammar -> build/xgrammar.wasm and build/xgrammar.mjs. The package carries its WebAssembly as text
// and compiles it when it starts, which Workers forbid (2026-11); here the module becomes a file of its own, handed over by the bundler, and the script
// an ES module that takes it. Owns the few places of the script that change. Refuses a script in which one of them is not found exactly once.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const SOURCE = "node_modules/@mlc-ai/web-xgrammar/lib/index.js";

/** [what is there, what stands there instead] */
const CHANGES = [
  // Neither a page, nor a web worker, nor Node: nothing is fetched or read.
  ['var ENVIRONMENT_IS_WEB=typeof window=="object";var ENVIRONMENT_IS_WORKER=typeof importScripts=="function";var ENVIRONMENT_IS_NODE=typeof process=="object"&&typeof process.versions=="object"&&typeof process.versions.node=="string";',
    "var ENVIRONMENT_IS_WEB=false;var ENVIRONMENT_IS_WORKER=false;var ENVIRONMENT_IS_NODE=false;"],
  ["await import('module')", "null"],
  ["binding = await Module();", "binding = await Module(moduleArguments);"],
  // Sampling is synchronous, and the binding is there once a matcher is.
  // What it finds goes where the caller wants it: an array for each token would be 25 KB of garbage at 200,000 tokens.
  ["async getNextTokenBitmask() {\n          await asyncInitBinding();", "getNextTokenBitmask(into) {"],
  ["const maskInt32Array = binding.vecIntToView(maskIntVector).slice();", "into.set(binding.vecIntToView(maskIntVector));"],
  ["          return maskInt32Array;\n", ""],
  // Every matcher asks how large the vocabulary is, of a handle that nobody lets go of.
  ["compiledGrammar.tokenizerInfo().getVocabSize());", "vocabSizeOf(compiledGrammar));"],
];

/** Kind of an export that is a global. */
const GLOBAL = 3;

/**
 * The module with one more export, "stackPointer": its first global, which compilers from C keep the stack's end in. The stack it is built with has 64 KiB,
 * and what a deep grammar pushes beyond them lands in its data; whoever has the pointer can give it another.
 */
function withStackPointer(wasm) {
  const leb = (value) => (value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...leb(value >>> 7)]);
  let at = 8;
  const read = () => {
    let [value, shift, byte] = [0, 0, 0];
    do {
      byte = wasm[at++];
      value |= (byte & 0x7f) << shift;
      shift += 7;
    } while (byte & 0x80);
    return value >>> 0;
  };
  const parts = [wasm.subarray(0, 8)];
  const found = [];
  while (at < wasm.length) {
    const from = at;
    const id = wasm[at++];
    const size = read();
    const end = at + size;
    // Section 6, globals: the first must be a variable i32. Section 7, exports: a count, then name, kind and index of each.
    if (id === 6) {
      read();
      if (wasm[at] === 0x7f && wasm[at + 1] === 1) found.push("global");
    }
    if (id === 7) {
      const count = read();
      const name = Buffer.from("stackPointer");
      const body = Buffer.from([...leb(count + 1), ...wasm.subarray(at, end), ...leb(name.length), ...name, GLOBAL, 0]);
      parts.push(Buffer.from([id, ...leb(body.length)]), body);
      found.push("exports");
    } else parts.push(wasm.subarray(from, end));
    at = end;
  }
  if (found.join() !== "global,exports") throw new Error(`${SOURCE}: its module has ${found.join(" and ") || "neither a stack pointer nor exports"}; expected a variable i32 as first global, then exports. Its version has changed: look at cli/build-grammar.mjs.`);
  return Buffer.concat(parts);
}

export function buildGrammar() {
  let script = readFileSync(join(root, SOURCE), "utf8");
  const once = (found, wanted) => {
    if (script.split(found).length !== 2) throw new Error(`${SOURCE} has "${found.slice(0, 60)}" ${script.split(found).length - 1} times; expected it once. Its version has changed: look at cli/build-grammar.mjs.`);
    script = script.replace(found, () => wanted);
  };
  const wasm = /data:application\/octet-stream;base64,([A-Za-z0-9+/=]{1000,})/.exec(script)?.[1];
  if (wasm === undefined) throw new Error(`${SOURCE} carries no WebAssembly module. Its version has changed: look at cli/build-grammar.mjs.`);
  once(wasm, "");
  const malloc = /_malloc=wasmExports\["(\w+)"\]/.exec(script)?.[1];
  if (malloc === undefined) throw new Error(`${SOURCE} no longer says which export is malloc. Its version has changed: look at cli/build-grammar.mjs.`);
  for (const [found, wanted] of CHANGES) once(found, wanted);
  const scriptDirectory = /var _scriptDir = \(typeof document[^\n]*\n/.exec(script)?.[0];
  once(scriptDirectory ?? "var _scriptDir", 'var _scriptDir = "";\n');
  // Left in branches that are never taken; a bundler resolves them all the same.
  const nodePath = "require('u' + 'rl').pathToFileURL(__filename).href";
  if (!script.includes(nodePath)) throw new Error(`${SOURCE} no longer asks for its own path. Its version has changed: look at cli/build-grammar.mjs.`);
  script = script.replaceAll(nodePath, '""');
  const opening = /^\(function \(global, factory\) \{[\s\S]*?\}\)\(this, \(function \(exports\) \{/.exec(script)?.[0];
  once(opening ?? "(function (global, factory)", "(function (exports) {");
  const closing = /\}\)\);\s*(\/\/# sourceMappingURL=[^\n]*)?\s*$/.exec(script)?.[0];
  once(closing ?? "sourceMappingURL", "})(library);\n");
  mkdirSync(join(root, "build"), { recursive: true });
  writeFileSync(join(root, "build", "xgrammar.wasm"), withStackPointer(Buffer.from(wasm, "base64")));
  writeFileSync(join(root, "build", "xgrammar.mjs"), `// Made by cli/build-grammar.mjs from @mlc-ai/web-xgrammar (Apache-2.0).
/** A library of its own, with a memory of its own: what goes wrong in one is not seen in another. print: who hears what it says. */
export function openLibrary(wasmModule, stackBytes, print) {
const library = {};
let exported;
let stackBottom = 0;
const moduleArguments = {
  print, printErr: print,
  instantiateWasm: (imports, receive) => {
    const instance = new WebAssembly.Instance(wasmModule, imports);
    exported = instance.exports;
    return receive(instance);
  },
  onRuntimeInitialized: () => {
    stackBottom = exported["${malloc}"](stackBytes);
    guard().fill(GUARD);
    restoreStack();
  },
};
const restoreStack = () => { exported.stackPointer.value = (stackBottom + stackBytes) & ~15; };
const GUARD = 0xa5;
const guard = () => new Uint8Array(Object.values(exported).find((entry) => entry instanceof WebAssembly.Memory).buffer, stackBottom, 1024);
function vocabSizeOf(compiled) {
  const info = compiled.tokenizerInfo();
  const size = info.getVocabSize();
  info.dispose();
  return size;
}
${script}
const { Grammar, GrammarCompiler, GrammarMatcher, TokenizerInfo } = library;
return {
  restoreStack, Grammar, GrammarCompiler, GrammarMatcher, TokenizerInfo,
  get memoryBytes() { return exported === undefined ? 0 : guard().buffer.byteLength; },
  get isStackWhole() { return exported === undefined || guard().every((byte) => byte === GUARD); },
};
}
`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) buildGrammar();
