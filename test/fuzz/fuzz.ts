// `npm run fuzz -- [--cases N] [--seed N] [--target NAME] [--from N]`: damaged inputs for every parser (targets.ts), each target its share of the
// cases. Prints cases, seed and time per target and in all, and each new kind of problem once with the input saved under build/fuzz/. Case N of a
// target and seed is the same input whatever ran before: --target NAME --seed N --from N --cases 1 runs it alone. Fails when it found something.

import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { watchAllocations } from "./allocations.ts";
import { runCases } from "./run-cases.ts";
import { TARGETS } from "./targets.ts";
import { startWatchdog } from "./watchdog.ts";

const { values } = parseArgs({
  options: { cases: { type: "string", default: "1000000" }, seed: { type: "string", default: "1" }, target: { type: "string" }, from: { type: "string", default: "0" } },
});
const [cases, seed, from] = [values.cases, values.seed, values.from].map((text) => {
  if (!/^\d{1,12}$/.test(text)) throw new Error(`Found "${text}", expected a whole number for --cases, --seed and --from.`);
  return Number(text);
}) as [number, number, number];
const targets = TARGETS.filter(({ name }) => values.target === undefined || name === values.target);
if (targets.length === 0) throw new Error(`There is no target "${values.target}"; expected one of ${TARGETS.map(({ name }) => name).join(", ")}.`);
const FOLDER = join(import.meta.dirname, "../../build/fuzz");
mkdirSync(FOLDER, { recursive: true });

const shares = targets.reduce((n, { share }) => n + share, 0);
const corpora = await Promise.all(targets.map((target) => target.corpus()));
watchAllocations();
const watchdog = startWatchdog(targets.map(({ name }) => name), seed);
const seconds = (fromMs: number): string => `${((performance.now() - fromMs) / 1000).toFixed(1)} s`;
let nFinds = 0;
let nCases = 0;
const started = performance.now();
for (const [t, target] of targets.entries()) {
  const kinds = new Map<string, number>();
  const count = Math.ceil((cases * target.share) / shares);
  const start = performance.now();
  await runCases(target, corpora[t]!, seed, from, count, ({ number, problem, kind, input }) => {
    const known = kinds.get(kind) ?? 0;
    kinds.set(kind, known + 1);
    if (known > 0) return;
    nFinds++;
    const file = join(FOLDER, `${target.name}-${seed}-${number}.bin`);
    writeFileSync(file, input);
    console.log(`${target.name}, case ${number}: ${problem}\n  input kept in ${file}`);
  }, (number) => watchdog.note(t, number));
  nCases += count;
  const found = [...kinds.values()].reduce((n, k) => n + k, 0);
  console.log(`${target.name.padEnd(18)} ${String(count).padStart(8)} cases, seed ${seed}, ${seconds(start).padStart(8)}, ${found === 0 ? "nothing found" : `${kinds.size} kinds of problems in ${found} cases`}`);
}
await watchdog.stop();
console.log(`${targets.length} targets, ${nCases} cases, seed ${seed}, ${seconds(started)}: ${nFinds === 0 ? "nothing found" : `${nFinds} kinds of problems`}`);
process.exitCode = nFinds === 0 ? 0 : 1;
