// A simulated ring: stages, the sockets between them, and what goes wrong at which frame. Owns the faults of rings, when each strikes (drawn from the seed), and that
// it is counted when it has happened. Refuses readers and verdicts (ring.ts).

import { SeededRandom } from "../durable/clock.ts";
import { RingLine } from "../durable/ring-line.ts";
import type { SocketHandlers } from "../durable/frame-socket.ts";
import { RING_PROTOCOL_VERSION, type StageWelcome } from "../durable/stage-handshake.ts";
import { StagePages } from "../durable/stage-pages.ts";
import type { Engine } from "../model/engine.ts";
import type { Heap } from "../model/heap.ts";
import { Draws } from "./draws.ts";
import { EventLoop } from "./event-loop.ts";
import type { EventLog } from "./event-log.ts";
import { SIM_LIMITS } from "./machines.ts";
import { type Arrivals, call, Link, SimSocket } from "./network.ts";
import { StageObject } from "./ring-stage.ts";
import type { VirtualTime } from "./virtual-time.ts";

/** Sizes of a small ring: pages for four readers of the longest requests, entries and tokens of a step. */
export const RING_LIMITS = { pages: 24, entries: 8, chunkTokens: 24 } as const;

export const RING_FAULTS = ["socket broke", "socket died silently", "socket half open", "frame damaged", "frame cut short", "frame twice", "frame late", "link slow", "link cut", "stage killed", "stage reset", "stage hung", "prepare failed", "prepare's answer lost"] as const;
export type RingFault = (typeof RING_FAULTS)[number];

/** What stands for good: an engine of a part of the model, and its memory. */
export interface Part { readonly engine: Engine; readonly heap: Heap }

interface RingWorldParts {
  readonly log: EventLog;
  /** What stages say to `prepare`, as it leaves. */
  readonly answer: (welcome: StageWelcome) => StageWelcome;
  readonly seed: number;
  readonly time: VirtualTime;
  readonly parts: readonly Part[];
}

export class RingWorld {
  readonly time: VirtualTime;
  readonly #log: EventLog;
  readonly answer: RingWorldParts["answer"];
  readonly parts: readonly Part[];
  readonly draws: Draws;
  readonly first: EventLoop;
  /** To each stage from the one before it; the first leads from the last stage to stage 0, and carries calls. */
  readonly links: readonly Link[];
  readonly stages: readonly StageObject[];
  readonly line: RingLine;
  readonly counts: Partial<Record<RingFault, number>> = {};
  readonly #planned: { readonly fault: RingFault; readonly atHop: number }[];
  hops = 0;
  built = 0;
  isOver = false;

  constructor({ seed, time, parts, log, answer }: RingWorldParts) {
    this.time = time;
    this.#log = log;
    this.answer = answer;
    this.parts = parts;
    const draws = this.draws = new Draws(seed, 11);
    this.first = new EventLoop(time);
    this.links = parts.map(() => new Link(time, draws));
    this.stages = parts.slice(1).map((_, i) => new StageObject(this, i + 1));
    const spans = parts.map(({ engine }) => engine.span);
    this.line = new RingLine({
      transports: this.stages, limits: SIM_LIMITS, clock: this.first.clock, random: new SeededRandom(seed),
      hello: { protocolVersion: RING_PROTOCOL_VERSION, lane: 0, first: "stage 0", strictIsolates: false, plan: { version: 1, packId: "sim", packHash: "0".repeat(64), fleet: "sim", epoch: 1, shards: [], lanes: 1, jurisdiction: null, stages: spans.map((span) => ({ ...span, slots: [] })) } },
    });
    this.#planned = Array.from({ length: draws.pick([1, 1, 2, 3, 5]) }, (_, i) => ({ fault: draws.pick(RING_FAULTS), atHop: i === 0 ? draws.whole(1, 16) : draws.whole(1, 80) })).sort((a, b) => a.atHop - b.atHop);
  }

  computeMs(): number { return this.draws.between(0.05, 1); }
  pagesOf(stage: number): StagePages {
    const { engine, heap } = this.parts[stage]!;
    return new StagePages({ heap, pageBytes: engine.kv.pageBytes, most: RING_LIMITS.pages, entries: RING_LIMITS.entries, pagesPerTimeline: Math.ceil(engine.contextLength / 32) });
  }

  /** The socket from one stage to the next. */
  open(from: number, ring: number, handlers: SocketHandlers): Promise<SimSocket> {
    const to = (from + 1) % this.parts.length;
    const link = this.links[to]!;
    const [near, far] = [from === 0 ? this.first : this.stages[from - 1]!.loop, (): EventLoop => (to === 0 ? this.first : this.stages[to - 1]!.loop)];
    const socketOf = (server: NonNullable<SimSocket["server"]>): SimSocket => {
      const socket: SimSocket = new SimSocket(this.time, link, near, handlers, server, { request: (bytes) => this.#hop(bytes, socket, to), reply: () => null });
      return socket;
    };
    return call(this.time, link, near, far, async () => {
      if (to > 0) return this.stages[to - 1]!.accept(ring, socketOf);
      const socket = socketOf({ loop: this.first, message: (bytes) => this.line.received(ring, bytes), closed: () => this.line.ended(ring, "code 1006") });
      if (!this.line.accept(ring, (reason) => socket.closeFromServer(reason))) socket.closeFromServer("this is no such ring");
      return socket;
    }, 3000);
  }

  #hop(bytes: ArrayBuffer, socket: SimSocket, to: number): Arrivals | null {
    this.hops++;
    this.#log.add("hop", to, bytes.byteLength);
    const [next] = this.#planned;
    if (next === undefined || this.isOver || next.atHop > this.hops) return null;
    this.#planned.shift();
    return this.#strike(next.fault, bytes, socket, to);
  }

  #strike(fault: RingFault, bytes: ArrayBuffer, socket: SimSocket, to: number): Arrivals | null {
    const { draws, time } = this;
    const happened = (): void => {
      this.counts[fault] = (this.counts[fault] ?? 0) + 1;
      this.#log.add(fault, to);
    };
    const soon = (act: () => void): null => {
      time.after(draws.chance(0.5) ? 0 : draws.between(0, 3) * socket.link.latencyMs(), () => {
        act();
        happened();
      });
      return null;
    };
    const stage = to > 0 ? this.stages[to - 1]! : draws.pick(this.stages);
    switch (fault) {
      case "socket broke": return soon(() => socket.breakOff(true, true));
      case "socket died silently": return soon(() => socket.breakOff(false, false));
      case "socket half open": return soon(() => { const told = draws.chance(0.5); socket.breakOff(told, !told); });
      case "link slow": return soon(() => socket.link.slow(draws.between(2, 60), draws.between(10, 4000)));
      case "link cut": return soon(() => socket.link.cut(draws.between(1, 2500)));
      case "stage killed": return soon(() => stage.kill());
      case "stage reset": return soon(() => stage.reset());
      case "stage hung": return soon(() => stage.loop.occupy(draws.between(50, 8000)));
      case "prepare failed": case "prepare's answer lost": return soon(() => {
        // A stage that has lost its memory, and whose next answer fails on the way there or back.
        if (draws.chance(0.5)) stage.kill();
        else stage.reset();
        stage.failsPrepare = fault === "prepare failed" ? "before" : "after";
        if (draws.chance(0.5)) draws.pick(this.stages).failsPrepare = "before";
      });
      case "frame damaged": {
        const copy = bytes.slice(0);
        new Uint8Array(copy)[draws.whole(0, copy.byteLength - 1)]! ^= 1 << draws.whole(0, 7);
        happened();
        return [{ bytes: copy, laterMs: 0 }];
      }
      case "frame cut short": happened(); return [{ bytes: bytes.slice(0, draws.whole(1, bytes.byteLength - 1)), laterMs: 0 }];
      case "frame twice": happened(); return [{ bytes, laterMs: 0 }, { bytes: bytes.slice(0), laterMs: draws.pick([0, 1, 50]) }];
      case "frame late": happened(); return [{ bytes, laterMs: draws.between(10, 4000) }];
    }
  }
}
