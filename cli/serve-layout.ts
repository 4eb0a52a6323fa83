// Which processes of a local deployment hold which shards: shard n lives in process n modulo their number, the first process apart. Owns that rule's sentences:
// more processes than shards are refused, and holders of one expert in the same process, since they would end together.

import type { PlannedRange } from "../fleet/plan.ts";

export interface ServeLayout {
  readonly shards: number;
  readonly processes: number;
  /** Shards that hold each expert: its own, and those after it (durable/fan-out.ts). Absent: 1. */
  readonly replicas?: number;
  /** What each shard holds where a plan says so. Absent: as many experts each as there is. */
  readonly slots?: readonly (readonly PlannedRange[])[];
}

/** Shards that hold what shard `shard` alone would hold without replicas. */
export const holdersOf = ({ shards, replicas = 1 }: ServeLayout, shard: number): number[] => Array.from({ length: replicas }, (_, n) => (shard + n) % shards);

/** Throws where the layout makes no sense; one process may hold anything. */
export function requireLayout(layout: ServeLayout): void {
  const { shards, processes, replicas = 1 } = layout;
  const nScripts = processes - 1;
  if (nScripts > shards) throw new Error(`--processes ${processes} leaves ${nScripts} processes for ${shards} shards; ask for more shards or for at most ${shards + 1} processes.`);
  if (replicas > shards) throw new Error(`--replicas ${replicas} asks for each expert on ${replicas} shards, and there are ${shards}; ask for more --shards or for at most ${shards} replicas.`);
  if (nScripts === 0) return;
  for (let shard = 0; shard < shards; shard++) {
    const holders = holdersOf(layout, shard);
    const pair = holders.flatMap((a, i) => holders.slice(i + 1).filter((b) => a % nScripts === b % nScripts).map((b) => [a, b] as const))[0];
    if (pair === undefined) continue;
    const fits = replicas <= nScripts ? `--shards ${Math.ceil(shards / nScripts) * nScripts}` : `at least --processes ${replicas + 1}`;
    throw new Error(`--replicas ${replicas} puts an expert on shards ${pair[0]} and ${pair[1]}, which are both in shard process ${(pair[0] % nScripts) + 1} of ${nScripts} and would end together; ${fits} keeps them apart.`);
  }
}
