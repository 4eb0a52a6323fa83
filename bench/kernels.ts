// `node bench/kernels.ts [--json]`: speed of every product and of attention as a share of what this machine's WebAssembly can do at most,
// in Node and inside workerd, and beside peers: llama.cpp's WebAssembly algorithm, and onnxruntime-web's MatMulNBits, in the same process.
// Two dot peaks are printed: `dots i32` (the relaxed i32 dot, what targets mean by "dot peak") and `dots i16` (faster where VNNI is missing).

import { build } from "esbuild";
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Miniflare, convertV4MiniflareOptions } from "miniflare";
import { buildKernels } from "../cli/build-kernels.mjs";
import { ROOT } from "../cli/setup.mjs";
import { KV_FORMATS, MATRIX_FORMATS, activationFormatOf } from "../model/kernels.ts";
import { chooseKernels } from "../model/wasm-kernels.ts";
import type { DotProbe, KernelVariant } from "../model/wasm-kernels.ts";
import { measure, type Measured, type MeasureOptions } from "./kernel-measure.ts";
import { ATTENTION_SHAPES, attentionBytes, attentionName, ggmlName, productName, SIZES_MIB, streamName, workloads } from "./kernel-workloads.ts";
import { installPeers } from "./peers/install.ts";
import { onnxName, onnxRuntimeVersion, onnxWorkloads } from "./peers/onnxruntime.ts";
import { machineReport, present, tableText, target, type Report } from "./report.ts";
import { rounded } from "./statistics.ts";

const MODULES = ["simd128", "relaxed-i32", "relaxed-i16", "bench"] as const;
const MIB = 1024 * 1024;
const wasmBytes = (name: string): Uint8Array<ArrayBuffer> => new Uint8Array(readFileSync(join(ROOT, `build/kernels-${name}.wasm`)));
const NODE_SAMPLING: MeasureOptions = { nowMs: () => performance.now(), sampleMs: 4, rounds: 31 };
/** An answer of the peer takes up to 30 ms. */
const PEER_SAMPLING: MeasureOptions = { ...NODE_SAMPLING, rounds: 15 };
const NO_VNNI = "--no-enable-avx-vnni";

interface Place {
  readonly variant: string;
  readonly probe: DotProbe;
  readonly measured: readonly Measured[];
}

interface PlaceReport extends Place {
  /** Of the stream of as many bytes, of both dot peaks, and over peers. */
  readonly ratios: Readonly<Record<string, number>>;
}

export interface KernelReport extends Report {
  readonly peers: { readonly llamaCpp: string; readonly onnxruntimeWeb: string | null };
  readonly node: PlaceReport;
  readonly workerd: PlaceReport;
  readonly withoutVnni: { readonly flag: string; readonly probe: DotProbe; readonly measured: readonly Measured[]; readonly ratios: Readonly<Record<string, number>> };
}

export class Figures {
  readonly #by: ReadonlyMap<string, Measured>;
  constructor(measured: readonly Measured[]) { this.#by = new Map(measured.map((m) => [m.name, m])); }
  of(name: string): Measured {
    const found = this.#by.get(name);
    if (found === undefined) throw new Error(`The measurement ${name} is missing; have ${[...this.#by.keys()].join(", ")}.`);
    return found;
  }
  has(name: string): boolean { return this.#by.has(name); }
}

/** Every share that was measured, by what it is of what. */
export function ratiosOf(measured: readonly Measured[], variant: string): Record<string, number> {
  const figures = new Figures(measured);
  const ratios: Record<string, number> = {};
  const share = (name: string, value: number): void => void (ratios[name] = rounded(value));
  const [i32, i16] = [figures.of("dots i32").gigaOperationsPerSecond, figures.of("dots i16").gigaOperationsPerSecond];
  share("dots i16, of dots i32", i16 / i32);
  for (const format of MATRIX_FORMATS) {
    for (const mib of SIZES_MIB) {
      const product = figures.of(productName(variant, format, 1, mib));
      share(`${format} x 1, ${mib} MiB, of stream`, product.gigabytesPerSecond / figures.of(streamName(mib * MIB)).gigabytesPerSecond);
      if (activationFormatOf(format) === "qa8") {
        share(`${format} x 1, ${mib} MiB, of dots i32`, product.gigaOperationsPerSecond / i32);
        share(`${format} x 1, ${mib} MiB, of dots i16`, product.gigaOperationsPerSecond / i16);
      }
    }
    if (activationFormatOf(format) !== "qa8") continue;
    for (const [nTokens, mib] of [[2, 1], [4, 1], [8, 1], [8, SIZES_MIB.at(-1)!]] as const) {
      const product = figures.of(productName(variant, format, nTokens, mib));
      share(`${format} x ${nTokens}, ${mib} MiB, of dots i32`, product.gigaOperationsPerSecond / i32);
      share(`${format} x ${nTokens}, ${mib} MiB, of dots i16`, product.gigaOperationsPerSecond / i16);
    }
  }
  for (const [nTokens, mib] of [...SIZES_MIB.map((mib) => [1, mib] as const), [8, 1], [8, SIZES_MIB.at(-1)!]] as const) {
    share(`q6k x ${nTokens}, ${mib} MiB, over q8`,
      figures.of(productName(variant, "q6k", nTokens, mib)).gigaOperationsPerSecond / figures.of(productName(variant, "q8", nTokens, mib)).gigaOperationsPerSecond);
  }
  for (const format of KV_FORMATS) {
    for (const shape of ATTENTION_SHAPES) {
      share(`attention ${format}, ${shape.name}, of stream`,
        figures.of(attentionName(variant, format, shape.name)).gigabytesPerSecond / figures.of(streamName(attentionBytes(format, shape))).gigabytesPerSecond);
    }
  }
  for (const mib of SIZES_MIB) {
    share(`q4 x 1, ${mib} MiB, over llama.cpp's algorithm`, figures.of(productName(variant, "q4", 1, mib)).gigaOperationsPerSecond / figures.of(ggmlName(mib)).gigaOperationsPerSecond);
  }
  for (const nTokens of [1, 8]) {
    const name = onnxName(nTokens, 1);
    if (figures.has(name)) share(`q4 x ${nTokens}, 1 MiB, over onnxruntime-web`, figures.of(productName(variant, "q4", nTokens, 1)).gigaOperationsPerSecond / figures.of(name).gigaOperationsPerSecond);
  }
  return ratios;
}

const modulesByVariant = () => ({
  "simd128": new WebAssembly.Module(wasmBytes("simd128")), "relaxed-i32": new WebAssembly.Module(wasmBytes("relaxed-i32")), "relaxed-i16": new WebAssembly.Module(wasmBytes("relaxed-i16")),
});

const choose = (modules: ReturnType<typeof modulesByVariant>) => chooseKernels({
  modules: { simd128: modules.simd128, relaxedI32: modules["relaxed-i32"], relaxedI16: modules["relaxed-i16"] }, memory: new WebAssembly.Memory({ initial: 1 }),
});

async function measureInNode(): Promise<PlaceReport> {
  const modules = modulesByVariant();
  const choice = choose(modules);
  const variant = choice.kernels.name as KernelVariant;
  const bench = new WebAssembly.Module(wasmBytes("bench"));
  const own = await measure(workloads({ variants: { [variant]: modules[variant] }, bench }), NODE_SAMPLING);
  // The peer runs between our own products, in the same rounds.
  const beside = workloads({ variants: { [variant]: modules[variant] }, bench, only: / q4 x [18] 1 MiB$/ });
  const peers = (await measure([...beside, ...await onnxWorkloads(1, [1, 8])], PEER_SAMPLING)).filter(({ name }) => name.startsWith("onnx"));
  const measured = [...own, ...peers];
  return { variant, probe: choice.probe, measured, ratios: ratiosOf(measured, variant) };
}

/** Runs the benchmark's Worker in bare Miniflare. */
async function measureInWorkerd(): Promise<Place> {
  const bundle = await build({
    entryPoints: [join(ROOT, "bench/kernel-worker.ts")], bundle: true, format: "esm", write: false, external: ["*.wasm"], logLevel: "silent",
  });
  const worker = new Miniflare(convertV4MiniflareOptions({
    modulesRoot: "/",
    modules: [
      { type: "ESModule", path: "/bench/worker.js", contents: bundle.outputFiles[0]!.text },
      ...MODULES.map((name) => ({
        type: "CompiledWasm" as const, path: `/build/kernels-${name}.wasm`,
        contents: wasmBytes(name),
      })),
    ],
    compatibilityDate: "2026-11-17",
  }));
  try {
    const response = await worker.dispatchFetch("http://bench/");
    if (!response.ok) throw new Error(`The benchmark's Worker answered ${response.status}: ${await response.text()}`);
    const { chosen, probe, measured } = await response.json() as { chosen: string; probe: DotProbe; measured: Measured[] };
    return { variant: chosen, probe, measured };
  } finally {
    await worker.dispose();
  }
}

/** This program again, with V8 kept from VNNI: the one-token products of both relaxed variants, in one run. */
function measureWithoutVnni(): KernelReport["withoutVnni"] {
  const done = spawnSync(process.execPath, [NO_VNNI, import.meta.filename, "--one-token-variants"], { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] });
  if (done.status !== 0) throw new Error(`The run with ${NO_VNNI} ended with exit code ${done.status}. What it said is above.`);
  const { probe, measured } = JSON.parse(done.stdout) as { probe: DotProbe; measured: Measured[] };
  const figures = new Figures(measured);
  const ratios = Object.fromEntries(SIZES_MIB.map((mib) => [`q4 x 1, ${mib} MiB, relaxed-i16 over relaxed-i32`,
    rounded(figures.of(productName("relaxed-i16", "q4", 1, mib)).gigaOperationsPerSecond / figures.of(productName("relaxed-i32", "q4", 1, mib)).gigaOperationsPerSecond)]));
  return { flag: NO_VNNI, probe, measured, ratios };
}

async function oneTokenVariants(): Promise<void> {
  const { simd128: _, ...variants } = modulesByVariant();
  const list = workloads({ variants, bench: new WebAssembly.Module(wasmBytes("bench")), only: / q4 x 1 |^dots/ });
  console.log(JSON.stringify({ probe: choose(modulesByVariant()).probe, measured: await measure(list, NODE_SAMPLING) }));
}

/** The whole document, for `npm run bench`. */
export async function benchKernels(): Promise<KernelReport> {
  await buildKernels({ log: (line) => console.error(line) });
  installPeers();
  const machine = machineReport();
  const node = await measureInNode();
  const inside = await measureInWorkerd();
  const workerd = { ...inside, ratios: ratiosOf(inside.measured, inside.variant) };
  const withoutVnni = measureWithoutVnni();
  const attention = KV_FORMATS.at(-1)!;
  return {
    machine, peers: { llamaCpp: "its WebAssembly SIMD128 algorithm, ported", onnxruntimeWeb: onnxRuntimeVersion() }, node, workerd, withoutVnni,
    targets: {
      "Node: int4, one token, 18 MiB, of the stream": target(node.ratios["q4 x 1, 18 MiB, of stream"]!, 0.8, 0.9),
      "workerd: int4, one token, in cache (0.25 MiB), of the dot peak (i32)": target(workerd.ratios["q4 x 1, 0.25 MiB, of dots i32"]!, 0.41, 0.45),
      "workerd: int4, one token, 1 MiB, of the dot peak (i32)": target(workerd.ratios["q4 x 1, 1 MiB, of dots i32"]!, 0.41, 0.45),
      "Node: int4, batch 8, of the dot peak (i32)": target(node.ratios["q4 x 8, 1 MiB, of dots i32"]!, 0.65, 0.75),
      "workerd: int4, batch 8, of the dot peak (i32)": target(workerd.ratios["q4 x 8, 1 MiB, of dots i32"]!, 0.5, 0.65),
      "Node: int8, one token, 18 MiB, of the stream": target(node.ratios["q8 x 1, 18 MiB, of stream"]!, 0.95, 0.99),
      [`Node with ${NO_VNNI}: int4, one token, 1 MiB, over its own i32 variant`]: target(withoutVnni.ratios["q4 x 1, 1 MiB, relaxed-i16 over relaxed-i32"]!, 1.5, 1.8),
      ...Object.fromEntries(ATTENTION_SHAPES.map(({ name }) => [`Node: attention at 4k, ${attention} cache, ${name}, of the stream`, target(node.ratios[`attention ${attention}, ${name}, of stream`]!, 0.6, 0.75)])),
    },
  };
}

if (process.argv.includes("--one-token-variants")) await oneTokenVariants();
else if (import.meta.main) {
  await present("kernels", benchKernels, ({ node, workerd, withoutVnni }) => {
    const inside = new Figures(workerd.measured);
    const rows = node.measured.map(({ name, gigabytesPerSecond, gigaOperationsPerSecond }) => {
      const there = inside.has(name) ? inside.of(name) : null;
      return [name, rounded(gigabytesPerSecond), rounded(gigaOperationsPerSecond), there === null ? "-" : rounded(there.gigabytesPerSecond), there === null ? "-" : rounded(there.gigaOperationsPerSecond)];
    });
    const names = [...new Set([...Object.keys(node.ratios), ...Object.keys(workerd.ratios)])];
    return [
      `Node ran ${node.variant} (${node.probe.engine}), workerd ${workerd.variant} (${workerd.probe.engine})`,
      tableText([["", "Node GB/s", "GOP/s", "workerd GB/s", "GOP/s"], ...rows]), "",
      tableText([["ratio", "Node", "workerd"], ...names.map((name) => [name, node.ratios[name] ?? "-", workerd.ratios[name] ?? "-"])]), "",
      tableText([[`ratio with ${withoutVnni.flag}`, "Node"], ...Object.entries(withoutVnni.ratios)]), "",
    ].join("\n");
  });
}
