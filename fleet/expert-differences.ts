// Experts that one class of texts uses more than others do: target minus the mean of the others, then those above a threshold, the first N of them, and no more than so many a layer.
// Owns the order (largest difference, then lowest layer, then lowest id) and what the middle layers are. Refuses maps (sequence-routing.ts) and what is done to the experts.
// fTRI's differential map (MoTE, 2025); Delta > tau of Multilingual Routing in Mixture-of-Experts (2025), Eq. 3-5.

import { uniform } from "../model/random.ts";
import type { ExpertMap, RoutingShape } from "./sequence-routing.ts";

export interface FoundExpert {
  readonly layer: number;
  readonly expert: number;
  readonly difference: number;
}

export interface ExpertChoice {
  /** Layers that count; a subset of the model's. */
  readonly layers: readonly number[];
  /** Only experts whose difference is greater. */
  readonly tau: number;
  /** At most so many, over all layers; absent: all. */
  readonly top?: number | undefined;
  /** At most so many of a layer: what is forced or promoted must not be more than a token has places for. Absent: all. */
  readonly mostPerLayer?: number | undefined;
}

/** Target minus the mean of the others. Throws RangeError without others. */
export function differenceMap(target: ExpertMap, others: readonly ExpertMap[]): ExpertMap {
  if (others.length === 0) throw new RangeError("A difference was asked for, and there is nothing the target differs from; expected at least one other class.");
  return target.map((value, at) => value - others.reduce((sum, of) => sum + of[at]!, 0) / others.length);
}

/** A difference, minus infinity where the target's share is not at least `ratio` times that of every other class: experts that are nobody else's (Monet, 2024, section 5, with a ratio of 2). */
export const ownDifferences = (difference: ExpertMap, share: ExpertMap, others: readonly ExpertMap[], ratio: number): ExpertMap =>
  difference.map((value, at) => (others.every((other) => share[at]! >= ratio * other[at]!) ? value : -Infinity));

/** The experts found, the strongest first. Throws RangeError on a layer that has no experts. */
export function chooseExperts({ moeLayers, nExperts }: RoutingShape, difference: ExpertMap, { layers, tau, top = Infinity, mostPerLayer = Infinity }: ExpertChoice): FoundExpert[] {
  const unknown = layers.find((layer) => !moeLayers.includes(layer));
  if (unknown !== undefined) throw new RangeError(`Experts of layer ${unknown} were asked for; the layers with experts are ${moeLayers.join(", ")}.`);
  const ordered = moeLayers.flatMap((layer, i) => (layers.includes(layer) ? Array.from({ length: nExperts }, (_, expert) => ({ layer, expert, difference: difference[i * nExperts + expert]! })) : []))
    .filter((of) => of.difference > tau).sort((a, b) => b.difference - a.difference || a.layer - b.layer || a.expert - b.expert);
  const taken = new Map<number, number>();
  const found: FoundExpert[] = [];
  for (const of of ordered) {
    if (found.length >= top) break;
    const ofLayer = taken.get(of.layer) ?? 0;
    if (ofLayer >= mostPerLayer) continue;
    taken.set(of.layer, ofLayer + 1);
    found.push(of);
  }
  return found;
}

/** Layers with experts but for the first and the last quarter of them, rounded down; of four, the two in the middle. */
export function middleLayers(moeLayers: readonly number[]): readonly number[] {
  const edge = Math.floor(moeLayers.length / 4);
  return moeLayers.slice(edge, moeLayers.length - edge);
}

/**
 * As many experts of each layer as were found, none of them among the found, drawn evenly: what any experts would do, to compare with. Throws RangeError where a layer has not as many others.
 */
export function drawExperts({ nExperts }: Pick<RoutingShape, "nExperts">, found: readonly Pick<FoundExpert, "layer" | "expert">[], seed: number): Pick<FoundExpert, "layer" | "expert">[] {
  return [...Map.groupBy(found, ({ layer }) => layer)].sort(([a], [b]) => a - b).flatMap(([layer, of]) => {
    const taken = new Set(of.map(({ expert }) => expert));
    const others = Array.from({ length: nExperts }, (_, expert) => expert).filter((expert) => !taken.has(expert));
    if (others.length < of.length) throw new RangeError(`Layer ${layer} has ${nExperts} experts, of which ${of.length} were found; as many others cannot be drawn.`);
    return of.map((_, i) => ({ layer, expert: others.splice(Math.floor(uniform(seed, layer, i, 0) * others.length), 1)[0]! }));
  });
}

/** {layer: ids, ascending}: the form of a profile. */
export function expertsByLayer(found: readonly Pick<FoundExpert, "layer" | "expert">[]): Record<string, number[]> {
  const layers = [...new Set(found.map(({ layer }) => layer))].sort((a, b) => a - b);
  return Object.fromEntries(layers.map((layer) => [String(layer), found.filter((of) => of.layer === layer).map(({ expert }) => expert).sort((a, b) => a - b)]));
}
