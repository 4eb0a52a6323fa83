// The scalar reference itself against docs/arithmetic.md, spelled out by hand or in f64: layouts byte by byte, attention, experts,
// top-k, combine. It shares no helper with the reference, for the variants are only ever compared with the reference.

import { describe, expect, test } from "vitest";
import { KV_FORMATS, expertScratchBytes, formatCode, kvLayerBytes, matmulScratchBytes, matrixBytes, qa8RowBytes, segmentBytes } from "../../../model/kernels.ts";
import { createScalarKernels } from "../../../model/scalar-kernels.ts";

const memory = new WebAssembly.Memory({ initial: 16 });
const kernels = createScalarKernels(memory);
const u8 = new Uint8Array(memory.buffer);
const i8 = new Int8Array(memory.buffer);
const u16 = new Uint16Array(memory.buffer);
const u32 = new Uint32Array(memory.buffer);
const f32 = new Float32Array(memory.buffer);
const W = 0x10000;
const X = 0x60000;
const Y = 0x70000;
const AUX = 0x78000;
const SCRATCH = 0x80000;
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
  const check = (format: "q4m" | "q4k" | "q2" | "mxfp4" | "q6k", value: (r: number, k: number) => number): void => {
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

test("expertFfn: section 6 in f32 against f64", () => {
  const hidden = 20;
  const width = 19;
  const gate = (i: number, k: number) => Math.sin(i * 3 + k) / 3;
  const up = (i: number, k: number) => Math.cos(i + k * 2) / 2;
  const down = (r: number, i: number) => Math.sin(r - i * 5) / 4;
  f32.fill(0, W / 4, W / 4 + segmentBytes("f32", "f32", hidden, width) / 4);
  for (let i = 0; i < width; i++) {
    for (let k = 0; k < hidden; k++) {
      const at = W / 4 + Math.floor(i / 16) * 32 * hidden + k * 32 + (i % 16);
      f32[at] = gate(i, k);
      f32[at + 16] = up(i, k);
    }
  }
  const downAt = W / 4 + 2 * 32 * hidden; // ceil(19 / 16) row blocks
  for (let r = 0; r < hidden; r++) for (let i = 0; i < width; i++) f32[downAt + i * 32 + r] = down(r, i);
  const x = Array.from({ length: hidden }, (_, k) => Math.cos(k));
  f32.set(x, X / 4);
  u32[AUX / 4] = X;
  expect(expertScratchBytes(hidden, width)).toBeGreaterThan(matmulScratchBytes(hidden));
  kernels.expertFfn(0, 0, W, hidden, width, AUX, 1, Y, 0, SCRATCH);
  const h = Array.from({ length: width }, (_, i) => {
    const g = x.reduce((sum, value, k) => sum + value * gate(i, k), 0);
    const u = x.reduce((sum, value, k) => sum + value * up(i, k), 0);
    return g / (1 + Math.exp(-g)) * u;
  });
  for (let r = 0; r < hidden; r++) expect(f32[Y / 4 + r]).toBeCloseTo(h.reduce((sum, value, i) => sum + value * down(r, i), 0), 5);
});

describe.each([["f32", 5e-6], ["f16", 2e-3], ["q8", 0.02]] as const)("attention: section 8 against f64 softmax over a cache in %s, within %f of values up to 1", (format, tolerance) => {
  test.each([
    { window: 0, sinks: false, position: 70 }, { window: 0, sinks: true, position: 31 }, { window: 20, sinks: true, position: 40 },
    { window: 33, sinks: false, position: 64 }, { window: 5, sinks: false, position: 2 },
  ])("%o", ({ window, sinks, position }) => {
    const [nHeads, nKvHeads, headDim] = [4, 2, 6];
    const key = (j: number, h: number, d: number) => Math.sin(j * 2 + h * 3 + d);
    const value = (j: number, h: number, d: number) => Math.cos(j + h * 5 + d * 2);
    const query = (h: number, d: number) => 2 * Math.sin(h + d * 3);
    const layerOffset = 64;
    const layerBytes = kvLayerBytes(format, nKvHeads, headDim);
    const pages = [W + 3 * 8192, W, W + 8192];
    u32.set(pages, AUX / 4);
    for (let j = 0; j <= position; j++) {
      for (let h = 0; h < nKvHeads; h++) {
        for (let d = 0; d < headDim; d++) {
          f32[X / 4 + h * headDim + d] = key(j, h, d);
          f32[X / 4 + 64 + h * headDim + d] = value(j, h, d);
        }
      }
      u32[AUX / 4 + 16] = pages[j >> 5]!;
      u32[AUX / 4 + 20] = j;
      kernels.kvWrite(KV_FORMATS.indexOf(format), X, X + 256, 0, 1, nKvHeads, headDim, AUX + 64, layerOffset, AUX + 80);
    }
    // Spelled out once: K of head 1, dimension 2, position 33 lies in page 1 as [headDim][32 positions].
    if (position >= 33 && format === "f32") expect(f32[(pages[1]! + layerOffset + layerBytes / 2) / 4 + 2 * 32 + 1]).toBe(Math.fround(key(33, 1, 2)));
    for (let h = 0; h < nHeads; h++) for (let d = 0; d < headDim; d++) f32[X / 4 + h * headDim + d] = query(h, d);
    u32[AUX / 4 + 24] = AUX;
    const sinkValues = [0.5, -1, 2, 0];
    f32.set(sinkValues, AUX / 4 + 32);
    kernels.attention(KV_FORMATS.indexOf(format), X, Y, 0, 1, nHeads, nKvHeads, headDim, AUX + 96, layerOffset, AUX + 80, 0.4, window, sinks ? AUX + 128 : 0, SCRATCH);
    const first = window > 0 ? Math.max(0, position - window + 1) : 0;
    for (let h = 0; h < nHeads; h++) {
      const kv = h >> 1;
      const weights = Array.from({ length: position + 1 }, (_, j) => {
        if (j < first) return 0;
        let s = 0;
        for (let d = 0; d < headDim; d++) s += query(h, d) * key(j, kv, d);
        return Math.exp(s * 0.4);
      });
      const total = weights.reduce((a, b) => a + b, sinks ? Math.exp(sinkValues[h]!) : 0);
      for (let d = 0; d < headDim; d++) {
        const expected = weights.reduce((sum, w, j) => sum + w * value(j, kv, d), 0) / total;
        expect(Math.abs(f32[Y / 4 + h * headDim + d]! - expected)).toBeLessThan(tolerance);
      }
    }
  });
});

describe("the q8 cache of section 8", () => {
  /** Writes one kv head of keys and values at positions 0, 1, ... of one page at W. */
  const write = (headDim: number, keys: readonly (readonly number[])[], values: readonly (readonly number[])[]): void => {
    u32[AUX / 4] = W;
    keys.forEach((key, j) => {
      f32.set(key, X / 4);
      f32.set(values[j]!, X / 4 + 256);
      u32[AUX / 4 + 1] = j;
      kernels.kvWrite(KV_FORMATS.indexOf("q8"), X, X + 1024, 0, 1, 1, headDim, AUX, 0, AUX + 4);
    });
    u32[AUX / 4 + 2] = AUX;
  };
  const attend = (query: readonly number[], position: number, scale: number): number[] => {
    f32.set(query, X / 4);
    u32[AUX / 4 + 1] = position;
    kernels.attention(KV_FORMATS.indexOf("q8"), X, Y, 0, 1, 1, 1, query.length, AUX + 8, 0, AUX + 4, scale, 0, 0, SCRATCH);
    return [...f32.subarray(Y / 4, Y / 4 + query.length)];
  };

  test("tiles, byte by byte: 40 dims, position 5", () => {
    const key = Array.from({ length: 40 }, (_, d) => (d === 3 ? 254 : d === 33 ? -1.016 : d / 2));
    const value = key.map((x) => -x);
    expect(kvLayerBytes("q8", 1, 40)).toBe(4352);
    u8.fill(0xee, W, W + 4352 + 64);
    write(40, new Array<number[]>(6).fill(key), new Array<number[]>(6).fill(value));
    // Group 0: 254 / 127 = 2 is a bf16. Group 1: 19.5 / 127 = 0.15354... rounds up to 0.154296875 (0x3e1e).
    expect([0, 1, 2, 3].map((group) => u16[(W + 64 * group) / 2 + 5])).toEqual([0x4000, 0x3e1e, 0x4000, 0x3e1e]);
    expect([3, 8, 31].map((d) => i8[W + 256 + (d >> 2) * 128 + 5 * 4 + (d & 3)])).toEqual([127, 2, 8]);
    expect([3, 8, 31].map((d) => i8[W + 256 + 2048 + 1 * 128 + d * 4 + 1])).toEqual([-127, -2, -8]);
    expect([33, 39].map((d) => i8[W + 256 + 1024 + ((d - 32) >> 2) * 128 + 5 * 4 + (d & 3)])).toEqual([-7, Math.round(19.5 / 0.154296875)]);
    expect([...u8.subarray(W + 4352, W + 4352 + 64)]).toEqual(new Array(64).fill(0xee));
  });

  test("a key that holds most of a block's weight does not erase the others", () => {
    const query = Array.from({ length: 32 }, (_, d) => (d === 0 ? 1 : 0));
    write(32, Array.from({ length: 32 }, (_, j) => query.map((x) => (j === 9 ? 6 * x : 0))), Array.from({ length: 32 }, (_, j) => query.map(() => (j === 9 ? 0.5 : 1))));
    const small = Math.exp(-6);
    // Seven bits of weight would round the 31 small ones away and give 0.465 instead of 0.536.
    expect(Math.abs(attend(query, 31, 1)[0]! - (0.5 + 31 * small) / (1 + 31 * small))).toBeLessThan(0.005);
  });

  test("NaN and values out of range become NaN for those who see them, and only for them", () => {
    const row = (x: number) => Array.from({ length: 32 }, (_, d) => (d === 4 ? x : 0.1));
    for (const bad of [NaN, Infinity, 8323072]) {
      write(32, [row(1), row(2), row(3)], [row(1), row(bad), row(1)]);
      expect(attend(row(1), 0, 1).every(Number.isFinite)).toBe(true);
      expect(attend(row(1), 2, 1).every(Number.isNaN)).toBe(true);
      write(32, [row(1), row(bad), row(3)], [row(1), row(2), row(1)]);
      expect(attend(row(1), 0, 1).every(Number.isFinite)).toBe(true);
      expect(attend(row(1), 1, 1).every(Number.isNaN)).toBe(true);
    }
  });
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
