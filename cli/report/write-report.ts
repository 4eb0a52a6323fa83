// Puts a report beside what a pass wrote: report.json and report.html in a model's folder, NAME.report.json and NAME.report.html beside a file.
// Owns these names. What is there already is a finished model: a report that fails takes nothing of it away. Refuses to overwrite.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { openCheckpoint } from "../open-model.ts";
import { type PassFindings, passReport, type PassIdentity, type PassReport } from "../../passes/pass-report.ts";
import type { Checkpoint } from "../../formats/checkpoint.ts";
import { passPage } from "./pass-page.ts";

export interface RunToReport {
  readonly pass: PassIdentity;
  readonly checkpoint: Checkpoint;
  readonly findings: PassFindings;
  readonly seconds: number;
}

/** Of a pass that wrote the model in `folder`. */
export async function reportModel(folder: string, { checkpoint, ...run }: RunToReport): Promise<PassReport> {
  const report = await passReport({ ...run, input: checkpoint, made: await openCheckpoint(folder) });
  await writeBoth(join(folder, "report"), report);
  return report;
}

/** Of a pass that wrote a file, and no model. */
export async function reportFile(file: string, options: Readonly<Record<string, unknown>>, { checkpoint, ...run }: RunToReport): Promise<PassReport> {
  const report = await passReport({ ...run, input: checkpoint, made: { options } });
  await writeBoth(`${file}.report`, report);
  return report;
}

async function writeBoth(base: string, report: PassReport): Promise<void> {
  const page = await passPage(report);
  await writeFile(`${base}.json`, `${JSON.stringify(report, null, 1)}\n`, { flag: "wx" });
  await writeFile(`${base}.html`, page, { flag: "wx" });
}
