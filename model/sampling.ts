// From logits to the next token. Owns the order of sampling steps and the log-probabilities that the API reports.
// Order: logit_bias -> repetition, frequency and presence penalties (logit-adjustments.ts) -> what a constraint allows; then the largest if temperature
// is 0, else temperature -> top_k -> typical_p -> top_p -> min_p -> draw. Ties go to the lowest id.
// Everything is f64 + - * / with own exp and log, so the choice is the same in every engine. Refuses logits that are not finite.

import { MAX_TOP_LOGITS } from "./engine-regions.ts";
import { expF64, logF64 } from "./float-math.ts";
import { ModelError } from "./config.ts";
import { drawFrom, probabilitiesOf } from "./draw.ts";
import type { LogitAdjustments, LogitStage } from "./logit-adjustments.ts";
import { uniform } from "./random.ts";

export interface SamplingParams {
  /** 0 = greedy. */
  readonly temperature: number;
  /** Keep the k most likely; 0 = all. */
  readonly topK: number;
  /** Keep the tokens whose information is nearest to the expected one, until their probability reaches typicalP; 1 = all. */
  readonly typicalP: number;
  /** Keep the smallest set of most likely tokens whose probability reaches topP; 1 = all. */
  readonly topP: number;
  /** Keep tokens of at least minP times the largest probability; 0 = all. */
  readonly minP: number;
  /** A safe integer. */
  readonly seed: number;
  /** What is done to the logits first; null = nothing. */
  readonly adjustments: LogitAdjustments | null;
}

/** Sampling as it is where nobody asks for anything: the model's own distribution. */
export const PLAIN_SAMPLING: Omit<SamplingParams, "seed"> = Object.freeze({ temperature: 1, topK: 0, typicalP: 1, topP: 1, minP: 0, adjustments: null });

export interface TokenLogprob {
  readonly id: number;
  /** Natural logarithm of the model's probability, before any sampling step. */
  readonly logprob: number;
}

export interface SampleResult {
  readonly id: number;
  /** Present when log-probabilities were asked for. */
  readonly logprob?: number;
  readonly top?: TokenLogprob[];
}

/** The k largest logits of rows, most likely first, ties to the lowest id; and the first id of each row whose logit is not finite, or -1. */
export interface TopLogits {
  readonly k: number;
  readonly ids: Uint32Array; // [nRows, k]
  readonly values: Float32Array; // [nRows, k]
  readonly notFinite: Int32Array; // [nRows]
}

/**
 * What of a row of logits decides a token: the row itself, its `top` largest, or the probabilities at a `temperature`, of what a stage leaves of it where there
 * is one; or, `among` the candidates of a stage, their logits alone.
 */
export type LogitsForm = "row" | { readonly top: number } | { readonly top: 1; readonly stage: LogitStage } | { readonly among: LogitStage } | { readonly temperature: number; readonly stage?: LogitStage };

/**
 * The cheapest form that decides the next token; `nTop` null where no log-probabilities are asked for, `stage` null where nothing is done to the logits.
 * A stage is asked for the next token only: where several are to be decided at once (guesses), it wants the rows.
 */
export function decidingForm(params: SamplingParams, nTop: number | null, vocabSize: number, stage: LogitStage | null): LogitsForm {
  if (nTop !== null || (params.temperature > 0 && params.typicalP < 1)) return "row";
  if (stage !== null) {
    const candidates = stage.candidates ?? null;
    if (candidates !== null) return candidates.length > 0 ? { among: stage } : "row";
    if (params.temperature === 0) return { top: 1, stage };
    // A kernel is faster than JavaScript at exponentials.
    return params.topK === 0 || params.topK >= vocabSize ? { temperature: params.temperature, stage } : "row";
  }
  if (params.temperature === 0) return { top: 1 };
  if (params.topK === 0 || params.topK >= vocabSize) return { temperature: params.temperature };
  return params.topK <= MAX_TOP_LOGITS ? { top: params.topK } : "row";
}

/** The token that `sample` would choose, from its deciding form: a whole row of logits or probabilities, the candidates' logits, or row `topRow` of `top`. */
export function sampleForm(
  form: LogitsForm, row: Float32Array, top: TopLogits | null, topRow: number, params: SamplingParams, choice: number, position: number, nTop: number | null, stage: LogitStage | null,
): SampleResult {
  if (form === "row") return sample(row, params, choice, position, nTop, stage);
  if ("among" in form) {
    requireFinite(row);
    return { id: form.among.candidates![pick(row, params, choice, position)]! };
  }
  return "top" in form ? sampleTop(top!, topRow, params, choice, position) : sampleProbabilities(row, params, choice, position);
}

/** Id of the largest logit, lowest id on ties. */
export function argmax(logits: Float32Array): number {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id]! > logits[best]!) best = id;
  return best;
}

function requireFinite(logits: Float32Array): void {
  // x - x is 0 for what is finite and NaN otherwise: one sum tells.
  let sum = 0;
  for (let id = 0; id < logits.length; id++) sum += logits[id]! - logits[id]!;
  if (sum === 0) return;
  const id = logits.findIndex((x) => !Number.isFinite(x));
  throw new ModelError(`The logit of token ${id} is ${logits[id]}; a finite number was expected. The weights or activations overflowed.`);
}

/** Log-probability of `id` and the `nTop` most likely tokens, most likely first. */
export function logprobs(logits: Float32Array, id: number, nTop: number): { logprob: number; top: TokenLogprob[] } {
  requireFinite(logits);
  return finiteLogprobs(logits, id, nTop);
}

function finiteLogprobs(logits: Float32Array, id: number, nTop: number): { logprob: number; top: TokenLogprob[] } {
  const max = logits[argmax(logits)]!;
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += expF64(logits[i]! - max);
  const logSum = logF64(sum);
  const of = (i: number): number => logits[i]! - max - logSum;
  return { logprob: of(id), top: mostLikely(logits, nTop).map((i) => ({ id: i, logprob: of(i) })) };
}

/** The n largest, descending, ties to the lowest id. */
function mostLikely(logits: Float32Array, n: number): number[] {
  const best: number[] = [];
  for (let id = 0; id < logits.length; id++) {
    if (best.length === n && !(logits[id]! > logits[best[n - 1]!]!)) continue;
    let at = best.length;
    while (at > 0 && logits[id]! > logits[best[at - 1]!]!) at--;
    best.splice(at, 0, id);
    if (best.length > n) best.pop();
  }
  return best;
}

/**
 * The token at `position` of choice `choice`. `nTop` null leaves log-probabilities out; they are the model's, whatever `stage` does.
 * Throws ModelError when a logit is not finite.
 */
export function sample(logits: Float32Array, params: SamplingParams, choice: number, position: number, nTop: number | null, stage: LogitStage | null): SampleResult {
  requireFinite(logits);
  const candidates = stage?.candidates ?? null;
  const from = stage === null ? logits : stage.apply(logits);
  const among = candidates === null ? from : Float32Array.from(candidates, (candidate) => from[candidate]!);
  const at = pick(among, params, choice, position);
  const id = candidates === null ? at : candidates[at]!;
  return nTop === null ? { id } : { id, ...finiteLogprobs(logits, id, nTop) };
}

const pick = (logits: Float32Array, params: SamplingParams, choice: number, position: number): number =>
  (params.temperature === 0 ? argmax(logits) : draw(logits, params, choice, position));

/** From the largest logits alone. */
function sampleTop(top: TopLogits, row: number, params: SamplingParams, choice: number, position: number): SampleResult {
  const bad = top.notFinite[row]!;
  if (bad >= 0) throw new ModelError(`The logit of token ${bad} is not finite; a finite number was expected. The weights or activations overflowed.`);
  const [from, to] = [row * top.k, (row + 1) * top.k];
  if (params.temperature === 0) return { id: top.ids[from]! };
  return { id: drawAmong(Array.from(top.ids.subarray(from, to)), Array.from(top.values.subarray(from, to)), top.values[from]!, params, choice, position) };
}

/** From all of the vocabulary. */
function sampleProbabilities(probabilities: Float32Array, params: SamplingParams, choice: number, position: number): SampleResult {
  const id = drawFrom(probabilities, params.topP, params.minP, uniform(params.seed, choice, position, 0));
  if (id < 0) throw new ModelError("The probabilities of the next token are no numbers: a logit is not finite. The weights or activations overflowed.");
  return { id };
}

function draw(logits: Float32Array, params: SamplingParams, choice: number, position: number): number {
  const keepsAll = params.topK === 0 || params.topK >= logits.length;
  if (keepsAll && params.typicalP === 1) return sampleProbabilities(probabilitiesOf(logits, params.temperature), params, choice, position).id;
  const kept = keepsAll ? Array.from(logits.keys()).filter((id) => logits[id]! > -Infinity).sort((a, b) => logits[b]! - logits[a]! || a - b) : mostLikely(logits, params.topK);
  return drawAmong(kept, kept.map((id) => logits[id]!), logits[kept[0]!]!, params, choice, position);
}

/**
 * Leaves the tokens whose information -log p is nearest to the distribution's entropy, the nearest first until they hold `typicalP` of the mass
 * (Meister et al., "Locally Typical Sampling", arXiv 2202.00666); ties to the more likely, then to the lower id. Order of the rest is kept.
 */
function keepTypical(kept: number[], mass: number[], typicalP: number): void {
  const total = mass.reduce((sum, value) => sum + value, 0);
  const information = mass.map((value) => (value > 0 ? logF64(total) - logF64(value) : Infinity));
  const entropy = mass.reduce((sum, value, i) => (value > 0 ? sum + (value / total) * information[i]! : sum), 0);
  const order = mass.map((_, i) => i).filter((i) => mass[i]! > 0)
    .sort((a, b) => Math.abs(information[a]! - entropy) - Math.abs(information[b]! - entropy) || mass[b]! - mass[a]! || kept[a]! - kept[b]!);
  let [n, reached] = [0, 0];
  while (n < order.length && (n === 0 || reached < typicalP * total)) reached += mass[order[n++]!]!;
  const left = order.slice(0, n).sort((a, b) => a - b);
  kept.splice(0, kept.length, ...left.map((i) => kept[i]!));
  mass.splice(0, mass.length, ...left.map((i) => mass[i]!));
}

/** One of `kept`, whose logits are `values` and whose largest is `max`. */
function drawAmong(kept: number[], values: readonly number[], max: number, params: SamplingParams, choice: number, position: number): number {
  let mass = values.map((value) => expF64((value - max) / params.temperature));
  if (params.typicalP < 1) keepTypical(kept, mass, params.typicalP);
  if (params.topP < 1 || params.minP > 0) {
    const order = mass.map((_, i) => i).sort((a, b) => mass[b]! - mass[a]! || kept[a]! - kept[b]!);
    const total = order.reduce((sum, i) => sum + mass[i]!, 0);
    let reached = 0;
    let n = 0;
    const least = params.minP * mass[order[0]!]!;
    for (; n < order.length && (n === 0 || (reached < params.topP * total && mass[order[n]!]! >= least)); n++) reached += mass[order[n]!]!;
    const survivors = order.slice(0, n);
    mass = survivors.map((i) => mass[i]!);
    kept.splice(0, kept.length, ...survivors.map((i) => kept[i]!));
  }
  const total = mass.reduce((sum, value) => sum + value, 0);
  let left = uniform(params.seed, choice, position, 0) * total;
  for (let i = 0; i < mass.length; i++) {
    left -= mass[i]!;
    if (left < 0) return kept[i]!;
  }
  // Rounding may leave a sliver after the last token of non-zero mass.
  for (let i = mass.length - 1; i > 0; i--) if (mass[i]! > 0) return kept[i]!;
  return kept[0]!;
}
