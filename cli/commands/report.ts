// `workers-moe report <model...> --eval FILE --out DIR`: several models side by side: each is packed as it is, measured on a text by the engine that serves, and drawn by
// size against perplexity, with what its passes' records and report say. Owns the order and the folder of results. Refuses models of different vocabularies:
// perplexities of different tokens do not compare.

import type { Command } from "commander";
import { access, mkdir, mkdtemp, readFile, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { writePack } from "../../formats/pack-writer.ts";
import { paretoFront } from "../../passes/pareto-front.ts";
import { parsePassReport, type PassReport } from "../../passes/pass-report.ts";
import { FolderSink } from "../file-source.ts";
import { openCheckpoint } from "../open-model.ts";
import { startProgress } from "../progress.ts";
import { readText } from "../read-text.ts";
import { modelsPage } from "../report/models-page.ts";
import { activeBytesOf, PackScorer, type Score } from "../search/candidate-score.ts";
import { packedBytes } from "../search/model-outline.ts";
import { showBytes, showTable } from "../sizes.ts";
import { sumOfNats } from "./eval.ts";

interface ReportCommandOptions {
  readonly eval: string;
  readonly out: string;
  readonly json?: boolean;
}

export interface MeasuredModel {
  readonly model: string;
  /** Passes it went through, the first one first. */
  readonly passes: readonly string[];
  /** Weights of its pack, equal experts once; of those a token reads, mean over the text. */
  readonly bytes: number;
  readonly activeBytes: number;
  readonly tokens: number;
  readonly perplexity: number;
  readonly onFront: boolean;
  /** Of its last pass, where there is one beside it. */
  readonly report: PassReport | null;
}

export function register(program: Command): void {
  program.command("report")
    .description("put several models side by side: size against perplexity")
    .argument("<model...>", "Hugging Face folders, .gguf files or canonical models")
    .requiredOption("--eval <file>", "UTF-8 text that perplexity is measured on")
    .requiredOption("-o, --out <dir>", "folder of models.json and models.html; must not exist")
    .option("--json", "print one JSON document")
    .action(report);
}

async function report(models: readonly string[], { eval: file, out, json = false }: ReportCommandOptions): Promise<void> {
  const text = readText(file);
  if (await access(out).then(() => true, () => false)) throw new Error(`${out} exists already; give another --out or remove it first.`);
  const measured: Omit<MeasuredModel, "onFront">[] = [];
  const bar = startProgress({ label: "measuring", total: models.length, unit: "models", quiet: json });
  try {
    for (const [i, model] of models.entries()) {
      bar.update(i, model);
      measured.push(await measure(model, text, file));
      if (measured[i]!.tokens !== measured[0]!.tokens) throw new Error(`${model} reads ${file} as ${measured[i]!.tokens} tokens, ${models[0]} as ${measured[0]!.tokens}; models of one tokenizer were expected.`);
    }
    bar.update(models.length);
  } finally {
    bar.stop();
  }
  const front = new Set(paretoFront(measured, ({ bytes, activeBytes, perplexity }) => [bytes, activeBytes, perplexity]));
  const found = measured.map((of): MeasuredModel => ({ ...of, onFront: front.has(of) }));
  const partial = join(dirname(resolve(out)), `.${basename(out)}.unfinished`);
  await rm(partial, { recursive: true, force: true });
  await mkdir(partial, { recursive: true });
  await writeFile(join(partial, "models.json"), `${JSON.stringify({ text: file, models: found }, null, 1)}\n`);
  await writeFile(join(partial, "models.html"), await modelsPage(found, file));
  await rename(partial, out);
  process.stdout.write(json ? `${JSON.stringify({ out, text: file, models: found })}\n` : showTable([
    ...found.map((of): [string, string] => [of.model, `${showBytes(of.bytes)}, ${showBytes(Math.round(of.activeBytes))} read per token, perplexity ${of.perplexity.toFixed(3)}${of.onFront ? "" : " (beaten)"}`]), ["page", join(out, "models.html")],
  ]));
}

async function measure(model: string, text: string, file: string): Promise<Omit<MeasuredModel, "onFront">> {
  const checkpoint = await openCheckpoint(model);
  const folder = await mkdtemp(join(tmpdir(), "workers-moe-report-"));
  try {
    const sink = await FolderSink.create(join(folder, "pack"));
    try {
      await writePack(checkpoint, sink, { id: "model", quant: "source", parts: "r2" });
    } finally {
      await sink.release();
    }
    const scorer = await PackScorer.open(join(folder, "pack"), text, file);
    const windows: Score["windows"] = [];
    for (let i = 0; i < scorer.text.windows.length; i++) windows.push(await scorer.window(i));
    const { sum, counted } = sumOfNats(windows.map(({ nats }) => nats));
    return {
      model, passes: checkpoint.lineage?.passes.map(({ pass }) => pass) ?? [], bytes: packedBytes(scorer.manifest), activeBytes: activeBytesOf({ trunkBytes: scorer.trunkBytes, windows }),
      tokens: counted, perplexity: Math.exp(sum / counted), report: await reportOf(model),
    };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function reportOf(model: string): Promise<PassReport | null> {
  const file = join(model, "report.json");
  const text = await readFile(file, "utf8").catch(() => null);
  return text === null ? null : parsePassReport(text, file);
}
