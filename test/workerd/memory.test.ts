// The plan of memory against the fact: after a real load the isolate's WebAssembly memory has the size that manifest and limits predict,
// and what would not fit is refused by that plan before a byte is read.

import { afterEach, expect, it } from "vitest";
import { hostIsolate } from "../../durable/host-isolate.ts";
import type { GenerateFailure } from "../../durable/generate.ts";
import { Tenant } from "../../durable/isolate.ts";
import { LIMITS, type Limits } from "../../durable/limits.ts";
import { kvBytes, linearMemoryBytes, maxSegmentsOf, orchestratorMemory, plannedBytes, shardMemory } from "../../durable/memory-plan.ts";
import { maxChunkTokens } from "../../durable/protocol.ts";
import { expertTable, makePlan } from "../../fleet/plan.ts";
import { openPack } from "../../formats/pack-reader.ts";
import { deploy, eventsOf, greedy, orchestrator, packInBucket, PROMPT, statusOf } from "./fleet-fixture.ts";

const setLimits = (limits: Limits): void => { (hostIsolate() as { limits: Limits }).limits = limits; };
const realLoad = Tenant.prototype.load;
afterEach(() => {
  setLimits(LIMITS);
  Tenant.prototype.load = realLoad;
});
const larger = { hidden_size: 128, intermediate_size: 256, num_experts: 16 };

it("is what the plan says, to the byte in the ledger and to the page in the isolate", async () => {
  let expectedBytes = 0;
  for (const [packId, nShards, orchestratorHolds, segmentWidth] of [["memory-a", 4, "trunk", 256], ["memory-b", 2, "experts", 96]] as const) {
    // Another base of the rotation: two packs in one isolate would share the table.
    const pack = await packInBucket(packId, { config: { ...larger, rope_theta: 10_000 + nShards }, segmentWidth });
    const { manifest } = await openPack(pack.source);
    const nParts = nShards + (orchestratorHolds === "experts" ? 1 : 0);
    const { slots } = makePlan(expertTable(manifest), nParts);
    const roundTokens = maxChunkTokens(manifest.config, maxSegmentsOf(manifest), manifest.activations);
    const objects = [
      orchestratorMemory(manifest, { stepTokens: roundTokens, roundTokens, ranges: slots[nShards] ?? [] }, LIMITS),
      ...slots.slice(0, nShards).map((ranges) => shardMemory(manifest, ranges, LIMITS)),
    ];
    const before = hostIsolate().heap.usedBytes;
    deploy({ packId, shards: nShards, orchestratorHolds });
    expect((await eventsOf(packId, greedy(4))).at(-1)).toMatchObject({ type: "end" });
    expect(objects.every(({ weightBytes }) => weightBytes > 100_000)).toBe(true);
    const plannedAtRest = objects.reduce((sum, plan) => sum + plannedBytes(plan), 0);
    expect(hostIsolate().heap.usedBytes - before).toBe(plannedAtRest);
    expectedBytes += plannedAtRest;
    const kv = kvBytes(manifest, PROMPT.length + 3);
    const found = hostIsolate().heap.memory.buffer.byteLength;
    expect(found / linearMemoryBytes(expectedBytes + kv)).toBeGreaterThan(0.95);
    expect(found / linearMemoryBytes(expectedBytes + kv)).toBeLessThan(1.05);
  }
});

it("that the working regions would overfill is refused before anything is read", async () => {
  const pack = await packInBucket("memory-full", { config: larger });
  const { manifest } = await openPack(pack.source);
  const weightBytes = Object.values(manifest.blobs).reduce((sum, blob) => sum + blob.bytes, 0);
  // Room for the weights and a little, but not for what runs them.
  setLimits({ ...LIMITS, isolateBytes: LIMITS.inFlightBytes + weightBytes + 200_000 });
  const loaded: string[] = [];
  Tenant.prototype.load = function (...of) {
    loaded.push(this.kind);
    return realLoad.apply(this, of);
  };
  deploy({ packId: "memory-full", shards: 1 });
  const response = await orchestrator("memory-full").fetch("http://orchestrator/generate", { method: "POST", body: JSON.stringify(greedy(2)) });
  expect(response.status).toBe(503);
  const { message } = await response.json<GenerateFailure>();
  expect(message).toMatch(/(the trunk of pack memory-full|expert segments of pack memory-full) and what (running it|serving them) takes would bring/);
  expect(loaded).toEqual([]);
  expect((await statusOf("memory-full")).isolate!.usedBytes).toBe(0);
});
