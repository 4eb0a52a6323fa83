// Which shard holds which expert, as an optimisation: in order, in two stages as MoETuner, or jointly. Owns the modes, their limits and what a
// placement says of itself. Refuses problems without a solution, with the numbers, and formats: counts come from routing-counts.ts.

import { PlacementState, type SearchGoal } from "./placement-state.ts";
import { searchPlacement } from "./placement-search.ts";
import { measurePlacement, type PlacementMeasures } from "./placement-measures.ts";
import { contiguousMap, overfull, placementTask, type PlacementProblem, type PlacementTask, type ShardMap } from "./placement-problem.ts";
import { twoStageMap } from "./placement-two-stage.ts";
import type { Assign } from "./plan.ts";

export const PLACEMENT_MODES = ["contiguous", "two-stage", "joint"] as const;
export type PlacementMode = (typeof PLACEMENT_MODES)[number];

export interface PlacementOptions {
  readonly mode: PlacementMode;
  /** Of the local search; another seed may find another placement. */
  readonly seed?: number;
  /** Changes that a local search weighs at most. */
  readonly maxSteps?: number;
  /** Joint: no layer's load may vary more over the shards (coefficient of variation); by default no more than it does contiguously. */
  readonly maxLoadCv?: number;
  /** Joint: cost of one token more on a layer's slowest shard, in the unit of the cost between regions; by default a quarter of the mean cost between regions, 1 where nothing costs. */
  readonly slowestWeight?: number;
}

export interface Placement extends PlacementMeasures {
  readonly mode: PlacementMode;
  /** Shard of each expert, [layers][nExperts]. */
  readonly shardOf: ShardMap;
}

/**
 * Steps by default: 1,000 for each expert, so that each is tried many times against each other of its layer; at least enough that small problems come out exact,
 * at most what takes about three seconds on one core (2026-11: 48 layers of 128 experts over 16 shards).
 */
const STEPS_PER_EXPERT = 1_000;
const [LEAST_STEPS, MOST_STEPS] = [160_000, 1_500_000];

/** The same problem and options give the same placement, whatever the machine. Throws RangeError where there is none. */
export async function placeExperts(problem: PlacementProblem, options: PlacementOptions): Promise<Placement> {
  const task = placementTask(problem);
  const shardOf = await mapOf(task, options);
  return { mode: options.mode, shardOf, ...measurePlacement(task, shardOf) };
}

async function mapOf(task: PlacementTask, options: PlacementOptions): Promise<ShardMap> {
  const { mode, seed = 1, maxSteps = defaultSteps(task) } = options;
  if (mode === "joint") return jointMap(task, { ...options, seed, maxSteps });
  if (mode === "two-stage") return twoStageMap(task, { seed, maxSteps });
  const shardOf = contiguousMap(task);
  const over = overfull(task, shardOf, "Contiguous placement");
  if (over !== null) throw new RangeError(over);
  return shardOf;
}

const defaultSteps = ({ nLayers, nExperts }: PlacementTask): number => Math.min(MOST_STEPS, Math.max(LEAST_STEPS, nLayers * nExperts * STEPS_PER_EXPERT));

/** What the joint mode makes small and keeps. Where the contiguous placement fits, its cost is a limit too: evenness is never bought with more crossing. */
export function jointGoal(task: PlacementTask, { maxLoadCv, slowestWeight }: Pick<PlacementOptions, "maxLoadCv" | "slowestWeight">): SearchGoal {
  const { nLayers, nExperts, nShards, nRegions, load } = task;
  const contiguous = measurePlacement(task, contiguousMap(task));
  const maxSquares = Float64Array.from({ length: nLayers }, (_, i) => {
    const mean = load.subarray(i * nExperts, (i + 1) * nExperts).reduce((total, x) => total + x, 0) / nShards;
    const cv = maxLoadCv ?? contiguous.layers[i]!.loadCv;
    return nShards * mean * mean * (1 + cv * cv);
  });
  const borders = nRegions * (nRegions - 1);
  const meanCost = borders === 0 ? 0 : task.cost.reduce((total, c) => total + c, 0) / borders;
  return {
    slowestWeight: slowestWeight ?? (meanCost === 0 ? 1 : meanCost / 4), maxSquares,
    maxCrossCost: maxLoadCv !== undefined || overfull(task, contiguousMap(task), "") !== null ? Infinity : contiguous.crossCost,
  };
}

async function jointMap(task: PlacementTask, options: PlacementOptions & { readonly seed: number; readonly maxSteps: number }): Promise<ShardMap> {
  const goal = jointGoal(task, options);
  const starts = [contiguousMap(task)];
  try {
    starts.push(await twoStageMap(task, options));
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause; // no two-stage placement fits; the search may still find one that does
  }
  const order = starts.map((map) => ({ map, state: new PlacementState(task, goal, map) })).sort((a, b) => a.state.violation - b.state.violation || a.state.objective - b.state.objective);
  const { shardOf } = searchPlacement(task, goal, order.map(({ map }) => map), { ...options, tries: "moves and swaps" });
  const over = overfull(task, shardOf, "The fullest shard of the best joint placement found");
  if (over !== null) throw new RangeError(over);
  const { layers } = measurePlacement(task, shardOf);
  const worst = layers.reduce((a, b) => (b.loadCv > a.loadCv ? b : a));
  if (options.maxLoadCv !== undefined && worst.loadCv > options.maxLoadCv * (1 + 1e-6) + 1e-6) {
    throw new RangeError(`The most even joint placement found has a load variation of ${worst.loadCv.toFixed(4)} in layer ${worst.layer}; at most ${options.maxLoadCv} was asked for.`);
  }
  return shardOf;
}

/** For `makePlan`: all segments of an expert on its shard. Throws RangeError on an expert that was not placed. */
export function assignPlaced({ shardOf, layers }: Pick<Placement, "shardOf" | "layers">): Assign {
  const nExperts = shardOf.length / layers.length;
  const indexOf = new Map(layers.map(({ layer }, i) => [layer, i]));
  return (experts) => experts.map(({ layer, expert, segmentBytes }) => {
    const i = indexOf.get(layer);
    if (i === undefined || expert >= nExperts) throw new RangeError(`Expert ${expert} of layer ${layer} was not placed: the placement has ${nExperts} experts of layers ${[...indexOf.keys()].join(", ")}.`);
    return segmentBytes.map(() => shardOf[i * nExperts + expert]!);
  });
}
