// How low a null expert's logit must be in each layer so that a token takes so many true experts on average: the biases of the intervention `null_bias` (AdaMoE, 2024, as far as it goes without training). Owns the calibration: layer by
// layer from the first on, each over what the layers before give with their biases, so that the mean holds on these texts with all of them together. Refuses to say what it costs: `eval --profile`.

import { ModelError, moeLayersOf } from "../model/config.ts";
import type { Engine } from "../model/engine.ts";
import { type Intervention, interventionsProblem } from "../model/interventions.ts";
import type { Tap } from "../model/taps.ts";

export interface NullBiases {
  readonly intervention: Extract<Intervention, { op: "null_bias" }>;
  /** True experts a token takes on these texts, by layer with experts. */
  readonly meanActive: readonly number[];
}

/** `meanActive`: more than 0, at most what a token takes. Throws ModelError where the model's router has no such logits. */
export async function calibrateNullBias(engine: Engine, sequences: readonly (readonly number[])[], meanActive: number, onLayer: (layersDone: number) => void = () => {}): Promise<NullBiases> {
  const { config } = engine;
  const { router: { topK } } = config;
  if (!(meanActive > 0 && meanActive <= topK)) throw new ModelError(`A token was to take ${meanActive} experts on average; expected more than 0 and at most ${topK}, which this model takes.`);
  const bias: (number | null)[] = Array.from({ length: config.nLayers }, () => null);
  const found: number[] = [];
  const layers = moeLayersOf(config);
  const problem = layers.length === 0 ? "This is a dense model: it has no experts." : interventionsProblem(config, [{ op: "null_bias", bias }]);
  if (problem !== null) throw new ModelError(problem);
  for (const [done, layer] of layers.entries()) {
    const chosen = Float32Array.from((await chosenLogits(engine, sequences, layer, [{ op: "null_bias", bias: [...bias] }])).flat()).sort();
    const nTokens = chosen.length / topK;
    // Whose logit is below the bias goes: as many of the lowest as may.
    const nGone = Math.round(nTokens * (topK - meanActive));
    const least = nGone === 0 ? null : chosen[nGone] ?? null;
    bias[layer] = least;
    found.push(least === null ? topK : chosen.filter((logit) => logit >= least).length / nTokens);
    onLayer(done + 1);
  }
  return { intervention: { op: "null_bias", bias }, meanActive: found };
}

/** Logits of the experts that tokens take in a layer, [nTokens][topK]. */
async function chosenLogits(engine: Engine, sequences: readonly (readonly number[])[], layer: number, interventions: readonly Intervention[]): Promise<number[][]> {
  const { router: { topK: k } } = engine.config;
  const found: number[][] = [];
  let rows: Float32Array[] = [];
  const taps: Tap[] = [
    { at: "logits", layers: [layer], run: ({ nTokens, values, rowLength }) => { rows = Array.from({ length: nTokens }, (_, t) => values.slice(t * rowLength, (t + 1) * rowLength)); } },
    { at: "selection", layers: [layer], run: ({ ids }) => { found.push(...rows.map((row, t) => Array.from(ids.subarray(t * k, (t + 1) * k), (id) => row[id]!))); } },
  ];
  for (const ids of sequences) {
    const timeline = engine.kv.open(ids.length);
    try {
      while (timeline.length < ids.length) await engine.step([{ timeline, ids: ids.slice(timeline.length, timeline.length + engine.maxChunkTokens), logits: "none", routing: { interventions } }], taps);
    } finally {
      engine.kv.close(timeline);
    }
  }
  return found;
}
