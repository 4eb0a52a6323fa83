// `compress calibration-text`: the model writes a text that asks all its experts, for the passes that calibrate. Owns its options and the file. The work is passes/self-sampling.ts.

import { InvalidArgumentError, Option } from "commander";
import { writeFileSync } from "node:fs";
import { basename } from "node:path";
import { moeLayersOf } from "../../model/config.ts";
import type { Tokenizer } from "../../model/tokenizer.ts";
import { openCheckpointEngine } from "../../passes/checkpoint-engine.ts";
import { CANDIDATES, type SampledSequence, selfSample, TAU, usageDeviation } from "../../passes/self-sampling.ts";
import { checkpointWeights } from "../../passes/streamed-model.ts";
import { openCheckpoint } from "../open-model.ts";
import { kernelModules } from "../open-pack.ts";
import { positiveInteger } from "../positive-integer.ts";
import { startProgress } from "../progress.ts";
import { showTable } from "../sizes.ts";
import { modelArgument, type PassCommand, tokenizerOf } from "./pass-command.ts";

interface Options {
  readonly out: string;
  readonly tokens: number;
  readonly length: number;
  readonly seed: number;
  readonly beams: number;
  readonly tau?: number;
  readonly candidates: (typeof CANDIDATES)[number];
  readonly json?: boolean;
}

/** Sequences at a time: their beams share every step's weights. */
const TOGETHER = 8;

export const calibrationTextCommand: PassCommand = {
  name: "calibration-text",
  sentence: "Let the model write a text that asks its experts evenly, to calibrate with in place of one that is there.",
  source: "EBSS: MoEQuant, 2025",
  register: (command) => {
    command.addArgument(modelArgument())
      .requiredOption("-o, --out <file>", "the text, for --text of other passes; must not exist; .jsonl keeps token ids, one sequence a line")
      .option("--tokens <n>", "how many in all", positiveInteger, 16384)
      .option("--length <n>", "tokens of a sequence", positiveInteger, 512)
      .option("--seed <n>", "of first tokens and draws", positiveInteger, 1)
      .option("--beams <n>", "sequences that are followed for each that is written; 1: what the model says, whatever it asks", positiveInteger, 4)
      .option("--tau <n>", `less counts even use of experts more (default: ${TAU.likeliest} for the likeliest candidates, as published; ${TAU.drawn} for drawn ones)`, positive)
      .addOption(new Option("--candidates <how>", "next tokens of a beam: drawn from the model's probabilities, or the likeliest").choices(CANDIDATES).default("drawn"))
      .option("--json", "print one JSON document")
      .action(calibrationText);
  },
};

function positive(text: string): number {
  const value = Number(text);
  if (!(value > 0)) throw new InvalidArgumentError("Expected a number above 0.");
  return value;
}

async function calibrationText(model: string, { out, tokens, length, seed, beams, candidates, tau = TAU[candidates], json = false }: Options): Promise<void> {
  const checkpoint = await openCheckpoint(model);
  const { config, description } = checkpoint;
  const tokenizer = tokenizerOf(checkpoint);
  if (moeLayersOf(config).length === 0) throw new Error(`${description} is a dense model: it has no experts that a text could ask evenly.`);
  if (length < 2 || length > config.maxPositions) throw new Error(`Sequences of ${length} tokens were asked for; the model was made for 2 to ${config.maxPositions} positions.`);
  const sequences = Math.ceil(tokens / length);
  const engine = await openCheckpointEngine(checkpointWeights(checkpoint, length), kernelModules(), { maxChunkTokens: TOGETHER * beams });
  const isBarred = (id: number): boolean => tokenizer.isControl(id) || tokenizer.tokenOf(id) === undefined || config.eosTokenIds.includes(id);
  const bar = startProgress({ label: `${basename(checkpoint.name)} writes`, total: sequences * length, unit: "tokens", quiet: json });
  const written: SampledSequence[] = [];
  try {
    for await (const sequence of selfSample(engine, { sequences, length, seed, beams, tau, candidates, together: TOGETHER, isBarred }, (done) => bar.update(done))) written.push(sequence);
  } finally {
    bar.stop();
    engine.close();
  }
  const report = reportOf(written, tokenizer);
  const lines = written.map(({ ids }, i) => (out.endsWith(".jsonl") ? JSON.stringify({ text: report.texts[i], ids }) : report.texts[i]!));
  writeFileSync(out, `${lines.join("\n")}\n`, { flag: "wx" });
  const { texts: _, ...figures } = report;
  process.stdout.write(json ? `${JSON.stringify({ out, seed, beams, tau, candidates, ...figures })}\n` : showTable([
    ["text", `${out}, ${report.tokens} tokens in ${written.length} sequences, seed ${seed}`],
    ["perplexity", `${report.perplexity.toFixed(2)} to the model itself`],
    ["experts", `deviation of use ${report.deviation.toFixed(4)} over the text; the least asked expert gets ${(100 * report.leastShare).toFixed(2)} % of tokens`],
    ["as text", `${report.sameAsText} of ${written.length} sequences are the same token ids when their text is read again${out.endsWith(".jsonl") ? "; ids are kept" : ""}`],
    ["next", `workers-moe compress gptq ${model} --text ${out} --samples ${written.length} --window ${length} --out <dir>`],
  ]));
}

interface Written {
  readonly texts: readonly string[];
  readonly tokens: number;
  readonly perplexity: number;
  readonly deviation: number;
  /** Of tokens, that chose the expert that was chosen least. */
  readonly leastShare: number;
  /** Sequences whose text makes the same ids. */
  readonly sameAsText: number;
}

function reportOf(written: readonly SampledSequence[], tokenizer: Tokenizer): Written {
  const texts = written.map(({ ids }) => tokenizer.decode(ids));
  const tokens = written.reduce((sum, { ids }) => sum + ids.length, 0);
  const usage = written[0]!.usage.map((counts, layer) => counts.map((_, expert) => written.reduce((sum, of) => sum + of.usage[layer]![expert]!, 0)));
  // Of each sequence's last token no choice is known, and its first one nobody predicted.
  const known = tokens - written.length;
  return {
    texts, tokens, perplexity: Math.exp(-written.reduce((sum, { logprob }) => sum + logprob, 0) / known), deviation: usageDeviation(usage, known),
    leastShare: Math.min(...usage.flatMap((counts) => Array.from(counts))) / known,
    sameAsText: texts.filter((text, i) => tokenizer.encodeText(text).join() === written[i]!.ids.join()).length,
  };
}
