// The fan-out over shards that do what they should: rows in place, lines that come about, bounds on what is in flight. Time is the test's own.
// docs/protocol.md section 3. Out of scope: shards that err (client-faults.test.ts), late ones (client-hedge.test.ts), epochs (epoch-switch.test.ts).

import { describe, expect, it } from "vitest";
import { InFlightBudget } from "../../../durable/in-flight-budget.ts";
import { LIMITS } from "../../../durable/limits.ts";
import { replyFrameBytes } from "../../../durable/protocol.ts";
import type { ShardTransport, SocketHandlers } from "../../../durable/frame-socket.ts";
import { FakeClock } from "./fake-clock.ts";
import { ScriptedShard, type ConnectAction } from "./scripted-shard.ts";
import { clientFor, EPOCH, fixture, frameOf } from "./wire-fixture.ts";

const good = (clock: FakeClock, n: number): ScriptedShard[] => Array.from({ length: n }, (_, i) => new ScriptedShard(clock, `shard-${i}`));

describe("fan-out", () => {
  for (const activations of ["f32", "qa8"] as const) {
    for (const nShards of [1, 2, 4]) {
      it(`writes every row in place from ${nShards} shards, one frame per shard and layer (${activations})`, async () => {
        const clock = new FakeClock();
        const shards = good(clock, nShards);
        const f = fixture(clock, shards, activations);
        for (const [layer, nTokens] of [[0, 1], [1, 5], [2, 61], [0, 7]] as const) {
          const before = shards.reduce((n, s) => n + s.frames.length, 0);
          const batch = f.batch(layer, nTokens, layer + nTokens);
          f.clear(batch);
          const result = await clock.until(Promise.resolve(f.experts.run(layer, batch)));
          expect(result.status).toBe("fulfilled");
          expect(f.wrongWords(batch)).toBe(0);
          const sent = shards.reduce((n, s) => n + s.frames.length, 0) - before;
          expect(sent).toBeLessThanOrEqual(nShards);
          if (result.status === "fulfilled") expect(result.value).toMatchObject({ frames: sent, retries: 0 });
        }
      });
    }
  }

  it("keeps two rounds apart that overlap and come back the other way round", async () => {
    const clock = new FakeClock();
    // What is held is answered newest first.
    const shards = [new ScriptedShard(clock, "shard-0", ["hold", "hold"]), new ScriptedShard(clock, "shard-1", ["hold", "hold"])];
    const f = fixture(clock, shards);
    const [a, b] = [f.batch(1, 9, 1, 0), f.batch(1, 14, 2, 1)];
    for (const batch of [a, b]) f.clear(batch);
    const ended: string[] = [];
    const run = (name: string, batch: typeof a) => Promise.resolve(f.experts.run(1, batch)).then(() => void ended.push(name));
    expect((await clock.until(Promise.all([run("a", a), run("b", b)]))).status).toBe("fulfilled");
    expect([f.wrongWords(a), f.wrongWords(b), ended]).toEqual([0, 0, ["b", "a"]]);
    expect(shards.map((shard) => shard.mostInFlight)).toEqual([2, 2]);
  });

  it("overlaps only where a shard is in another isolate", async () => {
    const clock = new FakeClock();
    const shards = good(clock, 2);
    const f = fixture(clock, shards);
    await clock.until(Promise.all(f.clients.map((client) => client.connect())));
    expect(f.experts.overlapTokens).toBe(Infinity);
    shards[1]!.isolate = "elsewhere";
    shards[1]!.live!.closed("1006");
    await clock.until(f.clients[1]!.connect());
    expect(f.experts.overlapTokens).toBe(64);
  });

  it("refuses a frame over the limit and stays usable", async () => {
    const clock = new FakeClock();
    const f = fixture(clock, good(clock, 1), "f32", { ...LIMITS, frameBytes: 16384 });
    const result = await clock.until(Promise.resolve(f.experts.run(0, f.batch(0, 30, 1))));
    expect(result).toMatchObject({ status: "rejected", reason: { name: "FrameSizeError" } });
    const small = f.batch(1, 2, 2);
    expect((await clock.until(Promise.resolve(f.experts.run(1, small)))).status).toBe("fulfilled");
    expect(f.wrongWords(small)).toBe(0);
  });
});

describe("connecting", () => {
  const cases: [string, ConnectAction[], withinMs: number][] = [
    ["is loading", ["loading", "loading", "loading", "loading", "loading", "loading"], 6 * 250],
    ["throws", ["throw", "throw"], 400],
    ["hangs", ["hang"], LIMITS.prepareDeadlineMs + 200],
    ["does not upgrade", ["open-throws"], 200],
    ["closes as it opens", ["open-closes"], 200],
  ];
  for (const [what, connects, withinMs] of cases) {
    it(`goes on when the shard ${what} at first`, async () => {
      const clock = new FakeClock();
      const f = fixture(clock, [new ScriptedShard(clock, "shard-0", [], connects)]);
      const batch = f.batch(0, 3, 1);
      const startMs = clock.nowMs();
      expect((await clock.until(Promise.resolve(f.experts.run(0, batch)))).status).toBe("fulfilled");
      expect(f.wrongWords(batch)).toBe(0);
      expect(clock.nowMs() - startMs).toBeLessThanOrEqual(withinMs);
    });
  }

  it("reports progress and resolves connect() when the shard is ready", async () => {
    const clock = new FakeClock();
    const client = clientFor(clock, new ScriptedShard(clock, "shard-0", [], ["loading"]));
    const connected = client.connect();
    await clock.advance(10);
    expect([client.state, client.loadedBytes, client.totalBytes]).toEqual(["connecting", 10, 40]);
    expect((await clock.until(connected)).status).toBe("fulfilled");
    expect(client.state).toBe("open");
  });

  it("goes on through an outage of seconds, and fails after a minute with the cause", async () => {
    const clock = new FakeClock();
    const back = new ScriptedShard(clock, "shard-0", [], Array.from({ length: 12 }, () => "throw" as const));
    expect((await clock.until(clientFor(clock, back).connect())).status).toBe("fulfilled");
    const gone = new ScriptedShard(clock, "shard-0", [], Array.from({ length: 1000 }, () => "throw" as const));
    const startMs = clock.nowMs();
    const result = await clock.until(clientFor(clock, gone).connect());
    expect(result).toMatchObject({ status: "rejected", reason: { retryable: true, message: expect.stringMatching(/^Shard shard-0 could not be reached for 6\d{4} ms; last: connecting failed: the object was reset\.$/) } });
    expect(clock.nowMs() - startMs).toBeGreaterThanOrEqual(LIMITS.outageMs);
    expect(clock.nowMs() - startMs).toBeLessThan(LIMITS.outageMs + LIMITS.backoffMostMs);
    // Pauses grow: an outage costs some dozens of calls.
    expect(gone.hellos.length).toBeLessThan(120);
  });

  it("fails after four refusals that might have healed, and at once after one that cannot", async () => {
    const clock = new FakeClock();
    const failing = new ScriptedShard(clock, "shard-0", [], ["refuse", "throw", "refuse", "refuse", "refuse"]);
    expect(await clock.until(clientFor(clock, failing).connect())).toMatchObject({ status: "rejected", reason: { retryable: true, message: "Shard shard-0 refused 4 times; last: it refused (load-failed): the store said 503." } });
    expect(failing.hellos.length).toBe(5);
    const refusing = new ScriptedShard(clock, "shard-1", [], ["refuse-for-good"]);
    expect(await clock.until(clientFor(clock, refusing).connect())).toMatchObject({ status: "rejected", reason: { retryable: false, message: "Shard shard-1 refused (pack-hash): another pack." } });
    expect(refusing.hellos.length).toBe(1);
  });

  it("tries three names when isolates are shared, then says what to do", async () => {
    const clock = new FakeClock();
    const asked: number[] = [];
    const named = (connects: ConnectAction[][]) => (nameAttempt: number) => {
      asked.push(nameAttempt);
      return new ScriptedShard(clock, `shard-0~${nameAttempt}`, [], connects[nameAttempt]);
    };
    const lucky = clientFor(clock, named([["shared"], ["shared"], ["ready"]]));
    expect((await clock.until(lucky.connect())).status).toBe("fulfilled");
    expect(lucky.name).toBe("shard-0~2");
    asked.length = 0;
    const unlucky = await clock.until(clientFor(clock, named([["shared"], ["shared"], ["shared"]])).connect());
    expect(asked).toEqual([0, 1, 2]);
    expect(String((unlucky as PromiseRejectedResult).reason)).toMatch(/refused under 3 names.*shard-9 lives here.*ISOLATES = "shared".*separate Worker scripts/);
  });

  it("asks whether a shard is ready without opening a line, and tells whoever knows plans where it says that its epoch is over", async () => {
    const clock = new FakeClock();
    const shard = new ScriptedShard(clock, "shard-0", [], ["ready", "retired", "throw"]);
    let stale = 0;
    const client = clientFor(clock, shard, LIMITS, new InFlightBudget(LIMITS.inFlightBytes), () => { stale++; });
    shard.isolate = "elsewhere";
    await client.touch();
    expect([client.elsewhere, client.state, shard.opened, stale]).toEqual([true, "idle", 0, 0]);
    await client.touch();
    expect([client.state, stale]).toEqual(["idle", 1]);
    await expect(client.touch()).rejects.toThrow("the object was reset");
    expect([client.state, client.lastFault, shard.hellos.length, clock.pendingTimers]).toEqual(["idle", null, 3, 0]);
  });

  it("sends its hello with every new connection", async () => {
    const clock = new FakeClock();
    const shard = new ScriptedShard(clock, "shard-0", ["close"]);
    const f = fixture(clock, [shard]);
    await clock.until(Promise.resolve(f.experts.run(0, f.batch(0, 3, 1))));
    expect(shard.hellos.map((h) => h.epoch)).toEqual([EPOCH, EPOCH]);
    expect(shard.frames[0]!.connection).not.toBe(shard.frames[1]!.connection);
  });
});

describe("a socket that opens too late", () => {
  it("is closed, and what it says or how it ends touches nobody", async () => {
    const clock = new FakeClock();
    const shard = new ScriptedShard(clock);
    const closed: string[] = [];
    let late: SocketHandlers | null = null;
    const transport: ShardTransport = {
      name: shard.name, prepare: (hello) => shard.prepare(hello),
      open: async (connection, handlers) => {
        if (late !== null) return shard.open(connection, handlers);
        late = handlers;
        await new Promise<void>((resolve) => void clock.after(LIMITS.prepareDeadlineMs + 5_000, resolve));
        return { send: () => {}, close: (_code, reason) => { closed.push(reason); } };
      },
    };
    const client = clientFor(clock, transport);
    expect((await clock.until(client.connect())).status).toBe("fulfilled");
    await clock.advance(10_000);
    expect(closed).toEqual(["no longer needed"]);
    late!.closed("1006");
    expect([client.state, client.lastFault]).toEqual(["open", `connecting failed: the socket was not opened in ${LIMITS.prepareDeadlineMs} ms`]);
  });
});

describe("elapsed time of a frame", () => {
  it("is 0 until its reply is taken, then everything from submit on, retries and all", async () => {
    const clock = new FakeClock();
    const client = clientFor(clock, new ScriptedShard(clock, "shard-0", [{ slowMs: 30 }, { slowMs: 7 }, "drop", "corrupt-payload"]));
    await clock.until(client.connect());
    /** Its elapsed time as the sink sees it, once its payload is taken, with the time that really passed. */
    const elapsed = async (faults = 0): Promise<[number, number]> => {
      const startMs = clock.nowMs();
      let refused = faults;
      const seen: number[] = [];
      const done = new Promise<void>((resolve, reject) => {
        const frame = client.submit(frameOf(0), { layer: 0, nGroups: 2, nTokens: 2, hidden: 64 }, {
          reply: () => {
            if (refused-- > 0) {
              queueMicrotask(() => seen.push(frame.elapsedMs));
              return "damaged, the test says";
            }
            seen.push(frame.elapsedMs);
            resolve();
            return null;
          },
          failed: reject,
        });
        seen.push(frame.elapsedMs);
      });
      expect((await clock.until(done)).status).toBe("fulfilled");
      expect(seen.slice(0, -1).every((ms) => ms === 0)).toBe(true);
      return [seen.at(-1)!, clock.nowMs() - startMs];
    };
    expect(await elapsed()).toEqual([30, 30]);
    expect(await elapsed()).toEqual([7, 7]);
    const [ms, passedMs] = await elapsed(1);
    expect(ms).toBe(passedMs);
    expect(ms).toBeGreaterThan(LIMITS.frameDeadlineMs);
  });
});

describe("bounds", () => {
  it("has two requests in flight per socket at most, and keeps their order", async () => {
    const clock = new FakeClock();
    const shard = new ScriptedShard(clock, "shard-0", Array.from({ length: 8 }, () => ({ slowMs: 10 })));
    const client = clientFor(clock, shard);
    const order: number[] = [];
    const done = Promise.all(Array.from({ length: 8 }, (_, i) => new Promise<void>((resolve, reject) => {
      client.submit(frameOf(i % 4), { layer: i % 4, nGroups: 2, nTokens: 2, hidden: 64 }, { reply: () => { order.push(i); resolve(); return null; }, failed: reject });
    })));
    expect((await clock.until(done)).status).toBe("fulfilled");
    expect(shard.mostInFlight).toBe(2);
    expect(order).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  });

  it("holds frames back while the isolate's bytes in flight are spent, and gives every byte back", async () => {
    const clock = new FakeClock();
    const shards = good(clock, 3);
    const buffer = frameOf(0);
    const budget = new InFlightBudget(2 * (buffer.byteLength + replyFrameBytes(2, 64)) + 10);
    const clients = shards.map((shard) => clientFor(clock, shard, LIMITS, budget));
    await clock.until(Promise.all(clients.map((client) => client.connect())));
    let answered = 0;
    const done = Promise.all(clients.flatMap((client) => [0, 1].map(() => new Promise<void>((resolve, reject) => {
      client.submit(buffer.slice(0), { layer: 0, nGroups: 2, nTokens: 2, hidden: 64 }, { reply: () => { answered++; resolve(); return null; }, failed: reject });
    }))));
    expect(shards.reduce((n, s) => n + s.frames.length, 0)).toBe(2);
    expect((await clock.until(done)).status).toBe("fulfilled");
    expect([answered, budget.usedBytes]).toEqual([6, 0]);
  });

  it("sends nothing more when closed, though closing gives back bytes that its own frames wait for", async () => {
    const clock = new FakeClock();
    const shard = new ScriptedShard(clock, "shard-0", ["drop", "drop"]);
    const buffer = frameOf(0);
    const budget = new InFlightBudget(buffer.byteLength + replyFrameBytes(2, 64));
    const client = clientFor(clock, shard, LIMITS, budget);
    await clock.until(client.connect());
    const failures: string[] = [];
    for (let i = 0; i < 3; i++) client.submit(buffer.slice(0), { layer: 0, nGroups: 2, nTokens: 2, hidden: 64 }, { reply: () => null, failed: (error) => failures.push(error.message) });
    client.close("the test is over");
    await clock.advance(60_000);
    expect(failures).toEqual(Array(3).fill("The line to shard shard-0 was closed: the test is over"));
    expect([shard.frames.length, budget.usedBytes, client.retries, client.lastFault]).toEqual([1, 0, 0, null]);
  });

  it("leaves no timer and no byte behind when closed", async () => {
    const clock = new FakeClock();
    const budget = new InFlightBudget(LIMITS.inFlightBytes);
    const client = clientFor(clock, new ScriptedShard(clock, "shard-0", ["drop", "drop"]), LIMITS, budget);
    await clock.until(client.connect());
    const failed = new Promise<Error>((resolve) => client.submit(frameOf(0), { layer: 0, nGroups: 2, nTokens: 2, hidden: 64 }, { reply: () => null, failed: resolve }));
    client.submit(frameOf(1), { layer: 1, nGroups: 2, nTokens: 2, hidden: 64 }, { reply: () => null, failed: () => {} });
    client.close("the test is over");
    expect(String(await failed)).toContain("was closed: the test is over");
    expect([budget.usedBytes, clock.pendingTimers]).toEqual([0, 0]);
  });
});
