// Rings of stages under faults: the fleet's own RingLine, RingEngine, StageRing and StageCore over sockets that break, die silently or delay, and stages that
// lose their memory or their isolate (ring-world.ts). Owns the run of a seed and its verdict: every reader's answer is that of one machine, or one clean error that
// the outage limit excuses, and nothing is stuck or held. Refuses shards (run.ts): the stages compute their experts themselves.

import type { GenerateEvent } from "../durable/generate.ts";
import { PageNumbers } from "../durable/page-numbers.ts";
import { RingEngine, type RingHandlers } from "../durable/ring-engine.ts";
import { Scheduler } from "../durable/scheduler.ts";
import { StageCore } from "../durable/stage-core.ts";
import type { StageWelcome } from "../durable/stage-handshake.ts";
import type { StagePages } from "../durable/stage-pages.ts";
import { loadModel } from "../formats/load-model.ts";
import { MemorySource } from "../formats/memory-source.ts";
import { Engine } from "../model/engine.ts";
import { KvCache } from "../model/kv-cache.ts";
import { ExpertRunner, LocalExperts } from "../model/local-experts.ts";
import type { StageSpan } from "../model/stage-span.ts";
import { Draws } from "./draws.ts";
import { EventLog } from "./event-log.ts";
import { SIM_LIMITS } from "./machines.ts";
import { answerOf, N_REQUESTS, type Oracle, STEERED_FROM } from "./requests.ts";
import { type Part, RING_LIMITS, type RingFault, RingWorld } from "./ring-world.ts";
import type { RunReport } from "./run.ts";
import { VirtualTime } from "./virtual-time.ts";
import type { Grounds } from "./world.ts";

const NONE = [0, 0] as const;
const RUN_LIMIT_MS = 60 * 60_000;

/** Ways to cut the tiny model: the head at the first stage, at the last, and in between; a stage without layers. */
const CUTS: readonly (readonly StageSpan[])[] = [
  [{ embeddingRows: [0, 40], layers: [0, 1], headRows: [0, 40] }, { embeddingRows: NONE, layers: [1, 3], headRows: NONE }],
  [{ embeddingRows: [0, 40], layers: [0, 1], headRows: NONE }, { embeddingRows: NONE, layers: [1, 2], headRows: NONE }, { embeddingRows: NONE, layers: [2, 3], headRows: [0, 40] }],
  [{ embeddingRows: [0, 40], layers: [0, 1], headRows: NONE }, { embeddingRows: NONE, layers: [1, 2], headRows: [0, 40] }, { embeddingRows: NONE, layers: [2, 3], headRows: NONE }],
  [{ embeddingRows: [0, 40], layers: NONE, headRows: NONE }, { embeddingRows: NONE, layers: [0, 3], headRows: [0, 40] }],
];

export interface RingReport extends Omit<RunReport, "faults" | "errors" | "lines" | "met"> {
  readonly faults: Readonly<Partial<Record<RingFault, number>>>;
  /** How often the ring was built. */
  readonly built: number;
}

export interface RingOptions {
  /** A seam for tests of the verdict. */
  readonly answer?: (welcome: StageWelcome) => StageWelcome;
  /** Readers ask for interventions and pruning too. */
  readonly steered?: boolean;
}

/** Rings over stages that hold their weights for good: reading them is not what is simulated. */
export class RingSimulator {
  readonly #rings: readonly (readonly Part[])[];
  readonly #oracle: Oracle;

  private constructor(rings: readonly (readonly Part[])[], oracle: Oracle) {
    this.#rings = rings;
    this.#oracle = oracle;
  }

  static async open({ machines, pack: { manifest, files } }: Grounds, oracle: Oracle): Promise<RingSimulator> {
    const rings: Part[][] = [];
    for (const spans of CUTS) {
      const parts: Part[] = [];
      for (const [stage, span] of spans.entries()) {
        const { isolate: { heap, kernels } } = machines.take(`ring stage ${stage}`, 2 * SIM_LIMITS.isolateBytes);
        const { trunk, lookup, segmentCounts, shared, maxSegmentWidth } = await loadModel(new MemorySource(files), manifest, heap, undefined, span);
        const { config, kvFormat, activations } = manifest;
        const runner = new ExpertRunner(kernels, heap, config, maxSegmentWidth, RING_LIMITS.chunkTokens);
        parts.push({ heap, engine: new Engine({ config, kernels, heap, trunk, segmentCounts, shared, kvFormat, activations, maxChunkTokens: RING_LIMITS.chunkTokens, experts: new LocalExperts(runner, lookup) }) });
      }
      rings.push(parts);
    }
    return new RingSimulator(rings, oracle);
  }

  async run(seed: number, { answer, steered = false }: RingOptions = {}): Promise<RingReport> {
    const time = new VirtualTime();
    const startMs = time.nowMs();
    const log = new EventLog(time, false);
    const draws = new Draws(seed, 10);
    const parts = draws.pick(this.#rings);
    const before = parts.map(({ heap }) => heap.usedBytes);
    const run = new RingWorld({ seed, time, parts, log, answer: answer ?? ((welcome) => welcome) });
    const numbers = Array.from({ length: draws.whole(1, 4) }, () => draws.whole(0, N_REQUESTS - 1) + (steered ? STEERED_FROM : 0));
    const readers = numbers.map((number) => ({ number, events: [] as GenerateEvent[], ended: false }));
    const state: { scheduler: Scheduler | null; kv: KvCache | null; failed: unknown; engine: RingEngine | null; pages: StagePages | null } = { scheduler: null, kv: null, failed: null, engine: null, pages: null };
    const serve = async (): Promise<void> => {
      const [{ engine }] = parts as readonly [Part];
      const handlers: RingHandlers = { frame: (frame) => state.engine?.received(frame), lost: (ring) => state.engine?.lost(ring) };
      const links = { open: (of: RingHandlers) => { run.built++; return run.line.open(of); } };
      const first = await links.open(handlers);
      const pages = state.pages = run.pagesOf(0);
      const pageNumbers = new PageNumbers(RING_LIMITS.pages);
      state.kv = new KvCache(pageNumbers, engine.config, engine.contextLength);
      state.engine = new RingEngine({
        engine, core: new StageCore({ engine, pages, stage: 0 }), kv: state.kv, numbers: pageNumbers, spans: parts.map(({ engine: { span } }) => span), links, first, epoch: 1,
        clock: run.first.clock, limits: SIM_LIMITS, entries: RING_LIMITS.entries, maxChunkTokens: RING_LIMITS.chunkTokens,
      });
      const scheduler = state.scheduler = new Scheduler(state.engine, run.first.clock, SIM_LIMITS);
      for (const reader of readers) {
        time.after(draws.pick([0, 0, draws.between(0, 300)]), () => {
          const generation = scheduler.submit(this.#oracle.request(reader.number), (event) => {
            reader.events.push(event);
            log.add(event.type, reader.number, event.type === "token" ? event.id : 0);
            if (event.type === "end" || event.type === "error") reader.ended = true;
          });
          void generation.accepted.then((refusal) => {
            if (refusal === null) return;
            reader.events.push(refusal);
            reader.ended = true;
          });
        });
      }
    };
    time.after(0, () => void serve().catch((error: unknown) => { state.failed = error; }));
    const { kind } = await time.run(() => state.failed !== null || readers.every(({ ended }) => ended), RUN_LIMIT_MS);
    run.isOver = true;
    const virtualMs = time.nowMs() - startMs;
    await time.run(() => state.scheduler?.activeCount === 0, RUN_LIMIT_MS);
    const problems: string[] = [];
    if (state.failed !== null) problems.push(`the ring could not be built: ${String(state.failed)}`);
    else if (kind !== "done") problems.push(`${readers.filter(({ ended }) => !ended).length} readers still wait (${kind})`);
    else if (state.scheduler!.activeCount + state.scheduler!.queuedCount > 0) problems.push("generations run although every reader has been answered");
    else if (state.kv!.openTimelines > 0) problems.push(`${state.kv!.openTimelines} timelines are open although no generation runs`);
    state.engine?.close("the run is over");
    run.line.close("the run is over");
    for (const stage of run.stages) stage.kill();
    run.first.kill();
    state.pages?.close();
    // What was under way when stages went away ends by itself.
    await time.run(() => false, 1000);
    parts.forEach(({ heap }, stage) => { if (heap.usedBytes !== before[stage]) problems.push(`stage ${stage} has not given back ${heap.usedBytes - before[stage]!} bytes`); });
    const outcomes: RingReport["outcomes"][number][] = [];
    for (const [i, { number, events }] of readers.entries()) {
      const right = await this.#oracle.answer(number);
      const seen = answerOf(events);
      const end = events.at(-1);
      const said = end?.type === "error" ? seen.slice(0, -1) : seen;
      const wrong = said.findIndex((line, at) => line !== right[at]);
      if (wrong >= 0) problems.push(`reader ${i} (request ${number}) got "${said[wrong]}" where one machine says "${right[wrong] ?? "nothing more"}"`);
      else if (end?.type === "error") {
        problems.push(`reader ${i} got an error: ${end.code}: ${end.message}`);
        outcomes.push("clean error");
      } else if (kind === "done" && state.failed === null) outcomes.push("right");
    }
    return { seed, problem: problems.length === 0 ? null : problems.join("; "), faults: run.counts, outcomes, built: run.built, frames: run.hops, flips: 0, nEvents: time.nEvents, digest: log.digest, virtualMs };
  }
}
