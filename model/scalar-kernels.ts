// The truth: docs/arithmetic.md as plain loops over one linear memory, one Math.fround per operation.
// Owns nothing but clarity: every WebAssembly variant is compared with this, bit for bit, and the start-up self-test runs it.
// Refuses cleverness and scratch memory: it allocates ordinary arrays instead. Works on memories that grow.

import { bf16ToF32, exp, f16ToF32, f32ToF16, nearestEven, swiglu } from "./float-math.ts";
import { KV_BLOCK, MATRIX_FORMATS, KV_FORMATS, ROPE_STYLES, activationFormatOf, gateUpRows, kvLayerBytes, matrixBytes } from "./kernels.ts";
import type { Kernels, MatrixFormat } from "./kernels.ts";

const fround = Math.fround;
const GROUP = 32;

interface Views {
  readonly i8: Int8Array;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly f32: Float32Array;
}

/** A row of weights or of activations: f32 values, or integers with a scale per group of 32. */
type Row =
  | { readonly kind: "f32"; readonly values: ArrayLike<number> }
  | { readonly kind: "groups"; readonly q: ArrayLike<number>; readonly scales: ArrayLike<number> };

/** Section 5: one output. */
function product(weights: Row, acts: Row): number {
  let y = 0;
  if (weights.kind === "f32" && acts.kind === "f32") {
    for (let k = 0; k < weights.values.length; k++) y = fround(y + fround(weights.values[k] * acts.values[k]));
    return y;
  }
  if (weights.kind !== "groups" || acts.kind !== "groups") throw new Error("A product needs weights and activations of one kind.");
  for (let g = 0; g < weights.scales.length; g++) {
    let dot = 0;
    for (let k = g * GROUP; k < (g + 1) * GROUP; k++) dot += weights.q[k] * acts.q[k];
    y = fround(y + fround(dot * fround(acts.scales[g] * weights.scales[g])));
  }
  return y;
}

/** The scalar reference over `memory`. */
export function createScalarKernels(memory: WebAssembly.Memory): Kernels {
  let current: { buffer: ArrayBuffer; views: Views } | null = null;
  const views = (): Views => {
    const buffer = memory.buffer;
    if (current?.buffer !== buffer) {
      current = {
        buffer,
        views: {
          i8: new Int8Array(buffer), u8: new Uint8Array(buffer), u16: new Uint16Array(buffer),
          u32: new Uint32Array(buffer), f32: new Float32Array(buffer),
        },
      };
    }
    return current.views;
  };

  const floats = (at: number, n: number): Float32Array => new Float32Array(memory.buffer, at, n);
  const readActivations = (format: MatrixFormat, at: number, nCols: number): Row => {
    if (activationFormatOf(format) === "f32") return { kind: "f32", values: floats(at, nCols) };
    const nGroups = Math.ceil(nCols / GROUP);
    return { kind: "groups", q: new Int8Array(memory.buffer, at, nGroups * GROUP), scales: floats(at + nGroups * GROUP, nGroups) };
  };

  /** Section 3: row `row` of the matrix at `w`. */
  const readWeights = (format: MatrixFormat, w: number, nCols: number, row: number): Row => {
    const { i8, u8, u16, f32 } = views();
    const block = w + matrixBytes(format, 32, nCols) * Math.floor(row / 32);
    const lane = row % 32;
    if (activationFormatOf(format) === "f32") {
      const values = new Float32Array(nCols);
      for (let k = 0; k < nCols; k++) {
        const at = k * 32 + lane;
        if (format === "f32") values[k] = f32[(block >> 2) + at];
        else values[k] = format === "f16" ? f16ToF32(u16[(block >> 1) + at]) : bf16ToF32(u16[(block >> 1) + at]);
      }
      return { kind: "f32", values };
    }
    const nGroups = Math.ceil(nCols / GROUP);
    const q = new Int8Array(nGroups * GROUP);
    const scales = new Float32Array(nGroups);
    for (let g = 0; g < nGroups; g++) {
      const tile = block + g * (format === "q8" ? 1088 : 576);
      scales[g] = f16ToF32(u16[(tile >> 1) + lane]);
      for (let k = 0; k < GROUP; k++) {
        if (format === "q8") {
          q[g * GROUP + k] = i8[tile + 64 + (k >> 2) * 128 + lane * 4 + (k & 3)];
        } else {
          const byte = u8[tile + 64 + ((k & 15) >> 2) * 128 + lane * 4 + (k & 3)];
          q[g * GROUP + k] = (k < 16 ? byte & 15 : byte >> 4) - 8;
        }
      }
    }
    return { kind: "groups", q, scales };
  };

  /** Section 4 for one row. Values beyond `nCols` count as zero. */
  const quantize = (x: ArrayLike<number>, nCols: number): { q: Int8Array; scales: Float32Array } => {
    const nGroups = Math.ceil(nCols / GROUP);
    const q = new Int8Array(nGroups * GROUP);
    const scales = new Float32Array(nGroups);
    for (let g = 0; g < nGroups; g++) {
      const start = g * GROUP;
      const end = Math.min(start + GROUP, nCols);
      let amax = 0;
      for (let i = start; i < end; i++) amax = Math.max(amax, Math.abs(x[i]));
      if (amax < fround(1e-30)) continue;
      if (!(amax < 8323072)) {
        scales[g] = NaN;
        continue;
      }
      scales[g] = fround(amax / 127);
      const inverse = fround(127 / amax);
      for (let i = start; i < end; i++) q[i] = nearestEven(fround(x[i] * inverse));
    }
    return { q, scales };
  };

  const lanes4 = (n: number, term: (i: number) => number): number => {
    const s = [0, 0, 0, 0];
    for (let i = 0; i < n; i++) s[i & 3] = fround(s[i & 3] + term(i));
    return fround(fround(s[0] + s[1]) + fround(s[2] + s[3]));
  };

  const kvAddress = (at: number, isF16: boolean) => ({
    read: (i: number): number => (isF16 ? f16ToF32(views().u16[(at >> 1) + i]) : views().f32[(at >> 2) + i]),
    write: (i: number, x: number): void => {
      if (isF16) views().u16[(at >> 1) + i] = f32ToF16(x);
      else views().f32[(at >> 2) + i] = x;
    },
  });
  /** The K block [headDim][32] and V block [32][headDim] of one kv head in a page. */
  const kvBlocks = (kvFormat: number, page: number, layerOffset: number, head: number, headDim: number) => {
    const format = KV_FORMATS[kvFormat]!;
    const at = page + layerOffset + head * kvLayerBytes(format, 1, headDim);
    const isF16 = format === "f16";
    return { k: kvAddress(at, isF16), v: kvAddress(at + kvLayerBytes(format, 1, headDim) / 2, isF16) };
  };

  return {
    name: "scalar",
    memory,

    quantizeRows(x, xStride, out, outStride, nTokens, nCols) {
      for (let t = 0; t < nTokens; t++) {
        const { q, scales } = quantize(floats(x + t * xStride, nCols), nCols);
        const at = out + t * outStride;
        const { i8, f32 } = views();
        i8.set(q, at);
        f32.set(scales, (at + q.length) >> 2);
        const end = q.length + scales.length * 4;
        i8.fill(0, at + end, at + Math.ceil(end / 16) * 16);
      }
    },

    matmul(format, w, nRows, nCols, acts, nTokens, y, yStride) {
      const name = MATRIX_FORMATS[format]!;
      const rows = Array.from({ length: nTokens }, (_, t) => readActivations(name, views().u32[(acts >> 2) + t], nCols));
      for (let r = 0; r < nRows; r++) {
        const weights = readWeights(name, w, nCols, r);
        for (let t = 0; t < nTokens; t++) views().f32[((y + t * yStride) >> 2) + r] = product(weights, rows[t]!);
      }
    },

    expertFfn(gateUpFormat, downFormat, w, hidden, width, acts, nTokens, y, yStride) {
      const gateUp = MATRIX_FORMATS[gateUpFormat]!;
      const down = MATRIX_FORMATS[downFormat]!;
      const rows = Array.from({ length: nTokens }, (_, t) => readActivations(gateUp, views().u32[(acts >> 2) + t], hidden));
      const h = rows.map(() => new Float32Array(width));
      for (let i = 0; i < width; i++) {
        const gateRow = Math.floor(i / 16) * 32 + (i % 16);
        const gate = readWeights(gateUp, w, hidden, gateRow);
        const up = readWeights(gateUp, w, hidden, gateRow + 16);
        for (let t = 0; t < nTokens; t++) h[t]![i] = swiglu(product(gate, rows[t]!), product(up, rows[t]!));
      }
      const downAt = w + matrixBytes(gateUp, gateUpRows(gateUp, width), hidden);
      const inner = h.map((values): Row => (activationFormatOf(down) === "f32" ? { kind: "f32", values } : { kind: "groups", ...quantize(values, width) }));
      for (let r = 0; r < hidden; r++) {
        const weights = readWeights(down, downAt, width, r);
        for (let t = 0; t < nTokens; t++) views().f32[((y + t * yStride) >> 2) + r] = product(weights, inner[t]!);
      }
    },

    rmsNormRows(x, xStride, weight, eps, out, outStride, nTokens, n) {
      const w = floats(weight, n);
      for (let t = 0; t < nTokens; t++) {
        const row = floats(x + t * xStride, n);
        const to = floats(out + t * outStride, n);
        const sum = lanes4(n, (i) => fround(row[i] * row[i]));
        const inverse = fround(1 / fround(Math.sqrt(fround(fround(sum / n) + fround(eps)))));
        for (let i = 0; i < n; i++) to[i] = fround(fround(row[i] * inverse) * w[i]);
      }
    },

    ropeRows(style, x, xStride, nTokens, nHeads, headDim, ropeDim, table, positions) {
      const half = ropeDim / 2;
      const isHalf = ROPE_STYLES[style] === "half";
      for (let t = 0; t < nTokens; t++) {
        const position = views().u32[(positions >> 2) + t];
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

    kvWrite(kvFormat, k, v, rowStride, nTokens, nKvHeads, headDim, pages, layerOffset, positions) {
      for (let t = 0; t < nTokens; t++) {
        const page = views().u32[(pages >> 2) + t];
        const slot = views().u32[(positions >> 2) + t] % KV_BLOCK;
        for (let h = 0; h < nKvHeads; h++) {
          const blocks = kvBlocks(kvFormat, page, layerOffset, h, headDim);
          const keys = floats(k + t * rowStride + h * headDim * 4, headDim);
          const values = floats(v + t * rowStride + h * headDim * 4, headDim);
          for (let d = 0; d < headDim; d++) {
            blocks.k.write(d * KV_BLOCK + slot, keys[d]);
            blocks.v.write(slot * headDim + d, values[d]);
          }
        }
      }
    },

    attention(kvFormat, q, out, rowStride, nTokens, nHeads, nKvHeads, headDim, pageTables, layerOffset, positions, scale, window, sinks) {
      for (let t = 0; t < nTokens; t++) {
        const position = views().u32[(positions >> 2) + t];
        const pageTable = views().u32[(pageTables >> 2) + t];
        const first = window > 0 ? Math.max(0, position - window + 1) : 0;
        for (let h = 0; h < nHeads; h++) {
          const kvHead = Math.floor(h / (nHeads / nKvHeads));
          const query = floats(q + t * rowStride + h * headDim * 4, headDim);
          const o = new Float32Array(headDim);
          const l = [0, 0, 0, 0];
          let m = -Infinity;
          if (sinks !== 0) {
            m = views().f32[(sinks >> 2) + h];
            l[0] = 1;
          }
          for (let block = Math.floor(first / KV_BLOCK); block * KV_BLOCK <= position; block++) {
            const page = views().u32[(pageTable >> 2) + block];
            const { k, v } = kvBlocks(kvFormat, page, layerOffset, kvHead, headDim);
            const low = Math.max(first - block * KV_BLOCK, 0);
            const high = Math.min(position - block * KV_BLOCK, KV_BLOCK - 1);
            const scores = new Float32Array(KV_BLOCK);
            let newM = m;
            for (let j = low; j <= high; j++) {
              let s = 0;
              for (let d = 0; d < headDim; d++) s = fround(s + fround(query[d] * k.read(d * KV_BLOCK + j)));
              scores[j] = fround(s * fround(scale));
              newM = Math.max(newM, scores[j]);
            }
            const c = exp(fround(m - newM));
            m = newM;
            for (let i = 0; i < 4; i++) l[i] = fround(l[i] * c);
            for (let d = 0; d < headDim; d++) o[d] = fround(o[d] * c);
            for (let j = low; j <= high; j++) {
              const p = exp(fround(scores[j] - m));
              l[j & 3] = fround(l[j & 3] + p);
              for (let d = 0; d < headDim; d++) o[d] = fround(o[d] + fround(p * v.read(j * headDim + d)));
            }
          }
          const sum = fround(fround(l[0] + l[1]) + fround(l[2] + l[3]));
          const to = floats(out + t * rowStride + h * headDim * 4, headDim);
          for (let d = 0; d < headDim; d++) to[d] = fround(o[d] / sum);
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
        const taken = new Set<number>();
        for (let rank = 0; rank < k; rank++) {
          let best = -1;
          for (let i = 0; i < n; i++) {
            if (taken.has(i)) continue;
            if (best < 0 || row[i] > row[best] || (row[best] !== row[best] && row[i] === row[i])) best = i;
          }
          taken.add(best);
          views().u32[(ids >> 2) + t * k + rank] = best;
          views().f32[(values >> 2) + t * k + rank] = row[best];
        }
      }
    },

    addRows(x, xStride, y, yStride, nTokens, n) {
      for (let t = 0; t < nTokens; t++) {
        const a = floats(x + t * xStride, n);
        const b = floats(y + t * yStride, n);
        for (let i = 0; i < n; i++) a[i] = fround(a[i] + b[i]);
      }
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
        const record = (pairs >> 2) + p * 5;
        const to = floats(y + u32[record] * yStride, n);
        const rowPtr = u32[record + 1];
        const segmentStride = u32[record + 2];
        const nSegments = u32[record + 3];
        const weight = f32[record + 4];
        for (let i = 0; i < n; i++) {
          let out = f32[(rowPtr >> 2) + i];
          for (let s = 1; s < nSegments; s++) out = fround(out + f32[((rowPtr + s * segmentStride) >> 2) + i]);
          to[i] = fround(to[i] + fround(weight * out));
        }
      }
    },

    readRow(format, w, nCols, row, out) {
      const weights = readWeights(MATRIX_FORMATS[format]!, w, nCols, row);
      const to = floats(out, nCols);
      if (weights.kind === "f32") to.set(weights.values);
      else for (let k = 0; k < nCols; k++) to[k] = fround(weights.scales[Math.floor(k / GROUP)] * weights.q[k]);
    },
  };
}
