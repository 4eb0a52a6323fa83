// exp, log and the f16 conversions against the platform's own, which may differ in last bits and so only bound the error.

import { describe, expect, test } from "vitest";
import { bf16ToF32, clampedSwiglu, exp, expF64, f16ToF32, f32ToF16, logF64, nearestEven, sigmoid, silu } from "../../../model/float-math.ts";
import { seededNumbers } from "../../../model/kernel-case.ts";

const relativeError = (found: number, expected: number) => Math.abs(found - expected) / Math.abs(expected);

describe("f32", () => {
  test("exp is within 1e-7 of the true value over its whole range", () => {
    let worst = 0;
    for (let i = -87; i <= 88; i += 1 / 512) {
      const x = Math.fround(i + 1e-4);
      worst = Math.max(worst, relativeError(exp(x), Math.exp(x)));
    }
    expect(worst).toBeLessThan(1e-7); // measured: 7.8e-8
    expect(worst).toBeGreaterThan(1e-9); // a comparison of something with itself would pass the bound too
  });

  test("exp is exact at 0 and defined at the ends", () => {
    expect(exp(0)).toBe(1);
    expect(exp(-Infinity)).toBe(0);
    expect(exp(Infinity)).toBe(Infinity);
    expect(exp(NaN)).toBeNaN();
    expect(exp(Math.fround(88.4))).toBe(Infinity);
    expect(exp(Math.fround(-87.4))).toBe(0);
  });

  test("silu and sigmoid", () => {
    for (let x = -40; x < 40; x += 0.37) {
      const f = Math.fround(x);
      expect(relativeError(sigmoid(f), 1 / (1 + Math.exp(-f)))).toBeLessThan(4e-7);
      expect(relativeError(silu(f), f / (1 + Math.exp(-f)))).toBeLessThan(4e-7);
    }
  });

  test("clampedSwiglu: hand-computed values of gpt-oss's form", () => {
    for (const [g, u, expected] of [[1, 1, 1.6915915], [-1, 0.5, -0.2313064], [9, 9, 55.999625], [-9, -9, 0.000012], [0.5, -1, 0]] as const) {
      expect(clampedSwiglu(g, u, 7)).toBeCloseTo(expected, 5);
    }
    // Clamped: gate from above alone, up from both sides.
    expect(clampedSwiglu(100, 0, 7)).toBe(clampedSwiglu(7, 0, 7));
    expect(clampedSwiglu(-8, 0, 7)).not.toBe(clampedSwiglu(-7, 0, 7));
    expect([clampedSwiglu(1, 100, 7), clampedSwiglu(1, -100, 7)]).toEqual([clampedSwiglu(1, 7, 7), clampedSwiglu(1, -7, 7)]);
    expect([clampedSwiglu(NaN, 1, 7), clampedSwiglu(1, NaN, 7)]).toEqual([NaN, NaN]);
  });

  test("nearestEven", () => {
    expect([0.5, 1.5, 2.5, -0.5, -1.5, 126.5, -3.2].map(nearestEven)).toEqual([0, 2, 2, 0, -2, 126, -3]);
  });
});

describe("f16 and bf16", () => {
  test("every f16 pattern has the platform's value and comes back", () => {
    const bits = new Uint16Array(65536).map((_, i) => i);
    const values = new Float16Array(bits.buffer);
    for (let i = 0; i < 65536; i++) {
      if (!Object.is(f16ToF32(i), values[i])) throw new Error(`The f16 pattern ${i} reads as ${f16ToF32(i)}, expected ${values[i]}.`);
      if (values[i] === values[i] && f32ToF16(values[i]) !== i) throw new Error(`The f16 pattern ${i} comes back as ${f32ToF16(values[i])}.`);
    }
    expect(f32ToF16(NaN)).toBe(0x7e00);
  });

  test("f32 rounds to f16 as the platform does", () => {
    const random = seededNumbers(1);
    const f32 = new Float32Array(1);
    const u32 = new Uint32Array(f32.buffer);
    const f16 = new Float16Array(1);
    const u16 = new Uint16Array(f16.buffer);
    const check = (x: number) => {
      f16[0] = x;
      if (f32ToF16(x) !== u16[0]) throw new Error(`${x} becomes ${f32ToF16(x)}, expected ${u16[0]}.`);
    };
    for (let i = 0; i < 200_000; i++) {
      u32[0] = Math.floor(random() * 2 ** 32);
      if (f32[0] === f32[0]) check(f32[0]);
      check(Math.fround((random() * 2 - 1) * 2 ** Math.floor(random() * 44 - 27)));
    }
    for (const x of [65504, 65519.99, 65520, 65536, 2 ** -14, 2 ** -24, 2 ** -25, 2 ** -25 * 1.0001, 2 ** -26, 1 + 2 ** -11, 1 + 3 * 2 ** -11]) {
      check(Math.fround(x));
      check(-Math.fround(x));
    }
  });

  test("bf16", () => {
    expect([0x3f80, 0xc000, 0x7f80, 0x8000].map(bf16ToF32)).toEqual([1, -2, Infinity, -0]);
  });
});

describe("f64", () => {
  test("expF64 and logF64 are within 1e-15 of the platform's", () => {
    const random = seededNumbers(2);
    for (let i = 0; i < 50_000; i++) {
      const x = (random() * 2 - 1) * 700;
      expect(relativeError(expF64(x), Math.exp(x))).toBeLessThan(1e-15);
      const y = random() * 10 ** (random() * 600 - 300);
      expect(relativeError(logF64(y), Math.log(y))).toBeLessThan(1e-15);
    }
    expect(relativeError(logF64(1 + 2 ** -30), Math.log1p(2 ** -30))).toBeLessThan(1e-15);
  });

  test("their ends", () => {
    expect([expF64(0), expF64(-Infinity), expF64(-800), expF64(Infinity), expF64(710)]).toEqual([1, 0, 0, Infinity, Infinity]);
    expect([logF64(1), logF64(0), logF64(Infinity)]).toEqual([0, -Infinity, Infinity]);
    expect([expF64(NaN), logF64(NaN), logF64(-1)]).toEqual([NaN, NaN, NaN]);
    expect(relativeError(expF64(-740), Math.exp(-740))).toBeLessThan(0.1); // a subnormal of few bits
    expect(relativeError(logF64(5e-324), Math.log(5e-324))).toBeLessThan(1e-15);
  });
});
