// onnxruntime-web's int4 product (MatMulNBits) in this process, one thread. Owns the session and the check of its result against a
// reference before anything is timed. Refuses a session whose result is wrong: a wrong peer is no peer.

import type { Workload } from "../kernel-measure.ts";
import { RandomSource } from "../model/random-source.ts";
import { peerVersion } from "./install.ts";
import { matMulNBitsModel, matMulNBitsReference, ONNX_BLOCK } from "./onnx-model.ts";

/** int8 activations cost up to half a step of 1/127 of the largest value in each block. */
const RELATIVE_ERROR_MAX = 0.02;
const CHECKED_ROWS = 64;

/** What is used of onnxruntime-web; its own types are only there once it is installed. */
export interface OnnxRuntime {
  readonly env: { readonly wasm: { numThreads: number }; logLevel: string };
  readonly Tensor: new (type: "float32", data: Float32Array, dims: readonly number[]) => { readonly data: Float32Array; readonly dims: readonly number[] };
  readonly InferenceSession: {
    create(model: Uint8Array, options: { executionProviders: readonly string[] }): Promise<OnnxSession>;
  };
}
export interface OnnxSession {
  run(feeds: Readonly<Record<string, object>>): Promise<Record<string, { readonly data: Float32Array; readonly dims: readonly number[] }>>;
}

export const onnxRuntimeVersion = (): string | null => peerVersion("onnxruntime-web");

/** onnxruntime-web on one thread. Rejects where it is not installed (install.ts). */
export async function onnxRuntime(): Promise<OnnxRuntime> {
  const name = "onnxruntime-web/wasm"; // no literal: type checks run without it
  const ort = await import(name) as OnnxRuntime;
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "error";
  return ort;
}

export const onnxName = (nTokens: number, mib: number): string => `onnxruntime-web MatMulNBits x ${nTokens} ${mib} MiB`;

/** Products of 4.5-bit weights (f32 scales here: 5 bits on disk) of about `mib` MiB, K = 2048, for each batch. `bytes` counts 4.5 bits. */
export async function onnxWorkloads(mib: number, batches: readonly number[]): Promise<Workload[]> {
  const ort = await onnxRuntime();
  const k = 2048;
  const n = 32 * Math.floor((mib * 2 ** 20) / (32 * k * 0.5625));
  const random = new RandomSource(7);
  const packed = Uint8Array.from({ length: (n * k) / 2 }, () => random.below(256));
  const scales = Float32Array.from({ length: (n * k) / ONNX_BLOCK }, () => (1 + random.below(100)) / 1000);
  const session = await ort.InferenceSession.create(matMulNBitsModel(n, k, packed, scales, 4), { executionProviders: ["wasm"] });
  const list: Workload[] = [];
  for (const nTokens of batches) {
    const a = new Float32Array(nTokens * k);
    random.fillNormal(a, 1);
    const feeds = { a: new ort.Tensor("float32", a, [nTokens, k]) };
    const { y } = await session.run(feeds);
    const found = y!.data;
    const expected = matMulNBitsReference(CHECKED_ROWS, k, packed, scales, a);
    let [errors, squares] = [0, 0];
    for (let t = 0; t < nTokens; t++) {
      for (let row = 0; row < CHECKED_ROWS; row++) {
        const want = expected[t * CHECKED_ROWS + row]!;
        errors += (found[t * n + row]! - want) ** 2;
        squares += want ** 2;
      }
    }
    const error = Math.sqrt(errors / squares);
    if (!(error <= RELATIVE_ERROR_MAX)) throw new Error(`onnxruntime-web's MatMulNBits differs from the reference by ${error} relative; at most ${RELATIVE_ERROR_MAX} was expected.`);
    list.push({ name: onnxName(nTokens, mib), bytes: n * k * 0.5625, operations: 2 * n * k * nTokens, run: () => session.run(feeds) });
  }
  return list;
}
