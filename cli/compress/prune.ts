// `compress prune`: fewer experts. Owns its options. The work is passes/prune-model.ts.

import { Option } from "commander";
import { basename } from "node:path";
import { SCORES, type ScoreName } from "../../passes/expert-scores.ts";
import { pruneModel, type PruneReport } from "../../passes/prune-model.ts";
import { openCheckpoint } from "../open-model.ts";
import { kernelModules } from "../open-pack.ts";
import { positiveInteger } from "../positive-integer.ts";
import { type CalibrationOptions, calibrationWindows, modelArgument, type PassCommand, type ReportOptions, withCalibration, writeModel } from "./pass-command.ts";

interface Options extends CalibrationOptions, ReportOptions {
  readonly out: string;
  readonly text: readonly string[];
  readonly keep: number;
  readonly by: ScoreName;
  readonly seed: number;
  readonly json?: boolean;
}

export const pruneCommand: PassCommand = {
  name: "prune",
  sentence: "Take out the experts that matter least to some texts.",
  source: "EASY-EP, 2025",
  register: (command) => {
    withCalibration(command.addArgument(modelArgument()), 64)
      .requiredOption("-o, --out <dir>", "folder of the new model; must not exist")
      .requiredOption("--text <file...>", "UTF-8 texts to judge by; several count the same")
      .requiredOption("--keep <n>", "experts of each layer that stay", positiveInteger)
      .addOption(new Option("--by <score>", "easy-ep: by how much they turn tokens; frequency: by how often they are chosen; random: the baseline").choices(SCORES).default("easy-ep"))
      .option("--seed <n>", "of random scores", positiveInteger, 1)
      .option("--json", "print one JSON document")
      .action(prune);
  },
};

async function prune(model: string, options: Options): Promise<void> {
  const { out, keep, by: score, seed, report, json = false } = options;
  const checkpoint = await openCheckpoint(model);
  const domains = options.text.map((file) => calibrationWindows(checkpoint, file, options));
  await writeModel<PruneReport>({
    pass: pruneCommand, checkpoint, out, report, json, label: `judging experts of ${basename(checkpoint.name)}`, total: domains.length * checkpoint.config.nLayers, unit: "layers",
    run: (sink, onProgress) => pruneModel(checkpoint, sink, kernelModules(), { keep, score, seed, domains }, onProgress),
    rows: ({ of, layers, calibrationTokens }) => [
      ["model", `${out}, ${keep} of ${of} experts in each of ${layers.length} layers, by ${score}`],
      ["calibration", `${calibrationTokens} tokens of ${domains.length} ${domains.length === 1 ? "text" : "texts"}`],
    ],
  });
}
