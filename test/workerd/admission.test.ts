// What a key's settings mean, through the Worker's fetch: rates, lengths of replies, deadlines and turns, and tokens of a day that are exact however a reply
// ends. The orchestrator is the real one where tokens are counted, and a scripted one where what it is asked matters. Fairness itself: scheduler.test.ts.

import { env } from "cloudflare:workers";
import { createExecutionContext, evictDurableObject } from "cloudflare:test";
import { afterEach, describe, expect, it, vi } from "vitest";
import type { GenerateEvent, GenerateRequest } from "../../durable/generate.ts";
import { LIMITS } from "../../durable/limits.ts";
import worker, { type EdgeEnv } from "../../worker/index.ts";
import { EDGE_LIMITS } from "../../worker/limits.ts";

const edgeEnv = env as unknown as EdgeEnv;
const ask = { model: "tiny", prompt: "abc", temperature: 0, max_tokens: 20 };
interface Reply { choices: { text: string; finish_reason: string }[]; usage: { completion_tokens: number; total_tokens: number }; moe: object; error: { code: string; type: string; message: string } }

/** Asks as `name`, a key of that name, under the given limits. */
const send = (name: string, limits: object, body: object, { settings = {}, headers = {}, path = "/v1/completions" }: { settings?: object; headers?: Record<string, string>; path?: string } = {}): Promise<Response> =>
  Promise.resolve(worker.fetch(new Request(`https://edge${path}`, { method: "POST", headers: { Authorization: `Bearer key-of-${name}`, ...headers }, body: JSON.stringify(body) }), {
    ...edgeEnv, OPEN_ACCESS: "false", API_KEYS: `${name}:key-of-${name}, ${name}:second-key-of-${name}, nobody`, KEY_SETTINGS: JSON.stringify({ [name]: limits }), ...settings,
  } as unknown as EdgeEnv, createExecutionContext()));
const answer = async (response: Response): Promise<Reply> => response.json<Reply>();

/** An orchestrator that says these events and notes what it was asked. */
function scripted(events: readonly GenerateEvent[], status = 200): { asked: GenerateRequest[]; settings: object } {
  const asked: GenerateRequest[] = [];
  const fetch = async (_: string, init: RequestInit): Promise<Response> => {
    asked.push(JSON.parse(init.body as string) as GenerateRequest);
    return status === 200 ? new Response(events.map((event) => `${JSON.stringify(event)}\n`).join("")) : Response.json(events[0], { status });
  };
  return { asked, settings: { ORCHESTRATOR: { getByName: () => ({ fetch }) } } };
}
const end = (reason: "length" | "deadline", completionTokens: number): GenerateEvent =>
  ({ type: "end", reason, stopId: null, promptTokens: 3, cachedTokens: 0, completionTokens, moe: { steps: 1, frames: 1, bytes: 1, retries: 0, hedges: 0 }, timings: { queueMs: 0, promptMs: 1, completionMs: 2 } });
const untouchable = { ORCHESTRATOR: new Proxy({}, { get: () => { throw new Error("The orchestrator was touched."); } }) };

describe("settings of keys", () => {
  it.each([
    ["{", /not JSON/], ["[]", /an object from names/], ['{"a": {"tokensPerDay": 0}}', /at a\.tokensPerDay.*whole number from 1/], ['{"a": {"tokens": 5}}', /at a: found "tokens", expected an object with/],
  ])("%s is a mistake that is said, and nobody is served", async (text, message) => {
    const response = await send("a", {}, ask, { settings: { KEY_SETTINGS: text, ...untouchable } });
    expect(response.status).toBe(500);
    const { error } = await answer(response);
    expect(error.code).toBe("bad_configuration");
    expect(error.message).toMatch(message);
  });
  it("a star is for keys without settings of their own, and only for them", async () => {
    const settings = { KEY_SETTINGS: { "*": { maxTokens: 2 }, named: {} } }; // a table of wrangler.toml comes as an object
    expect((await answer(await send("named", {}, ask, { settings }))).usage.completion_tokens).toBe(20);
    expect((await answer(await send("other", {}, ask, { settings }))).usage.completion_tokens).toBe(2);
    expect((await answer(await send("other", {}, ask, { settings, headers: { Authorization: "Bearer nobody" } }))).usage.completion_tokens).toBe(2);
  });
});

describe("a rate", () => {
  it("lets through what it says, then answers 429 with when to come back, to that key alone", async () => {
    const statuses: number[] = [];
    let refused: Response | null = null;
    // A minute may turn once in between; the second one is then used up too.
    for (let i = 0; i < 7 && refused === null; i++) {
      const response = await send("fast", { requestsPerMinute: 3 }, { content: "abc" }, { path: "/tokenize" });
      statuses.push(response.status);
      if (response.status === 429) refused = response;
    }
    expect(statuses.slice(0, 3)).toEqual([200, 200, 200]);
    expect(refused).not.toBeNull();
    expect(Number(refused!.headers.get("Retry-After"))).toBeGreaterThanOrEqual(1);
    expect(Number(refused!.headers.get("Retry-After"))).toBeLessThanOrEqual(60);
    expect((await answer(refused!)).error).toMatchObject({ type: "rate_limit_error", code: "rate_limit_exceeded", message: "This key may send 3 requests a minute, and has." });
    expect((await send("other", { requestsPerMinute: 3 }, { content: "abc" }, { path: "/tokenize" })).status).toBe(200);
  });
  it("without the binding is a mistake that is said", async () => {
    const response = await send("a", { requestsPerMinute: 3 }, ask, { settings: { RATE_LIMITER: undefined, ...untouchable } });
    expect((await answer(response)).error).toMatchObject({ code: "bad_configuration", message: expect.stringContaining("RATE_LIMITER") });
  });
});

describe("the length of replies", () => {
  it("ends at the key's, and the reply says which that is", async () => {
    const response = await send("short", { maxTokens: 5 }, { ...ask, max_tokens: 50 });
    expect(response.headers.get("X-Max-Tokens")).toBe("5");
    const { choices, usage } = await answer(response);
    expect([choices[0]!.finish_reason, usage.completion_tokens]).toEqual(["length", 5]);
    const chat = await answer(await send("short", { maxTokens: 5 }, { model: "tiny", messages: [{ role: "user", content: "abc" }], temperature: 0 }, { path: "/v1/chat/completions" }));
    expect(chat.usage.completion_tokens).toBeLessThanOrEqual(5);
  });
  it("is the request's where that is less", async () => {
    expect((await answer(await send("short", { maxTokens: 5 }, { ...ask, max_tokens: 2 }))).usage.completion_tokens).toBe(2);
  });
});

describe("turns and deadlines", () => {
  it("are told to the orchestrator", async () => {
    const { asked, settings } = scripted([{ type: "token", index: 0, id: 5 }, end("length", 1)]);
    const before = Date.now();
    await answer(await send("a", {}, { ...ask, moe: { cache: false, deadline_ms: 1500 } }, { settings }));
    expect(asked[0]!.caller).toBe("name:a");
    expect(asked[0]!.cacheScope).toBeUndefined();
    expect(asked[0]!.deadlineAtMs).toBeGreaterThanOrEqual(before + 1500);
    expect(asked[0]!.deadlineAtMs).toBeLessThanOrEqual(Date.now() + 1500);
    await answer(await send("a", {}, ask, { settings }));
    expect(asked[1]!.deadlineAtMs).toBeUndefined();
  });
  it("a reply cut by its deadline has what was said, and says why it ended", async () => {
    const { settings } = scripted([{ type: "token", index: 0, id: 5 }, end("deadline", 1)]);
    const { choices, moe } = await answer(await send("a", {}, { ...ask, moe: { deadline_ms: 9 } }, { settings }));
    expect(choices[0]!.finish_reason).toBe("length");
    expect(moe).toMatchObject({ deadline_exceeded: true });
  });
  it("a deadline that passes before the reply begins is a 504 of OpenAI's shape", async () => {
    const { settings } = scripted([{ type: "error", code: "deadline-exceeded", message: "The request's deadline passed before its reply began.", retryable: true }], 504);
    const response = await send("a", {}, { ...ask, moe: { deadline_ms: 1 } }, { settings });
    expect([response.status, (await answer(response)).error.code]).toEqual([504, "deadline_exceeded"]);
  });
  it("ends a real generation", async () => {
    const response = await send("a", {}, { ...ask, max_tokens: 120, moe: { deadline_ms: 1 } });
    const { usage, moe, error } = await answer(response);
    // Whether the first token was in time is the machine's business.
    if (response.status === 200) expect([usage.completion_tokens < 120, moe]).toEqual([true, expect.objectContaining({ deadline_exceeded: true })]);
    else expect([response.status, error.code]).toEqual([504, "deadline_exceeded"]);
  });
  it("a full queue is a 429 with Retry-After", async () => {
    const { settings } = scripted([{ type: "error", code: "overloaded", message: "32 generations run and 64 wait, the most this server takes; try again later.", retryable: true }], 429);
    const response = await send("a", {}, ask, { settings });
    expect([response.status, response.headers.get("Retry-After")]).toEqual([429, "1"]);
    expect((await answer(response)).error).toMatchObject({ code: "overloaded", type: "rate_limit_error" });
  });
});

describe("tokens of a day", () => {
  afterEach(() => vi.restoreAllMocks());
  const taken = (name: string): Promise<number> => edgeEnv.BUDGETS.getByName(`name:${name}`).taken();
  /** Waits until the object has counted `tokens`; the test's time limit is the only clock. */
  async function untilTaken(name: string, tokens: number): Promise<void> {
    while ((await taken(name)) !== tokens) await new Promise((resolve) => setTimeout(resolve, 5));
  }
  const limits = { tokensPerDay: 100 };

  it("are what replies used, not what they might have", async () => {
    const response = await send("exact", limits, { ...ask, prompt: ["abc", "abcd"], n: 2, max_tokens: 5 });
    expect(response.headers.get("X-RateLimit-Limit-Tokens")).toBe("100");
    expect(response.headers.get("X-RateLimit-Remaining-Tokens")).toBe(String(100 - 7 - 4 * 5));
    expect(response.headers.get("X-RateLimit-Reset-Tokens")).toMatch(/^\d+s$/);
    const { usage } = await answer(response);
    await untilTaken("exact", usage.total_tokens);
    expect(usage.total_tokens).toBe(27);
    const { text } = (await answer(await send("exact", limits, ask))).choices[0]!;
    await untilTaken("exact", 27 + 23);
    const stopped = await answer(await send("exact", limits, { ...ask, stop: text.slice(2, 4) }));
    expect(stopped.usage.completion_tokens).toBeLessThan(20);
    await untilTaken("exact", 50 + stopped.usage.total_tokens);
  });

  it("are refused when they might not last, before the orchestrator is asked, with when they begin anew", async () => {
    const response = await send("poor", { tokensPerDay: 22 }, ask, { settings: untouchable });
    expect(response.status).toBe(429);
    const seconds = Number(response.headers.get("Retry-After"));
    expect(seconds).toBeGreaterThanOrEqual(1);
    expect(seconds).toBeLessThanOrEqual(24 * 60 * 60);
    expect((await answer(response)).error).toMatchObject({ code: "insufficient_quota", type: "insufficient_quota", message: expect.stringMatching(/22 tokens a day, of which 22 are left; this request may need 23/) });
    expect(await taken("poor")).toBe(0);
    expect((await send("poor", { tokensPerDay: 22 }, { ...ask, max_tokens: 19 })).status).toBe(200);
  });

  it("are shared by keys of one name, set aside while a reply runs, and counted to where a reader left", async () => {
    const leaving = await send("shared", limits, { ...ask, max_tokens: 90, stream: true });
    const reader = leaving.body!.getReader();
    await reader.read();
    expect(await taken("shared")).toBe(93);
    const second = { headers: { Authorization: "Bearer second-key-of-shared" } };
    expect((await answer(await send("shared", limits, ask, second))).error.code).toBe("insufficient_quota");
    await reader.cancel();
    while ((await taken("shared")) === 93) await new Promise((resolve) => setTimeout(resolve, 5));
    const used = await taken("shared");
    expect(used).toBeGreaterThanOrEqual(4);
    expect(used).toBeLessThan(93);
    await answer(await send("shared", limits, { ...ask, max_tokens: 1 }, second));
    await untilTaken("shared", used + 4);
  });

  it("are given back by what failed", async () => {
    const { settings } = scripted([{ type: "error", code: "capacity", message: "It does not fit.", retryable: false }], 503);
    expect((await send("failing", limits, ask, { settings })).status).toBe(503);
    await untilTaken("failing", 0);
    expect((await send("failing", limits, ask, { headers: { "Last-Event-ID": `cmpl-${"0".repeat(32)}.1700000000.1.1` } })).status).toBe(400);
    await untilTaken("failing", 0);
    const broken = scripted([{ type: "token", index: 0, id: 5 }, { type: "error", code: "step-failed", message: "A step failed.", retryable: true }]);
    await (await send("failing", limits, { ...ask, stream: true }, { settings: broken.settings })).text();
    await untilTaken("failing", 4);
  });

  it("are those of embeddings too", async () => {
    const embed = (input: string[]) => send("vectors", { tokensPerDay: 9 }, { model: "tiny", input }, { path: "/v1/embeddings" });
    const first = await embed(["abc", "abcd"]);
    expect([first.status, first.headers.get("X-RateLimit-Limit-Tokens"), first.headers.get("X-RateLimit-Remaining-Tokens")]).toEqual([200, "9", "2"]);
    await untilTaken("vectors", 7);
    expect((await answer(await embed(["abc"]))).error.code).toBe("insufficient_quota");
  });

  it("are counted once, however often a call is repeated, and begin anew with the day", async () => {
    const budget = edgeEnv.BUDGETS.getByName("name:twice");
    const first = await budget.reserve("r1", 60, 100);
    expect(first).toMatchObject({ granted: true, remainingTokens: 40 });
    expect(await budget.reserve("r1", 60, 100)).toMatchObject({ granted: true, remainingTokens: 40 });
    expect(await budget.reserve("r2", 60, 100)).toMatchObject({ granted: false, remainingTokens: 40 });
    await budget.settle("r1", 10);
    await budget.settle("r1", 10);
    expect(await budget.taken()).toBe(10);
    await budget.reserve("r3", 90, 100);
    const DAY_MS = 24 * 60 * 60_000;
    expect(first.resetsAtMs % DAY_MS).toBe(0);
    vi.spyOn(Date, "now").mockReturnValue(first.resetsAtMs);
    expect(await budget.reserve("r4", 100, 100)).toMatchObject({ granted: true, remainingTokens: 0, resetsAtMs: first.resetsAtMs + DAY_MS });
    await budget.settle("r3", 5); // of the day before
    expect(await budget.taken()).toBe(100);
  });

  describe("of a stream that is continued", () => {
    const body = { ...ask, max_tokens: 60, temperature: 1, seed: 11, stream: true, stream_options: { include_usage: true } };
    const from = (id: string) => ({ headers: { "Last-Event-ID": id } });
    const idsOf = (text: string): string[] => [...text.matchAll(/^id: (.*)$/gm)].map((match) => match[1]!);
    /** Reads `n` events and leaves; gives the last one's id. */
    const leaveAfter = async (response: Response, n: number): Promise<string> => {
      const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      while (idsOf(text).length < n) text += (await reader.read()).value!;
      await reader.cancel();
      return idsOf(text)[n - 1]!;
    };

    it("are counted once, however many requests it takes", async () => {
      // As many as one whole reply may need, and not one more.
      const exact = { tokensPerDay: 63 };
      let id = await leaveAfter(await send("continued", exact, body), 5);
      for (const n of [5, 5]) {
        const response = await send("continued", exact, body, from(id));
        // What counts for the reply is not set aside again, whether its first request has been settled by now or not.
        expect([response.status, response.headers.get("X-RateLimit-Remaining-Tokens")]).toEqual([200, "0"]);
        id = await leaveAfter(response, n);
      }
      const text = await (await send("continued", exact, body, from(id))).text();
      expect(text).toMatch(/"total_tokens":63\b/);
      await untilTaken("continued", 63);
      // Its end once more costs nothing.
      expect(await (await send("continued", exact, body, from(idsOf(text).at(-2)!))).text()).toContain("[DONE]");
      expect(await taken("continued")).toBe(63);
    });

    it("are counted anew for another request under its id", async () => {
      const enough = { tokensPerDay: 100 };
      const whole = await (await send("another", enough, { ...body, max_tokens: 20 })).text();
      const usage = 23;
      await untilTaken("another", usage);
      const other = await send("another", enough, { ...body, max_tokens: 20, prompt: "xyz" }, from(idsOf(whole)[3]!));
      await other.text();
      await untilTaken("another", 2 * usage);
      // Nor does it say what the other one had said: it is a function of its own request.
      const refused = await answer(await send("another", enough, { ...body, max_tokens: 80 }, from(idsOf(whole)[3]!)));
      expect(refused.error).toMatchObject({ code: "insufficient_quota", message: expect.stringContaining("this request may need 83, its prompt") });
    });
  });

  it("of one reply are the most that a request of it has used, whichever ends first", async () => {
    const budget = edgeEnv.BUDGETS.getByName("name:two-at-once");
    expect(await budget.reserve("a", 60, 100, "reply")).toMatchObject({ granted: true, newTokens: 60, remainingTokens: 40 });
    expect(await budget.reserve("b", 60, 100, "reply")).toMatchObject({ granted: true, newTokens: 0, remainingTokens: 40 });
    await budget.settle("a", 25);
    expect(await budget.taken()).toBe(60); // the other may still need them
    await budget.settle("b", 20);
    expect(await budget.taken()).toBe(25);
    expect(await budget.reserve("c", 60, 100, "reply")).toMatchObject({ granted: true, newTokens: 35, remainingTokens: 40 });
    expect(await budget.reserve("d", 60, 100, "another")).toMatchObject({ granted: false, newTokens: 60, remainingTokens: 40 });
    await budget.settle("c", 60);
    expect(await budget.taken()).toBe(60);
    // On the next day only what is new counts, and what the day before set aside does not come back.
    const { resetsAtMs } = await budget.reserve("e", 100, 200, "reply");
    vi.spyOn(Date, "now").mockReturnValue(resetsAtMs);
    expect(await budget.reserve("f", 100, 100, "reply")).toMatchObject({ granted: true, newTokens: 40, remainingTokens: 60 });
    await budget.settle("e", 70);
    expect(await budget.taken()).toBe(40);
    await budget.settle("f", 80);
    expect(await budget.taken()).toBe(20);
  });

  it("that were set aside for a Worker that died come back, all but those its reply is known to have used", async () => {
    expect(LIMITS.reservationMs).toBeGreaterThan(EDGE_LIMITS.deadlineMs);
    const budget = edgeEnv.BUDGETS.getByName("name:deserted");
    // Noon: the day does not turn in between.
    const startMs = Math.floor(Date.now() / 86_400_000) * 86_400_000 + 43_200_000;
    const clock = vi.spyOn(Date, "now").mockReturnValue(startMs);
    await budget.reserve("dead", 50, 100);
    await budget.reserve("dead, continued", 40, 100, "reply");
    await budget.reserve("its second request", 40, 100, "reply");
    await budget.settle("its second request", 15);
    expect(await budget.taken()).toBe(90);
    clock.mockReturnValue(startMs + LIMITS.reservationMs - 1);
    expect(await budget.reserve("early", 11, 100)).toMatchObject({ granted: false, remainingTokens: 10 });
    clock.mockReturnValue(startMs + LIMITS.reservationMs);
    expect(await budget.taken()).toBe(15);
    expect(await budget.reserve("later", 85, 100)).toMatchObject({ granted: true, remainingTokens: 0 });
    // One that was only slow says in the end what it has used.
    await budget.settle("dead", 30);
    await budget.settle("dead", 30);
    expect(await budget.taken()).toBe(130);
  });

  it("survive the object", async () => {
    const budget = edgeEnv.BUDGETS.getByName("name:kept");
    await budget.reserve("r1", 60, 100);
    await evictDurableObject(budget);
    expect(await budget.taken()).toBe(60);
    await budget.settle("r1", 20);
    expect(await budget.taken()).toBe(20);
  });

  it("that cannot be counted are a 503, and nothing runs", async () => {
    const failing = { getByName: () => ({ reserve: async () => { throw new Error("Durable Object reset."); } }) };
    const response = await send("lost", limits, ask, { settings: { BUDGETS: failing, ...untouchable } });
    expect([response.status, (await answer(response)).error.code]).toEqual([503, "budget_unavailable"]);
  });
});
