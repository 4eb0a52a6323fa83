// Who gets into the batch: memory is reserved before acceptance, callers take turns, deadlines hold in the queue and in the batch.

import { describe, expect, it } from "vitest";
import type { GenerateEvent } from "../../../durable/generate.ts";
import { sleep } from "../../../durable/clock.ts";
import { LIMITS, type Limits } from "../../../durable/limits.ts";
import { alone, request, said, setUp, VOCAB } from "./arithmetic-engine.ts";

describe("admission", () => {
  it("reserves memory first: who does not fit waits in order, who never fits is told", async () => {
    const { read, finish, engine, scheduler, clock, release } = setUp(16, LIMITS, 30);
    engine.held = [];
    const first = read(request(1, { promptIds: [1, 2, 3], maxTokens: 20 }));
    const second = read(request(2, { promptIds: [1, 2, 3], maxTokens: 20 }));
    const third = read(request(3, { promptIds: [1], maxTokens: 2 }));
    const never = read(request(4, { promptIds: [1], maxTokens: 40 }));
    await clock.settle();
    expect([scheduler.activeCount, scheduler.queuedCount, engine.openPositions]).toEqual([1, 3, 22]);
    expect(await first.generation.accepted).toBe(null);
    release();
    await finish();
    expect(await second.generation.accepted).toBe(null);
    expect(await never.generation.accepted).toMatchObject({ code: "capacity", retryable: false, message: "The KV cache of this generation does not fit: 40 positions do not fit." });
    expect(never.events).toEqual([]);
    expect([first, second, third].map(({ events }) => events.at(-1)!.type)).toEqual(["end", "end", "end"]);
    expect(engine.openPositions).toBe(0);
  });

  it("has places and a queue of limited length", async () => {
    const { read, scheduler, finish } = setUp(16, { ...LIMITS, activeGenerations: 2, queuedGenerations: 3 });
    const readers = [1, 2, 3, 4, 5, 6].map((seed) => read(request(seed)));
    expect([scheduler.activeCount, scheduler.queuedCount]).toEqual([2, 3]);
    expect(await readers[5]!.generation.accepted).toMatchObject({ code: "overloaded", retryable: true, message: "2 generations run and 3 wait, the most this server takes; try again later." });
    await finish();
    expect(readers.slice(0, 5).map(({ events }) => events.at(-1)!.type)).toEqual(["end", "end", "end", "end", "end"]);
  });
});

describe("callers", () => {
  /** Runs generations of one token each, one at a time, and gives the callers in the order in which they were served. */
  async function served(callers: readonly string[], limits: Partial<Limits> = {}): Promise<{ order: string[]; refused: string[] }> {
    const { read, finish } = setUp(16, { ...LIMITS, activeGenerations: 1, ...limits });
    const order: string[] = [];
    const refused: string[] = [];
    const readers = callers.map((caller, seed) => ({ name: `${caller}${seed}`, ...read(request(seed, { caller, maxTokens: 1 })) }));
    for (const { name, generation } of readers) void generation.accepted.then((reason) => (reason === null ? order : refused).push(name));
    await finish();
    return { order, refused };
  }

  it("take turns, however much one of them has sent before the others came", async () => {
    expect((await served(["a", "a", "a", "a", "b", "b", "c"])).order).toEqual(["a0", "a1", "b4", "c6", "a2", "b5", "a3"]);
  });

  it("who come to a full queue take the last place of the one who waits with most, and are refused where that is themselves", async () => {
    const { order, refused } = await served(["a", "a", "a", "a", "a", "b", "b", "b", "a", "c"], { queuedGenerations: 4 });
    expect(order).toEqual(["a0", "a1", "b5", "c9", "b6"]);
    expect(refused.sort()).toEqual(["a2", "a3", "a4", "a8", "b7"]);
  });

  it("of which one's prompt waits for memory do not overtake it", async () => {
    const { read, finish, engine } = setUp(16, LIMITS, 30);
    engine.held = [];
    const order: string[] = [];
    const readers = ([["a", 20], ["b", 20], ["c", 2]] as const).map(([caller, maxTokens], seed) => ({ caller, ...read(request(seed, { caller, promptIds: [1, 2, 3], maxTokens })) }));
    for (const { caller, generation } of readers) void generation.accepted.then(() => order.push(caller));
    for (const release of engine.held.splice(0)) release();
    engine.held = null;
    await finish();
    expect(order).toEqual(["a", "b", "c"]);
  });
});

describe("a deadline", () => {
  /** Steps take 10 ms from now on. */
  function paced(limits: Partial<Limits> = {}) {
    const all = setUp(16, { ...LIMITS, draftTokens: 0, ...limits });
    all.engine.elapse = () => sleep(all.clock, 10);
    return { ...all, inMs: (ms: number): number => all.clock.nowMs() + ms };
  }

  it("ends a generation with what it has said by then, which is what it would have said, and nobody else's", async () => {
    const { read, finish, inMs, engine } = paced();
    const late = read(request(1, { maxTokens: 50, deadlineAtMs: inMs(75) }));
    const other = read(request(2, { maxTokens: 50 }));
    await finish();
    const whole = await alone(request(1, { maxTokens: 50 }));
    const ids = late.events.flatMap((event) => (event.type === "token" ? [event.id] : []));
    expect(late.events.at(-1)).toMatchObject({ type: "end", reason: "deadline", stopId: null, completionTokens: ids.length });
    expect(ids.length).toBeGreaterThan(3);
    expect(ids.length).toBeLessThan(9);
    expect(said(late.events).slice(0, -1)).toEqual(whole.slice(0, ids.length));
    expect(said(other.events)).toEqual(await alone(request(2, { maxTokens: 50 })));
    expect(engine.openPositions).toBe(0);
  });

  it("that passes in the queue, or before it, is a refusal", async () => {
    const { read, finish, inMs, scheduler } = paced({ activeGenerations: 1 });
    read(request(1, { maxTokens: 20 }));
    const waiting = read(request(2, { deadlineAtMs: inMs(50) }));
    const gone = read(request(3, { deadlineAtMs: inMs(0) }));
    const after = read(request(4));
    expect(scheduler.queuedCount).toBe(2);
    await finish();
    for (const { generation, events } of [waiting, gone]) {
      expect(await generation.accepted).toMatchObject({ code: "deadline-exceeded", retryable: true });
      expect(events).toEqual([]);
    }
    expect(said(after.events)).toEqual(await alone(request(4)));
  });

  it("that passes while the prompt is read is an error, and gives its memory back", async () => {
    const { read, finish, inMs, engine } = paced();
    const { generation, events } = read(request(1, { promptIds: Array.from({ length: 120 }, (_, i) => i % VOCAB), deadlineAtMs: inMs(25) }));
    await finish();
    expect(await generation.accepted).toBe(null);
    expect(events).toEqual([expect.objectContaining({ type: "error", code: "deadline-exceeded" })]);
    expect(engine.openPositions).toBe(0);
    expect(engine.steps.length).toBeLessThan(5);
  });
});

describe("where the time went", () => {
  it("is told with the end: waiting for room, the prompt, the tokens", async () => {
    // Room for one generation at a time; every step takes 10 ms, the prompt of 40 three of them.
    const { engine, clock, read, finish } = setUp(16, { ...LIMITS, activeGenerations: 1, draftTokens: 0 });
    engine.elapse = () => sleep(clock, 10);
    const promptIds = Array.from({ length: 40 }, (_, i) => i);
    const [first, second, scored] = [request(1, { promptIds, maxTokens: 5 }), request(2, { promptIds, maxTokens: 3 }), request(3, { promptIds, maxTokens: 0, echo: true })].map(read);
    await finish();
    const timingsOf = ({ events }: { events: readonly GenerateEvent[] } | undefined = { events: [] }): unknown => { const end = events.at(-1); return end?.type === "end" ? end.timings : end; };
    expect(timingsOf(first)).toEqual({ queueMs: 0, promptMs: 30, completionMs: 40 });
    expect(timingsOf(second)).toEqual({ queueMs: 70, promptMs: 30, completionMs: 20 });
    expect(timingsOf(scored)).toEqual({ queueMs: 120, promptMs: 30, completionMs: 0 });
  });
});
