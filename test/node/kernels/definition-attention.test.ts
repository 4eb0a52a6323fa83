// The scalar reference's attention and its caches against docs/arithmetic.md section 8, in f64 or byte by byte. It shares no helper with the
// reference, for the variants are only ever compared with the reference.

import { describe, expect, test } from "vitest";
import { KV_FORMATS, kvLayerBytes } from "../../../model/kernels.ts";
import { AUX, f32, i8, kernels, SCRATCH, u16, u32, u8, W, X, Y } from "./reference-memory.ts";

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
    const layerBytes = kvLayerBytes(format, nKvHeads, headDim, 0);
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
    kernels.attention(KV_FORMATS.indexOf(format), X, 0, Y, 0, 1, nHeads, nKvHeads, headDim, 0, AUX + 96, layerOffset, AUX + 80, 0.4, window, sinks ? AUX + 128 : 0, SCRATCH);
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

describe.each([["f32", 5e-6, 12], ["f16", 2e-3, 12], ["q8", 0.02, 64]] as const)("latent attention: section 8 against f64 over a cache in %s, within %f of values up to 1", (format, tolerance, latentDim) => {
  test.each([
    { window: 0, sinks: false, position: 70 }, { window: 0, sinks: true, position: 31 }, { window: 20, sinks: true, position: 40 }, { window: 5, sinks: false, position: 2 },
  ])("%o", ({ window, sinks, position }) => {
    const nHeads = 3;
    const headDim = latentDim + 6;
    const key = (j: number, d: number) => Math.sin(j * 2 + d * 1.3) / (d < 32 ? 1 : 8); // groups of 32 have scales of their own
    const query = (h: number, d: number) => Math.sin(h + d * 3) / 2;
    const layerOffset = 64;
    // Keys alone: half of what keys and values take.
    expect(kvLayerBytes(format, 1, headDim, latentDim) * 2).toBe(kvLayerBytes(format, 1, headDim, 0));
    const pages = [W + 3 * 16384, W, W + 16384];
    u32.set(pages, AUX / 4);
    for (let j = 0; j <= position; j++) {
      for (let d = 0; d < headDim; d++) f32[X / 4 + d] = key(j, d);
      u32[AUX / 4 + 16] = pages[j >> 5]!;
      u32[AUX / 4 + 20] = j;
      kernels.kvWrite(KV_FORMATS.indexOf(format), X, 0, 0, 1, 1, headDim, AUX + 64, layerOffset, AUX + 80);
    }
    // Rows of queries and of outputs have strides of their own: the second token is the first's heads in reverse.
    const [qStride, outStride] = [nHeads * headDim * 4 + 16, nHeads * latentDim * 4 + 32];
    for (let h = 0; h < nHeads; h++) {
      for (let d = 0; d < headDim; d++) {
        f32[X / 4 + h * headDim + d] = query(h, d);
        f32[(X + qStride) / 4 + h * headDim + d] = query(nHeads - 1 - h, d);
      }
    }
    u32.fill(AUX, AUX / 4 + 24, AUX / 4 + 26);
    u32[AUX / 4 + 21] = position;
    const sinkValues = [0.5, -1, 2];
    f32.set(sinkValues, AUX / 4 + 32);
    kernels.attention(KV_FORMATS.indexOf(format), X, qStride, Y, outStride, 2, nHeads, 1, headDim, latentDim, AUX + 96, layerOffset, AUX + 80, 0.4, window, sinks ? AUX + 128 : 0, SCRATCH);
    const first = window > 0 ? Math.max(0, position - window + 1) : 0;
    for (const t of [0, 1]) {
      for (let h = 0; h < nHeads; h++) {
        const weights = Array.from({ length: position + 1 }, (_, j) => {
          if (j < first) return 0;
          let s = 0;
          for (let d = 0; d < headDim; d++) s += query(t === 0 ? h : nHeads - 1 - h, d) * key(j, d);
          return Math.exp(s * 0.4);
        });
        const total = weights.reduce((a, b) => a + b, sinks ? Math.exp(sinkValues[h]!) : 0);
        for (let d = 0; d < latentDim; d++) {
          const expected = weights.reduce((sum, w, j) => sum + w * key(j, d), 0) / total;
          expect(Math.abs(f32[(Y + t * outStride) / 4 + h * latentDim + d]! - expected)).toBeLessThan(tolerance);
        }
      }
    }
  });
});

test("a latent cache, byte by byte: keys as they stand beside values, and nothing behind them", () => {
  const headDim = 40;
  for (let d = 0; d < headDim; d++) f32[X / 4 + d] = d === 3 ? 254 : d / 2;
  u32.set([W, 5], AUX / 4);
  for (const [format, bytes] of [["f32", 5120], ["f16", 2560], ["q8", 2176]] as const) {
    expect(kvLayerBytes(format, 1, headDim, 32)).toBe(bytes);
    u8.fill(0xee, W, W + bytes + 64);
    kernels.kvWrite(KV_FORMATS.indexOf(format), X, 0, 0, 1, 1, headDim, AUX, 0, AUX + 4);
    if (format === "f32") expect([3, 39].map((d) => f32[W / 4 + d * 32 + 5])).toEqual([254, 19.5]);
    if (format === "f16") expect([3, 39].map((d) => u16[W / 2 + d * 32 + 5])).toEqual([0x5bf0, 0x4ce0]);
    if (format === "q8") {
      expect([u16[W / 2 + 5], u16[W / 2 + 32 + 5]]).toEqual([0x4000, 0x3e1e]); // scales of both groups, then their tiles
      expect([3, 8, 31].map((d) => i8[W + 128 + (d >> 2) * 128 + 5 * 4 + (d & 3)])).toEqual([127, 2, 8]);
      expect(i8[W + 128 + 1024 + 1 * 128 + 5 * 4 + 3]).toBe(Math.round(19.5 / 0.154296875));
    }
    expect([...u8.subarray(W + bytes, W + bytes + 64)]).toEqual(new Array(64).fill(0xee));
  }
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
    kernels.attention(KV_FORMATS.indexOf("q8"), X, 0, Y, 0, 1, 1, 1, query.length, 0, AUX + 8, 0, AUX + 4, scale, 0, 0, SCRATCH);
    return [...f32.subarray(Y / 4, Y / 4 + query.length)];
  };

  test("tiles, byte by byte: 40 dims, position 5", () => {
    const key = Array.from({ length: 40 }, (_, d) => (d === 3 ? 254 : d === 33 ? -1.016 : d / 2));
    const value = key.map((x) => -x);
    expect(kvLayerBytes("q8", 1, 40, 0)).toBe(4352);
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
