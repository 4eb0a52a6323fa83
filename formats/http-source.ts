// Files below an HTTP(S) address as a ByteSource: ranges of RFC 9110, one request each. Owns retries (connections that fail or break off, 5xx, 408,
// 429), going on where a body broke off, and the pin on the first ETag, Last-Modified and size seen, so that a file that changes under way is
// noticed. Refuses servers that do not honour ranges: reading a model from one would fetch the whole file for every matrix.
// Every request goes to the address itself: what it redirects to may be signed for minutes only.

import { type ByteSource, SourceError } from "./byte-source.ts";
import { FORMAT_LIMITS } from "./limits.ts";

export type FetchFunction = (url: URL, init: { readonly headers: Record<string, string> }) => Promise<Response>;

export interface HttpSourceOptions {
  /** Sends a request, signed where that is needed; default the global fetch. */
  readonly fetch?: FetchFunction;
  /** Default: a timer. */
  readonly wait?: (ms: number) => Promise<void>;
  /** Words for error messages; default the address without its query, which may hold a key. */
  readonly description?: string;
}

/** What was first seen of a file. */
interface Pinned {
  readonly bytes: number;
  /** ETag, or Last-Modified, or "" where the server sends neither. */
  readonly version: string;
}

/** A request that may succeed when it is sent again. */
class Transient extends Error {
  readonly retryAfterMs: number;

  constructor(message: string, retryAfterMs = 0) {
    super(message);
    this.retryAfterMs = retryAfterMs;
  }
}

export class HttpSource implements ByteSource {
  readonly description: string;
  readonly hasRanges = true;
  readonly #base: URL;
  readonly #fetch: FetchFunction;
  readonly #wait: (ms: number) => Promise<void>;
  readonly #pinned = new Map<string, Pinned>();

  /** `base` is the folder; its query, if any, is sent with every name. */
  constructor(base: URL, { fetch = (url, init) => globalThis.fetch(url, init), wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms)), description }: HttpSourceOptions = {}) {
    this.#base = base.pathname.endsWith("/") ? base : Object.assign(new URL(base), { pathname: `${base.pathname}/` });
    this.#fetch = fetch;
    this.#wait = wait;
    this.description = description ?? `${this.#base.origin}${this.#base.pathname.replace(/\/$/, "")}`;
  }

  async size(name: string): Promise<number | null> {
    const pinned = this.#pinned.get(name) ?? (await this.#retrying(name, () => this.#look(name)));
    return pinned?.bytes ?? null;
  }

  /** The ETag, or Last-Modified with the size. */
  async version(name: string): Promise<string> {
    const size = await this.size(name);
    return `${size} bytes, ${this.#pinned.get(name)?.version ?? "missing"}`;
  }

  async *read(name: string, offset = 0, length?: number): AsyncIterable<Uint8Array> {
    const size = await this.size(name);
    if (size === null) throw new SourceError(`${this.description} has no file ${name}.`);
    const end = length === undefined ? size : offset + length;
    if (end > size) throw new SourceError(`${this.description}, ${name}: bytes ${offset} to ${end} were asked for, but the file ends at ${size}.`);
    let at = offset;
    let failures = 0;
    let atLastFailure = offset;
    while (at < end) {
      try {
        for await (const chunk of this.#range(name, at, end)) {
          at += chunk.length;
          yield chunk;
        }
      } catch (error) {
        if (!(error instanceof Transient)) throw error;
        // A connection that brings something each time is slow, not broken.
        failures = at - atLastFailure >= FORMAT_LIMITS.httpProgressBytes ? 1 : failures + 1;
        atLastFailure = at;
        await this.#pause(name, failures, error);
      }
    }
  }

  /** Size and version of a file, pinned from now on; null where there is none. */
  async #look(name: string): Promise<Pinned | null> {
    const response = await this.#request(name, "bytes=0-0");
    await discard(response);
    if (response.status === 404 || response.status === 410) return null;
    const pinned = { bytes: response.status === 416 ? this.#emptyFile(name, response) : this.#checkRange(name, response, 0, 1), version: versionOf(response) };
    this.#pinned.set(name, pinned);
    return pinned;
  }

  /** Bytes [start, end) as they come. Throws Transient when the body breaks off. */
  async *#range(name: string, start: number, end: number): AsyncIterable<Uint8Array> {
    const response = await this.#request(name, `bytes=${start}-${end - 1}`);
    let at = start;
    try {
      const pinned = this.#pinned.get(name)!;
      const bytes = response.status === 206 ? this.#checkRange(name, response, start, end) : null;
      const version = versionOf(response);
      if (bytes === null || bytes !== pinned.bytes || version !== pinned.version) {
        if (response.status === 200) this.#refuseWhole(name);
        throw new SourceError(`${this.#where(name)} changed while it was read: it had ${pinned.bytes} bytes (${pinned.version || "no ETag"}), `
          + `now ${bytes === null ? `the server answers ${response.status}` : `it has ${bytes} (${version || "no ETag"})`}. Start again with the new file.`);
      }
      if (response.body === null) throw new Transient("the answer has no body");
      for await (const chunk of chunksOf(response.body)) {
        if (at + chunk.length > end) throw new SourceError(`${this.#where(name)}: ${end - start} bytes from ${start} were asked for, more came.`);
        at += chunk.length;
        yield chunk;
      }
    } finally {
      await discard(response);
    }
    if (at < end) throw new Transient(`the body broke off after ${at - start} of ${end - start} bytes`);
  }

  /** The whole file's size by Content-Range. */
  #checkRange(name: string, response: Response, start: number, end: number): number {
    if (response.status === 200) this.#refuseWhole(name);
    const header = response.headers.get("content-range");
    const [, from, to, total] = /^bytes (\d+)-(\d+)\/(\d+)$/.exec(header ?? "") ?? [];
    if (response.status !== 206 || Number(from) !== start || Number(to) >= end || !Number.isSafeInteger(Number(total))) {
      throw new SourceError(`${this.#where(name)}: bytes ${start} to ${end - 1} were asked for, but the server answered ${response.status} with Content-Range `
        + `${header === null ? "missing" : JSON.stringify(header)}.`);
    }
    return Number(total);
  }

  #emptyFile(name: string, response: Response): number {
    if (response.headers.get("content-range") === "bytes */0") return 0;
    throw new SourceError(`${this.#where(name)}: the server answered 416 to a request for the first byte, expected 206.`);
  }

  #refuseWhole(name: string): never {
    throw new SourceError(`${this.#where(name)}: the server sends the whole file when a range of it is asked for (status 200 in place of 206), `
      + "expected a server with ranges; download the file and give its path.");
  }

  /** Sends one request. Throws Transient where another may succeed, SourceError for statuses that say no. */
  async #request(name: string, range: string): Promise<Response> {
    const url = this.#url(name);
    let response: Response;
    try {
      // The Fetch standard asks for bytes as they are (Accept-Encoding: identity) wherever it sees a range.
      response = await this.#fetch(url, { headers: { range } });
    } catch (error) {
      throw new Transient(causeOf(error));
    }
    const { status } = response;
    if (status === 200 || status === 206 || status === 404 || status === 410 || status === 416) return response;
    await discard(response);
    if (status >= 500 || status === 408 || status === 429) {
      const seconds = Number(response.headers.get("retry-after") ?? 0);
      throw new Transient(`the server answered ${status}`, seconds > 0 ? Math.min(seconds * 1000, FORMAT_LIMITS.httpLongestPauseMs) : 0);
    }
    const hint = status === 401 || status === 403 ? " (no right to read it, or to know whether it is there)" : "";
    throw new SourceError(`${this.#where(name)}: the server answered ${status}${hint}, expected 206.`);
  }

  async #retrying<T>(name: string, send: () => Promise<T>): Promise<T> {
    for (let failures = 1; ; failures++) {
      try {
        return await send();
      } catch (error) {
        if (!(error instanceof Transient)) throw error;
        await this.#pause(name, failures, error);
      }
    }
  }

  /** Waits before the next attempt: twice as long each time. Throws SourceError when there were enough. */
  async #pause(name: string, failures: number, { message, retryAfterMs }: Transient): Promise<void> {
    if (failures >= FORMAT_LIMITS.httpAttempts) throw new SourceError(`${this.#where(name)} could not be read in ${failures} attempts; the last: ${message}.`);
    await this.#wait(Math.max(retryAfterMs, Math.min(FORMAT_LIMITS.httpFirstPauseMs * 2 ** (failures - 1), FORMAT_LIMITS.httpLongestPauseMs)));
  }

  #where(name: string): string {
    return `${this.description}, ${name}`;
  }

  #url(name: string): URL {
    if (name.startsWith("/") || name.split("/").includes("..")) throw new SourceError(`${this.description}: the name ${name} leaves the folder.`);
    return Object.assign(new URL(this.#base), { pathname: this.#base.pathname + name.split("/").map(encodeURIComponent).join("/") });
  }
}

const versionOf = (response: Response): string => response.headers.get("etag") ?? response.headers.get("last-modified") ?? "";

const causeOf = (error: unknown): string => {
  const { message, cause } = error instanceof Error ? error : { message: String(error), cause: undefined };
  return cause instanceof Error && cause.message !== "" ? `${message}: ${cause.message}` : message;
};

/** A body that is not wanted must not stay in the pipe. */
async function discard(response: Response): Promise<void> {
  if (response.body !== null && !response.body.locked) await response.body.cancel().catch(() => undefined);
}

async function* chunksOf(body: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  const reader = body.getReader();
  try {
    for (;;) {
      const { value, done } = await reader.read().catch((error: unknown) => { throw new Transient(`the connection broke off (${causeOf(error)})`); });
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
    reader.releaseLock();
  }
}
