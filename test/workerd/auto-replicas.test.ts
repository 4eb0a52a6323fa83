// The load decides over real objects: traffic whose tokens all want the same experts makes orchestrators report it, the directory add copies of those experts, frames go to the
// second holders, and when other experts are wanted, those get copies and the first ones lose theirs. No token of it all differs from the undisturbed ones. Also what GET /v1/fleet
// tells of it. Time is the test's: the clock that all objects read is set forward, and the directory's alarm is run by hand. Out of scope: the policy (test/node/wire/directory-balance.test.ts).

import { runDurableObjectAlarm } from "cloudflare:test";
import { env, exports } from "cloudflare:workers";
import { afterEach, expect, it, vi } from "vitest";
import { systemClock } from "../../durable/clock.ts";
import type { FleetStatus } from "../../durable/directory-record.ts";
import { fleetDirectory } from "../../durable/env.ts";
import { LIMITS } from "../../durable/limits.ts";
import { ExpertShard } from "../../durable/shard.ts";
import type { FleetPlan } from "../../fleet/fleet-plan.ts";
import { openPack } from "../../formats/pack-reader.ts";
import { deploy, eventsOf, fleetEnv, greedy, outputOf, packInBucket, shardsOf, until } from "./fleet-fixture.ts";

const PACK = "auto-replicas";
const realMessage = ExpertShard.prototype.webSocketMessage;
const N_LAYERS = 3, N_EXPERTS = 8, MINUTE_MS = 60_000;
/** Attention over equal values gives that value: every position of such a prompt wants the same experts. */
const monotone = (id: number) => greedy(2, { promptIds: Array.from({ length: 90 }, () => id), trace: true });

afterEach(() => {
  vi.restoreAllMocks();
  ExpertShard.prototype.webSocketMessage = realMessage;
  Object.assign(env, { AUTO_REPLICAS_MIB: "0" });
});

it("hot experts get copies that are used, and lose them when the load moves; no token changes", async () => {
  let aheadMs = 0;
  vi.spyOn(systemClock, "nowMs").mockImplementation(() => Date.now() + aheadMs);
  deploy({ packId: PACK, shards: 4 });
  Object.assign(env, { AUTO_REPLICAS_MIB: "1" });
  const pack = await packInBucket(PACK);
  const { packHash } = await openPack(pack.source);
  const directory = fleetDirectory(fleetEnv, packHash)!;
  const statusNow = async (): Promise<FleetStatus> => structuredClone(await directory.status()) as unknown as FleetStatus;
  const planNow = async (): Promise<FleetPlan> => structuredClone(await directory.plan()) as unknown as FleetPlan;
  const holders = (plan: FleetPlan): number[][][] => Array.from({ length: N_LAYERS }, (_, layer) => Array.from({ length: N_EXPERTS }, (_, expert) =>
    plan.shards.flatMap(({ slots }, shard) => (slots.some((slot) => slot.layer === layer && slot.expert === expert) ? [shard] : []))));
  const run = async (id: number): Promise<{ output: unknown[]; experts: number[][]; tokens: { experts: number[][]; shards: (number | null)[][] }[] }> => {
    const events = await eventsOf(PACK, monotone(id));
    const tokens = events.filter((event) => event.type === "token");
    const of = tokens.map(({ experts, served }) => ({ experts: experts as number[][], shards: served!.shards as (number | null)[][] }));
    return { output: outputOf(events), experts: of[0]!.experts, tokens: of };
  };
  /** So much of it that it counts, told to the directory, which then does what it wants to. */
  const traffic = async (id: number): Promise<Awaited<ReturnType<typeof run>>[]> => {
    const runs = [];
    for (let n = 0; n < 26; n++) runs.push(await run(id));
    aheadMs += LIMITS.reportMs;
    const before = (await statusNow()).lanes[0]!.reportedMs;
    runs.push(await run(id));
    await until(async () => (await statusNow()).lanes[0]!.reportedMs !== before);
    do await runDurableObjectAlarm(directory); while ((await statusNow()).change !== null);
    return runs;
  };

  const [first, second] = [await run(5), await run(61)];
  expect(second.experts).not.toEqual(first.experts);
  const hot = await traffic(5);
  const copied = await planNow();
  expect(copied.epoch).toBe(2);
  // In each layer the three experts that every token wants, and no other, are on two shards.
  for (const [layer, experts] of holders(copied).entries()) for (const [expert, on] of experts.entries()) expect(on, `layer ${layer}, expert ${expert}`).toHaveLength(first.experts[layer]!.includes(expert) ? 2 : 1);
  const status = await statusNow();
  expect(status.history).toMatchObject([{ epoch: 2, outcome: "steady", reason: "replicas by load" }]);
  expect(status.history[0]!.plannedBytes).toBeLessThanOrEqual(1 << 20);
  expect(status.lanes[0]).toMatchObject({ freeKvPositions: expect.toSatisfy((n: number) => n > 1_000 && n % 32 === 0) as unknown });
  expect(status.load).toHaveLength(N_LAYERS);
  for (const { layer, choices, busiest, timesMean } of status.load) {
    expect(first.experts[layer]).toContain(busiest);
    expect(choices).toBeGreaterThan(6_400);
    expect(timesMean).toBeGreaterThan(2);
  }

  // Frames go to second holders too, and to nobody else: equals take turns, but for one that gets a frame anyway.
  const used = Array.from({ length: N_LAYERS }, () => new Map<number, Set<number | null>>());
  for (let n = 0; n < 6; n++) {
    const { output, tokens } = await run(5);
    expect(output).toEqual(first.output);
    for (const { experts, shards } of tokens) shards.forEach((of, layer) => of.forEach((shard, rank) => {
      const expert = experts[layer]![rank]!;
      used[layer]!.set(expert, (used[layer]!.get(expert) ?? new Set()).add(shard));
    }));
  }
  used.forEach((experts, layer) => {
    experts.forEach((shards, expert) => { for (const shard of shards) expect(holders(copied)[layer]![expert], `layer ${layer}, expert ${expert}`).toContain(shard); });
    expect([...experts.values()].some((shards) => shards.size === 2), `layer ${layer}`).toBe(true);
  });

  // The load moves: after the rests what was hot is cold.
  aheadMs += 15 * MINUTE_MS;
  const moved = await traffic(61);
  const after = await planNow();
  expect(after.epoch).toBeGreaterThan(2);
  for (const [layer, experts] of holders(after).entries()) for (const [expert, on] of experts.entries()) expect(on, `layer ${layer}, expert ${expert}`).toHaveLength(second.experts[layer]!.includes(expert) ? 2 : 1);
  for (const { output } of hot) expect(output).toEqual(first.output);
  for (const { output } of moved) expect(output).toEqual(second.output);

  // A shard that goes away is told of, with time and cause, when the next report is due.
  expect((await statusNow()).faults).toEqual([]);
  const gone = (await shardsOf(PACK))[1]!;
  ExpertShard.prototype.webSocketMessage = function (this: ExpertShard, ...message: Parameters<typeof realMessage>) {
    const { ctx } = this as unknown as { ctx: DurableObjectState };
    if (ctx.id.toString() !== gone.id.toString()) return realMessage.apply(this, message);
    ExpertShard.prototype.webSocketMessage = realMessage;
    return ctx.abort("the test pulls the plug");
  };
  expect((await run(61)).output).toEqual(second.output);
  expect(ExpertShard.prototype.webSocketMessage).toBe(realMessage);
  aheadMs += LIMITS.reportMs;
  expect((await run(61)).output).toEqual(second.output);
  await until(async () => (await statusNow()).faults.length > 0);
  const reply = await (exports as unknown as { default: Fetcher }).default.fetch(new Request("https://edge/v1/fleet"));
  expect(await reply.json()).toMatchObject({ directory: { faults: [{ shard: 1, atMs: expect.any(Number) as unknown, cause: expect.any(String) as unknown }], load: [{ layer: 0 }, { layer: 1 }, { layer: 2 }], lanes: [{ reportedMs: expect.any(Number) as unknown }] } });
});
