// Two engines over the same tokens, chunk by chunk: how far the second is from the first, layer by layer and in what it says next.
// Owns the figures of `verify`: cosine of each layer's output, error of logits, Kullback-Leibler divergence, perplexity of both. Sums are in f64.
// Refuses engines of different vocabularies.

import type { Engine } from "../model/engine.ts";
import { argmax } from "../model/sampling.ts";
import type { Tap } from "../model/taps.ts";

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

export async function compareModels(first: Engine, second: Engine, ids: readonly number[], onProgress: (tokens: number) => void = () => {}): Promise<ModelAgreement> {
  const { vocabSize, nLayers, hiddenSize } = first.config;
  if (second.config.vocabSize !== vocabSize || second.config.nLayers !== nLayers) {
    throw new Error(`Models of ${vocabSize} tokens in ${nLayers} layers and of ${second.config.vocabSize} in ${second.config.nLayers} cannot be compared; two forms of one model were expected.`);
  }
  const cosines = Array.from({ length: nLayers }, () => ({ sum: 0, least: 1 }));
  let [errorSquares, squares, klSum, klMost, same, nllFirst, nllSecond] = [0, 0, 0, 0, 0, 0, 0];
  const timelines = [first, second].map((engine) => engine.kv.open(ids.length));
  const chunkTokens = Math.min(first.maxChunkTokens, second.maxChunkTokens);
  for (let done = 0; done < ids.length; done += chunkTokens) {
    const chunk = ids.slice(done, done + chunkTokens);
    const outputs = [new Map<number, Float32Array>(), new Map<number, Float32Array>()];
    const logits: Float32Array[] = [];
    for (const [i, engine] of [first, second].entries()) {
      const tap: Tap = { at: "layerOutput", run: ({ layer, values }) => void outputs[i]!.set(layer, values.slice()) };
      logits.push((await engine.step([{ timeline: timelines[i]!, ids: chunk, logits: "all" }], [tap])).logits[0]!);
    }
    for (let layer = 0; layer < nLayers; layer++) {
      const [a, b] = outputs.map((of) => of.get(layer)!) as [Float32Array, Float32Array];
      for (let t = 0; t < chunk.length; t++) {
        let [ab, aa, bb] = [0, 0, 0];
        for (let i = t * hiddenSize; i < (t + 1) * hiddenSize; i++) {
          ab += a[i]! * b[i]!;
          aa += a[i]! * a[i]!;
          bb += b[i]! * b[i]!;
        }
        const cosine = ab / Math.sqrt(aa * bb);
        const of = cosines[layer]!;
        of.sum += cosine;
        of.least = Math.min(of.least, cosine);
      }
    }
    for (let t = 0; t < chunk.length; t++) {
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
    onProgress(done + chunk.length);
  }
  const predicted = Math.max(1, ids.length - 1);
  return {
    tokens: ids.length, layers: cosines.map(({ sum, least }, layer) => ({ layer, meanCosine: sum / ids.length, leastCosine: least })),
    logitError: Math.sqrt(errorSquares / squares), klMean: klSum / ids.length, klMost, sameTop: same / ids.length,
    perplexity: [Math.exp(nllFirst / predicted), Math.exp(nllSecond / predicted)],
  };
}
