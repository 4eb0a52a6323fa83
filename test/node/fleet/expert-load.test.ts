// The load a trace shows: counted by hand on a small one, and what is of another model refused without being counted.

import { describe, expect, it } from "vitest";
import { ExpertLoad } from "../../../fleet/expert-load.ts";

const shape = { moeLayers: [1, 4], nExperts: 4 };

describe("the load of experts", () => {
  it("is counted per layer, with how uneven it is", () => {
    const load = new ExpertLoad(shape);
    for (const ids of [[0, 1], [0, 2], [0, 1], [0, 1]]) load.add({ layer: 1, ids });
    load.add({ layer: 4, ids: Uint16Array.of(3, 2) });
    const [first, second] = load.layers;
    expect(first).toMatchObject({ layer: 1, tokens: 4, chosen: Float64Array.of(4, 3, 1, 0), idle: 1, imbalance: 2 });
    expect(first!.entropyBits).toBeCloseTo(-(0.5 * Math.log2(0.5) + 0.375 * Math.log2(0.375) + 0.125 * Math.log2(0.125)), 12);
    expect(second).toMatchObject({ layer: 4, tokens: 1, imbalance: 2, entropyBits: 1, idle: 2 });
  });

  it("is even where every expert is chosen alike, and nothing where nothing was routed", () => {
    const load = new ExpertLoad(shape);
    for (const ids of [[0, 1], [2, 3]]) load.add({ layer: 1, ids });
    expect(load.layers[0]).toMatchObject({ imbalance: 1, entropyBits: 2, idle: 0 });
    expect(load.layers[1]).toMatchObject({ tokens: 0, imbalance: 0, entropyBits: 0, idle: 4 });
  });

  it("refuses what is of another model, whole", () => {
    const load = new ExpertLoad(shape);
    expect(() => load.add({ layer: 2, ids: [0] })).toThrow("A record is of layer 2; the layers with experts are 1, 4.");
    expect(() => load.add({ layer: 1, ids: [0, 4] })).toThrow("names expert 4; the model has 4");
    expect(load.layers[0]!.tokens).toBe(0);
    expect(load.layers[0]!.chosen).toEqual(new Float64Array(4));
  });
});
