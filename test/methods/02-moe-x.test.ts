// Row 2, MoE-X (2025), the experts: ReLU between two matrices, so that a layer of experts is one wide MLP of which a mask leaves blocks, and the down product leaves out what it
// would multiply with zero. Counted three ways: by hand, by the kernels, by the probe. And the router: what it foretells from means and spreads of the weights is how many neurons work.

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../cli/build-kernels.mjs";
import { kernelModules } from "../../cli/open-pack.ts";
import { openPack } from "../../formats/pack-reader.ts";
import type { ModelConfig } from "../../model/config.ts";
import { createScalarKernels } from "../../model/scalar-kernels.ts";
import { wholeModel } from "../../model/stage-span.ts";
import { instantiateKernels, RESERVED_BYTES } from "../../model/wasm-kernels.ts";
import { expertActivity, meanL0 } from "../../passes/activation-sparsity.ts";
import { KERNEL_VARIANTS } from "../kernel-cases.ts";
import { kernelModule } from "../node/kernels/modules.ts";
import { directEngine, logitsOf, type PlainWeights } from "../support/direct-engine.ts";
import { drawnNumbers } from "../support/drawn-numbers.ts";
import { openTinyPlain, packToMemory } from "../support/pack-to-memory.ts";
import { PlainExperts, type PlainExpert } from "../support/plain-experts.ts";
import { openStage } from "../support/ring.ts";
import { seededConfig, seededWeights } from "../support/seeded-model.ts";
import { SeededRandom } from "../support/seeded-random.ts";
import { tinyModel, type TinyModel } from "../support/tiny-models.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const kernelsOf = (variant: "scalar" | (typeof KERNEL_VARIANTS)[number]) => {
  const memory = new WebAssembly.Memory({ initial: 64 });
  return variant === "scalar" ? createScalarKernels(memory) : instantiateKernels(kernelModule(variant), memory, variant);
};

describe.each(["scalar", ...KERNEL_VARIANTS] as const)("%s", (variant) => {
  const [TOKENS, SIZE, WIDTH, EXPERTS] = [9, 24, 44, 6];
  const X = drawnNumbers(1, 2, TOKENS * SIZE);
  /** Encoders [EXPERTS * WIDTH, SIZE] and decoders [SIZE, EXPERTS * WIDTH] of the wide MLP, whose blocks are the experts. No biases: MoE-X has none. */
  const [encoder, decoder] = [drawnNumbers(2, 0.4, EXPERTS * WIDTH * SIZE), drawnNumbers(3, 0.3, SIZE * EXPERTS * WIDTH)];
  const experts = Array.from({ length: EXPERTS }, (_, e): PlainExpert => ({
    up: encoder.slice(e * WIDTH * SIZE, (e + 1) * WIDTH * SIZE), upBias: new Float32Array(WIDTH), downBias: new Float32Array(SIZE),
    down: Float32Array.from({ length: SIZE * WIDTH }, (_, at) => decoder[Math.floor(at / WIDTH) * EXPERTS * WIDTH + e * WIDTH + (at % WIDTH)]!),
  }));
  const ids = Array.from({ length: TOKENS }, (_, t) => [t % EXPERTS, (t + 1 + (t % 4)) % EXPERTS]);
  const weights = ids.map((_, t) => [0.2 + 0.05 * t, 0.9 - 0.07 * t].map(Math.fround));

  it("a layer of experts is the wide MLP with a mask of blocks, times the router's weights", () => {
    const found = new PlainExperts(kernelsOf(variant), "relu-mlp", experts, 32).layer(X, ids, weights);
    for (let t = 0; t < TOKENS; t++) {
      const h = Array.from({ length: EXPERTS * WIDTH }, (_, j) => {
        const rank = ids[t]!.indexOf(Math.floor(j / WIDTH));
        let u = 0;
        for (let i = 0; i < SIZE; i++) u += encoder[j * SIZE + i]! * X[t * SIZE + i]!;
        return rank < 0 ? 0 : weights[t]![rank]! * Math.max(u, 0);
      });
      for (let i = 0; i < SIZE; i++) expect(Math.abs(found[t * SIZE + i]! - h.reduce((sum, v, j) => sum + v * decoder[i * EXPERTS * WIDTH + j]!, 0))).toBeLessThan(1e-5);
    }
  });

  it("one wide expert with silenced blocks gives what the others' experts give together", () => {
    const layer = new PlainExperts(kernelsOf(variant), "relu-mlp", experts, WIDTH);
    for (const [t, own] of ids.entries()) {
      const wide = { up: encoder, down: decoder, downBias: new Float32Array(SIZE), upBias: Float32Array.from({ length: EXPERTS * WIDTH }, (_, j) => (own.includes(Math.floor(j / WIDTH)) ? 0 : -1e6)) };
      const row = X.slice(t * SIZE, (t + 1) * SIZE);
      const [masked, summed] = [new PlainExperts(kernelsOf(variant), "relu-mlp", [wide], 512).run(0, row), layer.layer(row, [own], [[1, 1]])];
      masked.forEach((value, i) => expect(Math.abs(value - summed[i]!)).toBeLessThan(1e-5));
    }
  });

  it("leaves out as many multiplications as there are zeros, in batches of 1 to 9, where they are many; and none where few", () => {
    // Small whole numbers, so that a zero is a zero however it is added up; biases make most or few neurons silent.
    const whole = (seed: number, most: number, n: number): Float32Array => drawnNumbers(seed, most, n).map(Math.round);
    const expert = (bias: number): PlainExpert => ({ up: whole(4, 3, WIDTH * SIZE), upBias: new Float32Array(WIDTH).fill(bias), down: whole(5, 3, SIZE * WIDTH), downBias: whole(6, 3, SIZE) });
    const rows = whole(7, 4, TOKENS * SIZE);
    for (let n = 1; n <= TOKENS; n++) {
      for (const [bias, isSparse] of [[-40, true], [200, false]] as const) {
        const of = expert(bias);
        const h = Array.from({ length: n * WIDTH }, (_, at) => {
          const [t, j] = [Math.floor(at / WIDTH), at % WIDTH];
          return Math.max(0, of.up.subarray(j * SIZE, (j + 1) * SIZE).reduce((sum, w, i) => sum + w * rows[t * SIZE + i]!, bias));
        });
        const zeros = h.filter((value) => value === 0).length;
        expect(zeros / h.length > 0.75).toBe(isSparse);
        const layer = new PlainExperts(kernelsOf(variant), "relu-mlp", [of], WIDTH);
        const y = layer.run(0, rows.slice(0, n * SIZE));
        expect(layer.leftOut).toBe(isSparse && variant !== "scalar" ? zeros : 0);
        for (let t = 0; t < n; t++) for (let r = 0; r < SIZE; r++) expect(y[t * SIZE + r]).toBe(h.slice(t * WIDTH, (t + 1) * WIDTH).reduce((sum, value, j) => sum + value * of.down[r * WIDTH + j]!, of.downBias[r]!));
      }
    }
  });
});

describe("a model of such experts", () => {
  const IDS = Array.from({ length: 40 }, (_, i) => (i * i * 7 + 3 * i + 11) % 97);
  /** Biases so far below zero that few neurons work; every second group of 32 never does. */
  const modelOf = (bias: number, silences: boolean): TinyModel => {
    const model = tinyModel("olmoe", 8, { expertKind: "relu-mlp", config: { intermediate_size: 96 } });
    for (const [name, { values }] of model.weights) if (name.endsWith("upBias")) values.forEach((_, j) => { values[j] = silences && (j >> 5) % 2 === 1 ? -1e3 : bias; });
    return model;
  };
  async function leftOut(model: TinyModel, quant: "f32" | "q8", chunks: readonly number[]): Promise<{ leftOut: number; logits: Float32Array }> {
    const { source } = await packToMemory(openTinyPlain(model), { quant, segmentWidth: 64 });
    const { manifest } = await openPack(source);
    const { engine, runner } = await openStage(source, manifest, wholeModel(manifest.config));
    const logits = await logitsOf(engine, IDS, chunks);
    return { leftOut: runner.leftOut, logits };
  }

  it("leaves out what the probe counts, token by token and in chunks", async () => {
    const model = modelOf(-2, false);
    let [zeros, numbers] = [0, 0];
    for await (const layer of expertActivity(openTinyPlain(model), [IDS], kernelModules())) {
      const calls = layer.experts.reduce((sum, { tokens }) => sum + tokens, 0);
      expect([calls, layer.width]).toEqual([IDS.length * 2, 96]);
      expect(meanL0(layer)).toBeGreaterThan(1);
      expect(meanL0(layer)).toBeLessThan(0.2 * 96);
      numbers += calls * 96;
      zeros += calls * 96 - layer.experts.reduce((sum, { working }) => sum + working, 0);
    }
    expect(zeros).toBeLessThan(numbers);
    const [one, many] = [await leftOut(model, "f32", [1]), await leftOut(model, "f32", [40])];
    expect([one.leftOut, many.leftOut]).toEqual([zeros, zeros]);
    expect(many.logits).toEqual(one.logits);
  });

  it("in int8 leaves out groups of 32 that are silent, and only those", async () => {
    const model = modelOf(1, true); // of segments [0, 64) and [64, 96) the group [32, 64)
    expect((await leftOut(model, "q8", [1])).leftOut).toBe(IDS.length * 2 * 2 * 32);
    expect((await leftOut(modelOf(1, false), "q8", [1])).leftOut).toBe(0);
  });

  it("of another kind leaves out nothing", async () => {
    expect((await leftOut(tinyModel("olmoe", 8, { expertKind: "gelu-mlp" }), "f32", [1])).leftOut).toBe(0);
    expect((await leftOut(tinyModel("olmoe", 8), "f32", [1])).leftOut).toBe(0);
  });
});

it("the router foretells how many neurons stay silent: of Gaussian weights, its logits fall as L0 rises", async () => {
  const [E, WIDTH, H] = [16, 256, 48];
  const config: ModelConfig = {
    ...seededConfig, nExperts: E, expertIntermediateSize: WIDTH, expertKind: "relu-mlp", router: { ...seededConfig.router, topK: 2, score: "logits", weigh: "softmax-selected", gate: { kind: "sparsity" } },
  };
  const random = new SeededRandom(3);
  const normal = (): number => random.normal();
  // Every expert has directions that it reads above zero and others below: by chance, as an untrained one.
  const ups = Array.from({ length: E }, () => {
    const mean = Array.from({ length: H }, () => 0.3 * normal());
    return Float32Array.from({ length: WIDTH * H }, (_, at) => mean[at % H]! + 0.5 * normal());
  });
  const column = (up: Float32Array, i: number): number[] => Array.from({ length: WIDTH }, (_, neuron) => up[neuron * H + i]!);
  const meanOf = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;
  const moments = (of: (values: readonly number[]) => number): Float32Array => Float32Array.from({ length: E * H }, (_, at) => of(column(ups[Math.floor(at / H)]!, at % H)));
  const [means, spreads] = [moments(meanOf), moments((values) => { const m = meanOf(values); return meanOf(values.map((v) => (v - m) ** 2)); })];
  const seeded = seededWeights(config, 5);
  const weights: PlainWeights = (name) => {
    const [, expert] = /^layers\.0\.experts\.(\d+)\.up$/.exec(name) ?? [];
    if (expert !== undefined) return { rows: WIDTH, cols: H, values: ups[Number(expert)]! };
    if (name === "layers.0.router") return { rows: E, cols: H, values: means };
    return name === "layers.0.routerSpread" ? { rows: E, cols: H, values: spreads } : /^layers\.0\.experts\.\d+\.upBias$/.test(name) ? { rows: 1, cols: WIDTH, values: new Float32Array(WIDTH) } : seeded(name);
  };
  const { engine } = directEngine(config, weights, RESERVED_BYTES, { kernels: createScalarKernels(new WebAssembly.Memory({ initial: 64 })), contextLength: 64, maxChunkTokens: 32 });
  let [x, logits] = [new Float32Array(0), new Float32Array(0)];
  const ids = Array.from({ length: 24 }, (_, i) => (i * 23 + 5) % 61);
  const { logits: [out] } = await engine.step([{ timeline: engine.kv.open(24), ids, logits: "all" }], [
    { at: "input", layers: [0], run: ({ values }) => { x = values.slice(); } }, { at: "logits", layers: [0], run: ({ values }) => { logits = values.slice(); } },
  ]);
  expect(out!.every(Number.isFinite)).toBe(true);
  const norm = weights("layers.0.ffnNorm").values;
  const pairs = ids.flatMap((_, t) => {
    const row = [...x.subarray(t * H, (t + 1) * H)];
    const rms = Math.sqrt(meanOf(row.map((v) => v * v)) + config.normEps);
    const read = row.map((v, i) => (v / rms) * norm[i]!);
    return ups.map((up, e): [number, number] => [logits[t * E + e]!, meanOf(Array.from({ length: WIDTH }, (__, neuron) => (read.reduce((sum, v, i) => sum + v * up[neuron * H + i]!, 0) > 0 ? 1 : 0)))]);
  });
  const [a, b] = [meanOf(pairs.map(([z]) => z)), meanOf(pairs.map(([, l0]) => l0))];
  const covariance = meanOf(pairs.map(([z, l0]) => (z - a) * (l0 - b)));
  const correlation = covariance / Math.sqrt(meanOf(pairs.map(([z]) => (z - a) ** 2)) * meanOf(pairs.map(([, l0]) => (l0 - b) ** 2)));
  expect(correlation).toBeLessThan(-0.9);
});
