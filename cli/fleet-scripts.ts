// Which Worker scripts a fleet lives in beside the edge's, and which process of a local cluster runs each: the rules of `--isolate class|script`.
// Objects of one class and script may share an isolate, scripts never do. Owns numbers and names: binding SHARDS_n is the n-th script with shards, STAGES_n the n-th
// with stages (durable/env.ts, durable/stage-objects.ts say which object is in which). Refuses configurations (script-configs.ts) and processes (local-cluster.ts).

export type IsolateMode = "class" | "script";
export const ISOLATE_MODES: readonly IsolateMode[] = ["class", "script"];

export type HeldClass = "ExpertShard" | "Stage";

export interface FleetScript {
  readonly name: string;
  readonly classes: readonly HeldClass[];
  /** Number of the local process; 0 is the one with the API. */
  readonly process: number;
}

export interface FleetShape {
  readonly isolate: IsolateMode;
  /** Of the edge's script. */
  readonly edge: string;
  readonly shards: number;
  /** Shards that hold each expert. */
  readonly replicas: number;
  /** Scripts for shards, with --isolate script: at least one for each. More are room to grow. */
  readonly scripts: number;
  /** Of one lane, the first one among them. */
  readonly nStages: number;
  readonly lanes: number;
  /** Local ones; 1 on Cloudflare. */
  readonly processes: number;
}

/** An account has so many (2026-11, Workers Paid). */
export const MOST_SCRIPTS = 500;

/** Stages after the first, of all lanes: the first is the orchestrator, in the edge's script. */
export const heldStages = ({ nStages, lanes }: Pick<FleetShape, "nStages" | "lanes">): number => lanes * (nStages - 1);

/** The scripts beside the edge's. None: every class is the edge's. */
export function fleetScripts(shape: FleetShape): FleetScript[] {
  const { isolate, edge, processes } = shape;
  const nStages = heldStages(shape);
  if (isolate === "script") {
    const shards = processOfShardScripts(shape);
    // Shards and stages side by side: those of neighbouring layers work at different times.
    const stages = Array.from({ length: nStages }, (_, n) => (processes === 1 ? 0 : 1 + (n % (processes - 1))));
    return [
      ...shards.map((process, n): FleetScript => ({ name: `${edge}-shard-${n}`, classes: ["ExpertShard"], process })),
      ...stages.map((process, n): FleetScript => ({ name: `${edge}-stage-${n}`, classes: ["Stage"], process })),
    ];
  }
  const classes: readonly HeldClass[] = nStages === 0 ? ["ExpertShard"] : ["ExpertShard", "Stage"];
  return Array.from({ length: processes - 1 }, (_, n) => ({ name: `${edge}-shards-${n}`, classes, process: n + 1 }));
}

/** The scripts that hold objects of a class, by the number of their binding. */
export const scriptsOf = (scripts: readonly FleetScript[], held: HeldClass): FleetScript[] => scripts.filter(({ classes }) => classes.includes(held));

/** Number of the process where an object lives: its script is number `n` modulo their number. */
export function processOf(scripts: readonly FleetScript[], held: HeldClass, n: number): number {
  const of = scriptsOf(scripts, held);
  return of.length === 0 ? 0 : of[n % of.length]!.process;
}

/**
 * Where each shard's script runs: by turns, unless holders of one expert (so many shards in a row, round in a ring) would meet at the ring's end and another order
 * keeps them apart. That is rows of at least `replicas` and at most as many scripts as there are processes: each begins with the same replicas - 1 processes,
 * and goes on with the others by turns, so that any `replicas` in a row differ. Rows as even as can be are the longest short ones: where they are too short, no order is left.
 */
function processOfShardScripts({ shards, scripts, replicas, processes }: FleetShape): number[] {
  const nOthers = processes - 1;
  const byTurns = Array.from({ length: scripts }, (_, n) => (nOthers === 0 ? 0 : 1 + (n % nOthers)));
  const rows = nOthers === 0 ? 1 : Math.ceil(shards / nOthers);
  if (replicas === 1 || nOthers === 0 || shards % nOthers === 0 || Math.floor(shards / rows) < replicas) return byTurns;
  const order: number[] = [];
  for (let row = 0, turn = 0; row < rows; row++) {
    const length = Math.floor(shards / rows) + (row < shards % rows ? 1 : 0);
    for (let at = 0; at < length; at++) order.push(1 + (at < replicas - 1 ? at : replicas - 1 + (turn++ % (nOthers - replicas + 1))));
  }
  // A process that got nothing takes one of the fullest's: it meets nobody.
  for (let process = 1; process <= nOthers; process++) {
    if (order.includes(process)) continue;
    const counts = order.map((of) => order.filter((other) => other === of).length);
    order[counts.lastIndexOf(Math.max(...counts))] = process;
  }
  return [...order, ...byTurns.slice(shards)];
}
