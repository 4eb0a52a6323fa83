// Merges experts that give alike: clusters over all layers together, and per cluster and matrix one mean, weighted by how often each was chosen, perhaps cut down to
// the directions that the cluster's matrices share (Sub-MoE, 2025). Router rows stay: several experts are then one slot, which packs and isolates hold once.
// Or, `join: "neurons"`, one expert of the clusters' own neurons with a new down matrix (joined-experts.ts), layer after layer behind those that are merged already.
// Owns the means and that order. Refuses biases to be told apart: they are averaged as the matrices are.
// In the paper W = U S V with U S of the matrices side by side and V the weighted mean of their parts; that is the weighted mean of the matrices, projected onto the
// first columns of U: with all of them, the mean itself.

import { EigenvalueDecomposition, Matrix } from "ml-matrix";
import { afterPass, type TensorToWrite, unchanged, writeCanonical } from "../formats/canonical-writer.ts";
import { type Checkpoint, expertName } from "../formats/checkpoint.ts";
import type { PackSink } from "../formats/pack-sink.ts";
import { PatchedMatrices } from "../formats/patched-matrices.ts";
import { type ExpertBias, type ExpertMatrix, inputRowsPerToken, ModelError, moeLayersOf } from "../model/config.ts";
import { expertBiases, expertMatrices } from "../model/expert-kinds.ts";
import type { KernelModules } from "../model/wasm-kernels.ts";
import { expertLikeness } from "./expert-likeness.ts";
import { joinExperts } from "./joined-experts.ts";
import { ExpertUse } from "./expert-use.ts";
import { inLayerOrder } from "./layer-order.ts";
import { type Clustering, clusterLayers, type Likeness } from "./likeness-clusters.ts";
import { LayeredModel } from "./layered-model.ts";
import { checkpointWeights } from "./streamed-model.ts";
import { requireOwnExperts } from "./own-experts.ts";

export interface MergeOptions {
  /** Share of all layers' experts that stay different. */
  readonly share: number;
  /** What becomes of a cluster: the mean of its matrices, or as many of its neurons as one expert has. */
  readonly join: "mean" | "neurons";
  /** Of means: directions of each merged matrix that stay, as a share of its smaller side; 1: all. */
  readonly rank: number;
  /** Texts, as sequences of token ids. */
  readonly sequences: readonly (readonly number[])[];
  readonly seed: number;
}

export interface MergeReport {
  readonly calibrationTokens: number;
  /** Of every layer with experts: cluster of each, how often each was chosen, and the sum of squared distances. */
  readonly layers: readonly MergedLayer[];
}

export interface MergedLayer extends Clustering {
  readonly layer: number;
  readonly frequency: readonly number[];
  /** Of clusters joined by neurons, by number: squared error as a share of what their experts gave; 0 for experts that stay alone. */
  readonly errors?: readonly number[];
}

/** Writes the merged model. */
export async function mergeModel(checkpoint: Checkpoint, sink: PackSink, modules: KernelModules, options: MergeOptions, onLayer: (layersDone: number) => void = () => {}): Promise<MergeReport> {
  requireOwnExperts(checkpoint, "merge");
  const { config, description } = checkpoint;
  const { share, join, rank, sequences, seed } = options;
  const moeLayers = moeLayersOf(config);
  if (inputRowsPerToken(config) > 1) throw new ModelError(`${description} has ${inputRowsPerToken(config)} latent groups, whose experts read different rows; one group was expected: a mean over several would be of no meaning.`);
  if (moeLayers.length === 0) throw new ModelError(`${description} is a dense model: it has no experts to merge.`);
  if (join === "neurons" && rank !== 1) throw new ModelError(`Experts joined by neurons have no directions to leave out, and a rank of ${rank} was asked for; expected 1, or --join mean.`);
  const total = Math.round(share * moeLayers.length * config.nExperts);
  if (!(share > 0 && share <= 1) || total < moeLayers.length) throw new ModelError(`A share of ${share} of all experts was to stay; expected at least one of ${config.nExperts} in each layer, at most all.`);
  const context = Math.max(...sequences.map(({ length }) => length));
  const model = await LayeredModel.open(checkpointWeights(checkpoint, context), sequences, modules);
  const measured: (Likeness & { layer: number; frequency: number[] })[] = [];
  for (let layer = 0; layer <= moeLayers.at(-1)!; layer++) {
    const likeness = config.layerFfns[layer] === "moe" ? await expertLikeness(model, checkpoint, context, layer) : null;
    const use = new ExpertUse(config);
    await model.runLayer(layer, { taps: use.taps });
    if (likeness !== null) measured.push({ layer, likeness, frequency: use.frequency, ...(join === "mean" ? {} : { masses: use.masses }) });
    onLayer((layer + 1) / (join === "neurons" ? 2 : 1));
  }
  const clusters = clusterLayers(measured, config.nExperts, total, 1, seed);
  const layers = measured.map(({ layer, frequency }, i) => ({ layer, frequency, ...clusters[i]! }));
  const calibrationTokens = sequences.reduce((sum, { length }) => sum + length, 0);
  const pass = { pass: "merge", options: { share, join, rank, seed, calibrationTokens } };
  const merged = join === "mean" ? new Means(checkpoint, rank) : new Joins(checkpoint, layers, await LayeredModel.open(checkpointWeights(checkpoint, context), sequences, modules), context, (done) => onLayer((config.nLayers + done) / 2));
  const tensors = [...checkpoint.places()].map(({ name }): TensorToWrite => {
    const [, layer, expert, matrix] = /^layers\.(\d+)\.experts\.(\d+)\.(\w+)$/.exec(name) ?? [];
    const of = layers.find((known) => known.layer === Number(layer ?? -1));
    if (of === undefined) return unchanged(checkpoint, name);
    const members = membersOf(of, of.of[Number(expert)]!);
    if (members.length === 1) return unchanged(checkpoint, name);
    const { nRows, nCols } = checkpoint.place(name);
    return {
      name, type: "F32", nRows, nCols,
      async *read() { yield new Uint8Array((await merged.matrix(of, members, matrix!, nRows, nCols)).buffer); },
    };
  });
  // Layers are made when the first of their tensors is asked for, so in their order.
  await writeCanonical(sink, afterPass(checkpoint, pass), inLayerOrder(tensors, config.nLayers));
  return { calibrationTokens, layers: layers.map((of) => ({ ...of, ...merged.findings(of) })) };
}

const membersOf = ({ of }: Clustering, cluster: number): number[] => of.flatMap((own, expert) => (own === cluster ? [expert] : []));

/** Weighted means of clusters' matrices. */
class Means {
  readonly #checkpoint: Checkpoint;
  readonly #rank: number;

  constructor(checkpoint: Checkpoint, rank: number) {
    this.#checkpoint = checkpoint;
    this.#rank = rank;
  }

  async matrix({ layer, frequency }: MergedLayer, members: readonly number[], matrix: string, nRows: number, nCols: number): Promise<Float32Array<ArrayBuffer>> {
    const matrices = await Promise.all(members.map((expert) => this.#checkpoint.readF32(`layers.${layer}.experts.${expert}.${matrix}`)));
    return mergedMatrix(matrices, members.map((expert) => frequency[expert]!), nRows, nCols, nRows === 1 ? 1 : this.#rank);
  }

  findings(_layer: MergedLayer): object { return {}; }
}

/** Clusters joined by their neurons, a layer at a time behind those that are. What no sum shows, down's biases and experts nobody chose, are means. */
class Joins {
  readonly #checkpoint: Checkpoint;
  readonly #layers: readonly MergedLayer[];
  readonly #model: LayeredModel;
  readonly #context: number;
  readonly #onLayer: (layersDone: number) => void;
  readonly #matrices: PatchedMatrices;
  readonly #means: Means;
  readonly #errors = new Map<number, readonly number[]>();
  #nextLayer = 0;

  constructor(checkpoint: Checkpoint, layers: readonly MergedLayer[], model: LayeredModel, context: number, onLayer: (layersDone: number) => void) {
    this.#checkpoint = checkpoint;
    this.#layers = layers;
    this.#model = model;
    this.#context = context;
    this.#onLayer = onLayer;
    this.#matrices = new PatchedMatrices(checkpoint);
    this.#means = new Means(checkpoint, 1);
  }

  async matrix(of: MergedLayer, members: readonly number[], matrix: string): Promise<Float32Array<ArrayBuffer>> {
    while (this.#nextLayer <= of.layer) await this.#join(this.#nextLayer++);
    return new Float32Array(this.#matrices.patch(expertName(of.layer, members[0]!, matrix as ExpertMatrix))!.bytes.buffer);
  }

  findings(of: MergedLayer): object { return { errors: this.#errors.get(of.layer) ?? [...new Set(of.of)].map(() => 0) }; }

  async #join(layer: number): Promise<void> {
    const { nLayers } = this.#checkpoint.config;
    for (const { name } of this.#checkpoint.places()) if (name.startsWith(`layers.${layer - 1}.`)) this.#matrices.delete(name); // written by now
    const of = this.#layers.find((known) => known.layer === layer);
    if (of !== undefined) {
      const clusters = [...new Set(of.of)].map((cluster) => membersOf(of, cluster));
      const joined = await joinExperts(this.#model, this.#matrices, this.#context, layer, clusters.filter(({ length }) => length > 1));
      for (const { members, expert } of joined) {
        for (const matrix of expert === null ? expertMatrices(this.#checkpoint.config) : []) await this.#setMean(of, members, matrix);
        for (const [matrix, values] of expert ?? []) for (const member of members) this.#matrices.set(expertName(layer, member, matrix as ExpertMatrix), { type: "F32", bytes: new Uint8Array(values.buffer) });
        for (const bias of expertBiases(this.#checkpoint.config).filter((bias) => expert === null || bias === "downBias")) await this.#setMean(of, members, bias);
      }
      this.#errors.set(layer, clusters.map((members) => joined.find((one) => one.members[0] === members[0])?.error ?? 0));
    }
    if (layer + 1 < nLayers) await this.#model.runLayer(layer, { weights: checkpointWeights(this.#matrices, this.#context) });
    this.#onLayer(layer + 1);
  }

  async #setMean(of: MergedLayer, members: readonly number[], matrix: ExpertMatrix | ExpertBias): Promise<void> {
    const { nRows, nCols } = this.#checkpoint.place(expertName(of.layer, members[0]!, matrix));
    const mean = await this.#means.matrix(of, members, matrix, nRows, nCols);
    for (const member of members) this.#matrices.set(expertName(of.layer, member, matrix), { type: "F32", bytes: new Uint8Array(mean.buffer) });
  }
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
