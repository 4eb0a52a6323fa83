// Stored rows to float32. Owns the meaning of every stored type's bits; all conversions are exact (Q8_0: 11 + 8 bits of
// significand, Q4_0: 11 + 4, Q6_K: 11 + 7 + 5), except that the sum of Q4_1 and Q4_K, exact in float64, is rounded once, as the kernels do.
// Refuses writing. Layouts: ggml-quants.c, dequantize_row_*.

import { Q4K_BLOCK_BYTES, q4kNibble, q4kScale } from "./q4k-blocks.ts";
import { Q6K_BLOCK_BYTES, Q6K_D_AT, Q6K_SCALES_AT, q6kValue } from "./q6k-blocks.ts";
import { type StoredType, storedRowBytes } from "./stored-types.ts";

/** Twice the value of each E2M1 code. */
export const E2M1_DOUBLED = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12] as const;

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
      case "Q4_1":
        for (let c = 0; c < nCols; c++) {
          const block = from + (c >> 5) * 20;
          const byte = bytes[block + 4 + (c & 15)]!;
          out[to + c] = view.getFloat16(block, true) * ((c & 16) === 0 ? byte & 15 : byte >> 4) + view.getFloat16(block + 2, true);
        }
        break;
      case "Q4_K":
        for (let c = 0; c < nCols; c++) {
          const block = from + (c >> 8) * Q4K_BLOCK_BYTES;
          const { sc, m } = q4kScale(bytes, block, (c & 255) >> 5);
          out[to + c] = view.getFloat16(block, true) * sc * q4kNibble(bytes, block, c & 255) - view.getFloat16(block + 2, true) * m;
        }
        break;
      case "Q6_K":
        for (let c = 0; c < nCols; c++) {
          const block = from + (c >> 8) * Q6K_BLOCK_BYTES;
          const sc = view.getInt8(block + Q6K_SCALES_AT + ((c & 255) >> 4));
          out[to + c] = view.getFloat16(block + Q6K_D_AT, true) * Math.imul(sc, q6kValue(bytes, block, c & 255) - 32); // an integer has no minus zero
        }
        break;
      case "MXFP4":
        for (let c = 0; c < nCols; c++) {
          const block = from + (c >> 5) * 17;
          const byte = bytes[block + 1 + (c & 15)]!;
          out[to + c] = 2 ** (bytes[block]! - 128) * E2M1_DOUBLED[(c & 16) === 0 ? byte & 15 : byte >> 4]!;
        }
        break;
      case "Q2_32":
        for (let c = 0; c < nCols; c++) {
          const block = from + (c >> 5) * 10;
          const byte = bytes[block + 2 + ((c & 16) >> 2) + (c & 3)]!;
          out[to + c] = view.getFloat16(block, true) * (2 * ((byte >> (2 * ((c & 12) >> 2))) & 3) - 3);
        }
        break;
    }
  }
  return out;
}
