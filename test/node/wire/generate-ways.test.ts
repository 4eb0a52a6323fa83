// One generation over several lanes and regions: wherever they fail, the reader gets every token once and in order, from who can say it, or one clear error.
// Out of scope: which way comes first (test/workerd/edge-fleet.test.ts), and one orchestrator alone (generate-client.test.ts).

import { describe, expect, it } from "vitest";
import { generate, type GenerateWay } from "../../../durable/generate-client.ts";
import type { GenerateErrorCode, GenerateEvent, GenerateRequest } from "../../../durable/generate.ts";
import { LIMITS } from "../../../durable/limits.ts";
import { PLAIN_SAMPLING } from "../../../model/sampling.ts";
import { FakeClock } from "./fake-clock.ts";

const REQUEST: GenerateRequest = { promptIds: [1, 2, 3], maxTokens: 5, stopIds: [], sampling: { ...PLAIN_SAMPLING, temperature: 0, seed: 0 } };
const ALL = [100, 101, 102, 103, 104];

/** What a call meets: tokens and then a break, an error at once or after tokens, no answer at all, silence before or in the midst; "well" is the whole rest. */
type Call = "well" | "away" | "silent" | { readonly tokens: number; readonly then: "break" | "silence" | GenerateErrorCode };
const says = (code: GenerateErrorCode): Call => ({ tokens: 0, then: code });

class Way implements GenerateWay {
  readonly asked: { emitted: number; patient: boolean }[] = [];
  nServed = 0;
  nFailed = 0;
  readonly group: string;
  readonly #calls: Call[];
  readonly #last: Call;
  readonly #ready: boolean;
  constructor(group: string, calls: readonly Call[], last: Call = "well", ready = true) {
    this.group = group;
    this.#calls = [...calls];
    this.#last = last;
    this.#ready = ready;
  }
  /** As long as the last question was not answered, it is not there. */
  isThere = true;
  nAsked = 0;
  isReady(): Promise<boolean> {
    this.nAsked++;
    return this.isThere ? Promise.resolve(this.#ready) : new Promise(() => {});
  }
  served(): void { this.nServed++; }
  failed(): void { this.nFailed++; }
  target = () => ({
    fetch: async (url: string, init: RequestInit): Promise<Response> => {
      const request = JSON.parse(String(init.body)) as GenerateRequest;
      const from = request.emittedIds?.length ?? 0;
      expect(request.emittedIds ?? []).toEqual(ALL.slice(0, from));
      this.asked.push({ emitted: from, patient: !url.includes("wait=") });
      const call = this.#calls.shift() ?? this.#last;
      if (call === "away") throw new Error("no route");
      if (call === "silent") return new Promise(() => {});
      const nTokens = call === "well" ? REQUEST.maxTokens : from + call.tokens;
      const events: GenerateEvent[] = ALL.slice(from, nTokens).map((id, i) => ({ type: "token", index: from + i, id }));
      if (call === "well") events.push({ type: "end", reason: "length", stopId: null, promptTokens: 3, cachedTokens: 0, completionTokens: 5, moe: { steps: 1, frames: 0, bytes: 0, retries: 0, hedges: 0 }, timings: { queueMs: 0, promptMs: 1, completionMs: 2 } });
      else if (call.then === "silence") {
        const said = new TextEncoder().encode(events.map((event) => `${JSON.stringify(event)}\n`).join(""));
        return new Response(new ReadableStream({ start: (to) => to.enqueue(said) }));
      } else if (call.then !== "break") {
        const failure: GenerateEvent = { type: "error", code: call.then, message: `words of ${this.group}`, retryable: true, ...(call.then === "warming" ? { retryAfterMs: 1000 } : {}) };
        if (events.length === 0) return Response.json(failure, { status: 503 });
        events.push(failure);
      }
      return new Response(events.map((event) => `${JSON.stringify(event)}\n`).join(""));
    },
  });
}

async function read(ways: readonly Way[], clock = new FakeClock()): Promise<GenerateEvent[]> {
  const events: GenerateEvent[] = [];
  const result = await clock.until((async () => { for await (const event of generate(ways, REQUEST, { clock })) events.push(event); })());
  if (result.status === "rejected") throw result.reason;
  return events;
}
const idsOf = (events: readonly GenerateEvent[]): number[] => events.flatMap((event) => (event.type === "token" ? [event.id] : []));

describe("several ways", () => {
  const others: readonly (readonly [string, Way[], number[]])[] = [
    ["the first is away", [new Way("a", [], "away"), new Way("b", [])], [2, 1]],
    ["the first breaks in the middle and is away", [new Way("a", [{ tokens: 2, then: "break" }], "away"), new Way("b", [])], [2, 1]],
    ["the first breaks once", [new Way("a", [{ tokens: 2, then: "break" }]), new Way("b", [])], [2, 0]],
    ["a step fails in the middle", [new Way("a", [{ tokens: 3, then: "step-failed" }]), new Way("b", [])], [1, 1]],
    ["the first cannot load", [new Way("a", [], says("load-failed")), new Way("b", [])], [1, 1]],
    ["the first has no memory", [new Way("a", [], says("capacity")), new Way("b", [])], [1, 1]],
    ["all break in turn, and one is back at last", [new Way("a", [{ tokens: 1, then: "break" }], "away"), new Way("b", [{ tokens: 1, then: "break" }], "away"), new Way("c", [{ tokens: 1, then: "break" }, "away"])], [7, 5, 3]],
    ["the first is loading and another is up", [new Way("a", [], says("warming")), new Way("b", [], "well", false), new Way("c", [])], [1, 0, 1]],
  ];
  it.each(others)("give every token once where %s", async (_, ways, nAsked) => {
    expect(idsOf(await read(ways))).toEqual(ALL);
    expect(ways.map(({ asked }) => asked.length)).toEqual(nAsked);
  });

  it("are asked with little patience while another may be up, and with all when none is", async () => {
    const ways = [new Way("a", [says("warming")], "well", false), new Way("b", [], "well", false)];
    expect(idsOf(await read(ways))).toEqual(ALL);
    expect(ways.map(({ asked }) => asked)).toEqual([[{ emitted: 0, patient: false }, { emitted: 0, patient: true }], []]);
    const cold = [new Way("a", [], says("warming"), false), new Way("b", [], says("warming"), false)];
    expect(await read(cold)).toEqual([expect.objectContaining({ code: "warming", message: "words of a" })]);
    expect(cold.map(({ asked }) => asked.length)).toEqual([2, 0]);
  });

  it("of one region: one that is overloaded gives way to one other, then to another region", async () => {
    const ways = [new Way("a", [], says("overloaded")), new Way("a", [], says("overloaded")), new Way("a", []), new Way("b", [])];
    expect(idsOf(await read(ways))).toEqual(ALL);
    expect(ways.map(({ asked }) => asked.length)).toEqual([1, 1, 0, 1]);
    expect(ways.every(({ nFailed }) => nFailed === 0)).toBe(true);
    const full = [new Way("a", [], says("overloaded")), new Way("a", [], says("overloaded")), new Way("a", [])];
    expect(await read(full)).toEqual([expect.objectContaining({ code: "overloaded" })]);
  });

  it("are none for what would go wrong anywhere", async () => {
    for (const code of ["invalid-request", "context-exceeded", "deadline-exceeded"] as const) {
      const ways = [new Way("a", [], says(code)), new Way("b", [])];
      expect(await read(ways)).toEqual([expect.objectContaining({ code })]);
      expect(ways[1]!.asked).toEqual([]);
    }
  });

  it("where one is away and the other full, end no stream that the first could take up again", async () => {
    const ways = [new Way("a", [{ tokens: 2, then: "break" }, "away", "away"]), new Way("b", [], says("overloaded"))];
    expect(idsOf(await read(ways))).toEqual(ALL);
    expect(ways.map(({ asked }) => asked.length)).toEqual([4, 1]);
  });

  it("where one is away and the other loads again, wait in mid-stream, but not for ever", async () => {
    const coming = [new Way("a", [{ tokens: 2, then: "break" }], "away"), new Way("b", [says("warming"), says("warming")], "well", true)];
    expect(idsOf(await read(coming))).toEqual(ALL);
    const clock = new FakeClock();
    const startMs = clock.nowMs();
    const never = [new Way("a", [{ tokens: 2, then: "break" }], "away"), new Way("b", [], says("warming"))];
    expect((await read(never, clock)).at(-1)).toMatchObject({ code: "warming" });
    expect(clock.nowMs() - startMs).toBeLessThan(LIMITS.warmingMs + 10_000);
  });

  it("that are all away end in one clear error", async () => {
    const ways = [new Way("a", [], "away"), new Way("b", [], "away")];
    const events = await read(ways);
    expect(events).toEqual([expect.objectContaining({ type: "error", code: "stream-broken", message: expect.stringContaining("the call failed: no route") as unknown })]);
    expect(ways.map(({ asked }) => asked.length)).toEqual([LIMITS.resumeAttempts + 1, LIMITS.resumeAttempts + 1]);
  });

  it.each([["at once", "silent"], ["in the middle", { tokens: 2, then: "silence" }]] as const)("go on elsewhere where one falls silent %s and does not say that it is there", async (_, call) => {
    const [a, b] = [new Way("a", [call]), new Way("b", [])];
    a.isThere = false;
    const clock = new FakeClock();
    const startMs = clock.nowMs();
    expect(idsOf(await read([a, b], clock))).toEqual(ALL);
    expect([a.asked.length, b.asked.length, a.nFailed]).toEqual([1, 1, 1]);
    expect(clock.nowMs() - startMs).toBe(LIMITS.silentMs + LIMITS.pingDeadlineMs);
  });

  it("wait for one that is silent and says that it is there", async () => {
    const [a, b] = [new Way("a", [{ tokens: 2, then: "silence" }]), new Way("b", [])];
    const clock = new FakeClock();
    const startMs = clock.nowMs();
    clock.after(5.5 * LIMITS.silentMs, () => { a.isThere = false; });
    expect(idsOf(await read([a, b], clock))).toEqual(ALL);
    expect([a.nAsked, clock.nowMs() - startMs]).toEqual([6, 6 * LIMITS.silentMs + LIMITS.pingDeadlineMs]);
    // Its words come in time, and nobody asks.
    const well = new Way("a", []);
    await read([well, new Way("b", [])]);
    expect(well.nAsked).toBe(0);
  });

  it("say who served and who failed", async () => {
    const ways = [new Way("a", [{ tokens: 2, then: "break" }], "away"), new Way("b", [])];
    await read(ways);
    expect(ways.map(({ nServed, nFailed }) => [nServed, nFailed])).toEqual([[1, 2], [1, 0]]);
  });
});
