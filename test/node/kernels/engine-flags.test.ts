// The same bits from other compilers of the same modules: without AVX-VNNI, with the baseline compiler alone, with the optimising
// compiler alone, and with explicit bounds checks as workerd has them. Each in a process of its own, for flags belong to a process.

import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";

const program = join(import.meta.dirname, "run-cases.ts");

describe.each([
  ["--no-enable-avx-vnni"], ["--liftoff-only"], ["--no-liftoff"], ["--disable-wasm-trap-handler"],
])("node %s", (flag) => {
  test("every variant equals the scalar reference", async () => {
    const { stdout } = await promisify(execFile)(process.execPath, [flag, program]);
    const { cases, mismatches } = JSON.parse(stdout);
    expect(cases).toBeGreaterThan(200);
    expect(mismatches).toEqual([]);
  });
});
