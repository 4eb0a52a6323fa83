// Matrix products and the fused expert: splits a batch into pieces of 8, 4, 2 and 1 tokens, packs each piece and runs the
// generated products (generate.mjs) over whole row blocks. docs/arithmetic.md sections 5 and 6. Within an expert only h is ever
// written as a whole: gate and up become h two row blocks at a time.
// Refuses anything that would let the size of a piece show in a result: every (row, token) is its own chain.

import { FIRST_UNGATED, RELU, SWIGLU, activateGroup } from "./activations";
import { TILE_BYTES, TILE_COLUMN_SHIFTS } from "./constants";
import { pack, product } from "./products";
import { addBiasRows } from "./rows";
import { downOfSparse } from "./zero-skipping";

/** Formats from this code on consume qa8 activations. */
export const Q8: i32 = 3;

/** Bytes at the head of scratch where the ragged last row block of eight tokens is computed. */
export const TAIL_BYTES: usize = 1024;

@inline
export function rowBlockBytes(format: i32, nCols: usize): usize {
  const shift = <usize>load<u8>(TILE_COLUMN_SHIFTS + <usize>format);
  return <usize>load<u16>(TILE_BYTES + (<usize>format << 1)) * ((nCols + (<usize>1 << shift) - 1) >> shift);
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

/** Bytes at the head of the expert's scratch: gate and up of two row blocks, for eight tokens. */
const PAIR_BYTES: usize = 2048;

/**
 * h of the gate and up of m tokens, a group of 32 at a time, so that gate and up never leave the L1 cache: two row blocks of gate and up, or one of up alone. As f32
 * rows, or at once as qa8 rows. `pair` is PAIR_BYTES of scratch; biases lie in the order of the rows.
 */
function gateUp(
  kind: i32, limit: v128, biases: usize, format: i32, w: usize, input: usize, width: i32, m: i32, packed: usize, pair: usize, h: usize, hStride: usize, isQuantised: bool,
): void {
  const isGated = kind < FIRST_UNGATED;
  const groupBytes = rowBlockBytes(format, input) << <usize>isGated;
  const nGroups = <usize>((width + 31) >> 5);
  const scales = h + (nGroups << 5);
  for (let g: usize = 0; g < nGroups; g++) {
    const left = width - (<i32>g << 5);
    // With a gate, formats of f32 activations pad to 16 rows of each, so their last row block may stand alone.
    const nBlocks = !isGated || (format < Q8 && left <= 16) ? 1 : 2;
    product(format, m, w, nBlocks, input, packed, pair, 256);
    for (let t: usize = 0; t < <usize>m; t++) {
      const row = h + t * hStride;
      if (isQuantised) activateGroup(kind, limit, biases, pair + (t << 8), nBlocks, left, row + (g << 5), scales + t * hStride + (g << 2));
      else activateGroup(kind, limit, biases, pair + (t << 8), nBlocks, left, row + (g << 7), 0);
    }
    w += groupBytes;
    biases += isGated ? 256 : 128;
  }
}

export function expertFfn(
  kind: i32, limit: f32, gateUpFormat: i32, downFormat: i32, w: usize, input: i32, hidden: i32, width: i32,
  acts: usize, nTokens: i32, y: usize, yStride: usize, scratch: usize,
): i32 {
  const paddedWidth = <usize>((width + 31) & ~31);
  const gateUpRows = kind >= FIRST_UNGATED ? <i32>paddedWidth : gateUpFormat < Q8 ? 2 * ((width + 15) & ~15) : 2 * <i32>paddedWidth;
  const down = w + <usize>(gateUpRows >> 5) * rowBlockBytes(gateUpFormat, input);
  // Biases of the gate-up rows, which fill 16 bytes, then of down.
  const biases = down + <usize>((hidden + 31) >> 5) * rowBlockBytes(downFormat, width);
  const downBiases = biases + (<usize>gateUpRows << 2);
  // Scratch: gate and up of two row blocks, 8 rows of h, their addresses, then the products' own scratch.
  const isQuantised = downFormat >= Q8;
  const hStride = isQuantised ? (paddedWidth + (paddedWidth >> 3) + 15) & ~15 : paddedWidth << 2;
  const h = scratch + PAIR_BYTES;
  const rowAddresses = h + (hStride << 3);
  const inner = rowAddresses + 64; // packs start on cache lines when scratch does
  for (let t: usize = 0; t < 8; t++) store<u32>(rowAddresses + (t << 2), <u32>(h + t * hStride));
  let nLeftOut = 0;
  while (nTokens > 0) {
    const m = pieceOf(nTokens);
    const packed = pack(gateUpFormat, acts, m, input, inner + TAIL_BYTES);
    gateUp(kind, f32x4.splat(limit), biases, gateUpFormat, w, input, width, m, packed, scratch, h, hStride, isQuantised);
    if (kind == RELU) nLeftOut += downOfSparse(downFormat, down, hidden, width, h, hStride, rowAddresses, m, y, yStride, inner);
    else matmul(downFormat, down, hidden, width, rowAddresses, m, y, yStride, inner);
    if (kind != SWIGLU) addBiasRows(y, yStride, downBiases, m, hidden);
    nTokens -= m;
    acts += <usize>m << 2;
    y += <usize>m * yStride;
  }
  return nLeftOut;
}
