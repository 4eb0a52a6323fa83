// What the definition itself is worth: quantised products against f64 arithmetic on the same quantised operands, and the reach of
// int8 activations. The reference is the scalar kernels, to which bit-equal.test.ts ties every variant.

import { describe, expect, test } from "vitest";
import { Arena, seededNumbers } from "../../../model/kernel-case.ts";
import { formatCode, matmulScratchBytes, matrixBytes, qa8RowBytes, tileBytes } from "../../../model/kernels.ts";
import { createScalarKernels } from "../../../model/scalar-kernels.ts";
import { RESERVED_BYTES, instantiateKernels } from "../../../model/wasm-kernels.ts";
import { KERNEL_VARIANTS } from "../../kernel-cases.ts";
import { kernelModule } from "./modules.ts";

const N_ROWS = 48;
const N_COLS = 512;
const N_TOKENS = 3;

describe.each(["q8", "q4", "q4m", "q4k", "q2", "mxfp4", "q6k", "q3"] as const)("%s", (format) => {
  test.each(["scalar", ...KERNEL_VARIANTS] as const)("%s: within 1e-6 of the sum of magnitudes, read through readRow and f64", (name) => {
    const memory = new WebAssembly.Memory({ initial: 16 });
    const scalar = createScalarKernels(memory);
    const kernels = name === "scalar" ? scalar : instantiateKernels(kernelModule(name), memory, name);
    const arena = new Arena(memory, RESERVED_BYTES);
    const random = seededNumbers(5);
    const bytes = Uint8Array.from({ length: matrixBytes(format, N_ROWS, N_COLS) }, () => Math.floor(random() * 256));
    // f16 scales, and minima where there are any, at the head of every tile; bytes of E8M0 for mxfp4.
    const halves = new Uint16Array(bytes.buffer);
    const nHalves = { q8: 32, q4: 32, q4m: 64, q4k: 64, q2: 32, mxfp4: 0, q6k: 32, q3: 32 }[format];
    for (let tile = 0; tile < bytes.length; tile += tileBytes(format)) {
      for (let r = 0; r < nHalves; r++) halves[tile / 2 + r] = 0x2000 + Math.floor(random() * 0x800);
      if (format === "mxfp4") for (let r = 0; r < 32; r++) bytes[tile + r] = 118 + Math.floor(random() * 8);
    }
    const w = arena.bytes(bytes);
    const x = arena.f32(Array.from({ length: N_TOKENS * N_COLS }, () => (random() * 2 - 1) ** 3));
    const rowBytes = qa8RowBytes(N_COLS);
    const acts = arena.alloc(N_TOKENS * rowBytes);
    kernels.quantizeRows(x, N_COLS * 4, acts, rowBytes, N_TOKENS, N_COLS);
    const table = arena.u32(Array.from({ length: N_TOKENS }, (_, t) => acts + t * rowBytes));
    const y = arena.alloc(N_TOKENS * N_ROWS * 4);
    kernels.matmul(formatCode(format), w, N_ROWS, N_COLS, table, N_TOKENS, y, N_ROWS * 4, arena.allocScratch(matmulScratchBytes(N_COLS)));
    const row = arena.alloc(N_COLS * 4);
    const f32 = new Float32Array(memory.buffer);
    const i8 = new Int8Array(memory.buffer);
    let worst = 0;
    let worstStep = 0; // of quantisation, in units of the scale
    for (let r = 0; r < N_ROWS; r++) {
      kernels.readRow(formatCode(format), w, N_COLS, r, row);
      for (let t = 0; t < N_TOKENS; t++) {
        let sum = 0;
        let magnitude = 0;
        for (let k = 0; k < N_COLS; k++) {
          const at = acts + t * rowBytes;
          const a = i8[at + k] * f32[(at + N_COLS) / 4 + (k >> 5)];
          worstStep = Math.max(worstStep, Math.abs(a - f32[x / 4 + t * N_COLS + k]) / f32[(at + N_COLS) / 4 + (k >> 5)]);
          sum += a * f32[row / 4 + k];
          magnitude += Math.abs(a * f32[row / 4 + k]);
        }
        worst = Math.max(worst, Math.abs(f32[y / 4 + t * N_ROWS + r] - sum) / magnitude);
      }
    }
    expect(worst).toBeLessThan(1e-6);
    expect(worst).toBeGreaterThan(0);
    expect(worstStep).toBeLessThan(0.5001);
    expect(worstStep).toBeGreaterThan(0.4);
  });
});
