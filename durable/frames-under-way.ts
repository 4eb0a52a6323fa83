// The frames of one line: those that wait, in their order, and those in flight, each of which holds a credit of the line and its bytes of the isolate until it lands.
// Owns order, credits and frame numbers, and that every byte taken from the budget comes back. docs/protocol.md section 3.
// Refuses to know whether the line stands, why frames come back (client.ts), and how late they are (frame-watch.ts).

import type { InFlightBudget } from "./in-flight-budget.ts";
import type { Limits } from "./limits.ts";
import type { Frame } from "./outgoing-frame.ts";

export class FramesUnderWay {
  readonly #creditsPerSocket: number;
  readonly #budget: InFlightBudget;
  readonly #waiting: Frame[] = [];
  readonly #inFlight: Frame[] = [];
  #nextNumber = 1;

  constructor(limits: Pick<Limits, "creditsPerSocket">, budget: InFlightBudget) {
    this.#creditsPerSocket = limits.creditsPerSocket;
    this.#budget = budget;
  }

  /** Oldest first. */
  get waiting(): readonly Frame[] { return this.#waiting; }
  /** Oldest first. */
  get inFlight(): readonly Frame[] { return this.#inFlight; }
  get isWaiting(): boolean { return this.#waiting.length > 0; }
  get isEmpty(): boolean { return this.#waiting.length === 0 && this.#inFlight.length === 0; }
  /** True where a frame would not have to wait for others of this line. */
  get hasRoom(): boolean { return this.#waiting.length === 0 && this.#inFlight.length < this.#creditsPerSocket; }

  /** Behind all that wait. */
  add(frame: Frame): void {
    this.#waiting.push(frame);
  }

  /** To the head of those that wait. */
  putBack(frames: readonly Frame[]): void {
    this.#waiting.unshift(...frames);
  }

  /** Hands over all that wait. */
  takeWaiting(): Frame[] {
    return this.#waiting.splice(0);
  }

  /** Nobody reads it any more. One in flight keeps its credit until it lands. */
  withdraw(frame: Frame): void {
    frame.forget();
    const at = this.#waiting.indexOf(frame);
    if (at >= 0) this.#waiting.splice(at, 1);
  }

  /** The oldest that waits, in flight from here on, with a number of its own. Null where none waits or has a credit, or where its bytes are not free: then `whenFree` is called after the next release. */
  depart(whenFree: () => void): Frame | null {
    if (this.#waiting.length === 0 || this.#inFlight.length >= this.#creditsPerSocket) return null;
    const frame = this.#waiting[0]!;
    if (!this.#budget.take(frame.accountedBytes, whenFree)) return null;
    this.#waiting.shift();
    // A second attempt gets its own bytes: the runtime may still hold the first one's in a queue.
    if (frame.sent) frame.buffer = frame.buffer.slice(0);
    frame.sent = frame.isTried = true;
    frame.number = this.#nextNumber;
    this.#nextNumber = (this.#nextNumber + 1) >>> 0;
    this.#inFlight.push(frame);
    return frame;
  }

  /** The one in flight under this number. */
  numbered(number: number): Frame | null {
    return this.#inFlight.find((frame) => frame.number === number) ?? null;
  }

  /** Takes a frame out of flight. */
  land(frame: Frame): void {
    this.#inFlight.splice(this.#inFlight.indexOf(frame), 1);
    this.#budget.release(frame.accountedBytes);
  }

  /** Takes all out of flight, oldest first. */
  landAll(): Frame[] {
    const landed: Frame[] = [];
    while (this.#inFlight.length > 0) {
      const frame = this.#inFlight[0]!;
      this.land(frame);
      landed.push(frame);
    }
    return landed;
  }
}
