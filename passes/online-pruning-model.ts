// A model that knows which experts its tokens can do without at run time: ratios for its layers (ODP: MC-MoE, 2024) or mask routers (OTP: MC#, 2025), measured over a
// calibration text with all experts at full precision. Owns the order of that and the model written: nothing changes but `onlinePruning` of its config and, where learned, the
// tensors layers.N.keepRouter; what a model had of these is replaced. Refuses models of which no token could lose an expert.

import { afterPass, type TensorToWrite, unchanged, writeCanonical } from "../formats/canonical-writer.ts";
import type { Checkpoint } from "../formats/checkpoint.ts";
import type { PackSink } from "../formats/pack-sink.ts";
import { freezeConfig } from "../model/architectures/common.ts";
import { keepRouterColumns, type ModelConfig, ModelError, moeLayersOf } from "../model/config.ts";
import { pruningProblem } from "../model/online-pruning-rule.ts";
import type { KernelModules } from "../model/wasm-kernels.ts";
import { type LayerSamples, sampleLayers } from "./kept-experts.ts";
import { type FittedRouter, fitMaskRouters } from "./mask-router.ts";
import { type Allotment, chooseRatios, type RatioChoice } from "./pruning-ratios.ts";

/** Of all layers' features together; with more, fewer tokens are looked at. */
const FEATURE_BYTES = 1024 ** 3;

export interface OnlinePruningOptions {
  readonly rule: "ratio" | "learned";
  /** Of all expert calls, left out; of tokens behind the protected positions. */
  readonly share: number;
  readonly allotment: Allotment;
  readonly protectFirst: number;
  /** Null: whichever loses less by the ratios. */
  readonly renormalize: boolean | null;
  readonly sequences: readonly (readonly number[])[];
  readonly seed: number;
}

export interface OnlinePruningReport {
  readonly rule: "ratio" | "learned";
  readonly renormalize: boolean;
  /** Of the calibration's calls, by the rule that was asked for. */
  readonly share: number;
  readonly calibrationTokens: number;
  /** Of every layer with experts: the ratio, and of the rule asked for the share of calls it leaves out and the mean relative loss. */
  readonly layers: readonly { readonly layer: number; readonly ratio: number; readonly share: number; readonly loss: number }[];
}

/** Writes the model. `onLayer` is told of every layer that was run. */
export async function onlinePruningModel(checkpoint: Checkpoint, sink: PackSink, modules: KernelModules, options: OnlinePruningOptions, onLayer: (layersDone: number) => void = () => {}): Promise<OnlinePruningReport> {
  const { rule, share, protectFirst, seed, sequences } = options;
  const { config } = checkpoint;
  const problem = pruningProblem({ ...config, onlinePruning: undefined }, { by: "ratio", ratios: config.layerFfns.map(() => 0), protectFirst, renormalize: false });
  if (problem !== null) throw new ModelError(problem);
  const layers = await samplesOf(checkpoint, modules, options, onLayer);
  const { renormalize, ratios } = bestRatios(config, layers, options);
  const routers = rule === "ratio" ? null : fitMaskRouters(config, renormalize, layers, ratios.map(({ point }) => point.ratio), share, seed);
  const calibrationTokens = sequences.reduce((sum, { length }) => sum + length, 0);
  const pass = { pass: "online-pruning", options: { rule, share, allotment: options.allotment, protectFirst, renormalize, seed, calibrationTokens } };
  const byLayer = new Map(ratios.map(({ layer, point }) => [layer, point.ratio]));
  const pruned = freezeConfig(checkpoint.description, {
    ...config, onlinePruning: { ratios: config.layerFfns.map((_, layer) => Math.fround(byLayer.get(layer) ?? 0)), protectFirst, renormalize, keepRouter: routers !== null },
  });
  await writeCanonical(sink, { ...afterPass(checkpoint, pass), config: pruned }, [...kept(checkpoint), ...(routers ?? []).map((router) => routerTensor(config, router))]);
  const report = ratios.map(({ layer, point }, i) => ({ layer, ratio: point.ratio, share: routers?.[i]!.share ?? point.share, loss: routers?.[i]!.loss ?? point.loss }));
  return { rule, renormalize, calibrationTokens, share: report.reduce((sum, of) => sum + of.share, 0) / report.length, layers: report };
}

async function samplesOf(checkpoint: Checkpoint, modules: KernelModules, { rule, protectFirst, sequences }: OnlinePruningOptions, onLayer: (layersDone: number) => void): Promise<LayerSamples[]> {
  const { config } = checkpoint;
  const withFeatures = rule === "learned";
  const most = withFeatures ? Math.max(1, Math.floor(FEATURE_BYTES / (4 * keepRouterColumns(config.hiddenSize, config.router.topK) * moeLayersOf(config).length))) : Infinity;
  const layers = await sampleLayers(checkpoint, sequences, modules, { protectFirst, withFeatures, most }, onLayer);
  if (layers[0]!.n === 0) throw new ModelError(`Sequences of up to ${Math.max(...sequences.map(({ length }) => length))} tokens were given; expected more than the ${protectFirst} that are protected.`);
  return layers;
}

/** The ratios, and what becomes of the weights that stay: as asked, or whichever loses less. */
function bestRatios(config: ModelConfig, layers: readonly LayerSamples[], { share, allotment, renormalize }: OnlinePruningOptions): { readonly renormalize: boolean; readonly ratios: RatioChoice[] } {
  const tried = (renormalize === null ? [false, true] : [renormalize]).map((sums) => {
    const ratios = chooseRatios(config, sums, layers, share, allotment);
    return { renormalize: sums, ratios, loss: ratios.reduce((sum, { point }) => sum + point.loss, 0) };
  });
  return tried.reduce((best, one) => (one.loss < best.loss ? one : best));
}

/** Tensors as they are, but for the mask routers of an earlier pass. */
const kept = (checkpoint: Checkpoint): TensorToWrite[] => [...checkpoint.places()].flatMap(({ name }) => (/^layers\.\d+\.keepRouter$/.test(name) ? [] : [unchanged(checkpoint, name)]));

const routerTensor = ({ hiddenSize, router: { topK } }: ModelConfig, { layer, parameters }: FittedRouter): TensorToWrite => ({
  name: `layers.${layer}.keepRouter`, type: "F32", nRows: 1, nCols: topK * keepRouterColumns(hiddenSize, topK),
  async *read() { yield new Uint8Array(parameters.buffer, parameters.byteOffset, parameters.byteLength); },
});
