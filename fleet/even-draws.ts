// What is expected where every token draws its experts evenly and apart from other tokens: the case without a trace, which spreads most.
// Owns the chances (hypergeometric). Refuses messages and bytes: traffic.ts.

/** Chance that a token's `topK` of `nExperts` experts are all among the others. */
export function missChance(nExperts: number, topK: number, held: number): number {
  let chance = 1;
  for (let i = 0; i < topK; i++) chance *= Math.max(0, nExperts - held - i) / (nExperts - i);
  return chance;
}

/** Expected most experts of one layer that one token finds on one shard. Shards are taken as apart from each other, which is near enough. */
export function busiestExperts(nExperts: number, topK: number, heldExperts: Uint32Array): number {
  const most = Math.max(0, ...heldExperts);
  const counts = new Map<number, number>();
  for (const held of heldExperts) if (held > 0) counts.set(held, (counts.get(held) ?? 0) + 1);
  const holders = heldExperts.reduce((n, held) => n + (held > 0 ? 1 : 0), 0);
  let expected = 0;
  for (let m = 0; m < Math.min(most, topK); m++) {
    // Some shard has at least its share.
    let atMost = m * holders < topK ? 0 : 1;
    for (const [held, shards] of counts) atMost *= hypergeometricAtMost(nExperts, topK, held, m) ** shards;
    expected += 1 - atMost;
  }
  return expected;
}

/** Chance that of `topK` experts drawn from `nExperts` at most `m` are among `held`. */
export function hypergeometricAtMost(nExperts: number, topK: number, held: number, m: number): number {
  let [chance, sum] = [missChance(nExperts, topK, held), 0];
  // Where none cannot be, begin at the least that can.
  const least = Math.max(0, topK - (nExperts - held));
  if (least > 0) {
    chance = 1;
    for (let i = 0; i < nExperts - held; i++) chance *= (topK - i) / (nExperts - i);
  }
  for (let j = least; j <= Math.min(m, held, topK); j++) {
    sum += chance;
    chance *= (held - j) * (topK - j) / ((j + 1) * (nExperts - held - topK + j + 1));
  }
  return Math.min(1, sum);
}
