// `compress bits`: a plan of bits within an average. Owns its options and the file of rules. The work is passes/bit-costs.ts and passes/structure-plans.ts.

import { InvalidArgumentError, Option } from "commander";
import { writeFileSync } from "node:fs";
import { basename } from "node:path";
import { type Checkpoint, expertName } from "../../formats/checkpoint.ts";
import { moeLayersOf } from "../../model/config.ts";
import { expertMatrices } from "../../model/expert-kinds.ts";
import { accountBits, averageBits, type BitAccount } from "../../passes/bit-accounting.ts";
import { checkAverage, expertCosts, HALVED_EXPERTS, type PartCosts, planExperts, planParts, WHOLE_EXPERTS } from "../../passes/bit-costs.ts";
import { type BitPlan, parseBitPlan, PLAN_BITS, typeOfBits } from "../../passes/bit-plan.ts";
import { measureBlocks } from "../../passes/block-importance.ts";
import { matrixOutlierScore } from "../../passes/outlier-score.ts";
import { expertOrder, type ExpertMeasures, NEEDS, type OrderName, ORDERS, structurePlan, type Width } from "../../passes/structure-plans.ts";
import { openCheckpoint } from "../open-model.ts";
import { kernelModules } from "../open-pack.ts";
import { positiveInteger } from "../positive-integer.ts";
import { startProgress } from "../progress.ts";
import { reportFile } from "../report/write-report.ts";
import { showTable } from "../sizes.ts";
import { type CalibrationOptions, calibrationWindows, modelArgument, type PassCommand, type ReportOptions, withCalibration } from "./pass-command.ts";

interface Options extends CalibrationOptions, ReportOptions {
  readonly out: string;
  readonly text?: string;
  readonly by: "pmq" | "error" | OrderName;
  readonly bits: number;
  readonly widths: readonly Width[];
  readonly seed: number;
  readonly json?: boolean;
}

const WIDTHS: readonly Width[] = PLAN_BITS.filter((width) => width !== 16);

export const bitsCommand: PassCommand = {
  name: "bits",
  sentence: "Choose bits for each expert by how often it is asked, how much it counts and how badly it is missed, or for all parts by structure; writes a plan.",
  source: "PMQ: MC-MoE, 2024; MC#, 2025; QuantMoE-Bench, 2024",
  register: (command) => {
    withCalibration(command.addArgument(modelArgument()), 16)
      .requiredOption("-o, --out <file>", "the plan, for --plan of gptq and nearest and for pack --quant; must not exist")
      .option("--text <file>", "UTF-8 text to measure with; by outliers and random need none")
      .addOption(new Option("--by <what>", "error: least squared error, gate and up apart from down; pmq: least loss of whole experts; else attention, shared and dense parts first, then experts in this order (docs/compression.md)").choices(["error", "pmq", ...ORDERS]).default("error"))
      .requiredOption("--bits <n>", "on average; error and pmq: per expert weight, without scales, such as 2.5; others: per weight within layers, with scales, such as 3.5", Number)
      .option("--widths <list>", `bits a matrix may have: some of ${WIDTHS.join(", ")}`, widthsOf, [2, 4])
      .option("--seed <n>", "of the random order", positiveInteger, 1)
      .option("--json", "print one JSON document")
      .action(bits);
  },
};

function widthsOf(text: string): Width[] {
  const widths = text.split(",").map((width) => WIDTHS.find((known) => String(known) === width.trim()));
  if (widths.includes(undefined) || new Set(widths).size < widths.length) throw new InvalidArgumentError(`Expected some of ${WIDTHS.join(", ")}, such as 2,4.`);
  return (widths as Width[]).sort((a, b) => a - b);
}

/** A plan, and what it was made from. */
interface Planned {
  readonly plan: string;
  /** Rules that --plan of a quantising pass wants before it. */
  readonly before: string;
  readonly measures: object;
  readonly calibrationTokens: number;
}

async function bits(model: string, options: Options): Promise<void> {
  const { out, widths, by, seed, report, json = false } = options;
  const startMs = performance.now();
  const checkpoint = await openCheckpoint(model);
  const { plan, before, measures, calibrationTokens } = by === "pmq" || by === "error" ? await byLoss(checkpoint, by, options) : await byOrder(checkpoint, by, options);
  const parsed = parseBitPlan(plan, checkpoint.config);
  const account = accountBits(checkpoint, parsed);
  writeFileSync(out, `${plan.replaceAll("; exp", ";\nexp")}\n`, { flag: "wx" });
  if (report) await reportFile(out, { by, bits: options.bits, widths, seed, calibrationTokens }, { pass: bitsCommand, checkpoint, findings: { calibrationTokens, layers: plannedBits(checkpoint, parsed) }, seconds: (performance.now() - startMs) / 1000 });
  process.stdout.write(json ? `${JSON.stringify({ out, by, plan, widths, storedBits: bitsByPart(account), ...measures })}\n` : showTable([
    ["plan", out], ["by", `${by}, of ${widths.join(", ")} bits`], ...accountRows(account),
    ["next", `workers-moe compress gptq ${model} --plan "${before}; $(cat ${out})" --text <file> --out <dir>`],
  ]));
}

/** Exact averages, with scales; parts that the plan leaves alone count as they are. */
const bitsByPart = (account: BitAccount): Record<string, number> =>
  ({ ...Object.fromEntries([...account.parts].map(([part, sum]) => [part, averageBits(sum)])), layers: averageBits(account.layers) });

const accountRows = (account: BitAccount): [string, string][] => Object.entries(bitsByPart(account)).map(([part, average]) => [`  ${part}`, `${average.toFixed(4)} bits per weight, scales included`]);

const needText = ({ text, by }: Options): string => {
  if (text === undefined) throw new Error(`Bits by ${by} are measured with a text; --text names none.`);
  return text;
};

async function byLoss(checkpoint: Checkpoint, by: "pmq" | "error", options: Options): Promise<Planned> {
  const { widths, bits: average, json = false } = options;
  checkAverage(widths, average);
  const sequences = calibrationWindows(checkpoint, needText(options), options);
  const bar = startProgress({ label: `measuring experts of ${basename(checkpoint.name)}`, total: checkpoint.config.nLayers, unit: "layers", quiet: json });
  const costs: PartCosts[] = [];
  try {
    for await (const of of expertCosts(checkpoint, sequences, kernelModules(), widths, by === "pmq" ? WHOLE_EXPERTS : HALVED_EXPERTS, (layer) => bar.update(layer + 1))) costs.push(of);
  } finally {
    bar.stop();
  }
  return { plan: (by === "pmq" ? planExperts : planParts)(costs, widths, average), before: "all=8", measures: { layers: costs }, calibrationTokens: tokensOf(sequences) };
}

async function byOrder(checkpoint: Checkpoint, by: OrderName, options: Options): Promise<Planned> {
  const { config } = checkpoint;
  const needs = NEEDS[by];
  const frequency: (readonly number[])[] = [];
  const importance: number[] = [];
  const outliers: number[][] = [];
  const sequences = needs.includes("frequency") || needs.includes("importance") ? calibrationWindows(checkpoint, needText(options), options) : [];
  const bar = startProgress({ label: `measuring ${basename(checkpoint.name)}`, total: config.nLayers, unit: "layers", quiet: options.json === true });
  try {
    if (sequences.length > 0) {
      for await (const of of measureBlocks(checkpoint, sequences, kernelModules(), (layer) => bar.update(layer + 1))) {
        frequency.push(of.frequency);
        importance.push(of.importance);
      }
    }
    if (needs.includes("outliers")) {
      for (const layer of config.layerFfns.keys()) {
        outliers.push([]);
        for (let expert = 0; config.layerFfns[layer] === "moe" && expert < config.nExperts; expert++) {
          let most = 0;
          for (const matrix of expertMatrices(config)) most = Math.max(most, await matrixOutlierScore(checkpoint, `layers.${layer}.experts.${expert}.${matrix}`));
          outliers[layer]!.push(most);
        }
        bar.update(layer + 1);
      }
    }
  } finally {
    bar.stop();
  }
  const measures: ExpertMeasures = { frequency, importance, outliers };
  const { rules, average } = structurePlan(checkpoint, expertOrder(by, config, measures, options.seed), options.widths, options.bits);
  const measured = Object.fromEntries(needs.map((need) => [need, measures[need]]));
  return { plan: rules, before: "embed=8; head=8", measures: { average, moeLayers: moeLayersOf(config), ...measured }, calibrationTokens: tokensOf(sequences) };
}

const tokensOf = (sequences: readonly (readonly number[])[]): number => sequences.reduce((sum, { length }) => sum + length, 0);

/** Nominal bits of each expert, by layer: the mean of its matrices'. */
const plannedBits = (checkpoint: Checkpoint, plan: BitPlan): { layer: number; bits: number[] }[] => moeLayersOf(checkpoint.config).map((layer) => ({
  layer, bits: Array.from({ length: checkpoint.config.nExperts }, (_, expert) => {
    const bits = expertMatrices(checkpoint.config).map((matrix) => WIDTHS.find((width) => typeOfBits(width) === plan.typeOf(checkpoint.place(expertName(layer, expert, matrix)))) ?? 16);
    return bits.reduce((sum, width) => sum + width, 0) / bits.length;
  }),
}));
