// One block of GGUF's Q4_K (256 values of one row, 144 bytes) <-> its place in a q4k super-tile (docs/arithmetic.md section 3).
// Owns the packing of eight 6-bit scales and minima into 12 bytes (ggml-quants.c, get_scale_min_k4) and the order of nibbles.
// Both ways are lossless. Refuses scales of more than 6 bits on the way back: Q4_K has no room for them.

import { tileBytes } from "../model/kernels.ts";

export const Q4K_BLOCK_BYTES = 144;
export const Q4K_GROUPS = 8;
const QUANTS_AT = 16; // behind f16 d, f16 dmin and the 12 bytes
const HEAD_BYTES = 128; // of a super-tile: 32 d, 32 dmin
const GROUP_BYTES = 576; // of its group tiles: 32 sc, 32 m, 512 bytes of nibbles

/** Scale and minimum of group 0..7 of the block at `at`. */
export function q4kScale(bytes: Uint8Array, at: number, group: number): { sc: number; m: number } {
  const packed = (i: number): number => bytes[at + 4 + i]!;
  if (group < 4) return { sc: packed(group) & 63, m: packed(group + 4) & 63 };
  return {
    sc: (packed(group + 4) & 15) | ((packed(group - 4) >> 6) << 4),
    m: (packed(group + 4) >> 4) | ((packed(group) >> 6) << 4),
  };
}

/** Writes all eight scales and minima (0..63) of the block at `at`. */
export function writeQ4kScales(bytes: Uint8Array, at: number, sc: ArrayLike<number>, m: ArrayLike<number>): void {
  bytes.fill(0, at + 4, at + QUANTS_AT);
  for (let g = 0; g < Q4K_GROUPS; g++) {
    if (sc[g]! > 63 || m[g]! > 63) throw new RangeError(`Group ${g} has scale ${sc[g]} and minimum ${m[g]}, expected at most 63, the 6 bits of Q4_K.`);
    if (g < 4) {
      bytes[at + 4 + g]! |= sc[g]!;
      bytes[at + 8 + g]! |= m[g]!;
    } else {
      bytes[at + 8 + g] = (sc[g]! & 15) | ((m[g]! & 15) << 4);
      bytes[at + g]! |= (sc[g]! >> 4) << 6;
      bytes[at + 4 + g]! |= (m[g]! >> 4) << 6;
    }
  }
}

/** Adds the nibble of value k (0..255) to a block whose nibbles were zero: pairs of groups share 32 bytes, the even group has the low nibbles. */
export function addQ4kNibble(bytes: Uint8Array, at: number, k: number, nibble: number): void {
  bytes[at + QUANTS_AT + (k >> 6) * 32 + (k & 31)]! |= (k & 32) === 0 ? nibble : nibble << 4;
}

/** Offsets in a super-tile: of byte i = 4 kk + j of a group's nibbles, and of its sc (its m lies 32 bytes on). */
const nibblesAt = (group: number, row: number, i: number): number => HEAD_BYTES + group * GROUP_BYTES + 64 + (i >> 2) * 128 + row * 4 + (i & 3);
const scaleAt = (group: number, row: number): number => HEAD_BYTES + group * GROUP_BYTES + row;

/** Block number `index` of a row, stored at `from`, goes to row `row` of the row block. */
export function placeQ4kBlock(stored: Uint8Array, from: number, rowBlock: Uint8Array, index: number, row: number): void {
  const tile = index * tileBytes("q4k");
  for (let b = 0; b < 2; b++) {
    rowBlock[tile + 2 * row + b] = stored[from + b]!;
    rowBlock[tile + 64 + 2 * row + b] = stored[from + 2 + b]!;
  }
  for (let g = 0; g < Q4K_GROUPS; g++) {
    const { sc, m } = q4kScale(stored, from, g);
    rowBlock[tile + scaleAt(g, row)] = sc;
    rowBlock[tile + scaleAt(g, row) + 32] = m;
    const shift = 4 * (g & 1); // of value i and value i + 16
    const quants = from + QUANTS_AT + (g >> 1) * 32;
    for (let i = 0; i < 16; i++) {
      rowBlock[tile + nibblesAt(g, row, i)] = ((stored[quants + i]! >> shift) & 15) | (((stored[quants + 16 + i]! >> shift) & 15) << 4);
    }
  }
}

/** The reverse of placeQ4kBlock: writes the block's 144 bytes to `out` at `to`. */
export function takeQ4kBlock(rowBlock: Uint8Array, index: number, row: number, out: Uint8Array, to: number): void {
  const tile = index * tileBytes("q4k");
  out.fill(0, to, to + Q4K_BLOCK_BYTES);
  for (let b = 0; b < 2; b++) {
    out[to + b] = rowBlock[tile + 2 * row + b]!;
    out[to + 2 + b] = rowBlock[tile + 64 + 2 * row + b]!;
  }
  const groups = Array.from({ length: Q4K_GROUPS }, (_, g) => tile + scaleAt(g, row));
  writeQ4kScales(out, to, groups.map((at) => rowBlock[at]!), groups.map((at) => rowBlock[at + 32]!));
  for (let g = 0; g < Q4K_GROUPS; g++) {
    for (let i = 0; i < 16; i++) {
      const byte = rowBlock[tile + nibblesAt(g, row, i)]!;
      addQ4kNibble(out, to, 32 * g + i, byte & 15);
      addQ4kNibble(out, to, 32 * g + 16 + i, byte >> 4);
    }
  }
}
