// The benchmark's Worker: runs the kernel workloads inside workerd. Local workerd's clock advances during compute (2026-11), which
// production's does not: this program is of use on a local machine only.

import bench from "../build/kernels-bench.wasm";
import relaxedI16 from "../build/kernels-relaxed-i16.wasm";
import relaxedI32 from "../build/kernels-relaxed-i32.wasm";
import simd128 from "../build/kernels-simd128.wasm";
import { chooseKernels } from "../model/wasm-kernels.ts";
import type { KernelVariant } from "../model/wasm-kernels.ts";
import { measure } from "./kernel-measure.ts";
import { workloads } from "./kernel-workloads.ts";

export default {
  async fetch(request: Request): Promise<Response> {
    const params = new URL(request.url).searchParams;
    const choice = chooseKernels({ modules: { simd128, relaxedI32, relaxedI16 }, memory: new WebAssembly.Memory({ initial: 1 }) });
    const byName = { "simd128": simd128, "relaxed-i32": relaxedI32, "relaxed-i16": relaxedI16 };
    const variant = (params.get("variant") ?? choice.kernels.name) as KernelVariant;
    const list = workloads({ variants: { [variant]: byName[variant] }, bench, only: new RegExp(params.get("only") ?? "") });
    const measured = await measure(list, { nowMs: () => performance.now(), sampleMs: Number(params.get("sampleMs") ?? 20), rounds: Number(params.get("rounds") ?? 15) });
    return Response.json({ chosen: choice.kernels.name, probe: choice.probe, measured });
  },
};
