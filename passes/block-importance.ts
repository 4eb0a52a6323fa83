// How much each layer turns what passes it, over calibration texts: one minus the mean cosine between a token before and after the layer (QuantMoE-Bench, 2024),
// and how often each of its experts is chosen. Owns that measure. Refuses to predict it: the paper trains a small network to spare the run, which here costs
// less than quantising with the same text.

import type { MatrixSource } from "../formats/checkpoint.ts";
import type { KernelModules } from "../model/wasm-kernels.ts";
import { LayeredModel } from "./layered-model.ts";
import { checkpointWeights } from "./streamed-model.ts";

export interface BlockMeasure {
  readonly layer: number;
  /** 0: every token leaves as it came; at most 2. */
  readonly importance: number;
  /** Tokens that chose each expert, [nExperts]; empty in a dense layer. */
  readonly frequency: readonly number[];
}

/** All layers, ascending. */
export async function* measureBlocks(matrices: MatrixSource, sequences: readonly (readonly number[])[], modules: KernelModules, onLayer: (layer: number) => void = () => {}): AsyncIterable<BlockMeasure> {
  const { config } = matrices;
  const model = await LayeredModel.open(checkpointWeights(matrices, Math.max(...sequences.map(({ length }) => length))), sequences, modules);
  for (let layer = 0; layer < config.nLayers; layer++) {
    const before = model.rows;
    const frequency = new Array<number>(config.layerFfns[layer] === "moe" ? config.nExperts : 0).fill(0);
    const after = await model.runLayer(layer, { taps: [{ at: "selection", run: ({ ids }) => ids.forEach((id) => { frequency[id]!++; }) }] });
    yield { layer, importance: 1 - meanCosine(before, after, config.hiddenSize), frequency };
    onLayer(layer);
  }
}

/** Of rows [n, size] with rows of the same place; where one is nothing but zeros, 0. */
export function meanCosine(a: Float32Array, b: Float32Array, size: number): number {
  let sum = 0;
  for (let at = 0; at < a.length; at += size) {
    let [aa, ab, bb] = [0, 0, 0];
    for (let i = at; i < at + size; i++) {
      aa += a[i]! * a[i]!;
      ab += a[i]! * b[i]!;
      bb += b[i]! * b[i]!;
    }
    sum += aa === 0 || bb === 0 ? 0 : ab / Math.sqrt(aa * bb);
  }
  return (sum * size) / a.length;
}
