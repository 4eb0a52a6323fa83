// Matrix products and the fused SwiGLU expert: splits a batch into pieces of 8, 4, 2 and 1 tokens, packs each piece and runs the
// generated products (generate.mjs) over whole row blocks. docs/arithmetic.md sections 5 and 6.
// Refuses anything that would let the size of a piece show in a result: every (row, token) is its own chain.

import { swiglu4 } from "./floats";
import { pack, product } from "./products";
import { quantizeRows } from "./quantize";

const Q8: i32 = 3;

/** Bytes at the head of scratch where the ragged last row block of eight tokens is computed. */
const TAIL_BYTES: usize = 1024;

@inline
function rowBlockBytes(format: i32, nCols: usize): usize {
  if (format == 0) return 128 * nCols;
  if (format < Q8) return 64 * nCols;
  return (format == Q8 ? 34 : 18) * ((nCols + 31) & ~31);
}

@inline
function pieceOf(nTokens: i32): i32 {
  return nTokens >= 8 ? 8 : nTokens >= 4 ? 4 : nTokens >= 2 ? 2 : 1;
}

export function matmul(format: i32, w: usize, nRows: i32, nCols: i32, acts: usize, nTokens: i32, y: usize, yStride: usize, scratch: usize): void {
  const nFull = nRows >> 5;
  const tailBytes = <usize>(nRows & 31) << 2;
  const tail = w + <usize>nFull * rowBlockBytes(format, nCols);
  while (nTokens > 0) {
    const m = pieceOf(nTokens);
    const packed = pack(format, acts, m, nCols, scratch + TAIL_BYTES);
    product(format, m, w, nFull, nCols, packed, y, yStride);
    if (tailBytes != 0) {
      product(format, m, tail, 1, nCols, packed, scratch, 128);
      for (let t: usize = 0; t < <usize>m; t++) memory.copy(y + t * yStride + (<usize>nFull << 7), scratch + (t << 7), tailBytes);
    }
    nTokens -= m;
    acts += <usize>m << 2;
    y += <usize>m * yStride;
  }
}

/** Rows of blocks [16 gate, 16 up] become rows of h = swiglu(gate, up), in place. */
function swigluRows(rows: usize, stride: usize, m: i32, width: i32): void {
  const nBlocks = (width + 15) >> 4;
  for (let t = 0; t < m; t++) {
    let from = rows, to = rows;
    for (let b = 0; b < nBlocks; b++) {
      for (let i: usize = 0; i < 64; i += 16) v128.store(to + i, swiglu4(v128.load(from + i), v128.load(from + i, 64)));
      from += 128;
      to += 64;
    }
    rows += stride;
  }
}

export function expertFfn(
  gateUpFormat: i32, downFormat: i32, w: usize, hidden: i32, width: i32,
  acts: usize, nTokens: i32, y: usize, yStride: usize, scratch: usize,
): void {
  const paddedWidth = <usize>((width + 31) & ~31);
  const gateUpRows = gateUpFormat < Q8 ? 2 * ((width + 15) & ~15) : 2 * <i32>paddedWidth;
  const down = w + <usize>(gateUpRows >> 5) * rowBlockBytes(gateUpFormat, hidden);
  // Scratch: 8 rows of h, 8 quantised rows, their addresses, then the products' own scratch.
  const rowStride = paddedWidth << 3;
  const quantStride = (paddedWidth + (paddedWidth >> 3) + 15) & ~15;
  const quantised = scratch + (rowStride << 3);
  const rowAddresses = quantised + (quantStride << 3);
  const inner = rowAddresses + 256;
  while (nTokens > 0) {
    const m = pieceOf(nTokens);
    matmul(gateUpFormat, w, gateUpRows, hidden, acts, m, scratch, rowStride, inner);
    swigluRows(scratch, rowStride, m, width);
    const isQuantised = downFormat >= Q8;
    if (isQuantised) quantizeRows(scratch, rowStride, quantised, quantStride, m, width);
    for (let t: usize = 0; t < <usize>m; t++) {
      store<u32>(rowAddresses + (t << 2), <u32>(isQuantised ? quantised + t * quantStride : scratch + t * rowStride));
    }
    matmul(downFormat, down, hidden, width, rowAddresses, m, y, yStride, inner);
    nTokens -= m;
    acts += <usize>m << 2;
    y += <usize>m * yStride;
  }
}
