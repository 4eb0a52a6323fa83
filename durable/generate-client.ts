// The reader's side of POST /generate: events of one generation, across however many broken streams it takes.
// Owns the resumption: it keeps the ids it has given out, sends the request again with them, and drops what it has seen; and the way from one orchestrator
// to the next where there are several lanes or regions. Refuses to choose their order, and to retry what an orchestrator alone in its deployment ended
// with an error event. docs/protocol.md section 5.

import { sleep, systemClock, within, type Clock } from "./clock.ts";
import type { GenerateEvent, GenerateFailure, GenerateRequest } from "./generate.ts";
import { LIMITS, type Limits } from "./limits.ts";
import { SilentWay, heardFrom } from "./silent-way.ts";

/** What can be asked: a Durable Object stub. A function gives a fresh stub per attempt; one that saw its object fail may stay broken. */
export interface GenerateTarget {
  fetch(input: string, init: RequestInit): Promise<Response>;
}

/** One of several orchestrators that can say the same reply, the first choice first. */
export interface GenerateWay {
  /** A fresh stub per attempt. */
  target(): GenerateTarget;
  /** Ways of one region: one that is overloaded gives way to one other of them, then to other regions. */
  readonly group: string;
  /** Whether its model is up: asked while another's is loading, and where it says nothing, to hear whether it is there. Rejects where it cannot be reached. */
  isReady(): Promise<boolean>;
  /** It has answered a call after this long, and what follows comes from it. */
  served(ms: number): void;
  /** It could not be reached, broke off, or could not do its work. */
  failed(): void;
}

export interface GenerateOptions {
  readonly signal?: AbortSignal;
  readonly clock?: Clock;
  readonly limits?: Limits;
}

/** A stream that ended without an end event, or a call that failed: the object was reset, or the line to it. */
class BrokenStream extends Error {}

/** Failures after which another orchestrator may do better; what else went wrong would go wrong there too. */
const ELSEWHERE: ReadonlySet<GenerateFailure["code"]> = new Set(["warming", "load-failed", "overloaded", "capacity", "step-failed", "stream-broken"]);
/** Those that speak against a region for a while. */
const UNWELL: ReadonlySet<GenerateFailure["code"]> = new Set(["load-failed", "step-failed", "stream-broken"]);

type Failed = GenerateFailure | BrokenStream;

const wayTo = (target: GenerateTarget | (() => GenerateTarget)): GenerateWay => ({
  target: typeof target === "function" ? target : () => target, group: "", isReady: async () => true, served: () => {}, failed: () => {},
});

/**
 * Events of one generation, ending with an end or error event. Tokens come once each, in order, whatever happens to the stream and whichever of several
 * ways it takes: what was emitted is sent along, and what follows is the same bits everywhere.
 * Leaving the loop early, or aborting the signal (which throws its reason), cancels the generation at the orchestrator.
 */
export async function* generate(
  to: GenerateTarget | (() => GenerateTarget) | readonly GenerateWay[], request: GenerateRequest, options: GenerateOptions = {},
): AsyncGenerator<GenerateEvent, void, undefined> {
  const { signal, clock = systemClock, limits = LIMITS } = options;
  const ways: readonly GenerateWay[] = Array.isArray(to) ? to as readonly GenerateWay[] : [wayTo(to as GenerateTarget | (() => GenerateTarget))];
  const emittedIds = [...(request.emittedIds ?? [])];
  let promptSeen = 0;
  let hasBroken = false;
  let startedMs = -1; // of the wait for a model that came back cold
  /** How each way last failed since there was something new, and how often it broke. */
  const failures = new Map<number, Failed>();
  const breaks = new Map<number, number>();
  let current = 0;
  /** A way asked again after all have said that they are loading: it is waited for as long as any. */
  let isPatient = ways.length === 1;
  const isNew = (): void => {
    breaks.clear();
    failures.clear();
  };
  for (;;) {
    signal?.throwIfAborted();
    const way = ways[current]!;
    let failed: Failed | null = null;
    try {
      const asked = emittedIds.length === 0 ? request : { ...request, emittedIds };
      const listen: Listen = ways.length === 1 ? (promise) => promise : (promise) => heardFrom(way, promise, clock, limits);
      for await (const event of eventsOf(way, asked, isPatient ? null : limits.coldWaitMs, clock, listen, signal)) {
        if (event.type === "error" && ELSEWHERE.has(event.code)) {
          failed = event;
          break;
        }
        startedMs = -1;
        if (event.type === "token") {
          if (event.index < emittedIds.length) continue;
          // Only what is new is progress: a stream may break again and again after what was read before.
          isNew();
          emittedIds.push(event.id);
          yield event;
        } else if (event.type === "prompt") {
          const fresh = event.tokens.slice(Math.max(0, promptSeen - event.start));
          if (fresh.length === 0) continue;
          const start = Math.max(promptSeen, event.start);
          promptSeen = start + fresh.length;
          isNew();
          yield { type: "prompt", start, tokens: fresh };
        } else {
          yield event;
          return;
        }
      }
    } catch (cause) {
      signal?.throwIfAborted();
      if (!(cause instanceof BrokenStream)) throw cause;
      failed = cause;
    }
    if (failed === null) throw new Error("The events of a generation ended without an end event, which was to be an error.");
    failures.set(current, failed);
    if (failed instanceof BrokenStream) {
      hasBroken = true;
      breaks.set(current, (breaks.get(current) ?? 0) + 1);
      way.failed();
      // Once more where it was: an object that was reset is there again. One that is silent is not.
      if (breaks.get(current)! < limits.breaksHere && ways.length > 1 && !(failed.cause instanceof SilentWay)) {
        await sleep(clock, limits.backoffBaseMs);
        continue;
      }
    } else if (UNWELL.has(failed.code)) {
      way.failed();
    }
    const next = await nextWay(ways, failures, current, failed, clock, limits);
    if (next !== null) {
      [current, isPatient] = [next, false];
      continue;
    }
    // Nobody else is left. First those that broke are asked again, growing rarer: they may be back at any moment.
    const broken = firstOf(failures, (of, index) => of instanceof BrokenStream && breaks.get(index)! <= limits.resumeAttempts, (index) => breaks.get(index)!);
    if (broken !== null) {
      [current, isPatient] = [broken, true];
      await sleep(clock, limits.backoffBaseMs * 2 ** (breaks.get(broken)! - 1));
      continue;
    }
    const loading = firstOf(failures, (of) => !(of instanceof BrokenStream) && of.code === "warming");
    if (loading !== null) {
      const event = failures.get(loading) as GenerateFailure;
      if (!hasBroken && emittedIds.length === (request.emittedIds?.length ?? 0)) {
        if (isPatient) return yield event;
        [current, isPatient] = [loading, true];
        continue;
      }
      // The object was replaced in the middle of a stream and loads its model again: that is not the reader's business.
      if (startedMs < 0) startedMs = clock.nowMs();
      if (clock.nowMs() - startedMs > limits.warmingMs) return yield event;
      const leftMs = (request.deadlineAtMs ?? Infinity) - clock.nowMs();
      if (leftMs <= 0) return yield { type: "error", code: "deadline-exceeded", retryable: true, message: "The request's deadline passed while the model was loading again." };
      await sleep(clock, Math.min(event.retryAfterMs ?? 1000, leftMs));
      [current, isPatient] = [loading, true];
      continue;
    }
    const said = firstOf(failures, (of) => !(of instanceof BrokenStream));
    if (said !== null) return yield failures.get(said) as GenerateFailure;
    const nBreaks = [...breaks.values()].reduce((sum, n) => sum + n, 0);
    return yield { type: "error", code: "stream-broken", retryable: true, message: `The orchestrator's stream broke ${nBreaks} times in a row; last: ${(failed as BrokenStream).message}` };
  }
}

const firstOf = (failures: ReadonlyMap<number, Failed>, is: (failed: Failed, way: number) => boolean, after: (way: number) => number = () => 0): number | null =>
  [...failures].filter(([way, failed]) => is(failed, way)).map(([way]) => way).sort((a, b) => after(a) - after(b) || a - b)[0] ?? null;

/** The next way that has not failed; null where none is worth it. */
async function nextWay(ways: readonly GenerateWay[], failures: ReadonlyMap<number, Failed>, current: number, failed: Failed, clock: Clock, limits: Limits): Promise<number | null> {
  const isOverload = (of: Failed | undefined): boolean => of !== undefined && !(of instanceof BrokenStream) && of.code === "overloaded";
  const { group } = ways[current]!;
  // One other of its region is enough to know that the region has no room.
  const isFull = isOverload(failed) && [...failures.entries()].filter(([way, of]) => ways[way]!.group === group && isOverload(of)).length > 1;
  const fresh = ways.flatMap((way, index) => (failures.has(index) || (isFull && way.group === group) ? [] : [index]));
  if (fresh.length === 0) return null;
  if (failed instanceof BrokenStream || failed.code !== "warming") return fresh[0]!;
  // Others are woken only by requests of their own: this one goes where a model is up.
  const ready = await Promise.all(fresh.map((index) => within(clock, limits.pingDeadlineMs, ways[index]!.isReady(), "it did not answer").catch(() => false)));
  return fresh.find((_, i) => ready[i]) ?? null;
}

/** Waits for what an orchestrator says, or throws. */
type Listen = <T>(promise: Promise<T>) => Promise<T>;

/** Events of one call. Throws BrokenStream when they stop before an end or error event. */
async function* eventsOf(way: GenerateWay, request: GenerateRequest, waitMs: number | null, clock: Clock, listen: Listen, signal: AbortSignal | undefined): AsyncGenerator<GenerateEvent, void, undefined> {
  const abort = new AbortController();
  const forward = (): void => abort.abort(signal?.reason);
  signal?.addEventListener("abort", forward);
  let reader: ReadableStreamDefaultReader<Uint8Array> | null = null;
  let ended = false;
  try {
    const sinceMs = clock.nowMs();
    const response = await broken("the call failed", listen(way.target().fetch(`http://orchestrator/generate${waitMs === null ? "" : `?wait=${waitMs}`}`, {
      method: "POST", body: JSON.stringify(request), headers: { "Content-Type": "application/json" }, signal: abort.signal,
    })));
    if (!response.ok) {
      const text = await broken("the answer broke off", listen(response.text()));
      ended = true;
      yield failureOf(response.status, text);
      return;
    }
    way.served(clock.nowMs() - sinceMs);
    reader = response.body!.getReader();
    const decoder = new TextDecoder();
    let rest = "";
    for (;;) {
      const { value, done } = await broken("the stream broke", listen(reader.read()));
      if (done) throw new BrokenStream("the stream ended without an end event");
      const text = decoder.decode(value, { stream: true });
      rest += text;
      if (!text.includes("\n")) continue;
      const lines = rest.split("\n");
      rest = lines.pop()!;
      for (const line of lines) {
        signal?.throwIfAborted();
        const event = JSON.parse(line) as GenerateEvent;
        if (event.type === "end" || event.type === "error") ended = true;
        yield event;
        if (ended) return;
      }
    }
  } finally {
    signal?.removeEventListener("abort", forward);
    if (!ended) {
      // Both are needed: the first ends a call that has not answered yet, the second a stream that is being read.
      abort.abort();
      await reader?.cancel().catch(() => undefined);
    }
  }
}

async function broken<T>(what: string, promise: Promise<T>): Promise<T> {
  try {
    return await promise;
  } catch (cause) {
    throw new BrokenStream(`${what}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

function failureOf(status: number, text: string): GenerateFailure {
  try {
    const event = JSON.parse(text) as GenerateEvent;
    if (event.type === "error") return event;
  } catch {
    // Not ours: the platform's own page.
  }
  throw new BrokenStream(`the call was answered with status ${status}: ${text.slice(0, 200)}`);
}
