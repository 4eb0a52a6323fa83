// What a layer's output loses where tokens do without some of their experts, for any choice of them: one run of the layer over calibration texts, with all experts, gives
// weights and the scalar products of what the experts gave, and with these every squared distance there is. Owns that run and those distances. Refuses to choose
// (pruning-ratios.ts, mask-router.ts). Distances are relative to the residual that the layer passes on, so that layers compare.

import type { MatrixSource } from "../formats/checkpoint.ts";
import { type ModelConfig, moeLayersOf } from "../model/config.ts";
import { keepFeatures, leaveOut } from "../model/online-pruning.ts";
import type { KernelModules } from "../model/wasm-kernels.ts";
import { LayeredModel, type LayerTap } from "./layered-model.ts";
import { checkpointWeights } from "./streamed-model.ts";

/** Calibration tokens of one layer that may lose experts. */
export interface LayerSamples {
  readonly layer: number;
  readonly n: number;
  /** Of a token, as the router gave them: f32 [n][topK]. */
  readonly weights: Float32Array;
  /** What the weights were made of, f32 [n][topK]. */
  readonly scores: Float32Array;
  /** Logits of these experts, f32 [n][topK]. */
  readonly logits: Float32Array;
  /** Scalar products of the experts' outputs, times the square of the residual's multiplier: f64 [n][topK][topK]. */
  readonly products: Float64Array;
  /** Squared length of the residual behind the layer, f64 [n]. */
  readonly residual: Float64Array;
  /** What a mask router reads, f32 [n][keepRouterColumns]; empty where nobody asked. */
  readonly features: Float32Array;
}

export interface SampleOptions {
  readonly protectFirst: number;
  readonly withFeatures: boolean;
  /** Of all calibration tokens at most so many, evenly spread; the same ones in every layer. */
  readonly most: number;
}

/** Of every layer with experts, ascending, of one run over the sequences. `onLayer` is told of every layer that was run. */
export async function sampleLayers(matrices: MatrixSource, sequences: readonly (readonly number[])[], modules: KernelModules, options: SampleOptions, onLayer: (layersDone: number) => void = () => {}): Promise<LayerSamples[]> {
  const { config } = matrices;
  const lengths = sequences.map(({ length }) => length);
  const model = await LayeredModel.open(checkpointWeights(matrices, Math.max(...lengths)), sequences, modules);
  const samples: LayerSamples[] = [];
  for (let layer = 0; layer <= (moeLayersOf(config).at(-1) ?? -1); layer++) {
    if (config.layerFfns[layer] === "moe") samples.push(await sampleLayer(model, layer, lengths, options));
    else await model.runLayer(layer);
    onLayer(layer + 1);
  }
  return samples;
}

/** Runs layer `layer`, the model's next one, and goes on behind it. */
export async function sampleLayer(model: LayeredModel, layer: number, lengths: readonly number[], { protectFirst, withFeatures, most }: SampleOptions): Promise<LayerSamples> {
  const { config } = model;
  const { topK: k } = config.router;
  const numbers = wantedTokens(lengths, protectFirst, most);
  const place = new Map(numbers.map((token, i) => [token, i]));
  const n = numbers.length;
  const columns = config.hiddenSize + k + 1;
  const [weights, scores, logits, products, residual] = [new Float32Array(n * k), new Float32Array(n * k), new Float32Array(n * k), new Float64Array(n * k * k), new Float64Array(n)];
  const features = new Float32Array(withFeatures ? n * columns : 0);
  let [ids, inputs, before] = [new Uint32Array(0), new Float32Array(0), new Float32Array(0)];
  const each = (nTokens: number, firstToken: number, run: (t: number, i: number) => void): void => {
    for (let t = 0; t < nTokens; t++) {
      const i = place.get(firstToken + t);
      if (i !== undefined) run(t, i);
    }
  };
  const taps: LayerTap[] = [
    { at: "input", run: ({ values }) => { if (withFeatures) inputs = values.slice(); } },
    { at: "logits", run: ({ values }) => { before = values.slice(); } },
    { at: "selection", run: (event, firstToken) => {
      ids = event.ids.slice();
      each(event.nTokens, firstToken, (t, i) => {
        const own = event.weights.slice(t * k, (t + 1) * k);
        weights.set(own, i * k);
        for (let rank = 0; rank < k; rank++) {
          const at = t * event.rowLength + ids[t * k + rank]!;
          scores[i * k + rank] = event.values[at]!;
          logits[i * k + rank] = before[at]!;
        }
        if (withFeatures) features.set(keepFeatures(inputs.subarray(t * config.hiddenSize, (t + 1) * config.hiddenSize), own, config.normEps), i * columns);
      });
    } },
    { at: "expertOutput", run: ({ values, rowLength, batch, nTokens }, firstToken) => {
      // Rows of each token by rank, summed over an expert's segments.
      const rows: (Float64Array | undefined)[] = [];
      for (let group = 0; group < batch!.nGroups; group++) {
        for (let at = batch!.groupStart[group]!, row = batch!.groupRow[group]!; at < batch!.groupStart[group + 1]!; at++, row++) {
          const t = batch!.groupTokens[at]!;
          if (!place.has(firstToken + t)) continue;
          const sum = (rows[ids.indexOf(batch!.groupExpert[group]!, t * k)] ??= new Float64Array(rowLength));
          for (let j = 0; j < rowLength; j++) sum[j]! += values[row * rowLength + j]!;
        }
      }
      each(nTokens, firstToken, (t, i) => {
        for (let a = 0; a < k; a++) {
          for (let b = a; b < k; b++) {
            const product = config.residualMultiplier ** 2 * dot(rows[t * k + a]!, rows[t * k + b]!);
            products[(i * k + a) * k + b] = products[(i * k + b) * k + a] = product;
          }
        }
      });
    } },
    { at: "layerOutput", run: ({ values, rowLength, nTokens }, firstToken) => each(nTokens, firstToken, (t, i) => {
      const row = values.subarray(t * rowLength, (t + 1) * rowLength);
      residual[i] = dot(row, row);
    }) },
  ];
  await model.runLayer(layer, { taps });
  return { layer, n, weights, scores, logits, products, residual, features };
}

/** Numbers among the tokens of all sequences of those behind the protected positions, evenly thinned to `most`. */
export function wantedTokens(lengths: readonly number[], protectFirst: number, most: number): number[] {
  let before = 0;
  const all = lengths.flatMap((length) => {
    const own = Array.from({ length: Math.max(0, length - protectFirst) }, (_, i) => before + protectFirst + i);
    before += length;
    return own;
  });
  return all.length <= most ? all : Array.from({ length: most }, (_, i) => all[Math.floor((i * all.length) / most)]!);
}

/** What token `i` loses where only `kept` of its experts stay: the squared change of its residual over the squared residual. */
export function lossOf({ router }: Pick<ModelConfig, "router">, renormalize: boolean, samples: LayerSamples, i: number, kept: readonly boolean[]): number {
  const { topK: k } = router;
  const before = samples.weights.subarray(i * k, (i + 1) * k);
  const after = before.slice();
  leaveOut(router, renormalize, kept, samples.scores.subarray(i * k, (i + 1) * k), Uint32Array.from(kept, (_, rank) => rank), after);
  return lossOfWeights(samples, i, after);
}

/** What token `i` loses where its experts weigh `after` in place of what the router gave them, [topK]. */
export function lossOfWeights(samples: LayerSamples, i: number, after: ArrayLike<number>): number {
  const k = after.length;
  const before = samples.weights.subarray(i * k, (i + 1) * k);
  let sum = 0;
  for (let a = 0; a < k; a++) for (let b = 0; b < k; b++) sum += (after[a]! - before[a]!) * (after[b]! - before[b]!) * samples.products[(i * k + a) * k + b]!;
  return samples.residual[i] === 0 ? 0 : Math.max(0, sum) / samples.residual[i]!;
}

const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
};
