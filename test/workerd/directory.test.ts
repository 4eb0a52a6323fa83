// The directory over real objects: 4 -> 6 -> 3 shards while generations run, each the same bits as undisturbed; what the API says of it and refuses; an object that
// dies in the middle of a change. Out of scope: every order of events (test/node/wire/directory-core.test.ts).

import { evictDurableObject, runInDurableObject } from "cloudflare:test";
import { env, exports } from "cloudflare:workers";
import { beforeAll, describe, expect, it } from "vitest";
import type { FleetStatus } from "../../durable/directory-record.ts";
import { fleetDirectory } from "../../durable/env.ts";
import { PROTOCOL_VERSION, type SlotRange } from "../../durable/handshake.ts";
import { LIMITS } from "../../durable/limits.ts";
import { openHuggingFace } from "../../formats/huggingface.ts";
import { MemorySource } from "../../formats/memory-source.ts";
import { openPack } from "../../formats/pack-reader.ts";
import { packToMemory, type MemoryPack } from "../support/pack-to-memory.ts";
import { tinyChatFiles } from "../support/tiny-chat.ts";
import { deploy, eventsOf, fleetEnv, greedy, outputOf, packInBucket, until } from "./fleet-fixture.ts";

const statusOf = async (pack: MemoryPack): Promise<FleetStatus> => structuredClone(await fleetDirectory(fleetEnv, (await openPack(pack.source)).packHash)!.status()) as unknown as FleetStatus;
const steady = async (pack: MemoryPack, epoch: number): Promise<FleetStatus> => {
  let status = await statusOf(pack);
  await until(async () => {
    status = await statusOf(pack);
    return status.change === null && status.plan?.epoch === epoch;
  });
  return status;
};

describe("4 to 6 to 3 shards under load", () => {
  it("fails and alters nothing, moves what was computed, and ends with the shards wished", async () => {
    deploy({ packId: "elastic", shards: 4 });
    const pack = await packInBucket("elastic");
    const request = greedy(24);
    const alone = outputOf(await eventsOf("elastic-alone", request));
    const { packHash } = await openPack(pack.source);
    const directory = fleetDirectory(fleetEnv, packHash)!;

    let isOver = false;
    const outputs: unknown[][] = [];
    const stream = async (): Promise<void> => {
      while (!isOver) outputs.push(outputOf(await eventsOf("elastic-busy", request)));
    };
    const load = Promise.all([stream(), stream(), stream()]);
    for (const [epoch, shards] of [[2, 6], [3, 3]] as const) {
      const count = outputs.length;
      await until(() => outputs.length > count);
      const reply = await directory.desire({ shards });
      expect(reply).toMatchObject({ state: "begun", fleet: { plan: { epoch: epoch - 1 }, change: { epoch, state: "planned", reason: `${shards} shards` } } });
      const { plan, history: [past] } = await steady(pack, epoch);
      expect(plan!.shards.filter(({ segments }) => segments > 0)).toHaveLength(shards);
      expect(past).toMatchObject({ epoch, outcome: "steady", message: null, retries: 0 });
      expect(past!.plannedBytes).toBeGreaterThan(0);
      expect(past!.movedBytes).toBe(past!.plannedBytes);
    }
    const count = outputs.length;
    await until(() => outputs.length > count + 3);
    isOver = true;
    await load;
    for (const output of outputs) expect(output).toEqual(alone);
    // Shards that hold nothing any more are empty, the others serve the plan in force alone.
    const { plan, lanes } = await statusOf(pack);
    expect(lanes.map(({ epoch }) => epoch)).toEqual([3, 3]);
    const inForce = (await directory.plan())!;
    for (const [number, { segments }] of plan!.shards.entries()) {
      const report = await fleetEnv.SHARDS.getByName(`elastic/${packHash.slice(0, 12)}/${inForce.fleet}/${number}`).report();
      expect(report.epochs).toEqual(segments > 0 ? [3] : []);
      expect(report.weightBytes > 0).toBe(segments > 0);
    }
  });

  it("a shard lets go of an epoch that came to nothing, however many did, and goes on with the one in force", async () => {
    deploy({ packId: "elastic-released", shards: 2 });
    const pack = await packInBucket("elastic-released");
    await eventsOf("released", greedy(2));
    const { packHash } = await openPack(pack.source);
    const plan = (await fleetDirectory(fleetEnv, packHash)!.plan())!;
    const shard = fleetEnv.SHARDS.getByName(`elastic-released/${packHash.slice(0, 12)}/${plan.fleet}/0`);
    const before = await shard.report();
    const hello = { protocolVersion: PROTOCOL_VERSION, packHash, strictIsolates: false, donors: [] };
    for (let epoch = 2; epoch < 2 + 2 * LIMITS.servedEpochs; epoch++) {
      const all = plan.shards.flatMap(({ slots }) => structuredClone(slots) as unknown as SlotRange[]);
      await until(async () => (await shard.prepare({ ...hello, epoch, slots: all })).state === "ready");
      expect((await shard.report()).weightBytes).toBeGreaterThan(before.weightBytes);
      expect((await shard.prepare({ ...hello, epoch, slots: [] })).state).toBe("ready");
      expect((await shard.report()).weightBytes).toBe(before.weightBytes);
    }
  });

  it("goes on from its storage when the directory is evicted in the middle", async () => {
    deploy({ packId: "elastic-evicted", shards: 2 });
    const pack = await packInBucket("elastic-evicted");
    const request = greedy(12);
    const alone = outputOf(await eventsOf("evicted", request));
    const directory = fleetDirectory(fleetEnv, (await openPack(pack.source)).packHash)!;
    await directory.desire({ shards: 3, replicas: 2 });
    const states = new Set<string | undefined>();
    await until(async () => {
      const { change } = await statusOf(pack);
      states.add(change?.state);
      await evictDurableObject(directory);
      return change === null;
    });
    expect(states.size).toBeGreaterThan(1);
    const { plan } = await steady(pack, 2);
    expect(plan!.shards).toHaveLength(3);
    const copies = await runInDurableObject(directory, (object) => object.plan()!.shards.reduce((sum, { slots }) => sum + slots.length, 0));
    expect(copies).toBe(2 * 3 * 8);
    expect(outputOf(await eventsOf("evicted", request))).toEqual(alone);
  });
});

describe("over HTTP", () => {
  const PACK = "elastic-http";
  beforeAll(async () => {
    const pack = await packToMemory(await openHuggingFace(new MemorySource(tinyChatFiles(512)), "tiny"), { id: PACK, contextLength: 512 });
    for (const [name, bytes] of pack.files) await fleetEnv.PACKS!.put(`packs/${PACK}/${name}`, bytes);
    deploy({ packId: PACK, shards: 2 });
    Object.assign(env, { OPEN_ACCESS: "true" });
  });
  const ask = async (path: string, body?: unknown): Promise<{ status: number; reply: { directory: FleetStatus; error: { message: string; code: string; param: string }; change: FleetStatus["change"]; shards: { slots: { layer: number; expert: number }[] }[] } }> => {
    const response = await (exports as unknown as { default: Fetcher }).default.fetch(new Request(`https://edge${path}`, body === undefined ? {} : { method: "POST", body: JSON.stringify(body) }));
    return { status: response.status, reply: await response.json() };
  };
  const wake = (): Promise<unknown> => ask("/v1/completions", { model: PACK, prompt: "abc", max_tokens: 2, temperature: 0 });

  it("there is no plan before the model wakes", async () => {
    expect((await ask("/v1/fleet")).reply.directory).toMatchObject({ plan: null, change: null });
    expect(await ask("/v1/fleet/plan")).toMatchObject({ status: 409, reply: { error: { code: "no_plan" } } });
    expect(await ask("/v1/fleet", { shards: 3 })).toMatchObject({ status: 409, reply: { error: { code: "change_conflict", message: expect.stringContaining("The fleet has no plan yet") as unknown } } });
  });

  it("a change is begun by its wish, told while it runs, and refused beside another", async () => {
    const before = await wake();
    expect(await ask("/v1/fleet", { shards: 3 })).toMatchObject({ status: 202, reply: { change: { epoch: 2, fromEpoch: 1, shards: [2, 3], state: "planned" } } });
    const second = await ask("/v1/fleet", { shards: 4 });
    expect(second).toMatchObject({ status: 409, reply: { error: { code: "change_conflict", message: expect.stringContaining("A change is under way: to epoch 2 (3 shards)") as unknown } } });
    await until(async () => (await ask("/v1/fleet")).reply.directory.change === null);
    expect((await ask("/v1/fleet")).reply).toMatchObject({ epoch: 2, directory: { plan: { epoch: 2 }, history: [{ epoch: 2, outcome: "steady" }] } });
    expect((await wake() as { reply: { choices: unknown } }).reply.choices).toEqual((before as { reply: { choices: unknown } }).reply.choices);
  });

  it("a plan of one's own is taken, with its own epoch unread", async () => {
    const { reply: plan } = await ask("/v1/fleet/plan");
    const [first, second, ...rest] = plan.shards;
    const moved = { ...plan, epoch: 77, shards: [{ ...first, slots: [...first!.slots, ...second!.slots.splice(0, 1)].sort((a, b) => a.layer - b.layer || a.expert - b.expert) }, second, ...rest] };
    expect(await ask("/v1/fleet", { plan: moved })).toMatchObject({ status: 202, reply: { change: { epoch: 3, reason: "a given plan" } } });
    await until(async () => (await ask("/v1/fleet")).reply.directory.change === null);
    expect((await ask("/v1/fleet/plan")).reply.shards[0]!.slots).toHaveLength(first!.slots.length + 1);
  });

  it("what cannot be is refused with its reason", async () => {
    expect(await ask("/v1/fleet", {})).toMatchObject({ status: 400, reply: { error: { message: expect.stringContaining("wishes for nothing") as unknown } } });
    expect(await ask("/v1/fleet", { shards: 0 })).toMatchObject({ status: 400, reply: { error: { param: "shards" } } });
    expect(await ask("/v1/fleet", { replicas: 9 })).toMatchObject({ status: 400, reply: { error: { code: "impossible_plan", message: expect.stringMatching(/9 copies .* on 3 shards/) as unknown } } });
    expect(await ask("/v1/fleet", { plan: { version: 2 } })).toMatchObject({ status: 400, reply: { error: { code: "impossible_plan", message: expect.stringContaining("The plan's field version") as unknown } } });
    const { reply: plan } = await ask("/v1/fleet/plan");
    expect(await ask("/v1/fleet", { plan: { ...plan, lanes: 2 } })).toMatchObject({ status: 400, reply: { error: { message: expect.stringContaining("another lanes than the one in force") as unknown } } });
    expect(await ask("/v1/fleet", { plan: { ...plan, shards: plan.shards.slice(1) } })).toMatchObject({ status: 400, reply: { error: { message: expect.stringContaining("has nobody for segment") as unknown } } });
    expect(await ask("/v1/fleet", { plan })).toMatchObject({ status: 409, reply: { error: { message: expect.stringContaining("already as wished") as unknown } } });
  });
});
