// Time that moves from event to event: the Clock of everything in a simulated run. Owns the order of events (by time, then by when they were asked for) and
// that each runs in its own turn: the next one waits until every promise job of the last has run, as on a host with one thread and an event loop.
// Turns are ticks of Node, which come when no promise job is left: no timer of the machine takes part, so a run costs what its events cost.

import type { Clock } from "../durable/clock.ts";

/** Where every run begins; any number would do, as long as it is the same in all. */
export const START_MS = 1_000_000;

interface Event {
  readonly atMs: number;
  readonly order: number;
  /** Null once it has been cancelled. */
  fire: (() => void) | null;
}

/** How a run of events ended. */
export type TimeEnd =
  | { readonly kind: "done" }
  /** No event is left, and yet it is not done: nothing will ever happen again. */
  | { readonly kind: "stuck" }
  /** The limit has passed. */
  | { readonly kind: "late" }
  /** An event threw. */
  | { readonly kind: "crashed"; readonly error: unknown };

export class VirtualTime implements Clock {
  #nowMs = START_MS;
  #order = 0;
  #live = 0;
  /** Binary heap by (atMs, order). */
  readonly #heap: Event[] = [];
  /** Events that have happened. */
  nEvents = 0;

  nowMs(): number { return this.#nowMs; }

  /** Events that are still to come. */
  get pending(): number { return this.#live; }

  after(delayMs: number, fire: () => void): () => void {
    const event: Event = { atMs: this.#nowMs + Math.max(0, delayMs), order: this.#order++, fire };
    this.#live++;
    this.#push(event);
    return () => {
      if (event.fire === null) return;
      event.fire = null;
      this.#live--;
    };
  }

  /** Runs events until `isDone`, asked between them, says so; or nothing is left; or `limitMs` have passed. */
  run(isDone: () => boolean, limitMs: number): Promise<TimeEnd> {
    const untilMs = this.#nowMs + limitMs;
    return new Promise((resolve) => {
      // A tick asked for by a promise job comes after all other jobs; one asked for by a tick would come before them.
      const afterJobs = (): void => process.nextTick(turn);
      const turn = (): void => {
        if (isDone()) return resolve({ kind: "done" });
        const event = this.#pop();
        if (event === null) return resolve({ kind: "stuck" });
        if (event.atMs > untilMs) return resolve({ kind: "late" });
        this.#nowMs = event.atMs;
        this.nEvents++;
        this.#live--;
        const fire = event.fire!;
        event.fire = null;
        try {
          fire();
        } catch (error) {
          return resolve({ kind: "crashed", error });
        }
        queueMicrotask(afterJobs);
      };
      queueMicrotask(afterJobs);
    });
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let at = heap.push(event) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!before(event, heap[parent]!)) break;
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = event;
  }

  /** The next event that was not cancelled. */
  #pop(): Event | null {
    for (;;) {
      const heap = this.#heap;
      const [first] = heap;
      if (first === undefined) return null;
      const last = heap.pop()!;
      if (heap.length > 0) {
        let at = 0;
        for (;;) {
          let child = 2 * at + 1;
          if (child >= heap.length) break;
          if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++;
          if (!before(heap[child]!, last)) break;
          heap[at] = heap[child]!;
          at = child;
        }
        heap[at] = last;
      }
      if (first.fire !== null) return first;
    }
  }
}

const before = (a: Event, b: Event): boolean => a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
