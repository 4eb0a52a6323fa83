// What a step sends to the shards as a trace has it: which shards each recorded token asks in each layer, each segment being on one shard.
// Owns the sums over records, and one assumption: tokens of a step are drawn from the trace apart from each other. Refuses replicas, among which a step chooses
// (replicated-traffic.ts), files (formats/trace.ts) and time (capacity-speed.ts).

import { expertsPerInputRow, inputRowsPerToken, moeLayersOf } from "../model/config.ts";
import type { Placement } from "../model/experts.ts";
import type { RoutedAt } from "./routing-counts.ts";
import { type ExpertTraffic, type ExpertTrafficShape, frameBytes, type FrameSizes, type LayerTraffic } from "./traffic.ts";

/** Sums over the tokens that passed one layer. */
class LayerSums {
  tokens = 0;
  /** Over tokens, the most experts on one shard. */
  busiest = 0;
  /** Activation rows that shards got: those of a token that some expert there reads. */
  rows = 0;
  /** Tokens that asked each shard. */
  readonly touched: Float64Array;
  /** [expert] tokens that chose it. */
  readonly chosen: Float64Array;

  constructor(nExperts: number, nShards: number) {
    this.touched = new Float64Array(nShards);
    this.chosen = new Float64Array(nExperts);
  }
}

/** Traffic of any step of tokens like those recorded. Throws RangeError on a record of another model, on a segment that nobody holds, and where a layer has no record. */
export function tracedTraffic(shape: ExpertTrafficShape, placement: Pick<Placement, "nParts" | "partOf">, records: Iterable<RoutedAt>, sizes: FrameSizes): ExpertTraffic {
  const { config, segmentsPerExpert } = shape;
  const [layers, { nExperts }, { nParts }] = [moeLayersOf(config), config, placement];
  const sums = new Map(layers.map((layer) => [layer, new LayerSums(nExperts, nParts)]));
  const [perToken, perRow] = [inputRowsPerToken(config), expertsPerInputRow(config)];
  const segmentsHere = new Float64Array(nParts);
  const readHere = new Uint8Array(nParts * perToken);
  for (const { layer, ids } of records) {
    const sum = sums.get(layer);
    if (sum === undefined) throw new RangeError(`A record is of layer ${layer}; the layers with experts are ${layers.join(", ")}.`);
    segmentsHere.fill(0);
    readHere.fill(0);
    for (let rank = 0; rank < ids.length; rank++) {
      const expert = ids[rank]!;
      if (!(expert < nExperts)) throw new RangeError(`A record of layer ${layer} names expert ${expert}; the model has ${nExperts}.`);
      sum.chosen[expert]!++;
      for (let segment = 0; segment < segmentsPerExpert; segment++) {
        const shard = placement.partOf(layer, expert, segment);
        segmentsHere[shard]!++;
        readHere[shard * perToken + Math.floor(expert / perRow)] = 1;
      }
    }
    sum.tokens++;
    segmentsHere.forEach((n, shard) => { if (n > 0) sum.touched[shard]!++; });
    sum.rows += readHere.reduce((all, isRead) => all + isRead, 0);
    sum.busiest += segmentsHere.reduce((most, n) => Math.max(most, n), 0) / segmentsPerExpert;
  }
  for (const [layer, { tokens }] of sums) if (tokens === 0) throw new RangeError(`The trace has no record of layer ${layer}; every layer with experts needs some.`);
  return (tokens) => layers.map((layer) => layerTraffic(shape, placement, layer, sums.get(layer)!, tokens, sizes));
}

function layerTraffic(shape: ExpertTrafficShape, placement: Pick<Placement, "nParts" | "partOf">, layer: number, sum: LayerSums, tokens: number, sizes: FrameSizes): LayerTraffic {
  const { segmentsPerExpert } = shape;
  /** Chance that one of the step's tokens does what so many of the recorded ones did. */
  const some = (count: number): number => 1 - (1 - count / sum.tokens) ** tokens;
  const touchChance = sum.touched.map(some);
  const [expertsRead, expertTokens] = [new Float64Array(placement.nParts), new Float64Array(placement.nParts)];
  let groups = 0;
  sum.chosen.forEach((chosen, expert) => {
    for (let segment = 0; chosen > 0 && segment < segmentsPerExpert; segment++) {
      const shard = placement.partOf(layer, expert, segment);
      expertsRead[shard]! += some(chosen) / segmentsPerExpert;
      expertTokens[shard]! += tokens * chosen / sum.tokens / segmentsPerExpert;
      groups += some(chosen);
    }
  });
  const frames = touchChance.reduce((all, chance) => all + chance, 0);
  const rows = tokens * sum.rows / sum.tokens;
  return { layer, touchChance, expertsRead, expertTokens, busiestExperts: sum.busiest / sum.tokens, frames, bytes: frameBytes(shape, sizes, { tokens, frames, rows, groups }) };
}
