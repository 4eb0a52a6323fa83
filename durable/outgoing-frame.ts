// One request frame on its way, from `submit` to its end: what it carries, which attempts it has behind it, and who hears how it ends. docs/protocol.md section 3.
// Owns that it ends exactly once: with a reply its reader took, with a ShardError, in others' hands, or unread. Refuses when it leaves and when it is late
// (frames-under-way.ts, frame-watch.ts), and what becomes of the line that failed it (client.ts).

import type { Limits } from "./limits.ts";
import { Patience } from "./patience.ts";
import { replyFrameBytes, type FrameHeader } from "./protocol.ts";
import { ShardError, unended } from "./shard-error.ts";

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

export interface FrameShape {
  readonly layer: number;
  readonly nGroups: number;
  readonly nTokens: number;
  readonly hidden: number;
}

/** What a frame has behind it; whoever takes it over goes on counting. */
export class Tries extends Patience {
  attempts = 0;
  /** Attempts that nobody answered. */
  silent = 0;

  constructor(before: Readonly<Tries> | null = null) {
    super(before);
    if (before === null) return;
    this.attempts = before.attempts;
    this.silent = before.silent;
  }
}

/** Why frames come back: whose answer was wrong ("all": nobody knows), and whether the others were answered by nobody for too long. */
export interface Failure {
  readonly cause: string;
  readonly wrong: Frame | "all" | null;
}

export class Frame implements OutgoingFrame {
  buffer: ArrayBuffer;
  readonly shape: FrameShape;
  /** Of request and expected reply together. */
  readonly accountedBytes: number;
  readonly submittedAtMs: number;
  readonly tries: Tries;
  elapsedMs = 0;
  retries = 0;
  number = 0;
  /** It has been in flight since it last failed. */
  isTried = false;
  sent = false;
  sentAtMs = 0;
  dueAtMs = Infinity;
  hedgeAtMs = Infinity;
  isHedged = false;
  warmingSinceMs = -1;
  /** Null once it has ended, or nobody reads it any more. */
  #sink: ReplySink | null;

  constructor(buffer: ArrayBuffer, shape: FrameShape, sink: ReplySink, lost: OutgoingFrame | null, nowMs: number) {
    this.buffer = buffer;
    this.shape = shape;
    this.#sink = sink;
    this.accountedBytes = buffer.byteLength + replyFrameBytes(shape.nTokens, shape.hidden);
    this.submittedAtMs = nowMs;
    this.tries = new Tries(lost?.tries);
  }

  get layer(): number { return this.shape.layer; }
  get isWanted(): boolean { return this.#sink !== null; }
  get hasOthers(): boolean { return this.#sink?.elsewhere != null; }

  /** Nobody reads it any more. */
  forget(): void { this.#sink = null; }

  /** What shows by its header that a reply is none to this frame; null where it is one. */
  faultOf(header: FrameHeader, epoch: number): string | null {
    if (header.epoch !== epoch) return `a reply came from epoch ${header.epoch}; the line belongs to epoch ${epoch}`;
    const { layer, nTokens, nGroups, hidden } = this.shape;
    if (header.layer === layer && header.nTokens === nTokens && header.nGroups === nGroups && header.hidden === hidden) return null;
    return `a reply of layer ${header.layer} with ${header.nTokens} rows of ${header.hidden} answered a request of layer ${layer} for ${nTokens} rows of ${hidden}`;
  }

  /** Its reply came, and ends it unless the reader says what is wrong with it. One that nobody reads is dropped. */
  answered(header: FrameHeader, data: ArrayBuffer, nowMs: number): string | null {
    this.elapsedMs = nowMs - this.submittedAtMs;
    const damage = this.#sink === null ? null : this.#sink.reply(header, data);
    if (damage === null) this.#sink = null;
    else this.elapsedMs = 0;
    return damage;
  }

  /** It is late: asks whoever else could answer. */
  late(): "sent" | "busy" | "nobody" {
    return this.#sink?.elsewhere?.late() ?? "nobody";
  }

  /** It came back from `shard` without a reply. "again": it is to be sent there once more. "moved": others have it, or nobody wants it. "ended": with an error, or nobody reads it. */
  failedAttempt({ cause, wrong }: Failure, shard: string, limits: Limits, nowMs: number): "again" | "moved" | "ended" {
    if (this.#sink === null) return "ended";
    const { tries } = this;
    if (this.isTried) tries.attempts++;
    tries.failed(wrong === "all" || wrong === this, nowMs);
    if (tries.hadEnoughOfAnswers(limits)) {
      this.fail(new ShardError(shard, true, `Layer ${this.layer} failed on shard ${shard} after ${tries.wrong} wrong answers; last: ${unended(cause)}.`));
      return "ended";
    }
    if (this.movedOn()) return "moved";
    if (tries.hadEnoughOfSilence(limits, nowMs)) {
      this.fail(new ShardError(shard, true, `Layer ${this.layer} failed on shard ${shard}: no answer for ${Math.round(tries.lostMs(nowMs))} ms, attempts: ${tries.attempts}; last: ${unended(cause)}.`));
      return "ended";
    }
    return "again";
  }

  /** True where it has ended because others have it, or nobody wants it. */
  movedOn(): boolean {
    if (this.#sink?.elsewhere?.moved(this) !== true) return false;
    this.#sink = null;
    return true;
  }

  /** Ends it with an error, unless it has ended. */
  fail(error: ShardError): void {
    const sink = this.#sink;
    this.#sink = null;
    sink?.failed(error);
  }
}
