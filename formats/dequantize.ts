// Stored rows to float32. Owns the meaning of every stored type's bits; all conversions are exact (Q8_0: 11 + 8 bits of
// significand, Q4_0: 11 + 4). Refuses writing. Layouts: ggml-quants.c, dequantize_row_*.

import { type StoredType, storedRowBytes } from "./stored-types.ts";

/** f32 [nRows, nCols] of row-major stored bytes. */
export function decodeRows(type: StoredType, bytes: Uint8Array, nRows: number, nCols: number): Float32Array {
  const rowBytes = storedRowBytes(type, nCols);
  if (bytes.length < nRows * rowBytes) {
    throw new RangeError(`${nRows} rows of ${nCols} x ${type} need ${nRows * rowBytes} bytes, found ${bytes.length}.`);
  }
  const out = new Float32Array(nRows * nCols);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let r = 0; r < nRows; r++) {
    const from = r * rowBytes;
    const to = r * nCols;
    switch (type) {
      case "F32":
        for (let c = 0; c < nCols; c++) out[to + c] = view.getFloat32(from + 4 * c, true);
        break;
      case "F16":
        for (let c = 0; c < nCols; c++) out[to + c] = view.getFloat16(from + 2 * c, true);
        break;
      case "BF16": {
        const bits = new Uint32Array(out.buffer, 4 * to, nCols);
        for (let c = 0; c < nCols; c++) bits[c] = view.getUint16(from + 2 * c, true) << 16;
        break;
      }
      case "Q8_0":
        for (let c = 0; c < nCols; c++) {
          const block = from + (c >> 5) * 34;
          out[to + c] = view.getFloat16(block, true) * view.getInt8(block + 2 + (c & 31));
        }
        break;
      case "Q4_0":
        for (let c = 0; c < nCols; c++) {
          const block = from + (c >> 5) * 18;
          const byte = bytes[block + 2 + (c & 15)]!;
          out[to + c] = view.getFloat16(block, true) * (((c & 16) === 0 ? byte & 15 : byte >> 4) - 8);
        }
        break;
    }
  }
  return out;
}
