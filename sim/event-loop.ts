// The one thread of an isolate: what arrives waits while it computes, in order, and nothing runs once the isolate is dead.
// Owns the inbox, the clock as this isolate sees it, and calls under way that must fail when it dies. Refuses to know what runs on it.
// When a long computation ends, timers that fell due meanwhile come before queued messages: the harder order of the two that hosts have.

import type { Clock } from "../durable/clock.ts";
import type { VirtualTime } from "./virtual-time.ts";

/** From the end of a computation to the first queued message, in milliseconds: timers come first. */
const AFTER_TIMERS_MS = 0.01;

export class EventLoop {
  readonly clock: Clock;
  readonly #time: VirtualTime;
  readonly #inbox: (() => void)[] = [];
  readonly #atDeath = new Set<() => void>();
  #busyUntilMs = 0;
  #draining = false;
  #dead = false;

  constructor(time: VirtualTime) {
    this.#time = time;
    this.clock = { nowMs: () => time.nowMs(), after: (delayMs, fire) => this.#timer(delayMs, fire) };
  }

  get dead(): boolean { return this.#dead; }
  get isBusy(): boolean { return this.#time.nowMs() < this.#busyUntilMs; }

  /** Something has arrived: it runs at once if the thread is free. To be called in a turn of its own. */
  post(fire: () => void): void {
    if (this.#dead) return;
    if (this.#inbox.length === 0 && !this.isBusy) return fire();
    this.#inbox.push(fire);
    this.#drainLater();
  }

  /** The thread computes for so long from now on, or from when it is free. */
  occupy(ms: number): void {
    this.#busyUntilMs = Math.max(this.#busyUntilMs, this.#time.nowMs()) + ms;
  }

  /** How long what it says now is kept back by its computation. */
  get leftMs(): number { return Math.max(0, this.#busyUntilMs - this.#time.nowMs()); }

  /** `fail` is called when the isolate dies; returns a function that forgets it. */
  onDeath(fail: () => void): () => void {
    this.#atDeath.add(fail);
    return () => void this.#atDeath.delete(fail);
  }

  kill(): void {
    if (this.#dead) return;
    this.#dead = true;
    this.#inbox.length = 0;
    for (const fail of [...this.#atDeath]) fail();
    this.#atDeath.clear();
  }

  #drainLater(): void {
    if (this.#draining) return;
    this.#draining = true;
    this.#time.after(this.leftMs + AFTER_TIMERS_MS, () => {
      this.#draining = false;
      if (this.#dead) return;
      if (!this.isBusy) this.#inbox.shift()?.();
      if (this.#inbox.length > 0) this.#drainLater();
    });
  }

  #timer(delayMs: number, fire: () => void): () => void {
    let cancel: () => void;
    const due = (): void => {
      if (this.#dead) return;
      if (this.isBusy) cancel = this.#time.after(this.leftMs, due);
      else fire();
    };
    cancel = this.#time.after(delayMs, due);
    return () => cancel();
  }
}
