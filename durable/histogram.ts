// Counts of observations in fixed buckets, as Prometheus' histograms have them, and the buckets of this project. Observing allocates nothing.
// Refuses quantiles: whoever reads the metrics computes them, over as many instances as there are.

/** Powers of two of a millisecond: the clock of a Worker counts whole ones, and a bucket of each octave is precise enough to see a change. */
const octaves = (firstSeconds: number, count: number): readonly number[] => Array.from({ length: count }, (_, i) => firstSeconds * 2 ** i);

/** From 1 ms to 16 s: frames, steps, tokens. */
export const SHORT_SECONDS = octaves(0.001, 15);
/** From 8 ms to 131 s: waiting, loading, whole requests. */
export const LONG_SECONDS = octaves(0.008, 15);
/** Generations or tokens of one step, up to the most that limits allow. */
export const BATCH_SIZES = octaves(1, 10);

export class Histogram {
  /** Upper ends of the buckets, ascending; one more bucket has what is above. */
  readonly bounds: readonly number[];
  readonly counts: Float64Array;
  sum = 0;

  constructor(bounds: readonly number[]) {
    this.bounds = bounds;
    this.counts = new Float64Array(bounds.length + 1);
  }

  observe(value: number): void {
    let bucket = 0;
    while (bucket < this.bounds.length && value > this.bounds[bucket]!) bucket++;
    this.counts[bucket]!++;
    this.sum += value;
  }
}
