// Scale vectors of a layer's experts, fitted so that the run experts of a token give what all of its experts gave: least squares over calibration tokens, by Adam
// (Kingma and Ba, 2015) in float64 with a rate that falls to zero. The paper trains them with the model (Compressed Experts, 2025); this needs the layer alone.
// Owns the loss and its descent. Refuses to touch anything but the vectors. Tokens held back are never fitted and tell what the fit is worth.

import { uniform } from "../model/random.ts";
import type { ExpertGradients, ExpertPair } from "./expert-gradients.ts";

/** A layer's calibration: what experts would get, and who is ranked for each token. */
export interface AuxiliaryProblem {
  readonly nExperts: number;
  readonly hidden: number;
  /** Normed rows, f32 [tokens, hidden]. */
  readonly rows: Float32Array;
  /** Ranked experts of each token, [tokens, run + auxiliaries], in rank order, and their weights in the model of all experts. */
  readonly ids: Uint32Array;
  readonly weights: Float32Array;
  readonly nRanked: number;
  /** Of those, how many are run, and whether their weights are made to add up to what those of all did. */
  readonly nRun: number;
  readonly renormalises: boolean;
}

export interface AuxiliaryFitOptions {
  readonly epochs: number;
  readonly batchTokens: number;
  readonly rate: number;
  readonly seed: number;
}

/** Squared distances from what all experts give, as shares of its squared length, over tokens held back. */
export interface AuxiliaryErrors {
  /** The run experts alone, their weights as they are among all. */
  readonly asTheyAre: number;
  /** The run experts alone, their weights made to add up to what all did. */
  readonly renormalised: number;
  /** The run experts with the fitted vectors. */
  readonly fitted: number;
}

/** One token in so many is held back. */
const HELD_BACK_OF = 8;

export class AuxiliaryFit {
  readonly #problem: AuxiliaryProblem;
  readonly #experts: ExpertGradients;
  /** What all experts give, [tokens, hidden]. */
  readonly #targets: Float32Array;
  /** Shares of the auxiliary experts, [tokens, auxiliaries]. */
  readonly #shares: Float64Array;
  readonly #maxTokens: number;
  /** Less one, [nExperts, hidden]. */
  readonly scales: Float64Array;

  /** `experts` takes at most `maxTokens` rows at a time, each with all its ranked experts. */
  constructor(problem: AuxiliaryProblem, experts: ExpertGradients, maxTokens: number) {
    const { nExperts, hidden, rows, weights, nRanked, nRun } = problem;
    this.#problem = problem;
    this.#experts = experts;
    this.#maxTokens = maxTokens;
    this.scales = new Float64Array(nExperts * hidden);
    this.#targets = new Float32Array(rows.length);
    const nAuxiliaries = nRanked - nRun;
    this.#shares = new Float64Array(this.nTokens * nAuxiliaries);
    for (let t = 0; t < this.nTokens; t++) {
      const of = weights.subarray(t * nRanked + nRun, (t + 1) * nRanked);
      const sum = of.reduce((a, b) => a + b, 0);
      of.forEach((weight, i) => { this.#shares[t * nAuxiliaries + i] = sum === 0 ? 1 / nAuxiliaries : weight / sum; });
    }
    for (const tokens of this.#pieces(Array.from({ length: this.nTokens }, (_, t) => t))) {
      const given = experts.forward(this.#rowsOf(tokens, false), this.#pairsOf(tokens, nRanked, false));
      tokens.forEach((t, i) => this.#targets.set(given.subarray(i * hidden, (i + 1) * hidden), t * hidden));
    }
  }

  get nTokens(): number { return this.#problem.rows.length / this.#problem.hidden; }

  /** Descends; `onEpoch` is told how many are done. */
  run({ epochs, batchTokens, rate, seed }: AuxiliaryFitOptions, onEpoch: (done: number) => void = () => {}): AuxiliaryErrors {
    const fitted = Array.from({ length: this.nTokens }, (_, t) => t).filter((t) => t % HELD_BACK_OF !== HELD_BACK_OF - 1);
    const adam = new Adam(this.scales);
    const perEpoch = Math.ceil(fitted.length / batchTokens);
    for (let epoch = 0; epoch < epochs; epoch++) {
      const order = fitted.map((t) => ({ t, at: uniform(seed, epoch, t, 0) })).sort((a, b) => a.at - b.at).map(({ t }) => t);
      for (let batch = 0; batch < perEpoch; batch++) {
        const { gradient } = this.lossOf(order.slice(batch * batchTokens, (batch + 1) * batchTokens));
        adam.step(gradient, rate * (1 - (epoch * perEpoch + batch) / (epochs * perEpoch)));
      }
      onEpoch(epoch + 1);
    }
    return this.errors();
  }

  /** Mean squared distance over tokens with the vectors as they are, and its gradient [nExperts, hidden]. */
  lossOf(tokens: readonly number[]): { readonly loss: number; readonly gradient: Float64Array } {
    const { hidden, rows, ids, nRanked, nRun, renormalises } = this.#problem;
    const gradient = new Float64Array(this.scales.length);
    let loss = 0;
    for (const piece of this.#pieces(tokens)) {
      const given = this.#experts.forward(this.#rowsOf(piece, true), this.#pairsOf(piece, nRun, renormalises));
      const distance = new Float32Array(given.length);
      piece.forEach((t, i) => {
        for (let j = 0; j < hidden; j++) {
          const of = given[i * hidden + j]! - this.#targets[t * hidden + j]!;
          loss += of * of / tokens.length;
          distance[i * hidden + j] = 2 * of / tokens.length;
        }
      });
      const byRow = this.#experts.backward(distance);
      piece.forEach((t, i) => {
        for (let rank = nRun; rank < nRanked; rank++) {
          const share = this.#shares[t * (nRanked - nRun) + rank - nRun]!;
          const to = ids[t * nRanked + rank]! * hidden;
          for (let j = 0; j < hidden; j++) gradient[to + j]! += share * rows[t * hidden + j]! * byRow[i * hidden + j]!;
        }
      });
    }
    return { loss, gradient };
  }

  /** Over the tokens held back; over all where there are too few to hold any back. */
  errors(): AuxiliaryErrors {
    const { hidden, nRun } = this.#problem;
    const every = Array.from({ length: this.nTokens }, (_, t) => t);
    const tokens = every.length < HELD_BACK_OF ? every : every.filter((t) => t % HELD_BACK_OF === HELD_BACK_OF - 1);
    const errorOf = (scaled: boolean, renormalised: boolean): number => {
      let [error, size] = [0, 0];
      for (const piece of this.#pieces(tokens)) {
        const given = this.#experts.forward(this.#rowsOf(piece, scaled), this.#pairsOf(piece, nRun, renormalised));
        piece.forEach((t, i) => {
          for (let j = 0; j < hidden; j++) {
            const target = this.#targets[t * hidden + j]!;
            error += (given[i * hidden + j]! - target) ** 2;
            size += target ** 2;
          }
        });
      }
      return size === 0 ? 0 : error / size;
    };
    return { asTheyAre: errorOf(false, false), renormalised: errorOf(false, true), fitted: errorOf(true, this.#problem.renormalises) };
  }

  *#pieces(tokens: readonly number[]): Iterable<readonly number[]> {
    for (let first = 0; first < tokens.length; first += this.#maxTokens) yield tokens.slice(first, first + this.#maxTokens);
  }

  /** Rows of the tokens, scaled by their auxiliary experts or as they are: f32 [tokens, hidden]. */
  #rowsOf(tokens: readonly number[], scaled: boolean): Float32Array {
    const { hidden, rows, ids, nRanked, nRun } = this.#problem;
    const out = new Float32Array(tokens.length * hidden);
    const factor = new Float64Array(hidden);
    tokens.forEach((t, i) => {
      factor.fill(1);
      for (let rank = nRun; scaled && rank < nRanked; rank++) {
        const share = this.#shares[t * (nRanked - nRun) + rank - nRun]!;
        const from = ids[t * nRanked + rank]! * hidden;
        for (let j = 0; j < hidden; j++) factor[j]! += share * this.scales[from + j]!;
      }
      for (let j = 0; j < hidden; j++) out[i * hidden + j] = rows[t * hidden + j]! * factor[j]!;
    });
    return out;
  }

  /** The first `n` ranked experts of each token. */
  #pairsOf(tokens: readonly number[], n: number, renormalised: boolean): ExpertPair[] {
    const { ids, weights, nRanked } = this.#problem;
    return tokens.flatMap((t, token) => {
      const of = weights.subarray(t * nRanked, (t + 1) * nRanked);
      const sumOf = (count: number): number => of.subarray(0, count).reduce((a, b) => a + b, 0);
      const factor = renormalised ? sumOf(nRanked) / sumOf(n) : 1;
      return Array.from({ length: n }, (_, rank) => ({ token, expert: ids[t * nRanked + rank]!, weight: of[rank]! * factor }));
    });
  }
}

/** Kingma and Ba, 2015, algorithm 1, with its usual constants. */
class Adam {
  readonly #values: Float64Array;
  readonly #mean: Float64Array;
  readonly #square: Float64Array;
  #steps = 0;

  constructor(values: Float64Array) {
    this.#values = values;
    this.#mean = new Float64Array(values.length);
    this.#square = new Float64Array(values.length);
  }

  step(gradient: Float64Array, rate: number): void {
    this.#steps++;
    const [b1, b2] = [0.9, 0.999];
    const [c1, c2] = [1 - b1 ** this.#steps, 1 - b2 ** this.#steps];
    for (let i = 0; i < gradient.length; i++) {
      const g = gradient[i]!;
      const mean = (this.#mean[i] = b1 * this.#mean[i]! + (1 - b1) * g);
      const square = (this.#square[i] = b2 * this.#square[i]! + (1 - b2) * g * g);
      this.#values[i]! -= rate * (mean / c1) / (Math.sqrt(square / c2) + 1e-8);
    }
  }
}
