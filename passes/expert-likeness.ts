// How alike a layer's experts are: the mean cosine of what each pair gives to the same calibration tokens, whoever was chosen for them (Sub-MoE, 2025). One trial
// of the layer in which every token takes every expert shows all of it. Owns that trial. Refuses to keep more than a matrix of experts by experts.

import type { MatrixSource } from "../formats/checkpoint.ts";
import { PatchedMatrices } from "../formats/patched-matrices.ts";
import type { ModelConfig } from "../model/config.ts";
import { logitsOf } from "../model/router-config.ts";
import type { TapEvent } from "../model/taps.ts";
import type { LayeredModel } from "./layered-model.ts";
import { checkpointWeights } from "./streamed-model.ts";

/** The model as it would be if every token took every expert. */
export const everybody = (c: ModelConfig): ModelConfig => ({
  ...c, router: { ...c.router, topK: logitsOf(c), score: "softmax", select: "top-k", weigh: "score", nGroups: 1, topKGroups: 1, auxiliaries: undefined, threshold: undefined },
});

/** By expert, where its rows begin where every token takes every expert: each then has one group of all tokens, in their order. */
export function firstRows({ nGroups, groupExpert, groupRow }: NonNullable<TapEvent["batch"]>, nExperts: number): number[] {
  const first = new Array<number>(nExperts).fill(-1);
  for (let group = 0; group < nGroups; group++) first[groupExpert[group]!] = groupRow[group]!;
  return first;
}

/** Mean cosine of outputs, [nExperts, nExperts]; 1 on the diagonal. An expert that gives a token nothing is like none for it. */
export async function expertLikeness(model: LayeredModel, matrices: MatrixSource, contextLength: number, layer: number): Promise<Float64Array> {
  const { config: c } = matrices;
  const n = c.nExperts;
  const cosines = new Float64Array(n * n);
  let nTokens = 0;
  await model.tryLayer(layer, { weights: checkpointWeights(new PatchedMatrices(matrices, everybody(c)), contextLength), taps: [{
    at: "expertOutput",
    run: ({ values, rowLength, batch, nTokens: ofStep }) => {
      const first = firstRows(batch!, n);
      const norms = new Float64Array(n);
      for (let t = 0; t < ofStep; t++) {
        const at = first.map((row) => (row + t) * rowLength);
        for (let e = 0; e < n; e++) norms[e] = Math.sqrt(dot(values, at[e]!, at[e]!, rowLength));
        for (let a = 0; a < n; a++) {
          for (let b = a; b < n; b++) {
            const size = norms[a]! * norms[b]!;
            if (size > 0) cosines[a * n + b]! += dot(values, at[a]!, at[b]!, rowLength) / size;
          }
        }
      }
      nTokens += ofStep;
    },
  }] });
  for (let a = 0; a < n; a++) {
    cosines[a * n + a] = 1;
    for (let b = a + 1; b < n; b++) cosines[a * n + b] = cosines[b * n + a] = cosines[a * n + b]! / nTokens;
  }
  return cosines;
}

function dot(values: Float32Array, a: number, b: number, n: number): number {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += values[a + i]! * values[b + i]!;
  return sum;
}
