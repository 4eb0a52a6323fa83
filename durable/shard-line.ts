// The connecting half of one orchestrator's line to one shard: prepare, names, upgrade, backoff, and who waits for it. docs/protocol.md sections 1 and 3.
// Owns the state of the line and its one socket; events of an older socket are dropped here. Refuses to know frames (client.ts) and how a socket comes about (ShardTransport).

import { type Clock, type Random, sleep, within } from "./clock.ts";
import { FaultLog } from "./fault-log.ts";
import type { Hello, ReadFigures, Welcome } from "./handshake.ts";
import type { Limits } from "./limits.ts";
import { LineOutage } from "./line-outage.ts";

/** An open socket. Sending on a dead one may succeed silently; only an answer proves anything. */
export interface FrameSocket {
  /** The buffer must not be changed afterwards: the runtime may still be reading it. */
  send(bytes: ArrayBuffer): void;
  close(code: number, reason: string): void;
}

export function closeQuietly(socket: Pick<FrameSocket, "close"> | null, code: number, reason: string): void {
  try {
    socket?.close(code, reason);
  } catch {
    // A socket that cannot be closed is already gone.
  }
}

export interface SocketHandlers {
  message(data: ArrayBuffer): void;
  /** Called at most once, for close and error alike. */
  closed(reason: string): void;
}

/** The way to one shard object. `name` is for messages. */
export interface ShardTransport {
  readonly name: string;
  prepare(hello: Hello): Promise<Welcome>;
  open(connection: number, handlers: SocketHandlers): Promise<FrameSocket>;
}

/** A frame or a connection that failed for good: names shard, attempts and the last cause. */
export class ShardError extends Error {
  override readonly name = "ShardError";
  readonly shard: string;
  readonly retryable: boolean;
  constructor(shard: string, retryable: boolean, message: string) {
    super(message);
    this.shard = shard;
    this.retryable = retryable;
  }
}

/** Its shard is away, and whoever asked did not want to wait longer (step-terms.ts). */
export class AwayError extends ShardError {}

export interface ShardLineParts {
  /** Transport of the shard under its first, second, ... name: other names are tried when an isolate is shared in strict mode. */
  readonly transport: (nameAttempt: number) => ShardTransport;
  readonly hello: Hello;
  /** Name of the caller's own isolate. */
  readonly isolate: string;
  readonly limits: Limits;
  readonly clock: Clock;
  readonly random: Random;
  /** The shard has ended this epoch: a newer plan is in force, and whoever knows it should be asked. */
  readonly stale?: () => void;
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

/** A cause as the end of a sentence: those that come from elsewhere may be sentences themselves. */
export const unended = (cause: string): string => cause.replace(/\.$/, "");

interface Waiter {
  refusals: number;
  /** Since when nobody answers; -1 while somebody does. */
  lostSinceMs: number;
  resolve(): void;
  reject(error: ShardError): void;
}

/** One socket on its way. */
interface Opening {
  /** Nobody waits for it any more. */
  isOver: boolean;
  closedBy: string | null;
}

export class ShardLine {
  readonly #p: ShardLineParts;
  readonly #user: LineUser;
  #transport: ShardTransport;
  #nameAttempt = 0;
  #state: LineState = "idle";
  #socket: FrameSocket | null = null;
  /** Counts sockets: a late event of an older one is told by its number. */
  #generation = 0;
  #connection = 0;
  #waiters: Waiter[] = [];
  #failures = 0;
  #loads = 0;
  #loadedBytes = 0;
  #totalBytes = 0;
  #elsewhere = false;
  #wasOpen = false;
  #read: ReadFigures | null = null;
  readonly faults: FaultLog;
  readonly outage: LineOutage;

  constructor(parts: ShardLineParts, user: LineUser) {
    this.#p = parts;
    this.faults = new FaultLog(parts.limits.lineFaults);
    this.outage = new LineOutage(parts.clock, parts.limits);
    this.#user = user;
    this.#transport = parts.transport(0);
  }

  get name(): string { return this.#transport.name; }
  get state(): LineState { return this.#state; }
  /** Number of the open socket, which its frames carry. */
  get connection(): number { return this.#connection; }
  /** True once the shard has said that it lives in another isolate: it may compute while this one does. */
  get elsewhere(): boolean { return this.#elsewhere; }
  /** How often the shard has read weights, as far as it said so here. */
  get loads(): number { return this.#loads; }
  /** The line has been open before. */
  get wasOpen(): boolean { return this.#wasOpen; }
  /** What the shard's memory was filled from, as it last said; null before. */
  get read(): ReadFigures | null { return this.#read; }
  get loadedBytes(): number { return this.#loadedBytes; }
  get totalBytes(): number { return this.#totalBytes; }

  /** Resolves when the shard is ready and the socket open; rejects with ShardError when it was refused for good, too often, or nobody answered for too long. */
  connect(): Promise<void> {
    if (this.#state === "open") return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#waiters.push({ refusals: 0, lostSinceMs: -1, resolve, reject });
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
  async touch(): Promise<void> {
    if (this.#state !== "open" && this.#state !== "idle") return;
    const { hello, limits, clock } = this.#p;
    const welcome = await within(clock, limits.prepareDeadlineMs, this.#transport.prepare(hello), `prepare was not answered in ${limits.prepareDeadlineMs} ms`);
    if (welcome.state === "ready") this.#welcomed(welcome);
    else if (welcome.state === "refused" && welcome.code === "retired") this.#p.stale?.();
  }

  #welcomed({ hasRead, isolate, read }: Extract<Welcome, { state: "ready" }>): void {
    if (hasRead) this.#loads++;
    this.#elsewhere = isolate !== this.#p.isolate;
    this.#read = read ?? null;
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
    const { hello, limits, clock } = this.#p;
    const current = (): boolean => generation === this.#generation && this.#state === "connecting";
    let loadingSinceMs = -1;
    while (current()) {
      const transport = this.#transport;
      let pauseMs: number;
      try {
        const welcome = await within(clock, limits.prepareDeadlineMs, transport.prepare(hello), `prepare was not answered in ${limits.prepareDeadlineMs} ms`);
        if (!current()) return;
        if (welcome.state === "ready") {
          this.#welcomed(welcome);
          const opening: Opening = { isOver: false, closedBy: null };
          const socket = await this.#open(transport, welcome.connection, generation, opening);
          if (!current()) {
            socket.close(1000, "no longer needed");
            return;
          }
          if (opening.closedBy !== null) throw new Error(`the socket closed as it opened (${opening.closedBy})`);
          return this.#opened(socket, welcome.connection);
        }
        if (welcome.state === "loading") {
          this.outage.tried();
          if (loadingSinceMs < 0) loadingSinceMs = clock.nowMs();
          this.#loadedBytes = welcome.loadedBytes;
          this.#totalBytes = welcome.totalBytes;
          if (clock.nowMs() - loadingSinceMs > limits.warmingMs) {
            return this.#giveUp(new ShardError(this.name, true, `Shard ${this.name} was still loading after ${limits.warmingMs} ms (${welcome.loadedBytes} of ${welcome.totalBytes} bytes).`));
          }
          pauseMs = welcome.retryAfterMs;
        } else if (welcome.code === "isolate-shared") {
          this.fault(welcome.message);
          if (this.#nameAttempt + 1 >= limits.shardNames) {
            return this.#giveUp(new ShardError(this.name, false,
              `Shard ${this.name} was refused under ${limits.shardNames} names, each time because its isolate holds another shard. Last: ${welcome.message} ` +
              `Either set ISOLATES = "shared" and keep the shards of one isolate within its memory, or deploy the shards as separate Worker scripts (--isolate script), which never share an isolate (docs/deploy.md).`));
          }
          this.#transport = this.#p.transport(++this.#nameAttempt);
          continue;
        } else if (!welcome.retryable) {
          if (welcome.code === "retired") this.#p.stale?.();
          return this.#giveUp(new ShardError(this.name, false, `Shard ${this.name} refused (${welcome.code}): ${welcome.message}`));
        } else {
          pauseMs = this.#attemptFailed(`it refused (${welcome.code}): ${welcome.message}`, true);
        }
      } catch (cause) {
        if (!current()) return;
        pauseMs = this.#attemptFailed(`connecting failed: ${cause instanceof Error ? cause.message : String(cause)}`, false);
      }
      if (!this.#user.isWaiting && this.#waiters.length === 0) {
        this.#state = "idle";
        return;
      }
      await sleep(clock, pauseMs);
    }
  }

  /** Events of the socket, from its first moment on, reach the user as long as it is this line's. One that comes too late is closed. */
  #open(transport: ShardTransport, connection: number, generation: number, opening: Opening): Promise<FrameSocket> {
    const { limits, clock } = this.#p;
    const isCurrent = (): boolean => generation === this.#generation && !opening.isOver;
    const opened = transport.open(connection, {
      message: (data) => { if (isCurrent()) this.#user.message(data); },
      closed: (reason) => {
        opening.closedBy = reason;
        if (isCurrent()) this.#user.lost(`the socket closed (${reason})`);
      },
    });
    const inTime = within(clock, limits.prepareDeadlineMs, opened, `the socket was not opened in ${limits.prepareDeadlineMs} ms`);
    inTime.catch(() => {
      opening.isOver = true;
      void opened.then((socket) => socket.close(1000, "no longer needed"), () => undefined);
    });
    return inTime;
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
    this.outage.tried();
    this.fault(cause);
    for (const waiter of this.#waiters.splice(0)) {
      if (answered) {
        waiter.refusals++;
        waiter.lostSinceMs = -1;
      } else if (waiter.lostSinceMs < 0) waiter.lostSinceMs = clock.nowMs();
      const lostMs = waiter.lostSinceMs < 0 ? 0 : clock.nowMs() - waiter.lostSinceMs;
      if (waiter.refusals >= limits.frameAttempts) waiter.reject(new ShardError(this.name, true, `Shard ${this.name} refused ${waiter.refusals} times; last: ${unended(cause)}.`));
      else if (lostMs >= limits.outageMs) waiter.reject(new ShardError(this.name, true, `Shard ${this.name} could not be reached for ${Math.round(lostMs)} ms; last: ${unended(cause)}.`));
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
