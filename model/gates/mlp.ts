// A gate of two layers: logits = router . act(routerHidden . x + bias). tanh: T2MIR (W. Wu et al., 2025); relu: MENTOR (S. Huang et al., 2024).
// Owns the layer between. Its activation runs here, on as few numbers as it is wide.

import { tanh } from "../float-math.ts";
import { gateInputSize, logitsOf } from "../router-config.ts";
import { type Gate, settingsOf } from "./gate.ts";

const relu = (x: number): number => (x > 0 ? x : 0);

export const mlp: Gate = {
  tensors: (c) => {
    const { width } = settingsOf(c, "mlp");
    return [
      { name: "routerHidden", kind: "matrix", nRows: width, nCols: gateInputSize(c) }, { name: "routerHiddenBias", kind: "vector", length: width },
      { name: "router", kind: "matrix", nRows: logitsOf(c), nCols: width },
    ];
  },
  ownColumns: (c) => settingsOf(c, "mlp").width,
  wideColumns: () => 0,
  takes: ({ routerHidden }) => [routerHidden!.takes],
  run: ({ config, w, products, heap, rows, own, first, nTokens, logits, stride }) => {
    const { width, activation } = settingsOf(config, "mlp");
    products.product(w.routerHidden!, rows, first, nTokens, own.f32 + first * own.f32Stride, own.f32Stride, w.routerHiddenBias);
    const act = activation === "tanh" ? tanh : relu;
    for (let t = first; t < first + nTokens; t++) {
      const row = heap.f32.subarray((own.f32 + t * own.f32Stride) / 4, (own.f32 + t * own.f32Stride) / 4 + width);
      for (let i = 0; i < width; i++) row[i] = act(row[i]!);
    }
    own.quantised = false;
    products.product(w.router!, own, first, nTokens, logits, stride);
  },
};
