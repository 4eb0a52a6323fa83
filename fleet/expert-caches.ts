// How often a token's experts are in a cache of C experts: SCH, which sees the next m tokens (segment cache best hit rate; local routing consistency, 2025, as its code computes it), and beside
// it LRU, which sees the past, and Belady's MIN, which sees everything. Owns the three and what counts as a hit: all of a token's experts are looked for in the cache as it was before the
// token, and one that was never asked for before counts as a hit while fewer than C have been: the place is free. Refuses to know how long a miss takes.

import { checkSegment, type RoutedText } from "./routing-locality.ts";

export interface HitCount {
  readonly hits: number;
  readonly of: number;
}

/** Who goes, of those in the cache. */
interface Policy {
  /** A token's turn: those of its experts that the cache has, before the others are loaded. */
  begin(position: number, found: readonly number[]): void;
  /** An expert was loaded for the token. */
  loaded(expert: number): void;
  /** Lower goes first; of equals the one used longest ago. */
  worth(expert: number): number;
}

/** One stream of tokens, text after text. */
const streamOf = (texts: readonly RoutedText[]): RoutedText => texts.flat();

function checkSize(size: number): void {
  if (!Number.isInteger(size) || size < 1) throw new RangeError(`A cache of ${size} experts was asked for; expected a whole number above 0.`);
}

/** Whether an expert's first use finds a place that nobody has had. */
const isFree = (expert: number, seen: ReadonlySet<number>, size: number): boolean => !seen.has(expert) && seen.size < size;

function hitsOf(stream: RoutedText, size: number, policy: Policy): HitCount {
  checkSize(size);
  const cached = new Set<number>();
  const seen = new Set<number>();
  const lastUse = new Map<number, number>();
  let [hits, of] = [0, 0];
  for (const [position, token] of stream.entries()) {
    const experts = Array.from(token);
    const found = experts.filter((expert) => cached.has(expert));
    hits += found.length;
    of += experts.length;
    for (const expert of experts) {
      if (isFree(expert, seen, size)) hits++;
      seen.add(expert);
    }
    policy.begin(position, found);
    for (const expert of found) lastUse.set(expert, position);
    for (const expert of experts) {
      if (found.includes(expert)) continue;
      if (cached.size >= size) {
        let [gone, least, used] = [-1, Infinity, Infinity];
        for (const candidate of cached) {
          const worth = policy.worth(candidate);
          const last = lastUse.get(candidate)!;
          if (worth < least || (worth === least && last < used)) [gone, least, used] = [candidate, worth, last];
        }
        cached.delete(gone);
      }
      cached.add(expert);
      lastUse.set(expert, position);
      policy.loaded(expert);
    }
  }
  return { hits, of };
}

/** Evicts who is used least among the next m tokens, this one's uses included until they are served. */
export function segmentCacheHits(texts: readonly RoutedText[], size: number, m: number): HitCount {
  checkSegment(m);
  const stream = streamOf(texts);
  // Uses among the tokens seen ahead that are not served yet: each token takes its own away, for every expert of it is found or loaded.
  const ahead = new Map<number, number>();
  let end = 0;
  const count = (expert: number, by: number): void => void ahead.set(expert, (ahead.get(expert) ?? 0) + by);
  return hitsOf(stream, size, {
    begin(position, found) {
      for (; end < Math.min(position + m, stream.length); end++) for (const expert of Array.from(stream[end]!)) count(expert, 1);
      for (const expert of found) count(expert, -1);
    },
    loaded: (expert) => count(expert, -1),
    worth: (expert) => ahead.get(expert) ?? 0,
  });
}

/** Evicts who was used longest ago: all are worth the same. */
export const recentlyUsedHits = (texts: readonly RoutedText[], size: number): HitCount => hitsOf(streamOf(texts), size, { begin() {}, loaded() {}, worth: () => 0 });

/** Keeps, of the cache and the token's experts, those that are asked for again soonest, and need not keep what was loaded: no cache of this size has more hits. */
export function bestHits(texts: readonly RoutedText[], size: number): HitCount {
  checkSize(size);
  const stream = streamOf(texts).map((token) => Array.from(token));
  // By token and place within it: when that expert is asked for again.
  const again = stream.map((token) => token.map(() => Infinity));
  const later = new Map<number, number>();
  for (let t = stream.length - 1; t >= 0; t--) {
    stream[t]!.forEach((expert, i) => { again[t]![i] = later.get(expert) ?? Infinity; });
    for (const expert of stream[t]!) later.set(expert, t);
  }
  let cached = new Map<number, number>(); // when each is asked for again
  const seen = new Set<number>();
  let [hits, of] = [0, 0];
  for (const [t, token] of stream.entries()) {
    of += token.length;
    for (const expert of token) {
      if (cached.has(expert) || isFree(expert, seen, size)) hits++;
      seen.add(expert);
    }
    token.forEach((expert, i) => cached.set(expert, again[t]![i]!));
    if (cached.size > size) cached = new Map([...cached].sort(([, x], [, y]) => x - y).slice(0, size));
  }
  return { hits, of };
}
