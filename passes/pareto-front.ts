// The Pareto front: points that no other point beats. Owns what "beats" means: as good in every figure and better in one, smaller being better.
// Refuses figures that are no numbers. Equal points do not beat each other: all of them are on the front, or none.

/** Whether `a` is as small as `b` in every figure and smaller in one. */
export function dominates(a: readonly number[], b: readonly number[]): boolean {
  if (a.length !== b.length) throw new RangeError(`Points of ${a.length} and of ${b.length} figures cannot be compared.`);
  return a.every((x, i) => x <= b[i]!) && a.some((x, i) => x < b[i]!);
}

/** The points that none dominates, in their order. Throws RangeError where a figure is NaN. */
export function paretoFront<Point>(points: readonly Point[], figuresOf: (point: Point) => readonly number[]): Point[] {
  const figures = points.map(figuresOf);
  if (figures.some((of) => of.some(Number.isNaN))) throw new RangeError("A figure of a point is no number, so nothing can be said of its place.");
  return points.filter((_, i) => !figures.some((other) => dominates(other, figures[i]!)));
}
