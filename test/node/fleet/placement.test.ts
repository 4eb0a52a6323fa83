// Placement as a planner uses it: the counts it starts from, what it refuses and how, that it is the same every time, and what it says of itself.

import { describe, expect, it } from "vitest";
import { assignPlaced, PLACEMENT_MODES, placeExperts } from "../../../fleet/placement.ts";
import { measurePlacement, shardsTouched } from "../../../fleet/placement-measures.ts";
import { placementTask, type PlacementProblem } from "../../../fleet/placement-problem.ts";
import { makePlan } from "../../../fleet/plan.ts";
import { countRouting, countsOfTotals } from "../../../fleet/routing-counts.ts";
import { seededNumbers } from "../../../model/kernel-case.ts";
import { crossCostOf, drawCase, fits } from "./placement-cases.ts";

const shape = { moeLayers: [1, 4], nExperts: 4 };
const records = [
  { request: 0, token: 0, layer: 1, ids: [0, 1] }, { request: 0, token: 1, layer: 1, ids: [2, 0] },
  { request: 0, token: 0, layer: 4, ids: [3, 2] }, { request: 0, token: 1, layer: 4, ids: [3, 0] },
  { request: 1, token: 0, layer: 1, ids: [0, 1] }, // cut off before layer 4
];
/** Two layers of four experts on two shards of two regions: experts 0 and 2 are used together, so are 1 and 3. */
const problem: PlacementProblem = {
  counts: {
    layers: [1, 4], nExperts: 4, load: Float64Array.of(5, 5, 5, 5, 5, 5, 5, 5),
    moves: Float64Array.from([[5, 0, 5, 0], [0, 5, 0, 5], [5, 0, 5, 0], [0, 5, 0, 5]].flat()),
  },
  shardRegions: [0, 1], regionCost: [[0, 3], [3, 0]], capacityBytes: [40, 40], expertBytes: new Array<number>(8).fill(10),
};

describe("routing counts", () => {
  it("count choices, and every pair of a token's experts in one layer and the next, whatever the order of the records", () => {
    for (const some of [records, records.toReversed()]) {
      const { load, moves, layers } = countRouting(shape, some);
      expect(layers).toEqual([1, 4]);
      expect(Array.from(load)).toEqual([3, 2, 1, 0, 1, 0, 1, 2]);
      expect(Array.from(moves)).toEqual([[1, 0, 1, 2], [0, 0, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]].flat());
    }
  });

  it("refuse records of another model", () => {
    expect(() => countRouting(shape, [{ request: 0, token: 0, layer: 2, ids: [0] }])).toThrow("A record is of layer 2; the layers with experts are 1, 4.");
    expect(() => countRouting(shape, [{ request: 0, token: 0, layer: 1, ids: [4] }])).toThrow("names expert 4; the model has 4");
  });

  it("come from totals as well, which must fit together", () => {
    const { load, moves } = countsOfTotals({ layers: [0, 7], nExperts: 2, load: [{ 0: 3, 1: 4 }, { 1: 7 }], moves: [{ "0,1": 3, "1,1": 4 }] });
    expect([Array.from(load), Array.from(moves)]).toEqual([[3, 4, 0, 7], [0, 3, 0, 4]]);
    expect(() => countsOfTotals({ layers: [0, 7], nExperts: 2, load: [{}], moves: [{}] })).toThrow("the load of 1 layers and 1 layer pairs; expected 2 and 1");
    expect(() => countsOfTotals({ layers: [0], nExperts: 2, load: [{ 2: 1 }], moves: [] })).toThrow('have the key "2"; expected an expert below 2');
    expect(() => countsOfTotals({ layers: [0, 1], nExperts: 2, load: [{}, {}], moves: [{ "0": 1 }] })).toThrow("expected two experts below 2");
    expect(() => countsOfTotals({ layers: [0], nExperts: 2, load: [{ 1: -1 }], moves: [] })).toThrow("-1");
  });
});

describe("measures", () => {
  it("are counted by hand on a small placement", async () => {
    const placed = await placeExperts(problem, { mode: "contiguous" });
    expect(Array.from(placed.shardOf)).toEqual([0, 0, 1, 1, 0, 0, 1, 1]);
    expect(placed).toMatchObject({ slowest: 20, loadCv: 0, activations: 40, crossActivations: 20, crossCost: 60, shardBytes: [40, 40], layers: [{ layer: 1, imbalance: 1, loadCv: 0 }, { layer: 4, imbalance: 1, loadCv: 0 }] });
    const uneven = measurePlacement(placementTask(problem), Int32Array.of(0, 0, 0, 1, 0, 1, 1, 1));
    expect(uneven).toMatchObject({ slowest: 30, loadCv: 0.5, layers: [{ imbalance: 1.5, loadCv: 0.5 }, { imbalance: 1.5, loadCv: 0.5 }] });
    // layer 1 row 0 (region 0): to 0 stays, to 2 crosses; row 1: to 1 and 3 cross; row 2 (region 0) as row 0; row 3 (region 1): none crosses
    expect(uneven.crossActivations).toBe(20);
  });

  it("count the shards a token asks from records", () => {
    const task = placementTask(problem);
    expect(shardsTouched(task, Int32Array.of(0, 0, 1, 1, 0, 0, 1, 1), records)).toBe((1 + 2 + 1 + 2 + 1) / 5);
    expect(shardsTouched(task, new Int32Array(8), [])).toBe(0);
  });
});

describe("the modes", () => {
  it("keep together what is used together", async () => {
    expect(await placeExperts(problem, { mode: "joint" })).toMatchObject({ crossActivations: 0, loadCv: 0, shardBytes: [40, 40] });
  });

  it("respect each shard's room", async () => {
    for (let seed = 1; seed <= 30; seed++) {
      const drawn = drawCase(seed, Infinity).problem;
      const bytes = drawn.expertBytes;
      const total = Array.from(bytes).reduce((sum, b) => sum + b, 0);
      // The first shard has a third more room than the others.
      const nShards = drawn.shardRegions.length;
      const tight = { ...drawn, capacityBytes: drawn.shardRegions.map((_, s) => Math.ceil((total / nShards) * (s === 0 ? 1.6 : 1.2)) + 13) };
      for (const mode of PLACEMENT_MODES) {
        const placed = await placeExperts(tight, { mode, maxSteps: 20_000 }).catch((error: unknown) => error as Error);
        if (placed instanceof Error) expect(placed.message, mode).toMatch(/room for \d+/);
        else expect([fits(tight, placed.shardOf), placed.crossCost]).toEqual([true, crossCostOf(tight, placed.shardOf)]);
        if (mode === "joint") expect(placed, `seed ${seed}`).not.toBeInstanceOf(Error);
      }
    }
  });

  it("refuse what cannot be placed, with the numbers", async () => {
    const refused = (changed: Partial<PlacementProblem>, mode: (typeof PLACEMENT_MODES)[number] = "joint") => expect(placeExperts({ ...problem, ...changed }, { mode, maxSteps: 10_000 })).rejects;
    await refused({ capacityBytes: [40, 39] }).toThrow("The experts have 80 bytes and 2 shards together room for 79: 1 bytes too few.");
    await refused({ capacityBytes: [9, 9], expertBytes: [10, 0, 0, 0, 0, 0, 0, 0] }).toThrow("An expert has 10 bytes; the largest shard has room for 9.");
    await refused({ capacityBytes: [30, 60] }, "contiguous").toThrow("Contiguous placement puts 40 bytes on shard 0, which has room for 30; the experts have 80 bytes and the shards together room for 90.");
    await refused({ capacityBytes: [45, 45], expertBytes: [30, 30, 30, 0, 0, 0, 0, 0] }).toThrow(/best joint placement found puts 60 bytes on shard \d, which has room for 45/);
    await refused({ capacityBytes: [45, 45], expertBytes: [30, 30, 30, 0, 0, 0, 0, 0] }, "two-stage").toThrow(/room for 45/);
    await refused({ regionCost: [[0, 3], [2, 0]] }).toThrow("The cost from region 0 to 1 is 3 and back 2; expected the same both ways");
    await refused({ shardRegions: [0, 2] }).toThrow("Shard 1 is in region 2; the costs are of 2 regions.");
    await refused({ expertBytes: [1] }).toThrow("bytes of 1 experts were given; expected 2 and 8");
    const load = Float64Array.of(50, 1, 1, 1, 5, 5, 5, 5);
    await expect(placeExperts({ ...problem, counts: { ...problem.counts, load } }, { mode: "joint", maxLoadCv: 0.1 })).rejects.toThrow(/load variation of 0\.\d+ in layer 1; at most 0\.1 was asked for/);
  });

  it("finds what fits where equal counts do not", async () => {
    const placed = await placeExperts({ ...problem, capacityBytes: [20, 60] }, { mode: "joint" });
    expect(placed.shardBytes).toEqual([20, 60]);
  });

  it("gives the same placement for the same input, and may give another for another seed", async () => {
    const random = seededNumbers(9);
    const [nLayers, nExperts] = [4, 24];
    const counts = { layers: [0, 1, 2, 3], nExperts, load: Float64Array.from({ length: nLayers * nExperts }, () => Math.floor(random() * 100)), moves: Float64Array.from({ length: (nLayers - 1) * nExperts * nExperts }, () => Math.floor(random() * 100)) };
    const large = { counts, shardRegions: [0, 0, 1, 1], regionCost: problem.regionCost, capacityBytes: new Array<number>(4).fill(300), expertBytes: new Float64Array(nLayers * nExperts).fill(10) };
    const run = async (mode: (typeof PLACEMENT_MODES)[number], seed: number): Promise<string> => (await placeExperts(large, { mode, seed, maxSteps: 20_000 })).shardOf.join();
    for (const mode of PLACEMENT_MODES) expect(await run(mode, 5)).toBe(await run(mode, 5));
    expect(await run("joint", 6)).not.toBe(await run("joint", 5));
  });

  it("places 48 layers of 128 experts over 16 shards in four regions", async () => {
    const random = seededNumbers(3);
    const [nLayers, nExperts] = [48, 128];
    const counts = {
      layers: Array.from({ length: nLayers }, (_, i) => i), nExperts, load: Float64Array.from({ length: nLayers * nExperts }, () => 5 + Math.floor(1000 / (1 + Math.floor(random() * nExperts)))),
      moves: Float64Array.from({ length: (nLayers - 1) * nExperts * nExperts }, (_, i) => Math.floor(random() * 20 * ((i * 7) % 4 === 0 ? 3 : 1))),
    };
    const regionCost = Array.from({ length: 4 }, (_, a) => Array.from({ length: 4 }, (_, b) => 20 * Math.abs(a - b)));
    const wide = { counts, shardRegions: Array.from({ length: 16 }, (_, s) => s >> 2), regionCost, capacityBytes: new Array<number>(16).fill(48 * 8 * 1.1), expertBytes: new Float64Array(nLayers * nExperts).fill(1) };
    const [contiguous, joint] = [await placeExperts(wide, { mode: "contiguous" }), await placeExperts(wide, { mode: "joint" })];
    expect(joint.crossCost).toBeLessThan(0.8 * contiguous.crossCost);
    expect(joint.loadCv).toBeLessThanOrEqual(contiguous.loadCv);
    expect(Math.max(...joint.shardBytes)).toBeLessThanOrEqual(48 * 8 * 1.1);
  });
});

describe("as a plan", () => {
  it("puts every segment of an expert on its shard", async () => {
    const placed = await placeExperts(problem, { mode: "joint" });
    const experts = [1, 4].flatMap((layer) => [0, 1, 2, 3].map((expert) => ({ layer, expert, segmentBytes: [5, 5] })));
    const plan = makePlan(experts, 2, assignPlaced(placed));
    expect(plan.shardBytes).toEqual(placed.shardBytes);
    experts.forEach(({ layer, expert }, i) => expect([plan.shardOf(layer, expert, 0), plan.shardOf(layer, expert, 1)]).toEqual([placed.shardOf[i], placed.shardOf[i]]));
    expect(() => makePlan([{ layer: 2, expert: 0, segmentBytes: [5] }], 2, assignPlaced(placed))).toThrow("Expert 0 of layer 2 was not placed");
  });
});
