// Row 26, MoDE (M. Reuss et al., 2025): routers that see the condition alone. All tokens of a request take the same experts, a condition goes through a layer's router once, and
// the experts of each condition can be made one: the same function to 1e-5, with no router left and one expert for a token.

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../cli/build-kernels.mjs";
import { kernelModules, openPackFrom } from "../../cli/open-pack.ts";
import { openModelFolder } from "../../formats/canonical-model.ts";
import { MemorySink, MemorySource } from "../../formats/memory-source.ts";
import type { ModelConfig } from "../../model/config.ts";
import { route, softmax } from "../../model/definition.ts";
import { GateStage } from "../../model/gate-stage.ts";
import { createScalarKernels } from "../../model/scalar-kernels.ts";
import type { Tap } from "../../model/taps.ts";
import { RESERVED_BYTES } from "../../model/wasm-kernels.ts";
import { fuseModel } from "../../passes/fuse-model.ts";
import { directEngine, logitsOf } from "../support/direct-engine.ts";
import { packToMemory } from "../support/pack-to-memory.ts";
import { plainCheckpoint } from "../support/plain-checkpoint.ts";
import { seededConfig, seededWeights } from "../support/seeded-model.ts";

beforeAll(() => buildKernels({ log: () => {} }));

/** MoDE's: the 2 largest of 4, by two layers from the condition. */
const config: ModelConfig = {
  ...seededConfig, nExperts: 4, router: { ...seededConfig.router, topK: 2, weigh: "renormalize", logitBias: true, scope: { kind: "condition", size: 4 }, gate: { kind: "mlp", width: 16, activation: "relu" } },
};
const IDS = [3, 17, 60, 4, 4, 29, 8, 55, 31, 12, 0, 41, 7];
/** Noise levels of ten steps, as log(sigma) / 4 with its square, sine and one. */
const CONDITIONS = Array.from({ length: 10 }, (_, i) => { const z = Math.log(80 * 0.55 ** i) / 4; return [z, z * z, Math.sin(3 * z), 1].map(Math.fround); });
const conditionOf = (i: number): Float32Array => Float32Array.from(CONDITIONS[i]!);
const engineOf = (of: ModelConfig = config) => directEngine(of, seededWeights(of, 5), RESERVED_BYTES, { kernels: createScalarKernels(new WebAssembly.Memory({ initial: 16 })), contextLength: 64 }).engine;

describe("a condition decides", () => {
  it("by hand: the two largest of the router's softmax over the condition, for every token alike", async () => {
    const w = seededWeights(config, 5);
    const product = (name: string, x: readonly number[]): number[] => {
      const { rows, cols, values } = w(name);
      return Array.from({ length: rows }, (_, r) => x.reduce((sum, v, c) => sum + v * values[r * cols + c]!, 0));
    };
    const engine = engineOf();
    const seen: { layer: number; ids: number[]; weights: number[] }[] = [];
    const tap: Tap = { at: "selection", run: ({ layer, ids, weights }) => void seen.push({ layer, ids: [...ids], weights: [...weights] }) };
    await engine.step([{ timeline: engine.kv.open(16), ids: IDS, logits: "none", answers: { condition: conditionOf(3) } }], [tap]);
    for (const { layer, ids, weights } of seen) {
      const at = `layers.${layer}.`;
      const hidden = product(at + "routerHidden", CONDITIONS[3]!).map((v, i) => Math.max(0, v + w(at + "routerHiddenBias").values[i]!));
      const p = softmax(product(at + "router", hidden).map((v, i) => v + w(at + "routerBias").values[i]!));
      const [a, b] = p.map((_, e) => e).sort((x, y) => p[y]! - p[x]!) as [number, number];
      IDS.forEach((_, t) => {
        expect(ids.slice(2 * t, 2 * t + 2)).toEqual([a, b]);
        expect(Math.abs(weights[2 * t]! - p[a]! / (p[a]! + p[b]!))).toBeLessThan(1e-6);
      });
      expect(route(config.router, product(at + "router", hidden).map((v, i) => v + w(at + "routerBias").values[i]!)).ids).toEqual([a, b]);
    }
  });

  it("goes through a router once a layer, whoever asks and however often", async () => {
    const gated: number[] = [];
    const run = GateStage.prototype.run;
    const stages = new Set<GateStage>();
    GateStage.prototype.run = function (...args) { stages.add(this); run.apply(this, args); };
    try {
      const engine = engineOf();
      for (let round = 0; round < 3; round++) {
        const timelines = [engine.kv.open(8), engine.kv.open(8)];
        await engine.step(timelines.map((timeline, i) => ({ timeline, ids: IDS.slice(0, 5), logits: "none", answers: { condition: conditionOf(i) } })));
        timelines.forEach((timeline) => engine.kv.close(timeline));
        gated.push([...stages].reduce((sum, stage) => sum + stage.gatedRows, 0));
      }
    } finally {
      GateStage.prototype.run = run;
    }
    // Two conditions, two layers; then nothing.
    expect(gated).toEqual([4, 4, 4]);
  });

  it("two conditions in one step get what each gets alone; a tap that changes logits changes no later request", async () => {
    const engine = engineOf();
    const timelines = [engine.kv.open(8), engine.kv.open(8)];
    const { logits } = await engine.step(timelines.map((timeline, i) => ({ timeline, ids: IDS.slice(0, 5), logits: "all", answers: { condition: conditionOf(4 * i) } })));
    for (const i of [0, 1]) expect(logits[i]).toEqual(await logitsOf(engineOf(), IDS.slice(0, 5), [5], { answers: { condition: conditionOf(4 * i) } }));
    const other = engine.kv.open(8);
    await engine.step([{ timeline: other, ids: IDS.slice(0, 5), logits: "none", answers: { condition: conditionOf(0) } }], [{ at: "logits", run: ({ values }) => void values.fill(0) }]);
    const again = engine.kv.open(8);
    expect((await engine.step([{ timeline: again, ids: IDS.slice(0, 5), logits: "all", answers: { condition: conditionOf(0) } }])).logits[0]).toEqual(logits[0]);
  });

  it("must be given, whole and finite", async () => {
    const engine = engineOf();
    const timeline = engine.kv.open(8);
    for (const answers of [undefined, { condition: new Float32Array(3) }, { condition: Float32Array.of(1, NaN, 0, 0) }, { condition: conditionOf(0), task: 1 }]) {
      await expect(engine.step([{ timeline, ids: [1], logits: "last", ...(answers === undefined ? {} : { answers }) }])).rejects.toThrow(/condition|tasks/);
    }
  });
});

describe("fused", async () => {
  const sink = new MemorySink();
  const report = await (buildKernels({ log: () => {} }), fuseModel(plainCheckpoint(config, seededWeights(config, 5)), sink, kernelModules(), CONDITIONS));
  const fused = await openModelFolder(new MemorySource(sink.files), "fused");

  it("gives the unfused model's logits to 1e-5, for all ten steps, in f32 and in q8 as near as rounding lets it", async () => {
    for (const [quant, tolerance] of [["f32", 1e-5], ["q8", 0.05]] as const) {
      const [before, after] = await Promise.all([plainCheckpoint(config, seededWeights(config, 5)), fused].map(async (checkpoint) => (await openPackFrom((await packToMemory(checkpoint, { quant, kvFormat: "f32" })).source)).engine));
      for (let i = 0; i < 10; i++) {
        const answers = { condition: conditionOf(i) };
        const [a, b] = [await logitsOf(before!, IDS, [13], { answers }), await logitsOf(after!, IDS, [13], { answers })];
        const scale = Math.max(...a.map(Math.abs));
        a.forEach((value, j) => expect(Math.abs(value - b[j]!) / scale).toBeLessThan(tolerance));
      }
    }
  });

  it("a token asks for one expert a layer, and a request for one expert a layer whatever its length", async () => {
    const { engine } = await openPackFrom((await packToMemory(fused, { quant: "f32" })).source);
    const asked = new Set<string>();
    const tap: Tap = { at: "expertOutput", run: ({ layer, batch }) => { for (let g = 0; g < batch!.nGroups; g++) asked.add(`${layer}.${batch!.groupExpert[g]}`); } };
    await engine.step([{ timeline: engine.kv.open(16), ids: IDS, logits: "none", answers: { condition: conditionOf(6) } }], [tap]);
    expect([...asked].sort()).toEqual(["0.6", "1.6"]);
    expect(engine.config.router.topK).toBe(1);
    expect([...fused.places()].filter(({ name }) => /router/.test(name))).toEqual([]);
    expect(report).toMatchObject({ conditions: 10, expertsPerToken: 2, expertWeights: { before: 2 * 4 * 3 * 40 * 48, after: 2 * 10 * 3 * 80 * 48 } });
    for (const { choices } of report.layers) expect(choices).toBeGreaterThan(1);
  });

  it("a condition that was not there is refused, with what there is; so is a model routed by tokens", async () => {
    const { engine } = await openPackFrom((await packToMemory(fused, { quant: "f32" })).source);
    const timeline = engine.kv.open(4);
    await expect(engine.step([{ timeline, ids: [1], logits: "last", answers: { condition: Float32Array.of(1, 2, 3, 4) } }])).rejects.toThrow("10 conditions, and the one given is none of them");
    await expect(fuseModel(plainCheckpoint(seededConfig, seededWeights(seededConfig, 5)), new MemorySink(), kernelModules(), CONDITIONS)).rejects.toThrow("not routed by a condition");
    await expect(fuseModel(plainCheckpoint(config, seededWeights(config, 5)), new MemorySink(), kernelModules(), [[1, 2]])).rejects.toThrow("Condition 0");
  });
});
