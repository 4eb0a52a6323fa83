// Where a shard's weights come from: own cache before donors, donors before the store, and no byte believed without its hash, whoever lies, fails or is
// silent. What was read is in the cache afterwards, what is no longer needed is not.

import { beforeAll, describe, expect, it } from "vitest";
import { LIMITS, type Limits } from "../../../durable/limits.ts";
import { blobsOfSlots } from "../../../durable/memory-plan.ts";
import type { Donor, MovedBytes, SlotRange } from "../../../durable/handshake.ts";
import type { DonorRead } from "../../../durable/shard-host.ts";
import { FakeClock } from "./fake-clock.ts";
import { ask, CountingStore, experts, helloOf, isRow, MapCache, newCore, newIsolate, settled, testPack, type TestCore, type TestPack } from "./shard-fixture.ts";

let pack: TestPack;
beforeAll(async () => { pack = await testPack(); });

const A = experts(0, 0, 4);
const hashesOf = (slots: readonly SlotRange[]): string[] => blobsOfSlots(pack.manifest, slots).map(({ blob }) => blob.hash);
const bytesOf = (slots: readonly SlotRange[]): number => blobsOfSlots(pack.manifest, slots).reduce((sum, { blob }) => sum + blob.bytes, 0);
const moved = (of: Partial<MovedBytes>): MovedBytes => ({ memory: 0, cache: 0, donors: 0, store: 0, ...of });

/** A shard that holds `slots` in an isolate of its own. */
async function holder(clock: FakeClock, slots: readonly SlotRange[], key = "donor"): Promise<TestCore> {
  const shard = newCore({ pack, clock, store: new CountingStore(pack.files), key });
  await settled(clock, shard.core, helloOf(pack, 1, slots));
  return shard;
}

/** A shard that wants A, with donors by name. */
async function wants(reads: Readonly<Record<string, DonorRead>>, limits: Partial<Limits> = {}, clock = new FakeClock()) {
  const store = new CountingStore(pack.files);
  const shard = newCore({ pack, clock, store, isolate: newIsolate(limits), donor: ({ name }) => reads[name] ?? null });
  const donors: Donor[] = Object.keys(reads).map((name, i) => ({ shard: i, name, slots: A }));
  expect(await settled(clock, shard.core, helloOf(pack, 2, A, donors))).toMatchObject({ state: "ready" });
  expect(isRow(ask(shard, pack, 2, 0, 3))).toBe(true);
  return { ...shard, store, clock };
}

describe("a donor", () => {
  it("gives all it holds, and the store the rest", async () => {
    const clock = new FakeClock();
    const half = await holder(clock, experts(0, 0, 2));
    const shard = await wants({ half: async (...of) => half.core.read(...of) }, {}, clock);
    expect(shard.core.report().moved).toEqual(moved({ donors: bytesOf(experts(0, 0, 2)), store: bytesOf(experts(0, 2, 4)) }));
    expect(shard.store.bytes).toBe(bytesOf(experts(0, 2, 4)));
    // The same bits as from the store.
    expect(ask(shard, pack, 2, 0, 1)).toBe(ask(half, pack, 1, 0, 1));
  });

  const faults: [string, (right: ArrayBuffer) => Promise<ArrayBuffer | null>, number][] = [
    ["lies in one bit", async (right) => { new Uint8Array(right)[77]! ^= 1; return right; }, 1],
    ["gives less", async (right) => right.slice(16), 1],
    ["fails", () => Promise.reject(new Error("Network connection lost.")), 1],
    ["is silent", () => new Promise(() => {}), 1],
    ["has nothing after all", async () => null, LIMITS.donorFaults],
  ];
  for (const [what, answer, most] of faults) {
    it(`that ${what} is passed over, for the next one and for the store`, async () => {
      for (const isThere of [true, false]) {
        const clock = new FakeClock();
        const good = await holder(clock, A);
        let asked = 0;
        const bad: DonorRead = async (hash, offset, length) => {
          asked++;
          return answer(good.core.read(hash, offset, length)!);
        };
        // One at a time, so that what one answer teaches counts for the next.
        const shard = await wants({ bad, ...(isThere ? { good: async (...of) => good.core.read(...of) } : {}) }, { donorReads: 1 }, clock);
        expect(shard.core.report().moved).toEqual(moved(isThere ? { donors: bytesOf(A) } : { store: bytesOf(A) }));
        expect(asked).toBeLessThanOrEqual(most);
        if (!isThere) expect(asked).toBe(most);
        expect(ask(shard, pack, 2, 0, 3)).toBe(ask(good, pack, 1, 0, 3));
      }
    });
  }

  it("is asked for so many extents at a time, and no more", async () => {
    const clock = new FakeClock();
    const good = await holder(clock, A);
    let [now, most] = [0, 0];
    const read: DonorRead = async (...of) => {
      most = Math.max(most, ++now);
      await new Promise((resolve) => setImmediate(resolve));
      now--;
      return good.core.read(...of);
    };
    const { core } = await wants({ read }, {}, clock);
    expect([most, core.report().moved]).toEqual([LIMITS.donorReads, moved({ donors: bytesOf(A) })]);
  });

  it("answers from memory only, and nothing that is no part of a blob", async () => {
    const { core } = await holder(new FakeClock(), A);
    const [hash] = hashesOf(A);
    const { bytes } = blobsOfSlots(pack.manifest, A)[0]!.blob;
    expect(core.read(hash!, 16, bytes - 16)?.byteLength).toBe(bytes - 16);
    for (const [offset, length] of [[16, bytes - 15], [-1, 4], [0, 0], [0.5, 4], [0, LIMITS.donorReadBytes + 1], [NaN, 4]] as const) expect(core.read(hash!, offset, length), `${offset} ${length}`).toBeNull();
    expect(core.read(hashesOf(experts(1, 0, 1))[0]!, 0, 4)).toBeNull();
  });

  it("named with slots the pack does not have is nobody", async () => {
    const clock = new FakeClock();
    const shard = newCore({ pack, clock, store: new CountingStore(pack.files), donor: () => async () => { throw new Error("Nobody should ask."); } });
    expect(await settled(clock, shard.core, helloOf(pack, 1, A, [{ shard: 4, name: "x", slots: experts(7, 0, 1) }]))).toMatchObject({ state: "ready" });
    expect(shard.core.report().moved).toEqual(moved({ store: bytesOf(A) }));
  });

  it("fills gaps of a source without ranges, whose parts are read once", async () => {
    const clock = new FakeClock();
    const good = await holder(clock, [...experts(0, 0, 1), ...experts(0, 3, 4)]);
    const reads: string[] = [];
    const store = new (class extends CountingStore {
      override readonly hasRanges = false;
      override read(name: string, offset?: number, length?: number): AsyncIterable<Uint8Array> {
        reads.push(name);
        return super.read(name, offset, length);
      }
    })(pack.files);
    const shard = newCore({ pack, clock, store, donor: () => async (...of) => good.core.read(...of) });
    expect(await settled(clock, shard.core, helloOf(pack, 1, [...A, ...experts(1, 0, 8)], [{ shard: 0, name: "good", slots: A }]))).toMatchObject({ state: "ready" });
    expect(new Set(reads).size).toBe(reads.length);
    expect(shard.core.report().moved.donors).toBe(bytesOf([...experts(0, 0, 1), ...experts(0, 3, 4)]));
    expect(isRow(ask(shard, pack, 1, 0, 3))).toBe(true);
  });
});

describe("the cache", () => {
  const gone = (): CountingStore => {
    const store = new CountingStore(pack.files);
    store.before = () => { throw new Error("The store is gone."); };
    return store;
  };
  const filled = async (slots: readonly SlotRange[], limits: Partial<Limits> = {}, cache = new MapCache()) => {
    const clock = new FakeClock();
    const shard = newCore({ pack, clock, store: new CountingStore(pack.files), cache, isolate: newIsolate(limits) });
    await settled(clock, shard.core, helloOf(pack, 1, slots));
    return { ...shard, clock, cache };
  };

  it("has everything a while after a load, and another isolate needs no store", async () => {
    const { clock, cache, core, kept } = await filled(A);
    await clock.advance(10_000);
    expect([[...cache.rows.keys()].sort(), core.report().uncachedExtents]).toEqual([hashesOf(A).sort(), 0]);
    const again = newCore({ pack, clock, store: gone(), kept, cache });
    expect(ask(again, pack, 1, 0, 0)).toMatch(/^warming: /);
    expect(await settled(clock, again.core, helloOf(pack, 1, A))).toMatchObject({ state: "ready" });
    expect(isRow(ask(again, pack, 1, 0, 0))).toBe(true);
    expect(again.core.report().moved).toEqual(moved({ cache: bytesOf(A) }));
  });

  it("is written in batches, and later while frames come, but not for ever", async () => {
    const PAUSE_MS = 10_000_000; // longer than the handshake takes
    const blobBytes = bytesOf(experts(0, 0, 1));
    const { core, clock, cache } = await filled(A, { cacheBatchBytes: blobBytes * 2, cachePauseMs: PAUSE_MS });
    expect(cache.rows.size).toBe(0);
    let pauses = 0;
    while (cache.rows.size === 0) {
      ask({ core }, pack, 1, 0, 0);
      await clock.advance(PAUSE_MS);
      pauses++;
    }
    expect([pauses, cache.rows.size, core.report().uncachedExtents]).toEqual([LIMITS.cachePauses + 1, 2, 2]);
    await clock.advance(2 * PAUSE_MS);
    expect([cache.rows.size, core.report().uncachedExtents]).toEqual([4, 0]);
  });

  it("that lost rows, holds wrong ones or cannot be read is made good by the store", async () => {
    const damages: ((cache: MapCache) => void)[] = [
      (cache) => cache.rows.clear(),
      (cache) => { for (const row of cache.rows.values()) row[9]! ^= 4; },
      (cache) => { for (const [hash, row] of cache.rows) cache.rows.set(hash, row.slice(1)); },
      (cache) => { cache.read = () => { throw new Error("database disk image is malformed"); }; },
    ];
    for (const [i, damage] of damages.entries()) {
      const { clock, cache, core } = await filled(A);
      const right = ask({ core }, pack, 1, 0, 2);
      await clock.advance(10_000);
      damage(cache);
      const again = newCore({ pack, clock, store: new CountingStore(pack.files), cache });
      expect(await settled(clock, again.core, helloOf(pack, 1, A))).toMatchObject({ state: "ready" });
      expect([ask(again, pack, 1, 0, 2), again.core.report().moved], `damage ${i}`).toEqual([right, moved({ store: bytesOf(A) })]);
      await clock.advance(10_000);
      if (i >= 2) continue; // lengths and broken databases are found by their readers only
      const third = newCore({ pack, clock, store: gone(), cache });
      expect(await settled(clock, third.core, helloOf(pack, 1, A)), `damage ${i}`).toMatchObject({ state: "ready" });
    }
  });

  it("comes before donors, and holds no more than the slots need", async () => {
    const { clock, cache, core } = await filled(A);
    await clock.advance(10_000);
    const shard = newCore({ pack, clock, store: gone(), cache, donor: () => async () => { throw new Error("Nobody should ask."); } });
    await settled(clock, shard.core, helloOf(pack, 2, A, [{ shard: 0, name: "other", slots: A }]));
    expect(shard.core.report().moved).toEqual(moved({ cache: bytesOf(A) }));
    await settled(clock, core, helloOf(pack, 2, experts(0, 3, 6)));
    core.retire({ packHash: pack.packHash, below: 2 });
    await clock.advance(10_000);
    expect([...cache.rows.keys()].sort()).toEqual(hashesOf(experts(0, 3, 6)).sort());
    core.retire({ packHash: pack.packHash, below: 3 });
    await clock.advance(10_000);
    expect(cache.rows.size).toBe(0);
  });

  it("is left alone where the weights are more than any isolate of the platform holds, and where it cannot be written", async () => {
    const large = await filled(A, { cacheBytes: bytesOf(A) - 1 });
    await large.clock.advance(10_000);
    expect(large.cache.rows.size).toBe(0);
    let tries = 0;
    const cache = new MapCache();
    cache.write = () => { tries++; throw new Error("database or disk is full"); };
    const full = await filled(A, {}, cache);
    await full.clock.advance(10_000);
    expect([tries, isRow(ask(full, pack, 1, 0, 0)), full.clock.pendingTimers]).toEqual([1, true, 0]);
  });
});

describe("memory", () => {
  it("comes before everything: what a neighbour holds is neither read nor copied", async () => {
    const clock = new FakeClock();
    const { isolate } = await holder(clock, A);
    const shard = newCore({ pack, clock, isolate, store: new CountingStore(pack.files), cache: new MapCache(), key: "b" });
    await settled(clock, shard.core, helloOf(pack, 1, experts(0, 2, 6)));
    expect(shard.core.report().moved).toEqual(moved({ memory: bytesOf(experts(0, 2, 4)), store: bytesOf(experts(0, 4, 6)) }));
    await settled(clock, shard.core, helloOf(pack, 2, A));
    expect(shard.core.report().moved).toEqual(moved({ memory: bytesOf(A), store: bytesOf(experts(0, 4, 6)) }));
  });
});
