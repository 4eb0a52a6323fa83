// What a routing trace says of the load: how often each expert of each layer was chosen, and how evenly. Pure sums over records, whoever has them.
// Owns the measures. Refuses files (formats/trace.ts) and decisions (plan.ts).

/** One token in one layer, as far as load is concerned. */
export interface RoutedToken {
  readonly layer: number;
  readonly ids: ArrayLike<number>;
}

export interface LayerLoad {
  readonly layer: number;
  /** Tokens that passed this layer. */
  readonly tokens: number;
  /** Choices of each expert, [nExperts]. */
  readonly chosen: Float64Array;
  /** Choices of the busiest expert over the mean: 1 is even. 0 where nothing was routed. */
  readonly imbalance: number;
  /** Of the choices' distribution, in bits; log2(nExperts) is even. */
  readonly entropyBits: number;
  /** Experts never chosen. */
  readonly idle: number;
}

/** Counts records one by one, in memory of one number per layer and expert. */
export class ExpertLoad {
  readonly #nExperts: number;
  readonly #layers: ReadonlyMap<number, { tokens: number; readonly chosen: Float64Array }>;

  constructor({ moeLayers, nExperts }: { readonly moeLayers: readonly number[]; readonly nExperts: number }) {
    this.#nExperts = nExperts;
    this.#layers = new Map(moeLayers.map((layer) => [layer, { tokens: 0, chosen: new Float64Array(nExperts) }]));
  }

  /** Throws RangeError on a record of another model. */
  add({ layer, ids }: RoutedToken): void {
    const at = this.#layers.get(layer);
    if (at === undefined) throw new RangeError(`A record is of layer ${layer}; the layers with experts are ${[...this.#layers.keys()].join(", ")}.`);
    for (let rank = 0; rank < ids.length; rank++) {
      if (!(ids[rank]! < this.#nExperts)) throw new RangeError(`A record of layer ${layer} names expert ${ids[rank]}; the model has ${this.#nExperts}.`);
    }
    at.tokens++;
    for (let rank = 0; rank < ids.length; rank++) at.chosen[ids[rank]!]!++;
  }

  /** In the order of `moeLayers`. */
  get layers(): LayerLoad[] {
    return [...this.#layers].map(([layer, { tokens, chosen }]) => {
      const total = chosen.reduce((sum, n) => sum + n, 0);
      const shares = Array.from(chosen.filter((n) => n > 0), (n) => n / total);
      return {
        layer, tokens, chosen: chosen.slice(),
        imbalance: total === 0 ? 0 : (Math.max(...chosen) * this.#nExperts) / total,
        entropyBits: Math.abs(shares.reduce((sum, p) => sum - p * Math.log2(p), 0)),
        idle: chosen.reduce((count, n) => count + (n === 0 ? 1 : 0), 0),
      };
    });
  }
}
