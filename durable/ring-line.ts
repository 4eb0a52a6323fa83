// How stage 0 brings a ring about: every stage prepared, at once, asked again while it loads, and the two sockets that are stage 0's own.
// Owns the ring's number, the patience with stages that do not answer, and that a ring is lost once. Refuses what frames mean (ring-engine.ts) and how a stage is
// reached (StageTransport). docs/protocol.md section 6.

import { type Clock, type Random, sleep, within } from "./clock.ts";
import { closeQuietly, type FrameSocket, type SocketHandlers } from "./frame-socket.ts";
import type { Limits } from "./limits.ts";
import type { OpenRing, RingHandlers, RingLinks } from "./ring-engine.ts";
import { decodeRing, encodeRing, type RingFrame } from "./ring-frame.ts";
import { ShardError } from "./shard-error.ts";
import type { StageHello, StageWelcome } from "./stage-handshake.ts";

/** The way to one stage. */
export interface StageTransport {
  readonly name: string;
  prepare(hello: StageHello): Promise<StageWelcome>;
  /** Opens the socket that carries frames to it. */
  open(ring: number, handlers: SocketHandlers): Promise<FrameSocket>;
}

export interface RingLineParts {
  /** Of stages 1 to the last. */
  readonly transports: readonly StageTransport[];
  readonly hello: Omit<StageHello, "stage" | "ring" | "before">;
  readonly limits: Limits;
  readonly clock: Clock;
  readonly random: Random;
  /** Stage by stage: bytes loaded and in all, and the pages it has room for. */
  readonly onProgress?: (stage: number, loadedBytes: number, totalBytes: number, isReady: boolean) => void;
}

interface Standing {
  readonly ring: number;
  readonly handlers: RingHandlers;
  out: FrameSocket | null;
  isLost: boolean;
}

export class RingLine implements RingLinks {
  readonly #p: RingLineParts;
  /** The ring that is being built, or stands. */
  #standing: Standing | null = null;
  /** The last stage's socket, by its ring: it may come before the stage has answered that it is ready. */
  #incoming: { readonly ring: number; readonly close: (reason: string) => void } | null = null;
  #arrived: () => void = () => {};
  #isClosed = false;
  /** The ring that stood last. */
  #before: number | null = null;
  lastFault: string | null = null;

  constructor(parts: RingLineParts) {
    this.#p = parts;
  }

  /** Ends whatever stands or is being built; nothing opens any more. */
  close(reason: string): void {
    this.#isClosed = true;
    const standing = this.#standing;
    if (standing === null) return;
    standing.isLost = true;
    this.#drop(standing, reason);
  }

  get isOpen(): boolean { return this.#standing !== null && !this.#standing.isLost && this.#standing.out !== null; }

  async open(handlers: RingHandlers): Promise<OpenRing> {
    const { transports, limits, clock, random } = this.#p;
    const startMs = clock.nowMs();
    for (let attempt = 0; ; attempt++) {
      const standing: Standing = { ring: Math.floor(random.next() * 0xffffffff), handlers, out: null, isLost: false };
      this.#standing = standing;
      this.#incoming?.close("the ring is built anew");
      this.#incoming = null;
      try {
        const welcomes = await Promise.all(transports.map((transport, i) => this.#prepare(transport, i + 1, standing)));
        standing.out = await within(clock, limits.prepareDeadlineMs, transports[0]!.open(standing.ring, {
          message: () => this.#lose(standing, "stage 1 sent a message on the socket that leads to it"),
          closed: (reason) => this.#lose(standing, `the socket to stage 1 closed (${reason})`),
        }), `the socket to stage 1 was not opened in ${limits.prepareDeadlineMs} ms`);
        if (this.#incoming === null) await within(clock, limits.prepareDeadlineMs, new Promise<void>((resolve) => { this.#arrived = resolve; }), `the last stage did not connect in ${limits.prepareDeadlineMs} ms`);
        if (standing.isLost) throw new Error(this.lastFault ?? "it was lost as it opened");
        this.#before = standing.ring;
        return {
          ring: standing.ring, kept: welcomes.every(({ kept }) => kept),
          pages: Math.min(...welcomes.map(({ pages }) => pages)), chunkTokens: Math.min(...welcomes.map(({ chunkTokens }) => chunkTokens)),
          send: (frame) => this.#send(standing, frame),
          close: (reason) => { standing.isLost = true; this.#drop(standing, reason); },
        };
      } catch (cause) {
        this.lastFault = cause instanceof Error ? cause.message : String(cause);
        standing.isLost = true;
        this.#drop(standing, "the ring is built anew");
        if (this.#isClosed || (cause instanceof ShardError && !cause.retryable)) throw cause;
        const lostMs = clock.nowMs() - startMs;
        if (lostMs >= limits.outageMs) throw new ShardError("the ring", true, `The ring of ${transports.length + 1} stages could not be built for ${Math.round(lostMs)} ms; last: ${this.lastFault}.`);
        await sleep(clock, random.next() * limits.backoffBaseMs * 2 ** Math.min(attempt + 1, limits.frameAttempts));
      }
    }
  }

  /** The last stage's socket has come: messages go to `received`, its end to `ended`. Returns false where it belongs to no ring that is wanted. */
  accept(ring: number, close: (reason: string) => void): boolean {
    if (this.#standing === null || this.#standing.ring !== ring || this.#standing.isLost) return false;
    this.#incoming?.close("another socket took its place");
    this.#incoming = { ring, close };
    this.#arrived();
    return true;
  }

  /** A message on the last stage's socket. */
  received(ring: number, data: string | ArrayBuffer): void {
    const standing = this.#standing;
    if (standing === null || standing.ring !== ring || standing.isLost) return;
    let frame: RingFrame;
    try {
      if (typeof data === "string") throw new Error("it is text");
      frame = decodeRing(data);
    } catch (cause) {
      return this.#lose(standing, `a frame of the last stage was damaged: ${cause instanceof Error ? cause.message : String(cause)}`);
    }
    standing.handlers.frame(frame);
  }

  ended(ring: number, reason: string): void {
    if (this.#standing?.ring === ring) this.#lose(this.#standing, `the last stage's socket closed (${reason})`);
  }

  /** Until the stage says that it is ready; throws where it cannot be. */
  async #prepare(transport: StageTransport, stage: number, standing: Standing): Promise<Extract<StageWelcome, { state: "ready" }>> {
    const { hello, limits, clock } = this.#p;
    let loadingSinceMs = -1;
    for (;;) {
      const welcome = await within(clock, limits.prepareDeadlineMs, transport.prepare({ ...hello, stage, ring: standing.ring, before: this.#before }), `stage ${stage} (${transport.name}) did not answer in ${limits.prepareDeadlineMs} ms`);
      if (standing.isLost) throw new Error(this.lastFault ?? "the ring was given up");
      if (welcome.state === "ready") {
        this.#p.onProgress?.(stage, welcome.totalBytes, welcome.totalBytes, true);
        return welcome;
      }
      if (welcome.state === "refused") throw new ShardError(transport.name, welcome.retryable, `Stage ${stage} (${transport.name}) refused (${welcome.code}): ${welcome.message}`);
      this.#p.onProgress?.(stage, welcome.loadedBytes, welcome.totalBytes, false);
      if (loadingSinceMs < 0) loadingSinceMs = clock.nowMs();
      if (clock.nowMs() - loadingSinceMs > limits.warmingMs) throw new ShardError(transport.name, true, `Stage ${stage} (${transport.name}) was still loading after ${limits.warmingMs} ms.`);
      await sleep(clock, welcome.retryAfterMs);
    }
  }

  #send(standing: Standing, frame: RingFrame): void {
    if (standing.isLost || standing.out === null) return;
    const bytes = encodeRing(frame);
    try {
      standing.out.send(bytes);
    } catch (cause) {
      this.#lose(standing, `sending to stage 1 failed (${cause instanceof Error ? cause.message : String(cause)})`);
    }
  }

  #lose(standing: Standing, cause: string): void {
    if (standing.isLost) return;
    standing.isLost = true;
    this.lastFault = cause;
    const stood = standing.out !== null;
    this.#drop(standing, "the ring is lost");
    if (stood) standing.handlers.lost(standing.ring);
  }

  #drop(standing: Standing, reason: string): void {
    if (this.#incoming?.ring === standing.ring) {
      this.#incoming.close(reason);
      this.#incoming = null;
    }
    closeQuietly(standing.out, 1000, reason);
    standing.out = null;
  }
}
