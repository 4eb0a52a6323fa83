// `npm run fuzz -- [--cases N] [--seed N] [--target NAME]`: damaged inputs for every parser (targets.ts). Prints cases, seed and time per
// target, and each new kind of problem once with the input saved under build/fuzz/. Refuses to end well when it found something.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Mutator } from "./mutations.ts";
import { TARGETS, problemOf } from "./targets.ts";

const { values } = parseArgs({ options: { cases: { type: "string", default: "1000000" }, seed: { type: "string", default: "1" }, target: { type: "string" } } });
const [cases, seed] = [Number(values.cases), Number(values.seed)];
const targets = TARGETS.filter(({ name }) => values.target === undefined || name === values.target);
if (targets.length === 0) throw new Error(`There is no target "${values.target}"; expected one of ${TARGETS.map(({ name }) => name).join(", ")}.`);
/** An input that takes longer than this is a find. */
const CASE_MS_MAX = 1000;
const FOLDER = join(import.meta.dirname, "../../build/fuzz");
mkdirSync(FOLDER, { recursive: true });

let nFinds = 0;
const started = performance.now();
for (const [number, target] of targets.entries()) {
  const corpus = target.corpus();
  const mutator = new Mutator(seed * 1009 + number);
  const seen = new Set<string>();
  const count = Math.ceil(cases / targets.length);
  const start = performance.now();
  for (let i = 0; i < count; i++) {
    let bytes = mutator.mutate(corpus[mutator.below(corpus.length)]!, corpus);
    if (target.repair !== undefined && mutator.below(2) === 0) bytes = target.repair(bytes);
    const from = performance.now();
    let problem = await problemOf(target, bytes);
    const tookMs = performance.now() - from;
    if (problem === null && tookMs > CASE_MS_MAX) problem = `It took ${Math.round(tookMs)} ms; at most ${CASE_MS_MAX} were expected.`;
    if (problem === null) continue;
    // One find per kind: numbers and names within the message differ from case to case.
    const kind = problem.replaceAll(/"[^"]*"|\S*[\d_.\uFFFD]\S*|\d+/g, "#").slice(0, 200);
    if (seen.has(kind)) continue;
    seen.add(kind);
    nFinds++;
    const file = join(FOLDER, `${target.name}-${nFinds}.bin`);
    writeFileSync(file, bytes);
    console.log(`${target.name}, case ${i}: ${problem}\n  input kept in ${file}`);
  }
  console.log(`${target.name}: ${count} cases, seed ${seed}, ${((performance.now() - start) / 1000).toFixed(1)} s, ${seen.size} kinds of problems`);
}
console.log(`${targets.length} targets, ${Math.ceil(cases / targets.length) * targets.length} cases, seed ${seed}, ${((performance.now() - started) / 1000).toFixed(1)} s: ${nFinds === 0 ? "nothing found" : `${nFinds} finds`}`);
process.exitCode = nFinds === 0 ? 0 : 1;
