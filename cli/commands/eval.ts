// `workers-moe eval <pack> --text FILE`: how well the model predicts a text. Mean negative log-likelihood, perplexity and bits per byte.
// Windows of the context length at a stride of half of it, each begun with BOS where the tokenizer adds one; a window counts the tokens that
// no earlier window counted, and never its first. Log-probabilities come from model/sampling.ts, in f64.

import type { Command } from "commander";
import { ActiveExperts } from "../../model/active-experts.ts";
import type { PrunedCalls } from "../../model/online-pruning.ts";
import type { RequestRouting } from "../../model/request-routing.ts";
import { variesInCount } from "../../model/router-config.ts";
import { logprobs } from "../../model/sampling.ts";
import { evaluate, type EvaluateOptions, openPack, type LocalModel } from "../open-pack.ts";
import { startProgress } from "../progress.ts";
import { routingOf, type RoutingOptions, withRouting } from "../routing-option.ts";
import { readText } from "../read-text.ts";
import { showTable } from "../sizes.ts";

export interface Evaluation {
  readonly tokens: number;
  readonly countedTokens: number;
  /** UTF-8 bytes of the counted tokens' text. */
  readonly countedBytes: number;
  readonly windows: number;
  readonly contextLength: number;
  /** Nats per counted token. */
  readonly meanNll: number;
  readonly perplexity: number;
  readonly bitsPerByte: number;
  /** Only with a rule: expert calls left out, and how many all would have been; of all windows. */
  readonly pruned?: PrunedCalls;
  /** Only where a token may get fewer experts than the model takes at most: how many it got, on average over tokens and layers. */
  readonly activeExperts?: number;
}

export function register(program: Command): void {
  withRouting(program.command("eval"))
    .description("measure how well a pack predicts a text: perplexity and bits per byte")
    .argument("<pack>", "folder of a pack")
    .requiredOption("--text <file>", "UTF-8 text")
    .option("--json", "print one JSON document")
    .action(async (pack: string, options: { text: string; json?: boolean } & RoutingOptions) => {
      const text = readText(options.text);
      const model = await openPack(pack);
      const routing = routingOf(model, options);
      const result = await evaluateText(model, text, options.json === true, options.text, routing);
      if (options.json === true) process.stdout.write(`${JSON.stringify({ text: options.text, packHash: model.packHash, ...result })}\n`);
      else {
        process.stdout.write(showTable([
          ["tokens", `${result.tokens}, of which ${result.countedTokens} count, in ${result.windows} windows of ${result.contextLength}`],
          ["mean NLL", `${result.meanNll.toFixed(4)} nats per token`],
          ["perplexity", result.perplexity.toFixed(3)],
          ["bits per byte", result.bitsPerByte.toFixed(4)],
          ...(result.pruned === undefined ? [] : [["expert calls", `${result.pruned.leftOut} of ${result.pruned.of} left out, ${((100 * result.pruned.leftOut) / result.pruned.of).toFixed(1)} %`] as [string, string]]),
          ...(result.activeExperts === undefined ? [] : [["experts", `${result.activeExperts.toFixed(2)} of at most ${model.manifest.config.router.topK} for a token, on average`] as [string, string]]),
        ]));
      }
    });
}

/** Scores `text`, with what is asked of routing where something is; `name` names it in errors. */
export async function evaluateText(model: LocalModel, text: string, quiet: boolean, name: string, routing?: RequestRouting): Promise<Evaluation> {
  const scored = textToScore(model, text, name);
  const bar = startProgress({ label: "eval", total: scored.ids.length, unit: "tokens", quiet });
  const windows: ScoredWindow[] = [];
  const active = variesInCount(model.manifest.config.router) || routing?.interventions !== undefined ? new ActiveExperts() : null;
  try {
    for (const window of scored.windows) {
      windows.push(await windowNats(model, scored, window, { routing, taps: active === null ? [] : [active.tap] }));
      bar.update(window.end);
    }
  } finally {
    bar.stop();
  }
  const evaluation = { ...evaluationOf(model, scored, windows.map(({ nats }) => nats)), ...(active === null ? {} : { activeExperts: active.mean }) };
  if (routing?.pruning === undefined) return evaluation;
  const sum = (of: keyof PrunedCalls): number => windows.reduce((all, { pruned }) => all + pruned[of], 0);
  return { ...evaluation, pruned: { leftOut: sum("leftOut"), of: sum("of") } };
}

/** A text as the model reads it. */
export interface TextToScore {
  readonly text: string;
  readonly ids: readonly number[];
  /** What every window begins with, where the tokenizer adds it. */
  readonly bos: number | null;
  readonly windows: readonly Window[];
}

/** Throws a sentence where there is no tokenizer or nothing to predict. */
export function textToScore({ engine, tokenizer, manifest }: Pick<LocalModel, "engine" | "tokenizer" | "manifest">, text: string, name: string): TextToScore {
  if (tokenizer === null) throw new Error(`The pack "${manifest.id}" has no tokenizer, which eval needs; \`logits\` works with token ids.`);
  const ids = tokenizer.encodeText(text);
  const bos = manifest.tokenizer?.addBos === true ? manifest.config.bosTokenId : null;
  const windows = windowsOf(ids.length, engine.contextLength - (bos === null ? 0 : 1), bos !== null);
  if (windows.length === 0) throw new Error(`${name} makes ${ids.length} tokens; at least ${bos === null ? 2 : 1} are needed to score one.`);
  return { text, ids, bos, windows };
}

export interface ScoredWindow {
  /** Of the tokens that the window counts, in order. */
  readonly nats: Float64Array;
  readonly pruned: PrunedCalls;
}

/** One window, seen by `taps`, with what is asked of routing where something is. */
export async function windowNats({ engine }: Pick<LocalModel, "engine">, { ids, bos }: TextToScore, { start, end, countFrom }: Window, how: EvaluateOptions = {}): Promise<ScoredWindow> {
  const offset = bos === null ? start : start - 1; // text position of the window's first entry
  const window = bos === null ? ids.slice(start, end) : [bos, ...ids.slice(start, end)];
  const nats = new Float64Array(end - countFrom);
  const pruned = await evaluate(engine, window, (position, row) => {
    const target = offset + position + 1;
    if (target >= countFrom && target < end) nats[target - countFrom] = -logprobs(row, ids[target]!, 0).logprob;
  }, how);
  return { nats, pruned };
}

/** Of all windows of a text. */
export function evaluationOf({ engine, tokenizer }: Pick<LocalModel, "engine" | "tokenizer">, { text, ids, bos, windows }: TextToScore, nats: readonly ArrayLike<number>[]): Evaluation {
  const { sum: nll, counted } = sumOfNats(nats);
  // Without BOS nothing predicts the very first token: its bytes are not counted either.
  const skipped = bos === null ? tokenizer!.decode(ids.slice(0, 1)) : "";
  const countedBytes = Buffer.byteLength(text) - Buffer.byteLength(skipped);
  return {
    tokens: ids.length, countedTokens: counted, countedBytes, windows: windows.length, contextLength: engine.contextLength,
    meanNll: nll / counted, perplexity: Math.exp(nll / counted), bitsPerByte: nll / Math.LN2 / countedBytes,
  };
}

/** Token after token, so that the sum of the same windows is the same number whoever asks. */
export function sumOfNats(nats: readonly ArrayLike<number>[]): { readonly sum: number; readonly counted: number } {
  let [sum, counted] = [0, 0];
  for (const of of nats) {
    for (let i = 0; i < of.length; i++) sum += of[i]!;
    counted += of.length;
  }
  return { sum, counted };
}

export interface Window {
  /** Tokens [start, end) of the text. */
  readonly start: number;
  readonly end: number;
  /** The first token this window counts. */
  readonly countFrom: number;
}

/** Windows of `room` tokens at a stride of half of it, until the text is covered. `predictsFirst`: something stands before the first token. */
export function windowsOf(nTokens: number, room: number, predictsFirst: boolean): Window[] {
  const stride = Math.max(1, Math.floor(room / 2));
  const windows: Window[] = [];
  let countFrom = predictsFirst ? 0 : 1;
  for (let start = 0; countFrom < nTokens; start += stride) {
    const end = Math.min(nTokens, start + room);
    if (end > countFrom) windows.push({ start, end, countFrom });
    countFrom = Math.max(countFrom, end);
  }
  return windows;
}
