// Which of several models are measured further: successive halving's growing share of a text, with a test in place of a fixed half, as in racing (O. Maron and A. Moore,
// Hoeffding Races, 1994; M. Birattari et al., F-Race, 2002). All models predict the same tokens, so differences are taken token by token, which is far surer than
// two means. Owns the shares and the test. Refuses to judge by price alone: who takes fewer bytes than everybody stays, however badly it predicts.

/** A model under way: what it takes, smaller being better, and nats of the tokens measured so far. */
export interface Runner {
  readonly prices: readonly number[];
  readonly nats: ArrayLike<number>;
}

/** Parts of `n` windows to measure, each about twice the last, the last all of them: [n / 8, n / 4, n / 2, n], rounded up. */
export const growingShares = (n: number): number[] => [...new Set([8, 4, 2, 1].map((part) => Math.ceil(n / part)))];

/**
 * Whether b is worse than a for sure: no cheaper in anything, and worse in nats by more than `deviations` standard errors of the mean difference over the
 * tokens both were measured on. Tokens of a text are no independent draws, so this is a rule, not a probability. Fewer than 2 tokens say nothing.
 */
export function surelyWorse(a: Runner, b: Runner, deviations: number): boolean {
  if (a.prices.some((price, i) => price > b.prices[i]!)) return false;
  const n = Math.min(a.nats.length, b.nats.length);
  if (n < 2) return false;
  let [sum, squares] = [0, 0];
  for (let i = 0; i < n; i++) {
    const difference = b.nats[i]! - a.nats[i]!;
    sum += difference;
    squares += difference ** 2;
  }
  const mean = sum / n;
  const variance = Math.max(0, squares - n * mean ** 2) / (n - 1);
  return mean > deviations * Math.sqrt(variance / n);
}

/** Those that nobody beats for sure. There is always one: of the cheapest, the one that predicts best. */
export const stillRunning = <R extends Runner>(runners: readonly R[], deviations: number): R[] => runners.filter((b) => !runners.some((a) => a !== b && surelyWorse(a, b, deviations)));
