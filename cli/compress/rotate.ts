// `compress rotate`: the same model in another basis of its residual. Owns its options. The work is passes/rotate-model.ts.

import { Option } from "commander";
import { basename } from "node:path";
import { rotateModel, type RotateReport } from "../../passes/rotate-model.ts";
import { ROTATIONS, type RotationName } from "../../passes/rotation.ts";
import { openCheckpoint } from "../open-model.ts";
import { positiveInteger } from "../positive-integer.ts";
import { modelArgument, type PassCommand, type ReportOptions, writeModel } from "./pass-command.ts";

interface Options extends ReportOptions {
  readonly out: string;
  readonly by: RotationName;
  readonly seed: number;
  readonly json?: boolean;
}

export const rotateCommand: PassCommand = {
  name: "rotate",
  sentence: "Turn the residual's basis, so that no channel is larger than others; what the model says stays the same.",
  source: "QuaRot, 2024; MoEQuant, 2025",
  register: (command) => {
    command.addArgument(modelArgument())
      .requiredOption("-o, --out <dir>", "folder of the new model, in f32; must not exist")
      .addOption(new Option("--by <matrix>", "hadamard: with random signs; orthogonal: any rotation, for hidden sizes that Hadamard's does not have").choices(ROTATIONS).default("hadamard"))
      .option("--seed <n>", "of the signs, or of the rotation", positiveInteger, 1)
      .option("--json", "print one JSON document")
      .action(rotate);
  },
};

async function rotate(model: string, { out, by, seed, report, json = false }: Options): Promise<void> {
  const checkpoint = await openCheckpoint(model);
  await writeModel<RotateReport>({
    pass: rotateCommand, checkpoint, out, report, json, label: `rotating ${basename(checkpoint.name)}`, total: [...checkpoint.places()].length, unit: "tensors",
    run: (sink, onProgress) => rotateModel(checkpoint, sink, { by, seed }, onProgress),
    rows: ({ rotated, untied }) => [
      ["model", `${out}, ${rotated} tensors in the new basis, norms of ones${untied ? "; the head is no longer the embedding" : ""}`],
      ["then", `workers-moe compress gptq ${out} --text <file> --out <dir>`],
    ],
  });
}
