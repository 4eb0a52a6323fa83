// The truth about matrices: formats, activations, products, the expert FFN and rows read out (docs/arithmetic.md sections 3 to 6
// and 9) as plain loops over one linear memory, one Math.fround per operation. The matrix part of scalar-kernels.ts.
// Refuses cleverness and scratch memory: it allocates ordinary arrays instead. Works on memories that grow.

import { bf16ToF32, clampedSwiglu, f16ToF32, gelu, nearestEven, relu, swiglu } from "./float-math.ts";
import { hasBiases, isGated } from "./expert-kinds.ts";
import { EXPERT_KINDS, MATRIX_FORMATS, activationFormatOf, gateUpRows, matrixBytes, tileBytes, tileColumns } from "./kernels.ts";
import { largestIndices } from "./scalar-top-k.ts";
import type { KernelOps, MatrixFormat } from "./kernels.ts";

const fround = Math.fround;
const GROUP = 32;

/** Twice the value of each E2M1 code. */
const E2M1_DOUBLED = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/** A row of weights or of activations: f32 values, or integers with a scale, and for some a minimum, per group of 32. */
interface FloatRow {
  readonly kind: "f32";
  readonly values: Float32Array;
}
interface GroupRow {
  readonly kind: "groups";
  /** What section 3 multiplies the scale with: int8, for q6k times the scale of its 16 values. */
  readonly q: Int8Array | Int16Array;
  readonly scales: Float32Array;
  readonly mins: Float32Array | null;
}
type Row = FloatRow | GroupRow;

/** Section 5: one output. */
function product(weights: Row, acts: Row): number {
  if (weights.kind === "f32" && acts.kind === "f32") return floatProduct(weights.values, acts.values);
  if (weights.kind === "groups" && acts.kind === "groups") return groupProduct(weights, acts);
  throw new Error("A product needs weights and activations of one kind.");
}

function floatProduct(weights: Float32Array, x: Float32Array): number {
  let y = 0;
  for (let k = 0; k < weights.length; k++) y = fround(y + fround(weights[k]! * x[k]!));
  return y;
}

function groupProduct(weights: GroupRow, acts: GroupRow): number {
  let y = 0;
  for (let g = 0; g < weights.scales.length; g++) {
    let dot = 0;
    let sum = 0;
    for (let k = g * GROUP; k < (g + 1) * GROUP; k++) {
      dot += weights.q[k]! * acts.q[k]!;
      sum += acts.q[k]!;
    }
    y = fround(y + fround(dot * fround(acts.scales[g]! * weights.scales[g]!)));
    if (weights.mins !== null) y = fround(y + fround(fround(acts.scales[g]! * sum) * weights.mins[g]!));
  }
  return y;
}

/** The 32 nibbles of one row and group, laid out in four steps from `values` on. */
function readNibbles(view: DataView, values: number, lane: number, to: Int16Array): void {
  for (let i = 0; i < 16; i++) {
    const byte = view.getUint8(values + (i >> 2) * 128 + lane * 4 + (i & 3));
    to[i] = byte & 15;
    to[i + 16] = byte >> 4;
  }
}

/** Section 4 for one row. Values beyond `nCols` count as zero. */
export function quantizeRow(x: ArrayLike<number>, nCols: number): { q: Int8Array; scales: Float32Array } {
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
}

/** One qa8 row at `at`: values, scales, zeros up to 16 bytes. */
export function writeQuantizedRow(memory: WebAssembly.Memory, x: ArrayLike<number>, nCols: number, at: number): void {
  const { q, scales } = quantizeRow(x, nCols);
  const i8 = new Int8Array(memory.buffer);
  i8.set(q, at);
  new Float32Array(memory.buffer, at + q.length, scales.length).set(scales);
  const end = q.length + scales.length * 4;
  i8.fill(0, at + end, at + Math.ceil(end / 16) * 16);
}

/** The matrix operations of the scalar reference over `memory`. */
export function createScalarProducts(memory: WebAssembly.Memory): Pick<KernelOps, "quantizeRows" | "matmul" | "topLogits" | "expertFfn" | "readRow"> {
  const floats = (at: number, n: number): Float32Array => new Float32Array(memory.buffer, at, n);
  const addressOf = (acts: number, t: number): number => new DataView(memory.buffer).getUint32(acts + 4 * t, true);

  const readActivations = (format: MatrixFormat, at: number, nCols: number): Row => {
    if (activationFormatOf(format) === "f32") return { kind: "f32", values: floats(at, nCols) };
    const nGroups = Math.ceil(nCols / GROUP);
    return { kind: "groups", q: new Int8Array(memory.buffer, at, nGroups * GROUP), scales: floats(at + nGroups * GROUP, nGroups), mins: null };
  };

  /** Section 3: row `row` of the matrix at `w`. */
  const readWeights = (format: MatrixFormat, w: number, nCols: number, row: number): Row => {
    const view = new DataView(memory.buffer);
    const f16 = (at: number): number => f16ToF32(view.getUint16(at, true));
    const block = w + matrixBytes(format, 32, nCols) * Math.floor(row / 32);
    const lane = row % 32;
    if (format === "f32" || format === "f16" || format === "bf16") {
      const values = new Float32Array(nCols);
      for (let k = 0; k < nCols; k++) {
        const at = k * 32 + lane;
        if (format === "f32") values[k] = view.getFloat32(block + 4 * at, true);
        else values[k] = format === "f16" ? f16(block + 2 * at) : bf16ToF32(view.getUint16(block + 2 * at, true));
      }
      return { kind: "f32", values };
    }
    const nGroups = Math.ceil(nCols / GROUP);
    const q = new Int16Array(nGroups * GROUP);
    const scales = new Float32Array(nGroups);
    const mins = format === "q4m" || format === "q4k" ? new Float32Array(nGroups) : null;
    const groupsPerTile = tileColumns(format) / GROUP;
    for (let g = 0; g < nGroups; g++) {
      const tile = block + Math.floor(g / groupsPerTile) * tileBytes(format);
      const to = q.subarray(g * GROUP, (g + 1) * GROUP);
      switch (format) {
        case "q8":
          scales[g] = f16(tile + 2 * lane);
          for (let k = 0; k < GROUP; k++) to[k] = view.getInt8(tile + 64 + (k >> 2) * 128 + lane * 4 + (k & 3));
          break;
        case "q4":
          scales[g] = f16(tile + 2 * lane);
          readNibbles(view, tile + 64, lane, to);
          for (let k = 0; k < GROUP; k++) to[k] = to[k]! - 8;
          break;
        case "q4m":
          scales[g] = f16(tile + 2 * lane);
          mins![g] = f16(tile + 64 + 2 * lane);
          readNibbles(view, tile + 128, lane, to);
          break;
        case "q4k": {
          const group = tile + 128 + (g % groupsPerTile) * 576;
          scales[g] = fround(f16(tile + 2 * lane) * view.getUint8(group + lane));
          mins![g] = -fround(f16(tile + 64 + 2 * lane) * view.getUint8(group + 32 + lane));
          readNibbles(view, group + 64, lane, to);
          break;
        }
        case "q2":
          scales[g] = f16(tile + 2 * lane);
          for (let k = 0; k < GROUP; k++) {
            const byte = view.getUint8(tile + 64 + (k >> 4) * 128 + lane * 4 + (k & 3));
            to[k] = 2 * ((byte >> (2 * ((k & 15) >> 2))) & 3) - 3;
          }
          break;
        case "q3":
          scales[g] = f16(tile + 2 * lane);
          for (let k = 0; k < GROUP; k++) {
            const [first, second, last] = [0, 1, 2].map((plane) => view.getUint8(tile + 64 + plane * 128 + lane * 4 + (k & 3))) as [number, number, number];
            const codes = [first & 7, (first >> 3) & 7, second & 7, (second >> 3) & 7, last & 7, (last >> 3) & 7, (first >> 6) + ((last >> 6) & 1) * 4, (second >> 6) + (last >> 7) * 4];
            to[k] = codes[k >> 2]! - 4;
          }
          break;
        case "mxfp4":
          scales[g] = 2 ** (view.getUint8(tile + lane) - 128);
          readNibbles(view, tile + 32, lane, to);
          for (let k = 0; k < GROUP; k++) to[k] = E2M1_DOUBLED[to[k]!]!;
          break;
        case "q6k":
          scales[g] = f16(tile + 2 * lane);
          for (let k = 0; k < GROUP; k++) {
            const step = tile + 64 + ((g % groupsPerTile) * 2 + (k >> 4)) * 416;
            const bytes = [0, 1, 2].map((plane) => view.getUint8(step + 32 + plane * 128 + lane * 4 + (k & 3)));
            const four = [...bytes.map((byte) => byte & 63), (bytes[0]! >> 6) * 16 + (bytes[1]! >> 6) * 4 + (bytes[2]! >> 6)];
            to[k] = view.getInt8(step + lane) * (four[(k & 15) >> 2]! - 32);
          }
          break;
      }
    }
    return { kind: "groups", q, scales, mins };
  };

  return {
    quantizeRows(x, xStride, out, outStride, nTokens, nCols) {
      for (let t = 0; t < nTokens; t++) {
        writeQuantizedRow(memory, floats(x + t * xStride, nCols), nCols, out + t * outStride);
      }
    },

    matmul(format, w, nRows, nCols, acts, nTokens, y, yStride) {
      const name = MATRIX_FORMATS[format]!;
      const rows = Array.from({ length: nTokens }, (_, t) => readActivations(name, addressOf(acts, t), nCols));
      const out = rows.map((_, t) => floats(y + t * yStride, nRows));
      for (let r = 0; r < nRows; r++) {
        const weights = readWeights(name, w, nCols, r);
        for (let t = 0; t < nTokens; t++) out[t]![r] = product(weights, rows[t]!);
      }
    },

    topLogits(format, w, nRows, nCols, acts, nTokens, factor, k, ids, values, notFinite) {
      const name = MATRIX_FORMATS[format]!;
      for (let t = 0; t < nTokens; t++) {
        const row = readActivations(name, addressOf(acts, t), nCols);
        const logits = Float32Array.from({ length: nRows }, (_, r) => product(readWeights(name, w, nCols, r), row) * fround(factor));
        largestIndices(logits, k).forEach((id, rank) => {
          new Uint32Array(memory.buffer, ids + (t * k + rank) * 4, 1)[0] = id;
          floats(values + (t * k + rank) * 4, 1)[0] = logits[id]!;
        });
        new Int32Array(memory.buffer, notFinite + 4 * t, 1)[0] = logits.findIndex((x) => !Number.isFinite(x));
      }
    },

    expertFfn(kindCode, limit, gateUpFormat, downFormat, w, input, hidden, width, acts, nTokens, y, yStride) {
      const kind = EXPERT_KINDS[kindCode]!;
      const gateUp = MATRIX_FORMATS[gateUpFormat]!;
      const down = MATRIX_FORMATS[downFormat]!;
      const downAt = w + matrixBytes(gateUp, gateUpRows(kind, gateUp, width), input);
      const biasAt = downAt + matrixBytes(down, hidden, width);
      const gateUpBias = hasBiases(kind) ? floats(biasAt, gateUpRows(kind, gateUp, width)) : null;
      const downBias = hasBiases(kind) ? floats(biasAt + gateUpRows(kind, gateUp, width) * 4, hidden) : null;
      const rows = Array.from({ length: nTokens }, (_, t) => readActivations(gateUp, addressOf(acts, t), input));
      const h = rows.map(() => new Float32Array(width));
      for (let i = 0; i < width && !isGated(kind); i++) {
        const up = readWeights(gateUp, w, input, i);
        for (let t = 0; t < nTokens; t++) {
          const u = fround(product(up, rows[t]!) + gateUpBias![i]!);
          h[t]![i] = kind === "relu-mlp" ? relu(u) : gelu(u);
        }
      }
      for (let i = 0; i < width && isGated(kind); i++) {
        const gateRow = Math.floor(i / 16) * 32 + (i % 16);
        const gate = readWeights(gateUp, w, input, gateRow);
        const up = readWeights(gateUp, w, input, gateRow + 16);
        for (let t = 0; t < nTokens; t++) {
          const [g, u] = [product(gate, rows[t]!), product(up, rows[t]!)];
          h[t]![i] = gateUpBias === null
            ? swiglu(g, u)
            : clampedSwiglu(fround(g + gateUpBias[gateRow]!), fround(u + gateUpBias[gateRow + 16]!), fround(limit));
        }
      }
      const inner = h.map((values): Row =>
        (activationFormatOf(down) === "f32" ? { kind: "f32", values } : { kind: "groups", ...quantizeRow(values, width), mins: null }));
      const out = rows.map((_, t) => floats(y + t * yStride, hidden));
      for (let r = 0; r < hidden; r++) {
        const weights = readWeights(down, downAt, width, r);
        for (let t = 0; t < nTokens; t++) out[t]![r] = downBias === null ? product(weights, inner[t]!) : product(weights, inner[t]!) + downBias[r]!;
      }
      return 0;
    },

    readRow(format, w, nCols, row, out) {
      const weights = readWeights(MATRIX_FORMATS[format]!, w, nCols, row);
      const to = floats(out, nCols);
      if (weights.kind === "f32") {
        to.set(weights.values);
        return;
      }
      for (let k = 0; k < nCols; k++) {
        const g = Math.floor(k / GROUP);
        const value = fround(weights.scales[g] * weights.q[k]);
        to[k] = weights.mins === null ? value : fround(value + weights.mins[g]);
      }
    },
  };
}
