// Chance of a run: everything that is drawn comes from its seed, in separate streams, so that one more draw in one place leaves the others as they were.
// Owns the shapes of draws. Refuses the machine's own randomness. The generator is the fleet's (durable/clock.ts).

import { SeededRandom } from "../durable/clock.ts";

export class Draws {
  readonly #random: SeededRandom;

  constructor(seed: number, stream: number) {
    // Neighbouring seeds must not give neighbouring streams.
    let h = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(stream + 1, 0xc2b2ae35) ^ Math.floor(seed / 4294967296);
    h = Math.imul(h ^ (h >>> 16), 0x7feb352d);
    h = Math.imul(h ^ (h >>> 15), 0x846ca68b);
    this.#random = new SeededRandom(h ^ (h >>> 16));
  }

  /** Uniform in [0, 1). */
  next(): number { return this.#random.next(); }
  /** A whole number from `from` to `to`, both included. */
  whole(from: number, to: number): number { return from + Math.floor(this.#random.next() * (to - from + 1)); }
  chance(probability: number): boolean { return this.#random.next() < probability; }
  pick<T>(of: readonly T[]): T { return of[Math.floor(this.#random.next() * of.length)]!; }
  /** Uniform in [from, to). */
  between(from: number, to: number): number { return from + this.#random.next() * (to - from); }
  /** Mostly small, now and then much larger: a power of a uniform number, so that no transcendental function takes part. */
  tail(scale: number): number {
    const u = this.#random.next();
    return scale * (u + 8 * u * u * u * u * u * u * u * u);
  }
}
