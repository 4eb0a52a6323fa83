// `compress online-pruning`: ratios or mask routers by which tokens do without experts at run time. Owns its options. The work is passes/online-pruning-model.ts.

import { InvalidArgumentError, Option } from "commander";
import { basename } from "node:path";
import { PROTECTED_POSITIONS } from "../../model/online-pruning-rule.ts";
import { onlinePruningModel, type OnlinePruningReport } from "../../passes/online-pruning-model.ts";
import { type Allotment, ALLOTMENTS } from "../../passes/pruning-ratios.ts";
import { openCheckpoint } from "../open-model.ts";
import { kernelModules } from "../open-pack.ts";
import { positiveInteger } from "../positive-integer.ts";
import { type CalibrationOptions, calibrationWindows, modelArgument, type PassCommand, type ReportOptions, share, withCalibration, writeModel } from "./pass-command.ts";

interface Options extends CalibrationOptions, ReportOptions {
  readonly out: string;
  readonly text: string;
  readonly targetShare: number;
  readonly rule: "ratio" | "learned";
  readonly allot: Allotment;
  readonly protectFirst: number;
  readonly renormalize?: "yes" | "no";
  readonly seed: number;
  readonly json?: boolean;
}

export const onlinePruningCommand: PassCommand = {
  name: "online-pruning",
  sentence: "Find out which experts a token can do without at run time; requests with `moe.prune` then leave them out.",
  source: "ODP: MC-MoE, 2024; OTP: MC#, 2025",
  register: (command) => {
    withCalibration(command.addArgument(modelArgument()), 32)
      .requiredOption("-o, --out <dir>", "folder of the new model; must not exist")
      .requiredOption("--text <file>", "UTF-8 text to measure with")
      .option("--target-share <n>", "of all expert calls, those left out, such as 0.15", share, 0.15)
      .addOption(new Option("--rule <rule>", "ratio: of weights, by layer; learned: that, and a mask router for each layer").choices(["ratio", "learned"]).default("ratio"))
      .addOption(new Option("--allot <how>", "ratios of least loss over all layers, or MC-MoE's: medians in the layers that mind it least").choices(ALLOTMENTS).default("least-loss"))
      .option("--protect-first <n>", "tokens at so many first positions lose nothing", wholeNumber, PROTECTED_POSITIONS)
      .addOption(new Option("--renormalize <yes|no>", "whether weights of those that stay are brought to the router's sum again; without it, whichever loses less").choices(["yes", "no"]))
      .option("--seed <n>", "of the order in which mask routers see tokens", positiveInteger, 1)
      .option("--json", "print one JSON document")
      .action(onlinePruning);
  },
};

function wholeNumber(text: string): number {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError("Expected a whole number.");
  return Number(text);
}

async function onlinePruning(model: string, options: Options): Promise<void> {
  const { out, rule, targetShare, allot, protectFirst, renormalize, seed, report, json = false } = options;
  const checkpoint = await openCheckpoint(model);
  const sequences = calibrationWindows(checkpoint, options.text, options);
  await writeModel<OnlinePruningReport>({
    pass: onlinePruningCommand, checkpoint, out, report, json, label: `measuring experts of ${basename(checkpoint.name)}`, total: checkpoint.config.nLayers, unit: "layers",
    run: (sink, onProgress) => onlinePruningModel(checkpoint, sink, kernelModules(), {
      rule, share: targetShare, allotment: allot, protectFirst, renormalize: renormalize === undefined ? null : renormalize === "yes", seed, sequences,
    }, onProgress),
    rows: (report) => [
      ["model", `${out}, ${rule === "learned" ? "with mask routers" : "with ratios"}; weights of those that stay ${report.renormalize ? "are brought to their sum again" : "stay as they are"}`],
      ["left out", `${(100 * report.share).toFixed(1)} % of ${report.calibrationTokens} tokens' expert calls`],
      ...report.layers.map(({ layer, ratio, share: of, loss }): [string, string] => [`layer ${layer}`, `ratio ${ratio.toFixed(3)}; ${(100 * of).toFixed(1)} % left out; ${loss.toExponential(2)} of the residual's square lost`]),
    ],
  });
}
