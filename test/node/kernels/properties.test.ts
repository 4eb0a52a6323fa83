// Properties over drawn shapes and seeds: every variant equals the scalar reference, and a batch equals its tokens one by one.

import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Arena, compareCase, seededNumbers } from "../../../model/kernel-case.ts";
import type { KernelCase } from "../../../model/kernel-case.ts";
import { attentionCase } from "../../../model/kernel-cases-attention.ts";
import { expertCase, matmulCase } from "../../../model/kernel-cases-products.ts";
import { quantizeCase, rowCases } from "../../../model/kernel-cases-rows.ts";
import { EXPERT_KINDS, KV_FORMATS, MATRIX_FORMATS, activationFormatOf, activationRowBytes, formatCode, matmulScratchBytes, matrixBytes } from "../../../model/kernels.ts";
import { createScalarKernels } from "../../../model/scalar-kernels.ts";
import { RESERVED_BYTES, instantiateKernels } from "../../../model/wasm-kernels.ts";
import { KERNEL_VARIANTS } from "../../kernel-cases.ts";
import { kernelModule } from "./modules.ts";

const seed = fc.integer({ min: 0, max: 2 ** 31 });
const style = fc.constantFrom("random" as const, "extreme" as const, "tiny-scales" as const);
const format = fc.constantFrom(...MATRIX_FORMATS);
const upTo = (max: number) => fc.integer({ min: 1, max });

const drawnCases: readonly fc.Arbitrary<KernelCase>[] = [
  fc.tuple(format, upTo(80), upTo(300), upTo(17), seed, style).map((a) => matmulCase(...a)),
  fc.tuple(fc.constantFrom(...EXPERT_KINDS), format, format, upTo(70), upTo(100), upTo(9), seed, style, fc.constantFrom(0, 0.3, 7), fc.constantFrom(1, 20))
    .filter(([, gateUp, down]) => activationFormatOf(gateUp) === activationFormatOf(down))
    .map(([kind, gateUp, down, hidden, width, nTokens, s, drawStyle, limit, biasReach]) =>
      expertCase({ kind, gateUp, down, hidden, width, style: drawStyle, limit, biasReach }, nTokens, s)),
  fc.tuple(upTo(4), upTo(200), seed).map((a) => quantizeCase(...a)),
  fc.tuple(upTo(100), upTo(4), seed, fc.nat(7)).map(([n, nTokens, s, which]) => rowCases(n, nTokens, s)[which]!),
  fc.tuple(fc.constantFrom(...KV_FORMATS), upTo(3), upTo(3), upTo(40), fc.array(fc.nat(130), { minLength: 1, maxLength: 4 }), fc.nat(80), fc.boolean(), seed)
    .map(([kvFormat, nKvHeads, perKv, headDim, positions, window, sinks, s]) =>
      attentionCase({ kvFormat, nHeads: nKvHeads * perKv, nKvHeads, headDim, positions, window, sinks }, s)),
  fc.tuple(fc.constantFrom(...KV_FORMATS), upTo(20), upTo(25), fc.nat(20), fc.array(fc.nat(130), { minLength: 1, maxLength: 4 }), fc.nat(80), fc.boolean(), seed)
    .map(([kvFormat, nHeads, fours, behind, positions, window, sinks, s]) => {
      const latentDim = kvFormat === "q8" ? 32 * (1 + fours % 3) : 4 * fours;
      return attentionCase({ kvFormat, nHeads, nKvHeads: 1, headDim: latentDim + behind, latentDim, positions, window, sinks }, s);
    }),
];

describe.each(KERNEL_VARIANTS)("%s", (variant) => {
  test("equals the scalar reference on drawn shapes", () => {
    const memory = new WebAssembly.Memory({ initial: 16 });
    const reference = createScalarKernels(memory);
    const candidate = instantiateKernels(kernelModule(variant), memory, variant);
    const arena = new Arena(memory, RESERVED_BYTES);
    for (const drawn of drawnCases) {
      fc.assert(fc.property(drawn, (drawnCase) => { expect(compareCase(drawnCase, reference, candidate, arena)).toBeNull(); }), { numRuns: 40 });
    }
  });

  test("a batch of any size equals its tokens one by one", () => {
    const memory = new WebAssembly.Memory({ initial: 16 });
    const kernels = instantiateKernels(kernelModule(variant), memory, variant);
    const arena = new Arena(memory, RESERVED_BYTES);
    fc.assert(fc.property(format, upTo(70), upTo(100), upTo(20), seed, (name, nRows, nCols, nTokens, s) => {
      arena.reset();
      const random = seededNumbers(s);
      const isFloat = activationFormatOf(name) === "f32";
      const numbers = (n: number) => Array.from({ length: n }, () => random() * 2 - 1);
      // f32 bit patterns of small numbers serve every format: as f16 and bf16 halves, as scales and as quants.
      const w = arena.bytes(new Uint8Array(Float32Array.from(numbers(Math.ceil(matrixBytes(name, nRows, nCols) / 4))).buffer));
      const rowBytes = activationRowBytes(isFloat ? "f32" : "qa8", nCols);
      const acts = arena.alloc(rowBytes * nTokens);
      const x = arena.f32(numbers(nCols * nTokens));
      for (let t = 0; t < nTokens; t++) {
        if (isFloat) new Uint8Array(memory.buffer).copyWithin(acts + t * rowBytes, x + t * nCols * 4, x + (t + 1) * nCols * 4);
        else kernels.quantizeRows(x + t * nCols * 4, nCols * 4, acts + t * rowBytes, rowBytes, 1, nCols);
      }
      const table = arena.u32(Array.from({ length: nTokens }, (_, t) => acts + t * rowBytes));
      const yStride = Math.ceil(nRows / 4) * 16;
      const together = arena.alloc(yStride * nTokens);
      const single = arena.alloc(yStride * nTokens);
      const scratch = arena.allocScratch(matmulScratchBytes(nCols));
      kernels.matmul(formatCode(name), w, nRows, nCols, table, nTokens, together, yStride, scratch);
      for (let t = 0; t < nTokens; t++) kernels.matmul(formatCode(name), w, nRows, nCols, table + 4 * t, 1, single + t * yStride, yStride, scratch);
      const f32 = (at: number) => new Float32Array(memory.buffer, at, yStride * nTokens / 4);
      expect(f32(together).every((value, i) => Object.is(value, f32(single)[i]))).toBe(true);
    }), { numRuns: 60 });
  });
});
