// `compress bits`: a plan for experts within an average of bits. Owns its options and the file of rules. The work is passes/bit-costs.ts.

import { InvalidArgumentError } from "commander";
import { writeFileSync } from "node:fs";
import { basename } from "node:path";
import { type ExpertCosts, expertCosts, planExperts } from "../../passes/bit-costs.ts";
import { PLAN_BITS, type PlanBits } from "../../passes/bit-plan.ts";
import { openCheckpoint } from "../open-model.ts";
import { kernelModules } from "../open-pack.ts";
import { startProgress } from "../progress.ts";
import { reportFile } from "../report/write-report.ts";
import { showTable } from "../sizes.ts";
import { type CalibrationOptions, calibrationWindows, modelArgument, type PassCommand, type ReportOptions, withCalibration } from "./pass-command.ts";

type Width = Exclude<PlanBits, 16>;

interface Options extends CalibrationOptions, ReportOptions {
  readonly out: string;
  readonly text: string;
  readonly bits: number;
  readonly widths: readonly Width[];
  readonly json?: boolean;
}

export const bitsCommand: PassCommand = {
  name: "bits",
  sentence: "Choose bits for each expert by how often it is asked, how much it counts and how badly it is missed; writes a plan.",
  source: "PMQ: MC-MoE, 2024; MC#, 2025",
  register: (command) => {
    withCalibration(command.addArgument(modelArgument()), 16)
      .requiredOption("-o, --out <file>", "the plan, for --plan of gptq and nearest; must not exist")
      .requiredOption("--text <file>", "UTF-8 text to measure with")
      .requiredOption("--bits <n>", "bits per expert weight on average, without scales, such as 2.5", Number)
      .option("--widths <list>", "bits an expert may have", widthsOf, [2, 4])
      .option("--json", "print one JSON document")
      .action(bits);
  },
};

function widthsOf(text: string): Width[] {
  const widths = text.split(",").map((width) => PLAN_BITS.find((known) => String(known) === width.trim() && known !== 16));
  if (widths.includes(undefined) || new Set(widths).size < widths.length) throw new InvalidArgumentError("Expected some of 2, 4, 8, such as 2,4.");
  return (widths as Width[]).sort((a, b) => a - b);
}

async function bits(model: string, options: Options): Promise<void> {
  const { out, widths, bits: average, report, json = false } = options;
  const checkpoint = await openCheckpoint(model);
  if (!(average >= widths[0]! && average <= widths.at(-1)!)) throw new Error(`${average} bits per weight were asked for; widths of ${widths.join(", ")} give ${widths[0]} to ${widths.at(-1)}.`);
  const sequences = calibrationWindows(checkpoint, options.text, options);
  const bar = startProgress({ label: `measuring experts of ${basename(checkpoint.name)}`, total: checkpoint.config.nLayers, unit: "layers", quiet: json });
  const startMs = performance.now();
  const costs: ExpertCosts[] = [];
  try {
    for await (const of of expertCosts(checkpoint, sequences, kernelModules(), widths, (layer) => bar.update(layer + 1))) costs.push(of);
  } finally {
    bar.stop();
  }
  const plan = planExperts(costs, widths, average);
  writeFileSync(out, `${plan.replaceAll("; exp", ";\nexp")}\n`, { flag: "wx" });
  const calibrationTokens = sequences.reduce((sum, { length }) => sum + length, 0);
  if (report) await reportFile(out, { bits: average, widths, calibrationTokens }, { pass: bitsCommand, checkpoint, findings: { calibrationTokens, layers: plannedBits(plan) }, seconds: (performance.now() - startMs) / 1000 });
  process.stdout.write(json ? `${JSON.stringify({ out, plan, widths, layers: costs })}\n` : showTable([
    ["plan", out], ["experts", `${costs.length} layers, ${average} bits on average of ${widths.join(", ")}`],
    ["next", `workers-moe compress gptq ${model} --plan "all=8; $(cat ${out})" --text <file> --out <dir>`],
  ]));
}

/** Bits of each expert, by layer, of rules as planExperts writes them. */
const plannedBits = (plan: string): { layer: number; bits: number[] }[] =>
  [...Map.groupBy([...plan.matchAll(/exp\[l(\d+)e\d+\]=(\d+)/g)], ([, layer]) => Number(layer))].map(([layer, rules]) => ({ layer, bits: rules.map(([, , width]) => Number(width)) }));
