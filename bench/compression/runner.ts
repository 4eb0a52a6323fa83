// Runs experiments with the commands a user types: passes, pack, eval. Owns the folder of results, one file for each, so that an interrupted run goes on where it was,
// and the models under way, which are deleted. Refuses to use what another version of the texts or of the model gave: both are part of a result's name.

import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "../../cli/setup.mjs";
import type { PrunedCalls } from "../../model/online-pruning.ts";
import { type Experiment, heldoutFile } from "./experiments.ts";

const COMMAND = join(ROOT, "bin", "workers-moe.js");

export interface Result {
  readonly meanNll: number;
  readonly perplexity: number;
  readonly countedTokens: number;
  /** Of all weights of the pack. */
  readonly bytes: number;
  /** Of all expert calls, those left out; 0 where none may be. */
  readonly leftOut: number;
}

export interface RunnerOptions {
  readonly model: string;
  readonly texts: string;
  /** Results and models under way. */
  readonly folder: string;
}

export class Runner {
  readonly #options: RunnerOptions;
  /** Of everything a result depends on beside the experiment. */
  readonly #inputs: string;

  constructor(options: RunnerOptions) {
    this.#options = options;
    mkdirSync(options.folder, { recursive: true });
    const hash = createHash("sha256");
    for (const file of readdirSync(options.model).sort()) hash.update(file).update(readFileSync(join(options.model, file)));
    for (const file of readdirSync(options.texts).sort()) hash.update(file).update(readFileSync(join(options.texts, file)));
    this.#inputs = hash.digest("hex");
  }

  #file({ steps, quant, domain, scoring }: Experiment): string {
    const name = createHash("sha256").update(JSON.stringify([this.#inputs, steps, quant, domain, scoring])).digest("hex").slice(0, 24);
    return join(this.#options.folder, `${name}.json`);
  }

  /** What was measured before; null where it was not. */
  known(experiment: Experiment): Result | null {
    const file = this.#file(experiment);
    return existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) as Result : null;
  }

  async measure(experiment: Experiment): Promise<Result> {
    const known = this.known(experiment);
    if (known !== null) return known;
    const { model, texts, folder } = this.#options;
    const work = mkdtempSync(join(folder, "under-way-"));
    try {
      let [current, plan] = [model, ""];
      for (const [i, step] of experiment.steps.entries()) {
        const out = join(work, String(i));
        const args = step.map((arg) => arg.replace("{texts}", texts).replace("{plan}", plan));
        await command("compress", args[0]!, current, ...args.slice(1), "--no-report", "--out", out);
        if (args[0] === "bits") plan = readFileSync(out, "utf8").trim();
        else current = out;
      }
      const pack = join(work, "pack");
      await command("pack", current, "--out", pack, ...(experiment.quant === null ? [] : ["--quant", experiment.quant]));
      const { totalBytes } = await command("inspect", pack) as { totalBytes: number };
      const { meanNll, perplexity, countedTokens, pruned } = await command("eval", pack, "--text", join(texts, heldoutFile(experiment.domain)), ...experiment.scoring) as unknown as Result & { pruned?: PrunedCalls };
      const result: Result = { meanNll, perplexity, countedTokens, bytes: totalBytes, leftOut: pruned === undefined ? 0 : pruned.leftOut / pruned.of };
      const file = this.#file(experiment);
      writeFileSync(`${file}.new`, JSON.stringify(result));
      renameSync(`${file}.new`, file);
      return result;
    } finally {
      rmSync(work, { recursive: true, force: true });
    }
  }
}

/** The JSON document of a command; throws what it said where it failed. */
const command = (...args: string[]): Promise<Record<string, unknown>> => new Promise((resolve, reject) => {
  execFile(process.execPath, [COMMAND, ...args, "--json"], { cwd: ROOT, maxBuffer: 1 << 28 }, (error, stdout, stderr) => {
    if (error === null) resolve(JSON.parse(stdout) as Record<string, unknown>);
    else reject(new Error(`workers-moe ${args.join(" ")} ended with ${error.code}: ${stderr.trim()}`));
  });
});
