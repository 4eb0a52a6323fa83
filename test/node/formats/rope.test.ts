// Rotary frequencies against published closed forms, computed in float64 elsewhere and pinned here.

import { describe, expect, it } from "vitest";
import { linearInverseFrequencies, plainInverseFrequencies, ropeTable, yarnFrequencies, yarnMscale } from "../../../model/rope.ts";

/** Nine significant digits are pinned. */
const close = (found: number, expected: number): void => expect(Math.abs(found / expected - 1)).toBeLessThan(1e-8);

describe("YaRN", () => {
  it("gives DeepSeek's frequencies (d 64, base 1e4, factor 40, 4096 positions, ends rounded outwards)", () => {
    const { low, high, inverseFrequencies: f } = yarnFrequencies({ dim: 64, theta: 1e4, factor: 40, originalContext: 4096, betaFast: 32, betaSlow: 1, truncate: true });
    expect([low, high]).toEqual([10, 23]);
    const golden = { 0: 1, 1: 0.749894209, 10: 0.0562341325, 11: 0.0390069266, 15: 0.00833450895, 16: 0.0055, 20: 0.000790569415, 23: 3.33380358e-5, 24: 2.5e-5, 31: 3.33380358e-6 };
    for (const [i, expected] of Object.entries(golden)) close(f[Number(i)]!, expected);
  });

  it("gives gpt-oss's frequencies (d 64, base 150000, factor 32, 4096 positions, ends as they are)", () => {
    const { low, high, inverseFrequencies: f } = yarnFrequencies({ dim: 64, theta: 150000, factor: 32, originalContext: 4096, betaFast: 32, betaSlow: 1, truncate: false });
    close(low, 8.092779115512402);
    close(high, 17.39802450158856);
    const golden = { 0: 1, 1: 0.689044306, 8: 0.0508132748, 9: 0.0317056962, 12: 0.00679495949, 16: 0.000456483919, 17: 0.000129318701, 18: 3.83088124e-5, 24: 4.09997848e-6, 31: 3.02351143e-7 };
    for (const [i, expected] of Object.entries(golden)) close(f[Number(i)]!, expected);
  });

  it("gives the magnitudes of gpt-oss and of DeepSeek's attention scale", () => {
    close(yarnMscale(32), 1.3465735902799727);
    close(yarnMscale(40, 0.707), 1.2608037774);
    close(yarnMscale(40, 1), 1.3688879454);
    expect(yarnMscale(1)).toBe(1);
    close(yarnMscale(40, 0.707) ** 2 / Math.sqrt(192), 0.11472138679);
    close(yarnMscale(40, 1) ** 2 / Math.sqrt(192), 0.13523377886);
  });
});

describe("the table", () => {
  it("holds cos, then sin, of position times frequency, rounded once", () => {
    const inverseFrequencies = plainInverseFrequencies(8, 10000);
    expect(inverseFrequencies).toEqual([1, 0.1, 0.01, 0.001].map((x) => expect.closeTo(x, 12)));
    const table = ropeTable({ style: "half", dim: 8, theta: 10000, inverseFrequencies, magnitude: 1, long: null }, 50);
    expect(table.length).toBe(50 * 8);
    expect([...table.subarray(0, 8)]).toEqual([1, 1, 1, 1, 0, 0, 0, 0]);
    for (let i = 0; i < 4; i++) {
      expect(table[49 * 8 + i]).toBe(Math.fround(Math.cos(49 * inverseFrequencies[i]!)));
      expect(table[49 * 8 + 4 + i]).toBe(Math.fround(Math.sin(49 * inverseFrequencies[i]!)));
    }
  });

  it("multiplies cos and sin by the magnitude and divides positions by a linear factor", () => {
    const plain = ropeTable({ style: "half", dim: 4, theta: 100, inverseFrequencies: plainInverseFrequencies(4, 100), magnitude: 1, long: null }, 9);
    const linear = ropeTable({ style: "half", dim: 4, theta: 100, inverseFrequencies: linearInverseFrequencies(4, 100, 4), magnitude: 0.5, long: null }, 9);
    for (let i = 0; i < 4; i++) expect(linear[8 * 4 + i]).toBe(plain[2 * 4 + i]! * 0.5);
  });

  it("has the long frequencies' rows behind the short ones'", () => {
    const long = { fromPositions: 4, inverseFrequencies: [0.5, 0.05], magnitude: 2 };
    const rope = { style: "half", dim: 4, theta: 100, inverseFrequencies: [1, 0.1], magnitude: 1, long } as const;
    const table = ropeTable(rope, 6);
    expect(table.length).toBe(2 * 6 * 4);
    expect(table.subarray(0, 24)).toEqual(ropeTable({ ...rope, long: null }, 6));
    expect(table.subarray(24)).toEqual(ropeTable({ ...rope, ...long, long: null }, 6));
  });
});
