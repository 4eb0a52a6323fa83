// A dense model becomes one of experts, without training: each feed-forward part is cut into experts of equal size, and every chosen expert counts 1, so that with all
// of them the model computes what it did. EMoE (Qiu et al., 2024) puts neurons with like gate rows together (balanced k-means on normalised keys) and scores an expert
// by its neurons' mean pre-activation, whose router row is the mean of their gate rows. With calibration texts neurons that work together can be put together instead,
// and a router be fitted to how much experts give. Owns the cut. Refuses widths that do not divide, and models that have experts.

import { afterPass, type TensorToWrite, unchanged, writeCanonical } from "../formats/canonical-writer.ts";
import { type Checkpoint, expertName, sharedName } from "../formats/checkpoint.ts";
import type { PackSink } from "../formats/pack-sink.ts";
import { freezeConfig } from "../model/architectures/common.ts";
import { EXPERT_MATRICES, type ExpertMatrix, type ModelConfig, ModelError } from "../model/config.ts";
import { uniform } from "../model/random.ts";
import type { KernelModules } from "../model/wasm-kernels.ts";
import { balancedClusters } from "./balanced-clusters.ts";
import { LayerInputs } from "./layer-inputs.ts";
import { LayeredModel } from "./layered-model.ts";
import { columnNorms, expertGifts, fitLinear, workVectors } from "./neuron-work.ts";
import { checkpointWeights } from "./streamed-model.ts";

export interface MoefyOptions {
  readonly nExperts: number;
  /** Experts a token takes. */
  readonly topK: number;
  /** `keys`: neurons with like gate rows together, as EMoE; `work`: those that work on the same tokens; `random`: by chance, the baseline. */
  readonly split: (typeof SPLITS)[number];
  /** `mean`: rows are means of gate rows, as EMoE; `fitted`: by least squares to how much each expert gives. */
  readonly router: (typeof ROUTERS)[number];
  readonly seed: number;
  /** Texts as sequences of token ids; of no use to `keys` and `random` with `mean`. */
  readonly sequences: readonly (readonly number[])[];
}

export const SPLITS = ["keys", "work", "random"] as const;
export const ROUTERS = ["mean", "fitted"] as const;

export interface MoefyReport {
  readonly nExperts: number;
  readonly topK: number;
  readonly layers: readonly { readonly layer: number; readonly distance: number | null }[];
}

/** Writes the model of experts. */
export async function moefyModel(checkpoint: Checkpoint, sink: PackSink, modules: KernelModules, options: MoefyOptions, onLayer: (layersDone: number) => void = () => {}): Promise<MoefyReport> {
  const { nExperts, topK, split, router, seed, sequences } = options;
  const config = moefiedConfig(checkpoint, options);
  const isCalibrated = split === "work" || router === "fitted";
  if (isCalibrated && sequences.length === 0) throw new ModelError(`A split by ${split} with a router that is ${router} needs a text to calibrate with.`);
  const context = Math.max(1, ...sequences.map(({ length }) => length));
  const model = isCalibrated ? await LayeredModel.open(checkpointWeights(checkpoint, context), sequences, modules) : null;
  const cuts = new Map<number, Cut>();
  for (let layer = 0; layer < config.nLayers; layer++) {
    const inputs = model === null ? null : new LayerInputs(model, checkpoint, context, layer);
    cuts.set(layer, await cutLayer(checkpoint, layer, options, inputs));
    await model?.runLayer(layer);
    onLayer(layer + 1);
  }
  const tensors = [...checkpoint.places()].flatMap(({ name }): TensorToWrite[] => {
    const [, number, matrix] = /^layers\.(\d+)\.shared\.(\w+)$/.exec(name) ?? [];
    if (matrix === undefined) return [unchanged(checkpoint, name)];
    if (matrix !== "gate") return [];
    const layer = Number(number);
    const { members, rows, bias } = cuts.get(layer)!;
    const f32 = (part: string, nRows: number, nCols: number, values: Float32Array<ArrayBuffer>): TensorToWrite =>
      ({ name: `layers.${layer}.${part}`, type: "F32", nRows, nCols, async *read() { yield new Uint8Array(values.buffer); } });
    return [
      f32("router", nExperts, config.hiddenSize, rows), ...(bias === null ? [] : [f32("routerBias", 1, nExperts, bias)]),
      ...members.flatMap((neurons, expert) => EXPERT_MATRICES.map((of) => partOf(checkpoint, layer, expert, of, neurons))),
    ];
  });
  const calibrationTokens = sequences.reduce((sum, { length }) => sum + length, 0);
  await writeCanonical(sink, { ...afterPass(checkpoint, { pass: "moefy", options: { nExperts, topK, split, router, seed, calibrationTokens } }), config }, tensors);
  return { nExperts, topK, layers: [...cuts].map(([layer, { distance }]) => ({ layer, distance })) };
}

function moefiedConfig({ config: c, description }: Checkpoint, { nExperts, topK, router }: MoefyOptions): ModelConfig {
  if (c.nExperts > 0) throw new ModelError(`${description} has ${c.nExperts} experts already; a dense model was expected.`);
  if (c.productExperts !== undefined) throw new ModelError(`${description} has product experts already; a dense model was expected.`);
  if (!Number.isInteger(nExperts) || nExperts < 2 || c.denseIntermediateSize % nExperts !== 0) throw new ModelError(`${description} has feed-forward parts ${c.denseIntermediateSize} wide, which ${nExperts} experts do not divide; expected 2 or more that do.`);
  if (!Number.isInteger(topK) || topK < 1 || topK > nExperts) throw new ModelError(`${topK} experts per token of ${nExperts} were asked for; expected 1 to ${nExperts}.`);
  return freezeConfig(description, {
    ...c, layerFfns: c.layerFfns.map(() => "moe"), denseIntermediateSize: 0, nExperts, expertKind: "swiglu", expertIntermediateSize: c.denseIntermediateSize / nExperts,
    router: { score: "logits", select: "top-k", sparsemixerEpsilon: 0, weigh: "one", scale: 1, topK, logitBias: router === "fitted", selectionBias: false, nGroups: 1, topKGroups: 1, groupScore: "max" },
  });
}

interface Cut {
  /** Neurons of each expert, ascending. */
  readonly members: readonly (readonly number[])[];
  /** Of the router, f32 [nExperts, hidden] and [nExperts]. */
  readonly rows: Float32Array<ArrayBuffer>;
  readonly bias: Float32Array<ArrayBuffer> | null;
  /** Sum of squared distances of neurons from their experts' means; null where they were drawn. */
  readonly distance: number | null;
}

async function cutLayer(checkpoint: Checkpoint, layer: number, { nExperts, split, router, seed }: MoefyOptions, inputs: LayerInputs | null): Promise<Cut> {
  const gate = await checkpoint.readF32(sharedName(layer, "gate"));
  const down = await checkpoint.readF32(sharedName(layer, "down"));
  const { nRows: width, nCols: hidden } = checkpoint.place(sharedName(layer, "gate"));
  const work = inputs === null ? null : await inputs.sharedDown();
  const { vectors, size } = split === "work" ? workVectors(work!, columnNorms(down, hidden, width)) : { vectors: normalisedRows(gate, hidden), size: hidden };
  const { of, distance } = split === "random" ? { of: byChance(width, nExperts, layer, seed), distance: null } : balancedClusters(vectors, width, size, nExperts, { seed: seed + layer });
  const members = Array.from({ length: nExperts }, (_, expert) => Array.from({ length: width }, (_, i) => i).filter((i) => of[i] === expert));
  if (router === "fitted") return { members, distance, ...fitLinear(await inputs!.feedForward(), expertGifts(work!, down, hidden, members), nExperts) };
  const rows = new Float32Array(nExperts * hidden);
  members.forEach((neurons, expert) => {
    for (let i = 0; i < hidden; i++) rows[expert * hidden + i] = neurons.reduce((sum, neuron) => sum + gate[neuron * hidden + i]!, 0) / neurons.length;
  });
  return { members, rows, bias: null, distance };
}

/** Each row divided by its length. */
function normalisedRows(matrix: Float32Array, size: number): Float32Array {
  const out = matrix.slice();
  for (let at = 0; at < out.length; at += size) {
    const length = Math.sqrt(matrix.subarray(at, at + size).reduce((sum, x) => sum + x * x, 0)) || 1;
    for (let i = at; i < at + size; i++) out[i]! /= length;
  }
  return out;
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
