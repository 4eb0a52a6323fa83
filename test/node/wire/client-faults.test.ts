// Shards that drop, delay, repeat, damage, refuse and close, each fault once where they alone hold their slots and once where another holds them too: the rows
// are right or the step fails clearly, nothing hangs, nothing is written after the end. Time is the test's own. docs/protocol.md section 3.

import { describe, expect, it } from "vitest";
import { LIMITS } from "../../../durable/limits.ts";
import { ShardError } from "../../../durable/shard-error.ts";
import { FakeClock } from "./fake-clock.ts";
import { ScriptedShard, type Action } from "./scripted-shard.ts";
import { fixture } from "./wire-fixture.ts";

describe("a shard that misbehaves", () => {
  const single: [string, Action, { retried: boolean; reconnects: boolean }][] = [
    ["drops a frame", "drop", { retried: true, reconnects: true }],
    ["answers twice", "duplicate", { retried: false, reconnects: false }],
    ["damages a payload", "corrupt-payload", { retried: true, reconnects: true }],
    ["damages a header", "corrupt-header", { retried: true, reconnects: true }],
    ["cuts a frame short", "truncate", { retried: true, reconnects: true }],
    ["answers from an older epoch", "stale-epoch", { retried: true, reconnects: true }],
    ["answers for another connection", "other-connection", { retried: true, reconnects: true }],
    ["answers with another shape", "wrong-shape", { retried: true, reconnects: true }],
    ["closes instead of answering", "close", { retried: true, reconnects: true }],
    ["is slow but within the deadline", { slowMs: 4_900 }, { retried: false, reconnects: false }],
    ["is slower than the deadline", { slowMs: 6_000 }, { retried: true, reconnects: true }],
    ["is loading", { refuse: "warming" }, { retried: false, reconnects: false }],
    ["saw a damaged frame", { refuse: "bad-checksum" }, { retried: true, reconnects: false }],
    ["found a frame malformed", { refuse: "bad-frame" }, { retried: true, reconnects: false }],
    ["failed inside", { refuse: "internal" }, { retried: true, reconnects: false }],
    ["has another epoch", { refuse: "wrong-epoch" }, { retried: true, reconnects: true }],
    ["does not know a slot", { refuse: "unknown-slot" }, { retried: true, reconnects: true }],
  ];
  it("in ways of which all are here", () => {
    expect(single.length * 2).toBe(34);
  });
  for (const [what, action, expected] of single) {
    it(`${what}: the rows are the same`, async () => {
      const clock = new FakeClock();
      const shards = [new ScriptedShard(clock, "shard-0", ["answer", action]), new ScriptedShard(clock, "shard-1")];
      const f = fixture(clock, shards);
      for (let step = 0; step < 4; step++) {
        const batch = f.batch(step, 6, step);
        f.clear(batch);
        expect((await clock.until(Promise.resolve(f.experts.run(step, batch)))).status).toBe("fulfilled");
        expect(f.wrongWords(batch)).toBe(0);
      }
      expect(f.clients[0]!.retries > 0).toBe(expected.retried);
      expect(shards[0]!.opened).toBe(expected.reconnects ? 2 : 1);
      expect(shards[0]!.hellos.length).toBe(expected.reconnects ? 2 : 1);
      expect(shards[1]!.opened).toBe(1);
      expect(shards[0]!.sentUnchanged).toBe(true);
    });
  }

  for (const [what, action, { retried }] of single) {
    it(`${what}, and another has its slots: the rows are the same, and nobody waits for its line`, async () => {
      const clock = new FakeClock();
      const shards = [new ScriptedShard(clock, "shard-0", ["answer", action]), new ScriptedShard(clock, "shard-1")];
      const f = fixture(clock, shards, "qa8", LIMITS, 2);
      await clock.until(Promise.all(f.clients.map((client) => client.connect())));
      for (let step = 0; step < 4; step++) {
        const batch = f.batch(step, 6, step);
        f.clear(batch);
        // From its failure on the line takes an hour to open.
        shards[0]!.opensAfterMs = 3_600_000;
        const failedAtMs = clock.nowMs();
        const result = await clock.until(Promise.resolve(f.experts.run(step, batch)));
        expect(result.status).toBe("fulfilled");
        expect(f.wrongWords(batch)).toBe(0);
        // Silence is noticed by the deadline; everything else at once.
        expect(clock.nowMs() - failedAtMs).toBeLessThanOrEqual(LIMITS.frameDeadlineMs + LIMITS.drainMs);
        if (step === 1 && result.status === "fulfilled") expect(result.value).toMatchObject({ frames: 2, retries: retried ? 1 : 0, hedges: 0 });
      }
      expect(f.clients.every((client) => client.hedges === 0)).toBe(true);
      for (const client of f.clients) client.close("the test is over");
      expect(f.budget.usedBytes).toBe(0);
    });
  }

  it("fails the step after four wrong answers, naming shard, layer and cause, and goes on afterwards", async () => {
    const clock = new FakeClock();
    const shard = new ScriptedShard(clock, "shard-7", ["corrupt-payload", "close", { refuse: "internal" }, "drop", "corrupt-payload", "wrong-shape"]);
    const f = fixture(clock, [shard, new ScriptedShard(clock)]);
    const batch = f.batch(2, 6, 1);
    const result = await clock.until(Promise.resolve(f.experts.run(2, batch)));
    expect(result.status).toBe("rejected");
    const { reason } = result as PromiseRejectedResult;
    expect(reason).toBeInstanceOf(ShardError);
    expect((reason as Error).message).toMatch(/^Layer 2 failed on shard shard-7 after 4 wrong answers; last: a reply of layer 2 with /);
    expect(shard.frames.map((h) => h.attempt)).toEqual([0, 1, 2, 3, 4, 5]);
    const next = f.batch(3, 4, 2);
    expect((await clock.until(Promise.resolve(f.experts.run(3, next)))).status).toBe("fulfilled");
    expect(f.wrongWords(next)).toBe(0);
  });

  it("counts four wrong answers wherever they came from", async () => {
    const clock = new FakeClock();
    const wrong = Array.from({ length: 8 }, (): Action => ({ refuse: "internal" }));
    const shards = [new ScriptedShard(clock, "shard-0", wrong), new ScriptedShard(clock, "shard-1", wrong)];
    const f = fixture(clock, shards, "qa8", LIMITS, 2);
    await clock.until(Promise.all(f.clients.map((client) => client.connect())));
    const result = await clock.until(Promise.resolve(f.experts.run(2, f.batch(2, 1, 1))));
    expect(String((result as PromiseRejectedResult).reason)).toMatch(/Layer 2 failed on shard shard-\d after 4 wrong answers; last: it refused the frame \(internal\)/);
    expect(shards[0]!.frames.length + shards[1]!.frames.length).toBeLessThanOrEqual(8);
  });

  it("writes nothing into the rows of a step that has failed, even if another shard answers later", async () => {
    const clock = new FakeClock();
    const wrong: Action = { refuse: "internal" };
    const shards = [new ScriptedShard(clock, "bad", [wrong, wrong, wrong, wrong]), new ScriptedShard(clock, "late", [{ slowMs: 4_000 }])];
    const f = fixture(clock, shards);
    const batch = f.batch(0, 6, 1);
    expect((await clock.until(Promise.resolve(f.experts.run(0, batch)))).status).toBe("rejected");
    f.clear(batch);
    const before = f.heap.u8.slice();
    await clock.advance(10_000);
    expect(Buffer.compare(f.heap.u8, before)).toBe(0);
  });

  it("that cannot be reached for seconds holds the step up, and then its rows are the same", async () => {
    const clock = new FakeClock();
    const shard = new ScriptedShard(clock, "shard-0", ["close"]);
    const f = fixture(clock, [shard, new ScriptedShard(clock)]);
    await clock.until(Promise.all(f.clients.map((client) => client.connect())));
    shard.downUntilMs = clock.nowMs() + 25_000;
    const batch = f.batch(1, 6, 1);
    f.clear(batch);
    expect(await clock.until(Promise.resolve(f.experts.run(1, batch)))).toMatchObject({ status: "fulfilled", value: { retries: 1 } });
    expect(f.wrongWords(batch)).toBe(0);
    expect(clock.nowMs()).toBeGreaterThanOrEqual(shard.downUntilMs);
    expect(clock.nowMs()).toBeLessThan(shard.downUntilMs + LIMITS.backoffMostMs + 100);
  });

  it("that is gone for a minute fails the step", async () => {
    const clock = new FakeClock();
    const shard = new ScriptedShard(clock, "shard-0", ["close"]);
    const f = fixture(clock, [shard, new ScriptedShard(clock)]);
    await clock.until(Promise.all(f.clients.map((client) => client.connect())));
    shard.downUntilMs = Infinity;
    const startMs = clock.nowMs();
    const result = await clock.until(Promise.resolve(f.experts.run(1, f.batch(1, 6, 1))));
    expect(String((result as PromiseRejectedResult).reason)).toMatch(/^ShardError: Layer 1 failed on shard shard-0: no answer for 6\d{4} ms, attempts: 1; last: connecting failed: the object was reset\.$/);
    expect(clock.nowMs() - startMs).toBeLessThan(LIMITS.outageMs + LIMITS.backoffMostMs + 100);
  });

  it("and its only replica too: the first of them that comes back answers", async () => {
    const clock = new FakeClock();
    const shards = [new ScriptedShard(clock, "shard-0", ["close"]), new ScriptedShard(clock, "shard-1", ["close", "close"])];
    const f = fixture(clock, shards, "qa8", LIMITS, 2);
    await clock.until(Promise.all(f.clients.map((client) => client.connect())));
    shards[0]!.downUntilMs = clock.nowMs() + 4_000;
    shards[1]!.downUntilMs = clock.nowMs() + 3_000_000;
    const batch = f.batch(1, 6, 1);
    f.clear(batch);
    expect((await clock.until(Promise.resolve(f.experts.run(1, batch)))).status).toBe("fulfilled");
    expect(f.wrongWords(batch)).toBe(0);
    expect(clock.nowMs()).toBeLessThan(shards[0]!.downUntilMs + 2 * LIMITS.backoffMostMs + 100);
  });

  it("fails pending frames at once when the socket closes, without waiting for the deadline", async () => {
    const clock = new FakeClock();
    const shard = new ScriptedShard(clock, "shard-0", ["drop"]);
    const f = fixture(clock, [shard]);
    const run = Promise.resolve(f.experts.run(0, f.batch(0, 3, 1)));
    await clock.advance(20);
    const startMs = clock.nowMs();
    shard.live!.closed("1006");
    expect((await clock.until(run)).status).toBe("fulfilled");
    expect(clock.nowMs() - startMs).toBeLessThan(LIMITS.backoffBaseMs * 2 + 10);
  });

  it("does not count the deadline while a long computation keeps answers from being delivered", async () => {
    const clock = new FakeClock();
    // The answer is due in the same instant as the deadline but queued behind it.
    const shard = new ScriptedShard(clock, "shard-0", [{ slowMs: LIMITS.frameDeadlineMs + LIMITS.drainMs - 1 }]);
    const f = fixture(clock, [shard]);
    expect((await clock.until(Promise.resolve(f.experts.run(0, f.batch(0, 3, 1))))).status).toBe("fulfilled");
    expect(f.clients[0]!.retries).toBe(0);
  });

  it("waits twice as long with each silence", async () => {
    const clock = new FakeClock();
    const shard = new ScriptedShard(clock, "shard-0", [...Array.from({ length: 16 }, () => "answer" as const), "drop", "drop", "drop"]);
    const f = fixture(clock, [shard]);
    const round = (): Promise<unknown> => clock.until(Promise.resolve(f.experts.run(0, f.batch(0, 3, 1))));
    for (let i = 0; i < 16; i++) await round();
    const startMs = clock.nowMs();
    expect(await round()).toMatchObject({ status: "fulfilled", value: { retries: 3 } });
    const silenceMs = (1 + 2 + 4) * LIMITS.deadlineFloorMs;
    expect(clock.nowMs() - startMs).toBeGreaterThanOrEqual(silenceMs);
    // A drain and a pause to connect after each.
    expect(clock.nowMs() - startMs).toBeLessThan(silenceMs + 3 * LIMITS.drainMs + (2 + 4 + 8) * LIMITS.backoffBaseMs);
  });

  it("that is gone for most of a minute, refuses once, and is gone again, has not been silent for a minute: the step waits on", async () => {
    const clock = new FakeClock();
    const shard = new ScriptedShard(clock, "shard-0", ["close"]);
    const f = fixture(clock, [shard]);
    await clock.until(f.clients[0]!.connect());
    shard.nextConnects("refuse");
    const goneMs = LIMITS.outageMs - 10_000;
    shard.downUntilMs = clock.nowMs() + goneMs;
    const batch = f.batch(1, 6, 1);
    f.clear(batch);
    const run = Promise.resolve(f.experts.run(1, batch));
    // What waits for the line alone is told the same way.
    while (f.clients[0]!.state === "open") await clock.advance(1);
    const connected = f.clients[0]!.connect();
    while (f.clients[0]!.lastFault?.startsWith("it refused") !== true) await clock.advance(10);
    shard.downUntilMs = clock.nowMs() + goneMs;
    expect([(await clock.until(run)).status, (await clock.until(connected)).status, f.wrongWords(batch)]).toEqual(["fulfilled", "fulfilled", 0]);
  });

  it("that loads for long, serves, and loads for as long again is waited for each time", async () => {
    const clock = new FakeClock();
    const loading = Array.from({ length: (LIMITS.warmingMs - 20_000) / 250 }, () => "loading" as const);
    const shard = new ScriptedShard(clock, "shard-0", ["close"], [...loading, "ready", ...loading]);
    const f = fixture(clock, [shard]);
    const batch = f.batch(1, 6, 1);
    f.clear(batch);
    expect(await clock.until(Promise.resolve(f.experts.run(1, batch)))).toMatchObject({ status: "fulfilled", value: { retries: 1 } });
    expect([f.wrongWords(batch), shard.hellos.length]).toEqual([0, 2 * loading.length + 2]);
  });

  it("gives up on a shard that is loading for too long", async () => {
    const clock = new FakeClock();
    const shard = new ScriptedShard(clock, "shard-0", Array.from({ length: 2_000 }, () => ({ refuse: "warming" }) as const));
    const f = fixture(clock, [shard]);
    const startMs = clock.nowMs();
    const result = await clock.until(Promise.resolve(f.experts.run(0, f.batch(0, 3, 1))));
    expect(result).toMatchObject({ status: "rejected", reason: { name: "ShardError" } });
    expect(String((result as PromiseRejectedResult).reason)).toContain("still loading after 120000 ms");
    expect(clock.nowMs() - startMs).toBeLessThan(LIMITS.warmingMs + 1_000);
  });
});
