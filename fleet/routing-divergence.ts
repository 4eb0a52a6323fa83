// How differently two texts are routed, layer by layer: Jensen-Shannon divergence of their distributions over experts, and the same divided by the most it could be at their entropies,
// (JSD) / (log E - (H(p) + H(q)) / 2), from 0 to 1, so that layers of different entropy compare. Owns both and their mean over parallel texts.
// Refuses to say what a sequence's distribution is (sequence-routing.ts). Multilingual Routing in Mixture-of-Experts (2025), Eq. 1-2 and 6-8; natural logarithms.

import type { ExpertMap, RoutingMeasure, RoutingShape, SequenceRouting } from "./sequence-routing.ts";

export interface LayerDivergence {
  readonly layer: number;
  /** Nats, at most log 2. */
  readonly divergence: number;
  /** From 0, routed alike, to 1. */
  readonly normalized: number;
}

/** Nats. */
export function entropy(p: ArrayLike<number>): number {
  let sum = 0;
  for (let e = 0; e < p.length; e++) if (p[e]! > 0) sum -= p[e]! * Math.log(p[e]!);
  return Math.max(0, sum);
}

/** Nats, from 0 to log 2. */
export function jensenShannon(p: ArrayLike<number>, q: ArrayLike<number>): number {
  let sum = 0;
  for (let e = 0; e < p.length; e++) {
    const middle = (p[e]! + q[e]!) / 2;
    if (p[e]! > 0) sum += p[e]! * Math.log(p[e]! / middle);
    if (q[e]! > 0) sum += q[e]! * Math.log(q[e]! / middle);
  }
  return Math.max(0, sum / 2);
}

/** 0 where neither has anything left to diverge in: both even. */
export function normalizedDivergence(p: ArrayLike<number>, q: ArrayLike<number>): number {
  const divergence = jensenShannon(p, q);
  const room = Math.log(p.length) - (entropy(p) + entropy(q)) / 2;
  return divergence === 0 || !(room > 0) ? 0 : Math.min(1, divergence / room);
}

/** Row `i` of a map, brought to a sum of 1. Throws RangeError where nothing was routed. */
export function distributionOf(map: ExpertMap, { moeLayers, nExperts }: RoutingShape, i: number): Float64Array<ArrayBuffer> {
  const row = map.subarray(i * nExperts, (i + 1) * nExperts);
  const sum = row.reduce((all, x) => all + x, 0);
  if (!(sum > 0)) throw new RangeError(`Layer ${moeLayers[i]} has no distribution over experts: nothing was routed there.`);
  return row.map((x) => x / sum);
}

/** Of two maps, such as class means. */
export function mapDivergence(shape: RoutingShape, a: ExpertMap, b: ExpertMap): LayerDivergence[] {
  return shape.moeLayers.map((layer, i) => {
    const [p, q] = [distributionOf(a, shape, i), distributionOf(b, shape, i)];
    return { layer, divergence: jensenShannon(p, q), normalized: normalizedDivergence(p, q) };
  });
}

/** Mean over pairs of sequences that say the same, one by one. */
export class ParallelDivergence {
  readonly #shape: RoutingShape;
  readonly #measure: RoutingMeasure;
  readonly #sums: readonly { divergence: number; normalized: number }[];
  #pairs = 0;

  constructor(shape: RoutingShape, measure: RoutingMeasure) {
    this.#shape = shape;
    this.#measure = measure;
    this.#sums = shape.moeLayers.map(() => ({ divergence: 0, normalized: 0 }));
  }

  add(a: SequenceRouting, b: SequenceRouting): void {
    this.#pairs++;
    mapDivergence(this.#shape, a.sums(this.#measure), b.sums(this.#measure)).forEach(({ divergence, normalized }, i) => {
      this.#sums[i]!.divergence += divergence;
      this.#sums[i]!.normalized += normalized;
    });
  }

  get pairs(): number {
    return this.#pairs;
  }

  /** In the order of `moeLayers`. Throws RangeError where nothing was added. */
  layers(): LayerDivergence[] {
    if (this.#pairs === 0) throw new RangeError("A mean divergence was asked for, and no pair of texts was compared.");
    return this.#sums.map(({ divergence, normalized }, i) => ({ layer: this.#shape.moeLayers[i]!, divergence: divergence / this.#pairs, normalized: normalized / this.#pairs }));
  }
}
