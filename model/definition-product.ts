// The definition of product experts (Monet, Park et al., 2024) in float64: the plain sum over experts (i, j), each put together from its halves and run for itself.
// Owns that mathematics for one token. Shares no code with the engine, not even the normal quantile, and refuses to be fast: factored sums are what it is there to check.

import type { ModelConfig } from "./config.ts";
import type { DefinitionMatrix, DefinitionWeights } from "./definition.ts";

type Vector = number[];

/** Weights of keys by head, [nHeads][nKeys], of either codebook. */
export type KeyWeights = readonly [first: Vector[], second: Vector[]];

/** Rows [from, from + nRows) and columns [column, column + nCols) of m, times x. */
const block = (m: DefinitionMatrix, from: number, nRows: number, column: number, nCols: number, x: Vector): Vector => Array.from({ length: nRows }, (_, r) => {
  let sum = 0;
  for (let c = 0; c < nCols; c++) sum += m.values[(from + r) * m.cols + column + c]! * x[c]!;
  return sum;
});
const slice = (m: DefinitionMatrix, from: number, n: number): Vector => Array.from({ length: n }, (_, i) => m.values[from + i]!);
const add = (a: Vector, b: Vector): Vector => a.map((v, i) => v + b[i]!);
const act = (x: Vector): Vector => x.map((v) => Math.max(v, 0) ** 2);

/** Share of the standard normal distribution below x, from the series x + x^3 / 3 + x^5 / (3 * 5) ... */
function normalShare(x: number): number {
  let [term, sum] = [x, x];
  for (let k = 3; Math.abs(term) > 1e-18; k += 2) sum += (term *= x * x / k);
  return 0.5 + sum * Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI);
}

/** The x with a share p below it, by halving. */
function quantile(p: number): number {
  if (p <= 0) return -Infinity;
  let [low, high] = [-9, 9];
  for (let i = 0; i < 200; i++) {
    const middle = (low + high) / 2;
    if (normalShare(middle) < p) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}

/** Weights of all keys for a normalised row, by the router of layer `at` ("layers.N."); 0 of those that are not kept. */
export function keyWeights(c: ModelConfig, w: DefinitionWeights, at: string, x: Vector): KeyWeights {
  const { nHeads, nKeys, topK } = c.productExperts!;
  const of = (codebook: 1 | 2): Vector[] => Array.from({ length: nHeads }, (_, h) => {
    const z = block(w(`${at}product.w${codebook}`), h * nKeys, nKeys, 0, x.length, x);
    const [mean, variance] = [w(`${at}product.mean${codebook}`).values[h]!, w(`${at}product.variance${codebook}`).values[h]!];
    const scores = z.map((v) => (v - mean) / Math.sqrt(variance + 1e-5));
    const limit = Math.min(Math.max(...scores), quantile(1 - topK / nKeys));
    const e = z.map((v, n) => (scores[n]! >= limit ? Math.exp(v - Math.max(...z)) : 0));
    const sum = e.reduce((a, b) => a + b, 0);
    return e.map((v) => v / sum);
  });
  return [of(1), of(2)];
}

/** Expert (i, j) of a layer for a normalised row x. */
export function productExpert(c: ModelConfig, w: DefinitionWeights, at: string, i: number, j: number, x: Vector): Vector {
  const { form, expertSize } = c.productExperts!;
  const d = c.hiddenSize;
  const tensor = (name: string): DefinitionMatrix => w(`${at}product.${name}`);
  const units = (u: string, key: number, n: number): Vector => act(add(block(tensor(u), key * n, n, 0, d, x), slice(tensor(`${u}Bias`), key * n, n)));
  if (form === "horizontal") {
    const hidden = units("u", i, expertSize);
    return add(block(tensor("v"), 0, d, j * expertSize, expertSize, hidden), slice(tensor("b"), j * d, d));
  }
  const m = expertSize / 2;
  const [x1, x2] = [units("u1", i, m), units("u2", j, m)];
  const half = (left: string, right: string, key: number, bias: string): Vector =>
    add(add(block(tensor(left), 0, d / 2, key * m, m, x1), block(tensor(right), 0, d / 2, key * m, m, x2)), slice(tensor(bias), key * d / 2, d / 2));
  return [...half("v11", "v12", i, "b1"), ...half("v21", "v22", j, "b2")];
}

/** What a layer gives a normalised row: every expert that some head weighs, by its weight; `isMasked` says which are left out. */
export function productLayer(c: ModelConfig, w: DefinitionWeights, at: string, x: Vector, [g1, g2]: KeyWeights, isMasked: (i: number, j: number) => boolean = () => false): Vector {
  let y = new Array<number>(c.hiddenSize).fill(0);
  const { nKeys } = c.productExperts!;
  for (let i = 0; i < nKeys; i++) for (let j = 0; j < nKeys; j++) {
    const weight = g1.reduce((sum, head, h) => sum + head[i]! * g2[h]![j]!, 0);
    if (weight !== 0 && !isMasked(i, j)) y = add(y, productExpert(c, w, at, i, j, x).map((v) => v * weight));
  }
  return y;
}
