// What is not evaluated twice, or before it is asked for: prompts seen before, and guesses. Neither changes what is said.

import { describe, expect, it } from "vitest";
import type { GenerateRequest } from "../../../durable/generate.ts";
import { sleep } from "../../../durable/clock.ts";
import { LIMITS } from "../../../durable/limits.ts";
import { TraceSamples } from "../../../durable/trace-samples.ts";
import { readTrace } from "../../../formats/trace.ts";
import { PLAIN_SAMPLING } from "../../../model/sampling.ts";
import { alone, request, said, setUp, VOCAB } from "./arithmetic-engine.ts";

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

describe("routing that is sampled", () => {
  const header = { model: "arithmetic", packHash: "0", nExperts: 256, topK: 2, moeLayers: [0, 1], columns: ["ids", "weights"] as ("ids" | "weights")[] };
  it("is that of every position that was evaluated, once: guesses that did not hold and what came from the cache are not in it", async () => {
    const samples = new TraceSamples(header, 1, { next: () => 0 }, LIMITS);
    const { clock, engine, read, finish, scheduler } = setUp(64, LIMITS, undefined, samples);
    engine.memory = 1;
    engine.elapse = () => sleep(clock, 10);
    const sampling = { ...PLAIN_SAMPLING, temperature: 0.35, seed: 2 };
    const long = Array.from({ length: 40 }, (_, i) => i % 3);
    const readers = [read(request(1, { sampling, promptIds: long, maxTokens: 70, cacheScope: "k" })), read(request(2, { sampling, maxTokens: 70, trace: { layer: 1 } }))];
    await finish();
    readers.push(read(request(3, { sampling, promptIds: long, maxTokens: 5, cacheScope: "k" })));
    await finish();
    expect(scheduler.drafts.tokens).toBeGreaterThan(scheduler.drafts.held);
    const trace = readTrace(samples.file(), "samples");
    const records = Array.from({ length: trace.length }, (_, i) => trace.record(i));
    readers.forEach(({ events }, i) => {
      const end = events.at(-1)!;
      if (end.type !== "end") throw new Error(`Generation ${i} ended with ${JSON.stringify(end)}.`);
      const positions = Array.from({ length: end.promptTokens + end.completionTokens - 1 - end.cachedTokens }, (_, at) => end.cachedTokens + at);
      const mine = records.filter((record) => record.request === i);
      expect(mine.map(({ token, layer }) => [token, layer]).sort(([a, b], [c, d]) => a! - c! || b! - d!)).toEqual(positions.flatMap((position) => [[position, 0], [position, 1]]));
      for (const { token, layer, ids, weights } of mine) expect([ids, weights]).toEqual([[token + layer, 9], [0.75, 0.25]]);
    });
    expect(readers[2]!.events.some((event) => event.type === "end" && event.cachedTokens > 0)).toBe(true);
  });
});
