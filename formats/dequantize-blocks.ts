// One stored block to float32, for every quantised type. Owns the meaning of every block's bits (ggml-quants.c, dequantize_row_*).
// All values are exact: an f16 scale has 11 significant bits, what multiplies it at most 13 (IQ4_XS: 6 + 7). Only where a minimum comes
// to it (Q4_1, Q5_1, Q2_K, Q4_K, Q5_K) the sum, exact in float64, is rounded once. Refuses to judge scales: quantize.ts does.

import { q4kScale } from "./q4k-blocks.ts";
import { Q6K_D_AT, Q6K_SCALES_AT, q6kValue } from "./q6k-blocks.ts";
import type { StoredType } from "./stored-types.ts";

/** Types whose values come in blocks. */
export type BlockType = Exclude<StoredType, "F32" | "F16" | "BF16">;

/** Writes all values of the block at `at` to out[to], out[to + 1], ... `view` is over the same bytes. */
type BlockDecoder = (bytes: Uint8Array, view: DataView, at: number, out: Float32Array, to: number) => void;

/** Twice the value of each E2M1 code. */
export const E2M1_DOUBLED = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12] as const;

/** What the nibbles of IQ4_NL and IQ4_XS stand for (ggml-common.h, kvalues_iq4nl). */
export const IQ4_VALUES = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113] as const;

/** Sixteen bytes at `at`: value k in the low nibble of byte k, value k + 16 in its high nibble. */
function eachNibble(bytes: Uint8Array, at: number, take: (nibble: number, k: number) => void): void {
  for (let i = 0; i < 16; i++) {
    const byte = bytes[at + i]!;
    take(byte & 15, i);
    take(byte >> 4, i + 16);
  }
}

/** The fifth bit of values 0..31 of Q5_0 and Q5_1, in place: 16 or 0. */
const fifthBit = (bits: number, k: number): number => ((bits >>> k) & 1) << 4;

/** Scale 0..15 of the Q3_K block at `at`, -32..31: twelve bytes, first all low nibbles, then all upper pairs, four to a byte column. */
export function q3kScale(bytes: Uint8Array, at: number, step: number): number {
  const low = (bytes[at + 96 + (step & 7)]! >> (step < 8 ? 0 : 4)) & 15;
  const high = (bytes[at + 96 + 8 + (step & 3)]! >> (2 * (step >> 2))) & 3;
  return (low | (high << 4)) - 32;
}

/** Value k (0..255) of the Q3_K block at `at`, -4..3: two bits in a byte of its half, and a mask bit that says not to take 4 off. */
export function q3kValue(bytes: Uint8Array, at: number, k: number): number {
  const low = (bytes[at + 32 + (k >> 7) * 32 + (k & 31)]! >> (2 * ((k >> 5) & 3))) & 3;
  return low - (((bytes[at + (k & 31)]! >> (k >> 5)) & 1) === 0 ? 4 : 0);
}

/** Q4_K and Q5_K: eight groups of 32 with a scale and a minimum each; nibbles from `nibblesAt` on, the bit above that of value i of group g in bit g of byte `upperAt` + i; 0 = none. */
function scaledGroups(bytes: Uint8Array, view: DataView, at: number, out: Float32Array, to: number, nibblesAt: number, upperAt: number): void {
  const d = view.getFloat16(at, true);
  const dmin = view.getFloat16(at + 2, true);
  for (let g = 0; g < 8; g++) {
    const { sc, m } = q4kScale(bytes, at, g);
    const scale = d * sc;
    const min = dmin * m;
    const from = at + nibblesAt + (g >> 1) * 32;
    const shift = 4 * (g & 1);
    for (let i = 0; i < 32; i++) {
      const upper = upperAt === 0 ? 0 : ((bytes[at + upperAt + i]! >> g) & 1) << 4;
      out[to + 32 * g + i] = scale * (((bytes[from + i]! >> shift) & 15) | upper) - min;
    }
  }
}

export const BLOCK_DECODERS: Readonly<Record<BlockType, BlockDecoder>> = {
  // f16 d, 32 x i8
  Q8_0: (_, view, at, out, to) => {
    const d = view.getFloat16(at, true);
    for (let k = 0; k < 32; k++) out[to + k] = d * view.getInt8(at + 2 + k);
  },
  // f16 d, 16 bytes of nibbles
  Q4_0: (bytes, view, at, out, to) => {
    const d = view.getFloat16(at, true);
    eachNibble(bytes, at + 2, (nibble, k) => { out[to + k] = d * (nibble - 8); });
  },
  // f16 d, f16 m, 16 bytes of nibbles
  Q4_1: (bytes, view, at, out, to) => {
    const d = view.getFloat16(at, true);
    const m = view.getFloat16(at + 2, true);
    eachNibble(bytes, at + 4, (nibble, k) => { out[to + k] = d * nibble + m; });
  },
  // f16 d, u32 of fifth bits, 16 bytes of nibbles
  Q5_0: (bytes, view, at, out, to) => {
    const d = view.getFloat16(at, true);
    const high = view.getUint32(at + 2, true);
    eachNibble(bytes, at + 6, (nibble, k) => { out[to + k] = d * ((nibble | fifthBit(high, k)) - 16); });
  },
  // f16 d, f16 m, u32 of fifth bits, 16 bytes of nibbles
  Q5_1: (bytes, view, at, out, to) => {
    const d = view.getFloat16(at, true);
    const m = view.getFloat16(at + 2, true);
    const high = view.getUint32(at + 4, true);
    eachNibble(bytes, at + 8, (nibble, k) => { out[to + k] = d * (nibble | fifthBit(high, k)) + m; });
  },
  // 16 bytes of scale (low nibble) and minimum (high nibble), 64 bytes of four values of two bits, f16 d, f16 dmin
  Q2_K: (bytes, view, at, out, to) => {
    const d = view.getFloat16(at + 80, true);
    const dmin = view.getFloat16(at + 82, true);
    for (let step = 0; step < 16; step++) {
      const scales = bytes[at + step]!;
      const scale = d * (scales & 15);
      const min = dmin * (scales >> 4);
      const from = at + 16 + (step >> 3) * 32 + (step & 1) * 16;
      const shift = 2 * ((step >> 1) & 3);
      for (let i = 0; i < 16; i++) out[to + 16 * step + i] = scale * ((bytes[from + i]! >> shift) & 3) - min;
    }
  },
  // 32 bytes of third bits, 64 bytes of four values of two bits, 12 bytes of scales, f16 d
  Q3_K: (bytes, view, at, out, to) => {
    const d = view.getFloat16(at + 108, true);
    for (let step = 0; step < 16; step++) {
      const scale = q3kScale(bytes, at, step);
      for (let k = 16 * step; k < 16 * step + 16; k++) out[to + k] = d * Math.imul(scale, q3kValue(bytes, at, k)); // an integer has no minus zero
    }
  },
  // f16 d, f16 dmin, 12 bytes of scales and minima, 128 bytes of nibbles
  Q4_K: (bytes, view, at, out, to) => scaledGroups(bytes, view, at, out, to, 16, 0),
  // as Q4_K, with 32 bytes of fifth bits before the nibbles: bit g of byte i is that of value i of group g
  Q5_K: (bytes, view, at, out, to) => scaledGroups(bytes, view, at, out, to, 48, 16),
  // 128 bytes of low nibbles, 64 bytes of upper pairs, 16 x i8 scales, f16 d
  Q6_K: (bytes, view, at, out, to) => {
    const d = view.getFloat16(at + Q6K_D_AT, true);
    for (let k = 0; k < 256; k++) {
      out[to + k] = d * Math.imul(view.getInt8(at + Q6K_SCALES_AT + (k >> 4)), q6kValue(bytes, at, k) - 32); // an integer has no minus zero
    }
  },
  // f16 d, 16 bytes of nibbles
  IQ4_NL: (bytes, view, at, out, to) => {
    const d = view.getFloat16(at, true);
    eachNibble(bytes, at + 2, (nibble, k) => { out[to + k] = d * IQ4_VALUES[nibble]!; });
  },
  // f16 d, u16 of upper pairs of the scales, 4 bytes of their low nibbles, 128 bytes of nibbles, 16 to a group
  IQ4_XS: (bytes, view, at, out, to) => {
    const d = view.getFloat16(at, true);
    const high = view.getUint16(at + 2, true);
    for (let g = 0; g < 8; g++) {
      const low = (bytes[at + 4 + (g >> 1)]! >> (4 * (g & 1))) & 15;
      const scale = d * ((low | (((high >> (2 * g)) & 3) << 4)) - 32);
      eachNibble(bytes, at + 8 + 16 * g, (nibble, k) => { out[to + 32 * g + k] = scale * IQ4_VALUES[nibble]!; });
    }
  },
  // u8 e, 16 bytes of nibbles
  MXFP4: (bytes, _, at, out, to) => {
    const scale = 2 ** (bytes[at]! - 128);
    eachNibble(bytes, at + 1, (nibble, k) => { out[to + k] = scale * E2M1_DOUBLED[nibble]!; });
  },
  // f16 d, 8 bytes of four values of two bits
  Q2_32: (bytes, view, at, out, to) => {
    const d = view.getFloat16(at, true);
    for (let k = 0; k < 32; k++) {
      const byte = bytes[at + 2 + ((k & 16) >> 2) + (k & 3)]!;
      out[to + k] = d * (2 * ((byte >> (2 * ((k & 12) >> 2))) & 3) - 3);
    }
  },
  // f16 d, 12 bytes: eight values of three bits in every fourth byte, two to a byte, the last two in the upper bits
  Q3_32: (bytes, view, at, out, to) => {
    const d = view.getFloat16(at, true);
    for (let j = 0; j < 4; j++) {
      const [first, second, last] = [bytes[at + 2 + j]!, bytes[at + 6 + j]!, bytes[at + 10 + j]!];
      for (let n = 0; n < 2; n++) {
        out[to + 4 * n + j] = d * (((first >> (3 * n)) & 7) - 4);
        out[to + 4 * (2 + n) + j] = d * (((second >> (3 * n)) & 7) - 4);
        out[to + 4 * (4 + n) + j] = d * (((last >> (3 * n)) & 7) - 4);
      }
      out[to + 24 + j] = d * (((first >> 6) | (((last >> 6) & 1) << 2)) - 4);
      out[to + 28 + j] = d * (((second >> 6) | ((last >> 7) << 2)) - 4);
    }
  },
};
