// FP8 weights as DeepSeek-V3 publishes them: e4m3 numbers ("e4m3fn": no infinities, one NaN of each sign) and an f32 factor for every block
// of 128 x 128, stored as <name>_scale_inv. Owns their meaning: w = fp8 * scale_inv[row >> 7][col >> 7], rounded once to f32, as
// inference/kernel.py's weight_dequant has it. Refuses NaN codes and factors that are not finite, naming the tensor.

import { ModelError } from "../model/config.ts";

/** Rows and columns of a block of one factor. */
export const FP8_BLOCK = 128;

/** Value of every code: sign, 4 bits of exponent with bias 7, 3 of mantissa; exponent 0 is subnormal, 0x7f and 0xff are NaN. */
const E4M3 = Float32Array.from({ length: 256 }, (_, code) => {
  const [exponent, mantissa] = [(code >> 3) & 15, code & 7];
  if ((code & 127) === 127) return NaN;
  return (code < 128 ? 1 : -1) * (exponent === 0 ? mantissa * 2 ** -9 : (8 + mantissa) * 2 ** (exponent - 10));
});

/** Shape of the factors of a matrix. */
export const fp8ScaleShape = (nRows: number, nCols: number): readonly [rows: number, cols: number] =>
  [Math.ceil(nRows / FP8_BLOCK), Math.ceil(nCols / FP8_BLOCK)];

/**
 * f32 [nRows, nCols] of one byte a value: rows firstRow .. firstRow + nRows - 1 of a matrix whose factors are `scaleInv`,
 * [ceil(rows of the matrix / 128), ceil(nCols / 128)]. Throws ModelError naming `name`, row and column.
 */
export function decodeFp8Rows(
  bytes: Uint8Array, nRows: number, nCols: number, scaleInv: Float32Array, firstRow: number, name: string,
): Float32Array<ArrayBuffer> {
  const scaleCols = Math.ceil(nCols / FP8_BLOCK);
  const scaleRows = Math.ceil((firstRow + nRows) / FP8_BLOCK);
  if (bytes.length < nRows * nCols) throw new RangeError(`${nRows} rows of ${nCols} x F8_E4M3 need ${nRows * nCols} bytes, found ${bytes.length}.`);
  if (scaleInv.length < scaleRows * scaleCols) {
    throw new ModelError(`${name}: rows up to ${firstRow + nRows} of ${nCols} columns need ${scaleRows} x ${scaleCols} factors of 128 x 128, found ${scaleInv.length}.`);
  }
  const out = new Float32Array(nRows * nCols);
  for (let r = 0; r < nRows; r++) {
    const row = firstRow + r;
    for (let block = 0; block < scaleCols; block++) {
      const scale = scaleInv[(row >> 7) * scaleCols + block]!;
      if (!Number.isFinite(scale)) {
        throw new ModelError(`${name}: the factor of rows ${row & ~127} to ${row | 127}, columns ${block * 128} to ${block * 128 + 127} is ${scale}, expected a finite number.`);
      }
      const end = Math.min(nCols, (block + 1) * FP8_BLOCK);
      for (let c = block * FP8_BLOCK; c < end; c++) {
        const code = bytes[r * nCols + c]!;
        if ((code & 127) === 127) throw new ModelError(`${name}, row ${row}, column ${c} holds the code 0x${code.toString(16)} (NaN), expected a number.`);
        out[r * nCols + c] = E4M3[code]! * scale;
      }
    }
  }
  return out;
}
