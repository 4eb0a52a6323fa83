// Since when one shard cannot be reached over its line. Owns what counts as the same outage: a line that nobody tries for a while begins anew.
// Refuses to try (shard-line.ts) and to draw conclusions (expert-round.ts).

import type { Clock } from "./clock.ts";
import type { Limits } from "./limits.ts";

export class LineOutage {
  readonly #clock: Clock;
  readonly #limits: Pick<Limits, "degradeAfterMs">;
  #sinceMs = -1;
  #triedMs = -1;

  constructor(clock: Clock, limits: Pick<Limits, "degradeAfterMs">) {
    this.#clock = clock;
    this.#limits = limits;
  }

  /** Somebody wants the line, which does not stand. */
  wanted(): void {
    const nowMs = this.#clock.nowMs();
    if (this.#sinceMs < 0 || nowMs - this.#triedMs >= this.#limits.degradeAfterMs) this.#sinceMs = nowMs;
    this.#triedMs = nowMs;
  }

  /** An attempt failed. */
  tried(): void { this.#triedMs = this.#clock.nowMs(); }

  over(): void { this.#sinceMs = -1; }

  /** True once it has lasted longer than those who need not wait do, and was tried until just now. */
  get isLong(): boolean {
    const nowMs = this.#clock.nowMs();
    return this.#sinceMs >= 0 && nowMs - this.#sinceMs >= this.#limits.degradeAfterMs && nowMs - this.#triedMs < this.#limits.degradeAfterMs;
  }
}
