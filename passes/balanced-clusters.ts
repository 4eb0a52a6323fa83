// Clusters of equal size: k-means in which every round gives each cluster the same number of vectors, by the cheapest assignment there is (a flow). What EMoE (2024)
// cuts a dense feed-forward part into experts with. Owns the rounds. Refuses sizes that do not divide, and chance that is not seeded.

import { FlowNetwork } from "../fleet/min-cost-flow.ts";
import { uniform } from "../model/random.ts";

/** Distances are compared in steps of this share of the largest: flows count in whole numbers, and take longer the more different ones there are. */
const STEPS = 1024;

export interface BalancedClusters {
  /** Cluster of each vector. */
  readonly of: Uint32Array;
  /** Sum of squared distances from the clusters' means. */
  readonly distance: number;
}

/** `vectors`: f32 [n, size]. The best of a few beginnings, after at most `rounds` rounds each. */
export function balancedClusters(vectors: Float32Array, n: number, size: number, k: number, { seed = 1, restarts = 3, rounds = 20 } = {}): BalancedClusters {
  if (!Number.isInteger(k) || k < 1 || n % k !== 0) throw new RangeError(`${n} vectors were to be divided into ${k} clusters of equal size; expected a divisor of ${n}.`);
  let best: BalancedClusters | null = null;
  for (let restart = 0; restart < restarts; restart++) {
    const found = fromSeed(vectors, n, size, k, rounds, (draw) => uniform(seed, k, restart, draw));
    if (best === null || found.distance < best.distance) best = found;
  }
  return best!;
}

function fromSeed(vectors: Float32Array, n: number, size: number, k: number, rounds: number, draw: (number: number) => number): BalancedClusters {
  let means = firstMeans(vectors, n, size, k, draw);
  let of: Uint32Array = new Uint32Array(n);
  let distance = Infinity;
  for (let round = 0; round < rounds; round++) {
    const next = assigned(distancesTo(vectors, n, size, means, k), n, k);
    const nextMeans = meansOf(vectors, n, size, next, k);
    const sum = next.reduce((total, cluster, i) => total + squared(vectors, i * size, nextMeans, cluster * size, size), 0);
    // Rounded costs may make the last round turn in a circle.
    if (sum >= distance - 1e-12 * distance) break;
    [of, means, distance] = [next, nextMeans, sum];
  }
  return { of, distance };
}

function squared(a: Float32Array, from: number, b: Float64Array, at: number, size: number): number {
  let sum = 0;
  for (let i = 0; i < size; i++) sum += (a[from + i]! - b[at + i]!) ** 2;
  return sum;
}

/** k-means++: the first by chance, each further one with a chance in proportion to its squared distance from the nearest. */
function firstMeans(vectors: Float32Array, n: number, size: number, k: number, draw: (number: number) => number): Float64Array {
  const means = new Float64Array(k * size);
  const nearest = new Float64Array(n).fill(Infinity);
  let chosen = Math.floor(draw(0) * n);
  for (let c = 0; c < k; c++) {
    means.set(vectors.subarray(chosen * size, (chosen + 1) * size), c * size);
    for (let i = 0; i < n; i++) nearest[i] = Math.min(nearest[i]!, squared(vectors, i * size, means, c * size, size));
    let at = draw(c + 1) * nearest.reduce((a, b) => a + b, 0);
    chosen = nearest.findIndex((distance) => (at -= distance) < 0);
    if (chosen < 0) chosen = n - 1;
  }
  return means;
}

function distancesTo(vectors: Float32Array, n: number, size: number, means: Float64Array, k: number): Float64Array {
  return Float64Array.from({ length: n * k }, (_, at) => squared(vectors, Math.floor(at / k) * size, means, (at % k) * size, size));
}

/** The cheapest assignment of n vectors to k clusters of n / k. */
function assigned(distances: Float64Array, n: number, k: number): Uint32Array {
  const largest = distances.reduce((a, b) => Math.max(a, b), 0) || 1;
  const network = new FlowNetwork(n + k + 2);
  const [source, sink] = [n + k, n + k + 1];
  const edges = Array.from({ length: n * k }, (_, at) => network.edge(Math.floor(at / k), n + (at % k), 1, Math.round((distances[at]! / largest) * STEPS)));
  for (let i = 0; i < n; i++) network.edge(source, i, 1, 0);
  for (let c = 0; c < k; c++) network.edge(n + c, sink, n / k, 0);
  network.send(source, sink);
  return Uint32Array.from({ length: n }, (_, i) => edges.slice(i * k, (i + 1) * k).findIndex((edge) => network.flowOn(edge) > 0));
}

function meansOf(vectors: Float32Array, n: number, size: number, of: Uint32Array, k: number): Float64Array {
  const means = new Float64Array(k * size);
  for (let i = 0; i < n; i++) for (let j = 0; j < size; j++) means[of[i]! * size + j]! += vectors[i * size + j]! / (n / k);
  return means;
}
