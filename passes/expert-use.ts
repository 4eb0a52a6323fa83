// How often experts of a layer are chosen over some texts, and how much of the layer's output is theirs: the sum of squares of what each gave, times its weight. Owns these
// two counts, as taps of a run. Refuses to keep rows.

import type { ModelConfig } from "../model/config.ts";
import { type LayerRouting, weightOf } from "./layer-inputs.ts";
import type { LayerTap } from "./layered-model.ts";

/** Least mass of an expert, as a share of the mean: one that nobody chose is still somewhere. */
const LEAST_MASS = 1e-6;

export class ExpertUse {
  readonly taps: readonly LayerTap[];
  /** Tokens that chose each. */
  readonly frequency: number[];
  readonly #squares: number[];

  constructor({ nExperts, router: { topK } }: ModelConfig) {
    this.frequency = new Array<number>(nExperts).fill(0);
    this.#squares = new Array<number>(nExperts).fill(0);
    let routing: LayerRouting = { topK, ids: new Uint32Array(0), weights: new Float32Array(0) };
    this.taps = [
      { at: "selection", run: ({ ids, weights }) => {
        routing = { topK, ids: ids.slice(), weights: weights.slice() };
        for (const id of ids) this.frequency[id]!++;
      } },
      { at: "expertOutput", run: ({ values, rowLength, batch }) => {
        for (let group = 0; group < batch!.nGroups; group++) {
          const expert = batch!.groupExpert[group]!;
          for (let i = batch!.groupStart[group]!, row = batch!.groupRow[group]!; i < batch!.groupStart[group + 1]!; i++, row++) {
            let sum = 0;
            for (let at = row * rowLength; at < (row + 1) * rowLength; at++) sum += values[at]! ** 2;
            this.#squares[expert]! += weightOf(routing, batch!.groupTokens[i]!, expert) ** 2 * sum;
          }
        }
      } },
    ];
  }

  /** Shares of the sum of squares, times the number of experts: 1 on average. */
  get masses(): number[] {
    const mean = this.#squares.reduce((a, b) => a + b, 0) / this.#squares.length;
    return this.#squares.map((of) => (mean > 0 ? Math.max(of / mean, LEAST_MASS) : 1));
  }
}
