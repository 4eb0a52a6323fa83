// Sampling: the order of its steps, its independence of everything but (seed, choice, position), and log-probabilities against Math.
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { probabilitiesOf } from "../../../model/draw.ts";
import { adjustmentStage, stagesInOrder } from "../../../model/logit-adjustments.ts";
import { uniform } from "../../../model/random.ts";
import { decidingForm, logprobs, PLAIN_SAMPLING, sample, sampleForm, type SamplingParams } from "../../../model/sampling.ts";

const params: SamplingParams = { ...PLAIN_SAMPLING, seed: 7 };
const logits = Float32Array.from([0, 3, 1, 3, -2, 2.5]);

/** Share of each id over many positions. */
function shares(p: SamplingParams, n = 4000): number[] {
  const counts = new Array<number>(logits.length).fill(0);
  for (let position = 0; position < n; position++) counts[sample(logits, p, 0, position, null, null).id]!++;
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
    expect(sample(logits, { ...params, temperature: 0 }, 0, 0, null, null)).toEqual({ id: 1 });
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

  test("typical_p keeps the tokens whose information is nearest to the entropy, of those top_k left and before top_p", () => {
    const row = fc.uniqueArray(fc.integer({ min: -400, max: 400 }), { minLength: 2, maxLength: 24 }).map((values) => Float32Array.from(values, (x) => x / 100));
    fc.assert(fc.property(row, fc.constantFrom(0.5, 1, 2), fc.constantFrom(0.1, 0.35, 0.7, 0.95), fc.constantFrom(0, 1, 3, 100), fc.constantFrom(1, 0.6), (values, temperature, typicalP, topK, topP) => {
      const ranked = Array.from(values.keys()).sort((a, b) => values[b]! - values[a]!).slice(0, topK === 0 ? undefined : topK);
      const weights = ranked.map((id) => Math.exp(values[id]! / temperature));
      const p = weights.map((weight) => weight / weights.reduce((a, b) => a + b));
      const entropy = -p.reduce((sum, q) => sum + q * Math.log(q), 0);
      const byTypicality = ranked.map((id, i) => ({ id, p: p[i]!, distance: Math.abs(-Math.log(p[i]!) - entropy) })).sort((a, b) => a.distance - b.distance);
      let mass = 0;
      const typical = byTypicality.filter(({ p: q }) => (mass += q) - q < typicalP);
      const total = typical.reduce((sum, { p: q }) => sum + q, 0);
      let reached = 0;
      const kept = typical.sort((a, b) => b.p - a.p).filter(({ p: q }) => (reached += q) - q < topP * total);
      const close = byTypicality.some(({ distance }, i) => i > 0 && distance - byTypicality[i - 1]!.distance < 1e-9);
      fc.pre(!close && Math.abs(total - typicalP) > 1e-9);
      const alive = new Set<number>();
      for (let position = 0; position < 300; position++) alive.add(sample(values, { ...params, temperature, typicalP, topK, topP }, 0, position, null, null).id);
      for (const id of alive) expect(kept.map((token) => token.id)).toContain(id);
      for (const token of kept) if (token.p / kept.reduce((sum, { p: q }) => sum + q, 0) > 0.05) expect(alive).toContain(token.id);
    }), { numRuns: 150 });
    expect(decidingForm({ ...params, typicalP: 0.9 }, null, 100, null)).toBe("row");
    expect(decidingForm({ ...params, temperature: 0, typicalP: 0.9 }, null, 100, null)).toEqual({ top: 1 });
  });

  test("what decides a token gives the token of the whole row: the largest logits, or the probabilities", () => {
    const row = fc.array(fc.double({ min: -20, max: 20, noNaN: true }).map((x) => Math.round(x)), { minLength: 2, maxLength: 90 });
    fc.assert(fc.property(row, fc.constantFrom(0, 0.4, 1, 3), fc.nat(70), fc.constantFrom(1, 0.8, 0.3), fc.constantFrom(0, 0.2), fc.nat(1000), (values, temperature, topK, topP, minP, position) => {
      const whole = Float32Array.from(values);
      const p = { ...params, temperature, topK, topP, minP };
      const form = decidingForm(p, null, whole.length, null);
      expect(decidingForm(p, 3, whole.length, null)).toBe("row"); // log-probabilities need every logit
      const drawsFromAll = topK === 0 || topK >= whole.length;
      expect(form).toEqual(temperature === 0 ? { top: 1 } : drawsFromAll ? { temperature } : topK <= 64 ? { top: topK } : "row");
      const expected = sample(whole, p, 2, position, null, null);
      if (form === "row") expect(sampleForm(form, whole, null, 0, p, 2, position, null, null)).toEqual(expected);
      else if ("temperature" in form) expect(sampleForm(form, probabilitiesOf(whole, temperature), null, 0, p, 2, position, null, null)).toEqual(expected);
      else if ("top" in form) {
        const k = form.top;
        const ids = Uint32Array.from(Array.from(whole.keys()).sort((a, b) => whole[b]! - whole[a]! || a - b).slice(0, k));
        const top = { k, ids: Uint32Array.of(...ids, ...ids), values: Float32Array.from([...ids, ...ids], (id) => whole[id]!), notFinite: Int32Array.of(-1, -1) };
        expect(sampleForm(form, whole, top, 1, p, 2, position, null, null)).toEqual(expected);
      }
    }), { numRuns: 400 });
    expect([64, 65].map((topK) => decidingForm({ ...params, topK }, null, 1000, null))).toEqual([{ top: 64 }, "row"]); // more than the engine keeps
    const bad = { k: 1, ids: Uint32Array.of(4), values: Float32Array.of(1), notFinite: Int32Array.of(17) };
    expect(() => sampleForm({ top: 1 }, logits, bad, 0, { ...params, temperature: 0 }, 0, 0, null, null)).toThrow(/The logit of token 17 is not finite/);
    const nan = Float32Array.of(NaN, NaN);
    expect(() => sampleForm({ temperature: 1 }, nan, null, 0, params, 0, 0, null, null)).toThrow(/The probabilities of the next token are no numbers/);
  });

  test("the same seed gives the same tokens, another seed others", () => {
    const run = (seed: number) => Array.from({ length: 40 }, (_, position) => sample(logits, { ...params, seed }, 0, position, null, null).id);
    expect(run(1)).toEqual(run(1));
    expect(run(1)).not.toEqual(run(2));
  });

  test("an infinite or missing logit is an error, not a token", () => {
    expect(() => sample(Float32Array.from([0, NaN]), params, 0, 0, null, null)).toThrow(/logit of token 1 is NaN/);
    expect(() => sample(Float32Array.from([Infinity, 0]), { ...params, temperature: 0 }, 0, 0, 1, null)).toThrow(/logit of token 0 is Infinity/);
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

describe("adjustments", () => {
  const none = { bias: [], repetitionPenalty: 1, frequencyPenalty: 0, presencePenalty: 0 };
  const row = Float32Array.from([1, -2, 0.5, 3, 0]);

  test("bias, repetition, frequency and presence, in that order, each where it belongs", () => {
    // Prompt: 0, 1. Reply: 1, 3, 3.
    const stage = adjustmentStage({ bias: [[0, 1], [4, -1]], repetitionPenalty: 2, frequencyPenalty: 0.25, presencePenalty: 0.5 }, [0, 1, 1]);
    for (const id of [1, 3, 3]) stage.push(id);
    expect(Array.from(stage.apply(row))).toEqual([(1 + 1) / 2, -2 * 2 - 0.25 - 0.5, 0.5, 3 / 2 - 2 * 0.25 - 0.5, -1]);
    expect(Array.from(row)).toEqual([1, -2, 0.5, 3, 0]);
  });

  test("nothing asked for changes nothing", () => {
    const stage = adjustmentStage(none, [0, 1]);
    stage.push(3);
    expect(stage.apply(row)).toEqual(row);
    expect(stagesInOrder([])).toBeNull();
  });

  test("decide what is drawn, greedy or not, and leave log-probabilities alone", () => {
    const stage = adjustmentStage({ ...none, bias: [[3, -100], [2, 5]] }, []);
    const greedy = sample(row, { ...params, temperature: 0 }, 0, 0, 2, stage);
    expect(greedy.id).toBe(2);
    expect(greedy.logprob).toBe(logprobs(row, 2, 2).logprob);
    expect(greedy.top!.map(({ id }) => id)).toEqual([3, 0]);
    for (let position = 0; position < 200; position++) expect(sample(row, params, 0, position, null, stage).id).not.toBe(3);
    expect(decidingForm(params, null, 5, stage)).toEqual({ temperature: 1, stage });
    for (const p of [{ topK: 2 }, { typicalP: 0.5 }]) expect(decidingForm({ ...params, ...p }, null, 5, stage)).toBe("row");
    expect(decidingForm({ ...params, temperature: 0 }, null, 5, stage)).toEqual({ top: 1, stage });
    expect(decidingForm(params, 2, 5, stage)).toBe("row");
  });

  test("few candidates of a stage are drawn from as from the whole row", () => {
    const few = Uint32Array.of(0, 2, 3);
    const whole = { apply: (values: Float32Array) => values.map((value, id) => (few.includes(id) ? value : -Infinity)), push: () => {}, isComplete: false, dispose: () => {} };
    const counted = { ...whole, candidates: few };
    expect(decidingForm(params, 2, 5, counted)).toBe("row");
    expect(decidingForm(params, null, 5, { ...counted, candidates: new Uint32Array(0) })).toBe("row"); // which says what is wrong
    const form = decidingForm(params, null, 5, counted);
    expect(form).toEqual({ among: counted });
    expect(() => sampleForm(form, Float32Array.of(1, NaN, 2), null, 0, params, 0, 0, null, counted)).toThrow(/finite/);
    const drawn = new Set<number>();
    for (const p of [{}, { temperature: 0 }, { topK: 2 }, { topK: 2, topP: 0.5 }, { minP: 0.3 }, { typicalP: 0.5 }, { topP: 0.9 }, { temperature: 1.7 }]) {
      for (let position = 0; position < 60; position++) {
        const { id } = sample(row, { ...params, ...p }, 0, position, null, counted);
        expect(id).toBe(sample(row, { ...params, ...p }, 0, position, null, whole).id);
        expect(sampleForm(form, Float32Array.from(few, (one) => row[one]!), null, 0, { ...params, ...p }, 0, position, null, counted)).toEqual({ id });
        drawn.add(id);
      }
    }
    expect([...drawn].sort()).toEqual([0, 2, 3]);
  });

  test("a stage may forbid all tokens but one", () => {
    const only = { apply: (values: Float32Array) => values.map((_, id) => (id === 4 ? -50 : -Infinity)), push: () => {}, isComplete: false, dispose: () => {} };
    for (const p of [{}, { temperature: 0 }, { topK: 2 }, { topK: 2, topP: 0.5 }, { minP: 0.3 }, { typicalP: 0.5 }, { topP: 0.9 }]) {
      for (let position = 0; position < 20; position++) expect(sample(row, { ...params, ...p }, 0, position, null, only).id).toBe(4);
    }
  });
});
