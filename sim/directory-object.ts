// The directory of a simulated fleet: the fleet's own DirectoryCore over calls that fail, in an object that may die at any moment and comes back by its alarm.
// Owns what survives it (the record and the alarm) and its ways to shards and orchestrators. Refuses to compute placements: sim/plans.ts has them.

import type { AdoptReply } from "../durable/adoption.ts";
import type { Random } from "../durable/clock.ts";
import { DirectoryCore } from "../durable/directory-core.ts";
import type { Prepared } from "../durable/directory-ports.ts";
import { type DirectoryRecord, EMPTY_RECORD, type Wish } from "../durable/directory-record.ts";
import { PROTOCOL_VERSION, type Donor, type MovedBytes } from "../durable/handshake.ts";
import type { FleetPlan } from "../fleet/fleet-plan.ts";
import { EventLoop } from "./event-loop.ts";
import { SIM_LIMITS } from "./machines.ts";
import { call, type Link } from "./network.ts";
import type { Plans } from "./plans.ts";
import type { ControlledShard, ShardObject } from "./shard-object.ts";
import type { VirtualTime } from "./virtual-time.ts";

export interface DirectoryParts {
  readonly time: VirtualTime;
  readonly random: Random;
  readonly link: Link;
  readonly plans: Plans;
  /** Shards under each of their names. */
  readonly named: readonly (readonly ShardObject[])[];
  readonly strictIsolates: boolean;
  readonly adopt: (orchestrator: string, near: EventLoop, plan: FleetPlan) => Promise<AdoptReply>;
  readonly startMs: () => number;
}

interface Life {
  readonly loop: EventLoop;
  readonly core: DirectoryCore;
}

/** How long a call that meets a cut link takes to fail. */
const FAILS_AFTER_MS = 3000;

export class DirectoryObject {
  readonly #p: DirectoryParts;
  #record: DirectoryRecord = EMPTY_RECORD;
  #cancelAlarm: (() => void) | null = null;
  #life: Life | null = null;
  #lives = 0;

  constructor(parts: DirectoryParts) {
    this.#p = parts;
  }

  /** What is under way, in a word; null where nothing is. */
  get change(): string | null { return this.#record.change?.state ?? null; }
  get epoch(): number { return this.#record.plan?.epoch ?? 0; }
  /** Changes that have ended. */
  get ended(): number { return this.#record.history.length; }
  get loop(): EventLoop { return this.#up().loop; }

  #up(): Life {
    if (this.#life !== null) return this.#life;
    const { time, random, plans, strictIsolates } = this.#p;
    // As durable/directory-shards.ts has it: which of its names each shard answers to.
    const attempts = new Map<number, number>();
    const objectOf = (shard: number): ShardObject => this.#p.named[shard]![attempts.get(shard) ?? 0]!;
    const loop = new EventLoop(time);
    if (this.#lives++ > 0) loop.occupy(this.#p.startMs());
    const core = new DirectoryCore({
      clock: loop.clock, random, limits: SIM_LIMITS, balance: null,
      storage: {
        read: () => this.#record,
        write: (record, wakeAtMs) => {
          if (loop.dead) return;
          this.#record = record;
          this.#alarm(wakeAtMs);
        },
        wake: (atMs) => { if (!loop.dead) this.#alarm(atMs); },
      },
      planner: { next: async (from, wish) => ({ reason: "the simulation", steps: plans.steps(from, wish) }) },
      shards: {
        fetched: (_plan, shard) => this.#ask(loop, objectOf(shard), async (of) => fetchedBytes(of.report().moved)),
        prepare: async (from, to, shard): Promise<Prepared> => {
          const donors = (plans.moves(from, to).shards.find((moves) => moves.shard === shard)?.donors ?? []).map((donor): Donor => ({ ...donor, name: objectOf(donor.shard).name }));
          const hello = { protocolVersion: PROTOCOL_VERSION, packHash: to.packHash, epoch: to.epoch, slots: to.shards[shard]!.slots, strictIsolates, donors };
          const welcome = await this.#ask(loop, objectOf(shard), (of) => of.prepare(hello));
          if (welcome.state === "loading") return { state: "loading" };
          if (welcome.state === "refused") {
            const attempt = (attempts.get(shard) ?? 0) + 1;
            if (welcome.code !== "isolate-shared") return welcome;
            if (attempt >= SIM_LIMITS.shardNames) return { ...welcome, retryable: false };
            attempts.set(shard, attempt);
            return welcome;
          }
          return { state: "ready", fetchedBytes: await this.#ask(loop, objectOf(shard), async (of) => fetchedBytes(of.report().moved)) };
        },
        retire: (plan, shard, below) => this.#ask(loop, objectOf(shard), async (of) => of.retire({ packHash: plan.packHash, below })),
        release: async (from, to, shard) => {
          if ((from.shards[shard]?.slots ?? []).length === 0) return this.#ask(loop, objectOf(shard), async (of) => of.retire({ packHash: to.packHash, below: to.epoch + 1 }));
          await this.#ask(loop, objectOf(shard), (of) => of.prepare({ protocolVersion: PROTOCOL_VERSION, packHash: to.packHash, epoch: to.epoch, slots: [], strictIsolates, donors: [] }));
        },
      },
      orchestrators: { adopt: (name, plan) => this.#p.adopt(name, loop, plan) },
    });
    return (this.#life = { loop, core });
  }

  #ask<T>(loop: EventLoop, shard: ShardObject, answer: (core: ControlledShard) => Promise<T>): Promise<T> {
    return shard.control(loop, this.#p.link, answer);
  }

  /** At most one, and it outlives the object. */
  #alarm(atMs: number | null): void {
    this.#cancelAlarm?.();
    this.#cancelAlarm = atMs === null ? null : this.#p.time.after(atMs - this.#p.time.nowMs(), () => {
      this.#cancelAlarm = null;
      const { loop, core } = this.#up();
      loop.post(() => void core.tick());
    });
  }

  register(near: EventLoop, name: string, initial: FleetPlan): Promise<FleetPlan> {
    const { time, link } = this.#p;
    return call(time, link, near, () => this.loop, async () => this.#up().core.register(name, initial), FAILS_AFTER_MS);
  }

  /** True when a change begins. */
  wish(wish: Wish): boolean {
    if (this.#record.change !== null || this.#record.plan === null) return false;
    void this.#up().core.desire(wish).catch(() => undefined); // it may die meanwhile, or be too late: then nothing changes
    return true;
  }

  /** Gone in the middle of whatever it does. It comes back with its alarm, or when somebody calls. */
  kill(): void {
    this.#life?.loop.kill();
    this.#life = null;
    // A pass that was under way has no alarm of its own: the one it was called by is given again by the platform until it succeeds.
    if (this.#cancelAlarm === null && this.#record.change !== null) this.#alarm(this.#p.time.nowMs() + 2000);
  }
}

const fetchedBytes = ({ memory, cache, donors, store }: MovedBytes): number => memory + cache + donors + store;
