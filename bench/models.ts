// `node bench/models.ts [--json]`: for every architecture x form x stored type, how far the logits of our pack at the source's own quality, and those of
// wllama (llama.cpp) where it reads the file, lie from the float64 definition on the weights that the file holds. The tiny models and the definition's
// side are the tests' (test/measure-models.ts, run as a process of its own); owned here are the table and the document. Errors do not depend on the
// machine or on what else runs. Refuses to judge.

import { spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { ROOT } from "../cli/setup.mjs";
import { wllamaVersion } from "./peers/wllama.ts";
import { type Report, machineReport, present, tableText } from "./report.ts";

/** Of some rows of logits against the right ones (test/support/logit-difference.ts). */
interface Difference {
  readonly rows: number;
  /** Root mean square error over the spread of the right logits; `worst` is that of the worst row. */
  readonly relative: number;
  readonly worst: number;
  /** Mean divergence in nats. */
  readonly kl: number;
}

/** Over all rows, and over those whose choice of experts no rounding turns over. */
interface CellErrors { readonly all: Difference; readonly clear: Difference }

export interface CellReport {
  readonly architecture: string;
  readonly form: string;
  readonly type: string;
  readonly ours: CellErrors;
  readonly wllama: CellErrors | null;
  readonly refusal: string | null;
  readonly deviates: boolean;
}

interface ModelsReport extends Report {
  readonly wllama: string;
  readonly cells: readonly CellReport[];
}

async function run(): Promise<ModelsReport> {
  const machine = machineReport();
  const child = spawn(process.execPath, [join(ROOT, "test/measure-models.ts")], { cwd: ROOT, stdio: ["ignore", "pipe", "inherit"] });
  const exited = new Promise<number | null>((done) => child.on("exit", done));
  const cells: CellReport[] = [];
  for await (const line of createInterface({ input: child.stdout })) cells.push(JSON.parse(line) as CellReport);
  const code = await exited;
  if (code !== 0) throw new Error(`test/measure-models.ts ended with exit code ${code} after ${cells.length} cells. What it said is above.`);
  return { machine, wllama: wllamaVersion(), cells, targets: {} };
}

const figure = (x: number): string => (x === 0 ? "0" : x.toExponential(1));

function table({ cells, wllama }: ModelsReport): string {
  const head = ["architecture", "form", "type", "rms", "worst", "KL", "KL clear", "rows", `wllama ${wllama}: rms`, "worst", "KL", "KL clear", "rows"];
  const figures = (of: CellErrors | null, deviates: boolean): string[] =>
    of === null ? ["", "", "", "", ""] : [figure(of.all.relative) + (deviates ? "*" : ""), figure(of.all.worst), figure(of.all.kl), of.clear.rows === 0 ? "-" : figure(of.clear.kl), `${of.clear.rows}/${of.all.rows}`];
  const rows = cells.map((c) => [c.architecture, c.form, c.type, ...figures(c.ours, false), ...figures(c.wllama, c.deviates)]);
  return `${tableText([head, ...rows])}\n* llama.cpp computes another model than the original here (docs/models.md)`;
}

await present("models", run, table);
