// `compress moefy`: a dense model becomes one of experts. Owns its options. The work is passes/moefy-model.ts.

import { basename } from "node:path";
import { type Command, Option } from "commander";
import { type MoefyReport, moefyModel, ROUTERS, SPLITS } from "../../passes/moefy-model.ts";
import { openCheckpoint } from "../open-model.ts";
import { kernelModules } from "../open-pack.ts";
import { positiveInteger } from "../positive-integer.ts";
import { type CalibrationOptions, calibrationWindows, modelArgument, type PassCommand, type ReportOptions, withCalibration, writeModel } from "./pass-command.ts";

interface Options extends CalibrationOptions, ReportOptions {
  readonly out: string;
  readonly text?: string;
  readonly experts: number;
  readonly topK: number;
  readonly split: (typeof SPLITS)[number];
  readonly router: (typeof ROUTERS)[number];
  readonly seed: number;
  readonly json?: boolean;
}

export const moefyCommand: PassCommand = {
  name: "moefy",
  sentence: "Cut the feed-forward parts of a dense model into experts; with all of them on it is the model it was.",
  source: "EMoE, 2024",
  register: (command: Command) => {
    withCalibration(command.addArgument(modelArgument()), 16)
      .requiredOption("-o, --out <dir>", "folder of the new model; must not exist")
      .requiredOption("--experts <n>", "experts of each layer; must divide the feed-forward width", positiveInteger)
      .requiredOption("--top-k <n>", "experts each token takes", positiveInteger)
      .addOption(new Option("--split <how>", "neurons with like gate rows together (EMoE), those that work on the same tokens, or any").choices(SPLITS).default("keys"))
      .addOption(new Option("--router <how>", "means of gate rows (EMoE), or fitted by least squares to how much each expert gives").choices(ROUTERS).default("mean"))
      .option("--text <file>", "UTF-8 text that --split work and --router fitted calibrate with")
      .option("--seed <n>", "of the clusters' beginnings, and of --split random", positiveInteger, 1)
      .option("--json", "print one JSON document")
      .action(moefy);
  },
};

async function moefy(model: string, options: Options): Promise<void> {
  const { out, experts: nExperts, topK, split, router, seed, text, report, json = false } = options;
  if ((split === "work" || router === "fitted") && text === undefined) throw new Error(`--split ${split} with --router ${router} needs --text, a text to calibrate with.`);
  const checkpoint = await openCheckpoint(model);
  const sequences = text === undefined ? [] : calibrationWindows(checkpoint, text, options);
  await writeModel<MoefyReport>({
    pass: moefyCommand, checkpoint, out, report, json, label: `cutting ${basename(checkpoint.name)}`, total: checkpoint.config.nLayers, unit: "layers",
    run: (sink, onProgress) => moefyModel(checkpoint, sink, kernelModules(), { nExperts, topK, split, router, seed, sequences }, onProgress),
    rows: () => [
      ["model", `${out}: ${nExperts} experts of ${checkpoint.config.denseIntermediateSize / nExperts} neurons in each layer, ${topK} for each token`],
      ["calibration", sequences.length === 0 ? "none" : `${sequences.reduce((sum, { length }) => sum + length, 0)} tokens in ${sequences.length} windows`],
    ],
  });
}
