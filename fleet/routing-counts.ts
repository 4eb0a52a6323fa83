// What placing experts needs of a routing trace: how often each expert of each layer was chosen, and how often a token went from each expert to each of the
// next layer's. Owns the sums, from records or from totals. Refuses files (formats/trace.ts) and decisions (placement.ts).

import type { RoutedToken } from "./expert-load.ts";

/** Sums over some traffic. Flat arrays: a plan of 48 layers of 128 experts reads them millions of times. */
export interface RoutingCounts {
  /** Layers that have experts, ascending. Consecutive entries are what a token passes one after the other. */
  readonly layers: readonly number[];
  readonly nExperts: number;
  /** Choices, [layers][nExperts]. */
  readonly load: Float64Array;
  /** Of a token's experts in one layer and in the next, every pair counts one: [layers - 1][nExperts from][nExperts to]. */
  readonly moves: Float64Array;
}

/** One token in one layer, and which token. */
export interface RoutedAt extends RoutedToken {
  readonly request: number;
  readonly token: number;
}

/** Tokens of which not all layers were seen yet are kept for their pairs; chunks in flight are at most some thousands, so older ones were cut off in recording. */
const OPEN_TOKENS = 16_384;

/** Sums records, whatever their order. Throws RangeError on a record of another model. */
export function countRouting(shape: { readonly moeLayers: readonly number[]; readonly nExperts: number }, records: Iterable<RoutedAt>): RoutingCounts {
  const { moeLayers, nExperts } = shape;
  const counts = emptyCounts(moeLayers, nExperts);
  const indexOf = new Map(moeLayers.map((layer, i) => [layer, i]));
  const open = new Map<number, { readonly ids: (ArrayLike<number> | undefined)[]; seen: number }>();
  for (const { request, token, layer, ids } of records) {
    const i = indexOf.get(layer);
    if (i === undefined) throw new RangeError(`A record is of layer ${layer}; the layers with experts are ${moeLayers.join(", ")}.`);
    for (let rank = 0; rank < ids.length; rank++) {
      if (!(ids[rank]! < nExperts)) throw new RangeError(`A record of layer ${layer} names expert ${ids[rank]}; the model has ${nExperts}.`);
      counts.load[i * nExperts + ids[rank]!]!++;
    }
    // Token numbers are below 2^20: a context is.
    const key = request * 0x100000 + token;
    let found = open.get(key);
    if (found === undefined) {
      found = { ids: new Array<undefined>(moeLayers.length).fill(undefined), seen: 0 };
      open.set(key, found);
      if (open.size > OPEN_TOKENS) open.delete(open.keys().next().value!);
    }
    if (found.ids[i] === undefined) found.seen++;
    found.ids[i] = ids;
    const [before, after] = [found.ids[i - 1], found.ids[i + 1]];
    if (before !== undefined) addPairs(counts, i - 1, before, ids);
    if (after !== undefined) addPairs(counts, i, ids, after);
    if (found.seen === moeLayers.length) open.delete(key);
  }
  return counts;
}

function addPairs({ nExperts, moves }: RoutingCounts, from: number, a: ArrayLike<number>, b: ArrayLike<number>): void {
  for (let i = 0; i < a.length; i++) {
    const row = (from * nExperts + a[i]!) * nExperts;
    for (let j = 0; j < b.length; j++) moves[row + b[j]!]!++;
  }
}

/** Totals without sequences: per layer {"expert": choices}, and per pair of consecutive ones {"from,to": tokens}. Throws RangeError on what does not fit together. */
export function countsOfTotals({ layers, nExperts, load, moves }: {
  readonly layers: readonly number[];
  readonly nExperts: number;
  readonly load: readonly Readonly<Record<string, number>>[];
  readonly moves: readonly Readonly<Record<string, number>>[];
}): RoutingCounts {
  if (load.length !== layers.length || moves.length !== Math.max(0, layers.length - 1)) {
    throw new RangeError(`Totals have the load of ${load.length} layers and ${moves.length} layer pairs; expected ${layers.length} and ${Math.max(0, layers.length - 1)}.`);
  }
  const counts = emptyCounts(layers, nExperts);
  const fill = (name: string, target: Float64Array, offset: number, totals: Readonly<Record<string, number>>, parts: number): void => {
    for (const [key, count] of Object.entries(totals)) {
      const ids = key.split(",").map(Number);
      if (ids.length !== parts || ids.some((id) => !(Number.isInteger(id) && id >= 0 && id < nExperts))) throw new RangeError(`Totals of ${name} have the key "${key}"; expected ${parts === 1 ? "an expert" : "two experts"} below ${nExperts}.`);
      if (!(Number.isFinite(count) && count >= 0)) throw new RangeError(`Totals of ${name} have ${count} for "${key}"; expected a count.`);
      target[offset + ids.reduce((at, id) => at * nExperts + id, 0)] = count;
    }
  };
  load.forEach((totals, i) => fill(`layer ${layers[i]}`, counts.load, i * nExperts, totals, 1));
  moves.forEach((totals, i) => fill(`layers ${layers[i]} to ${layers[i + 1]}`, counts.moves, i * nExperts * nExperts, totals, 2));
  return counts;
}

function emptyCounts(layers: readonly number[], nExperts: number): RoutingCounts {
  return { layers: [...layers], nExperts, load: new Float64Array(layers.length * nExperts), moves: new Float64Array(Math.max(0, layers.length - 1) * nExperts * nExperts) };
}

/** What is known without a trace: every expert, and every pair of consecutive ones, as often as any other. */
export function evenCounts(layers: readonly number[], nExperts: number): RoutingCounts {
  const counts = emptyCounts(layers, nExperts);
  counts.load.fill(1);
  counts.moves.fill(1);
  return counts;
}
