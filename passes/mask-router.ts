// Fits the mask routers of online pruning (OTP: MC#, 2025), one for each layer: from a token's features to scores of keeping its first 1, 2, ... topK experts. Minimised is the mean over
// tokens of the expectation, under the softmax of the scores, of what the layer's output loses plus a price for each expert kept. There are only topK choices, so the
// expectation is taken exactly, where the paper draws Gumbel samples; served is the largest score. The price, one for all layers, is found by bisection for a share of calls.
// Adam: D. Kingma and J. Ba, 2014. Owns the fit. Refuses texts and engines: it sees samples (kept-experts.ts).

import { keepRouterColumns, type ModelConfig } from "../model/config.ts";
import { largestWithMost } from "../model/online-pruning.ts";
import { uniform } from "../model/random.ts";
import { type LayerSamples, lossOf } from "./kept-experts.ts";
import { bisect } from "./pruning-ratios.ts";

/** Tokens of a step: fewer where there are few tokens, so that an epoch has steps enough. */
const batchTokens = (n: number): number => Math.min(256, Math.max(16, Math.floor(n / 32)));
const EPOCHS = 6;
const PRICES = 8;
const RATE = 3e-3;
const [BETA_1, BETA_2, EPSILON] = [0.9, 0.999, 1e-8];
/** Pulls the numbers of the residual towards 0, so that few tokens do not fit them to noise. */
const DECAY = 1e-4;
/** How decided the rule by ratio is from which a router begins: scores differ by so much where a weight is twice the least that stays. */
const START_SHARPNESS = 4;
/** Layers whose ratio is smaller begin as if it were this. */
const LEAST_RATIO = 0.02;

export interface FittedRouter {
  readonly layer: number;
  /** f32 [topK, keepRouterColumns] */
  readonly parameters: Float32Array;
  /** Of the layer's calls, left out. */
  readonly share: number;
  readonly loss: number;
}

/** A router for each layer of samples, which have features. `ratios`: the rule by ratio that each begins from. */
export function fitMaskRouters(config: ModelConfig, renormalize: boolean, layers: readonly LayerSamples[], ratios: readonly number[], share: number, seed: number, onFit: (done: number, of: number) => void = () => {}): FittedRouter[] {
  const { topK: k } = config.router;
  const losses = layers.map((samples) => prefixLosses(config, renormalize, samples));
  // Prices count in what a layer loses, on average, where only the first expert stays.
  const unit = losses.reduce((sum, of) => sum + meanOf(of, (_, at) => at % k === 0), 0) / layers.length || 1;
  const fits = layers.map((samples, i) => new RouterFit(config, samples, losses[i]!.map((loss) => loss / unit), ratios[i]!));
  const reached = (): boolean => fits.reduce((sum, fit) => sum + fit.share(0), 0) >= share * fits.length;
  let [low, high, price] = [0, 0, 0.05];
  for (let round = 0; round < PRICES; round++) {
    for (const fit of fits) for (let epoch = 0; epoch < EPOCHS; epoch++) fit.epoch(price, seed);
    if (reached()) high = price;
    else low = price;
    price = high === 0 ? low * 2 : (low + high) / 2;
    onFit(round + 1, PRICES);
  }
  // What is left to the share: the same bias for every expert kept, in all layers.
  const bias = bisect(-8, 8, (middle) => fits.reduce((sum, fit) => sum + fit.share(middle), 0) >= share * fits.length);
  return fits.map((fit) => fit.fitted(bias, unit));
}

/** Losses of keeping the first 1 .. topK experts of each token, [n][topK]; the last is 0. */
export function prefixLosses(config: ModelConfig, renormalize: boolean, samples: LayerSamples): Float64Array {
  const { topK: k } = config.router;
  const losses = new Float64Array(samples.n * k);
  for (let i = 0; i < samples.n; i++) for (let j = 0; j < k - 1; j++) losses[i * k + j] = lossOf(config, renormalize, samples, i, Array.from({ length: k }, (_, rank) => rank <= j));
  return losses;
}

export class RouterFit {
  readonly #k: number;
  readonly #columns: number;
  readonly #samples: LayerSamples;
  readonly #losses: Float64Array;
  /** [topK, keepRouterColumns] */
  readonly parameters: Float64Array;
  readonly #first: Float64Array;
  readonly #second: Float64Array;
  readonly #gradient: Float64Array;
  /** Steps of parameters by column: those of weights count in ratios, as fine as the layer's own is. */
  readonly #rates: Float64Array;
  #steps = 0;

  /** `losses` [n][topK]. Begins as the rule by `ratio`. */
  constructor({ hiddenSize, router: { topK: k } }: Pick<ModelConfig, "hiddenSize" | "router">, samples: LayerSamples, losses: Float64Array, ratio: number) {
    this.#k = k;
    this.#columns = keepRouterColumns(hiddenSize, k);
    this.#samples = samples;
    this.#losses = losses;
    this.parameters = new Float64Array(k * this.#columns);
    [this.#first, this.#second, this.#gradient] = [this.parameters.slice(), this.parameters.slice(), this.parameters.slice()];
    // Scores whose differences are (weight of rank / first weight - ratio): the largest is where that turns negative.
    const sharpness = START_SHARPNESS / Math.max(ratio, LEAST_RATIO);
    this.#rates = Float64Array.from({ length: this.#columns }, (_, column) => RATE * (column <= hiddenSize ? 1 : column < this.#columns - 1 ? sharpness : START_SHARPNESS));
    for (let j = 1; j < k; j++) {
      const row = j * this.#columns;
      for (let rank = 1; rank <= j; rank++) this.parameters[row + hiddenSize + rank] = sharpness;
      this.parameters[row + hiddenSize + k] = -sharpness * ratio * j;
    }
  }

  /** Mean over the tokens of the expected loss plus price times experts kept; its gradient stays in `gradient`. */
  objective(price: number, tokens: ArrayLike<number>): { readonly value: number; readonly gradient: Float64Array } {
    const [k, n] = [this.#k, tokens.length];
    const gradient = this.#gradient.fill(0);
    let value = 0;
    for (let at = 0; at < n; at++) {
      const i = tokens[at]!;
      const features = this.#featuresOf(i);
      const shares = softmax(this.#scores(features, 0));
      const costs = shares.map((_, j) => this.#losses[i * k + j]! + price * (j + 1));
      const expected = shares.reduce((sum, p, j) => sum + p * costs[j]!, 0);
      value += expected / n;
      for (let j = 0; j < k; j++) {
        const slope = (shares[j]! * (costs[j]! - expected)) / n;
        const row = j * this.#columns;
        for (let c = 0; c < this.#columns; c++) gradient[row + c]! += slope * features[c]!;
      }
    }
    return { value, gradient };
  }

  /** Takes every token once, in batches of a shuffled order. */
  epoch(price: number, seed: number): void {
    const { n } = this.#samples;
    const order = Uint32Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const other = Math.floor(uniform(seed, this.#samples.layer, this.#steps, i) * (i + 1));
      [order[i], order[other]] = [order[other]!, order[i]!];
    }
    const batch = batchTokens(n);
    for (let from = 0; from < n; from += batch) this.#descend(this.objective(price, order.subarray(from, from + batch)).gradient);
  }

  #descend(gradient: Float64Array): void {
    this.#steps++;
    const [one, two] = [1 - BETA_1 ** this.#steps, 1 - BETA_2 ** this.#steps];
    const hidden = this.#columns - this.#k - 1;
    for (let p = 0; p < gradient.length; p++) {
      this.#first[p] = BETA_1 * this.#first[p]! + (1 - BETA_1) * gradient[p]!;
      this.#second[p] = BETA_2 * this.#second[p]! + (1 - BETA_2) * gradient[p]! ** 2;
      const decay = p % this.#columns < hidden ? DECAY * this.parameters[p]! : 0;
      this.parameters[p]! -= this.#rates[p % this.#columns]! * (this.#first[p]! / one / (Math.sqrt(this.#second[p]! / two) + EPSILON) + decay);
    }
  }

  /** Of the layer's calls, left out where the largest score is served; `bias` is taken from every score for each expert it keeps. */
  share(bias: number): number {
    let kept = 0;
    for (let i = 0; i < this.#samples.n; i++) kept += largestWithMost(this.#scores(this.#featuresOf(i), bias));
    return 1 - kept / (this.#samples.n * this.#k);
  }

  /** With the bias in its parameters; `unit`: what losses were divided by. */
  fitted(bias: number, unit: number): FittedRouter {
    const parameters = Float32Array.from(this.parameters, (value, p) => value - (p % this.#columns === this.#columns - 1 ? bias * (Math.floor(p / this.#columns) + 1) : 0));
    let loss = 0;
    for (let i = 0; i < this.#samples.n; i++) loss += unit * this.#losses[i * this.#k + largestWithMost(this.#scores(this.#featuresOf(i), bias)) - 1]!;
    return { layer: this.#samples.layer, parameters, share: this.share(bias), loss: loss / this.#samples.n };
  }

  #featuresOf(i: number): Float32Array { return this.#samples.features.subarray(i * this.#columns, (i + 1) * this.#columns); }

  #scores(features: Float32Array, bias: number): Float64Array {
    const scores = new Float64Array(this.#k);
    for (let j = 0; j < this.#k; j++) {
      let sum = -bias * (j + 1);
      for (let c = 0, p = j * this.#columns; c < this.#columns; c++, p++) sum += this.parameters[p]! * features[c]!;
      scores[j] = sum;
    }
    return scores;
  }
}

function softmax(scores: Float64Array): Float64Array {
  const max = scores.reduce((most, score) => Math.max(most, score), -Infinity);
  const e = scores.map((score) => Math.exp(score - max));
  const sum = e.reduce((a, b) => a + b, 0);
  return e.map((value) => value / sum);
}

function meanOf(values: Float64Array, is: (value: number, at: number) => boolean): number {
  const found = values.filter(is);
  return found.reduce((sum, value) => sum + value, 0) / Math.max(1, found.length);
}
