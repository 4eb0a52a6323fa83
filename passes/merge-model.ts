// Merges experts that give alike: clusters over all layers together, and per cluster and matrix one mean, weighted by how often each was chosen, perhaps cut down to
// the directions that the cluster's matrices share (Sub-MoE, 2025). Router rows stay: several experts are then one slot, which packs and isolates hold once.
// Owns the means. Refuses biases to be told apart: those of clamped experts are averaged as the matrices are.
// In the paper W = U S V with U S of the matrices side by side and V the weighted mean of their parts; that is the weighted mean of the matrices, projected onto the
// first columns of U: with all of them, the mean itself.

import { EigenvalueDecomposition, Matrix } from "ml-matrix";
import { afterPass, type TensorToWrite, unchanged, writeCanonical } from "../formats/canonical-writer.ts";
import type { Checkpoint } from "../formats/checkpoint.ts";
import type { PackSink } from "../formats/pack-sink.ts";
import { inputRowsPerToken, ModelError, moeLayersOf } from "../model/config.ts";
import type { KernelModules } from "../model/wasm-kernels.ts";
import { expertLikeness } from "./expert-likeness.ts";
import { type Clustering, clusterLayers } from "./likeness-clusters.ts";
import { LayeredModel } from "./layered-model.ts";
import { checkpointWeights } from "./streamed-model.ts";

export interface MergeOptions {
  /** Share of all layers' experts that stay different. */
  readonly share: number;
  /** Directions of each merged matrix that stay, as a share of its smaller side; 1: all. */
  readonly rank: number;
  /** Texts, as sequences of token ids. */
  readonly sequences: readonly (readonly number[])[];
  readonly seed: number;
}

export interface MergeReport {
  readonly calibrationTokens: number;
  /** Of every layer with experts: cluster of each, how often each was chosen, and the sum of squared distances. */
  readonly layers: readonly (Clustering & { readonly layer: number; readonly frequency: readonly number[] })[];
}

/** Writes the merged model. */
export async function mergeModel(checkpoint: Checkpoint, sink: PackSink, modules: KernelModules, options: MergeOptions, onLayer: (layersDone: number) => void = () => {}): Promise<MergeReport> {
  const { config, description } = checkpoint;
  const { share, rank, sequences, seed } = options;
  const moeLayers = moeLayersOf(config);
  if (inputRowsPerToken(config) > 1) throw new ModelError(`${description} has ${inputRowsPerToken(config)} latent groups, whose experts read different rows; one group was expected: a mean over several would be of no meaning.`);
  if (moeLayers.length === 0) throw new ModelError(`${description} is a dense model: it has no experts to merge.`);
  const total = Math.round(share * moeLayers.length * config.nExperts);
  if (!(share > 0 && share <= 1) || total < moeLayers.length) throw new ModelError(`A share of ${share} of all experts was to stay; expected at least one of ${config.nExperts} in each layer, at most all.`);
  const context = Math.max(...sequences.map(({ length }) => length));
  const model = await LayeredModel.open(checkpointWeights(checkpoint, context), sequences, modules);
  const measured: { layer: number; likeness: Float64Array; frequency: number[] }[] = [];
  for (let layer = 0; layer <= moeLayers.at(-1)!; layer++) {
    const frequency = new Array<number>(config.nExperts).fill(0);
    if (config.layerFfns[layer] === "moe") measured.push({ layer, likeness: await expertLikeness(model, checkpoint, context, layer), frequency });
    await model.runLayer(layer, { taps: [{ at: "selection", run: ({ ids }) => ids.forEach((id) => { frequency[id]!++; }) }] });
    onLayer(layer + 1);
  }
  const clusters = clusterLayers(measured, config.nExperts, total, 1, seed);
  const layers = measured.map(({ layer, frequency }, i) => ({ layer, frequency, ...clusters[i]! }));
  const calibrationTokens = sequences.reduce((sum, { length }) => sum + length, 0);
  const pass = { pass: "merge", options: { share, rank, seed, calibrationTokens } };
  const byLayer = new Map(layers.map((of) => [of.layer, of]));
  const tensors = [...checkpoint.places()].map(({ name }): TensorToWrite => {
    const [, layer, expert, matrix] = /^layers\.(\d+)\.experts\.(\d+)\.(\w+)$/.exec(name) ?? [];
    const of = byLayer.get(Number(layer ?? -1));
    if (of === undefined) return unchanged(checkpoint, name);
    const members = of.of.flatMap((cluster, e) => (cluster === of.of[Number(expert)] ? [e] : []));
    if (members.length === 1) return unchanged(checkpoint, name);
    const { nRows, nCols } = checkpoint.place(name);
    return {
      name, type: "F32", nRows, nCols,
      async *read() {
        const matrices = await Promise.all(members.map((e) => checkpoint.readF32(`layers.${layer}.experts.${e}.${matrix}`)));
        yield new Uint8Array(mergedMatrix(matrices, members.map((e) => of.frequency[e]!), nRows, nCols, nRows === 1 ? 1 : rank).buffer);
      },
    };
  });
  await writeCanonical(sink, afterPass(checkpoint, pass), tensors);
  return { calibrationTokens, layers };
}

/** The mean of [nRows, nCols] matrices by weight, in the span of the first `rank` (a share of the smaller side) left singular vectors of them all. */
export function mergedMatrix(matrices: readonly Float32Array[], weights: readonly number[], nRows: number, nCols: number, rank: number): Float32Array<ArrayBuffer> {
  // Where nobody was ever chosen, all count the same.
  const sum = weights.reduce((a, b) => a + b, 0);
  const shares = weights.map((weight) => (sum === 0 ? 1 / weights.length : weight / sum));
  const mean = new Float64Array(nRows * nCols);
  matrices.forEach((matrix, i) => { for (let at = 0; at < mean.length; at++) mean[at]! += shares[i]! * matrix[at]!; });
  const kept = Math.max(1, Math.round(rank * Math.min(nRows, nCols)));
  if (kept >= Math.min(nRows, nCols)) return Float32Array.from(mean);
  const gram = Matrix.zeros(nRows, nRows);
  for (const matrix of matrices) {
    const w = new Matrix(Array.from({ length: nRows }, (_, r) => Array.from(matrix.subarray(r * nCols, (r + 1) * nCols))));
    gram.add(w.mmul(w.transpose()));
  }
  const { realEigenvalues: values, eigenvectorMatrix: vectors } = new EigenvalueDecomposition(gram, { assumeSymmetric: true });
  const order = Array.from(values.keys()).sort((a, b) => values[b]! - values[a]!).slice(0, kept);
  const u = new Matrix(Array.from({ length: nRows }, (_, r) => order.map((column) => vectors.get(r, column))));
  const w = new Matrix(Array.from({ length: nRows }, (_, r) => Array.from(mean.subarray(r * nCols, (r + 1) * nCols))));
  return Float32Array.from(u.mmul(u.transpose().mmul(w)).to1DArray());
}
