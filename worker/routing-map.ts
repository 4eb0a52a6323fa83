// GET /v1/routing-map: which experts kinds of text take in the pack served, as its owner had them counted (docs/formats.md, "The routing map"). Owns the reading of routing-map.json from wherever the
// pack lies, once per isolate. Refuses a map of another pack: its experts would be others.

import { packSource, type PackEnv } from "../durable/byte-sources.ts";
import { SourceError } from "../formats/byte-source.ts";
import { readRoutingMap, ROUTING_MAP_FILE, type RoutingMap } from "../formats/routing-map.ts";
import { RequestError } from "./errors.ts";
import type { EdgePack } from "./pack.ts";

/** By the pack's hash; values, never promises, as in pack.ts. That there is none is not kept: one may be put there. */
const maps = new Map<string, RoutingMap>();

/** Throws a RequestError 404 where the pack has none, 503 where what lies there cannot be shown. */
export async function routingMap(env: PackEnv, pack: EdgePack): Promise<RoutingMap> {
  const kept = maps.get(pack.hash);
  if (kept !== undefined) return kept;
  const source = packSource(env);
  const map = await readRoutingMap(source, pack).catch((cause: unknown) => {
    if (!(cause instanceof SourceError)) throw cause;
    throw new RequestError({ status: 503, code: "routing_map_unusable", message: cause.message });
  });
  if (map === null) throw new RequestError({ status: 404, code: "no_routing_map", message: `${source.description} has no ${ROUTING_MAP_FILE} beside its manifest, so there is no routing map; \`workers-moe profile <pack> --map ${ROUTING_MAP_FILE}\` makes one.` });
  maps.set(pack.hash, map);
  return map;
}
