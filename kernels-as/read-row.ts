// One row out of a matrix in tile layout, multiplied out: embedding rows, docs/arithmetic.md section 9.

import { loadHalf } from "./floats";

export function readRow(format: i32, w: usize, nCols: usize, row: usize, out: usize): void {
  const block = row >> 5, lane = row & 31;
  if (format < 3) {
    const size: usize = format == 0 ? 4 : 2;
    let from = w + (block * nCols * 32 + lane) * size;
    for (let k: usize = 0; k < nCols; k++) {
      let value: f32;
      if (format == 0) value = load<f32>(from);
      else if (format == 1) value = loadHalf(from);
      else value = reinterpret<f32>(<u32>load<u16>(from) << 16);
      store<f32>(out + (k << 2), value);
      from += size << 5;
    }
    return;
  }
  const tileBytes: usize = format == 3 ? 1088 : 576;
  const nGroups = (nCols + 31) >> 5;
  for (let k: usize = 0; k < nCols; k++) {
    const tile = w + (block * nGroups + (k >> 5)) * tileBytes;
    const scale = loadHalf(tile + (lane << 1));
    let value: i32;
    if (format == 3) {
      value = <i32>load<i8>(tile + 64 + ((k & 31) >> 2) * 128 + (lane << 2) + (k & 3));
    } else {
      const byte = <i32>load<u8>(tile + 64 + ((k & 15) >> 2) * 128 + (lane << 2) + (k & 3));
      value = ((k & 16) == 0 ? byte & 15 : byte >> 4) - 8;
    }
    store<f32>(out + (k << 2), scale * <f32>value);
  }
}
