// Routing that never was, for measures and tests: experts are as popular as Zipf's law says, and each of a token's stays for the next with some probability. Owns the draws, which are
// functions of the seed alone. Refuses to stand for a model: what is measured on it says how a measure behaves.

import { uniform } from "../model/random.ts";
import type { RoutedText } from "./routing-locality.ts";

export interface StickyZipf {
  readonly nExperts: number;
  readonly topK: number;
  readonly nTokens: number;
  /** Popularity of the expert of rank r, counted from 1, is r to the power of minus this; 0: all alike. */
  readonly exponent: number;
  /** Probability that an expert of a token is one of the next, 0 to 1. */
  readonly stay: number;
  readonly seed: number;
}

/** One text. Ranks are drawn among experts too, so that expert 0 is not the popular one. Throws RangeError for shapes that cannot be. */
export function stickyZipf({ nExperts, topK, nTokens, exponent, stay, seed }: StickyZipf): RoutedText {
  if (!(topK >= 1 && topK <= nExperts && stay >= 0 && stay <= 1 && exponent >= 0)) throw new RangeError(`Routing to ${topK} of ${nExperts} experts with an exponent of ${exponent} that stays with ${stay} was asked for; expected 1 to ${nExperts} experts, an exponent of at least 0, a probability.`);
  const order = Array.from({ length: nExperts }, (_, e) => e).sort((a, b) => uniform(seed, 0, 0, a) - uniform(seed, 0, 0, b));
  const popularity = new Float64Array(nExperts);
  order.forEach((expert, rank) => { popularity[expert] = (rank + 1) ** -exponent; });
  const tokens: number[][] = [];
  for (let t = 0; t < nTokens; t++) {
    const chosen = new Set((tokens.at(-1) ?? []).filter((expert) => uniform(seed, 1, t, expert) < stay));
    for (let draw = 0; chosen.size < topK; draw++) {
      let left = 0;
      for (let e = 0; e < nExperts; e++) if (!chosen.has(e)) left += popularity[e]!;
      let at = uniform(seed, 2, t, draw) * left;
      let last = -1;
      for (let e = 0; e < nExperts && at >= 0; e++) {
        if (chosen.has(e)) continue;
        last = e;
        at -= popularity[e]!;
      }
      chosen.add(last);
    }
    tokens.push([...chosen].sort((a, b) => a - b));
  }
  return tokens;
}
