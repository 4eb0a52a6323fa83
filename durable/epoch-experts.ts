// Experts behind the plan in force, whichever that is: an engine keeps one Experts for all epochs. docs/protocol.md section 3.
// Owns the moment of the switch, between two steps, and the end of the old lines, when nothing of theirs is in flight. Refuses to connect the new
// ones (epoch-switch.ts) and to judge plans.

import type { ExpertBatch, ExpertRunInfo, Experts, Placement } from "../model/experts.ts";

/** Lines of one epoch and the experts behind them. */
export interface Epoch {
  readonly experts: Experts;
  /** Ends the lines as soon as nothing is in flight; they get nothing new any more. */
  finish(): void;
}

interface Switch<E extends Epoch> {
  readonly to: E;
  done(): void;
}

export class EpochExperts<E extends Epoch = Epoch> implements Experts {
  #current: E;
  #running = 0;
  #next: Switch<E> | null = null;
  #switched: Promise<void> = Promise.resolve();

  constructor(first: E) {
    this.#current = first;
  }

  get current(): E { return this.#current; }
  get placement(): Placement { return this.#current.experts.placement; }
  get overlapTokens(): number { return this.#current.experts.overlapTokens; }
  run(layer: number, batch: ExpertBatch): Promise<ExpertRunInfo> | ExpertRunInfo { return this.#current.experts.run(layer, batch); }
  depart(): Promise<void> | undefined { return this.#current.experts.depart(); }

  /** Does a step, all of it in one epoch. A switch that waits comes before steps that have not begun. */
  async during<T>(step: () => Promise<T>): Promise<T> {
    while (this.#next !== null) await this.#switched;
    this.#running++;
    try {
      return await step();
    } finally {
      this.#running--;
      this.#switchIfIdle();
    }
  }

  /** Resolves when steps go by the new epoch; its lines are open. One switch at a time. */
  switchTo(to: E): Promise<void> {
    if (this.#next !== null) throw new Error("A switch to another epoch was asked for while one is under way; a caller must await the previous one.");
    this.#switched = new Promise((done) => { this.#next = { to, done }; });
    this.#switchIfIdle();
    return this.#switched;
  }

  #switchIfIdle(): void {
    if (this.#next === null || this.#running > 0) return;
    const { to, done } = this.#next;
    const old = this.#current;
    this.#current = to;
    this.#next = null;
    old.finish();
    done();
  }
}
