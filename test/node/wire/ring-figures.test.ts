// What stage 0 tells of a whole ring: loads of every layer's experts and faults of every stage's lines, in metrics and in reports to the directory. They are those of one engine
// for the same requests; stages that are reset, silent, late or at the end of their counters change no count for the worse. Out of scope: objects and RPC (test/workerd/ring-loads.test.ts).

import { beforeAll, describe, expect, it } from "vitest";
import { buildKernels } from "../../../cli/build-kernels.mjs";
import { SeededRandom, systemClock } from "../../../durable/clock.ts";
import type { LaneReport as Report } from "../../../durable/directory-record.ts";
import type { GenerateRequest } from "../../../durable/generate.ts";
import { LaneReports } from "../../../durable/lane-report.ts";
import { LIMITS } from "../../../durable/limits.ts";
import { together, type LineFigures } from "../../../durable/line-figures.ts";
import { StageCount } from "../../../durable/metrics-expert-load.ts";
import { OrchestratorMetrics } from "../../../durable/metrics.ts";
import { RingFigures } from "../../../durable/ring-figures.ts";
import { Scheduler, type StepEngine } from "../../../durable/scheduler.ts";
import type { StageFigures } from "../../../durable/stage-handshake.ts";
import type { PackManifest } from "../../../formats/manifest.ts";
import { openPack } from "../../../formats/pack-reader.ts";
import { PLAIN_SAMPLING } from "../../../model/sampling.ts";
import { wholeModel, type StageSpan } from "../../../model/stage-span.ts";
import { openTinyHuggingFace, packToMemory, type MemoryPack } from "../../support/pack-to-memory.ts";
import { openStage, type StageEngine } from "../../support/ring.ts";
import { openStages, ringCluster, type RingCluster } from "../../support/ring-cluster.ts";
import { tinyModel } from "../../support/tiny-models.ts";
import { FakeClock } from "./fake-clock.ts";

const VOCAB = 1061;
const SPANS: readonly StageSpan[] = [
  { embeddingRows: [0, VOCAB], layers: [0, 1], headRows: [0, 0] }, { embeddingRows: [0, 0], layers: [1, 2], headRows: [0, 0] }, { embeddingRows: [0, 0], layers: [2, 3], headRows: [0, VOCAB] },
];
/** Without guesses, whose number goes by the clock. */
const REQUESTS: readonly GenerateRequest[] = [1, 2, 3, 4].map((seed) => ({
  promptIds: Array.from({ length: 6 + 5 * seed }, (_, i) => (i * i * 31 + 7 * i + 97 * seed) % VOCAB), maxTokens: 8, stopIds: [], draftTokens: 0, sampling: { ...PLAIN_SAMPLING, temperature: 0.8, topK: 20, seed },
}));
const served = (engine: StepEngine): Promise<unknown> => {
  const scheduler = new Scheduler(engine, systemClock, LIMITS);
  return Promise.all(REQUESTS.map((request) => new Promise<void>((resolve, reject) => void scheduler.submit(request, (event) => {
    if (event.type === "error") reject(new Error(event.message));
    else if (event.type === "end") resolve();
  }))));
};

/** Reports over counters, with the clock in hand. */
function reporting(shape: { nLayers: number; nExperts: number }, parts: { choices: () => Uint32Array; hear?: () => Promise<void>; faults?: ConstructorParameters<typeof LaneReports>[0]["faults"] }) {
  const clock = new FakeClock();
  const told: Report[] = [];
  const state = { isTaken: true };
  const reports = new LaneReports({
    shape, clock, limits: LIMITS, choices: parts.choices, hear: parts.hear ?? (async () => {}), faults: parts.faults ?? (() => []), freeKvPositions: () => 1, isWorking: () => false,
    tell: async (report) => { told.push(report); return state.isTaken; },
  });
  const next = async (): Promise<Report> => {
    await clock.advance(LIMITS.reportMs);
    const before = told.length;
    reports.working();
    for (let i = 0; i < 200 && told.length === before; i++) await clock.advance(LIMITS.stageFiguresMs / 10);
    expect(told.length).toBe(before + 1);
    return told.at(-1)!;
  };
  return { clock, next, state };
}

describe("a ring of three stages", () => {
  let pack: MemoryPack;
  let manifest: PackManifest;
  let stages: readonly StageEngine[];
  let expected: Uint32Array;
  beforeAll(async () => {
    await buildKernels({ log: () => {} });
    pack = await packToMemory(await openTinyHuggingFace(tinyModel("olmoe", 12, { config: { vocab_size: VOCAB, num_hidden_layers: 3, num_experts_per_tok: 3 } })), { quant: "q8" });
    manifest = (await openPack(pack.source)).manifest;
    stages = await openStages(pack.source, manifest, SPANS);
    const { engine } = await openStage(pack.source, manifest, wholeModel(manifest.config), 32);
    const metrics = new OrchestratorMetrics(systemClock);
    await served(metrics.measured(engine, manifest.config));
    expected = metrics.choices.slice();
  });

  /** A ring whose stages count as durable/stage.ts has them do; `onHop` may break it. */
  function counting(onHop: (ring: RingCluster, hear: () => Promise<void>) => void = () => {}) {
    const { config } = manifest;
    const random = new SeededRandom(3);
    const counts: StageCount[] = [];
    const ring: RingCluster = ringCluster(stages, manifest, { observe: (core, stage) => core.observe((counts[stage] = new StageCount(config, random)).tap) });
    const figures = new RingFigures({
      stages: [1, 2].map((stage) => ({ name: `stage ${stage}`, figures: async () => structuredClone(counts[stage]!.figures([])) })), nCounters: config.nLayers * config.nExperts, work: () => ring.engine.work,
      clock: systemClock, limits: LIMITS,
    });
    const metrics = new OrchestratorMetrics(systemClock);
    ring.onHop = () => { onHop(ring, () => figures.hear()); return "pass"; };
    return { engine: metrics.measured(ring.engine, config, figures), metrics, figures, ring, shape: config };
  }

  it("has the loads of one engine for the same requests, in reports and in metrics", async () => {
    const { engine, metrics, figures, shape } = counting();
    const { next } = reporting(shape, { choices: () => metrics.choices, hear: () => figures.hear() });
    await next();
    await served(engine);
    const { expertCounts } = await next();
    expect(expertCounts.flat()).toEqual(Array.from(expected));
    expect(expertCounts.map((of) => of.reduce((sum, n) => sum + n, 0))).toEqual(Array.from({ length: 3 }, () => 3 * REQUESTS.reduce((sum, { promptIds }) => sum + promptIds.length + 7, 0)));
    expect(Array.from(metrics.choices)).toEqual(Array.from(expected));
    const status = { status: "ready", loaded: 1, generations: {}, isolate: null, shards: [] } as unknown as Parameters<typeof metrics.text>[0]["status"];
    const lines = metrics.text({ status, clients: [], serving: null }).split("\n").filter((line) => line.startsWith("workers_moe_expert_tokens_total{"));
    expect(lines.map((line) => Number(line.split(" ").at(-1)))).toEqual(Array.from(expected));
  });

  it("whose stages are reset counts on: nothing falls, and nothing counts as billions", async () => {
    let resets = 0;
    const { engine, metrics, figures, shape, ring } = counting((of, hear) => {
      if (of.hops.count % 40 === 20) void hear();
      if (of.hops.count % 40 === 39) of.break(1 + (resets++ % 2));
    });
    const { next } = reporting(shape, { choices: () => metrics.choices, hear: () => figures.hear() });
    await next();
    await served(engine);
    const { expertCounts } = await next();
    expect([resets > 2, ring.built.count > 2]).toEqual([true, true]);
    const most = 3 * Math.max(...expected) * (resets + 1);
    for (const [i, n] of expertCounts.flat().entries()) expect([n >= 0, n <= most, Math.round(n) === metrics.choices[i]], `counter ${i}: ${n}`).toEqual([true, true, true]);
    // Stage 0 was never reset; what it evaluated again counts again.
    expectedRows(expertCounts, expected).forEach(([had, wanted], layer) => expect(had, `layer ${layer}`).toBeGreaterThan(wanted / 2));
  });
});

const expectedRows = (counts: readonly (readonly number[])[], expected: Uint32Array): [number, number][] => {
  const width = expected.length / counts.length;
  return counts.map((of, layer) => [of.reduce((sum, n) => sum + n, 0), expected.subarray(layer * width, (layer + 1) * width).reduce((sum, n) => sum + n, 0)]);
};

/** Figures over stages that say what the test has them say. */
function scripted(nStages: number) {
  const clock = new FakeClock();
  const says: (() => Promise<StageFigures | null>)[] = Array.from({ length: nStages }, () => async () => null);
  const asked = Array.from({ length: nStages }, () => 0);
  const work = { begun: 0, underWay: 1 };
  const figures = new RingFigures({
    stages: says.map((_, i) => ({ name: `stage ${i + 1}`, figures: () => { asked[i]!++; return says[i]!(); } })), nCounters: 3, work: () => ({ ...work }), clock, limits: LIMITS,
  });
  const say = (stage: number, life: number, ...choices: number[]): void => { says[stage] = async () => ({ life, choices: Uint32Array.from(choices), lines: [] }); };
  const hear = async (): Promise<number[]> => {
    expect((await clock.until(figures.hear())).status).toBe("fulfilled");
    return Array.from(figures.choices);
  };
  return { clock, says, asked, work, figures, say, hear };
}

describe("counts of stages", () => {
  it("add up, go on over 2^32 and over a reset, and are never taken twice", async () => {
    const { say, hear } = scripted(2);
    say(0, 1, 5, 0, 0xffffffff);
    say(1, 9, 0, 4, 0);
    expect(await hear()).toEqual([5, 4, 0xffffffff]);
    expect(await hear()).toEqual([5, 4, 0xffffffff]);
    say(0, 1, 6, 0, 2); // its third counter has begun again
    expect(await hear()).toEqual([6, 4, 2]);
    say(0, 2, 1, 0, 0); // the stage was reset, and has counted 1 since
    expect(await hear()).toEqual([7, 4, 2]);
    say(0, 2, 3, 0, 0);
    expect(await hear()).toEqual([9, 4, 2]);
  });

  it("of a stage where nothing stands, of another version, that fails or says nothing, are those heard last; one that answers too late has not answered", async () => {
    const { clock, says, say, hear, figures } = scripted(2);
    say(0, 1, 5, 5, 5);
    say(1, 1, 1, 0, 0);
    expect(await hear()).toEqual([6, 5, 5]);
    says[0] = async () => { throw new Error("Network connection lost."); };
    say(1, 1, 2, 0, 0);
    expect(await hear()).toEqual([7, 5, 5]);
    const startMs = clock.nowMs();
    let answer!: (of: StageFigures) => void;
    says[0] = () => new Promise((resolve) => { answer = resolve; });
    expect(await hear()).toEqual([7, 5, 5]);
    expect(clock.nowMs() - startMs).toBe(LIMITS.stageFiguresMs);
    say(0, 1, 9, 9, 9);
    expect(await hear()).toEqual([11, 9, 9]);
    answer({ life: 1, choices: Uint32Array.of(8, 8, 8), lines: [] }); // of before: it would count as billions
    await clock.settle();
    expect(Array.from(figures.choices)).toEqual([11, 9, 9]);
    say(0, 1, 7, 7, 7, 7);
    expect(await hear()).toEqual([11, 9, 9]);
    says[0] = async () => null;
    expect(await hear()).toEqual([11, 9, 9]);
    say(0, 3, 1, 1, 1);
    expect(await hear()).toEqual([12, 10, 10]);
  });

  it("are asked for once at a time, and not again while nothing was evaluated", async () => {
    const { asked, work, hear, figures, says, say, clock } = scripted(1);
    say(0, 1, 1, 1, 1);
    await Promise.all([figures.hear(), figures.hear(), hear()]);
    expect(asked).toEqual([1]);
    work.underWay = 0;
    await hear(); // what ended since
    await hear();
    expect(asked).toEqual([2]);
    work.begun = 7;
    says[0] = async () => { throw new Error("reset"); };
    await hear();
    await hear();
    expect(asked).toEqual([4]);
    say(0, 1, 2, 2, 2);
    expect(await hear()).toEqual([2, 2, 2]);
    await hear();
    expect(asked).toEqual([5]);
    await clock.settle();
  });
});

describe("a report", () => {
  it("waits for the stages, but not long", async () => {
    const { says, say, figures, clock } = scripted(1);
    const { next, clock: own } = reporting({ nLayers: 1, nExperts: 3 }, { choices: () => figures.choices, hear: () => figures.hear() });
    expect((await next()).expertCounts).toEqual([[0, 0, 0]]);
    say(0, 1, 4, 5, 6);
    expect((await next()).expertCounts).toEqual([[4, 5, 6]]);
    says[0] = () => new Promise(() => {});
    const late = next();
    await clock.advance(LIMITS.stageFiguresMs);
    expect((await late).expertCounts).toEqual([[4, 5, 6]]);
    await own.settle();
  });

  it("tells faults of every object's lines once it has heard of them, each until it was taken", async () => {
    const lines: { atMs: number; cause: string }[][][] = [[[], []], [[], []]];
    const { next, state } = reporting({ nLayers: 1, nExperts: 1 }, { choices: () => new Uint32Array(1), faults: () => lines });
    lines[0]![1]!.push({ atMs: 100, cause: "late" });
    expect((await next()).faults).toEqual([{ atMs: 100, shard: 1, cause: "late" }]);
    // Stage 1's clock is behind, or it is heard late: its fault is of before, and new all the same.
    lines[1]![0]!.push({ atMs: 60, cause: "gone" });
    lines[0]![1]!.push({ atMs: 200, cause: "gone" });
    state.isTaken = false;
    for (let n = 0; n < 2; n++) expect((await next()).faults).toEqual([{ atMs: 200, shard: 1, cause: "gone" }, { atMs: 100, shard: 1, cause: "late" }, { atMs: 60, shard: 0, cause: "gone" }]);
    state.isTaken = true;
    await next();
    // What was told comes again at most with its own millisecond, which the directory knows.
    expect((await next()).faults).toEqual([{ atMs: 200, shard: 1, cause: "gone" }, { atMs: 60, shard: 0, cause: "gone" }]);
  });
});

describe("lines to one shard", () => {
  const line = (of: Partial<LineFigures>): LineFigures => ({ name: "s", state: "idle", wasOpen: false, read: null, loadedBytes: 0, totalBytes: 0, frames: 0, bytes: 0, retries: 0, hedges: 0, faults: [], ...of });

  it("are one: the sums, the worst state, the latest fault, and nothing of those that nobody wanted", () => {
    const unused = line({ name: "unused" });
    const [a, b] = [line({ state: "open", wasOpen: true, frames: 3, bytes: 30, retries: 1, faults: [{ atMs: 5, cause: "new" }] }), line({ state: "connecting", wasOpen: true, frames: 4, bytes: 40, hedges: 2, faults: [{ atMs: 2, cause: "old" }], loadedBytes: 1, totalBytes: 9, name: "s~2" })];
    expect(together([unused])).toBe(unused);
    expect(together([unused, a])).toEqual(a);
    expect(together([unused, a, b])).toEqual(line({ name: "s~2", state: "connecting", wasOpen: true, frames: 7, bytes: 70, retries: 1, hedges: 2, loadedBytes: 1, totalBytes: 9, faults: [{ atMs: 2, cause: "old" }, { atMs: 5, cause: "new" }] }));
    expect(together([a, line({ wasOpen: true })]).state).toBe("open");
    expect(together([line({ state: "closed" }), line({ wasOpen: true })]).state).toBe("idle");
  });
});
