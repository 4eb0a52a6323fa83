// Row-major stored bytes of test matrices, in every type the writers here can write. F16 and BF16 are written by this
// file, the quantised types by the packer's own quantiser or, where it has none or searches for long, by block-writers.ts. Refuses values that F16 and BF16 would round, so that all
// forms of a tiny model hold the same weights.

import { encodeRows, noLoss } from "../../formats/quantize.ts";
import type { StoredType } from "../../formats/stored-types.ts";
import { isWrittenType, writeBlocks } from "./block-writers.ts";

const word = new Float32Array(1);
const bits = new Uint32Array(word.buffer);

/** The nearest value that F32, BF16 and F16 all hold: bf16's 8 significant bits, nothing below 2^-16. */
export function roundForAllTypes(x: number): number {
  word[0] = x;
  const low = bits[0]! & 0xffff;
  bits[0] = (bits[0]! & 0xffff0000) >>> 0;
  if (low >= 0x8000) bits[0] += 0x10000;
  return Math.abs(word[0]) < 2 ** -16 ? 0 : word[0];
}

export function storedRows(type: StoredType, values: Float32Array, nRows: number, nCols: number): Uint8Array {
  if (isWrittenType(type)) return writeBlocks(type, values, nRows, nCols);
  if (type !== "F16" && type !== "BF16") return encodeRows(type, "test matrix", values, nRows, nCols, noLoss());
  const out = new Uint8Array(values.length * 2);
  const view = new DataView(out.buffer);
  values.forEach((x, i) => {
    if (type === "F16") {
      if (Math.f16round(x) !== x) throw new Error(`${x} is no f16 value.`);
      view.setFloat16(2 * i, x, true);
    } else {
      word[0] = x;
      if ((bits[0]! & 0xffff) !== 0) throw new Error(`${x} is no bf16 value.`);
      view.setUint16(2 * i, bits[0]! >>> 16, true);
    }
  });
  return out;
}
