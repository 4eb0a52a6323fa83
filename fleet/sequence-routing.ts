// What the tokens of sequences took, as maps [layers][experts]: sums over one sequence, and means over the sequences of a class. Three measures: choices, the router's
// weights of those chosen, and softmax of its logits over all experts. Owns sums and means, in memory of one open sequence and one class. Refuses to compare (expert-differences.ts,
// routing-divergence.ts). Sums per prompt: fTRI (MoTE, 2025). Means of shares of tokens: Multilingual Routing in Mixture-of-Experts (2025).

/** Number of choices, the weights they got, or the softmax of the logits of all experts. */
export const ROUTING_MEASURES = ["count", "weight", "score"] as const;
export type RoutingMeasure = (typeof ROUTING_MEASURES)[number];

export interface RoutingShape {
  readonly moeLayers: readonly number[];
  readonly nExperts: number;
}

/** One token in one layer. */
export interface RoutedChoice {
  readonly layer: number;
  readonly ids: ArrayLike<number>;
  /** As many as ids. */
  readonly weights: ArrayLike<number>;
  /** [nExperts]; absent or empty where the router's logits were not noted. */
  readonly logits?: ArrayLike<number>;
}

/** Layer by layer, expert by expert: [layers][nExperts]. */
export type ExpertMap = Float64Array<ArrayBuffer>;

export class SequenceRouting {
  readonly shape: RoutingShape;
  /** That passed each layer, [layers]. */
  readonly tokens: Float64Array<ArrayBuffer>;
  readonly #sums: Readonly<Record<RoutingMeasure, ExpertMap>>;
  readonly #indexOf: ReadonlyMap<number, number>;
  #hasWeights = true;
  #hasScores = true;

  constructor(shape: RoutingShape) {
    this.shape = shape;
    this.#indexOf = new Map(shape.moeLayers.map((layer, i) => [layer, i]));
    this.tokens = new Float64Array(shape.moeLayers.length);
    this.#sums = { count: emptyMap(shape), weight: emptyMap(shape), score: emptyMap(shape) };
  }

  /** Totals that someone else summed, as one sequence; `weight` null where they have none. Throws RangeError where a length does not fit. */
  static ofTotals(shape: RoutingShape, totals: { readonly tokens: ArrayLike<number>; readonly count: ArrayLike<number>; readonly weight: ArrayLike<number> | null }): SequenceRouting {
    const of = new SequenceRouting(shape);
    const cells = shape.moeLayers.length * shape.nExperts;
    if (totals.tokens.length !== shape.moeLayers.length || totals.count.length !== cells || (totals.weight !== null && totals.weight.length !== cells)) {
      throw new RangeError(`Totals have ${totals.tokens.length} layers and ${totals.count.length} counts; expected ${shape.moeLayers.length} and ${cells}.`);
    }
    of.tokens.set(totals.tokens);
    of.#sums.count.set(totals.count);
    if (totals.weight !== null) of.#sums.weight.set(totals.weight);
    of.#hasWeights = totals.weight !== null;
    of.#hasScores = false;
    return of;
  }

  /** Throws RangeError on a record of another model. */
  add({ layer, ids, weights, logits }: RoutedChoice): void {
    const { moeLayers, nExperts } = this.shape;
    const i = this.#indexOf.get(layer);
    if (i === undefined) throw new RangeError(`A record is of layer ${layer}; the layers with experts are ${moeLayers.join(", ")}.`);
    for (let rank = 0; rank < ids.length; rank++) {
      if (!(ids[rank]! < nExperts)) throw new RangeError(`A record of layer ${layer} names expert ${ids[rank]}; the model has ${nExperts}.`);
    }
    const { count, weight, score } = this.#sums;
    this.tokens[i]!++;
    for (let rank = 0; rank < ids.length; rank++) {
      count[i * nExperts + ids[rank]!]!++;
      weight[i * nExperts + ids[rank]!]! += weights[rank]!;
    }
    if (logits === undefined || logits.length === 0) this.#hasScores = false;
    else addSoftmax(score.subarray(i * nExperts, (i + 1) * nExperts), logits);
  }

  has(measure: RoutingMeasure): boolean {
    return measure === "count" || (measure === "weight" ? this.#hasWeights : this.#hasScores);
  }

  /** Sums over the tokens; a view. Throws RangeError where the records had no such measure. */
  sums(measure: RoutingMeasure): ExpertMap {
    if (!this.has(measure)) throw new RangeError(measure === "score" ? "Softmax scores need the router's logits, which these records do not have." : "Weights were asked for; these totals have none.");
    return this.#sums[measure];
  }
}

/** Means over the sequences of a class, each of which counts as much as any other. */
export class ClassRouting {
  readonly shape: RoutingShape;
  readonly #sums: Readonly<Record<RoutingMeasure, ExpertMap>>;
  readonly #shares: Readonly<Record<RoutingMeasure, ExpertMap>>;
  readonly #missing = new Set<RoutingMeasure>();
  #sequences = 0;
  #tokens = 0;

  constructor(shape: RoutingShape) {
    this.shape = shape;
    this.#sums = { count: emptyMap(shape), weight: emptyMap(shape), score: emptyMap(shape) };
    this.#shares = { count: emptyMap(shape), weight: emptyMap(shape), score: emptyMap(shape) };
  }

  get sequences(): number {
    return this.#sequences;
  }

  /** Of the layer that has most of them. */
  get tokens(): number {
    return this.#tokens;
  }

  has(measure: RoutingMeasure): boolean {
    return this.#sequences > 0 && !this.#missing.has(measure);
  }

  /** Throws RangeError on a sequence of another shape, or without a token in some layer: it has no share of its tokens there. */
  add(sequence: SequenceRouting): void {
    const { moeLayers, nExperts } = this.shape;
    if (sequence.shape.nExperts !== nExperts || sequence.shape.moeLayers.join() !== moeLayers.join()) {
      throw new RangeError(`A sequence is of ${sequence.shape.nExperts} experts in layers ${sequence.shape.moeLayers.join(", ")}; expected ${nExperts} in ${moeLayers.join(", ")}.`);
    }
    const without = moeLayers.find((_, i) => !(sequence.tokens[i]! > 0));
    if (without !== undefined) throw new RangeError(`A sequence has no token in layer ${without}, so no share of its tokens there; expected one in every layer with experts.`);
    this.#sequences++;
    this.#tokens += Math.max(0, ...sequence.tokens);
    for (const measure of ROUTING_MEASURES) {
      if (!sequence.has(measure)) {
        this.#missing.add(measure);
        continue;
      }
      const from = sequence.sums(measure);
      const [sums, shares] = [this.#sums[measure], this.#shares[measure]];
      for (let at = 0; at < from.length; at++) {
        sums[at]! += from[at]!;
        shares[at]! += from[at]! / sequence.tokens[Math.floor(at / nExperts)]!;
      }
    }
  }

  /** Mean over sequences of the sum over a sequence's tokens: long ones weigh more. */
  meanSums(measure: RoutingMeasure): ExpertMap {
    return this.#mean(this.#sums, measure);
  }

  /** Mean over sequences of the sum over a sequence's tokens divided by how many they are: of `count`, f[l,e], the share of tokens that chose the expert. */
  meanShares(measure: RoutingMeasure): ExpertMap {
    return this.#mean(this.#shares, measure);
  }

  #mean(of: Readonly<Record<RoutingMeasure, ExpertMap>>, measure: RoutingMeasure): ExpertMap {
    if (!this.has(measure)) throw new RangeError(this.#sequences === 0 ? "A class has no sequence, so no mean." : `A class has sequences without "${measure}".`);
    return of[measure].map((sum) => sum / this.#sequences);
  }
}

/**
 * Records of a trace as its sequences, each once it is whole, whatever mixture they were recorded in: `records` is read twice, first to count. So no more is in memory than the
 * sequences that are open at a time.
 */
export function* sequencesOf(shape: RoutingShape, records: () => Iterable<RoutedChoice & { readonly request: number }>): Generator<SequenceRouting> {
  const left = new Map<number, number>();
  for (const { request } of records()) left.set(request, (left.get(request) ?? 0) + 1);
  const open = new Map<number, SequenceRouting>();
  for (const record of records()) {
    const { request } = record;
    let sequence = open.get(request);
    if (sequence === undefined) open.set(request, (sequence = new SequenceRouting(shape)));
    sequence.add(record);
    const rest = left.get(request)! - 1;
    left.set(request, rest);
    if (rest > 0) continue;
    open.delete(request);
    yield sequence;
  }
}

const emptyMap = ({ moeLayers, nExperts }: RoutingShape): ExpertMap => new Float64Array(moeLayers.length * nExperts);

/** In float64, of finite logits. */
function addSoftmax(into: Float64Array, logits: ArrayLike<number>): void {
  if (logits.length !== into.length) throw new RangeError(`A record has ${logits.length} logits; expected ${into.length}.`);
  let most = -Infinity;
  for (let e = 0; e < into.length; e++) most = Math.max(most, logits[e]!);
  let sum = 0;
  for (let e = 0; e < into.length; e++) sum += Math.exp(logits[e]! - most);
  for (let e = 0; e < into.length; e++) into[e]! += Math.exp(logits[e]! - most) / sum;
}
