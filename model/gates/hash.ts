// No gate is learned: every token of the vocabulary has its expert. S. Roller et al., *Hash Layers for Large Sparse Models*, 2021.
// Owns the look-up: logits are 1 for that expert and 0 for the others. Refuses a table that names an expert which is not there, when it is met.

import { ModelError } from "../model-error.ts";
import { logitsOf } from "../router-config.ts";
import type { Gate } from "./gate.ts";

export const hash: Gate = {
  tensors: (c) => [{ name: "routerTable", kind: "vector", length: c.vocabSize }],
  ownColumns: () => 0,
  wideColumns: () => 0,
  takes: () => [],
  run: ({ config, w, heap: { f32 }, nTokens, logits, stride, tokenIds }) => {
    const n = logitsOf(config);
    for (let t = 0; t < nTokens; t++) {
      const expert = f32[w.routerTable / 4 + tokenIds[t]!]!;
      if (!(Number.isInteger(expert) && expert >= 0 && expert < n)) throw new ModelError(`The routerTable says expert ${expert} for token ${tokenIds[t]}; expected 0 to ${n - 1}.`);
      f32.fill(0, (logits + t * stride) / 4, (logits + t * stride) / 4 + n);
      f32[(logits + t * stride) / 4 + expert] = 1;
    }
  },
};
