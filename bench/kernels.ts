// `node bench/kernels.ts [--json]`: speed of the int4 and int8 products as a share of what this machine's WebAssembly can do at
// most, in Node and inside workerd. Prints one JSON document (--json) or a short table. Must-reach figures are those of the issue:
// int4, one token: 75 % of the stream at 18 MiB in Node, 39 % of the dot peak in cache in workerd; batch 8: 45 % there.

import { build } from "esbuild";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Miniflare, convertV4MiniflareOptions } from "miniflare";
import { buildKernels } from "../cli/build-kernels.mjs";
import { chooseKernels } from "../model/wasm-kernels.ts";
import type { KernelVariant } from "../model/wasm-kernels.ts";
import { measure, workloads } from "./kernel-measure.ts";
import type { Measured } from "./kernel-measure.ts";

const ROOT = join(import.meta.dirname, "..");
const MODULES = ["simd128", "relaxed-i32", "relaxed-i16", "bench"] as const;
const wasmBytes = (name: string): Uint8Array<ArrayBuffer> => new Uint8Array(readFileSync(join(ROOT, `build/kernels-${name}.wasm`)));

interface PlaceReport {
  readonly variant: string;
  readonly probe: { readonly value: number | null; readonly engine: string };
  readonly measured: readonly Measured[];
  readonly ratios: Readonly<Record<string, number>>;
}

/** The shares that the issue names, and their neighbours. The dot peak is the faster of the two relaxed forms here. */
function ratiosOf(measured: readonly Measured[], variant: string): Record<string, number> {
  const of = (name: string): Measured => {
    const found = measured.find((m) => m.name === name);
    if (found === undefined) throw new Error(`The measurement ${name} is missing; have ${measured.map((m) => m.name).join(", ")}.`);
    return found;
  };
  const dotPeak = Math.max(of("dots i32").gigaOperationsPerSecond, of("dots i16").gigaOperationsPerSecond);
  const ratios: Record<string, number> = {};
  const share = (name: string, value: number): void => { ratios[name] = Math.round(value * 1000) / 1000; };
  for (const format of ["q4", "q8"]) {
    for (const mib of [0.25, 1, 18]) {
      const product = of(`${variant} ${format} x 1 ${mib} MiB`);
      share(`${format} x 1, ${mib} MiB, of stream`, product.gigabytesPerSecond / of(`stream ${mib} MiB`).gigabytesPerSecond);
      share(`${format} x 1, ${mib} MiB, of dot peak`, product.gigaOperationsPerSecond / dotPeak);
    }
    for (const nTokens of [2, 4, 8]) {
      share(`${format} x ${nTokens}, 1 MiB, of dot peak`, of(`${variant} ${format} x ${nTokens} 1 MiB`).gigaOperationsPerSecond / dotPeak);
    }
  }
  return ratios;
}

function measureInNode(): PlaceReport {
  const [simd128, relaxedI32, relaxedI16, bench] = MODULES.map((name) => new WebAssembly.Module(wasmBytes(name)));
  const choice = chooseKernels({ modules: { simd128: simd128!, relaxedI32: relaxedI32!, relaxedI16: relaxedI16! }, memory: new WebAssembly.Memory({ initial: 1 }) });
  const variant = choice.kernels.name as KernelVariant;
  const module = { "simd128": simd128!, "relaxed-i32": relaxedI32!, "relaxed-i16": relaxedI16! }[variant];
  const options = { variants: { [variant]: module }, bench: bench!, nowMs: () => performance.now(), sampleMs: 4, rounds: 31 };
  const measured = measure(workloads(options), options);
  return { variant, probe: choice.probe, measured, ratios: ratiosOf(measured, variant) };
}

/** Runs the benchmark's Worker in bare Miniflare. `overrides` replaces modules by name, for tuning. */
export async function measureInWorkerd(query = "", overrides: Readonly<Record<string, string>> = {}): Promise<Omit<PlaceReport, "ratios">> {
  const bundle = await build({
    entryPoints: [join(ROOT, "bench/kernel-worker.ts")], bundle: true, format: "esm", write: false, external: ["*.wasm"], logLevel: "silent",
  });
  const worker = new Miniflare(convertV4MiniflareOptions({
    modulesRoot: "/",
    modules: [
      { type: "ESModule", path: "/bench/worker.js", contents: bundle.outputFiles[0]!.text },
      ...MODULES.map((name) => ({
        type: "CompiledWasm" as const, path: `/build/kernels-${name}.wasm`,
        contents: overrides[name] === undefined ? wasmBytes(name) : new Uint8Array(readFileSync(overrides[name])),
      })),
    ],
    compatibilityDate: "2026-11-17",
  }));
  try {
    const response = await worker.dispatchFetch(`http://bench/${query}`);
    if (!response.ok) throw new Error(`The benchmark's Worker answered ${response.status}: ${await response.text()}`);
    const { chosen, probe, measured } = await response.json() as { chosen: string; probe: PlaceReport["probe"]; measured: Measured[] };
    return { variant: chosen, probe, measured };
  } finally {
    await worker.dispose();
  }
}

/** The whole document, for `npm run bench`. */
export async function benchKernels(): Promise<{ node: PlaceReport; workerd: PlaceReport; targets: Record<string, { measured: number; atLeast: number; reached: boolean }> }> {
  await buildKernels({ log: (line) => console.error(line) });
  const node = measureInNode();
  const inside = await measureInWorkerd();
  const workerd = { ...inside, ratios: ratiosOf(inside.measured, inside.variant) };
  const target = (measured: number, atLeast: number) => ({ measured, atLeast, reached: measured >= atLeast });
  return {
    node, workerd,
    targets: {
      "node: int4, one token, 18 MiB, of the streaming limit": target(node.ratios["q4 x 1, 18 MiB, of stream"]!, 0.75),
      "workerd: int4, one token, in cache, of the dot peak": target(workerd.ratios["q4 x 1, 0.25 MiB, of dot peak"]!, 0.39),
      "workerd: int4, batch 8, of the dot peak": target(workerd.ratios["q4 x 8, 1 MiB, of dot peak"]!, 0.45),
    },
  };
}

if (import.meta.main) {
  const report = await benchKernels();
  if (process.argv.includes("--json")) console.log(JSON.stringify(report, null, 1));
  else {
    for (const place of ["node", "workerd"] as const) {
      console.log(`${place}: ${report[place].variant} (${report[place].probe.engine})`);
      for (const m of report[place].measured) console.log(`  ${m.name.padEnd(32)} ${m.gigabytesPerSecond.toFixed(1).padStart(7)} GB/s ${m.gigaOperationsPerSecond.toFixed(1).padStart(7)} GOP/s`);
    }
    for (const [name, t] of Object.entries(report.targets)) console.log(`${t.reached ? "reached" : "missed "} ${name}: ${t.measured} (at least ${t.atLeast})`);
  }
}
