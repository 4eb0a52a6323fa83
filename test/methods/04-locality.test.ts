// Row 4, local routing consistency (2025): SRP and SCH as published, by hand, against naive forms on random traces, and LRU and Belady's MIN beside them, the latter against every choice there is.

import { describe, expect, it } from "vitest";
import { bestHits, recentlyUsedHits, segmentCacheHits } from "../../fleet/expert-caches.ts";
import { bestThreshold, type RoutedText, segmentCounts, segmentRouting } from "../../fleet/routing-locality.ts";
import { stickyZipf } from "../../fleet/synthetic-routing.ts";
import { TraceLocality } from "../../fleet/trace-locality.ts";
import { SeededRandom } from "../support/seeded-random.ts";

const HAND: RoutedText = [[0, 1], [1, 2], [2, 3], [0, 1], [1, 2], [3, 0]];

function randomTrace(random: SeededRandom): { trace: number[][]; nExperts: number; topK: number } {
  const nExperts = 2 + random.below(7);
  const topK = 1 + random.below(Math.min(4, nExperts));
  const trace = Array.from({ length: 1 + random.below(30) }, () => {
    const left = Array.from({ length: nExperts }, (_, e) => e);
    return Array.from({ length: topK }, () => left.splice(random.below(left.length), 1)[0]!);
  });
  return { trace, nExperts, topK };
}

describe("SRP", () => {
  it("by hand", () => {
    // Windows of two: {0,1,1,2}, {1,2,2,3}, {2,3,0,1}, {0,1,1,2}, {1,2,3,0}: 14 single uses, three double ones. Threshold 1: 2 * 20 / (2 * 17 + 20).
    const found = segmentRouting([HAND], 4, 2);
    expect(found).toMatchObject({ windows: 5, alpha: 1 });
    expect(found.srp).toBeCloseTo(20 / 27, 12);
    expect(found.rho).toBeCloseTo(1.7, 12);
    // Expert 1 is used in all five windows, twice in two of them: 2 * 7 / (2 * 5 + 7).
    expect(found.experts[1]!.srp).toBeCloseTo(14 / 17, 12);
    // A segment of one token is served by what it uses; what nobody uses by nobody.
    expect(segmentRouting([HAND], 5, 1)).toMatchObject({ srp: 1, alpha: 1, rho: 1, experts: { 4: { srp: 0, rho: 0 } } });
    expect(segmentRouting([HAND], 4, 7)).toMatchObject({ windows: 0, srp: 0 });
    expect(() => segmentRouting([HAND], 4, 0)).toThrow("Segments of 0 tokens were asked for; expected a whole number above 0.");
  });

  it("is the best F1 of any threshold, from windows counted one by one, which end with a text", () => {
    const random = new SeededRandom(40);
    for (let round = 0; round < 1000; round++) {
      const { trace, nExperts } = randomTrace(random);
      const m = 1 + random.below(6);
      const cut = random.below(trace.length + 1);
      const texts = [trace.slice(0, cut), trace.slice(cut)];
      const byUses = Array.from({ length: nExperts }, () => new Array<number>(m + 1).fill(0));
      let windows = 0;
      for (const text of texts) {
        for (let from = 0; from + m <= text.length; from++) {
          windows++;
          for (let e = 0; e < nExperts; e++) byUses[e]![text.slice(from, from + m).filter((token) => token.includes(e)).length]!++;
        }
      }
      expect(segmentCounts(texts, nExperts, m)).toEqual({ windows, counts: byUses.map((of) => Float64Array.from(of)) });
      // Precision and recall of "kept" for "used", token by token.
      const f1 = (of: readonly (readonly number[])[], alpha: number): number => {
        const sum = (value: (f: number) => number): number => of.reduce((all, counts) => all + counts.reduce((s, n, f) => s + n * value(f), 0), 0);
        const [hit, kept, used] = [sum((f) => (f >= alpha ? f : 0)), sum((f) => (f >= alpha ? m : 0)), sum((f) => f)];
        return kept === 0 || hit === 0 ? 0 : 2 / (kept / hit + used / hit);
      };
      const best = (of: readonly (readonly number[])[]): number => Math.max(...Array.from({ length: m }, (_, i) => f1(of, i + 1)));
      const found = segmentRouting(texts, nExperts, m);
      expect(found.srp).toBeCloseTo(best(byUses), 12);
      expect(f1(byUses, found.alpha)).toBeCloseTo(found.srp, 12);
      found.experts.forEach((of, e) => expect(of.srp).toBeCloseTo(best([byUses[e]!]), 12));
    }
  });

  it("takes the lowest of equal thresholds", () => {
    expect(bestThreshold([3, 0, 4])).toEqual({ srp: 1, alpha: 1, rho: 1 });
  });
});

/** SCH as its rule is written, with nothing kept from token to token but the cache. */
function naiveHits(trace: RoutedText, m: number, size: number): number {
  let cache: number[] = [];
  const last = new Map<number, number>();
  let hits = 0;
  for (const [t, token] of trace.entries()) {
    const own = Array.from(token);
    const before = [...cache];
    const seen = new Set(trace.slice(0, t).flatMap((of) => Array.from(of)));
    for (const e of own) {
      if (before.includes(e) || (!seen.has(e) && seen.size < size)) hits++;
      seen.add(e);
    }
    const served = own.filter((e) => before.includes(e));
    for (const e of served) last.set(e, t);
    for (const e of own.filter((e) => !before.includes(e))) {
      const ahead = (of: number): number => trace.slice(t, t + m).filter((next) => Array.from(next).includes(of)).length - (served.includes(of) ? 1 : 0);
      if (cache.length >= size) {
        const gone = cache.reduce((worst, of) => (ahead(of) < ahead(worst) || (ahead(of) === ahead(worst) && last.get(of)! < last.get(worst)!) ? of : worst));
        cache = cache.filter((of) => of !== gone);
      }
      cache.push(e);
      served.push(e);
      last.set(e, t);
    }
  }
  return hits;
}

/** The most hits that any choice of who stays can have. */
function mostHits(trace: RoutedText, size: number): number {
  const walk = (t: number, cache: readonly number[], seen: ReadonlySet<number>): number => {
    if (t === trace.length) return 0;
    const own = Array.from(trace[t]!);
    const known = new Set(seen);
    let hits = 0;
    for (const e of own) {
      if (cache.includes(e) || (!known.has(e) && known.size < size)) hits++;
      known.add(e);
    }
    const all = [...new Set([...cache, ...own])];
    // Any that fit may stay, of what was there and what was loaded.
    let best = 0;
    for (let set = 0; set < 1 << all.length; set++) {
      const kept = all.filter((_, i) => ((set >> i) & 1) === 1);
      if (kept.length === Math.min(size, all.length)) best = Math.max(best, walk(t + 1, kept, known));
    }
    return hits + best;
  };
  return walk(0, [], new Set());
}

describe("caches", () => {
  it("by hand: SCH of two tokens ahead", () => {
    expect([1, 2, 3, 4].map((size) => segmentCacheHits([HAND], size, 2))).toEqual([4, 7, 10, 12].map((hits) => ({ hits, of: 12 })));
    expect(() => segmentCacheHits([HAND], 0, 2)).toThrow("A cache of 0 experts was asked for; expected a whole number above 0.");
    expect(() => segmentCacheHits([HAND], 2, 0)).toThrow("Segments of 0 tokens were asked for; expected a whole number above 0.");
  });

  it("SCH equals its rule on 1,000 random traces; Belady has no fewer hits than it and LRU", () => {
    const random = new SeededRandom(41);
    for (let round = 0; round < 1000; round++) {
      const { trace, nExperts, topK } = randomTrace(random);
      const size = topK + random.below(nExperts - topK + 1);
      const m = 1 + random.below(8);
      const cut = random.below(trace.length + 1);
      const texts = [trace.slice(0, cut), trace.slice(cut)];
      const { hits } = segmentCacheHits(texts, size, m);
      expect(hits).toBe(naiveHits(trace, m, size));
      const best = bestHits(texts, size);
      expect(best.of).toBe(trace.length * topK);
      expect(best.hits).toBeGreaterThanOrEqual(hits);
      expect(best.hits).toBeGreaterThanOrEqual(recentlyUsedHits(texts, size).hits);
      // A cache that sees one token ahead knows nothing of the future: it is LRU.
      expect(segmentCacheHits(texts, size, 1).hits).toBe(recentlyUsedHits(texts, size).hits);
    }
  });

  it("Belady's has the most hits there are", () => {
    const random = new SeededRandom(42);
    for (let round = 0; round < 200; round++) {
      const { trace, nExperts } = randomTrace(random);
      const short = trace.slice(0, 5);
      const size = 1 + random.below(Math.min(nExperts, 4));
      expect(bestHits([short], size).hits).toBe(mostHits(short, size));
    }
  });
});

describe("sticky Zipf routing (64 experts, 8 of them)", () => {
  const SHAPE = { nExperts: 64, topK: 8, nTokens: 2000, exponent: 0.6, seed: 4 };
  const [loose, sticky] = [0, 0.8].map((stay) => stickyZipf({ ...SHAPE, stay })) as [RoutedText, RoutedText];

  it("is a function of its seed, with 8 different experts for each token", () => {
    expect(stickyZipf({ ...SHAPE, stay: 0.8 })).toEqual(sticky);
    expect(stickyZipf({ ...SHAPE, stay: 0.8, seed: 5 })).not.toEqual(sticky);
    for (const token of sticky) expect(new Set(Array.from(token)).size).toBe(8);
    const kept = sticky.slice(1).reduce((sum, token, t) => sum + Array.from(token).filter((e) => Array.from(sticky[t]!).includes(e)).length, 0) / (8 * 1999);
    expect(Math.abs(kept - 0.8)).toBeLessThan(0.06); // drawn anew, one may come again
    expect(() => stickyZipf({ ...SHAPE, stay: 2 })).toThrow("Routing to 8 of 64 experts with an exponent of 0.6 that stays with 2 was asked for");
  });

  it("that stays is more local by every measure, and a cache of twice the experts of a token serves it", () => {
    for (const m of [4, 16, 64]) expect(segmentRouting([sticky], 64, m).srp).toBeGreaterThan(segmentRouting([loose], 64, m).srp);
    const share = ({ hits, of }: { hits: number; of: number }): number => hits / of;
    for (const of of [(text: RoutedText) => recentlyUsedHits([text], 16), (text: RoutedText) => segmentCacheHits([text], 16, 16), (text: RoutedText) => bestHits([text], 16)]) {
      expect(share(of(sticky))).toBeGreaterThan(share(of(loose)) + 0.2);
    }
    expect(share(recentlyUsedHits([sticky], 16))).toBeGreaterThan(0.75);
    expect(share(bestHits([sticky], 16))).toBeGreaterThanOrEqual(share(segmentCacheHits([sticky], 16, 16)));
  });
});

describe("of a trace", () => {
  const random = new SeededRandom(44);
  const texts = [0, 1, 2, 3, 4].map((seed) => stickyZipf({ nExperts: 16, topK: 2, nTokens: 30 + 10 * seed, exponent: 1, stay: 0.5, seed }));
  const records = texts.flatMap((text, request) => text.map((ids, token) => ({ request, token, layer: 3, ids })));
  const collected = (of: typeof records): ReturnType<TraceLocality["layers"]> => {
    const locality = new TraceLocality({ moeLayers: [1, 3], nExperts: 16, topK: 2 });
    for (const record of of) locality.add(record);
    return locality.layers();
  };

  it("is what its texts give, whatever the order of records, with an interval about it", () => {
    const [empty, layer] = collected(records);
    expect(empty).toMatchObject({ layer: 1, tokens: 0, segments: [], caches: [{ experts: 2, best: 0 }, { experts: 4 }, { experts: 8 }] });
    const tokens = texts.reduce((sum, { length }) => sum + length, 0);
    expect(layer).toMatchObject({ layer: 3, tokens });
    // Texts of 30 to 70 tokens: no window of 256, and windows of 64 in the last one alone.
    expect(layer!.segments.map(({ segmentTokens, windows, interval }) => [segmentTokens, windows, interval === null])).toEqual([[4, tokens - 15, false], [16, tokens - 75, false], [64, 7, true]]);
    for (const { segmentTokens, srp, alpha, rho, interval } of layer!.segments) {
      expect({ srp, alpha, rho }).toEqual((({ srp, alpha, rho }) => ({ srp, alpha, rho }))(segmentRouting(texts, 16, segmentTokens)));
      if (interval === null) continue;
      expect(interval[0]).toBeLessThan(srp);
      expect(interval[1]).toBeGreaterThan(srp);
      expect(interval[1] - interval[0]).toBeLessThan(0.2);
    }
    for (const { experts, recentlyUsed, segment, best } of layer!.caches) {
      expect([recentlyUsed, segment, best]).toEqual([recentlyUsedHits(texts, experts), segmentCacheHits(texts, experts, 16), bestHits(texts, experts)].map(({ hits, of }) => hits / of));
    }
    const shuffled = [...records].sort(() => random.uniform() - 0.5);
    expect(collected(shuffled)).toEqual([empty, layer]);
    expect(() => collected([{ ...records[0]!, layer: 2 }])).toThrow("A record is of layer 2; the layers with experts are 1, 3.");
  });

  it("of one text has no interval: there is nothing to draw from", () => {
    expect(collected(records.filter(({ request }) => request === 0))[1]!.segments.map(({ interval }) => interval)).toEqual([null, null]);
  });
});
