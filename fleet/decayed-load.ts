// Counts that fade: what was chosen lately, by window. Owns the sums and their fading. Refuses clocks (times are arguments) and what is counted.
// Fades by one factor per whole window, multiplied out, so that the same calls give the same numbers everywhere.

export interface Fading {
  readonly windowMs: number;
  /** Part of a count that is left after one window, above 0 and below 1. */
  readonly keep: number;
}

/** Windows after which nothing worth keeping is left, whatever the factor. */
const MOST_WINDOWS = 4096;

export class DecayedLoad {
  readonly #counts: Float64Array;
  readonly #fading: Fading;
  #window: number | null = null;

  constructor(length: number, fading: Fading) {
    if (!(fading.windowMs > 0) || !(fading.keep > 0 && fading.keep < 1)) throw new RangeError(`Counts were to keep ${fading.keep} of themselves every ${fading.windowMs} ms; expected a part between 0 and 1 and a time above 0.`);
    this.#counts = new Float64Array(length);
    this.#fading = fading;
  }

  /** Counts of one moment, added to what is left of earlier ones. A clock that steps back fades nothing. */
  add(counts: ArrayLike<number>, nowMs: number): void {
    if (counts.length !== this.#counts.length) throw new RangeError(`${counts.length} counts were given; expected ${this.#counts.length}.`);
    this.#fade(nowMs);
    for (let i = 0; i < counts.length; i++) this.#counts[i]! += counts[i]!;
  }

  at(nowMs: number): Float64Array {
    this.#fade(nowMs);
    return this.#counts.slice();
  }

  #fade(nowMs: number): void {
    const window = Math.floor(nowMs / this.#fading.windowMs);
    const passed = window - (this.#window ?? window);
    if (passed < 0) return;
    this.#window = window;
    if (passed >= MOST_WINDOWS) { this.#counts.fill(0); return; }
    for (let n = 0; n < passed; n++) for (let i = 0; i < this.#counts.length; i++) this.#counts[i]! *= this.#fading.keep;
  }
}
