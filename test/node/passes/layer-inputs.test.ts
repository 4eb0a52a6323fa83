// Inputs of every matrix of a layer, for every architecture: multiplied with the matrices they are said to be for, they give what the layer adds.

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import { kernelModules } from "../../../cli/open-pack.ts";
import type { Checkpoint } from "../../../formats/checkpoint.ts";
import { sharedWidth } from "../../../model/config.ts";
import { LayerInputs, weightOf, type Rows } from "../../../passes/layer-inputs.ts";
import { LayeredModel } from "../../../passes/layered-model.ts";
import { checkpointWeights } from "../../../passes/streamed-model.ts";
import { openTinyHuggingFace } from "../../support/pack-to-memory.ts";
import { TINY_ARCHITECTURES, tinyModel } from "../../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const SEQUENCES = [Array.from({ length: 19 }, (_, i) => (i * 31 + 7) % 97), Array.from({ length: 12 }, (_, i) => (i * 17 + 3) % 97)];
const N_TOKENS = 31;

/** Row `row` through a matrix of the checkpoint, in float64. */
async function matrixOf(checkpoint: Checkpoint, name: string): Promise<(rows: Rows, row: number) => Float64Array> {
  const { nRows, nCols } = checkpoint.place(name);
  const w = await checkpoint.readF32(name);
  return ({ width, values }, row) => {
    expect(width).toBe(nCols);
    return Float64Array.from({ length: nRows }, (_, r) => {
      let sum = 0;
      for (let i = 0; i < nCols; i++) sum += w[r * nCols + i]! * values[row * nCols + i]!;
      return sum;
    });
  };
}

const vectorOf = async (checkpoint: Checkpoint, name: string, has: boolean, n: number): Promise<Float32Array> => (has ? checkpoint.readF32(name) : new Float32Array(n));

/** Of sums of a few dozen f32 products, and of differences of residuals. */
const near = (found: ArrayLike<number>, expected: ArrayLike<number>, what: string): void => {
  const size = Math.sqrt(Array.from(expected).reduce((sum, x) => sum + x * x, 0) / expected.length);
  for (let i = 0; i < expected.length; i++) expect(Math.abs(found[i]! - expected[i]!), `${what}, value ${i}`).toBeLessThan(2e-4 * (size + 0.01));
};

describe.each(TINY_ARCHITECTURES)("%s", (architecture) => {
  it("q, k, v, o, gate, up and down", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel(architecture, 9));
    const { config: c } = checkpoint;
    const model = await LayeredModel.open(checkpointWeights(checkpoint, 64), SEQUENCES, kernelModules());
    for (let layer = 0; layer < c.nLayers; layer++) {
      const at = `layers.${layer}.`;
      const inputs = new LayerInputs(model, checkpoint, 64, layer);
      const before = model.rows;
      const residual = new Float32Array(before.length);
      const after = await model.tryLayer(layer, { taps: [{ at: "input", run: ({ values }, first) => residual.set(values, first * c.hiddenSize) }] });
      const part = (rows: Float32Array, t: number): Float32Array => rows.subarray(t * c.hiddenSize, (t + 1) * c.hiddenSize);

      const [attended, o, oBias] = [await inputs.attended(), await matrixOf(checkpoint, `${at}o`), await vectorOf(checkpoint, `${at}oBias`, c.oBias, c.hiddenSize)];
      const { routing, ...normed } = await inputs.feedForward();
      const isSparse = c.layerFfns[layer] === "moe";
      expect(routing !== null).toBe(isSparse);
      const experts = isSparse ? await inputs.expertDown(Array.from({ length: c.nExperts }, (_, e) => e), routing!) : new Map();
      const downs = await Promise.all(Array.from({ length: isSparse ? c.nExperts : 0 }, (_, e) => matrixOf(checkpoint, `${at}experts.${e}.down`)));
      const biases = await Promise.all(downs.map((_, e) => vectorOf(checkpoint, `${at}experts.${e}.downBias`, c.expertKind === "clamped-swiglu", c.hiddenSize)));
      const next = downs.map(() => 0);
      const hasShared = sharedWidth(c, layer) > 0;
      const shared = hasShared ? await inputs.sharedDown() : null;
      const sharedDown = hasShared ? await matrixOf(checkpoint, `${at}shared.down`) : null;
      const gate = isSparse && c.sharedGate ? await matrixOf(checkpoint, `${at}sharedGate`) : null;
      for (let t = 0; t < N_TOKENS; t++) {
        near(part(residual, t), o(attended, t).map((x, i) => before[t * c.hiddenSize + i]! + c.residualMultiplier * (x + oBias[i]!)), `layer ${layer}, token ${t}, attention`);
        const sum = new Float64Array(c.hiddenSize);
        for (let rank = 0; isSparse && rank < c.router.topK; rank++) {
          const expert = routing!.ids[t * c.router.topK + rank]!;
          const row = next[expert]!++;
          const rows = experts.get(expert)!;
          expect(rows.weights[row]).toBe(weightOf(routing!, t, expert));
          downs[expert]!(rows, row).forEach((x, i) => { sum[i]! += rows.weights[row]! * (x + biases[expert]![i]!); });
        }
        if (shared !== null) {
          const factor = gate === null ? 1 : 1 / (1 + Math.exp(-gate(normed, t)[0]!));
          sharedDown!(shared, t).forEach((x, i) => { sum[i]! += factor * x; });
        }
        near(part(after, t), sum.map((x, i) => residual[t * c.hiddenSize + i]! + c.residualMultiplier * x), `layer ${layer}, token ${t}, feed-forward`);
      }
      // gate and up see the norm's rows: their product is what down is given, in the plain kind.
      if (isSparse && c.expertKind === "swiglu") {
        const expert = routing!.ids[0]!;
        const [g, u] = [(await matrixOf(checkpoint, `${at}experts.${expert}.gate`))(normed, 0), (await matrixOf(checkpoint, `${at}experts.${expert}.up`))(normed, 0)];
        near(experts.get(expert)!.values.subarray(0, c.expertIntermediateSize), g.map((x, i) => (x / (1 + Math.exp(-x))) * u[i]!), `layer ${layer}, expert ${expert}`);
      }
      if (c.mla === null && !c.qkvBias) expect((await inputs.attention()).values.length).toBe(before.length);
      await model.runLayer(layer);
    }
  });
});
