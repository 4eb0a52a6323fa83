// Bytes of frames in flight from one isolate, shared by all its lines to shards. Owns who is told when some come free.
// Refuses nobody for good: what does not fit waits. WebSockets here have no backpressure of their own (2026-11). docs/protocol.md section 3.

/** Bytes in flight of one isolate, shared by all its clients. */
export class InFlightBudget {
  readonly limitBytes: number;
  usedBytes = 0;
  readonly #waiting = new Set<() => void>();
  constructor(limitBytes: number) {
    this.limitBytes = limitBytes;
  }
  /** Takes the bytes, or remembers `whenFree` to be called after the next release. */
  take(bytes: number, whenFree: () => void): boolean {
    if (this.usedBytes + bytes > this.limitBytes) {
      this.#waiting.add(whenFree);
      return false;
    }
    this.usedBytes += bytes;
    return true;
  }
  release(bytes: number): void {
    this.usedBytes -= bytes;
    if (this.#waiting.size === 0) return;
    const woken = [...this.#waiting];
    this.#waiting.clear();
    for (const wake of woken) wake();
  }
}
