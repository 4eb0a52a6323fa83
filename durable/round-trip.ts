// A round trip as measured so far: a decayed mean of pings. Owns what a measurement is worth: a ping is one round trip and little else; a request that was
// answered is only a bound, since it waited for its turn as well. Refuses clocks: times are arguments.

/** Weight of the newest measurement. */
const NEWEST = 0.25;

export interface MeasuredTrip {
  readonly ms: number;
  readonly ageMs: number;
}

export class RoundTrip {
  #ms: number | null = null;
  #atMs = 0;

  /** Null: never measured. */
  get ms(): number | null { return this.#ms; }

  pinged(ms: number, nowMs: number): void {
    this.#ms = this.#ms === null ? ms : this.#ms + NEWEST * (ms - this.#ms);
    this.#atMs = nowMs;
  }

  /** A request that was answered after `ms`. */
  atMost(ms: number, nowMs: number): void {
    if (this.#ms === null || ms < this.#ms) this.pinged(ms, nowMs);
  }

  shown(nowMs: number): MeasuredTrip | null {
    return this.#ms === null ? null : { ms: Math.round(this.#ms), ageMs: Math.max(0, nowMs - this.#atMs) };
  }
}
