// Sampling: the order of its steps, its independence of everything but (seed, choice, position), and log-probabilities against Math.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { probabilitiesOf } from "../../../model/draw.ts";
import { uniform } from "../../../model/random.ts";
import { decidingForm, logprobs, sample, sampleForm, type SamplingParams } from "../../../model/sampling.ts";

const params: SamplingParams = { temperature: 1, topK: 0, topP: 1, minP: 0, seed: 7 };
const logits = Float32Array.from([0, 3, 1, 3, -2, 2.5]);

/** Share of each id over many positions. */
function shares(p: SamplingParams, n = 4000): number[] {
  const counts = new Array<number>(logits.length).fill(0);
  for (let position = 0; position < n; position++) counts[sample(logits, p, 0, position, null).id]!++;
  return counts.map((count) => count / n);
}

describe("uniform", () => {
  test("is a function of its counters, spread evenly, different for each", () => {
    const draws = Array.from({ length: 20000 }, (_, i) => uniform(-3, i % 3, Math.floor(i / 3), 0));
    expect(draws.every((u) => u >= 0 && u < 1)).toBe(true);
    const bins = new Array<number>(20).fill(0);
    for (const u of draws) bins[Math.floor(u * 20)]!++;
    const chiSquare = bins.reduce((sum, n) => sum + (n - 1000) ** 2 / 1000, 0);
    expect(chiSquare).toBeLessThan(43.8); // 19 degrees of freedom, p = 0.001
    expect(new Set(draws).size).toBe(draws.length);
    expect(uniform(1, 0, 0, 0)).not.toBe(uniform(1, 0, 0, 1));
    expect(uniform(5, 1, 2, 0)).toBe(uniform(5, 1, 2, 0));
  });
});

describe("sample", () => {
  test("greedy takes the largest, the lowest id on ties", () => {
    expect(sample(logits, { ...params, temperature: 0 }, 0, 0, null)).toEqual({ id: 1 });
  });

  test("draws follow the softmax at the temperature", () => {
    for (const temperature of [0.5, 1, 2]) {
      const e = Array.from(logits, (x) => Math.exp(x / temperature));
      const total = e.reduce((a, b) => a + b);
      shares({ ...params, temperature }).forEach((share, id) => expect(Math.abs(share - e[id]! / total)).toBeLessThan(0.035));
    }
  });

  test("top_k, top_p and min_p keep the right tokens", () => {
    const alive = (p: Partial<SamplingParams>) => shares({ ...params, temperature: 5, ...p }).flatMap((share, id) => (share > 0 ? [id] : []));
    expect(alive({ topK: 1 })).toEqual([1]);
    expect(alive({ topK: 2 })).toEqual([1, 3]);
    expect(alive({ topK: 3 })).toEqual([1, 3, 5]);
    expect(alive({ topP: 0.01 })).toEqual([1]);
    expect(alive({ topK: 4, topP: 0.6 })).toEqual([1, 3, 5]);
    expect(alive({ minP: 0.9 })).toEqual([1, 3, 5]); // exp((2.5 - 3) / 5) = 0.905
    expect(alive({ minP: 0.91 })).toEqual([1, 3]);
    expect(alive({})).toEqual([0, 1, 2, 3, 4, 5]);
  });

  test("what decides a token gives the token of the whole row: the largest logits, or the probabilities", () => {
    const row = fc.array(fc.double({ min: -20, max: 20, noNaN: true }).map((x) => Math.round(x)), { minLength: 2, maxLength: 90 });
    fc.assert(fc.property(row, fc.constantFrom(0, 0.4, 1, 3), fc.nat(70), fc.constantFrom(1, 0.8, 0.3), fc.constantFrom(0, 0.2), fc.nat(1000), (values, temperature, topK, topP, minP, position) => {
      const whole = Float32Array.from(values);
      const p = { ...params, temperature, topK, topP, minP };
      const form = decidingForm(p, null, whole.length);
      expect(decidingForm(p, 3, whole.length)).toBe("row"); // log-probabilities need every logit
      const drawsFromAll = topK === 0 || topK >= whole.length;
      expect(form).toEqual(temperature === 0 ? { top: 1 } : drawsFromAll ? { temperature } : topK <= 64 ? { top: topK } : "row");
      const expected = sample(whole, p, 2, position, null);
      if (form === "row") expect(sampleForm(form, whole, null, 0, p, 2, position, null)).toEqual(expected);
      else if ("temperature" in form) expect(sampleForm(form, probabilitiesOf(whole, temperature), null, 0, p, 2, position, null)).toEqual(expected);
      else {
        const k = form.top;
        const ids = Uint32Array.from(Array.from(whole.keys()).sort((a, b) => whole[b]! - whole[a]! || a - b).slice(0, k));
        const top = { k, ids: Uint32Array.of(...ids, ...ids), values: Float32Array.from([...ids, ...ids], (id) => whole[id]!), notFinite: Int32Array.of(-1, -1) };
        expect(sampleForm(form, whole, top, 1, p, 2, position, null)).toEqual(expected);
      }
    }), { numRuns: 400 });
    expect([64, 65].map((topK) => decidingForm({ ...params, topK }, null, 1000))).toEqual([{ top: 64 }, "row"]); // more than the engine keeps
    const bad = { k: 1, ids: Uint32Array.of(4), values: Float32Array.of(1), notFinite: Int32Array.of(17) };
    expect(() => sampleForm({ top: 1 }, logits, bad, 0, { ...params, temperature: 0 }, 0, 0, null)).toThrow(/The logit of token 17 is not finite/);
    const nan = Float32Array.of(NaN, NaN);
    expect(() => sampleForm({ temperature: 1 }, nan, null, 0, params, 0, 0, null)).toThrow(/The probabilities of the next token are no numbers/);
  });

  test("the same seed gives the same tokens, another seed others", () => {
    const run = (seed: number) => Array.from({ length: 40 }, (_, position) => sample(logits, { ...params, seed }, 0, position, null).id);
    expect(run(1)).toEqual(run(1));
    expect(run(1)).not.toEqual(run(2));
  });

  test("an infinite or missing logit is an error, not a token", () => {
    expect(() => sample(Float32Array.from([0, NaN]), params, 0, 0, null)).toThrow(/logit of token 1 is NaN/);
    expect(() => sample(Float32Array.from([Infinity, 0]), { ...params, temperature: 0 }, 0, 0, 1)).toThrow(/logit of token 0 is Infinity/);
  });
});

test("log-probabilities agree with Math and come most likely first", () => {
  fc.assert(fc.property(fc.array(fc.float({ min: -60, max: 60, noNaN: true }), { minLength: 2, maxLength: 40 }), (values) => {
    const x = Float32Array.from(values);
    const max = Math.max(...x);
    const logSum = Math.log(x.reduce((sum, v) => sum + Math.exp(v - max), 0)) + max;
    const { logprob, top } = logprobs(x, x.length - 1, 3);
    expect(logprob).toBeCloseTo(x[x.length - 1]! - logSum, 9);
    expect(top.length).toBe(Math.min(3, x.length));
    top.forEach(({ id, logprob: value }, i) => {
      expect(value).toBeCloseTo(x[id]! - logSum, 9);
      const before = top[i - 1]?.id;
      if (before !== undefined) expect(x[id]! < x[before]! || (x[id] === x[before] && id > before)).toBe(true);
    });
  }));
});
