// First stage of MoETuner: the experts of one layer in as many clusters as there are shards, their loads as even as can be:
// min sum over clusters of |load - mean|, no cluster empty. Owns this choice, by integer programme where it is small, by local search beyond.

import { IntegerProgramme } from "./placement-ilp.ts";

/** One layer. */
export interface ClusterTask {
  readonly load: Float64Array;
  readonly bytes: Float64Array;
  readonly nClusters: number;
  /** Of each cluster; Infinity is no limit. */
  readonly maxBytes: number;
}

/**
 * Experts x clusters up to which the programme is solved: number partitioning has a weak relaxation, and at 16 experts in 4 clusters the nodes already
 * run out on some loads, where the local search is as good.
 */
export const CLUSTER_ILP_MAX_BINARIES = 48;

/** Cluster of each expert, or null where the bytes leave no way that was found. */
export async function clusterLayer(task: ClusterTask): Promise<Int32Array | null> {
  if (task.load.length * task.nClusters <= CLUSTER_ILP_MAX_BINARIES) {
    const solved = await clustersByProgramme(task);
    if (solved === null || solved.proven) return solved?.clusterOf ?? null;
    return better(task, solved.clusterOf, clustersBySearch(task));
  }
  return clustersBySearch(task);
}

const better = (task: ClusterTask, a: Int32Array, b: Int32Array | null): Int32Array => (b !== null && unevenness(task, b) < unevenness(task, a) ? b : a);

/** What the first stage makes small. */
export function unevenness({ load, nClusters }: ClusterTask, clusterOf: Int32Array): number {
  const sums = new Float64Array(nClusters);
  clusterOf.forEach((c, e) => { sums[c]! += load[e]!; });
  const mean = load.reduce((total, x) => total + x, 0) / nClusters;
  return sums.reduce((total, x) => total + Math.abs(x - mean), 0);
}

async function clustersByProgramme({ load, bytes, nClusters, maxBytes }: ClusterTask): Promise<{ readonly clusterOf: Int32Array; readonly proven: boolean } | null> {
  const programme = new IntegerProgramme();
  const total = load.reduce((sum, x) => sum + x, 0);
  // In units of the mean, so that tolerances are the same for a hundred tokens and for a billion.
  const unit = total === 0 ? 1 : total / nClusters;
  const nExperts = load.length;
  // Clusters are alike: numbered by their first expert, cluster c has none before c.
  const x = Array.from({ length: nExperts }, (_, e) => Array.from({ length: nClusters }, (_, c) => programme.binary(c > e ? 0 : 1)));
  for (const row of x) programme.row(1, 1, row.map((variable) => [variable, 1]));
  for (let c = 0; c < nClusters; c++) {
    const away = programme.continuous(1);
    const terms = x.map((row, e) => [row[c]!, load[e]! / unit] as const);
    programme.row(-Infinity, total / nClusters / unit, [...terms, [away, -1]]);
    programme.row(total / nClusters / unit, Infinity, [...terms, [away, 1]]);
    if (nExperts >= nClusters) programme.row(1, Infinity, x.map((row) => [row[c]!, 1]));
    if (maxBytes !== Infinity) programme.row(-Infinity, 1, x.map((row, e) => [row[c]!, bytes[e]! / maxBytes]));
  }
  const solution = await programme.minimise();
  return solution && { clusterOf: Int32Array.from(x, (row) => row.findIndex((variable) => solution.values[variable]! > 0.5)), proven: solution.proven };
}

/** Largest first to the lightest cluster with room, then the best move or swap until none helps. */
function clustersBySearch(task: ClusterTask): Int32Array | null {
  const { load, bytes, nClusters, maxBytes } = task;
  const nExperts = load.length;
  const mean = load.reduce((total, x) => total + x, 0) / nClusters;
  const [sums, filled, counts] = [new Float64Array(nClusters), new Float64Array(nClusters), new Int32Array(nClusters)];
  const clusterOf = new Int32Array(nExperts).fill(-1);
  const order = Array.from(load.keys()).sort((a, b) => load[b]! - load[a]! || a - b);
  for (const [rank, e] of order.entries()) {
    let found = -1;
    for (let c = 0; c < nClusters; c++) {
      if (filled[c]! + bytes[e]! > maxBytes) continue;
      // The last experts go where none is yet.
      if (counts[c]! > 0 && nExperts - rank <= counts.reduce((empty, n) => empty + (n === 0 ? 1 : 0), 0)) continue;
      if (found < 0 || sums[c]! < sums[found]! || (sums[c]! === sums[found]! && counts[c]! < counts[found]!)) found = c;
    }
    if (found < 0) return null;
    clusterOf[e] = found;
    sums[found]! += load[e]!;
    filled[found]! += bytes[e]!;
    counts[found]!++;
  }
  const away = (a: number, b: number, shift: number): number => Math.abs(sums[a]! - shift - mean) + Math.abs(sums[b]! + shift - mean) - Math.abs(sums[a]! - mean) - Math.abs(sums[b]! - mean);
  const fits = (a: number, b: number, shift: number): boolean => filled[a]! - shift <= maxBytes && filled[b]! + shift <= maxBytes;
  for (let improved = true; improved; ) {
    improved = false;
    for (let e = 0; e < nExperts; e++) {
      let [best, to, other] = [-1e-9 * (mean || 1), -1, -1];
      const a = clusterOf[e]!;
      if (counts[a]! > 1) for (let c = 0; c < nClusters; c++) if (c !== a && fits(a, c, bytes[e]!) && away(a, c, load[e]!) < best) [best, to, other] = [away(a, c, load[e]!), c, -1];
      for (let f = 0; f < nExperts; f++) {
        const b = clusterOf[f]!;
        if (b !== a && fits(a, b, bytes[e]! - bytes[f]!) && away(a, b, load[e]! - load[f]!) < best) [best, to, other] = [away(a, b, load[e]! - load[f]!), b, f];
      }
      if (to < 0) continue;
      improved = true;
      const put = (expert: number, from: number, target: number): void => {
        clusterOf[expert] = target;
        for (const [values, amount] of [[sums, load[expert]!], [filled, bytes[expert]!], [counts, 1]] as const) {
          values[from]! -= amount;
          values[target]! += amount;
        }
      };
      put(e, a, to);
      if (other >= 0) put(other, to, a);
    }
  }
  return clusterOf;
}
