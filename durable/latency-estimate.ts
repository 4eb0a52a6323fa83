// How long frames of one line take: the last round trips by size class, and what follows from them: a frame's deadline, and when to hedge.
// Owns samples and quantiles. Refuses timers (frame-watch.ts). A class is a power of two of the bytes of request and reply together: a frame of
// a whole prompt must not make those of single tokens look quick. Quantiles are found anew after every few samples, not for every frame.

import type { Limits } from "./limits.ts";

/** Samples between two looks at the quantiles. */
const RENEW_AFTER = 32;
const HEDGE_QUANTILE = 0.95;

interface SizeClass {
  /** A ring; NaN where there is none yet. */
  readonly samplesMs: Float64Array;
  count: number;
  lateMs: number;
  longestMs: number;
}

export class LatencyEstimate {
  readonly #limits: Limits;
  readonly #classes: (SizeClass | undefined)[] = [];

  constructor(limits: Limits) {
    this.#limits = limits;
  }

  observe(bytes: number, ms: number): void {
    const { latencySamples, latencyLeastSamples } = this.#limits;
    const of = (this.#classes[classOf(bytes)] ??= { samplesMs: new Float64Array(latencySamples), count: 0, lateMs: Infinity, longestMs: Infinity });
    of.samplesMs[of.count++ % latencySamples] = ms;
    if (of.count < latencyLeastSamples || (of.count - latencyLeastSamples) % RENEW_AFTER !== 0) return;
    const sorted = of.samplesMs.slice(0, Math.min(of.count, latencySamples)).sort();
    of.longestMs = sorted.at(-1)!;
    of.lateMs = sorted[Math.ceil(HEDGE_QUANTILE * sorted.length) - 1]!;
  }

  /** After how long a frame of this size counts as lost, at its `silent`-th attempt that nobody answers (0: the first). */
  deadlineMs(bytes: number, silent: number): number {
    const { frameDeadlineMs, deadlineFloorMs, deadlineFactor } = this.#limits;
    const longestMs = this.#classes[classOf(bytes)]?.longestMs ?? Infinity;
    return Math.min(frameDeadlineMs, Math.max(deadlineFloorMs, deadlineFactor * longestMs) * 2 ** silent);
  }

  /** After how long another holder is asked too; Infinity where nothing is known. */
  hedgeMs(bytes: number): number {
    return Math.max(this.#limits.hedgeFloorMs, this.#classes[classOf(bytes)]?.lateMs ?? Infinity);
  }
}

const classOf = (bytes: number): number => 31 - Math.clz32(bytes);
