// Rings of stages under faults: the fleet's own RingLine, RingEngine, StageRing and StageCore over sockets that break, die silently or delay, and stages that
// lose their memory or their isolate. Owns the stages' lives (as durable/stage.ts has them), the run of a seed and its verdict: every reader's answer is that of
// one machine, or one clean error, and nothing is stuck or held. Refuses shards (run.ts): the stages compute their experts themselves.

import { SeededRandom } from "../durable/clock.ts";
import type { GenerateEvent } from "../durable/generate.ts";
import { PROTOCOL_VERSION } from "../durable/handshake.ts";
import { PageNumbers } from "../durable/page-numbers.ts";
import { RingEngine, type RingHandlers } from "../durable/ring-engine.ts";
import { RingLine, type StageTransport } from "../durable/ring-line.ts";
import { Scheduler } from "../durable/scheduler.ts";
import { StageCore } from "../durable/stage-core.ts";
import type { StageHello, StageWelcome } from "../durable/stage-handshake.ts";
import { StagePages } from "../durable/stage-pages.ts";
import { type RingInlet, StageRing } from "../durable/stage-ring.ts";
import type { SocketHandlers } from "../durable/shard-line.ts";
import { loadModel } from "../formats/load-model.ts";
import { MemorySource } from "../formats/memory-source.ts";
import { Engine } from "../model/engine.ts";
import type { Heap } from "../model/heap.ts";
import { KvCache } from "../model/kv-cache.ts";
import { ExpertRunner, LocalExperts } from "../model/local-experts.ts";
import type { StageSpan } from "../model/stage-span.ts";
import { Draws } from "./draws.ts";
import { EventLoop } from "./event-loop.ts";
import { SIM_LIMITS } from "./machines.ts";
import { type Arrivals, call, Link, SimSocket } from "./network.ts";
import { answerOf, N_REQUESTS, type Oracle } from "./requests.ts";
import { VirtualTime } from "./virtual-time.ts";
import type { Grounds } from "./world.ts";

const NONE = [0, 0] as const;
const CHUNK_TOKENS = 24;
const ENTRIES = 8;
const PAGES = 24;
const RUN_LIMIT_MS = 60 * 60_000;

/** Ways to cut the tiny model: the head at the first stage, at the last, and in between; a stage without layers. */
const CUTS: readonly (readonly StageSpan[])[] = [
  [{ embeddingRows: [0, 40], layers: [0, 1], headRows: [0, 40] }, { embeddingRows: NONE, layers: [1, 3], headRows: NONE }],
  [{ embeddingRows: [0, 40], layers: [0, 1], headRows: NONE }, { embeddingRows: NONE, layers: [1, 2], headRows: NONE }, { embeddingRows: NONE, layers: [2, 3], headRows: [0, 40] }],
  [{ embeddingRows: [0, 40], layers: [0, 1], headRows: NONE }, { embeddingRows: NONE, layers: [1, 2], headRows: [0, 40] }, { embeddingRows: NONE, layers: [2, 3], headRows: NONE }],
  [{ embeddingRows: [0, 40], layers: NONE, headRows: NONE }, { embeddingRows: NONE, layers: [0, 3], headRows: [0, 40] }],
];

export const RING_FAULTS = ["socket broke", "socket died silently", "socket half open", "frame damaged", "frame cut short", "frame twice", "frame late", "link slow", "link cut", "stage killed", "stage reset", "stage hung", "prepare failed", "prepare's answer lost"] as const;
export type RingFault = (typeof RING_FAULTS)[number];

interface Part { readonly engine: Engine; readonly heap: Heap }

export interface RingReport {
  readonly seed: number;
  readonly problem: string | null;
  readonly faults: Readonly<Partial<Record<RingFault, number>>>;
  readonly outcomes: readonly ("right" | "clean error")[];
  readonly built: number;
  readonly hops: number;
  readonly virtualMs: number;
}

/** One stage after the first. */
class StageObject implements StageTransport {
  readonly name: string;
  readonly stage: number;
  readonly #run: RingRun;
  #loop: EventLoop;
  #standing: { readonly core: StageCore; readonly pages: StagePages; readonly standsSince: number[] } | null = null;
  #ring: StageRing | null = null;
  readonly #inlets = new Map<SimSocket, number>();
  failsPrepare: "before" | "after" | null = null;

  constructor(run: RingRun, stage: number) {
    this.#run = run;
    this.stage = stage;
    this.name = `stage ${stage}`;
    this.#loop = new EventLoop(run.time);
  }

  get loop(): EventLoop { return this.#loop; }

  prepare(hello: StageHello): Promise<StageWelcome> {
    const { time, links, first } = this.#run;
    return call(time, links[0]!, first, () => this.#loop, async () => {
      const fails = this.failsPrepare;
      this.failsPrepare = null;
      if (fails === "before") throw new Error("Network connection lost.");
      const welcome = await this.#prepared(hello);
      if (fails === "after") throw new Error("Network connection lost.");
      return welcome;
    }, 3000);
  }

  async #prepared({ ring, before }: StageHello): Promise<StageWelcome> {
    const { parts, draws } = this.#run;
    const { engine, heap } = parts[this.stage]!;
    if (this.#standing === null) {
      this.#loop.occupy(draws.between(1, 300));
      const pages = this.#run.pagesOf(this.stage);
      this.#standing = { pages, core: new StageCore({ engine, pages, stage: this.stage }), standsSince: [] };
    }
    const standing = this.#standing;
    if (this.#ring?.ring !== ring) {
      this.#ring?.end("another ring was built");
      const joined = new StageRing(ring, standing.core, () => this.#inletsOf(ring));
      this.#ring = joined;
      try {
        await joined.join((number, handlers) => this.#run.open(this.stage, number, handlers));
      } catch (cause) {
        joined.end("the next stage could not be reached");
        if (this.#ring === joined) this.#ring = null;
        throw cause;
      }
    }
    const kept = before !== null && standing.standsSince.includes(before);
    standing.standsSince.push(ring);
    return { state: "ready", kept, pages: PAGES, chunkTokens: CHUNK_TOKENS, totalBytes: heap.usedBytes, isolate: this.name };
  }

  *#inletsOf(ring: number): Generator<RingInlet> {
    for (const [socket, of] of this.#inlets) if (of === ring) yield { close: (code, reason) => socket.closeFromServer(`code ${code}: ${reason}`) };
  }

  /** From stage 0; the others' sockets come the same way. */
  open(ring: number, handlers: SocketHandlers): Promise<SimSocket> { return this.#run.open(0, ring, handlers); }

  accept(ring: number, socketOf: (server: NonNullable<SimSocket["server"]>) => SimSocket): SimSocket {
    const loop = this.#loop;
    const socket = socketOf({
      loop,
      message: (bytes) => {
        loop.occupy(this.#run.computeMs());
        if (this.#ring?.ring === ring) this.#ring.received(bytes);
        else socket.closeFromServer("code 1011: this stage is in no such ring");
      },
      closed: () => {
        this.#inlets.delete(socket);
        if (this.#ring?.ring === ring) this.#ring.end("the socket from the stage before closed");
      },
    });
    this.#inlets.set(socket, ring);
    return socket;
  }

  /** The object loses its memory; its sockets stay. */
  reset(): void {
    this.#standing?.pages.close();
    this.#standing = null;
    this.#ring?.end("the object was reset");
    this.#ring = null;
  }

  /** The isolate is gone, and its sockets with it. */
  kill(): void {
    this.#standing?.pages.close();
    this.#standing = null;
    this.#ring = null;
    this.#loop.kill();
    this.#loop = new EventLoop(this.#run.time);
    for (const socket of this.#inlets.keys()) socket.breakOff(true, false);
    this.#inlets.clear();
  }
}
