// Cases of the kernels on the KV cache: keys and values written, then attended to, in every cache format. docs/arithmetic.md section 8.

import { drawRows, seededNumbers } from "./kernel-case.ts";
import type { KernelCase } from "./kernel-case.ts";
import { KV_FORMATS, attentionScratchBytes, kvLayerBytes } from "./kernels.ts";
import type { KvFormat } from "./kernels.ts";

export interface AttentionShape {
  readonly kvFormat: KvFormat;
  readonly nHeads: number;
  readonly nKvHeads: number;
  readonly headDim: number;
  /** Leading dims of a key that are its value; without it values are written beside the keys. */
  readonly latentDim?: number;
  /** Position of each query; the cache holds 0 .. the largest. */
  readonly positions: readonly number[];
  readonly window: number;
  readonly sinks: boolean;
  /** One value in place of a drawn one: column `column` of row `row` of the keys, values or queries. */
  readonly spike?: { readonly in: "k" | "v" | "q"; readonly row: number; readonly column: number; readonly value: number };
}

/** Writes keys and values through kvWrite, then attends. Pages carry a layer offset and lie in reverse order. */
export function attentionCase(shape: AttentionShape, seed: number): KernelCase {
  const { kvFormat, nHeads, nKvHeads, headDim, latentDim = 0, positions, window } = shape;
  return {
    name: `attention ${kvFormat}, ${nHeads}/${nKvHeads} heads of ${headDim}${latentDim > 0 ? `, ${latentDim} of them the value` : ""}, positions ${positions.join(" ")}, window ${window}, ${shape.sinks ? "" : "no "}sinks, ${shape.spike === undefined ? "" : `${shape.spike.value} in ${shape.spike.in}, `}seed ${seed}`,
    prepare(arena) {
      const random = seededNumbers(seed);
      const nKeys = Math.max(...positions) + 1;
      const nPages = Math.ceil(nKeys / 32);
      const layerOffset = kvLayerBytes(kvFormat, nKvHeads, headDim, latentDim);
      const pages = Array.from({ length: nPages }, () => arena.alloc(2 * layerOffset)).reverse();
      for (const page of pages) new Uint8Array(arena.memory.buffer).fill(0xff, page, page + 2 * layerOffset); // NaN in slots never written
      const pageTable = arena.u32(pages);
      const cols = Math.max(nHeads, nKvHeads) * headDim;
      const k = drawRows(arena, nKeys, cols, random, 2);
      const v = drawRows(arena, nKeys, cols, random, 2);
      const keyPositions = arena.u32(Array.from({ length: nKeys }, (_, i) => i));
      const keyPages = arena.u32(Array.from({ length: nKeys }, (_, i) => pages[i >> 5]));
      const q = drawRows(arena, positions.length, cols, random, 2);
      if (shape.spike !== undefined) {
        const { in: place, row, column, value } = shape.spike;
        const rows = { k, v, q }[place];
        new Float32Array(arena.memory.buffer, rows.at + row * rows.stride, cols)[column] = value;
      }
      const outStride = Math.ceil(nHeads * (latentDim > 0 ? latentDim : headDim) / 4) * 16 + 32;
      const out = arena.alloc(outStride * positions.length);
      const tables = arena.u32(positions.map(() => pageTable));
      const at = arena.u32(positions);
      const sinks = shape.sinks ? drawRows(arena, 1, nHeads, random).at : 0;
      const code = KV_FORMATS.indexOf(kvFormat);
      const scratch = arena.allocScratch(attentionScratchBytes(headDim, latentDim));
      return (kernels) => {
        kernels.kvWrite(code, k.at, latentDim > 0 ? 0 : v.at, k.stride, nKeys, nKvHeads, headDim, keyPages, layerOffset, keyPositions);
        kernels.attention(
          code, q.at, q.stride, out, outStride, positions.length, nHeads, nKvHeads, headDim, latentDim, tables, layerOffset, at, headDim ** -0.5, window, sinks, scratch,
        );
      };
    },
  };
}
