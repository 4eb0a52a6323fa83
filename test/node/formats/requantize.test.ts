// What `--quant source` makes of types that no kernel has: repacked blocks hold the very values, requantised ones lose no more than the
// table of formats/requantize.ts says. And FP8 with block factors, by hand.

import { describe, expect, it } from "vitest";
import { decodeRows } from "../../../formats/dequantize.ts";
import { decodeFp8Rows, fp8ScaleShape } from "../../../formats/fp8.ts";
import { encodeRows, noLoss, relativeError } from "../../../formats/quantize.ts";
import type { QuantizedType } from "../../../formats/quantize-blocks.ts";
import { SOURCE_RULES, repackRows, sourceFormat } from "../../../formats/requantize.ts";
import { FILE_TYPES, KERNEL_TYPES, STORED_TYPES, type StoredType, formatOfType, storedBlock, storedRowBytes, typeOfFormat } from "../../../formats/stored-types.ts";
import { type MatrixFormat, matrixBytes } from "../../../model/kernels.ts";
import { type WrittenType, writeBlocks } from "../../support/block-writers.ts";
import { SeededRandom } from "../../support/seeded-random.ts";

const TYPES = Object.keys(SOURCE_RULES) as WrittenType[];
const typeBits = (type: WrittenType): number => (8 * storedBlock(type).bytes) / storedBlock(type).elements;
const formatBits = (format: MatrixFormat): number => (8 * matrixBytes(format, 32, 256)) / (32 * 256);

const formatFor = (type: StoredType, nCols: number): MatrixFormat => sourceFormat({ type, storedType: type, nCols });

describe("the table", () => {
  it("has a format for every type a file may hold, and keeps those that kernels have", () => {
    for (const type of FILE_TYPES) expect(formatFor(type, 256)).toBe(formatOfType(type) ?? SOURCE_RULES[type as WrittenType].format);
    expect(sourceFormat({ type: "F32", storedType: "F8_E4M3", nCols: 128 })).toBe("q8");
    expect(TYPES.sort()).toEqual(STORED_TYPES.filter((t) => !(KERNEL_TYPES as readonly string[]).includes(t)).sort());
  });

  it.each(TYPES)("%s goes to a format of no fewer bits, super-tiles only where they are full", (type) => {
    for (const nCols of [256, 1024, 96, 2880]) {
      const format = formatFor(type, nCols);
      expect(formatBits(format)).toBeGreaterThanOrEqual(typeBits(type));
      // Columns that a file can store in blocks of the type fill the blocks of the format.
      if (nCols % storedBlock(type).elements === 0) expect(nCols % storedBlock(typeOfFormat(format)).elements).toBe(0);
    }
  });
});

describe.each(TYPES)("%s", (type) => {
  const random = new SeededRandom(91);
  const [nRows, nCols] = [60, 512];

  if (SOURCE_RULES[type].isExact) {
    it("is repacked without loss: any bits, every value", () => {
      const rows = Uint8Array.from({ length: nRows * storedRowBytes(type, nCols) }, () => random.below(256));
      const { bytes, halves } = storedBlock(type);
      for (let at = 0; at < rows.length; at += bytes) for (const half of halves) rows[at + half + 1]! &= 0xbb;
      const format = formatFor(type, nCols);
      const repacked = repackRows(type, format, rows, nRows, nCols)!;
      expect(repacked.length).toBe(nRows * storedRowBytes(typeOfFormat(format), nCols));
      const [before, after] = [decodeRows(type, rows, nRows, nCols), decodeRows(typeOfFormat(format), repacked, nRows, nCols)];
      for (let i = 0; i < before.length; i++) if (!Object.is(before[i], after[i])) expect.fail(`value ${i}: ${before[i]} became ${after[i]}`);
      expect(new Set(before).size).toBeGreaterThan(1000);
      expect(repackRows(type, "f32", rows, nRows, nCols)).toBe(null);
    });
    return;
  }

  it("adds at most 2 % and half of what it lost itself, and says how much", () => {
    for (const cols of type === "Q5_1" ? [nCols, 480] : [nCols]) {
      const values = Float32Array.from({ length: nRows * cols }, () => 0.02 * random.normal());
      const held = decodeRows(type, writeBlocks(type, values, nRows, cols), nRows, cols);
      const squares = values.reduce((sum, x) => sum + x * x, 0);
      const own = Math.sqrt(values.reduce((sum, x, i) => sum + (x - held[i]!) ** 2, 0) / squares);
      const loss = noLoss();
      encodeRows(typeOfFormat(formatFor(type, cols)) as QuantizedType, "W", held, nRows, cols, loss);
      const added = relativeError(loss);
      expect(added).toBeGreaterThan(1e-5);
      expect(added).toBeLessThan(0.02);
      expect(added).toBeLessThan(own / 2);
      expect(loss.maxError).toBeGreaterThan(0);
    }
    expect(repackRows(type, formatFor(type, nCols), new Uint8Array(0), 0, nCols)).toBe(null);
  });
});

describe("FP8 e4m3 with factors of 128 x 128", () => {
  it("codes by hand: zeros, subnormals, ones, the largest", () => {
    const codes = [0x00, 0x80, 0x01, 0x07, 0x08, 0x38, 0xb8, 0x3c, 0x7e, 0xfe, 0x40, 0x87];
    const values = [0, -0, 2 ** -9, 7 * 2 ** -9, 2 ** -6, 1, -1, 1.5, 448, -448, 2, -7 * 2 ** -9];
    expect([...decodeFp8Rows(Uint8Array.from(codes), 1, 12, Float32Array.of(1), 0, "W")]).toEqual(values);
    expect([...decodeFp8Rows(Uint8Array.from(codes), 1, 12, Float32Array.of(-0.37), 0, "W")]).toEqual(values.map((v) => Math.fround(v * Math.fround(-0.37))));
  });

  it("q8 adds a fifth of what e4m3 itself lost", () => {
    const random = new SeededRandom(95);
    const all = [...decodeFp8Rows(Uint8Array.from({ length: 256 }, (_, i) => ((i & 127) === 127 ? 0 : i)), 1, 256, Float32Array.of(0.001, 0.001), 0, "W")];
    const values = Array.from({ length: 4096 }, () => 0.02 * random.normal());
    const held = Float32Array.from(values, (x) => all.reduce((best, y) => (Math.abs(y - x) < Math.abs(best - x) ? y : best)));
    const own = Math.sqrt(values.reduce((sum, x, i) => sum + (x - held[i]!) ** 2, 0) / values.reduce((sum, x) => sum + x * x, 0));
    const loss = noLoss();
    encodeRows("Q8_0", "W", held, 16, 256, loss);
    expect(own).toBeGreaterThan(0.02);
    expect(own).toBeLessThan(0.03);
    expect(relativeError(loss)).toBeLessThan(own / 4);
    expect(relativeError(loss)).toBeGreaterThan(own / 8);
  });

  it("the factor is that of the block of 128 rows and columns, also for a run of rows in the middle and ragged edges", () => {
    const [rows, cols] = [300, 200];
    expect(fp8ScaleShape(rows, cols)).toEqual([3, 2]);
    const scales = Float32Array.of(1, 2, 4, 8, 16, 32);
    const out = decodeFp8Rows(new Uint8Array(100 * cols).fill(0x38), 100, cols, scales, 200, "W"); // rows 200..299
    for (const [row, col, expected] of [[200, 0, 4], [200, 127, 4], [200, 128, 8], [255, 199, 8], [256, 0, 16], [299, 127, 16], [299, 128, 32]] as const) {
      expect(out[(row - 200) * cols + col], `row ${row}, column ${col}`).toBe(expected);
    }
  });

  it("what is refused, by name, row and column", () => {
    const bytes = new Uint8Array(4 * 130);
    bytes[2 * 130 + 129] = 0xff;
    expect(() => decodeFp8Rows(bytes, 4, 130, Float32Array.of(1, 1), 7, "Tensor x of folder y")).toThrow(/^Tensor x of folder y, row 9, column 129 holds the code 0xff \(NaN\)/);
    bytes[2 * 130 + 129] = 0x7f;
    expect(() => decodeFp8Rows(bytes, 4, 130, Float32Array.of(1, 1), 7, "W")).toThrow(/0x7f/);
    expect(() => decodeFp8Rows(new Uint8Array(520), 4, 130, Float32Array.of(1, Infinity), 7, "W")).toThrow(/W: the factor of rows 0 to 127, columns 128 to 255 is Infinity/);
    expect(() => decodeFp8Rows(new Uint8Array(520), 4, 130, Float32Array.of(1, 1), 126, "W")).toThrow(/rows up to 130 of 130 columns need 2 x 2 factors.*found 2/);
    expect(() => decodeFp8Rows(new Uint8Array(519), 4, 130, Float32Array.of(1, 1), 0, "W")).toThrow(/need 520 bytes, found 519/);
  });
});
