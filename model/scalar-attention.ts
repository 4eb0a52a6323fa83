// The truth of docs/arithmetic.md section 8: the KV cache and attention over it, as plain loops with one Math.fround per operation.
// Owns the layouts of the three cache formats and the order of every sum. Refuses cleverness: one query at a time, ordinary arrays.

import { bf16ToF32, exp, f16ToF32, f32ToF16, nearestEven } from "./float-math.ts";
import { KV_BLOCK, KV_FORMATS, kvLayerBytes } from "./kernels.ts";
import type { KernelOps, KvFormat } from "./kernels.ts";

const fround = Math.fround;
const GROUP = 32;
const SCALES_BYTES = 64;
const TILE_BYTES = 1024;

/** Section 4 for one row, handed in by scalar-kernels.ts. */
type Quantize = (x: ArrayLike<number>, nCols: number) => { readonly q: Int8Array; readonly scales: Float32Array };

/** bf16 bits of a positive f32, rounded up. */
function brainUp(x: number): number {
  return (new Uint32Array(Float32Array.of(x).buffer)[0]! + 0xffff) >>> 16;
}

/** One position's group of up to 32 dims: bf16 bits of its scale, and int8 values. */
function quantizeKv(x: ArrayLike<number>): { scale: number; q: Int8Array } {
  const q = new Int8Array(GROUP);
  let amax = 0;
  for (let i = 0; i < x.length; i++) amax = Math.max(amax, Math.abs(x[i]!));
  if (amax < fround(1e-30)) return { scale: 0, q };
  if (!(amax < 8323072)) return { scale: 0x7fc0, q };
  const scale = brainUp(fround(amax / 127));
  const inverse = fround(1 / bf16ToF32(scale));
  for (let i = 0; i < x.length; i++) q[i] = nearestEven(fround(x[i]! * inverse));
  return { scale, q };
}

/** The weights of one dim group over a block, in 14 bits. */
function quantizeWeights(w: Float32Array): { scale: number; q: Int32Array } {
  const q = new Int32Array(KV_BLOCK);
  let amax = 0;
  for (const x of w) amax = Math.max(amax, x);
  if (amax < fround(1e-30)) return { scale: 0, q };
  if (!(amax < 8323072)) return { scale: NaN, q };
  const inverse = fround(16383 / amax);
  w.forEach((x, j) => { q[j] = nearestEven(fround(x * inverse)); });
  return { scale: fround(amax / 16383), q };
}

/** One block of one kv head: what attention asks of it. */
interface Block {
  /** v null where keys hold their values. */
  write(slot: number, k: Float32Array, v: Float32Array | null): void;
  /** Dots of a query with the keys low..high; the others are left at 0. */
  dots(query: Float32Array, low: number, high: number): Float32Array;
  /** o[d] = o[d] + sum of p_j * v[j][d], o already scaled, for all dims of o. */
  addValues(o: Float32Array, p: Float32Array, low: number, high: number): void;
}

function floatBlock(memory: WebAssembly.Memory, at: number, headDim: number, isLatent: boolean, isF16: boolean): Block {
  const n = headDim * KV_BLOCK;
  const size = isLatent ? n : 2 * n;
  const f32 = isF16 ? null : new Float32Array(memory.buffer, at, size);
  const u16 = isF16 ? new Uint16Array(memory.buffer, at, size) : null;
  const read = (i: number): number => (f32 === null ? f16ToF32(u16![i]!) : f32[i]!);
  const put = (i: number, x: number): void => {
    if (f32 === null) u16![i] = f32ToF16(x);
    else f32[i] = x;
  };
  return {
    write(slot, k, v) {
      for (let d = 0; d < headDim; d++) {
        put(d * KV_BLOCK + slot, k[d]!);
        if (v !== null) put(n + slot * headDim + d, v[d]!);
      }
    },
    dots(query, low, high) {
      const out = new Float32Array(KV_BLOCK);
      for (let j = low; j <= high; j++) {
        for (let d = 0; d < headDim; d++) out[j] = fround(out[j]! + fround(query[d]! * read(d * KV_BLOCK + j)));
      }
      return out;
    },
    addValues(o, p, low, high) {
      for (let j = low; j <= high; j++) {
        for (let d = 0; d < o.length; d++) o[d] = fround(o[d]! + fround(p[j]! * read(isLatent ? d * KV_BLOCK + j : n + j * headDim + d)));
      }
    },
  };
}

function tileBlock(memory: WebAssembly.Memory, at: number, headDim: number, isLatent: boolean, quantize: Quantize): Block {
  const nGroups = Math.ceil(headDim / GROUP);
  // Groups 0 .. nGroups - 1 are those of K, the others those of V, where there is one: all scales, then all tiles.
  const nAll = isLatent ? nGroups : 2 * nGroups;
  const firstValue = isLatent ? 0 : nGroups;
  const scales = new Uint16Array(memory.buffer, at, nAll * KV_BLOCK);
  const i8 = new Int8Array(memory.buffer, at + nAll * SCALES_BYTES, nAll * TILE_BYTES);
  /** Where the q of a group's dim and position lies. */
  const keyAt = (g: number, d: number, position: number): number => g * TILE_BYTES + (d >> 2) * 128 + position * 4 + (d & 3);
  const valueAt = (g: number, d: number, position: number): number => (nGroups + g) * TILE_BYTES + (position >> 2) * 128 + d * 4 + (position & 3);
  const scaleOf = (group: number, position: number): number => bf16ToF32(scales[group * KV_BLOCK + position]!);
  return {
    write(slot, k, v) {
      for (let g = 0; g < nGroups; g++) {
        const key = quantizeKv(k.subarray(g * GROUP, (g + 1) * GROUP));
        scales[g * KV_BLOCK + slot] = key.scale;
        for (let d = 0; d < GROUP; d++) i8[keyAt(g, d, slot)] = key.q[d]!;
        if (v === null) continue;
        const value = quantizeKv(v.subarray(g * GROUP, (g + 1) * GROUP));
        scales[(nGroups + g) * KV_BLOCK + slot] = value.scale;
        for (let d = 0; d < GROUP; d++) i8[valueAt(g, d, slot)] = value.q[d]!;
      }
    },
    dots(query, low, high) {
      const out = new Float32Array(KV_BLOCK);
      const quantised = quantize(query, headDim);
      for (let j = low; j <= high; j++) {
        for (let g = 0; g < nGroups; g++) {
          let dot = 0;
          for (let d = 0; d < GROUP; d++) dot += quantised.q[g * GROUP + d]! * i8[keyAt(g, d, j)]!;
          out[j] = fround(out[j]! + fround(dot * fround(quantised.scales[g]! * scaleOf(g, j))));
        }
      }
      return out;
    },
    addValues(o, p, low, high) {
      for (let g = 0; g * GROUP < o.length; g++) {
        const w = new Float32Array(KV_BLOCK);
        for (let j = low; j <= high; j++) w[j] = fround(p[j]! * scaleOf(firstValue + g, j));
        const weights = quantizeWeights(w);
        for (let d = g * GROUP; d < Math.min(o.length, (g + 1) * GROUP); d++) {
          let dot = 0;
          for (let j = low; j <= high; j++) dot += weights.q[j]! * i8[(isLatent ? keyAt : valueAt)(g, d % GROUP, j)]!;
          o[d] = fround(o[d]! + fround(fround(dot) * weights.scale));
        }
      }
    },
  };
}

/** kvWrite and attention over `memory`. */
export function createScalarAttention(memory: WebAssembly.Memory, quantize: Quantize): Pick<KernelOps, "kvWrite" | "attention"> {
  const u32 = (at: number): number => new Uint32Array(memory.buffer, at, 1)[0]!;
  const floats = (at: number, n: number): Float32Array => new Float32Array(memory.buffer, at, n);
  const blockOf = (format: KvFormat, page: number, layerOffset: number, head: number, headDim: number, latentDim: number): Block => {
    const at = page + layerOffset + head * kvLayerBytes(format, 1, headDim, latentDim);
    const isLatent = latentDim > 0;
    return format === "q8" ? tileBlock(memory, at, headDim, isLatent, quantize) : floatBlock(memory, at, headDim, isLatent, format === "f16");
  };

  return {
    kvWrite(kvFormat, k, v, rowStride, nTokens, nKvHeads, headDim, pages, layerOffset, positions) {
      for (let t = 0; t < nTokens; t++) {
        for (let h = 0; h < nKvHeads; h++) {
          const from = t * rowStride + h * headDim * 4;
          blockOf(KV_FORMATS[kvFormat]!, u32(pages + 4 * t), layerOffset, h, headDim, v === 0 ? headDim : 0)
            .write(u32(positions + 4 * t) % KV_BLOCK, floats(k + from, headDim), v === 0 ? null : floats(v + from, headDim));
        }
      }
    },

    attention(
      kvFormat, q, qStride, out, outStride, nTokens, nHeads, nKvHeads, headDim, latentDim, pageTables, layerOffset, positions, scale, window, sinks,
    ) {
      const valueDim = latentDim > 0 ? latentDim : headDim;
      for (let t = 0; t < nTokens; t++) {
        const position = u32(positions + 4 * t);
        const pageTable = u32(pageTables + 4 * t);
        const first = window > 0 ? Math.max(0, position - window + 1) : 0;
        for (let h = 0; h < nHeads; h++) {
          const kvHead = Math.floor(h / (nHeads / nKvHeads));
          const query = floats(q + t * qStride + h * headDim * 4, headDim);
          const o = new Float32Array(valueDim);
          const l = [0, 0, 0, 0];
          let m = -Infinity;
          if (sinks !== 0) {
            m = floats(sinks, nHeads)[h]!;
            l[0] = 1;
          }
          for (let n = Math.floor(first / KV_BLOCK); n * KV_BLOCK <= position; n++) {
            const block = blockOf(KV_FORMATS[kvFormat]!, u32(pageTable + 4 * n), layerOffset, kvHead, headDim, latentDim);
            const low = Math.max(first - n * KV_BLOCK, 0);
            const high = Math.min(position - n * KV_BLOCK, KV_BLOCK - 1);
            const s = block.dots(query, low, high);
            let newM = m;
            for (let j = low; j <= high; j++) {
              s[j] = s[j]! * fround(scale);
              newM = Math.max(newM, s[j]!);
            }
            const c = exp(fround(m - newM));
            m = newM;
            for (let i = 0; i < 4; i++) l[i] = fround(l[i]! * c);
            for (let d = 0; d < valueDim; d++) o[d] = fround(o[d]! * c);
            const p = new Float32Array(KV_BLOCK);
            for (let j = low; j <= high; j++) {
              p[j] = exp(fround(s[j]! - m));
              l[j & 3] = fround(l[j & 3]! + p[j]!);
            }
            block.addValues(o, p, low, high);
          }
          const sum = fround(fround(l[0]! + l[1]!) + fround(l[2]! + l[3]!));
          const to = floats(out + t * outStride + h * valueDim * 4, valueDim);
          for (let d = 0; d < valueDim; d++) to[d] = fround(o[d]! / sum);
        }
      }
    },
  };
}
