// Placements of small random problems against trying everything: each integer programme against its own objective, the joint search against its own.

import { describe, expect, it } from "vitest";
import { assignClusters, clusterTask } from "../../../fleet/placement-two-stage.ts";
import { clusterLayer, unevenness, type ClusterTask } from "../../../fleet/placement-clusters.ts";
import { jointGoal, placeExperts } from "../../../fleet/placement.ts";
import { placementTask } from "../../../fleet/placement-problem.ts";
import { bestJoint, crossCostOf, drawCase, everyMap, fits, inOrder, loadsOf, variationOf } from "./placement-cases.ts";

const seeds = (from: number, count: number): number[] => Array.from({ length: count }, (_, i) => from + i);

describe("the first stage", () => {
  it("finds the most even clusters, as trying all does, with and without a limit of bytes", async () => {
    let refused = 0;
    for (const seed of seeds(100, 60)) {
      const { shape: { nExperts, nShards }, problem: { counts, expertBytes } } = drawCase(seed, Infinity);
      const bytes = Float64Array.from(expertBytes).slice(0, nExperts);
      const total = bytes.reduce((sum, b) => sum + b, 0);
      const task: ClusterTask = { load: counts.load.slice(0, nExperts), bytes, nClusters: nShards, maxBytes: seed % 2 === 0 ? Infinity : (total / nShards) * 1.02 };
      let best = Infinity;
      for (const map of everyMap(nExperts, nShards)) {
        const filled = Array.from({ length: nShards }, (_, c) => map.reduce((sum, at, e) => sum + (at === c ? bytes[e]! : 0), 0));
        if (filled.some((b) => b > task.maxBytes) || (nExperts >= nShards && filled.includes(0))) continue;
        best = Math.min(best, unevenness(task, map));
      }
      const found = await clusterLayer(task);
      if (found === null) refused++;
      expect(found === null ? Infinity : unevenness(task, found), `seed ${seed}`).toBeCloseTo(best, 6);
    }
    expect(refused).toBeGreaterThan(3);
    expect(refused).toBeLessThan(30);
  });

  it("leaves no cluster empty, also where nobody asks most experts", async () => {
    for (const [nExperts, nClusters] of [[3, 3], [4, 3], [6, 3], [5, 2], [64, 16]] as const) {
      const load = Float64Array.from({ length: nExperts }, (_, e) => (e === 1 ? 9 : 0));
      const found = await clusterLayer({ load, bytes: new Float64Array(nExperts).fill(1), nClusters, maxBytes: Infinity });
      expect(new Set(found).size, `${nExperts} experts`).toBe(nClusters);
    }
  });
});

describe("the second stage", () => {
  it("finds the least cost of a one-to-one assignment that fits, as trying all does", async () => {
    let limited = 0;
    for (const seed of seeds(200, 60)) {
      const drawn = drawCase(seed, Infinity).problem;
      const total = Array.from(drawn.expertBytes).reduce((sum, b) => sum + b, 0);
      // Every other one so tight that the cheapest assignment may not fit.
      const problem = seed % 2 === 0 ? drawn : { ...drawn, capacityBytes: drawn.shardRegions.map(() => Math.ceil((total / drawn.shardRegions.length) * 1.1)) };
      const task = placementTask(problem);
      const { nLayers, nShards } = task;
      const clusterOf = Int32Array.from(inOrder(nLayers, task.nExperts, nShards));
      const clusters = clusterTask(task, clusterOf);
      const clusterProblem = { ...problem, counts: { ...problem.counts, nExperts: nShards, load: clusters.load, moves: clusters.moves }, expertBytes: clusters.expertBytes };
      let [best, free] = [Infinity, Infinity];
      for (const map of everyMap(nLayers * nShards, nShards)) {
        if (task.layers.some((_, i) => new Set(map.subarray(i * nShards, (i + 1) * nShards)).size !== nShards)) continue;
        const cost = crossCostOf(clusterProblem, map);
        free = Math.min(free, cost);
        if (fits(clusterProblem, map)) best = Math.min(best, cost);
      }
      const found = await assignClusters(clusters, { seed: 1, maxSteps: 10_000 });
      if (best > free) limited++;
      if (best < Infinity) expect([crossCostOf(clusterProblem, found), fits(clusterProblem, found)], `seed ${seed}`).toEqual([best, true]);
    }
    expect(limited).toBeGreaterThan(0);
  });
});

describe("the joint mode", () => {
  it("finds the least of its objective within its limits, as trying all does", async () => {
    let improved = 0;
    for (const seed of seeds(300, 60)) {
      const { shape, problem } = drawCase(seed, 200_000);
      const { slowestWeight } = jointGoal(placementTask(problem), {});
      const best = bestJoint(problem, slowestWeight);
      expect(best, `seed ${seed}`).not.toBeNull();
      const { shardOf } = await placeExperts(problem, { mode: "joint" });
      const slowest = loadsOf(problem, shardOf).reduce((sum, loads) => sum + Math.max(...loads), 0);
      expect(crossCostOf(problem, shardOf) + slowestWeight * slowest, `seed ${seed}: ${JSON.stringify(shape)}`).toBeCloseTo(best!, 6);
      expect(fits(problem, shardOf)).toBe(true);
      if (crossCostOf(problem, shardOf) < crossCostOf(problem, inOrder(shape.nLayers, shape.nExperts, shape.nShards))) improved++;
    }
    expect(improved).toBeGreaterThan(20);
  });

  it("is never worse than the contiguous placement in cost, nor in the balance of any layer", async () => {
    for (const seed of seeds(400, 50)) {
      const { shape, problem } = drawCase(seed, Infinity);
      const joint = await placeExperts(problem, { mode: "joint", maxSteps: 5_000 });
      const contiguous = inOrder(shape.nLayers, shape.nExperts, shape.nShards);
      if (fits(problem, contiguous)) expect(joint.crossCost, `seed ${seed}`).toBeLessThanOrEqual(crossCostOf(problem, contiguous));
      const limits = loadsOf(problem, contiguous).map(variationOf);
      loadsOf(problem, joint.shardOf).forEach((loads, i) => expect(variationOf(loads), `seed ${seed} layer ${i}`).toBeLessThanOrEqual(limits[i]! + 1e-6));
    }
  });
});
