// Latent experts (MoLAE: Mixture of Latent Experts, Z. Liu et al., 2025): gate and up of the experts of a latent group become A_i B with one B, so that experts are smaller
// and read B x in place of x. Layer by layer, with the inputs that the layers before, made latent already, give. What B and A_i are: latent-factors.ts.
// The moments of what an expert sees count as `rank` rows more of what all tokens of the layer are: an expert that few chose is fitted to those.
// Owns the walk, the ranks and the baseline, in which every expert has a B of its own and stays dense. Refuses down matrices: they stay.

import { Matrix } from "ml-matrix";
import { afterPass, type TensorToWrite, unchanged, writeCanonical } from "../formats/canonical-writer.ts";
import { type Checkpoint, requests } from "../formats/checkpoint.ts";
import type { PackSink } from "../formats/pack-sink.ts";
import { PatchedMatrices } from "../formats/patched-matrices.ts";
import { parameterCounts } from "../fleet/capacity-pack.ts";
import { freezeConfig } from "../model/architectures/common.ts";
import { type ModelConfig, ModelError, moeLayersOf } from "../model/config.ts";
import { inputMatrices } from "../model/expert-kinds.ts";
import type { KernelModules } from "../model/wasm-kernels.ts";
import { Hessian } from "./hessian.ts";
import { fittedTo, type Metric, metricOf, plainMetric, rankReduced, sharedBasis } from "./latent-factors.ts";
import { LayerInputs, type LayerRouting, type Rows } from "./layer-inputs.ts";
import { inLayerOrder, layerOfTensor } from "./layer-order.ts";
import { LayeredModel } from "./layered-model.ts";
import { relativeDifference } from "./quantize-model.ts";
import { checkpointWeights } from "./streamed-model.ts";
import { requireOwnExperts } from "./own-experts.ts";

/** Whose B it is: a latent group's, or each expert's own (the baseline, written as dense experts of the same shapes as before). */
export const LATENT_BY = ["shared", "per-expert"] as const;
/** What an error costs: as inputs have it, or every direction alike. */
export const LATENT_METRICS = ["inputs", "plain"] as const;

export interface LatentizeOptions {
  readonly by: (typeof LATENT_BY)[number];
  readonly metric: (typeof LATENT_METRICS)[number];
  /** Latent groups of a layer, and the rank of their B's. With `per-expert` both only say how many parameters there may be. */
  readonly nGroups: number;
  readonly rank: number;
  /** Before that, each expert's gate and up are cut down to so many directions of their own; null: not. */
  readonly expertRank: number | null;
  /** Texts, as sequences of token ids. */
  readonly sequences: readonly (readonly number[])[];
}

export interface LatentizeReport {
  /** Of each B: as asked, or with `per-expert` what gives as many parameters. */
  readonly rank: number;
  readonly calibrationTokens: number;
  /** All the model's, before and after; with `per-expert` as if its factors were stored. */
  readonly parameters: { readonly before: number; readonly after: number };
  /** Of what each layer with experts adds to each token, against the layer as it was on the same inputs; root mean square over its own. */
  readonly layers: readonly { readonly layer: number; readonly error: number }[];
}

/** The model's config with latent experts. Throws ModelError where they cannot be. */
export function latentConfig({ config, description }: Pick<Checkpoint, "config" | "description">, { rank, nGroups }: Pick<LatentizeOptions, "rank" | "nGroups">): ModelConfig {
  if (moeLayersOf(config).length === 0) throw new ModelError(`${description} is a dense model: it has no experts to make latent.`);
  if (config.latentExperts !== undefined) throw new ModelError(`${description} has latent experts of rank ${config.latentExperts.rank} already; a model whose experts read whole rows was expected.`);
  return freezeConfig(description, { ...config, latentExperts: { rank, nGroups } });
}

/** The largest rank with which a model has at most `keep` of its parameters. Throws ModelError where none has. */
export function largestRank({ config, description }: Pick<Checkpoint, "config" | "description">, nGroups: number, keep: number): number {
  const { total } = parameterCounts(config);
  const share = (rank: number): number => parameterCounts(latentConfig({ config, description }, { rank, nGroups })).total / total;
  let rank = Math.floor(config.hiddenSize / 32) * 32;
  while (rank > 0 && share(rank) > keep) rank -= 32;
  if (rank === 0) throw new ModelError(`${keep} of ${description}'s parameters were to stay; with the least rank, 32, latent experts leave ${share(32).toFixed(3)}.`);
  return rank;
}

/** Rank of a B for every expert that gives no more parameters than `rank` does for every group. */
function ownRank(config: ModelConfig, { rank, nGroups }: Pick<LatentizeOptions, "rank" | "nGroups">): number {
  const { nExperts, expertIntermediateSize, hiddenSize } = config;
  const each = inputMatrices(config).length * expertIntermediateSize;
  return Math.min(each, Math.floor((nExperts * each * rank + nGroups * rank * hiddenSize) / (nExperts * (each + hiddenSize))));
}

/** Writes the model with latent experts, or the baseline. */
export async function latentizeModel(checkpoint: Checkpoint, sink: PackSink, modules: KernelModules, options: LatentizeOptions, onLayer: (layersDone: number) => void = () => {}): Promise<LatentizeReport> {
  requireOwnExperts(checkpoint, "latentize");
  const config = latentConfig(checkpoint, options);
  const { sequences, ...asked } = options;
  const { expertRank } = options;
  if (expertRank !== null && (!Number.isInteger(expertRank) || expertRank < 1)) throw new ModelError(`Experts were to be cut down to ${expertRank} directions; expected at least 1.`);
  if (sequences.length === 0) throw new ModelError("Latent experts are fitted to what experts read over some texts; at least one sequence was expected.");
  const run = new Latentization(checkpoint, config, modules, options, onLayer);
  const calibrationTokens = sequences.reduce((sum, { length }) => sum + length, 0);
  const model = afterPass(checkpoint, { pass: "latentize", options: { ...asked, calibrationTokens } });
  await writeCanonical(sink, options.by === "shared" ? { ...model, config } : model, run.tensors());
  return { rank: run.rank, calibrationTokens, parameters: { before: parameterCounts(checkpoint.config).total, after: parameterCounts(config).total }, layers: run.layers };
}

/** What the experts of a layer read. */
interface LayerMoments {
  readonly rows: Rows;
  readonly routing: LayerRouting;
  /** Mean over all tokens of the layer. */
  readonly mean: Float64Array;
}

class Latentization {
  readonly layers: { readonly layer: number; readonly error: number }[] = [];
  readonly rank: number;
  readonly #checkpoint: Checkpoint;
  /** Of what is written. */
  readonly #config: ModelConfig;
  readonly #modules: KernelModules;
  readonly #options: LatentizeOptions;
  readonly #onLayer: (layersDone: number) => void;
  readonly #contextLength: number;
  /** Tensors made and not written yet, by name. */
  readonly #made = new Map<string, Float32Array<ArrayBuffer>>();
  #model: LayeredModel | null = null;
  #nextLayer = 0;

  constructor(checkpoint: Checkpoint, latent: ModelConfig, modules: KernelModules, options: LatentizeOptions, onLayer: (layersDone: number) => void) {
    this.#checkpoint = checkpoint;
    this.#config = options.by === "shared" ? latent : checkpoint.config;
    this.#modules = modules;
    this.#options = options;
    this.#onLayer = onLayer;
    this.#contextLength = Math.max(...options.sequences.map(({ length }) => length));
    this.rank = options.by === "shared" ? options.rank : ownRank(checkpoint.config, options);
  }

  /** All tensors, layer by layer: those of one are made when its first is asked for. */
  tensors(): TensorToWrite[] {
    const { nLayers } = this.#config;
    return inLayerOrder(requests({ config: this.#config, names: null }), nLayers).map(({ name, nRows, nCols }): TensorToWrite => {
      if (!/^layers\.\d+\.(latent\.\d+|experts\.\d+\.(gate|up))$/.test(name)) return unchanged(this.#checkpoint, name);
      const made = (): Promise<Float32Array<ArrayBuffer>> => this.#tensor(name, layerOfTensor(name, nLayers));
      return { name, type: "F32", nRows, nCols, async *read() { yield new Uint8Array((await made()).buffer); } };
    });
  }

  async #tensor(name: string, layer: number): Promise<Float32Array<ArrayBuffer>> {
    while (this.#nextLayer <= layer) await this.#layer(this.#nextLayer++);
    const values = this.#made.get(name)!;
    this.#made.delete(name);
    return values;
  }

  async #layer(layer: number): Promise<void> {
    const model = (this.#model ??= await LayeredModel.open(checkpointWeights(this.#checkpoint, this.#contextLength), this.#options.sequences, this.#modules));
    if (this.#checkpoint.config.layerFfns[layer] !== "moe") await model.runLayer(layer);
    else {
      const before = model.rows;
      const wanted = await model.tryLayer(layer);
      // What comes behind sees the products A B in place of the matrices: the same numbers but for rounding.
      const dense = new PatchedMatrices(this.#checkpoint);
      const { routing, ...rows } = await new LayerInputs(model, this.#checkpoint, this.#contextLength, layer).feedForward();
      const moments: LayerMoments = { rows, routing: routing!, mean: meanMoments(rows) };
      for (const group of this.#groups()) await this.#group(layer, group, moments, dense);
      const found = await model.runLayer(layer, { weights: checkpointWeights(dense, this.#contextLength) });
      this.layers.push({ layer, error: relativeDifference(before, wanted, found) });
    }
    this.#onLayer(layer + 1);
  }

  /** Experts that share a B. */
  #groups(): number[][] {
    const { nExperts } = this.#checkpoint.config;
    const perGroup = this.#options.by === "shared" ? nExperts / this.#options.nGroups : 1;
    return Array.from({ length: nExperts / perGroup }, (_, group) => Array.from({ length: perGroup }, (_, i) => group * perGroup + i));
  }

  async #group(layer: number, experts: readonly number[], moments: LayerMoments, dense: PatchedMatrices): Promise<void> {
    const { expertIntermediateSize: width, hiddenSize: n } = this.#checkpoint.config;
    const { expertRank, by } = this.#options;
    const own = inputMatrices(this.#checkpoint.config);
    const names = (expert: number): string[] => own.map((matrix) => `layers.${layer}.experts.${expert}.${matrix}`);
    // Gate above up: one B reads for both.
    const stacked = await Promise.all(experts.map(async (expert) => {
      const matrices = await Promise.all(names(expert).map((name) => this.#checkpoint.readF32(name)));
      const w = Matrix.zeros(own.length * width, n);
      matrices.forEach((values, half) => { for (let r = 0; r < width; r++) for (let i = 0; i < n; i++) w.set(half * width + r, i, values[r * n + i]!); });
      return { w: expertRank === null ? w : rankReduced(w, this.#metric([expert], moments), expertRank), expert };
    }));
    const { b } = sharedBasis(stacked.map(({ w, expert }) => ({ w, weight: this.#weight(expert, moments) })), this.#metric(experts, moments), this.rank);
    if (by === "shared") this.#made.set(`layers.${layer}.latent.${Math.floor(experts[0]! / experts.length)}`, Float32Array.from(b.to1DArray()));
    for (const { w, expert } of stacked) {
      const a = fittedTo(w, this.#metric([expert], moments), b);
      const product = a.mmul(b);
      names(expert).forEach((name, half) => {
        const part = (of: Matrix): Float32Array<ArrayBuffer> => Float32Array.from(of.subMatrix(half * width, (half + 1) * width - 1, 0, of.columns - 1).to1DArray());
        const whole = part(product);
        dense.set(name, { type: "F32", bytes: new Uint8Array(whole.buffer) });
        this.#made.set(name, by === "shared" ? part(a) : whole);
      });
    }
  }

  /** Rows by which an expert's errors count among its group's. */
  #weight(expert: number, { routing }: LayerMoments): number {
    return this.#options.metric === "plain" ? 1 : routing.ids.reduce((sum, id) => sum + (id === expert ? 1 : 0), this.rank);
  }

  /** Second moments of what some experts read together: a token counts once for each of them that it chose. */
  #metric(experts: readonly number[], { rows: { width, values }, routing: { topK, ids }, mean }: LayerMoments): Metric {
    if (this.#options.metric === "plain") return plainMetric(width);
    const hessian = new Hessian(width);
    for (let token = 0; token * width < values.length; token++) {
      let count = 0;
      for (let rank = token * topK; rank < (token + 1) * topK; rank++) if (experts.includes(ids[rank]!)) count++;
      if (count > 0) hessian.add(values, token * width, count);
    }
    return metricOf(hessian.matrix().map((sum, i) => sum + experts.length * this.rank * mean[i]!), width);
  }
}

/** Second moments of all rows, over their number. */
function meanMoments({ width, values }: Rows): Float64Array {
  const hessian = new Hessian(width);
  for (let from = 0; from < values.length; from += width) hessian.add(values, from, 1);
  return hessian.matrix().map((sum) => sum / hessian.rows);
}
