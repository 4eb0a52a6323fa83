// The sums of a placement under change: what a change is said to do, against a state counted anew.

import { expect, it } from "vitest";
import { placementTask } from "../../../fleet/placement-problem.ts";
import { PlacementState } from "../../../fleet/placement-state.ts";
import { seededNumbers } from "../../../model/kernel-case.ts";
import { drawCase } from "./placement-cases.ts";

it("weighing a move or a swap says what doing it does to cost, slowest shards and limits", () => {
  for (let seed = 1; seed <= 40; seed++) {
    const { problem } = drawCase(seed, Infinity);
    // More shards than a layer's few largest loads, so that those left out of an exchange count.
    const task = placementTask({ ...problem, shardRegions: Array.from({ length: 6 }, (_, s) => s % problem.regionCost.length), capacityBytes: new Array<number>(6).fill(200) });
    const goal = { slowestWeight: 1, maxSquares: new Float64Array(task.nLayers).fill(Infinity), maxCrossCost: Infinity };
    const random = seededNumbers(seed);
    const draw = (n: number): number => Math.floor(random() * n);
    const state = new PlacementState(task, goal, Int32Array.from({ length: task.nLayers * task.nExperts }, () => draw(6)));
    for (let change = 0; change < 60; change++) {
      const e = draw(task.nLayers * task.nExperts);
      const other = change % 2 === 0 ? -1 : e - (e % task.nExperts) + draw(task.nExperts);
      const to = other < 0 ? draw(6) : state.shardOf[other]!;
      if (to === state.shardOf[e]) continue;
      state.weigh(e, to, other);
      const [cost, slowest] = [state.crossCost + state.costChange, state.slowest + state.slowestChange];
      state.apply(e, to, other);
      const anew = new PlacementState(task, goal, state.shardOf);
      expect([cost, slowest]).toEqual([expect.closeTo(anew.crossCost, 6), expect.closeTo(anew.slowest, 6)]);
      expect([state.crossCost, state.slowest]).toEqual([expect.closeTo(anew.crossCost, 6), expect.closeTo(anew.slowest, 6)]);
    }
  }
});
