// Blocks of GGUF's Q4_1, Q4_K, Q6_K and MXFP4 against a float64 decoder written here from their published layouts, and the whole way:
// stored rows, tiles, readRow and products of the kernels. It shares no helper with the code under test.

import { describe, expect, it } from "vitest";
import { decodeRows } from "../../../formats/dequantize.ts";
import { formatOfType } from "../../../formats/stored-types.ts";
import { blankRowBlock, placeRows } from "../../../formats/tiles.ts";
import { Arena } from "../../../model/kernel-case.ts";
import { formatCode, matmulScratchBytes, qa8RowBytes } from "../../../model/kernels.ts";
import { createScalarKernels } from "../../../model/scalar-kernels.ts";
import { RESERVED_BYTES, instantiateKernels } from "../../../model/wasm-kernels.ts";
import { KERNEL_VARIANTS } from "../../kernel-cases.ts";
import { SeededRandom } from "../../support/seeded-random.ts";
import { kernelModule } from "../kernels/modules.ts";

type BlockType = "Q4_1" | "Q4_K" | "Q6_K" | "MXFP4";
const SIZES: Readonly<Record<BlockType, readonly [values: number, bytes: number]>> = { Q4_1: [32, 20], Q4_K: [256, 144], Q6_K: [256, 210], MXFP4: [32, 17] };

/** An f16 by its definition. */
function half(low: number, high: number): number {
  const bits = low + 256 * high;
  const exponent = Math.floor(bits / 1024) % 32;
  const mantissa = bits % 1024;
  return (bits >= 32768 ? -1 : 1) * (exponent === 0 ? mantissa * 2 ** -24 : (1024 + mantissa) * 2 ** (exponent - 25));
}

const DECODERS: Readonly<Record<BlockType, (b: Uint8Array) => number[]>> = {
  Q4_1: (b) => {
    const [d, m] = [half(b[0]!, b[1]!), half(b[2]!, b[3]!)];
    return Array.from({ length: 32 }, (_, k) => d * (k < 16 ? b[4 + k]! % 16 : Math.floor(b[4 + k - 16]! / 16)) + m);
  },
  // The 12 bytes as one number of 96 bits, lowest first: bytes 0-3 hold the low 6 bits of scales 0-3 and the top 2 of scales 4-7, bytes 4-7
  // the same of the minima, bytes 8-11 the low 4 bits of scales 4-7 (low nibbles) and of minima 4-7 (high nibbles).
  Q4_K: (b) => {
    const [d, dmin] = [half(b[0]!, b[1]!), half(b[2]!, b[3]!)];
    const s = (i: number) => b[4 + i]!;
    const out: number[] = [];
    for (let g = 0; g < 8; g++) {
      const scale = g < 4 ? s(g) % 64 : (s(g + 4) % 16) + 16 * Math.floor(s(g - 4) / 64);
      const min = g < 4 ? s(g + 4) % 64 : Math.floor(s(g + 4) / 16) + 16 * Math.floor(s(g) / 64);
      for (let i = 0; i < 32; i++) {
        const byte = b[16 + Math.floor(g / 2) * 32 + i]!;
        out.push(d * scale * (g % 2 === 0 ? byte % 16 : Math.floor(byte / 16)) - dmin * min);
      }
    }
    return out;
  },
  // As dequantize_row_q6_K walks it: per half of 128, 64 bytes of low nibbles, 32 of upper pairs and 8 scales.
  Q6_K: (b) => {
    const out = new Array<number>(256);
    for (let n = 0; n < 256; n += 128) {
      for (let l = 0; l < 32; l++) {
        const [first, second, high] = [b[n / 2 + l]!, b[n / 2 + 32 + l]!, b[128 + n / 4 + l]!];
        [first % 16, second % 16, Math.floor(first / 16), Math.floor(second / 16)].forEach((low, quarter) => {
          const byte = b[192 + n / 16 + 2 * quarter + Math.floor(l / 16)]!;
          const q = low + 16 * (Math.floor(high / 4 ** quarter) % 4) - 32;
          const integer = (byte > 127 ? byte - 256 : byte) * q + 0; // it has no minus zero
          out[n + 32 * quarter + l] = half(b[208]!, b[209]!) * integer;
        });
      }
    }
    return out;
  },
  MXFP4: (b) => Array.from({ length: 32 }, (_, k) => {
    const code = k < 16 ? b[1 + k]! % 16 : Math.floor(b[1 + k - 16]! / 16);
    const [exponent, mantissa] = [Math.floor(code / 2) % 4, code % 2]; // E2M1: bias 1
    const magnitude = exponent === 0 ? mantissa * 0.5 : (1 + mantissa / 2) * 2 ** (exponent - 1);
    return (code >= 8 ? -1 : 1) * magnitude * 2 ** (b[0]! - 127) + 0; // E2M1's minus zero counts as 0
  }),
};

/** Rows of drawn blocks; scales are finite, of both signs and down to subnormals. */
function drawRows(type: BlockType, nRows: number, nCols: number, random: SeededRandom): Uint8Array {
  const [values, bytes] = SIZES[type];
  const out = Uint8Array.from({ length: nRows * (nCols / values) * bytes }, () => random.below(256));
  for (let at = 0; at < out.length; at += bytes) {
    if (type === "MXFP4") out[at] = 110 + random.below(20);
    else for (const high of type === "Q6_K" ? [209] : [1, 3]) out[at + high] = (random.below(2) << 7) | random.below(0x30);
  }
  return out;
}

describe.each(Object.keys(SIZES) as BlockType[])("%s", (type) => {
  const [values, bytes] = SIZES[type];
  const [N_ROWS, N_COLS, N_TOKENS] = [40, 512, 3];
  const stored = drawRows(type, N_ROWS, N_COLS, new SeededRandom(61));
  const exact: number[] = [];
  for (let at = 0; at < stored.length; at += bytes) exact.push(...DECODERS[type](stored.subarray(at, at + bytes)));
  const format = formatOfType(type);
  const rowBytes = (N_COLS / values) * bytes;
  const tiles: number[] = [];
  for (let first = 0; first < N_ROWS; first += 32) {
    const block = blankRowBlock(format, N_COLS);
    placeRows(format, block, 0, { bytes: stored, start: first * rowBytes, stride: rowBytes, nRows: Math.min(32, N_ROWS - first) }, N_COLS);
    tiles.push(...block);
  }

  it("decodes to the float64 value, rounded once to f32", () => {
    expect([...decodeRows(type, stored, N_ROWS, N_COLS)]).toEqual(exact.map(Math.fround));
  });

  it.each(["scalar", ...KERNEL_VARIANTS] as const)("%s: rows read out are the same, and products within 1e-6 of the sum of magnitudes", (name) => {
    const memory = new WebAssembly.Memory({ initial: 16 });
    const kernels = name === "scalar" ? createScalarKernels(memory) : instantiateKernels(kernelModule(name), memory, name);
    const arena = new Arena(memory, RESERVED_BYTES);
    const random = new SeededRandom(62);
    const w = arena.bytes(tiles);
    const row = arena.alloc(N_COLS * 4);
    for (let r = 0; r < N_ROWS; r++) {
      kernels.readRow(formatCode(format), w, N_COLS, r, row);
      expect([...new Float32Array(memory.buffer, row, N_COLS)]).toEqual(exact.slice(r * N_COLS, (r + 1) * N_COLS).map(Math.fround));
    }
    const x = arena.f32(Array.from({ length: N_TOKENS * N_COLS }, () => random.normal() - 0.3));
    const acts = arena.alloc(N_TOKENS * qa8RowBytes(N_COLS));
    kernels.quantizeRows(x, N_COLS * 4, acts, qa8RowBytes(N_COLS), N_TOKENS, N_COLS);
    const table = arena.u32(Array.from({ length: N_TOKENS }, (_, t) => acts + t * qa8RowBytes(N_COLS)));
    const y = arena.alloc(N_TOKENS * N_ROWS * 4);
    kernels.matmul(formatCode(format), w, N_ROWS, N_COLS, table, N_TOKENS, y, N_ROWS * 4, arena.allocScratch(matmulScratchBytes(N_COLS)));
    let worst = 0;
    for (let t = 0; t < N_TOKENS; t++) {
      const at = acts + t * qa8RowBytes(N_COLS);
      const q = new Int8Array(memory.buffer, at, N_COLS);
      const scales = new Float32Array(memory.buffer, at + N_COLS, N_COLS / 32);
      for (let r = 0; r < N_ROWS; r++) {
        let sum = 0;
        let magnitude = 0;
        for (let k = 0; k < N_COLS; k++) {
          const term = q[k]! * scales[k >> 5]! * exact[r * N_COLS + k]!;
          sum += term;
          magnitude += Math.abs(term);
        }
        worst = Math.max(worst, Math.abs(new Float32Array(memory.buffer, y, N_TOKENS * N_ROWS)[t * N_ROWS + r]! - sum) / magnitude);
      }
    }
    expect(worst).toBeGreaterThan(0);
    expect(worst).toBeLessThan(1e-6);
  });
});
