// The seams to time and chance: everything in durable/ that waits or jitters takes these two, so that tests own both.
// Owns the contract and the production implementations. Refuses: randomness of results (that is counter-based, model/sampling).

export interface Clock {
  /** Milliseconds. In production it stands still during computation and moves with input and output (2026-11). */
  nowMs(): number;
  /** Calls `fire` once after `delayMs`, in its own turn of the event loop; returns a function that cancels it. */
  after(delayMs: number, fire: () => void): () => void;
}

export interface Random {
  /** Uniform in [0, 1). */
  next(): number;
}

export const systemClock: Clock = {
  nowMs: () => Date.now(),
  after: (delayMs, fire) => {
    const timer = setTimeout(fire, delayMs);
    return () => clearTimeout(timer);
  },
};

/** Resolves after `delayMs` by the given clock. */
export const sleep = (clock: Clock, delayMs: number): Promise<void> =>
  new Promise((resolve) => void clock.after(delayMs, resolve));

/** The value of `promise`, or a rejection with `message` when it has not settled in `limitMs`. */
export function within<T>(clock: Clock, limitMs: number, promise: Promise<T>, message: string): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const cancel = clock.after(limitMs, () => reject(new Error(message)));
    promise.then(
      (value) => { cancel(); resolve(value); },
      (cause: unknown) => { cancel(); reject(cause instanceof Error ? cause : new Error(String(cause))); },
    );
  });
}

/** Mulberry32: 32 bits of state are plenty for jitter. */
export class SeededRandom implements Random {
  #state: number;
  constructor(seed: number) {
    this.#state = seed >>> 0;
  }
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  }
}
