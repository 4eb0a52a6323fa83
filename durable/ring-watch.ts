// Whether a ring from which nothing comes still stands: a dead socket says nothing, and a stage may compute for long. While steps are under way and nothing comes, every stage is asked by a
// probe that goes round whatever they are doing; a ring that does not answer it, or a step that does not come back, ends the ring. Owns those times and one timer, only while there is work.
// Refuses to build another ring and to know what steps are (ring-engine.ts). docs/protocol.md section 6, "Failures".

import type { Clock } from "./clock.ts";
import type { Limits } from "./limits.ts";

/** What is watched. */
export interface WatchedRing {
  /** When the oldest step under way was sent; null where there is nothing to wait for: no step, or no ring. */
  readonly oldestMs: number | null;
  probe(): void;
  /** It counts as lost from here on. */
  silent(): void;
}

export class RingWatch {
  readonly #ring: WatchedRing;
  readonly #clock: Clock;
  readonly #limits: Pick<Limits, "ringProbeMs" | "ringSilenceMs" | "ringStepMs">;
  /** When anything last came from the ring. */
  #heardMs = 0;
  #probedMs: number | null = null;
  #cancel: (() => void) | null = null;

  constructor(ring: WatchedRing, clock: Clock, limits: Pick<Limits, "ringProbeMs" | "ringSilenceMs" | "ringStepMs">) {
    this.#ring = ring;
    this.#clock = clock;
    this.#limits = limits;
  }

  heard(): void { this.#heardMs = this.#clock.nowMs(); }

  /** There is something to wait for; goes on until there is not. */
  begin(): void {
    this.#cancel ??= this.#clock.after(this.#limits.ringProbeMs, () => {
      this.#cancel = null;
      this.#look();
    });
  }

  end(): void { this.#cancel?.(); }

  #look(): void {
    const { ringProbeMs, ringSilenceMs, ringStepMs } = this.#limits;
    const { oldestMs } = this.#ring;
    if (oldestMs === null) {
      this.#probedMs = null;
      return;
    }
    const nowMs = this.#clock.nowMs();
    if (this.#probedMs !== null && this.#heardMs >= this.#probedMs) this.#probedMs = null;
    if ((this.#probedMs !== null && nowMs - this.#probedMs >= ringSilenceMs) || nowMs - oldestMs >= ringStepMs) {
      this.#probedMs = null;
      return this.#ring.silent();
    }
    if (this.#probedMs === null && nowMs - this.#heardMs >= ringProbeMs) {
      this.#probedMs = nowMs;
      this.#ring.probe();
    }
    this.begin();
  }
}
