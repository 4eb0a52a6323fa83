// The trunk's weights come by the same reads as a shard's: cache before store, every extent checked, and whatever of a stage's part does not lie in memory
// whole (the ends of a run of vocabulary rows) in the cache all the same, so that a stage comes back without a store.

import { expect, it, beforeAll, describe } from "vitest";
import { LIMITS } from "../../../durable/limits.ts";
import { trunkBlobs } from "../../../durable/memory-plan.ts";
import { trunkReads } from "../../../durable/weight-reads.ts";
import { cutExtents } from "../../../durable/weight-keeper.ts";
import { SeededRandom } from "../../../durable/clock.ts";
import type { NamedBlob } from "../../../formats/manifest.ts";
import { wholeModel, type StageSpan } from "../../../model/stage-span.ts";
import { FakeClock } from "./fake-clock.ts";
import { CountingStore, MapCache, newIsolate, testPack, type TestPack } from "./shard-fixture.ts";

let pack: TestPack;
beforeAll(async () => { pack = await testPack(); });

const instances: object[] = [];
function trunk(cache: MapCache | null, store: CountingStore, limits: Partial<typeof LIMITS> = {}) {
  const [clock, instance] = [new FakeClock(), {}];
  instances.push(instance);
  const tenant = newIsolate(limits).enter("a", "orchestrator", "orchestrator a", instance, false);
  const reads = trunkReads({ tenant, clock, random: new SeededRandom(1), weights: { store: () => store, cache, donor: () => null } }, () => 0);
  const load = async (blobs: readonly NamedBlob[]): Promise<void> => {
    const done = await clock.until(waited(reads.load(pack.manifest, blobs, () => undefined), clock));
    if (done.status === "rejected") throw done.reason;
    await clock.advance(10_000);
  };
  const bytesOf = (blobs: readonly NamedBlob[]): string[] => blobs.map(({ blob }) => Buffer.from(tenant.isolate.heap.u8.slice(tenant.ptrOf(blob.hash), tenant.ptrOf(blob.hash) + blob.bytes)).toString("hex"));
  return { reads, load, bytesOf, clock, tenant };
}

/** Hashes are computed on threads, which a fake clock does not wait for: a timer keeps it going meanwhile. */
function waited<T>(work: Promise<T>, clock: FakeClock): Promise<T> {
  let isOver = false;
  const tick = (): void => { if (!isOver) clock.after(1, tick); };
  tick();
  return work.finally(() => { isOver = true; });
}

const gone = (): CountingStore => {
  const store = new CountingStore(pack.files);
  store.before = () => { throw new Error("The store is gone."); };
  return store;
};

const BLOCK = 16;
const half = (): StageSpan => ({ ...wholeModel(pack.manifest.config), embeddingRows: [BLOCK, 3 * BLOCK], headRows: [0, 2 * BLOCK] });

describe("a trunk", () => {
  it("and a stage's part of it come back from the cache, with no store", async () => {
    for (const span of [wholeModel(pack.manifest.config), half()]) {
      const blobs = trunkBlobs(pack.manifest, span);
      const [cache, store] = [new MapCache(), new CountingStore(pack.files)];
      const first = trunk(cache, store);
      await first.load(blobs);
      expect([first.reads.uncachedExtents, first.reads.figures.moved]).toEqual([0, { memory: 0, cache: 0, donors: 0, store: store.bytes }]);
      expect([...cache.rows.keys()].sort()).toEqual([...new Set(blobs.flatMap(({ blob }) => blob.extents.map(([, , , hash]) => hash)))].sort());
      const again = trunk(cache, gone());
      await again.load(blobs);
      expect(again.reads.figures.moved).toEqual({ memory: 0, cache: store.bytes, donors: 0, store: 0 });
      expect(again.bytesOf(blobs)).toEqual(first.bytesOf(blobs));
    }
  });

  it("that lies in memory is adopted, and a cache that holds something else is made good", async () => {
    const blobs = trunkBlobs(pack.manifest, half());
    const [cache, store] = [new MapCache(), new CountingStore(pack.files)];
    const first = trunk(cache, store);
    await first.load(blobs);
    const right = first.bytesOf(blobs);
    const before = store.bytes;
    await first.load(blobs);
    expect(store.bytes).toBe(before);
    for (const row of cache.rows.values()) row[0]! ^= 1;
    const again = trunk(cache, new CountingStore(pack.files));
    await again.load(blobs);
    expect(again.bytesOf(blobs)).toEqual(right);
    const third = trunk(cache, gone());
    await third.load(blobs);
    expect(third.bytesOf(blobs)).toEqual(right);
  });

  it("of more than any isolate of the platform holds is not cached, nor its cut extents", async () => {
    const cache = new MapCache();
    const shard = trunk(cache, new CountingStore(pack.files), { cacheBytes: 1000 });
    await shard.load(trunkBlobs(pack.manifest, half()));
    expect(cache.rows.size).toBe(0);
  });
});

it("extents at the ends of a run are cut, those within are not, and one that another blob has whole is not", () => {
  const extents = ["a", "b", "c"].map((hash, i) => [0, 10 * i, 10, hash] as const);
  const run: NamedBlob = { name: "embed", blob: { hash: "x:5-25", bytes: 20, extents }, skipBytes: 5 };
  expect([...cutExtents([run])]).toEqual(["a", "c"]);
  expect([...cutExtents([run, { name: "other", blob: { hash: "y", bytes: 10, extents: [extents[2]!] } }])]).toEqual(["a"]);
  expect([...cutExtents([{ name: "whole", blob: { hash: "z", bytes: 30, extents } }])]).toEqual([]);
});
