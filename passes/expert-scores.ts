// What each expert of a layer is worth to some texts. Owns three measures: EASY-EP's (2025), which counts how much an expert gives to tokens that the layer turns;
// how often it is chosen; and none. Refuses to decide how many stay (prune-model.ts).

import type { TraceColumn, TraceRecord } from "../formats/trace.ts";
import { uniform } from "../model/random.ts";

export const SCORES = ["easy-ep", "frequency", "random"] as const;
export type ScoreName = (typeof SCORES)[number];

/** Columns of the trace that a score reads. */
export const SCORE_COLUMNS: Readonly<Record<ScoreName, readonly TraceColumn[]>> = { "easy-ep": ["ids", "weights", "norms", "cosine"], frequency: ["ids", "weights"], random: ["ids", "weights"] };

/** Score of every expert of a layer, [nExperts]; more is better. `seed`: of random ones. */
export function expertScores(score: ScoreName, layer: number, records: readonly TraceRecord[], nExperts: number, seed: number): Float64Array {
  const out = new Float64Array(nExperts);
  if (score === "random") return out.map((_, expert) => uniform(seed, layer, expert, 0));
  for (const { ids, weights, norms, cosine } of records) {
    for (let rank = 0; rank < ids.length; rank++) {
      // EASY-EP: the gate's weight, the norm of what the expert gave, and one minus the cosine of the token before and after the experts.
      out[ids[rank]!]! += score === "frequency" ? 1 : weights[rank]! * norms![rank]! * Math.max(0, 1 - cosine![0]!);
    }
  }
  return out;
}

/** Scores of several domains as one: each made to add up to 1, so that none counts more for having more tokens. */
export function mixedScores(domains: readonly Float64Array[]): Float64Array {
  const out = new Float64Array(domains[0]!.length);
  for (const scores of domains) {
    const sum = scores.reduce((a, b) => a + b, 0);
    scores.forEach((score, expert) => { out[expert]! += sum === 0 ? 0 : score / sum; });
  }
  return out;
}

/** The `keep` best, ascending; of equal scores the lower number. With groups (DeepSeek) as many of each. */
export function bestExperts(scores: Float64Array, keep: number, nGroups = 1): number[] {
  const perGroup = scores.length / nGroups;
  return Array.from({ length: nGroups }, (_, group) => Array.from({ length: perGroup }, (_, i) => group * perGroup + i)
    .sort((a, b) => scores[b]! - scores[a]! || a - b).slice(0, keep / nGroups)).flat().sort((a, b) => a - b);
}
