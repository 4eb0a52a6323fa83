// Drawing from the whole vocabulary against its definition by sorting, and its probabilities against those the kernels give.

import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { drawFrom, inverseTemperature, probabilitiesOf } from "../../../model/draw.ts";
import { createScalarKernels } from "../../../model/scalar-kernels.ts";

const memory = new WebAssembly.Memory({ initial: 1 });
const kernels = createScalarKernels(memory);

/** The kept ids, by the definition: sorted, added up, cut. */
function keptBySorting(p: Float32Array, topP: number, minP: number): number[] {
  const order = Array.from(p.keys()).sort((a, b) => p[b]! - p[a]! || a - b);
  const total = p.reduce((sum, x) => sum + x, 0);
  const kept: number[] = [];
  let reached = 0;
  for (const id of order) {
    if (topP < 1 && kept.length > 0 && reached >= topP * total) break;
    kept.push(id);
    reached += p[id]!;
  }
  return kept.filter((id) => p[id]! > 0 && p[id]! >= minP * p[order[0]!]!).sort((a, b) => a - b);
}

/** Small integers over a power of two: their sums are exact in any order, so that the definition and the bins meet the same target. */
const probabilities = fc.array(fc.constantFrom(0, 1, 2, 3, 5, 8, 40, 41, 300, 2000), { minLength: 1, maxLength: 60 })
  .filter((values) => values.some((x) => x > 0)).map((values) => Float32Array.from(values, (x) => x / 4096));

describe("a draw from the whole vocabulary", () => {
  it("keeps what sorting keeps, and draws each by its share", () => {
    fc.assert(fc.property(probabilities, fc.constantFrom(1, 0.95, 0.5, 0.25, 0.001), fc.constantFrom(0, 0.02, 0.5, 1), (p, topP, minP) => {
      const kept = keptBySorting(p, topP, minP);
      const total = kept.reduce((sum, id) => sum + p[id]!, 0);
      let before = 0;
      for (const id of kept) {
        for (const part of [0.001, 0.5, 0.999]) expect(drawFrom(p, topP, minP, (before + part * p[id]!) / total)).toBe(id);
        before += p[id]!;
      }
      expect(drawFrom(p, topP, minP, 1)).toBe(kept.at(-1));
    }), { numRuns: 500 });
  });

  it("has no answer without numbers", () => {
    expect(drawFrom(Float32Array.of(NaN, 0.5), 1, 0, 0.3)).toBe(-1);
    expect(drawFrom(new Float32Array(3), 0.5, 0, 0.3)).toBe(-1);
  });

  it("takes probabilities of any temperature, bit for bit those of the kernels", () => {
    fc.assert(fc.property(fc.array(fc.float({ min: -80, max: 80, noNaN: true }), { minLength: 1, maxLength: 70 }), fc.constantFrom(1e-40, 1e-5, 0.3, 1, 2), (values, temperature) => {
      const view = new Float32Array(memory.buffer, 1024, values.length);
      view.set(values);
      kernels.scaleRows(1024, 512, inverseTemperature(temperature), 1, values.length);
      kernels.softmaxRows(1024, 512, 1, values.length);
      expect(probabilitiesOf(Float32Array.from(values), temperature)).toEqual(view.slice());
      expect(drawFrom(view, 1, 0, 0.5)).toBeGreaterThanOrEqual(0);
    }));
  });
});
