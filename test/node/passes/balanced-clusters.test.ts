// Balanced clusters: equal sizes, the planted ones found, and nothing better by exchanging two vectors.

import { expect, it } from "vitest";
import { balancedClusters } from "../../../passes/balanced-clusters.ts";
import { SeededRandom } from "../../support/seeded-random.ts";

function planted(seed: number, k: number, each: number, size: number, noise: number): { vectors: Float32Array; truth: number[] } {
  const random = new SeededRandom(seed);
  const centres = Array.from({ length: k }, () => Array.from({ length: size }, () => random.normal()));
  const truth = Array.from({ length: k * each }, (_, i) => (i * 7 + 3) % k);
  return { truth, vectors: Float32Array.from(truth.flatMap((c) => centres[c]!.map((x) => x + noise * random.normal()))) };
}

/** Sum of squared distances from the means. */
function distanceOf(vectors: Float32Array, size: number, of: ArrayLike<number>, k: number): number {
  const n = of.length;
  let sum = 0;
  for (let c = 0; c < k; c++) {
    const members = Array.from({ length: n }, (_, i) => i).filter((i) => of[i] === c);
    for (let j = 0; j < size; j++) {
      const mean = members.reduce((total, i) => total + vectors[i * size + j]!, 0) / members.length;
      for (const i of members) sum += (vectors[i * size + j]! - mean) ** 2;
    }
  }
  return sum;
}

it("are of equal size, and the ones that were planted", () => {
  for (const [k, each] of [[2, 8], [4, 10], [5, 6]] as const) {
    const { vectors, truth } = planted(k, k, each, 8, 0.1);
    const { of, distance } = balancedClusters(vectors, k * each, 8, k, { seed: 3 });
    for (let c = 0; c < k; c++) expect(of.filter((own) => own === c).length).toBe(each);
    for (let i = 0; i < of.length; i++) for (let j = 0; j < i; j++) expect(of[i] === of[j]).toBe(truth[i] === truth[j]);
    expect(distance).toBeCloseTo(distanceOf(vectors, 8, of, k), 6);
    expect(balancedClusters(vectors, k * each, 8, k, { seed: 3 })).toEqual({ of, distance });
  }
});

it("are equal in size also where the vectors are not so, at a far smaller distance than by chance", () => {
  const { vectors } = planted(9, 3, 20, 6, 0.6);
  const { of, distance } = balancedClusters(vectors, 60, 6, 4);
  for (let c = 0; c < 4; c++) expect(of.filter((own) => own === c).length).toBe(15);
  expect(distance).toBeLessThan(0.7 * distanceOf(vectors, 6, Array.from({ length: 60 }, (_, i) => i % 4), 4));
  // Costs in 1,024 steps leave little to be gained by exchanging two.
  let best = distance;
  for (let i = 0; i < 60; i++) {
    for (let j = 0; j < i; j++) {
      const swapped = Array.from(of);
      [swapped[i], swapped[j]] = [swapped[j]!, swapped[i]!];
      best = Math.min(best, distanceOf(vectors, 6, swapped, 4));
    }
  }
  expect(best).toBeGreaterThan(0.97 * distance);
});

it("refuses sizes that do not divide", () => {
  expect(() => balancedClusters(new Float32Array(20), 10, 2, 3)).toThrow("10 vectors were to be divided into 3 clusters of equal size; expected a divisor of 10.");
});
