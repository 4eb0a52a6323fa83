// One stage of a simulated ring as the platform keeps it: an object that may lose its memory, an isolate that may die, and the sockets that lead to it.
// Owns its lives around the fleet's own StageRing and StageCore, and answers `prepare` as durable/stage.ts does. Refuses frames (durable/) and what goes wrong when (ring-world.ts).

import type { StageTransport } from "../durable/ring-line.ts";
import type { SocketHandlers } from "../durable/frame-socket.ts";
import { StageCore } from "../durable/stage-core.ts";
import type { StageHello, StageWelcome } from "../durable/stage-handshake.ts";
import type { StagePages } from "../durable/stage-pages.ts";
import { type RingInlet, StageRing } from "../durable/stage-ring.ts";
import { EventLoop } from "./event-loop.ts";
import { call, type SimSocket } from "./network.ts";
import { RING_LIMITS, type RingWorld } from "./ring-world.ts";

/** One stage after the first. */
export class StageObject implements StageTransport {
  readonly name: string;
  readonly stage: number;
  readonly #run: RingWorld;
  #loop: EventLoop;
  #standing: { readonly core: StageCore; readonly pages: StagePages; rings: readonly number[] } | null = null;
  #ring: StageRing | null = null;
  readonly #inlets = new Map<SimSocket, number>();
  failsPrepare: "before" | "after" | null = null;

  constructor(run: RingWorld, stage: number) {
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
      return this.#run.answer(welcome);
    }, 3000);
  }

  async #prepared({ ring, before }: StageHello): Promise<StageWelcome> {
    const { parts, draws } = this.#run;
    const { engine, heap } = parts[this.stage]!;
    if (this.#standing === null) {
      this.#loop.occupy(draws.between(1, 300));
      const pages = this.#run.pagesOf(this.stage);
      this.#standing = { pages, core: new StageCore({ engine, pages, stage: this.stage }), rings: [] };
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
    const kept = before !== null && standing.rings.includes(before);
    standing.rings = kept ? [before!, ring] : [ring];
    return { state: "ready", kept, pages: RING_LIMITS.pages, chunkTokens: RING_LIMITS.chunkTokens, totalBytes: heap.usedBytes, isolate: this.name };
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
