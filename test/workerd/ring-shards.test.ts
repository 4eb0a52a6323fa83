// Shards of a ring's later stages as stage 0 tells of them, over real objects: loads of every layer's experts as one orchestrator has them, also after a stage was reset; lines and faults of
// every stage in the status and at the directory; and a shard of the middle stage that is away: who opted in gets the answer, and the counts, that one orchestrator gives without that shard, who
// did not waits. Each layer's experts are on a shard of their own. Out of scope: every order of it (test/node/wire/ring-figures.test.ts, ring-degrade.test.ts).

import { runInDurableObject } from "cloudflare:test";
import { afterEach, beforeAll, expect, it, vi } from "vitest";
import { systemClock } from "../../durable/clock.ts";
import type { FleetStatus } from "../../durable/directory-record.ts";
import { fleetDirectory } from "../../durable/env.ts";
import type { GenerateEvent } from "../../durable/generate.ts";
import { LIMITS } from "../../durable/limits.ts";
import { ExpertShard } from "../../durable/shard.ts";
import { RING_PROTOCOL_VERSION, type StageHello, type StageWelcome } from "../../durable/stage-handshake.ts";
import type { FleetPlan } from "../../fleet/fleet-plan.ts";
import { openPack } from "../../formats/pack-reader.ts";
import type { StageSpan } from "../../model/stage-span.ts";
import type { MemoryPack } from "../support/pack-to-memory.ts";
import { eventsOf, fleetEnv, greedy, orchestrator, outputOf, packOf, statusOf, until } from "./fleet-fixture.ts";
import { deployRing, RING_VOCAB, stageOf, withoutRing } from "./ring-fixture.ts";

const PACK = "ring-shards";
const [SOLE, RING] = ["ring-shards-sole", PACK];
const NONE = [0, 0] as const;
const ALL = [0, RING_VOCAB] as const;
const WHOLE: readonly StageSpan[] = [{ embeddingRows: ALL, layers: [0, 3], headRows: ALL }];
const THREE: readonly StageSpan[] = [
  { embeddingRows: ALL, layers: [0, 1], headRows: NONE }, { embeddingRows: NONE, layers: [1, 2], headRows: NONE }, { embeddingRows: NONE, layers: [2, 3], headRows: ALL },
];
const { prepare: realPrepare, webSocketMessage: realMessage } = ExpertShard.prototype;
const restore = (): void => void Object.assign(ExpertShard.prototype, { prepare: realPrepare, webSocketMessage: realMessage });
afterEach(() => {
  vi.restoreAllMocks();
  restore();
});

/** No guesses: how many there are goes by the clock. */
const requests = [greedy(6, { draftTokens: 0 }), greedy(5, { draftTokens: 0, promptIds: [400, 1000, 7, 600] }), greedy(7, { draftTokens: 0, promptIds: [1, 2, 3, 900, 31] })];
const all = async (name: string): Promise<unknown[]> => Promise.all(requests.map(async (request) => outputOf(await eventsOf(name, request))));

let pack: MemoryPack;
beforeAll(async () => {
  pack = await packOf("olmoe", PACK, { config: { num_hidden_layers: 3, intermediate_size: 64, num_experts_per_tok: 3, vocab_size: RING_VOCAB } });
  // Each object reads the variables when it is made: both are brought up here.
  await deployRing(pack, PACK, WHOLE, { isByLayer: true, fleet: SOLE });
  await all(SOLE);
  await deployRing(pack, PACK, THREE, { isByLayer: true, fleet: RING });
  await all(RING);
  return withoutRing;
});

const loadsOf = async (name: string): Promise<number[]> => {
  const text = await (await orchestrator(name).fetch("http://orchestrator/metrics")).text();
  return text.split("\n").filter((line) => line.startsWith("workers_moe_expert_tokens_total{")).map((line) => Number(line.split(" ").at(-1)));
};

/** From now on the shard of this layer cannot be reached, until what is returned is called. */
async function lose(name: string, layer: number): Promise<() => void> {
  const gone = fleetEnv.SHARDS.getByName((await statusOf(name)).shards[layer]!.name).id.toString();
  const ctxOf = (shard: ExpertShard): DurableObjectState => (shard as unknown as { ctx: DurableObjectState }).ctx;
  ExpertShard.prototype.prepare = function (this: ExpertShard, ...hello: Parameters<typeof realPrepare>) {
    if (ctxOf(this).id.toString() === gone) throw new Error("it is away");
    return realPrepare.apply(this, hello);
  };
  ExpertShard.prototype.webSocketMessage = function (this: ExpertShard, ...message: Parameters<typeof realMessage>) {
    if (ctxOf(this).id.toString() === gone) ctxOf(this).abort("the test pulls the plug");
    return realMessage.apply(this, message);
  };
  return restore;
}

it("loads and lines of all stages are stage 0's to tell, and a stage that is reset takes nothing back", async () => {
  expect(await all(RING)).toEqual(await all(SOLE));
  const [sole, ring] = [await loadsOf(SOLE), await loadsOf(RING)];
  expect(sole).toHaveLength(3 * 8);
  for (const layer of [0, 1, 2]) expect(sole.slice(8 * layer, 8 * layer + 8).reduce((sum, n) => sum + n, 0)).toBeGreaterThan(100);
  expect(ring).toEqual(sole);
  const { shards } = await statusOf(RING);
  expect(shards.map(({ state, warmth, lastFault }) => [state, warmth, lastFault])).toEqual(shards.map(() => ["open", "linger", null]));
  expect(shards.every(({ frames, bytes }) => frames > 10 && bytes > frames)).toBe(true);

  await runInDurableObject(stageOf(RING, 1), (_, state) => state.abort("reset by a test")).catch(() => undefined);
  expect(await all(RING)).toEqual(await all(SOLE));
  // What that stage counts from here on comes on top of what it had.
  await until(async () => {
    const after = await loadsOf(RING);
    after.forEach((n, i) => { if (n < ring[i]! || n > 5 * sole[i]! + 100) throw new Error(`Counter ${i} went from ${ring[i]} to ${n}.`); });
    return after.slice(8, 16).reduce((sum, n) => sum + n, 0) > ring.slice(8, 16).reduce((sum, n) => sum + n, 0);
  });

  // A new stage 0 tells what was evaluated for it, though the other stages have counted all along: every token has three experts in each layer.
  await runInDurableObject(orchestrator(RING), (_, state) => state.abort("reset by a test")).catch(() => undefined);
  expect(await all(RING)).toEqual(await all(SOLE));
  const anew = await loadsOf(RING);
  const sums = [0, 1, 2].map((layer) => anew.slice(8 * layer, 8 * layer + 8).reduce((sum, n) => sum + n, 0));
  expect(sums).toEqual(sums.map(() => 3 * requests.reduce((sum, { promptIds, maxTokens }) => sum + promptIds.length + maxTokens - 1, 0)));
});

it("a shard of the middle stage that is away: the same flagged answer as from one orchestrator, others wait, and the directory hears of it", async () => {
  let aheadMs = 0;
  vi.spyOn(systemClock, "nowMs").mockImplementation(() => Date.now() + aheadMs);
  const opted = greedy(9, { degrade: true, draftTokens: 0, promptIds: [400, 1000, 7, 600, 3] });
  const flags = (events: readonly GenerateEvent[]): unknown[] => [outputOf(events), ...events.flatMap((event): unknown[] => (event.type === "token" ? [event.degraded ?? 0] : event.type === "end" ? [event.moe.degraded] : []))];
  const undisturbed = outputOf(await eventsOf(RING, greedy(10)));
  let back = await lose(SOLE, 1);
  const expected = flags(await eventsOf(SOLE, opted));
  expect(expected.at(-1)).toMatchObject({ expertRows: 3 * (5 + 8) }); // three experts of one layer, for every token evaluated
  back();

  back = await lose(RING, 1);
  let waited: GenerateEvent[] | null = null;
  const first = eventsOf(RING, opted);
  const waiting = eventsOf(RING, greedy(10)).then((events) => { waited = events; });
  expect(flags(await first)).toEqual(expected);
  expect(flags(await eventsOf(RING, opted))).toEqual(expected);
  expect(waited).toBeNull();
  back();
  await waiting;
  expect(outputOf(waited!)).toEqual(undisturbed);
  expect((await eventsOf(RING, opted)).find((event) => event.type === "end")!.moe).not.toHaveProperty("degraded");

  // The next report has what the middle stage's line went through.
  const directory = fleetDirectory({ ...fleetEnv, FLEET: RING }, (await openPack(pack.source)).packHash)!;
  const faults = async (): Promise<FleetStatus["faults"]> => (structuredClone(await directory.status()) as unknown as FleetStatus).faults;
  aheadMs += LIMITS.reportMs;
  await eventsOf(RING, opted);
  await until(async () => (await faults()).length > 0);
  expect((await faults()).every(({ shard }) => shard === 1)).toBe(true);
  expect((await statusOf(RING)).shards.map(({ lastFault }) => lastFault === null)).toEqual([true, false, true]);
});

it("a stage of other code refuses to be in the ring, and leaves the one that stands alone", async () => {
  const plan = structuredClone(await fleetDirectory({ ...fleetEnv, FLEET: RING }, (await openPack(pack.source)).packHash)!.plan()) as unknown as FleetPlan;
  const hello: StageHello = { protocolVersion: RING_PROTOCOL_VERSION - 1, plan, lane: 0, stage: 1, ring: 5, before: null, first: RING, strictIsolates: false };
  const welcome = structuredClone({ ...await stageOf(RING, 1).prepare(hello) }) as unknown as StageWelcome;
  expect(welcome).toMatchObject({ state: "refused", code: "protocol-version", retryable: true, message: expect.stringContaining(`version ${RING_PROTOCOL_VERSION - 1} of the ring's protocol`) as unknown });
  expect(await all(RING)).toEqual(await all(SOLE));
});
