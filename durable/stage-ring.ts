// A stage's place in a ring, without the platform: frames in from the stage before, frames out to the next, for one ring at a time.
// Owns that a socket that ends takes its neighbour with it, so that stage 0 learns of it, and that frames of an older ring harm nobody.
// Refuses what frames mean (stage-core.ts) and how stages are reached (stage.ts). docs/protocol.md section 6.

import { closeQuietly, type FrameSocket, type SocketHandlers } from "./frame-socket.ts";
import { decodeRing, encodeRing, type RingFrame } from "./ring-frame.ts";
import type { StageCore } from "./stage-core.ts";

/** The socket that leads here. */
export interface RingInlet {
  close(code: number, reason: string): void;
}

export class StageRing {
  readonly ring: number;
  readonly #core: StageCore;
  readonly #inlets: () => Iterable<RingInlet>;
  #out: FrameSocket | null = null;
  #isOver = false;
  /** Of the last step that was begun. */
  #step: number | null = null;

  /** `inlets`: the sockets of this ring that lead here now. */
  constructor(ring: number, core: StageCore, inlets: () => Iterable<RingInlet>) {
    this.ring = ring;
    this.#core = core;
    this.#inlets = inlets;
  }

  /** Opens the way to the next stage; rejects where there is none. */
  async join(open: (ring: number, handlers: SocketHandlers) => Promise<FrameSocket>): Promise<void> {
    const socket = await open(this.ring, {
      message: () => this.end("the next stage sent a message on the socket that leads to it"),
      closed: (reason) => this.end(`the socket to the next stage closed (${reason})`),
    });
    if (this.#isOver) return socket.close(1000, "the ring is over");
    this.#out = socket;
  }

  received(data: string | ArrayBuffer): void {
    if (this.#isOver) return;
    let frame: RingFrame;
    try {
      if (typeof data === "string") throw new Error("it is text");
      frame = decodeRing(data);
    } catch (cause) {
      return this.end(`a frame was damaged: ${cause instanceof Error ? cause.message : String(cause)}`);
    }
    if (frame.ring !== this.ring) return;
    // A probe asks whether the ring stands, not whether its stages are idle.
    if (frame.kind === "probe") return this.#send(frame);
    if (frame.kind === "rows") {
      // What its pass leaves out the first time is told; another time it may be something else.
      if (frame.terms?.leavesOut === true && this.#step !== null && ((frame.step - this.#step) | 0) <= 0) return;
      this.#step = frame.step;
    }
    void this.#core.take(frame, (next) => this.#send(next), () => !this.#isOver);
  }

  /** Ends this stage's part in the ring, and with it the ring. Idempotent. */
  end(reason: string): void {
    if (this.#isOver) return;
    this.#isOver = true;
    for (const inlet of this.#inlets()) closeQuietly(inlet, 1011, reason.slice(0, 100));
    const out = this.#out;
    this.#out = null;
    closeQuietly(out, 1000, reason.slice(0, 100));
  }

  #send(frame: RingFrame): void {
    if (this.#isOver || this.#out === null) return;
    try {
      this.#out.send(encodeRing(frame));
    } catch (cause) {
      this.end(`sending to the next stage failed (${cause instanceof Error ? cause.message : String(cause)})`);
    }
  }
}
