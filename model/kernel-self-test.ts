// The start-up self-test: the cases in which a variant of the kernels must equal the scalar reference before it serves (wasm-kernels.ts).
// Owns their choice; the kernel tests build larger tables from the same makers (kernel-cases-*.ts).

import { attentionCase } from "./kernel-cases-attention.ts";
import { expertCase, matmulCase, readRowCase, topLogitsCase } from "./kernel-cases-products.ts";
import { checksumCase, quantizeCase, ropeCase, rowCases } from "./kernel-cases-rows.ts";
import type { KernelCase } from "./kernel-case.ts";
import { KV_FORMATS, MATRIX_FORMATS, activationFormatOf } from "./kernels.ts";

/** The cases run once per isolate at start: every operation, every batch piece, extreme values. Some tens of milliseconds. */
export function selfTestCases(): KernelCase[] {
  const cases: KernelCase[] = [];
  for (const format of MATRIX_FORMATS) {
    cases.push(matmulCase(format, 36, 64, 15, 1), readRowCase(format, 34, 43, 2));
    if (activationFormatOf(format) === "qa8") cases.push(matmulCase(format, 32, 32, 15, 3, "extreme"), matmulCase(format, 32, 32, 1, 4, "tiny-scales"));
  }
  cases.push(
    matmulCase("q4k", 33, 300, 3, 13), matmulCase("q6k", 33, 300, 3, 13), expertCase({ gateUp: "q4", down: "q8", hidden: 32, width: 40 }, 3, 5),
    expertCase({ gateUp: "q4k", down: "mxfp4", hidden: 32, width: 40 }, 2, 14),
    expertCase({ gateUp: "q6k", down: "q6k", hidden: 32, width: 40 }, 2, 16), expertCase({ gateUp: "f32", down: "f32", hidden: 20, width: 43 }, 3, 6),
    expertCase({ kind: "clamped-swiglu", gateUp: "mxfp4", down: "mxfp4", hidden: 38, width: 40 }, 3, 17),
    expertCase({ kind: "clamped-swiglu", gateUp: "f32", down: "f32", hidden: 20, width: 43, limit: 7, biasReach: 20 }, 3, 18),
    expertCase({ kind: "relu-mlp", gateUp: "q8", down: "q4", hidden: 36, width: 200, silent: { share: 0.7, by: 32 } }, 3, 24), expertCase({ kind: "relu-mlp", gateUp: "f32", down: "bf16", hidden: 36, width: 43, silent: { share: 0.7, by: 1 } }, 3, 25),
    expertCase({ kind: "gelu-mlp", gateUp: "f32", down: "f32", hidden: 20, width: 43, biasReach: 5 }, 3, 26),
    expertCase({ gateUp: "q4", down: "q8", input: 64, hidden: 40, width: 40 }, 3, 22), expertCase({ gateUp: "f32", down: "f32", input: 32, hidden: 44, width: 20 }, 2, 23),
    topLogitsCase("q8", 530, 32, 3, 5, 0.5, 14), quantizeCase(2, 40, 7), ...rowCases(23, 2, 8), checksumCase(240, 15),
    ropeCase("half", 2, 14, 12, [0, 3], 9), ropeCase("interleaved", 2, 14, 12, [1, 2], 10),
    attentionCase({ kvFormat: "f16", nHeads: 2, nKvHeads: 1, headDim: 22, positions: [0, 35], window: 0, sinks: true }, 11),
    attentionCase({ kvFormat: "f32", nHeads: 2, nKvHeads: 2, headDim: 8, positions: [40], window: 20, sinks: false }, 12),
    attentionCase({ kvFormat: "q8", nHeads: 3, nKvHeads: 1, headDim: 40, positions: [2, 33, 34, 63, 64], window: 40, sinks: true }, 13),
    ...KV_FORMATS.map((kvFormat, i) => attentionCase(
      { kvFormat, nHeads: 3, nKvHeads: 1, headDim: 43, latentDim: kvFormat === "q8" ? 32 : 36, positions: [33], window: 0, sinks: true }, 19 + i)),
  );
  return cases;
}
