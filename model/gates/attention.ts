// Each expert has a query, a key and a value of the token's row, one number each; its logit is what its query attends to among all experts' values:
// softmax(q k^T) v. S. Wu et al., *Yuan 2.0-M32: Mixture of Experts with Attention Router*, 2024. Owns these softmaxes, over as many numbers as there are experts.

import { exp } from "../float-math.ts";
import { gateInputSize, logitsOf } from "../router-config.ts";
import type { Gate } from "./gate.ts";

const f = Math.fround;

export const attention: Gate = {
  tensors: (c) => [{ name: "router", kind: "matrix", nRows: 3 * logitsOf(c), nCols: gateInputSize(c) }],
  ownColumns: () => 0,
  wideColumns: (c) => 3 * logitsOf(c),
  takes: ({ router }) => [router!.takes],
  run: ({ config, w, products, heap: { f32 }, rows, first, nTokens, logits, stride, wide, wideStride }) => {
    const n = logitsOf(config);
    products.product(w.router!, rows, first, nTokens, wide, wideStride);
    for (let t = 0; t < nTokens; t++) {
      const at = (wide + t * wideStride) / 4;
      for (let e = 0; e < n; e++) f32[(logits + t * stride) / 4 + e] = attended(f32[at + e]!, f32.subarray(at + n, at + 2 * n), f32.subarray(at + 2 * n, at + 3 * n));
    }
  },
};

/** softmax(q k) . v in f32, sums in ascending order. */
function attended(q: number, k: Float32Array, v: Float32Array): number {
  let max = -Infinity;
  for (let j = 0; j < k.length; j++) max = Math.max(max, f(q * k[j]!));
  let [sum, out] = [0, 0];
  for (let j = 0; j < k.length; j++) {
    const e = exp(f(f(q * k[j]!) - max));
    sum = f(sum + e);
    out = f(out + f(e * v[j]!));
  }
  return f(out / sum);
}
