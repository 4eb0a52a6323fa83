// How far rows of logits lie from the rows that are right: what the tables of docs/models.md and the bounds of tests are in. Rows may be logits or
// log-probabilities, which differ by a constant: every row counts from its mean. Owns the measures. Refuses to say which rows are comparable.

export interface LogitDifference {
  readonly rows: number;
  /** Root mean square error relative to the spread (standard deviation) of the right logits. */
  readonly relative: number;
  /** The same of the worst single row. */
  readonly worst: number;
  /** Mean Kullback-Leibler divergence from the right distribution, in nats. */
  readonly kl: number;
  /** Largest difference of log-probabilities among the right row's five most likely tokens, in nats. */
  readonly topLogprob: number;
  /** Rows whose most likely token is the other's too, of those where the right row prefers its own clearly. */
  readonly sameToken: number;
  readonly clearTokens: number;
}

function centred(row: ArrayLike<number>): Float64Array {
  const values = Float64Array.from(row);
  const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
  return values.map((x) => x - mean);
}

function logprobsOf(row: ArrayLike<number>): Float64Array {
  const values = Float64Array.from(row);
  const most = values.reduce((m, x) => Math.max(m, x), -Infinity);
  const total = most + Math.log(values.reduce((sum, x) => sum + Math.exp(x - most), 0));
  return values.map((x) => x - total);
}

/** Pairs of a right row and another one. A preference of more than `clearNats` over the next token is clear. */
export function logitDifference(pairs: Iterable<readonly [right: ArrayLike<number>, other: ArrayLike<number>]>, clearNats = 0.25): LogitDifference {
  let [rows, errors, squares, worst, kl, topLogprob, sameToken, clearTokens] = [0, 0, 0, 0, 0, 0, 0, 0];
  for (const [right, other] of pairs) {
    rows++;
    const [a, b] = [centred(right), centred(other)];
    const error = a.reduce((sum, x, i) => sum + (x - b[i]!) ** 2, 0);
    const spread = a.reduce((sum, x) => sum + x * x, 0);
    errors += error;
    squares += spread;
    worst = Math.max(worst, Math.sqrt(error / spread));
    const [p, q] = [logprobsOf(right), logprobsOf(other)];
    kl += p.reduce((sum, x, i) => sum + Math.exp(x) * (x - q[i]!), 0);
    const order = Array.from(p.keys()).sort((x, y) => p[y]! - p[x]!);
    for (const id of order.slice(0, 5)) topLogprob = Math.max(topLogprob, Math.abs(p[id]! - q[id]!));
    if (p[order[0]!]! - p[order[1]!]! <= clearNats) continue;
    clearTokens++;
    if (q.every((x) => x <= q[order[0]!]!)) sameToken++;
  }
  return { rows, relative: Math.sqrt(errors / squares), worst, kl: kl / rows, topLogprob, sameToken, clearTokens };
}
