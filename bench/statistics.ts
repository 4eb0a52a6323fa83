// The statistics of every benchmark: median, percentile, three digits. Owns nothing else and imports nothing, so that a Worker may use it.

export const median = (values: readonly number[]): number => {
  if (values.length === 0) throw new RangeError("The median of no values was asked for.");
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
};

/** The value below which `share` of the values lie (nearest rank). */
export const percentile = (values: readonly number[], share: number): number => {
  if (values.length === 0) throw new RangeError("A percentile of no values was asked for.");
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(share * sorted.length) - 1))]!;
};

/** Three significant digits. */
export const rounded = (value: number): number => (Number.isFinite(value) ? Number(value.toPrecision(3)) : value);
