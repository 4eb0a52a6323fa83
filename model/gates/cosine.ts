// Logits are cosines: the row is projected to few dimensions, where each expert has a direction of length 1, and the cosine is divided by a temperature.
// Z. Chi et al., *On the Representation Collapse of Sparse Mixture of Experts* (X-MoE), 2022. Owns the projected row's length.

import { gateInputSize, logitsOf } from "../router-config.ts";
import { type Gate, settingsOf } from "./gate.ts";

const f = Math.fround;
/** Shortest length that is divided by. */
const SHORTEST = f(1e-12);

export const cosine: Gate = {
  tensors: (c) => {
    const { width } = settingsOf(c, "cosine");
    return [{ name: "routerHidden", kind: "matrix", nRows: width, nCols: gateInputSize(c) }, { name: "router", kind: "matrix", nRows: logitsOf(c), nCols: width }];
  },
  ownColumns: (c) => settingsOf(c, "cosine").width,
  wideColumns: () => 0,
  takes: ({ routerHidden }) => [routerHidden!.takes],
  run: ({ config, w, products, heap: { f32 }, rows, own, first, nTokens, logits, stride }) => {
    const { width, temperature } = settingsOf(config, "cosine");
    products.product(w.routerHidden!, rows, first, nTokens, own.f32 + first * own.f32Stride, own.f32Stride);
    own.quantised = false;
    products.product(w.router!, own, first, nTokens, logits, stride);
    for (let t = 0; t < nTokens; t++) {
      const [from, at] = [(own.f32 + (first + t) * own.f32Stride) / 4, (logits + t * stride) / 4];
      let squares = 0;
      for (let i = from; i < from + width; i++) squares = f(squares + f(f32[i]! * f32[i]!));
      const divisor = f(f(temperature) * Math.max(f(Math.sqrt(squares)), SHORTEST));
      for (let e = at; e < at + logitsOf(config); e++) f32[e] = f32[e]! / divisor;
    }
  },
};
