// `compress gptq` and `compress nearest`: matrices in fewer bits, by a plan. Owns their options. The work is passes/quantize-model.ts.

import { type Command, Option } from "commander";
import { basename } from "node:path";
import { parseBitPlan } from "../../passes/bit-plan.ts";
import { quantizeModel, type QuantizeOptions, type QuantizeReport } from "../../passes/quantize-model.ts";
import { openCheckpoint } from "../open-model.ts";
import { kernelModules } from "../open-pack.ts";
import { type CalibrationOptions, calibrationWindows, modelArgument, type PassCommand, type ReportOptions, share, withCalibration, writeModel } from "./pass-command.ts";

interface Options extends ReportOptions {
  readonly out: string;
  readonly plan: string;
  readonly json?: boolean;
}

interface GptqOptions extends Options, CalibrationOptions {
  readonly text: string;
  readonly actOrder?: boolean;
  readonly damping: number;
  readonly weighting: "count" | "affinity";
}

const PLAN = "all=8; attn=4; dense=4; shared=4; routed=4";

const planned = (command: Command): Command => command.addArgument(modelArgument())
  .requiredOption("-o, --out <dir>", "folder of the new model; must not exist")
  .option("--plan <rules>", "bits of each part, such as \"attn=8; routed=2; exp[l1e3]=4\" (docs/compression.md)", PLAN)
  .option("--json", "print one JSON document");

export const gptqCommand: PassCommand = {
  name: "gptq",
  sentence: "Quantise; the error of each column is made up for by the next ones, as the inputs of a text allow.",
  source: "GPTQ, 2022; with --weighting affinity MoEQuant, 2025",
  register: (command) => {
    withCalibration(planned(command), 64).requiredOption("--text <file>", "UTF-8 text to calibrate with")
      .option("--act-order", "columns with the largest inputs first")
      .option("--damping <share>", "added to the Hessian's diagonal, of its mean", share, 0.01)
      .addOption(new Option("--weighting <by>", "how tokens count for an expert: all alike, or by the router's weight").choices(["count", "affinity"]).default("count"))
      .action((model: string, options: GptqOptions) => quantize(model, options, "gptq", options));
  },
};

export const nearestCommand: PassCommand = {
  name: "nearest",
  sentence: "Quantise every weight to the nearest value of its group's best scale: the baseline.",
  source: "as the formats define it",
  register: (command) => {
    planned(command).action((model: string, options: Options) => quantize(model, options, "nearest", null));
  },
};

async function quantize(model: string, { out, plan: rules, report, json = false }: Options, method: QuantizeOptions["method"], gptq: GptqOptions | null): Promise<void> {
  const checkpoint = await openCheckpoint(model);
  const plan = parseBitPlan(rules, checkpoint.config);
  const sequences = gptq === null ? [] : calibrationWindows(checkpoint, gptq.text, gptq);
  await writeModel<QuantizeReport>({
    pass: method === "gptq" ? gptqCommand : nearestCommand, checkpoint, out, report, json, label: `quantising ${basename(checkpoint.name)}`, total: [...checkpoint.places()].filter((place) => plan.typeOf(place) !== null).length, unit: "matrices",
    run: (sink, onProgress) => quantizeModel(checkpoint, sink, kernelModules(), {
      plan, method, sequences, actOrder: gptq?.actOrder === true, damping: gptq?.damping ?? 0, weighting: gptq?.weighting ?? "count",
    }, ({ done }) => onProgress(done)),
    rows: ({ matrices, layers, calibrationTokens }) => [
      ["model", `${out}, ${matrices.length} matrices quantised`],
      ["calibration", calibrationTokens === 0 ? "none" : `${calibrationTokens} tokens in ${sequences.length} windows`],
      ...layers.map(({ layer, error }) => [`layer ${layer}`, `${(100 * error).toFixed(3)} % error of what it adds`] as const),
    ],
  });
}
