// The build of the kernels: nothing is done twice, and what it leaves is complete.

import { existsSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import "./modules.ts"; // builds what is stale

test("a second build does nothing and says nothing", async () => {
  const lines: string[] = [];
  expect(await buildKernels({ log: (line) => { lines.push(line); } })).toBe(false);
  expect(lines).toEqual([]);
  for (const name of ["simd128", "relaxed-i32", "relaxed-i16", "bench"]) {
    expect(existsSync(join(import.meta.dirname, `../../../build/kernels-${name}.wasm`))).toBe(true);
  }
});
