// `search` as a user runs it: a front of real models whose command lines make them again, the same after it was killed on the way, budgets, and what it refuses.

import { execFile, spawn } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, it } from "vitest";
import { dominates } from "../../../passes/pareto-front.ts";
import { searchDocumentSchema, type SearchDocument } from "../../../cli/search/search-document.ts";
import { tinyModel } from "../../support/tiny-models.ts";
import { writeHuggingFace } from "../../support/write-tiny.ts";

const LAUNCHER = fileURLToPath(new URL("../../../bin/workers-moe.js", import.meta.url));
let folder = "";

interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

const run = (...args: string[]): Promise<Outcome> => new Promise((resolve) => {
  execFile(process.execPath, [LAUNCHER, ...args], { cwd: folder }, (error, stdout, stderr) => resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr }));
});

type Printed = SearchDocument & { readonly passes: { readonly run: number; readonly reused: number } };

async function search(...args: string[]): Promise<Printed> {
  const { code, stdout, stderr } = await run("search", "tiny", "--calibration", "text.txt", "--eval", "eval.txt", "--samples", "3", "--window", "32", ...args, "--json");
  expect([code, stderr]).toEqual([0, ""]);
  return JSON.parse(stdout) as Printed;
}

const documentIn = (out: string): SearchDocument => searchDocumentSchema.parse(JSON.parse(readFileSync(join(folder, out, "search.json"), "utf8")));

const TEXT = { text: "$text", samples: 3, window: 32 };
const PRUNE = { pass: "prune", options: { keep: 6, ...TEXT } };

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "search-"));
  await writeHuggingFace(tinyModel("qwen3_moe", 61), join(folder, "tiny"));
  await writeHuggingFace(tinyModel("llama", 63), join(folder, "dense"));
  const line = (word: string) => (_: unknown, i: number): string => `${word} ${i * i % 97} says "${String.fromCharCode(97 + (i % 26)).repeat(3)}".`;
  writeFileSync(join(folder, "text.txt"), Array.from({ length: 30 }, line("Line")).join(" "));
  writeFileSync(join(folder, "eval.txt"), Array.from({ length: 12 }, line("Row")).join(" "));
  const space = (...stages: object[][][]): string => JSON.stringify({ stages });
  writeFileSync(join(folder, "space.json"), space([[], [PRUNE]], [[{ pass: "nearest", options: { plan: "all=8" } }], [{ pass: "bits", options: { bits: 3, ...TEXT } }, { pass: "gptq", options: { plan: "all=8; $plan", ...TEXT } }]]));
  writeFileSync(join(folder, "odd.json"), space([[], [{ pass: "prune", options: { keep: 1, ...TEXT } }], [{ pass: "merge", options: { share: 1, seed: 1, ...TEXT } }]]));
  writeFileSync(join(folder, "later.json"), space([[{ pass: "later", options: {} }]]));
  writeFileSync(join(folder, "plan.json"), space([[{ pass: "nearest", options: { plan: "attn=5" } }]]));
  // The commands that a search prints, under their own name.
  mkdirSync(join(folder, "bin"));
  writeFileSync(join(folder, "bin/workers-moe"), `#!/bin/sh\nexec "${process.execPath}" "${LAUNCHER}" "$@"\n`, { mode: 0o755 });
  writeFileSync(join(folder, "none.json"), '{"stages": [[[{"pass": "prune", "options": {"keep": [1]}}]]]}');
});
afterAll(() => rmSync(folder, { recursive: true }));

it("finds a front whose command lines make the same models", async () => {
  const printed = await search("--space", "space.json", "--out", "found", "--write", "1");
  const { candidates, front } = documentIn("found");
  expect(printed.candidates).toEqual(candidates);
  expect(candidates.map(({ name }) => name)).toEqual(["nearest all=8", "bits 3 > gptq all=8; $plan", "prune 6 > nearest all=8", "prune 6 > bits 3 > gptq all=8; $plan"]);
  // prune is run once for two candidates.
  expect(printed.passes).toEqual({ run: 7, reused: 1 });
  const figures = candidates.map(({ bytes, activeBytes, meanNll }) => [bytes!, activeBytes!, meanNll!]);
  const whole = candidates.flatMap(({ became }, i) => (became === "front" || became === "measured" ? [i] : []));
  expect(front.toSorted()).toEqual(whole.filter((i) => !whole.some((j) => dominates(figures[j]!, figures[i]!))));
  expect(front.length).toBeGreaterThan(0);
  // The page shows every point; the best one is kept, as a model that is packed like any other.
  const page = readFileSync(join(folder, "found/search.html"), "utf8");
  for (const i of front) expect(page).toContain(`${front.indexOf(i) + 1}: ${candidates[i]!.name.replaceAll(">", "&gt;")}`);
  const best = front.reduce((a, b) => (candidates[b]!.meanNll! < candidates[a]!.meanNll! ? b : a));
  expect(candidates.flatMap(({ kept }) => kept ?? [])).toEqual([`found/point-${front.indexOf(best) + 1}`]);
  // The lines as they stand, in a shell; what they make predicts with the very bits that were measured.
  const mixed = front.find((i) => candidates[i]!.name.includes("$plan"))!;
  const { commands, perplexity, bytes } = candidates[mixed]!;
  const env = { ...process.env, PATH: `${join(folder, "bin")}:${process.env["PATH"]}` };
  await new Promise<void>((resolve, reject) => void execFile("sh", ["-ec", commands.join("\n")], { cwd: folder, env }, (error, _, stderr) => (error === null ? resolve() : reject(new Error(stderr)))));
  const pack = `point-${front.indexOf(mixed) + 1}-pack`;
  const evaluated = JSON.parse((await run("eval", pack, "--text", "eval.txt", "--json")).stdout) as { perplexity: number };
  expect(evaluated.perplexity).toBe(perplexity);
  const inspected = readFileSync(join(folder, pack, "manifest.json"), "utf8");
  expect((JSON.parse(inspected) as { parts: { bytes: number }[] }).parts.reduce((sum, part) => sum + part.bytes, 0)).toBeGreaterThanOrEqual(bytes!);
  expect(readdirSync(folder).filter((name) => name.startsWith("."))).toEqual([]);
});

it("goes on where it was killed, to the same document", async () => {
  const args = ["search", "tiny", "--calibration", "text.txt", "--eval", "eval.txt", "--samples", "3", "--window", "32", "--space", "space.json", "--out", "again"];
  const child = spawn(process.execPath, [LAUNCHER, ...args], { cwd: folder, stdio: "ignore" });
  const ended = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  const work = join(folder, ".again.work");
  while (!(existsSync(work) && readdirSync(work).some((name) => name.endsWith(".score.json")))) await new Promise((resolve) => setTimeout(resolve, 20));
  child.kill("SIGKILL");
  await ended;
  expect(existsSync(join(folder, "again"))).toBe(false);
  const resumed = await search("--space", "space.json", "--out", "again");
  expect(resumed.passes.run).toBeLessThan(7);
  const without = (document: SearchDocument): object => ({ ...document, candidates: document.candidates.map((of) => ({ ...of, kept: null })) });
  expect(without(documentIn("again"))).toEqual(without(documentIn("found")));
  expect(existsSync(work)).toBe(false);
});

it("keeps to budgets, leaves out what saves nothing, and goes on past a pass that fails", async () => {
  const all = documentIn("found").candidates;
  const limit = (all.toSorted((a, b) => a.bytes! - b.bytes!)[1]!.bytes! + 1) / 2 ** 20;
  const within = await search("--space", "space.json", "--out", "small", "--budget-mib", String(limit), "--budget-cost", "1000");
  expect(within.candidates.filter(({ became }) => became !== "over-budget").every(({ bytes, dollars }) => bytes! <= limit * 2 ** 20 && dollars! > 0 && dollars! < 1000)).toBe(true);
  expect(within.candidates.map(({ became, tokens }) => became === "over-budget" && tokens === 0)).toEqual(all.map(({ bytes }) => bytes! > limit * 2 ** 20));
  const odd = await search("--space", "odd.json", "--out", "odd");
  expect(odd.candidates.map(({ became, because }) => [became, because])).toEqual([
    ["front", null], ["failed", expect.stringContaining("1 experts per layer were to stay; expected 2")], ["saves-nothing", "as it is takes no more bytes"],
  ]);
});

it("puts models side by side, as eval measures them", async () => {
  await run("compress", "nearest", "tiny", "--plan", "all=4; embed=8; head=8", "--out", "four");
  await run("pack", "four", "--out", "four-pack");
  const { code, stdout, stderr } = await run("report", "tiny", "four", "--eval", "eval.txt", "--out", "side", "--json");
  expect([code, stderr]).toEqual([0, ""]);
  const { models } = JSON.parse(stdout) as { models: { model: string; passes: string[]; bytes: number; perplexity: number; report: { pass: string } | null }[] };
  expect(models.map(({ model, passes, report }) => [model, passes, report?.pass])).toEqual([["tiny", [], undefined], ["four", ["nearest"], "nearest"]]);
  expect(models[1]!.bytes).toBeLessThan(models[0]!.bytes / 2);
  expect((JSON.parse((await run("eval", "four-pack", "--text", "eval.txt", "--json")).stdout) as { perplexity: number }).perplexity).toBe(models[1]!.perplexity);
  expect(readdirSync(join(folder, "side")).sort()).toEqual(["models.html", "models.json"]);
  const refused = await run("report", "tiny", "nowhere", "--eval", "eval.txt", "--out", "never");
  expect([refused.code, existsSync(join(folder, "never"))]).toEqual([1, false]);
});

it.each([
  ["a text that is not there", ["tiny", "--calibration", "text.txt", "--eval", "nowhere.txt"], "nowhere.txt cannot be read"],
  ["a budget that nothing meets", ["tiny", "--calibration", "text.txt", "--eval", "eval.txt", "--budget-mib", "0.01"], "No candidate is within the budget of 10.2 KiB; the smallest, "],
  ["a space that is none", ["tiny", "--calibration", "text.txt", "--eval", "eval.txt", "--space", "none.json"], "none.json is no search space: stages.0.0.0.options.keep"],
  ["a pass that is none", ["tiny", "--calibration", "text.txt", "--eval", "eval.txt", "--space", "later.json"], 'The search space names a pass "later"; expected gptq, '],
  ["a plan that cannot be", ["tiny", "--calibration", "text.txt", "--eval", "eval.txt", "--space", "plan.json"], 'The bit plan\'s rule "attn=5" does not end in'],
  ["a folder that is there", ["tiny", "--calibration", "text.txt", "--eval", "eval.txt", "--out", "dense"], "dense exists already"],
])("refuses %s in one sentence, and leaves nothing", async (_, args, message) => {
  const before = readdirSync(folder).sort();
  const { code, stderr } = await run("search", ...args, ...(args.includes("--out") ? [] : ["--out", "never"]));
  expect(code).toBe(1);
  expect(stderr).toContain(message);
  expect(stderr).not.toMatch(/\n {4}at /);
  expect(readdirSync(folder).sort()).toEqual(before);
});

it("refuses usage that cannot be", async () => {
  for (const args of [["tiny", "--eval", "eval.txt"], ["tiny", "--calibration", "text.txt", "--eval", "eval.txt", "--budget-mib", "-1"], ["tiny", "--calibration", "text.txt", "--eval", "eval.txt", "--write", "0"]]) {
    expect((await run("search", ...args)).code).toBe(2);
  }
});
