// One shard of a simulated fleet as the platform keeps it: an object that may be evicted or lose its isolate, storage that outlives both, sockets that outlive eviction.
// Owns the lives of the object around the fleet's own ShardCore, and its transport as an orchestrator sees it. Refuses to answer anything by itself.

import type { Clock, Random } from "../durable/clock.ts";
import type { Hello, MovedBytes, Retirement, Welcome } from "../durable/handshake.ts";
import type { Tenant } from "../durable/isolate.ts";
import { ShardCore, type ShardHost, type ShardSocket } from "../durable/shard-core.ts";
import type { ShardTransport, SocketHandlers } from "../durable/frame-socket.ts";
import type { OpenPack } from "../formats/pack-reader.ts";
import type { FaultName } from "./faults.ts";
import { EventLoop } from "./event-loop.ts";
import type { Machine, Machines } from "./machines.ts";
import { call, type Link, SimSocket, type Tamper } from "./network.ts";
import { Disk, type Store } from "./store.ts";
import type { VirtualTime } from "./virtual-time.ts";

export interface ShardParts {
  readonly time: VirtualTime;
  readonly machines: Machines;
  readonly pack: OpenPack;
  readonly store: Store;
  readonly random: Random;
  /** Milliseconds that its thread takes for a frame. */
  readonly computeMs: () => number;
  /** How long a new isolate takes to come up. */
  readonly startMs: () => number;
  /** The way from one shard to another, by name. */
  readonly donor: (name: string) => ShardObject | undefined;
  readonly donorLink: () => Link;
  /** Whose isolate it lands in; null where it has one of its own. */
  readonly neighbour: ShardObject | null;
}

/** An isolate with the object in it. */
interface Life {
  readonly loop: EventLoop;
  readonly machine: Machine;
  tenant: Tenant;
  core: ShardCore;
  pack: OpenPack | undefined;
  nextConnection: number;
  /** Counts the objects in it: what a former one still waits for never comes. */
  objects: number;
}

/** What the directory asks of a shard. */
export type ControlledShard = Pick<ShardCore, "prepare" | "retire" | "report">;

/** What a call meets where no answer of the object's own should come. */
export type PrepareFault = "fails" | "overloaded" | "hangs" | "wrong-revision" | "wrong-version" | "reset";
export type UpgradeFault = "fails" | "hangs" | "closes";

const PREPARE_FAULTS: Readonly<Record<PrepareFault, FaultName>> = {
  fails: "prepare failed", overloaded: "prepare overloaded", hangs: "prepare hung", "wrong-revision": "prepare found another revision", "wrong-version": "prepare found another version",
  reset: "prepare met a reset",
};
const UPGRADE_FAULTS: Readonly<Record<UpgradeFault, FaultName>> = { fails: "upgrade failed", hangs: "upgrade hung", closes: "upgrade closed at once" };

export class ShardObject {
  readonly name: string;
  readonly number: number;
  readonly disk = new Disk();
  readonly #p: ShardParts;
  #hellos: readonly Hello[] = [];
  #retired: Retirement | null = null;
  #life: Life | null = null;
  #lives = 0;
  /** Calls it has not answered yet. */
  #calls = 0;
  /** Bytes that isolates which died had not given back. */
  leakedBytes = 0;
  readonly #sockets = new Set<{ readonly socket: SimSocket; readonly connection: number }>();
  /** What the next calls meet. */
  readonly prepareFaults: PrepareFault[] = [];
  readonly upgradeFaults: UpgradeFault[] = [];
  /** Told of every fault of these as it happens. */
  onFault: (name: FaultName) => void = () => {};
  /** Added to every frame's computation, for so many frames. */
  slow = { ms: 0, frames: 0 };
  /** For tests: what stands in for the core's answers. */
  wrap: (core: ShardCore) => Pick<ShardCore, "prepare" | "message" | "read"> = (core) => core;

  constructor(name: string, number: number, parts: ShardParts) {
    this.name = name;
    this.number = number;
    this.#p = parts;
  }

  /** Who landed in its isolate. */
  #guest: ShardObject | null = null;

  get isUp(): boolean { return this.#life !== null; }
  /** Isolates it has had so far, and objects in the one it has. */
  get lives(): number { return this.#lives; }
  get objects(): number { return this.#life?.objects ?? 0; }

  /** As if it had served these before anybody in this run was born. */
  remember(hellos: readonly Hello[]): void { this.#hellos = hellos; }

  /** The thread it runs on, started where there is none. */
  get loop(): EventLoop { return this.#up().loop; }

  #up(): Life {
    if (this.#life !== null) return this.#life;
    const { time, machines, startMs, neighbour } = this.#p;
    const { loop, machine } = neighbour === null ? { loop: new EventLoop(time), machine: machines.take(`${this.name} life ${this.#lives}`) } : neighbour.#up();
    if (this.#lives++ > 0 && neighbour === null) loop.occupy(startMs());
    if (neighbour !== null) neighbour.#guest = this;
    const life = { loop, machine, pack: undefined, nextConnection: this.#lives * 1000, objects: 0 } as unknown as Life;
    this.#life = life;
    this.#construct(life);
    return life;
  }

  /** The object's constructor: in a new isolate, or in the old one after eviction. */
  #construct(life: Life): void {
    life.tenant = life.machine.isolate.enter(this.name, "shard", this.name, life, false);
    life.core = new ShardCore(this.#host(life));
  }

  #host(life: Life): ShardHost {
    const { random, pack, store } = this.#p;
    const object = ++life.objects;
    const isGone = (): boolean => life.loop.dead || life.objects !== object;
    const clock: Clock = { nowMs: () => life.loop.clock.nowMs(), after: (delayMs, fire) => life.loop.clock.after(delayMs, () => { if (!isGone()) fire(); }) };
    const source = store.source(clock);
    return {
      tenant: life.tenant, clock, random,
      hellos: { get: () => this.#hellos, put: (hellos) => { if (!isGone()) this.#hellos = hellos; } },
      retired: { get: () => this.#retired, put: (retired) => { if (!isGone()) this.#retired = retired; } },
      packs: {
        known: (packHash) => (life.pack?.packHash === packHash ? life.pack : undefined),
        // Reading and parsing the manifest is the same in every run; where it is read from is the store's business.
        current: async () => {
          for await (const _ of source.read("manifest.json"));
          return (life.pack = pack);
        },
      },
      weights: {
        store: () => source, cache: this.disk,
        donor: ({ name }) => {
          const other = this.#p.donor(name);
          if (other === undefined || other === this) return null;
          return (hash, offset, length) => new Promise((resolve, reject) => {
            // As with its clock: what an object that is gone has asked for never comes back to it.
            call(this.#p.time, this.#p.donorLink(), life.loop, () => other.loop, async () => other.core.read(hash, offset, length), 1000)
              .then((bytes) => { if (!isGone()) resolve(bytes); }, (error: unknown) => { if (!isGone()) reject(error); });
          });
        },
      },
      newConnection: () => life.nextConnection++,
    };
  }

  /** Bytes that the object in it has fetched since it came up, by origin. */
  get moved(): MovedBytes { return this.#up().core.report().moved; }

  get core(): Pick<ShardCore, "prepare" | "message" | "read"> { return this.wrap(this.#up().core); }

  /** The isolate is gone with everything in it; sockets close. The next call finds a new one. */
  kill(): void {
    const { neighbour } = this.#p;
    if (neighbour !== null) return neighbour.kill();
    const life = this.#life;
    if (life === null) return;
    life.loop.kill();
    this.#gone();
    if (this.#guest !== null) this.#guest.#gone();
    this.#guest = null;
    this.leakedBytes += this.#p.machines.give(life.machine);
  }

  #gone(): void {
    this.#life = null;
    this.#calls = 0;
    for (const { socket } of [...this.#sockets]) socket.breakOff(true, false);
    this.#sockets.clear();
  }

  /** The object is gone; the isolate's memory, storage and hibernating sockets stay, and a new object takes over. False where it is not idle: then the platform leaves it alone. */
  evict(): boolean {
    if (this.#life === null || this.#life.loop.isBusy || this.#calls > 0) return false;
    this.#construct(this.#life);
    return true;
  }

  /** Breaks every socket of it. */
  breakSockets(tellClient: boolean, tellServer: boolean): void {
    for (const entry of [...this.#sockets]) {
      entry.socket.breakOff(tellClient, tellServer);
      if (tellServer) this.#sockets.delete(entry);
    }
  }

  /** Gives its machine back at the end of a run. */
  end(): void { this.kill(); }

  /** A call of the directory's. */
  control<T>(near: EventLoop, link: Link, answer: (core: ControlledShard) => Promise<T>): Promise<T> {
    return call(this.#p.time, link, near, () => this.loop, async () => {
      const { loop } = this.#up();
      this.#calls++;
      try {
        return await answer(this.#up().core);
      } finally {
        if (this.#life?.loop === loop) this.#calls--;
      }
    }, 3000);
  }

  transport(near: EventLoop, link: Link, tamper: Tamper): ShardTransport {
    const { time } = this.#p;
    const lost = (): never => { throw new Error("Network connection lost."); };
    return {
      name: this.name,
      prepare: async (hello) => {
        const fault = this.prepareFaults.shift() ?? null;
        if (fault !== null) this.onFault(PREPARE_FAULTS[fault]);
        if (fault === "hangs") return new Promise<Welcome>(() => {});
        const copy = structuredHello(hello);
        return call(time, link, near, () => this.loop, async (): Promise<Welcome> => {
          if (fault === "fails") lost();
          if (fault === "reset") throw Object.assign(new Error("Durable Object's isolate exceeded its memory limit and was reset."), { retryable: true });
          if (fault === "overloaded") throw Object.assign(new Error("Durable Object is overloaded. Too many requests queued."), { overloaded: true, retryable: true });
          if (fault === "wrong-revision") return { state: "refused", code: "pack-hash", retryable: true, message: "The store holds another revision." };
          if (fault === "wrong-version") return { state: "refused", code: "protocol-version", retryable: true, message: "The shard speaks another version." };
          const { loop } = this.#up();
          this.#calls++;
          try {
            return await this.core.prepare(copy);
          } finally {
            if (this.#life?.loop === loop) this.#calls--;
          }
        }, 3000);
      },
      open: async (connection, handlers: SocketHandlers) => {
        const fault = this.upgradeFaults.shift() ?? null;
        if (fault !== null) this.onFault(UPGRADE_FAULTS[fault]);
        if (fault === "hangs") return new Promise<SimSocket>(() => {});
        return call(time, link, near, () => this.loop, async () => {
          if (fault === "fails") lost();
          return this.#accept(near, link, handlers, tamper, connection, fault === "closes");
        }, 3000);
      },
    };
  }

  #accept(near: EventLoop, link: Link, handlers: SocketHandlers, tamper: Tamper, connection: number, closes: boolean): SimSocket {
    const { time, computeMs } = this.#p;
    const { loop } = this.#up();
    const end: ShardSocket = { connection, send: (bytes) => socket.reply(bytes), close: (code) => socket.closeFromServer(`code ${code}`) };
    const socket: SimSocket = new SimSocket(time, link, near, handlers, {
      loop,
      message: (bytes) => {
        loop.occupy(computeMs() + (this.slow.frames-- > 0 ? this.slow.ms : 0));
        this.core.message(end, bytes);
      },
      closed: () => void this.#sockets.delete(entry),
    }, tamper);
    const entry = { socket, connection };
    this.#sockets.add(entry);
    if (closes) socket.closeFromServer("code 1006");
    return socket;
  }
}

/** A copy, as a call makes one: nothing that the caller changes later reaches the far end. */
const structuredHello = (hello: Hello): Hello => ({ ...hello });
