// Shards that vanish: evicted before a frame, or aborted while they compute it, at every layer of three steps. The output is the same bits,
// nothing is lost, and the isolate still has one weight memory. A gate before each layer's fan-out lets the test act at an exact place.

import { evictDurableObject } from "cloudflare:test";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Isolate, Tenant, weightMemories } from "../../durable/isolate.ts";
import { ExpertShard } from "../../durable/shard.ts";
import { WebSocketExperts } from "../../durable/websocket-experts.ts";
import { deploy, eventsOf, greedy, outputOf, packInBucket, shardsOf, statusOf, until } from "./fleet-fixture.ts";

const N_LAYERS = 3;
const request = greedy(6, { trace: true, logprobs: 20 });
const places = [1, 2, 3].flatMap((step) => Array.from({ length: N_LAYERS }, (_, layer) => [step, layer] as const));

const realRun = WebSocketExperts.prototype.run;
const realMessage = ExpertShard.prototype.webSocketMessage;
const realEnter = Isolate.prototype.enter;
const realLoad = Tenant.prototype.load;
const realAdopt = Tenant.prototype.adopt;
let entered = 0;
let loads = 0;
beforeEach(() => {
  entered = loads = 0;
  Isolate.prototype.enter = function (...of) {
    entered++;
    return realEnter.apply(this, of);
  };
  Tenant.prototype.load = function (...of) {
    loads++;
    return realLoad.apply(this, of);
  };
});
afterEach(() => {
  Isolate.prototype.enter = realEnter;
  Tenant.prototype.load = realLoad;
  Tenant.prototype.adopt = realAdopt;
  WebSocketExperts.prototype.run = realRun;
  ExpertShard.prototype.webSocketMessage = realMessage;
});

/** Stops the fan-out at the given call of a layer's fan-out (0 = first layer of the first step) until opened. Plain variables and timers: promises of one object must not be awaited in another. */
function gateAt(call: number): { reached: boolean; open: boolean } {
  const gate = { reached: false, open: false };
  let calls = 0;
  WebSocketExperts.prototype.run = async function (this: WebSocketExperts, layer, batch) {
    if (calls++ === call) {
      gate.reached = true;
      await until(() => gate.open);
    }
    return realRun.call(this, layer, batch);
  } as typeof realRun;
  return gate;
}

describe("a shard that vanishes", () => {
  it("by eviction, at every layer of three steps, changes nothing", async () => {
    await packInBucket("evicted");
    deploy({ packId: "evicted", shards: 4 });
    const expected = outputOf(await eventsOf("evicted", request));
    expect([entered, loads]).toEqual([5, 5]); // an orchestrator and four shards
    for (const [step, layer] of places) {
      const gate = gateAt(step * N_LAYERS + layer);
      const running = eventsOf("evicted", request);
      await until(() => gate.reached);
      for (const shard of await shardsOf("evicted")) await evictDurableObject(shard);
      gate.open = true;
      expect(outputOf(await running), `step ${step}, layer ${layer}`).toEqual(expected);
    }
    // Every shard was made anew at every place, and none read a byte again.
    expect([entered, loads]).toEqual([5 + 4 * places.length, 5]);
  });

  it("and finds its weights gone answers `warming` until it has read them again", async () => {
    await packInBucket("cold");
    deploy({ packId: "cold", shards: 2 });
    const expected = outputOf(await eventsOf("cold", request));
    const gate = gateAt(4);
    const running = eventsOf("cold", request);
    await until(() => gate.reached);
    Tenant.prototype.adopt = () => false;
    for (const shard of await shardsOf("cold")) await evictDurableObject(shard);
    gate.open = true;
    expect(outputOf(await running)).toEqual(expected);
    expect(loads).toBe(3 + 2);
    const { shards } = await statusOf("cold");
    expect(shards.map((shard) => shard.lastFault)).toEqual(Array.from({ length: 2 }, () => expect.stringContaining("(warming)")));
    expect(shards.map((shard) => shard.retries)).toEqual([0, 0]);
  });

  it("by abort while it computes, at every layer of three steps, changes nothing", async () => {
    await packInBucket("aborted");
    deploy({ packId: "aborted", shards: 2 });
    const expected = outputOf(await eventsOf("aborted", request));
    for (const [step, layer] of places) {
      let frames = 0;
      let aborted = false;
      ExpertShard.prototype.webSocketMessage = function (this: ExpertShard, socket, data) {
        if (frames++ === (step * N_LAYERS + layer) * 2) {
          aborted = true;
          (this as unknown as { ctx: DurableObjectState }).ctx.abort("the test pulls the plug");
        }
        return realMessage.call(this, socket, data);
      };
      expect(outputOf(await eventsOf("aborted", request)), `step ${step}, layer ${layer}`).toEqual(expected);
      expect(aborted).toBe(true);
    }
    expect((await statusOf("aborted")).shards.reduce((sum, shard) => sum + shard.retries, 0)).toBeGreaterThanOrEqual(places.length);
  });

  it("ten times leaves one weight memory and the same bytes in use", async () => {
    await packInBucket("ten");
    deploy({ packId: "ten", shards: 2 });
    const expected = outputOf(await eventsOf("ten", request));
    const before = await statusOf("ten");
    for (let round = 0; round < 10; round++) {
      for (const shard of await shardsOf("ten")) await evictDurableObject(shard);
      expect(outputOf(await eventsOf("ten", request))).toEqual(expected);
    }
    const after = await statusOf("ten");
    expect([entered, loads]).toEqual([3 + 20, 3]);
    expect(weightMemories()).toBe(1);
    expect(after.isolate!.account).toEqual(before.isolate!.account);
  });
});
