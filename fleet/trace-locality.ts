// How local the routing of a trace is, layer by layer: SRP of segments of some lengths with bootstrap intervals, and hit rates of caches of some sizes (routing-locality.ts,
// expert-caches.ts). Owns the texts that records make up, and the draws of the bootstrap. Refuses to keep more of a record than its experts.

import { uniform } from "../model/random.ts";
import { bestHits, type HitCount, recentlyUsedHits, segmentCacheHits } from "./expert-caches.ts";
import type { RoutedAt } from "./routing-counts.ts";
import { bestThreshold, type RoutedText, segmentCounts, type SegmentRouting } from "./routing-locality.ts";

export interface SegmentLocality extends SegmentRouting {
  readonly segmentTokens: number;
  readonly windows: number;
  /** 95 % of drawings of as many texts lie between; null with fewer than two texts. */
  readonly interval: readonly [number, number] | null;
}

export interface CacheLocality {
  readonly experts: number;
  /** Shares of all choices. */
  readonly recentlyUsed: number;
  readonly segment: number;
  readonly best: number;
}

export interface LayerLocality {
  readonly layer: number;
  readonly tokens: number;
  readonly segments: readonly SegmentLocality[];
  readonly caches: readonly CacheLocality[];
}

/** Means over layers, by size. Empty without layers. */
export const meanCaches = (layers: readonly (readonly CacheLocality[])[]): CacheLocality[] => (layers[0] ?? []).map(({ experts }, i) => {
  const mean = (value: (of: CacheLocality) => number): number => layers.reduce((sum, caches) => sum + value(caches[i]!), 0) / layers.length;
  return { experts, recentlyUsed: mean((of) => of.recentlyUsed), segment: mean((of) => of.segment), best: mean((of) => of.best) };
});

/** Lengths and what SCH sees ahead, as the paper has them. */
export const SEGMENT_TOKENS = [4, 16, 64, 256] as const;
const SEEN_TOKENS = 16;
const DRAWINGS = 1000;

export class TraceLocality {
  readonly #nExperts: number;
  readonly #topK: number;
  /** By layer, by request: experts of tokens, with their positions. */
  readonly #texts: ReadonlyMap<number, Map<number, { readonly token: number; readonly ids: Uint16Array }[]>>;

  constructor({ moeLayers, nExperts, topK }: { readonly moeLayers: readonly number[]; readonly nExperts: number; readonly topK: number }) {
    this.#nExperts = nExperts;
    this.#topK = topK;
    this.#texts = new Map(moeLayers.map((layer) => [layer, new Map()]));
  }

  /** Throws RangeError on a record of another model. */
  add({ request, token, layer, ids }: RoutedAt): void {
    const of = this.#texts.get(layer);
    if (of === undefined) throw new RangeError(`A record is of layer ${layer}; the layers with experts are ${[...this.#texts.keys()].join(", ")}.`);
    const tokens = of.get(request);
    const entry = { token, ids: Uint16Array.from(ids) };
    if (tokens === undefined) of.set(request, [entry]);
    else tokens.push(entry);
  }

  /** Of each layer, caches of one, two and four times a token's experts. */
  caches(): CacheLocality[][] {
    return this.#layerTexts().map(([, texts]) => this.#caches(texts));
  }

  /** In the order of `moeLayers`. Segments are those of which some text has a window. */
  layers(seed = 1): LayerLocality[] {
    return this.#layerTexts().map(([layer, texts]) => ({
      layer, tokens: texts.reduce((sum, { length }) => sum + length, 0), segments: SEGMENT_TOKENS.flatMap((m) => this.#segments(texts, m, seed)), caches: this.#caches(texts),
    }));
  }

  #layerTexts(): [number, RoutedText[]][] {
    return [...this.#texts].map(([layer, requests]) => [layer, [...requests].sort(([a], [b]) => a - b).map(([, tokens]) => tokens.sort((a, b) => a.token - b.token).map(({ ids }) => ids))]);
  }

  #caches(texts: readonly RoutedText[]): CacheLocality[] {
    const sizes = [...new Set([1, 2, 4].map((times) => Math.min(times * this.#topK, this.#nExperts)))];
    const share = ({ hits, of }: HitCount): number => (of === 0 ? 0 : hits / of);
    return sizes.map((experts) => ({ experts, recentlyUsed: share(recentlyUsedHits(texts, experts)), segment: share(segmentCacheHits(texts, experts, SEEN_TOKENS)), best: share(bestHits(texts, experts)) }));
  }

  #segments(texts: readonly RoutedText[], m: number, seed: number): SegmentLocality[] {
    const long = texts.filter(({ length }) => length >= m);
    if (long.length === 0) return [];
    const counted = long.map((text) => segmentCounts([text], this.#nExperts, m));
    const byText = counted.map(({ counts }) => Float64Array.from({ length: m + 1 }, (_, f) => counts.reduce((sum, of) => sum + of[f]!, 0)));
    const sumOf = (which: (i: number) => number): Float64Array => {
      const sum = new Float64Array(m + 1);
      for (let i = 0; i < byText.length; i++) {
        const of = byText[which(i)]!;
        for (let f = 0; f <= m; f++) sum[f]! += of[f]!;
      }
      return sum;
    };
    const drawn = byText.length < 2 ? [] : Array.from({ length: DRAWINGS }, (_, d) => bestThreshold(sumOf((i) => Math.floor(uniform(seed, m, d, i) * byText.length))).srp).sort((a, b) => a - b);
    return [{
      segmentTokens: m, windows: counted.reduce((sum, { windows }) => sum + windows, 0), ...bestThreshold(sumOf((i) => i)),
      interval: drawn.length === 0 ? null : [drawn[Math.floor(0.025 * DRAWINGS)]!, drawn[Math.ceil(0.975 * DRAWINGS) - 1]!],
    }];
  }
}
