// What went wrong lately with one shard, as its line saw it: causes with their time, the latest few. Owns that an outage is one fault, however often
// it is tried to end it. Refuses to judge: whoever reads it decides what is worth telling (lane-report.ts).

export interface LineFault {
  readonly atMs: number;
  readonly cause: string;
}

/** A cause is a sentence; what a runtime adds to it may be long. */
const CAUSE_CHARS = 300;

export class FaultLog {
  readonly #most: number;
  #recent: readonly LineFault[] = [];
  #lasting = new Set<string>();

  constructor(most: number) {
    this.#most = most;
  }

  /** Oldest first. */
  get recent(): readonly LineFault[] { return this.#recent; }
  get last(): string | null { return this.#recent.at(-1)?.cause ?? null; }

  /** Notes a cause, unless it is one that lasts since the shard last answered. */
  note(cause: string, atMs: number): void {
    const short = cause.slice(0, CAUSE_CHARS);
    if (this.#lasting.has(short)) return;
    if (this.#lasting.size < this.#most) this.#lasting.add(short);
    this.#recent = [...this.#recent, { atMs, cause: short }].slice(-this.#most);
  }

  /** The shard has answered: what comes now is another fault. */
  answered(): void {
    if (this.#lasting.size > 0) this.#lasting.clear();
  }
}
