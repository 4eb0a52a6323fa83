// What the fleet says of its shards before and after they load, and where it asks for them: weights and experts of the plan, its epoch, and the location
// hints of SHARD_REGIONS, handed to the platform and part of the objects' names. Where an object really lives is the platform's secret here.

import { env } from "cloudflare:workers";
import { afterEach, describe, expect, it } from "vitest";
import { InFlightBudget } from "../../durable/in-flight-budget.ts";
import { fleetName, shardRegion } from "../../durable/env.ts";
import { openFanOut } from "../../durable/fan-out.ts";
import { LIMITS } from "../../durable/limits.ts";
import { openPack } from "../../formats/pack-reader.ts";
import { deploy, eventsOf, fleetEnv, greedy, orchestrator, outputOf, packInBucket, statusOf } from "./fleet-fixture.ts";

/** The deployment's variable; the objects read it when they are made. */
const setRegions = (list: string | undefined): void => void Object.assign(env, { SHARD_REGIONS: list });
afterEach(() => setRegions(undefined));

describe("regions of shards", () => {
  it("go round the shards", () => {
    const regions = (list: string | undefined): (string | null)[] => [0, 1, 2, 3].map((shard) => shardRegion(list === undefined ? {} : { SHARD_REGIONS: list }, shard));
    expect(regions(undefined)).toEqual([null, null, null, null]);
    expect(regions(" ")).toEqual([null, null, null, null]);
    expect(regions("weur")).toEqual(["weur", "weur", "weur", "weur"]);
    expect(regions("weur, apac-ne,oc")).toEqual(["weur", "apac-ne", "oc", "weur"]);
  });

  it.each([["weur,moon", "moon"], ["weur,,oc", ""], ["WEUR", "WEUR"], ["toString", "toString"]])("are the platform's: not %s", (list, found) => {
    expect(() => shardRegion({ SHARD_REGIONS: list }, 0)).toThrow(
      `The variable SHARD_REGIONS is "${list}", and "${found}" is no region; expected a comma list of wnam, enam, sam, weur, eeur, apac, apac-ne, apac-se, oc, afr, me.`);
  });

  it("are asked for by name and hint, by handshake and socket alike; without them nothing is asked", async () => {
    const pack = await packInBucket("regions-asked");
    const { manifest, packHash } = await openPack(pack.source);
    deploy({ packId: "regions-asked", shards: 2 });
    const asked = async (list: string): Promise<unknown[][]> => {
      const calls: unknown[][] = [];
      const SHARDS = {
        getByName: (...call: unknown[]) => {
          calls.push(call);
          return fleetEnv.SHARDS.getByName(...call as [string]);
        },
      } as unknown as typeof fleetEnv.SHARDS;
      const fanOut = openFanOut({ ...fleetEnv, SHARDS, SHARD_REGIONS: list }, manifest, packHash, LIMITS, { name: "the test", inFlight: new InFlightBudget(LIMITS.inFlightBytes) });
      await fanOut.connect();
      fanOut.close("done");
      return calls;
    };
    const name = (list: string, shard: number, region: string): string => `regions-asked/${packHash.slice(0, 12)}/${fleetName({ SHARDS_COUNT: "2", SHARD_REGIONS: list })}/${shard}${region}`;
    const hinted = await asked("weur,oc");
    // One call for the handshake or more, while it loads, and one for the socket.
    for (const call of hinted) expect([[name("weur,oc", 0, "@weur"), { locationHint: "weur" }], [name("weur,oc", 1, "@oc"), { locationHint: "oc" }]]).toContainEqual(call);
    for (const region of ["weur", "oc"]) expect(hinted.filter(([of]) => String(of).endsWith(region)).length).toBeGreaterThanOrEqual(2);
    for (const call of await asked("")) expect([[name("", 0, ""), {}], [name("", 1, ""), {}]]).toContainEqual(call);
  });
});

describe("the fleet's status", () => {
  it("tells what each shard holds, where, and the epoch; the answer is the same bits in any region", async () => {
    const pack = await packInBucket("regions", { segmentWidth: 32 });
    const { manifest: { experts } } = await openPack(pack.source);
    const bytes = experts.flatMap(({ segments }) => segments.map((segment) => segment.bytes)).reduce((sum, n) => sum + n, 0);
    deploy({ packId: "regions", shards: 3 });
    const here = outputOf(await eventsOf("regions-none", greedy(4)));
    expect((await statusOf("regions-none")).shards.map(({ region }) => region)).toEqual([null, null, null]);

    setRegions("weur,sam");
    expect(await statusOf("regions-two")).toMatchObject({ status: "cold", epoch: null, shards: [] });
    expect(outputOf(await eventsOf("regions-two", greedy(4)))).toEqual(here);
    const { epoch, shards } = await statusOf("regions-two");
    expect(epoch).toBe(1);
    expect(shards.map(({ region }) => region)).toEqual(["weur", "sam", "weur"]);
    expect(shards.map(({ name }) => name.split("/").at(-1))).toEqual(["0@weur", "1@sam", "2@weur"]);
    expect(shards.reduce((sum, { weightBytes }) => sum + weightBytes, 0)).toBe(bytes);
    expect(shards.reduce((sum, shard) => sum + shard.experts, 0)).toBe(experts.length);
  });

  it("knows the shares before anything is loaded, and says so while it cannot load", async () => {
    const { files } = await packInBucket("regions-away");
    for (const name of files.keys()) if (name.startsWith("parts/")) await fleetEnv.PACKS!.delete(`packs/regions-away/${name}`);
    deploy({ packId: "regions-away", shards: 2 });
    await (await orchestrator("regions-away").fetch("http://orchestrator/generate", { method: "POST", body: JSON.stringify(greedy(1)) })).text();
    const { epoch, shards } = await statusOf("regions-away");
    expect(shards.map(({ loadedBytes, experts }) => [loadedBytes, experts])).toEqual([[0, 12], [0, 12]]);
    expect(shards.every(({ weightBytes }) => weightBytes > 0)).toBe(true);
    expect(epoch).toBe(1);
  });
});
