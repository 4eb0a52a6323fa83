// Element types in which matrices are stored row by row, and the kernel format that holds each as it is, where there is one (what becomes
// of the others: requantize.ts). Owns the sizes of rows and where their scales lie. Refuses every other ggml type by name. Bytes are
// little-endian, as is every host of this code. Block layouts: ggml-common.h, written out in dequantize.ts.
// Q2_32 and Q3_32 are ours: f16 d, 8 or 12 x u8 in the order of docs/arithmetic.md's q2 and q3. No file holds them; matrices are quantised to them.

import { ModelError } from "../model/config.ts";
import type { MatrixFormat } from "../model/kernels.ts";

/** Types that checkpoint files may hold and kernels compute with. */
const KERNEL_FILE_TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K", "MXFP4"] as const;
/** Types that checkpoint files may hold, but no kernel. */
const OTHER_FILE_TYPES = ["Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q5_K", "IQ4_NL", "IQ4_XS"] as const;
/** Types that checkpoint files may hold. */
export const FILE_TYPES = [...KERNEL_FILE_TYPES, ...OTHER_FILE_TYPES] as const;
/** Types with the values of a kernel format: what matrices can be placed into tiles from. */
export const KERNEL_TYPES = [...KERNEL_FILE_TYPES, "Q2_32", "Q3_32"] as const;
export const STORED_TYPES = [...KERNEL_TYPES, ...OTHER_FILE_TYPES] as const;
export type KernelType = (typeof KERNEL_TYPES)[number];
export type StoredType = (typeof STORED_TYPES)[number];

interface StoredBlock {
  readonly elements: number;
  readonly bytes: number;
  /** Offsets in a block of what must be a finite f16. */
  readonly halves: readonly number[];
  /** Offset of an E8M0 exponent, which must not be 255 (NaN); null where there is none. */
  readonly exponent: number | null;
}

const block = (elements: number, bytes: number, halves: readonly number[] = [], exponent: number | null = null): StoredBlock =>
  ({ elements, bytes, halves, exponent });

const BLOCKS: Readonly<Record<StoredType, StoredBlock>> = {
  F32: block(1, 4), F16: block(1, 2), BF16: block(1, 2),
  Q8_0: block(32, 34, [0]), Q4_0: block(32, 18, [0]), Q4_1: block(32, 20, [0, 2]), Q5_0: block(32, 22, [0]), Q5_1: block(32, 24, [0, 2]),
  Q2_K: block(256, 84, [80, 82]), Q3_K: block(256, 110, [108]), Q4_K: block(256, 144, [0, 2]), Q5_K: block(256, 176, [0, 2]),
  Q6_K: block(256, 210, [208]), IQ4_NL: block(32, 18, [0]), IQ4_XS: block(256, 136, [0]),
  MXFP4: block(32, 17, [], 0), Q2_32: block(32, 10, [0]), Q3_32: block(32, 14, [0]),
};

const FORMATS: Readonly<Record<KernelType, MatrixFormat>> = {
  F32: "f32", F16: "f16", BF16: "bf16", Q8_0: "q8", Q4_0: "q4", Q4_1: "q4m", Q4_K: "q4k", Q6_K: "q6k", MXFP4: "mxfp4", Q2_32: "q2", Q3_32: "q3",
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

const isKernelType = (type: StoredType): type is KernelType => type in FORMATS;

/** The kernel format whose tiles are the type's blocks re-ordered, or null. */
export function formatOfType(type: KernelType): MatrixFormat;
export function formatOfType(type: StoredType): MatrixFormat | null;
export function formatOfType(type: StoredType): MatrixFormat | null {
  return isKernelType(type) ? FORMATS[type] : null;
}

/** The stored type with the values of a kernel format. */
export const typeOfFormat = (format: MatrixFormat): KernelType => KERNEL_TYPES.find((t) => FORMATS[t] === format)!;
