// One orchestrator's line to one shard: connect, credits, deadlines, retries. docs/protocol.md sections 1 and 3.
// Owns the pending frames of one socket and the promise that each ends exactly once, with a reply or a ShardError.
// Refuses to know what rows mean (websocket-experts.ts) and how a socket comes about (ShardTransport).
// Allocation is per frame: no timer, promise or view per expert or row; one deadline timer serves the whole socket.

import { type Clock, type Random, sleep, within } from "./clock.ts";
import type { Hello, Welcome } from "./handshake.ts";
import { Histogram, SHORT_SECONDS } from "./histogram.ts";
import type { Limits } from "./limits.ts";
import { addressFrame, decodeHeader, faultOfPayload, payloadChecksum, refusalMessage, replyFrameBytes, type FrameHeader } from "./protocol.ts";

/** An open socket. Sending on a dead one may succeed silently; only an answer proves anything. */
export interface FrameSocket {
  /** The buffer must not be changed afterwards: the runtime may still be reading it. */
  send(bytes: ArrayBuffer): void;
  close(code: number, reason: string): void;
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

/** A frame that failed for good: names shard, layer, attempts and the last cause. */
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

/** Bytes in flight of one isolate, shared by all its clients. */
export class InFlightBudget {
  readonly limitBytes: number;
  usedBytes = 0;
  readonly #waiting = new Set<() => void>();
  constructor(limitBytes: number) {
    this.limitBytes = limitBytes;
  }
  /** Takes the bytes, or remembers `whenFree` to be called after the next release. */
  take(bytes: number, whenFree: () => void): boolean {
    if (this.usedBytes + bytes > this.limitBytes) {
      this.#waiting.add(whenFree);
      return false;
    }
    this.usedBytes += bytes;
    return true;
  }
  release(bytes: number): void {
    this.usedBytes -= bytes;
    if (this.#waiting.size === 0) return;
    const woken = [...this.#waiting];
    this.#waiting.clear();
    for (const wake of woken) wake();
  }
}

export interface ReplySink {
  /**
   * A reply that matches the request. Checks and takes its payload and returns null, or says what is wrong with it; then the frame is
   * tried again. Not called after null or `failed`.
   */
  reply(header: FrameHeader, buffer: ArrayBuffer): string | null;
  failed(error: ShardError): void;
}

/** One request on its way: queued, in flight, or waiting for another attempt. */
export interface OutgoingFrame {
  readonly layer: number;
  readonly retries: number;
}

interface Frame extends OutgoingFrame {
  buffer: ArrayBuffer;
  readonly layer: number;
  readonly nGroups: number;
  readonly nTokens: number;
  readonly hidden: number;
  readonly accountedBytes: number;
  retries: number;
  attempt: number;
  number: number;
  sent: boolean;
  sentAtMs: number;
  warmingSinceMs: number;
  sink: ReplySink | null;
}

interface ConnectWaiter {
  attempt: number;
  resolve(): void;
  reject(error: ShardError): void;
}

export interface ShardClientParts {
  /** Transport of the shard under its first, second, ... name: other names are tried when an isolate is shared in strict mode. */
  readonly transport: (nameAttempt: number) => ShardTransport;
  readonly hello: Hello;
  /** Name of the caller's own isolate. */
  readonly isolate: string;
  readonly limits: Limits;
  readonly clock: Clock;
  readonly random: Random;
  readonly budget: InFlightBudget;
}

export class ShardClient {
  readonly #p: ShardClientParts;
  #transport: ShardTransport;
  #nameAttempt = 0;
  #state: "idle" | "connecting" | "open" | "closed" = "idle";
  #socket: FrameSocket | null = null;
  /** Counts sockets: a late event of an older one is told by its number. */
  #generation = 0;
  #connection = 0;
  #nextFrame = 1;
  #queue: Frame[] = [];
  readonly #pending: Frame[] = [];
  #waiters: ConnectWaiter[] = [];
  #cancelDeadline: (() => void) | null = null;
  #cancelPause: (() => void) | null = null;
  #failures = 0;
  #loadedBytes = 0;
  #totalBytes = 0;
  #elsewhere = false;
  readonly #pump = (): void => this.#send();
  frames = 0;
  bytes = 0;
  retries = 0;
  /** Seconds from sending a frame to taking its reply. */
  readonly roundTrips = new Histogram(SHORT_SECONDS);
  lastFault: string | null = null;

  constructor(parts: ShardClientParts) {
    this.#p = parts;
    this.#transport = parts.transport(0);
  }

  get name(): string { return this.#transport.name; }
  get state(): "idle" | "connecting" | "open" | "closed" { return this.#state; }
  /** True once the shard has said that it lives in another isolate: it may compute while this one does. */
  get elsewhere(): boolean { return this.#elsewhere; }
  /** What the shard last said about its loading. */
  get loadedBytes(): number { return this.#loadedBytes; }
  get totalBytes(): number { return this.#totalBytes; }

  /** Resolves when the shard is ready and the socket open; rejects with ShardError when every attempt failed. */
  connect(): Promise<void> {
    if (this.#state === "open") return Promise.resolve();
    return new Promise((resolve, reject) => {
      this.#waiters.push({ attempt: 0, resolve, reject });
      this.#ensureConnected();
    });
  }

  /** Sends a sealed request frame (sealRequest) as soon as credits allow. The buffer belongs to the client from here on. */
  submit(buffer: ArrayBuffer, shape: { readonly layer: number; readonly nGroups: number; readonly nTokens: number; readonly hidden: number }, sink: ReplySink): OutgoingFrame {
    const frame: Frame = {
      buffer, sink, layer: shape.layer, nGroups: shape.nGroups, nTokens: shape.nTokens, hidden: shape.hidden,
      accountedBytes: buffer.byteLength + replyFrameBytes(shape.nTokens, shape.hidden),
      retries: 0, attempt: 0, number: 0, sent: false, sentAtMs: 0, warmingSinceMs: -1,
    };
    this.#queue.push(frame);
    if (this.#state === "open") this.#send();
    else this.#ensureConnected();
    return frame;
  }

  /** Forgets a frame: its sink is not called any more. One in flight keeps its credit until the shard has answered. */
  withdraw(frame: OutgoingFrame): void {
    (frame as Frame).sink = null;
    const at = this.#queue.indexOf(frame as Frame);
    if (at >= 0) this.#queue.splice(at, 1);
  }

  /** Closes the socket if nothing is under way; the next frame opens another. */
  rest(): void {
    if (this.#state !== "open" || this.#pending.length > 0 || this.#queue.length > 0) return;
    this.#dropSocket(1000, "idle");
    this.#state = "idle";
  }

  /** Ends the line. Frames still waiting fail. */
  close(reason: string): void {
    if (this.#state === "closed") return;
    this.#putBack(this.#pending.slice());
    this.#dropSocket(1000, reason);
    this.#state = "closed";
    this.#failAll(new ShardError(this.name, false, `The line to shard ${this.name} was closed: ${reason}`));
  }

  #ensureConnected(): void {
    if (this.#state === "closed") {
      this.#failAll(new ShardError(this.name, false, `The line to shard ${this.name} is closed.`));
    } else if (this.#state === "idle") {
      this.#state = "connecting";
      void this.#connectLoop(++this.#generation);
    }
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
          this.#connection = welcome.connection;
          this.#elsewhere = welcome.isolate !== this.#p.isolate;
          let closedEarly: string | null = null;
          const socket = await within(clock, limits.prepareDeadlineMs, transport.open(welcome.connection, {
            message: (data) => { if (generation === this.#generation) this.#received(data); },
            closed: (reason) => {
              closedEarly = reason;
              if (generation === this.#generation) this.#condemn(`the socket closed (${reason})`);
            },
          }), `the socket was not opened in ${limits.prepareDeadlineMs} ms`);
          if (!current()) {
            socket.close(1000, "no longer needed");
            return;
          }
          if (closedEarly !== null) throw new Error(`the socket closed as it opened (${String(closedEarly)})`);
          this.#opened(socket);
          return;
        }
        if (welcome.state === "loading") {
          if (loadingSinceMs < 0) loadingSinceMs = clock.nowMs();
          this.#loadedBytes = welcome.loadedBytes;
          this.#totalBytes = welcome.totalBytes;
          if (clock.nowMs() - loadingSinceMs > limits.warmingMs) {
            this.#giveUp(new ShardError(this.name, true, `Shard ${this.name} was still loading after ${limits.warmingMs} ms (${welcome.loadedBytes} of ${welcome.totalBytes} bytes).`));
            return;
          }
          pauseMs = welcome.retryAfterMs;
        } else if (welcome.code === "isolate-shared") {
          this.lastFault = welcome.message;
          if (this.#nameAttempt + 1 >= limits.shardNames) {
            this.#giveUp(new ShardError(this.name, false,
              `Shard ${this.name} was refused under ${limits.shardNames} names, each time because its isolate holds another shard. Last: ${welcome.message} ` +
              `Either set ISOLATES = "shared" and keep the shards of one isolate within its memory, or deploy the shards as separate Worker scripts, which never share an isolate (docs/deploy.md).`));
            return;
          }
          this.#transport = this.#p.transport(++this.#nameAttempt);
          continue;
        } else if (!welcome.retryable) {
          this.#giveUp(new ShardError(this.name, false, `Shard ${this.name} refused (${welcome.code}): ${welcome.message}`));
          return;
        } else {
          pauseMs = this.#connectFailed(`it refused (${welcome.code}): ${welcome.message}`);
        }
      } catch (cause) {
        if (!current()) return;
        pauseMs = this.#connectFailed(`connecting failed: ${cause instanceof Error ? cause.message : String(cause)}`);
      }
      if (this.#queue.length === 0 && this.#waiters.length === 0) {
        this.#state = "idle";
        return;
      }
      await sleep(clock, pauseMs);
    }
  }

  #opened(socket: FrameSocket): void {
    this.#socket = socket;
    this.#state = "open";
    for (const waiter of this.#waiters.splice(0)) waiter.resolve();
    this.#send();
  }

  /** Counts an attempt for everything that waits; returns the pause before the next one, in milliseconds. */
  #connectFailed(cause: string): number {
    this.lastFault = cause;
    for (const waiter of this.#waiters.splice(0)) {
      if (++waiter.attempt >= this.#p.limits.frameAttempts) waiter.reject(new ShardError(this.name, true, `Shard ${this.name} could not be reached in ${waiter.attempt} attempts; last: ${cause}.`));
      else this.#waiters.push(waiter);
    }
    const queue = this.#queue;
    this.#queue = [];
    for (const frame of queue) this.#again(frame, cause, this.#queue);
    return this.#backoffMs();
  }

  #backoffMs(): number {
    const { limits, random } = this.#p;
    const attempt = Math.min(++this.#failures, limits.frameAttempts);
    return random.next() * limits.backoffBaseMs * 2 ** attempt;
  }

  /** Another attempt for a frame, appended to `queue`, or its end. */
  #again(frame: Frame, cause: string, queue: Frame[]): void {
    if (frame.sink === null) return;
    if (++frame.attempt >= this.#p.limits.frameAttempts) {
      const { sink } = frame;
      frame.sink = null;
      sink.failed(new ShardError(this.name, true, `Layer ${frame.layer} failed on shard ${this.name} after ${frame.attempt} attempts; last: ${cause}.`));
      return;
    }
    frame.retries++;
    this.retries++;
    queue.push(frame);
  }

  #giveUp(error: ShardError): void {
    this.lastFault = error.message;
    this.#state = "idle";
    this.#failAll(error);
  }

  #failAll(error: ShardError): void {
    for (const waiter of this.#waiters.splice(0)) waiter.reject(error);
    for (const frame of this.#queue.splice(0)) {
      const { sink } = frame;
      frame.sink = null;
      sink?.failed(error);
    }
  }

  /** Sends what credits and the budget allow. */
  #send(): void {
    const { limits, clock, budget, hello } = this.#p;
    while (this.#state === "open" && this.#cancelPause === null && this.#queue.length > 0 && this.#pending.length < limits.creditsPerSocket) {
      const frame = this.#queue[0]!;
      if (!budget.take(frame.accountedBytes, this.#pump)) return;
      this.#queue.shift();
      // A second attempt gets its own bytes: the runtime may still hold the first one's in a queue.
      if (frame.sent) frame.buffer = frame.buffer.slice(0);
      frame.sent = true;
      frame.number = this.#nextFrame;
      this.#nextFrame = (this.#nextFrame + 1) >>> 0;
      frame.sentAtMs = clock.nowMs();
      addressFrame(frame.buffer, this.#connection, frame.number, hello.epoch, frame.attempt);
      this.#pending.push(frame);
      this.frames++;
      this.bytes += frame.buffer.byteLength;
      try {
        this.#socket!.send(frame.buffer);
      } catch (cause) {
        this.#condemn(`sending failed (${cause instanceof Error ? cause.message : String(cause)})`);
        return;
      }
      if (this.#cancelDeadline === null) this.#armDeadline(limits.frameDeadlineMs);
    }
  }

  #armDeadline(delayMs: number): void {
    this.#cancelDeadline = this.#p.clock.after(delayMs, () => {
      this.#cancelDeadline = null;
      if (this.#pending.length === 0) return;
      const leftMs = this.#oldestLeftMs();
      if (leftMs > 0) return this.#armDeadline(leftMs);
      // Messages that wait behind a long computation are delivered before the deadline counts.
      this.#cancelDeadline = this.#p.clock.after(this.#p.limits.drainMs, () => {
        this.#cancelDeadline = null;
        if (this.#pending.length === 0) return;
        const stillLeftMs = this.#oldestLeftMs();
        if (stillLeftMs > 0) this.#armDeadline(stillLeftMs);
        else this.#condemn(`no answer in ${this.#p.limits.frameDeadlineMs} ms`);
      });
    });
  }

  #oldestLeftMs(): number {
    let oldest = Infinity;
    for (const frame of this.#pending) oldest = Math.min(oldest, frame.sentAtMs);
    return oldest + this.#p.limits.frameDeadlineMs - this.#p.clock.nowMs();
  }

  #received(data: ArrayBuffer): void {
    this.bytes += data.byteLength;
    const decoded = decodeHeader(data);
    // A peer that sends damaged frames is not asked again on the same socket.
    if (!decoded.ok) return this.#condemn(`a reply was damaged: ${decoded.message}`);
    const { header } = decoded;
    const at = this.#pending.findIndex((frame) => frame.number === header.frame);
    if (at < 0 || header.connection !== this.#connection) return; // a duplicate, or another line's: harmless
    const frame = this.#pending[at]!;
    if (header.kind === "request") return this.#condemn("the shard sent a request");
    if (header.kind === "refusal") {
      const damage = faultOfPayload(header, payloadChecksum(data));
      return damage === null ? this.#refused(at, frame, header, refusalMessage(data)) : this.#condemn(`a refusal was damaged: ${damage}`);
    }
    if (header.epoch !== this.#p.hello.epoch) return this.#condemn(`a reply came from epoch ${header.epoch}; epoch ${this.#p.hello.epoch} is in force`);
    if (header.layer !== frame.layer || header.nTokens !== frame.nTokens || header.nGroups !== frame.nGroups || header.hidden !== frame.hidden)
      return this.#condemn(`a reply of layer ${header.layer} with ${header.nTokens} rows of ${header.hidden} answered a request of layer ${frame.layer} for ${frame.nTokens} rows of ${frame.hidden}`);
    const damage = frame.sink === null ? null : frame.sink.reply(header, data);
    if (damage !== null) return this.#condemn(`a reply was damaged: ${damage}`);
    frame.sink = null;
    this.#settle(at);
    this.roundTrips.observe((this.#p.clock.nowMs() - frame.sentAtMs) / 1000);
    this.#failures = 0;
    this.#send();
  }

  /** Takes pending frame number `at` out of flight. */
  #settle(at: number): Frame {
    const [frame] = this.#pending.splice(at, 1);
    this.#p.budget.release(frame!.accountedBytes);
    return frame!;
  }

  #refused(at: number, frame: Frame, header: FrameHeader, message: string): void {
    const { limits, clock } = this.#p;
    const cause = `it refused the frame (${header.refusal}): ${message}`;
    this.lastFault = cause;
    if (header.refusal === "wrong-epoch" || header.refusal === "unknown-slot") return this.#condemn(cause);
    this.#settle(at);
    if (header.refusal === "warming") {
      if (frame.warmingSinceMs < 0) frame.warmingSinceMs = clock.nowMs();
      if (clock.nowMs() - frame.warmingSinceMs > limits.warmingMs) {
        const { sink } = frame;
        frame.sink = null;
        sink?.failed(new ShardError(this.name, true, `Shard ${this.name} was still loading after ${limits.warmingMs} ms; last: ${message}`));
      } else if (frame.sink !== null) {
        this.#putBack([frame]);
        // Other frames would only be refused as well: the whole line pauses.
        this.#cancelPause?.();
        this.#cancelPause = clock.after(Math.min(header.value, limits.frameDeadlineMs), () => {
          this.#cancelPause = null;
          this.#send();
        });
      }
      this.#send();
      return;
    }
    const queue: Frame[] = [];
    this.#again(frame, cause, queue);
    this.#putBack(queue);
    this.#send();
  }

  /** Returns frames to the head of the queue, oldest first. */
  #putBack(frames: Frame[]): void {
    this.#queue.unshift(...frames);
  }

  /** Gives up this socket: every pending frame fails at once and is sent again by its own counter, on a fresh connection. */
  #condemn(cause: string): void {
    if (this.#state !== "open") return;
    this.lastFault = cause;
    this.#state = "idle";
    const again: Frame[] = [];
    const pending = this.#pending.slice();
    this.#dropSocket(1002, "the line is opened anew");
    for (const frame of pending) this.#again(frame, cause, again);
    this.#putBack(again);
    if (this.#queue.length === 0) return;
    this.#state = "connecting";
    const generation = ++this.#generation;
    this.#p.clock.after(this.#backoffMs(), () => {
      if (generation === this.#generation && this.#state === "connecting") void this.#connectLoop(generation);
    });
  }

  /** Closes the socket, its timers and its claim on the budget; late events of it are ignored from here on. */
  #dropSocket(code: number, reason: string): void {
    this.#generation++;
    this.#cancelDeadline?.();
    this.#cancelPause?.();
    this.#cancelDeadline = this.#cancelPause = null;
    const socket = this.#socket;
    this.#socket = null;
    while (this.#pending.length > 0) this.#settle(0);
    try {
      socket?.close(code, reason);
    } catch {
      // A socket that cannot be closed is already gone.
    }
  }
}
