// Late frames: another holder is asked too, the first complete answer counts, and the other touches nothing. Time is the test's own.
// docs/protocol.md section 3. Out of scope: who is chosen when nothing is late (replica-choice.test.ts).

import { describe, expect, it } from "vitest";
import { LatencyEstimate } from "../../../durable/latency-estimate.ts";
import { LIMITS, type Limits } from "../../../durable/limits.ts";
import type { OtherHolders } from "../../../durable/outgoing-frame.ts";
import { FakeClock } from "./fake-clock.ts";
import { ScriptedShard, type Action } from "./scripted-shard.ts";
import { clientFor, fixture, frameOf, HIDDEN, type Fixture } from "./wire-fixture.ts";

/** Rounds that make a shard known as one that takes 10 ms: enough of every size class that one token's frames fall into. */
const QUIET = 40;
const quiet = (then: Action[]): Action[] => [...Array.from({ length: QUIET }, (): Action => ({ slowMs: 10 })), ...then];

/**
 * Each shard holds every slot, but of a round of one token only the first, which is asked all its experts, is given any: it is the only one ready in the quiet rounds.
 * `bothKnown`: the other one has had such rounds before, alone.
 */
async function lateFixture(first: Action[], second: Action[] = [], limits: Limits = LIMITS, bothKnown = false): Promise<{ clock: FakeClock; shards: ScriptedShard[]; f: Fixture }> {
  const clock = new FakeClock();
  const shards = [new ScriptedShard(clock, "shard-0", quiet(first)), new ScriptedShard(clock, "shard-1", bothKnown ? quiet(second) : second)];
  const f = fixture(clock, shards, "qa8", limits, 2);
  if (bothKnown) {
    shards[0]!.downUntilMs = Infinity;
    await clock.until(f.clients[1]!.connect());
    for (let round = 0; round < QUIET; round++) await clock.until(Promise.resolve(f.experts.run(0, f.batch(0, 1, 1))));
    expect([shards[0]!.frames.length, shards[1]!.frames.splice(0).length]).toEqual([0, QUIET]);
    shards[0]!.downUntilMs = 0;
    shards[1]!.live!.closed("1006");
  }
  shards[1]!.downUntilMs = Infinity;
  await clock.until(f.clients[0]!.connect());
  for (let round = 0; round < QUIET; round++) await clock.until(Promise.resolve(f.experts.run(0, f.batch(0, 1, 1))));
  expect([shards[0]!.frames.length, shards[1]!.frames.length]).toEqual([QUIET, 0]);
  return { clock, shards, f };
}

/** The next round, put together while only the first is there; then the other comes up, and the round runs. */
async function lateRound({ clock, shards, f }: Awaited<ReturnType<typeof lateFixture>>, forGood = false): Promise<PromiseSettledResult<unknown> & { tookMs: number; wrongWords: number }> {
  const batch = f.batch(1, 1, 1);
  f.clear(batch);
  shards[1]!.downUntilMs = 0;
  await clock.until(f.clients[1]!.connect());
  // Lines that are lost from here on stay so.
  if (forGood) for (const shard of shards) shard.opensAfterMs = 3_600_000;
  const startMs = clock.nowMs();
  const result = await clock.until(Promise.resolve(f.experts.run(1, batch)));
  return { ...result, tookMs: clock.nowMs() - startMs, wrongWords: f.wrongWords(batch) };
}

const HEDGE_MS = LIMITS.hedgeFloorMs + LIMITS.drainMs;

describe("a frame that is late", () => {
  it("waits on where its hedge fails for good: the round is its own", async () => {
    const of = await lateFixture([{ slowMs: 700 }], Array.from({ length: 8 }, (): Action => ({ refuse: "internal" })));
    expect(await lateRound(of)).toMatchObject({ status: "fulfilled", value: { hedges: 1 }, tookMs: 700, wrongWords: 0 });
    expect(of.shards[1]!.frames.length).toBe(LIMITS.frameAttempts);
  });

  it("is not sent again once the hedge has answered, though its own line comes back", async () => {
    const of = await lateFixture([{ afterMs: 60, then: "close" }], [{ slowMs: 300 }]);
    of.shards[0]!.opensAfterMs = 1_000;
    expect(await lateRound(of)).toMatchObject({ status: "fulfilled", value: { hedges: 1 }, wrongWords: 0 });
    await of.clock.advance(10_000);
    expect(of.shards[0]!.frames.length).toBe(QUIET + 1);
  });

  const after: [string, Action][] = [["closes", "close"], ["damages its answer", "corrupt-header"], ["fails inside", { refuse: "internal" }], ["says that it is loading", { refuse: "warming" }], ["never answers", "drop"]];
  for (const [what, action] of after) {
    it(`is not sent again where its shard ${what} when the hedge has long answered`, async () => {
      const of = await lateFixture([action === "drop" ? "drop" : { afterMs: 300, then: action }]);
      expect(await lateRound(of)).toMatchObject({ status: "fulfilled", value: { hedges: 1, retries: 0 }, tookMs: HEDGE_MS, wrongWords: 0 });
      await of.clock.advance(10_000);
      expect([of.shards.map(({ frames }) => frames.length), of.f.clients.map(({ retries }) => retries), of.f.budget.usedBytes]).toEqual([[QUIET + 1, 1], [0, 0], 0]);
    });
  }

  it("is answered by the other holder, and what the first says later is dropped", async () => {
    const of = await lateFixture([{ slowMs: 700 }]);
    const result = await lateRound(of);
    expect(result).toMatchObject({ status: "fulfilled", value: { frames: 1, retries: 0, hedges: 1 }, tookMs: HEDGE_MS, wrongWords: 0 });
    expect(of.f.clients.map(({ hedges, retries }) => [hedges, retries])).toEqual([[1, 0], [0, 0]]);
    // The late one keeps its credit until it answers, and then touches nothing.
    expect(of.f.budget.usedBytes).toBeGreaterThan(0);
    const before = of.f.heap.u8.slice();
    await of.clock.advance(1_000);
    expect(Buffer.compare(of.f.heap.u8, before)).toBe(0);
    expect([of.f.budget.usedBytes, of.shards[0]!.opened]).toEqual([0, 1]);
  });

  it("may still be first, and then the hedge is dropped", async () => {
    const of = await lateFixture([{ slowMs: 100 }], [{ slowMs: 500 }]);
    expect(await lateRound(of)).toMatchObject({ status: "fulfilled", value: { hedges: 1, retries: 0 }, tookMs: 100, wrongWords: 0 });
    const before = of.f.heap.u8.slice();
    await of.clock.advance(1_000);
    expect(Buffer.compare(of.f.heap.u8, before)).toBe(0);
    expect(of.f.budget.usedBytes).toBe(0);
  });

  it("is counted once where both answer in the same instant", async () => {
    const of = await lateFixture([{ slowMs: HEDGE_MS + 50 }], [{ slowMs: 50 }]);
    expect(await lateRound(of)).toMatchObject({ status: "fulfilled", value: { frames: 1, hedges: 1 }, tookMs: HEDGE_MS + 50, wrongWords: 0 });
    await of.clock.advance(1_000);
    expect(of.f.budget.usedBytes).toBe(0);
  });

  const lost: [string, Action][] = [["closes", "close"], ["damages its answer", "corrupt-payload"], ["fails inside", { refuse: "internal" }]];
  for (const [what, action] of lost) {
    it(`goes on with its first shard where the other ${what}`, async () => {
      const of = await lateFixture([{ slowMs: 300 }], [action]);
      const result = await lateRound(of, true);
      expect(result).toMatchObject({ status: "fulfilled", value: { hedges: 1 }, wrongWords: 0 });
      expect(result.tookMs).toBeLessThanOrEqual(300);
      await of.clock.advance(10_000);
      expect(of.f.budget.usedBytes).toBe(0);
    });

    it(`goes on with its hedge where the first shard ${what} after all`, async () => {
      // Both are slow; the first then fails.
      const of = await lateFixture([{ afterMs: 200, then: action }], [{ slowMs: 400 }]);
      const result = await lateRound(of, true);
      expect(result).toMatchObject({ status: "fulfilled", value: { hedges: 1 }, wrongWords: 0 });
      expect(result.tookMs).toBeLessThanOrEqual(HEDGE_MS + 400);
      await of.clock.advance(10_000);
      expect(of.f.budget.usedBytes).toBe(0);
    });
  }

  it("that nobody answers is sought by both until one comes back", async () => {
    const of = await lateFixture(["drop"], ["drop"]);
    const result = await lateRound(of);
    expect(result).toMatchObject({ status: "fulfilled", value: { hedges: 1 }, wrongWords: 0 });
    expect(result.tookMs).toBeLessThan(LIMITS.deadlineFloorMs + LIMITS.drainMs + 2 * LIMITS.backoffBaseMs + 10);
    await of.clock.advance(20_000);
    expect(of.f.budget.usedBytes).toBe(0);
  });

  it("is not hedged where the bytes in flight leave no room, nor without another holder", async () => {
    // Room for one frame and its reply, not for two.
    const of = await lateFixture([{ slowMs: 700 }], [], { ...LIMITS, inFlightBytes: 2_500 });
    expect(await lateRound(of)).toMatchObject({ status: "fulfilled", value: { hedges: 0 }, tookMs: 700, wrongWords: 0 });
    const clock = new FakeClock();
    const alone = fixture(clock, [new ScriptedShard(clock, "shard-0", quiet([{ slowMs: 700 }]))]);
    for (let round = 0; round <= QUIET; round++) expect(await clock.until(Promise.resolve(alone.experts.run(0, alone.batch(0, 1, 1))))).toMatchObject({ value: { hedges: 0, retries: 0 } });
    expect(alone.clients[0]!.retries).toBe(0);
  });

  it("is asked of others once, though they are late as well: a hedge has no hedge", async () => {
    const of = await lateFixture([{ slowMs: 900 }], [{ slowMs: 800 }], LIMITS, true);
    expect(await lateRound(of)).toMatchObject({ status: "fulfilled", value: { frames: 1, retries: 0, hedges: 1 }, tookMs: HEDGE_MS + 800, wrongWords: 0 });
    await of.clock.advance(10_000);
    expect([of.shards.map(({ frames }) => frames.length), of.f.clients.map(({ hedges }) => hedges), of.f.budget.usedBytes]).toEqual([[QUIET + 1, 1], [1, 0], 0]);
  });

  it("is asked of others until they are not busy, then never again: not while it is out, not when it waits for its line, not when it is out anew", async () => {
    const clock = new FakeClock();
    const shard = new ScriptedShard(clock, "shard-0", quiet(["drop", { slowMs: 900 }]));
    const client = clientFor(clock, shard);
    await clock.until(client.connect());
    const ended = (elsewhere: OtherHolders | null): Promise<void> => new Promise((resolve, reject) => {
      client.submit(frameOf(0), { layer: 0, nGroups: 2, nTokens: 2, hidden: HIDDEN }, { elsewhere, reply: () => { resolve(); return null; }, failed: reject });
    });
    for (let frame = 0; frame < QUIET; frame++) await clock.until(ended(null));
    const startMs = clock.nowMs();
    const askedMs: number[] = [];
    const others: OtherHolders = { moved: () => false, late: () => (askedMs.push(clock.nowMs() - startMs) < 3 ? "busy" : "sent") };
    expect((await clock.until(ended(others))).status).toBe("fulfilled");
    // The first attempt was given up after a second, and the second one was late, too.
    expect(clock.nowMs() - startMs).toBeGreaterThan(LIMITS.deadlineFloorMs + 900);
    expect(shard.frames.length).toBe(QUIET + 2);
    expect([askedMs, client.hedges]).toEqual([[1, 2, 3].map((n) => n * HEDGE_MS), 1]);
  });

  // Found by seed 256063 of the simulation: the hedge had one part of what was missing, and was taken for all of it.
  it("is hedged with all that is missing of its share, where another frame of the share, refused before, was divided among two shards", async () => {
    const clock = new FakeClock();
    const shards = [0, 1, 2].map((n) => new ScriptedShard(clock, `shard-${n}`));
    const f = fixture(clock, shards, "qa8", LIMITS, 3);
    for (const client of f.clients) await clock.until(client.connect());
    // Lines know how long frames of every size take: no time at all.
    for (let round = 0; round < 400; round++) await clock.until(Promise.resolve(f.experts.run(0, f.batch(0, 1 + (round % 16), round))));
    for (const shard of shards) shard.frames.length = 0;
    shards[0]!.nextFrames({ refuse: "internal" });
    shards[1]!.nextFrames("answer", { slowMs: 500 });
    shards[2]!.nextFrames("answer", { slowMs: 400 });
    const batch = f.batch(1, 12, 1);
    f.clear(batch);
    const startMs = clock.nowMs();
    const result = await clock.until(Promise.resolve(f.experts.run(1, batch)));
    expect(result).toMatchObject({ status: "fulfilled", value: { frames: 3, retries: 1, hedges: 1 } });
    expect(f.wrongWords(batch)).toBe(0);
    // Both parts of the refused frame were out, and late, when all of it was asked of the first shard again.
    expect(clock.nowMs() - startMs).toBe(HEDGE_MS);
    const [refused, again] = shards[0]!.frames;
    expect([shards.map(({ frames }) => frames.length), again!.nTokens]).toEqual([[2, 2, 2], refused!.nTokens]);
    await clock.advance(10_000);
    expect(f.budget.usedBytes).toBe(0);
  });

  it("makes the next round ask the other one first", async () => {
    const of = await lateFixture([{ slowMs: 900 }]);
    await lateRound(of);
    const asked = of.shards[0]!.frames.length;
    for (let round = 0; round < 3; round++) expect(await of.clock.until(Promise.resolve(of.f.experts.run(2, of.f.batch(2, 4, round))))).toMatchObject({ value: { frames: 1, hedges: 0 } });
    expect(of.shards[0]!.frames.length).toBe(asked);
  });
});

describe("what is known of a line's times", () => {
  it("is nothing before 16 samples of a size class; then a deadline of four times the longest and a hedge at the 95th percentile", () => {
    const of = new LatencyEstimate(LIMITS);
    const known = (bytes: number): number[] => [of.deadlineMs(bytes, 0), of.hedgeMs(bytes)];
    for (let i = 1; i < 16; i++) of.observe(1500, 100 + i);
    expect(known(1500)).toEqual([LIMITS.frameDeadlineMs, Infinity]);
    of.observe(1100, 400);
    expect(known(2000)).toEqual([1_600, 400]);
    expect(known(2048)).toEqual([LIMITS.frameDeadlineMs, Infinity]);
    for (let i = 0; i < 32; i++) of.observe(1100, 50);
    // Of 48: the two longest are beyond the 95th percentile.
    expect(known(1100)).toEqual([1_600, 114]);
    for (let i = 0; i < 64; i++) of.observe(1100, 0);
    expect(known(1100)).toEqual([LIMITS.deadlineFloorMs, LIMITS.hedgeFloorMs]);
  });

  it("doubles the deadline with each silence, to the longest of all", () => {
    const of = new LatencyEstimate(LIMITS);
    for (let i = 0; i < 16; i++) of.observe(1000, 300);
    expect([0, 1, 2, 3].map((silent) => of.deadlineMs(1000, silent))).toEqual([1_200, 2_400, 4_800, LIMITS.frameDeadlineMs]);
  });
});
