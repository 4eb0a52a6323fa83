// The engine against PyTorch, for every kind of routing it has: the same tiny models, the same logits (demo/routing/golden-logits.py).

import { describe, expect, test } from "vitest";
import { createScalarKernels } from "../../../model/scalar-kernels.ts";
import { directEngine, logitsOf } from "../../support/direct-engine.ts";
import { goldenWeights, routingCases } from "../../support/routing-golden.ts";

/** Cases of the file that the engine has the kinds for. */
const SERVED: readonly string[] = ["top-k"];

describe.each(routingCases().filter(({ name }) => SERVED.includes(name)))("$name", (golden) => {
  test("gives PyTorch's logits", async () => {
    const kernels = createScalarKernels(new WebAssembly.Memory({ initial: 2 }));
    const { engine } = directEngine(golden.config, goldenWeights(golden), 65536, { kernels, contextLength: 64 });
    const found = await logitsOf(engine, golden.ids, [4, 3, 1]);
    const scale = Math.max(...golden.logits.map(Math.abs));
    expect(found.length).toBe(golden.logits.length);
    golden.logits.forEach((expected, i) => { expect(Math.abs(found[i]! - expected)).toBeLessThan(1e-5 * scale); });
  });
});
