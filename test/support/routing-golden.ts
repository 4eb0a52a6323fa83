// Tiny models of every kind of routing with logits that PyTorch computed in float64 (test/fixtures/routing-golden.json, written by
// demo/routing/golden-logits.py). Owns the reading of that file and the weights: seededWeights' numbers but for the tensors that the file holds.
// Refuses models whose weights came out otherwise than there: then not the arithmetic but the drawing differs.

import { readFileSync } from "node:fs";
import type { ModelConfig } from "../../model/config.ts";
import type { DefinitionMatrix } from "../../model/definition.ts";
import type { PlainWeights } from "./direct-engine.ts";
import { seededWeights } from "./seeded-model.ts";

export interface GoldenRouting {
  readonly name: string;
  readonly seed: number;
  readonly config: ModelConfig;
  /** What the request says under `moe`. */
  readonly moe: { readonly task?: number; readonly condition?: readonly number[] };
  readonly ids: readonly number[];
  readonly tensors: Readonly<Record<string, { readonly shape: readonly number[]; readonly values: readonly number[] }>>;
  /** Sums of some tensors, by canonical name. */
  readonly sums: Readonly<Record<string, number>>;
  /** Of each layer and token the experts that were run, ascending, and their weights. */
  readonly routing: readonly (readonly (readonly (readonly [expert: number, weight: number])[])[])[];
  readonly logits: readonly number[]; // [ids, vocabSize]
}

const FILE = new URL("../fixtures/routing-golden.json", import.meta.url);

export const goldenRoutings = (): GoldenRouting[] => JSON.parse(readFileSync(FILE, "utf8")) as GoldenRouting[];

/** Weights of a case by canonical name. Throws where a sum is not the file's. */
export function goldenWeights({ name: model, seed, config, tensors, sums }: GoldenRouting): PlainWeights {
  const drawn = seededWeights(config, seed);
  const cache = new Map<string, DefinitionMatrix>();
  const weights: PlainWeights = (name) => {
    const known = cache.get(name);
    if (known !== undefined) return known;
    const stored = tensors[name];
    const matrix = stored === undefined ? drawn(name) : { rows: stored.shape.length === 1 ? 1 : stored.shape[0]!, cols: stored.shape.at(-1)!, values: Float32Array.from(stored.values) };
    cache.set(name, matrix);
    return matrix;
  };
  for (const [name, expected] of Object.entries(sums)) {
    const sum = Array.from(weights(name).values).reduce((a, x) => a + x, 0);
    if (Math.abs(sum - expected) > 1e-6) throw new RangeError(`The values of ${name} of ${model} add up to ${sum}, but in the fixture to ${expected}: they are not the same weights.`);
  }
  return weights;
}
