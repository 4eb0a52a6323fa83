// The traces that a plan is made from: files of docs/formats.md, "The trace", read as one. Owns which traces a model may be planned with: those of its layers,
// experts and experts per token. Refuses others, with both shapes; a trace of another revision is read and said.

import { readFile } from "node:fs/promises";
import { type CapacityPack, CapacityPlanError } from "../fleet/capacity-pack.ts";
import { countRouting, type RoutedAt, type RoutingCounts } from "../fleet/routing-counts.ts";
import { SourceError } from "../formats/byte-source.ts";
import { readTrace } from "../formats/trace.ts";
import { moeLayersOf } from "../model/config.ts";

export interface TracedRouting {
  readonly counts: RoutingCounts;
  /** One token in one layer each. Requests of different files have different numbers. */
  records(): Iterable<RoutedAt>;
  /** As a plan names it. */
  readonly of: readonly { readonly file: string; readonly model: string; readonly packHash: string; readonly records: number }[];
  /** Tokens, of the layer that has the fewest. */
  readonly tokens: number;
}

/** Throws SourceError on what is no trace, CapacityPlanError on one of another model. */
export async function readTraces(files: readonly string[], pack: Pick<CapacityPack, "id" | "config">): Promise<TracedRouting> {
  const { config } = pack;
  const moeLayers = moeLayersOf(config);
  if (moeLayers.length === 0) throw new CapacityPlanError(`${pack.id} is a dense model: it has no experts that a trace could place.`);
  const traces = await Promise.all(files.map(async (file) => {
    const bytes = await readFile(file).catch((cause: unknown) => { throw new SourceError(`The trace ${file} cannot be read: ${cause instanceof Error ? cause.message : String(cause)}.`, { cause }); });
    const trace = readTrace(bytes, file);
    const { nExperts, topK, moeLayers: layers } = trace.header;
    if (nExperts !== config.nExperts || topK !== config.router.topK || layers.join() !== moeLayers.join()) {
      throw new CapacityPlanError(`The trace ${file} is of ${topK} of ${nExperts} experts in layers ${layers.join(", ")}; ${pack.id} has ${config.router.topK} of ${config.nExperts} in layers ${moeLayers.join(", ")}.`);
    }
    return { file, trace };
  }));
  function* records(): Iterable<RoutedAt> {
    let [firstRequest, last] = [0, -1];
    for (const { trace } of traces) {
      for (let i = 0; i < trace.length; i++) {
        const record = trace.record(i);
        const request = firstRequest + record.request;
        last = Math.max(last, request);
        yield { request, token: record.token, layer: record.layer, ids: record.ids };
      }
      firstRequest = last + 1;
    }
  }
  const perLayer = new Map(moeLayers.map((layer) => [layer, 0]));
  for (const { layer } of records()) perLayer.set(layer, (perLayer.get(layer) ?? 0) + 1);
  const tokens = Math.min(...perLayer.values());
  if (tokens === 0) throw new CapacityPlanError(`${files.join(", ")}: the trace has no token in some layer; record one with \`workers-moe trace\`.`);
  return {
    records, tokens, counts: countRouting({ moeLayers, nExperts: config.nExperts }, records()),
    of: traces.map(({ file, trace }) => ({ file, model: trace.header.model, packHash: trace.header.packHash, records: trace.length })),
  };
}
