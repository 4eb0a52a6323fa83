// The peers of the kernel benchmark compute what they are said to compute: llama.cpp's algorithm and onnxruntime's product against plain
// sums in f64; and every format of the kernels has its workloads. Nothing is timed here.

import { describe, expect, it } from "vitest";
import { instantiateLoops } from "../../../bench/kernel-measure.ts";
import { workloads } from "../../../bench/kernel-workloads.ts";
import { ratiosOf } from "../../../bench/kernels.ts";
import { RandomSource } from "../../../bench/model/random-source.ts";
import { matMulNBitsModel, matMulNBitsReference } from "../../../bench/peers/onnx-model.ts";
import { arePeersInstalled } from "../../../bench/peers/install.ts";
import { onnxRuntime, onnxWorkloads } from "../../../bench/peers/onnxruntime.ts";
import { KV_FORMATS, MATRIX_FORMATS, activationFormatOf } from "../../../model/kernels.ts";
import { kernelModule, compileModule, kernelBytes } from "../kernels/modules.ts";

const benchModule = (): WebAssembly.Module => compileModule(kernelBytes("bench"));

describe("llama.cpp's algorithm", () => {
  it("gives the sum of scaled blocks", () => {
    const [nRows, nBlocks] = [3, 5];
    const memory = new WebAssembly.Memory({ initial: 8 });
    const loops = instantiateLoops(benchModule(), memory);
    const view = new DataView(memory.buffer);
    const [w, acts, y, halves] = [0x10000, 0x18000, 0x1c000, 0x20000];
    const random = new RandomSource(5);
    for (let bits = 0; bits < 65536; bits++) {
      const half = new DataView(new ArrayBuffer(2));
      half.setUint16(0, bits);
      view.setFloat32(halves + 4 * bits, half.getFloat16(0), true);
    }
    const expected = new Float64Array(nRows);
    const activations = Array.from({ length: nBlocks }, (_, b) => {
      const d = (b + 1) / 64;
      view.setFloat16(acts + 34 * b, d, true);
      return { d, q: Array.from({ length: 32 }, (_, i) => {
        const q = random.below(255) - 127;
        view.setInt8(acts + 34 * b + 2 + i, q);
        return q;
      }) };
    });
    for (let r = 0; r < nRows; r++) {
      for (let b = 0; b < nBlocks; b++) {
        const at = w + (r * nBlocks + b) * 18;
        const d = (r + 1) / -32;
        view.setFloat16(at, d, true);
        for (let i = 0; i < 16; i++) {
          const [low, high] = [random.below(16), random.below(16)];
          view.setUint8(at + 2 + i, low | (high << 4));
          const { d: ad, q } = activations[b]!;
          expected[r]! += d * ad * ((low - 8) * q[i]! + (high - 8) * q[i + 16]!);
        }
      }
    }
    loops.ggmlQ4Rows(w, nRows, nBlocks, acts, y, halves);
    for (let r = 0; r < nRows; r++) expect(view.getFloat32(y + 4 * r, true)).toBeCloseTo(expected[r]!, 3);
  });
});

// 160 MB that only `npm run bench` installs; each run of the benchmark checks the product against the reference before it times it.
describe.skipIf(!arePeersInstalled())("onnxruntime-web (skipped where `npm run bench` has not installed it)", () => {
  it("reads the hand-written model and multiplies by its weights", async () => {
    const ort = await onnxRuntime();
    const [n, k] = [48, 64];
    const random = new RandomSource(9);
    const packed = Uint8Array.from({ length: (n * k) / 2 }, () => random.below(256));
    const scales = Float32Array.from({ length: (n * k) / 32 }, () => (1 + random.below(9)) / 16);
    const a = Float32Array.from({ length: 2 * k }, () => random.below(15) - 7);
    const session = await ort.InferenceSession.create(matMulNBitsModel(n, k, packed, scales, 0), { executionProviders: ["wasm"] });
    const { y } = await session.run({ a: new ort.Tensor("float32", a, [2, k]) });
    const expected = matMulNBitsReference(n, k, packed, scales, a);
    expect(y!.dims).toEqual([2, n]);
    y!.data.forEach((value, i) => expect(Math.abs(value - expected[i]!)).toBeLessThan(1e-3));
    expect(expected.some((value) => Math.abs(value) > 10)).toBe(true);
  });

  it("passes its own check for every batch", async () => {
    const list = await onnxWorkloads(0.1, [1, 8]);
    expect(list.map(({ operations }) => operations)).toEqual([2 * 64 * 2048, 16 * 64 * 2048]);
  });

  it("refuses weights that do not fit the shape", () => {
    expect(() => matMulNBitsModel(4, 64, new Uint8Array(8), new Float32Array(8), 0)).toThrow(/expected 128 and 8/);
  });
});

describe("kernel workloads", () => {
  const list = workloads({ variants: { simd128: kernelModule("simd128") }, bench: benchModule() });
  it("hold every matrix format and every cache format", () => {
    for (const format of MATRIX_FORMATS) expect(list.filter(({ name }) => name.startsWith(`simd128 ${format} x `)).length, format).toBe(activationFormatOf(format) === "qa8" ? 7 : 6);
    for (const format of KV_FORMATS) expect(list.filter(({ name }) => name.startsWith(`simd128 attention ${format} `)).length, format).toBe(2);
  });

  it("run, and have a stream of the same size to be compared with", async () => {
    for (const work of list) await work.run();
    const measured = list.map(({ name }) => ({ name, gigabytesPerSecond: 2, gigaOperationsPerSecond: 3 }));
    const ratios = ratiosOf(measured, "simd128");
    expect(Object.values(ratios).every((value) => value === 1)).toBe(true);
    expect(ratios["q4 x 8, 1 MiB, of dots i16"]).toBe(1);
    expect(() => ratiosOf(measured.filter(({ name }) => name !== "dots i32"), "simd128")).toThrow(/dots i32 is missing/);
  });
});
