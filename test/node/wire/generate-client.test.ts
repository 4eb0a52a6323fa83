// The reader's side of /generate against an orchestrator that breaks off, comes back cold, repeats itself or is gone: the reader gets every
// token once and in order, or one clear error.

import { describe, expect, it } from "vitest";
import { generate, type GenerateTarget } from "../../../durable/generate-client.ts";
import type { GenerateEvent, GenerateFailure, GenerateRequest } from "../../../durable/generate.ts";
import { LIMITS } from "../../../durable/limits.ts";
import { FakeClock } from "./fake-clock.ts";
import { PLAIN_SAMPLING } from "../../../model/sampling.ts";

const REQUEST: GenerateRequest = { promptIds: [1, 2, 3], maxTokens: 6, stopIds: [], echo: true, sampling: { ...PLAIN_SAMPLING, temperature: 0, seed: 0 } };
const WARMING: GenerateFailure = { type: "error", code: "warming", message: "The model is loading.", retryable: true, retryAfterMs: 1000 };

type Call = { readonly breakAfter?: number; readonly cut?: boolean; readonly fromStart?: boolean } | { readonly fail: GenerateFailure } | { readonly throws: string } | { readonly page: number };

/** Token i is 100 + i. Answers its calls by a script; after it, rightly. */
class ScriptedOrchestrator implements GenerateTarget {
  readonly requests: GenerateRequest[] = [];
  cancelled = 0;
  readonly #script: Call[];
  constructor(script: readonly Call[] = []) {
    this.#script = [...script];
  }
  async fetch(_url: string, init: RequestInit): Promise<Response> {
    const request = JSON.parse(String(init.body)) as GenerateRequest;
    this.requests.push(request);
    const call = this.#script.shift() ?? {};
    if ("throws" in call) throw new Error(call.throws);
    if ("fail" in call) return Response.json(call.fail, { status: 503 });
    if ("page" in call) return new Response("<html>", { status: call.page });
    const events: GenerateEvent[] = [0, 2].map((start) => ({ type: "prompt" as const, start, tokens: request.promptIds.slice(start, start + 2).map((id) => ({ id, logprob: null, top: [] })) }));
    for (let index = call.fromStart === true ? 0 : request.emittedIds?.length ?? 0; index < request.maxTokens; index++) events.push({ type: "token", index, id: 100 + index });
    events.push({ type: "end", reason: "length", stopId: null, promptTokens: 3, cachedTokens: 0, completionTokens: 6, moe: { steps: 1, frames: 0, bytes: 0, retries: 0, hedges: 0 }, timings: { queueMs: 0, promptMs: 1, completionMs: 2 } });
    const text = events.slice(0, call.breakAfter ?? events.length).map((event) => `${JSON.stringify(event)}\n`).join("");
    const bytes = new TextEncoder().encode(call.cut === true ? text.slice(0, -5) : text);
    let at = 0;
    return new Response(new ReadableStream<Uint8Array>({
      pull: (controller) => {
        // Chunks that end where no line does.
        if (at < bytes.length) controller.enqueue(bytes.slice(at, (at += 37)));
        else if (call.breakAfter !== undefined && call.cut !== true) controller.error(new Error("the line went dead"));
        else controller.close();
      },
      cancel: () => { this.cancelled++; },
    }));
  }
}

async function read(target: GenerateTarget | (() => GenerateTarget), clock = new FakeClock()): Promise<GenerateEvent[]> {
  const events: GenerateEvent[] = [];
  const done = (async () => { for await (const event of generate(target, REQUEST, { clock })) events.push(event); })();
  const result = await clock.until(done);
  if (result.status === "rejected") throw result.reason;
  return events;
}

const idsOf = (events: readonly GenerateEvent[]): number[] => events.flatMap((e) => (e.type === "token" ? [e.id] : e.type === "prompt" ? e.tokens.map((t) => t.id) : []));
const ALL = [1, 2, 3, 100, 101, 102, 103, 104, 105];

describe("a stream", () => {
  const scripts: [string, Call[], number[]][] = [
    ["arrives whole", [], [0]],
    ["breaks before its first event", [{ breakAfter: 0 }], [0, 0]],
    ["breaks within the prompt", [{ breakAfter: 1 }], [0, 0]],
    ["breaks after three tokens", [{ breakAfter: 5 }], [0, 3]],
    ["ends in the middle of a line", [{ breakAfter: 5, cut: true }], [0, 2]],
    ["ends before the end event", [{ breakAfter: 8 }], [0, 6]],
    ["breaks four times with progress in between", [{ breakAfter: 3 }, { breakAfter: 3 }, { breakAfter: 3 }, { breakAfter: 3 }, { breakAfter: 3 }], [0, 1, 2, 3, 4, 5]],
    ["breaks, and the call after it fails", [{ breakAfter: 4 }, { throws: "the object was reset" }], [0, 2, 2]],
    ["breaks, and the orchestrator comes back cold", [{ breakAfter: 4 }, { fail: WARMING }, { fail: WARMING }], [0, 2, 2, 2]],
    ["breaks, and is begun again from its first token", [{ breakAfter: 5 }, { fromStart: true }], [0, 3]],
    ["is first answered by a page of the platform", [{ page: 500 }], [0, 0]],
  ];
  for (const [what, script, emitted] of scripts) {
    it(`that ${what} gives every token once`, async () => {
      const orchestrator = new ScriptedOrchestrator(script);
      const events = await read(orchestrator);
      expect(idsOf(events)).toEqual(ALL);
      expect(events.at(-1)!.type).toBe("end");
      expect(orchestrator.requests.map((r) => r.emittedIds?.length ?? 0)).toEqual(emitted);
      expect(orchestrator.requests.every((r) => JSON.stringify({ ...r, emittedIds: undefined }) === JSON.stringify(REQUEST))).toBe(true);
    });
  }

  it("that keeps breaking without progress ends in one clear error", async () => {
    const orchestrator = new ScriptedOrchestrator(Array.from({ length: 20 }, () => ({ throws: "no route" })));
    const events = await read(orchestrator);
    expect(events).toEqual([{ type: "error", code: "stream-broken", retryable: true, message: `The orchestrator's stream broke ${LIMITS.resumeAttempts + 1} times in a row; last: the call failed: no route` }]);
  });

  it("that breaks each time after what was read before has made no progress either", async () => {
    // A prompt that is scored comes anew with every attempt.
    const orchestrator = new ScriptedOrchestrator(Array.from({ length: 20 }, () => ({ breakAfter: 2 })));
    const events = await read(orchestrator);
    expect(idsOf(events)).toEqual([1, 2, 3]);
    expect(events.at(-1)).toMatchObject({ type: "error", code: "stream-broken" });
    const repeating = new ScriptedOrchestrator([{ breakAfter: 4 }, ...Array.from({ length: 20 }, () => ({ breakAfter: 4, fromStart: true }))]);
    expect(idsOf(await read(repeating))).toEqual([1, 2, 3, 100, 101]);
    expect(repeating.requests.length).toBe(LIMITS.resumeAttempts + 1);
  });

  it("that breaks before its first token is asked for as at first, with what its journal may know", async () => {
    const orchestrator = new ScriptedOrchestrator([{ breakAfter: 1 }]);
    await read(orchestrator);
    expect(orchestrator.requests[1]).toEqual(REQUEST);
  });

  it("whose deadline passes while the model comes back is waited for no longer", async () => {
    const clock = new FakeClock();
    const startMs = clock.nowMs();
    const coming = new ScriptedOrchestrator([{ breakAfter: 4 }, ...Array.from({ length: 1000 }, () => ({ fail: WARMING }))]);
    const events: GenerateEvent[] = [];
    const done = (async () => { for await (const event of generate(coming, { ...REQUEST, deadlineAtMs: startMs + 3_500 }, { clock })) events.push(event); })();
    expect((await clock.until(done)).status).toBe("fulfilled");
    expect(events.at(-1)).toMatchObject({ type: "error", code: "deadline-exceeded" });
    expect(clock.nowMs() - startMs).toBeLessThanOrEqual(3_500);
  });

  it("asks a fresh stub each time where it is given a maker", async () => {
    const first = new ScriptedOrchestrator([{ breakAfter: 4 }]);
    const second = new ScriptedOrchestrator();
    const stubs = [first, second];
    expect(idsOf(await read(() => stubs.shift()!))).toEqual(ALL);
    expect([first.requests.length, second.requests.length]).toEqual([1, 1]);
  });
});

describe("an error of the orchestrator's own", () => {
  it("is passed on and not retried", async () => {
    for (const code of ["step-failed", "context-exceeded", "overloaded", "load-failed"] as const) {
      const orchestrator = new ScriptedOrchestrator([{ fail: { type: "error", code, message: "words", retryable: true } }]);
      expect(await read(orchestrator)).toEqual([{ type: "error", code, message: "words", retryable: true }]);
      expect(orchestrator.requests.length).toBe(1);
    }
  });

  it("of a model that is loading is passed on at first, and waited out in mid-stream, but not for ever", async () => {
    expect(await read(new ScriptedOrchestrator([{ fail: WARMING }]))).toEqual([WARMING]);
    const forever = new ScriptedOrchestrator([{ breakAfter: 4 }, ...Array.from({ length: 1000 }, () => ({ fail: WARMING }))]);
    const clock = new FakeClock();
    const startMs = clock.nowMs();
    const events = await read(forever, clock);
    expect(events.at(-1)).toEqual(WARMING);
    expect(clock.nowMs() - startMs).toBeLessThan(LIMITS.warmingMs + 3_000);
  });
});

describe("a reader", () => {
  it("that stops early cancels the stream", async () => {
    const orchestrator = new ScriptedOrchestrator();
    for await (const event of generate(orchestrator, REQUEST)) if (event.type === "token" && event.index === 1) break;
    expect(orchestrator.cancelled).toBe(1);
  });

  it("that aborts gets its own reason, and nothing is sent again", async () => {
    const orchestrator = new ScriptedOrchestrator();
    const abort = new AbortController();
    const reading = (async () => {
      for await (const event of generate(orchestrator, REQUEST, { signal: abort.signal })) if (event.type === "token") abort.abort(new Error("the browser closed"));
    })();
    await expect(reading).rejects.toThrow("the browser closed");
    expect(orchestrator.requests.length).toBe(1);
  });
});
