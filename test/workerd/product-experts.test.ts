// 262,144 experts a layer (Monet) in one isolate of the real runtime: a model of 1,024 halves and eight heads a layer behind an orchestrator, within the memory that a plan predicts and the
// platform gives; and a ring of stages that share a router. Out of scope: the layers' numbers (test/methods/28-monet.test.ts).

import { afterEach, expect, it } from "vitest";
import { hostIsolate } from "../../durable/host-isolate.ts";
import { LIMITS } from "../../durable/limits.ts";
import { kvBytes, linearMemoryBytes, maxSegmentsOf, orchestratorMemory, plannedBytes } from "../../durable/memory-plan.ts";
import { maxChunkTokens } from "../../durable/protocol.ts";
import { openPack } from "../../formats/pack-reader.ts";
import { plainInverseFrequencies } from "../../model/rope.ts";
import { logprobs } from "../../model/sampling.ts";
import { packToMemory } from "../support/pack-to-memory.ts";
import { plainCheckpoint } from "../support/plain-checkpoint.ts";
import { productConfig, productWeights } from "../support/product-model.ts";
import { deployRing, RING_VOCAB, withoutRing } from "./ring-fixture.ts";
import { deploy, eventsOf, fleetEnv, greedy, greedyLogits, inProcess, orchestrator, outputOf, PROMPT, statusOf } from "./fleet-fixture.ts";

afterEach(() => withoutRing());

it("run in one isolate, as planned, and say what one engine says", async () => {
  const packId = "product-512";
  const config = productConfig({ nKeys: 512, nHeads: 8, topK: 32, expertSize: 8, routerLayers: 4 }, 4, {
    vocabSize: 97, hiddenSize: 256, nHeads: 4, nKvHeads: 2, headDim: 64, attentionScale: 0.125, maxPositions: 128,
    rope: { style: "half", dim: 64, theta: 10000, inverseFrequencies: plainInverseFrequencies(64, 10000), magnitude: 1, long: null },
  });
  expect(config.productExperts!.nKeys ** 2).toBe(262_144);
  const pack = await packToMemory(plainCheckpoint(config, productWeights(config, 4)), { id: packId, quant: "q8" });
  for (const [name, bytes] of pack.files) await fleetEnv.PACKS!.put(`packs/${packId}/${name}`, bytes);
  const { manifest } = await openPack(pack.source);

  const before = hostIsolate().heap.usedBytes;
  deploy({ packId, shards: 1 });
  const events = await eventsOf(packId, greedy(6));
  expect(events.at(-1)).toMatchObject({ type: "end", completionTokens: 6 });
  const roundTokens = maxChunkTokens(manifest.config, maxSegmentsOf(manifest), manifest.activations);
  const plan = orchestratorMemory(manifest, { stepTokens: roundTokens, roundTokens, ranges: [] }, LIMITS);
  // To the byte in the ledger, to the page in the isolate: weights, the key weights of a whole step among the rest, and the cache.
  expect(hostIsolate().heap.usedBytes - before).toBe(plannedBytes(plan));
  const found = hostIsolate().heap.memory.buffer.byteLength;
  expect(found / linearMemoryBytes(plannedBytes(plan) + kvBytes(manifest, PROMPT.length + 5))).toBeGreaterThan(0.95);
  expect(found / linearMemoryBytes(plannedBytes(plan) + kvBytes(manifest, PROMPT.length + 5))).toBeLessThan(1.05);
  expect(found).toBeLessThan(LIMITS.isolateBytes);
  expect(plan.weightBytes).toBeGreaterThan(14_000_000);
  expect((await statusOf(packId)).shards.reduce((frames, shard) => frames + shard.frames, 0)).toBe(0);
  // A router for all four layers: its keys are counted once a token.
  const metrics = await (await orchestrator(packId).fetch("http://orchestrator/metrics")).text();
  const counted = (line: string): number => Number(metrics.split("\n").find((of) => of.startsWith(`workers_moe_product_${line}`))!.split(" ").at(-1));
  expect(counted('tokens_total{layer="0"}')).toBe(PROMPT.length + 5);
  for (const codebook of [1, 2]) {
    const perHead = counted(`keys_kept_total{layer="0",codebook="${codebook}"}`) / (8 * (PROMPT.length + 5));
    expect(perHead).toBeGreaterThan(1);
    expect(perHead).toBeLessThan(256);
  }
  expect(metrics).not.toContain('product_tokens_total{layer="1"}');
  const local = await greedyLogits(await inProcess(pack), 6);
  const said = events.flatMap((event) => (event.type === "token" ? [event] : []));
  expect(said.map(({ id }) => id)).toEqual(local.ids);
  said.forEach(({ id, logprob, top }, i) => expect({ logprob, top }).toEqual(logprobs(local.logits[PROMPT.length - 1 + i]!, id, 5)));
});

it("stages that share a router say what one orchestrator says", async () => {
  const config = productConfig({ nKeys: 16, nHeads: 4, topK: 4, routerLayers: 4 }, 3, { vocabSize: RING_VOCAB, maxPositions: 128 });
  const packId = "product-ring";
  const pack = await packToMemory(plainCheckpoint(config, productWeights(config, 8)), { id: packId, quant: "q8" });
  for (const [name, bytes] of pack.files) await fleetEnv.PACKS!.put(`packs/${packId}/${name}`, bytes);
  const requests = [greedy(6), greedy(5, { promptIds: [400, 1000, 7, 600], logprobs: 20 })];
  const all = async (name: string): Promise<unknown[]> => Promise.all(requests.map(async (request) => outputOf(await eventsOf(name, request))));
  deploy({ packId, shards: 1 });
  const expected = await all(`${packId}-sole`);
  const [ALL, NONE] = [[0, RING_VOCAB], [0, 0]] as const;
  await deployRing(pack, packId, [{ embeddingRows: ALL, layers: [0, 1], headRows: NONE }, { embeddingRows: NONE, layers: [1, 2], headRows: NONE }, { embeddingRows: NONE, layers: [2, 3], headRows: ALL }], { holdsExperts: true });
  expect(await all(packId)).toEqual(expected);
  expect((await statusOf(packId)).stages.map(({ isReady }) => isReady)).toEqual([true, true]);
  expect(expected.flat()).toContainEqual(["length", 6]);
});
