// How few neurons of an expert work on a token: the L0 of its h, the numbers that are not zero (MoE-X, 2025, whose router prefers experts with a small one). What ReLU
// silences, the down product leaves out (docs/arithmetic.md section 6). Owns the counts over calibration texts. Refuses thresholds: only zero is zero.

import type { MatrixSource } from "../formats/checkpoint.ts";
import type { KernelModules } from "../model/wasm-kernels.ts";
import { beforeExperts } from "./before-experts.ts";
import { LayerInputs } from "./layer-inputs.ts";

/** Of one expert. */
export interface ExpertActivity {
  /** Tokens that chose it. */
  readonly tokens: number;
  /** Sum of their L0. */
  readonly working: number;
}

export interface LayerActivity {
  readonly layer: number;
  /** Neurons of an expert. */
  readonly width: number;
  readonly experts: readonly ExpertActivity[];
}

/** Mean L0 of all experts' tokens; NaN where there are none. */
export const meanL0 = ({ experts }: LayerActivity): number => experts.reduce((sum, { working }) => sum + working, 0) / experts.reduce((sum, { tokens }) => sum + tokens, 0);

/** Activity of the layers with experts, ascending. A layer's h are held for a moment: tokens times topK times the width of an expert, in f32. */
export async function* expertActivity(matrices: MatrixSource, sequences: readonly (readonly number[])[], modules: KernelModules): AsyncIterable<LayerActivity> {
  const { config } = matrices;
  for await (const { layer, model, context } of beforeExperts(matrices, sequences, modules)) {
    const inputs = new LayerInputs(model, matrices, context, layer);
    const { routing } = await inputs.feedForward();
    const rows = await inputs.expertDown(Array.from({ length: config.nExperts }, (_, expert) => expert), routing!);
    const experts = [...rows.values()].map(({ values, weights }): ExpertActivity => ({ tokens: weights.length, working: values.reduce((sum, x) => sum + (x === 0 ? 0 : 1), 0) }));
    yield { layer, width: config.expertIntermediateSize, experts };
  }
}
