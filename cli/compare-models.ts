// Two models over the same tokens, layer by layer: how far the second is from the first, in each layer's output and in what it says next.
// Owns the figures of `verify`: cosine of each layer's output, error of logits, Kullback-Leibler divergence, perplexity of both. Sums are in f64.
// Refuses models of different vocabularies.

import { argmax } from "../model/sampling.ts";
import { LayeredModel } from "../passes/layered-model.ts";
import type { WeightsByName } from "../passes/streamed-model.ts";
import { kernelModules } from "./open-pack.ts";

export interface LayerAgreement {
  readonly layer: number;
  readonly meanCosine: number;
  readonly leastCosine: number;
}

export interface ModelAgreement {
  readonly tokens: number;
  readonly layers: readonly LayerAgreement[];
  /** Root of the mean squared difference of logits over the root of their mean square, each row less its mean. */
  readonly logitError: number;
  /** Nats, of the second's next-token distribution from the first's. */
  readonly klMean: number;
  readonly klMost: number;
  /** Share of positions at which both find the same token most likely. */
  readonly sameTop: number;
  /** Of the tokens that follow; 1 more than the text has would be needed for the last. */
  readonly perplexity: readonly [first: number, second: number];
}

/** Natural logarithms of the softmax of a row. */
function logSoftmax(row: Float32Array): Float64Array {
  const max = row.reduce((most, x) => Math.max(most, x), -Infinity);
  let sum = 0;
  for (const x of row) sum += Math.exp(x - max);
  const total = max + Math.log(sum);
  return Float64Array.from(row, (x) => x - total);
}

/** `onProgress` gets layers done; the head counts as one. */
export async function compareModels(of: readonly [first: WeightsByName, second: WeightsByName], ids: readonly number[], onProgress: (layers: number) => void = () => {}): Promise<ModelAgreement> {
  const [{ config: { vocabSize, nLayers, hiddenSize } }, { config: other }] = of;
  if (other.vocabSize !== vocabSize || other.nLayers !== nLayers) {
    throw new Error(`Models of ${vocabSize} tokens in ${nLayers} layers and of ${other.vocabSize} in ${other.nLayers} cannot be compared; two forms of one model were expected.`);
  }
  const modules = kernelModules();
  const [first, second] = [await LayeredModel.open(of[0], [ids], modules), await LayeredModel.open(of[1], [ids], modules)];
  const layers: LayerAgreement[] = [];
  for (let layer = 0; layer < nLayers; layer++) {
    const [a, b] = [await first.runLayer(layer), await second.runLayer(layer)];
    let [sum, least] = [0, 1];
    for (let t = 0; t < ids.length; t++) {
      let [ab, aa, bb] = [0, 0, 0];
      for (let i = t * hiddenSize; i < (t + 1) * hiddenSize; i++) {
        ab += a[i]! * b[i]!;
        aa += a[i]! * a[i]!;
        bb += b[i]! * b[i]!;
      }
      const cosine = ab / Math.sqrt(aa * bb);
      sum += cosine;
      least = Math.min(least, cosine);
    }
    layers.push({ layer, meanCosine: sum / ids.length, leastCosine: least });
    onProgress(layer + 1);
  }
  let [errorSquares, squares, klSum, klMost, same, nllFirst, nllSecond] = [0, 0, 0, 0, 0, 0, 0];
  const heads = [await first.openHead(), await second.openHead()];
  const chunkTokens = Math.min(...heads.map(({ maxTokens }) => maxTokens));
  for (let done = 0; done < ids.length; done += chunkTokens) {
    const nTokens = Math.min(chunkTokens, ids.length - done);
    const logits = heads.map((head) => head.logits(done, nTokens));
    for (let t = 0; t < nTokens; t++) {
      const [a, b] = logits.map((rows) => rows.subarray(t * vocabSize, (t + 1) * vocabSize)) as [Float32Array, Float32Array];
      const [meanA, meanB] = [a, b].map((row) => row.reduce((sum, x) => sum + x, 0) / vocabSize) as [number, number];
      const [logA, logB] = [logSoftmax(a), logSoftmax(b)];
      let kl = 0;
      for (let v = 0; v < vocabSize; v++) {
        errorSquares += (a[v]! - meanA - (b[v]! - meanB)) ** 2;
        squares += (a[v]! - meanA) ** 2;
        kl += Math.exp(logA[v]!) * (logA[v]! - logB[v]!);
      }
      klSum += kl;
      klMost = Math.max(klMost, kl);
      if (argmax(a) === argmax(b)) same++;
      const next = ids[done + t + 1];
      if (next === undefined) continue;
      nllFirst -= logA[next]!;
      nllSecond -= logB[next]!;
    }
  }
  onProgress(nLayers + 1);
  const predicted = Math.max(1, ids.length - 1);
  return {
    tokens: ids.length, layers,
    logitError: Math.sqrt(errorSquares / squares), klMean: klSum / ids.length, klMost, sameTop: same / ids.length,
    perplexity: [Math.exp(nllFirst / predicted), Math.exp(nllSecond / predicted)],
  };
}
