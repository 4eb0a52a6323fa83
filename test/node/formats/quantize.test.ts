// Quantised rows, hand-computed and by property; tile layouts against the formulas of docs/arithmetic.md section 3.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decodeRows } from "../../../formats/dequantize.ts";
import { encodeRows, noLoss } from "../../../formats/quantize.ts";
import { BLOCK_ENCODERS, type QuantizedType } from "../../../formats/quantize-blocks.ts";
import { KERNEL_TYPES, type StoredType, formatOfType, storedBlock, storedRowBytes } from "../../../formats/stored-types.ts";
import { blankRowBlock, placeRows, untileMatrix } from "../../../formats/tiles.ts";
import { type MatrixFormat, formatCode, matrixBytes } from "../../../model/kernels.ts";
import { createScalarKernels } from "../../../model/scalar-kernels.ts";
import { SeededRandom } from "../../support/seeded-random.ts";

const encode = (type: QuantizedType, values: number[], nCols = values.length, loss = noLoss()): Uint8Array =>
  encodeRows(type, "W", Float32Array.from(values), values.length / nCols, nCols, loss);
const decode = (type: StoredType, bytes: Uint8Array, nCols: number): number[] => [...decodeRows(type, bytes, bytes.length / storedRowBytes(type, nCols), nCols)];
const scaleOf = (bytes: Uint8Array, at = 0): number => new DataView(bytes.buffer, bytes.byteOffset).getFloat16(at, true);
const group = (...head: number[]): number[] => [...head, ...Array<number>(32 - head.length).fill(0)];

describe("Q8_0", () => {
  it("divides by the rounded scale and rounds halves away from zero", () => {
    const bytes = encode("Q8_0", group(127, -127, 0.5, -0.5, 1.5, 0.49, -2.5));
    expect(scaleOf(bytes)).toBe(1);
    expect([...new Int8Array(bytes.buffer, 2, 7)]).toEqual([127, -127, 1, -1, 2, 0, -3]);
  });

  it("clamps where the scale was rounded down", () => {
    // 127 * (1 + 2^-12) gives a scale that f16 rounds down to 1, so that the ratio is above 127.
    const x = 127 * (1 + 2 ** -12);
    expect(new Int8Array(encode("Q8_0", group(x, -x)).buffer, 2, 2)).toEqual(Int8Array.of(127, -127));
  });

  it("errs by at most half a step", () => {
    fc.assert(fc.property(fc.array(fc.float({ noNaN: true, min: -1000, max: 1000 }), { minLength: 32, maxLength: 32 }), (values) => {
      const bytes = encode("Q8_0", values);
      // Subnormal scales are known to fewer bits and are reported instead.
      fc.pre(scaleOf(bytes) >= 2 ** -14);
      decode("Q8_0", bytes, 32).forEach((y, i) => expect(Math.abs(y - values[i]!)).toBeLessThanOrEqual(scaleOf(bytes) * 0.5626));
    }));
  });
});

describe("Q4_0", () => {
  it("keeps the extreme's sign in the scale and puts k and k + 16 in one byte", () => {
    const values = group(-4, 3.5, 0.2);
    values[16] = 2;
    const bytes = encode("Q4_0", values);
    expect(scaleOf(bytes)).toBe(0.5);
    expect(bytes[2]! & 15).toBe(0); // -4 / 0.5 + 8.5 = 0.5
    expect(bytes[2]! >> 4).toBe(12); // 2 / 0.5 + 8.5 = 12.5
    expect(bytes[3]! & 15).toBe(15);
    expect(bytes[4]! & 15).toBe(8); // 0.4 + 8.5 = 8.9
    const halves = encode("Q4_0", group(-8, 0.5, -0.5, 0.49, -0.51));
    expect([...halves.subarray(3, 7)].map((b) => b & 15)).toEqual([9, 8, 8, 7]); // halves go up
    const positive = encode("Q4_0", group(4, -3));
    expect(scaleOf(positive)).toBe(-0.5);
    expect(decode("Q4_0", positive, 32).slice(0, 2)).toEqual([4, -3]);
  });

  it("errs by at most one step (values opposite to the extreme are clamped)", () => {
    fc.assert(fc.property(fc.array(fc.float({ noNaN: true, min: -1000, max: 1000 }), { minLength: 32, maxLength: 32 }), (values) => {
      const bytes = encode("Q4_0", values);
      fc.pre(Math.abs(scaleOf(bytes)) >= 2 ** -14);
      decode("Q4_0", bytes, 32).forEach((y, i) => expect(Math.abs(y - values[i]!)).toBeLessThanOrEqual(Math.abs(scaleOf(bytes)) * 1.01));
    }));
  });
});

const drawn = fc.array(fc.float({ noNaN: true, min: -1000, max: 1000 }), { minLength: 32, maxLength: 32 });

describe("Q4_1", () => {
  it("keeps the least value as minimum and spreads the rest over 15 steps", () => {
    const values = Array.from({ length: 32 }, (_, k) => 10 + 0.5 * (k % 16));
    values[20] = 10.74; // 1.48 steps
    const bytes = encode("Q4_1", values);
    expect([scaleOf(bytes), scaleOf(bytes, 2)]).toEqual([0.5, 10]);
    expect([bytes[4]! & 15, bytes[4]! >> 4, bytes[19]! & 15, bytes[8]! >> 4]).toEqual([0, 0, 15, 1]);
    expect(decode("Q4_1", encode("Q4_1", Array<number>(32).fill(-3)), 32)).toEqual(Array<number>(32).fill(-3));
  });

  it("errs by at most half a step and what f16 takes from scale and minimum", () => {
    fc.assert(fc.property(drawn, (values) => {
      const bytes = encode("Q4_1", values);
      const [scale, min] = [scaleOf(bytes), scaleOf(bytes, 2)];
      fc.pre(scale >= 2 ** -14);
      const bound = scale * 0.5 + 15 * scale * 2 ** -11 + Math.max(Math.abs(min) * 2 ** -11, 2 ** -25) + 1e-4;
      decode("Q4_1", bytes, 32).forEach((y, i) => expect(Math.abs(y - values[i]!)).toBeLessThanOrEqual(bound));
    }));
  });
});

describe("MXFP4", () => {
  it("takes the exponent of the largest magnitude less two, and the nearest of sixteen values", () => {
    const bytes = encode("MXFP4", group(6, -3.4, 0.2, 0.3, -0.26, 2.6, 7.9, 5.1));
    expect(bytes[0]).toBe(127);
    expect([...bytes.subarray(1, 9)].map((b) => b & 15)).toEqual([7, 13, 0, 1, 9, 5, 7, 7]); // 6, -3, 0, 0.5, -0.5, 3, 6, 6
    expect(decode("MXFP4", bytes, 32).slice(0, 8)).toEqual([6, -3, 0, 0.5, -0.5, 3, 6, 6]);
    expect(encode("MXFP4", group(2 ** -140))[0]).toBe(0);
    expect(encode("MXFP4", group(3e38))[0]).toBe(252);
  });

  it("errs by at most one step of 4 to 6, or what lies beyond 6", () => {
    fc.assert(fc.property(drawn, (values) => {
      const bytes = encode("MXFP4", values);
      const unit = 2 ** (bytes[0]! - 127);
      decode("MXFP4", bytes, 32).forEach((y, i) => expect(Math.abs(y - values[i]!)).toBeLessThanOrEqual(unit * Math.max(1, Math.abs(values[i]!) / unit - 6)));
    }));
  });
});

describe("Q2_32", () => {
  it("has the levels -3, -1, 1, 3 and four values of 16 k in one byte", () => {
    const values = Array.from({ length: 32 }, (_, k) => [-3, -1, 1, 3][(k + (k >> 2)) % 4]! * 0.5);
    const bytes = encode("Q2_32", values);
    expect(scaleOf(bytes)).toBe(0.5);
    for (let k = 0; k < 32; k++) expect((bytes[2 + (k >> 4) * 4 + (k % 4)]! >> (2 * ((k % 16) >> 2))) & 3).toBe((k + (k >> 2)) % 4);
    expect(decode("Q2_32", bytes, 32)).toEqual(values);
  });

  it("errs less than with the largest magnitude at level 3, where that pays", () => {
    const random = new SeededRandom(21);
    const values = Array.from({ length: 3200 }, () => random.normal());
    const loss = noLoss();
    encode("Q2_32", values, 32, loss);
    // Four levels hold normal values at 0.34 of their size at best (Lloyd-Max, evenly spaced); per group of 32 it is below 0.33.
    const relative = Math.sqrt(loss.errorSquares / loss.squares);
    expect(relative).toBeGreaterThan(0.28);
    expect(relative).toBeLessThan(0.345);
  });
});

describe("Q3_32", () => {
  it("has the levels -4 to 3, of a scale of either sign, and eight values of 32 in three bytes", () => {
    for (const scale of [0.5, -0.5]) {
      const values = Array.from({ length: 32 }, (_, k) => ((k * 3 + (k >> 3)) % 8 - 4) * scale);
      const bytes = encode("Q3_32", values);
      expect([bytes.length, scaleOf(bytes)]).toEqual([14, scale]);
      for (let j = 0; j < 4; j++) {
        const code = (n: number): number => values[4 * n + j]! / scale + 4;
        const [first, second, last] = [bytes[2 + j]!, bytes[6 + j]!, bytes[10 + j]!];
        expect(first).toBe(code(0) + 8 * code(1) + 64 * (code(6) % 4));
        expect(second).toBe(code(2) + 8 * code(3) + 64 * (code(7) % 4));
        expect(last).toBe(code(4) + 8 * code(5) + 64 * Math.floor(code(6) / 4) + 128 * Math.floor(code(7) / 4));
      }
      expect(decode("Q3_32", bytes, 32).map((y) => y + 0)).toEqual(values.map((x) => x + 0)); // -0 is 0
    }
  });

  it("puts the extreme at -4, at 3 or beyond the levels, whichever errs least", () => {
    expect(scaleOf(encode("Q3_32", group(4, -3, 3, -3, 2, -2, 1, -1)))).toBe(-1);
    expect(scaleOf(encode("Q3_32", group(3, -3, 3, -3, 2, -2, 1, -1)))).toBe(1); // at -4 the extreme's scale would be -0.75
    const random = new SeededRandom(24);
    const ends = new Set<string>();
    for (let round = 0; round < 60; round++) {
      const values = Array.from({ length: 32 }, () => Math.fround(random.normal()));
      const extreme = values.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a));
      const tried = [-4, 3].flatMap((end) => Array.from({ length: 7 }, (_, i) => Math.f16round((extreme * (16 - i)) / (16 * end))));
      const errors = tried.map((scale) => values.reduce((sum, x) => sum + Math.min(...[-4, -3, -2, -1, 0, 1, 2, 3].map((level) => (x - scale * level) ** 2)), 0));
      const bytes = encode("Q3_32", values);
      const best = tried.indexOf(scaleOf(bytes));
      expect(errors[best]).toBeCloseTo(Math.min(...errors), 12);
      expect(decode("Q3_32", bytes, 32).reduce((sum, y, i) => sum + (y - values[i]!) ** 2, 0)).toBeCloseTo(errors[best]!, 12);
      ends.add(`${best < 7 ? -4 : 3} ${best % 7 > 0 ? "cut off" : "held"}`);
    }
    expect([...ends].sort()).toEqual(["-4 cut off", "-4 held", "3 cut off", "3 held"]);
  });

  it("errs less than with the extreme at -4, where that pays", () => {
    const random = new SeededRandom(22);
    const values = Array.from({ length: 3200 }, () => random.normal());
    const loss = noLoss();
    encode("Q3_32", values, 32, loss);
    let plain = 0;
    for (let at = 0; at < values.length; at += 32) {
      const block = values.slice(at, at + 32);
      const scale = block.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a)) / -4;
      plain += block.reduce((sum, x) => sum + (x - scale * Math.max(-4, Math.min(3, Math.floor(x / scale + 0.5)))) ** 2, 0);
    }
    expect(loss.errorSquares).toBeLessThan(0.95 * plain);
    // Eight levels hold normal values at 0.194 of their size at best (Lloyd-Max, evenly spaced); per group of 32 it is below that.
    const relative = Math.sqrt(loss.errorSquares / loss.squares);
    expect(relative).toBeGreaterThan(0.15);
    expect(relative).toBeLessThan(0.194);
  });
});

describe("Q4_K", () => {
  it("fits scales and minima at least as well as Q4_1's own, before their 6 bits", () => {
    const random = new SeededRandom(23);
    for (const shift of [0, 0.5]) {
      const values = Array.from({ length: 256 * 16 }, () => random.normal() - shift);
      const [k, one] = [noLoss(), noLoss()];
      encode("Q4_K", values, 256, k);
      encode("Q4_1", values, 256, one);
      expect(k.errorSquares).toBeLessThan(one.errorSquares * 1.02);
      expect(Math.sqrt(k.errorSquares / k.squares)).toBeLessThan(0.085);
    }
  });

  it("minima are never above zero; a ragged last block leaves its missing groups zero", () => {
    const bytes = encode("Q4_K", Array.from({ length: 40 }, (_, i) => 5 + i / 40), 40);
    expect(scaleOf(bytes, 2)).toBe(0); // dmin: all values are positive
    expect([...bytes.subarray(6, 8), ...bytes.subarray(8, 12)]).toEqual([0, 0, 0, 0, 0, 0]);
    expect(decode("Q4_K", bytes, 256).slice(64)).toEqual(Array<number>(192).fill(0));
    decode("Q4_K", bytes, 40).forEach((y, i) => expect(Math.abs(y - 5 - i / 40)).toBeLessThan(0.5));
  });
});

describe("Q6_K", () => {
  it("the scale of largest magnitude becomes -128, and values that fit come back", () => {
    // 16 steps of 16 values; step s holds (s + 1) * 0.25 * q, and its largest magnitude is q = -32.
    const values = Array.from({ length: 256 }, (_, i) => 0.25 * ((i >> 4) + 1) * ((i & 15) === 5 ? -32 : ((i * 7) & 31) - 15));
    const bytes = encode("Q6_K", values, 256);
    expect(scaleOf(bytes, 208)).toBe(-4 / 128); // (15 + 1) * 0.25 over -128
    expect([...new Int8Array(bytes.buffer, bytes.byteOffset + 192, 16)]).toEqual(Array.from({ length: 16 }, (_, s) => -8 * (s + 1)));
    expect(decode("Q6_K", bytes, 256).map((y) => y + 0)).toEqual(values.map((x) => x + 0)); // -0 is 0
  });

  it("a scale as large with the other sign is 127, for there is no 128", () => {
    const bytes = encode("Q6_K", Array.from({ length: 256 }, (_, i) => ({ 0: -128, 16: 128 })[i] ?? 0), 256);
    expect([...new Int8Array(bytes.buffer, bytes.byteOffset + 192, 3)]).toEqual([-128, 127, 0]);
    const decoded = decode("Q6_K", bytes, 256);
    expect([decoded[0], decoded[16]]).toEqual([-128, 127]);
  });

  it("errs less than with each step's largest magnitude at -32, and keeps positive extremes", () => {
    const random = new SeededRandom(29);
    const values = Array.from({ length: 256 * 16 }, () => random.normal());
    const loss = noLoss();
    encode("Q6_K", values, 256, loss);
    let plain = 0; // the same without search, its scales not rounded
    for (let at = 0; at < values.length; at += 16) {
      const step = values.slice(at, at + 16);
      const scale = step.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a)) / -32;
      plain += step.reduce((sum, x) => sum + (x - scale * Math.max(-32, Math.min(31, Math.round(x / scale)))) ** 2, 0);
    }
    expect(loss.errorSquares).toBeLessThan(plain);
    expect(Math.sqrt(loss.errorSquares / loss.squares)).toBeLessThan(0.0185);
    const positive = decode("Q6_K", encode("Q6_K", Array.from({ length: 256 }, (_, i) => i), 256), 256);
    positive.forEach((y, i) => expect(Math.abs(y - i)).toBeLessThan(4.1));
  });

  it("a ragged last block leaves what is missing zero, and magnitudes below 1e-15 too", () => {
    const bytes = encode("Q6_K", Array.from({ length: 40 }, (_, i) => 5 + i / 40), 40);
    expect(decode("Q6_K", bytes, 256).slice(40).every((y) => y === 0)).toBe(true);
    decode("Q6_K", bytes, 40).forEach((y, i) => expect(Math.abs(y - 5 - i / 40)).toBeLessThan(0.1));
    const loss = noLoss();
    expect(decode("Q6_K", encode("Q6_K", Array<number>(256).fill(9e-16), 256, loss), 256).every((y) => y === 0)).toBe(true);
    expect(loss.zeroScales).toBe(0);
  });
});

describe.each(Object.keys(BLOCK_ENCODERS) as QuantizedType[])("%s", (type) => {
  it("measures what it cost", () => {
    const loss = noLoss();
    const random = new SeededRandom(9);
    const values = Array.from({ length: 1000 }, () => random.normal());
    const decoded = decode(type, encode(type, values, 100, loss), 100);
    const errors = decoded.map((y, i) => Math.abs(y - Math.fround(values[i]!)));
    expect(loss.maxError).toBeCloseTo(Math.max(...errors), 6); // the sum of Q4_1 and Q4_K is rounded to f32 afterwards
    expect(loss.errorSquares).toBeCloseTo(errors.reduce((s, e) => s + e * e, 0), 4);
    expect(loss.nValues).toBe(1000);
  });

  it("refuses what is not finite", () => {
    expect(() => encode(type, group(0, NaN))).toThrow(/W, row 0, column 1 is NaN, expected a finite value/);
    expect(() => encode(type, group(0, 0, -Infinity))).toThrow(/W, row 0, column 2 is -Infinity/);
    if (type !== "MXFP4") expect(() => encode(type, group(1e9))).toThrow(/W, row 0, columns 0 to 31: .*beyond 65,504/);
  });

  it("reports what f16 loses", () => {
    const loss = noLoss();
    encode(type, [...group(1e-9), ...group(1e-4), ...group(0)], 32, loss);
    // 1e-9 is lost everywhere. 1e-4 over Q4_K's 15 * 63 steps is a subnormal f16, over Q6_K's 32 * 128 none; MXFP4 has no f16.
    expect([loss.zeroScales, loss.subnormalScales]).toEqual({ MXFP4: [0, 0], Q4_K: [1, 1], Q6_K: [2, 0], Q8_0: [1, 1], Q4_0: [1, 1], Q4_1: [1, 1], Q2_32: [1, 1], Q3_32: [1, 1] }[type]);
  });
});

describe.each(["Q8_0", "Q4_0"] as const)("%s", (type) => {
  it("is idempotent: values it holds come back as the same bytes", () => {
    const random = new SeededRandom(5);
    const once = encode(type, Array.from({ length: 4096 }, () => random.normal() * 0.05), 64);
    expect(encode(type, decode(type, once, 64), 64)).toEqual(once);
  });

  it("pads a last group with values that decode to zero", () => {
    const bytes = encode(type, [1, -2, 3, ...Array<number>(32).fill(0.5), 7], 36);
    expect(bytes.length).toBe(2 * storedRowBytes(type, 32));
    expect(decode(type, bytes, 64).slice(36).every((x) => x === 0)).toBe(true);
  });

});

describe("tiles", () => {
  const random = new SeededRandom(11);
  const tile = (format: MatrixFormat, rows: Uint8Array, nRows: number, nCols: number): Uint8Array => {
    const stride = rows.length / nRows;
    const out = new Uint8Array(matrixBytes(format, nRows, nCols));
    for (let b = 0; b * 32 < nRows; b++) {
      const block = blankRowBlock(format, nCols);
      placeRows(format, block, 0, { bytes: rows, start: b * 32 * stride, stride, nRows: Math.min(32, nRows - b * 32) }, nCols);
      out.set(block, b * block.length);
    }
    return out;
  };

  it.each(KERNEL_TYPES)("%s goes into tiles and back without loss", (type) => {
    for (const [nRows, nCols] of [[32, 32], [7, 96], [70, 64], [33, storedBlock(type).elements > 1 ? 64 : 5], [40, 300]] as const) {
      const rows = Uint8Array.from({ length: nRows * storedRowBytes(type, nCols) }, () => random.below(256));
      const tiles = tile(formatOfType(type), rows, nRows, nCols);
      expect(untileMatrix(formatOfType(type), tiles, nRows, nCols)).toEqual(rows);
    }
  });

  it.each(Object.keys(BLOCK_ENCODERS) as QuantizedType[])("%s means in tiles what it means in rows, as the scalar reference reads them", (type) => {
    const [nRows, nCols] = [40, 288];
    const rows = encode(type, Array.from({ length: nRows * nCols }, () => random.normal()), nCols);
    const tiles = tile(formatOfType(type), rows, nRows, nCols);
    const memory = new WebAssembly.Memory({ initial: Math.ceil(tiles.length / 65536) + 1 });
    new Uint8Array(memory.buffer, 65536).set(tiles);
    const kernels = createScalarKernels(memory);
    const decoded = decode(type, rows, nCols);
    for (const row of [0, 1, 31, 32, 39]) {
      kernels.readRow(formatCode(formatOfType(type)), 65536, nCols, row, 0);
      expect([...new Float32Array(memory.buffer, 0, nCols)]).toEqual(decoded.slice(row * nCols, (row + 1) * nCols));
    }
  });

  it("f32 lies column by column, 32 rows at a time", () => {
    const values = Float32Array.from({ length: 40 * 3 }, (_, i) => i);
    const floats = new Float32Array(tile("f32", new Uint8Array(values.buffer), 40, 3).buffer);
    for (let r = 0; r < 40; r++) for (let k = 0; k < 3; k++) expect(floats[Math.floor(r / 32) * 96 + k * 32 + (r % 32)]).toBe(values[r * 3 + k]);
    expect(floats[96 + 31]).toBe(0);
  });

  it("q8 and q4 tiles hold scale and value where section 3 says", () => {
    const values = Array.from({ length: 32 * 64 }, () => random.normal());
    for (const [type, format, tileBytes] of [["Q8_0", "q8", 1088], ["Q4_0", "q4", 576]] as const) {
      const rows = encode(type, values, 64);
      const decoded = decode(type, rows, 64);
      const tiles = tile(format, rows, 32, 64);
      const view = new DataView(tiles.buffer);
      for (let row = 0; row < 32; row++) {
        for (let col = 0; col < 64; col++) {
          const at = Math.floor(col / 32) * tileBytes;
          const k = col % 32;
          const scale = view.getFloat16(at + 2 * row, true);
          const byte = (kk: number) => at + 64 + kk * 128 + row * 4 + (k % 4);
          const q = format === "q8" ? view.getInt8(byte(k >> 2)) : ((view.getUint8(byte((k & 15) >> 2)) >> (k < 16 ? 0 : 4)) & 15) - 8;
          expect(scale * q).toBe(decoded[row * 64 + col]);
        }
      }
    }
  });

  it("missing rows of q4 are zero: nibble 8, scale 0", () => {
    const block = blankRowBlock("q4", 64);
    expect([...decodeRows("Q4_0", untileMatrix("q4", block, 32, 64), 32, 64)].every((x) => x === 0)).toBe(true);
    expect(block[64]).toBe(0x88);
    expect(block[576]).toBe(0);
  });
});

describe("decoding", () => {
  it("gives f16 and bf16 exactly, subnormals and infinities too", () => {
    const view = new DataView(new ArrayBuffer(10));
    [0x3c00, 0x0001, 0xfc00, 0x8000, 0x7bff].forEach((bits, i) => view.setUint16(2 * i, bits, true));
    expect([...decodeRows("F16", new Uint8Array(view.buffer), 1, 5)]).toEqual([1, 2 ** -24, -Infinity, -0, 65504]);
    [0x3f80, 0x0001, 0xff80, 0x8000, 0x4049].forEach((bits, i) => view.setUint16(2 * i, bits, true));
    expect([...decodeRows("BF16", new Uint8Array(view.buffer), 1, 5)]).toEqual([1, 2 ** -133, -Infinity, -0, 3.140625]);
  });

  it("says when rows are short", () => {
    expect(() => decodeRows("Q8_0", new Uint8Array(33), 1, 32)).toThrow(/need 34 bytes, found 33/);
  });
});
