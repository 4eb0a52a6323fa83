// The reader's side of POST /generate: events of one generation, across however many broken streams it takes.
// Owns the resumption: it keeps the ids it has given out, sends the request again with them, and drops what it has seen.
// Refuses to retry what the orchestrator itself ended with an error event. docs/protocol.md section 5.

import { sleep, systemClock, type Clock } from "./clock.ts";
import type { GenerateEvent, GenerateFailure, GenerateRequest } from "./generate.ts";
import { LIMITS, type Limits } from "./limits.ts";

/** What can be asked: a Durable Object stub. A function gives a fresh stub per attempt; one that saw its object fail may stay broken. */
export interface GenerateTarget {
  fetch(input: string, init: RequestInit): Promise<Response>;
}

export interface GenerateOptions {
  readonly signal?: AbortSignal;
  readonly clock?: Clock;
  readonly limits?: Limits;
}

/** A stream that ended without an end event, or a call that failed: the object was reset, or the line to it. */
class BrokenStream extends Error {}

/**
 * Events of one generation, ending with an end or error event. Tokens come once each, in order, whatever happens to the stream.
 * Leaving the loop early, or aborting the signal (which throws its reason), cancels the generation at the orchestrator.
 */
export async function* generate(target: GenerateTarget | (() => GenerateTarget), request: GenerateRequest, options: GenerateOptions = {}): AsyncGenerator<GenerateEvent, void, undefined> {
  const { signal, clock = systemClock, limits = LIMITS } = options;
  const emittedIds = [...(request.emittedIds ?? [])];
  let promptSeen = 0;
  let failures = 0;
  let startedMs = -1; // of the wait for a model that came back cold
  for (let attempt = 0; ; attempt++) {
    signal?.throwIfAborted();
    try {
      const stub = typeof target === "function" ? target() : target;
      for await (const event of eventsOf(stub, emittedIds.length === 0 ? request : { ...request, emittedIds }, signal)) {
        if (event.type === "error" && event.code === "warming" && attempt > 0) {
          // The object was replaced in the middle of a stream and loads its model again: that is not the reader's business.
          if (startedMs < 0) startedMs = clock.nowMs();
          if (clock.nowMs() - startedMs > limits.warmingMs) return yield event;
          const leftMs = (request.deadlineAtMs ?? Infinity) - clock.nowMs();
          if (leftMs <= 0) return yield { type: "error", code: "deadline-exceeded", retryable: true, message: "The request's deadline passed while the model was loading again." };
          await sleep(clock, Math.min(event.retryAfterMs ?? 1000, leftMs));
          break;
        }
        startedMs = -1;
        if (event.type === "token") {
          if (event.index < emittedIds.length) continue;
          // Only what is new is progress: a stream may break again and again after what was read before.
          failures = 0;
          emittedIds.push(event.id);
          yield event;
        } else if (event.type === "prompt") {
          const fresh = event.tokens.slice(Math.max(0, promptSeen - event.start));
          if (fresh.length === 0) continue;
          const start = Math.max(promptSeen, event.start);
          promptSeen = start + fresh.length;
          failures = 0;
          yield { type: "prompt", start, tokens: fresh };
        } else {
          yield event;
          return;
        }
      }
    } catch (cause) {
      signal?.throwIfAborted();
      if (!(cause instanceof BrokenStream)) throw cause;
      if (++failures > limits.resumeAttempts) {
        const failure: GenerateFailure = { type: "error", code: "stream-broken", retryable: true, message: `The orchestrator's stream broke ${failures} times in a row; last: ${cause.message}` };
        yield failure;
        return;
      }
      await sleep(clock, limits.backoffBaseMs * 2 ** (failures - 1));
    }
  }
}

/** Events of one call. Throws BrokenStream when they stop before an end or error event. */
async function* eventsOf(target: GenerateTarget, request: GenerateRequest, signal: AbortSignal | undefined): AsyncGenerator<GenerateEvent, void, undefined> {
  const abort = new AbortController();
  const forward = (): void => abort.abort(signal?.reason);
  signal?.addEventListener("abort", forward);
  let reader: ReadableStreamDefaultReader<Uint8Array> | null = null;
  let ended = false;
  try {
    const response = await broken("the call failed", target.fetch("http://orchestrator/generate", {
      method: "POST", body: JSON.stringify(request), headers: { "Content-Type": "application/json" }, signal: abort.signal,
    }));
    if (!response.ok) {
      const text = await broken("the answer broke off", response.text());
      ended = true;
      yield failureOf(response.status, text);
      return;
    }
    reader = response.body!.getReader();
    const decoder = new TextDecoder();
    let rest = "";
    for (;;) {
      const { value, done } = await broken("the stream broke", reader.read());
      if (done) throw new BrokenStream("the stream ended without an end event");
      rest += decoder.decode(value, { stream: true });
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
