// The network between two isolates: calls and sockets over a link with latency, and all the ways in which they fail.
// Owns order (what one socket carries in one direction arrives in order; two sockets or calls overtake each other as they like) and loss (a live socket
// loses nothing; one that dies loses what is under way, with or without telling either side). Refuses to know what is said.

import type { FrameSocket, SocketHandlers } from "../durable/frame-socket.ts";
import type { Draws } from "./draws.ts";
import type { EventLoop } from "./event-loop.ts";
import type { VirtualTime } from "./virtual-time.ts";

/** The way between two places, used by all calls and sockets between them. */
export class Link {
  readonly #time: VirtualTime;
  readonly #draws: Draws;
  readonly #baseMs: number;
  readonly #jitterMs: number;
  #slowUntilMs = 0;
  #slowFactor = 1;
  #cutUntilMs = 0;
  constructor(time: VirtualTime, draws: Draws) {
    this.#time = time;
    this.#draws = draws;
    this.#baseMs = draws.between(0.05, 1) * draws.pick([1, 1, 4, 40]);
    this.#jitterMs = this.#baseMs * draws.between(0, 1);
  }

  latencyMs(): number {
    const latencyMs = this.#baseMs + this.#draws.tail(this.#jitterMs);
    return this.#time.nowMs() < this.#slowUntilMs ? latencyMs * this.#slowFactor : latencyMs;
  }

  /** Everything takes `factor` times as long for `ms`. */
  slow(factor: number, ms: number): void {
    this.#slowFactor = factor;
    this.#slowUntilMs = this.#time.nowMs() + ms;
  }

  /** Nothing passes for `ms`. */
  cut(ms: number): void {
    this.#cutUntilMs = Math.max(this.#cutUntilMs, this.#time.nowMs() + ms);
  }

  get isCut(): boolean { return this.#time.nowMs() < this.#cutUntilMs; }
}

/** What a platform says when an object went away under a call. */
const LOST = "Network connection lost.";

/**
 * A call from one isolate to another: `answer` runs at the far end. Fails when the far end dies, or the link is cut, after a while. When the
 * near end dies nobody hears of it any more.
 */
export function call<T>(time: VirtualTime, link: Link, near: EventLoop, far: () => EventLoop, answer: () => Promise<T>, failsAfterMs: number): Promise<T> {
  return new Promise((resolve, reject) => {
    let over = false;
    const settle = (afterMs: number, act: () => void): void => {
      if (over) return;
      over = true;
      time.after(afterMs, () => near.post(act));
    };
    const lost = (afterMs: number): void => settle(afterMs, () => reject(new Error(LOST)));
    time.after(link.latencyMs(), () => {
      if (link.isCut) return lost(failsAfterMs);
      const loop = far();
      const forget = loop.onDeath(() => lost(link.latencyMs()));
      loop.post(() => {
        const back = (act: () => void): void => {
          forget();
          if (loop.dead) return;
          if (link.isCut) lost(failsAfterMs);
          else settle(loop.leftMs + link.latencyMs(), act);
        };
        answer().then((value) => back(() => resolve(value)), (error: unknown) => back(() => reject(error)));
      });
    });
  });
}

/** How a message on its way is treated: what arrives in its place, and when after it. Nothing at all: []. */
export type Arrivals = readonly { readonly bytes: ArrayBuffer; readonly laterMs: number }[];

/** Looks at each message as it leaves; null: it arrives as it is. */
export interface Tamper {
  request(bytes: ArrayBuffer, socket: SimSocket): Arrivals | null;
  reply(bytes: ArrayBuffer, socket: SimSocket): Arrivals | null;
}

interface Direction {
  lastArrivalMs: number;
  /** What is sent vanishes without a word. */
  silent: boolean;
}

/** One WebSocket between a client's isolate and a server's. */
export class SimSocket implements FrameSocket {
  readonly link: Link;
  readonly #time: VirtualTime;
  readonly #client: EventLoop;
  readonly #handlers: SocketHandlers;
  readonly #tamper: Tamper;
  readonly #up: Direction = { lastArrivalMs: 0, silent: false };
  readonly #down: Direction = { lastArrivalMs: 0, silent: false };
  /** The far end; it changes when the object there is made anew, and is null once that has closed. */
  server: { readonly loop: EventLoop; message(bytes: ArrayBuffer): void; closed(): void } | null;
  #clientOpen = true;

  constructor(time: VirtualTime, link: Link, client: EventLoop, handlers: SocketHandlers, server: NonNullable<SimSocket["server"]>, tamper: Tamper) {
    this.#time = time;
    this.link = link;
    this.#client = client;
    this.#handlers = handlers;
    this.server = server;
    this.#tamper = tamper;
    // When the client's isolate dies its sockets are closed for it.
    client.onDeath(() => {
      this.#clientOpen = false;
      this.#closeServer(link.latencyMs());
    });
  }

  /** As the client's: a socket that is closed, or dead, takes what it is given and says nothing. */
  send(bytes: ArrayBuffer): void {
    if (!this.#clientOpen) return;
    // What the client does with its buffer afterwards must not reach the far end.
    const sent = bytes.slice(0);
    for (const { bytes: arriving, laterMs } of this.#tamper.request(sent, this) ?? [{ bytes: sent, laterMs: 0 }]) {
      this.#carry(this.#up, laterMs, () => {
        const { server } = this;
        if (server !== null) server.loop.post(() => { if (this.server !== null) this.server.message(arriving); });
      });
    }
  }

  close(): void {
    if (!this.#clientOpen) return;
    this.#clientOpen = false;
    this.#carry(this.#up, 0, () => this.#closeServer(0));
  }

  /** As the server's. */
  reply(bytes: ArrayBuffer): void {
    if (this.server === null) return;
    const keptBackMs = this.server.loop.leftMs;
    for (const { bytes: arriving, laterMs } of this.#tamper.reply(bytes, this) ?? [{ bytes, laterMs: 0 }]) {
      this.#carry(this.#down, keptBackMs + laterMs, () => this.#client.post(() => { if (this.#clientOpen) this.#handlers.message(arriving); }));
    }
  }

  /** The server's side is gone; the client is told, behind what was said before. */
  closeFromServer(reason: string): void {
    this.server = null;
    this.#carry(this.#down, 0, () => this.#told(reason));
  }

  /** Breaks now: what is under way is lost. Who is told, if anybody, hears of it after the link's latency. */
  breakOff(tellClient: boolean, tellServer: boolean): void {
    this.#up.silent = this.#down.silent = true;
    if (tellClient) this.#time.after(this.link.latencyMs(), () => this.#told("code 1006"));
    if (tellServer) this.#closeServer(this.link.latencyMs());
  }

  #told(reason: string): void {
    this.#client.post(() => {
      if (!this.#clientOpen) return;
      this.#clientOpen = false;
      this.#handlers.closed(reason);
    });
  }

  #closeServer(afterMs: number): void {
    this.#time.after(afterMs, () => {
      this.server?.closed();
      this.server = null;
    });
  }

  /** Arrival in order, unless it comes later on purpose: such a one holds nobody up. */
  #carry(way: Direction, laterMs: number, arrive: () => void): void {
    if (way.silent) return;
    const nowMs = this.#time.nowMs();
    const arrivalMs = Math.max(way.lastArrivalMs, nowMs + this.link.latencyMs() + laterMs);
    way.lastArrivalMs = arrivalMs;
    this.#time.after(arrivalMs - nowMs, () => {
      if (!way.silent && !this.link.isCut) arrive();
      else way.silent = true; // a stream of bytes with a hole in it is over
    });
  }
}
