// The fleet of one run: lanes of an orchestrator each, shards under all their names, a directory, a store, and the network between them.
// Owns how they are put together, and the looks from outside: who still holds what, and what was never given back. Refuses chance of its own (whoever makes a
// world says what it is like; the network draws from the seed) and any judgement of answers (run.ts, fault-matrix.ts).

import { SeededRandom } from "../durable/clock.ts";
import type { LineParts } from "../durable/epoch-lines.ts";
import { PROTOCOL_VERSION } from "../durable/handshake.ts";
import { InFlightBudget } from "../durable/in-flight-budget.ts";
import type { Tenant } from "../durable/isolate.ts";
import type { FleetPlan } from "../fleet/fleet-plan.ts";
import type { Experts } from "../model/experts.ts";
import { DirectoryObject } from "./directory-object.ts";
import type { Draws } from "./draws.ts";
import type { EventLoop } from "./event-loop.ts";
import { type Machines, SIM_LIMITS } from "./machines.ts";
import { Link, type SimSocket, type Tamper } from "./network.ts";
import { OrchestratorObject, type TrunkMachines } from "./orchestrator-object.ts";
import type { Plans } from "./plans.ts";
import { ShardObject } from "./shard-object.ts";
import { Store } from "./store.ts";
import type { TinyPack } from "./tiny-model.ts";
import type { VirtualTime } from "./virtual-time.ts";

/** What runs share. */
export interface Grounds {
  readonly pack: TinyPack;
  readonly machines: Machines;
  readonly trunks: TrunkMachines;
  readonly plans: Plans;
}

/** What a fleet is like. */
export interface WorldShape {
  readonly seed: number;
  readonly time: VirtualTime;
  readonly network: Draws;
  readonly plan: FleetPlan;
  /** Shards there can be. */
  readonly nShards: number;
  readonly nLanes: number;
  /** In strict mode: the shards whose first name lands in the isolate of the one before. Null: isolates may be shared. */
  readonly strict: readonly number[] | null;
  /** Plans of orchestrators that died: shards still serve their epochs. */
  readonly stale: readonly FleetPlan[];
  readonly roundTokens: number;
  readonly overlapTokens: number;
  /** Bytes in flight that an orchestrator may have. */
  readonly budgetBytes: number;
  readonly planted: Planted;
}

/** Seams for tests of the oracle: bugs planted around the fleet's code, never in it. */
export interface Planted {
  readonly shard?: ShardObject["wrap"];
  readonly experts?: (experts: Experts) => Experts;
}

export class World {
  readonly time: VirtualTime;
  readonly store: Store;
  /** Under their first names. */
  readonly shards: readonly ShardObject[];
  readonly lanes: readonly OrchestratorObject[];
  readonly directory: DirectoryObject;
  readonly startMs: number;
  readonly #named: readonly (readonly ShardObject[])[];
  readonly #owners = new WeakMap<object, { readonly shard: ShardObject; readonly lane: number }>();
  /** Looks at every frame. */
  tamper: Tamper = { request: () => null, reply: () => null };

  constructor({ pack, machines, trunks, plans }: Grounds, shape: WorldShape) {
    const { seed, time, network, plan, planted, strict } = shape;
    this.time = time;
    this.startMs = time.nowMs();
    const store = this.store = new Store(pack.files, network.between(0.2, 30));
    const frameMs = network.between(0.01, 1);
    const links: Link[][] = [];
    const donorLink = new Link(time, network);
    const named: ShardObject[][] = [];
    this.#named = named;
    const all = (): ShardObject[] => named.flat();
    for (let number = 0; number < shape.nShards; number++) {
      links.push(Array.from({ length: shape.nLanes }, () => new Link(time, network)));
      named.push(Array.from({ length: strict === null ? 1 : SIM_LIMITS.shardNames }, (_, attempt) => {
        const shard = new ShardObject(attempt === 0 ? `shard-${number}` : `shard-${number}-${attempt}`, number, {
          time, machines, pack, store, random: new SeededRandom(seed + number + 1000 * attempt), computeMs: () => frameMs * (0.5 + network.next()), startMs: () => network.between(1, 400),
          donor: (name) => all().find((other) => other.name === name), donorLink: () => donorLink,
          neighbour: attempt === 0 && strict?.includes(number) === true ? named[number - 1]![0]! : null,
        });
        if (planted.shard !== undefined) shard.wrap = planted.shard;
        return shard;
      }));
      named[number]![0]!.remember(shape.stale.flatMap((old) => (old.shards[number] === undefined ? [] : [
        { protocolVersion: PROTOCOL_VERSION, packHash: old.packHash, epoch: old.epoch, slots: old.shards[number].slots, strictIsolates: strict !== null, donors: [] },
      ])));
    }
    this.shards = named.map(([first]) => first!);
    const directory: DirectoryObject = this.directory = new DirectoryObject({
      time, random: new SeededRandom(seed * 7 + 5), link: new Link(time, network), plans, named, strictIsolates: strict !== null, startMs: () => network.between(1, 400),
      adopt: (name, near, adopted) => this.lanes.find((lane) => lane.name === name)!.adopt(near, adopted),
    });
    const lines = (lane: number, loop: EventLoop, { isolate: { name } }: Tenant, inFlight: InFlightBudget): LineParts => {
      const transports = named.map((names, number) => names.map((shard) => {
        const owner = { shard, lane };
        return shard.transport(loop, links[number]![lane]!, {
          request: (bytes, socket) => { this.#owners.set(socket, owner); return this.tamper.request(bytes, socket); },
          reply: (bytes, socket) => { this.#owners.set(socket, owner); return this.tamper.reply(bytes, socket); },
        });
      }));
      return {
        stage: 0, manifest: pack.manifest, limits: SIM_LIMITS, clock: loop.clock, strictIsolates: strict !== null, isolate: { name, inFlight },
        transport: (_plan, shard, attempt) => transports[shard]![attempt]!,
      };
    };
    this.lanes = Array.from({ length: shape.nLanes }, (_, lane) => new OrchestratorObject({
      name: `orchestrator-${lane}`, time, machines: trunks, pack, link: new Link(time, network), roundTokens: shape.roundTokens, stepTokens: 2 * shape.roundTokens, initial: plan,
      lines: (...of) => lines(lane, ...of),
      register: (loop, initial) => directory.register(loop, `orchestrator-${lane}`, initial),
      expertsOf: (of, { heap, isolate: { kernels } }, frame) => {
        const experts = new EagerOverlap(of.experts(heap, kernels, shape.roundTokens, undefined, frame), shape.overlapTokens);
        return planted.experts?.(experts) ?? experts;
      },
      budget: () => new InFlightBudget(shape.budgetBytes),
      startMs: () => network.between(1, 400), chunkBytes: () => network.pick([23, 256, 4096]),
    }));
  }

  shardOf(socket: SimSocket): ShardObject { return this.#owners.get(socket)!.shard; }
  laneOf(socket: SimSocket): OrchestratorObject { return this.lanes[this.#owners.get(socket)!.lane]!; }
  get objects(): readonly ShardObject[] { return this.#named.flat(); }
  /** Plans that came into force in the middle of answers. */
  get flips(): number { return this.lanes.reduce((sum, { flips }) => sum + flips, 0); }

  /** Who still holds what, when nobody should; null where all is quiet. */
  held(): string | null {
    if (this.directory.change !== null) return `the directory's change is ${this.directory.change} and does not end`;
    for (const { life } of this.lanes) {
      if (life === null || life.serving === null) continue;
      const { scheduler, engine } = life.serving;
      if (scheduler.activeCount + scheduler.queuedCount > 0) return `${scheduler.activeCount} generations run and ${scheduler.queuedCount} wait although every reader has gone`;
      if (engine.kv.openTimelines > 0) return `${engine.kv.openTimelines} timelines are open although no generation runs`;
      if (life.budget.usedBytes > 0) return `${life.budget.usedBytes} bytes of frames are accounted as in flight`;
    }
    return null;
  }

  /** Closes everything. Returns what was not given back; null where all was. */
  end(): string | null {
    // Of an isolate that died nobody gives anything back.
    const live = this.lanes.flatMap(({ life }) => (life === null ? [] : [life.budget]));
    for (const lane of this.lanes) lane.end();
    for (const shard of this.objects) shard.end();
    const leaked = [...this.lanes, ...this.objects].map(({ leakedBytes }) => leakedBytes);
    if (leaked.some((bytes) => bytes !== 0)) return `memory was not given back: ${leaked.join(", ")} bytes`;
    const budgetBytes = live.reduce((sum, { usedBytes }) => sum + usedBytes, 0);
    return budgetBytes === 0 ? null : `${budgetBytes} bytes of frames stay accounted as in flight after every line was closed`;
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
