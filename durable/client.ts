// Frames from one orchestrator to one shard: sent as credits allow, answered, refused, tried again on a fresh connection. docs/protocol.md section 3.
// Owns what an event of the line or a message of the shard does to the frames under way. Refuses their ends (outgoing-frame.ts), their order and credits
// (frames-under-way.ts), their deadlines and hedges (frame-watch.ts), what rows mean and who else could answer (websocket-experts.ts, expert-round.ts), and how the line
// comes about (shard-line.ts).
// Allocation is per frame: no timer, promise or view per expert or row; one timer serves the whole socket.

import type { LineFault } from "./fault-log.ts";
import { FrameWatch } from "./frame-watch.ts";
import { FramesUnderWay } from "./frames-under-way.ts";
import type { ReadFigures } from "./handshake.ts";
import { Histogram, SHORT_SECONDS } from "./histogram.ts";
import type { InFlightBudget } from "./in-flight-budget.ts";
import { type Failure, Frame, type FrameShape, type OutgoingFrame, type ReplySink } from "./outgoing-frame.ts";
import { addressFrame, decodeHeader, faultOfPayload, payloadChecksum, refusalMessage, type FrameHeader } from "./protocol.ts";
import { AT_REST, LATE, LOST, READY, type HolderLine, type Readiness } from "./replica-choice.ts";
import { ShardError } from "./shard-error.ts";
import { type LineState, ShardLine, type ShardLineParts } from "./shard-line.ts";

export interface ShardClientParts extends ShardLineParts {
  readonly budget: InFlightBudget;
}

export class ShardClient implements HolderLine {
  readonly #p: ShardClientParts;
  readonly #line: ShardLine;
  readonly #frames: FramesUnderWay;
  readonly #watch: FrameWatch;
  /** Set once the line is to end as soon as nothing is in flight. */
  #finishing: string | null = null;
  #cancelPause: (() => void) | null = null;
  readonly #pump = (): void => this.#send();
  frames = 0;
  bytes = 0;
  retries = 0;
  /** Seconds from sending a frame to taking its reply. */
  readonly roundTrips = new Histogram(SHORT_SECONDS);

  constructor(parts: ShardClientParts) {
    this.#p = parts;
    const frames = new FramesUnderWay(parts.limits, parts.budget);
    const line = new ShardLine(parts, {
      get isWaiting() { return frames.isWaiting; },
      opened: this.#pump,
      message: (data) => this.#received(data),
      lost: (cause) => this.#condemn({ cause, wrong: null }),
      attemptFailed: (cause, answered) => {
        for (const frame of frames.takeWaiting()) if (this.#goesOn(frame, { cause, wrong: answered ? "all" : null })) frames.add(frame);
      },
      gaveUp: (error) => { for (const frame of frames.takeWaiting()) if (!frame.movedOn()) frame.fail(error); },
    });
    this.#frames = frames;
    this.#line = line;
    this.#watch = new FrameWatch(frames, {
      get isOpen() { return line.state === "open"; },
      silent: (cause) => this.#condemn({ cause, wrong: null }),
    }, parts);
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
  /** Frames of which others were asked too, because this shard was late. */
  get hedges(): number { return this.#watch.hedges; }

  get readiness(): Readiness {
    switch (this.state) {
      case "open": return this.#frames.inFlight.some((frame) => frame.isHedged) ? LATE : READY;
      case "idle": return AT_REST;
      default: return LOST;
    }
  }
  /** True where a frame would leave at once, as far as this line goes. */
  get hasRoom(): boolean {
    return this.state === "open" && this.#cancelPause === null && this.#frames.hasRoom;
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
    if (!this.#frames.waiting.includes(frame as Frame)) return false;
    const { warmingSinceMs } = frame as Frame;
    return this.isAway || (warmingSinceMs >= 0 && this.#p.clock.nowMs() - warmingSinceMs >= this.#p.limits.degradeAfterMs);
  }

  /** Resolves when the shard is ready and the line open; rejects with ShardError (ShardLine.connect). */
  connect(): Promise<void> {
    return this.#line.connect();
  }

  /** Sends a sealed request frame (sealRequest) as soon as credits allow. The buffer belongs to the client from here on. `lost`: the frame elsewhere whose place this one takes. */
  submit(buffer: ArrayBuffer, shape: FrameShape, sink: ReplySink, lost: OutgoingFrame | null = null): OutgoingFrame {
    const frame = new Frame(buffer, shape, sink, lost, this.#p.clock.nowMs());
    this.#watch.submitted(frame);
    this.#frames.add(frame);
    if (this.state === "open") {
      this.#send();
      this.#watch.arm(frame.hedgeAtMs);
    } else this.#line.ensure();
    return frame;
  }

  /** Forgets a frame: its sink is not called any more. One in flight keeps its credit until the shard has answered. */
  withdraw(frame: OutgoingFrame): void {
    this.#frames.withdraw(frame as Frame);
  }

  /** Closes the socket if nothing is under way; the next frame opens another. */
  rest(): void {
    if (this.state !== "open" || !this.#frames.isEmpty) return;
    this.#line.drop(1000, "idle");
    this.#landAll();
  }

  /** Ends the line as soon as nothing is in flight; nothing new is submitted any more. */
  finish(reason: string): void {
    this.#finishing = reason;
    this.#finishIfIdle();
  }

  #finishIfIdle(): void {
    if (this.#finishing !== null && this.#frames.isEmpty) this.close(this.#finishing);
  }

  /** Ends the line. Frames still waiting fail. */
  close(reason: string): void {
    if (this.state === "closed") return;
    // First, so that nothing is sent while the frames are taken back.
    this.#line.drop(1000, reason);
    this.#frames.putBack(this.#landAll());
    this.#line.close(reason);
  }

  /** True where a frame that failed is to be sent again, by this line. Counts the attempt that it costs. */
  #goesOn(frame: Frame, failure: Failure): boolean {
    const fate = frame.failedAttempt(failure, this.name, this.#p.limits, this.#p.clock.nowMs());
    if (fate === "ended") return false;
    if (frame.isTried) this.retries++;
    if (fate === "moved") return false;
    if (frame.isTried) frame.retries++;
    frame.isTried = false;
    return true;
  }

  /** Sends what credits and the budget allow. */
  #send(): void {
    while (this.state === "open" && this.#cancelPause === null) {
      const frame = this.#frames.depart(this.#pump);
      if (frame === null) return;
      this.#watch.departed(frame);
      addressFrame(frame.buffer, this.#line.connection, frame.number, this.#p.hello.epoch, frame.tries.attempts);
      this.frames++;
      this.bytes += frame.buffer.byteLength;
      try {
        this.#line.send(frame.buffer);
      } catch (cause) {
        this.#condemn({ cause: `sending failed (${cause instanceof Error ? cause.message : String(cause)})`, wrong: null });
        return;
      }
      this.#watch.arm(Math.min(frame.dueAtMs, frame.hedgeAtMs));
    }
  }

  #received(data: ArrayBuffer): void {
    this.bytes += data.byteLength;
    const decoded = decodeHeader(data);
    // A peer that sends damaged frames is not asked again on the same socket.
    if (!decoded.ok) return this.#condemn({ cause: `a reply was damaged: ${decoded.message}`, wrong: "all" });
    const { header } = decoded;
    const frame = this.#frames.numbered(header.frame);
    if (frame === null || header.connection !== this.#line.connection) return; // a duplicate, or another line's: harmless
    if (header.kind === "request") return this.#condemn({ cause: "the shard sent a request", wrong: frame });
    if (header.kind === "refusal") {
      const damage = faultOfPayload(header, payloadChecksum(data));
      return damage === null ? this.#refused(frame, header, refusalMessage(data)) : this.#condemn({ cause: `a refusal was damaged: ${damage}`, wrong: frame });
    }
    const fault = frame.faultOf(header, this.#p.hello.epoch);
    if (fault !== null) return this.#condemn({ cause: fault, wrong: frame });
    const nowMs = this.#p.clock.nowMs();
    const damage = frame.answered(header, data, nowMs);
    if (damage !== null) return this.#condemn({ cause: `a reply was damaged: ${damage}`, wrong: frame });
    this.#frames.land(frame);
    this.roundTrips.observe(this.#watch.answered(frame, nowMs) / 1000);
    this.#line.answered();
    this.#send();
    this.#finishIfIdle();
  }

  #refused(frame: Frame, header: FrameHeader, message: string): void {
    const cause = `it refused the frame (${header.refusal}): ${message}`;
    this.#line.fault(cause);
    if (header.refusal === "wrong-epoch") this.#p.stale?.();
    if (header.refusal === "wrong-epoch" || header.refusal === "unknown-slot") return this.#condemn({ cause, wrong: frame });
    this.#frames.land(frame);
    if (header.refusal === "warming") this.#warming(frame, header.value, message);
    else if (this.#goesOn(frame, { cause, wrong: frame })) this.#frames.putBack([frame]);
    this.#send();
    this.#finishIfIdle();
  }

  /** The shard is loading: other frames would only be refused as well, so the whole line pauses. */
  #warming(frame: Frame, retryAfterMs: number, message: string): void {
    const { limits, clock } = this.#p;
    if (frame.warmingSinceMs < 0) frame.warmingSinceMs = clock.nowMs();
    if (clock.nowMs() - frame.warmingSinceMs > limits.warmingMs) {
      frame.fail(new ShardError(this.name, true, `Shard ${this.name} was still loading after ${limits.warmingMs} ms; last: ${message}`));
    } else if (frame.isWanted) {
      this.#frames.putBack([frame]);
      this.#cancelPause?.();
      this.#cancelPause = clock.after(Math.min(retryAfterMs, limits.frameDeadlineMs), () => {
        this.#cancelPause = null;
        this.#send();
      });
    }
  }

  /** Gives up this socket: every pending frame fails at once and is sent again by its own counter, on a fresh connection. */
  #condemn(failure: Failure): void {
    if (this.state !== "open") return;
    this.#line.fault(failure.cause);
    // First, so that nothing is sent while the frames are taken back.
    this.#line.drop(1002, "the line is opened anew");
    // Those that wait for credits would wait for the line: they too may go elsewhere.
    const back = [...this.#landAll(), ...this.#frames.takeWaiting()];
    const again = back.filter((frame) => this.#goesOn(frame, failure.wrong === "all" && !frame.isTried ? { ...failure, wrong: null } : failure));
    // One that failed for good may have taken others of its round with it.
    this.#frames.putBack(again.filter((frame) => frame.isWanted));
    if (this.#frames.isWaiting) this.#line.reopen();
    else this.#finishIfIdle();
  }

  /** Stops the timers and takes every pending frame out of flight, oldest first. */
  #landAll(): Frame[] {
    this.#watch.stop();
    this.#cancelPause?.();
    this.#cancelPause = null;
    return this.#frames.landAll();
  }
}
