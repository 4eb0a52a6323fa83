// One expert for each condition: the experts that a condition chooses were made one beforehand, weights and all (passes/fuse-model.ts), so nothing is left to compute but which
// condition it is. MoDE: M. Reuss et al., *Efficient Diffusion Transformer Policies with Mixture of Expert Denoisers*, 2025. Owns the look-up; conditions are equal where all their
// f32 are. Refuses a condition that there is none for: gate-stage.ts says so before a step.

import { type Gate, settingsOf } from "./gate.ts";

/** Number of the condition, or -1. */
export const numberOfCondition = (conditions: readonly (readonly number[])[], of: ArrayLike<number>): number =>
  conditions.findIndex((row) => row.length === of.length && row.every((value, i) => Math.fround(value) === Math.fround(of[i]!)));

export const conditions: Gate = {
  tensors: () => [],
  ownColumns: () => 0,
  wideColumns: () => 0,
  takes: () => [],
  run: ({ config, heap: { f32 }, rows, first, nTokens, logits, stride }) => {
    const { conditions: known } = settingsOf(config, "conditions");
    for (let t = 0; t < nTokens; t++) {
      const from = (rows.f32 + (first + t) * rows.f32Stride) / 4;
      f32.fill(0, (logits + t * stride) / 4, (logits + t * stride) / 4 + known.length);
      f32[(logits + t * stride) / 4 + numberOfCondition(known, f32.subarray(from, from + rows.nCols))] = 1;
    }
  },
};
