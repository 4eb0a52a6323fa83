// Of a token's experts only the first are run; each of the others gives a vector instead, by which what the run ones get is scaled (He et al., Compressed Experts,
// 2025; docs/arithmetic.md section 7). The vectors are fitted layer by layer to what all experts gave (auxiliary-fit.ts), behind the layers that are fitted already.
// Owns the new config record and its vectors. Refuses models that have auxiliary experts, and a split that leaves one side empty. All matrices stay as they are.

import { afterPass, type TensorToWrite, unchanged, writeCanonical } from "../formats/canonical-writer.ts";
import type { Checkpoint } from "../formats/checkpoint.ts";
import { PatchedMatrices } from "../formats/patched-matrices.ts";
import type { PackSink } from "../formats/pack-sink.ts";
import { freezeConfig } from "../model/architectures/common.ts";
import { type AuxiliariesConfig, auxiliariesOf, type ModelConfig, ModelError, moeLayersOf, trunkTensors } from "../model/config.ts";
import { Heap } from "../model/heap.ts";
import { chooseKernels, type KernelModules, RESERVED_BYTES } from "../model/wasm-kernels.ts";
import { type AuxiliaryErrors, AuxiliaryFit, type AuxiliaryFitOptions } from "./auxiliary-fit.ts";
import { ExpertGradients } from "./expert-gradients.ts";
import { LayerInputs } from "./layer-inputs.ts";
import { LayeredModel } from "./layered-model.ts";
import { checkpointWeights, type WeightsByName } from "./streamed-model.ts";
import { requireOwnExperts } from "./own-experts.ts";

export interface CompressedExpertsOptions extends AuxiliaryFitOptions {
  /** Experts of a token that are run; the others it has now stand by. */
  readonly run: number;
  readonly weighAmong: AuxiliariesConfig["weighAmong"];
  /** Calibration texts, as sequences of token ids. */
  readonly sequences: readonly (readonly number[])[];
}

export interface CompressedExpertsReport {
  readonly run: number;
  readonly auxiliaries: number;
  readonly calibrationTokens: number;
  /** Of every layer with experts, over the calibration tokens that were held back. */
  readonly layers: readonly (AuxiliaryErrors & { readonly layer: number })[];
}

/** Tokens whose way through the experts is held at a time. */
const PIECE_TOKENS = 512;
/** A 32-bit WebAssembly memory ends here. */
const HEAP_LIMIT_BYTES = 4 * 1024 ** 3 - 2 * 65536;

/** The record of a model of which so many experts are run and the others stand by. Throws ModelError where that cannot be. */
export function compressedConfig({ config: c, description }: Pick<Checkpoint, "config" | "description">, { run, weighAmong }: Pick<CompressedExpertsOptions, "run" | "weighAmong">): ModelConfig {
  requireOwnExperts({ config: c, description }, "auxiliary");
  const { topK } = c.router;
  if (moeLayersOf(c).length === 0) throw new ModelError(`${description} is a dense model: it has no experts to stand by.`);
  if (auxiliariesOf(c.router) > 0) throw new ModelError(`${description} has ${auxiliariesOf(c.router)} auxiliary experts per token already; a model whose experts are all run was expected.`);
  if (c.onlinePruning != null) throw new ModelError(`${description} has a calibration of online pruning, made for ${topK} experts per token; fit vectors first and calibrate afterwards.`);
  if (c.latentExperts !== undefined) throw new ModelError(`${description} has latent experts, which have no form with auxiliary ones; a model without them was expected.`);
  if (!Number.isInteger(run) || run < 1 || run >= topK) throw new ModelError(`${run} experts per token were to be run of ${topK}; expected 1 to ${topK - 1}, so that some stand by.`);
  return freezeConfig(description, { ...c, router: { ...c.router, topK: run, auxiliaries: { perToken: topK - run, weighAmong } } });
}

/** Name of a layer's vectors less one, [nExperts, hidden]. */
export const scalesName = (layer: number): string => `layers.${layer}.auxiliaryScales`;

/** Writes the model with fitted vectors; `onProgress` is told of epochs. */
export async function compressExperts(checkpoint: Checkpoint, sink: PackSink, modules: KernelModules, options: CompressedExpertsOptions, onProgress: (epochsDone: number) => void = () => {}): Promise<CompressedExpertsReport> {
  const { run, weighAmong, sequences, epochs, batchTokens, rate, seed } = options;
  const { config: before } = checkpoint;
  const config = compressedConfig(checkpoint, options);
  const moeLayers = moeLayersOf(config);
  const context = Math.max(...sequences.map(({ length }) => length));
  const model = await LayeredModel.open(checkpointWeights(checkpoint, context), sequences, modules);
  const memory = new WebAssembly.Memory({ initial: RESERVED_BYTES / 65536, maximum: 65536 });
  const heap = new Heap(memory, RESERVED_BYTES, HEAP_LIMIT_BYTES);
  const { kernels } = chooseKernels({ modules, memory });
  const scales = new Map<string, Float32Array<ArrayBuffer>>();
  const layers: CompressedExpertsReport["layers"][number][] = [];
  for (let layer = 0; layer <= moeLayers.at(-1)!; layer++) {
    if (config.layerFfns[layer] === "moe") {
      const { values: rows, routing } = await new LayerInputs(model, checkpoint, context, layer).feedForward();
      const experts = await ExpertGradients.load(checkpoint, layer, kernels, heap, PIECE_TOKENS, before.router.topK);
      const fit = new AuxiliaryFit({
        nExperts: config.nExperts, hidden: config.hiddenSize, rows, ids: routing!.ids, weights: routing!.weights, nRanked: before.router.topK, nRun: run,
        renormalises: weighAmong === "run" && (config.router.weigh === "renormalize" || config.router.weigh === "softmax-selected"),
      }, experts, PIECE_TOKENS);
      layers.push({ layer, ...fit.run({ epochs, batchTokens, rate, seed }, (done) => onProgress(layers.length * epochs + done)) });
      scales.set(scalesName(layer), Float32Array.from(fit.scales));
      experts.close();
    }
    await model.runLayer(layer, config.layerFfns[layer] === "moe" ? { weights: withScales(checkpoint, config, context, scales) } : {});
  }
  const calibrationTokens = sequences.reduce((sum, { length }) => sum + length, 0);
  const pass = { pass: "auxiliary", options: { run, auxiliaries: auxiliariesOf(config.router), weighAmong, epochs, batchTokens, rate, seed, calibrationTokens } };
  await writeCanonical(sink, { ...afterPass(checkpoint, pass), config }, compressedTensors(checkpoint, config, scales));
  return { run, auxiliaries: auxiliariesOf(config.router), calibrationTokens, layers };
}

/** The checkpoint's weights under the new record, with the vectors there are by now. */
function withScales(checkpoint: Checkpoint, config: ModelConfig, contextLength: number, scales: ReadonlyMap<string, Float32Array>): WeightsByName {
  const of = checkpointWeights(new PatchedMatrices(checkpoint, config), contextLength);
  return {
    ...of,
    tensor(name) {
      const values = scales.get(name);
      if (values === undefined) return of.tensor(name);
      return { format: "f32-vector", nRows: 1, nCols: values.length, bytes: values.byteLength, load: async (heap, ptr) => heap.f32.set(values, ptr / 4) };
    },
  };
}

/** Tensors of the model with its vectors, in the order of trunkTensors, then experts as they were. */
export function compressedTensors(checkpoint: Checkpoint, config: ModelConfig, scales: ReadonlyMap<string, Float32Array<ArrayBuffer>>): TensorToWrite[] {
  const added = trunkTensors(config).filter(({ name }) => scales.has(name)).map(({ name }): TensorToWrite => {
    const values = scales.get(name)!;
    return { name, type: "F32", nRows: 1, nCols: values.length, async *read() { yield new Uint8Array(values.buffer, values.byteOffset, values.byteLength); } };
  });
  return [...[...checkpoint.places()].map(({ name }) => unchanged(checkpoint, name)), ...added];
}
