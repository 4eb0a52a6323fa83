// `workers-moe search <model>`: which passes, alone and together, give the best model for a budget. Prints the Pareto front of perplexity against bytes and bytes read per
// token, and how each point is made. Owns options, texts, the space and the folder of results, which appears when it is complete. The work is cli/search/.

import { type Command, InvalidArgumentError } from "commander";
import { createHash } from "node:crypto";
import { access, cp, mkdir, rename, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import type { Checkpoint } from "../../formats/checkpoint.ts";
import { createTokenizer } from "../../model/tokenizer.ts";
import { candidatesOf, defaultSpace, type SearchSpace, searchSpaceSchema } from "../../passes/search-space.ts";
import { calibrationWindows, modelArgument, withCalibration, type CalibrationOptions } from "../compress/pass-command.ts";
import { openCheckpoint } from "../open-model.ts";
import { DEFAULT_CONTEXT_TOKENS } from "../plan-model.ts";
import { positiveInteger } from "../positive-integer.ts";
import { startProgress } from "../progress.ts";
import { readText } from "../read-text.ts";
import { searchPage } from "../report/search-page.ts";
import { type FoundCandidate, SEARCH_FORMAT, SEARCH_VERSION, type SearchDocument, searchText } from "../search/search-document.ts";
import { runSearch, type SearchResult } from "../search/search-run.ts";
import { commandLines, Workshop } from "../search/workshop.ts";
import { showBytes } from "../sizes.ts";
import { PASS_COMMANDS } from "./compress.ts";
import { windowsOf } from "./eval.ts";

interface SearchCommandOptions extends CalibrationOptions {
  readonly calibration: string;
  readonly eval: string;
  readonly out?: string;
  readonly budgetMib?: number;
  readonly budgetCost?: number;
  readonly space?: string;
  readonly seed: number;
  readonly write?: number;
  readonly json?: boolean;
}

/** Standard errors by which a candidate must be worse to be dropped before the end of the text. */
const DEVIATIONS = 3;

function amount(text: string): number {
  if (!/^\d+(\.\d+)?$/.test(text) || !(Number(text) > 0)) throw new InvalidArgumentError("Expected a number above 0.");
  return Number(text);
}

export function register(program: Command): void {
  withCalibration(program.command("search").description("find the passes that give the best model for a budget").addArgument(modelArgument()), 16)
    .requiredOption("--calibration <file>", "UTF-8 text that passes calibrate with")
    .requiredOption("--eval <file>", "UTF-8 text that perplexity is measured on; another one")
    .option("-o, --out <dir>", "folder of search.json, search.html and kept models (default: the model's name and -search); must not exist")
    .option("--budget-mib <n>", "most MiB of weights in the pack", amount)
    .option("--budget-cost <usd>", "most dollars per million tokens, as `plan` says for one stream", amount)
    .option("--space <file>", "what to try, as JSON (docs/compression.md); default: a few widths, with and without fewer experts")
    .option("--seed <n>", "of what passes draw", positiveInteger, 1)
    .option("--write <n>", "keep so many models of the front, those that predict best", positiveInteger)
    .option("--json", "print one JSON document")
    .action(search);
}

const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

async function search(path: string, options: SearchCommandOptions): Promise<void> {
  const { calibration, seed, json = false } = options;
  const checkpoint = await openCheckpoint(path);
  const out = options.out ?? `${basename(resolve(path)).replace(/\.gguf$/, "")}-search`;
  if (await access(out).then(() => true, () => false)) throw new Error(`${out} exists already; give another --out or remove it first.`);
  calibrationWindows(checkpoint, calibration, options); // says now what passes would say later
  const text = readText(options.eval);
  const space = options.space === undefined ? defaultSpace(checkpoint.config, { ...options, seed }) : readSpace(options.space);
  const candidates = candidatesOf(space);
  const unknown = candidates.flat().find(({ pass }) => !PASS_COMMANDS.some(({ name }) => name === pass));
  if (unknown !== undefined) throw new Error(`The search space names a pass "${unknown.pass}"; expected ${PASS_COMMANDS.map(({ name }) => name).join(", ")}.`);
  const contextLength = Math.min(DEFAULT_CONTEXT_TOKENS, checkpoint.config.maxPositions);
  const nWindows = countWindows(checkpoint, text, options.eval, contextLength);
  const folder = join(dirname(resolve(out)), `.${basename(out)}.work`);
  const calibrationSha256 = sha256(readText(calibration));
  const workshop = new Workshop({ folder, model: path, fingerprint: await checkpoint.fingerprint(), text: calibration, textSha256: calibrationSha256 });
  const bar = startProgress({ label: `searching ${basename(path)}`, total: candidates.length * nWindows, unit: "windows", quiet: json });
  let result: SearchResult;
  try {
    result = await runSearch(checkpoint, workshop, {
      candidates, text, textFile: options.eval, textSha256: sha256(text), nWindows, contextLength, deviations: DEVIATIONS,
      budgetBytes: options.budgetMib === undefined ? null : Math.floor(options.budgetMib * 2 ** 20), budgetDollars: options.budgetCost ?? null,
    }, ({ done, now }) => bar.update(done, now));
  } finally {
    bar.stop();
  }
  const { document, kept } = found(path, checkpoint, options, result, {
    calibrationSha256, evaluation: { file: options.eval, sha256: sha256(text), windows: nWindows, contextLength }, out,
  });
  if (document.front.length === 0) await refuse(document, workshop);
  await writeResults(out, document, kept);
  await workshop.remove();
  process.stdout.write(json ? `${JSON.stringify({ out, ...document, passes: { run: workshop.runs, reused: workshop.reused } })}\n` : `${searchText(document)}\nThe page is ${join(out, "search.html")}.\n`);
}

function readSpace(file: string): SearchSpace {
  let json: unknown;
  try {
    json = JSON.parse(readText(file));
  } catch (cause) {
    throw new Error(`${file} is no JSON: ${cause instanceof Error ? cause.message : String(cause)}.`, { cause });
  }
  const parsed = searchSpaceSchema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0]!;
  throw new Error(`${file} is no search space: ${issue.path.join(".") || "the document"}: ${issue.message}. Expected {"stages": [[[{"pass": …, "options": {…}}]]]}.`);
}

/** As the packs will read it. */
function countWindows({ tokenizer, config }: Checkpoint, text: string, name: string, contextLength: number): number {
  const n = createTokenizer(JSON.parse(new TextDecoder().decode(tokenizer!.json))).encodeText(text).length;
  const hasBos = tokenizer!.addBos && config.bosTokenId !== null;
  const windows = windowsOf(n, contextLength - (hasBos ? 1 : 0), hasBos);
  if (windows.length === 0) throw new Error(`${name} makes ${n} tokens; at least ${hasBos ? 1 : 2} are needed to score one.`);
  return windows.length;
}

interface Facts {
  readonly calibrationSha256: string;
  readonly evaluation: Omit<SearchDocument["evaluation"], "tokens">;
  readonly out: string;
}

/** The document, and the folders of models to keep. */
function found(path: string, { kind, sha256: modelSha256 }: Checkpoint, options: SearchCommandOptions, { found: all, shares }: SearchResult, { calibrationSha256, evaluation, out }: Facts): { document: SearchDocument; kept: Map<string, string> } {
  const front = [...all.keys()].filter((i) => all[i]!.became === "front").sort((a, b) => all[a]!.bytes! - all[b]!.bytes! || all[a]!.meanNll! - all[b]!.meanNll!);
  const made = front.filter((i) => all[i]!.passes.length > 0).sort((a, b) => all[a]!.meanNll! - all[b]!.meanNll!).slice(0, options.write ?? 0);
  const kept = new Map(made.map((i) => [`point-${front.indexOf(i) + 1}`, all[i]!.made!.model]));
  const candidates = all.map(({ made: _, ...of }, i): FoundCandidate => ({
    ...of, commands: front.includes(i) ? commandLines(of.passes, { model: path, text: options.calibration }, `point-${front.indexOf(i) + 1}`) : [],
    kept: made.includes(i) ? join(out, `point-${front.indexOf(i) + 1}`) : null,
  }));
  const tokens = Math.max(0, ...front.map((i) => all[i]!.tokens));
  return {
    kept,
    document: {
      format: SEARCH_FORMAT, version: SEARCH_VERSION, model: { path, kind, sha256: modelSha256 }, calibration: { file: options.calibration, sha256: calibrationSha256 },
      evaluation: { ...evaluation, tokens }, budget: { bytes: options.budgetMib === undefined ? null : Math.floor(options.budgetMib * 2 ** 20), dollars: options.budgetCost ?? null },
      deviations: DEVIATIONS, shares: [...shares], candidates, front,
    },
  };
}

/** Nothing came of any candidate. */
async function refuse({ candidates, budget }: SearchDocument, workshop: Workshop): Promise<never> {
  await workshop.remove();
  const failed = candidates.find(({ became }) => became === "failed");
  if (failed !== undefined) throw new Error(`No candidate is within the budget and could be made. ${failed.name}: ${failed.because}`);
  const least = candidates.reduce((a, b) => ((b.bytes ?? Infinity) < (a.bytes ?? Infinity) ? b : a));
  throw new Error(`No candidate is within the budget${budget.bytes === null ? "" : ` of ${showBytes(budget.bytes)}`}; the smallest, ${least.name}, is out by: ${least.because}.`);
}

/** All of it or nothing. */
async function writeResults(out: string, document: SearchDocument, kept: ReadonlyMap<string, string>): Promise<void> {
  const partial = join(dirname(resolve(out)), `.${basename(out)}.unfinished`);
  await rm(partial, { recursive: true, force: true });
  await mkdir(partial, { recursive: true });
  await writeFile(join(partial, "search.json"), `${JSON.stringify(document, null, 1)}\n`);
  await writeFile(join(partial, "search.html"), await searchPage(document));
  for (const [name, model] of kept) await cp(model, join(partial, name), { recursive: true });
  await rename(partial, out);
}
