// Interventions on routing, operation by operation: hand-computed numbers, what each promises of the tokens it touches, equality bit for bit with the models they imitate (fewer experts, a smaller topK), and the
// same bits in any chunks, beside anybody, over any parts. What has no effect gives the bits of none. Out of scope: generations, rings and HTTP (interventions-served.test.ts, test/workerd/interventions.test.ts).

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import type { ModelConfig, RouterConfig } from "../../../model/config.ts";
import { createScalarKernels } from "../../../model/scalar-kernels.ts";
import type { StepEntry } from "../../../model/step.ts";
import { NO_EXPERT } from "../../../model/expert-batch.ts";
import type { Experts, Placement } from "../../../model/experts.ts";
import { type Intervention, interventionOps, interventionsProblem } from "../../../model/interventions.ts";
import { interventionPlan, type LayerPlan } from "../../../model/intervention-plan.ts";
import { changeLogits, choose, reweigh, standardDeviation } from "../../../model/intervention-taps.ts";
import { directEngine, type DirectOptions, type PlainWeights } from "../../support/direct-engine.ts";
import { seededConfig, seededWeights } from "../../support/seeded-model.ts";

beforeAll(() => buildKernels({ log: () => {} }));

const f = Math.fround;
const withRouter = (router: Partial<RouterConfig>, more: Partial<ModelConfig> = {}): ModelConfig => ({ ...seededConfig, ...more, router: { ...seededConfig.router, topK: 4, ...router } });
const config = withRouter({ weigh: "renormalize" });
/** Routers of every kind that there is, over the same eight experts. */
const ROUTERS: readonly (readonly [name: string, config: ModelConfig])[] = [
  ["softmax", withRouter({})], ["softmax, renormalised", config], ["softmax of the selected", withRouter({ score: "logits", weigh: "softmax-selected", logitBias: true })],
  ["sigmoid with a bias", withRouter({ score: "sigmoid", weigh: "renormalize", selectionBias: true, scale: 2.5 })],
  ["sigmoid in groups, of the best two", withRouter({ score: "sigmoid", weigh: "renormalize", selectionBias: true, nGroups: 2, topKGroups: 1, groupScore: "top2-sum", topK: 2 })],
  ["softmax in groups, of the best", withRouter({ nGroups: 4, topKGroups: 2, groupScore: "max", scale: 3, topK: 2 })],
  ["sparsemixer", withRouter({ select: "sparsemixer", sparsemixerEpsilon: 0.2, topK: 2 })],
];
const ids = Array.from({ length: 33 }, (_, i) => (i * i * 7 + 3 * i + 11) % 61);
const bits = (x: Float32Array): Uint32Array => new Uint32Array(x.buffer, x.byteOffset, x.length);
const weightsOf = (of: ModelConfig): PlainWeights => seededWeights(of, 27);
const open = (of: ModelConfig = config, more: Partial<DirectOptions> = {}, weights: PlainWeights = weightsOf(of)): ReturnType<typeof directEngine> =>
  directEngine(of, weights, 65536, { kernels: createScalarKernels(new WebAssembly.Memory({ initial: 2 })), contextLength: 64, maxChunkTokens: 40, ...more });

/** One token in one layer, as a tap behind all interventions sees it. */
interface Seen { readonly layer: number; readonly position: number; readonly logits: number[]; readonly scores: number[]; readonly ids: number[]; readonly weights: number[] }
interface Evaluated { readonly logits: Uint32Array; readonly seen: readonly Seen[] }

async function evaluated({ engine }: ReturnType<typeof open>, interventions: readonly Intervention[], chunks: readonly number[] = [33], beside: (at: number) => Omit<StepEntry, "timeline">[] = () => []): Promise<Evaluated> {
  expect(interventionsProblem(engine.config, interventions)).toBeNull();
  const { nExperts: n, router: { topK: k } } = engine.config;
  const timeline = engine.kv.open(40);
  const parts: number[] = [];
  const seen: Seen[] = [];
  let logits: number[][] = [];
  for (let done = 0, i = 0; done < ids.length; i++) {
    const chunk = ids.slice(done, done + chunks[Math.min(i, chunks.length - 1)]!);
    const others = beside(i).map((entry) => ({ ...entry, timeline: engine.kv.open(8) }));
    const result = await engine.step([...others, { timeline, ids: chunk, logits: "all", routing: interventions.length === 0 ? null : { interventions } }], [
      { at: "logits", run: ({ nTokens, values, rowLength }) => { logits = Array.from({ length: nTokens }, (_, t) => Array.from(values.subarray(t * rowLength, t * rowLength + n))); } },
      { at: "selection", run: ({ layer, positions, timelines, values, rowLength, ids: chosen, weights }) => positions.forEach((position, t) => {
        if (timelines[t] !== timeline.id) return;
        seen.push({ layer, position, logits: logits[t]!, scores: Array.from(values.subarray(t * rowLength, t * rowLength + n)), ids: Array.from(chosen.subarray(t * k, (t + 1) * k)), weights: Array.from(weights.subarray(t * k, (t + 1) * k)) });
      }) },
    ]);
    parts.push(...bits(result.logits[others.length]!));
    for (const entry of others) engine.kv.close(entry.timeline);
    done += chunk.length;
  }
  engine.kv.close(timeline);
  return { logits: Uint32Array.from(parts), seen: seen.sort((a, b) => a.layer - b.layer || a.position - b.position) };
}

const plan = (more: Partial<LayerPlan>): LayerPlan => ({ logits: [], among: [0, 1, 2, 3, 4, 5, 6, 7], isMasked: false, k: 4, chosen: [], leastLogit: -Infinity, suppressed: new Set(), gains: null, ...more });
const taken = (more: Partial<LayerPlan>, before: readonly number[], logits: readonly number[] = []): [boolean, number[]] => {
  const own = Uint32Array.from(before);
  return [choose(plan(more), Float32Array.from(logits), own), Array.from(own)];
};

describe("logits", () => {
  it("spread as a population's, over the experts there are", () => {
    expect(standardDeviation(Float32Array.of(2, 4, 4, 4, 5, 5, 7, 9), [0, 1, 2, 3, 4, 5, 6, 7])).toBe(2);
    expect(standardDeviation(Float32Array.of(1, 99, 3, 99), [0, 2])).toBe(1);
  });

  it("are raised by lambda times that", () => {
    const row = Float32Array.of(2, 4, 4, 4, 5, 5, 7, 9);
    changeLogits(row, [0, 1, 2, 3, 4, 5, 6, 7], { op: "add_std", experts: [0, 3], lambda: 0.5 });
    expect(Array.from(row)).toEqual([3, 4, 4, 5, 5, 5, 7, 9]);
  });

  it("become the largest there is, and a little more", () => {
    const row = Float32Array.of(2, -4, 8, 100);
    changeLogits(row, [0, 1, 2], { op: "force_max", experts: [0, 1], lambda: 0 });
    expect(Array.from(row)).toEqual([8 + 8 / 65536, 8 + 8 / 65536, 8, 100]);
    const small = Float32Array.of(-0.5, -3);
    changeLogits(small, [0, 1], { op: "force_max", experts: [1], lambda: 0 });
    expect(small[1]).toBe(f(-0.5 + 1 / 65536));
  });

  it("change in the order they were listed", () => {
    const of = interventionPlan(config, [{ op: "force_max", experts: { 0: [1] } }, { op: "add_std", experts: { 0: [0, 1], 1: [] }, lambda: 2 }])!;
    expect(of[1]).toBeNull();
    expect(of[0]!.logits).toEqual([{ op: "force_max", experts: [1], lambda: 0 }, { op: "add_std", experts: [0, 1], lambda: 2 }]);
  });
});

describe("who is taken", () => {
  it("is as before where nothing applies", () => { expect(taken({}, [5, 2, 7, 0])).toEqual([false, [5, 2, 7, 0]]); });
  it("with fewer of them are the first", () => { expect(taken({ k: 2 }, [5, 2, 7, 0])).toEqual([true, [5, 2, NO_EXPERT, NO_EXPERT]]); });
  it("stimulated take the last places of those that are not, in order", () => {
    expect(taken({ chosen: [1, 3] }, [5, 2, 7, 0])).toEqual([true, [5, 2, 1, 3]]);
    expect(taken({ chosen: [0, 6] }, [5, 2, 7, 0])).toEqual([true, [5, 2, 6, 0]]);
    expect(taken({ chosen: [1, 3], k: 2 }, [5, 2, 7, 0])).toEqual([true, [1, 3, NO_EXPERT, NO_EXPERT]]);
    expect(taken({ chosen: [2, 5] }, [5, 2, 7, 0])).toEqual([false, [5, 2, 7, 0]]);
  });
  it("suppressed leave their places empty", () => {
    expect(taken({ suppressed: new Set([5, 7, 1]) }, [5, 2, 7, 0])).toEqual([true, [NO_EXPERT, 2, NO_EXPERT, 0]]);
    expect(taken({ suppressed: new Set([0, 2, 5, 7]) }, [5, 2, 7, 0])).toEqual([true, [NO_EXPERT, NO_EXPERT, NO_EXPERT, NO_EXPERT]]);
  });
  it("below the null experts' logit are left out, unless they are to be chosen", () => {
    const logits = [-2, 0, 1, 0, 0, 3, 0, -1];
    expect(taken({ leastLogit: -1 }, [5, 2, 7, 0], logits)).toEqual([true, [5, 2, 7, NO_EXPERT]]);
    expect(taken({ leastLogit: 4 }, [5, 2, 7, 0], logits)).toEqual([true, [NO_EXPERT, NO_EXPERT, NO_EXPERT, NO_EXPERT]]);
    expect(taken({ leastLogit: 4, chosen: [7] }, [5, 2, 7, 0], logits)).toEqual([true, [NO_EXPERT, NO_EXPERT, 7, NO_EXPERT]]);
  });
});

describe("weights", () => {
  const scores = Float32Array.of(0.05, 0, 0.15, 0, 0, 0.2, 0, 0.1);
  const of = (router: Partial<RouterConfig>, own: readonly number[]): number[] => {
    const given = Float32Array.of(0.4, 0.3, 0.2, 0.1);
    reweigh({ ...config.router, ...router }, scores, Uint32Array.from(own), given);
    return Array.from(given);
  };
  const close = (...numbers: readonly number[]): unknown[] => numbers.map((x) => expect.closeTo(x, 6) as unknown);
  it("are what the router gives to so few", () => {
    expect(of({}, [5, NO_EXPERT, 7, NO_EXPERT])).toEqual(close(2 / 3, 0, 1 / 3, 0));
    expect(of({ scale: 3 }, [NO_EXPERT, NO_EXPERT, 7, NO_EXPERT])).toEqual(close(0, 0, 3, 0));
    expect(of({ weigh: "score" }, [5, 2, NO_EXPERT, 0])).toEqual([f(0.2), f(0.15), 0, f(0.05)]);
    expect(of({ weigh: "softmax-selected" }, [5, NO_EXPERT, NO_EXPERT, 7])).toEqual(close(1 / (1 + Math.exp(-0.1)), 0, 0, 1 / (1 + Math.exp(0.1))));
    expect(of({ select: "threshold" }, [5, NO_EXPERT, 7, NO_EXPERT])).toEqual(close(2 / 3, 0, 1 / 3, 0));
    expect(of({}, [NO_EXPERT, NO_EXPERT, NO_EXPERT, NO_EXPERT])).toEqual([0, 0, 0, 0]);
  });
  it("are none where no score is more than zero, and no numbers never", () => { expect(of({}, [1, 3, NO_EXPERT, NO_EXPERT])).toEqual([0, 0, 0, 0]); });
  it("stay where the router makes them while it chooses", () => { expect(of({ select: "sparsemixer" }, [5, NO_EXPERT, 7, 0])).toEqual([0.4, 0, 0.2, 0.1].map(f)); });
});

describe("an engine", () => {
  const NONE: readonly Intervention[] = [
    { op: "add_std", experts: { 0: [1, 2], 1: [3] }, lambda: 0 }, { op: "gain", experts: { 0: [1, 2] }, gain: 1 }, { op: "top_k", k: 4 }, { op: "mask", experts: {} }, { op: "suppress", experts: { 0: [], 1: [] } },
    { op: "stimulate", experts: {} }, { op: "force_max", experts: { 1: [] } }, { op: "null_bias", bias: [null, null] },
  ];
  it("whose interventions change nothing gives the bits of none, and has no plan", async () => {
    const plain = await evaluated(open(), []);
    for (const one of NONE) {
      expect(interventionPlan(config, [one])).toBeNull();
      expect((await evaluated(open(), [one])).logits).toEqual(plain.logits);
    }
    expect(await evaluated(open(), NONE)).toEqual(plain);
    // Those that have a plan, and change nothing all the same.
    expect((await evaluated(open(), [{ op: "null_bias", bias: -1e6 }])).logits).toEqual(plain.logits);
    expect((await evaluated(open(), [{ op: "gain", experts: { 0: [1] }, gain: 1.25 }])).logits).not.toEqual(plain.logits);
  });

  it("raises, forces, stimulates, suppresses and amplifies as it says, from the first layer on", async () => {
    const plain = (await evaluated(open(), [])).seen.filter(({ layer }) => layer === 0);
    const with0 = async (...list: Intervention[]): Promise<readonly Seen[]> => (await evaluated(open(), list)).seen.filter(({ layer }) => layer === 0);
    const softmax = (z: readonly number[]): number[] => { const e = z.map((x) => Math.exp(x - Math.max(...z))); return e.map((x) => x / e.reduce((a, b) => a + b)); };
    const soft = await with0({ op: "add_std", experts: { 0: [1, 6] }, lambda: 0.5 });
    soft.forEach(({ logits, ids: own, weights: given }, t) => {
      const z = plain[t]!.logits;
      const mean = z.reduce((a, b) => a + b) / 8;
      const std = Math.sqrt(z.reduce((sum, x) => sum + (x - mean) ** 2, 0) / 8);
      const raised = z.map((x, e) => (e === 1 || e === 6 ? x + 0.5 * std : x));
      logits.forEach((x, e) => { expect(x).toBeCloseTo(raised[e]!, 5); });
      const p = softmax(raised);
      const best = p.map((_, e) => e).sort((a, b) => p[b]! - p[a]!).slice(0, 4);
      expect(own).toEqual(best);
      given.forEach((w, rank) => { expect(w).toBeCloseTo(p[best[rank]!]! / best.reduce((sum, e) => sum + p[e]!, 0), 5); });
    });
    expect(soft.some(({ ids: own }, t) => own.join() !== plain[t]!.ids.join())).toBe(true);

    const stimulated = await with0({ op: "stimulate", experts: { 0: [1, 6] } });
    stimulated.forEach(({ ids: own, weights: given, scores }, t) => {
      const rest = plain[t]!.ids.filter((id) => id !== 1 && id !== 6);
      expect(new Set(own)).toEqual(new Set([...rest.slice(0, 2), 1, 6]));
      const sum = own.reduce((all, id) => all + scores[id]!, 0);
      given.forEach((w, rank) => { expect(w).toBeCloseTo(scores[own[rank]!]! / sum, 5); });
      expect(scores).toEqual(plain[t]!.scores);
    });

    const suppressed = await with0({ op: "suppress", experts: { 0: [1, 6, 3] } });
    suppressed.forEach(({ ids: own, weights: given }, t) => {
      expect(own).toEqual(plain[t]!.ids.map((id) => ([1, 6, 3].includes(id) ? NO_EXPERT : id)));
      expect(given.reduce((a, b) => a + b)).toBeCloseTo(1, 5);
    });
    expect(suppressed.some(({ ids: own }) => own[0] === NO_EXPERT)).toBe(true);

    const amplified = await with0({ op: "gain", experts: { 0: [1, 6] }, gain: -1.5 }, { op: "gain", experts: { 0: [6] }, gain: 2 });
    amplified.forEach(({ ids: own, weights: given }, t) => {
      expect(own).toEqual(plain[t]!.ids);
      expect(given).toEqual(plain[t]!.weights.map((w, rank) => (own[rank] === 1 ? f(w * -1.5) : own[rank] === 6 ? f(w * -3) : w)));
    });

    const few = await with0({ op: "null_bias", bias: [0.5, null] });
    few.forEach(({ ids: own, weights: given }, t) => {
      const { logits } = plain[t]!;
      expect(own).toEqual(plain[t]!.ids.map((id) => (logits[id]! < 0.5 ? NO_EXPERT : id)));
      const left = own.filter((id) => id !== NO_EXPERT);
      if (left.length > 0) expect(given.reduce((a, b) => a + b)).toBeCloseTo(1, 5);
      const most = Math.max(...logits);
      own.forEach((id, rank) => { expect(given[rank]).toBeCloseTo(id === NO_EXPERT ? 0 : Math.exp(logits[id]! - most) / left.reduce((sum, e) => sum + Math.exp(logits[e]! - most), 0), 5); });
    });
    expect(new Set(few.map(({ ids: own }) => own.filter((id) => id !== NO_EXPERT).length)).size).toBeGreaterThan(2);
  });

  it.each(ROUTERS.filter(([, { router }]) => router.select === "top-k"))("forces and stimulates in every token: %s", async (_, of) => {
    const { topK } = of.router;
    // Weights eight times as large make sigmoids of 1 and softmaxes of 0, so that scores are equal.
    for (const scale of [1, 8]) for (const experts of [{ 0: [6], 1: [0] }, { 0: [7, 2].slice(0, topK), 1: [1, 4, 5, 6].slice(0, topK) }]) for (const op of ["force_max", "stimulate"] as const) {
      const weights = weightsOf(of);
      const large: PlainWeights = (name) => (/router$/.test(name) ? { ...weights(name), values: Float32Array.from(weights(name).values, (x) => scale * x) } : weights(name));
      const { seen } = await evaluated(open(of, {}, large), [{ op, experts }]);
      expect(seen.length).toBe(66);
      for (const { layer, ids: own, weights: given } of seen) {
        expect(own).toEqual(expect.arrayContaining(experts[layer as 0 | 1]));
        expect(new Set(own).size).toBe(topK);
        expect(given.every(Number.isFinite)).toBe(true);
        // The forced weigh as much as any other, or more.
        if (op === "force_max" && of.router.score !== "sigmoid" && of.router.nGroups === 1) own.forEach((id, rank) => { if (experts[layer as 0 | 1].includes(id)) expect(given[rank]).toBe(Math.max(...given)); });
      }
    }
  });

  /** The same model without some experts: matrices, router's rows and biases of the others under new numbers. */
  const without = (of: ModelConfig, gone: readonly (readonly number[])[]): { of: ModelConfig; weights: PlainWeights; kept: number[][] } => {
    const kept = gone.map((experts) => Array.from({ length: 8 }, (_, e) => e).filter((e) => !experts.includes(e)));
    const weights = weightsOf(of);
    return {
      of: { ...of, nExperts: kept[0]!.length }, kept,
      weights: (name) => {
        const [, layer, expert, rest] = /^layers\.(\d+)\.experts\.(\d+)\.(.*)$/.exec(name) ?? [];
        if (expert !== undefined) return weights(`layers.${layer}.experts.${kept[Number(layer)]![Number(expert)]}.${rest}`);
        const [, of2, part] = /^layers\.(\d+)\.(router|routerBias|selectionBias)$/.exec(name) ?? [];
        const whole = weights(name);
        if (part === undefined) return whole;
        const width = part === "router" ? whole.cols : 1;
        const rows = kept[Number(of2)]!;
        return { rows: part === "router" ? rows.length : 1, cols: part === "router" ? width : rows.length, values: Float32Array.from(rows.flatMap((e) => Array.from({ length: width }, (_, i) => whole.values[e * width + i]!))) };
      },
    };
  };

  it.each(ROUTERS)("masked is the model without those experts, bit for bit, whatever else is done: %s", async (_, of) => {
    // Two of each group of four, one of each group of two: as many in every group.
    const gone = of.router.nGroups === 4 ? [[0, 3, 4, 7], [1, 3, 5, 6]] : [[1, 3, 4, 6], [0, 2, 5, 7]];
    const smaller = without(of, gone);
    const mask: Intervention = { op: "mask", experts: { 0: gone[0]!, 1: gone[1]! } };
    const number = (layer: 0 | 1, i: number): number => smaller.kept[layer]![i]!;
    const others: readonly (readonly [whole: Intervention[], small: Intervention[]])[] = [
      [[], []],
      [[{ op: "add_std", experts: { 0: [number(0, 1), number(0, 2)] }, lambda: 1.5 }], [{ op: "add_std", experts: { 0: [1, 2] }, lambda: 1.5 }]],
      [[{ op: "suppress", experts: { 0: [number(0, 0)], 1: [number(1, 3)] } }, { op: "gain", experts: { 1: [number(1, 1)] }, gain: 2 }], [{ op: "suppress", experts: { 0: [0], 1: [3] } }, { op: "gain", experts: { 1: [1] }, gain: 2 }]],
      ...(of.router.select === "sparsemixer" ? [] : [
        [[{ op: "force_max", experts: { 0: [number(0, 3)] } }, { op: "stimulate", experts: { 1: [number(1, 0)] } }], [{ op: "force_max", experts: { 0: [3] } }, { op: "stimulate", experts: { 1: [0] } }]],
        [[{ op: "top_k", k: 1 }, { op: "null_bias", bias: 0 }], [{ op: "top_k", k: 1 }, { op: "null_bias", bias: 0 }]],
      ] as const satisfies readonly (readonly [Intervention[], Intervention[]])[]),
    ];
    const plain = await evaluated(open(of), []);
    for (const [whole, small] of others) {
      const expected = await evaluated(open(smaller.of, {}, smaller.weights), small);
      const masked = await evaluated(open(of), [...whole, mask]);
      expect(masked.logits).toEqual(expected.logits);
      expect(masked.logits).not.toEqual(plain.logits);
      masked.seen.forEach(({ layer, ids: own, weights: given }, i) => {
        expect(own.map((id) => (id === NO_EXPERT ? id : smaller.kept[layer]!.indexOf(id)))).toEqual(expected.seen[i]!.ids);
        expect(given).toEqual(expected.seen[i]!.weights);
      });
    }
  });

  it.each(ROUTERS.filter(([, { router }]) => router.select === "top-k"))("with a smaller top_k is the model that takes so many, bit for bit: %s", async (_, of) => {
    for (let k = 1; k < of.router.topK; k++) {
      const expected = await evaluated(open({ ...of, router: { ...of.router, topK: k } }, {}, weightsOf(of)), []);
      expect((await evaluated(open(of), [{ op: "top_k", k }])).logits).toEqual(expected.logits);
      expect((await evaluated(open(of), [{ op: "top_k", k: of.router.topK }, { op: "top_k", k, layers: [0] }, { op: "top_k", k, layers: [1] }])).logits).toEqual(expected.logits);
    }
  });

  it("that loses all experts of a layer goes on without, as if they gave nothing", async () => {
    const weights = weightsOf(config);
    const silent: PlainWeights = (name) => (/^layers\.1\.experts\.\d+\.down$/.test(name) ? { ...weights(name), values: new Float32Array(weights(name).values.length) } : weights(name));
    const expected = await evaluated(open(config, {}, silent), []);
    const all = [0, 1, 2, 3, 4, 5, 6, 7];
    for (const list of [[{ op: "suppress", experts: { 1: all } }], [{ op: "null_bias", bias: [null, 1e6] }], [{ op: "gain", experts: { 1: all }, gain: 0 }]] as const) {
      const lost = await evaluated(open(), list as unknown as Intervention[]);
      expect(lost.logits).toEqual(expected.logits);
      if (list[0].op !== "gain") expect(lost.seen.filter(({ layer }) => layer === 1).every(({ ids: own }) => own.every((id) => id === NO_EXPERT))).toBe(true);
    }
  });

  const MANY: readonly Intervention[] = [
    { op: "add_std", experts: { 0: [2, 3], 1: [7] }, lambda: 0.75 }, { op: "force_max", experts: { 1: [4] } }, { op: "mask", experts: { 0: [0, 6], 1: [1] } }, { op: "stimulate", experts: { 0: [5] } },
    { op: "suppress", experts: { 0: [3], 1: [2, 7] } }, { op: "gain", experts: { 0: [2, 5], 1: [4] }, gain: 1.3 }, { op: "top_k", k: 3, layers: [0] }, { op: "null_bias", bias: [-0.2, 0.1] },
  ];

  it("gives the same bits in chunks, beside others, over parts and slices", async () => {
    const expected = await evaluated(open(), MANY);
    const counts = new Set(expected.seen.map(({ ids: own }) => own.filter((id) => id !== NO_EXPERT).length));
    expect(counts.size).toBeGreaterThan(2);
    const other = (interventions: readonly Intervention[], seed: number): Omit<StepEntry, "timeline"> => ({ ids: [seed, 5, 9], logits: "last", routing: interventions.length === 0 ? null : { interventions } });
    const beside = (i: number): Omit<StepEntry, "timeline">[] => [other([], i), other([{ op: "mask", experts: { 0: [1, 2, 3, 4] } }], 7), other([{ op: "suppress", experts: { 0: [0, 1, 2, 3, 4, 5, 6, 7] } }], 3)].slice(0, 1 + (i % 3));
    for (const chunks of [[1], [3, 8, 1, 21], [16]]) {
      expect(await evaluated(open(), MANY, chunks)).toEqual(expected);
      expect((await evaluated(open(), MANY, chunks, beside)).logits).toEqual(expected.logits);
    }
    expect(await evaluated(open(config, { maxRoundTokens: 20 }), MANY)).toEqual(expected);
    const placement: Placement = { nParts: 4, partOf: (layer, expert, segment) => (layer + expert + 3 * segment) % 4 };
    const apart = (inner: Experts & { runPart: (layer: number, batch: Parameters<Experts["run"]>[1], part: number) => void }): Experts => ({
      placement, overlapTokens: Infinity, depart: () => undefined,
      run: (layer, batch) => {
        for (const part of [2, 0, 3, 1]) inner.runPart(layer, batch, part);
        return { frames: 0, bytes: 0, retries: 0, hedges: 0, parts: [] };
      },
    });
    expect((await evaluated(open(config, { experts: apart }), MANY, [5])).logits).toEqual(expected.logits);
    const sliced = await evaluated(open(config, { segmentWidth: 32 }), MANY);
    expect((await evaluated(open(config, { segmentWidth: 32, experts: apart }), MANY, [7], beside)).logits).toEqual(sliced.logits);
  });

  it("lets online pruning see the outcome: its first is the first that is left, and it counts those", async () => {
    const { engine } = open();
    const timeline = engine.kv.open(40);
    const seen: number[][] = [];
    const { pruned } = await engine.step([{ timeline, ids, logits: "none", routing: {
      pruning: { by: "ratio", ratios: [1, 1], protectFirst: 0, renormalize: true }, interventions: [{ op: "suppress", experts: { 0: [0, 1, 2], 1: [0, 1, 2, 3, 4, 5, 6, 7] } }],
    } }], [{ at: "selection", run: ({ ids: own, weights: given }) => { for (let t = 0; t < 33; t++) seen.push([own.subarray(4 * t, 4 * t + 4).filter((id) => id !== NO_EXPERT).length, given.subarray(4 * t, 4 * t + 4).reduce((a, b) => a + b)]); } }]);
    const plain = (await evaluated(open(), [])).seen.filter(({ layer }) => layer === 0).map(({ ids: own }) => own.filter((id) => id > 2).length);
    expect(seen.slice(0, 33).map(([n]) => n)).toEqual(plain.map((n) => Math.min(1, n)));
    for (const [n, sum] of seen) expect(sum).toBeCloseTo(n!, 5);
    expect(pruned).toEqual([{ of: plain.reduce((a, b) => a + b), leftOut: plain.reduce((all, n) => all + Math.max(0, n - 1), 0) }]);
  });
});

describe("what cannot be", () => {
  const problem = (of: ModelConfig, ...list: Intervention[]): string | null => interventionsProblem(of, list);
  const groups = ROUTERS.find(([name]) => name.startsWith("softmax in groups"))![1];
  it.each<[Intervention[], string]>([
    [[{ op: "mask", experts: { 2: [1] } }], "`mask` names layer 2; expected layers with experts, which are 0, 1 here."],
    [[{ op: "gain", experts: { 0: [8] }, gain: 2 }], "`gain` names expert 8 of layer 0; expected numbers from 0 to 7."],
    [[{ op: "gain", experts: { "01": [8] }, gain: 2 }], "under \"01\"; expected the number of a layer"],
    [[{ op: "suppress", experts: { 0: [1, 1] } }], "names an expert of layer 0 twice"],
    [[{ op: "stimulate", experts: { 0: [1, 2, 3] } }, { op: "force_max", experts: { 0: [3, 4, 5] } }], "5 experts of layer 0 are to be forced or stimulated; expected at most 4, which a token takes there."],
    [[{ op: "stimulate", experts: { 0: [1, 2, 3] } }, { op: "top_k", k: 2 }], "3 experts of layer 0 are to be forced or stimulated; expected at most 2"],
    [[{ op: "stimulate", experts: { 1: [2] } }, { op: "mask", experts: { 1: [2] } }], "Expert 2 of layer 1 is to be chosen and to be left out"],
    [[{ op: "force_max", experts: { 1: [2] } }, { op: "suppress", experts: { 1: [2] } }], "Expert 2 of layer 1 is to be chosen and to be left out"],
    [[{ op: "mask", experts: { 1: [0, 1, 2] } }, { op: "mask", experts: { 1: [3, 4] } }], "5 of 8 experts of layer 1 are masked; expected at least 4 to stay, which a token takes there."],
    [[{ op: "top_k", k: 5 }], "`top_k` has a k of 5; expected 1 to 4, which this model takes."],
    [[{ op: "top_k", k: 2, layers: [3] }], "`top_k` names layer 3"],
    [[{ op: "null_bias", bias: [1] }], "`null_bias` has 1 biases; expected one number, or one for each of 2 layers."],
    [[{ op: "null_bias", bias: [1, NaN] }], "`null_bias` has a bias of NaN"],
    [[{ op: "add_std", experts: {}, lambda: Infinity }], "`add_std` has a lambda of Infinity"],
    [[{ op: "gain", experts: {}, gain: 1e9 }], "`gain` has a gain of 1000000000"],
  ])("is told in a sentence: %j", (list, sentence) => {
    expect(problem(config, ...list)).toContain(sentence);
    expect(problem(config, ...list)).toMatch(/\.$/);
  });

  it("is what the model has no part for, and /v1/models says what it has", () => {
    expect(problem(config, { op: "mask", experts: { 1: [0, 1, 2, 3, 4] } }, { op: "top_k", k: 3, layers: [1] })).toBeNull();
    expect(problem(groups, { op: "mask", experts: { 0: [0, 1, 2] } })).toContain("3 of 8 experts of layer 0 are masked, which leaves 1 in some 2 of the router's 4 groups; expected at least 2");
    expect(problem(groups, { op: "mask", experts: { 0: [0, 2] } })).toBeNull();
    const all = ["add_std", "force_max", "stimulate", "suppress", "mask", "gain", "top_k", "null_bias"];
    expect(interventionOps(config)).toEqual(all);
    expect(interventionOps(withRouter({ select: "sparsemixer", topK: 2 }))).toEqual(["add_std", "suppress", "mask", "gain"]);
    expect(interventionOps(withRouter({ score: "one" }))).toEqual(["stimulate", "suppress", "mask", "gain", "top_k"]);
    expect(interventionOps(withRouter({ auxiliaries: { perToken: 2, weighAmong: "run" } }))).toEqual(["add_std", "gain"]);
    expect(interventionOps({ ...config, layerFfns: ["dense", "dense"] })).toEqual([]);
    expect(problem({ ...config, layerFfns: ["dense", "dense"] }, { op: "top_k", k: 1 })).toContain("this is a dense model");
    expect(problem(withRouter({ select: "sparsemixer", topK: 2 }), { op: "force_max", experts: {} })).toContain("makes the weights while it chooses");
    expect(problem(withRouter({ select: "threshold", threshold: { temperature: 1, least: 0.1 } }), { op: "force_max", experts: {} })).toContain("takes as many experts as are above a bound");
  });
});
