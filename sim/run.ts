// One simulated run: everything drawn from the seed, a fleet put together, readers served while things go wrong, and the verdict.
// Owns what is right: each reader has the tokens and log-probabilities of one machine without any wire, or one clean error; what faults could not excuse is no
// error at all; nothing is stuck, lost or still held when everybody has gone. Refuses to know why something is wrong: the log of the same seed tells.

import { sleep } from "../durable/clock.ts";
import { generate } from "../durable/generate-client.ts";
import type { GenerateEvent } from "../durable/generate.ts";
import type { Wish } from "../durable/directory-record.ts";
import type { FleetPlan } from "../fleet/fleet-plan.ts";
import { Draws } from "./draws.ts";
import { EventLog } from "./event-log.ts";
import { EventLoop } from "./event-loop.ts";
import { costOf, drawFaults, type FaultName, Faults } from "./faults.ts";
import { computeDigestsAtOnce, Machines, SIM_LIMITS } from "./machines.ts";
import { TrunkMachines } from "./orchestrator-object.ts";
import { answerOf, N_REQUESTS, Oracle, STEERED_FROM } from "./requests.ts";
import { Plans } from "./plans.ts";
import { tinyPack } from "./tiny-model.ts";
import { VirtualTime } from "./virtual-time.ts";
import { type Grounds, type Planted as PlantedInWorld, World, type WorldShape } from "./world.ts";

/** Longer than all deadlines in a row that a request may meet. */
const RUN_LIMIT_MS = 30 * 60_000;
/** In which everything must have been given back when the readers have gone: the longest deadline, and reconnecting. */
const QUIET_LIMIT_MS = 30 * 60_000;
/** Attempts and breaks up to which a run must not fail: one less than the limits allow in a row. */
const FORGIVEN_ATTEMPTS = SIM_LIMITS.frameAttempts - 1;
const FORGIVEN_BREAKS = SIM_LIMITS.resumeAttempts;
/** Lives of orchestrators in one run, at most. */
const ORCHESTRATORS = 8;

/** Shards of a plan, at most. */
const MOST_SHARDS = 4;

/** Holders of each segment: one in most fleets, seldom three. */
const drawnReplicas = (draws: Draws, nShards: number): number => Math.min(draws.pick([1, 1, 1, 1, 1, 2, 2, 2, 3, 3]), nShards);

/** Outcomes of one reader. */
export type Outcome = "right" | "clean error" | "left";

/** Not every run has these: several lanes; a shard under another than its first name; epochs of a dead orchestrator; wishes of counts; changes that ended; frames asked of a second holder too. */
export type Met = "lanes" | "other names" | "stale epochs" | "counts" | "changes" | "hedges";

export interface RunReport {
  readonly seed: number;
  /** What is wrong; null where all is well. */
  readonly problem: string | null;
  readonly faults: Readonly<Partial<Record<FaultName, number>>>;
  readonly outcomes: readonly Outcome[];
  readonly errors: readonly string[];
  readonly virtualMs: number;
  readonly frames: number;
  /** Plans that came into force in the middle of answers. */
  readonly flips: number;
  /** What kind of a fleet it was, and what it came to. */
  readonly met: readonly Met[];
  readonly nEvents: number;
  readonly digest: string;
  /** Words of the log, where asked for. */
  readonly lines: readonly string[];
}

/** Seams for tests of the oracle: bugs planted around the fleet's code, never in it. */
export interface Planted extends PlantedInWorld {
  /** Reads in place of durable/generate-client.ts. */
  readonly generate?: typeof generate;
}

export interface RunOptions {
  readonly words?: boolean;
  readonly planted?: Planted;
  /** Readers ask for interventions and pruning too; all else of the seed stays. */
  readonly steered?: boolean;
}

export class Simulator {
  readonly grounds: Grounds;
  readonly oracle: Oracle;
  readonly #rejections: unknown[] = [];

  private constructor(grounds: Grounds, oracle: Oracle) {
    this.grounds = grounds;
    this.oracle = oracle;
  }

  static async open(): Promise<Simulator> {
    computeDigestsAtOnce();
    // Errors are part of every run, and where they were made is of no use to it: their words tell.
    Error.stackTraceLimit = 0;
    const pack = await tinyPack();
    const machines = new Machines();
    const trunks = new TrunkMachines(machines, pack);
    await trunks.fill(ORCHESTRATORS);
    return new Simulator({ pack, machines, trunks, plans: new Plans(pack) }, await Oracle.open(machines.take("oracle", 4 * SIM_LIMITS.isolateBytes).isolate, pack));
  }

  async run(seed: number, { words = false, planted = {}, steered = false }: RunOptions = {}): Promise<RunReport> {
    const draws = new Draws(seed, 1);
    const time = new VirtualTime();
    const log = new EventLog(time, words);
    const numbers = Array.from({ length: draws.whole(1, 3) }, () => draws.whole(0, N_REQUESTS - 1) + (steered ? STEERED_FROM : 0));
    const right: (readonly string[])[] = [];
    for (const number of numbers) right.push(await this.oracle.answer(number));
    const faultDraws = new Draws(seed, 2);
    const met = new Set<Met>();
    const planned = drawFaults(faultDraws);
    const shape = this.#shape(seed, draws, time, planted);
    const world = new World(this.grounds, shape);
    log.add("fleet", shape.plan.shards.length, shape.roundTokens, shape.overlapTokens, shape.budgetBytes, shape.nLanes, shape.strict?.length ?? -1, shape.stale.length);
    const { lanes, directory, store } = world;

    const readers = numbers.map((number) => ({ number, events: [] as GenerateEvent[], abort: new AbortController(), left: false, failed: null as unknown, done: false }));
    const faults: Faults = new Faults({
      isOver: () => faults.over, happened: (name) => faults.happened(name),
      time, log, store, directory, shards: world.objects, draws: faultDraws, nextWish: () => {
        const wish = this.#drawnWish(faultDraws);
        if (wish.plan === undefined) met.add("counts");
        return wish;
      },
      shardOf: (socket) => world.shardOf(socket), laneOf: (socket) => world.laneOf(socket),
      readerLeaves: () => {
        const there = readers.filter((reader) => !reader.done && !reader.left);
        if (there.length === 0) return false;
        const reader = faultDraws.pick(there);
        reader.left = true;
        reader.abort.abort(new Error("The reader left."));
        return true;
      },
    }, planned);
    world.tamper = faults;
    store.onFault = (fault) => faults.happened(fault === "5xx" ? "store answered 5xx" : fault === "slow" ? "store slow" : fault === "short" ? "store read ended early" : "store brought other bytes");
    for (const shard of world.objects) shard.onFault = (name) => faults.happened(name);

    const onRejection = (reason: unknown): void => void this.#rejections.push(reason);
    process.on("unhandledRejection", onRejection);
    for (const [i, reader] of readers.entries()) {
      time.after(draws.pick([0, 0, draws.between(0, 300)]), () => {
        const loop = new EventLoop(time);
        const options = { signal: reader.abort.signal, clock: loop.clock, limits: SIM_LIMITS };
        const read = async (): Promise<void> => {
          for (let isWarm = false; !isWarm;) {
            isWarm = true;
            for await (const event of (planted.generate ?? generate)(lanes[i % lanes.length]!, this.oracle.request(reader.number), options)) {
              log.add(event.type, i, event.type === "token" ? event.id : 0);
              // A model that is still loading when somebody first asks says so, and is asked again, as clients do.
              if (event.type === "error" && event.code === "warming" && reader.events.length === 0) {
                isWarm = false;
                await sleep(loop.clock, event.retryAfterMs ?? 1000);
              } else reader.events.push(event);
            }
          }
        };
        read().catch((error: unknown) => { reader.failed = error; }).finally(() => { reader.done = true; });
      });
    }
    const ended = await time.run(() => readers.every(({ done }) => done), RUN_LIMIT_MS);
    const virtualMs = time.nowMs();
    faults.over = true;
    const quiet = ended.kind === "done" ? await time.run(() => world.held() === null, QUIET_LIMIT_MS) : ended;
    const held = world.held();
    if (lanes.length > 1) met.add("lanes");
    if (shape.stale.length > 0) met.add("stale epochs");
    if (directory.ended > 0) met.add("changes");
    if (readers.some(({ events }) => events.some((event) => "moe" in event && event.moe.hedges > 0))) met.add("hedges");
    if (world.objects.some((shard) => shard.isUp && !world.shards.includes(shard))) met.add("other names");
    const leak = world.end();
    // What Node has to say about rejections it says now.
    await new Promise<void>((resolve) => void setImmediate(resolve));
    process.off("unhandledRejection", onRejection);

    const problems: string[] = [];
    if (ended.kind === "crashed" || quiet.kind === "crashed") {
      const { error } = (ended.kind === "crashed" ? ended : quiet) as { error: unknown };
      problems.push(`an event threw ${error instanceof Error ? error.stack ?? error.message : String(error)}`);
    } else if (ended.kind !== "done") {
      problems.push(`${readers.filter(({ done }) => !done).length} readers still wait (${ended.kind === "stuck" ? "and nothing is left that could happen" : `after ${RUN_LIMIT_MS} ms`})`);
    } else if (held !== null) problems.push(`${held} (${quiet.kind === "stuck" ? "and nothing is left that could happen" : `${QUIET_LIMIT_MS} ms after the last reader had gone`})`);
    if (leak !== null) problems.push(leak);
    for (const reason of this.#rejections.splice(0)) problems.push(`a rejection nobody handled: ${reason instanceof Error ? reason.stack ?? reason.message : String(reason)}`);
    const { attempts, breaks } = costOf(planned);
    const mustSucceed = attempts <= FORGIVEN_ATTEMPTS && breaks <= FORGIVEN_BREAKS;
    const outcomes: Outcome[] = [];
    const errors: string[] = [];
    readers.forEach(({ number, events, left, failed }, i) => {
      if (ended.kind !== "done") return;
      const seen = answerOf(events);
      const last = events.at(-1);
      const isError = last?.type === "error";
      const said = isError ? seen.slice(0, -1) : seen;
      const wrong = said.findIndex((line, at) => line !== right[i]![at]);
      if (wrong >= 0) problems.push(`reader ${i} (request ${number}) got "${said[wrong]}" where one machine says "${right[i]![wrong] ?? "nothing more"}"`);
      else if (left) outcomes.push("left");
      else if (failed !== null) problems.push(`reader ${i} met ${failed instanceof Error ? failed.stack ?? failed.message : String(failed)}`);
      else if (isError) {
        errors.push(`${last.code}: ${last.message}`);
        if (mustSucceed) problems.push(`reader ${i} got an error that ${JSON.stringify(planned)} does not excuse: ${last.code}: ${last.message}`);
        else outcomes.push("clean error");
      } else if (seen.length !== right[i]!.length) problems.push(`reader ${i} (request ${number}) got ${seen.length} of ${right[i]!.length} lines without an error`);
      else outcomes.push("right");
    });
    if (ended.kind === "done" && Object.keys(faults.counts).length === 0) problems.push(`none of the faults ${JSON.stringify(planned)} has happened`);
    return {
      seed, problem: problems.length === 0 ? null : problems.join("; "), faults: faults.counts, outcomes, errors, virtualMs: virtualMs - world.startMs, frames: faults.frames, flips: world.flips, met: [...met],
      nEvents: time.nEvents, digest: log.digest, lines: log.lines ?? [],
    };
  }

  #drawnPlan(draws: Draws, epoch: number): FleetPlan {
    const nShards = draws.whole(1, MOST_SHARDS);
    return this.grounds.plans.plan({ nShards, sliced: draws.chance(0.5), replicas: drawnReplicas(draws, nShards), epoch });
  }

  /** A plan of the catalogue, or counts. */
  #drawnWish(draws: Draws): Wish {
    if (draws.chance(0.5)) return { plan: this.#drawnPlan(draws, 0) };
    const shards = draws.whole(1, MOST_SHARDS);
    return { shards, replicas: drawnReplicas(draws, shards) };
  }

  #shape(seed: number, draws: Draws, time: VirtualTime, planted: Planted): WorldShape {
    const nStale = draws.pick([0, 0, 0, 0, 0, 0, 1, 2]);
    const plan = this.#drawnPlan(draws, 1 + nStale);
    const isStrict = draws.chance(0.2);
    return {
      seed, time, planted, plan, network: new Draws(seed, 3), nShards: MOST_SHARDS, nLanes: draws.pick([1, 1, 1, 2]),
      // Not two neighbours in a row: in an isolate there are two at most.
      strict: isStrict ? [draws.whole(1, MOST_SHARDS - 1)] : null,
      stale: Array.from({ length: nStale }, (_, i) => this.#drawnPlan(draws, 1 + i)),
      roundTokens: draws.pick([6, 16, 30]), overlapTokens: draws.pick([2, 8, 64]),
      // At least the largest frame and its reply.
      budgetBytes: draws.pick([20, 24, 64]) * 1024,
    };
  }
}
