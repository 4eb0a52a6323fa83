// Divergence of routing between every two of some classes, layer by layer: of parallel texts pair by pair, of others between the means of their sequences. Owns which it is, the measure, and the
// figures that are written. The formulas are fleet/routing-divergence.ts. Refuses parallel texts of different numbers of lines.

import { entropy, distributionOf, type LayerDivergence, mapDivergence, ParallelDivergence } from "../../fleet/routing-divergence.ts";
import { middleLayers } from "../../fleet/expert-differences.ts";
import { ClassRouting, type RoutingMeasure, type RoutingShape, type SequenceRouting } from "../../fleet/sequence-routing.ts";
import { startProgress } from "../progress.ts";
import type { ClassSource } from "./class-sources.ts";
import { requireShape } from "./find-profile.ts";

export interface DivergenceOptions {
  /** Absent: the softmax of logits where all have them, else weights, else counts. */
  readonly by?: RoutingMeasure | undefined;
  /** Means even where texts are parallel. */
  readonly pooled: boolean;
}

export interface ClassFigures {
  readonly label: string;
  readonly file: string;
  readonly kind: string;
  readonly sequences: number;
  /** null where totals do not say. */
  readonly tokens: number | null;
  readonly layers: readonly { readonly layer: number; readonly entropy: number }[];
}

export interface PairFigures {
  readonly a: string;
  readonly b: string;
  readonly layers: readonly LayerDivergence[];
  /** Means of the normalised divergence over the middle layers, and over the others; null where there are none. */
  readonly middle: number;
  readonly outer: number | null;
}

export interface DivergenceFigures {
  readonly model: string | null;
  readonly packHash: string | null;
  readonly by: RoutingMeasure;
  /** Texts compared one by one; null: means. */
  readonly parallelTexts: number | null;
  readonly nExperts: number;
  readonly middleLayers: readonly number[];
  readonly classes: readonly ClassFigures[];
  readonly pairs: readonly PairFigures[];
}

export async function measureDivergence(sources: readonly ClassSource[], model: { readonly id: string; readonly packHash: string } | null, { by, pooled }: DivergenceOptions, quiet: boolean): Promise<DivergenceFigures> {
  if (sources.length < 2) throw new Error("A divergence is between two classes; give at least two of LABEL=FILE.");
  const { shape } = sources[0]!;
  for (const source of sources) requireShape(source, sources[0]!);
  const isParallel = !pooled && sources.every(({ isByLine }) => isByLine);
  const odd = sources.find(({ nSequences }) => nSequences !== sources[0]!.nSequences);
  if (isParallel && odd !== undefined) {
    throw new Error(`${sources[0]!.file} has ${sources[0]!.nSequences} texts and ${odd.file} ${odd.nSequences}; parallel texts have one for each of the others'. --pooled compares means instead.`);
  }
  const pairs = sources.flatMap((_, a) => sources.slice(a + 1).map((__, i) => ({ a, b: a + 1 + i })));
  // Lines are routed here, so all measures of them are known.
  const parallel = isParallel ? pairs.map(() => new ParallelDivergence(shape, by ?? "score")) : null;
  const routings = await sumAll(sources, shape, (now) => pairs.forEach(({ a, b }, i) => parallel![i]!.add(now[a]!, now[b]!)), isParallel, quiet);
  const measure = by ?? measureOf(routings);
  routings.forEach((routing, i) => { if (!routing.has(measure)) throw new Error(`${sources[i]!.file} does not have what --by ${measure} compares; take another.`); });
  const middle = middleLayers(shape.moeLayers);
  const mean = (layers: readonly LayerDivergence[]): number => layers.reduce((sum, { normalized }) => sum + normalized, 0) / layers.length;
  return {
    model: model?.id ?? null, packHash: model?.packHash ?? null, by: measure, parallelTexts: isParallel ? sources[0]!.nSequences : null, nExperts: shape.nExperts, middleLayers: middle,
    classes: sources.map(({ label, file, kind, knowsTokens }, i) => ({
      label, file, kind, sequences: routings[i]!.sequences, tokens: knowsTokens ? routings[i]!.tokens : null,
      layers: shape.moeLayers.map((layer, l) => ({ layer, entropy: entropy(distributionOf(routings[i]!.meanShares(measure), shape, l)) })),
    })),
    pairs: pairs.map(({ a, b }, i) => {
      const layers = parallel?.[i]!.layers() ?? mapDivergence(shape, routings[a]!.meanShares(measure), routings[b]!.meanShares(measure));
      const outer = layers.filter(({ layer }) => !middle.includes(layer));
      return { a: sources[a]!.label, b: sources[b]!.label, layers, middle: mean(layers.filter(({ layer }) => middle.includes(layer))), outer: outer.length === 0 ? null : mean(outer) };
    }),
  };
}

const measureOf = (routings: readonly ClassRouting[]): RoutingMeasure => (["score", "weight"] as const).find((measure) => routings.every((routing) => routing.has(measure))) ?? "count";

/** Means of all classes. Of parallel texts `onTexts` gets each with its translations, and no others are in memory. */
async function sumAll(sources: readonly ClassSource[], shape: RoutingShape, onTexts: (now: readonly SequenceRouting[]) => void, isParallel: boolean, quiet: boolean): Promise<ClassRouting[]> {
  const routings = sources.map(() => new ClassRouting(shape));
  const bar = startProgress({ label: "routing", total: sources.reduce((sum, { nTokens }) => sum + nTokens, 0), unit: "tokens", quiet: quiet || sources.every(({ nTokens }) => nTokens === 0) });
  let done = 0;
  const take = (sequence: SequenceRouting, i: number): SequenceRouting => {
    routings[i]!.add(sequence);
    if (sources[i]!.nTokens > 0) bar.update((done += sequence.tokens[0]!));
    return sequence;
  };
  try {
    if (!isParallel) {
      for (const [i, source] of sources.entries()) for await (const sequence of source.sequences()) take(sequence, i);
      return routings;
    }
    const iterators = sources.map(iteratorOf);
    for (let n = 0; n < sources[0]!.nSequences; n++) {
      const now: SequenceRouting[] = [];
      for (const [i, iterator] of iterators.entries()) now.push(take((await iterator.next()).value as SequenceRouting, i));
      onTexts(now);
    }
    return routings;
  } finally {
    bar.stop();
  }
}

async function* iteratorOf(source: ClassSource): AsyncGenerator<SequenceRouting> {
  yield* source.sequences();
}
