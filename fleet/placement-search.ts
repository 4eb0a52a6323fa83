// Local search over moves and swaps of experts within their layers: threshold accepting, then descent, from several starts, drawn from a seed and
// counted in steps. Owns what is tried and kept. Refuses clocks and Math.exp: the same input gives the same placement on every machine.

import { seededNumbers } from "../model/kernel-case.ts";
import { PlacementState, type SearchGoal } from "./placement-state.ts";
import type { PlacementTask, ShardMap } from "./placement-problem.ts";

export interface SearchOptions {
  /** Where experts may go: "moves and swaps", or "swaps", which keep how many each shard has in each layer. */
  readonly tries: "moves and swaps" | "swaps";
  readonly seed: number;
  /** Changes weighed in all, at most. One takes well under a microsecond. */
  readonly maxSteps: number;
}

export interface SearchResult {
  readonly shardOf: ShardMap;
  readonly objective: number;
  /** 0 where all limits hold. */
  readonly violation: number;
  readonly steps: number;
}

/** Each from another start or from the best so far; fewer where an expert would get fewer than 200 tries in one. */
const [MOST_ROUNDS, LEAST_TRIES] = [32, 200];
/** First threshold of each round, in mean changes. Large placements gain most from cool rounds; small ones with tight limits need hot ones to cross over. */
const WARMTH = [0.03, 0.01, 0.3, 0.03, 1, 0.1, 3, 0.3] as const;
/** Share of the steps kept for the descents. */
const DESCENT_SHARE = 0.3;
/** Changes looked at to learn how large one is. */
const SAMPLES = 256;
/** What passing a limit by its whole size weighs in objectives: enough to be drawn back, little enough to cross over; in a descent limits come first. */
const [PENALTY, DESCENT_PENALTY] = [10, 1e6];

/** The best placement found from any of the starts, which are among those compared. Earlier starts win ties. */
export function searchPlacement(task: PlacementTask, goal: SearchGoal, starts: readonly ShardMap[], { tries, seed, maxSteps }: SearchOptions): SearchResult {
  const random = seededNumbers(seed);
  let steps = 0;
  let best: SearchResult | null = null;
  const keep = (state: PlacementState): void => {
    // Summed anew: what was added up change by change may have lost last bits.
    const { objective, violation } = new PlacementState(task, goal, state.shardOf);
    if (best === null || violation < best.violation || (violation === best.violation && objective < best.objective)) best = { shardOf: state.shardOf.slice(), objective, violation, steps };
  };
  for (const start of starts) keep(new PlacementState(task, goal, start));
  const rounds = Math.max(2, Math.min(MOST_ROUNDS, Math.floor(maxSteps / (LEAST_TRIES * task.nLayers * task.nExperts))));
  const annealSteps = Math.floor((maxSteps * (1 - DESCENT_SHARE)) / rounds);
  const descentSteps = Math.floor((maxSteps * DESCENT_SHARE) / rounds);
  for (let round = 0; round < rounds; round++) {
    const state = new PlacementState(task, goal, round % 2 === 1 ? best!.shardOf : starts[(round >> 1) % starts.length]!);
    steps += anneal(state, tries, random, annealSteps, WARMTH[round % WARMTH.length]!);
    steps += descend(state, tries, descentSteps);
    keep(state);
  }
  return { ...best!, steps };
}

/** What a weighed change does to objective and limits together; below 0 is better. */
const gain = (state: PlacementState, scale: number, penalty: number): number =>
  (state.costChange + state.goal.slowestWeight * state.slowestChange) / scale + penalty * state.violationChange;

const scaleOf = (state: PlacementState): number => state.objective || 1;

/** Random changes, accepted while they worsen by less than a threshold that falls to nothing. */
function anneal(state: PlacementState, tries: SearchOptions["tries"], random: () => number, nSteps: number, warmth: number): number {
  const { nLayers, nExperts, nShards } = state.task;
  const scale = scaleOf(state);
  let [e, to, other] = [0, 0, -1];
  const draw = (): boolean => {
    e = Math.floor(random() * nLayers * nExperts);
    if (tries === "swaps" || random() < 0.5) {
      other = e - (e % nExperts) + Math.floor(random() * nExperts);
      to = state.shardOf[other]!;
    } else {
      other = -1;
      to = Math.floor(random() * nShards);
    }
    return to !== state.shardOf[e]!;
  };
  let [sum, seen] = [0, 0];
  for (let i = 0; i < Math.min(SAMPLES, nSteps); i++) {
    if (!draw()) continue;
    state.weigh(e, to, other);
    sum += Math.abs(gain(state, scale, PENALTY));
    seen++;
  }
  const first = seen === 0 ? 0 : (warmth * sum) / seen;
  for (let i = SAMPLES; i < nSteps; i++) {
    if (!draw()) continue;
    const left = 1 - i / nSteps;
    state.weigh(e, to, other);
    if (gain(state, scale, PENALTY) < first * left * left) state.apply(e, to, other);
  }
  return nSteps;
}

/** For each expert the best move or swap, if it helps, until none does. Limits come first. */
function descend(state: PlacementState, tries: SearchOptions["tries"], maxSteps: number): number {
  const { nLayers, nExperts, nShards } = state.task;
  const scale = scaleOf(state);
  let steps = 0;
  for (let unchanged = 0, e = 0; unchanged < nLayers * nExperts && steps < maxSteps; e = (e + 1) % (nLayers * nExperts)) {
    let [bestGain, bestTo, bestOther] = [-1e-12, -1, -1];
    const consider = (to: number, other: number): void => {
      if (to === state.shardOf[e]!) return;
      steps++;
      state.weigh(e, to, other);
      const found = gain(state, scale, DESCENT_PENALTY);
      if (found < bestGain) [bestGain, bestTo, bestOther] = [found, to, other];
    };
    if (tries === "moves and swaps") for (let to = 0; to < nShards; to++) consider(to, -1);
    const first = e - (e % nExperts);
    for (let other = first; other < first + nExperts; other++) consider(state.shardOf[other]!, other);
    unchanged++;
    if (bestTo < 0) continue;
    state.apply(e, bestTo, bestOther);
    unchanged = 0;
  }
  return steps;
}
