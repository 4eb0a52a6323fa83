// A streamed generation that outlives its connection. Every server-sent event has an `id:` line; when the stream breaks, the same request goes out again
// with the last one as Last-Event-ID, and the server continues after it: nothing is lost, nothing said twice (worker/stream-position.ts).
// Owns the reading of server-sent events and the waiting between tries. Refuses to resume what never began, and what the server ended with an error.

import { ApiProblem, authorization, problemOf } from "./api.ts";
import type { StreamChunk } from "../worker/wire-types.ts";

export interface StreamRequest {
  readonly path: string;
  readonly body: object;
  readonly key: string;
  /** Aborting it stops the generation on the server. */
  readonly signal: AbortSignal;
  /** The connection broke and will be tried again. */
  readonly onDrop: () => void;
}

/** Tries in a row that bring nothing new. Waits of 0.3 s, doubled each time, make about 20 s in all: a restart of the server, or a train's tunnel. */
const TRIES = 6;
const FIRST_WAIT_MS = 300;

export async function* stream({ path, body, key, signal, onDrop }: StreamRequest): AsyncGenerator<StreamChunk> {
  let lastEventId = "";
  let nTries = 0;
  for (;;) {
    let broken: unknown = new ApiProblem(0, "The stream ended before its last event.", 0);
    try {
      for await (const { id, data } of events(path, body, key, signal, lastEventId)) {
        lastEventId = id;
        nTries = 0;
        if (data === "[DONE]") return;
        yield chunkOf(data);
      }
    } catch (cause) {
      broken = cause;
    }
    const retryAfterMs = retryable(broken);
    if (signal.aborted || lastEventId === "" || retryAfterMs === null || ++nTries > TRIES) throw broken;
    onDrop();
    await pause(Math.max(retryAfterMs, FIRST_WAIT_MS * 2 ** (nTries - 1)), signal);
  }
}

/** An error that is an event of the stream: the server's last word on this reply. */
class Refused extends ApiProblem {}

function chunkOf(data: string): StreamChunk {
  const chunk = JSON.parse(data) as StreamChunk;
  if (chunk.error !== undefined) throw new Refused(0, chunk.error.message, 0);
  return chunk;
}

/** Least wait before the next try; null where another try would end the same way. */
function retryable(cause: unknown): number | null {
  if (cause instanceof Refused || cause instanceof SyntaxError) return null;
  if (!(cause instanceof ApiProblem)) return 0; // the network's own errors
  return cause.status === 0 || cause.status === 429 || cause.status >= 500 ? cause.retryAfterSeconds * 1000 : null;
}

interface SentEvent {
  readonly id: string;
  readonly data: string;
}

/** Whole events only: half of one that a break left behind comes again. */
async function* events(path: string, body: object, key: string, signal: AbortSignal, lastEventId: string): AsyncGenerator<SentEvent> {
  const response = await fetch(path, {
    method: "POST", signal, body: JSON.stringify(body),
    headers: { "Content-Type": "application/json", ...authorization(key), ...(lastEventId === "" ? {} : { "Last-Event-ID": lastEventId }) },
  });
  if (!response.ok || response.body === null) throw await problemOf(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let pending = ""; ;) {
      const { done, value } = await reader.read();
      if (done) return;
      pending += value;
      const blocks = pending.split("\n\n");
      pending = blocks.pop() ?? "";
      for (const block of blocks) {
        const lines = block.split("\n");
        const data = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
        if (data !== "") yield { id: lines.find((line) => line.startsWith("id: "))?.slice(4) ?? "", data };
      }
    }
  } finally {
    void reader.cancel().catch(() => undefined);
  }
}

const pause = (ms: number, signal: AbortSignal): Promise<void> => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => {
    clearTimeout(timer);
    reject(signal.reason as Error);
  }, { once: true });
});
