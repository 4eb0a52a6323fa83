// Seeded deviates, fast enough for hundreds of millions: a table of normal quantiles indexed by xorshift bits.
// Owns the seed of every tensor (its name and one number), so that a tensor does not depend on the others or on their order.
// Refuses the clock and Math.random: the same seed gives the same file on every machine with the same Math.log.

const TABLE_BITS = 14;

/** The quantiles of a standard normal at (i + 1/2) / 2^14. Acklam's rational approximation, relative error below 1.2e-9. */
const QUANTILES: Float32Array = Float32Array.from({ length: 1 << TABLE_BITS }, (_, i) => normalQuantile((i + 0.5) / (1 << TABLE_BITS)));

/** FNV-1a over a text, mixed with a number: a seed that is never 0. */
export function seedOf(name: string, seed: number): number {
  let hash = 0x811c9dc5 ^ seed;
  for (let i = 0; i < name.length; i++) hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193);
  return (hash >>> 0) || 1;
}

export class RandomSource {
  #state: number;

  constructor(seed: number) {
    this.#state = seed | 0;
    if (this.#state === 0) throw new RangeError("A random source was seeded with 0, from which xorshift never moves; expected another number.");
  }

  #next(): number {
    let s = this.#state;
    s ^= s << 13;
    s ^= s >>> 17;
    s ^= s << 5;
    this.#state = s;
    return s >>> 0;
  }

  /** A whole number in [0, n), n up to 2^16. */
  below(n: number): number {
    return ((this.#next() >>> 16) * n) >>> 16;
  }

  /** Fills `out` with normal deviates of the given standard deviation. */
  fillNormal(out: Float32Array, deviation: number): void {
    for (let i = 0; i < out.length; i++) out[i] = QUANTILES[this.#next() >>> (32 - TABLE_BITS)]! * deviation;
  }
}

function normalQuantile(p: number): number {
  const a = [-3.969683028665376e1, 2.209460984245205e2, -2.759285104469687e2, 1.38357751867269e2, -3.066479806614716e1, 2.506628277459239];
  const b = [-5.447609879822406e1, 1.615858368580409e2, -1.556989798598866e2, 6.680131188771972e1, -1.328068155288572e1];
  const c = [-7.784894002430293e-3, -3.223964580411365e-1, -2.400758277161838, -2.549732539343734, 4.374664141464968, 2.938163982698783];
  const d = [7.784695709041462e-3, 3.224671290700398e-1, 2.445134137142996, 3.754408661907416];
  const polynomial = (factors: readonly number[], x: number): number => factors.reduce((sum, factor) => sum * x + factor, 0);
  if (p > 0.5) return -normalQuantile(1 - p);
  if (p < 0.02425) {
    const q = Math.sqrt(-2 * Math.log(p));
    return polynomial(c, q) / (polynomial(d, q) * q + 1);
  }
  const q = p - 0.5;
  const r = q * q;
  return (polynomial(a, r) * q) / (polynomial(b, r) * r + 1);
}
