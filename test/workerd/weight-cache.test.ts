// The SQLite weight cache inside the real runtime: shards that were evicted and lost their memory come back without a store; a cache that was lost or
// holds other bytes is made good by the store; other shards of the fleet give by RPC what they hold; and epochs come and go over the same objects.

import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { afterEach, describe, expect, it } from "vitest";
import { LIMITS } from "../../durable/limits.ts";
import { Isolate } from "../../durable/isolate.ts";
import { ShardCore } from "../../durable/shard-core.ts";
import { expertTable, makePlan } from "../../fleet/plan.ts";
import { SqlWeightCache } from "../../durable/weight-cache.ts";
import type { Donor, Hello, Welcome } from "../../durable/handshake.ts";
import type { ExpertShard } from "../../durable/shard.ts";
import type { OpenPack } from "../../formats/pack-reader.ts";
import { openPack } from "../../formats/pack-reader.ts";
import { deploy, eventsOf, fleetEnv, greedy, outputOf, packInBucket, shardsOf, until } from "./fleet-fixture.ts";
import type { MemoryPack } from "../support/pack-to-memory.ts";

const { enter: realEnter, resident: realResident } = Isolate.prototype;
const { read: realRead } = ShardCore.prototype;
afterEach(() => {
  Object.assign(Isolate.prototype, { enter: realEnter, resident: realResident });
  ShardCore.prototype.read = realRead;
});

type Shard = DurableObjectStub<ExpertShard>;
const cached = (shards: readonly Shard[]): Promise<void> => until(async () => (await Promise.all(shards.map(async (shard) => (await shard.report()).uncachedExtents))).every((n) => n === 0));
const sql = <T>(shard: Shard, work: (sql: SqlStorage) => T): Promise<T> => runInDurableObject(shard, (_, state) => work(state.storage.sql));
const rowsOf = (shard: Shard): Promise<number> => sql(shard, (db) => db.exec<{ n: number }>("SELECT count(*) AS n FROM weight_rows").one().n);

/** Evicts the shards; what they held is out of the isolate's memory before they come back, as if that were a new one. */
async function loseMemory(shards: readonly Shard[]): Promise<void> {
  for (const shard of shards) await evictDurableObject(shard);
  Isolate.prototype.enter = function (...of) {
    if (of[1] === "shard") this.tenants.find(({ name }) => name === of[2])?.leave();
    return realEnter.apply(this, of);
  };
}

async function storeGone(pack: MemoryPack, packId: string): Promise<void> {
  for (const name of pack.files.keys()) await fleetEnv.PACKS!.delete(`packs/${packId}/${name}`);
}

describe("shards that lost their memory", () => {
  it("load from their own cache, with no store at all", async () => {
    const pack = await packInBucket("cached");
    deploy({ packId: "cached", shards: 3 });
    const expected = outputOf(await eventsOf("cached", greedy(5)));
    const shards = await shardsOf("cached");
    await cached(shards);
    const bytes = await Promise.all(shards.map(async (shard) => (await shard.report()).moved.store));
    expect(bytes.every((n) => n > 10_000)).toBe(true);
    await storeGone(pack, "cached");
    await loseMemory(shards);
    expect(outputOf(await eventsOf("cached", greedy(5)))).toEqual(expected);
    expect(await Promise.all(shards.map(async (shard) => (await shard.report()).moved))).toEqual(bytes.map((cache) => ({ memory: 0, cache, donors: 0, store: 0 })));
  });

  it("and their cache too, or find other bytes in it, load from the store", async () => {
    await packInBucket("damaged-cache");
    deploy({ packId: "damaged-cache", shards: 2 });
    const expected = outputOf(await eventsOf("damaged-cache", greedy(5)));
    const shards = await shardsOf("damaged-cache");
    await cached(shards);
    const rows = await Promise.all(shards.map(rowsOf));
    const one = await sql(shards[1]!, (db) => db.exec<{ hash: string; bytes: ArrayBuffer }>("SELECT hash, bytes FROM weight_rows LIMIT 1").one());
    await sql(shards[0]!, (db) => void db.exec("DROP TABLE weight_rows"));
    new Uint8Array(one.bytes)[5]! ^= 1;
    await sql(shards[1]!, (db) => void db.exec("UPDATE weight_rows SET bytes = ? WHERE hash = ?", one.bytes, one.hash));
    await loseMemory(shards);
    expect(outputOf(await eventsOf("damaged-cache", greedy(5)))).toEqual(expected);
    const [lost, wrong] = (await Promise.all(shards.map((shard) => shard.report()))).map(({ moved }) => moved);
    expect(lost).toMatchObject({ cache: 0, donors: 0 });
    expect(wrong!.store).toBe(one.bytes.byteLength);
    expect(wrong!.cache).toBeGreaterThan(10_000);
    // Both are whole again.
    await cached(shards);
    expect(await Promise.all(shards.map(rowsOf))).toEqual(rows);
    expect(await sql(shards[1]!, (db) => new Uint8Array(db.exec<{ bytes: ArrayBuffer }>("SELECT bytes FROM weight_rows WHERE hash = ?", one.hash).one().bytes)[5])).toBe(new Uint8Array(one.bytes)[5]! ^ 1);
  });
});

describe("the table", () => {
  it("holds an extent of any length in rows of at most 1 MiB, all or none", async () => {
    await packInBucket("rows");
    const shard = fleetEnv.SHARDS.getByName("rows");
    const found = await runInDurableObject(shard, (_, { storage }) => {
      const cache = new SqlWeightCache(storage, () => LIMITS);
      const bytes = new Uint8Array(4 * 1024 * 1024 + 5);
      for (let i = 0; i < bytes.length; i++) bytes[i] = (i * 31 + (i >> 11)) & 255;
      cache.write("a", bytes);
      cache.write("a", bytes);
      cache.write("b", bytes.subarray(0, 7));
      const widths = storage.sql.exec<{ n: number }>("SELECT length(bytes) AS n FROM weight_rows WHERE hash = 'a' ORDER BY row").toArray().map(({ n }) => n);
      const read = cache.read("a", bytes.length);
      const same = read !== null && read.every((byte, i) => byte === bytes[i]);
      const [longer, shorter, b, list] = [cache.read("a", bytes.length + 1), cache.read("a", bytes.length - 1), cache.read("b", 7), cache.list()];
      storage.sql.exec("DELETE FROM weight_rows WHERE hash = 'a' AND row = 2");
      const holed = cache.read("a", bytes.length);
      cache.remove("a");
      return { widths, same, longer, shorter, b: Array.from(b!), list: list.sort(), holed, left: cache.list() };
    });
    const mib = 1024 * 1024;
    expect(found).toEqual({ widths: [mib, mib, mib, mib, 5], same: true, longer: null, shorter: null, b: [0, 31, 62, 93, 124, 155, 186], list: ["a", "b"], holed: null, left: ["b"] });
  });
});

describe("epochs over the same objects", () => {
  const ready = async (shard: Shard, hello: Hello): Promise<Welcome> => {
    for (;;) {
      const welcome: Welcome = { ...await shard.prepare(hello) };
      if (welcome.state !== "loading") return welcome;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  };
  const helloOf = ({ packHash }: OpenPack, epoch: number, slots: Hello["slots"], donors: readonly Donor[] = []): Hello => ({ protocolVersion: 3, packHash, epoch, slots, strictIsolates: false, donors });

  it("come from donors by RPC where those hold them, outlive eviction, and end by retiring", async () => {
    const pack = await packInBucket("epochs");
    deploy({ packId: "epochs", shards: 2 });
    const open = await openPack(pack.source);
    const { slots } = makePlan(expertTable(open.manifest), 2);
    const [one, two] = ["epochs-one", "epochs-two"].map((name) => fleetEnv.SHARDS.getByName(name)) as [Shard, Shard];
    expect(await ready(one, helloOf(open, 1, slots[0]!))).toMatchObject({ state: "ready" });
    expect(await ready(two, helloOf(open, 1, slots[1]!))).toMatchObject({ state: "ready" });
    // Local workerd has one isolate for all, and what lies in it would be adopted: while the second loads, it sees its own bytes only.
    await storeGone(pack, "epochs");
    let reading = false;
    Isolate.prototype.resident = function (hash) {
      const blob = realResident.call(this, hash);
      return reading || blob === undefined || [...blob.holders].some(({ name }) => name === "shard epochs-two") ? blob : undefined;
    };
    ShardCore.prototype.read = function (...of) {
      reading = true;
      try {
        return realRead.apply(this, of);
      } finally {
        reading = false;
      }
    };
    const both = [...slots[0]!, ...slots[1]!];
    expect(await ready(two, helloOf(open, 2, both, [{ shard: 0, name: "epochs-two", slots: slots[0]! }, { shard: 0, name: "epochs-one", slots: slots[0]! }]))).toMatchObject({ state: "ready" });
    Isolate.prototype.resident = realResident;
    const report = await two.report();
    expect(report).toMatchObject({ epochs: [1, 2], state: "serving" });
    expect(report.moved.donors).toBeGreaterThan(10_000);
    await cached([two]);
    await evictDurableObject(two);
    expect((await two.report()).epochs).toEqual([]);
    expect(await ready(two, helloOf(open, 2, both))).toMatchObject({ state: "ready", hasRead: false });
    expect((await two.report()).epochs).toEqual([1, 2]);
    await two.retire({ packHash: open.packHash, below: 2 });
    expect(await two.report()).toMatchObject({ epochs: [2], state: "serving" });
    expect(await ready(two, helloOf(open, 1, slots[1]!))).toMatchObject({ state: "refused", code: "retired" });
  });
});
