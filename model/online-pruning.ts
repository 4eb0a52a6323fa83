// Experts left out of tokens while a step runs: taps between the router's selection and the experts' batch, by the rule of each timeline (online-pruning-rule.ts).
// Owns the rule by ratio (MC-MoE's ODP, 2024), the mask router's arithmetic (MC#'s OTP, 2025) and the weights of those that stay: what the router itself gives to so
// few. Everything is f32 in fixed order, of one token and its layer alone: batch, chunk and placement change nothing. docs/arithmetic.md section 7.

import { keepRouterColumns, type ModelConfig, type RouterConfig } from "./config.ts";
import { NO_EXPERT } from "./expert-batch.ts";
import type { PruningRule } from "./online-pruning-rule.ts";
import { weigh } from "./router.ts";
import { weighsWhileChoosing } from "./router-config.ts";
import type { Tap, TapEvent } from "./taps.ts";

const f = Math.fround;

/** Expert calls of an entry: left out, and how many all would have been. */
export interface PrunedCalls {
  readonly leftOut: number;
  readonly of: number;
}

export interface PrunedEntry {
  readonly timeline: { readonly id: number };
  readonly pruning: PruningRule | null;
}

type PrunedConfig = Pick<ModelConfig, "router" | "hiddenSize" | "normEps">;

export class OnlinePruning {
  readonly taps: readonly Tap[];
  readonly #config: PrunedConfig;
  readonly #keepRouter: (layer: number) => Float32Array;
  readonly #rules: ReadonlyMap<number, { readonly rule: PruningRule; readonly counts: { leftOut: number; of: number } }>;
  readonly #entries: readonly PrunedEntry[];
  /** Residual of the layer's tokens, f32 [nTokens, hidden]: memory of the engine, good until the selection of the same tokens. */
  #residual: TapEvent | null = null;

  private constructor(config: PrunedConfig, entries: readonly PrunedEntry[], keepRouter: (layer: number) => Float32Array) {
    this.#config = config;
    this.#entries = entries;
    this.#keepRouter = keepRouter;
    this.#rules = new Map(entries.flatMap(({ timeline, pruning }) => (pruning === null ? [] : [[timeline.id, { rule: pruning, counts: { leftOut: 0, of: 0 } }] as const])));
    const selection: Tap = { at: "selection", run: (event) => this.#prune(event) };
    const learns = entries.some(({ pruning }) => pruning?.by === "learned");
    this.taps = learns ? [{ at: "input", run: (event) => { this.#residual = event; } }, selection] : [selection];
  }

  /** Null where no entry has a rule. `keepRouter` gives a layer's parameters, f32 [topK, keepRouterColumns]. */
  static of(config: PrunedConfig, entries: readonly PrunedEntry[], keepRouter: (layer: number) => Float32Array): OnlinePruning | null {
    return entries.some(({ pruning }) => pruning !== null) ? new OnlinePruning(config, entries, keepRouter) : null;
  }

  /** By entry; of those without a rule, none of none. */
  get calls(): PrunedCalls[] {
    return this.#entries.map(({ timeline }) => ({ leftOut: 0, of: 0, ...this.#rules.get(timeline.id)?.counts }));
  }

  #prune({ layer, nTokens, timelines, positions, values, rowLength, ids, weights }: TapEvent): void {
    const { router: { topK: k } } = this.#config;
    for (let t = 0; t < nTokens; t++) {
      const found = this.#rules.get(timelines[t]!);
      if (found === undefined) continue;
      const { rule, counts } = found;
      const [own, given] = [ids.subarray(t * k, (t + 1) * k), weights.subarray(t * k, (t + 1) * k)];
      // Ranks that an intervention has left empty are nobody's to leave out.
      const ranks = Array.from(own.keys()).filter((rank) => own[rank] !== NO_EXPERT);
      counts.of += ranks.length;
      if (positions[t]! < rule.protectFirst || ranks.length === 0) continue;
      const present = Float32Array.from(ranks, (rank) => given[rank]!);
      const kept = rule.by === "ratio" ? keptByRatio(rule.ratios[layer]!, present) : this.#keptByRouter(layer, t, present);
      const nLeft = ranks.reduce((sum, _, i) => sum + (kept[i] ? 0 : 1), 0);
      if (nLeft === 0) continue;
      counts.leftOut += nLeft;
      leaveOut(this.#config.router, rule.renormalize, Array.from(own.keys(), (rank) => kept[ranks.indexOf(rank)] === true), values.subarray(t * rowLength, (t + 1) * rowLength), own, given);
    }
  }

  /** `present` f32, of the experts there are, in rank order: the others weigh nothing. */
  #keptByRouter(layer: number, t: number, present: Float32Array): boolean[] {
    const { values, rowLength } = this.#residual!;
    const weights = new Float32Array(this.#config.router.topK);
    weights.set(present);
    const nKept = largestWithMost(keepScores(this.#keepRouter(layer), values.subarray(t * rowLength, (t + 1) * rowLength), weights, this.#config.normEps));
    return Array.from(weights, (_, rank) => rank < nKept);
  }
}

/** Who stays of a token's experts, by rank; `weights` f32 [topK] as the router gave them. The first always does. */
export const keptByRatio = (ratio: number, weights: Float32Array): boolean[] => {
  const least = f(f(ratio) * weights[0]!);
  return Array.from(weights, (weight, rank) => rank === 0 || !(weight < least));
};

/**
 * Takes experts out of a token's choices, in place: their ids become NO_EXPERT, their weights 0. The weights of the others stay; with `renormalize` they are those a router gives
 * that chose no more than these: made anew of their `scores` (f32 [nExperts]) where it brings them to a sum.
 */
export function leaveOut(router: RouterConfig, renormalize: boolean, kept: readonly boolean[], scores: Float32Array, ids: Uint32Array, weights: Float32Array): void {
  const ranks = kept.flatMap((stays, rank) => (stays ? [rank] : []));
  const renews = renormalize && !weighsWhileChoosing(router) && (router.weigh === "renormalize" || router.weigh === "softmax-selected");
  if (renews) {
    const own = Float32Array.from(ranks, (rank) => scores[ids[rank]!]!);
    weigh(router, own, 0, own.length);
    ranks.forEach((rank, i) => { weights[rank] = own[i]!; });
  }
  kept.forEach((stays, rank) => {
    if (stays) return;
    ids[rank] = NO_EXPERT;
    weights[rank] = 0;
  });
}

/**
 * What the mask router reads of a token, f32 [keepRouterColumns]: the residual before the feed-forward part, of root mean square 1; the first expert's weight; the others' over
 * the first's; 1. `x` f32 [hidden], `weights` f32 [topK].
 */
export function keepFeatures(x: Float32Array, weights: Float32Array, eps: number): Float32Array {
  const [n, k] = [x.length, weights.length];
  let squares = 0;
  for (let i = 0; i < n; i++) squares = f(squares + f(x[i]! * x[i]!));
  const inverse = f(1 / f(Math.sqrt(f(f(squares / n) + f(eps)))));
  const out = new Float32Array(n + k + 1);
  for (let i = 0; i < n; i++) out[i] = f(x[i]! * inverse);
  out[n] = weights[0]!;
  for (let rank = 1; rank < k; rank++) out[n + rank] = weights[0] === 0 ? 0 : f(weights[rank]! / weights[0]!);
  out[n + k] = 1;
  return out;
}

/** The mask router's scores, f32 [topK]: number j says how well the first j + 1 experts do alone. `parameters` f32 [topK, keepRouterColumns]. */
export function keepScores(parameters: Float32Array, x: Float32Array, weights: Float32Array, eps: number): Float32Array {
  const features = keepFeatures(x, weights, eps);
  const columns = keepRouterColumns(x.length, weights.length);
  return Float32Array.from(weights, (_, row) => {
    let sum = 0;
    for (let i = 0, at = row * columns; i < columns; i++, at++) sum = f(sum + f(parameters[at]! * features[i]!));
    return sum;
  });
}

/** How many experts stay: the number with the largest score, of equal ones the larger; all where scores are no numbers. */
export function largestWithMost(scores: ArrayLike<number>): number {
  let best = scores.length - 1;
  for (let j = best - 1; j >= 0; j--) if (scores[j]! > scores[best]!) best = j;
  return best + 1;
}
