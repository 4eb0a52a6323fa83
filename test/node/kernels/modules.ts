// The compiled kernel modules for Node tests, built first where a source has changed.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import type { KernelVariant } from "../../../model/wasm-kernels.ts";

await buildKernels({ log: () => undefined });

export const kernelBytes = (variant: KernelVariant | "bench"): Uint8Array<ArrayBuffer> =>
  new Uint8Array(readFileSync(join(import.meta.dirname, `../../../build/kernels-${variant}.wasm`)));

export const compileModule = (bytes: Uint8Array<ArrayBuffer>): WebAssembly.Module => new WebAssembly.Module(bytes);

export const kernelModule = (variant: KernelVariant): WebAssembly.Module => compileModule(kernelBytes(variant));
