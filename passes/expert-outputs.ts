// What a layer's experts give to the tokens that chose them, as taps of a run: rows kept or handed on in the order of tokens, how often each is chosen, and with how much weight.
// Segments are whole experts in a checkpoint's layers. Owns the pairing of rows with the router's weights. Refuses trials in which others choose than the router.

import type { ModelConfig } from "../model/config.ts";
import { type LayerRouting, weightOf } from "./layer-inputs.ts";
import type { LayerTap } from "./layered-model.ts";

export class ExpertOutputs {
  readonly taps: readonly LayerTap[];
  /** Tokens that chose each expert, and the sum of the weights they gave it. */
  readonly frequency: number[];
  readonly weight: number[];
  readonly #rows: Float32Array[][];

  /** Rows are kept, or where there is an `onRow`, handed to it: which one of the expert's own, and with what weight. */
  constructor({ nExperts, router: { topK } }: ModelConfig, onRow?: (expert: number, row: number, values: Float32Array, weight: number) => void) {
    this.frequency = new Array<number>(nExperts).fill(0);
    this.weight = new Array<number>(nExperts).fill(0);
    this.#rows = Array.from({ length: nExperts }, () => []);
    let routing: LayerRouting = { topK, ids: new Uint32Array(0), weights: new Float32Array(0) };
    this.taps = [
      { at: "selection", run: ({ ids, weights }) => { routing = { topK, ids: ids.slice(), weights: weights.slice() }; } },
      { at: "expertOutput", run: ({ values, rowLength, batch }) => {
        for (let group = 0; group < batch!.nGroups; group++) {
          const expert = batch!.groupExpert[group]!;
          for (let i = batch!.groupStart[group]!, row = batch!.groupRow[group]!; i < batch!.groupStart[group + 1]!; i++, row++) {
            const of = values.subarray(row * rowLength, (row + 1) * rowLength);
            const weight = weightOf(routing, batch!.groupTokens[i]!, expert);
            if (onRow === undefined) this.#rows[expert]!.push(of.slice());
            else onRow(expert, this.frequency[expert]!, of, weight);
            this.frequency[expert]!++;
            this.weight[expert]! += weight;
          }
        }
      } },
    ];
  }

  row(expert: number, row: number): Float32Array { return this.#rows[expert]![row]!; }
}
