// The scheduler over an engine that takes several steps at once, as a ring of stages does, and that may lose its KV cache with a stage:
// the text is the one of a sole engine, no timeline is in two steps, and what was lost is evaluated again from its tokens.

import { describe, expect, it } from "vitest";
import { LIMITS } from "../../../durable/limits.ts";
import { LostTimelinesError } from "../../../durable/lost-timelines.ts";
import { alone, request, said, setUp } from "./arithmetic-engine.ts";

const lost = new LostTimelinesError("a stage was reset");

describe("several steps at once", () => {
  it("say what one at a time says, and keep all stages busy", async () => {
    const requests = Array.from({ length: 9 }, (_, seed) => request(seed, seed === 2 ? { echo: true } : {}));
    const expected = await Promise.all(requests.map(alone));
    for (const stepsAtOnce of [2, 3, 8]) {
      const { read, finish, engine, clock } = setUp(16);
      engine.stepsAtOnce = stepsAtOnce;
      engine.elapse = (n) => new Promise((resolve) => void clock.after(5 + n, resolve));
      const readers = requests.map(read);
      await finish();
      readers.forEach(({ events }, i) => expect(said(events), `${stepsAtOnce} at once, request ${i}`).toEqual(expected[i]));
      expect([engine.mostAtOnce, engine.openPositions]).toEqual([stepsAtOnce, 0]);
      // Everybody's part of the ring is alike: no step takes more than its share of those who generate.
      const decoding = engine.steps.filter((step) => step.every(({ ids }) => ids.length === 1));
      expect(Math.max(...decoding.map((step) => step.length))).toBeLessThanOrEqual(Math.ceil(9 / stepsAtOnce));
    }
  });

  it("begin for somebody new while others are under way", async () => {
    const { read, clock, engine, release, finish } = setUp(16);
    engine.stepsAtOnce = 2;
    engine.held = [];
    read(request(1));
    await clock.advance(0);
    expect(engine.steps.length).toBe(1);
    read(request(2));
    await clock.advance(0);
    expect(engine.steps.length).toBe(2);
    release();
    await finish();
    expect(engine.openPositions).toBe(0);
  });

  it("let nobody's pages go while a step uses them, whoever leaves", async () => {
    const { read, clock, engine, release, finish, scheduler } = setUp(16);
    engine.stepsAtOnce = 2;
    engine.held = [];
    const leaving = read(request(1));
    const staying = read(request(2));
    await clock.advance(0);
    leaving.generation.cancel();
    engine.held.pop()!();
    await clock.advance(20);
    expect(engine.openPositions).toBeGreaterThan(request(2).promptIds.length + 7);
    release();
    await finish();
    expect(said(staying.events)).toEqual(await alone(request(2)));
    expect([engine.openPositions, scheduler.cancelled]).toEqual([0, 1]);
  });
});

describe("a lost KV cache", () => {
  it("is made again from the tokens, for those in the step and for those outside of it", async () => {
    const requests = Array.from({ length: 5 }, (_, seed) => request(seed, { ...(seed === 3 ? { embedding: true, maxTokens: 0, logprobs: undefined as never } : {}) }));
    for (const stepsAtOnce of [1, 3]) for (let at = 0; at < 12; at++) {
      const { read, finish, engine, clock } = setUp(8);
      engine.stepsAtOnce = stepsAtOnce;
      engine.elapse = () => new Promise((resolve) => void clock.after(5, resolve));
      engine.fail = (step) => (step === at ? lost : null);
      const readers = requests.filter(({ embedding }) => embedding !== true).map(read);
      await finish();
      for (const [i, { events }] of readers.entries()) {
        expect(said(events), `step ${at} of ${stepsAtOnce} at once, request ${i}`).toEqual(await alone(requests.filter(({ embedding }) => embedding !== true)[i]!));
      }
      expect(engine.openPositions).toBe(0);
    }
  });

  it("waits for room where others' pages were shared before", async () => {
    const shared = { promptIds: Array.from({ length: 20 }, (_, i) => i), maxTokens: 4, cacheScope: "one" };
    const { read, finish, engine } = setUp(64, LIMITS, 50);
    const readers = [read(request(1, shared)), read(request(2, shared))];
    engine.fail = (step) => (step === 1 ? lost : null);
    await finish();
    for (const { events } of readers) expect(events.at(-1)).toMatchObject({ type: "end", completionTokens: 4 });
    expect(engine.openPositions).toBe(0);
  });

  it("that is lost again and again ends those it harms, with a clear error", async () => {
    const { read, finish, engine } = setUp(16);
    engine.fail = (step) => (step >= 3 ? lost : null);
    const { events } = read(request(1));
    await finish();
    expect(events.at(-1)).toMatchObject({ type: "error", code: "step-failed", retryable: true });
    expect(engine.steps.length).toBe(3 + LIMITS.timelineLosses + 1);
    expect(engine.openPositions).toBe(0);
  });

  it("lets a reader leave, and a deadline pass, while a timeline waits to be made again", async () => {
    const { read, finish, engine, clock, scheduler } = setUp(16, LIMITS, 26);
    engine.elapse = () => new Promise((resolve) => void clock.after(5, resolve));
    engine.fail = (step) => (step === 2 ? lost : null);
    const one = read(request(1, { maxTokens: 6 }));
    const two = read(request(2, { maxTokens: 6, deadlineAtMs: 1_000_000_000 }));
    await clock.advance(14);
    one.generation.cancel();
    await finish();
    expect(said(two.events)).toEqual(await alone(request(2, { maxTokens: 6 })));
    expect([engine.openPositions, scheduler.activeCount]).toEqual([0, 0]);
  });
});
