// Which processes of a local deployment hold which shards and stages (fleet-scripts.ts). Owns that rule's sentences: more processes than there is to hold are
// refused, and holders of one expert in the same process, since they would end together.

import type { PlannedRange } from "../fleet/plan.ts";
import type { PlannedStage } from "../fleet/fleet-plan.ts";
import { fleetScripts, heldStages, processOf, type FleetScript, type IsolateMode } from "./fleet-scripts.ts";

export interface ServeLayout {
  readonly shards: number;
  readonly processes: number;
  /** Shards that hold each expert: its own, and those after it (durable/fan-out.ts). Absent: 1. */
  readonly replicas?: number;
  /** What each shard holds where a plan says so. Absent: as many experts each as there is. */
  readonly slots?: readonly (readonly PlannedRange[])[];
  /** Absent: "class". */
  readonly isolate?: IsolateMode;
  /** Scripts for shards, with "script". Absent: as many as shards. */
  readonly scripts?: number;
  /** The ring of one lane. Absent: one orchestrator. */
  readonly stages?: readonly PlannedStage[];
  /** Absent: 1. */
  readonly lanes?: number;
}

/** Shards that hold what shard `shard` alone would hold without replicas. */
export const holdersOf = ({ shards, replicas = 1 }: ServeLayout, shard: number): number[] => Array.from({ length: replicas }, (_, n) => (shard + n) % shards);

/** The scripts of a layout, beside the edge's. */
/** The variable SHARDS_COUNT, for a plan that the deployment makes by itself: it has one shard at least. A plan that is given may have none. */
export const evenShards = ({ shards }: Pick<ServeLayout, "shards">): string => String(Math.max(1, shards));

export const scriptsOfLayout = ({ isolate = "class", shards, processes, replicas = 1, scripts = shards, stages = [], lanes = 1 }: ServeLayout, edge: string): FleetScript[] =>
  fleetScripts({ isolate, edge, shards, replicas, scripts, nStages: Math.max(1, stages.length), lanes, processes });

/** Throws where the layout makes no sense; one process may hold anything. */
export function requireLayout(layout: ServeLayout): void {
  const { isolate = "class", shards, processes, replicas = 1, scripts = shards, stages = [], lanes = 1 } = layout;
  const nOthers = processes - 1;
  if (isolate === "script" && scripts < shards) throw new Error(`--scripts ${scripts} leaves ${scripts} scripts for ${shards} shards; with --isolate script each has its own, so ask for at least ${shards}.`);
  const nHeld = Math.max(shards, isolate === "script" ? scripts : 0, heldStages({ nStages: Math.max(1, stages.length), lanes }));
  if (nOthers > nHeld) throw new Error(`--processes ${processes} leaves ${nOthers} processes for ${shards} shards; ask for more shards or for at most ${nHeld + 1} processes.`);
  if (replicas > Math.max(1, shards)) throw new Error(`--replicas ${replicas} asks for each expert on ${replicas} shards, and there are ${shards}; ask for more --shards or for at most ${shards} replicas.`);
  if (nOthers === 0) return;
  const meeting = holdersThatMeet(layout);
  if (meeting === null) return;
  const { pair, process } = meeting;
  const together = `--replicas ${replicas} puts an expert on shards ${pair[0]} and ${pair[1]}, which are both in shard process ${process} of ${nOthers} and would end together`;
  const others = [
    ...(replicas <= nOthers ? [`--shards ${Math.ceil(shards / nOthers) * nOthers}`] : [`at least --processes ${replicas + 1}`]),
    ...(isolate === "class" && holdersThatMeet({ ...layout, isolate: "script" }) === null ? ["--isolate script"] : []),
  ];
  throw new Error(`${together}; ${others.join(", or ")} keeps them apart.`);
}

/** The first two holders of one expert in one process; null: there are none. */
function holdersThatMeet(layout: ServeLayout): { readonly pair: readonly [number, number]; readonly process: number } | null {
  const scripts = scriptsOfLayout(layout, "");
  const at = (shard: number): number => processOf(scripts, "ExpertShard", shard);
  for (let shard = 0; shard < layout.shards; shard++) {
    const holders = holdersOf(layout, shard);
    const pair = holders.flatMap((a, i) => holders.slice(i + 1).filter((b) => at(a) === at(b)).map((b) => [a, b] as const))[0];
    if (pair !== undefined) return { pair, process: at(pair[0]) };
  }
  return null;
}
