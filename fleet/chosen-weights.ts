// What a routing trace says of weights: how much of a token's weight each rank has, how shares of it are spread, and how many choices tokens did without. Pure sums, whoever has the records.
// Owns the measures, layer by layer. Refuses files (formats/trace.ts) and loads (expert-load.ts).

import type { RoutedChoice } from "./sequence-routing.ts";

/** Of equal width over shares from 0 to 1. */
export const SHARE_BINS = 20;

export interface LayerWeights {
  readonly layer: number;
  /** Tokens that have weights above 0 to share. */
  readonly tokens: number;
  /** Mean share of a token's weight, the first choice first, [topK]; of a choice a token did without, 0. */
  readonly meanShares: readonly number[];
  /** Choices by the share they have, [SHARE_BINS]; a share of 1 is in the last one. */
  readonly histogram: readonly number[];
  /** Choices that tokens did without, and how many all would have been. */
  readonly leftOut: number;
  readonly of: number;
}

export class ChosenWeights {
  readonly #topK: number;
  readonly #layers: ReadonlyMap<number, { tokens: number; of: number; leftOut: number; readonly shares: Float64Array; readonly histogram: Float64Array }>;

  constructor({ moeLayers, topK }: { readonly moeLayers: readonly number[]; readonly topK: number }) {
    this.#topK = topK;
    this.#layers = new Map(moeLayers.map((layer) => [layer, { tokens: 0, of: 0, leftOut: 0, shares: new Float64Array(topK), histogram: new Float64Array(SHARE_BINS) }]));
  }

  /** Throws RangeError on a record of another model. */
  add({ layer, ids, weights }: RoutedChoice): void {
    const at = this.#layers.get(layer);
    if (at === undefined) throw new RangeError(`A record is of layer ${layer}; the layers with experts are ${[...this.#layers.keys()].join(", ")}.`);
    if (ids.length > this.#topK || weights.length !== ids.length) throw new RangeError(`A record of layer ${layer} has ${ids.length} experts and ${weights.length} weights; expected at most ${this.#topK} of each, as many weights as experts.`);
    at.of += this.#topK;
    at.leftOut += this.#topK - ids.length;
    let sum = 0;
    for (let rank = 0; rank < ids.length; rank++) sum += weights[rank]!;
    if (!(sum > 0)) return;
    at.tokens++;
    for (let rank = 0; rank < ids.length; rank++) {
      const share = weights[rank]! / sum;
      at.shares[rank]! += share;
      at.histogram[Math.max(0, Math.min(SHARE_BINS - 1, Math.floor(share * SHARE_BINS)))]!++;
    }
  }

  /** In the order of `moeLayers`. */
  get layers(): LayerWeights[] {
    return [...this.#layers].map(([layer, { tokens, of, leftOut, shares, histogram }]) => ({
      layer, tokens, of, leftOut, meanShares: Array.from(shares, (sum) => (tokens === 0 ? 0 : sum / tokens)), histogram: Array.from(histogram),
    }));
  }
}
