// A dense model becomes one of experts, without training: each feed-forward part is cut into experts of equal size, neurons with like gate rows together, and each
// expert's router row is the mean of its neurons' gate rows, so that its logit is their mean pre-activation. Every chosen expert counts 1: with all of them the model
// computes what it did (EMoE, Qiu et al., 2024: balanced k-means on normalised keys, average-k gating). Owns the cut. Refuses widths that do not divide, and models
// that have experts or a scaled residual of their own making.

import { afterPass, type TensorToWrite, unchanged, writeCanonical } from "../formats/canonical-writer.ts";
import { type Checkpoint, expertName, sharedName } from "../formats/checkpoint.ts";
import type { PackSink } from "../formats/pack-sink.ts";
import { freezeConfig } from "../model/architectures/common.ts";
import { EXPERT_MATRICES, type ExpertMatrix, type ModelConfig, ModelError } from "../model/config.ts";
import { uniform } from "../model/random.ts";
import { balancedClusters } from "./balanced-clusters.ts";

export interface MoefyOptions {
  readonly nExperts: number;
  /** Experts a token takes. */
  readonly topK: number;
  /** `key-clusters`: as EMoE; `random`: neurons by chance, the baseline. */
  readonly split: "key-clusters" | "random";
  readonly seed: number;
}

export interface MoefyReport {
  readonly nExperts: number;
  readonly topK: number;
  readonly layers: readonly { readonly layer: number; readonly distance: number }[];
}

/** Writes the model of experts. */
export async function moefyModel(checkpoint: Checkpoint, sink: PackSink, options: MoefyOptions, onLayer: (layersDone: number) => void = () => {}): Promise<MoefyReport> {
  const { nExperts, topK, split, seed } = options;
  const config = moefiedConfig(checkpoint, options);
  const layers: { layer: number; distance: number }[] = [];
  const tensors: TensorToWrite[] = [];
  for (const { name } of checkpoint.places()) {
    const [, layer] = /^layers\.(\d+)\.shared\.gate$/.exec(name) ?? [];
    if (layer !== undefined) {
      const { members, means, distance } = await neuronsOf(checkpoint, Number(layer), nExperts, split, seed);
      layers.push({ layer: Number(layer), distance });
      onLayer(layers.length);
      tensors.push({ name: `layers.${layer}.router`, type: "F32", nRows: nExperts, nCols: config.hiddenSize, async *read() { yield new Uint8Array(means.buffer); } });
      members.forEach((neurons, expert) => { for (const matrix of EXPERT_MATRICES) tensors.push(partOf(checkpoint, Number(layer), expert, matrix, neurons)); });
    } else if (!/^layers\.\d+\.shared\./.test(name)) tensors.push(unchanged(checkpoint, name));
  }
  await writeCanonical(sink, { ...afterPass(checkpoint, { pass: "moefy", options: { ...options } }), config }, tensors);
  return { nExperts, topK, layers };
}

function moefiedConfig({ config: c, description }: Checkpoint, { nExperts, topK }: MoefyOptions): ModelConfig {
  if (c.nExperts > 0) throw new ModelError(`${description} has ${c.nExperts} experts already; a dense model was expected.`);
  if (!Number.isInteger(nExperts) || nExperts < 2 || c.denseIntermediateSize % nExperts !== 0) throw new ModelError(`${description} has feed-forward parts ${c.denseIntermediateSize} wide, which ${nExperts} experts do not divide; expected 2 or more that do.`);
  if (!Number.isInteger(topK) || topK < 1 || topK > nExperts) throw new ModelError(`${topK} experts per token of ${nExperts} were asked for; expected 1 to ${nExperts}.`);
  return freezeConfig(description, {
    ...c, layerFfns: c.layerFfns.map(() => "moe"), denseIntermediateSize: 0, nExperts, expertIntermediateSize: c.denseIntermediateSize / nExperts,
    router: { score: "logits", select: "top-k", sparsemixerEpsilon: 0, weigh: "one", scale: 1, topK, logitBias: false, selectionBias: false, nGroups: 1, topKGroups: 1, groupScore: "max" },
  });
}

/** Neurons of each expert, ascending, and the mean of their gate rows, f32 [nExperts, hidden]. */
async function neuronsOf(checkpoint: Checkpoint, layer: number, nExperts: number, split: MoefyOptions["split"], seed: number): Promise<{ members: number[][]; means: Float32Array<ArrayBuffer>; distance: number }> {
  const gate = await checkpoint.readF32(sharedName(layer, "gate"));
  const { nRows: width, nCols: hidden } = checkpoint.place(sharedName(layer, "gate"));
  const normalised = gate.slice();
  for (let row = 0; row < width; row++) {
    const size = Math.hypot(...gate.subarray(row * hidden, (row + 1) * hidden)) || 1;
    for (let i = row * hidden; i < (row + 1) * hidden; i++) normalised[i]! /= size;
  }
  const found = split === "random" ? { of: byChance(width, nExperts, layer, seed), distance: NaN } : balancedClusters(normalised, width, hidden, nExperts, { seed: seed + layer });
  const members = Array.from({ length: nExperts }, (_, expert) => Array.from({ length: width }, (_, i) => i).filter((i) => found.of[i] === expert));
  const means = new Float32Array(nExperts * hidden);
  members.forEach((neurons, expert) => {
    for (let i = 0; i < hidden; i++) means[expert * hidden + i] = neurons.reduce((sum, neuron) => sum + gate[neuron * hidden + i]!, 0) / neurons.length;
  });
  return { members, means, distance: found.distance };
}

/** Experts of equal size in a drawn order. */
function byChance(width: number, nExperts: number, layer: number, seed: number): Uint32Array {
  const order = Array.from({ length: width }, (_, i) => i).sort((a, b) => uniform(seed, layer, a, 0) - uniform(seed, layer, b, 0));
  const of = new Uint32Array(width);
  order.forEach((neuron, at) => { of[neuron] = Math.floor((at * nExperts) / width); });
  return of;
}

/** Some neurons of a dense part as an expert's matrix: rows of gate and up, columns of down. */
function partOf(checkpoint: Checkpoint, layer: number, expert: number, matrix: ExpertMatrix, neurons: readonly number[]): TensorToWrite {
  const place = checkpoint.place(sharedName(layer, matrix));
  const name = expertName(layer, expert, matrix);
  if (matrix !== "down") {
    return { name, type: place.type, nRows: neurons.length, nCols: place.nCols, async *read() { for (const row of neurons) yield await checkpoint.readRows(place, row, 1); } };
  }
  return {
    name, type: "F32", nRows: place.nRows, nCols: neurons.length,
    async *read() {
      const values = await checkpoint.readF32(sharedName(layer, matrix));
      yield new Uint8Array(Float32Array.from({ length: place.nRows * neurons.length }, (_, at) => values[Math.floor(at / neurons.length) * place.nCols + neurons[at % neurons.length]!]!).buffer);
    },
  };
}
