// Clusters of experts by their likeness: k-means with k-means++ seeding (Arthur and Vassilvitskii, 2007) on their outputs, of which nothing but the matrix of mean
// cosines is needed, since squared distances are made of it. And how many clusters each layer gets, for the least distance over all layers together.
// Experts may have masses: means and sums are then weighted by them. Owns both. Refuses chance that is not seeded.

import { uniform } from "../model/random.ts";
import { chooseBits } from "./bit-knapsack.ts";

export interface Clustering {
  /** Cluster of each expert, numbered by their first member. */
  readonly of: readonly number[];
  /** Sum of squared distances of experts from their clusters' means. */
  readonly distance: number;
}

const RESTARTS = 8;
const ROUNDS = 50;

/** What is known of a layer's experts. */
export interface Likeness {
  /** Mean cosines, [n, n]. */
  readonly likeness: Float64Array;
  /** How much each one's distance counts; above zero. All 1 where nothing is said. */
  readonly masses?: readonly number[];
}

/** The best of some restarts; `layer` and `seed` decide the draws. */
export function clusterExperts({ likeness, masses }: Likeness, n: number, k: number, seed: number, layer: number): Clustering {
  if (!Number.isInteger(k) || k < 1 || k > n) throw new RangeError(`${k} clusters of ${n} experts were asked for; expected 1 to ${n}.`);
  const mass = masses ?? new Array<number>(n).fill(1);
  if (mass.length !== n || mass.some((of) => !(of > 0 && of < Infinity))) throw new RangeError(`Masses ${mass.join(", ")} were given; expected a number above zero for each of ${n} experts.`);
  let best: Clustering | null = null;
  for (let restart = 0; restart < RESTARTS; restart++) {
    const found = kMeans(likeness, mass, n, seeds(likeness, mass, n, k, (draw) => uniform(seed, layer * 65_536 + k, restart, draw)));
    if (best === null || found.distance < best.distance - 1e-12) best = found;
  }
  return best!;
}

const distanceBetween = (likeness: Float64Array, n: number, a: number, b: number): number => likeness[a * n + a]! + likeness[b * n + b]! - 2 * likeness[a * n + b]!;

/** Experts to begin with: the first by chance, each further one with a chance in proportion to its mass and its distance from the nearest. */
function seeds(likeness: Float64Array, mass: readonly number[], n: number, k: number, draw: (number: number) => number): number[] {
  const chosen = [Math.floor(draw(0) * n)];
  while (chosen.length < k) {
    const distances = Array.from({ length: n }, (_, e) => mass[e]! * Math.max(0, Math.min(...chosen.map((c) => distanceBetween(likeness, n, e, c)))));
    let at = draw(chosen.length) * distances.reduce((a, b) => a + b, 0);
    let next = distances.findIndex((distance) => (at -= distance) < 0);
    if (next < 0 || chosen.includes(next)) next = Array.from({ length: n }, (_, e) => e).find((e) => !chosen.includes(e))!;
    chosen.push(next);
  }
  return chosen;
}

function kMeans(likeness: Float64Array, mass: readonly number[], n: number, begin: readonly number[]): Clustering {
  const k = begin.length;
  let of = Array.from({ length: n }, (_, e) => begin.reduce((best, seed, c) => (distanceBetween(likeness, n, e, seed) < distanceBetween(likeness, n, e, begin[best]!) ? c : best), 0));
  begin.forEach((seed, c) => { of[seed] = c; });
  for (let round = 0; round < ROUNDS; round++) {
    const members = Array.from({ length: k }, (_, c) => of.flatMap((own, e) => (own === c ? [e] : [])));
    const distances = members.map((cluster) => distancesFrom(likeness, mass, n, cluster));
    const next = of.map((own, e) => (members[own]!.length === 1 ? own : distances.reduce((best, from, c) => (from[e]! < distances[best]![e]! - 1e-12 ? c : best), own)));
    // Moved all at once, a cluster could lose everybody: then its nearest stays.
    members.forEach((cluster, c) => { if (!next.includes(c)) next[cluster.reduce((best, e) => (distances[c]![e]! < distances[c]![best]! ? e : best))] = c; });
    if (next.every((c, e) => c === of[e])) break;
    of = next;
  }
  const members = Array.from({ length: k }, (_, c) => of.flatMap((own, e) => (own === c ? [e] : [])));
  const distances = members.map((cluster) => distancesFrom(likeness, mass, n, cluster));
  const names = [...new Set(of)];
  return { of: of.map((c) => names.indexOf(c)), distance: of.reduce((sum, c, e) => sum + mass[e]! * distances[c]![e]!, 0) };
}

/** Squared distance of every expert from the mean of some. */
function distancesFrom(likeness: Float64Array, mass: readonly number[], n: number, cluster: readonly number[]): Float64Array {
  const whole = cluster.reduce((sum, e) => sum + mass[e]!, 0);
  let within = 0;
  for (const a of cluster) for (const b of cluster) within += (mass[a]! * mass[b]! * likeness[a * n + b]!) / (whole * whole);
  return Float64Array.from({ length: n }, (_, e) => Math.max(0, likeness[e * n + e]! + within - (2 * cluster.reduce((sum, c) => sum + mass[c]! * likeness[e * n + c]!, 0)) / whole));
}

/** Clusters of each layer, `total` of them together and at least `least` in each, with the least sum of distances: exact, by knapsack. */
export function clusterLayers(layers: readonly (Likeness & { readonly layer: number })[], n: number, total: number, least: number, seed: number): Clustering[] {
  const counts = Array.from({ length: n - least + 1 }, (_, i) => least + i);
  const byCount = layers.map((of) => counts.map((k) => clusterExperts(of, n, k, seed, of.layer)));
  // More clusters may by bad luck have been found with a larger distance: then the fewer serve.
  const chosen = chooseBits({ widths: counts, costs: byCount.map((of) => of.map(({ distance }) => distance)), budget: total });
  return chosen.map((k, i) => byCount[i]![k - least]!);
}
