// `workers-moe compress <pass> <model>`: passes that make a model smaller or another. Owns options and summaries. Refuses to overwrite; a pass that is stopped
// leaves nothing. The work is passes/.

import { type Command, InvalidArgumentError, Option } from "commander";
import { writeFileSync } from "node:fs";
import { basename } from "node:path";
import type { Checkpoint } from "../../formats/checkpoint.ts";
import { createTokenizer, type Tokenizer } from "../../model/tokenizer.ts";
import { type ExpertCosts, expertCosts, planExperts } from "../../passes/bit-costs.ts";
import { parseBitPlan, PLAN_BITS, type PlanBits } from "../../passes/bit-plan.ts";
import { SCORES, type ScoreName } from "../../passes/expert-scores.ts";
import { pruneModel, type PruneReport } from "../../passes/prune-model.ts";
import { quantizeModel, type QuantizeOptions, type QuantizeReport } from "../../passes/quantize-model.ts";
import { FolderSink } from "../file-source.ts";
import { kernelModules } from "../open-pack.ts";
import { openCheckpoint } from "../open-model.ts";
import { positiveInteger } from "../positive-integer.ts";
import { startProgress } from "../progress.ts";
import { readText } from "../read-text.ts";
import { showTable } from "../sizes.ts";

interface QuantizeCommand {
  readonly out: string;
  readonly text?: string;
  readonly plan: string;
  readonly actOrder?: boolean;
  readonly damping: number;
  readonly weighting: "count" | "affinity";
  readonly samples: number;
  readonly window: number;
  readonly json?: boolean;
}

export function register(program: Command): void {
  const compress = program.command("compress").description("make a model smaller: quantise, prune, merge, convert");
  const quantizing = (name: "gptq" | "nearest", description: string): Command => compress.command(name).description(description)
    .argument("<model>", "Hugging Face folder, .gguf file or canonical model")
    .requiredOption("-o, --out <dir>", "folder of the new model; must not exist")
    .option("--plan <rules>", "bits of each part, such as \"attn=8; routed=2; exp[l1e3]=4\" (docs/compression.md)", "all=8; attn=4; dense=4; shared=4; routed=4")
    .option("--json", "print one JSON document");
  quantizing("gptq", "quantise with the errors of each column made up for by the next ones (GPTQ, 2022)")
    .requiredOption("--text <file>", "UTF-8 text to calibrate with")
    .option("--samples <n>", "windows of the text, evenly spread", positiveInteger, 64)
    .option("--window <n>", "tokens of a window", positiveInteger, 512)
    .option("--act-order", "columns with the largest inputs first")
    .option("--damping <share>", "added to the Hessian's diagonal, of its mean", share, 0.01)
    .addOption(new Option("--weighting <by>", "how tokens count for an expert: all alike, or by the router's weight (MoEQuant, 2025)").choices(["count", "affinity"]).default("count"))
    .action((model: string, options: QuantizeCommand) => quantize(model, "gptq", options));
  compress.command("bits").description("choose bits for each expert by how often, how much and how badly it is missed (PMQ: MC-MoE, 2024)")
    .argument("<model>", "Hugging Face folder, .gguf file or canonical model")
    .requiredOption("-o, --out <file>", "the plan, for --plan of gptq and nearest; must not exist")
    .requiredOption("--text <file>", "UTF-8 text to calibrate with")
    .requiredOption("--bits <n>", "bits per expert weight on average, without scales, such as 2.5", Number)
    .option("--widths <list>", "bits an expert may have", widthsOf, [2, 4])
    .option("--samples <n>", "windows of the text, evenly spread", positiveInteger, 16)
    .option("--window <n>", "tokens of a window", positiveInteger, 512)
    .option("--json", "print one JSON document")
    .action((model: string, options: BitsCommand) => bits(model, options));
  compress.command("prune").description("take out the experts that matter least to some texts (EASY-EP, 2025)")
    .argument("<model>", "Hugging Face folder, .gguf file or canonical model")
    .requiredOption("-o, --out <dir>", "folder of the new model; must not exist")
    .requiredOption("--text <file...>", "UTF-8 texts to judge by; several count the same")
    .requiredOption("--keep <n>", "experts of each layer that stay", positiveInteger)
    .addOption(new Option("--by <score>", "easy-ep: by how much they turn tokens; frequency: by how often they are chosen; random: the baseline").choices(SCORES).default("easy-ep"))
    .option("--seed <n>", "of random scores", positiveInteger, 1)
    .option("--samples <n>", "windows of each text, evenly spread", positiveInteger, 64)
    .option("--window <n>", "tokens of a window", positiveInteger, 512)
    .option("--json", "print one JSON document")
    .action((model: string, options: PruneCommand) => prune(model, options));
  quantizing("nearest", "quantise every weight to its nearest value: the baseline")
    .action((model: string, options: Omit<QuantizeCommand, "text">) => quantize(model, "nearest", { ...options, damping: 0, weighting: "count", samples: 0, window: 0 }));
}

interface PruneCommand {
  readonly out: string;
  readonly text: readonly string[];
  readonly keep: number;
  readonly by: ScoreName;
  readonly seed: number;
  readonly samples: number;
  readonly window: number;
  readonly json?: boolean;
}

async function prune(model: string, options: PruneCommand): Promise<void> {
  const checkpoint = await openCheckpoint(model);
  const tokenizer = tokenizerOf(checkpoint);
  const domains = options.text.map((file) => calibrationWindows(tokenizer.encodeText(readText(file)), options.samples, options.window, file));
  const sink = await FolderSink.create(options.out, { fresh: true });
  const bar = startProgress({ label: `judging experts of ${basename(checkpoint.name)}`, total: domains.length * checkpoint.config.nLayers, unit: "layers", quiet: options.json === true });
  let report: PruneReport;
  try {
    report = await pruneModel(checkpoint, sink, kernelModules(), { keep: options.keep, score: options.by, seed: options.seed, domains }, (done) => bar.update(done));
  } finally {
    bar.stop();
    await sink.release();
  }
  if (options.json === true) {
    process.stdout.write(`${JSON.stringify({ out: options.out, ...report })}\n`);
    return;
  }
  process.stdout.write(showTable([
    ["model", `${options.out}, ${report.keep} of ${report.of} experts in each of ${report.layers.length} layers, by ${options.by}`],
    ["calibration", `${report.calibrationTokens} tokens of ${domains.length} ${domains.length === 1 ? "text" : "texts"}`],
    ["next", `workers-moe pack ${options.out} --out <dir>`],
  ]));
}

interface BitsCommand {
  readonly out: string;
  readonly text: string;
  readonly bits: number;
  readonly widths: readonly Exclude<PlanBits, 16>[];
  readonly samples: number;
  readonly window: number;
  readonly json?: boolean;
}

function widthsOf(text: string): Exclude<PlanBits, 16>[] {
  const widths = text.split(",").map((width) => PLAN_BITS.find((known) => String(known) === width.trim() && known !== 16));
  if (widths.includes(undefined) || new Set(widths).size < widths.length) throw new InvalidArgumentError("Expected some of 2, 4, 8, such as 2,4.");
  return (widths as Exclude<PlanBits, 16>[]).sort((a, b) => a - b);
}

async function bits(model: string, options: BitsCommand): Promise<void> {
  const checkpoint = await openCheckpoint(model);
  if (!(options.bits >= options.widths[0]! && options.bits <= options.widths.at(-1)!)) throw new Error(`${options.bits} bits per weight were asked for; widths of ${options.widths.join(", ")} give ${options.widths[0]} to ${options.widths.at(-1)}.`);
  const sequences = calibrationWindows(tokenizerOf(checkpoint).encodeText(readText(options.text)), options.samples, options.window, options.text);
  const bar = startProgress({ label: `measuring experts of ${basename(checkpoint.name)}`, total: checkpoint.config.nLayers, unit: "layers", quiet: options.json === true });
  const costs: ExpertCosts[] = [];
  try {
    for await (const of of expertCosts(checkpoint, sequences, kernelModules(), options.widths, (layer) => bar.update(layer + 1))) costs.push(of);
  } finally {
    bar.stop();
  }
  const plan = planExperts(costs, options.widths, options.bits);
  writeFileSync(options.out, `${plan.replaceAll("; exp", ";\nexp")}\n`, { flag: "wx" });
  if (options.json === true) process.stdout.write(`${JSON.stringify({ out: options.out, plan, widths: options.widths, layers: costs })}\n`);
  else process.stdout.write(showTable([["plan", options.out], ["experts", `${costs.length} layers, ${options.bits} bits on average of ${options.widths.join(", ")}`], ["next", `workers-moe compress gptq ${model} --plan "all=8; $(cat ${options.out})" --text <file> --out <dir>`]]));
}

function share(text: string): number {
  const value = Number(text);
  if (!(value >= 0 && value <= 1)) throw new InvalidArgumentError("Expected a number from 0 to 1.");
  return value;
}

async function quantize(model: string, method: QuantizeOptions["method"], options: QuantizeCommand): Promise<void> {
  const checkpoint = await openCheckpoint(model);
  const plan = parseBitPlan(options.plan, checkpoint.config);
  const sequences = options.text === undefined ? [] : calibrationWindows(tokenizerOf(checkpoint).encodeText(readText(options.text)), options.samples, options.window, options.text);
  const sink = await FolderSink.create(options.out, { fresh: true });
  const bar = startProgress({ label: `quantising ${basename(checkpoint.name)}`, total: [...checkpoint.places()].filter((place) => plan.typeOf(place) !== null).length, unit: "matrices", quiet: options.json === true });
  let report: QuantizeReport;
  try {
    report = await quantizeModel(checkpoint, sink, kernelModules(), {
      plan, method, sequences, actOrder: options.actOrder === true, damping: options.damping, weighting: options.weighting,
    }, ({ done }) => bar.update(done));
  } finally {
    bar.stop();
    await sink.release();
  }
  if (options.json === true) {
    process.stdout.write(`${JSON.stringify({ out: options.out, ...report })}\n`);
    return;
  }
  process.stdout.write(showTable([
    ["model", `${options.out}, ${report.matrices.length} matrices quantised by "${report.plan}"`],
    ["calibration", report.calibrationTokens === 0 ? "none" : `${report.calibrationTokens} tokens in ${sequences.length} windows`],
    ...report.layers.map(({ layer, error }): [string, string] => [`layer ${layer}`, `${(100 * error).toFixed(3)} % error of what it adds`]),
    ["next", `workers-moe pack ${options.out} --out <dir>`],
  ]));
}

function tokenizerOf({ tokenizer, description }: Checkpoint): Tokenizer {
  if (tokenizer === null) throw new Error(`${description} has no tokenizer, which calibration with a text needs.`);
  return createTokenizer(JSON.parse(new TextDecoder().decode(tokenizer.json)));
}

/** `samples` windows of `window` tokens at even distances; all of a text that has no more. */
function calibrationWindows(ids: readonly number[], samples: number, window: number, name: string): number[][] {
  const length = Math.min(window, ids.length);
  if (length < 2) throw new Error(`${name} makes ${ids.length} tokens; at least 2 are needed to calibrate.`);
  const n = Math.min(samples, Math.floor(ids.length / length));
  const room = ids.length - length;
  return Array.from({ length: n }, (_, i) => {
    const start = n === 1 ? 0 : Math.floor((i * room) / (n - 1));
    return ids.slice(start, start + length);
  });
}
