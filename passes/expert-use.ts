// How often experts of a layer are chosen over some texts, and how much of the layer's output is theirs: the sum of squares of what each gave, times its weight. Owns the squares.
// Refuses to keep rows; the taps are expert-outputs.ts'.

import type { ModelConfig } from "../model/config.ts";
import { ExpertOutputs } from "./expert-outputs.ts";
import type { LayerTap } from "./layered-model.ts";

/** Least mass of an expert, as a share of the mean: one that nobody chose is still somewhere. */
const LEAST_MASS = 1e-6;

export class ExpertUse {
  readonly #outputs: ExpertOutputs;
  readonly #squares: number[];

  constructor(config: ModelConfig) {
    this.#squares = new Array<number>(config.nExperts).fill(0);
    this.#outputs = new ExpertOutputs(config, (expert, _row, values, weight) => {
      let sum = 0;
      for (let i = 0; i < values.length; i++) sum += values[i]! ** 2;
      this.#squares[expert]! += weight ** 2 * sum;
    });
  }

  get taps(): readonly LayerTap[] { return this.#outputs.taps; }

  /** Tokens that chose each. */
  get frequency(): number[] { return this.#outputs.frequency; }

  /** Shares of the sum of squares, times the number of experts: 1 on average. */
  get masses(): number[] {
    const mean = this.#squares.reduce((a, b) => a + b, 0) / this.#squares.length;
    return this.#squares.map((of) => (mean > 0 ? Math.max(of / mean, LEAST_MASS) : 1));
  }
}
