// Counter-based randomness: a draw is a function of (seed, choice, position, draw) and nothing else, so a resumed or re-batched
// generation draws the same numbers. Owns the mixing (the 64-bit finaliser of MurmurHash3 by Austin Appleby, public domain, chained over the counters).
// Refuses hidden state. Not for secrets.

const MASK = (1n << 64n) - 1n;

const mix = (h: bigint): bigint => {
  h ^= h >> 33n;
  h = (h * 0xff51afd7ed558ccdn) & MASK;
  h ^= h >> 33n;
  h = (h * 0xc4ceb9fe1a85ec53n) & MASK;
  return h ^ (h >> 33n);
};

/** A number in [0, 1) with 53 random bits. All arguments are safe integers; seed may be negative. */
export function uniform(seed: number, choice: number, position: number, draw: number): number {
  let h = mix(BigInt.asUintN(64, BigInt(seed)) ^ 0x9e3779b97f4a7c15n);
  for (const counter of [choice, position, draw]) h = mix((h + BigInt(counter) * 0x9e3779b97f4a7c15n + 1n) & MASK);
  return Number(h >> 11n) / 2 ** 53;
}
