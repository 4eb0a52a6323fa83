// One block of GGUF's Q6_K (256 values of one row, 210 bytes) <-> its place in a q6k super-tile (docs/arithmetic.md section 3).
// Owns the order of the low four and the high two bits on both sides (ggml-quants.c, dequantize_row_q6_K). Both ways are lossless.
// Refuses arithmetic: a value here is its six bits, 0..63, and stands for 32 less.

import { tileBytes } from "../model/kernels.ts";

export const Q6K_BLOCK_BYTES = 210;
/** Values that share one int8 scale, and scales of a block. */
export const Q6K_STEP = 16;
export const Q6K_STEPS = 16;
export const Q6K_SCALES_AT = 192; // behind 128 bytes of low bits and 64 of high ones
export const Q6K_D_AT = 208;
const HEAD_BYTES = 64; // of a super-tile: 32 d
const STEP_BYTES = 416; // of its steps: 32 sc, 3 planes of 128 bytes

// Where value k (0..255) of a block lies: bytes and shifts of its low four and its high two bits. Each half of 128 has four quarters of 32.
const lowAt = (k: number): number => (k >> 7) * 64 + (k & 63);
const lowShift = (k: number): number => (k & 64) >> 4;
const highAt = (k: number): number => 128 + (k >> 7) * 32 + (k & 31);
const highShift = (k: number): number => 2 * ((k >> 5) & 3);

/** The six bits of value k in the block at `at`. */
export function q6kValue(bytes: Uint8Array, at: number, k: number): number {
  return ((bytes[at + lowAt(k)]! >> lowShift(k)) & 15) | (((bytes[at + highAt(k)]! >> highShift(k)) & 3) << 4);
}

/** Adds the six bits of value k to a block whose values were zero bits. */
export function addQ6kValue(bytes: Uint8Array, at: number, k: number, value: number): void {
  bytes[at + lowAt(k)]! |= (value & 15) << lowShift(k);
  bytes[at + highAt(k)]! |= (value >> 4) << highShift(k);
}

/** Offset in a super-tile of byte j of a plane of a step, and of the step's sc. */
const planeAt = (step: number, plane: number, row: number, j: number): number => HEAD_BYTES + step * STEP_BYTES + 32 + plane * 128 + row * 4 + j;
const scaleAt = (step: number, row: number): number => HEAD_BYTES + step * STEP_BYTES + row;

/** Block number `index` of a row, stored at `from`, goes to row `row` of the row block. */
export function placeQ6kBlock(stored: Uint8Array, from: number, rowBlock: Uint8Array, index: number, row: number): void {
  const tile = index * tileBytes("q6k");
  for (let b = 0; b < 2; b++) rowBlock[tile + 2 * row + b] = stored[from + Q6K_D_AT + b]!;
  for (let step = 0; step < Q6K_STEPS; step++) {
    rowBlock[tile + scaleAt(step, row)] = stored[from + Q6K_SCALES_AT + step]!;
    for (let j = 0; j < 4; j++) {
      const k = step * Q6K_STEP + j;
      const spread = q6kValue(stored, from, k + 12);
      rowBlock[tile + planeAt(step, 0, row, j)] = q6kValue(stored, from, k) | ((spread >> 4) << 6);
      rowBlock[tile + planeAt(step, 1, row, j)] = q6kValue(stored, from, k + 4) | (((spread >> 2) & 3) << 6);
      rowBlock[tile + planeAt(step, 2, row, j)] = q6kValue(stored, from, k + 8) | ((spread & 3) << 6);
    }
  }
}

/** The reverse of placeQ6kBlock: writes the block's 210 bytes to `out` at `to`. */
export function takeQ6kBlock(rowBlock: Uint8Array, index: number, row: number, out: Uint8Array, to: number): void {
  const tile = index * tileBytes("q6k");
  out.fill(0, to, to + Q6K_BLOCK_BYTES);
  for (let b = 0; b < 2; b++) out[to + Q6K_D_AT + b] = rowBlock[tile + 2 * row + b]!;
  for (let step = 0; step < Q6K_STEPS; step++) {
    out[to + Q6K_SCALES_AT + step] = rowBlock[tile + scaleAt(step, row)]!;
    for (let j = 0; j < 4; j++) {
      const planes = [0, 1, 2].map((plane) => rowBlock[tile + planeAt(step, plane, row, j)]!);
      planes.forEach((byte, plane) => addQ6kValue(out, to, step * Q6K_STEP + 4 * plane + j, byte & 63));
      addQ6kValue(out, to, step * Q6K_STEP + 12 + j, planes.reduce((bits, byte) => (bits << 2) | (byte >> 6), 0));
    }
  }
}
