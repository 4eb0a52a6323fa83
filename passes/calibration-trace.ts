// Routing over calibration texts, layer by layer, as records of the trace: for passes that judge experts of a checkpoint before there is a pack of it.
// Owns the way from sequences to records. Refuses to hold more than one layer's. The numbers are those of the engine at full precision.

import type { MatrixSource } from "../formats/checkpoint.ts";
import type { TraceColumn, TraceRecord } from "../formats/trace.ts";
import { moeLayersOf } from "../model/config.ts";
import type { KernelModules } from "../model/wasm-kernels.ts";
import { LayeredModel } from "./layered-model.ts";
import { RoutingNotes } from "./routing-notes.ts";
import { checkpointWeights } from "./streamed-model.ts";

export interface LayerTrace {
  readonly layer: number;
  /** One for each token of the sequences, in order; `request` counts the sequences from 0. */
  readonly records: readonly TraceRecord[];
}

/** Traces of the layers with experts, ascending; `onLayer` is told of every layer that was run. */
export async function* traceLayers(
  matrices: MatrixSource, sequences: readonly (readonly number[])[], modules: KernelModules, columns: readonly TraceColumn[], onLayer: (layer: number) => void = () => {},
): AsyncIterable<LayerTrace> {
  const { config } = matrices;
  const model = await LayeredModel.open(checkpointWeights(matrices, Math.max(...sequences.map(({ length }) => length))), sequences, modules);
  const places = sequences.flatMap((ids, request) => ids.map((_, token) => ({ request, token })));
  const last = moeLayersOf(config).at(-1) ?? -1;
  for (let layer = 0; layer <= last; layer++) {
    const notes = new RoutingNotes(config, columns);
    // Tokens of all sequences are told apart by their number; the layer at hand is the only one of its engine.
    const taps = notes.taps.map(({ at, run }) => ({
      at, run: (event: Parameters<typeof run>[0], firstToken: number) => run({ ...event, layer, positions: Uint32Array.from({ length: event.nTokens }, (_, t) => firstToken + t) }),
    }));
    await model.runLayer(layer, config.layerFfns[layer] === "moe" ? { taps } : {});
    onLayer(layer);
    if (config.layerFfns[layer] === "moe") yield { layer, records: notes.take(0).map((record) => ({ ...record, ...places[record.token]! })) };
  }
}
