// Ratios of weights below which a token does without an expert, by layer, for a share of calls that are to be left out. Two ways: MC-MoE's (2024), the median of a
// layer's ratios in the layers that mind it least, as many as it takes; and the one whose losses over all layers are least. Owns both.
// Refuses texts and weights: it sees samples (kept-experts.ts).

import { type ModelConfig, ModelError } from "../model/config.ts";
import { keptByRatio } from "../model/online-pruning.ts";
import { type LayerSamples, lossOf } from "./kept-experts.ts";

export const ALLOTMENTS = ["least-loss", "median"] as const;
export type Allotment = (typeof ALLOTMENTS)[number];

/** Quantiles of a layer's ratios that are tried. */
const STEPS = 64;

/** A layer at one bound of what stays: a ratio of weights, or a logit (null-experts-model.ts). */
export interface RatioPoint {
  readonly ratio: number;
  /** Of the layer's calls, left out. */
  readonly share: number;
  /** Mean over its tokens. */
  readonly loss: number;
}

export interface RatioChoice {
  readonly layer: number;
  readonly point: RatioPoint;
}

/** A layer at `ratio`. */
export function ratioPoint(config: ModelConfig, renormalize: boolean, samples: LayerSamples, ratio: number): RatioPoint {
  const { topK: k } = config.router;
  let [nLeft, loss] = [0, 0];
  for (let i = 0; i < samples.n; i++) {
    const kept = keptByRatio(ratio, samples.weights.subarray(i * k, (i + 1) * k));
    const nOut = kept.reduce((sum, stays) => sum + (stays ? 0 : 1), 0);
    if (nOut === 0) continue;
    nLeft += nOut;
    loss += lossOf(config, renormalize, samples, i, kept);
  }
  return { ratio, share: nLeft / (samples.n * k), loss: loss / samples.n };
}

/** Quantile `q` of the weights of ranks from 1 on over the first's; at most 1. */
export function ratioQuantile({ weights, n }: LayerSamples, topK: number, q: number): number {
  const ratios = new Float64Array(n * (topK - 1));
  for (let i = 0; i < n; i++) for (let rank = 1; rank < topK; rank++) ratios[i * (topK - 1) + rank - 1] = weights[i * topK] === 0 ? 0 : weights[i * topK + rank]! / weights[i * topK]!;
  ratios.sort();
  return Math.min(1, ratios[Math.min(ratios.length - 1, Math.floor(q * ratios.length))]!);
}

/** A ratio for each layer of samples, so that `share` of all their calls is left out, as nearly as ratios can. Throws ModelError where none do. */
export function chooseRatios(config: ModelConfig, renormalize: boolean, layers: readonly LayerSamples[], share: number, allotment: Allotment): RatioChoice[] {
  const { topK } = config.router;
  const most = 1 - 1 / topK;
  if (!(share > 0 && share < most)) throw new ModelError(`A share of ${share} of all expert calls was to be left out; expected more than 0 and less than ${most.toFixed(3)}, since the first of ${topK} always stays.`);
  const at = (samples: LayerSamples, q: number): RatioPoint => (q <= 0 ? { ratio: 0, share: 0, loss: 0 } : ratioPoint(config, renormalize, samples, ratioQuantile(samples, topK, q)));
  return allotment === "median" ? medians(layers, share, at) : leastLoss(layers, share, at);
}

export type PointAt = (samples: LayerSamples, q: number) => RatioPoint;

function medians(layers: readonly LayerSamples[], share: number, at: PointAt): RatioChoice[] {
  const wanted = share * layers.length;
  const ofAll = (q: number): number => layers.reduce((sum, samples) => sum + at(samples, q).share, 0);
  // Where medians everywhere leave out too little, all take a higher quantile.
  const q = ofAll(0.5) >= wanted ? 0.5 : bisect(0.5, 1, (middle) => ofAll(middle) >= wanted);
  const chosen = new Map<number, RatioPoint>();
  let left = wanted;
  for (const { samples, point } of layers.map((samples) => ({ samples, point: at(samples, q) })).sort((a, b) => a.point.loss - b.point.loss || a.samples.layer - b.samples.layer)) {
    // The last one only as far as is needed.
    const last = point.share <= left ? point : at(samples, bisect(0, q, (middle) => at(samples, middle).share >= left));
    if (left > 0) chosen.set(samples.layer, last);
    left -= last.share;
  }
  return layers.map(({ layer }) => ({ layer, point: chosen.get(layer) ?? { ratio: 0, share: 0, loss: 0 } }));
}

/** For a price of a call, every layer takes the point whose loss minus what it saves is least; the price is found by bisection. */
export function leastLoss(layers: readonly LayerSamples[], share: number, at: PointAt, steps = STEPS): RatioChoice[] {
  const curves = layers.map((samples) => Array.from({ length: steps }, (_, i) => at(samples, i / steps)));
  const choice = (price: number): RatioPoint[] => curves.map((curve) => curve.reduce((best, point) => (point.loss - price * point.share < best.loss - price * best.share ? point : best)));
  const reached = (price: number): boolean => choice(price).reduce((sum, point) => sum + point.share, 0) >= share * layers.length;
  let high = 1e-6;
  while (!reached(high) && high < 1e6) high *= 2;
  const points = choice(bisect(0, high, reached));
  return layers.map(({ layer }, i) => ({ layer, point: points[i]! }));
}

/** The smallest of [low, high] at which `isEnough` holds, nearly. */
export function bisect(low: number, high: number, isEnough: (middle: number) => boolean): number {
  for (let i = 0; i < 40; i++) {
    const middle = (low + high) / 2;
    if (isEnough(middle)) high = middle;
    else low = middle;
  }
  return high;
}
