// `compress merge`: experts that give alike become one. Owns its options. The work is passes/merge-model.ts.

import { Option } from "commander";
import { basename } from "node:path";
import { canJoin } from "../../passes/joined-experts.ts";
import { mergeModel, type MergeOptions, type MergeReport } from "../../passes/merge-model.ts";
import { openCheckpoint } from "../open-model.ts";
import { kernelModules } from "../open-pack.ts";
import { positiveInteger } from "../positive-integer.ts";
import { type CalibrationOptions, calibrationWindows, modelArgument, type PassCommand, type ReportOptions, share, withCalibration, writeModel } from "./pass-command.ts";

interface Options extends CalibrationOptions, ReportOptions {
  readonly out: string;
  readonly text: string;
  readonly share: number;
  readonly join?: MergeOptions["join"];
  readonly rank: number;
  readonly seed: number;
  readonly json?: boolean;
}

export const mergeCommand: PassCommand = {
  name: "merge",
  sentence: "Merge experts that give alike, over all layers together; what is equal is stored and held once.",
  source: "Sub-MoE, 2025",
  register: (command) => {
    withCalibration(command.addArgument(modelArgument()), 16)
      .requiredOption("-o, --out <dir>", "folder of the new model; must not exist")
      .requiredOption("--text <file>", "UTF-8 text to measure likeness with; every token takes every expert")
      .requiredOption("--share <n>", "of all experts, those that stay different, such as 0.75", share)
      .addOption(new Option("--join <how>", "what a cluster becomes: the best of its neurons with a new down matrix, or the mean of its matrices (otherwise neurons, where experts are no wider than a row and --rank is 1)").choices(["mean", "neurons"]))
      .option("--rank <n>", "of means: directions of merged matrices that stay, as a share of all", share, 1)
      .option("--seed <n>", "of the clusters' beginnings", positiveInteger, 1)
      .option("--json", "print one JSON document")
      .action(merge);
  },
};

async function merge(model: string, options: Options): Promise<void> {
  const { out, share: staying, rank, seed, report, json = false } = options;
  const checkpoint = await openCheckpoint(model);
  const join = options.join ?? (rank === 1 && canJoin(checkpoint.config) ? "neurons" : "mean");
  const sequences = calibrationWindows(checkpoint, options.text, options);
  await writeModel<MergeReport>({
    pass: mergeCommand, checkpoint, out, report, json, label: `comparing experts of ${basename(checkpoint.name)}`, total: checkpoint.config.nLayers, unit: "layers",
    run: (sink, onProgress) => mergeModel(checkpoint, sink, kernelModules(), { share: staying, join, rank, sequences, seed }, onProgress),
    rows: ({ layers, calibrationTokens }) => [
      ["model", `${out}, of ${checkpoint.config.nExperts} experts ${layers.map(({ of }) => new Set(of).size).join(", ")} in the layers that have them`],
      ["joined by", join === "mean" ? "the mean of their matrices" : "the best of their neurons"],
      ["calibration", `${calibrationTokens} tokens in ${sequences.length} windows`],
    ],
  });
}
