// GET /v1/routing-map: there, not there, of another pack, no map at all, from a bucket and from static assets, and which keys may. Out of scope: the document (test/node/formats/routing-map.test.ts).

import { createExecutionContext, waitOnExecutionContext } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { describe, expect, it } from "vitest";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import type { RoutingMap } from "../../formats/routing-map.ts";
import worker, { type EdgeEnv } from "../../worker/index.ts";
import type { ModelList } from "../../worker/wire-types.ts";
import { evenMap, mapBytes } from "../support/even-map.ts";
import { type MemoryPack, packToMemory } from "../support/pack-to-memory.ts";
import { tinyChatFiles } from "../support/tiny-chat.ts";
import { fleetEnv } from "./fleet-fixture.ts";

/** A pack of its own in the bucket, with what lies beside it. */
async function put(id: string, beside?: (pack: MemoryPack) => Promise<Uint8Array>): Promise<MemoryPack> {
  const pack = await packToMemory(await openHuggingFace(new MemorySource(tinyChatFiles(512)), "tiny"), { id, contextLength: 512 });
  for (const [name, bytes] of pack.files) await fleetEnv.PACKS!.put(`packs/${id}/${name}`, bytes);
  if (beside !== undefined) await fleetEnv.PACKS!.put(`packs/${id}/routing-map.json`, await beside(pack));
  return pack;
}
async function ask(path: string, id: string, key = "user-key", settings: object = {}): Promise<Response> {
  const context = createExecutionContext();
  const response = await worker.fetch(new Request(`https://edge${path}`, { headers: { Authorization: `Bearer ${key}` } }),
    { ...env, LOG: "off", OPEN_ACCESS: "false", API_KEYS: "user-key", ADMIN_KEYS: "owner-key", PACK_ID: id, PACK_SOURCE: "r2", ...settings } as unknown as EdgeEnv, context);
  await waitOnExecutionContext(context);
  return response;
}
const failed = async (response: Response): Promise<unknown> => {
  const { error } = await response.json<{ error: { message: string; code: string } }>();
  return [response.status, error.code, error.message];
};
const isMapped = async (id: string): Promise<boolean> => (await (await ask("/v1/models", id)).json<ModelList>()).data[0]!.moe.routing_map;

describe("GET /v1/routing-map", () => {
  it("is the map beside the pack, for keys of either scope, and /v1/models says that there is one", async () => {
    const pack = await put("mapped", async ({ source }) => mapBytes(await evenMap(source)));
    for (const key of ["user-key", "owner-key"]) {
      const response = await ask("/v1/routing-map", "mapped", key);
      expect(response.status).toBe(200);
      expect(await response.json<RoutingMap>()).toEqual(await evenMap(pack.source));
    }
    expect(await isMapped("mapped")).toBe(true);
    expect((await ask("/v1/routing-map", "mapped", "nobody's-key")).status).toBe(401);
  });

  it("is a 404 that says how to make one where there is none, until there is", async () => {
    const pack = await put("unmapped");
    expect(await failed(await ask("/v1/routing-map", "unmapped"))).toEqual([404, "no_routing_map", "R2 bucket PACKS, packs/unmapped has no routing-map.json beside its manifest, so there is no routing map; `workers-moe profile <pack> --map routing-map.json` makes one."]);
    expect(await isMapped("unmapped")).toBe(false);
    await fleetEnv.PACKS!.put("packs/unmapped/routing-map.json", mapBytes(await evenMap(pack.source)));
    expect((await ask("/v1/routing-map", "unmapped")).status).toBe(200);
  });

  it("refuses a map of another pack, and what is no map, and the model is served all the same", async () => {
    await put("moved", async ({ source }) => mapBytes(await evenMap(source, { packHash: "0".repeat(64) })));
    expect(await failed(await ask("/v1/routing-map", "moved"))).toEqual([503, "routing_map_unusable", expect.stringContaining(`The routing map is of the pack ${"0".repeat(64)}; this one is `)]);
    await put("broken", async () => new TextEncoder().encode("[]"));
    expect(await failed(await ask("/v1/routing-map", "broken"))).toEqual([503, "routing_map_unusable", expect.stringContaining("is no routing map: the document: expected a routing map")]);
    for (const id of ["moved", "broken"]) expect((await ask("/v1/models", id)).status).toBe(200);
  });

  it("comes from static assets as well", async () => {
    const { files, source } = await packToMemory(await openHuggingFace(new MemorySource(tinyChatFiles(512)), "tiny"), { id: "static", contextLength: 512 });
    const map = await evenMap(source);
    const assets = { fetch: async (url: URL) => {
      const name = url.pathname.slice("/packs/static/".length);
      const bytes = name === "routing-map.json" ? mapBytes(map) : files.get(name);
      return bytes === undefined ? new Response(null, { status: 404 }) : new Response(bytes);
    } };
    const response = await ask("/v1/routing-map", "static", "user-key", { PACK_SOURCE: "assets", ASSETS: assets });
    expect(await response.json()).toEqual(map);
  });
});
