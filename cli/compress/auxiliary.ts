// `compress auxiliary`: fewer experts run per token, vectors of the others in their place. Owns its options. The work is passes/compressed-experts.ts.

import { InvalidArgumentError, Option } from "commander";
import { basename } from "node:path";
import { moeLayersOf } from "../../model/config.ts";
import { compressedConfig, compressExperts, type CompressedExpertsReport } from "../../passes/compressed-experts.ts";
import { openCheckpoint } from "../open-model.ts";
import { kernelModules } from "../open-pack.ts";
import { positiveInteger } from "../positive-integer.ts";
import { type CalibrationOptions, calibrationWindows, modelArgument, type PassCommand, type ReportOptions, withCalibration, writeModel } from "./pass-command.ts";

interface Options extends CalibrationOptions, ReportOptions {
  readonly out: string;
  readonly text: readonly string[];
  readonly run?: number;
  readonly weighAmong: "run" | "ranked";
  readonly epochs: number;
  readonly batch: number;
  readonly rate: number;
  readonly seed: number;
  readonly json?: boolean;
}

export const auxiliaryCommand: PassCommand = {
  name: "auxiliary",
  sentence: "Run only the first of a token's experts; of each other one a fitted vector scales what they get.",
  source: "Compressed Experts, 2025",
  register: (command) => {
    withCalibration(command.addArgument(modelArgument()), 16)
      .requiredOption("-o, --out <dir>", "folder of the new model; must not exist")
      .requiredOption("--text <file...>", "UTF-8 texts to fit with")
      .option("--run <n>", "experts of a token that are run; the default is half of them", positiveInteger)
      .addOption(new Option("--weigh-among <experts>", "weights of the run ones: as they are among all that are ranked, or made anew among the run").choices(["ranked", "run"]).default("ranked"))
      .option("--epochs <n>", "times that a layer's calibration tokens are gone through", positiveInteger, 6)
      .option("--batch <n>", "tokens of a step", positiveInteger, 128)
      .option("--rate <x>", "of the first step; it falls to zero", rateOf, 0.005)
      .option("--seed <n>", "of the order of tokens", positiveInteger, 1)
      .option("--json", "print one JSON document")
      .action(auxiliary);
  },
};

function rateOf(text: string): number {
  const rate = Number(text);
  if (text.trim() === "" || !(rate > 0 && rate <= 1)) throw new InvalidArgumentError("Expected a number above 0, at most 1.");
  return rate;
}

async function auxiliary(model: string, options: Options): Promise<void> {
  const { out, weighAmong, epochs, batch: batchTokens, rate, seed, report, json = false } = options;
  const checkpoint = await openCheckpoint(model);
  const { config } = checkpoint;
  const run = options.run ?? Math.ceil(config.router.topK / 2);
  compressedConfig(checkpoint, { run, weighAmong });
  const sequences = options.text.flatMap((file) => calibrationWindows(checkpoint, file, options));
  const percent = (share: number): string => `${(100 * share).toFixed(2)} %`;
  await writeModel<CompressedExpertsReport>({
    pass: auxiliaryCommand, checkpoint, out, report, json, label: `fitting vectors of ${basename(checkpoint.name)}`, total: moeLayersOf(config).length * epochs, unit: "epochs",
    run: (sink, onProgress) => compressExperts(checkpoint, sink, kernelModules(), { run, weighAmong, sequences, epochs, batchTokens, rate, seed }, onProgress),
    rows: ({ auxiliaries, layers, calibrationTokens }) => [
      ["model", `${out}, ${run} of ${run + auxiliaries} experts per token are run, ${auxiliaries} stand by`],
      ["calibration", `${calibrationTokens} tokens in ${sequences.length} windows, one in eight held back`],
      ...layers.map(({ layer, asTheyAre, renormalised, fitted }) =>
        [`layer ${layer}`, `squared error ${percent(fitted)} with vectors; without, ${percent(asTheyAre)} with weights as they are, ${percent(renormalised)} renormalised`] as const),
    ],
  });
}
