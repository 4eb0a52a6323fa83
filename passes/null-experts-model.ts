// A model whose tokens take fewer experts where few matter: null experts (AdaMoE, Z. Zeng et al., 2024) put beside those of a trained model without training. As many null
// experts as a token takes have one logit in each layer, and experts below it lose their places to them. Owns that logit: a constant, or a row fitted by ridge regression to the
// token's largest logit, less a distance; and which constant or distance: of least loss over all layers at which a calibration text's tokens keep `active` experts on average.
// Refuses routers in which a null expert has no meaning (router-config.ts).

import { afterPass, type TensorToWrite, unchanged, writeCanonical } from "../formats/canonical-writer.ts";
import type { Checkpoint } from "../formats/checkpoint.ts";
import type { PackSink } from "../formats/pack-sink.ts";
import { freezeConfig } from "../model/architectures/common.ts";
import { type ModelConfig, ModelError, moeLayersOf } from "../model/config.ts";
import type { KernelModules } from "../model/wasm-kernels.ts";
import { type LayerSamples, lossOf, lossOfWeights, sampleLayers } from "./kept-experts.ts";
import { inLayerOrder } from "./layer-order.ts";
import { fitLinear } from "./neuron-work.ts";
import { requireOwnExperts } from "./own-experts.ts";
import { bisect, leastLoss, type PointAt, type RatioChoice, type RatioPoint } from "./pruning-ratios.ts";

/** Biases that are tried in a layer: so many quantiles of its chosen experts' logits. */
const STEPS = 256;
/** Tokens that a row is fitted to, at most: the fit takes time by tokens times the square of the hidden size. */
const FITTED_TOKENS = 8192;

/** Null experts' logit: one number for all tokens, or by a row of the router as the token's own. */
export const NULL_ROWS = ["constant", "fitted"] as const;
/** Weights of null experts that were chosen: brought to the true ones (AdaMoE), or nobody's (MoE++). */
export const NULL_WEIGHTS = ["shared", "kept"] as const;

export interface NullExpertsOptions {
  /** Experts of a token that are run, on average over tokens and layers. */
  readonly active: number;
  /** Null: whichever loses less. */
  readonly rows: (typeof NULL_ROWS)[number] | null;
  readonly weights: (typeof NULL_WEIGHTS)[number] | null;
  readonly sequences: readonly (readonly number[])[];
}

export interface NullExpertsReport {
  readonly nullExperts: number;
  readonly rows: (typeof NULL_ROWS)[number];
  readonly weights: (typeof NULL_WEIGHTS)[number];
  readonly calibrationTokens: number;
  /** Of the calibration's tokens, on average over all layers. */
  readonly active: number;
  /** Of every layer with experts: the null experts' bias, the experts that tokens keep, and the mean squared change of the residual over its square. */
  readonly layers: readonly { readonly layer: number; readonly bias: number; readonly active: number; readonly loss: number }[];
}

/** The config with null experts. Throws ModelError where the router has no place for them, or `active` is none between. */
export function nullExpertsConfig({ config: c, description }: Pick<Checkpoint, "config" | "description">, active: number, weights: NullExpertsReport["weights"] = "shared"): ModelConfig {
  const { router } = c;
  if (moeLayersOf(c).length === 0) throw new ModelError(`${description} is a dense model: it has no experts to do without.`);
  if (router.nullExperts !== undefined) throw new ModelError(`${description} has ${router.nullExperts} null experts already.`);
  if (router.gate !== undefined && router.gate.kind !== "mlp") throw new ModelError(`${description} has a gate of kind ${router.gate.kind}; a null expert has a row and a bias only where logits are products of the router's matrix.`);
  if (c.onlinePruning != null) throw new ModelError(`${description} has a calibration of online pruning, made for ${router.topK} experts per token; null experts leave some out themselves.`);
  if (!(active > 0 && active < router.topK)) throw new ModelError(`${active} experts per token were to be run on average; expected more than 0 and fewer than ${router.topK}, which it takes now.`);
  return freezeConfig(description, { ...c, router: { ...router, nullExperts: router.topK, ...(weights === "kept" ? { nullWeights: weights } : {}), logitBias: true } });
}

/** Writes the model. `onLayer` is told of every layer that was run. */
export async function nullExpertsModel(checkpoint: Checkpoint, sink: PackSink, modules: KernelModules, options: NullExpertsOptions, onLayer: (layersDone: number) => void = () => {}): Promise<NullExpertsReport> {
  const { active, sequences } = options;
  requireOwnExperts(checkpoint, "nulls");
  const before = checkpoint.config;
  nullExpertsConfig(checkpoint, active);
  if (options.rows === "fitted" && before.norm !== "rms") throw new ModelError(`${checkpoint.description} has LayerNorm, whose mean a fitted row does not know; expected --rows constant.`);
  const { topK } = before.router;
  const canFit = options.rows !== "constant" && before.norm === "rms";
  const samples = await sampleLayers(checkpoint, sequences, modules, { protectFirst: 0, withFeatures: canFit, most: canFit ? FITTED_TOKENS : Infinity }, onLayer);
  const fits: (FittedRow | null)[] = [];
  for (const of of samples) fits.push(canFit ? fitLargest(before, of, await checkpoint.readF32(`layers.${of.layer}.ffnNorm`)) : null);
  const tried = NULL_ROWS.filter((rows) => rows === (options.rows ?? rows) && (rows === "constant" || canFit)).flatMap((rows) => {
    const distances = new Map(samples.map((of, i) => [of, inOrder(rows === "constant" ? of.logits : distancesTo(of, topK, fits[i]!.largest))]));
    return NULL_WEIGHTS.filter((weights) => weights === (options.weights ?? weights)).map((weights) => {
      const choices = inStep(samples, 1 - active / topK, (of, q) => nullPoint(before, of, distances.get(of)!, weights, q));
      return { rows, choices, weights, loss: choices.reduce((sum, { point }) => sum + point.loss, 0) };
    });
  });
  const best = tried.reduce((least, one) => (one.loss < least.loss ? one : least));
  const config = nullExpertsConfig(checkpoint, active, best.weights);
  const calibrationTokens = sequences.reduce((sum, { length }) => sum + length, 0);
  const pass = { pass: "nulls", options: { active, rows: best.rows, weights: best.weights, calibrationTokens } };
  const tensors = [...checkpoint.places()].filter(({ name }) => !/^layers\.\d+\.router(Bias)?$/.test(name)).map(({ name }): TensorToWrite => unchanged(checkpoint, name));
  for (const [i, { layer, point }] of best.choices.entries()) {
    const fit = best.rows === "constant" ? null : fits[i]!;
    tensors.push(...await withNulls(checkpoint, config, layer, fit?.row ?? null, point.ratio + (fit?.bias ?? 0)));
  }
  await writeCanonical(sink, { ...afterPass(checkpoint, pass), config }, inLayerOrder(tensors, config.nLayers));
  const report = best.choices.map(({ layer, point }) => ({ layer, bias: point.ratio, active: topK * (1 - point.share), loss: point.loss }));
  return { nullExperts: topK, rows: best.rows, weights: best.weights, calibrationTokens, active: report.reduce((sum, of) => sum + of.active, 0) / report.length, layers: report };
}

/** The choices of least loss, which go from corner to corner of the layers' curves, all brought down by one factor so that the share of calls left out is the one asked for. */
function inStep(layers: readonly LayerSamples[], share: number, at: PointAt): RatioChoice[] {
  const corners = leastLoss(layers, share, at, STEPS);
  const scaled = (factor: number): RatioChoice[] => corners.map(({ layer, point }, i) => ({ layer, point: at(layers[i]!, factor * point.share) }));
  return scaled(bisect(0, 1, (factor) => scaled(factor).reduce((sum, { point }) => sum + point.share, 0) >= share * layers.length));
}

/** A row of the router that gives nearly what the token's largest logit is. */
interface FittedRow {
  /** f32 [hidden], and what is added. */
  readonly row: Float32Array;
  readonly bias: number;
  /** Of each sample, what it gives. */
  readonly largest: Float64Array;
}

/** By ridge regression on what the gate reads: the sample's features times the norm's weights. */
function fitLargest({ hiddenSize, router: { topK: k } }: ModelConfig, samples: LayerSamples, norm: Float32Array): FittedRow {
  const columns = samples.features.length / samples.n;
  const values = new Float32Array(samples.n * hiddenSize);
  for (let i = 0; i < samples.n; i++) for (let j = 0; j < hiddenSize; j++) values[i * hiddenSize + j] = samples.features[i * columns + j]! * norm[j]!;
  const { rows, bias } = fitLinear({ values, width: hiddenSize }, Float64Array.from({ length: samples.n }, (_, i) => samples.logits[i * k]!), 1);
  const largest = Float64Array.from({ length: samples.n }, (_, i) => {
    let sum = bias[0]!;
    for (let j = 0; j < hiddenSize; j++) sum += rows[j]! * values[i * hiddenSize + j]!;
    return sum;
  });
  return { row: rows, bias: bias[0]!, largest };
}

/** Logits of the chosen experts less what the fitted row gives. */
const distancesTo = ({ logits }: LayerSamples, k: number, largest: Float64Array): Float32Array => logits.map((logit, at) => logit - largest[Math.floor(at / k)]!);

/** Logits of a layer's chosen experts, all less something of their tokens' or none: by sample and rank, and ascending. */
interface Distances {
  readonly logits: Float32Array;
  readonly sorted: Float32Array;
}

const inOrder = (logits: Float32Array): Distances => ({ logits, sorted: logits.toSorted() });

/** A layer whose null experts have the logit below which share `q` of its chosen experts' are; logits and null logits may both be less something of the token's. */
function nullPoint(config: ModelConfig, samples: LayerSamples, { logits, sorted }: Distances, weights: NullExpertsReport["weights"], q: number): RatioPoint {
  const { router } = config;
  const { topK: k } = router;
  // Below all of them: nobody loses a place.
  const bias = q <= 0 ? sorted[0]! - 1 : sorted[Math.floor(q * sorted.length)]!;
  let [nOut, loss] = [0, 0];
  for (let i = 0; i < samples.n; i++) {
    const kept = Array.from({ length: k }, (_, rank) => logits[i * k + rank]! >= bias);
    const out = kept.reduce((sum, stays) => sum + (stays ? 0 : 1), 0);
    if (out === 0) continue;
    nOut += out;
    if (weights === "shared") loss += lossOf(config, router.weigh !== "score", samples, i, kept);
    else {
      // The null experts' share of what was the first expert's: the sum that weights are made of grows by it.
      const [first, own] = [samples.weights[i * k]!, samples.weights.subarray(i * k, (i + 1) * k)];
      const nullWeight = first * Math.exp(bias - logits[i * k]!);
      const sum = router.weigh === "score" ? 1 + k * nullWeight : (kept.reduce((total, stays, rank) => total + (stays ? own[rank]! : nullWeight), 0)) / own.reduce((total, weight) => total + weight, 0);
      loss += lossOfWeights(samples, i, Float32Array.from(own, (weight, rank) => (kept[rank] ? weight / sum : 0)));
    }
  }
  return { ratio: bias, share: nOut / (samples.n * k), loss: loss / samples.n };
}

/** The router's rows and biases with those of the null experts behind: all alike, a fitted row or zeros. */
async function withNulls(checkpoint: Checkpoint, { router: { nullExperts = 0 }, nExperts }: ModelConfig, layer: number, row: Float32Array | null, bias: number): Promise<TensorToWrite[]> {
  const at = `layers.${layer}.`;
  const { nCols } = checkpoint.place(`${at}router`);
  const [rows, own] = [await checkpoint.readF32(`${at}router`), checkpoint.config.router.logitBias ? await checkpoint.readF32(`${at}routerBias`) : new Float32Array(nExperts)];
  const tensor = (name: string, nRows: number, cols: number, values: Float32Array): TensorToWrite => ({ name: at + name, type: "F32", nRows, nCols: cols, async *read() { yield new Uint8Array(values.slice().buffer); } });
  const all = new Float32Array((nExperts + nullExperts) * nCols);
  all.set(rows);
  for (let i = 0; i < nullExperts && row !== null; i++) all.set(row, (nExperts + i) * nCols);
  return [tensor("router", nExperts + nullExperts, nCols, all), tensor("routerBias", 1, nExperts + nullExperts, Float32Array.from([...own, ...new Array<number>(nullExperts).fill(bias)]))];
}
