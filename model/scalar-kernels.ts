// The truth: docs/arithmetic.md as plain loops over one linear memory, one Math.fround per operation.
// Owns nothing but clarity: every WebAssembly variant is compared with this, bit for bit, and the start-up self-test runs it.
// Refuses cleverness and scratch memory: it allocates ordinary arrays instead. Works on memories that grow. Matrices: scalar-products.ts.

import { checksumLanes } from "./checksum.ts";
import { exp } from "./float-math.ts";
import { ROPE_STYLES } from "./kernels.ts";
import type { Kernels } from "./kernels.ts";
import { createScalarAttention } from "./scalar-attention.ts";
import { createScalarProducts, quantizeRow, writeQuantizedRow } from "./scalar-products.ts";
import { largestIndices } from "./scalar-top-k.ts";

const fround = Math.fround;

interface Views {
  readonly u32: Uint32Array;
  readonly f32: Float32Array;
}

/** The scalar reference over `memory`. */
export function createScalarKernels(memory: WebAssembly.Memory): Kernels {
  let current: { buffer: ArrayBuffer; views: Views } | null = null;
  const views = (): Views => {
    const buffer = memory.buffer;
    if (current?.buffer !== buffer) {
      current = {
        buffer,
        views: { u32: new Uint32Array(buffer), f32: new Float32Array(buffer) },
      };
    }
    return current.views;
  };

  const floats = (at: number, n: number): Float32Array => new Float32Array(memory.buffer, at, n);
  const lanes4 = (n: number, term: (i: number) => number): number => {
    const s = [0, 0, 0, 0];
    for (let i = 0; i < n; i++) s[i & 3] = fround(s[i & 3] + term(i));
    return fround(fround(s[0] + s[1]) + fround(s[2] + s[3]));
  };

  /** RMSNorm of one row. */
  const normed = (row: Float32Array, weight: Float32Array, eps: number): Float32Array => {
    const sum = lanes4(row.length, (i) => fround(row[i] * row[i]));
    const inverse = fround(1 / fround(Math.sqrt(fround(fround(sum / row.length) + fround(eps)))));
    return row.map((x, i) => fround(x * inverse) * weight[i]);
  };

  return {
    name: "scalar",
    memory,
    ...createScalarProducts(memory),
    ...createScalarAttention(memory, quantizeRow),
    checksum: (ptr, nBytes) => checksumLanes(views().u32, ptr / 4, (ptr + nBytes) / 4),

    rmsNormRows(x, xStride, weight, eps, out, outStride, nTokens, n) {
      for (let t = 0; t < nTokens; t++) floats(out + t * outStride, n).set(normed(floats(x + t * xStride, n), floats(weight, n), eps));
    },

    rmsNormQuantizeRows(x, xStride, weight, eps, out, outStride, q, qStride, nTokens, n) {
      for (let t = 0; t < nTokens; t++) {
        const y = normed(floats(x + t * xStride, n), floats(weight, n), eps);
        if (out !== 0) floats(out + t * outStride, n).set(y);
        writeQuantizedRow(memory, y, n, q + t * qStride);
      }
    },

    layerNormRows(x, xStride, weight, bias, eps, out, outStride, nTokens, n) {
      const [w, b] = [floats(weight, n), floats(bias, n)];
      for (let t = 0; t < nTokens; t++) {
        const row = floats(x + t * xStride, n);
        const mean = fround(lanes4(n, (i) => row[i]) / n);
        const d = row.map((value) => value - mean);
        const variance = fround(lanes4(n, (i) => fround(d[i] * d[i])) / n);
        const inverse = fround(1 / fround(Math.sqrt(fround(variance + fround(eps)))));
        floats(out + t * outStride, n).set(d.map((value, i) => fround(fround(value * inverse) * w[i]) + b[i]));
      }
    },

    ropeRows(style, x, xStride, nTokens, nHeads, headDim, ropeDim, table, positions) {
      const half = ropeDim / 2;
      const isHalf = ROPE_STYLES[style] === "half";
      for (let t = 0; t < nTokens; t++) {
        const position = views().u32[(positions / 4) + t];
        const cos = floats(table + position * ropeDim * 4, half);
        const sin = floats(table + position * ropeDim * 4 + half * 4, half);
        for (let h = 0; h < nHeads; h++) {
          const head = floats(x + t * xStride + h * headDim * 4, headDim);
          for (let i = 0; i < half; i++) {
            const ia = isHalf ? i : 2 * i;
            const ib = isHalf ? i + half : 2 * i + 1;
            const a = head[ia];
            const b = head[ib];
            head[ia] = fround(fround(a * cos[i]) - fround(b * sin[i]));
            head[ib] = fround(fround(b * cos[i]) + fround(a * sin[i]));
          }
        }
      }
    },

    softmaxRows(x, xStride, nTokens, n) {
      for (let t = 0; t < nTokens; t++) {
        const row = floats(x + t * xStride, n);
        let m = -Infinity;
        for (let i = 0; i < n; i++) m = Math.max(m, row[i]);
        for (let i = 0; i < n; i++) row[i] = exp(fround(row[i] - m));
        const sum = lanes4(n, (i) => row[i]);
        for (let i = 0; i < n; i++) row[i] = fround(row[i] / sum);
      }
    },

    topKRows(x, xStride, nTokens, n, k, ids, values) {
      for (let t = 0; t < nTokens; t++) {
        const row = floats(x + t * xStride, n);
        largestIndices(row, k).forEach((id, rank) => {
          views().u32[(ids / 4) + t * k + rank] = id;
          views().f32[(values / 4) + t * k + rank] = row[id];
        });
      }
    },

    addRows(x, xStride, y, yStride, nTokens, n) {
      for (let t = 0; t < nTokens; t++) {
        const a = floats(x + t * xStride, n);
        const b = floats(y + t * yStride, n);
        for (let i = 0; i < n; i++) a[i] = fround(a[i] + b[i]);
      }
    },

    copyRows(from, fromStride, to, toStride, nRows, n) {
      for (let r = 0; r < nRows; r++) floats(to + r * toStride, n).set(floats(from + r * fromStride, n));
    },

    addBiasRows(x, xStride, bias, nTokens, n) {
      const b = floats(bias, n);
      for (let t = 0; t < nTokens; t++) {
        const a = floats(x + t * xStride, n);
        for (let i = 0; i < n; i++) a[i] = fround(a[i] + b[i]);
      }
    },

    scaleRows(x, xStride, factor, nTokens, n) {
      for (let t = 0; t < nTokens; t++) {
        const a = floats(x + t * xStride, n);
        for (let i = 0; i < n; i++) a[i] = fround(a[i] * fround(factor));
      }
    },

    clampRows(x, xStride, limit, nTokens, n) {
      const bound = fround(limit);
      for (let t = 0; t < nTokens; t++) {
        const a = floats(x + t * xStride, n);
        for (let i = 0; i < n; i++) a[i] = Math.min(Math.max(a[i], -bound), bound);
      }
    },

    combine(pairs, nPairs, y, yStride, n) {
      for (let p = 0; p < nPairs; p++) {
        const { u32, f32 } = views();
        const record = pairs / 4 + p * 5;
        const to = floats(y + u32[record] * yStride, n);
        const rowPtr = u32[record + 1];
        const segmentStride = u32[record + 2];
        const nSegments = u32[record + 3];
        const weight = f32[record + 4];
        for (let i = 0; i < n; i++) {
          let out = f32[rowPtr / 4 + i];
          for (let s = 1; s < nSegments; s++) out = fround(out + f32[(rowPtr + s * segmentStride) / 4 + i]);
          to[i] = fround(to[i] + fround(weight * out));
        }
      }
    },
  };
}
