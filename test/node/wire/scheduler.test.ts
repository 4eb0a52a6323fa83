// The scheduler over an engine made of arithmetic: what a generation says depends on nothing but its own request, everyone gets on, memory is
// always given back, and a failure harms only those in the step. Admission and reuse have files of their own.

import { describe, expect, it } from "vitest";
import { sleep } from "../../../durable/clock.ts";
import type { GenerateEvent } from "../../../durable/generate.ts";
import type { LogitStage } from "../../../model/logit-adjustments.ts";
import { LIMITS } from "../../../durable/limits.ts";
import { alone, request, said, setUp, VOCAB } from "./arithmetic-engine.ts";

describe("a generation", () => {
  it("says the same alone, in company, and in chunks of any size", async () => {
    const requests = [1, 2, 3, 4, 5].map((seed) => request(seed, { ...(seed === 2 ? { echo: true } : {}), ...(seed === 3 ? { trace: true } : {}), ...(seed === 4 ? { trace: { layer: 1 } } : {}), stopIds: [seed] }));
    const expected = await Promise.all(requests.map(alone));
    for (const maxChunkTokens of [1, 2, 3, 7, 16, 64]) {
      const { read, finish, engine, idleCount } = setUp(maxChunkTokens);
      const readers = requests.map(read);
      await finish();
      readers.forEach(({ events }, i) => expect(said(events), `chunks of ${maxChunkTokens}, request ${i}`).toEqual(expected[i]));
      expect([engine.openPositions, idleCount()]).toEqual([0, 1]);
    }
  });

  it("continues after emitted tokens where it was", async () => {
    const whole = await alone(request(6));
    for (const n of [1, 4, 7, 8]) {
      const emittedIds = whole.slice(0, n).map((event) => (event as { id: number }).id);
      expect(await alone(request(6, { emittedIds })), `${n} emitted`).toEqual(whole.slice(n));
    }
  });

  it("scores a prompt without generating", async () => {
    const { read, finish, engine } = setUp(4);
    const { events } = read(request(1, { maxTokens: 0, echo: true }));
    await finish();
    const tokens = events.flatMap((e) => (e.type === "prompt" ? e.tokens : []));
    expect(tokens.map((t) => t.id)).toEqual(request(1).promptIds);
    expect(tokens.map((t) => t.logprob === null)).toEqual(tokens.map((_, i) => i === 0));
    expect(tokens[3]!.top.length).toBe(2);
    expect(events.filter((e) => e.type === "prompt").map((e) => e.start)).toEqual([0, 5]);
    expect(events.at(-1)).toMatchObject({ type: "end", completionTokens: 0, promptTokens: 6 });
    expect(engine.openPositions).toBe(0);
  });

  it("limits the logit rows of a step", async () => {
    const { read, finish, engine } = setUp(64, { ...LIMITS, logitBytes: 3 * VOCAB * 4 });
    read(request(1, { maxTokens: 0, echo: true, promptIds: Array.from({ length: 10 }, (_, i) => i) }));
    await finish();
    expect(engine.steps.map((step) => step[0]!.ids.length)).toEqual([3, 3, 3, 1]);
  });
});

it("draws by the token's absolute position, so that a continuation of the same text draws alike", async () => {
  const whole = await alone(request(6));
  const ids = whole.slice(0, 3).map((event) => (event as { id: number }).id);
  const longerPrompt = await alone(request(6, { promptIds: [...request(6).promptIds, ...ids], maxTokens: 5 }));
  expect(longerPrompt.slice(0, 5).map((event) => (event as { id: number }).id)).toEqual(whole.slice(3, 8).map((event) => (event as { id: number }).id));
});

describe("a step", () => {
  it("takes every token under way and shares the rest among prompts, short ones first", async () => {
    const { read, finish, engine, step, release } = setUp(16);
    engine.held = [];
    read(request(1, { promptIds: [1, 2], maxTokens: 30 }));
    await step();
    const before = engine.steps.length;
    read(request(2, { promptIds: Array.from({ length: 40 }, (_, i) => i), maxTokens: 1 }));
    read(request(3, { promptIds: [4, 5, 6], maxTokens: 1 }));
    release();
    await finish();
    const shared = engine.steps.slice(before).map((step) => Object.fromEntries(step.map((e) => [e.timeline, e.ids.length])));
    expect(shared.find((step) => step[1] !== undefined)).toEqual({ 0: 1, 1: 12, 2: 3 });
    expect(shared.filter((step) => step[1] !== undefined).every((step) => step[0] === 1)).toBe(true);
  });

  it("with less room than generations serves them in turn", async () => {
    const { read, finish, engine } = setUp(3);
    const readers = Array.from({ length: 8 }, (_, i) => read(request(i, { promptIds: [i + 1, 2], maxTokens: 20 })));
    await finish();
    for (const { events } of readers) expect(events.at(-1)).toMatchObject({ type: "end", completionTokens: 20 });
    const last = new Map<number, number>();
    engine.steps.forEach((step, i) => {
      for (const { timeline } of step) {
        expect(i - (last.get(timeline) ?? 0)).toBeLessThanOrEqual(8);
        last.set(timeline, i);
      }
    });
  });
});

describe("an end before the end", () => {
  it("comes within a step of a cancellation, frees memory, and leaves the others alone", async () => {
    const { read, finish, engine, scheduler, step: go, release } = setUp(16);
    const expected = await alone(request(2));
    engine.held = [];
    const leaving = read(request(1, { maxTokens: 100 }));
    const staying = read(request(2));
    await go();
    await go();
    const seen = leaving.events.length;
    leaving.generation.cancel();
    leaving.generation.cancel();
    expect(engine.openPositions).toBeGreaterThan(100);
    await go();
    expect([leaving.events.length, scheduler.activeCount, scheduler.cancelled]).toEqual([seen, 1, 1]);
    expect(engine.openPositions).toBe(request(2).promptIds.length + 7);
    release();
    await finish();
    expect(said(staying.events)).toEqual(expected);
    expect(engine.openPositions).toBe(0);
  });

  it("comes to a waiting generation at once", async () => {
    const { read, scheduler, finish } = setUp(16, { ...LIMITS, activeGenerations: 1 });
    read(request(1));
    const waiting = read(request(2));
    waiting.generation.cancel();
    expect(scheduler.queuedCount).toBe(0);
    expect(await waiting.generation.accepted).toMatchObject({ type: "error" });
    await finish();
    expect(waiting.events).toEqual([]);
  });

  it("comes to everyone in a step that fails, and to nobody else", async () => {
    const { read, finish, engine } = setUp(16, { ...LIMITS, activeGenerations: 2 });
    engine.fail = (step) => (step === 2 ? new Error("Layer 3 failed on shard x.") : null);
    const readers = [1, 2, 3].map((seed) => read(request(seed)));
    await finish();
    for (const { events } of readers.slice(0, 2)) expect(events.at(-1)).toEqual({ type: "error", code: "step-failed", retryable: true, message: "A step of the model failed: Layer 3 failed on shard x." });
    expect(said(readers[2]!.events)).toEqual(await alone(request(3)));
    expect(engine.openPositions).toBe(0);
  });

  it("comes to a generation whose logits are not finite, alone", async () => {
    const { read, finish, engine } = setUp(16);
    const requests = [1, 2, 3, 4].map((seed) => request(seed, { maxTokens: 20 }));
    const expected = await Promise.all(requests.map(alone));
    engine.poison = 17;
    const readers = requests.map(read);
    await finish();
    const ended = readers.map(({ events }) => events.at(-1)!.type);
    expect(new Set(ended)).toEqual(new Set(["end", "error"]));
    readers.forEach(({ events }, i) => {
      if (ended[i] === "end") expect(said(events)).toEqual(expected[i]);
      else expect(events.at(-1)).toMatchObject({ code: "step-failed", message: expect.stringContaining("a finite number was expected") });
    });
    expect(engine.openPositions).toBe(0);
  });
});

describe("what a reply must look like", () => {
  const broken = (at: "isComplete" | "apply" | "push", disposed: () => void): LogitStage => {
    const fail = (where: string): void => { if (where === at) throw new Error("The grammar broke."); };
    return {
      get isComplete() { fail("isComplete"); return false; },
      apply: (row) => { fail("apply"); return row; },
      push: () => fail("push"),
      dispose: disposed,
    };
  };
  it.each(["isComplete", "apply", "push"] as const)("that cannot be found (%s) ends its own generation, and nobody else's", async (at) => {
    const { scheduler, read, finish } = setUp();
    const neighbour = read(request(1));
    const events: GenerateEvent[] = [];
    let nDisposed = 0;
    scheduler.submit(request(2), (event) => events.push(event), broken(at, () => { nDisposed++; }));
    await finish();
    expect(events.at(-1)).toMatchObject({ type: "error", code: "step-failed", message: expect.stringContaining("The grammar broke.") });
    expect(nDisposed).toBe(1);
    expect(said(neighbour.events)).toEqual(await alone(request(1)));
  });
});

describe("a long prompt", () => {
  it("takes whole steps alone, and small chunks beside generations, each of which says a token in every step", async () => {
    const { engine, finish, read, clock } = setUp(64, { ...LIMITS, sharedChunkTokens: 8, draftTokens: 0 });
    engine.elapse = () => sleep(clock, 5);
    const talking = [1, 2].map((seed) => read(request(seed, { maxTokens: 30 })));
    await clock.advance(12);
    const before = engine.steps.length;
    const prompt = Array.from({ length: 100 }, (_, i) => (i * i) % VOCAB);
    const long = read(request(3, { promptIds: prompt, maxTokens: 2 }));
    await finish();
    const mixed = engine.steps.slice(before).filter((entries) => entries.length === 3);
    expect(mixed.length).toBeGreaterThanOrEqual(12);
    expect(mixed.slice(0, 12).map((entries) => entries.map((e) => e.ids.length).sort((a, b) => b - a))).toEqual(Array(12).fill([8, 1, 1]));
    expect(talking.map(({ events }) => events.at(-1)!.type)).toEqual(["end", "end"]);
    expect(said(long.events)).toEqual(await alone(request(3, { promptIds: prompt, maxTokens: 2 })));
    const solitary = setUp(64, { ...LIMITS, sharedChunkTokens: 8 });
    solitary.read(request(3, { promptIds: prompt, maxTokens: 2 }));
    await solitary.finish();
    expect(solitary.engine.steps.map(([e]) => e!.ids.length)).toEqual([64, 36, 1]);
  });
});
