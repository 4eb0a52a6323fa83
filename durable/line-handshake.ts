// One orchestrator asks one shard to be ready, and opens the socket to it: `prepare` under the names the shard may have, then one upgrade. docs/protocol.md section 1.
// Owns what the shard has said of itself so far, what its answer to `prepare` leads to, and that a socket which opens too late is closed and touches nobody.
// Refuses to try again, to pause and to know who wants the line (shard-line.ts).

import { type Clock, within } from "./clock.ts";
import type { FaultLog } from "./fault-log.ts";
import type { FrameSocket, ShardTransport, SocketHandlers } from "./frame-socket.ts";
import type { Hello, ReadFigures, Welcome } from "./handshake.ts";
import type { Limits } from "./limits.ts";
import { ShardError } from "./shard-error.ts";

export interface LineHandshakeParts {
  /** Transport of the shard under its first, second, ... name: other names are tried when an isolate is shared in strict mode. */
  readonly transport: (nameAttempt: number) => ShardTransport;
  readonly hello: Hello;
  /** Name of the caller's own isolate. */
  readonly isolate: string;
  readonly limits: Limits;
  readonly clock: Clock;
  /** The shard has ended this epoch: a newer plan is in force, and whoever knows it should be asked. */
  readonly stale?: () => void;
}

/** What an answer to `prepare` leads to. */
export type AfterPrepare =
  /** The shard is ready: to a socket of this number. */
  | { readonly to: "open"; readonly connection: number }
  /** It is loading: to the same question, later. */
  | { readonly to: "pause"; readonly pauseMs: number }
  /** To the same question under another name, at once. */
  | { readonly to: "rename" }
  /** It refused, which may heal: to another attempt, as long as there are some. */
  | { readonly to: "retry"; readonly cause: string }
  /** No attempt will help. */
  | { readonly to: "end"; readonly error: ShardError };

export class LineHandshake {
  readonly #p: LineHandshakeParts;
  readonly #faults: FaultLog;
  #transport: ShardTransport;
  #nameAttempt = 0;
  #loadingSinceMs = -1;
  /** True once the shard has said that it lives in another isolate: it may compute while this one does. */
  elsewhere = false;
  /** How often the shard has read weights, as far as it said so here. */
  loads = 0;
  /** What the shard's memory was filled from, as it last said; null before. */
  read: ReadFigures | null = null;
  loadedBytes = 0;
  totalBytes = 0;

  constructor(parts: LineHandshakeParts, faults: FaultLog) {
    this.#p = parts;
    this.#faults = faults;
    this.#transport = parts.transport(0);
  }

  get name(): string { return this.#transport.name; }

  /** A new series of questions: what the last one waited for loading does not count. */
  begin(): void {
    this.#loadingSinceMs = -1;
  }

  /** Rejects where nobody answers. */
  prepare(): Promise<Welcome> {
    const { hello, limits, clock } = this.#p;
    return within(clock, limits.prepareDeadlineMs, this.#transport.prepare(hello), `prepare was not answered in ${limits.prepareDeadlineMs} ms`);
  }

  /** Has the shard say that it is ready, so that it keeps its memory or gets it back, without a socket. Rejects where nobody answers, which changes nothing here. */
  async touch(): Promise<void> {
    const welcome = await this.prepare();
    if (welcome.state === "ready") this.#welcomed(welcome);
    else if (welcome.state === "refused" && welcome.code === "retired") this.#p.stale?.();
  }

  /** Takes note of an answer to `prepare`. */
  heard(welcome: Welcome): AfterPrepare {
    if (welcome.state === "ready") {
      this.#welcomed(welcome);
      return { to: "open", connection: welcome.connection };
    }
    if (welcome.state === "loading") return this.#loading(welcome);
    if (welcome.code === "isolate-shared") return this.#shared(welcome.message);
    if (welcome.retryable) return { to: "retry", cause: `it refused (${welcome.code}): ${welcome.message}` };
    if (welcome.code === "retired") this.#p.stale?.();
    return { to: "end", error: new ShardError(this.name, false, `Shard ${this.name} refused (${welcome.code}): ${welcome.message}`) };
  }

  /** The socket's events, from its first moment on, reach `handlers`, unless it comes too late. */
  open(connection: number, handlers: SocketHandlers): Promise<FrameSocket> {
    const { limits, clock } = this.#p;
    let isOver = false;
    const opened = this.#transport.open(connection, {
      message: (data) => { if (!isOver) handlers.message(data); },
      closed: (reason) => { if (!isOver) handlers.closed(reason); },
    });
    const inTime = within(clock, limits.prepareDeadlineMs, opened, `the socket was not opened in ${limits.prepareDeadlineMs} ms`);
    inTime.catch(() => {
      isOver = true;
      void opened.then((socket) => socket.close(1000, "no longer needed"), () => undefined);
    });
    return inTime;
  }

  #welcomed({ hasRead, isolate, read }: Extract<Welcome, { state: "ready" }>): void {
    if (hasRead) this.loads++;
    this.elsewhere = isolate !== this.#p.isolate;
    this.read = read ?? null;
  }

  #loading({ loadedBytes, totalBytes, retryAfterMs }: Extract<Welcome, { state: "loading" }>): AfterPrepare {
    const { limits, clock } = this.#p;
    if (this.#loadingSinceMs < 0) this.#loadingSinceMs = clock.nowMs();
    this.loadedBytes = loadedBytes;
    this.totalBytes = totalBytes;
    if (clock.nowMs() - this.#loadingSinceMs <= limits.warmingMs) return { to: "pause", pauseMs: retryAfterMs };
    return { to: "end", error: new ShardError(this.name, true, `Shard ${this.name} was still loading after ${limits.warmingMs} ms (${loadedBytes} of ${totalBytes} bytes).`) };
  }

  #shared(message: string): AfterPrepare {
    const { limits, clock } = this.#p;
    this.#faults.note(message, clock.nowMs());
    if (this.#nameAttempt + 1 < limits.shardNames) {
      this.#transport = this.#p.transport(++this.#nameAttempt);
      return { to: "rename" };
    }
    return { to: "end", error: new ShardError(this.name, false,
      `Shard ${this.name} was refused under ${limits.shardNames} names, each time because its isolate holds another shard. Last: ${message} ` +
      `Either set ISOLATES = "shared" and keep the shards of one isolate within its memory, or deploy the shards as separate Worker scripts (--isolate script), which never share an isolate (docs/deploy.md).`) };
  }
}
