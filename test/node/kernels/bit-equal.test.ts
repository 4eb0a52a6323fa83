// Every WebAssembly variant gives the scalar reference's bits, for every operation, batch and size of the case table.

import { describe, expect, test } from "vitest";
import { KERNEL_VARIANTS, kernelCases, mismatchesOf } from "../../kernel-cases.ts";
import { kernelModule } from "./modules.ts";

describe.each(KERNEL_VARIANTS)("%s", (variant) => {
  test("equals the scalar reference in every case", () => {
    expect(kernelCases().length).toBeGreaterThan(200);
    expect(mismatchesOf(kernelModule(variant), variant)).toEqual([]);
  });
});
