// `compress fuse`: of a model routed by a condition, the experts of each given condition made one. Owns its options and the file of conditions. The work is passes/fuse-model.ts.

import { basename } from "node:path";
import { z } from "zod";
import { fuseModel, type FuseReport } from "../../passes/fuse-model.ts";
import { openCheckpoint } from "../open-model.ts";
import { kernelModules } from "../open-pack.ts";
import { readText } from "../read-text.ts";
import { showCount } from "../sizes.ts";
import { modelArgument, type PassCommand, type ReportOptions, writeModel } from "./pass-command.ts";

interface Options extends ReportOptions {
  readonly out: string;
  readonly conditions: string;
  readonly json?: boolean;
}

export const fuseCommand: PassCommand = {
  name: "fuse",
  sentence: "Make the experts of each condition one, where a model is routed by a condition: no router is left, and one call a layer.",
  source: "MoDE, 2025",
  register: (command) => {
    command.addArgument(modelArgument())
      .requiredOption("-o, --out <dir>", "folder of the new model; must not exist")
      .requiredOption("--conditions <file>", "JSON: a list of conditions, each a list of numbers, such as the embeddings of a denoiser's noise levels")
      .option("--json", "print one JSON document")
      .action(fuse);
  },
};

const conditionsSchema = z.array(z.array(z.number()).min(1)).min(1);

/** Throws a sentence naming the file. */
function readConditions(file: string): number[][] {
  let json: unknown;
  try {
    json = JSON.parse(readText(file));
  } catch (cause) {
    throw new Error(`${file} is not JSON; expected a list of conditions, each a list of numbers.`, { cause });
  }
  const parsed = conditionsSchema.safeParse(json);
  if (!parsed.success) throw new Error(`${file}: ${parsed.error.issues[0]!.path.join(".") || "the document"}: ${parsed.error.issues[0]!.message}; expected a list of conditions, each a list of numbers.`);
  return parsed.data;
}

async function fuse(model: string, { out, conditions: file, report, json = false }: Options): Promise<void> {
  const checkpoint = await openCheckpoint(model);
  const conditions = readConditions(file);
  await writeModel<FuseReport>({
    pass: fuseCommand, checkpoint, out, report, json, label: `fusing experts of ${basename(checkpoint.name)}`, total: checkpoint.config.nLayers, unit: "layers",
    run: (sink, onProgress) => fuseModel(checkpoint, sink, kernelModules(), conditions, onProgress),
    rows: ({ conditions: n, expertsPerToken, expertWeights: { before, after }, layers }) => [
      ["model", `${out}, an expert for each of ${n} conditions; a token takes 1 in place of ${expertsPerToken}`],
      ["experts", `${showCount(after)} weights in place of ${showCount(before)}`],
      ["choices", layers.map(({ layer, choices }) => `${choices} in layer ${layer}`).join(", ")],
    ],
  });
}
