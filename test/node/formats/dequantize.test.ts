// Every quantised type against vectors computed by hand: for chosen positions, the integers that ggml's layout (ggml-common.h) makes of the
// bytes written here, times scales that are negative, zero, subnormal and extreme. Then whole drawn blocks against a second reading of the
// layouts, by bit strings, and against writers that know the layouts from the other side.

import { describe, expect, it } from "vitest";
import { decodeRows } from "../../../formats/dequantize.ts";
import type { BlockType } from "../../../formats/dequantize-blocks.ts";
import { storedBlock } from "../../../formats/stored-types.ts";
import { type WrittenType, writeBlocks } from "../../support/block-writers.ts";
import { SeededRandom } from "../../support/seeded-random.ts";

interface Vector {
  /** Bytes by offset; everything else is zero. */
  readonly bytes: Readonly<Record<number, number>>;
  /** Offsets of the f16 scale, and of the minimum where there is one. */
  readonly scaleAt: number;
  readonly minAt?: number;
  /** [position, what the scale is multiplied with, what the minimum is multiplied with]. */
  readonly values: readonly (readonly [k: number, factor: number, minFactor?: number])[];
}

const VECTORS: Readonly<Record<Exclude<BlockType, "MXFP4">, Vector>> = {
  Q8_0: { scaleAt: 0, bytes: { 2: 0x80, 3: 0xff, 33: 0x7f }, values: [[0, -128], [1, -1], [2, 0], [31, 127]] },
  Q4_0: { scaleAt: 0, bytes: { 2: 0xf0, 17: 0x19 }, values: [[0, -8], [16, 7], [15, 1], [31, -7], [1, -8]] },
  Q4_1: { scaleAt: 0, minAt: 2, bytes: { 4: 0xf1, 19: 0x0a }, values: [[0, 1, 1], [16, 15, 1], [15, 10, 1], [31, 0, 1]] },
  // Fifth bits 0, 15, 16 and 31.
  Q5_0: { scaleAt: 0, bytes: { 2: 0x01, 3: 0x80, 4: 0x01, 5: 0x80, 6: 0x2f, 21: 0xf0 },
    values: [[0, 31 - 16], [16, 18 - 16], [15, 16 - 16], [31, 31 - 16], [1, -16], [17, -16]] },
  Q5_1: { scaleAt: 0, minAt: 2, bytes: { 4: 0x01, 7: 0x80, 8: 0x2f, 23: 0xf5 }, values: [[0, 31, 1], [16, 2, 1], [15, 5, 1], [31, 31, 1], [1, 0, 1]] },
  // Steps 0, 1, 2 and 9 have scales 15, 3, 1, 8 and minima 2, 0, 15, 1. Value 0 is in the low bits of byte 16; value 16 of byte 32; value 32 is
  // in bits 2-3 of byte 16; value 144 (step 9) in the low bits of byte 64.
  Q2_K: { scaleAt: 80, minAt: 82, bytes: { 0: 0x2f, 1: 0x03, 2: 0xf1, 9: 0x18, 16: 0b1011, 32: 0b01, 64: 0b11 },
    values: [[0, 15 * 3, -2], [1, 0, -2], [16, 3 * 1, 0], [32, 1 * 2, -15], [33, 0, -15], [144, 8 * 3, -1], [255, 0, 0]] },
  // Steps 0, 8, 4 and 15: low nibbles 5 and 10 in byte 96, 15 in byte 100, 7 in byte 103 (high); upper pairs 3 and 1 in byte 104 (steps 0 and
  // 8), 2 for step 4 in byte 104, 1 for step 15 in byte 107. So 53, 26, 47 and 23, each less 32. Masks: bit 0 of byte 0 (value 0), bit 4 of
  // byte 0 (value 128), bit 7 of byte 31 (value 255).
  Q3_K: { scaleAt: 108, bytes: { 0: 0b00010001, 31: 0x80, 32: 0b11, 64: 0b10, 95: 0b01000000, 96: 0xa5, 100: 0x0f, 103: 0x70, 104: 0b00011011, 107: 0b01000000 },
    values: [[0, 21 * 3], [1, 21 * -4], [128, -6 * 2], [129, -6 * -4], [64, 15 * -4], [255, -9 * 1], [254, -9 * -4], [16, -32 * -4]] },
  // Groups 0 and 4: scale 0 is byte 4 low six (63), minimum 0 is byte 8 (1). Scale 4: low nibble of byte 12 (9) with the top of byte 4 (2): 41;
  // minimum 4: high nibble of byte 12 (6) with the top of byte 8 (3): 54.
  Q4_K: { scaleAt: 0, minAt: 2, bytes: { 4: 0b10111111, 8: 0b11000001, 12: 0x69, 16: 0x3f, 80: 0x0e },
    values: [[0, 63 * 15, -1], [1, 0, -1], [32, 0, 0], [128, 41 * 14, -54], [129, 0, -54]] },
  // The same scales; nibbles begin at byte 48. Fifth bits: byte 16 has bit 0 (value 0) and bit 4 (value 128), byte 47 bit 7 (value 255).
  // Scale 7: low nibble of byte 15 (2), top of byte 7 (0); minimum 7: high nibble of byte 15 (1).
  Q5_K: { scaleAt: 0, minAt: 2, bytes: { 4: 0b10111111, 8: 0b11000001, 12: 0x69, 15: 0x12, 16: 0b00010001, 47: 0x80, 48: 0x3f, 112: 0x0e, 175: 0xf0 },
    values: [[0, 63 * 31, -1], [1, 0, -1], [128, 41 * 30, -54], [255, 2 * 31, -1], [254, 0, -1]] },
  // Step 0 has scale -128, step 15 scale 127. Value 0: low nibble 0 of byte 0, upper pair 2 of byte 128: 32 - 32 = 0; value 1: 0; value 255: high
  // nibble 15 of byte 127, upper pair 3 (bits 6-7 of byte 191): 63.
  Q6_K: { scaleAt: 208, bytes: { 0: 0x00, 128: 0b10, 127: 0xf0, 191: 0xc0, 192: 0x80, 207: 0x7f },
    values: [[0, 0], [1, -128 * -32], [255, 127 * 31], [254, 127 * -32], [16, 0]] },
  IQ4_NL: { scaleAt: 0, bytes: { 2: 0xf0, 17: 0x78 }, values: [[0, -127], [16, 113], [15, 1], [31, -10], [1, -127]] },
  // Groups 0, 1 and 7: low nibbles 1 (byte 4 low), 15 (byte 4 high) and 0 (byte 7 high); upper pairs 2, 1 and 3 in bits 0-1, 2-3 and 14-15 of
  // bytes 2-3. So 33, 31 and 48, each less 32. Nibbles of group g begin at byte 8 + 16 g.
  IQ4_XS: { scaleAt: 0, bytes: { 2: 0b0110, 3: 0b11000000, 4: 0xf1, 8: 0xf0, 24: 0x08, 135: 0x90 },
    values: [[0, -127], [16, 113], [1, -127], [32, -1], [33, 127], [255, 16 * 13], [254, 16 * -127], [64, -32 * -127]] },
  Q2_32: { scaleAt: 0, bytes: { 2: 0b11100100, 9: 0b01 }, values: [[0, -3], [4, -1], [8, 1], [12, 3], [19, -1], [1, -3]] },
  // Values 0, 4 and 24 in byte 2 (bits 0-2, 3-5; 6-7 with bit 6 of byte 10): 1, 6, 2 + 4. Values 9 and 13 in byte 7, 29 in its bits 6-7 with bit 7 of
  // byte 11: 7, 2, 1 + 4. Values 19 and 23 in byte 13: 5, 3. Each less 4.
  Q3_32: { scaleAt: 0, bytes: { 2: 0b10110001, 7: 0b01010111, 10: 0b01000000, 11: 0b10000000, 13: 0b00011101 },
    values: [[0, -3], [4, 2], [24, 2], [9, 3], [13, -2], [29, 1], [19, 1], [23, -1], [1, -4], [28, -4], [25, -4], [31, -4]] },
};

/** [bits, value]: an ordinary one, negative ones, zeros, subnormals, the largest. */
const SCALES = [[0x3555, 0.333251953125], [0xb800, -0.5], [0x0000, 0], [0x8000, -0], [0x0001, 2 ** -24], [0x83ff, -1023 * 2 ** -24], [0x7bff, 65504], [0xfbff, -65504]] as const;

describe.each(Object.entries(VECTORS) as [Exclude<BlockType, "MXFP4">, Vector][])("%s by hand", (type, { bytes, scaleAt, minAt, values }) => {
  it.each(SCALES)("with a scale of 0x%s", (bits, scale) => {
    for (const [minBits, min] of minAt === undefined ? [[0, 0] as const] : SCALES) {
      const { bytes: size, elements } = storedBlock(type);
      const block = new Uint8Array(2 * size); // the second block is what is looked at
      const view = new DataView(block.buffer);
      for (const [at, byte] of Object.entries(bytes)) block[size + Number(at)] = byte;
      view.setUint16(size + scaleAt, bits, true);
      if (minAt !== undefined) view.setUint16(size + minAt, minBits, true);
      const found = decodeRows(type, block, 1, 2 * elements);
      for (const [k, factor, minFactor = 0] of values) {
        const expected = Math.fround(scale * factor + min * minFactor);
        expect(Math.abs(found[elements + k]! - expected), `value ${k}: found ${found[elements + k]}, expected ${expected}`).toBe(0);
      }
    }
  });
});

it("MXFP4 by hand: all sixteen codes, exponents from subnormal to the largest", () => {
  const codes = [0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6];
  for (const [e, unit] of [[127, 1], [0, 2 ** -127], [1, 2 ** -126], [252, 2 ** 125]] as const) {
    const block = Uint8Array.of(e, ...Array.from({ length: 16 }, (_, i) => i | ((15 - i) << 4)));
    const found = decodeRows("MXFP4", block, 1, 32);
    for (let i = 0; i < 16; i++) expect([found[i]! + 0, found[16 + i]! + 0]).toEqual([codes[i]! * unit + 0, codes[15 - i]! * unit + 0]);
  }
});

describe("signs of zero are ggml's, except where an integer product has none", () => {
  it("a negative scale makes a minus zero of Q5_0's middle", () => {
    const block = new Uint8Array(22);
    block.set([0x00, 0xb8, 0xff, 0xff, 0xff, 0xff]);
    expect(decodeRows("Q5_0", block, 1, 32)[0]).toBe(-0);
  });
});

// A second reading: fields as strings of bits, least significant first, so that nothing is shared with the masks and shifts under test.
const bitsOf = (bytes: Uint8Array, from: number, n: number): string => Array.from(bytes.subarray(from, from + n), (b) => b.toString(2).padStart(8, "0").split("").reverse().join("")).join("");
const number = (bits: string): number => [...bits].reduce((sum, bit, i) => sum + Number(bit) * 2 ** i, 0);
const pick = (bits: string, at: number, n: number): number => number(bits.slice(at, at + n));
function half(bytes: Uint8Array, at: number): number {
  const bits = bitsOf(bytes, at, 2);
  const [mantissa, exponent] = [pick(bits, 0, 10), pick(bits, 10, 5)];
  return (bits[15] === "1" ? -1 : 1) * (exponent === 0 ? mantissa * 2 ** -24 : (1024 + mantissa) * 2 ** (exponent - 25));
}
const IQ4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/** Nibble of value k of 32 in 16 bytes. */
const nibble = (bits: string, k: number): number => pick(bits, 8 * (k % 16) + 4 * Math.floor(k / 16), 4);
/** Two bits of value k of 256 in 64 bytes. */
const pair = (bits: string, k: number): number => pick(bits, 8 * (32 * Math.floor(k / 128) + (k % 32)) + 2 * (Math.floor(k / 32) % 4), 2);
const sixBits = (b: Uint8Array, g: number): [sc: number, m: number] => {
  const bits = bitsOf(b, 4, 12);
  return g < 4 ? [pick(bits, 8 * g, 6), pick(bits, 32 + 8 * g, 6)]
    : [pick(bits, 64 + 8 * (g - 4), 4) + 16 * pick(bits, 8 * (g - 4) + 6, 2), pick(bits, 64 + 8 * (g - 4) + 4, 4) + 16 * pick(bits, 32 + 8 * (g - 4) + 6, 2)];
};

const READERS: Readonly<Record<WrittenType, (b: Uint8Array, k: number) => number>> = {
  Q5_0: (b, k) => half(b, 0) * (nibble(bitsOf(b, 6, 16), k) + 16 * pick(bitsOf(b, 2, 4), k, 1) - 16),
  Q5_1: (b, k) => half(b, 0) * (nibble(bitsOf(b, 8, 16), k) + 16 * pick(bitsOf(b, 4, 4), k, 1)) + half(b, 2),
  Q2_K: (b, k) => {
    const scales = bitsOf(b, Math.floor(k / 16), 1);
    return half(b, 80) * pick(scales, 0, 4) * pair(bitsOf(b, 16, 64), k) - half(b, 82) * pick(scales, 4, 4);
  },
  Q3_K: (b, k) => {
    const step = Math.floor(k / 16);
    const scales = bitsOf(b, 96, 12);
    const sc = pick(scales, 8 * (step % 8) + 4 * Math.floor(step / 8), 4) + 16 * pick(scales, 64 + 8 * (step % 4) + 2 * Math.floor(step / 4), 2) - 32;
    return half(b, 108) * (sc * (pair(bitsOf(b, 32, 64), k) + 4 * pick(bitsOf(b, 0, 32), 8 * (k % 32) + Math.floor(k / 32), 1) - 4) + 0);
  },
  Q5_K: (b, k) => {
    const g = Math.floor(k / 32);
    const [sc, m] = sixBits(b, g);
    const q = pick(bitsOf(b, 48, 128), 8 * (32 * Math.floor(g / 2) + (k % 32)) + 4 * (g % 2), 4) + 16 * pick(bitsOf(b, 16, 32), 8 * (k % 32) + g, 1);
    return half(b, 0) * sc * q - half(b, 2) * m;
  },
  IQ4_NL: (b, k) => half(b, 0) * IQ4[nibble(bitsOf(b, 2, 16), k)]!,
  IQ4_XS: (b, k) => {
    const g = Math.floor(k / 32);
    const sc = pick(bitsOf(b, 4, 4), 4 * g, 4) + 16 * pick(bitsOf(b, 2, 2), 2 * g, 2) - 32;
    return half(b, 0) * sc * IQ4[nibble(bitsOf(b, 8 + 16 * g, 16), k % 32)]!;
  },
};

describe.each(Object.keys(READERS) as WrittenType[])("%s", (type) => {
  const { bytes, elements } = storedBlock(type);

  it("drawn blocks, bit for bit", () => {
    const random = new SeededRandom(71);
    const rows = Uint8Array.from({ length: 24 * bytes }, () => random.below(256));
    for (let at = 0; at < rows.length; at += bytes) for (const high of storedBlock(type).halves) rows[at + high + 1]! &= 0xbb; // finite
    const expected = Array.from({ length: 24 * elements }, (_, i) => Math.fround(READERS[type](rows.subarray(Math.floor(i / elements) * bytes), i % elements)));
    const found = decodeRows(type, rows, 4, 6 * elements);
    for (let i = 0; i < expected.length; i++) if (!Object.is(found[i], expected[i])) expect.fail(`value ${i}: found ${found[i]}, expected ${expected[i]}`);
  });

  it("what the tests' writers store comes back to within a step, also where a row does not fill its last block", () => {
    const random = new SeededRandom(73);
    const values = Float32Array.from({ length: 3 * 544 }, () => random.normal());
    const found = decodeRows(type, writeBlocks(type, values, 3, 544), 3, 544);
    const error = Math.sqrt(values.reduce((sum, x, i) => sum + (x - found[i]!) ** 2, 0) / values.length);
    expect(error).toBeGreaterThan(0.02);
    expect(error).toBeLessThan({ Q5_0: 0.05, Q5_1: 0.045, Q2_K: 0.36, Q3_K: 0.17, Q5_K: 0.045, IQ4_NL: 0.09, IQ4_XS: 0.09 }[type]);
  });
});
