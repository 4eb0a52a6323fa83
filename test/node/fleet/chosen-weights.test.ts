// What a trace says of weights, by hand: shares by rank, their spread, and what was left out.

import { describe, expect, it } from "vitest";
import { ChosenWeights, SHARE_BINS } from "../../../fleet/chosen-weights.ts";

describe("weights of a trace", () => {
  it("are shared among a token's choices, and what it did without is counted", () => {
    const of = new ChosenWeights({ moeLayers: [0, 4], topK: 2 });
    of.add({ layer: 4, ids: [3, 1], weights: [1.5, 0.5] }); // 3/4, 1/4: weights need not sum to 1
    of.add({ layer: 4, ids: [2, 0], weights: [0.5, 0.5] });
    of.add({ layer: 4, ids: [5], weights: [0.25] }); // one left out
    of.add({ layer: 4, ids: [], weights: [] }); // both
    const [empty, layer] = of.layers;
    expect(empty).toEqual({ layer: 0, tokens: 0, of: 0, leftOut: 0, meanShares: [0, 0], histogram: new Array<number>(SHARE_BINS).fill(0) });
    expect(layer).toMatchObject({ layer: 4, tokens: 3, of: 8, leftOut: 3 });
    expect(layer!.meanShares.map((share) => share.toFixed(6))).toEqual(["0.750000", "0.250000"]);
    // Of 20 bins: 1/4 in the sixth, 1/2 twice in the eleventh, 3/4 in the sixteenth, 1 in the last.
    expect(layer!.histogram.flatMap((n, bin) => (n === 0 ? [] : [[bin, n]]))).toEqual([[5, 1], [10, 2], [15, 1], [19, 1]]);
  });

  it("refuse records of another model", () => {
    const of = new ChosenWeights({ moeLayers: [0], topK: 2 });
    expect(() => of.add({ layer: 1, ids: [0], weights: [1] })).toThrow("A record is of layer 1; the layers with experts are 0.");
    expect(() => of.add({ layer: 0, ids: [0, 1, 2], weights: [1, 1, 1] })).toThrow("A record of layer 0 has 3 experts and 3 weights; expected at most 2 of each, as many weights as experts.");
  });
});
