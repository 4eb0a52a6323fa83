// One simulated run: everything drawn from the seed, a fleet put together, readers served while things go wrong, and the verdict.
// Owns what is right: each reader has the tokens and log-probabilities of one machine without any wire, or one clean error; what faults could not excuse is no
// error at all; nothing is stuck, lost or still held when everybody has gone. Refuses to know why something is wrong: the log of the same seed tells.

import { SeededRandom } from "../durable/clock.ts";
import { generate } from "../durable/generate-client.ts";
import type { GenerateEvent } from "../durable/generate.ts";
import type { LineParts } from "../durable/epoch-lines.ts";
import { InFlightBudget } from "../durable/in-flight-budget.ts";
import type { Tenant } from "../durable/isolate.ts";
import type { FleetPlan } from "../fleet/fleet-plan.ts";
import type { Experts } from "../model/experts.ts";
import { Draws } from "./draws.ts";
import { EventLog } from "./event-log.ts";
import { EventLoop } from "./event-loop.ts";
import { DirectoryObject } from "./directory-object.ts";
import { costOf, drawFaults, type FaultName, Faults } from "./faults.ts";
import { computeDigestsAtOnce, Machines, SIM_LIMITS } from "./machines.ts";
import { Link, type SimSocket } from "./network.ts";
import { OrchestratorObject, TrunkMachines } from "./orchestrator-object.ts";
import { answerOf, N_REQUESTS, Oracle } from "./requests.ts";
import { ShardObject } from "./shard-object.ts";
import { Plans } from "./plans.ts";
import { Store } from "./store.ts";
import { tinyPack, type TinyPack } from "./tiny-model.ts";
import { VirtualTime } from "./virtual-time.ts";

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

/** Outcomes of one reader. */
export type Outcome = "right" | "clean error" | "left";

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
  readonly nEvents: number;
  readonly digest: string;
  /** Words of the log, where asked for. */
  readonly lines: readonly string[];
}

/** Seams for tests of the oracle: bugs planted around the fleet's code, never in it. */
export interface Planted {
  readonly shard?: ShardObject["wrap"];
  readonly experts?: (experts: Experts) => Experts;
  /** Reads in place of durable/generate-client.ts. */
  readonly generate?: typeof generate;
}

export interface RunOptions {
  readonly words?: boolean;
  readonly planted?: Planted;
}

export class Simulator {
  readonly #pack: TinyPack;
  readonly #machines: Machines;
  readonly #trunks: TrunkMachines;
  readonly #oracle: Oracle;
  readonly #rejections: unknown[] = [];
  readonly #plans: Plans;

  private constructor(pack: TinyPack, machines: Machines, trunks: TrunkMachines, oracle: Oracle) {
    this.#pack = pack;
    this.#plans = new Plans(pack);
    this.#machines = machines;
    this.#trunks = trunks;
    this.#oracle = oracle;
  }

  static async open(): Promise<Simulator> {
    computeDigestsAtOnce();
    const pack = await tinyPack();
    const machines = new Machines();
    const trunks = new TrunkMachines(machines, pack);
    await trunks.fill(ORCHESTRATORS);
    return new Simulator(pack, machines, trunks, await Oracle.open(machines.take("oracle", 4 * SIM_LIMITS.isolateBytes).isolate, pack));
  }

  async run(seed: number, { words = false, planted = {} }: RunOptions = {}): Promise<RunReport> {
    const draws = new Draws(seed, 1);
    const time = new VirtualTime();
    const log = new EventLog(time, words);
    const numbers = Array.from({ length: draws.whole(1, 3) }, () => draws.whole(0, N_REQUESTS - 1));
    const right: (readonly string[])[] = [];
    for (const number of numbers) right.push(await this.#oracle.answer(number));
    const faultDraws = new Draws(seed, 2);
    const planned = drawFaults(faultDraws);
    const world = this.#world({ seed, draws, time, log, planted });
    const { orchestrator, directory, shards, store } = world;

    const readers = numbers.map((number) => ({ number, events: [] as GenerateEvent[], abort: new AbortController(), left: false, failed: null as unknown, done: false }));
    const faults: Faults = new Faults({
      isOver: () => faults.over, happened: (name) => faults.happened(name),
      time, log, store, orchestrator, directory, draws: faultDraws, nextPlan: () => this.#drawnPlan(faultDraws, 0), shardOf: (socket) => world.shardOf(socket),
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
    for (const shard of shards) shard.onFault = (name) => faults.happened(name);

    const onRejection = (reason: unknown): void => void this.#rejections.push(reason);
    process.on("unhandledRejection", onRejection);
    for (const [i, reader] of readers.entries()) {
      time.after(draws.pick([0, 0, draws.between(0, 300)]), () => {
        const loop = new EventLoop(time);
        const read = async (): Promise<void> => {
          for await (const event of (planted.generate ?? generate)(orchestrator, this.#oracle.request(reader.number), { signal: reader.abort.signal, clock: loop.clock, limits: SIM_LIMITS })) {
            reader.events.push(event);
            log.add(event.type, i, event.type === "token" ? event.id : 0);
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
      seed, problem: problems.length === 0 ? null : problems.join("; "), faults: faults.counts, outcomes, errors, virtualMs: virtualMs - world.startMs, frames: faults.frames, flips: orchestrator.flips,
      nEvents: time.nEvents, digest: log.digest, lines: log.lines ?? [],
    };
  }

  #drawnPlan(draws: Draws, epoch: number): FleetPlan {
    const nShards = draws.whole(1, MOST_SHARDS);
    return this.#plans.plan({ nShards, sliced: draws.chance(0.5), replicas: draws.chance(0.4) ? Math.min(2, nShards) : 1, epoch });
  }

  /** The fleet of a run. */
  #world({ seed, draws, time, log, planted }: { seed: number; draws: Draws; time: VirtualTime; log: EventLog; planted: Planted }) {
    const pack = this.#pack;
    const plan = this.#drawnPlan(draws, 1);
    const networkDraws = new Draws(seed, 3);
    const store = new Store(pack.files, networkDraws.between(0.2, 30));
    const frameMs = networkDraws.between(0.01, 1);
    const shards: ShardObject[] = [];
    const links: Link[] = [];
    const shardLink = new Link(time, networkDraws);
    for (let number = 0; number < MOST_SHARDS; number++) {
      links.push(new Link(time, networkDraws));
      const shard = new ShardObject(`shard-${number}`, number, {
        time, machines: this.#machines, pack, store, random: new SeededRandom(seed + number), computeMs: () => frameMs * (0.5 + networkDraws.next()), startMs: () => networkDraws.between(1, 400),
        donor: (name) => shards.find((other) => other.name === name), donorLink: () => shardLink,
      });
      if (planted.shard !== undefined) shard.wrap = planted.shard;
      shards.push(shard);
    }
    const roundTokens = draws.pick([6, 16, 30]);
    const overlapTokens = draws.pick([2, 8, 64]);
    // At least the largest frame and its reply.
    const budgetBytes = draws.pick([20, 24, 64]) * 1024;
    const socketOwners = new WeakMap<object, ShardObject>();
    const budgets: InFlightBudget[] = [];
    const lines = (loop: EventLoop, { isolate: { name } }: Tenant, inFlight: InFlightBudget): LineParts => {
      const transports = shards.map((shard, number) => shard.transport(loop, links[number]!, {
        request: (bytes, socket) => { socketOwners.set(socket, shard); return world.tamper.request(bytes, socket); },
        reply: (bytes, socket) => { socketOwners.set(socket, shard); return world.tamper.reply(bytes, socket); },
      }));
      return { manifest: pack.manifest, limits: SIM_LIMITS, clock: loop.clock, strictIsolates: false, isolate: { name, inFlight }, transport: (_plan, shard) => transports[shard]! };
    };
    const directory: DirectoryObject = new DirectoryObject({
      time, random: new SeededRandom(seed * 7 + 5), link: new Link(time, networkDraws), plans: this.#plans, shards, startMs: () => networkDraws.between(1, 400),
      adopt: (near, adopted) => orchestrator.adopt(near, adopted),
    });
    const readerLink = new Link(time, networkDraws);
    const orchestrator: OrchestratorObject = new OrchestratorObject({
      time, machines: this.#trunks, pack, link: readerLink, roundTokens, stepTokens: 2 * roundTokens, initial: plan, lines,
      register: (loop, initial) => directory.register(loop, "orchestrator", initial),
      expertsOf: (of, { heap, isolate: { kernels } }, frame) => {
        const experts = new EagerOverlap(of.experts(heap, kernels, roundTokens, undefined, frame), overlapTokens);
        return planted.experts?.(experts) ?? experts;
      },
      budget: () => {
        const budget = new InFlightBudget(budgetBytes);
        budgets.push(budget);
        return budget;
      },
      startMs: () => networkDraws.between(1, 400), chunkBytes: () => networkDraws.pick([7, 64, 4096]),
    });
    const world = {
      orchestrator, directory, shards, store, startMs: time.nowMs(),
      tamper: null as unknown as Faults,
      shardOf: (socket: SimSocket): ShardObject => socketOwners.get(socket)!,
      /** Who still holds what, when nobody should; null where all is quiet. */
      held: (): string | null => {
        if (directory.change !== null) return `the directory's change is ${directory.change} and does not end`;
        const life = orchestrator.life;
        if (life === null || life.serving === null) return null;
        const { scheduler, engine } = life.serving;
        if (scheduler.activeCount + scheduler.queuedCount > 0) return `${scheduler.activeCount} generations run and ${scheduler.queuedCount} wait although every reader has gone`;
        if (engine.kv.openTimelines > 0) return `${engine.kv.openTimelines} timelines are open although no generation runs`;
        if (life.budget.usedBytes > 0) return `${life.budget.usedBytes} bytes of frames are accounted as in flight`;
        return null;
      },
      /** Closes everything. Returns what was not given back; null where all was. */
      end: (): string | null => {
        orchestrator.end();
        for (const shard of shards) shard.end();
        const budget = budgets.at(-1)?.usedBytes ?? 0;
        const leaked = [orchestrator.leakedBytes, ...shards.map(({ leakedBytes }) => leakedBytes)];
        if (leaked.some((bytes) => bytes !== 0)) return `memory was not given back: ${leaked.join(", ")} bytes`;
        return budget === 0 ? null : `${budget} bytes of frames stay accounted as in flight after every line was closed`;
      },
    };
    log.add("fleet", plan.shards.length, roundTokens, overlapTokens, budgetBytes);
    return world;
  }
}

/** Two rounds a step from fewer tokens on than pays off, so that small runs have them too. */
class EagerOverlap implements Experts {
  readonly #experts: Experts;
  readonly #overlapTokens: number;
  constructor(experts: Experts, overlapTokens: number) {
    this.#experts = experts;
    this.#overlapTokens = overlapTokens;
  }
  get placement(): Experts["placement"] { return this.#experts.placement; }
  get overlapTokens(): number { return this.#experts.overlapTokens === Infinity ? Infinity : this.#overlapTokens; }
  run(...args: Parameters<Experts["run"]>): ReturnType<Experts["run"]> { return this.#experts.run(...args); }
  depart(): Promise<void> | undefined { return this.#experts.depart(); }
}
