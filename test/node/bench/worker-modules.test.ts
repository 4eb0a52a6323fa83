// Every Worker of the benchmarks finds the WebAssembly it imports: a host lists its modules by hand, and one that is missing keeps it from starting.

import { globSync } from "node:fs";
import { basename, join } from "node:path";
import { build } from "esbuild";
import { describe, expect, it } from "vitest";
import { WASM_FILES } from "../../../bench/serving.ts";

const ROOT = join(import.meta.dirname, "../../..");

describe("a Worker of the benchmarks", () => {
  // The kernels' own Worker has kernels of its own, which bench/kernels.ts lists by variant.
  const workers = globSync("bench/*-worker.ts", { cwd: ROOT }).filter((entry) => basename(entry) !== "kernel-worker.ts");
  it("is one of several", () => expect(workers.length).toBeGreaterThan(1));
  it.each(workers)("imports only WebAssembly that its host brings: %s", async (entry) => {
    const { outputFiles } = await build({
      entryPoints: [join(ROOT, entry)], bundle: true, format: "esm", write: false, external: ["*.wasm", "cloudflare:workers"], logLevel: "silent",
      conditions: ["workerd", "worker", "browser"],
    });
    const imported = Array.from(outputFiles[0]!.text.matchAll(/from "([^"]+\.wasm)"/g), ([, path]) => basename(path!));
    expect(imported.length).toBeGreaterThan(0);
    expect(WASM_FILES.map((file) => basename(file))).toEqual(expect.arrayContaining(imported));
  });
});
