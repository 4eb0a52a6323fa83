// Shards that are away, and generations that do not wait for them: what a round leaves out, and when it tries again; what a step of several generations does for those
// who opted in and those who did not. Time is the test's own. Out of scope: the same over real objects and the API (test/workerd/degrade.test.ts).

import { describe, expect, it } from "vitest";
import { sleep } from "../../../durable/clock.ts";
import type { GenerateEvent } from "../../../durable/generate.ts";
import { LeftOutRows } from "../../../durable/left-out-rows.ts";
import { LIMITS } from "../../../durable/limits.ts";
import { AwayError, ShardError } from "../../../durable/shard-error.ts";
import { type OutageTerms, StepTerms, type Terms } from "../../../durable/step-terms.ts";
import type { StepEntry } from "../../../model/step.ts";
import type { ExpertBatch, ExpertRunInfo } from "../../../model/experts.ts";
import type { Tap } from "../../../model/taps.ts";
import { alone, request, said, setUp } from "./arithmetic-engine.ts";
import { FakeClock } from "./fake-clock.ts";
import { ScriptedShard } from "./scripted-shard.ts";
import { fixture, HIDDEN } from "./wire-fixture.ts";

async function fleet(nReplicas = 1) {
  const clock = new FakeClock();
  const shards = [0, 1, 2].map((n) => new ScriptedShard(clock, `shard-${n}`));
  const terms = new StepTerms();
  const f = fixture(clock, shards, "qa8", LIMITS, nReplicas, terms);
  for (const client of f.clients) await clock.until(client.connect());
  const run = async (of: Terms | null, seed = 1) => {
    const batch = f.batch(1, 4, seed);
    f.clear(batch);
    const startMs = clock.nowMs();
    const rounds = (): Promise<ExpertRunInfo> => Promise.resolve(f.experts.run(1, batch));
    const result = await clock.until(of === null ? rounds() : terms.during(of, rounds));
    return { result, batch, tookMs: clock.nowMs() - startMs, info: result.status === "fulfilled" ? result.value : null };
  };
  /** A shard that is gone, its socket with it. */
  const lose = (n: number): void => {
    shards[n]!.downUntilMs = Infinity;
    shards[n]!.live!.closed("1006");
  };
  return { clock, shards, f, run, lose };
}

const groupsOf = (batch: ExpertBatch, part: number): number[] => Array.from({ length: batch.partStart[part + 1]! - batch.partStart[part]! }, (_, i) => batch.partStart[part]! + i);
const OPTED = { leavesOut: true } as const;

describe("a round of those who opted in", () => {
  it("waits a while for a shard that is away, then leaves out what it holds and nothing else; the next one leaves it out at once, until it is back", async () => {
    const { clock, shards, f, run, lose } = await fleet();
    expect((await run(OPTED)).info).toMatchObject({ frames: 3 });
    lose(1);
    const first = await run(OPTED);
    expect(first.info!.missing).toEqual(groupsOf(first.batch, 1));
    expect(first.info).toMatchObject({ frames: 2, parts: [{ part: 0 }, { part: 2 }] });
    expect(first.tookMs).toBeGreaterThanOrEqual(LIMITS.degradeAfterMs);
    expect(first.tookMs).toBeLessThanOrEqual(2 * LIMITS.degradeAfterMs);
    // Its tap takes the whole of those experts out of the sum; all other rows are right.
    const missing = new LeftOutRows();
    const { batch } = first;
    const experts = new Set(first.info!.missing!.map((g) => batch.groupExpert[g]!));
    const tokens = Uint32Array.of(0, 1, 2, 3);
    missing.tap.run({ layer: 1, nTokens: 4, timelines: tokens.map((t) => 10 + t), positions: tokens, values: f.heap.f32.subarray(batch.rows / 4), rowLength: HIDDEN, ids: tokens, weights: new Float32Array(0), batch, round: first.info });
    let nRows = 0;
    for (let g = 0; g < batch.nGroups; g++) {
      if (!experts.has(batch.groupExpert[g]!)) continue;
      const [start, end] = [batch.groupStart[g]!, batch.groupStart[g + 1]!];
      if (batch.groupSegment[g] === 0) nRows += end - start;
      expect(f.heap.f32.subarray(batch.rows / 4 + batch.groupRow[g]! * HIDDEN, batch.rows / 4 + (batch.groupRow[g]! + end - start) * HIDDEN).every((x) => Object.is(x, 0))).toBe(true);
    }
    expect([0, 1, 2, 3].reduce((sum, t) => sum + missing.between(10 + t, t, t + 1), 0)).toBe(nRows);
    expect(missing.between(10, 1, 99)).toBe(0);

    expect(await run(OPTED)).toMatchObject({ tookMs: 0, info: { missing: groupsOf(first.batch, 1) } });
    shards[1]!.downUntilMs = 0;
    await clock.advance(LIMITS.backoffMostMs);
    const back = await run(OPTED);
    expect(back.info!.missing).toBeUndefined();
    expect(f.wrongWords(back.batch)).toBe(0);
  });

  it("leaves out what a shard answers wrongly to the end, and what one says for long that it is loading", async () => {
    const { shards, run, f } = await fleet();
    shards[1]!.live!.closed("1006");
    shards[1]!.nextConnects(...Array.from({ length: 40 }, () => "refuse" as const));
    const wrong = await run(OPTED);
    expect(wrong.info!.missing).toEqual(groupsOf(wrong.batch, 1));
    const loading = await fleet();
    loading.shards[2]!.live!.closed("1006");
    loading.shards[2]!.nextConnects(...Array.from({ length: 12 }, () => "loading" as const));
    const round = await loading.run(OPTED);
    expect(round.info!.missing).toEqual(groupsOf(round.batch, 2));
    expect(f.wrongWords(wrong.batch)).toBeGreaterThan(0);
  });

  it("misses nothing where another shard holds the same", async () => {
    const { run, lose, f } = await fleet(2);
    lose(1);
    for (let seed = 1; seed < 4; seed++) {
      const { info, batch, tookMs } = await run(OPTED, seed);
      expect(info!.missing).toBeUndefined();
      expect([f.wrongWords(batch), tookMs < 100]).toEqual([0, true]);
    }
  });

  it("is not taken in by an outage of long ago: a line that nobody tried since is tried first", async () => {
    const { clock, shards, run, lose, f } = await fleet();
    lose(1);
    await run(OPTED);
    await clock.advance(60_000);
    shards[1]!.downUntilMs = 0;
    const { info, batch } = await run(OPTED);
    expect(info!.missing).toBeUndefined();
    expect(f.wrongWords(batch)).toBe(0);
  });
});

describe("a pass that is done again", () => {
  it("because its plan changed half way counts what is missing the last time, layer by layer, and beyond what was told before", () => {
    const rows = new LeftOutRows();
    const batch = { groupExpert: Uint32Array.of(4, 5), groupSegment: Uint32Array.of(0, 0), groupStart: Uint32Array.of(0, 2, 3), groupRow: Uint32Array.of(0, 2), groupTokens: Uint32Array.of(0, 1, 1), nGroups: 2 } as unknown as ExpertBatch;
    const run = (layer: number, missing: number[]): void => rows.tap.run({
      layer, nTokens: 2, timelines: Uint32Array.of(7, 7), positions: Uint32Array.of(20, 21), values: new Float32Array(3), rowLength: 1, ids: new Uint32Array(0), weights: new Float32Array(0), batch,
      round: { frames: 0, bytes: 0, retries: 0, hedges: 0, parts: [], ...(missing.length === 0 ? {} : { missing }) },
    });
    const counts = (): number[] => [rows.between(7, 20, 21), rows.between(7, 21, 22), rows.between(7, 0, 99)];
    run(0, [0, 1]);
    run(1, [1]);
    expect(counts()).toEqual([1, 3, 4]);
    run(0, [0]);
    expect(counts()).toEqual([1, 2, 3]);
    run(1, []);
    run(2, [0]);
    expect(counts()).toEqual([2, 2, 4]);
    expect(rows.all).toEqual([{ timeline: 7, position: 20, rows: 2 }, { timeline: 7, position: 21, rows: 2 }]);
    rows.except(7, new Map([[20, 1], [21, 5]]));
    expect(counts()).toEqual([1, 0, 1]);
  });
});

describe("a round of others", () => {
  it("ends early beside those who opted in, with nothing left out and nothing written later", async () => {
    const { clock, run, lose, f } = await fleet();
    lose(1);
    const { result, tookMs } = await run({ leavesOut: false });
    expect(result).toMatchObject({ status: "rejected", reason: { shard: "shard-1", retryable: true } });
    expect((result as PromiseRejectedResult).reason).toBeInstanceOf(AwayError);
    expect(tookMs).toBeLessThanOrEqual(2 * LIMITS.degradeAfterMs);
    const before = f.heap.u8.slice();
    await clock.advance(LIMITS.outageMs);
    expect(Buffer.compare(before, f.heap.u8)).toBe(0);
  });

  it("alone waits as long as ever", async () => {
    const { run, lose } = await fleet();
    lose(1);
    const { result, tookMs } = await run(null);
    expect(result.status).toBe("rejected");
    expect((result as PromiseRejectedResult).reason).not.toBeInstanceOf(AwayError);
    expect(tookMs).toBeGreaterThanOrEqual(LIMITS.outageMs);
  });
});

/** A scheduler whose shard "s" is away from step `from` on until `isBack`: steps that may leave rows out miss three for each token, others fail after a while. */
function outage(from: number) {
  const of = setUp();
  const state = { isBack: false, left: 0, refused: 0 };
  const { engine, clock } = of;
  const plain = engine.step.bind(engine);
  const away = (): boolean => engine.steps.length >= from && !state.isBack;
  Object.assign(engine, {
    outages: { isAway: away },
    step: async (entries: readonly StepEntry[], taps: readonly Tap[] = [], terms: OutageTerms | null = null) => {
      if (!away()) return plain(entries, taps);
      if (terms === null) {
        while (away()) await new Promise<void>((resolve) => void clock.after(500, resolve));
        return plain(entries, taps);
      }
      if (!terms.leavesOut) {
        state.refused++;
        await new Promise<void>((resolve) => void clock.after(LIMITS.degradeAfterMs, resolve));
        throw new AwayError("s", true, "s is away");
      }
      state.left++;
      const timelines = entries.flatMap(({ timeline, ids }) => Array.from(ids, () => timeline.id)), positions = entries.flatMap(({ timeline, ids }) => Array.from(ids, (_, i) => timeline.length + i));
      const n = timelines.length;
      const batch = { groupExpert: Uint32Array.of(0), groupSegment: Uint32Array.of(0), groupStart: Uint32Array.of(0, n), groupRow: Uint32Array.of(0), groupTokens: Uint32Array.from(timelines.keys()), nGroups: 1 } as unknown as ExpertBatch;
      for (let layer = 0; layer < 3; layer++) {
        terms.leftOut.tap.run({ layer, nTokens: n, timelines: Uint32Array.from(timelines), positions: Uint32Array.from(positions), values: new Float32Array(n), rowLength: 1, ids: new Uint32Array(0), weights: new Float32Array(0), batch, round: { frames: 0, bytes: 0, retries: 0, hedges: 0, parts: [], missing: [0] } });
      }
      return plain(entries, taps);
    },
  });
  return { ...of, state };
}

const degradedIn = (events: readonly GenerateEvent[]): number[] => events.flatMap((event) => (event.type === "token" ? [event.degraded ?? 0] : []));
const endOf = (events: readonly GenerateEvent[]) => events.find((event) => event.type === "end");
const plainly = (events: readonly GenerateEvent[]): unknown[] => said(events.map((event) => (event.type === "token" ? (({ degraded: _, ...rest }) => rest)(event) : event)));

describe("generations beside each other", () => {
  it("one goes on without the shard and says so, the other waits, and has the bits it has alone; nothing of the first is kept for others", async () => {
    const { engine, read, finish, clock, state } = outage(3);
    const opted = request(3, { degrade: true, cacheScope: "a", draftTokens: 0, maxTokens: 30 });
    const [a, b] = [read(opted), read(request(4, { cacheScope: "a", draftTokens: 0 }))];
    await clock.advance(LIMITS.degradeAfterMs + 200);
    expect(b.events.some(({ type }) => type === "end" || type === "error")).toBe(false);
    expect(state).toMatchObject({ refused: 1, left: expect.toSatisfy((n: number) => n > 3) as unknown });
    const kept = engine.kept.length;
    expect(engine.kept).toHaveLength(2); // the prompts, before the outage
    state.isBack = true;
    await finish();
    expect(said(b.events)).toEqual(await alone(request(4)));
    const rows = degradedIn(a.events);
    expect(rows.filter((n) => n > 0).every((n) => n === 3)).toBe(true);
    expect(rows.length).toBe(30);
    expect(rows[0]).toBe(0);
    const tokens = rows.filter((n) => n > 0).length;
    expect(endOf(a.events)).toMatchObject({ moe: { degraded: { tokens, expertRows: 3 * tokens } } });
    expect(endOf(b.events)!.moe).not.toHaveProperty("degraded");
    expect(engine.kept.slice(kept).map(({ ids }) => ids.slice(0, 3))).toEqual([request(4).promptIds.slice(0, 3)]);
  });

  it("the shard is used again as soon as it is back, by both", async () => {
    const { read, clock, finish, state, engine } = outage(3);
    engine.elapse = () => new Promise<void>((resolve) => void clock.after(20, resolve));
    const [a, b] = [read(request(3, { degrade: true, draftTokens: 0, maxTokens: 40 })), read(request(4, { draftTokens: 0 }))];
    await clock.advance(LIMITS.degradeAfterMs + 300);
    state.isBack = true;
    await finish();
    const rows = degradedIn(a.events);
    const [first, last] = [rows.findIndex((n) => n > 0), rows.findLastIndex((n) => n > 0)];
    expect([first > 0, last > first, last < rows.length - 10]).toEqual([true, true, true]);
    expect(said(b.events)).toEqual(await alone(request(4)));
    expect(plainly(a.events)).toEqual(await alone(request(3, { maxTokens: 40, draftTokens: 0 }))); // this engine's numbers do not come from experts
  });

  it("one that did not opt in ends with one clean error when its patience is over, or waits on when the other has ended", async () => {
    const { read, clock, state, engine } = outage(2);
    engine.elapse = () => new Promise<void>((resolve) => void clock.after(1_000, resolve));
    const [a, b] = [read(request(3, { degrade: true, draftTokens: 0, maxTokens: 120 })), read(request(4, { draftTokens: 0 }))];
    await clock.advance(LIMITS.degradeAfterMs + LIMITS.outageMs + 10_000);
    expect(b.events.at(-1)).toMatchObject({ type: "error", code: "step-failed", retryable: true, message: expect.stringContaining("shard s could not be reached for 6") as unknown });
    expect(a.events.filter(({ type }) => type === "token").length).toBeGreaterThan(50);
    expect(a.events.some(({ type }) => type === "error")).toBe(false);
    const other = outage(2);
    other.engine.elapse = () => new Promise<void>((resolve) => void other.clock.after(100, resolve));
    const [short, waiting] = [other.read(request(3, { degrade: true, draftTokens: 0, maxTokens: 4 })), other.read(request(4, { draftTokens: 0 }))];
    await other.clock.advance(30_000);
    expect([short.events.at(-1)!.type, waiting.events.some(({ type }) => type === "end" || type === "error")]).toEqual(["end", false]);
    other.state.isBack = true;
    await other.finish();
    expect(said(waiting.events)).toEqual(await alone(request(4)));
    expect(state.left).toBeGreaterThan(0);
  });

  it("an error that waiting does not mend ends those who wait, and the others go on", async () => {
    const { engine, read, finish } = setUp();
    let nFailed = 0;
    Object.assign(engine, { outages: { isAway: () => false } });
    engine.fail = (step) => (step === 1 && nFailed++ === 0 ? new ShardError("s", false, "Shard s is of another pack.") : null);
    const [a, b] = [read(request(3, { degrade: true, draftTokens: 0 })), read(request(4, { draftTokens: 0 }))];
    await finish();
    expect(b.events.at(-1)).toMatchObject({ type: "error", code: "step-failed" });
    expect(said(a.events)).toEqual(await alone(request(3)));
  });

  it("prompts that are scored or made a vector, and what ends without a token, are told in the end", async () => {
    const { read, finish } = outage(0);
    const scored = read(request(3, { degrade: true, maxTokens: 0, echo: true }));
    await finish();
    const nTokens = request(3).promptIds.length;
    expect(endOf(scored.events)).toMatchObject({ moe: { degraded: { tokens: 0, expertRows: 3 * nTokens } } });
  });

  it("guesses that held are flagged each by its own position", async () => {
    const { read, engine, finish, clock } = outage(6);
    engine.memory = 1;
    engine.elapse = () => sleep(clock, 10);
    const reader = read(request(5, { degrade: true, maxTokens: 60, sampling: { ...request(5).sampling, temperature: 0 } }));
    await finish();
    const rows = degradedIn(reader.events);
    const first = rows.findIndex((n) => n > 0);
    expect(rows.slice(first).every((n) => n === 3)).toBe(true);
    expect(engine.steps.length).toBeLessThan(40);
  });
});
