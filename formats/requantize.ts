// What `--quant source` does with each stored type: which kernel format its values go to, and how. Owns the table and its reasons, and the
// repacking of blocks that another block type holds exactly. Refuses formats of fewer bits than the file has.
// The errors named here are measured by the tests on normally distributed weights: relative root mean square, added to what the type itself lost.

import type { MatrixFormat } from "../model/kernels.ts";
import type { MatrixPlace } from "./checkpoint.ts";
import { IQ4_VALUES, q3kScale, q3kValue } from "./dequantize-blocks.ts";
import { Q6K_D_AT, Q6K_SCALES_AT, Q6K_STEPS, addQ6kValue } from "./q6k-blocks.ts";
import { type KernelType, type StoredType, formatOfType, storedBlock, storedRowBytes, typeOfFormat } from "./stored-types.ts";

type OtherType = Exclude<StoredType, KernelType>;

interface Rule {
  readonly format: MatrixFormat;
  /** For types of smaller blocks, where the columns are no multiple of 256, so that super-tiles would be padded. */
  readonly ragged?: MatrixFormat;
  /** Every value is held exactly. */
  readonly isExact: boolean;
  /** Why this format and no smaller one. */
  readonly reason: string;
}

/**
 * A format that holds every value comes first; else the smallest of no fewer bits with which logits stay within two and a half times llama.cpp's own error
 * (docs/models.md has the measurements of every architecture).
 */
export const SOURCE_RULES: Readonly<Record<OtherType, Rule>> = {
  Q3_K: { format: "q6k", isExact: true, reason: "the same steps of 16 values with an integer scale of fewer bits: every value is one of Q6_K's" },
  Q5_0: { format: "q8", isExact: true, reason: "the same groups of 32 with an f16 scale, and integers of fewer bits: every value is one of Q8_0's" },
  IQ4_NL: { format: "q8", isExact: true, reason: "its sixteen levels are 8-bit integers times an f16 scale: every value is one of Q8_0's" },
  Q5_1: { format: "q6k", ragged: "q8", isExact: false, reason: "6.6 bits for 6 (q8: 8.5); adds 1.8 % to 3.8 %, q4m would add 7.4 %" },
  Q5_K: { format: "q8", isExact: false, reason: "8.5 bits for 5.5: groups of 32, as it has; adds 0.5 % to 3.8 %; with q6k (6.6 bits, adds 1.8 %) logits are off by three times as much as llama.cpp's" },
  IQ4_XS: { format: "q8", isExact: false, reason: "8.5 bits for 4.25: its uneven levels are 8-bit integers, only scales are rounded: adds 0.02 % to 8 %; with q6k (adds 1.8 %) logits are off by three times as much as llama.cpp's" },
  Q2_K: { format: "q6k", isExact: false, reason: "6.6 bits for 2.6: groups of 16, as it has; adds 1.5 % to 33 %; with q4k (adds 5 %) logits are off by seven times as much as llama.cpp's" },
};

const isOther = (type: StoredType): type is OtherType => type in SOURCE_RULES;

/** FP8 weights are read as f32 (fp8.ts), but are no more than what the file has. */
export const FP8_RULE: Rule = { format: "q8", isExact: false, reason: "8.5 bits for 8; adds 0.5 % to 2.7 %" };

/** Kernel format of a matrix, at no fewer bits than the file has. */
export function sourceFormat({ type, storedType, nCols }: Pick<MatrixPlace, "type" | "storedType" | "nCols">): MatrixFormat {
  if (storedType === "F8_E4M3") return FP8_RULE.format;
  if (!isOther(type)) return formatOfType(type as KernelType);
  const { format, ragged } = SOURCE_RULES[type];
  return ragged !== undefined && nCols % 256 !== 0 ? ragged : format;
}

/** One block of `bytes` at `at` to blocks of the other type in `out` at `to`, which is zero there. */
type Repacker = (bytes: Uint8Array, at: number, out: Uint8Array, to: number) => void;

function copyHalf(bytes: Uint8Array, at: number, out: Uint8Array, to: number): void {
  out[to] = bytes[at]!;
  out[to + 1] = bytes[at + 1]!;
}

const REPACKERS: Readonly<Partial<Record<OtherType, Repacker>>> = {
  Q3_K: (bytes, at, out, to) => {
    copyHalf(bytes, at + 108, out, to + Q6K_D_AT);
    for (let step = 0; step < Q6K_STEPS; step++) out[to + Q6K_SCALES_AT + step] = q3kScale(bytes, at, step) & 255;
    for (let k = 0; k < 256; k++) addQ6kValue(out, to, k, q3kValue(bytes, at, k) + 32);
  },
  Q5_0: (bytes, at, out, to) => {
    copyHalf(bytes, at, out, to);
    for (let k = 0; k < 32; k++) {
      const byte = bytes[at + 6 + (k & 15)]!;
      const high = (bytes[at + 2 + (k >> 3)]! >> (k & 7)) & 1;
      out[to + 2 + k] = ((k < 16 ? byte & 15 : byte >> 4) + 16 * high - 16) & 255;
    }
  },
  IQ4_NL: (bytes, at, out, to) => {
    copyHalf(bytes, at, out, to);
    for (let k = 0; k < 32; k++) {
      const byte = bytes[at + 2 + (k & 15)]!;
      out[to + 2 + k] = IQ4_VALUES[k < 16 ? byte & 15 : byte >> 4]! & 255;
    }
  },
};

/**
 * The rows as rows of the type of `format`, where that type's blocks hold every value of `type` exactly; null where they do not (the values
 * have to be rounded) and where nothing needs to be done.
 */
export function repackRows(type: StoredType, format: MatrixFormat, bytes: Uint8Array, nRows: number, nCols: number): Uint8Array | null {
  if (!isOther(type) || !SOURCE_RULES[type].isExact || SOURCE_RULES[type].format !== format) return null;
  const repack = REPACKERS[type]!;
  const to = typeOfFormat(format);
  const blockBytes = storedBlock(type).bytes;
  const outBlockBytes = storedBlock(to).bytes;
  const out = new Uint8Array(nRows * storedRowBytes(to, nCols));
  // Blocks of both types hold equally many values, so the blocks of all rows correspond one to one.
  for (let at = 0, o = 0; o < out.length; at += blockBytes, o += outBlockBytes) repack(bytes, at, out, o);
  return out;
}
