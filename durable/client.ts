// Frames from one orchestrator to one shard: credits, deadlines, retries. docs/protocol.md section 3.
// Owns the pending frames of one line and the promise that each ends exactly once, with a reply or a ShardError.
// Refuses to know what rows mean (websocket-experts.ts) and how the line comes about (shard-line.ts).
// Allocation is per frame: no timer, promise or view per expert or row; one deadline timer serves the whole socket.

import { Histogram, SHORT_SECONDS } from "./histogram.ts";
import type { InFlightBudget } from "./in-flight-budget.ts";
import { addressFrame, decodeHeader, faultOfPayload, payloadChecksum, refusalMessage, replyFrameBytes, type FrameHeader } from "./protocol.ts";
import { type LineState, ShardError, ShardLine, type ShardLineParts } from "./shard-line.ts";

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
  /** From `submit` until its reply came, waiting and retries and all; 0 until then. Set when its sink gets the reply. */
  readonly elapsedMs: number;
}

interface Frame extends OutgoingFrame {
  buffer: ArrayBuffer;
  readonly layer: number;
  readonly nGroups: number;
  readonly nTokens: number;
  readonly hidden: number;
  readonly accountedBytes: number;
  readonly submittedAtMs: number;
  elapsedMs: number;
  retries: number;
  attempt: number;
  number: number;
  sent: boolean;
  sentAtMs: number;
  warmingSinceMs: number;
  sink: ReplySink | null;
}

export interface ShardClientParts extends ShardLineParts {
  readonly budget: InFlightBudget;
}

export class ShardClient {
  readonly #p: ShardClientParts;
  readonly #line: ShardLine;
  #nextFrame = 1;
  #queue: Frame[] = [];
  readonly #pending: Frame[] = [];
  #cancelDeadline: (() => void) | null = null;
  #cancelPause: (() => void) | null = null;
  readonly #pump = (): void => this.#send();
  frames = 0;
  bytes = 0;
  retries = 0;
  /** Seconds from sending a frame to taking its reply. */
  readonly roundTrips = new Histogram(SHORT_SECONDS);

  constructor(parts: ShardClientParts) {
    this.#p = parts;
    const queued = (): boolean => this.#queue.length > 0;
    this.#line = new ShardLine(parts, {
      get isWaiting() { return queued(); },
      opened: this.#pump,
      message: (data) => this.#received(data),
      lost: (cause) => this.#condemn(cause),
      attemptFailed: (cause) => {
        const queue = this.#queue;
        this.#queue = [];
        for (const frame of queue) this.#again(frame, cause, this.#queue);
      },
      gaveUp: (error) => { for (const frame of this.#queue.splice(0)) fail(frame, error); },
    });
  }

  get name(): string { return this.#line.name; }
  get state(): LineState { return this.#line.state; }
  get elsewhere(): boolean { return this.#line.elsewhere; }
  get loads(): number { return this.#line.loads; }
  get loadedBytes(): number { return this.#line.loadedBytes; }
  get totalBytes(): number { return this.#line.totalBytes; }
  get lastFault(): string | null { return this.#line.lastFault; }

  /** Resolves when the shard is ready and the line open; rejects with ShardError when every attempt failed. */
  connect(): Promise<void> {
    return this.#line.connect();
  }

  /** Sends a sealed request frame (sealRequest) as soon as credits allow. The buffer belongs to the client from here on. */
  submit(buffer: ArrayBuffer, shape: { readonly layer: number; readonly nGroups: number; readonly nTokens: number; readonly hidden: number }, sink: ReplySink): OutgoingFrame {
    const frame: Frame = {
      buffer, sink, layer: shape.layer, nGroups: shape.nGroups, nTokens: shape.nTokens, hidden: shape.hidden,
      accountedBytes: buffer.byteLength + replyFrameBytes(shape.nTokens, shape.hidden),
      submittedAtMs: this.#p.clock.nowMs(), elapsedMs: 0, retries: 0, attempt: 0, number: 0, sent: false, sentAtMs: 0, warmingSinceMs: -1,
    };
    this.#queue.push(frame);
    if (this.state === "open") this.#send();
    else this.#line.ensure();
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
    if (this.state !== "open" || this.#pending.length > 0 || this.#queue.length > 0) return;
    this.#line.drop(1000, "idle");
    this.#landAll();
  }

  /** Ends the line. Frames still waiting fail. */
  close(reason: string): void {
    if (this.state === "closed") return;
    // First, so that nothing is sent while the frames are taken back.
    this.#line.drop(1000, reason);
    this.#putBack(this.#landAll());
    this.#line.close(reason);
  }

  /** Another attempt for a frame, appended to `queue`, or its end. */
  #again(frame: Frame, cause: string, queue: Frame[]): void {
    if (frame.sink === null) return;
    if (++frame.attempt >= this.#p.limits.frameAttempts) {
      fail(frame, new ShardError(this.name, true, `Layer ${frame.layer} failed on shard ${this.name} after ${frame.attempt} attempts; last: ${cause}.`));
      return;
    }
    frame.retries++;
    this.retries++;
    queue.push(frame);
  }

  /** Sends what credits and the budget allow. */
  #send(): void {
    const { limits, clock, budget, hello } = this.#p;
    while (this.state === "open" && this.#cancelPause === null && this.#queue.length > 0 && this.#pending.length < limits.creditsPerSocket) {
      const frame = this.#queue[0]!;
      if (!budget.take(frame.accountedBytes, this.#pump)) return;
      this.#queue.shift();
      // A second attempt gets its own bytes: the runtime may still hold the first one's in a queue.
      if (frame.sent) frame.buffer = frame.buffer.slice(0);
      frame.sent = true;
      frame.number = this.#nextFrame;
      this.#nextFrame = (this.#nextFrame + 1) >>> 0;
      frame.sentAtMs = clock.nowMs();
      addressFrame(frame.buffer, this.#line.connection, frame.number, hello.epoch, frame.attempt);
      this.#pending.push(frame);
      this.frames++;
      this.bytes += frame.buffer.byteLength;
      try {
        this.#line.send(frame.buffer);
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
    if (at < 0 || header.connection !== this.#line.connection) return; // a duplicate, or another line's: harmless
    const frame = this.#pending[at]!;
    if (header.kind === "request") return this.#condemn("the shard sent a request");
    if (header.kind === "refusal") {
      const damage = faultOfPayload(header, payloadChecksum(data));
      return damage === null ? this.#refused(at, frame, header, refusalMessage(data)) : this.#condemn(`a refusal was damaged: ${damage}`);
    }
    if (header.epoch !== this.#p.hello.epoch) return this.#condemn(`a reply came from epoch ${header.epoch}; epoch ${this.#p.hello.epoch} is in force`);
    if (header.layer !== frame.layer || header.nTokens !== frame.nTokens || header.nGroups !== frame.nGroups || header.hidden !== frame.hidden)
      return this.#condemn(`a reply of layer ${header.layer} with ${header.nTokens} rows of ${header.hidden} answered a request of layer ${frame.layer} for ${frame.nTokens} rows of ${frame.hidden}`);
    frame.elapsedMs = this.#p.clock.nowMs() - frame.submittedAtMs;
    const damage = frame.sink === null ? null : frame.sink.reply(header, data);
    if (damage !== null) {
      frame.elapsedMs = 0;
      return this.#condemn(`a reply was damaged: ${damage}`);
    }
    frame.sink = null;
    this.#settle(at);
    this.roundTrips.observe((this.#p.clock.nowMs() - frame.sentAtMs) / 1000);
    this.#line.answered();
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
    this.#line.lastFault = cause;
    if (header.refusal === "wrong-epoch" || header.refusal === "unknown-slot") return this.#condemn(cause);
    this.#settle(at);
    if (header.refusal === "warming") {
      if (frame.warmingSinceMs < 0) frame.warmingSinceMs = clock.nowMs();
      if (clock.nowMs() - frame.warmingSinceMs > limits.warmingMs) {
        fail(frame, new ShardError(this.name, true, `Shard ${this.name} was still loading after ${limits.warmingMs} ms; last: ${message}`));
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
    if (this.state !== "open") return;
    this.#line.lastFault = cause;
    // First, so that nothing is sent while the frames are taken back.
    this.#line.drop(1002, "the line is opened anew");
    const again: Frame[] = [];
    for (const frame of this.#landAll()) this.#again(frame, cause, again);
    this.#putBack(again);
    if (this.#queue.length > 0) this.#line.reopen();
  }

  /** Stops the timers and takes every pending frame out of flight, oldest first. */
  #landAll(): Frame[] {
    this.#cancelDeadline?.();
    this.#cancelPause?.();
    this.#cancelDeadline = this.#cancelPause = null;
    const landed: Frame[] = [];
    while (this.#pending.length > 0) landed.push(this.#settle(0));
    return landed;
  }
}

/** Ends a frame with an error, unless it has ended. */
function fail(frame: Frame, error: ShardError): void {
  const { sink } = frame;
  frame.sink = null;
  sink?.failed(error);
}
