// Objects that lose their memory as a matter of course, inside the real runtime: evicted at every token with the store gone, kept warm by an alarm or not,
// loaded ahead of the first request, and what they say of their state meanwhile.

import { createExecutionContext, evictDurableObject, runDurableObjectAlarm, runInDurableObject } from "cloudflare:test";
import { env } from "cloudflare:workers";
import { afterEach, describe, expect, it, vi } from "vitest";
import { systemClock } from "../../durable/clock.ts";
import { Isolate } from "../../durable/isolate.ts";
import { LIMITS } from "../../durable/limits.ts";
import { SqlManifestCache, type ManifestCache } from "../../durable/manifest-cache.ts";
import type { ExpertShard } from "../../durable/shard.ts";
import { WebSocketExperts } from "../../durable/websocket-experts.ts";
import worker, { type EdgeEnv } from "../../worker/index.ts";
import type { FleetWarmth } from "../../worker/wire-types.ts";
import type { MemoryPack } from "../support/pack-to-memory.ts";
import { deploy, eventsOf, fleetEnv, greedy, orchestrator, outputOf, packInBucket, shardsOf, statusOf, until } from "./fleet-fixture.ts";

const realEnter = Isolate.prototype.enter;
const realRun = WebSocketExperts.prototype.run;
afterEach(() => {
  Isolate.prototype.enter = realEnter;
  WebSocketExperts.prototype.run = realRun;
  Object.assign(env, { KEEP_WARM: "off" });
  vi.restoreAllMocks();
});

type Shard = DurableObjectStub<ExpertShard>;
const reports = (shards: readonly Shard[]) => Promise.all(shards.map((shard) => shard.report()));
const cached = (name: string, shards: readonly Shard[]): Promise<void> => until(async () => (await reports(shards)).every(({ uncachedExtents }) => uncachedExtents === 0)
  && (await runInDurableObject(orchestrator(name), (_, { storage }) => storage.sql.exec("SELECT name FROM sqlite_master WHERE name = 'weight_rows'").toArray().length)) === 1);

/** What an object held is out of the isolate's memory before its next self comes up, as if that had a new isolate. */
function memoryIsLost(): void {
  Isolate.prototype.enter = function (...of) {
    this.tenants.find(({ name }) => name === of[2])?.leave();
    return realEnter.apply(this, of);
  };
}

async function storeGone(pack: MemoryPack, packId: string): Promise<void> {
  for (const name of pack.files.keys()) await fleetEnv.PACKS!.delete(`packs/${packId}/${name}`);
}

const N_LAYERS = 3;
const N_TOKENS = 4;

it("every shard and the orchestrator lose their memory between any two tokens, with no store: the same bits", async () => {
  const pack = await packInBucket("restless");
  deploy({ packId: "restless", shards: 2 });
  const request = greedy(N_TOKENS, { logprobs: 20 });
  const expected = outputOf(await eventsOf("restless", request));
  const shards = await shardsOf("restless");
  await cached("restless", shards);
  const trunk = await settled(async () => runInDurableObject(orchestrator("restless"), (_, { storage }) => storage.sql.exec<{ n: number }>("SELECT count(*) AS n FROM weight_rows").one().n));
  expect(trunk).toBeGreaterThan(10);
  await storeGone(pack, "restless");
  memoryIsLost();
  for (let token = 1; token < N_TOKENS; token++) {
    let calls = 0;
    let aborted = false;
    WebSocketExperts.prototype.run = async function (this: WebSocketExperts, layer, batch) {
      // Before the first layer of the step that makes this token; the object goes down with everything it had under way.
      if (calls++ === token * N_LAYERS) await until(() => aborted);
      return realRun.call(this, layer, batch);
    } as typeof realRun;
    const running = eventsOf("restless", request);
    await until(() => calls > token * N_LAYERS);
    for (const shard of shards) await evictDurableObject(shard);
    await runInDurableObject(orchestrator("restless"), (_, state) => state.abort("the test pulls the plug")).catch(() => undefined);
    aborted = true;
    expect(outputOf(await running), `before token ${token}`).toEqual(expected);
    const { read } = await statusOf("restless");
    expect(read.moved).toMatchObject({ memory: 0, store: 0 });
    expect(read.moved.cache).toBeGreaterThan(10_000);
    expect((await reports(shards)).every(({ moved }) => moved.cache > 10_000 && moved.store === 0)).toBe(true);
  }
});

/** Asks until two answers in a row are the same. */
async function settled(count: () => Promise<number>): Promise<number> {
  for (let before = -1; ;) {
    const now = await count();
    if (now === before) return now;
    before = now;
    await new Promise((resolve) => setTimeout(resolve, 3 * LIMITS.cachePauseMs));
  }
}

describe("an orchestrator's alarm", () => {
  const started = async (packId: string): Promise<Shard[]> => {
    await packInBucket(packId);
    deploy({ packId, shards: 2 });
    await eventsOf(packId, greedy(2));
    const shards = await shardsOf(packId);
    for (const shard of shards) await evictDurableObject(shard);
    return shards;
  };
  const states = async (shards: readonly Shard[]): Promise<string[]> => (await reports(shards)).map(({ state }) => state);

  it("brings back shards that were evicted, and goes on, where the fleet is to be kept warm", async () => {
    Object.assign(env, { KEEP_WARM: "shards" });
    const shards = await started("kept-warm");
    expect(await states(shards)).toEqual(["cold", "cold"]);
    expect(await runDurableObjectAlarm(orchestrator("kept-warm"))).toBe(true);
    expect(await states(shards)).toEqual(["serving", "serving"]);
    // Its next one is set, below the 10 s of the platform.
    const inMs = (await runInDurableObject(orchestrator("kept-warm"), (_, { storage }) => storage.getAlarm()))! - Date.now();
    expect(inMs).toBeLessThan(10_000);
  });

  it("is not set where it is not, and what was evicted stays so", async () => {
    const shards = await started("left-cold");
    expect(await runDurableObjectAlarm(orchestrator("left-cold"))).toBe(false);
    expect(await states(shards)).toEqual(["cold", "cold"]);
  });

  it("ends by itself when another deployment has the variable off", async () => {
    Object.assign(env, { KEEP_WARM: "all" });
    const shards = await started("no-longer");
    Object.assign(env, { KEEP_WARM: "off" });
    await runInDurableObject(orchestrator("no-longer"), (_, state) => state.abort("a deployment")).catch(() => undefined);
    expect(await runDurableObjectAlarm(orchestrator("no-longer"))).toBe(true);
    expect(await runInDurableObject(orchestrator("no-longer"), (_, { storage }) => storage.getAlarm())).toBeNull();
    expect([await states(shards), (await statusOf("no-longer")).status]).toEqual([["cold", "cold"], "cold"]);
  });

  it("brings an orchestrator that was restarted back as well where all of it is to be kept", async () => {
    Object.assign(env, { KEEP_WARM: "all" });
    const shards = await started("restarted");
    await runInDurableObject(orchestrator("restarted"), (_, state) => state.abort("a deployment")).catch(() => undefined);
    expect((await statusOf("restarted")).status).toBe("cold");
    expect(await runDurableObjectAlarm(orchestrator("restarted"))).toBe(true);
    expect([(await statusOf("restarted")).status, await states(shards)]).toEqual(["ready", ["serving", "serving"]]);
  });
});

describe("POST /v1/fleet/warm", () => {
  const warm = async (): Promise<FleetWarmth> => {
    const response = await worker.fetch(new Request("https://edge/v1/fleet/warm", { method: "POST" }), { ...env, OPEN_ACCESS: "true" } as unknown as EdgeEnv, createExecutionContext());
    const text = await response.text();
    expect(response.status, text).toBe(200);
    return JSON.parse(text) as FleetWarmth;
  };
  const warmths = async (): Promise<string[]> => (await statusOf("warmed")).shards.map(({ warmth }) => warmth);

  it("loads every shard before anybody asks, and each says where it is from cold to closed", async () => {
    await packInBucket("warmed");
    deploy({ packId: "warmed", shards: 3 });
    const rests: (() => void)[] = [];
    const realAfter = systemClock.after;
    vi.spyOn(systemClock, "after").mockImplementation((delayMs, fire) => {
      if (delayMs !== LIMITS.lingerMs) return realAfter.call(systemClock, delayMs, fire);
      rests.push(fire);
      return () => undefined;
    });
    const first = await warm();
    expect(first).toMatchObject({ ready: false, lanes: [{ lane: 0, region: null, name: "warmed" }] });
    await until(async () => (await warm()).ready);
    const done = await warm();
    expect(done.lanes[0]!.shards.map(({ warmth, weightBytes, loadedBytes }) => [warmth, weightBytes > 10_000 && loadedBytes === weightBytes])).toEqual(Array.from({ length: 3 }, () => ["linger", true]));
    let seen: string[] | null = null;
    WebSocketExperts.prototype.run = async function (this: WebSocketExperts, layer, batch) {
      await until(() => seen !== null);
      return realRun.call(this, layer, batch);
    } as typeof realRun;
    const running = eventsOf("warmed", greedy(1));
    await until(async () => (await statusOf("warmed")).generations.active === 1);
    seen = await warmths();
    expect(seen).toEqual(["active", "active", "active"]);
    expect((await running).at(-1)).not.toHaveProperty("coldStarts");
    expect(await warmths()).toEqual(["linger", "linger", "linger"]);
    await runInDurableObject(orchestrator("warmed"), () => rests.at(-1)!());
    expect(await warmths()).toEqual(["closed", "closed", "closed"]);
    expect((await warm()).ready).toBe(false);
    await until(async () => (await warm()).ready);
    const { read, shards } = await statusOf("warmed");
    expect([read.moved.store > 10_000, ...shards.map((shard) => shard.read!.moved.store === shard.weightBytes)]).toEqual([true, true, true, true]);
  });
});

describe("the manifest in an object's storage", () => {
  /** As a new isolate sees it: nothing was read yet. */
  async function isolate(): Promise<typeof import("../../durable/opened-packs.ts")> {
    vi.resetModules();
    return import("../../durable/opened-packs.ts");
  }
  class Kept implements ManifestCache {
    row: ReturnType<ManifestCache["read"]> = null;
    writes = 0;
    read() { return this.row; }
    write(packHash: string, bytes: Uint8Array): void {
      this.writes++;
      this.row = { packHash, bytes: new Uint8Array(bytes) };
    }
  }

  it("stands in for a store that is gone or says nothing in time, and for no other pack, nor once it is damaged", async () => {
    const pack = await packInBucket("stand-in");
    deploy({ packId: "stand-in", shards: 1 });
    const cache = new Kept();
    const { packHash } = await (await isolate()).currentPack(fleetEnv, cache);
    await (await isolate()).currentPack(fleetEnv, cache);
    expect([cache.row!.packHash, cache.writes]).toEqual([packHash, 1]);
    await storeGone(pack, "stand-in");
    expect((await (await isolate()).currentPack(fleetEnv, cache)).packHash).toBe(packHash);
    expect((await (await isolate()).packOfRevision(fleetEnv, packHash, cache)).packHash).toBe(packHash);
    // Silence: the wait for it passes at once here.
    const silent = { ...fleetEnv, PACKS: { head: () => new Promise(() => {}) } as unknown as R2Bucket };
    const fresh = await isolate();
    const { systemClock: clock } = await import("../../durable/clock.ts");
    const realAfter = clock.after;
    vi.spyOn(clock, "after").mockImplementation((delayMs, fire) => realAfter.call(clock, delayMs === LIMITS.manifestMs ? 0 : delayMs, fire));
    expect((await fresh.currentPack(silent, cache)).packHash).toBe(packHash);
    vi.restoreAllMocks();
    const damaged = new Kept();
    damaged.row = { packHash, bytes: new Uint8Array(cache.row!.bytes) };
    damaged.row.bytes[damaged.row.bytes.length - 2]! ^= 1;
    const retitled = new Kept();
    retitled.row = { packHash: packHash.replace(/^./, (digit) => (digit === "0" ? "1" : "0")), bytes: cache.row!.bytes };
    for (const [wrong, packId] of [[damaged, "stand-in"], [retitled, "stand-in"], [cache, "another"]] as const) {
      await expect((await isolate()).currentPack({ ...fleetEnv, PACK_ID: packId }, wrong)).rejects.toThrow(/has no manifest\.json/);
    }
  });

  it("gives way to the store's as soon as that answers, except to whoever asks for a revision", async () => {
    const before = await packInBucket("revised");
    deploy({ packId: "revised", shards: 1 });
    const cache = new Kept();
    const old = await (await isolate()).currentPack(fleetEnv, cache);
    const text = new TextDecoder().decode(before.files.get("manifest.json"));
    await fleetEnv.PACKS!.put("packs/revised/manifest.json", `${text} `);
    expect((await (await isolate()).packOfRevision(fleetEnv, old.packHash, cache)).packHash).toBe(old.packHash);
    const now = await (await isolate()).currentPack(fleetEnv, cache);
    expect(now.packHash).not.toBe(old.packHash);
    expect([cache.row!.packHash, cache.writes]).toEqual([now.packHash, 2]);
    expect((await (await isolate()).packOfRevision(fleetEnv, old.packHash, cache)).packHash).toBe(now.packHash); // who asked refuses it
  });

  it("lies in rows of at most 1 MiB, one revision at a time", async () => {
    const found = await runInDurableObject(fleetEnv.SHARDS.getByName("manifest-rows"), (_, { storage }) => {
      const cache = new SqlManifestCache(storage, LIMITS);
      const empty = cache.read();
      const bytes = new Uint8Array(2 * 1024 * 1024 + 3).map((_, i) => (i * 31 + (i >> 11)) & 255);
      cache.write("a", bytes);
      const [a, widths] = [cache.read(), storage.sql.exec<{ n: number }>("SELECT length(bytes) AS n FROM manifest_rows ORDER BY row").toArray().map(({ n }) => n)];
      cache.write("b", bytes.subarray(0, 9));
      return { empty, widths, same: a!.packHash === "a" && a!.bytes.every((byte, i) => byte === bytes[i]), b: [cache.read()!.packHash, cache.read()!.bytes.length] };
    });
    expect(found).toEqual({ empty: null, widths: [1048576, 1048576, 3], same: true, b: ["b", 9] });
  });
});
