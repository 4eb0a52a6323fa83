// A shard that serves several epochs: another one adds to it and disturbs nothing, retiring lets go of exactly what only the old ones needed, what does
// not fit is refused before anything is read, and an object that comes back knows all of it.

import { beforeAll, describe, expect, it } from "vitest";
import { LIMITS } from "../../../durable/limits.ts";
import { blobsOfSlots, plannedBytes, shardMemory } from "../../../durable/memory-plan.ts";
import type { SlotRange } from "../../../durable/handshake.ts";
import { FakeClock } from "./fake-clock.ts";
import { ask, CountingStore, experts, helloOf, isRow, newCore, newIsolate, settled, testPack, until, type TestPack } from "./shard-fixture.ts";

let pack: TestPack;
const expected = new Map<string, string>();
beforeAll(async () => {
  pack = await testPack();
  const clock = new FakeClock();
  const whole = newCore({ pack, clock, store: new CountingStore(pack.files) });
  await settled(clock, whole.core, helloOf(pack, 1, [...experts(0, 0, 8), ...experts(1, 0, 8)]));
  for (const layer of [0, 1]) for (let expert = 0; expert < 8; expert++) expected.set(`${layer} ${expert}`, ask(whole, pack, 1, layer, expert));
  expect(new Set(expected.values()).size).toBe(16);
  expect([...expected.values()].every(isRow)).toBe(true);
});

const right = (layer: number, expert: number): string => expected.get(`${layer} ${expert}`)!;
const bytesOf = (slots: readonly SlotRange[]): number => blobsOfSlots(pack.manifest, slots).reduce((sum, { blob }) => sum + blob.bytes, 0);
const planned = (slots: readonly SlotRange[]): number => plannedBytes(shardMemory(pack.manifest, slots, LIMITS));
const [A, B] = [experts(0, 0, 4), experts(0, 2, 6)];
const setUp = (parts: Partial<Parameters<typeof newCore>[0]> = {}) => {
  const clock = new FakeClock();
  const store = new CountingStore(pack.files);
  return { clock, store, ...newCore({ pack, clock, store, ...parts }) };
};

describe("another epoch", () => {
  it("adds its slots, read where missing, while the first is served from beginning to end", async () => {
    const shard = setUp();
    const { clock, core, store } = shard;
    expect(await settled(clock, core, helloOf(pack, 1, A))).toMatchObject({ state: "ready", hasRead: true });
    const before = store.bytes;
    const during: string[] = [];
    store.before = () => { during.push(ask(shard, pack, 1, 0, 0), ask(shard, pack, 2, 0, 5)); };
    expect(await settled(clock, core, helloOf(pack, 2, B))).toMatchObject({ state: "ready", hasRead: true });
    expect(during.slice(0, 2)).toEqual([right(0, 0), "wrong-epoch: The frame is of epoch 2; this shard serves 1."]);
    expect(store.bytes - before).toBe(bytesOf(experts(0, 4, 6)));
    expect([ask(shard, pack, 1, 0, 0), ask(shard, pack, 1, 0, 3), ask(shard, pack, 2, 0, 3), ask(shard, pack, 2, 0, 5)]).toEqual([right(0, 0), right(0, 3), right(0, 3), right(0, 5)]);
    expect(ask(shard, pack, 1, 0, 5)).toBe("unknown-slot: Layer 0, expert 5, segment 0 is not held here in epoch 1.");
    expect(ask(shard, pack, 3, 0, 3)).toBe("wrong-epoch: The frame is of epoch 3; this shard serves 1, 2.");
    expect(shard.isolate.heap.usedBytes).toBe(planned(experts(0, 0, 6)));
    expect(core.report()).toMatchObject({ epochs: [1, 2], state: "serving", moved: { memory: 0, cache: 0, donors: 0, store: bytesOf(experts(0, 0, 6)) } });
  });

  it("of both at once is no race", async () => {
    const shard = setUp();
    const { clock, core } = shard;
    const answers = await Promise.all([settled(clock, core, helloOf(pack, 2, B)), settled(clock, core, helloOf(pack, 1, A)), settled(clock, core, helloOf(pack, 3, experts(1, 0, 2)))]);
    expect(answers.map(({ state }) => state)).toEqual(["ready", "ready", "ready"]);
    expect([ask(shard, pack, 1, 0, 0), ask(shard, pack, 2, 0, 5), ask(shard, pack, 3, 1, 1)]).toEqual([right(0, 0), right(0, 5), right(1, 1)]);
  });

  it("that does not fit beside the first is refused with the numbers before a byte is read, and fits once that is retired", async () => {
    const roomBytes = Math.max(planned(A), planned(B)) + 1000;
    const shard = setUp({ isolate: newIsolate({ isolateBytes: LIMITS.inFlightBytes + roomBytes }) });
    const { clock, core, store } = shard;
    expect(planned([...A, ...B])).toBeGreaterThan(roomBytes);
    expect(await settled(clock, core, helloOf(pack, 1, A))).toMatchObject({ state: "ready" });
    const before = store.bytes;
    const refused = await settled(clock, core, helloOf(pack, 2, B));
    expect(refused).toMatchObject({ state: "refused", code: "memory", retryable: true });
    expect((refused as { message: string }).message).toMatch(/^6 expert segments of pack tiny and what serving them takes, for the epochs 1, 2 together, would bring shard a to [\d.]+ MiB .* is the limit.* Epoch 2 alone would fit, once the others are retired\.$/);
    expect([store.bytes, shard.isolate.heap.usedBytes, ask(shard, pack, 1, 0, 0)]).toEqual([before, planned(A), right(0, 0)]);
    core.retire({ packHash: pack.packHash, below: 2 });
    expect(await settled(clock, core, helloOf(pack, 2, B))).toMatchObject({ state: "ready" });
    expect([shard.isolate.heap.usedBytes, ask(shard, pack, 2, 0, 5)]).toEqual([planned(B), right(0, 5)]);
  });

  it("counts against the limit also where a neighbour has its bytes in memory", async () => {
    const isolate = newIsolate({ isolateBytes: LIMITS.inFlightBytes + Math.max(planned(A), planned(B)) + 1000 });
    const shard = setUp({ isolate });
    const neighbour = newCore({ pack, clock: shard.clock, store: shard.store, isolate, key: "b" });
    await settled(shard.clock, neighbour.core, helloOf(pack, 1, B));
    await settled(shard.clock, shard.core, helloOf(pack, 1, A));
    const before = shard.tenant.usedBytes;
    expect(await settled(shard.clock, shard.core, helloOf(pack, 2, B))).toMatchObject({ state: "refused", code: "memory" });
    expect([ask(shard, pack, 1, 0, 0), ask(neighbour, pack, 1, 0, 5), shard.tenant.usedBytes]).toEqual([right(0, 0), right(0, 5), before]);
  });

  it("that fails to load leaves the first, and not a byte more", async () => {
    const shard = setUp();
    const { clock, core, store } = shard;
    await settled(clock, core, helloOf(pack, 1, A));
    store.before = () => { throw new Error("status 503"); };
    const failed = await settled(clock, core, helloOf(pack, 2, B));
    expect(failed).toMatchObject({ state: "refused", code: "load-failed", retryable: true });
    expect((failed as { message: string }).message).toMatch(/parts\/00000\.bin, bytes \d+ to \d+, blob layers\.0\.experts\.4\.segments\.0: status 503 \(after 4 attempts\)/);
    expect([shard.isolate.heap.usedBytes, ask(shard, pack, 1, 0, 0)]).toEqual([planned(A), right(0, 0)]);
    store.before = () => undefined;
    expect(await settled(clock, core, helloOf(pack, 2, B))).toMatchObject({ state: "ready" });
  });

  it("beyond as many as are served at a time is refused", async () => {
    const shard = setUp({ isolate: newIsolate({ servedEpochs: 2 }) });
    for (const epoch of [1, 2]) await settled(shard.clock, shard.core, helloOf(pack, epoch, A));
    expect(await settled(shard.clock, shard.core, helloOf(pack, 3, A))).toMatchObject({ state: "refused", code: "memory", message: "shard a would serve the epochs 1, 2, 3; 2 at a time is the limit, and none of them was retired." });
    expect([1, 2].map((epoch) => ask(shard, pack, epoch, 0, 0))).toEqual([right(0, 0), right(0, 0)]);
  });

  it("under the number of one that is served takes its place", async () => {
    const shard = setUp();
    await settled(shard.clock, shard.core, helloOf(pack, 1, A));
    await settled(shard.clock, shard.core, helloOf(pack, 1, experts(1, 0, 2)));
    expect(ask(shard, pack, 1, 0, 0)).toMatch(/^unknown-slot/);
    expect([ask(shard, pack, 1, 1, 1), shard.isolate.heap.usedBytes]).toEqual([right(1, 1), planned(experts(1, 0, 2))]);
  });
});

describe("retiring", () => {
  it("lets go of what only the old epochs needed, refuses them from then on, and is not forgotten", async () => {
    const shard = setUp();
    const { clock, core, kept, isolate } = shard;
    for (const [epoch, slots] of [[1, A], [2, B], [3, B]] as const) await settled(clock, core, helloOf(pack, epoch, slots));
    core.retire({ packHash: pack.packHash, below: 3 });
    expect(isolate.heap.usedBytes).toBe(planned(B));
    expect([ask(shard, pack, 3, 0, 5), ask(shard, pack, 2, 0, 5)]).toEqual([right(0, 5), "wrong-epoch: The frame is of epoch 2; this shard serves 3."]);
    core.retire({ packHash: pack.packHash, below: 2 });
    const again = newCore({ pack, clock, store: shard.store, isolate, kept });
    for (const each of [core, again.core]) {
      expect(await settled(clock, each, helloOf(pack, 2, B))).toMatchObject({ state: "refused", code: "retired", retryable: false, message: "Epoch 2 is over: every epoch below 3 was retired on shard a." });
    }
    core.retire({ packHash: "another", below: 9 });
    expect(isRow(ask(shard, pack, 3, 0, 5))).toBe(true);
    again.core.retire({ packHash: pack.packHash, below: 4 });
    expect([isolate.heap.usedBytes, kept.hellos]).toEqual([0, []]);
  });

  it("while another epoch loads waits with the memory, not with the answer", async () => {
    for (const below of [2, 3]) {
      const shard = setUp();
      const { clock, core, store } = shard;
      await settled(clock, core, helloOf(pack, 1, A));
      let reply = "";
      store.before = () => {
        core.retire({ packHash: pack.packHash, below });
        reply ||= ask(shard, pack, 1, 0, 0);
      };
      const answer = await settled(clock, core, helloOf(pack, 2, B));
      expect(answer).toMatchObject(below === 2 ? { state: "ready" } : { state: "refused", code: "retired" });
      await until(clock, () => core.report().state !== "loading");
      expect(reply).toMatch(/^(wrong-epoch|unknown-slot): /);
      expect([shard.isolate.heap.usedBytes, core.report().epochs]).toEqual(below === 2 ? [planned(B), [2]] : [0, []]);
    }
  });
});

describe("an object that comes back", () => {
  it("finds all its epochs in the isolate's memory, and reads nothing", async () => {
    const shard = setUp();
    const { clock, store, isolate, kept } = shard;
    for (const [epoch, slots] of [[1, A], [2, B]] as const) await settled(clock, shard.core, helloOf(pack, epoch, slots, [{ shard: 1, name: "other", slots: A }]));
    expect(kept.hellos.map(({ epoch, donors }) => [epoch, donors])).toEqual([[1, []], [2, []]]);
    const before = store.bytes;
    const again = newCore({ pack, clock, store, isolate, kept });
    expect([ask(again, pack, 1, 0, 0), ask(again, pack, 2, 0, 5), store.bytes]).toEqual([right(0, 0), right(0, 5), before]);
    expect(again.core.report().moved).toEqual({ memory: 0, cache: 0, donors: 0, store: 0 });
  });

  it("in another isolate answers `warming`, and serves all of them after one load", async () => {
    const shard = setUp();
    const { clock, store, kept } = shard;
    for (const [epoch, slots] of [[1, A], [2, B]] as const) await settled(clock, shard.core, helloOf(pack, epoch, slots));
    const before = store.bytes;
    const again = newCore({ pack, clock, store, kept });
    expect(ask(again, pack, 1, 0, 0)).toMatch(/^warming: /);
    expect(await settled(clock, again.core, helloOf(pack, 1, A))).toMatchObject({ state: "ready", hasRead: true });
    expect([ask(again, pack, 1, 0, 0), ask(again, pack, 2, 0, 5), store.bytes - before]).toEqual([right(0, 0), right(0, 5), bytesOf(experts(0, 0, 6))]);
  });

  it("is told of another pack, which replaces everything", async () => {
    const shard = setUp();
    const { clock, isolate, kept } = shard;
    for (const [epoch, slots] of [[1, A], [2, B]] as const) await settled(clock, shard.core, helloOf(pack, epoch, slots));
    const other = await testPack(12);
    const again = newCore({ pack: other, clock, store: new CountingStore(other.files), isolate, kept });
    expect(await settled(clock, again.core, helloOf(other, 1, A))).toMatchObject({ state: "ready" });
    expect(kept.hellos.map(({ packHash, epoch }) => [packHash, epoch])).toEqual([[other.packHash, 1]]);
    expect([isRow(ask(again, other, 1, 0, 0)), ask(again, other, 1, 0, 0) === right(0, 0), isolate.heap.usedBytes]).toEqual([true, false, planned(A)]);
    expect(ask(again, other, 2, 0, 5)).toBe("wrong-epoch: The frame is of epoch 2; this shard serves 1.");
  });
});
