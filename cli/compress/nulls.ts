// `compress nulls`: null experts beside a trained model's own, so that tokens take fewer where few matter. Owns its options. The work is passes/null-experts-model.ts.

import { basename } from "node:path";
import { InvalidArgumentError, Option } from "commander";
import { NULL_ROWS, NULL_WEIGHTS, nullExpertsModel, type NullExpertsReport } from "../../passes/null-experts-model.ts";
import { openCheckpoint } from "../open-model.ts";
import { kernelModules } from "../open-pack.ts";
import { type CalibrationOptions, calibrationWindows, modelArgument, type PassCommand, type ReportOptions, withCalibration, writeModel } from "./pass-command.ts";

interface Options extends CalibrationOptions, ReportOptions {
  readonly out: string;
  readonly text: string;
  readonly active: number;
  readonly rows?: (typeof NULL_ROWS)[number];
  readonly weights?: (typeof NULL_WEIGHTS)[number];
  readonly json?: boolean;
}

export const nullsCommand: PassCommand = {
  name: "nulls",
  sentence: "Put null experts beside the model's own, so that tokens take fewer where few matter: so many on average.",
  source: "AdaMoE, 2024",
  register: (command) => {
    withCalibration(command.addArgument(modelArgument()), 32)
      .requiredOption("-o, --out <dir>", "folder of the new model; must not exist")
      .requiredOption("--text <file>", "UTF-8 text to calibrate with")
      .requiredOption("--active <n>", "experts of a token that are run on average, such as 3.2", positive)
      .addOption(new Option("--rows <kind>", "null experts' logit: one constant, or a row fitted to the token's largest logit; without it, whichever loses less").choices(NULL_ROWS))
      .addOption(new Option("--weights <how>", "of null experts that were chosen: shared among the true ones (AdaMoE), or kept, so that the output is smaller (MoE++); without it, whichever loses less").choices(NULL_WEIGHTS))
      .option("--json", "print one JSON document")
      .action(nulls);
  },
};

function positive(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !(value > 0 && value < Infinity)) throw new InvalidArgumentError("Expected a number above 0.");
  return value;
}

async function nulls(model: string, { out, text, active, rows, weights, report, json = false, ...options }: Options): Promise<void> {
  const checkpoint = await openCheckpoint(model);
  const sequences = calibrationWindows(checkpoint, text, options);
  await writeModel<NullExpertsReport>({
    pass: nullsCommand, checkpoint, out, report, json, label: `measuring experts of ${basename(checkpoint.name)}`, total: checkpoint.config.nLayers, unit: "layers",
    run: (sink, onProgress) => nullExpertsModel(checkpoint, sink, kernelModules(), { active, rows: rows ?? null, weights: weights ?? null, sequences }, onProgress),
    rows: ({ nullExperts, rows: by, weights: of, calibrationTokens, active: found, layers }) => [
      ["model", `${out}, ${nullExperts} null experts in each layer, their logit ${by === "constant" ? "a constant" : "a fitted row's"}, their weights ${of === "kept" ? "kept" : "shared among the true ones"}`],
      ["active", `${found.toFixed(2)} of ${nullExperts} experts on average over ${calibrationTokens} tokens`],
      ...layers.map(({ layer, bias, active: own, loss }): [string, string] => [`layer ${layer}`, `bias ${bias.toFixed(3)}; ${own.toFixed(2)} experts; ${loss.toExponential(2)} of the residual's square lost`]),
    ],
  });
}
