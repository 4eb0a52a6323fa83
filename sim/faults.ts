// What goes wrong in a simulated run: the kinds of faults, when each strikes (at a frame drawn from the seed), and that it is counted only when it has happened.
// Owns the list. Refuses to decide what should follow from a fault: `costs` says how many attempts of a frame it may use up, no more.

import { addressFrame, encodeRefusal, decodeHeader, type FrameRefusal } from "../durable/protocol.ts";
import type { Draws } from "./draws.ts";
import type { EventLog } from "./event-log.ts";
import type { Arrivals, SimSocket, Tamper } from "./network.ts";
import type { Wish } from "../durable/directory-record.ts";
import type { DirectoryObject } from "./directory-object.ts";
import type { OrchestratorObject } from "./orchestrator-object.ts";
import type { ShardObject } from "./shard-object.ts";
import type { Store, StoreFault } from "./store.ts";
import type { VirtualTime } from "./virtual-time.ts";

/** What faults act on. */
export interface FaultyWorld {
  readonly time: VirtualTime;
  readonly draws: Draws;
  readonly log: EventLog;
  readonly store: Store;
  readonly directory: DirectoryObject;
  /** All shards, under all their names. */
  readonly shards: readonly ShardObject[];
  /** What the fleet is wished to become. */
  readonly nextWish: () => Wish;
  readonly shardOf: (socket: SimSocket) => ShardObject;
  readonly laneOf: (socket: SimSocket) => OrchestratorObject;
  /** One reader goes away; false where none is left. */
  readonly readerLeaves: () => boolean;
  readonly isOver: () => boolean;
  readonly happened: (name: FaultName) => void;
}

/** Changes a reply on its way. */
type ReplyFault = (bytes: ArrayBuffer) => Arrivals;

interface Strike {
  readonly world: FaultyWorld;
  readonly socket: SimSocket;
  readonly shard: ShardObject;
  /** Whose frame it is. */
  readonly orchestrator: OrchestratorObject;
  /** The request that was about to leave. */
  readonly bytes: ArrayBuffer;
  /** Has happened. */
  happened(): void;
  /** What becomes of the request. */
  arrivals: Arrivals | null;
  /** Waits for the next reply on this socket. */
  onReply(fault: ReplyFault): void;
  /** Now, or a moment later, so that it meets everything that can be under way. */
  soon(act: () => void): void;
}

interface FaultKind {
  readonly weight: number;
  /** Attempts of a frame, or of a connection, that it may use up; Infinity where nothing is promised. */
  readonly costs: number;
  /** Times that it breaks readers' streams. */
  readonly breaks?: number;
  strike(of: Strike): void;
}

export const flipped = (bytes: ArrayBuffer, draws: Pick<Draws, "whole">): ArrayBuffer => {
  const copy = bytes.slice(0);
  new Uint8Array(copy)[draws.whole(0, copy.byteLength - 1)]! ^= 1 << draws.whole(0, 7);
  return copy;
};

export const readdressed = (bytes: ArrayBuffer, change: { readonly connection?: number; readonly epoch?: number; readonly frame?: number }): ArrayBuffer => {
  const copy = bytes.slice(0);
  const decoded = decodeHeader(copy);
  if (!decoded.ok) return copy;
  const { connection, epoch, frame, attempt } = { ...decoded.header, ...change };
  addressFrame(copy, connection, frame, epoch, attempt);
  return copy;
};

const onTime = (bytes: ArrayBuffer): Arrivals => [{ bytes, laterMs: 0 }];

/** A fault that changes the next reply. */
const reply = (weight: number, costs: number, change: (bytes: ArrayBuffer, draws: Draws) => Arrivals): FaultKind => ({
  weight, costs,
  strike: ({ world: { draws }, onReply, happened }) => onReply((bytes) => {
    happened();
    return change(bytes, draws);
  }),
});

const refused = (bytes: ArrayBuffer, kind: FrameRefusal): Arrivals => {
  const decoded = decodeHeader(bytes);
  return onTime(decoded.ok ? encodeRefusal({ ...decoded.header, kind: "request" }, kind, "simulated", 30) : bytes);
};

const refusal = (weight: number, costs: number, kind: FrameRefusal): FaultKind => reply(weight, costs, (bytes) => refused(bytes, kind));

const request = (weight: number, costs: number, change: (bytes: ArrayBuffer, draws: Draws) => Arrivals): FaultKind => ({
  weight, costs,
  strike: (of) => {
    of.arrivals = change(of.bytes, of.world.draws);
    of.happened();
  },
});

const soon = (weight: number, costs: number, act: (of: Strike) => void): FaultKind => ({
  weight, costs,
  strike: (of) => of.soon(() => {
    act(of);
    of.happened();
  }),
});

/** The calls that follow the end of a line. */
const reconnect = (weight: number, costs: number, arm: (shard: ShardObject, times: number) => void, most = 1): FaultKind => ({
  weight, costs,
  strike: ({ world: { draws, happened }, shard, soon: later }) => later(() => {
    arm(shard, draws.whole(1, most));
    shard.breakSockets(true, true);
    happened("socket broke");
  }),
});

/** The store fails when it is needed next, which is at once. */
const store = (weight: number, costs: number, faults: readonly StoreFault[]): FaultKind => ({
  weight, costs,
  strike: ({ world, shard, soon: later }) => later(() => {
    world.store.faults.push(...faults);
    shard.kill();
    shard.disk.lose();
    world.happened("isolate killed, cache lost");
  }),
});

export const FAULTS = {
  "request damaged": request(6, 1, (bytes, draws) => onTime(flipped(bytes, draws))),
  "request cut short": request(3, 1, (bytes, draws) => onTime(bytes.slice(0, 16 * draws.whole(0, bytes.byteLength / 16 - 1)))),
  "request twice": request(4, 0, (bytes, draws) => [{ bytes, laterMs: 0 }, { bytes: bytes.slice(0), laterMs: draws.pick([0, 1, 50]) }]),
  "reply damaged": reply(8, 1, (bytes, draws) => onTime(flipped(bytes, draws))),
  "reply cut short": reply(3, 1, (bytes, draws) => onTime(bytes.slice(0, 16 * draws.whole(0, bytes.byteLength / 16 - 1)))),
  "reply twice": reply(4, 0, (bytes, draws) => [{ bytes, laterMs: 0 }, { bytes: bytes.slice(0), laterMs: draws.pick([0, 1, 50, 400]) }]),
  "reply of another epoch": reply(4, 1, (bytes) => { const decoded = decodeHeader(bytes); return onTime(decoded.ok ? readdressed(bytes, { epoch: decoded.header.epoch + 1 }) : bytes); }),
  "reply of another connection": reply(3, 1, (bytes) => { const decoded = decodeHeader(bytes); return onTime(decoded.ok ? readdressed(bytes, { connection: decoded.header.connection + 1 }) : bytes); }),
  "refused as internal": refusal(2, 1, "internal"),
  "refused as unknown slot": refusal(2, 1, "unknown-slot"),
  "refused as wrong epoch": refusal(2, 1, "wrong-epoch"),
  "refused as warming": refusal(2, 0, "warming"),
  "refused, the other shards slow": {
    weight: 6, costs: 3,
    strike: ({ shard, onReply, happened, world: { shards, draws } }) => onReply((bytes) => {
      // Whoever takes the frame over is late with the first he gets: where several do, one may be and another not.
      for (const other of shards) if (other !== shard && draws.chance(0.7)) other.slow = { ms: draws.between(1, 1500), frames: 1 };
      happened();
      return refused(bytes, draws.pick(["internal", "unknown-slot"]));
    }),
  },
  "socket broke": soon(8, 1, ({ shard }) => shard.breakSockets(true, true)),
  "socket died silently": soon(6, 1, ({ shard }) => shard.breakSockets(false, false)),
  "socket half open, client left": soon(4, 1, ({ shard }) => shard.breakSockets(false, true)),
  "socket half open, shard left": soon(4, 1, ({ shard }) => shard.breakSockets(true, false)),
  "isolate killed": soon(10, 1, ({ shard }) => shard.kill()),
  "isolate killed, cache lost": soon(4, 1, ({ shard }) => { shard.kill(); shard.disk.lose(); }),
  "isolate killed, cache damaged": soon(4, 1, ({ shard, world: { draws } }) => { shard.kill(); shard.disk.damage(draws.whole(0, 1 << 20)); }),
  "object evicted": {
    weight: 8, costs: 0,
    strike: ({ shard, happened, soon: later, world: { time, isOver } }) => later(() => {
      // The platform evicts what is idle.
      const attempt = (): void => {
        if (isOver()) return;
        if (shard.evict()) happened();
        else time.after(0.7, attempt);
      };
      attempt();
    }),
  },
  "shard hung": soon(4, 1, ({ shard, world: { draws } }) => shard.loop.occupy(draws.between(50, 4000))),
  "shard hung long": soon(2, Infinity, ({ shard, world: { draws } }) => shard.loop.occupy(draws.between(4000, 30_000))),
  "shard hung, then killed": soon(2, 2, ({ shard, world: { draws, time } }) => {
    shard.loop.occupy(30_000);
    time.after(draws.between(10, 4000), () => shard.kill());
  }),
  "shard slow": soon(4, 1, ({ shard, world: { draws } }) => { shard.slow = { ms: draws.between(1, 1500), frames: draws.whole(1, 12) }; }),
  "link slow": soon(4, 2, ({ socket, world: { draws } }) => socket.link.slow(draws.between(2, 60), draws.between(10, 4000))),
  "link cut": soon(4, 2, ({ socket, world: { draws } }) => socket.link.cut(draws.between(1, 2500))),
  "link cut long": soon(2, Infinity, ({ socket, world: { draws } }) => socket.link.cut(draws.between(2500, 40_000))),
  "prepare failed": reconnect(4, 3, (shard, times) => { while (times-- > 0) shard.prepareFaults.push("fails"); }, 2),
  "prepare overloaded": reconnect(4, 3, (shard, times) => { while (times-- > 0) shard.prepareFaults.push("overloaded"); }, 2),
  "prepare hung": reconnect(2, 2, (shard) => shard.prepareFaults.push("hangs")),
  "prepare found another revision": reconnect(3, 3, (shard, times) => { while (times-- > 0) shard.prepareFaults.push("wrong-revision"); }, 2),
  "prepare found another version": reconnect(2, 3, (shard, times) => { while (times-- > 0) shard.prepareFaults.push("wrong-version"); }, 2),
  "prepare met a reset": reconnect(2, 2, (shard) => shard.prepareFaults.push("reset")),
  "upgrade failed": reconnect(3, 3, (shard, times) => { while (times-- > 0) shard.upgradeFaults.push("fails"); }, 2),
  "upgrade hung": reconnect(2, 2, (shard) => shard.upgradeFaults.push("hangs")),
  "upgrade closed at once": reconnect(3, 3, (shard, times) => { while (times-- > 0) shard.upgradeFaults.push("closes"); }, 2),
  "store answered 5xx": store(3, 3, ["5xx"]),
  "store slow": store(3, 2, ["slow", "slow"]),
  "store read ended early": store(3, 3, ["short"]),
  "store brought other bytes": store(3, 3, ["damaged"]),
  "orchestrator killed": { weight: 5, costs: 0, breaks: 1, strike: ({ orchestrator, soon: later, happened }) => later(() => { orchestrator.kill(); happened(); }) },
  "orchestrator busy": soon(4, 1, ({ orchestrator, world: { draws } }) => orchestrator.life?.loop.occupy(draws.between(1, 9000))),
  "streams broke": { weight: 4, costs: 0, breaks: 1, strike: ({ orchestrator, soon: later, happened }) => later(() => { if (orchestrator.breakStreams() > 0) happened(); }) },
  "call failed": { weight: 3, costs: 0, breaks: 2, strike: ({ orchestrator, soon: later, happened }) => later(() => { orchestrator.failingCalls = 1; if (orchestrator.breakStreams() > 0) happened(); }) },
  "plan changed": { weight: 16, costs: 0, strike: ({ world: { directory, nextWish }, soon: later, happened }) => later(() => { if (directory.wish(nextWish())) happened(); }) },
  "plan changed, directory killed": {
    weight: 6, costs: 0,
    strike: ({ world: { directory, nextWish, time, draws }, soon: later, happened }) => later(() => {
      if (!directory.wish(nextWish())) return;
      happened();
      for (let n = draws.whole(1, 3); n > 0; n--) time.after(draws.between(0, 2000) * draws.next(), () => directory.kill());
    }),
  },
  "plan changed, a shard killed": {
    weight: 6, costs: 1,
    strike: ({ world: { directory, nextWish, time, draws }, shard, soon: later, happened }) => later(() => {
      if (!directory.wish(nextWish())) return;
      happened();
      time.after(draws.between(0, 1000) * draws.next(), () => shard.kill());
    }),
  },
  "plan changed, orchestrator killed": {
    weight: 4, costs: 1, breaks: 1,
    strike: ({ orchestrator, world: { directory, nextWish, time, draws }, soon: later, happened }) => later(() => {
      if (!directory.wish(nextWish())) return;
      happened();
      time.after(draws.between(0, 1000) * draws.next(), () => orchestrator.kill());
    }),
  },
  "directory killed": soon(2, 0, ({ world: { directory } }) => directory.kill()),
  "reader left": { weight: 3, costs: 0, strike: ({ world: { readerLeaves }, soon: later, happened }) => later(() => { if (readerLeaves()) happened(); }) },
} as const satisfies Readonly<Record<string, FaultKind>>;

export type FaultName = keyof typeof FAULTS;
export const FAULT_NAMES = Object.keys(FAULTS) as FaultName[];

const TOTAL_WEIGHT = FAULT_NAMES.reduce((sum, name) => sum + FAULTS[name].weight, 0);
const kindOf = (name: FaultName): FaultKind => FAULTS[name];

function drawn(draws: Draws): FaultName {
  let at = draws.next() * TOTAL_WEIGHT;
  for (const name of FAULT_NAMES) if ((at -= FAULTS[name].weight) < 0) return name;
  return FAULT_NAMES[0]!;
}

/** A fault and the frame at which it strikes. */
export interface Planned {
  readonly name: FaultName;
  readonly atFrame: number;
}

/** Frames after which the first fault strikes at the latest: fewer than any run has behind its twelfth. */
const FIRST_WITHIN_FRAMES = 6;

/** One to a few faults, the first of them early enough to meet even the shortest run. */
export function drawFaults(draws: Draws): Planned[] {
  const count = draws.pick([1, 1, 1, 2, 2, 3, 5]);
  return Array.from({ length: count }, (_, i) => ({ name: drawn(draws), atFrame: i === 0 ? draws.whole(1, 12) : draws.whole(1, 120) })).sort((a, b) => a.atFrame - b.atFrame);
}

export const costOf = (faults: readonly Planned[]): { readonly attempts: number; readonly breaks: number } => ({
  attempts: faults.reduce((sum, { name }) => sum + kindOf(name).costs, 0), breaks: faults.reduce((sum, { name }) => sum + (kindOf(name).breaks ?? 0), 0),
});

export class Faults implements Tamper {
  readonly #world: FaultyWorld;
  readonly #planned: Planned[];
  readonly #onReply = new Map<SimSocket, ReplyFault[]>();
  /** The first fault that waits for its moment: every run has one, however long its moment was drawn and however soon the run is over. */
  #first: { readonly byFrame: number; readonly strike: () => void } | null = null;
  readonly counts: Partial<Record<FaultName, number>> = {};
  frames = 0;
  /** After the last reader has gone nothing more strikes. */
  over = false;

  constructor(world: FaultyWorld, planned: readonly Planned[]) {
    this.#world = world;
    this.#planned = [...planned];
  }

  happened(name: FaultName): void {
    this.counts[name] = (this.counts[name] ?? 0) + 1;
    this.#world.log.add(name);
  }

  request(bytes: ArrayBuffer, socket: SimSocket): Arrivals | null {
    const { log, shardOf, laneOf, draws } = this.#world;
    const shard = shardOf(socket);
    this.frames++;
    log.add("frame", shard.number, bytes.byteLength);
    if (this.#first !== null && this.frames >= this.#first.byFrame) this.#first.strike();
    let arrivals: Arrivals | null = null;
    while (this.#planned.length > 0 && this.#planned[0]!.atFrame <= this.frames && !this.over) {
      const { name } = this.#planned.shift()!;
      const strike: Strike = {
        world: this.#world, socket, shard, orchestrator: laneOf(socket), bytes, arrivals: null,
        happened: () => this.happened(name),
        onReply: (fault) => {
          const waiting = this.#onReply.get(socket);
          if (waiting === undefined) this.#onReply.set(socket, [fault]);
          else waiting.push(fault);
        },
        soon: (act) => this.#soon(act, draws.chance(0.5) ? 0 : draws.between(0, 3) * socket.link.latencyMs()),
      };
      kindOf(name).strike(strike);
      arrivals = strike.arrivals ?? arrivals;
    }
    return arrivals;
  }

  #soon(act: () => void, delayMs: number): void {
    let isDone = false;
    const strike = (): void => {
      if (isDone || this.over) return;
      isDone = true;
      if (this.#first?.strike === strike) this.#first = null;
      act();
    };
    if (Object.keys(this.counts).length === 0) this.#first ??= { byFrame: this.frames + FIRST_WITHIN_FRAMES, strike };
    this.#world.time.after(delayMs, strike);
  }

  reply(bytes: ArrayBuffer, socket: SimSocket): Arrivals | null {
    this.#world.log.add("reply", this.#world.shardOf(socket).number, bytes.byteLength);
    const waiting = this.#onReply.get(socket);
    const fault = waiting?.shift();
    return fault === undefined ? null : fault(bytes);
  }
}
