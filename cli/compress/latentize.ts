// `compress latentize`: experts that read few numbers of a token, made by one matrix for many of them. Owns its options. The work is passes/latentize-model.ts.

import { Option } from "commander";
import { basename } from "node:path";
import { LATENT_BY, LATENT_METRICS, largestRank, latentizeModel, type LatentizeReport } from "../../passes/latentize-model.ts";
import { openCheckpoint } from "../open-model.ts";
import { kernelModules } from "../open-pack.ts";
import { positiveInteger } from "../positive-integer.ts";
import { type CalibrationOptions, calibrationWindows, modelArgument, type PassCommand, type ReportOptions, share, withCalibration, writeModel } from "./pass-command.ts";

interface Options extends CalibrationOptions, ReportOptions {
  readonly out: string;
  readonly text: string;
  readonly rank?: number;
  readonly keep?: number;
  readonly groups: number;
  readonly expertRank?: number;
  readonly by: (typeof LATENT_BY)[number];
  readonly metric: (typeof LATENT_METRICS)[number];
  readonly json?: boolean;
}

export const latentizeCommand: PassCommand = {
  name: "latentize",
  sentence: "Let experts read a few numbers of a token, made by one matrix for all of a group: smaller experts, and fewer bytes to shards.",
  source: "MoLAE, 2025",
  register: (command) => {
    withCalibration(command.addArgument(modelArgument()), 32)
      .requiredOption("-o, --out <dir>", "folder of the new model; must not exist")
      .requiredOption("--text <file>", "UTF-8 text to fit to")
      .addOption(new Option("--rank <n>", "numbers that an expert reads, a multiple of 32").argParser(positiveInteger).conflicts("keep"))
      .addOption(new Option("--keep <share>", "the largest rank with which so much of all parameters stays, such as 0.7").argParser(share))
      .option("--groups <n>", "groups of neighbouring experts, each with a matrix of its own", positiveInteger, 1)
      .option("--expert-rank <n>", "directions of gate and up that each expert keeps, before groups share theirs", positiveInteger)
      .addOption(new Option("--by <whose>", "shared: one matrix for a group; per-expert: the baseline, one for each expert with as many parameters in all, written as dense experts").choices(LATENT_BY).default("shared"))
      .addOption(new Option("--metric <by>", "inputs: errors cost what they do to the text; plain: every direction alike").choices(LATENT_METRICS).default("inputs"))
      .option("--json", "print one JSON document")
      .action(latentize);
  },
};

async function latentize(model: string, options: Options): Promise<void> {
  const { out, by, metric, groups: nGroups, expertRank = null, keep, report, json = false } = options;
  const checkpoint = await openCheckpoint(model);
  const rank = options.rank ?? (keep === undefined ? null : largestRank(checkpoint, nGroups, keep));
  if (rank === null) throw new Error("Neither --rank nor --keep was given; expected one of them.");
  const sequences = calibrationWindows(checkpoint, options.text, options);
  await writeModel<LatentizeReport>({
    pass: latentizeCommand, checkpoint, out, report, json, label: `making experts of ${basename(checkpoint.name)} latent`, total: checkpoint.config.nLayers, unit: "layers",
    run: (sink, onProgress) => latentizeModel(checkpoint, sink, kernelModules(), { by, metric, nGroups, rank, expertRank, sequences }, onProgress),
    rows: ({ rank: found, parameters: { before, after }, layers, calibrationTokens }) => [
      ["model", by === "shared" ? `${out}, experts read ${found} of ${checkpoint.config.hiddenSize} numbers, ${nGroups} ${nGroups === 1 ? "group" : "groups"} a layer` : `${out}, each expert's gate and up of rank ${found}`],
      ["parameters", `${(after / 1e6).toFixed(2)} of ${(before / 1e6).toFixed(2)} million (${(100 * after / before).toFixed(1)} %)`],
      ["calibration", `${calibrationTokens} tokens in ${sequences.length} windows`],
      ...layers.map(({ layer, error }) => [`layer ${layer}`, `${(100 * error).toFixed(2)} % error of what it adds`] as const),
    ],
  });
}
