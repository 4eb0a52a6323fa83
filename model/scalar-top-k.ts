// The truth of top-k (docs/arithmetic.md section 7): the k largest of a row in rank order, ties to the lowest index, NaN below all.

/** Indices of the k largest; k is at most the row's length. */
export function largestIndices(row: ArrayLike<number>, k: number): number[] {
  const taken = new Set<number>();
  const ranked: number[] = [];
  for (let rank = 0; rank < k; rank++) {
    let best = -1;
    for (let i = 0; i < row.length; i++) {
      if (taken.has(i)) continue;
      if (best < 0 || row[i]! > row[best]! || (row[best] !== row[best] && row[i] === row[i])) best = i;
    }
    taken.add(best);
    ranked.push(best);
  }
  return ranked;
}
