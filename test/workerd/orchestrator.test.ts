// The orchestrator's promises to its readers: requests wait for a loading model or are told, a reader that goes away stops its own
// generation within one step and nobody else's, a reset object loses nothing, and bad input is refused with words.

import { runInDurableObject } from "cloudflare:test";
import { afterEach, describe, expect, it } from "vitest";
import { hostIsolate } from "../../durable/host-isolate.ts";
import { generate } from "../../durable/generate-client.ts";
import type { GenerateEvent, GenerateFailure } from "../../durable/generate.ts";
import { Tenant } from "../../durable/isolate.ts";
import { LIMITS, type Limits } from "../../durable/limits.ts";
import { WebSocketExperts } from "../../durable/websocket-experts.ts";
import { deploy, eventsOf, fleetEnv, greedy, orchestrator, outputOf, packInBucket, PROMPT, statusOf, until } from "./fleet-fixture.ts";
import { PLAIN_SAMPLING } from "../../model/sampling.ts";

const realRun = WebSocketExperts.prototype.run;
const realLoad = Tenant.prototype.load;
afterEach(() => {
  WebSocketExperts.prototype.run = realRun;
  Tenant.prototype.load = realLoad;
  setLimits(LIMITS);
});

const setLimits = (limits: Limits): void => { (hostIsolate() as { limits: Limits }).limits = limits; };

/** Stops the given fan-outs (counted over layers) until each is opened, and notes the tokens of each step. */
function gateAt(...stops: number[]): { reached: number; opened: number; readonly stepTokens: number[] } {
  const gate = { reached: 0, opened: 0, stepTokens: [] as number[] };
  let calls = 0;
  WebSocketExperts.prototype.run = async function (this: WebSocketExperts, layer, batch) {
    if (layer === 0) gate.stepTokens.push(batch.nTokens);
    if (stops.includes(calls++)) {
      const stop = gate.reached++;
      await until(() => gate.opened > stop);
    }
    return realRun.call(this, layer, batch);
  } as typeof realRun;
  return gate;
}

const post = (name: string, body: string): Promise<Response> => orchestrator(name).fetch("http://orchestrator/generate", { method: "POST", body });

describe("a loading model", () => {
  it("keeps nobody beyond a deadline, and a reader that left meanwhile gets no generation", async () => {
    await packInBucket("late");
    deploy({ packId: "late", shards: 1 });
    let isOpen = false;
    Tenant.prototype.load = async function (this: Tenant, ...args: Parameters<typeof realLoad>) {
      await until(() => isOpen);
      return realLoad.apply(this, args);
    } as typeof realLoad;
    const abort = new AbortController();
    const left = generate(orchestrator("late"), greedy(5), { signal: abort.signal }).next().catch((cause: unknown) => cause);
    const late = await post("late", JSON.stringify({ ...greedy(3), deadlineAtMs: Date.now() + 20 }));
    expect(late.status).toBe(504);
    expect(await late.json()).toMatchObject({ type: "error", code: "deadline-exceeded" });
    expect((await statusOf("late")).status).toBe("warming");
    abort.abort(new Error("the reader left"));
    expect(await left).toMatchObject({ message: "the reader left" });
    isOpen = true;
    expect(await eventsOf("late", greedy(3))).toHaveLength(4);
    expect((await statusOf("late")).generations).toEqual({ active: 0, queued: 0, cancelled: 1 });
  });

  it("is cold, then warming with a fraction, then ready; requests meanwhile wait", async () => {
    await packInBucket("warming");
    deploy({ packId: "warming", shards: 2 });
    const gate = { open: false, waiting: 0 };
    Tenant.prototype.load = async function (this: Tenant, ...of) {
      gate.waiting++;
      await until(() => gate.open);
      return realLoad.apply(this, of);
    };
    expect(await statusOf("warming")).toMatchObject({ status: "cold", loaded: 0 });
    await orchestrator("warming").fetch("http://orchestrator/status?warm=1");
    const early = eventsOf("warming", greedy(3));
    await until(() => gate.waiting === 3);
    expect(await statusOf("warming")).toMatchObject({ status: "warming", loaded: 0, pack: { id: "warming", contextLength: 128 } });
    setLimits({ ...LIMITS, requestWaitMs: 20 });
    const refused = await post("warming", JSON.stringify(greedy(3)));
    expect(refused.status).toBe(503);
    expect(await refused.json()).toMatchObject({ type: "error", code: "warming", retryable: true, retryAfterMs: 1000, loaded: 0 });
    setLimits(LIMITS);
    gate.open = true;
    expect((await early).at(-1)).toMatchObject({ type: "end", reason: "length", completionTokens: 3 });
    expect(await statusOf("warming")).toMatchObject({ status: "ready", loaded: 1, generations: { active: 0, queued: 0 } });
  });

  it("that is damaged says where, and loads once it is whole again", async () => {
    const bucket = fleetEnv.PACKS!;
    const damaged = async (packId: string, edit: (part: Uint8Array) => Uint8Array): Promise<GenerateFailure> => {
      const pack = await packInBucket(packId);
      deploy({ packId, shards: 2 });
      await bucket.put(`packs/${packId}/parts/00000.bin`, edit(pack.files.get("parts/00000.bin")!));
      const response = await post(packId, JSON.stringify(greedy(2)));
      expect(response.status).toBe(503);
      const after = await statusOf(packId);
      expect(after.status).toBe("failed");
      // Asking for health does not read a damaged pack again and again.
      expect(await (await orchestrator(packId).fetch("http://orchestrator/status?warm=1")).json()).toMatchObject({ status: "failed", message: after.message });
      await (await post(packId, JSON.stringify(greedy(2)))).text();
      // What was read whole may stay, but a second failure adds nothing to the first.
      expect((await statusOf(packId)).isolate!.usedBytes).toBe(after.isolate!.usedBytes);
      await bucket.put(`packs/${packId}/parts/00000.bin`, pack.files.get("parts/00000.bin")!);
      expect((await eventsOf(packId, greedy(2))).at(-1)).toMatchObject({ type: "end" });
      return response.json<GenerateFailure>();
    };
    const flip = (where: (length: number) => number) => (part: Uint8Array): Uint8Array => part.map((byte, i) => (i === where(part.length) ? byte ^ 1 : byte));
    expect((await damaged("bad-trunk", flip(() => 100))).message)
      .toMatch(/Pack bad-trunk \(R2 bucket PACKS, packs\/bad-trunk\), parts\/00000\.bin, bytes 0 to \d+, blob embed: found SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}; the bytes are damaged/);
    expect((await damaged("bad-expert", flip((length) => length - 50))).message).toMatch(/Shard bad-expert\/.*blob layers\.2\.experts\.7\.segments\.0: found SHA-256/);
    expect((await damaged("cut", (part) => part.subarray(0, part.length - 1000))).message).toMatch(/Shard cut\/.*blob layers\.2\.experts\.7\.segments\.0: .*(ends at byte|range)/);
  });

  it("that is not there says so", async () => {
    deploy({ packId: "nowhere", shards: 1 });
    const response = await post("nowhere", JSON.stringify(greedy(2)));
    expect([response.status, await response.json()]).toEqual([503, {
      type: "error", code: "load-failed", retryable: true,
      message: "The model could not be loaded: R2 bucket PACKS, packs/nowhere has no manifest.json, expected a pack (workers-moe pack <model> --out DIR makes one).",
    }]);
  });
});

describe("readers", () => {
  it("in one batch get what each would get alone, sampled too", async () => {
    await packInBucket("batch");
    deploy({ packId: "batch", shards: 2 });
    const requests = [3, 5, 8].map((seed, i) => greedy(10 + i, {
      promptIds: PROMPT.slice(i), sampling: { ...PLAIN_SAMPLING, temperature: 0.9, topP: 0.95, seed }, choice: i, trace: true, echo: i === 1, stopIds: [4],
    }));
    const alone: unknown[] = [];
    for (const request of requests) alone.push(outputOf(await eventsOf("batch", request)));
    const gate = gateAt(-1);
    const together = (await Promise.all(requests.map((request) => eventsOf("batch", request)))).map(outputOf);
    expect(together).toEqual(alone);
    expect(Math.max(...gate.stepTokens)).toBeGreaterThan(PROMPT.length); // they did share steps
  });

  it("that go away stop their own generation within one step, and nobody else's", async () => {
    await packInBucket("leaving");
    deploy({ packId: "leaving", shards: 2 });
    const expected = outputOf(await eventsOf("leaving", greedy(20)));
    for (const how of ["abort", "break"] as const) {
      const before = (await statusOf("leaving")).generations.cancelled;
      const gate = gateAt(0, 3 * 6);
      const abort = new AbortController();
      let seen = 0;
      const leaving = (async () => {
        for await (const event of generate(() => orchestrator("leaving"), greedy(100, { draftTokens: 0 }), { signal: abort.signal })) {
          if (event.type === "token") seen++;
          if (how !== "break" || seen < 3) continue;
          await until(() => gate.reached === 2);
          break;
        }
      })().catch(() => undefined);
      await until(() => gate.reached === 1);
      const staying = eventsOf("leaving", greedy(20, { draftTokens: 0 }));
      await until(async () => (await statusOf("leaving")).generations.active === 2);
      gate.opened = 1;
      await until(() => gate.reached === 2);
      expect(gate.stepTokens.slice(0, 4)).toEqual([10, 11, 2, 2]);
      if (how === "abort") abort.abort(new Error("gone"));
      await until(async () => (await statusOf("leaving")).generations.cancelled > before);
      const steps = gate.stepTokens.length;
      gate.opened = 2;
      expect(outputOf(await staying), how).toEqual(expected);
      await leaving;
      expect(gate.stepTokens.slice(steps).every((nTokens) => nTokens === 1), `${how}: ${gate.stepTokens.join(" ")}`).toBe(true);
      expect((await statusOf("leaving")).generations.active).toBe(0);
    }
  });

  it("whose orchestrator is reset in mid-stream get the rest of the same tokens, none lost, none twice", async () => {
    await packInBucket("reset");
    deploy({ packId: "reset", shards: 2 });
    const request = greedy(12, { echo: true, trace: true, sampling: { ...PLAIN_SAMPLING, topK: 40, seed: 99 } });
    const expected = outputOf(await eventsOf("reset", request));
    for (const step of [0, 1, 5, 9]) {
      const gate = gateAt(step * 3 + 1);
      const running = eventsOf("reset", request);
      await until(() => gate.reached === 1);
      await runInDurableObject(orchestrator("reset"), (_, state) => state.abort("the test pulls the plug")).catch(() => undefined);
      gate.opened = 1;
      const events = await running;
      expect(outputOf(events), `step ${step}`).toEqual(expected);
    }
  });

  it("get a clear error when a shard stays away, and the next request works", async () => {
    await packInBucket("failing");
    deploy({ packId: "failing", shards: 2 });
    const expected = outputOf(await eventsOf("failing", greedy(5)));
    let calls = 0;
    WebSocketExperts.prototype.run = function (this: WebSocketExperts, layer, batch) {
      return calls++ === 7 ? Promise.reject(new Error("Layer 1 failed on shard x after 4 attempts.")) : realRun.call(this, layer, batch);
    };
    const events = await eventsOf("failing", greedy(5));
    expect(events.map((event) => event.type)).toEqual(["token", "token", "error"]);
    expect(events.at(-1)).toMatchObject({ code: "step-failed", message: "A step of the model failed: Layer 1 failed on shard x after 4 attempts." });
    expect(outputOf(await eventsOf("failing", greedy(5)))).toEqual(expected);
    expect((await statusOf("failing")).isolate!.account["kv cache"]).toBeUndefined();
  });

  const bad: [string, unknown, number, string][] = [
    ["no JSON", "{", 400, "The body of /generate is no JSON"],
    ["an unknown key", { ...greedy(1), temprature: 1 }, 400, 'Unrecognized key: "temprature"'],
    ["an empty prompt", greedy(1, { promptIds: [] }), 400, "promptIds: "],
    ["an id outside the vocabulary", greedy(1, { promptIds: [5, 97] }), 400, "promptIds[1] is 97; the vocabulary has 97 tokens."],
    ["nothing to do", greedy(0), 400, "maxTokens is 0 without echo"],
    ["more than the context", greedy(119), 400, "The prompt has 10 tokens and 119 more were asked for; the context of this pack is 128."],
    ["more emitted than asked for", greedy(1, { emittedIds: [1, 2] }), 400, "emittedIds has 2 tokens; maxTokens is 1."],
  ];
  for (const [what, body, status, message] of bad) {
    it(`with ${what} are refused`, async () => {
      await packInBucket("refusing");
      deploy({ packId: "refusing", shards: 1 });
      const response = await post("refusing", typeof body === "string" ? body : JSON.stringify(body));
      expect(response.status).toBe(status);
      expect((await response.json<GenerateEvent & { message: string }>()).message).toContain(message);
    });
  }
});
