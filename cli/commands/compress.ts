// `workers-moe compress <pass> <model>`: passes that make a model smaller or another. Owns the list of passes. Each is a file of cli/compress/; the work is passes/.

import type { Command } from "commander";
import { auxiliaryCommand } from "../compress/auxiliary.ts";
import { bitsCommand } from "../compress/bits.ts";
import { calibrationTextCommand } from "../compress/calibration-text.ts";
import { fuseCommand } from "../compress/fuse.ts";
import { latentizeCommand } from "../compress/latentize.ts";
import { mergeCommand } from "../compress/merge.ts";
import { moefyCommand } from "../compress/moefy.ts";
import { nullsCommand } from "../compress/nulls.ts";
import { onlinePruningCommand } from "../compress/online-pruning.ts";
import type { PassCommand } from "../compress/pass-command.ts";
import { pruneCommand } from "../compress/prune.ts";
import { gptqCommand, nearestCommand } from "../compress/quantize.ts";
import { rotateCommand } from "../compress/rotate.ts";
import { showTable } from "../sizes.ts";

export const PASS_COMMANDS: readonly PassCommand[] = [gptqCommand, nearestCommand, bitsCommand, pruneCommand, mergeCommand, moefyCommand, auxiliaryCommand, calibrationTextCommand, rotateCommand, onlinePruningCommand, nullsCommand, fuseCommand, latentizeCommand];

export function register(program: Command): void {
  const compress = program.command("compress").description("make a model smaller: quantise, prune, merge, convert")
    .option("--list", "say what passes there are, and where they come from")
    .action(({ list }: { list?: boolean }, command: Command) => {
      if (list === true) process.stdout.write(showTable(PASS_COMMANDS.map(({ name, sentence, source }): [string, string] => [name, `${sentence} (${source})`])));
      else command.help({ error: true });
    });
  for (const { name, sentence, register: add } of PASS_COMMANDS) {
    const command = compress.command(name).description(sentence);
    add(command);
    command.option("--no-report", "leave out report.json and report.html");
  }
}
