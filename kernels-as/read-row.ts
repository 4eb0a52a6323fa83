// One row out of a matrix in tile layout, multiplied out: embedding rows, docs/arithmetic.md section 9.

import { E2M1_TABLE, TILE_BYTES } from "./constants";
import { loadHalf } from "./floats";

const Q8: i32 = 3;
const Q4: i32 = 4;
const Q4M: i32 = 5;
const Q4K: i32 = 6;
const Q2: i32 = 7;
const MXFP4: i32 = 8;
const Q6K: i32 = 9;
const Q3: i32 = 10;

/** f32, f16 and bf16: one value a column. */
function readFloats(format: i32, w: usize, nCols: usize, row: usize, out: usize): void {
  const size: usize = format == 0 ? 4 : 2;
  let from = w + ((row >> 5) * nCols * 32 + (row & 31)) * size;
  for (let k: usize = 0; k < nCols; k++) {
    let value: f32;
    if (format == 0) value = load<f32>(from);
    else if (format == 1) value = loadHalf(from);
    else value = reinterpret<f32>(<u32>load<u16>(from) << 16);
    store<f32>(out + (k << 2), value);
    from += size << 5;
  }
}

/** 2^(e - 128). */
@inline
function exponentScale(e: u32): f32 {
  return reinterpret<f32>(e > 1 ? (e - 1) << 23 : 0x00200000 << e);
}

/** Value k of a row and group of q6k; `step` is where the row's values of the step of 16 k start. */
@inline
function sixBits(step: usize, k: usize): i32 {
  const at = step + (k & 3);
  const plane = (k & 15) >> 2;
  if (plane < 3) return (<i32>load<u8>(at + plane * 128) & 63) - 32;
  return ((<i32>load<u8>(at) >> 6) << 4 | (<i32>load<u8>(at + 128) >> 6) << 2 | <i32>load<u8>(at + 256) >> 6) - 32;
}

/** Value k of a row and group of q3; `values` is where the row's bytes of the first plane start. */
@inline
function threeBits(values: usize, k: usize): i32 {
  const at = values + (k & 3);
  const n = <i32>k >> 2;
  if (n < 6) return (<i32>load<u8>(at + (n >> 1) * 128) >> 3 * (n & 1) & 7) - 4;
  return (<i32>load<u8>(at + (n - 6) * 128) >> 6 | (<i32>load<u8>(at + 256) >> n & 1) << 2) - 4;
}

export function readRow(format: i32, w: usize, nCols: usize, row: usize, out: usize): void {
  if (format < Q8) {
    readFloats(format, w, nCols, row, out);
    return;
  }
  const lane = row & 31;
  const nGroups = (nCols + 31) >> 5;
  const tileBytes = <usize>load<u16>(TILE_BYTES + (<usize>format << 1));
  const hasMinimum = format == Q4M || format == Q4K;
  const valuesAt: usize = format == Q4M ? 128 : format == MXFP4 || format == Q6K ? 32 : 64;
  for (let g: usize = 0; g < nGroups; g++) {
    let tile: usize, scale: f32, minimum: f32 = 0;
    if (format == Q4K) {
      const head = w + ((row >> 5) * ((nGroups + 7) >> 3) + (g >> 3)) * tileBytes;
      tile = head + 128 + (g & 7) * 576;
      scale = loadHalf(head + (lane << 1)) * <f32>load<u8>(tile + lane);
      minimum = -(loadHalf(head + 64 + (lane << 1)) * <f32>load<u8>(tile + 32 + lane));
    } else if (format == Q6K) {
      const head = w + ((row >> 5) * ((nGroups + 7) >> 3) + (g >> 3)) * tileBytes;
      tile = head + 64 + (g & 7) * 832;
      scale = loadHalf(head + (lane << 1));
    } else {
      tile = w + ((row >> 5) * nGroups + g) * tileBytes;
      scale = format == MXFP4 ? exponentScale(load<u8>(tile + lane)) : loadHalf(tile + (lane << 1));
      if (format == Q4M) minimum = loadHalf(tile + 64 + (lane << 1));
    }
    const values = tile + valuesAt + (lane << 2);
    const n = min<usize>(32, nCols - (g << 5));
    for (let k: usize = 0; k < n; k++) {
      let q: i32;
      if (format == Q8) q = <i32>load<i8>(values + (k >> 2) * 128 + (k & 3));
      else if (format == Q6K) q = <i32>load<i8>(tile + (k >> 4) * 416 + lane) * sixBits(values + (k >> 4) * 416, k);
      else if (format == Q2) q = 2 * ((<i32>load<u8>(values + (k >> 4) * 128 + (k & 3)) >> ((<i32>k & 12) >> 1)) & 3) - 3;
      else if (format == Q3) q = threeBits(values, k);
      else {
        const byte = <i32>load<u8>(values + ((k & 15) >> 2) * 128 + (k & 3));
        q = k < 16 ? byte & 15 : byte >> 4;
        if (format == Q4) q -= 8;
        else if (format == MXFP4) q = <i32>load<u8>(E2M1_TABLE + <usize>q) - 12;
      }
      const value = scale * <f32>q;
      store<f32>(out + (((g << 5) + k) << 2), hasMinimum ? value + minimum : value);
    }
  }
}
