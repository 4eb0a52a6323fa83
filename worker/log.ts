// What is known of one request when it has ended, and the one line of JSON its log has. Owns the fields and their order, in the log and in a data
// point of Analytics Engine. Refuses what a caller wrote: no prompt, no text, no key, no path with parameters, and no error message, which may quote a value.

import type { RequestError } from "./errors.ts";

/** Times of a request that its reply's header Server-Timing names. */
export type Phase = "auth" | "tokenise" | "queue" | "first_token";

export interface LogSettings {
  /** "off": no line per request. Anything else, or nothing: one each. */
  readonly LOG?: string;
  /** Optional binding: the same fields, one data point per request. */
  readonly ANALYTICS?: AnalyticsEngineDataset;
}

/** One request, filled in on its way. */
export class RequestRecord {
  readonly id: string;
  readonly method: string;
  readonly startedAt: Date;
  readonly #startMs: number;
  /** The route, not the path: "/v1/models/:id". */
  endpoint = "";
  /** A digest's beginning (auth.ts), never a key; null where none was checked. */
  caller: string | null = null;
  status = 0;
  stream = false;
  promptTokens = 0;
  cachedTokens = 0;
  completionTokens = 0;
  /** How its choices ended, each reason once; "cancelled" where the reader left; null where nothing was generated. */
  finish: string | null = null;
  /** The code of its error. */
  error: string | null = null;
  /** Of a failure nobody foresaw: where it was thrown. */
  failedAt: string | null = null;
  readonly phasesMs = new Map<Phase, number>();
  /** Until its last byte. */
  totalMs = 0;

  constructor(id: string, method: string) {
    this.id = id;
    this.method = method;
    this.startedAt = new Date();
    this.#startMs = performance.now();
  }

  /** Since it came. */
  get elapsedMs(): number { return performance.now() - this.#startMs; }

  /** What `run` gives; how long it took is noted, also where it fails. */
  async timed<T>(phase: Phase, run: () => Promise<T> | T): Promise<T> {
    const sinceMs = performance.now();
    try {
      return await run();
    } finally {
      this.phasesMs.set(phase, performance.now() - sinceMs);
    }
  }

  failed(error: RequestError, cause: unknown): void {
    this.error = error.code ?? error.type;
    // The message is left out; the places it came through are the server's own.
    if (error.code === "internal_error" && cause instanceof Error) this.failedAt = [cause.name, ...(cause.stack ?? "").split("\n").filter((line) => /^\s+at /.test(line)).slice(0, 4).map((line) => line.trim())].join(" ");
  }
}

/** Milliseconds as they are worth writing down. */
const ms = (value: number): number => Math.round(value * 10) / 10;

/** A model that is loading (503) is no fault of anybody's. */
const isFault = ({ status, failedAt }: RequestRecord): boolean => (status >= 500 && status !== 503) || failedAt !== null;

export function logLine(record: RequestRecord): object {
  const { id, method, startedAt, endpoint, caller, status, stream, promptTokens, cachedTokens, completionTokens, finish, error, failedAt, phasesMs, totalMs } = record;
  return {
    level: isFault(record) ? "error" : "info", time: startedAt.toISOString(), id, caller, method, endpoint, status,
    ...(finish === null ? {} : { stream, prompt_tokens: promptTokens, cached_tokens: cachedTokens, completion_tokens: completionTokens, finish }),
    ...(error === null ? {} : { error }), ...(failedAt === null ? {} : { failed_at: failedAt }),
    ...Object.fromEntries(Array.from(phasesMs, ([phase, value]) => [`${phase}_ms`, ms(value)])), total_ms: ms(totalMs),
  };
}

/** The same as a data point: index the caller, blobs and doubles in this order. */
export const dataPoint = (record: RequestRecord): AnalyticsEngineDataPoint => ({
  indexes: [record.caller ?? ""],
  blobs: [record.id, record.method, record.endpoint, String(record.status), record.finish ?? "", record.error ?? "", record.stream ? "stream" : "whole"],
  doubles: [record.promptTokens, record.cachedTokens, record.completionTokens, record.totalMs, ...(["auth", "tokenise", "queue", "first_token"] as const).map((phase) => record.phasesMs.get(phase) ?? 0)],
});

export function writeLog(record: RequestRecord, settings: LogSettings): void {
  settings.ANALYTICS?.writeDataPoint(dataPoint(record));
  if (settings.LOG === "off") return;
  const line = JSON.stringify(logLine(record));
  if (isFault(record)) console.error(line);
  else console.log(line);
}
