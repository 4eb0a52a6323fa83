// Which keys of two codebooks a token's heads keep, and with what weights (Monet, Park et al., 2024): logits become weights in place, +0 for keys that are not kept.
// Owns the threshold by a batch norm's running statistics and the softmax over what lies above it, in f32 (docs/arithmetic.md section 11). Refuses products: logits
// arrive from the kernels. Every number is of one token and one head alone.

import type { ProductExpertsConfig } from "./config.ts";
import { exp } from "./float-math.ts";
import { normalQuantile } from "./normal-quantile.ts";

const f = Math.fround;
/** torch.nn.BatchNorm1d's. */
const NORM_EPS = f(1e-5);

/** The normalised score above which about topK of nKeys keys lie. */
export const keyThreshold = ({ topK, nKeys }: Pick<ProductExpertsConfig, "topK" | "nKeys">): number => f(normalQuantile(1 - topK / nKeys));

/** Logits of one head, f32 [nKeys] from `at` on, become its weights. */
export function weighKeys(values: Float32Array, at: number, nKeys: number, mean: number, variance: number, threshold: number): void {
  const deviation = f(Math.sqrt(f(variance + NORM_EPS)));
  let best = -Infinity;
  for (let n = at; n < at + nKeys; n++) {
    const score = f(f(values[n]! - mean) / deviation);
    if (score > best) best = score;
  }
  const limit = Math.min(best, threshold);
  // The score rises with the logit, so the largest logit is kept.
  let most = -Infinity;
  for (let n = at; n < at + nKeys; n++) if (values[n]! > most) most = values[n]!;
  let sum = 0;
  for (let n = at; n < at + nKeys; n++) {
    const z = values[n]!;
    // A logit that is no number is kept, so that nothing is hidden: its weight is NaN, and so is what comes of it.
    const weight = f(f(z - mean) / deviation) < limit ? 0 : exp(f(z - most));
    values[n] = weight;
    sum = f(sum + weight);
  }
  for (let n = at; n < at + nKeys; n++) if (values[n] !== 0) values[n] = values[n]! / sum;
}

/** Kept keys of a token, by codebook and head: what a tap at `keys` can count. `weights` f32 [2, nHeads, nKeys]. */
export function keptKeys({ nHeads, nKeys }: Pick<ProductExpertsConfig, "nHeads" | "nKeys">, weights: Float32Array): readonly [first: number[][], second: number[][]] {
  const of = (codebook: number): number[][] => Array.from({ length: nHeads }, (_, head) => {
    const at = (codebook * nHeads + head) * nKeys;
    const kept: number[] = [];
    for (let n = 0; n < nKeys; n++) if (weights[at + n] !== 0) kept.push(n);
    return kept;
  });
  return [of(0), of(1)];
}
