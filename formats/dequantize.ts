// Stored rows to float32. Owns the walk over rows and blocks; what the bits of a quantised block mean is dequantize-blocks.ts.
// Refuses writing, and rows that are not all there.

import { BLOCK_DECODERS, type BlockType } from "./dequantize-blocks.ts";
import { type StoredType, storedBlock, storedRowBytes } from "./stored-types.ts";

/** f32 [nRows, nCols] of row-major stored bytes. */
export function decodeRows(type: StoredType, bytes: Uint8Array, nRows: number, nCols: number): Float32Array<ArrayBuffer> {
  const rowBytes = storedRowBytes(type, nCols);
  if (bytes.length < nRows * rowBytes) {
    throw new RangeError(`${nRows} rows of ${nCols} x ${type} need ${nRows * rowBytes} bytes, found ${bytes.length}.`);
  }
  const out = new Float32Array(nRows * nCols);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  switch (type) {
    case "F32":
      for (let i = 0; i < out.length; i++) out[i] = view.getFloat32(4 * i, true);
      break;
    case "F16":
      for (let i = 0; i < out.length; i++) out[i] = view.getFloat16(2 * i, true);
      break;
    case "BF16": {
      const bits = new Uint32Array(out.buffer);
      for (let i = 0; i < out.length; i++) bits[i] = view.getUint16(2 * i, true) << 16;
      break;
    }
    default:
      decodeBlocks(type, bytes, view, nRows, nCols, rowBytes, out);
  }
  return out;
}

function decodeBlocks(type: BlockType, bytes: Uint8Array, view: DataView, nRows: number, nCols: number, rowBytes: number, out: Float32Array): void {
  const { elements, bytes: blockBytes } = storedBlock(type);
  const decode = BLOCK_DECODERS[type];
  const whole = Math.floor(nCols / elements);
  const rest = new Float32Array(elements); // of a last block that the row does not fill
  for (let r = 0; r < nRows; r++) {
    for (let b = 0; b < whole; b++) decode(bytes, view, r * rowBytes + b * blockBytes, out, r * nCols + b * elements);
    if (whole * elements === nCols) continue;
    decode(bytes, view, r * rowBytes + whole * blockBytes, rest, 0);
    out.set(rest.subarray(0, nCols - whole * elements), r * nCols + whole * elements);
  }
}
