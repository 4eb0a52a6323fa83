// A routing map of any pack, for tests of what serves and reads one: two languages and a domain, every expert taken alike. Refuses to be a measurement.

import { openPack } from "../../formats/pack-reader.ts";
import type { RoutingMap } from "../../formats/routing-map.ts";
import { moeLayersOf } from "../../model/config.ts";
import type { ByteSource } from "../../formats/byte-source.ts";

/** Of a model whose number of experts is a power of two, so that shares are exact. */
export async function evenMap(source: ByteSource, change: Partial<RoutingMap> = {}): Promise<RoutingMap> {
  const { manifest: { id, config }, packHash } = await openPack(source);
  const layers = moeLayersOf(config);
  const share = layers.map(() => Array.from({ length: config.nExperts }, () => 1 / config.nExperts));
  return {
    format: "workers-moe-routing-map", version: 1, model: id, packHash, by: "weight", layers,
    classes: [{ label: "code", kind: "domain", tokens: 5, share }, { label: "en", kind: "language", tokens: 5, share }, { label: "fr", kind: "language", tokens: 7, share }],
    divergence: [{ kind: "language", a: "en", b: "fr", layers: layers.map(() => 0) }], ...change,
  };
}

export const mapBytes = (map: object): Uint8Array => new TextEncoder().encode(JSON.stringify(map));
