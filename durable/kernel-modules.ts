// The compiled kernels as the bundler hands them over: one WebAssembly.Module per variant. Workers cannot compile at run time (2026-11).
// Owns nothing else.

import relaxedI16 from "../build/kernels-relaxed-i16.wasm";
import relaxedI32 from "../build/kernels-relaxed-i32.wasm";
import simd128 from "../build/kernels-simd128.wasm";
import type { KernelModules } from "../model/wasm-kernels.ts";

export const kernelModules: KernelModules = { simd128, relaxedI32, relaxedI16 };
