// The scheduler over an engine made of arithmetic: what a generation says depends on nothing but its own request, everyone gets on,
// memory is reserved before acceptance and always given back, and a failure harms only those in the step.

import { describe, expect, it } from "vitest";
import type { GenerateEvent, GenerateRequest } from "../../../durable/generate.ts";
import { sleep } from "../../../durable/clock.ts";
import { LIMITS, type Limits } from "../../../durable/limits.ts";
import { Scheduler, type StepEngine } from "../../../durable/scheduler.ts";
import { probabilitiesOf } from "../../../model/draw.ts";
import type { StepEntry, StepResult } from "../../../model/engine.ts";
import { CapacityError } from "../../../model/heap.ts";
import type { SharedTokens, Timeline } from "../../../model/kv-cache.ts";
import type { TopLogits } from "../../../model/sampling.ts";
import type { Tap } from "../../../model/taps.ts";
import { FakeClock } from "./fake-clock.ts";
import { PLAIN_SAMPLING } from "../../../model/sampling.ts";

const VOCAB = 50;

/** The k largest of rows of VOCAB logits, as the engine hands them out. */
function largest(logits: Float32Array, k: number): TopLogits {
  const rows = Array.from({ length: logits.length / VOCAB }, (_, r) => logits.subarray(r * VOCAB, (r + 1) * VOCAB));
  const ranked = rows.map((row) => Array.from(row.keys()).sort((a, b) => row[b]! - row[a]! || a - b).slice(0, k));
  return {
    k, ids: Uint32Array.from(ranked.flat()), values: Float32Array.from(ranked.flatMap((ids, r) => ids.map((id) => rows[r]![id]!))),
    notFinite: Int32Array.from(rows, (row) => row.findIndex((x) => !Number.isFinite(x))),
  };
}

/** Logits are a function of a timeline's tokens so far; a step ends when the test says so, or at once. */
class ArithmeticEngine implements StepEngine {
  readonly config = { vocabSize: VOCAB, router: { topK: 2 } };
  readonly contextLength = 200;
  readonly maxChunkTokens: number;
  readonly steps: { ids: number[]; timeline: number }[][] = [];
  openPositions = 0;
  fail: ((step: number) => Error | null) | null = null;
  poison = -1;
  held: (() => void)[] | null = null;
  /** How many of the last tokens decide the next; few make texts that repeat themselves. */
  memory = Infinity;
  /** Takes this long per step. */
  elapse: ((nTokens: number) => Promise<void>) | null = null;
  readonly kept: { scope: string; ids: number[] }[] = [];
  readonly #capacity: number;
  readonly #history = new Map<number, number[]>();
  #nextId = 0;

  constructor(maxChunkTokens: number, capacity = 10_000) {
    this.maxChunkTokens = maxChunkTokens;
    this.#capacity = capacity;
  }

  readonly kv = {
    open: (maxTokens: number, shared: SharedTokens | null = null): Timeline => {
      if (this.openPositions + maxTokens > this.#capacity) throw new CapacityError(`${maxTokens} positions do not fit.`);
      this.openPositions += maxTokens;
      const timeline: Timeline = { id: this.#nextId++, maxTokens, pageTable: 0, pages: [], ropeOffset: 0, length: 0 };
      if (shared === null) return timeline;
      // The longest beginning of what was kept: the same promise as kv-cache.ts, by a plain list.
      const common = (kept: readonly number[]): number => { const at = kept.findIndex((id, i) => id !== shared.ids[i]); return at < 0 ? kept.length : at; };
      timeline.length = Math.min(shared.ids.length - 1, maxTokens, this.kept.reduce((most, { scope, ids }) => Math.max(most, scope === shared.scope ? common(ids) : 0), 0));
      this.#history.set(timeline.id, shared.ids.slice(0, timeline.length));
      return timeline;
    },
    keep: (timeline: Timeline, { scope, ids }: SharedTokens): void => {
      const own = ids.slice(0, timeline.length);
      if (own.join() !== (this.#history.get(timeline.id) ?? []).slice(0, own.length).join()) throw new Error("Tokens were kept that were not evaluated.");
      this.kept.push({ scope, ids: own });
    },
    close: (timeline: Timeline): void => {
      if (!this.#history.delete(timeline.id) && timeline.length > 0) throw new Error("A timeline was closed twice.");
      this.openPositions -= timeline.maxTokens;
    },
  };

  async step(entries: readonly StepEntry[], taps: readonly Tap[] = []): Promise<StepResult> {
    const n = entries.reduce((sum, e) => sum + e.ids.length, 0);
    if (n > this.maxChunkTokens || n === 0 || entries.some((e) => e.ids.length === 0)) throw new Error(`A step of ${n} tokens was submitted.`);
    this.steps.push(entries.map((e) => ({ ids: Array.from(e.ids), timeline: e.timeline.id })));
    if (this.held !== null) await new Promise<void>((resolve) => this.held!.push(resolve));
    await this.elapse?.(n);
    const error = this.fail?.(this.steps.length - 1) ?? null;
    if (error !== null) throw error;
    const logits = entries.map((e) => {
      if (e.timeline.length + e.ids.length > e.timeline.maxTokens) throw new Error("More tokens than reserved.");
      const history = this.#history.get(e.timeline.id) ?? [];
      this.#history.set(e.timeline.id, history);
      history.length = e.timeline.length;
      const rows: number[] = [];
      for (let i = 0; i < e.ids.length; i++) {
        history.push(e.ids[i]!);
        const h = history.slice(-this.memory).reduce((a, b) => (Math.imul(a, 31) + b) >>> 0, 7);
        const of = typeof e.logits === "object" ? e.logits.of : e.logits;
        if (of === "all" || (of === "last" && i === e.ids.length - 1))
          for (let v = 0; v < VOCAB; v++) rows.push(h % VOCAB === this.poison ? NaN : ((Math.imul(h ^ v, 0x9e3779b1) >>> 8) % 1000) / 100);
      }
      return Float32Array.from(rows);
    });
    for (const tap of taps) for (let layer = 0; layer < 2; layer++) {
      const timelines = entries.flatMap((e) => Array.from(e.ids, () => e.timeline.id));
      const positions = entries.flatMap((e) => Array.from(e.ids, (_, i) => e.timeline.length + i));
      tap.run({ layer, nTokens: n, timelines: Uint32Array.from(timelines), positions: Uint32Array.from(positions), values: new Float32Array(0), rowLength: 0,
        ids: Uint32Array.from(positions.flatMap((p, t) => [p + layer, timelines[t]! * 0 + 9])), weights: Float32Array.from(positions.flatMap(() => [0.75, 0.25])) });
    }
    for (const e of entries) e.timeline.length += e.ids.length;
    const tops = entries.map((e, i) => (typeof e.logits === "object" && "top" in e.logits ? largest(logits[i]!, e.logits.top) : null));
    entries.forEach((e, i) => {
      if (typeof e.logits !== "object" || !("temperature" in e.logits)) return;
      for (let at = 0; at < logits[i]!.length; at += VOCAB) logits[i]!.set(probabilitiesOf(logits[i]!.slice(at, at + VOCAB), e.logits.temperature), at);
    });
    return { logits, tops, frames: 1, bytes: 10, retries: 0 };
  }
}

const request = (seed: number, more: Partial<GenerateRequest> = {}): GenerateRequest => ({
  promptIds: Array.from({ length: 5 + (seed % 7) }, (_, i) => (seed * 13 + i * 7) % VOCAB), maxTokens: 8, stopIds: [], logprobs: 2,
  sampling: { ...PLAIN_SAMPLING, temperature: 0.8, seed }, ...more,
});

interface Reader {
  readonly events: GenerateEvent[];
  readonly generation: ReturnType<Scheduler["submit"]>;
}

function setUp(maxChunkTokens = 16, limits: Limits = LIMITS, capacity?: number) {
  const clock = new FakeClock();
  const engine = new ArithmeticEngine(maxChunkTokens, capacity);
  let idle = 0;
  const scheduler = new Scheduler(engine, clock, limits, () => { idle++; });
  const read = (r: GenerateRequest): Reader => {
    const events: GenerateEvent[] = [];
    return { events, generation: scheduler.submit(r, (event) => events.push(event)) };
  };
  const finish = async (): Promise<void> => { for (let i = 0; i < 400 && scheduler.activeCount + scheduler.queuedCount > 0; i++) await clock.advance(10); await clock.settle(); };
  /** Lets the held step end, and the next begin. */
  const step = async (): Promise<void> => { await clock.advance(0); engine.held!.shift()!(); await clock.advance(0); };
  /** Lets the held step end and holds no more. */
  const release = (): void => { const held = engine.held!; engine.held = null; for (const end of held) end(); };
  return { clock, engine, scheduler, read, finish, step, release, idleCount: () => idle };
}

/** Events with what may depend on neighbours (steps, bytes) left out. */
const said = (events: readonly GenerateEvent[]): unknown[] => events.flatMap((e): unknown[] => (e.type === "prompt" ? [...e.tokens] : e.type === "end" ? [[e.reason, e.stopId, e.completionTokens]] : [e]));

async function alone(r: GenerateRequest): Promise<unknown[]> {
  const { read, finish } = setUp(64);
  const reader = read(r);
  await finish();
  return said(reader.events);
}

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

describe("a prompt seen before", () => {
  const evaluated = (engine: { steps: { ids: number[] }[][] }): number => engine.steps.flat().reduce((n, { ids }) => n + ids.length, 0);
  const longer = (seed: number, more: Partial<GenerateRequest> = {}): GenerateRequest => request(seed, { promptIds: Array.from({ length: 40 }, (_, i) => (i * 7 + seed) % VOCAB), cacheScope: "k", ...more });

  it("is evaluated from where it differs, says what it said, and how much it took over", async () => {
    const { engine, read, finish } = setUp(64);
    const first = read(longer(3));
    await finish();
    expect(said(first.events)).toEqual(await alone(longer(3)));
    const reply = first.events.flatMap((event) => (event.type === "token" ? [event.id] : []));
    const before = evaluated(engine);
    const again = read(longer(3));
    await finish();
    expect(said(again.events).slice(1)).toEqual(said(first.events).slice(1));
    expect(again.events[0]).toEqual({ ...first.events[0], cachedTokens: 39 });
    expect(again.events.at(-1)).toMatchObject({ type: "end", promptTokens: 40, cachedTokens: 39 });
    expect(evaluated(engine) - before).toBe(8); // the prompt's last token and seven of the reply
    // The next turn of the conversation takes over prompt and reply.
    const turn = longer(3, { promptIds: [...longer(3).promptIds, ...reply, 5, 6] });
    const next = read(turn);
    await finish();
    expect(next.events.at(-1)).toMatchObject({ cachedTokens: 47 }); // the reply's last token was never evaluated
    expect(said(next.events).slice(1)).toEqual((await alone(turn)).slice(1));
  });

  it("is another's where the scope differs, whole where it is scored, and nobody's without a scope", async () => {
    const { read, finish } = setUp(64);
    read(longer(3));
    await finish();
    const others = [longer(3, { cacheScope: "l" }), longer(3, { echo: true }), (({ cacheScope: _, ...rest }) => rest)(longer(3))].map(read);
    await finish();
    for (const { events } of others) expect(events.at(-1)).toMatchObject({ type: "end", cachedTokens: 0 });
  });

  it("is taken over while its first reader still goes on, and after a reader went away or a stream broke", async () => {
    const { engine, read, finish, step, release } = setUp(64);
    engine.held = [];
    const first = read(longer(3, { maxTokens: 20 }));
    await step();
    const second = read(longer(3, { maxTokens: 20 }));
    await step();
    first.generation.cancel();
    release();
    await finish();
    expect(second.events.at(-1)).toMatchObject({ cachedTokens: 39 });
    const said20 = second.events.flatMap((event) => (event.type === "token" ? [event.id] : []));
    const before = evaluated(engine);
    const resumed = read(longer(3, { maxTokens: 20, emittedIds: said20.slice(0, 13) }));
    await finish();
    expect(resumed.events.flatMap((event) => (event.type === "token" ? [event.id] : []))).toEqual(said20.slice(13));
    expect(evaluated(engine) - before).toBe(7);
  });

  it("never keeps guesses that did not hold", async () => {
    const { engine, read, finish } = setUp(64);
    engine.memory = 2; // a text that repeats itself
    for (const stopIds of [[], [4], [7], [11]]) for (let seed = 0; seed < 6; seed++) read(longer(seed, { maxTokens: 40, stopIds, logprobs: 0, sampling: { ...PLAIN_SAMPLING, temperature: 0, seed: 1 } }));
    await finish();
    expect(engine.steps.flat().some(({ ids }) => ids.length > 1 && ids.length < 9)).toBe(true);
    expect(engine.kept.length).toBeGreaterThan(24); // `keep` of this engine refuses tokens that were not evaluated
  });
});

describe("guesses", () => {
  /** All events of some requests together, with drafts of at most `draftTokens`. */
  async function together(requests: readonly GenerateRequest[], draftTokens: number, memory: number, maxChunkTokens = 64) {
    const all = setUp(maxChunkTokens, { ...LIMITS, draftTokens });
    all.engine.memory = memory;
    all.engine.elapse = () => sleep(all.clock, 10);
    const readers = requests.map(all.read);
    await all.finish();
    return { ...all, said: readers.map(({ events }) => said(events)) };
  }
  const sampling = { ...PLAIN_SAMPLING, temperature: 0, seed: 1 };

  it("save steps where a text repeats itself, and change nothing of it", async () => {
    const requests = [request(3, { sampling, maxTokens: 60 })];
    const [plain, drafted] = [await together(requests, 0, 1), await together(requests, 7, 1)];
    expect(drafted.said).toEqual(plain.said);
    expect(plain.said[0]!.at(-1)).toEqual(["length", null, 60]);
    expect(plain.scheduler.drafts).toEqual({ tokens: 0, held: 0 });
    expect(drafted.scheduler.drafts.held).toBeGreaterThan(20);
    expect(drafted.scheduler.steps).toBeLessThan(plain.scheduler.steps / 2);
    expect(drafted.engine.openPositions).toBe(0);
  });

  it("that hold only in part leave the same text, log-probabilities and traces, drawn or greedy, in company and in small steps", async () => {
    const requests = [1, 2, 3, 4].map((seed) => request(seed, {
      maxTokens: 70, stopIds: [seed + 20], ...(seed === 1 ? { sampling } : { sampling: { ...sampling, temperature: 0.35, seed } }),
      ...(seed === 3 ? { trace: true, echo: true } : {}), ...(seed === 4 ? { trace: { layer: 1 } } : {}),
    }));
    for (const memory of [1, 2]) {
      const plain = await together(requests, 0, memory);
      for (const [draftTokens, maxChunkTokens] of [[1, 64], [7, 64], [7, 9], [3, 5]] as const) {
        const drafted = await together(requests, draftTokens, memory, maxChunkTokens);
        expect(drafted.said, `${draftTokens} guesses, steps of ${maxChunkTokens}`).toEqual(plain.said);
        const { tokens, held } = drafted.scheduler.drafts;
        if (maxChunkTokens === 64 && memory === 1) expect(held > 0 && held < tokens, `${held} of ${tokens} guesses held`).toBe(true);
      }
    }
  });

  it("never ask for more positions than are reserved, nor for logits beyond their limit", async () => {
    const logitBytes = 3 * VOCAB * 4;
    const { engine, finish, read, clock } = setUp(64, { ...LIMITS, logitBytes });
    engine.memory = 1;
    engine.elapse = () => sleep(clock, 10);
    const { events } = read(request(3, { sampling, maxTokens: 40 }));
    await finish();
    expect(said(events).at(-1)).toEqual(["length", null, 40]);
    expect(Math.max(...engine.steps.slice(1).map(([e]) => e!.ids.length))).toBe(3);
  });

  it("stop where they cost more time than they save", async () => {
    const shareOfDrafts = async (msPerGuess: number): Promise<number> => {
      const { engine, finish, read, clock } = setUp(64);
      engine.memory = 1;
      engine.elapse = (n) => sleep(clock, 10 + (n - 1) * msPerGuess);
      const { events } = read(request(3, { sampling, maxTokens: 180, promptIds: [1, 2, 3] }));
      for (let i = 0; i < 4000 && events.at(-1)?.type !== "end"; i++) await clock.advance(10);
      await finish();
      expect(said(events).at(-1)).toEqual(["length", null, 180]);
      return engine.steps.filter(([e]) => e!.ids.length > 1).length / engine.steps.length;
    };
    expect(await shareOfDrafts(1)).toBeGreaterThan(0.4);
    expect(await shareOfDrafts(12)).toBeLessThan(0.2);
  });
});
