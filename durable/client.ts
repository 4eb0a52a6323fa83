// Frames from one orchestrator to one shard: credits, deadlines, hedges, retries. docs/protocol.md section 3.
// Owns the pending frames of one line and the promise that each ends exactly once: with a reply, a ShardError, or in others' hands.
// Refuses to know what rows mean and who else could answer (websocket-experts.ts, expert-round.ts), and how the line comes about (shard-line.ts).
// Allocation is per frame: no timer, promise or view per expert or row; one timer serves the whole socket.

import type { LineFault } from "./fault-log.ts";
import type { ReadFigures } from "./handshake.ts";
import { Histogram, SHORT_SECONDS } from "./histogram.ts";
import type { InFlightBudget } from "./in-flight-budget.ts";
import { LatencyEstimate } from "./latency-estimate.ts";
import { addressFrame, decodeHeader, faultOfPayload, payloadChecksum, refusalMessage, replyFrameBytes, type FrameHeader } from "./protocol.ts";
import { AT_REST, LATE, LOST, READY, type HolderLine, type Readiness } from "./replica-choice.ts";
import { type LineState, ShardError, ShardLine, type ShardLineParts, unended } from "./shard-line.ts";

/** The way to others that could answer a frame too. */
export interface OtherHolders {
  /** The frame has failed an attempt. True where others have it now, or nobody wants it any more: then it has ended here, and its sink is not called. */
  moved(frame: OutgoingFrame): boolean;
  /** The frame is late. "sent": others were asked as well. "busy": they could be, later. "nobody": they are not to be asked again. */
  late(): "sent" | "busy" | "nobody";
}

export interface ReplySink {
  /** Null or absent: nobody else could answer. */
  readonly elsewhere?: OtherHolders | null;
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
  readonly tries: Readonly<Tries>;
}

/** What a frame has behind it; whoever takes it over goes on counting. */
interface Tries {
  attempts: number;
  /** Wrong answers, as opposed to none. */
  wrong: number;
  /** Attempts that nobody answered. */
  silent: number;
  /** Since when nobody answers; -1 while somebody does. */
  lostSinceMs: number;
}

interface Frame extends OutgoingFrame {
  buffer: ArrayBuffer;
  readonly layer: number;
  readonly nGroups: number;
  readonly nTokens: number;
  readonly hidden: number;
  readonly accountedBytes: number;
  readonly submittedAtMs: number;
  readonly tries: Tries;
  elapsedMs: number;
  retries: number;
  number: number;
  /** It has been in flight since it last failed. */
  isTried: boolean;
  sent: boolean;
  sentAtMs: number;
  dueAtMs: number;
  hedgeAtMs: number;
  isHedged: boolean;
  warmingSinceMs: number;
  sink: ReplySink | null;
}

/** Why frames come back: whose answer was wrong ("all": nobody knows), and whether the others were answered by nobody for too long. */
interface Failure {
  readonly cause: string;
  readonly wrong: Frame | "all" | null;
}

export interface ShardClientParts extends ShardLineParts {
  readonly budget: InFlightBudget;
}

export class ShardClient implements HolderLine {
  readonly #p: ShardClientParts;
  readonly #line: ShardLine;
  #nextFrame = 1;
  #queue: Frame[] = [];
  readonly #pending: Frame[] = [];
  readonly #latency: LatencyEstimate;
  #cancelTimer: (() => void) | null = null;
  #timerAtMs = Infinity;
  /** Set once the line is to end as soon as nothing is in flight. */
  #finishing: string | null = null;
  #cancelPause: (() => void) | null = null;
  readonly #pump = (): void => this.#send();
  frames = 0;
  bytes = 0;
  retries = 0;
  /** Frames of which others were asked too, because this shard was late. */
  hedges = 0;
  /** Seconds from sending a frame to taking its reply. */
  readonly roundTrips = new Histogram(SHORT_SECONDS);

  constructor(parts: ShardClientParts) {
    this.#p = parts;
    this.#latency = new LatencyEstimate(parts.limits);
    const queued = (): boolean => this.#queue.length > 0;
    this.#line = new ShardLine(parts, {
      get isWaiting() { return queued(); },
      opened: this.#pump,
      message: (data) => this.#received(data),
      lost: (cause) => this.#condemn({ cause, wrong: null }),
      attemptFailed: (cause, answered) => {
        for (const frame of this.#queue.splice(0)) this.#again(frame, { cause, wrong: answered ? "all" : null }, this.#queue);
      },
      gaveUp: (error) => { for (const frame of this.#queue.splice(0)) if (!movedOn(frame)) fail(frame, error); },
    });
  }

  get name(): string { return this.#line.name; }
  get state(): LineState { return this.#line.state; }
  get elsewhere(): boolean { return this.#line.elsewhere; }
  get loads(): number { return this.#line.loads; }
  get wasOpen(): boolean { return this.#line.wasOpen; }
  get read(): ReadFigures | null { return this.#line.read; }
  get loadedBytes(): number { return this.#line.loadedBytes; }
  get totalBytes(): number { return this.#line.totalBytes; }
  get lastFault(): string | null { return this.#line.faults.last; }
  get faults(): readonly LineFault[] { return this.#line.faults.recent; }

  get readiness(): Readiness {
    switch (this.state) {
      case "open": return this.#pending.some((frame) => frame.isHedged) ? LATE : READY;
      case "idle": return AT_REST;
      default: return LOST;
    }
  }
  /** True where a frame would leave at once, as far as this line goes. */
  get hasRoom(): boolean {
    return this.state === "open" && this.#cancelPause === null && this.#queue.length === 0 && this.#pending.length < this.#p.limits.creditsPerSocket;
  }
  budgetHasRoom(bytes: number): boolean {
    return this.#p.budget.usedBytes + bytes <= this.#p.budget.limitBytes;
  }
  wake(): void { this.#line.wake(); }
  touch(): Promise<void> { return this.#line.touch(); }

  /** The shard cannot be reached, longer than those wait who need not. */
  get isAway(): boolean { return this.state !== "open" && this.#line.outage.isLong; }
  /** A frame waits here for a shard that is away, or has said for as long that it is loading. */
  isStuck(frame: OutgoingFrame): boolean {
    if (!this.#queue.includes(frame as Frame)) return false;
    const { warmingSinceMs } = frame as Frame;
    return this.isAway || (warmingSinceMs >= 0 && this.#p.clock.nowMs() - warmingSinceMs >= this.#p.limits.degradeAfterMs);
  }

  /** Resolves when the shard is ready and the line open; rejects with ShardError (ShardLine.connect). */
  connect(): Promise<void> {
    return this.#line.connect();
  }

  /** Sends a sealed request frame (sealRequest) as soon as credits allow. The buffer belongs to the client from here on. `lost`: the frame elsewhere whose place this one takes. */
  submit(buffer: ArrayBuffer, shape: { readonly layer: number; readonly nGroups: number; readonly nTokens: number; readonly hidden: number }, sink: ReplySink, lost: OutgoingFrame | null = null): OutgoingFrame {
    const accountedBytes = buffer.byteLength + replyFrameBytes(shape.nTokens, shape.hidden);
    const submittedAtMs = this.#p.clock.nowMs();
    const frame: Frame = {
      buffer, sink, layer: shape.layer, nGroups: shape.nGroups, nTokens: shape.nTokens, hidden: shape.hidden, accountedBytes, submittedAtMs,
      tries: lost === null ? { attempts: 0, wrong: 0, silent: 0, lostSinceMs: -1 } : { ...lost.tries },
      elapsedMs: 0, retries: 0, number: 0, isTried: false, sent: false, sentAtMs: 0, dueAtMs: Infinity, isHedged: false, warmingSinceMs: -1,
      hedgeAtMs: sink.elsewhere == null ? Infinity : submittedAtMs + this.#latency.hedgeMs(accountedBytes),
    };
    this.#queue.push(frame);
    if (this.state === "open") {
      this.#send();
      this.#arm(frame.hedgeAtMs);
    } else this.#line.ensure();
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

  /** Ends the line as soon as nothing is in flight; nothing new is submitted any more. */
  finish(reason: string): void {
    this.#finishing = reason;
    this.#finishIfIdle();
  }

  #finishIfIdle(): void {
    if (this.#finishing !== null && this.#pending.length === 0 && this.#queue.length === 0) this.close(this.#finishing);
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
  #again(frame: Frame, { cause, wrong }: Failure, queue: Frame[]): void {
    if (frame.sink === null) return;
    const { limits, clock } = this.#p;
    const { tries } = frame;
    if (frame.isTried) tries.attempts++;
    if (wrong === "all" || wrong === frame) {
      tries.wrong++;
      tries.lostSinceMs = -1;
    } else if (tries.lostSinceMs < 0) tries.lostSinceMs = clock.nowMs();
    const lostMs = tries.lostSinceMs < 0 ? 0 : clock.nowMs() - tries.lostSinceMs;
    if (tries.wrong >= limits.frameAttempts) {
      fail(frame, new ShardError(this.name, true, `Layer ${frame.layer} failed on shard ${this.name} after ${tries.wrong} wrong answers; last: ${unended(cause)}.`));
    } else if (movedOn(frame)) {
      if (frame.isTried) this.retries++;
    } else if (lostMs >= limits.outageMs) {
      fail(frame, new ShardError(this.name, true, `Layer ${frame.layer} failed on shard ${this.name}: no answer for ${Math.round(lostMs)} ms, attempts: ${tries.attempts}; last: ${unended(cause)}.`));
    } else {
      if (frame.isTried) {
        frame.retries++;
        this.retries++;
      }
      frame.isTried = false;
      queue.push(frame);
    }
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
      frame.sent = frame.isTried = true;
      frame.number = this.#nextFrame;
      this.#nextFrame = (this.#nextFrame + 1) >>> 0;
      frame.sentAtMs = clock.nowMs();
      frame.dueAtMs = frame.sentAtMs + this.#latency.deadlineMs(frame.accountedBytes, frame.tries.silent);
      addressFrame(frame.buffer, this.#line.connection, frame.number, hello.epoch, frame.tries.attempts);
      this.#pending.push(frame);
      this.frames++;
      this.bytes += frame.buffer.byteLength;
      try {
        this.#line.send(frame.buffer);
      } catch (cause) {
        this.#condemn({ cause: `sending failed (${cause instanceof Error ? cause.message : String(cause)})`, wrong: null });
        return;
      }
      this.#arm(Math.min(frame.dueAtMs, frame.hedgeAtMs));
    }
  }

  /** The one timer looks at the frames at `atMs` or earlier. One that comes too early is cheaper than one set anew for every frame. */
  #arm(atMs: number): void {
    if (atMs >= this.#timerAtMs || this.state !== "open") return;
    this.#cancelTimer?.();
    this.#timerAtMs = atMs;
    const { clock, limits } = this.#p;
    this.#cancelTimer = clock.after(Math.max(0, atMs - clock.nowMs()), () => {
      // Messages that wait behind a long computation are delivered before a deadline counts.
      if (this.#nextDueMs() <= clock.nowMs()) this.#cancelTimer = clock.after(limits.drainMs, () => this.#look());
      else this.#rearm();
    });
  }

  #rearm(): void {
    this.#cancelTimer = null;
    this.#timerAtMs = Infinity;
    const dueMs = this.#nextDueMs();
    if (dueMs < Infinity) this.#arm(dueMs);
  }

  #nextDueMs(): number {
    let due = Infinity;
    for (const frame of this.#pending) due = Math.min(due, frame.dueAtMs, frame.hedgeAtMs);
    for (const frame of this.#queue) due = Math.min(due, frame.hedgeAtMs);
    return due;
  }

  /** Frames whose time is up: late ones are hedged, and one that is lost condemns the socket. */
  #look(): void {
    const { clock, limits } = this.#p;
    const nowMs = clock.nowMs();
    for (const frame of [...this.#pending, ...this.#queue]) {
      if (frame.hedgeAtMs > nowMs) continue;
      const asked = frame.sink?.elsewhere?.late() ?? "nobody";
      frame.hedgeAtMs = asked === "busy" ? nowMs + limits.hedgeFloorMs : Infinity;
      if (asked !== "sent") continue;
      frame.isHedged = true;
      this.hedges++;
    }
    const silent = this.#pending.find((frame) => frame.dueAtMs <= nowMs);
    if (silent === undefined) return this.#rearm();
    for (const frame of this.#pending) if (frame.dueAtMs <= nowMs) frame.tries.silent++;
    this.#condemn({ cause: `no answer in ${Math.round(silent.dueAtMs - silent.sentAtMs)} ms`, wrong: null });
  }

  #received(data: ArrayBuffer): void {
    this.bytes += data.byteLength;
    const decoded = decodeHeader(data);
    // A peer that sends damaged frames is not asked again on the same socket.
    if (!decoded.ok) return this.#condemn({ cause: `a reply was damaged: ${decoded.message}`, wrong: "all" });
    const { header } = decoded;
    const at = this.#pending.findIndex((frame) => frame.number === header.frame);
    if (at < 0 || header.connection !== this.#line.connection) return; // a duplicate, or another line's: harmless
    const frame = this.#pending[at]!;
    if (header.kind === "request") return this.#condemn({ cause: "the shard sent a request", wrong: frame });
    if (header.kind === "refusal") {
      const damage = faultOfPayload(header, payloadChecksum(data));
      return damage === null ? this.#refused(at, frame, header, refusalMessage(data)) : this.#condemn({ cause: `a refusal was damaged: ${damage}`, wrong: frame });
    }
    if (header.epoch !== this.#p.hello.epoch) return this.#condemn({ cause: `a reply came from epoch ${header.epoch}; the line belongs to epoch ${this.#p.hello.epoch}`, wrong: frame });
    if (header.layer !== frame.layer || header.nTokens !== frame.nTokens || header.nGroups !== frame.nGroups || header.hidden !== frame.hidden)
      return this.#condemn({ cause: `a reply of layer ${header.layer} with ${header.nTokens} rows of ${header.hidden} answered a request of layer ${frame.layer} for ${frame.nTokens} rows of ${frame.hidden}`, wrong: frame });
    frame.elapsedMs = this.#p.clock.nowMs() - frame.submittedAtMs;
    const damage = frame.sink === null ? null : frame.sink.reply(header, data);
    if (damage !== null) {
      frame.elapsedMs = 0;
      return this.#condemn({ cause: `a reply was damaged: ${damage}`, wrong: frame });
    }
    frame.sink = null;
    this.#settle(at);
    const roundTripMs = this.#p.clock.nowMs() - frame.sentAtMs;
    this.roundTrips.observe(roundTripMs / 1000);
    this.#latency.observe(frame.accountedBytes, roundTripMs);
    this.#line.answered();
    this.#send();
    this.#finishIfIdle();
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
    this.#line.fault(cause);
    if (header.refusal === "wrong-epoch") this.#p.stale?.();
    if (header.refusal === "wrong-epoch" || header.refusal === "unknown-slot") return this.#condemn({ cause, wrong: frame });
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
      this.#finishIfIdle();
      return;
    }
    const queue: Frame[] = [];
    this.#again(frame, { cause, wrong: frame }, queue);
    this.#putBack(queue);
    this.#send();
    this.#finishIfIdle();
  }

  /** Returns frames to the head of the queue, oldest first. */
  #putBack(frames: Frame[]): void {
    this.#queue.unshift(...frames);
  }

  /** Gives up this socket: every pending frame fails at once and is sent again by its own counter, on a fresh connection. */
  #condemn(failure: Failure): void {
    if (this.state !== "open") return;
    this.#line.fault(failure.cause);
    // First, so that nothing is sent while the frames are taken back.
    this.#line.drop(1002, "the line is opened anew");
    const again: Frame[] = [];
    // Those that wait for credits would wait for the line: they too may go elsewhere.
    for (const frame of [...this.#landAll(), ...this.#queue.splice(0)]) this.#again(frame, failure.wrong === "all" && !frame.isTried ? { ...failure, wrong: null } : failure, again);
    // One that failed for good may have taken others of its round with it.
    this.#putBack(again.filter((frame) => frame.sink !== null));
    if (this.#queue.length > 0) this.#line.reopen();
    else this.#finishIfIdle();
  }

  /** Stops the timers and takes every pending frame out of flight, oldest first. */
  #landAll(): Frame[] {
    this.#cancelTimer?.();
    this.#cancelPause?.();
    this.#cancelTimer = this.#cancelPause = null;
    this.#timerAtMs = Infinity;
    const landed: Frame[] = [];
    while (this.#pending.length > 0) landed.push(this.#settle(0));
    return landed;
  }
}

/** True where a frame has ended because others have it, or nobody wants it. */
function movedOn(frame: Frame): boolean {
  if (frame.sink?.elsewhere?.moved(frame) !== true) return false;
  frame.sink = null;
  return true;
}

/** Ends a frame with an error, unless it has ended. */
function fail(frame: Frame, error: ShardError): void {
  const { sink } = frame;
  frame.sink = null;
  sink?.failed(error);
}
