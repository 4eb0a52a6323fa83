// What the notes of a step say of routing, against the formulas in float64; whatever the segments, chunks, multipliers and shared experts.

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import { openPackFrom } from "../../../cli/open-pack.ts";
import { TRACE_COLUMNS, type TraceRecord } from "../../../formats/trace.ts";
import { moeLayersOf } from "../../../model/config.ts";
import type { Tap } from "../../../model/taps.ts";
import { RoutingNotes } from "../../../passes/routing-notes.ts";
import { openTinyHuggingFace, packToMemory } from "../../support/pack-to-memory.ts";
import { tinyModel } from "../../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const IDS = Array.from({ length: 23 }, (_, i) => (i * 29 + 4) % 97);

describe.each(["qwen3_moe", "granitemoeshared", "deepseek_v2"] as const)("%s", (architecture) => {
  it("norms, angles and logits are what the weights give", async () => {
    const checkpoint = await openTinyHuggingFace(tinyModel(architecture, 21));
    const { engine } = await openPackFrom((await packToMemory(checkpoint, { quant: "f32", segmentWidth: 32 })).source, { maxChunkTokens: 9 });
    const { config: c } = engine;
    const notes = new RoutingNotes(c, TRACE_COLUMNS);
    const residuals = new Map<string, Float32Array>();
    const seen: Tap = { at: "input", run: ({ layer, nTokens, positions, values }) => {
      for (let t = 0; t < nTokens; t++) residuals.set(`${layer} ${positions[t]}`, values.slice(t * c.hiddenSize, (t + 1) * c.hiddenSize));
    } };
    const timeline = engine.kv.open(IDS.length);
    const records: TraceRecord[] = [];
    for (let at = 0; at < IDS.length; at += 9) {
      await engine.step([{ timeline, ids: IDS.slice(at, at + 9), logits: "none" }], [...notes.taps, seen]);
      records.push(...notes.take(5));
    }
    expect(records.map(({ request, token, layer }) => [request, token, layer])).toEqual(IDS.flatMap((_, token) => moeLayersOf(c).map((layer) => [5, token, layer])));

    const product = async (name: string): Promise<(x: ArrayLike<number>) => Float64Array> => {
      const [w, { nRows, nCols }] = [await checkpoint.readF32(name), checkpoint.place(name)];
      return (x) => Float64Array.from({ length: nRows }, (_, r) => { let sum = 0; for (let i = 0; i < nCols; i++) sum += w[r * nCols + i]! * x[i]!; return sum; });
    };
    for (const { token, layer, ids, weights, logits, norms, cosine } of records) {
      const residual = residuals.get(`${layer} ${token}`)!;
      const norm = await checkpoint.readF32(`layers.${layer}.ffnNorm`);
      const rms = Math.sqrt(residual.reduce((sum, x) => sum + x * x, 0) / c.hiddenSize + c.normEps);
      const x = Float64Array.from(residual, (value, i) => (value / rms) * norm[i]!);
      (await product(`layers.${layer}.router`))(x).forEach((logit, expert) => expect(logits![expert]).toBeCloseTo(logit, 3));
      const after = Float64Array.from(residual);
      for (const [rank, expert] of Array.from(ids).entries()) {
        const at = `layers.${layer}.experts.${expert}.`;
        const [gate, up] = [(await product(`${at}gate`))(x), (await product(`${at}up`))(x)];
        const y = (await product(`${at}down`))(gate.map((g, i) => (g / (1 + Math.exp(-g))) * up[i]!));
        const size = Math.sqrt(y.reduce((sum, value) => sum + value * value, 0));
        expect(Math.abs(norms![rank]! - size)).toBeLessThan(1e-4 * (size + 1e-3));
        y.forEach((value, i) => { after[i]! += c.residualMultiplier * weights[rank]! * value; });
      }
      const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number => Array.from(a).reduce((sum, value, i) => sum + value * b[i]!, 0);
      expect(cosine![0]).toBeCloseTo(dot(residual, after) / Math.sqrt(dot(residual, residual) * dot(after, after)), 5);
    }
  });

  it("asked for less, says less", async () => {
    const { engine } = await openPackFrom((await packToMemory(await openTinyHuggingFace(tinyModel(architecture, 21)))).source);
    const notes = new RoutingNotes(engine.config, ["ids", "weights"]);
    expect(notes.taps.map(({ at }) => at)).toEqual(["selection"]);
    await engine.step([{ timeline: engine.kv.open(4), ids: [1, 2, 3, 4], logits: "none" }], notes.taps);
    expect(Object.keys(notes.take(0)[0]!).sort()).toEqual(["ids", "layer", "request", "token", "weights"]);
    expect(notes.take(0)).toEqual([]);
  });
});
