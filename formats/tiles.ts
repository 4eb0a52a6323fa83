// Row-major stored rows <-> the tile layouts of the kernels (docs/arithmetic.md section 3). Owns the byte order of a row
// block of 32 rows; quantised blocks are only re-ordered, so both ways are lossless. Refuses arithmetic of any kind.
// The bits of q4k and q6k change places too: q4k-blocks.ts, q6k-blocks.ts.

import { type MatrixFormat, matrixBytes, tileBytes, tileColumns } from "../model/kernels.ts";
import { Q4K_BLOCK_BYTES, placeQ4kBlock, takeQ4kBlock } from "./q4k-blocks.ts";
import { Q6K_BLOCK_BYTES, placeQ6kBlock, takeQ6kBlock } from "./q6k-blocks.ts";
import { storedBlock, storedRowBytes, typeOfFormat } from "./stored-types.ts";

/** Rows of a row block. */
export const BLOCK_ROWS = 32;

/** Bytes of one row block. */
export const rowBlockBytes = (format: MatrixFormat, nCols: number): number => matrixBytes(format, BLOCK_ROWS, nCols);

/**
 * A row block of zero rows: zeros, except q4's nibbles, whose zero is 8. Scale and minimum of zero make every other format zero, also
 * q2, which has no zero of its own.
 */
export function blankRowBlock(format: MatrixFormat, nCols: number): Uint8Array<ArrayBuffer> {
  const block = new Uint8Array(rowBlockBytes(format, nCols));
  if (format === "q4") for (let tile = 0; tile < block.length; tile += tileBytes("q4")) block.fill(0x88, tile + 64, tile + tileBytes("q4"));
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

/** Formats of blocks of 256, whose bits are moved one by one. */
const SUPERS = {
  q4k: { bytes: Q4K_BLOCK_BYTES, place: placeQ4kBlock, take: takeQ4kBlock },
  q6k: { bytes: Q6K_BLOCK_BYTES, place: placeQ6kBlock, take: takeQ6kBlock },
} as const;
type SuperFormat = keyof typeof SUPERS;
const isSuper = (format: MatrixFormat): format is SuperFormat => format in SUPERS;

/** Columns taken over row by row before the next ones: what they become then stays in the L1 cache. */
const SINGLE_COLUMNS = 32;

/** Rows of single values into tiles of one column, where both lie at multiples of the value's size; false where they do not. */
function placeSingles(format: MatrixFormat, block: Uint8Array, firstRow: number, { bytes, start, stride, nRows }: RowRun, nCols: number): boolean {
  const size = tileBytes(format) / BLOCK_ROWS;
  const from = bytes.byteOffset + start;
  if (tileColumns(format) !== 1 || from % size !== 0 || stride % size !== 0 || block.byteOffset % size !== 0) return false;
  const words = stride / size;
  const length = (nRows - 1) * words + nCols;
  const [stored, tiles] = size === 4
    ? [new Uint32Array(bytes.buffer, from, length), new Uint32Array(block.buffer, block.byteOffset, nCols * BLOCK_ROWS)]
    : [new Uint16Array(bytes.buffer, from, length), new Uint16Array(block.buffer, block.byteOffset, nCols * BLOCK_ROWS)];
  for (let first = 0; first < nCols; first += SINGLE_COLUMNS) {
    const end = Math.min(nCols, first + SINGLE_COLUMNS);
    for (let row = 0; row < nRows; row++) {
      const at = row * words;
      for (let col = first; col < end; col++) tiles[col * BLOCK_ROWS + firstRow + row] = stored[at + col]!;
    }
  }
  return true;
}

/** Writes the rows into `block` at rows firstRow, firstRow + 1, ... */
export function placeRows(format: MatrixFormat, block: Uint8Array, firstRow: number, rows: RowRun, nCols: number): void {
  if (rows.nRows > 0 && placeSingles(format, block, firstRow, rows, nCols)) return;
  const rowBytes = storedRowBytes(typeOfFormat(format), nCols);
  for (let i = 0; i < rows.nRows; i++) {
    const from = rows.start + i * rows.stride;
    if (isSuper(format)) {
      const { bytes, place } = SUPERS[format];
      for (let b = 0; b * bytes < rowBytes; b++) place(rows.bytes, from + b * bytes, block, b, firstRow + i);
      continue;
    }
    movePieces(format, rowBytes, firstRow + i, rows.bytes, from, block, true);
  }
}

/** The reverse of placeRows for one row: writes its stored bytes to `out` at `at`. */
export function takeRow(format: MatrixFormat, block: Uint8Array, row: number, out: Uint8Array, at: number, nCols: number): void {
  const rowBytes = storedRowBytes(typeOfFormat(format), nCols);
  if (isSuper(format)) {
    const { bytes, take } = SUPERS[format];
    for (let b = 0; b * bytes < rowBytes; b++) take(block, b, row, out, at + b * bytes);
    return;
  }
  movePieces(format, rowBytes, row, out, at, block, false);
}

/** What a stored block becomes: entries of [offset in the block, offset in the tile, bytes a row], then steps of 4 bytes a row. */
interface Pieces {
  readonly heads: readonly (readonly [inStored: number, inTile: number, bytes: number])[];
  readonly steps: { readonly inStored: number; readonly inTile: number; readonly n: number };
}

const PIECES: Readonly<Record<Exclude<MatrixFormat, SuperFormat>, Pieces>> = {
  f32: { heads: [[0, 0, 4]], steps: { inStored: 0, inTile: 0, n: 0 } },
  f16: { heads: [[0, 0, 2]], steps: { inStored: 0, inTile: 0, n: 0 } },
  bf16: { heads: [[0, 0, 2]], steps: { inStored: 0, inTile: 0, n: 0 } },
  q8: { heads: [[0, 0, 2]], steps: { inStored: 2, inTile: 64, n: 8 } },
  q4: { heads: [[0, 0, 2]], steps: { inStored: 2, inTile: 64, n: 4 } },
  q4m: { heads: [[0, 0, 2], [2, 64, 2]], steps: { inStored: 4, inTile: 128, n: 4 } },
  q2: { heads: [[0, 0, 2]], steps: { inStored: 2, inTile: 64, n: 2 } },
  q3: { heads: [[0, 0, 2]], steps: { inStored: 2, inTile: 64, n: 3 } },
  mxfp4: { heads: [[0, 0, 1]], steps: { inStored: 1, inTile: 32, n: 4 } },
};

/** Moves every piece of a row that stays together, from the row stored at `start` into the block or back. Packing is mostly this: no calls inside. */
function movePieces(
  format: Exclude<MatrixFormat, SuperFormat>, rowBytes: number, row: number, stored: Uint8Array, start: number, block: Uint8Array, toBlock: boolean,
): void {
  const { heads, steps } = PIECES[format];
  const { bytes } = storedBlock(typeOfFormat(format));
  const tile = tileBytes(format);
  const nBlocks = Math.ceil(rowBytes / bytes);
  const from = toBlock ? stored : block;
  const to = toBlock ? block : stored;
  for (const [inStored, inTile, n] of heads) {
    for (let i = 0; i < nBlocks; i++) {
      const s = start + i * bytes + inStored;
      const t = i * tile + inTile + row * n;
      for (let b = 0; b < n; b++) to[(toBlock ? t : s) + b] = from[(toBlock ? s : t) + b]!;
    }
  }
  for (let i = 0; i < nBlocks; i++) {
    for (let kk = 0; kk < steps.n; kk++) {
      const s = start + i * bytes + steps.inStored + kk * 4;
      const t = i * tile + steps.inTile + kk * 128 + row * 4;
      const a = toBlock ? t : s;
      const b = toBlock ? s : t;
      to[a] = from[b]!;
      to[a + 1] = from[b + 1]!;
      to[a + 2] = from[b + 2]!;
      to[a + 3] = from[b + 3]!;
    }
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
