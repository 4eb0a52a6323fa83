// `workers-moe pack <model> --out DIR`: a Hugging Face folder or a GGUF file becomes a pack.
// Owns options, progress and the closing summary. Refuses to overwrite. Stopped, or left by its source, it keeps finished parts beside the target and
// goes on from them when it is run again; a model that cannot be packed leaves nothing. The work is formats/pack-writer.ts.

import { existsSync } from "node:fs";
import { relative } from "node:path";
import { type Command, InvalidArgumentError, Option } from "commander";
import type { Checkpoint } from "../../formats/checkpoint.ts";
import { PACK_ID } from "../../formats/manifest.ts";
import { formatOf, QUANTS, type Quant, type TypePlan } from "../../formats/pack-formats.ts";
import { PackInterrupted, type PackOptions, type PackSummary, writePack } from "../../formats/pack-writer.ts";
import { relativeError } from "../../formats/quantize.ts";
import { typeOfFormat } from "../../formats/stored-types.ts";
import { KV_FORMATS, type KvFormat } from "../../model/kernels.ts";
import { accountBits, averageBits } from "../../passes/bit-accounting.ts";
import { parseBitPlan } from "../../passes/bit-plan.ts";
import { FolderSink } from "../file-source.ts";
import { openCheckpoint } from "../open-model.ts";
import { positiveInteger } from "../positive-integer.ts";
import { startProgress } from "../progress.ts";
import { readText } from "../read-text.ts";
import { showBytes, showTable } from "../sizes.ts";

export interface PackCommandOptions {
  readonly out: string;
  readonly quant: string;
  readonly kv?: KvFormat;
  readonly id?: string;
  readonly context?: number;
  readonly parts: "assets" | "r2";
  readonly segment?: number;
  readonly fresh?: boolean;
  readonly json?: boolean;
}

export function register(program: Command): void {
  program.command("pack")
    .description("convert a model into a pack")
    .argument("<model>", "Hugging Face folder or .gguf file; a path, an https:// address or s3://bucket/...")
    .requiredOption("-o, --out <dir>", "folder of the pack; must not exist")
    .addOption(new Option("-q, --quant <format>", `one of ${QUANTS.join(", ")} (source: as the file has it; f32: everything in f32; the others: quantised, in groups of 32), or a bit plan such as "attn=8; routed=4", or a file of one`)
      .argParser(quantOrPlan).default("source"))
    .addOption(new Option("--kv <format>", "the KV cache it is served with (default: f32 where all weights are, else f16; q8 takes about half of f16)").choices(KV_FORMATS))
    .option("--id <id>", "name under which the pack is served (default: from the model's name)", packId)
    .option("--context <n>", "longest context served, in tokens (default: the model's, at most 4096)", positiveInteger)
    .addOption(new Option("--parts <for>", "assets: parts of at most 4 MiB; r2: of at most 64 MiB").choices(["assets", "r2"]).default("assets"))
    .option("--segment <n>", "widest expert segment, a multiple of 32 (default 2048)", segmentWidth)
    .option("--fresh", "start over, whatever an interrupted run has left")
    .option("--json", "print one JSON document")
    .action(async (model: string, options: PackCommandOptions) => void (await run(model, options)));
}

/** Packs and prints the summary. */
export async function run(model: string, options: PackCommandOptions): Promise<PackSummary> {
  const checkpoint = await openCheckpoint(model);
  const quant = quantOf(options.quant, checkpoint);
  const average = typeof quant === "string" ? null : averageBits(accountBits(checkpoint, { typeOf: (place) => typeOfFormat(formatOf(place, quant)) }).all);
  const sink = await FolderSink.create(options.out, { fresh: options.fresh === true });
  const packOptions: PackOptions = {
    id: options.id ?? idFrom(checkpoint.name), quant, parts: options.parts,
    ...(options.kv === undefined ? {} : { kvFormat: options.kv }),
    ...(options.context === undefined ? {} : { contextLength: options.context }),
    ...(options.segment === undefined ? {} : { segmentWidth: options.segment }),
  };
  const mebibytes = (bytes: number): number => bytes / 2 ** 20;
  const totalBytes = [...checkpoint.places()].reduce((n, p) => n + p.storedBytes, 0);
  const bar = startProgress({ label: `packing ${packOptions.id}`, total: mebibytes(totalBytes), unit: "MiB", quiet: options.json === true });
  let interrupted: NodeJS.Signals | null = null;
  const interrupt = (signal: NodeJS.Signals): void => void (interrupted = signal);
  process.once("SIGINT", interrupt).once("SIGTERM", interrupt);
  let summary: PackSummary;
  try {
    summary = await writePack(checkpoint, sink, packOptions, ({ doneBytes }) => {
      if (interrupted !== null) throw new Error(`Packing was stopped by ${interrupted}.`);
      bar.update(mebibytes(doneBytes));
    });
  } catch (error) {
    if (!(error instanceof PackInterrupted)) throw error;
    throw new Error(`${error.message} ${error.finishedParts} finished parts are kept in ${relative(".", sink.unfinishedFolder)}: `
      + "the same command goes on from there, with --fresh it starts over.", { cause: error });
  } finally {
    bar.stop();
    await sink.release();
    process.off("SIGINT", interrupt).off("SIGTERM", interrupt);
  }
  process.stdout.write(options.json === true ? `${JSON.stringify({ ...summaryJson(summary, options.out), ...(average === null ? {} : { averageBits: average }) })}\n`
    : (average === null ? "" : showTable([["plan", `${average.toFixed(4)} bits per weight of the matrices it can reach, scales included`]])) + summaryText(summary, options.out));
  return summary;
}

function summaryJson(s: PackSummary, out: string): object {
  return {
    out, id: s.manifest.id, packHash: s.packHash, sourceBytes: s.sourceBytes, packBytes: s.packBytes, ratio: s.packBytes / s.sourceBytes,
    parts: s.manifest.parts.length, formatBytes: s.formatBytes, activations: s.manifest.activations, kvFormat: s.manifest.kvFormat,
    contextLength: s.manifest.contextLength,
    quantizationError: Object.fromEntries([...s.losses].map(([kind, loss]) => [kind, { relative: relativeError(loss), worst: loss.maxError }])),
    requantized: s.requantized.map(({ tensor, from, to, loss }) => ({ tensor, from, to, relative: relativeError(loss), worst: loss.maxError })),
    warnings: s.warnings,
  };
}

function summaryText(s: PackSummary, out: string): string {
  const rows: [string, string][] = [
    ["pack", `${s.manifest.id} in ${out}, ${s.manifest.parts.length} parts, revision ${s.packHash.slice(0, 12)}`],
    ["size", `${showBytes(s.packBytes)} from ${showBytes(s.sourceBytes)} (${((100 * s.packBytes) / s.sourceBytes).toFixed(1)} %)`],
    ...Object.entries(s.formatBytes).map(([format, bytes]): [string, string] => [`  ${format}`, showBytes(bytes)]),
    ["serves", `contexts of up to ${s.manifest.contextLength} tokens; ${s.manifest.activations} activations, ${s.manifest.kvFormat} cache`],
  ];
  for (const [kind, loss] of s.losses) {
    rows.push([`error of ${kind}`, `${(100 * relativeError(loss)).toFixed(3)} % relative (root mean square), worst ${loss.maxError.toExponential(2)}`]);
  }
  const byError = s.requantized.toSorted((a, b) => relativeError(b.loss) - relativeError(a.loss));
  const listed = byError.slice(0, LISTED_TENSORS);
  if (listed.length > 0) rows.push(["requantised", `${byError.length} tensors whose types no kernel has (docs/formats.md); relative error, and the worst of one value:`]);
  for (const { tensor, from, to, loss } of listed) {
    rows.push([`  ${from} -> ${to}`, `${(100 * relativeError(loss)).toFixed(3)} %, ${loss.maxError.toExponential(2)}: ${tensor}`]);
  }
  if (byError.length > listed.length) rows.push(["", `and ${byError.length - listed.length} more with smaller errors (all of them with --json)`]);
  return showTable(rows) + s.warnings.map((w) => `Note: ${w}\n`).join("");
}

/** Tensors named in the summary: all of a GGUF file of 48 layers with stacked experts. */
const LISTED_TENSORS = 400;

/** An id from a folder or file name: lower case, everything else a hyphen. */
function idFrom(name: string): string {
  const id = name.toLowerCase().replaceAll(/[^a-z0-9._-]+/g, "-").replace(/^[^a-z0-9]+/, "");
  return id === "" ? "model" : id;
}

const isQuant = (text: string): text is Quant => (QUANTS as readonly string[]).includes(text);

function quantOrPlan(text: string): string {
  if (!isQuant(text) && !text.includes("=") && !existsSync(text)) throw new InvalidArgumentError(`Allowed choices are ${QUANTS.join(", ")}, the rules of a bit plan, or a file that holds them.`);
  return text;
}

/** Rules as they are, or of a file: as `compress bits` writes them, or its --json document. */
function quantOf(text: string, { config }: Pick<Checkpoint, "config">): Quant | TypePlan {
  if (isQuant(text)) return text;
  const rules = text.includes("=") ? text : readText(text).trim();
  if (!rules.startsWith("{")) return parseBitPlan(rules, config);
  let plan: unknown;
  try {
    plan = (JSON.parse(rules) as { plan?: unknown }).plan;
  } catch (cause) {
    throw new Error(`${text} is not JSON, though it begins like it; expected {"plan": "..."} or the rules of a bit plan.`, { cause });
  }
  if (typeof plan !== "string") throw new Error(`${text} has no "plan"; expected {"plan": "..."} with the rules of a bit plan, or the rules alone.`);
  return parseBitPlan(plan, config);
}

function packId(text: string): string {
  if (!PACK_ID.test(text)) throw new InvalidArgumentError("Expected lower-case letters, digits, '-', '.', '_'.");
  return text;
}

function segmentWidth(text: string): number {
  const n = positiveInteger(text);
  if (n % 32 !== 0) throw new InvalidArgumentError("Expected a multiple of 32.");
  return n;
}
