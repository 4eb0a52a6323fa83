// A model routed by a condition, with the experts of each condition made one: gate and up rows below each other, down columns side by side, times the weights that the router gives.
// So a token asks for one expert a layer, no router is computed, and one row comes back. MoDE: M. Reuss et al., 2025. Owns the fused matrices, in f32: rounding is another
// pass's. Refuses models whose gates read tokens. What it takes is room: an expert of the width of topK for each condition.

import { afterPass, type TensorToWrite, unchanged, writeCanonical } from "../formats/canonical-writer.ts";
import { type Checkpoint, expertName } from "../formats/checkpoint.ts";
import type { PackSink } from "../formats/pack-sink.ts";
import { freezeConfig } from "../model/architectures/common.ts";
import { expertShape, type ModelConfig, ModelError, moeLayersOf } from "../model/config.ts";
import { NO_EXPERT } from "../model/expert-batch.ts";
import { biasLength, expertBiases, expertMatrices } from "../model/expert-kinds.ts";
import { answersProblem } from "../model/gate-stage.ts";
import type { KernelModules } from "../model/wasm-kernels.ts";
import { inLayerOrder } from "./layer-order.ts";
import { LayeredModel } from "./layered-model.ts";
import { requireOwnExperts } from "./own-experts.ts";
import { checkpointWeights } from "./streamed-model.ts";

export interface FuseReport {
  readonly conditions: number;
  /** Experts of a token and layer before; now 1. */
  readonly expertsPerToken: number;
  /** Numbers of all experts' matrices before and after. */
  readonly expertWeights: { readonly before: number; readonly after: number };
  /** Of every layer with experts: how many different choices the conditions make. */
  readonly layers: readonly { readonly layer: number; readonly choices: number }[];
}

/** An expert of a choice, and what it weighs. */
interface Chosen { readonly expert: number; readonly weight: number }

/** The config of the fused model. Throws ModelError where the model is not routed by a condition of that size. */
export function fusedConfig({ config: c, description }: Pick<Checkpoint, "config" | "description">, conditions: readonly (readonly number[])[]): ModelConfig {
  const { router } = c;
  if (router.scope?.kind !== "condition") throw new ModelError(`${description} is not routed by a condition; only where all tokens of a request take the same experts can these be made one.`);
  if (router.gate?.kind === "conditions") throw new ModelError(`${description} has an expert for each of ${router.gate.conditions.length} conditions already.`);
  if (conditions.length === 0) throw new ModelError("Experts are fused for given conditions; at least one was expected.");
  for (const [i, condition] of conditions.entries()) {
    const problem = answersProblem(c, { condition: Float32Array.from(condition) });
    if (problem !== null) throw new ModelError(`Condition ${i}: ${problem}`);
  }
  const { score: _, ...plain } = router;
  return freezeConfig(description, {
    ...c, nExperts: conditions.length, expertIntermediateSize: router.topK * c.expertIntermediateSize,
    router: { ...plain, gate: { kind: "conditions", conditions }, score: "logits", select: "top-k", threshold: undefined, nullExperts: undefined, nullWeights: undefined, weigh: "score", scale: 1, topK: 1, logitBias: false, selectionBias: false, nGroups: 1, topKGroups: 1 },
  });
}

/** Writes the fused model. `onLayer` is told of every layer whose choices are known. */
export async function fuseModel(checkpoint: Checkpoint, sink: PackSink, modules: KernelModules, conditions: readonly (readonly number[])[], onLayer: (layersDone: number) => void = () => {}): Promise<FuseReport> {
  requireOwnExperts(checkpoint, "fuse");
  const { config } = checkpoint;
  const fused = fusedConfig(checkpoint, conditions);
  const answers = conditions.map((condition) => ({ condition: Float32Array.from(condition) }));
  // What the tokens are is all the same: gates do not see them.
  const model = await LayeredModel.open(checkpointWeights(checkpoint, 1), conditions.map(() => [0]), modules, { answers });
  const choices = new Map<number, Chosen[][]>();
  for (let layer = 0; layer <= moeLayersOf(config).at(-1)!; layer++) {
    const own: Chosen[][] = [];
    await model.runLayer(layer, { taps: [{ at: "selection", run: ({ ids, weights }, sequence) => {
      own[sequence] = Array.from(ids, (expert, rank) => ({ expert, weight: weights[rank]! })).filter(({ expert }) => expert !== NO_EXPERT).sort((a, b) => a.expert - b.expert);
    } }] });
    if (config.layerFfns[layer] === "moe") choices.set(layer, own);
    onLayer(layer + 1);
  }
  const gateTensors = /^layers\.\d+\.(router(Bias|Hidden|HiddenBias)?|experts\..+)$/;
  const tensors = [...checkpoint.places()].filter(({ name }) => !gateTensors.test(name)).map(({ name }): TensorToWrite => unchanged(checkpoint, name));
  for (const [layer, own] of choices) own.forEach((chosen, i) => tensors.push(...fusedExpert(checkpoint, fused, layer, i, chosen)));
  await writeCanonical(sink, { ...afterPass(checkpoint, { pass: "fuse", options: { conditions: conditions.length } }), config: fused }, inLayerOrder(tensors, config.nLayers));
  const weightsOf = (c: ModelConfig): number => choices.size * c.nExperts * expertMatrices(c).reduce((sum, matrix) => { const { nRows, nCols } = expertShape(c, matrix); return sum + nRows * nCols; }, 0);
  return {
    conditions: conditions.length, expertsPerToken: config.router.topK, expertWeights: { before: weightsOf(config), after: weightsOf(fused) },
    layers: [...choices].map(([layer, own]) => ({ layer, choices: new Set(own.map((chosen) => chosen.map(({ expert }) => expert).join())).size })),
  };
}

/** The matrices of one condition's expert; what is beyond the chosen ones, where fewer than topK were, is zero. */
function* fusedExpert(checkpoint: Checkpoint, config: ModelConfig, layer: number, number: number, chosen: readonly Chosen[]): Iterable<TensorToWrite> {
  const width = checkpoint.config.expertIntermediateSize;
  const read = (part: Parameters<typeof expertName>[2]): Promise<Float32Array[]> => Promise.all(chosen.map(({ expert }) => checkpoint.readF32(expertName(layer, expert, part))));
  const tensor = (part: Parameters<typeof expertName>[2], nRows: number, nCols: number, fill: (out: Float32Array) => Promise<void>): TensorToWrite => ({
    name: expertName(layer, number, part), type: "F32", nRows, nCols,
    async *read() {
      const out = new Float32Array(nRows * nCols);
      await fill(out);
      yield new Uint8Array(out.buffer);
    },
  });
  for (const matrix of expertMatrices(config)) {
    const { nRows, nCols } = expertShape(config, matrix);
    yield tensor(matrix, nRows, nCols, async (out) => (await read(matrix)).forEach((values, i) => {
      if (matrix !== "down") out.set(values, i * width * nCols);
      else for (let row = 0; row < nRows; row++) for (let column = 0; column < width; column++) out[row * nCols + i * width + column] = values[row * width + column]! * chosen[i]!.weight;
    }));
  }
  for (const bias of expertBiases(config)) {
    yield tensor(bias, 1, biasLength(config, bias), async (out) => (await read(bias)).forEach((values, i) => {
      if (bias !== "downBias") out.set(values, i * width);
      else for (let j = 0; j < values.length; j++) out[j] = out[j]! + values[j]! * chosen[i]!.weight;
    }));
  }
}
