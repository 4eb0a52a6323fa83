// Cases of the kernels on rows: quantisation, norms, softmax, top-k, rotary, the fold of experts, checksums. docs/arithmetic.md sections 4, 6 and 7.

import { drawRows, seededNumbers } from "./kernel-case.ts";
import type { KernelCase } from "./kernel-case.ts";
import { ROPE_STYLES, qa8RowBytes } from "./kernels.ts";
import type { RopeStyle } from "./kernels.ts";

/** `values` (optional) overwrite the head of the first row. */
export function quantizeCase(nTokens: number, nCols: number, seed: number, values: readonly number[] = []): KernelCase {
  return {
    name: `quantizeRows ${nCols} x ${nTokens}, seed ${seed}${values.length > 0 ? `, from ${values.slice(0, 3).join(" ")}` : ""}`,
    prepare(arena) {
      const x = drawRows(arena, nTokens, nCols, seededNumbers(seed), 3);
      new Float32Array(arena.memory.buffer).set(values.slice(0, nCols), x.at / 4);
      const stride = qa8RowBytes(nCols) + 16;
      const out = arena.alloc(stride * nTokens);
      return (k) => k.quantizeRows(x.at, x.stride, out, stride, nTokens, nCols);
    },
  };
}

export function rowCases(n: number, nTokens: number, seed: number): KernelCase[] {
  const named = (name: string, prepare: KernelCase["prepare"]): KernelCase => ({ name: `${name} ${n} x ${nTokens}, seed ${seed}`, prepare });
  return [
    named("rmsNormRows", (arena) => {
      const random = seededNumbers(seed);
      const x = drawRows(arena, nTokens, n, random, 4);
      const weight = drawRows(arena, 1, n, random);
      const out = arena.alloc(x.stride * nTokens);
      return (k) => {
        k.rmsNormRows(x.at, x.stride, weight.at, 1e-5, out, x.stride, nTokens, n);
        k.rmsNormRows(x.at, x.stride, weight.at, 1e-6, x.at, x.stride, nTokens, n);
      };
    }),
    named("rmsNormQuantizeRows", (arena) => {
      const random = seededNumbers(seed);
      const x = drawRows(arena, nTokens, n, random, 4);
      const weight = drawRows(arena, 1, n, random);
      const out = arena.alloc(x.stride * nTokens);
      const stride = qa8RowBytes(n) + 16;
      const [both, alone] = [arena.alloc(stride * nTokens), arena.alloc(stride * nTokens)];
      return (k) => {
        k.rmsNormQuantizeRows(x.at, x.stride, weight.at, 1e-5, out, x.stride, both, stride, nTokens, n);
        k.rmsNormQuantizeRows(x.at, x.stride, weight.at, 1e-5, 0, 0, alone, stride, nTokens, n);
      };
    }),
    named("layerNormRows", (arena) => {
      const random = seededNumbers(seed);
      const x = drawRows(arena, nTokens, n, random, 4);
      const [weight, bias] = [drawRows(arena, 1, n, random), drawRows(arena, 1, n, random)];
      const out = arena.alloc((x.stride + 16) * nTokens);
      return (k) => {
        k.layerNormRows(x.at, x.stride, weight.at, bias.at, 1e-5, out, x.stride + 16, nTokens, n);
        k.layerNormRows(x.at, x.stride, weight.at, bias.at, 1e-6, x.at, x.stride, nTokens, n);
      };
    }),
    named("softmaxRows", (arena) => {
      const x = drawRows(arena, nTokens, n, seededNumbers(seed), 30);
      return (k) => k.softmaxRows(x.at, x.stride, nTokens, n);
    }),
    named("topKRows", (arena) => {
      const random = seededNumbers(seed);
      const x = drawRows(arena, nTokens, n, () => Math.floor(random() * 12) / 12); // many ties
      const top = Math.min(n, 5);
      const ids = arena.alloc(nTokens * top * 4);
      const values = arena.alloc(nTokens * top * 4);
      return (k) => k.topKRows(x.at, x.stride, nTokens, n, top, ids, values);
    }),
    named("copyRows", (arena) => {
      const from = drawRows(arena, nTokens, n, seededNumbers(seed));
      const stride = from.stride + 16;
      const to = arena.alloc(stride * nTokens);
      return (k) => k.copyRows(from.at, from.stride, to, stride, nTokens, n);
    }),
    named("addRows, addBiasRows, scaleRows, clampRows", (arena) => {
      const random = seededNumbers(seed);
      const x = drawRows(arena, nTokens, n, random, 2);
      const y = drawRows(arena, nTokens, n, random);
      const bias = drawRows(arena, 1, n, random);
      const clamped = drawRows(arena, nTokens, n, random, 2);
      return (k) => {
        k.addRows(x.at, x.stride, y.at, y.stride, nTokens, n);
        k.addBiasRows(x.at, x.stride, bias.at, nTokens, n);
        k.scaleRows(x.at, x.stride, 0.3, nTokens, n);
        k.clampRows(clamped.at, clamped.stride, 1.1, nTokens, n);
      };
    }),
    named("combine", (arena) => {
      const random = seededNumbers(seed);
      const y = drawRows(arena, nTokens, n, random);
      const rows = drawRows(arena, nTokens * 6, n, random);
      const nPairs = nTokens * 2;
      const pairs = arena.alloc(nPairs * 20);
      for (let p = 0; p < nPairs; p++) {
        new Uint32Array(arena.memory.buffer, pairs + p * 20, 4).set([p % nTokens, rows.at + p * 3 * rows.stride, rows.stride, 1 + (p % 3)]);
        new Float32Array(arena.memory.buffer, pairs + p * 20 + 16, 1)[0] = random();
      }
      return (k) => k.combine(pairs, nPairs, y.at, y.stride, n);
    }),
  ];
}

export function ropeCase(style: RopeStyle, nHeads: number, headDim: number, ropeDim: number, positions: readonly number[], seed: number): KernelCase {
  return {
    name: `ropeRows ${style} ${nHeads} x ${headDim}, ${ropeDim} rotated, seed ${seed}`,
    prepare(arena) {
      const random = seededNumbers(seed);
      const x = drawRows(arena, positions.length, nHeads * headDim, random);
      const table = arena.f32(Array.from({ length: (Math.max(...positions) + 1) * ropeDim }, () => random() * 2 - 1));
      const at = arena.u32(positions);
      return (k) => k.ropeRows(ROPE_STYLES.indexOf(style), x.at, x.stride, positions.length, nHeads, headDim, ropeDim, table, at);
    },
  };
}

export function checksumCase(nBytes: number, seed: number): KernelCase {
  return {
    name: `checksum of ${nBytes} bytes, seed ${seed}`,
    prepare(arena) {
      const random = seededNumbers(seed);
      const bytes = arena.bytes(Uint8Array.from({ length: nBytes }, () => Math.floor(random() * 256)));
      const out = arena.alloc(4);
      return (k) => { new Int32Array(k.memory.buffer, out, 1)[0] = k.checksum(bytes, nBytes); };
    },
  };
}
