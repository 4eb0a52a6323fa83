// Random weights as stored bytes, at the speed of copying: a pool of encoded blocks per type and deviation, from which every block is drawn on its own.
// Rows differ, and columns see thousands of different blocks, so matrices have full rank and no two tokens tie. Owns the pools.
// Refuses types that no released file has. Q5_0 is rounded as ggml's quantize_row_q5_0_ref does.

import { encodeRows, noLoss } from "../../formats/quantize.ts";
import { type StoredType, storedBlock } from "../../formats/stored-types.ts";
import { RandomSource, seedOf } from "./random-source.ts";

export type PooledType = Extract<StoredType, "F32" | "BF16" | "Q8_0" | "Q4_K" | "Q5_0" | "Q6_K"> | "F8_E4M3" | "MXFP4_BLOCKS" | "MXFP4_SCALES";

const UNITS = 2048;
/** Values of a unit, the least that is drawn at once: short rows (2,880 is 45 x 64) hold whole ones. */
const UNIT_VALUES: Readonly<Record<PooledType, number>> = {
  F32: 32, BF16: 64, Q8_0: 32, Q5_0: 32, Q4_K: 256, Q6_K: 256, F8_E4M3: 64, MXFP4_BLOCKS: 64, MXFP4_SCALES: 90 * 32,
};
/** Deviation of the codes of FP8 weights: the factor of their block makes the rest. */
export const FP8_CODE_DEVIATION = 64;
const MXFP4_CODE_DEVIATION = 2;

/** Bytes of `nValues` values; MXFP4's blocks and scales count the values they belong to. */
export function pooledBytes(type: PooledType, nValues: number): number {
  if (type === "F8_E4M3") return nValues;
  if (type === "MXFP4_BLOCKS") return nValues / 2;
  if (type === "MXFP4_SCALES") return nValues / 32;
  const { elements, bytes } = storedBlock(type);
  return (nValues / elements) * bytes;
}

/** sign, 4 bits of exponent (bias 7), 3 of mantissa; nearest, at most 448. */
function fp8Code(x: number): number {
  const size = Math.min(448, Math.abs(x));
  const exponent = Math.max(-6, Math.floor(Math.log2(size || 2 ** -20)));
  const steps = Math.round(size / 2 ** (exponent - 3));
  // A mantissa that rounds up to 16 is the next exponent's 8: the code just counts on.
  const code = steps < 8 && exponent === -6 ? steps : (exponent + 7) * 8 + steps - 8;
  return Math.min(0x7e, code) | (x < 0 ? 128 : 0);
}

function q5Blocks(values: Float32Array): Uint8Array {
  const { bytes } = storedBlock("Q5_0");
  const out = new Uint8Array((values.length / 32) * bytes);
  const view = new DataView(out.buffer);
  for (let b = 0; b < values.length / 32; b++) {
    const x = values.subarray(32 * b, 32 * b + 32);
    const extreme = x.reduce((most, value) => (Math.abs(value) > Math.abs(most) ? value : most), 0);
    const scale = extreme / -16;
    view.setFloat16(b * bytes, scale, true);
    for (let i = 0; i < 32; i++) {
      const q = scale === 0 ? 16 : Math.min(31, Math.max(0, Math.floor(x[i]! / scale + 16.5)));
      out[b * bytes + 2 + (i >> 3)]! |= (q >> 4) << (i & 7);
      out[b * bytes + 6 + (i & 15)]! |= (q & 15) << (i < 16 ? 0 : 4);
    }
  }
  return out;
}

function encodePool(type: PooledType, values: Float32Array): Uint8Array {
  switch (type) {
    case "F32": return new Uint8Array(values.buffer);
    case "BF16": return new Uint8Array(Uint16Array.from(new Uint32Array(values.buffer), (bits) => (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16).buffer);
    case "F8_E4M3": return Uint8Array.from(values, fp8Code);
    case "Q5_0": return q5Blocks(values);
    case "MXFP4_BLOCKS": {
      const LEVELS = [0, 0.5, 1, 1.5, 2, 3, 4, 6];
      const code = (x: number): number => LEVELS.reduce((best, level, i) => (Math.abs(level - Math.abs(x)) < Math.abs(LEVELS[best]! - Math.abs(x)) ? i : best), 0) | (x < 0 ? 8 : 0);
      return Uint8Array.from({ length: values.length / 2 }, (_, i) => code(values[2 * i]!) | (code(values[2 * i + 1]!) << 4));
    }
    case "MXFP4_SCALES": throw new Error("Scales are drawn, not encoded.");
    default: return encodeRows(type, "pool", values, UNITS, values.length / UNITS, noLoss());
  }
}

export class BlockPool {
  readonly #units: readonly Uint8Array[];
  readonly unitBytes: number;

  /** Blocks of normal weights of the deviation given. */
  constructor(type: PooledType, deviation: number) {
    const random = new RandomSource(seedOf(`${type} ${deviation}`, 7));
    const n = UNIT_VALUES[type];
    let bytes: Uint8Array;
    if (type === "MXFP4_SCALES") {
      // A block's exponent varies as its largest value does: by one now and then.
      const exponent = 127 + Math.round(Math.log2(deviation / MXFP4_CODE_DEVIATION));
      bytes = Uint8Array.from({ length: (UNITS * n) / 32 }, () => exponent + [-1, 0, 0, 0][random.below(4)]!);
    } else {
      const values = new Float32Array(UNITS * n);
      random.fillNormal(values, type === "F8_E4M3" ? FP8_CODE_DEVIATION : type === "MXFP4_BLOCKS" ? MXFP4_CODE_DEVIATION : deviation);
      bytes = encodePool(type, values);
    }
    this.unitBytes = bytes.length / UNITS;
    this.#units = Array.from({ length: UNITS }, (_, i) => bytes.subarray(i * this.unitBytes, (i + 1) * this.unitBytes));
  }

  /** Draws units until `out` is full; the last may be cut. */
  fill(out: Uint8Array, random: RandomSource): void {
    const units = this.#units;
    const whole = out.length - (out.length % this.unitBytes);
    for (let at = 0; at < whole; at += this.unitBytes) out.set(units[random.below(UNITS)]!, at);
    if (whole < out.length) out.set(units[random.below(UNITS)]!.subarray(0, out.length - whole), whole);
  }
}

/** Whether a row of so many values is made of whole blocks of the type. */
export const holdsRows = (type: StoredType, nCols: number): boolean => nCols % storedBlock(type).elements === 0;
