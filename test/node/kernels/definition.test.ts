// The scalar reference itself against docs/arithmetic.md, spelled out by hand or in f64: layouts byte by byte, norms, top-k,
// combine; experts in definition-experts.test.ts, attention in definition-attention.test.ts. It shares no helper with the reference, for the variants are only ever compared with the reference.

import { describe, expect, test } from "vitest";
import { formatCode, matrixBytes, qa8RowBytes } from "../../../model/kernels.ts";
import { createScalarKernels } from "../../../model/scalar-kernels.ts";
import { AUX, f32, i8, kernels, SCRATCH, u16, u32, u8, W, X, Y } from "./reference-memory.ts";

const ONE_HALF = 0x3800; // f16 0.5

/** A qa8 row of two groups at X: q of k is k - 20, scales 0.5 and 0.25; its address at AUX. */
function layRow(): number[] {
  for (let k = 0; k < 64; k++) i8[X + k] = k - 20;
  f32[(X + 64) / 4] = 0.5;
  f32[(X + 68) / 4] = 0.25;
  u32[AUX / 4] = X;
  return Array.from({ length: 64 }, (_, k) => (k - 20) * (k < 32 ? 0.5 : 0.25));
}

describe("layouts of section 3", () => {
  const weight = (r: number, k: number) => ((r * 7 + k * 3) % 15) - 7;
  const x = layRow();
  const expected = (r: number) => x.reduce((sum, value, k) => sum + value * weight(r, k) * 0.5, 0); // exact in f64 and f32

  test.each(["q8", "q4"] as const)("%s", (format) => {
    layRow();
    const tileBytes = format === "q8" ? 1088 : 576;
    u8.fill(0, W, W + matrixBytes(format, 40, 64));
    for (let r = 0; r < 40; r++) {
      for (let g = 0; g < 2; g++) {
        const tile = W + (Math.floor(r / 32) * 2 + g) * tileBytes;
        u16[tile / 2 + (r % 32)] = ONE_HALF;
        for (let kk = 0; kk < (format === "q8" ? 8 : 4); kk++) {
          for (let j = 0; j < 4; j++) {
            const at = tile + 64 + kk * 128 + (r % 32) * 4 + j;
            if (format === "q8") i8[at] = weight(r, g * 32 + 4 * kk + j);
            else u8[at] = weight(r, g * 32 + 4 * kk + j) + 8 | (weight(r, g * 32 + 16 + 4 * kk + j) + 8) << 4;
          }
        }
      }
    }
    kernels.matmul(formatCode(format), W, 40, 64, AUX, 1, Y, 256, SCRATCH);
    for (let r = 0; r < 40; r++) expect(f32[Y / 4 + r]).toBe(expected(r));
    kernels.readRow(formatCode(format), W, 64, 37, Y);
    for (let k = 0; k < 64; k++) expect(f32[Y / 4 + k]).toBe(weight(37, k) * 0.5);
  });

  /** Runs [40, 64] against rows of values spelled out in f64; every product here is exact in f32. */
  const check = (format: "q4m" | "q4k" | "q2" | "mxfp4" | "q6k" | "q3", value: (r: number, k: number) => number): void => {
    const row = layRow();
    kernels.matmul(formatCode(format), W, 40, 64, AUX, 1, Y, 256, SCRATCH);
    for (let r = 0; r < 40; r++) expect(f32[Y / 4 + r]).toBe(row.reduce((sum, x, k) => sum + x * value(r, k), 0));
    for (const r of [0, 5, 37]) {
      kernels.readRow(formatCode(format), W, 64, r, Y);
      for (let k = 0; k < 64; k++) expect(f32[Y / 4 + k]).toBe(value(r, k));
    }
  };
  const clear = (bytes: number): void => { u8.fill(0, W, W + bytes); };

  test("q4m: scale, minimum, nibbles of k and k + 16", () => {
    clear(2 * 2 * 640);
    const nibble = (r: number, k: number) => (r * 5 + k * 3) % 16;
    for (let r = 0; r < 40; r++) {
      for (const g of [0, 1]) {
        const tile = W + (Math.floor(r / 32) * 2 + g) * 640;
        u16[tile / 2 + (r % 32)] = ONE_HALF;
        u16[tile / 2 + 32 + (r % 32)] = g === 0 ? 0xc000 : 0x3400; // -2, 0.25
        for (let i = 0; i < 16; i++) u8[tile + 128 + (i >> 2) * 128 + (r % 32) * 4 + (i & 3)] = nibble(r, 32 * g + i) | nibble(r, 32 * g + 16 + i) << 4;
      }
    }
    check("q4m", (r, k) => 0.5 * nibble(r, k) + (k < 32 ? -2 : 0.25));
  });

  test("q4k: two groups of a super-tile of 4,736 bytes", () => {
    clear(2 * 4736);
    expect(matrixBytes("q4k", 40, 64)).toBe(2 * 4736);
    const nibble = (r: number, k: number) => (r * 5 + k * 3) % 16;
    for (let r = 0; r < 40; r++) {
      const tile = W + Math.floor(r / 32) * 4736;
      u16[tile / 2 + (r % 32)] = 0x3400; // d = 0.25
      u16[tile / 2 + 32 + (r % 32)] = ONE_HALF; // dmin = 0.5
      for (const g of [0, 1]) {
        const group = tile + 128 + g * 576;
        u8[group + (r % 32)] = 3 + g;
        u8[group + 32 + (r % 32)] = 7 * g + r % 4;
        for (let i = 0; i < 16; i++) u8[group + 64 + (i >> 2) * 128 + (r % 32) * 4 + (i & 3)] = nibble(r, 32 * g + i) | nibble(r, 32 * g + 16 + i) << 4;
      }
    }
    check("q4k", (r, k) => 0.25 * (k < 32 ? 3 : 4) * nibble(r, k) - 0.5 * ((k < 32 ? 0 : 7) + r % 4));
  });

  test("q6k: four steps of a super-tile of 6,720 bytes, a fourth value in the upper bits of three", () => {
    clear(2 * 6720);
    expect(matrixBytes("q6k", 40, 64)).toBe(2 * 6720);
    const six = (r: number, k: number) => (r * 5 + k * 11) % 64;
    const scale = (r: number, step: number) => [-128, 127, 3, -1][(r + step) % 4]!;
    for (let r = 0; r < 40; r++) {
      const tile = W + Math.floor(r / 32) * 6720;
      u16[tile / 2 + (r % 32)] = r < 20 ? ONE_HALF : 0xc000; // 0.5, -2
      for (let step = 0; step < 4; step++) {
        const at = tile + 64 + step * 416;
        i8[at + (r % 32)] = scale(r, step);
        for (let j = 0; j < 4; j++) {
          const last = six(r, 16 * step + 12 + j);
          u8[at + 32 + (r % 32) * 4 + j] = six(r, 16 * step + j) + 64 * Math.floor(last / 16);
          u8[at + 160 + (r % 32) * 4 + j] = six(r, 16 * step + 4 + j) + 64 * (Math.floor(last / 4) % 4);
          u8[at + 288 + (r % 32) * 4 + j] = six(r, 16 * step + 8 + j) + 64 * (last % 4);
        }
      }
    }
    check("q6k", (r, k) => (r < 20 ? 0.5 : -2) * (scale(r, k >> 4) * (six(r, k) - 32) + 0)); // an integer has no minus zero
  });

  test("q6k: the largest sum of a group is exact", () => {
    clear(6720);
    u16[W / 2] = ONE_HALF;
    i8.fill(-128, W + 64, W + 65);
    i8.fill(-128, W + 64 + 416, W + 65 + 416);
    i8.fill(127, X, X + 32);
    f32[(X + 32) / 4] = 2;
    u32[AUX / 4] = X;
    kernels.matmul(formatCode("q6k"), W, 1, 32, AUX, 1, Y, 256, SCRATCH);
    expect(f32[Y / 4]).toBe(16_646_144);
  });

  test("q2: four k of a step of 16 in one byte", () => {
    clear(2 * 2 * 320);
    const pair = (r: number, k: number) => (r + k * 3 + (k >> 2)) % 4;
    for (let r = 0; r < 40; r++) {
      for (const g of [0, 1]) {
        const tile = W + (Math.floor(r / 32) * 2 + g) * 320;
        u16[tile / 2 + (r % 32)] = g === 0 ? ONE_HALF : 0xc000; // 0.5, -2
        for (let k = 0; k < 32; k++) u8[tile + 64 + (k >> 4) * 128 + (r % 32) * 4 + (k & 3)]! |= pair(r, 32 * g + k) << 2 * ((k & 15) >> 2);
      }
    }
    check("q2", (r, k) => (k < 32 ? 0.5 : -2) * [-3, -1, 1, 3][pair(r, k)]!);
  });

  test("q3: eight k in three bytes, two to a byte and two more in the upper bits", () => {
    clear(2 * 2 * 448);
    expect(matrixBytes("q3", 40, 64)).toBe(2 * 2 * 448);
    const three = (r: number, k: number) => (r * 5 + k * 3 + (k >> 3)) % 8;
    for (let r = 0; r < 40; r++) {
      for (const g of [0, 1]) {
        const tile = W + (Math.floor(r / 32) * 2 + g) * 448;
        u16[tile / 2 + (r % 32)] = g === 0 ? ONE_HALF : 0xc000; // 0.5, -2
        for (let j = 0; j < 4; j++) {
          const [n0, n1, n2, n3, n4, n5, n6, n7] = Array.from({ length: 8 }, (_, n) => three(r, 32 * g + 4 * n + j)) as [number, number, number, number, number, number, number, number];
          const at = tile + 64 + (r % 32) * 4 + j;
          u8[at] = n0 + 8 * n1 + 64 * (n6 % 4);
          u8[at + 128] = n2 + 8 * n3 + 64 * (n7 % 4);
          u8[at + 256] = n4 + 8 * n5 + 64 * Math.floor(n6 / 4) + 128 * Math.floor(n7 / 4);
        }
      }
    }
    check("q3", (r, k) => (k < 32 ? 0.5 : -2) * (three(r, k) - 4));
  });

  test("mxfp4: E2M1 codes times 2^(e - 127)", () => {
    clear(2 * 2 * 544);
    const code = (r: number, k: number) => (r * 7 + k * 3) % 16;
    for (let r = 0; r < 40; r++) {
      for (const g of [0, 1]) {
        const tile = W + (Math.floor(r / 32) * 2 + g) * 544;
        u8[tile + (r % 32)] = 126 + g;
        for (let i = 0; i < 16; i++) u8[tile + 32 + (i >> 2) * 128 + (r % 32) * 4 + (i & 3)] = code(r, 32 * g + i) | code(r, 32 * g + 16 + i) << 4;
      }
    }
    check("mxfp4", (r, k) => (k < 32 ? 0.5 : 1) * [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6][code(r, k)]!);
    for (const [e, scale] of [[0, 2 ** -127], [1, 2 ** -126], [2, 2 ** -125], [254, 2 ** 127]] as const) {
      u8[W] = e;
      u8[W + 32] = 0x92; // k 0: 1; k 16: -0.5
      kernels.readRow(formatCode("mxfp4"), W, 32, 0, Y);
      expect([f32[Y / 4], f32[Y / 4 + 16]]).toEqual([scale, scale * -0.5]);
    }
  });

  test.each(["f32", "f16", "bf16"] as const)("%s", (format) => {
    const nCols = 43;
    const bits16 = { f16: [0x3c00, 0xc000, 0x0001], bf16: [0x3f80, 0xc000, 0x3f00], f32: [] }[format]; // f16: 1, -2, 2^-24; bf16: 1, -2, 0.5
    const values = format === "f16" ? [1, -2, 2 ** -24] : [1, -2, 0.5];
    for (let r = 0; r < 40; r++) {
      for (let k = 0; k < nCols; k++) {
        const at = Math.floor(r / 32) * 32 * nCols + k * 32 + (r % 32);
        if (format === "f32") f32[W / 4 + at] = values[(r + k) % 3]!;
        else u16[W / 2 + at] = bits16[(r + k) % 3]!;
      }
    }
    for (let k = 0; k < nCols; k++) f32[X / 4 + k] = k;
    u32[AUX / 4] = X;
    kernels.matmul(formatCode(format), W, 40, nCols, AUX, 1, Y, 256, SCRATCH);
    for (let r = 0; r < 40; r++) {
      let sum = 0;
      for (let k = 0; k < nCols; k++) sum = Math.fround(sum + Math.fround(values[(r + k) % 3]! * k));
      expect(f32[Y / 4 + r]).toBe(sum);
    }
  });
});

test("quantizeRows: section 4 on a ragged row", () => {
  const row = [127, -63.5, 0.5, 1.5, 2.5, ...new Array<number>(27).fill(0), -2, 1];
  f32.set(row, X / 4);
  u8.fill(0xee, Y, Y + 100);
  kernels.quantizeRows(X, 0, Y, 0, 1, row.length);
  expect([...i8.subarray(Y, Y + 36)]).toEqual([127, -64, 0, 2, 2, ...new Array<number>(27).fill(0), -127, 64, 0, 0]);
  expect([...f32.subarray((Y + 64) / 4, (Y + 72) / 4)]).toEqual([1, Math.fround(2 / 127)]);
  expect([...u8.subarray(Y + 72, Y + 80)]).toEqual(new Array(8).fill(0)); // padding of the row
  expect(u8[Y + 80]).toBe(0xee);
  expect(qa8RowBytes(row.length)).toBe(80);
});

describe("rows", () => {
  test("rmsNormRows against f64", () => {
    const x = Array.from({ length: 43 }, (_, i) => Math.sin(i) * 3);
    f32.set(x, X / 4);
    f32.set(x.map((_, i) => 1 + i / 10), W / 4);
    kernels.rmsNormRows(X, 0, W, 1e-5, Y, 0, 1, 43);
    const inverse = 1 / Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / 43 + 1e-5);
    x.forEach((v, i) => expect(f32[Y / 4 + i]).toBeCloseTo(v * inverse * (1 + i / 10), 4));
  });

  test("layerNormRows against f64", () => {
    const x = Array.from({ length: 43 }, (_, i) => Math.sin(i) * 3 + 2);
    f32.set(x, X / 4);
    f32.set(x.map((_, i) => 1 + i / 10), W / 4);
    f32.set(x.map((_, i) => i - 20), W / 4 + 64);
    kernels.layerNormRows(X, 0, W, W + 256, 1e-5, Y, 0, 1, 43);
    const mean = x.reduce((sum, v) => sum + v, 0) / 43;
    const inverse = 1 / Math.sqrt(x.reduce((sum, v) => sum + (v - mean) ** 2, 0) / 43 + 1e-5);
    x.forEach((v, i) => expect(f32[Y / 4 + i]).toBeCloseTo((v - mean) * inverse * (1 + i / 10) + i - 20, 4));
    // Rows of one value have a variance of zero: eps keeps them finite, and the bias remains.
    f32.fill(5, X / 4, X / 4 + 43);
    kernels.layerNormRows(X, 0, W, W + 256, 1e-5, Y, 0, 1, 43);
    x.forEach((_, i) => expect(f32[Y / 4 + i]).toBe(i - 20));
  });

  test("copyRows copies rows of n from one stride to another, and nothing behind them", () => {
    f32.set([1, 2, 3, 4, 5, 6, 7, 8], X / 4);
    f32.fill(-1, Y / 4, Y / 4 + 16);
    kernels.copyRows(X, 16, Y, 20, 2, 3);
    expect([...f32.subarray(Y / 4, Y / 4 + 10)]).toEqual([1, 2, 3, -1, -1, 5, 6, 7, -1, -1]);
  });

  test("ropeRows rotates pairs by the table's angle at the token's position", () => {
    const angle = (position: number, i: number) => position * 10 ** -i;
    for (let p = 0; p < 4; p++) for (let i = 0; i < 2; i++) f32.set([Math.cos(angle(p, i))], W / 4 + p * 4 + i);
    for (let p = 0; p < 4; p++) for (let i = 0; i < 2; i++) f32.set([Math.sin(angle(p, i))], W / 4 + p * 4 + 2 + i);
    u32[AUX / 4] = 3;
    for (const [style, pairs] of [[0, [[0, 2], [1, 3]]], [1, [[0, 1], [2, 3]]]] as const) {
      f32.set([1, 2, 3, 4, 5, 6], X / 4); // a head of 6, 4 of them rotated
      kernels.ropeRows(style, X, 0, 1, 1, 6, 4, W, AUX);
      pairs.forEach(([a, b], i) => {
        const [c, s] = [Math.cos(angle(3, i)), Math.sin(angle(3, i))];
        expect(f32[X / 4 + a]).toBeCloseTo((a + 1) * c - (b + 1) * s, 5);
        expect(f32[X / 4 + b]).toBeCloseTo((b + 1) * c + (a + 1) * s, 5);
      });
      expect([...f32.subarray(X / 4 + 4, X / 4 + 6)]).toEqual([5, 6]);
    }
  });

  test("softmaxRows sums to one and keeps ratios", () => {
    f32.set([1, 2, 3, -Infinity, 0.5], X / 4);
    kernels.softmaxRows(X, 0, 1, 5);
    const total = Math.exp(1) + Math.exp(2) + Math.exp(3) + Math.exp(0.5);
    [1, 2, 3, -Infinity, 0.5].forEach((v, i) => expect(f32[X / 4 + i]).toBeCloseTo(Math.exp(v) / total, 6));
  });

  test("topKRows: rank order, ties to the lowest index, NaN last", () => {
    f32.set([2, NaN, 5, 2, 5], X / 4);
    kernels.topKRows(X, 0, 1, 5, 5, Y, Y + 64);
    expect([...u32.subarray(Y / 4, Y / 4 + 5)]).toEqual([2, 4, 0, 3, 1]);
    expect([...f32.subarray(Y / 4 + 16, Y / 4 + 21)]).toEqual([5, 5, 2, 2, NaN]);
  });

  test("combine folds segments, then weighs, in the order of the pairs", () => {
    f32.set([1e8, 1], Y / 4); // token 0, token 1 (rows of one value)
    f32.set([2 ** 24, 1, 1, 3], X / 4);
    // Token 1: weight 1 on segments 2^24 + 1 + 1, which f32 makes 2^24. Token 0: weight 0.5 on 3.
    u32.set([1, X, 4, 3], W / 4);
    f32[W / 4 + 4] = 1;
    u32.set([0, X + 12, 4, 1], W / 4 + 5);
    f32[W / 4 + 9] = 0.5;
    kernels.combine(W, 2, Y, 4, 1);
    expect(f32[Y / 4 + 1]).toBe(2 ** 24); // 1 + 2^24 rounds to even
    expect(f32[Y / 4]).toBe(Math.fround(1e8 + 1.5));
  });

  test("add, bias, scale, clamp", () => {
    f32.set([1, -2, 3], X / 4);
    f32.set([10, 20, 30], X / 4 + 4);
    kernels.addRows(X, 0, X + 16, 0, 1, 3);
    kernels.addBiasRows(X, 0, X + 16, 1, 3);
    kernels.scaleRows(X, 0, 0.5, 1, 3);
    kernels.clampRows(X, 0, 19.5, 1, 3);
    expect([...f32.subarray(X / 4, X / 4 + 3)]).toEqual([10.5, 19, 19.5]);
  });
});

test("the reference follows a memory that grows", () => {
  const growing = new WebAssembly.Memory({ initial: 1 });
  const scalar = createScalarKernels(growing);
  scalar.scaleRows(0, 0, 2, 1, 4);
  growing.grow(1);
  const row = new Float32Array(growing.buffer, 65536, 4);
  row.set([1, 2, 3, 4]);
  const table = new Uint32Array(growing.buffer, 65600, 1);
  table[0] = 65536;
  new Float32Array(growing.buffer, 66048, 32 * 4).fill(1);
  scalar.matmul(0, 66048, 1, 4, 65600, 1, 65664, 0, 0);
  expect(new Float32Array(growing.buffer, 65664, 1)[0]).toBe(10);
});
