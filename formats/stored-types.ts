// Element types in which checkpoints store matrices, row by row, and the kernel format that holds each without loss.
// Owns sizes of rows. Refuses every other ggml type by name. Bytes are little-endian, as is every host of this code.
// Block layouts: ggml-common.h (block_q8_0: f16 d, 32 x i8; block_q4_0: f16 d, 16 x u8, low nibbles first).

import { ModelError } from "../model/config.ts";
import type { MatrixFormat } from "../model/kernels.ts";

export const STORED_TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0"] as const;
export type StoredType = (typeof STORED_TYPES)[number];

/** Elements of a block and its bytes. */
const BLOCKS: Readonly<Record<StoredType, readonly [elements: number, bytes: number]>> = {
  F32: [1, 4], F16: [1, 2], BF16: [1, 2], Q8_0: [32, 34], Q4_0: [32, 18],
};

/** Bytes of one stored row; a last block that is not full is padded. */
export const storedRowBytes = (type: StoredType, nCols: number): number =>
  Math.ceil(nCols / BLOCKS[type][0]) * BLOCKS[type][1];

/** Bytes from the start of a row to a column that starts a block. */
export function storedColumnOffset(type: StoredType, column: number): number {
  const [elements, bytes] = BLOCKS[type];
  if (column % elements !== 0) throw new ModelError(`Column ${column} is inside a block of ${elements} of type ${type}.`);
  return (column / elements) * bytes;
}

const FORMATS: Readonly<Record<StoredType, MatrixFormat>> = { F32: "f32", F16: "f16", BF16: "bf16", Q8_0: "q8", Q4_0: "q4" };

/** The kernel format that holds the type without loss. */
export const formatOfType = (type: StoredType): MatrixFormat => FORMATS[type];
/** The stored type with the values of a kernel format. */
export const typeOfFormat = (format: MatrixFormat): StoredType => STORED_TYPES.find((t) => FORMATS[t] === format)!;
