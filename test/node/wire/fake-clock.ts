// Time for wire tests: it moves only when a test says so, and then fires timers one by one with all promises settled between them.
// Owns nothing else. Implements the Clock seam of durable/clock.ts.

import type { Clock } from "../../../durable/clock.ts";

export class FakeClock implements Clock {
  #now = 1_000_000;
  #timers: { at: number; order: number; fire: () => void }[] = [];
  #order = 0;

  nowMs(): number { return this.#now; }

  after(delayMs: number, fire: () => void): () => void {
    const timer = { at: this.#now + delayMs, order: this.#order++, fire };
    this.#timers.push(timer);
    return () => {
      const at = this.#timers.indexOf(timer);
      if (at >= 0) this.#timers.splice(at, 1);
    };
  }

  get pendingTimers(): number { return this.#timers.length; }

  /** Lets promises settle without moving time. */
  async settle(): Promise<void> {
    for (let i = 0; i < 3; i++) await new Promise<void>((resolve) => setImmediate(resolve));
  }

  /** Moves time by `ms`, firing what falls due in order. */
  async advance(ms: number): Promise<void> {
    const until = this.#now + ms;
    await this.settle();
    for (;;) {
      const due = this.#timers.filter((t) => t.at <= until).sort((a, b) => a.at - b.at || a.order - b.order)[0];
      if (due === undefined) break;
      this.#timers.splice(this.#timers.indexOf(due), 1);
      this.#now = Math.max(this.#now, due.at);
      due.fire();
      await this.settle();
    }
    this.#now = until;
  }

  /** Moves from timer to timer until `promise` settles; fails when nothing is scheduled any more or `limitMs` has passed. */
  async until<T>(promise: Promise<T>, limitMs = 600_000): Promise<PromiseSettledResult<T>> {
    const state: { result: PromiseSettledResult<T> | null } = { result: null };
    promise.then(
      (value) => { state.result = { status: "fulfilled", value }; },
      (reason: unknown) => { state.result = { status: "rejected", reason }; },
    );
    const end = this.#now + limitMs;
    await this.settle();
    while (state.result === null) {
      if (this.#timers.length === 0) throw new Error("The promise is not settled and no timer is left: it hangs.");
      const next = Math.min(...this.#timers.map((t) => t.at));
      if (next > end) throw new Error(`The promise is not settled after ${limitMs} ms.`);
      await this.advance(next - this.#now);
    }
    return state.result;
  }
}
