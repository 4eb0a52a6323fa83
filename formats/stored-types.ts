// Element types in which matrices are stored row by row, and the kernel format that holds each without loss. Owns the sizes of
// rows and where their scales lie. Refuses every other ggml type by name. Bytes are little-endian, as is every host of this code.
// Block layouts: ggml-common.h (block_q8_0: f16 d, 32 x i8; block_q4_0: f16 d, 16 x u8, low nibbles first; block_q4_1: f16 d,
// f16 m, 16 x u8; block_q4_K: f16 d, f16 dmin, 12 bytes of 6-bit scales and minima, 128 x u8; block_q6_K: 128 x u8 low bits, 64 x u8 high
// bits, 16 x i8 scales, f16 d; block_mxfp4: u8 e, 16 x u8).
// Q2_32 is ours: f16 d, 8 x u8 in the order of docs/arithmetic.md's q2. No file holds it; matrices are quantised to it.

import { ModelError } from "../model/config.ts";
import type { MatrixFormat } from "../model/kernels.ts";

/** Types that checkpoint files may hold. */
export const FILE_TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K", "MXFP4"] as const;
export const STORED_TYPES = [...FILE_TYPES, "Q2_32"] as const;
export type StoredType = (typeof STORED_TYPES)[number];

interface StoredBlock {
  readonly format: MatrixFormat;
  readonly elements: number;
  readonly bytes: number;
  /** Offsets in a block of what must be a finite f16. */
  readonly halves: readonly number[];
  /** Offset of an E8M0 exponent, which must not be 255 (NaN); null where there is none. */
  readonly exponent: number | null;
}

const block = (format: MatrixFormat, elements: number, bytes: number, halves: readonly number[] = [], exponent: number | null = null): StoredBlock =>
  ({ format, elements, bytes, halves, exponent });

const BLOCKS: Readonly<Record<StoredType, StoredBlock>> = {
  F32: block("f32", 1, 4), F16: block("f16", 1, 2), BF16: block("bf16", 1, 2),
  Q8_0: block("q8", 32, 34, [0]), Q4_0: block("q4", 32, 18, [0]), Q4_1: block("q4m", 32, 20, [0, 2]), Q4_K: block("q4k", 256, 144, [0, 2]),
  Q6_K: block("q6k", 256, 210, [208]),
  MXFP4: block("mxfp4", 32, 17, [], 0), Q2_32: block("q2", 32, 10, [0]),
};

/** Elements and bytes of a block, and its scales. */
export const storedBlock = (type: StoredType): StoredBlock => BLOCKS[type];

/** Bytes of one stored row; a last block that is not full is padded. */
export const storedRowBytes = (type: StoredType, nCols: number): number =>
  Math.ceil(nCols / BLOCKS[type].elements) * BLOCKS[type].bytes;

/** Bytes from the start of a row to a column that starts a block. */
export function storedColumnOffset(type: StoredType, column: number): number {
  const { elements, bytes } = BLOCKS[type];
  if (column % elements !== 0) throw new ModelError(`Column ${column} is inside a block of ${elements} of type ${type}.`);
  return (column / elements) * bytes;
}

/** The kernel format that holds the type without loss. */
export const formatOfType = (type: StoredType): MatrixFormat => BLOCKS[type].format;
/** The stored type with the values of a kernel format. */
export const typeOfFormat = (format: MatrixFormat): StoredType => STORED_TYPES.find((t) => BLOCKS[t].format === format)!;
