// What commands of passes have in common: the model, calibration texts as windows of token ids, a folder that appears when it is complete, and the words at the end.
// Owns those. Refuses to know any pass: each has a file of its own beside this one.

import { join } from "node:path";
import { Argument, type Command, InvalidArgumentError } from "commander";
import type { Checkpoint } from "../../formats/checkpoint.ts";
import type { PackSink } from "../../formats/pack-sink.ts";
import { createTokenizer } from "../../model/tokenizer.ts";
import { FolderSink } from "../file-source.ts";
import { positiveInteger } from "../positive-integer.ts";
import { startProgress } from "../progress.ts";
import { readText } from "../read-text.ts";
import { reportModel } from "../report/write-report.ts";
import type { PassFindings, PassIdentity } from "../../passes/pass-report.ts";
import { showTable } from "../sizes.ts";

/** A pass on the command line. */
export interface PassCommand extends PassIdentity {
  /** One sentence. */
  readonly sentence: string;
  /** Adds arguments, options and action to its command. */
  register(command: Command): void;
}

export interface CalibrationOptions {
  readonly samples: number;
  readonly window: number;
}

export const modelArgument = (): Argument => new Argument("<model>", "Hugging Face folder, .gguf file or canonical model");

export const withCalibration = (command: Command, samples: number): Command => command
  .option("--samples <n>", "windows of each text, evenly spread", positiveInteger, samples)
  .option("--window <n>", "tokens of a window", positiveInteger, 512);

/** A number from 0 to 1. */
export function share(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || !(value >= 0 && value <= 1)) throw new InvalidArgumentError("Expected a number from 0 to 1.");
  return value;
}

/** `samples` windows of `window` tokens of a text at even distances; all of a text that has no more. Throws where text or tokenizer do not serve. */
export function calibrationWindows({ tokenizer, description }: Checkpoint, file: string, { samples, window }: CalibrationOptions): number[][] {
  if (tokenizer === null) throw new Error(`${description} has no tokenizer, which calibration with a text needs.`);
  const ids = createTokenizer(JSON.parse(new TextDecoder().decode(tokenizer.json))).encodeText(readText(file));
  const length = Math.min(window, ids.length);
  if (length < 2) throw new Error(`${file} makes ${ids.length} tokens; at least 2 are needed to calibrate.`);
  const n = Math.min(samples, Math.floor(ids.length / length));
  const room = ids.length - length;
  return Array.from({ length: n }, (_, i) => {
    const start = n === 1 ? 0 : Math.floor((i * room) / (n - 1));
    return ids.slice(start, start + length);
  });
}

/** What `compress` gives every pass to ask: with --no-report false. */
export interface ReportOptions {
  readonly report: boolean;
}

export interface WrittenModel<Report> extends ReportOptions {
  /** Which pass it is, and the model it reads: for the report. */
  readonly pass: PassIdentity;
  readonly checkpoint: Checkpoint;
  readonly out: string;
  readonly label: string;
  /** Steps of the work, and what they are. */
  readonly total: number;
  readonly unit: string;
  readonly json: boolean;
  run(sink: PackSink, onProgress: (done: number) => void): Promise<Report>;
  /** Rows for people; the next step is added. */
  rows(report: Report): readonly (readonly [string, string])[];
}

/** Runs a pass that writes a model: nothing is left of one that fails or is stopped. Its report goes into the new folder (cli/report/). */
export async function writeModel<Report extends PassFindings & object>({ pass, checkpoint, out, report: isReported, label, total, unit, json, run, rows }: WrittenModel<Report>): Promise<void> {
  const sink = await FolderSink.create(out, { fresh: true });
  const bar = startProgress({ label, total, unit, quiet: json });
  const startMs = performance.now();
  let report: Report;
  try {
    report = await run(sink, (done) => bar.update(done));
  } finally {
    bar.stop();
    await sink.release();
  }
  if (isReported) await reportModel(out, { pass, checkpoint, findings: report, seconds: (performance.now() - startMs) / 1000 });
  const reported: [string, string][] = isReported ? [["report", join(out, "report.html")]] : [];
  process.stdout.write(json ? `${JSON.stringify({ out, ...report })}\n`
    : showTable([...rows(report).map(([key, value]): [string, string] => [key, value]), ...reported, ["next", `workers-moe pack ${out} --out <dir>`]]));
}
