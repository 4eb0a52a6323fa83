// How well a checkpoint predicts texts, as it is at full precision: the mean negative log-likelihood of every token but the first of each. Owns that sum, for tests that
// hold one model's loss beside another's. Refuses to measure packs: `eval` does.

import { kernelModules } from "../../cli/open-pack.ts";
import type { MatrixSource } from "../../formats/checkpoint.ts";
import { logprobs } from "../../model/sampling.ts";
import { LayeredModel } from "../../passes/layered-model.ts";
import { checkpointWeights } from "../../passes/streamed-model.ts";

/** In nats per token. */
export async function meanNll(matrices: MatrixSource, sequences: readonly (readonly number[])[]): Promise<number> {
  const { nLayers, vocabSize } = matrices.config;
  const model = await LayeredModel.open(checkpointWeights(matrices, Math.max(...sequences.map(({ length }) => length))), sequences, kernelModules());
  for (let layer = 0; layer < nLayers; layer++) await model.runLayer(layer);
  const head = await model.openHead();
  let [nll, count, start] = [0, 0, 0];
  for (const ids of sequences) {
    for (let first = 0; first + 1 < ids.length; first += head.maxTokens) {
      const nRows = Math.min(head.maxTokens, ids.length - 1 - first);
      const rows = head.logits(start + first, nRows);
      for (let i = 0; i < nRows; i++, count++) nll -= logprobs(rows.subarray(i * vocabSize, (i + 1) * vocabSize), ids[first + i + 1]!, 0).logprob;
    }
    start += ids.length;
  }
  return nll / count;
}
