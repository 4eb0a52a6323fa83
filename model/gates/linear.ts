// The gate of nearly every model: logits = router . x. Owns the one product. N. Shazeer et al., 2017.

import { gateInputSize, logitsOf } from "../router-config.ts";
import type { Gate } from "./gate.ts";

export const linear: Gate = {
  tensors: (c) => [{ name: "router", kind: "matrix", nRows: logitsOf(c), nCols: gateInputSize(c) }],
  ownColumns: () => 0,
  wideColumns: () => 0,
  takes: ({ router }) => [router!.takes],
  run: ({ w, products, rows, first, nTokens, logits, stride }) => products.product(w.router!, rows, first, nTokens, logits, stride),
};
