// `node bench/sweeps.ts [--json]`: how the cost of a step grows with the context, the number of experts and the batch, on a small model of
// random weights, in this process. Every sweep is given as multiples of its first point, so that it says the same on another machine.
// Options: --cache DIR.

import { buildProgram } from "../cli/setup.mjs";
import { Engine } from "../model/engine.ts";
import type { Timeline } from "../model/kv-cache.ts";
import { localEngine } from "./local-engine.ts";
import { cachedGguf, cachedPack, DEFAULT_CACHE } from "./model/cached-model.ts";
import { parametersOf, type ModelShape } from "./model/random-model.ts";
import { machineReport, option, present, tableText, type Report } from "./report.ts";
import { median, rounded } from "./statistics.ts";

const QUANT = "Q4_0";
/** A quarter of OLMoE's width, so that contexts of 8,192 are read in seconds. */
const SMALL: ModelShape = Object.freeze({ hidden: 512, nLayers: 4, nHeads: 8, nKvHeads: 4, nExperts: 16, topK: 2, expertWidth: 512, vocabulary: 4096, contextLength: 8448 });
const CONTEXTS = [128, 512, 1024, 2048, 4096, 8192];
const EXPERTS = [8, 16, 32, 64, 128];
const BATCHES = [1, 2, 4, 8, 16, 32, 64];
const CHUNK = 256;
const REPEATS = 9;
const STEPS = 4;

interface Point {
  readonly at: number;
  readonly msPerStep: number;
  readonly tokensPerSecond: number;
  /** ms per step over that of the first point. */
  readonly growth: number;
}

export interface SweepReport extends Report {
  readonly shape: ModelShape;
  readonly parameters: number;
  readonly context: readonly Point[];
  readonly experts: readonly Point[];
  readonly batch: readonly Point[];
}

const id = (n: number): number => (n * 913 + 7) % SMALL.vocabulary;

async function read(engine: Engine, timeline: Timeline, nTokens: number): Promise<void> {
  while (timeline.length < nTokens) {
    const n = Math.min(engine.maxChunkTokens, nTokens - timeline.length);
    await engine.step([{ timeline, ids: Array.from({ length: n }, (_, i) => id(timeline.length + i)), logits: "none" }]);
  }
}

let stepsTaken = 0;

/**
 * ms per step of one token on each timeline, which is put back to `length` each time, so that every step meets the same context. Tokens
 * differ from step to step, and with them the experts.
 */
async function sample(engine: Engine, timelines: readonly Timeline[], length: number): Promise<number> {
  const start = performance.now();
  for (let step = 0; step < STEPS; step++) {
    for (const timeline of timelines) timeline.length = length;
    await engine.step(timelines.map((timeline, i) => ({ timeline, ids: [id(i * 31 + stepsTaken + step)], logits: "last" as const })));
  }
  stepsTaken += STEPS;
  return (performance.now() - start) / STEPS;
}

/** Points in turn, REPEATS times, after one round that warms up: a noisy moment hits all of them. */
async function interleaved(points: readonly { readonly at: number; readonly nTokens: number; run(): Promise<number> }[]): Promise<Point[]> {
  const samples = points.map((): number[] => []);
  for (let repeat = 0; repeat <= REPEATS; repeat++) {
    for (const [i, point] of points.entries()) {
      const ms = await point.run();
      if (repeat > 0) samples[i]!.push(ms);
    }
  }
  return points.map(({ at, nTokens }, i) => {
    const ms = median(samples[i]!);
    return { at, msPerStep: rounded(ms), tokensPerSecond: rounded((1000 * nTokens) / ms), growth: rounded(median(samples[i]!.map((value, repeat) => value / samples[0]![repeat]!))) };
  });
}

export async function benchSweeps(): Promise<SweepReport> {
  await buildProgram();
  const machine = machineReport();
  const cache = option("cache") ?? DEFAULT_CACHE;
  const engineOf = async (shape: ModelShape): Promise<Engine> =>
    localEngine(await cachedPack(await cachedGguf(cache, `small-${shape.nExperts}-experts`, shape, QUANT), "sweep", shape.contextLength), { maxChunkTokens: CHUNK });

  const engine = await engineOf(SMALL);
  const timeline = engine.kv.open(SMALL.contextLength);
  await read(engine, timeline, CONTEXTS.at(-1)!);
  const context = await interleaved(CONTEXTS.map((at) => ({ at, nTokens: 1, run: () => sample(engine, [timeline], at) })));
  engine.kv.close(timeline);

  const timelines = await Promise.all(Array.from({ length: BATCHES.at(-1)! }, async () => engine.kv.open(64)));
  for (const one of timelines) await read(engine, one, 32);
  const batch = await interleaved(BATCHES.map((at) => ({ at, nTokens: at, run: () => sample(engine, timelines.slice(0, at), 32) })));
  for (const one of timelines) engine.kv.close(one);

  const byExperts: { at: number; nTokens: number; run: () => Promise<number> }[] = [];
  for (const nExperts of EXPERTS) {
    const own = await engineOf({ ...SMALL, nExperts });
    const one = own.kv.open(64);
    await read(own, one, 32);
    byExperts.push({ at: nExperts, nTokens: 1, run: () => sample(own, [one], 32) });
  }
  const experts = await interleaved(byExperts);
  return { machine, shape: SMALL, parameters: parametersOf(SMALL), context, experts, batch, targets: {} };
}

if (import.meta.main) {
  const text = (title: string, points: readonly Point[]): string =>
    tableText([[title, "ms per step", "tokens/s", "growth"], ...points.map((p) => [p.at, p.msPerStep, p.tokensPerSecond, p.growth])]);
  await present("sweeps", benchSweeps, ({ context, experts, batch, shape, parameters }) => [
    `${(parameters / 1e6).toFixed(1)}M parameters, hidden ${shape.hidden}, ${shape.nLayers} layers, top-${shape.topK}; generation, in process`,
    text("context, tokens", context), "", text("experts", experts), "", text("batch, tokens", batch), "",
  ].join("\n"));
}
