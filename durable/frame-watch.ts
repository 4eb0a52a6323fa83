// When frames of one line are looked at: a late one is asked of other holders too (a hedge, once per frame), and one that nobody answers in time counts as lost.
// Owns the line's one timer, the deadlines and hedges it serves, and what earlier frames took. docs/protocol.md section 3 ("Deadline", "Hedge").
// Refuses what a lost frame means for its line (client.ts), and who else could answer (expert-round.ts).

import type { Clock } from "./clock.ts";
import type { FramesUnderWay } from "./frames-under-way.ts";
import { LatencyEstimate } from "./latency-estimate.ts";
import type { Limits } from "./limits.ts";
import type { Frame } from "./outgoing-frame.ts";

/** The line whose frames are watched. */
export interface WatchedLine {
  readonly isOpen: boolean;
  /** A frame in flight was not answered in time. */
  silent(cause: string): void;
}

export class FrameWatch {
  readonly #frames: FramesUnderWay;
  readonly #line: WatchedLine;
  readonly #clock: Clock;
  readonly #limits: Limits;
  readonly #latency: LatencyEstimate;
  #cancelTimer: (() => void) | null = null;
  #timerAtMs = Infinity;
  /** Frames of which others were asked too, because this shard was late. */
  hedges = 0;

  constructor(frames: FramesUnderWay, line: WatchedLine, { clock, limits }: { readonly clock: Clock; readonly limits: Limits }) {
    this.#frames = frames;
    this.#line = line;
    this.#clock = clock;
    this.#limits = limits;
    this.#latency = new LatencyEstimate(limits);
  }

  /** A frame was handed in: it may be late from here on, wherever it is. */
  submitted(frame: Frame): void {
    if (frame.hasOthers) frame.hedgeAtMs = frame.submittedAtMs + this.#latency.hedgeMs(frame.accountedBytes);
  }

  /** A frame is in flight. */
  departed(frame: Frame): void {
    frame.sentAtMs = this.#clock.nowMs();
    frame.dueAtMs = frame.sentAtMs + this.#latency.deadlineMs(frame.accountedBytes, frame.tries.silent);
  }

  /** The reply to a frame came at `nowMs` and was taken; returns what it took since it was sent, in milliseconds. */
  answered(frame: Frame, nowMs: number): number {
    const roundTripMs = nowMs - frame.sentAtMs;
    this.#latency.observe(frame.accountedBytes, roundTripMs);
    return roundTripMs;
  }

  /** The one timer looks at the frames at `atMs` or earlier. One that comes too early is cheaper than one set anew for every frame. */
  arm(atMs: number): void {
    if (atMs >= this.#timerAtMs || !this.#line.isOpen) return;
    this.#cancelTimer?.();
    this.#timerAtMs = atMs;
    const [clock, limits] = [this.#clock, this.#limits];
    this.#cancelTimer = clock.after(Math.max(0, atMs - clock.nowMs()), () => {
      // Messages that wait behind a long computation are delivered before a deadline counts.
      if (this.#nextDueMs() <= clock.nowMs()) this.#cancelTimer = clock.after(limits.drainMs, () => this.#look());
      else this.#rearm();
    });
  }

  /** Nothing is looked at until `arm`. */
  stop(): void {
    this.#cancelTimer?.();
    this.#cancelTimer = null;
    this.#timerAtMs = Infinity;
  }

  #rearm(): void {
    this.#cancelTimer = null;
    this.#timerAtMs = Infinity;
    const dueMs = this.#nextDueMs();
    if (dueMs < Infinity) this.arm(dueMs);
  }

  #nextDueMs(): number {
    let due = Infinity;
    for (const frame of this.#frames.inFlight) due = Math.min(due, frame.dueAtMs, frame.hedgeAtMs);
    for (const frame of this.#frames.waiting) due = Math.min(due, frame.hedgeAtMs);
    return due;
  }

  /** Frames whose time is up: late ones are hedged, and one that is lost takes the line with it. */
  #look(): void {
    const { inFlight, waiting } = this.#frames;
    const nowMs = this.#clock.nowMs();
    for (const frame of [...inFlight, ...waiting]) {
      if (frame.hedgeAtMs > nowMs) continue;
      const asked = frame.late();
      frame.hedgeAtMs = asked === "busy" ? nowMs + this.#limits.hedgeFloorMs : Infinity;
      if (asked !== "sent") continue;
      frame.isHedged = true;
      this.hedges++;
    }
    const silent = inFlight.find((frame) => frame.dueAtMs <= nowMs);
    if (silent === undefined) return this.#rearm();
    for (const frame of inFlight) if (frame.dueAtMs <= nowMs) frame.tries.silent++;
    this.#line.silent(`no answer in ${Math.round(silent.dueAtMs - silent.sentAtMs)} ms`);
  }
}
