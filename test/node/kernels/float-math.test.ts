// exp, erf, log and the f16 conversions against the platform's own, which may differ in last bits and so only bound the error.

import { describe, expect, test } from "vitest";
import { erf as definedErf, gelu as definedGelu } from "../../../model/definition.ts";
import { bf16ToF32, clampedSwiglu, erf, erfF64, exp, expF64, f16ToF32, f32ToF16, gelu, logF64, nearestEven, relu, sigmoid, silu } from "../../../model/float-math.ts";
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

  /** math.erf of Python (the C library's) at f32 numbers. */
  const ERF: readonly (readonly [x: number, value: number])[] = [
    [1.0000000031710769e-30, 1.1283791706736896e-30], [0.0010000000474974513, 0.0011283788445643173], [0.10000000149011612, 0.11246291768297051], [0.25, 0.2763263901682369], [0.5, 0.5204998778130465], [0.8999999761581421, 0.7969082004549685], [0.9990000128746033, 0.8422852755615352], [1.0, 0.8427007929497149], [1.0010000467300415, 0.8431155048372895], [1.25, 0.9229001282564582], [1.5, 0.9661051464753108], [2.0, 0.9953222650189527], [2.5, 0.999593047982555], [3.0, 0.9999779095030014], [3.5, 0.9999992569016276], [3.9000000953674316, 0.9999999652077781], [4.0, 0.9999999845827421], [6.0, 1.0],
  ];

  test("erf and its two forms in f64 against the C library's values", () => {
    for (const [x, value] of ERF) {
      for (const of of [erfF64, definedErf]) {
        expect(Math.abs(of(x) - value)).toBeLessThanOrEqual(2e-15 * value);
        expect(of(-x)).toBe(-of(x));
      }
      expect(Math.abs(erf(x) - value)).toBeLessThan(1.4e-7);
      expect(erf(-x)).toBe(-erf(x));
    }
  });

  test("erf is within 1.4e-7 everywhere, below 1 relatively within 1.7e-7, and never falls", () => {
    let [worst, worstNear, last] = [0, 0, -1];
    for (let i = -5 * 4096; i <= 5 * 4096; i++) {
      const x = Math.fround(i / 4096 + 1e-5);
      const error = Math.abs(erf(x) - erfF64(x));
      worst = Math.max(worst, error);
      if (Math.abs(x) <= 1) worstNear = Math.max(worstNear, error / Math.abs(erfF64(x)));
      expect(erf(x)).toBeGreaterThanOrEqual(last);
      last = erf(x);
    }
    expect(worst).toBeLessThan(1.4e-7); // measured: 1.32e-7
    expect(worstNear).toBeLessThan(1.7e-7);
    expect(worst).toBeGreaterThan(1e-8); // a comparison of something with itself would pass the bounds too
  });

  test("erf, gelu and relu at their ends", () => {
    expect([erf(0), erf(-0), erf(4), erf(-4), erf(Infinity), erf(-Infinity), erf(NaN)]).toEqual([0, -0, 1, -1, 1, -1, NaN]);
    expect([gelu(0), gelu(-0), gelu(Infinity), gelu(NaN), gelu(-10), gelu(10)]).toEqual([0, -0, Infinity, NaN, -0, 10]);
    expect([relu(-0), relu(-1), relu(NaN), relu(2), relu(-Infinity)]).toEqual([0, 0, NaN, 2, 0]);
  });

  test("gelu is the form with erf", () => {
    // x * 0.5 * (1 + math.erf(x / sqrt 2)) of Python; the form with tanh gives -0.1588 and 0.8412 at -1 and 1.
    for (const [x, value] of [[-3, -0.0040496941], [-1, -0.1586552539], [-0.5, -0.1542687694], [0.5, 0.3457312306], [1, 0.8413447461], [2, 1.9544997361]] as const) {
      expect(gelu(x)).toBeCloseTo(value, 6);
      expect(definedGelu(x)).toBeCloseTo(value, 9);
    }
    for (let x = -8; x < 8; x += 0.01) expect(Math.abs(gelu(Math.fround(x)) - definedGelu(Math.fround(x)))).toBeLessThan(3e-7 * Math.max(1, Math.abs(x)));
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
