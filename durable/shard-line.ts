// One orchestrator's line to one shard: whether it stands, how it is opened and opened again, and who waits for it. docs/protocol.md sections 1 and 3.
// Owns the state of the line and its one socket, backoff and patience; events of an older socket are dropped here. Refuses to know frames (client.ts), what a
// shard says to `prepare` (line-handshake.ts) and how a socket comes about (ShardTransport).

import { type Random, sleep } from "./clock.ts";
import { FaultLog } from "./fault-log.ts";
import { closeQuietly, type FrameSocket } from "./frame-socket.ts";
import type { ReadFigures } from "./handshake.ts";
import { LineHandshake, type LineHandshakeParts } from "./line-handshake.ts";
import { LineOutage } from "./line-outage.ts";
import { Patience } from "./patience.ts";
import { ShardError, unended } from "./shard-error.ts";

export interface ShardLineParts extends LineHandshakeParts {
  readonly random: Random;
}

/** Whoever sends frames over the line. */
export interface LineUser {
  /** True while frames wait for the line. */
  readonly isWaiting: boolean;
  opened(): void;
  message(data: ArrayBuffer): void;
  /** The open socket closed by itself; the line is as it was until `drop`. */
  lost(cause: string): void;
  /** One attempt to connect failed, and another follows if anybody still waits. `answered`: by a shard that refused; otherwise nobody could be reached. */
  attemptFailed(cause: string, answered: boolean): void;
  /** No attempt will help; the line is idle. */
  gaveUp(error: ShardError): void;
}

export type LineState = "idle" | "connecting" | "open" | "closed";

/** A `connect` under way. */
interface Waiter {
  readonly patience: Patience;
  resolve(): void;
  reject(error: ShardError): void;
}

export class ShardLine {
  readonly #p: ShardLineParts;
  readonly #user: LineUser;
  readonly #handshake: LineHandshake;
  #state: LineState = "idle";
  #socket: FrameSocket | null = null;
  /** Counts sockets: a late event of an older one is told by its number. */
  #generation = 0;
  #connection = 0;
  readonly #waiters: Waiter[] = [];
  #failures = 0;
  #wasOpen = false;
  readonly faults: FaultLog;
  readonly outage: LineOutage;

  constructor(parts: ShardLineParts, user: LineUser) {
    this.#p = parts;
    this.faults = new FaultLog(parts.limits.lineFaults);
    this.outage = new LineOutage(parts.clock, parts.limits);
    this.#user = user;
    this.#handshake = new LineHandshake(parts, this.faults);
  }

  get name(): string { return this.#handshake.name; }
  get state(): LineState { return this.#state; }
  /** Number of the open socket, which its frames carry. */
  get connection(): number { return this.#connection; }
  /** The line has been open before. */
  get wasOpen(): boolean { return this.#wasOpen; }
  // What the shard has said of itself: LineHandshake has the words.
  get elsewhere(): boolean { return this.#handshake.elsewhere; }
  get loads(): number { return this.#handshake.loads; }
  get read(): ReadFigures | null { return this.#handshake.read; }
  get loadedBytes(): number { return this.#handshake.loadedBytes; }
  get totalBytes(): number { return this.#handshake.totalBytes; }

  /** Resolves when the shard is ready and the socket open; rejects with ShardError when it was refused for good, too often, or nobody answered for too long. */
  connect(): Promise<void> {
    if (this.#state === "open") return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#waiters.push({ patience: new Patience(), resolve, reject });
      this.ensure();
    });
  }

  /** Starts connecting unless that is under way. */
  ensure(): void {
    if (this.#state === "closed") {
      this.#failAll(new ShardError(this.name, false, `The line to shard ${this.name} is closed.`));
    } else if (this.#state === "idle") {
      this.#state = "connecting";
      this.outage.wanted();
      void this.#connectLoop(++this.#generation);
    }
  }

  /** Opens the line though nobody waits for it; after failures not at once. */
  wake(): void {
    if (this.#state !== "idle") return;
    if (this.#failures > 0) this.reopen();
    else this.ensure();
  }

  /** Has the shard say that it is ready, so that it keeps its memory or gets it back, without a line where there is none. Rejects where nobody answers, which changes nothing here. */
  touch(): Promise<void> {
    return this.#state === "open" || this.#state === "idle" ? this.#handshake.touch() : Promise.resolve();
  }

  /** Hands bytes to the open socket; throws what the socket throws. */
  send(bytes: ArrayBuffer): void {
    this.#socket!.send(bytes);
  }

  /** Something went wrong with the shard. */
  fault(cause: string): void {
    this.faults.note(cause, this.#p.clock.nowMs());
  }

  /** The shard has answered: it is no failing one. */
  answered(): void {
    this.#failures = 0;
    this.faults.answered();
  }

  /** Closes the socket and leaves the line idle; late events of it are ignored from here on. */
  drop(code: number, reason: string): void {
    this.#state = "idle";
    this.#closeSocket(code, reason);
  }

  /** Connects anew after a pause. The line is idle, or was until somebody asked for it a moment ago. */
  reopen(): void {
    this.#state = "connecting";
    this.outage.wanted();
    const generation = ++this.#generation;
    this.#p.clock.after(this.#backoffMs(), () => {
      if (generation === this.#generation && this.#state === "connecting") void this.#connectLoop(generation);
    });
  }

  /** Ends the line: nothing opens it again. */
  close(reason: string): void {
    this.#state = "closed";
    this.#closeSocket(1000, reason);
    this.#failAll(new ShardError(this.name, false, `The line to shard ${this.name} was closed: ${reason}`));
  }

  #closeSocket(code: number, reason: string): void {
    this.#generation++;
    const socket = this.#socket;
    this.#socket = null;
    closeQuietly(socket, code, reason);
  }

  /** Prepares and opens until it stands or nobody waits any more. `generation` tells a newer line from this one. */
  async #connectLoop(generation: number): Promise<void> {
    const handshake = this.#handshake;
    const current = (): boolean => generation === this.#generation && this.#state === "connecting";
    handshake.begin();
    while (current()) {
      let pauseMs: number;
      try {
        const welcome = await handshake.prepare();
        if (!current()) return;
        if (welcome.state === "loading") this.outage.tried();
        const next = handshake.heard(welcome);
        if (next.to === "rename") continue;
        if (next.to === "end") return this.#giveUp(next.error);
        if (next.to === "open") {
          const opening: { closedBy: string | null } = { closedBy: null };
          const isThis = (): boolean => generation === this.#generation;
          const socket = await handshake.open(next.connection, {
            message: (data) => { if (isThis()) this.#user.message(data); },
            closed: (reason) => {
              opening.closedBy = reason;
              if (isThis()) this.#user.lost(`the socket closed (${reason})`);
            },
          });
          if (!current()) {
            socket.close(1000, "no longer needed");
            return;
          }
          if (opening.closedBy !== null) throw new Error(`the socket closed as it opened (${opening.closedBy})`);
          return this.#opened(socket, next.connection);
        }
        pauseMs = next.to === "pause" ? next.pauseMs : this.#attemptFailed(next.cause, true);
      } catch (cause) {
        if (!current()) return;
        pauseMs = this.#attemptFailed(`connecting failed: ${cause instanceof Error ? cause.message : String(cause)}`, false);
      }
      if (!this.#user.isWaiting && this.#waiters.length === 0) {
        this.#state = "idle";
        return;
      }
      await sleep(this.#p.clock, pauseMs);
    }
  }

  #opened(socket: FrameSocket, connection: number): void {
    this.#socket = socket;
    this.#connection = connection;
    this.#state = "open";
    this.#wasOpen = true;
    this.outage.over();
    for (const waiter of this.#waiters.splice(0)) waiter.resolve();
    this.#user.opened();
  }

  /** Counts an attempt for everything that waits; returns the pause before the next one, in milliseconds. */
  #attemptFailed(cause: string, answered: boolean): number {
    const { limits, clock } = this.#p;
    const nowMs = clock.nowMs();
    this.outage.tried();
    this.fault(cause);
    for (const waiter of this.#waiters.splice(0)) {
      const { patience } = waiter;
      patience.failed(answered, nowMs);
      if (patience.hadEnoughOfAnswers(limits)) waiter.reject(new ShardError(this.name, true, `Shard ${this.name} refused ${patience.wrong} times; last: ${unended(cause)}.`));
      else if (patience.hadEnoughOfSilence(limits, nowMs)) waiter.reject(new ShardError(this.name, true, `Shard ${this.name} could not be reached for ${Math.round(patience.lostMs(nowMs))} ms; last: ${unended(cause)}.`));
      else this.#waiters.push(waiter);
    }
    this.#user.attemptFailed(cause, answered);
    return this.#backoffMs();
  }

  #backoffMs(): number {
    const { limits, random } = this.#p;
    return random.next() * Math.min(limits.backoffMostMs, limits.backoffBaseMs * 2 ** ++this.#failures);
  }

  #giveUp(error: ShardError): void {
    this.fault(error.message);
    this.#state = "idle";
    this.#failAll(error);
  }

  #failAll(error: ShardError): void {
    for (const waiter of this.#waiters.splice(0)) waiter.reject(error);
    this.#user.gaveUp(error);
  }
}
