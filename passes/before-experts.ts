// A checkpoint's model run over calibration texts with a stop before every layer of experts: there a pass tries the layer in whatever forms it likes, and the model goes on with the layer as it is.
// Owns that walk. Refuses to change what runs: passes whose layers go on otherwise (compressed-experts.ts), or that look on while a layer runs (kept-experts.ts, expert-use.ts), walk themselves.

import type { MatrixSource } from "../formats/checkpoint.ts";
import { moeLayersOf } from "../model/config.ts";
import type { KernelModules } from "../model/wasm-kernels.ts";
import { LayeredModel } from "./layered-model.ts";
import { checkpointWeights } from "./streamed-model.ts";

export interface ExpertStop {
  /** The layer that the model stands before. */
  readonly layer: number;
  readonly model: LayeredModel;
  /** Tokens of the longest sequence. */
  readonly context: number;
}

/** Stops ascending; behind the last one nothing is run. `onLayer` is told of every layer that is done with. */
export async function* beforeExperts(matrices: MatrixSource, sequences: readonly (readonly number[])[], modules: KernelModules, onLayer: (layer: number) => void = () => {}): AsyncIterable<ExpertStop> {
  const { config } = matrices;
  const context = Math.max(...sequences.map(({ length }) => length));
  const model = await LayeredModel.open(checkpointWeights(matrices, context), sequences, modules);
  const last = moeLayersOf(config).at(-1) ?? -1;
  for (let layer = 0; layer <= last; layer++) {
    if (config.layerFfns[layer] === "moe") yield { layer, model, context };
    if (layer < last) await model.runLayer(layer);
    onLayer(layer);
  }
}
