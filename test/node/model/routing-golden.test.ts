// The engine against PyTorch, for every kind of routing it has: the same tiny models, the same logits (demo/routing/golden-logits.py).

import { describe, expect, test } from "vitest";
import { freezeConfig } from "../../../model/architectures/common.ts";
import { createScalarKernels } from "../../../model/scalar-kernels.ts";
import { directEngine, logitsOf } from "../../support/direct-engine.ts";
import { goldenRoutings, goldenWeights } from "../../support/routing-golden.ts";

/** Cases of the file whose kinds the engine does not have. */
const MISSING: readonly string[] = ["relu-mlp", "gelu-mlp-switch", "sparsity", "product-vertical", "product-horizontal"];

describe.each(goldenRoutings().filter(({ name }) => !MISSING.includes(name)))("$name", (golden) => {
  test("gives PyTorch's logits", async () => {
    const { config, ids, logits, moe: { task, condition } } = golden;
    freezeConfig(golden.name, structuredClone(config));
    const answers = { ...(task === undefined ? {} : { task }), ...(condition === undefined ? {} : { condition: Float32Array.from(condition) }) };
    const { engine } = directEngine(config, goldenWeights(golden), 65536, { kernels: createScalarKernels(new WebAssembly.Memory({ initial: 2 })), contextLength: 64 });
    const found = await logitsOf(engine, ids, [4, 3, 1], { answers });
    const scale = Math.max(...logits.map(Math.abs));
    expect(found.length).toBe(logits.length);
    logits.forEach((expected, i) => { expect(Math.abs(found[i]! - expected)).toBeLessThan(1e-5 * scale); });
  });
});
