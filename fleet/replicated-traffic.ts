// What a step sends where segments are on several shards: steps are put together and the fleet's own rule chooses among the holders of each (model/experts.ts Placement,
// durable/replica-choice.ts). Owns the steps drawn, from a trace or evenly, by a seed and counted; figures are means over them. Refuses time (capacity-speed.ts).

import { expertsPerInputRow, inputRowsPerToken, moeLayersOf } from "../model/config.ts";
import type { Placement } from "../model/experts.ts";
import { seededNumbers } from "../model/kernel-case.ts";
import type { RoutedAt } from "./routing-counts.ts";
import { type ExpertTraffic, type ExpertTrafficShape, frameBytes, type FrameSizes, type LayerTraffic } from "./traffic.ts";

/** Steps of each size and layer: a chance is then known to 3 %, and a sum over shards far better. */
const STEPS = 256;

export type ChoosingPlacement = Placement & { readonly startRound: NonNullable<Placement["startRound"]> };

/** Experts of a token in a layer, drawn by `random`. */
export type DrawToken = (layer: number, random: () => number) => ArrayLike<number>;

/** Of each layer, one of its recorded tokens. Throws RangeError where a layer has none. */
export function tokensOfTrace(layers: readonly number[], records: Iterable<RoutedAt>): DrawToken {
  const seen = new Map(layers.map((layer) => [layer, [] as ArrayLike<number>[]]));
  for (const { layer, ids } of records) {
    const of = seen.get(layer);
    if (of === undefined) throw new RangeError(`A record is of layer ${layer}; the layers with experts are ${layers.join(", ")}.`);
    of.push(Uint16Array.from(ids));
  }
  for (const [layer, of] of seen) if (of.length === 0) throw new RangeError(`The trace has no record of layer ${layer}; every layer with experts needs some.`);
  return (layer, random) => {
    const of = seen.get(layer)!;
    return of[Math.floor(random() * of.length)]!;
  };
}

/** `topK` different experts, each as likely as any other. */
export function evenTokens(nExperts: number, topK: number): DrawToken {
  const experts = Uint16Array.from({ length: nExperts }, (_, expert) => expert);
  return (_, random) => {
    for (let i = 0; i < topK; i++) {
      const other = i + Math.floor(random() * (nExperts - i));
      [experts[i], experts[other]] = [experts[other]!, experts[i]!];
    }
    return experts.slice(0, topK);
  };
}

/** The same draws and placement give the same figures. */
export function replicatedTraffic(shape: ExpertTrafficShape, placement: ChoosingPlacement, draw: DrawToken, sizes: FrameSizes): ExpertTraffic {
  return (tokens) => moeLayersOf(shape.config).map((layer) => layerTraffic(shape, placement, draw, layer, tokens, sizes));
}

function layerTraffic({ config, activations, segmentsPerExpert }: ExpertTrafficShape, placement: ChoosingPlacement, draw: DrawToken, layer: number, tokens: number, sizes: FrameSizes): LayerTraffic {
  const [{ nExperts }, { nParts }, random] = [config, placement, seededNumbers(1 + layer)];
  const [touchChance, expertsRead, expertTokens] = [new Float64Array(nParts), new Float64Array(nParts), new Float64Array(nParts)];
  const segmentCounts = new Uint32Array(nExperts).fill(segmentsPerExpert);
  const [chosen, here] = [new Uint32Array(nExperts), new Float64Array(nParts)];
  const [perToken, perRow] = [inputRowsPerToken(config), expertsPerInputRow(config)];
  const readHere = new Uint8Array(nParts * perToken);
  let [frames, rows, groups, busiest] = [0, 0, 0, 0];
  for (let step = 0; step < STEPS; step++) {
    const drawn = Array.from({ length: tokens }, () => draw(layer, random));
    chosen.fill(0);
    for (const ids of drawn) for (let rank = 0; rank < ids.length; rank++) chosen[ids[rank]!]!++;
    placement.startRound(layer, chosen, segmentCounts);
    const asked = new Set<number>();
    chosen.forEach((n, expert) => {
      for (let segment = 0; n > 0 && segment < segmentsPerExpert; segment++) {
        const shard = placement.partOf(layer, expert, segment);
        asked.add(shard);
        expertsRead[shard]! += 1 / segmentsPerExpert / STEPS;
        expertTokens[shard]! += n / segmentsPerExpert / STEPS;
        groups += 1 / STEPS;
      }
    });
    for (const shard of asked) touchChance[shard]! += 1 / STEPS;
    frames += asked.size / STEPS;
    let most = 0;
    for (const ids of drawn) {
      here.fill(0);
      readHere.fill(0);
      for (let rank = 0; rank < ids.length; rank++) {
        for (let segment = 0; segment < segmentsPerExpert; segment++) {
          const shard = placement.partOf(layer, ids[rank]!, segment);
          here[shard]!++;
          readHere[shard * perToken + Math.floor(ids[rank]! / perRow)] = 1;
        }
      }
      rows += readHere.reduce((all, isRead) => all + isRead, 0) / STEPS;
      most += here.reduce((max, n) => Math.max(max, n), 0);
    }
    busiest += most / tokens / segmentsPerExpert / STEPS;
  }
  return { layer, touchChance, expertsRead, expertTokens, busiestExperts: busiest, frames, bytes: frameBytes({ config, activations, segmentsPerExpert }, sizes, { tokens, frames, rows, groups }) };
}
