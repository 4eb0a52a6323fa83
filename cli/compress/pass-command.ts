// What commands of passes have in common: the model, calibration texts as windows of token ids, a folder that appears when it is complete, and the words at the end.
// Owns those. Refuses to know any pass: each has a file of its own beside this one.

import { join } from "node:path";
import { Argument, type Command, InvalidArgumentError } from "commander";
import { z } from "zod";
import type { Checkpoint } from "../../formats/checkpoint.ts";
import type { PackSink } from "../../formats/pack-sink.ts";
import { createTokenizer, type Tokenizer } from "../../model/tokenizer.ts";
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

/** What passes read a text as, and what they say where a model has none. */
export function tokenizerOf({ tokenizer, description }: Checkpoint): Tokenizer {
  if (tokenizer === null) throw new Error(`${description} has no tokenizer, which calibration with a text needs.`);
  return createTokenizer(JSON.parse(new TextDecoder().decode(tokenizer.json)));
}

/**
 * `samples` windows of `window` tokens of a text at even distances; all of a text that has no more. Of sequences of ids (`compress calibration-text`), which are
 * contexts of their own, as many at even distances, cut to the window. Throws where text or tokenizer do not serve.
 */
export function calibrationWindows(checkpoint: Checkpoint, file: string, { samples, window }: CalibrationOptions): number[][] {
  if (file.endsWith(".jsonl")) {
    const sequences = readSequences(file, checkpoint.config.vocabSize);
    return evenly(sequences.length, Math.min(samples, sequences.length)).map((i) => sequences[i]!.slice(0, window));
  }
  const ids = tokenizerOf(checkpoint).encodeText(readText(file));
  const length = Math.min(window, ids.length);
  if (length < 2) throw new Error(`${file} makes ${ids.length} tokens; at least 2 are needed to calibrate.`);
  return evenly(ids.length - length + 1, Math.min(samples, Math.floor(ids.length / length))).map((start) => ids.slice(start, start + length));
}

/** `n` of the numbers below `of`, from the first to the last. */
const evenly = (of: number, n: number): number[] => Array.from({ length: n }, (_, i) => (n === 1 ? 0 : Math.floor((i * (of - 1)) / (n - 1))));

const sequenceSchema = z.object({ ids: z.array(z.int().nonnegative()).min(2) });

/** One sequence a line: {"ids": [...]}, whatever else it says. */
function readSequences(file: string, vocabSize: number): readonly (readonly number[])[] {
  const sequences = readText(file).split("\n").flatMap((line, i) => {
    if (line.trim() === "") return [];
    let json: unknown;
    try {
      json = JSON.parse(line);
    } catch (cause) {
      throw new Error(`${file}, line ${i + 1} is not JSON; expected {"ids": [...]}, the token ids of a sequence.`, { cause });
    }
    const parsed = sequenceSchema.safeParse(json);
    if (!parsed.success) throw new Error(`${file}, line ${i + 1} has no "ids" of at least 2 token ids; expected {"ids": [...]}.`);
    const beyond = parsed.data.ids.find((id) => id >= vocabSize);
    if (beyond !== undefined) throw new Error(`${file}, line ${i + 1} holds the token id ${beyond}; the model's vocabulary ends at ${vocabSize - 1}. Was it written with another model?`);
    return [parsed.data.ids];
  });
  if (sequences.length === 0) throw new Error(`${file} holds no sequence; expected lines of {"ids": [...]}.`);
  return sequences;
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
