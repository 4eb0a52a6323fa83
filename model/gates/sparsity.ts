// An expert's logit is the share of its neurons that it foretells to stay silent, negated: with the means and spreads of the expert's first matrix, column by
// column, a token's pre-activations are taken as normal, mean mz = m . x and variance vz = s^2 . x^2, and -erf(mz / sqrt(2 vz)) is largest where most are
// below zero. MoE-X: X. Yang et al., *Mixture of Experts Made Intrinsically Interpretable*, 2025. Owns this formula. m and s^2
// are tensors of the model: who writes it makes them of the experts' weights (demo/routing/export-kinds.py does).

import { erf } from "../float-math.ts";
import { gateInputSize } from "../router-config.ts";
import type { Gate } from "./gate.ts";

const f = Math.fround;

export const sparsity: Gate = {
  tensors: (c) => (["router", "routerSpread"] as const).map((name) => ({ name, kind: "matrix", nRows: c.nExperts, nCols: gateInputSize(c) })),
  ownColumns: (c) => c.hiddenSize,
  wideColumns: (c) => c.nExperts,
  takes: ({ router }) => [router!.takes, "f32"],
  run: ({ config: { nExperts, hiddenSize }, w, products, heap: { f32 }, rows, own, first, nTokens, logits, stride, wide, wideStride }) => {
    products.product(w.router!, rows, first, nTokens, logits, stride);
    for (let t = first; t < first + nTokens; t++) {
      const [from, to] = [(rows.f32 + t * rows.f32Stride) / 4, (own.f32 + t * own.f32Stride) / 4];
      for (let i = 0; i < hiddenSize; i++) f32[to + i] = f32[from + i]! * f32[from + i]!;
    }
    own.quantised = false;
    products.product(w.routerSpread!, own, first, nTokens, wide, wideStride);
    for (let t = 0; t < nTokens; t++) {
      const [mean, variance] = [(logits + t * stride) / 4, (wide + t * wideStride) / 4];
      for (let e = 0; e < nExperts; e++) {
        const deviation = f(Math.sqrt(f(2 * f32[variance + e]!)));
        // Without spread all neurons are where their mean is.
        f32[mean + e] = deviation === 0 ? -Math.sign(f32[mean + e]!) : -erf(f(f32[mean + e]! / deviation));
      }
    }
  },
};
