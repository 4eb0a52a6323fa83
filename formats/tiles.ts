// Row-major stored rows <-> the tile layouts of the kernels (docs/arithmetic.md section 3). Owns the byte order of a row
// block of 32 rows; quantised blocks are only re-ordered, so both ways are lossless. Refuses arithmetic of any kind.

import { type MatrixFormat, matrixBytes } from "../model/kernels.ts";
import { storedRowBytes, typeOfFormat } from "./stored-types.ts";

/** Rows of a row block. */
export const BLOCK_ROWS = 32;

/** Bytes of one row block. */
export const rowBlockBytes = (format: MatrixFormat, nCols: number): number => matrixBytes(format, BLOCK_ROWS, nCols);

/** A row block of zero rows: zeros, except q4's nibbles, whose zero is 8. */
export function blankRowBlock(format: MatrixFormat, nCols: number): Uint8Array<ArrayBuffer> {
  const block = new Uint8Array(rowBlockBytes(format, nCols));
  if (format === "q4") for (let tile = 0; tile < block.length; tile += 576) block.fill(0x88, tile + 64, tile + 576);
  return block;
}

/** One run of rows to be placed in a row block. */
export interface RowRun {
  /** Row-major stored bytes; row i starts at `start + i * stride`. */
  readonly bytes: Uint8Array;
  readonly start: number;
  readonly stride: number;
  readonly nRows: number;
}

/** Writes the rows into `block` at rows firstRow, firstRow + 1, ... */
export function placeRows(format: MatrixFormat, block: Uint8Array, firstRow: number, rows: RowRun, nCols: number): void {
  const rowBytes = storedRowBytes(typeOfFormat(format), nCols);
  for (let i = 0; i < rows.nRows; i++) {
    const from = rows.start + i * rows.stride;
    eachPiece(format, rowBytes, firstRow + i, (inRow, inBlock, n) => {
      for (let b = 0; b < n; b++) block[inBlock + b] = rows.bytes[from + inRow + b]!;
    });
  }
}

/** The reverse of placeRows for one row: writes its stored bytes to `out` at `at`. */
export function takeRow(format: MatrixFormat, block: Uint8Array, row: number, out: Uint8Array, at: number, nCols: number): void {
  eachPiece(format, storedRowBytes(typeOfFormat(format), nCols), row, (inRow, inBlock, n) => {
    for (let b = 0; b < n; b++) out[at + inRow + b] = block[inBlock + b]!;
  });
}

/** Calls `move(offset in the stored row, offset in the block, bytes)` for every piece of a row that stays together. */
function eachPiece(format: MatrixFormat, rowBytes: number, row: number, move: (inRow: number, inBlock: number, n: number) => void): void {
  switch (format) {
    case "f32":
      for (let at = 0; at < rowBytes; at += 4) move(at, at * BLOCK_ROWS + row * 4, 4);
      break;
    case "f16": case "bf16":
      for (let at = 0; at < rowBytes; at += 2) move(at, at * BLOCK_ROWS + row * 2, 2);
      break;
    case "q8":
      for (let group = 0; group * 34 < rowBytes; group++) {
        move(group * 34, group * 1088 + row * 2, 2);
        for (let kk = 0; kk < 8; kk++) move(group * 34 + 2 + kk * 4, group * 1088 + 64 + kk * 128 + row * 4, 4);
      }
      break;
    case "q4":
      for (let group = 0; group * 18 < rowBytes; group++) {
        move(group * 18, group * 576 + row * 2, 2);
        for (let kk = 0; kk < 4; kk++) move(group * 18 + 2 + kk * 4, group * 576 + 64 + kk * 128 + row * 4, 4);
      }
      break;
  }
}

/** Row-major stored rows of a whole matrix in tile layout. */
export function untileMatrix(format: MatrixFormat, tiles: Uint8Array, nRows: number, nCols: number): Uint8Array {
  const rowBytes = storedRowBytes(typeOfFormat(format), nCols);
  const blockBytes = rowBlockBytes(format, nCols);
  const out = new Uint8Array(nRows * rowBytes);
  for (let r = 0; r < nRows; r++) {
    const block = Math.floor(r / BLOCK_ROWS) * blockBytes;
    takeRow(format, tiles.subarray(block, block + blockBytes), r % BLOCK_ROWS, out, r * rowBytes, nCols);
  }
  return out;
}

/** Row-major stored rows of gate and up of one segment, from their interleaved gate-up matrix. */
export function untileGateUp(format: MatrixFormat, tiles: Uint8Array, width: number, hidden: number): { gate: Uint8Array; up: Uint8Array } {
  const rowBytes = storedRowBytes(typeOfFormat(format), hidden);
  const blockBytes = rowBlockBytes(format, hidden);
  const gate = new Uint8Array(width * rowBytes);
  const up = new Uint8Array(width * rowBytes);
  for (let r = 0; r < width; r++) {
    const start = Math.floor(r / 16) * blockBytes;
    const block = tiles.subarray(start, start + blockBytes);
    takeRow(format, block, r % 16, gate, r * rowBytes, hidden);
    takeRow(format, block, 16 + (r % 16), up, r * rowBytes, hidden);
  }
  return { gate, up };
}
