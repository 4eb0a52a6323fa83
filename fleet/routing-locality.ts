// How local routing is in time: SRP, how well a fixed set of experts can serve a segment of m tokens, and the experts' share in it (segment routing best performance; local routing
// consistency, 2025). Counts of every expert in every window of m tokens decide it; windows do not cross texts. Owns the counts and F1. Refuses caches: expert-caches.ts.

/** Tokens of a text in one layer, each with its distinct experts. */
export type RoutedText = readonly ArrayLike<number>[];

export interface SegmentRouting {
  /** The best F1 between "an expert that a segment uses at least alpha times serves all of it" and what its tokens asked for. */
  readonly srp: number;
  /** The threshold that gives it; the lowest of equals. */
  readonly alpha: number;
  /** Places that are kept, over places that are asked for: m times the kept pairs of window and expert, over all uses. */
  readonly rho: number;
}

export interface LayerSegmentRouting extends SegmentRouting {
  readonly windows: number;
  /** Each expert with a threshold of its own; srp 0 for one that no window uses. */
  readonly experts: readonly SegmentRouting[];
}

export function checkSegment(m: number): void {
  if (!Number.isInteger(m) || m < 1) throw new RangeError(`Segments of ${m} tokens were asked for; expected a whole number above 0.`);
}

/** Windows in which an expert is used f times: [expert][f], f = 0 .. m. */
export function segmentCounts(texts: readonly RoutedText[], nExperts: number, m: number): { readonly windows: number; readonly counts: readonly Float64Array[] } {
  checkSegment(m);
  const counts = Array.from({ length: nExperts }, () => new Float64Array(m + 1));
  let windows = 0;
  for (const text of texts) {
    const uses = new Int32Array(nExperts);
    const add = (token: ArrayLike<number>, by: number): void => {
      for (let i = 0; i < token.length; i++) uses[token[i]!]! += by;
    };
    for (const [t, token] of text.entries()) {
      add(token, 1);
      if (t >= m) add(text[t - m]!, -1);
      if (t < m - 1) continue;
      windows++;
      for (let e = 0; e < nExperts; e++) counts[e]![uses[e]!]!++;
    }
  }
  return { windows, counts };
}

/** From windows by uses, [f]. */
export function bestThreshold(byUses: ArrayLike<number>): SegmentRouting {
  const m = byUses.length - 1;
  let uses = 0;
  for (let f = 1; f <= m; f++) uses += byUses[f]! * f;
  let best: SegmentRouting = { srp: 0, alpha: 1, rho: 0 };
  if (uses === 0) return best;
  let [kept, served] = [0, 0]; // pairs of window and expert with f >= alpha, and their uses
  for (let alpha = m; alpha >= 1; alpha--) {
    kept += byUses[alpha]!;
    served += byUses[alpha]! * alpha;
    const srp = (2 * served) / (m * kept + uses);
    if (srp >= best.srp && kept > 0) best = { srp, alpha, rho: (m * kept) / uses };
  }
  return best;
}

/** Of a layer: with one threshold for all experts, and with one for each. */
export function segmentRouting(texts: readonly RoutedText[], nExperts: number, m: number): LayerSegmentRouting {
  const { windows, counts } = segmentCounts(texts, nExperts, m);
  const all = Float64Array.from({ length: m + 1 }, (_, f) => counts.reduce((sum, of) => sum + of[f]!, 0));
  return { ...bestThreshold(all), windows, experts: counts.map(bestThreshold) };
}
