// Around every request: its id, its record, its line in the log, its counts. Around a reply of generations: what the record learns from its pieces.
// Owns the moment a request has ended: when its last byte was written, its reader has left, or it failed. Refuses to change a reply: forms are watched
// from outside, and no byte passes through here.

import type { MiddlewareHandler } from "hono";
import { requestId } from "hono/request-id";
import { matchedRoutes } from "hono/route";
import { setMetric, timing } from "hono/timing";
import type { GenerateTarget } from "../durable/generate-client.ts";
import { toRequestError } from "./errors.ts";
import { type LogSettings, RequestRecord, writeLog, type Phase } from "./log.ts";
import { edgeMetrics } from "./metrics.ts";
import { type End, type Reply, usageOf } from "./reply-form.ts";

export interface RecordVariables {
  requestId: string;
  record: WatchedRequest;
}
interface Recorded {
  Bindings: LogSettings;
  Variables: RecordVariables;
}

/** Longer ids are none of a sane client, and each is written into a log. */
const REQUEST_ID_CHARS = 128;
/** x-request-id: the client's where it is of letters, digits, _, - and =; else a new one. */
export const givenId: MiddlewareHandler = requestId({ limitLength: REQUEST_ID_CHARS, headerName: "x-request-id" });

/** A record that knows whether its body is still being written. */
export class WatchedRequest extends RequestRecord {
  #isWriting = false;
  #isQueued = false;
  #onEnd: (() => void) | null = null;

  /** Calls `done` when nothing more is written; at once where there is no body under way. */
  whenEnded(done: () => void): void {
    if (this.#isWriting) this.#onEnd = done;
    else done();
  }

  #ended(finish: string): void {
    if (!this.#isWriting) return;
    this.#isWriting = false;
    this.finish = finish;
    this.#onEnd?.();
    this.#onEnd = null;
  }

  /** The same target; the time until it takes the first generation is noted. */
  queued(target: GenerateTarget): GenerateTarget {
    if (this.#isQueued) return target;
    this.#isQueued = true;
    return { fetch: (url, init) => this.timed("queue", () => target.fetch(url, init)) };
  }

  /** The same reply; what its pieces say of tokens, reasons and failures is noted. */
  watched(reply: Reply): Reply {
    this.stream = reply.stream;
    return {
      ...reply,
      form: (head) => {
        const form = reply.form(head);
        const ends: (End | undefined)[] = [];
        this.#isWriting = true;
        ({ prompt_tokens: this.promptTokens } = usageOf(reply.choices, ends));
        const complete = (): void => this.#ended([...new Set(ends.map((end) => end?.reason ?? "cancelled"))].sort().join(","));
        return {
          opening: () => form.opening(),
          add: (index, piece) => {
            if (piece.kind === "token") this.completionTokens++;
            if (piece.kind === "end") {
              ends[index] = piece;
              ({ prompt_tokens_details: { cached_tokens: this.cachedTokens } } = usageOf(reply.choices, ends));
            }
            return form.add(index, piece);
          },
          closing: () => {
            const events = form.closing();
            complete();
            return events;
          },
          failure: (error) => {
            this.failed(error, null);
            this.#ended("error");
            return form.failure(error);
          },
          document: () => {
            const document = form.document();
            complete();
            return document;
          },
        };
      },
    };
  }

  /** Tokens of texts that became vectors: a reply without a generation counts them as they are evaluated, and ends with its last. */
  embedded(nTokens: number, isLast: boolean): void {
    this.promptTokens += nTokens;
    if (isLast) this.finish = "embedded";
  }

  /** Nothing of a reply was sent but this error. A reader who had left by then is the cause, and not told. */
  refused(cause: unknown, signal: AbortSignal): void {
    this.#isWriting = false;
    this.finish = signal.aborted ? "cancelled" : null;
    if (!signal.aborted) this.failed(toRequestError(cause), cause);
  }

  /** The reader went away, or what it would have read failed: whichever is known first after this turn. */
  left(): void {
    queueMicrotask(() => this.#ended("cancelled"));
  }
}

/** Outermost: everything that answers is inside it. */
export const recorded: MiddlewareHandler<Recorded> = async (c, next) => {
  const record = new WatchedRequest(c.var.requestId, c.req.method);
  c.set("record", record);
  await next();
  c.header("x-request-id", record.id);
  record.status = c.res.status;
  const routeMethod = c.req.method === "HEAD" ? "GET" : c.req.method;
  const route = matchedRoutes(c).findLast(({ method }) => method === routeMethod);
  record.endpoint = route?.path ?? "unknown";
  if (c.error !== undefined) record.refused(c.error, c.req.raw.signal);
  const { env } = c;
  record.whenEnded(() => {
    record.totalMs = record.elapsedMs;
    edgeMetrics.note(record);
    writeLog(record, env);
  });
};

const DESCRIPTIONS: Readonly<Record<Phase, string>> = {
  auth: "checking the key", tokenise: "the request as token ids", queue: "until the orchestrator took it", first_token: "until the first token and with the queue",
};

/** Server-Timing, of replies whose headers can still be written. */
export const serverTiming: readonly [MiddlewareHandler, MiddlewareHandler<Recorded>] = [
  timing({ totalDescription: "until these headers" }),
  async (c, next) => {
    await next();
    for (const [phase, valueMs] of c.var.record.phasesMs) setMetric(c, phase, valueMs, DESCRIPTIONS[phase]);
  },
];
